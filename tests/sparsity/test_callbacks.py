"""Prune and KeepSparse on every way of building and training a model."""

import copy
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeprune import _tfmot
from keras_aeprune._validation import InputError, WrongKerasError
from keras_aeprune.schedules import ConstantSparsity, PolynomialDecay
from keras_aeprune.sparsity import KeepSparse, Prune, SparsityNotReached, release, sparsity_table

X = np.random.default_rng(0).random((96, 16), "float32")


def sequential(**compile_arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(12, activation="relu", name="a"), layers.Dense(16, name="b")]
    )
    model.compile(**{"optimizer": "adam", "loss": "mse", **compile_arguments})
    return model


def nested():
    keras.utils.set_random_seed(0)

    def part(name, sizes):
        inputs = keras.Input((sizes[0],))
        return keras.Model(inputs, layers.Dense(sizes[1], name="hidden")(inputs), name=name)

    inputs = keras.Input((16,))
    model = keras.Model(inputs, part("decoder", (8, 16))(part("encoder", (16, 8))(inputs)))
    model.compile("adam", "mse")
    return model


def subclassed():
    class Autoencoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = keras.Sequential([layers.Dense(8, name="hidden")], name="encoder")
            self.decoder = keras.Sequential([layers.Dense(16, name="hidden")], name="decoder")

        def call(self, inputs):
            return self.decoder(self.encoder(inputs))

    keras.utils.set_random_seed(0)
    model = Autoencoder()
    model.compile("adam", "mse")
    return model


def shared():
    keras.utils.set_random_seed(0)
    inputs, twice = keras.Input((16,)), layers.Dense(16, name="twice")
    model = keras.Model(inputs, twice(twice(inputs)))
    model.compile("adam", "mse")
    return model


class OwnStep(keras.Sequential):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


def own_step():
    keras.utils.set_random_seed(0)
    model = OwnStep([keras.Input((16,)), layers.Dense(16, name="a")])
    model.compile("adam", "mse")
    return model


def zeros(model):
    return {row.path: row.zeros for row in sparsity_table(model).rows}


