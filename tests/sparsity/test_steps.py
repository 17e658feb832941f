"""UpdatePruningStep and PruningSummaries in fit, beside other callbacks, and in a loop of one's own."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from small_models import batch, dense, half, steps, train, values, wrappers, zeros

from keras_aeprune.sparsity import PolynomialDecay, PruningSummaries, UpdatePruningStep, prune_low_magnitude


def fit(model, epochs=1, callbacks=(), rows=16, batch_size=8, optimizer="sgd", **kwargs):
    if not model.compiled:
        model.compile(optimizer, keras.losses.MeanSquaredError(), run_eagerly=True)
    x = batch((rows, 6))
    return model.fit(
        x, x, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=list(callbacks), shuffle=False, **kwargs
    )


def read(folder, tag_end):
    """Values by step of every scalar whose tag ends so, read back from the event files."""
    found = {}
    for path in folder.rglob("events.out.tfevents*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag.endswith(tag_end):
                    found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_every_update_is_one_step():
    model = prune_low_magnitude(dense(), half())
    fit(model, epochs=3, callbacks=[UpdatePruningStep()])
    assert steps(model) == [6, 6]
    assert int(values(model.optimizer.iterations)) == 6


def test_no_callback_is_needed_and_none_changes_the_result():
    keras.utils.set_random_seed(1)
    model = dense()
    alone, watched = prune_low_magnitude(model, half()), prune_low_magnitude(model, half())
    fit(alone, epochs=2)
    fit(watched, epochs=2, callbacks=[UpdatePruningStep()])
    assert zeros(alone) == [0.5, 0.5]
    for one, other in zip(alone.weights, watched.weights, strict=True):
        np.testing.assert_array_equal(values(one), values(other))


def test_evaluate_and_predict_change_nothing():
    model = prune_low_magnitude(dense(), half())
    model.compile("sgd", "mse", run_eagerly=True)
    x = batch((8, 6))
    for run in (lambda: model.predict(x, verbose=0), lambda: model.evaluate(x, x, verbose=0)):
        run()
        assert (steps(model), zeros(model)) == ([-1, -1], [0.0, 0.0])


def test_traced_fit_with_many_steps_per_execution_prunes_at_the_same_steps():
    def trained(**compiling):
        keras.utils.set_random_seed(3)
        model = prune_low_magnitude(dense(), PolynomialDecay(0.2, 0.75, 1, 5, frequency=2))
        model.compile(keras.optimizers.Adam(0.01), "mse", **compiling)
        x = batch((64, 6))
        model.fit(x, x, batch_size=8, verbose=0, shuffle=False)
        return model

    eager, traced = trained(run_eagerly=True), trained(steps_per_execution=4)
    assert steps(eager) == steps(traced) == [8, 8]
    assert zeros(eager) == zeros(traced) == [0.75, 0.75]
    for one, other in zip(eager.weights, traced.weights, strict=True):
        np.testing.assert_allclose(values(one), values(other), atol=1e-5)


def test_accumulated_gradients_leave_the_weights_sparse():
    model = prune_low_magnitude(dense(), half())
    fit(model, optimizer=keras.optimizers.AdamW(0.01, gradient_accumulation_steps=2))
    assert zeros(model) == [0.5, 0.5]


def test_averaged_weights_are_masked_again_at_the_end_of_the_epoch():
    def ema():
        return keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=1)

    model = prune_low_magnitude(dense(), half())
    fit(model, callbacks=[UpdatePruningStep()], optimizer=ema())
    assert zeros(model) == [0.5, 0.5]


def test_what_another_callback_wrote_is_masked_again():
    class Overwrites(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for layer in wrappers(self.model):
                layer.layer.kernel.assign(np.ones(layer.layer.kernel.shape))

    model = prune_low_magnitude(dense(), half())
    fit(model, callbacks=[UpdatePruningStep(), Overwrites()])
    assert zeros(model) == [0.5, 0.5]


def test_a_missed_target_warns_after_the_training_and_keeps_the_history():
    model = prune_low_magnitude(dense(), PolynomialDecay(0.0, 0.8, 0, 40, frequency=1))
    with pytest.warns(UserWarning, match=r"a/kernel is at 0.\d+ of 0.8000 after 2 steps"):
        history = fit(model, callbacks=[UpdatePruningStep()])
    assert len(history.history["loss"]) == 1


def test_a_schedule_that_has_not_begun_warns():
    model = prune_low_magnitude(dense(), half(begin_step=1000))
    with pytest.warns(UserWarning, match=r"0.0000 of 0.5000 after 2 steps"):
        fit(model, callbacks=[UpdatePruningStep()])


def test_a_reached_target_is_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(prune_low_magnitude(dense(), PolynomialDecay(0.0, 0.8, 0, 2)), callbacks=[UpdatePruningStep()])


def test_a_model_without_masks_warns():
    with pytest.warns(UserWarning, match="nothing in model 'plain' is pruned"):
        fit(keras.Sequential([keras.Input((6,)), kl.Dense(6)], name="plain"), callbacks=[UpdatePruningStep()])


def test_the_best_epoch_is_one_at_the_target(tmp_path):
    class FirstIsBest(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["rank"] = epoch

    model = prune_low_magnitude(dense(), PolynomialDecay(0.0, 0.9, 0, 6, frequency=1))
    path = tmp_path / "best.keras"
    stopping = keras.callbacks.EarlyStopping(monitor="rank", mode="min", patience=1, restore_best_weights=True)
    saving = keras.callbacks.ModelCheckpoint(path, monitor="rank", mode="min", save_best_only=True)
    history = fit(model, epochs=5, callbacks=[FirstIsBest(), saving, UpdatePruningStep(), stopping])
    assert len(history.history["loss"]) == 4  # six updates are three epochs; the fourth is no better
    assert zeros(model) == pytest.approx([0.9, 0.9], abs=0.02)
    assert zeros(keras.models.load_model(path)) == pytest.approx([0.9, 0.9], abs=0.02)


def test_the_callback_lists_the_layers_and_serves_twice():
    callback, model = UpdatePruningStep(), prune_low_magnitude(dense(), half())
    fit(model, callbacks=[callback])
    fit(model, callbacks=[callback])
    assert callback.prunable_layers == wrappers(model)
    assert steps(model) == [4, 4]


def test_a_loop_of_ones_own_prunes_with_or_without_the_callback():
    model, optimizer, x = prune_low_magnitude(dense(), half()), keras.optimizers.SGD(0.1), batch((8, 6))
    callback = UpdatePruningStep()
    model.optimizer = optimizer
    callback.set_model(model)
    callback.on_train_begin()
    for epoch in range(2):
        callback.on_train_batch_begin(-1)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - x) ** 2)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        assert zeros(model) == [0.5, 0.5]
        callback.on_epoch_end(epoch)
    callback.on_train_end()
    assert steps(model) == [2, 2]


def test_summaries_hold_the_sparsity_and_the_threshold_of_every_kernel(tmp_path):
    model = prune_low_magnitude(dense(), PolynomialDecay(0.25, 0.75, 2, 4, frequency=2))
    summaries = PruningSummaries(log_dir=str(tmp_path))
    fit(model, epochs=3, callbacks=[UpdatePruningStep(), summaries])
    sparsity, threshold = read(tmp_path, "/sparsity"), read(tmp_path, "/threshold")
    assert len(sparsity) == len(threshold) == 2
    for by_step in sparsity.values():
        assert by_step == pytest.approx({0: 0.0, 2: 0.25, 4: 0.75, 6: 0.75})
    for layer in wrappers(model):
        [(_, _, variable)] = layer.pruning_vars
        [tag] = [tag for tag in threshold if f"/{layer.layer.name}_" in tag or f"_{layer.layer.name}/" in tag]
        assert threshold[tag][6] == pytest.approx(float(values(variable)))
        assert threshold[tag][0] == 0
    assert read(tmp_path, "epoch_loss")


@pytest.mark.parametrize("wrong", ["", None, 3])
def test_a_log_folder_that_is_no_text_is_refused_in_tfmots_words(wrong):
    with pytest.raises(ValueError, match="`log_dir` must be a non-empty string. You passed `log_dir`="):
        PruningSummaries(log_dir=wrong)


def test_steps_count_on_in_a_second_training():
    model = prune_low_magnitude(dense(), half(frequency=2))
    train(train(model, 2), 3)
    assert steps(model) == [5, 5]
