"""The loop of pruning and training: its sequence, its limits, rewinding, and going on after a kill."""

import functools
import json
import math
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

from keras_aeprune._validation import InputError
from keras_aeprune.criteria.base import Criterion
from keras_aeprune.sparsity import MaskConstraint, release, sparsity_table
from keras_aeprune.sparsity.iterative import geometric, iterative
from keras_aeprune.sparsity.iterative_table import Limit, limits_of

DIGITS, LABELS = load_digits(return_X_y=True)
IMAGES = (DIGITS / 16).astype("float32")
DIGITS = IMAGES[:384]
QUICK = {"epochs": 1, "batch_size": 128, "progress": False}


def autoencoder(dropout=0.0, seed=3, eager=True):
    """Eager where a test is not about the compiled step: tracing costs more than the arithmetic here."""
    keras.utils.set_random_seed(seed)
    stack = [keras.Input((64,)), layers.Dense(24, activation="relu", name="code"), layers.Dropout(dropout)]
    net = keras.Sequential([*stack, layers.BatchNormalization(), layers.Dense(64, name="out")])
    net.compile(keras.optimizers.Adam(3e-3), "mse", run_eagerly=eager)
    return net


@functools.cache
def trained_weights():
    net = autoencoder(eager=False)
    net.fit(IMAGES, IMAGES, epochs=4, batch_size=128, verbose=0)
    return net.get_weights()


def trained(**options):
    net = autoencoder(**options)
    net.set_weights(trained_weights())
    return net


def classifier():
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((64,)), layers.Dense(32, "relu"), layers.Dense(10, "softmax")])
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return net


def kernels(net):
    return {name: net.get_layer(name).kernel.numpy() for name in ("code", "out")}


def test_geometric_takes_the_same_fraction_of_the_rest_each_round():
    np.testing.assert_allclose(geometric(1 - 0.8**3, 3), [0.2, 0.36, 0.488])
    np.testing.assert_allclose(geometric(0.9, 2), [1 - math.sqrt(0.1), 0.9])
    assert geometric(0.9, 1) == [0.9]


def test_each_round_reaches_its_sparsity_and_keeps_the_zeros_of_the_one_before():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append({name: kernel == 0 for name, kernel in kernels(self.model).items()})

    net = trained()
    result = iterative(net, DIGITS, sparsities=(0.3, 0.5, 0.8), callbacks=[Look()], **QUICK)
    size = 2 * 64 * 24
    assert [round(r.reached * size) for r in result.rounds] == [0, *(2 * round(s * 1536) for s in (0.3, 0.5, 0.8))]
    for before, after in pairwise(seen):
        assert all((after[name] >= before[name]).all() for name in after)
    assert len({sum(int(z.sum()) for z in zeros.values()) for zeros in seen}) == 3  # constant in a round
    assert sparsity_table(net)["code/kernel"].asked == 0.8
    assert result.kept is result.rounds[-1] and result.reason == "kept: round 3, the last one"


def test_the_masks_stay_on_for_later_training_until_they_are_released():
    net = trained(eager=False)  # a step that was traced before there were masks
    net.fit(DIGITS, DIGITS, epochs=1, verbose=0)
    iterative(net, DIGITS, target=0.7, rounds=1, **QUICK)
    zeros = kernels(net)["code"] == 0
    net.fit(DIGITS, DIGITS, epochs=1, verbose=0)
    np.testing.assert_array_equal(kernels(net)["code"] == 0, zeros)
    assert release(net) == 2
    net.fit(DIGITS, DIGITS, epochs=1, verbose=0)
    assert (kernels(net)["code"] == 0).sum() < 0.8 * zeros.sum()


def test_the_loop_equals_pruning_and_fitting_by_hand():
    """Two rounds written out with NumPy masks and a gradient step of one's own."""
    net, twin = (keras.Sequential([keras.Input((64,)), layers.Dense(64, use_bias=False)]) for _ in range(2))
    twin.set_weights(net.get_weights())
    net.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse")
    result = iterative(
        net, DIGITS, sparsities=(0.5, 0.8), epochs=2, batch_size=1797, shuffle=False, progress=False
    )
    w = twin.get_weights()[0].astype("float64")
    losses = [np.mean((DIGITS @ w - DIGITS) ** 2)]
    for s in (0.5, 0.8):
        cut = np.sort(np.abs(w).ravel())[round(s * w.size) - 1]
        mask = np.abs(w) > cut
        w, velocity = w * mask, 0.0  # the momentum starts anew
        for _ in range(2):
            gradient = 2 * DIGITS.T @ (DIGITS @ w - DIGITS) / DIGITS.size
            velocity = 0.9 * velocity - 0.5 * gradient
            w = (w + velocity) * mask
        losses.append(np.mean((DIGITS @ w - DIGITS) ** 2))
    np.testing.assert_allclose(net.get_weights()[0], w, atol=1e-5)
    np.testing.assert_allclose([r.metrics["loss"] for r in result.rounds], losses, rtol=1e-4)


