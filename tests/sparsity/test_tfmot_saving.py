"""Pruned models in every file format of Keras 3, checkpoints, and a restart in the middle of the training."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from small_models import batch, dense, half, masks, steps, train, values, zeros

from keras_aeprune.schedules import get
from keras_aeprune.sparsity import PolynomialDecay, PruningSchedule, prune_low_magnitude, strip_pruning

RAMP = PolynomialDecay(0.2, 0.75, begin_step=2, end_step=8, frequency=3)
X = batch((96, 6))


def fresh():
    keras.utils.set_random_seed(7)
    return compiled(prune_low_magnitude(dense((12, 6), activation="tanh"), RAMP))


def compiled(model):
    if not model.compiled:
        model.compile(keras.optimizers.Adam(0.02), keras.losses.MeanSquaredError(), run_eagerly=True)
    model.run_eagerly = True
    return model


def feed(model, first, last):
    """The batches first..last-1 of a fixed order."""
    for i in range(first, last):
        model.train_on_batch(X[8 * i : 8 * i + 8], X[8 * i : 8 * i + 8])
    return model


@pytest.fixture(scope="module")
def never_stopped():
    return feed(fresh(), 0, 12)


def with_state_of(model, other):
    other.optimizer.build(other.trainable_variables)
    for new, old in zip(other.optimizer.variables, model.optimizer.variables, strict=True):
        new.assign(old)
    return other


def whole_file(ending):
    def restore(model, folder):
        path = folder / f"model{ending}"
        model.save(path)
        return compiled(keras.models.load_model(path))

    return restore


def weight_files(model, folder):
    path = folder / "only.weights.h5"
    model.save_weights(path)
    other = fresh()
    other.load_weights(path)
    return with_state_of(model, other)


def legacy_file(model, folder):
    """Keras' own optimizers do not train on from an .h5 file, those of plain models neither."""
    model.save(folder / "model.h5")
    return with_state_of(model, compiled(keras.models.load_model(folder / "model.h5", compile=False)))


def checkpoint(model, folder):
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(folder / "ckpt"))
    other = fresh()
    other.optimizer.build(other.trainable_variables)
    status = tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
    status.assert_existing_objects_matched()
    return other


RESTORES = {
    ".keras": whole_file(".keras"),
    ".h5": legacy_file,
    ".weights.h5": weight_files,
    "tf.train.Checkpoint": checkpoint,
}


@pytest.mark.parametrize("restore", RESTORES.values(), ids=RESTORES)
@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_training_that_is_stopped_and_restored_ends_like_one_that_never_stopped(
    restore, stop, never_stopped, tmp_path
):
    stopped = feed(fresh(), 0, stop)
    restored = restore(stopped, tmp_path)
    assert steps(restored) == [stop, stop]
    for one, other in zip(masks(restored), masks(stopped), strict=True):
        np.testing.assert_array_equal(one, other)
    feed(restored, stop, 12)
    assert steps(restored) == steps(never_stopped) == [12, 12]
    assert zeros(restored) == zeros(never_stopped) == [0.75, 0.75]
    for one, other in zip(restored.weights, never_stopped.weights, strict=True):
        np.testing.assert_array_equal(values(one), values(other), err_msg=one.path)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_the_patterns_survive_a_file(ending, tmp_path):
    def made(**pattern):
        return train(prune_low_magnitude(dense((8, 4), inputs=8), half(), **pattern))

    for pattern in ({"sparsity_m_by_n": (2, 4)}, {"block_size": (2, 2), "block_pooling_type": "MAX"}):
        model = made(**pattern)
        loaded = whole_file(ending)(model, tmp_path)
        assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())  # JSON: tuples become lists
        layer = loaded.layers[0]
        assert {name: getattr(layer, name) for name in pattern} == pattern
        if "sparsity_m_by_n" in pattern:
            loaded.compile("sgd", keras.losses.MeanSquaredError(), run_eagerly=True)
            train(loaded)
            assert set(masks(loaded)[0].reshape(2, 4, 8).sum(axis=1).ravel()) == {2}


def test_a_schedule_of_ones_own_is_loaded_where_it_is_known(tmp_path):
    class Own(PruningSchedule):
        def __init__(self, sparsity):
            self.sparsity = sparsity

        def __call__(self, step):
            return step >= 1, tf.constant(self.sparsity, tf.float32)

        def get_config(self):
            return {"class_name": "Own", "config": {"sparsity": self.sparsity}}

    model = train(prune_low_magnitude(dense(), Own(0.75)))
    model.save(tmp_path / "m.keras")
    with keras.saving.custom_object_scope({"Own": Own}):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.layers[0].pruning_schedule.sparsity == 0.75
    assert zeros(loaded) == [0.75, 0.75]


def test_schedules_make_themselves_from_their_configuration():
    for schedule in (half(), RAMP):
        assert type(schedule).from_config(schedule.get_config()) == schedule == get(schedule.get_config())