class EveryBatch(keras.callbacks.Callback):
    """Zeros after each batch, as another callback sees them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(sum(zeros(self.model).values()))


def fit(model, *callbacks, epochs=5, batch_size=16, **arguments):
    return model.fit(X, X, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=list(callbacks), **arguments)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("build", [sequential, nested, subclassed, shared, own_step])
def test_reaches_the_target_on_every_kind_of_model(build, allocation):
    model = build()
    fit(model, Prune(0.75, allocation=allocation))
    table = sparsity_table(model)
    assert sum(row.zeros for row in table.rows) == round(0.75 * sum(row.weights for row in table.rows))
    if allocation == "uniform":
        assert all(row.zeros == round(0.75 * row.weights) and row.asked == 0.75 for row in table.rows)


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps_per_execution": 4},
        {"jit_compile": True},
        {"run_eagerly": True},
        {"optimizer": keras.optimizers.AdamW},
        {"optimizer": lambda: keras.optimizers.SGD(0.1, momentum=0.9)},
        {"optimizer": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2)},
        {"optimizer": lambda: keras.optimizers.Adam(use_ema=True)},
        {"optimizer": lambda: keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=7)},
        {"optimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())},
    ],
    ids=lambda options: " ".join(options),
)
def test_zeros_are_exact_under_every_way_of_training(arguments):
    arguments = {key: value() if callable(value) else value for key, value in arguments.items()}
    model = sequential(**arguments)
    fit(model, Prune(0.75))
    assert zeros(model) == {"a/kernel": 144, "b/kernel": 144}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_zeros_are_exact_in_mixed_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = sequential()
    finally:
        keras.config.set_dtype_policy(before)
    fit(model, Prune(0.75))
    assert zeros(model) == {"a/kernel": 144, "b/kernel": 144}


def test_stored_weights_hold_exact_zeros_after_every_batch():
    model, watch = sequential(), EveryBatch()
    fit(model, Prune(PolynomialDecay(0.0, 0.5, 0, 20, frequency=10)), watch, epochs=5)
    expected = [0] * 10 + [2 * round(192 * 0.4375)] * 10 + [192] * 10  # the watcher sees it one batch later
    assert watch.seen == expected


def test_only_the_smallest_weights_go():
    model = sequential(optimizer=keras.optimizers.SGD(0.0))
    before = model.get_layer("a").kernel.numpy()
    fit(model, Prune(0.75))
    after = model.get_layer("a").kernel.numpy()
    kept = np.sort(np.abs(before).ravel())[::-1][:48]
    np.testing.assert_array_equal(np.sort(np.abs(after[after != 0]))[::-1], kept)


def test_global_uses_one_threshold_and_uniform_one_fraction():
    def scaled():
        model = sequential(optimizer=keras.optimizers.SGD(0.0))
        model.get_layer("b").kernel.assign(model.get_layer("b").kernel * 1e5)
        return model

    one, other = scaled(), scaled()
    fit(one, Prune(0.5, allocation="global"))
    fit(other, Prune(0.5, allocation="uniform"))
    assert zeros(one) == {"a/kernel": 191, "b/kernel": 1}  # one weight of a stays, so one of b goes
    assert zeros(other) == {"a/kernel": 96, "b/kernel": 96}


def test_the_users_own_constraint_still_holds():
    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(16, name="a", kernel_constraint=keras.constraints.MaxNorm(0.05))]
    )
    model.compile("adam", "mse")
    fit(model, Prune(0.5))
    kernel = model.get_layer("a").kernel
    assert np.linalg.norm(kernel.numpy(), axis=0).max() <= 0.05 + 1e-6
    assert np.count_nonzero(kernel.numpy()) == 128
    release(model)
    assert isinstance(kernel.constraint, keras.constraints.MaxNorm)


@pytest.mark.parametrize("cls", [PolynomialDecay, _tfmot.PolynomialDecay])
def test_the_last_step_is_applied_although_the_frequency_misses_it(cls):
    for end in (29, 30):  # 30 steps in all: the last batch, and the end of training
        model = sequential()
        prune = Prune(cls(0.0, 0.75, 0, end))
        fit(model, prune)
        assert zeros(model) == {"a/kernel": 144, "b/kernel": 144}


def test_tfmots_constant_sparsity_works_as_it_is():
    model, watch = sequential(), EveryBatch()
    fit(model, Prune(_tfmot.ConstantSparsity(0.5, begin_step=6, frequency=5)), watch)
    assert watch.seen[5:7] == [0, 192]
    assert watch.seen[-1] == 192


def test_a_schedule_longer_than_the_training_is_refused_before_the_first_step():
    model = sequential()
    before = model.get_weights()
    with pytest.raises(InputError, match=r"ends at step 31, allowed: at most 30"):
        fit(model, Prune(PolynomialDecay(0.0, 0.9, 0, 31)))
    with pytest.raises(InputError, match="ends at step 500 or later, allowed: at most 30"):
        fit(model, Prune(ConstantSparsity(0.9, 500)))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class StopEarly(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == 8:
            self.model.stop_training = True


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_missed_target_raises_after_history_and_weights_are_safe(allocation):
    model = sequential()
    ended = []
    other = keras.callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(True))
    with pytest.raises(SparsityNotReached, match=r"asked for sparsity 0\.9000, reached 0\.\d+") as caught:
        fit(model, Prune(0.9, allocation=allocation), StopEarly(), other)
    assert ended == [True]
    assert len(model.history.history["loss"]) == 2
    asked = sum(row.asked * row.weights for row in caught.value.table.rows)
    assert asked == pytest.approx(0.9 * 384, abs=0.5)
    assert any(row.missed for row in caught.value.table.rows)


def test_a_schedule_may_span_several_fits():
    model = sequential()
    prune = Prune(PolynomialDecay(0.0, 0.75, 0, 50, frequency=10), several_fits=True)
    fit(model, prune)
    assert prune.step == 30
    halfway = sum(zeros(model).values())
    assert 0 < halfway < 288
    fit(model, prune)
    assert sum(zeros(model).values()) == 288


def generator(batches):
    while batches:
        yield X[:16], X[:16]
        batches -= 1


@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
@pytest.mark.filterwarnings("ignore:Prune. one epoch of unknown length")
def test_where_the_length_is_unknown_the_ramp_is_taken_from_epochs(epochs):
    data = tf.data.Dataset.from_tensor_slices((X, X)).filter(lambda x, y: True).batch(16)
    model = sequential()
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(zeros(model)["a/kernel"]))
    model.fit(data, epochs=epochs, verbose=0, callbacks=[watch, Prune(0.75)])
    assert zeros(model) == {"a/kernel": 144, "b/kernel": 144}
    assert seen == sorted(seen)
    if epochs == 10:
        assert seen[0] == 0  # not all at once
        assert 0 < seen[2] < 144


def test_epochs_that_get_shorter_still_reach_the_target():
    lengths = iter([6, 2, 2, 2, 2, 2])

    def batches():
        for _ in range(next(lengths)):
            yield X[:16], X[:16]

    spec = tf.TensorSpec((16, 16), tf.float32)
    data = tf.data.Dataset.from_generator(batches, output_signature=(spec, spec))
    model = sequential()
    model.fit(data, epochs=5, verbose=0, callbacks=[Prune(0.75)])
    assert zeros(model) == {"a/kernel": 144, "b/kernel": 144}


def test_a_generator_that_runs_dry_raises():
    model = sequential()
    with pytest.raises(SparsityNotReached):
        model.fit(generator(3), epochs=4, verbose=0, callbacks=[Prune(PolynomialDecay(0.0, 0.75, 0, 20))])


@pytest.mark.parametrize("prune_first", [True, False])
def test_early_stopping_does_not_bring_a_dense_epoch_back(prune_first):
    model = sequential()
    fit(model, epochs=30)  # good already, so that pruning only hurts
    stop = keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
    prune = Prune(0.9)
    fit(model, *((prune, stop) if prune_first else (stop, prune)), epochs=10)
    assert zeros(model) == {"a/kernel": 173, "b/kernel": 173}
    assert stop.best_epoch >= 5  # the ramp ends after six of ten epochs
    losses = model.history.history["loss"]
    assert stop.best == min(losses[5:])
    assert min(losses) < stop.best


@pytest.mark.parametrize("prune_first", [True, False])
@pytest.mark.parametrize("save_freq", ["epoch", 2])
def test_model_checkpoint_keeps_no_dense_epoch(tmp_path, prune_first, save_freq):
    model = sequential()
    fit(model, epochs=30)
    path = tmp_path / "best.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path, "loss", save_best_only=True, save_freq=save_freq)
    prune = Prune(0.9)
    fit(model, *((prune, checkpoint) if prune_first else (checkpoint, prune)), epochs=10)
    assert zeros(keras.models.load_model(path)) == {"a/kernel": 173, "b/kernel": 173}


def test_early_stopping_without_pruning_is_left_alone():
    model = sequential(optimizer=keras.optimizers.SGD(0.0))  # the loss stays where it is
    stop = keras.callbacks.EarlyStopping("loss", patience=1)
    fit(model, Prune(0.5), epochs=10)
    history = fit(model, stop, epochs=10)
    assert len(history.epoch) == 2


def test_other_callbacks_keep_their_own_files_and_order(tmp_path):
    model = sequential()
    calls = []
    first = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: calls.append("first"))
    second = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: calls.append("second"))
    listed = [Prune(0.5), first, second]
    model.fit(X, X, epochs=2, verbose=0, callbacks=listed)
    assert calls == ["first", "second"] * 2
    assert isinstance(listed[0], Prune)
    assert len(listed) == 3


def test_a_model_that_was_already_trained_is_pruned():
    model = sequential()
    fit(model)  # traces the train step without masks
    watch = EveryBatch()
    fit(model, Prune(ConstantSparsity(0.75, 0)), watch)
    assert watch.seen == [288] * 30


def test_later_fits_keep_the_zeros_until_they_are_released():
    model = sequential()
    fit(model, Prune(0.75))
    fit(model)
    assert sum(zeros(model).values()) == 288
    assert release(model) == 2
    fit(model)
    assert sum(zeros(model).values()) < 100  # those behind dead units have no gradient


def test_a_second_prune_goes_on_from_the_zeros_that_are_there():
    model, watch = sequential(), EveryBatch()
    fit(model, Prune(0.5))
    old = model.get_layer("a").kernel.numpy() == 0
    fit(model, Prune(0.75), watch)
    assert min(watch.seen) >= 192
    assert sum(zeros(model).values()) == 288
    assert (model.get_layer("a").kernel.numpy()[old] == 0).all()


def test_the_same_callback_can_be_used_again():
    prune = Prune(0.75)
    for _ in range(2):
        model = sequential()
        fit(model, prune)
        assert sum(zeros(model).values()) == 288
        assert prune.step == 30


def test_a_copy_is_a_fresh_callback_with_the_same_arguments():
    prune = Prune(0.75, allocation="global", exclude="b")
    model = sequential()
    fit(model, prune)
    twin = copy.deepcopy(prune)
    assert twin.get_config() == prune.get_config()
    assert twin.step == 0
    assert twin.table is None


def test_include_and_exclude_take_names_paths_and_patterns():
    cases = [
        ({"include": "encoder"}, {"encoder/hidden/kernel"}),
        ({"include": ["enc*"]}, {"encoder/hidden/kernel"}),
        ({"include": "encoder/hidden"}, {"encoder/hidden/kernel"}),
        ({"include": "hidden"}, {"encoder/hidden/kernel", "decoder/hidden/kernel"}),
        ({"exclude": "decoder/*"}, {"encoder/hidden/kernel"}),
        ({"include": "hidden", "exclude": "encoder"}, {"decoder/hidden/kernel"}),
    ]
    for arguments, expected in cases:
        model = nested()
        fit(model, Prune(0.5, **arguments))
        assert {path for path, count in zeros(model).items() if count} == expected, arguments
        left = set(zeros(model)) - expected
        assert {row.path for row in sparsity_table(model).rows if row.reason} == left


def test_a_pattern_that_fits_nothing_is_refused_with_the_layers_there_are():
    with pytest.raises(InputError, match=r"include: got 'hiden', which fits no layer.*encoder/hidden"):
        fit(nested(), Prune(0.5, include="hiden"))


def test_frozen_layers_are_listed_and_left_alone():
    model = sequential()
    model.get_layer("a").trainable = False
    model.compile("adam", "mse")
    before = model.get_layer("a").kernel.numpy()
    fit(model, Prune(0.75))
    np.testing.assert_array_equal(model.get_layer("a").kernel.numpy(), before)
    assert sparsity_table(model)["a/kernel"].reason == "frozen (trainable=False)"
    assert sparsity_table(model)["b/kernel"].zeros == 144
    with pytest.raises(InputError, match="on_unsupported='raise': got kernels that cannot be pruned: a/kernel"):
        fit(model, Prune(0.75, on_unsupported="raise"))


def test_a_model_without_kernels_is_refused():
    model = keras.Sequential([keras.Input((16,)), layers.BatchNormalization()])
    model.compile("adam", "mse")
    with pytest.raises(InputError, match="got nothing to prune"):
        fit(model, Prune(0.5))


def test_weights_that_diverge_are_an_error_and_not_a_mask():
    model = sequential()
    model.get_layer("a").kernel.assign(np.full((16, 12), np.nan))
    with pytest.raises(InputError, match="did the training diverge"):
        fit(model, Prune(0.5))


@pytest.mark.parametrize("value", [1.0, 1, -0.1, float("nan"), "0.5", True, None])
def test_a_sparsity_outside_its_range_is_refused(value):
    with pytest.raises(InputError, match=r"schedule: got .*, allowed: "):
        Prune(value)


@pytest.mark.parametrize(
    ("name", "value"), [("allocation", "globl"), ("criterion", "magnitud"), ("on_unsupported", "ignore")]
)
def test_an_unknown_name_lists_the_known_ones(name, value):
    with pytest.raises(InputError, match=f"{name}: got '{value}', allowed: "):
        fit(sequential(), Prune(0.5, **{name: value}))


def test_keep_sparse_holds_the_zeros_of_a_loaded_model(tmp_path):
    model = sequential()
    fit(model, Prune(0.75))
    model.save(tmp_path / "sparse.keras")
    loaded = keras.models.load_model(tmp_path / "sparse.keras")
    pattern = loaded.get_layer("a").kernel.numpy() == 0
    before = loaded.get_layer("a").kernel.numpy()
    keep = KeepSparse()
    fit(loaded, keep)
    after = loaded.get_layer("a").kernel.numpy()
    np.testing.assert_array_equal(after == 0, pattern)
    assert (after != before).any()
    assert keep.table["a/kernel"].asked == 0.75


def test_keep_sparse_refuses_a_dense_model():
    with pytest.raises(InputError, match="allowed: a sparse model"):
        fit(sequential(), KeepSparse())


def test_keep_sparse_leaves_a_kernel_of_zeros_free():
    model = sequential()
    fit(model, Prune(0.75, include="a"))
    release(model)
    model.get_layer("b").kernel.assign(np.zeros((12, 16)))
    fit(model, KeepSparse())
    assert zeros(model)["a/kernel"] == 144
    assert zeros(model)["b/kernel"] < 96  # behind units of a that are dead there is no gradient


def test_the_saved_file_loads_where_this_package_was_never_imported(tmp_path):
    model = nested()
    fit(model, Prune(0.75))
    model.save(tmp_path / "pruned.keras")
    np.save(tmp_path / "y.npy", model.predict(X, verbose=0))
    code = (
        "import sys, keras, numpy as np\n"
        f"model = keras.models.load_model(r'{tmp_path}/pruned.keras')\n"
        "x = np.random.default_rng(0).random((96, 16), 'float32')\n"
        f"np.testing.assert_array_equal(model.predict(x, verbose=0), np.load(r'{tmp_path}/y.npy'))\n"
        "kernel = model.get_layer('encoder').get_layer('hidden').kernel.numpy()\n"
        "assert (kernel == 0).sum() == 96 and not np.signbit(kernel[kernel == 0]).any()\n"
        "assert not [name for name in sys.modules if name.startswith('keras_aeprune')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_tf_keras_model_is_refused_with_the_way_to_keras_3():
    import tf_keras

    with pytest.raises(WrongKerasError, match=r"tf_keras \(Keras 2\).*models\.from_tf_keras"):
        sparsity_table(tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(4,))]))


def test_a_fit_that_starts_at_a_later_epoch_takes_the_schedule_up_there():
    model, watch = sequential(), EveryBatch()
    fit(model, Prune(PolynomialDecay(0.0, 0.5, 0, 30, frequency=6)), watch, epochs=5, initial_epoch=3)
    assert watch.seen[0] == 2 * round(192 * 0.5 * (1 - 0.4**3))
    assert sum(zeros(model).values()) == 192