@pytest.mark.parametrize(
    ("limit", "texts"),
    [
        ({"accuracy": 0.95}, ["accuracy >= 0.95"]),
        ({"mse": 0.01, "auc": 0.9}, ["mse <= 0.01", "auc >= 0.9"]),
        ({"decoder_mean_squared_error": 1}, ["decoder_mean_squared_error <= 1"]),
        ({"top_k_categorical_accuracy": 1}, ["top_k_categorical_accuracy >= 1"]),
        ({"error_increase": 0.05}, ["error_increase <= 0.05"]),
        (("auc", "<=", 0.9), ["auc <= 0.9"]),
        ([("hits", ">=", 3), ("loss", "<=", 2)], ["hits >= 3", "loss <= 2"]),
        (None, []),
    ],
)
def test_the_direction_of_a_limit_comes_from_the_name_or_is_given(limit, texts):
    assert [str(entry) for entry in limits_of(limit)] == texts


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ({"hits": 3}, "the name does not tell the direction"),
        ({"accuracy_loss": 3}, "the name does not tell the direction"),
        ({"mse": math.nan}, "a finite number"),
        ({"error_increase": -0.1}, "a fraction >= 0"),
        (("mse", "<", 1), '"<=" or ">="'),
        ("mse", "limit: got 'mse', allowed: {name: bound}"),
        (3, "limit: got 3"),
        ([3], "limit: got"),
    ],
)
def test_a_limit_that_says_nothing_clear_is_refused(limit, text):
    with pytest.raises(InputError, match=text.replace("{", r"\{")):
        limits_of(limit)


def test_limits_worked_by_hand():
    dense = {"loss": 2.0, "accuracy": 0.9}
    increase = Limit("error_increase", "<=", 0.05)
    assert increase.holds({"loss": 2.1}, dense) and not increase.holds({"loss": 2.11}, dense)
    assert increase.holds({"loss": -1.9}, {"loss": -2.0}) and not increase.holds({"loss": -1.8}, {"loss": -2.0})
    assert Limit("accuracy", ">=", 0.9).holds(dense, {}) and not Limit("accuracy", ">=", 0.91).holds(dense, {})
    assert not Limit("loss", "<=", 9).holds({"loss": math.nan}, {})


def test_the_last_round_that_held_the_limit_is_the_result_with_its_weights():
    net = trained()
    dense = net.evaluate(DIGITS, DIGITS, verbose=0)
    result = iterative(
        net, DIGITS, sparsities=(0.1, 0.2, 0.98, 0.99), validation=DIGITS, limit={"error_increase": 0.1}, **QUICK
    )
    assert [r.held for r in result.rounds] == [True, True, True, False]  # and no fourth round
    assert result.kept.number == 2
    assert result.rounds[3].metrics["loss"] > 1.1 * dense
    assert net.evaluate(DIGITS, DIGITS, verbose=0) == pytest.approx(result.kept.metrics["loss"], rel=1e-5)
    assert sparsity_table(net).sparsity == pytest.approx(0.2, abs=1e-3)
    assert result.reason == "kept: round 2, since round 3 did not hold error_increase <= 0.1"
    assert str(result).splitlines()[4].endswith("kept")
    assert str(result).splitlines()[5].endswith("limit not held")
    json.dumps(result.to_dict(), allow_nan=False)


def test_without_a_round_that_holds_the_dense_model_comes_back_and_it_says_so():
    net = trained()
    before = net.get_weights()
    result = iterative(net, DIGITS, sparsities=(0.98,), limit={"error_increase": 0.0}, **QUICK)
    for one, other in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert release(net) == 0
    assert result.kept.number == 0
    assert result.reason == "kept: the dense model, since not even round 1 held error_increase <= 0"
    poor = iterative(net, DIGITS, sparsities=(0.5,), limit={"loss": 1e-9}, **QUICK)
    assert len(poor.rounds) == 1
    assert poor.reason == "kept: the dense model, which does not hold loss <= 1e-09 itself"