def test_every_checkpoint_of_a_training_is_sparse(tmp_path):
    model = prune_low_magnitude(dense(), half())
    model.compile("sgd", keras.losses.MeanSquaredError(), run_eagerly=True)
    saving = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}-{batch}.weights.h5"), save_weights_only=True, save_freq=1
    )
    model.fit(X, X, batch_size=32, epochs=2, verbose=0, callbacks=[saving])
    files = sorted(tmp_path.glob("*.weights.h5"))
    assert len(files) == 6
    for path in files:
        other = prune_low_magnitude(dense(), half())
        assert zeros(other) == [0.0, 0.0]
        other.load_weights(path)
        assert zeros(other) == [0.5, 0.5]


def test_backup_and_restore_goes_on_where_the_training_broke_off(tmp_path):
    class Breaks(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(model, *more):
        model.compile("sgd", keras.losses.MeanSquaredError(), run_eagerly=True)
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        kwargs = {"batch_size": 32, "epochs": 3, "verbose": 0, "shuffle": False}
        return model.fit(X, X, callbacks=[backup, *more], **kwargs)

    with pytest.raises(KeyboardInterrupt):
        run(prune_low_magnitude(dense(), RAMP), Breaks())
    again = prune_low_magnitude(dense(), RAMP)
    assert len(run(again).epoch) == 1
    assert (steps(again), zeros(again)) == ([9, 9], [0.75, 0.75])


def test_past_the_last_step_a_restored_model_stays_at_its_sparsity(tmp_path):
    model = train(prune_low_magnitude(dense((10, 6), 10), PolynomialDecay(0.2, 0.6, 0, 2, frequency=1)), 3)
    loaded = whole_file(".keras")(model, tmp_path)
    assert zeros(loaded) == zeros(train(loaded)) == [0.6, 0.6]


def test_weights_of_the_dense_model_are_loaded_before_pruning_and_refused_after(tmp_path):
    model = dense()
    model.save_weights(tmp_path / "dense.weights.h5")
    same = dense()
    same.load_weights(tmp_path / "dense.weights.h5")
    x = batch((4, 6))
    np.testing.assert_array_equal(prune_low_magnitude(same, half())(x), model(x))
    with pytest.raises(ValueError, match="could not be loaded"):
        prune_low_magnitude(same, half()).load_weights(tmp_path / "dense.weights.h5")


def test_the_stripped_file_is_plain_keras_and_smaller(tmp_path):
    model = train(prune_low_magnitude(dense((64, 64), 64), half()))
    model.save(tmp_path / "pruned.keras")
    strip_pruning(model).save(tmp_path / "plain.keras")
    loaded = keras.models.load_model(tmp_path / "plain.keras", safe_mode=True)
    assert {type(layer) for layer in loaded.layers} == {kl.Dense}
    assert [float(np.mean(layer.kernel.numpy() == 0)) for layer in loaded.layers] == [0.5, 0.5]
    assert (tmp_path / "plain.keras").stat().st_size < (tmp_path / "pruned.keras").stat().st_size


def test_mixed_precision_survives_a_file(tmp_path):
    model = train(prune_low_magnitude(dense(dtype="mixed_bfloat16"), half()))
    loaded = whole_file(".keras")(model, tmp_path)
    assert zeros(loaded) == [0.5, 0.5]
    assert loaded.layers[0].layer.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: kl.RNN([kl.LSTMCell(4), kl.GRUCell(3)]), (3, 4)),
        (lambda: kl.Bidirectional(kl.LSTM(3)), (3, 4)),
        (lambda: kl.ConvLSTM2D(2, 2), (2, 4, 4, 1)),
        (lambda: kl.SeparableConv2D(4, 2), (4, 4, 2)),
        (lambda: kl.Conv2DTranspose(4, 2), (4, 4, 2)),
        (lambda: kl.EinsumDense("ab,bc->ac", 4), (6,)),
    ],
)
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_layers_with_layers_inside_survive_a_file(layer, shape, ending, tmp_path):
    model = train(keras.Sequential([keras.Input(shape), prune_low_magnitude(layer(), half())]), 2)
    loaded = whole_file(ending)(model, tmp_path)
    assert (zeros(loaded), steps(loaded)) == (zeros(model), [2])
    x = batch((2, *shape))
    np.testing.assert_allclose(loaded.predict_on_batch(x), model.predict_on_batch(x), atol=1e-6)


def test_attention_called_by_names_survives_a_file(tmp_path):
    tokens = keras.Input((3, 4))
    model = keras.Model(tokens, kl.MultiHeadAttention(2, 2)(query=tokens, value=tokens, key=tokens))
    pruned = train(prune_low_magnitude(model, half()))
    loaded = whole_file(".keras")(pruned, tmp_path)
    assert (zeros(loaded), steps(loaded)) == ([0.5] * 4, [1])
