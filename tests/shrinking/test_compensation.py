"""Closed-form weights of a cut model: against least squares by hand, and against what must come back exactly."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from sklearn.datasets import load_digits

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.models.stacked import DenseTranspose
from keras_aeprune.shrinking import regression
from keras_aeprune.shrinking.compensation import compensate
from keras_aeprune.shrinking.cutting import cut
from keras_aeprune.shrinking.regression import fit_linear
from keras_aeprune.shrinking.tracing import trace


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def halved(model, names=None, seed=0):
    """(small, traced, kept) with a random half of the units of every group gone, or of those named."""
    traced, generator = trace(model), np.random.default_rng(seed)
    removed = []
    for group in traced.groups:
        if not group.reason and (names is None or group.name in names):
            removed += list(generator.permutation(group.classes)[: group.size // 2])
    kept = traced.kept(removed)
    return cut(traced, kept), traced, kept


def relative(model, small, x):
    a, b = np.asarray(model(x)), np.asarray(small(x))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def test_ridge_pulls_towards_the_prior_as_worked_by_hand():
    # X = [1, 1], Y = [2, 4]: gram 2, cross 6; ridge 0.5 of the diagonal 2 is 1: (6 + 1 * 1) / (2 + 1)
    assert fit_linear([[2.0]], [[6.0]], [[1.0]], 0.5) == pytest.approx(7 / 3)
    assert fit_linear([[2.0]], [[6.0]], [[1.0]], 0.0) == pytest.approx(3.0)
    assert fit_linear([[2.0]], [[6.0]], [[1.0]], 1e9) == pytest.approx(1.0)


def test_fit_equals_least_squares_with_rows_for_the_ridge(rng):
    x, y, prior, ridge = rng.normal(size=(50, 4)), rng.normal(size=(50, 3)), rng.normal(size=(4, 3)), 0.2
    weight = np.sqrt(ridge * np.square(x).sum(axis=0).mean())
    rows = np.concatenate([x, weight * np.eye(4)]), np.concatenate([y, weight * prior])
    np.testing.assert_allclose(fit_linear(x.T @ x, x.T @ y, prior, ridge), np.linalg.lstsq(*rows)[0], rtol=1e-9)


def test_features_that_depend_on_each_other_are_no_error_without_ridge():
    gram = np.array([[1.0, 1.0], [1.0, 1.0]])
    found = fit_linear(gram, gram @ [[1.0], [1.0]], np.zeros((2, 1)), 0.0)
    np.testing.assert_allclose(gram @ found, [[2.0], [2.0]])


def test_fewer_rows_than_features_give_the_same_solution(rng):
    x, missing, prior = rng.normal(size=(20, 6)), rng.normal(size=(20, 2)), rng.normal(size=(6, 2))
    narrow = regression.solved(x, missing, prior, 0.1, False)
    x6, scale = x[:4], np.square(x[:4]).sum(axis=0).mean()
    wide = regression.solved(x6, missing[:4], prior, 0.1, False)
    by_hand = prior + np.linalg.solve(x6.T @ x6 + 0.1 * scale * np.eye(6), x6.T @ missing[:4])
    np.testing.assert_allclose(wide, by_hand, rtol=1e-9)
    assert not np.allclose(narrow, wide)


LINEAR = {
    "dense": ((5,), kl.Dense(6, "relu"), kl.Dense(3, "tanh")),
    "dense of steps": ((4, 5), kl.Dense(6, "relu"), kl.Dense(3)),
    "dense without bias": ((5,), kl.Dense(6, "relu", use_bias=False), kl.Dense(3, use_bias=False)),
    "dense transpose": ((5,), kl.Dense(6, "relu"), DenseTranspose(3, "tanh")),
    "time distributed": ((4, 5), kl.Dense(6, "relu"), kl.TimeDistributed(kl.Dense(3, "sigmoid"))),
    "conv1d causal": (
        (9, 2),
        kl.Conv1D(6, 2, activation="relu"),
        kl.Conv1D(3, 3, padding="causal", dilation_rate=2),
    ),
    "conv2d same": ((7, 8, 2), kl.Conv2D(6, 2, activation="relu"), kl.Conv2D(3, 3, strides=2, padding="same")),
    "conv2d valid": ((7, 8, 2), kl.Conv2D(6, 2, activation="relu"), kl.Conv2D(3, (2, 3), dilation_rate=(1, 2))),
    "conv3d": (
        (4, 5, 4, 2),
        kl.Conv3D(6, 2, activation="relu"),
        kl.Conv3D(3, 2, strides=(1, 2, 1), padding="same"),
    ),
    "transposed 1d": ((5, 2), kl.Conv1D(6, 2, activation="relu"), kl.Conv1DTranspose(3, 4, strides=3)),
    "transposed same": (
        (4, 5, 2),
        kl.Conv2D(6, 1, activation="relu"),
        kl.Conv2DTranspose(3, 5, strides=2, padding="same", activation="sigmoid"),
    ),
    "transposed padded": (
        (4, 5, 2),
        kl.Conv2D(6, 1, activation="relu"),
        kl.Conv2DTranspose(3, (3, 2), strides=2, padding="same", output_padding=(1, 1)),
    ),
    "transposed dilated": (
        (4, 5, 2),
        kl.Conv2D(6, 1, activation="relu"),
        kl.Conv2DTranspose(3, 3, padding="valid", dilation_rate=2),
    ),
    "transposed 3d": ((3, 3, 3, 2), kl.Conv3D(6, 1, activation="relu"), kl.Conv3DTranspose(2, 2, strides=2)),
    "separable": (
        (7, 6, 2),
        kl.Conv2D(6, 2, activation="relu"),
        kl.SeparableConv2D(3, 3, strides=2, padding="same", depth_multiplier=2),
    ),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_units_that_are_multiples_of_kept_ones_are_recovered_exactly(kind, rng):
    shape, first, second = (
        part if isinstance(part, tuple) else type(part).from_config(part.get_config()) for part in LINEAR[kind]
    )
    model = keras.Sequential([keras.Input(shape), first, second])
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.5)
    for weight in first.weights:  # units 3 to 5 are multiples of 0 to 2, also behind a ReLU
        values = weight.numpy()
        values[..., 3:] = values[..., :3] * [2.0, 0.5, 3.0]
        weight.assign(values)
    if kind == "separable":  # the same window for a unit and its multiple, or the sum is none of what is kept
        values = second.depthwise_kernel.numpy()
        values[..., 3:, :] = values[..., :3, :]
        second.depthwise_kernel.assign(values)
    traced = trace(model)
    group = next(group for group in traced.groups if group.name == first.name)
    kept = traced.kept(group.classes[3:])
    small = cut(traced, kept)
    x = rng.normal(size=(200, *shape)).astype("float32")
    assert relative(model, small, x) > 0.05
    found = compensate(model, small, traced, kept, x, ridge=1e-10)
    assert relative(model, small, x) < 1e-4, str(found)
    assert found.left == {}


@pytest.mark.parametrize("kind", LINEAR)
def test_rows_times_kernel_are_what_the_layer_puts_out_before_its_activation(kind, rng):
    shape, first, second = LINEAR[kind]
    layer = type(second).from_config(second.get_config())
    x = keras.Sequential([keras.Input(shape), type(first).from_config(first.get_config())])
    x = np.asarray(x(rng.normal(size=(3, *shape))))
    layer(x)
    inner = regression.inner_of(layer)
    inner.activation = keras.activations.linear
    rows = regression.rows_of(layer, [x], 1)
    bias = regression.bias_of(inner)
    found = rows @ regression.matrix_of(inner) + (0.0 if bias is None else bias)
    wanted = np.asarray(layer(x))
    np.testing.assert_allclose(found, wanted.reshape(-1, wanted.shape[-1]), atol=1e-5)


@pytest.fixture(scope="module")
def digits():
    """(trained autoencoder of digits, test images)."""
    keras.utils.set_random_seed(0)
    x = load_digits().data.astype("float32") / 16
    model = models.dense((64,), 12, hidden_units=(48, 24))
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(x[:1400], x[:1400], epochs=25, batch_size=64, verbose=0)
    return model, x


def test_half_of_the_error_of_a_cut_is_gone_before_any_training(digits):
    model, x = digits
    before = [w.copy() for w in model.get_weights()]
    small, traced, kept = halved(model, names=["encoder/hidden_1", "encoder/hidden_2", "decoder/hidden_1"])

    def mse(one):
        return float(np.mean(np.square(np.asarray(one(x[1400:])) - x[1400:])))

    dense, as_cut = mse(model), mse(small)
    found = compensate(model, small, traced, kept, x[:1400])
    assert mse(small) - dense < 0.5 * (as_cut - dense)
    assert found.after < found.before
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_the_reported_errors_of_the_model_are_those_of_the_samples_held_back(digits):
    model, x = digits
    small, traced, kept = halved(model)
    judged = x[:1400][7::8]
    before = relative(model, small, judged)
    found = compensate(model, small, traced, kept, x[:1400])
    assert found.before == pytest.approx(before, rel=1e-4)
    assert found.after == pytest.approx(relative(model, small, judged), rel=1e-4)
    assert found.samples == 1400
    assert found.to_dict()["after"] == found.after


def test_a_layer_before_which_nothing_changed_keeps_its_weights(digits):
    model, x = digits
    small, traced, kept = halved(model, names=["decoder/hidden_1"])
    encoder = small.encoder.get_weights()
    found = compensate(model, small, traced, kept, x)
    assert all(np.array_equal(a, b) for a, b in zip(encoder, small.encoder.get_weights(), strict=True))
    notes = {fit.path: fit.note for fit in found.layers}
    assert notes["encoder/hidden_1"] == "already exact"
    assert notes["decoder/hidden_2"] == ""


@pytest.mark.parametrize("kind", ["convolutional", "normalized", "branches"])
def test_nested_normalized_and_branching_models_get_better(kind, rng):
    if kind == "convolutional":
        model, shape = models.convolutional((8, 8, 1), 6, filters=(8, 12)), (8, 8, 1)
    elif kind == "normalized":
        model, shape = models.dense((16,), 6, hidden_units=(12, 10), batch_normalization=True), (16,)
        model(rng.normal(size=(64, 16)), training=True)
    else:
        shape = (8, 8, 2)
        x = keras.Input(shape)
        a = kl.Conv2D(8, 3, padding="same", activation="relu")(x)
        b = kl.Conv2D(8, 3, padding="same", activation="relu")(a)
        model = keras.Model(x, [kl.Conv2D(2, 1)(a + b), kl.Dense(3)(kl.GlobalAveragePooling2D()(b))])
    x = rng.normal(size=(256, *shape)).astype("float32")
    small, traced, kept = halved(model)
    found = compensate(model, small, traced, kept, x)
    assert found.after < 0.9 * found.before, str(found)
    assert found.left == {}


def test_recurrent_shared_and_tied_layers_are_left_and_listed(rng):
    x = keras.Input((5, 4))
    shared = kl.Dense(8, "relu", name="shared")
    y = kl.Dense(4, name="between")(shared(x))
    y = kl.LSTM(6, name="lstm")(shared(y))
    model = keras.Model(x, kl.Dense(3, name="out")(y))
    small, traced, kept = halved(model)
    cut_weights = small.get_layer("lstm").get_weights()
    found = compensate(model, small, traced, kept, rng.normal(size=(64, 5, 4)))
    assert found.left == {"shared": "called 2 times", "lstm": "LSTM is not fitted"}
    assert all(
        np.array_equal(a, b) for a, b in zip(cut_weights, small.get_layer("lstm").get_weights(), strict=True)
    )
    tied = models.stacked((8,), 3, hidden_units=(6,), tied=True)
    small, traced, kept = halved(tied)
    found = compensate(tied, small, traced, kept, rng.normal(size=(64, 8)))
    assert set(found.left.values()) == {"shares a weight with another layer"}
    assert len(found.left) == 4


@pytest.mark.parametrize(("value", "note"), [(1e3, "put back: the model's error"), (np.nan, "not finite")])
def test_new_weights_that_make_the_model_worse_are_put_back(value, note, rng, monkeypatch):
    model = keras.Sequential([keras.Input((6,)), kl.Dense(8, "relu"), kl.Dense(2, name="out")])
    small, traced, kept = halved(model)
    before = small.get_weights()
    monkeypatch.setattr(regression, "fit_linear", lambda gram, cross, prior, ridge: np.full(prior.shape, value))
    found = compensate(model, small, traced, kept, rng.normal(size=(64, 6)))
    assert all(np.array_equal(a, b) for a, b in zip(before, small.get_weights(), strict=True))
    assert note in found.layers[-1].note and note in str(found)
    assert found.after == found.before


def test_single_zeros_stay_zero_and_the_others_still_get_better(rng):
    model = keras.Sequential([keras.Input((6,)), kl.Dense(12, "relu"), kl.Dense(4, name="out")])
    kernel = model.get_layer("out").kernel
    kernel.assign(np.where(rng.random(kernel.shape) < 0.4, 0, kernel.numpy()))
    x = rng.normal(size=(256, 6))
    small, traced, kept = halved(model)
    zeros = small.get_layer("out").kernel.numpy() == 0
    found = compensate(model, small, traced, kept, x)
    assert zeros.any() and (small.get_layer("out").kernel.numpy()[zeros] == 0).all()
    assert found.after < found.before
    loose, _, _ = halved(model)
    assert compensate(model, loose, traced, kept, x, keep_zeros=False).after < found.after


def test_what_does_not_fit_is_refused(rng):
    model = keras.Sequential([keras.Input((6,)), kl.Dense(8, "relu"), kl.Dense(2)])
    small, traced, kept = halved(model)
    with pytest.raises(InputError, match="ridge: got 0"):
        compensate(model, small, traced, kept, np.ones((9, 6)), ridge=0)
    with pytest.raises(InputError, match="traced: "):
        compensate(small, small, traced, kept, np.ones((9, 6)))
    with pytest.raises(InputError, match="samples of shape \\(5,\\)"):
        compensate(model, small, traced, kept, np.ones((9, 5)))