def test_a_metric_of_a_classifier_limits_it():
    net = classifier()
    result = iterative(
        net,
        (IMAGES[:1200], LABELS[:1200]),
        dense_epochs=8,
        validation=(IMAGES[1200:], LABELS[1200:]),
        sparsities=(0.3, 0.98),
        limit={"accuracy": 0.7},
        epochs=1,
        progress=False,
    )
    assert [r.metrics["accuracy"] >= 0.7 for r in result.rounds] == [True, True, False]
    accuracy = np.mean(net.predict(IMAGES[1200:], verbose=0).argmax(-1) == LABELS[1200:])
    assert accuracy == pytest.approx(result.kept.metrics["accuracy"], abs=1e-6)


def after_round_zero_steps(net, **options):
    """The model as rewinding leaves it, before the first batch of the round; with train= that does nothing."""
    return iterative(net, DIGITS, sparsities=(0.5,), train=lambda model, number: None, progress=False, **options)


def test_rewinding_to_given_weights_sets_survivors_and_leaves_masks():
    net = trained()
    early = [np.full_like(w, 0.25) for w in net.get_weights()]
    trained_code = kernels(net)["code"]
    after_round_zero_steps(net, rewind=early)
    code = kernels(net)["code"]
    assert set(np.unique(code)) == {0.0, 0.25}
    kept = np.abs(trained_code)[code != 0].min()  # the masks are those of the trained weights
    assert kept >= np.abs(trained_code)[code == 0].max()
    np.testing.assert_array_equal(net.get_layer("code").bias.numpy(), 0.25)


def test_rewinding_to_weights_by_path_leaves_the_others(tmp_path):
    net, other = trained(), autoencoder(seed=8)
    bias = net.get_layer("code").bias.numpy()
    after_round_zero_steps(net, rewind={"code/kernel": np.ones((64, 24))})
    assert set(np.unique(kernels(net)["code"])) == {0.0, 1.0}
    np.testing.assert_array_equal(net.get_layer("code").bias.numpy(), bias)
    other.save_weights(tmp_path / "early.weights.h5")
    after_round_zero_steps(net, rewind=tmp_path / "early.weights.h5")
    code = kernels(net)["code"]
    np.testing.assert_array_equal(code[code != 0], kernels(other)["code"][code != 0])


@pytest.mark.parametrize("rewind", ["initial", 2])
def test_rewinding_to_before_or_into_the_first_training(rewind):
    found = {}

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found.setdefault("begins", []).append(
                (kernels(self.model)["code"], int(self.model.optimizer.iterations))
            )

        def on_epoch_end(self, epoch, logs=None):
            found.setdefault("epochs", []).append(kernels(self.model)["code"])

    net = autoencoder()
    iterative(net, DIGITS, sparsities=(0.5, 0.75), dense_epochs=3, rewind=rewind, callbacks=[Look()], **QUICK)
    early = found["begins"][0][0] if rewind == "initial" else found["epochs"][1]
    for start, steps in found["begins"][1:]:
        np.testing.assert_array_equal(start[start != 0], early[start != 0])
        assert steps == 0
    assert [(start != 0).mean() for start, _ in found["begins"]] == pytest.approx([1, 0.5, 0.25], abs=1e-3)


class Dies(keras.callbacks.Callback):
    """Ends the process, as far as the loop can tell, in the nth fit."""

    def __init__(self, fit=None):
        super().__init__()
        self.fit = fit
        self.fits = 0

    def on_train_begin(self, logs=None):
        self.fits += 1

    def on_train_batch_end(self, batch, logs=None):
        if self.fits == self.fit and batch == 2:
            raise KeyboardInterrupt


def long_run(folder, dies=None, eager=True, **changed):
    """A run with random numbers wherever there can be: dropout, shuffling, a random criterion."""
    net = autoencoder(dropout=0.3, eager=eager)
    options = {"dense_epochs": 1, "rewind": 1, "allocation": "global", **QUICK, **changed}
    return iterative(net, DIGITS, target=0.9, rounds=3, directory=folder, callbacks=[Dies(dies)], **options)


def comparable(result):
    return [{**entry.to_dict(), "seconds": 0} for entry in result.rounds]


def test_killed_and_continued_ends_as_if_never_stopped_and_is_not_repeated(tmp_path):
    whole = long_run(tmp_path / "whole", eager=False)
    with pytest.raises(KeyboardInterrupt):
        long_run(tmp_path / "killed", 4, False)  # in round 3
    lines = []
    resumed = long_run(tmp_path / "killed", eager=False, progress=lines.append)
    assert sparsity_table(resumed.model).to_dict() == sparsity_table(whole.model).to_dict()
    assert comparable(resumed) == comparable(whole)
    for one, other in zip(whole.model.variables, resumed.model.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    for one, other in zip(whole.model.trainable_variables, resumed.model.trainable_variables, strict=True):
        held = isinstance(one.constraint, MaskConstraint)
        assert isinstance(other.constraint, MaskConstraint) == held
        if held:
            np.testing.assert_array_equal(one.constraint.mask.numpy(), other.constraint.mask.numpy())
    assert len(lines) == 2
    assert not list((tmp_path / "killed").glob(".unfinished*"))
    again = long_run(tmp_path / "killed", 1)  # finished: no fit, no death
    assert comparable(again) == comparable(whole)


def test_a_folder_of_another_run_is_refused_with_what_differs(tmp_path):
    net = trained()
    weights = net.get_weights()
    options = {"sparsities": (0.5,), "directory": tmp_path / "run", **QUICK}
    iterative(net, DIGITS, **options)
    net = autoencoder()
    with pytest.raises(InputError, match=r"another run \(weights was .* now\), allowed"):
        iterative(net, DIGITS, **options)
    net.set_weights(weights)
    with pytest.raises(InputError, match=r"\(data was .*; sparsities was \[0.5\] and is \[0.5, 0.6\] now\)"):
        iterative(net, DIGITS[:100], **{**options, "sparsities": (0.5, 0.6)})
    (tmp_path / "run" / "rounds.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        iterative(net, DIGITS, **options)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "mine.txt").write_text("")
    with pytest.raises(InputError, match="directory: got .* allowed: a new or empty folder"):
        iterative(net, DIGITS, **{**options, "directory": tmp_path / "file"})


def test_after_an_error_the_model_is_as_it_was_given():
    net = trained()
    net.optimizer.build(net.trainable_variables)
    before = [v.numpy() for v in (*net.variables, *net.optimizer.variables)]
    with pytest.raises(KeyboardInterrupt):
        iterative(net, DIGITS, sparsities=(0.5, 0.8), callbacks=[Dies(2)], **QUICK)
    for one, other in zip(before, (*net.variables, *net.optimizer.variables), strict=True):
        np.testing.assert_array_equal(one, other.numpy())
    assert release(net) == 0


def test_early_stopping_ends_rounds_and_cannot_bring_pruned_weights_back():
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True, min_delta=9.0)
    ended = []
    log = keras.callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(len(net.history.epoch)))
    net = trained()
    iterative(
        net, DIGITS, sparsities=(0.5, 0.9), validation=DIGITS, callbacks=[stop, log], **{**QUICK, "epochs": 4}
    )
    assert ended == [2, 2]
    assert sparsity_table(net).sparsity == pytest.approx(0.9, abs=1e-3)


def test_a_training_of_ones_own_takes_the_place_of_fit():
    net, calls = trained(), []

    def train(model, number):
        calls.append(number)

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - x))
            model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

        step(DIGITS)

    result = iterative(net, DIGITS, sparsities=(0.4, 0.6), dense_epochs=1, train=train, progress=False)
    assert calls == [0, 1, 2]
    assert result.kept.reached == pytest.approx(0.6, abs=1e-3)


def test_a_training_of_ones_own_that_ignores_the_masks_is_refused():
    net = trained()

    def train(model, number):
        model.get_layer("code").kernel.assign_add(np.ones((64, 24)))

    with pytest.raises(InputError, match="train: got masked weights that are not zero after round 1"):
        iterative(net, DIGITS, sparsities=(0.5,), train=train, progress=False)


def test_a_dataset_works_like_arrays():
    one, other = trained(), trained()
    data = tf.data.Dataset.from_tensor_slices((DIGITS, DIGITS)).batch(128)
    a = iterative(one, data, sparsities=(0.5,), validation=data, epochs=1, progress=False)
    b = iterative(other, DIGITS, sparsities=(0.5,), validation=DIGITS, shuffle=False, **QUICK)
    assert a.kept.metrics["loss"] == pytest.approx(b.kept.metrics["loss"], rel=1e-4)


def test_a_nested_subclassed_and_a_convolutional_model_with_other_options():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = keras.Sequential([layers.Reshape((8, 8, 1)), layers.Conv2D(4, 3, name="conv")])
            self.decoder = keras.Sequential([layers.Flatten(), layers.Dense(64, name="out")])

        def call(self, x):
            return self.decoder(self.encoder(x))

    net = Net()
    net(DIGITS[:2])
    net.compile("sgd", "mse", run_eagerly=True)
    result = iterative(net, DIGITS, target=0.5, rounds=2, pruning={"exclude": "conv"}, pattern="unit", **QUICK)
    rows = {row.path.split("/")[-2]: row.reached for row in sparsity_table(net).rows}
    assert rows["conv"] == 0 and rows["out"] == pytest.approx(0.5)
    assert len(result.rounds) == 3


def test_a_criterion_that_needs_data_sees_the_training_data_in_every_round():
    seen = []

    class Looks(Criterion):
        needs = "activations"

        def measure(self, evidence):
            seen.append(float(evidence.data.x.sum()))
            return [np.abs(kernel) for kernel in evidence.kernels]

    result = iterative(trained(), DIGITS, sparsities=(0.3, 0.6), criterion=Looks(), **QUICK)
    assert len(seen) >= 2
    assert seen == pytest.approx([DIGITS.sum()] * len(seen), rel=1e-4)
    assert result.kept.reached == pytest.approx(0.6, abs=1e-3)


def test_progress_is_one_readable_line_per_round(capsys):
    lines = []
    net = trained()
    iterative(net, DIGITS, sparsities=(0.3, 0.6), **{**QUICK, "progress": lines.append})
    assert [line.split(":")[0] for line in lines] == ["dense", "round 1/2", "round 2/2"]
    assert "left" in lines[1] and "left" not in lines[2]
    assert "sparsity 0.3" in lines[1]
    iterative(net, DIGITS, sparsities=(0.8,), **QUICK)
    assert capsys.readouterr() == ("", "")
    iterative(net, DIGITS, sparsities=(0.9,), **{**QUICK, "progress": True})
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sparsities": (0.5, 0.5)}, "one rising fraction"),
        ({"sparsities": ()}, "one rising fraction"),
        ({"target": 1.0}, "target: got 1.0"),
        ({"rounds": 0}, "rounds: got 0"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"limit": {"accuracy": 0.9}}, "limit: got 'accuracy', allowed: error_increase, loss"),
        ({"rewind": "initial"}, "rewind: got 'initial', allowed: with dense_epochs=0, weights"),
        ({"rewind": 4, "dense_epochs": 3}, "rewind: got 4, allowed: .* <= 3"),
        ({"rewind": 1, "dense_epochs": 3, "train": print}, "rewind: got 1, allowed: with train="),
        ({"rewind": "nothing.weights.h5"}, "rewind: got 'nothing.weights.h5'"),
        ({"rewind": {"nothing": 1}}, "rewind: got 'nothing', allowed: paths of variables: .*code/kernel"),
        ({"rewind": [np.ones(3)]}, "rewind: got arrays of shapes"),
        ({"rewind": 1.5}, "rewind: got 1.5"),
        ({"criterion": "magic"}, "criterion: got 'magic'"),
        ({"validation_data": 3}, "validation_data: got 3, allowed: what `data`"),
        ({"validation": np.ones(0)}, "validation: got"),
        ({"pruning": {"limits": {"code": (0.0, 0.1), "out": (0.0, 0.1)}}}, "0.1"),
    ],
)
def test_what_cannot_work_is_refused_before_the_training(options, text):
    net = autoencoder()
    before = net.get_weights()
    with pytest.raises(InputError, match=text) as caught:
        iterative(net, DIGITS, **{**QUICK, **options})
    assert "\n" not in str(caught.value)
    for one, other in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_is_not_compiled_and_data_of_no_use_are_refused():
    net = keras.Sequential([keras.Input((64,)), layers.Dense(2)])
    with pytest.raises(InputError, match="not compiled"):
        iterative(net, DIGITS)
    for data in ((DIGITS,), (DIGITS, DIGITS[:3]), iter([DIGITS])):
        with pytest.raises(InputError, match="data: got"):
            iterative(autoencoder(), data)
