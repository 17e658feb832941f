"""The smaller model and the masked one: by hand, through files, in half precision, with masks, and fast."""

import time

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune.shrinking.cutting import UnitMask, cut, masked, sliced
from keras_aeprune.shrinking.tracing import trace
from keras_aeprune.shrinking.units import Part
from keras_aeprune.sparsity.callbacks import Prune


def randomized(model, rng):
    for variable in model.weights:
        x = rng.normal(size=variable.shape)
        variable.assign(abs(x) + 0.5 if "variance" in variable.path else x)
    return model


def group(traced, name):
    return next(group for group in traced.groups if group.name == name)


def without(traced, **units):
    """Which units stay when those at these places of named groups go."""
    return traced.kept(np.concatenate([group(traced, name).classes[places] for name, places in units.items()]))


def test_masked_dense_chain_is_the_one_of_numpy_with_the_unit_zero_at_its_consumer():
    rng = np.random.default_rng(0)
    layers = [
        kl.Dense(5, "sigmoid", name="a"),
        kl.BatchNormalization(),
        kl.Dense(4, "tanh", name="b"),
        kl.Dense(2),
    ]
    model = randomized(keras.Sequential([keras.Input((3,)), *layers]), rng)
    traced = trace(model)
    kept = without(traced, a=[1, 3], b=[0])
    x = rng.normal(size=(7, 3)).astype("float32")
    w = [np.array(v, "float64") for v in model.weights]
    h = 1 / (1 + np.exp(-(x @ w[0] + w[1])))
    h = (h - w[4]) / np.sqrt(w[5] + layers[1].epsilon) * w[2] + w[3]
    h[:, [1, 3]] = 0  # not before: sigmoid and BatchNormalization make something of zero
    h = np.tanh(h @ w[6] + w[7])
    h[:, 0] = 0
    expected = h @ w[8] + w[9]
    for made in (masked(traced, kept), cut(traced, kept)):
        np.testing.assert_allclose(np.asarray(made(x)), expected, atol=1e-5)


def test_masked_convolution_chain_is_the_one_of_numpy():
    rng = np.random.default_rng(1)
    layers = [kl.Conv1D(4, 3, activation="sigmoid", name="a"), kl.ZeroPadding1D(1), kl.Conv1D(3, 2, name="b")]
    model = randomized(keras.Sequential([keras.Input((6, 2)), *layers, kl.Flatten(), kl.Dense(2)]), rng)
    traced = trace(model)
    kept = without(traced, a=[2], b=[1])
    x = rng.normal(size=(5, 6, 2)).astype("float32")
    w = [np.array(v, "float64") for v in model.weights]

    def slide(values, kernel, bias):
        steps = range(values.shape[1] - len(kernel) + 1)
        windows = (values[:, step : step + len(kernel)] for step in steps)
        return np.stack([np.einsum("nki,kio->no", window, kernel) for window in windows], 1) + bias

    h = 1 / (1 + np.exp(-slide(x, w[0], w[1])))
    h[..., 2] = 0
    h = slide(np.pad(h, ((0, 0), (1, 1), (0, 0))), w[2], w[3])
    h[..., 1] = 0
    expected = h.reshape(5, -1) @ w[4] + w[5]
    for made in (masked(traced, kept), cut(traced, kept)):
        np.testing.assert_allclose(np.asarray(made(x)), expected, atol=1e-5)


def test_masked_simple_rnn_is_the_one_of_numpy_with_the_unit_zero_in_every_step():
    rng = np.random.default_rng(2)
    model = randomized(keras.Sequential([keras.Input((4, 2)), kl.SimpleRNN(5, name="a"), kl.Dense(2)]), rng)
    traced = trace(model)
    x = rng.normal(size=(3, 4, 2)).astype("float32")
    w = [np.array(v, "float64") for v in model.weights]
    h = np.zeros((3, 5))
    for step in range(4):
        h = np.tanh(x[:, step] @ w[0] + h @ w[1] + w[2])
        h[:, [0, 4]] = 0
    expected = h @ w[3] + w[4]
    kept = without(traced, a=[0, 4])
    for made in (masked(traced, kept), cut(traced, kept)):
        np.testing.assert_allclose(np.asarray(made(x)), expected, atol=1e-5)


def test_nothing_removed_is_the_given_model():
    rng = np.random.default_rng(3)
    x = keras.Input((5, 4))
    h = kl.LSTM(6, return_sequences=True)(x)
    h = kl.MultiHeadAttention(2, 3)(h, h)
    model = randomized(keras.Model(x, kl.Dense(2)(kl.Bidirectional(kl.GRU(3))(h) * 2.0)), rng)
    traced = trace(model)
    value = rng.normal(size=(3, 5, 4)).astype("float32")
    for make in (cut, masked):
        new = make(traced, traced.kept([]))
        np.testing.assert_allclose(np.asarray(new(value)), np.asarray(model(value)), rtol=1e-6, atol=1e-6)
        assert not any(isinstance(layer, UnitMask) for layer in new.layers)
        assert new.count_params() == model.count_params()


def test_one_unit_of_each_group_is_enough(law):
    layers = [kl.Conv2D(6, 3), kl.BatchNormalization(), kl.Flatten(), kl.Dense(8), kl.Dense(1)]
    proof = law(keras.Sequential([keras.Input((6, 6, 2)), *layers]), fraction=0.99)
    assert [v.shape for v in proof.small.weights][:2] == [(3, 3, 2, 1), (1,)]


def test_it_is_the_weights_of_the_kept_units_in_their_order():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(4, name="a"), kl.Dense(1, name="b")])
    kernel, bias = np.arange(8.0).reshape(2, 4), np.arange(4.0)
    model.get_layer("a").set_weights([kernel, bias])
    model.get_layer("b").set_weights([bias[:, None], np.zeros(1)])
    traced = trace(model)
    small = cut(traced, without(traced, a=[2, 0]))
    np.testing.assert_array_equal(np.array(small.get_layer("a").kernel), [[1, 3], [5, 7]])
    np.testing.assert_array_equal(np.array(small.get_layer("a").bias), [1, 3])
    np.testing.assert_array_equal(np.array(small.get_layer("b").kernel), [[1], [3]])


def test_sliced_takes_along_every_axis_with_units():
    part = Part(None, (np.array([0, 1]), None, np.array([2, 2, 1])))
    values = np.arange(12).reshape(2, 2, 3)
    found = sliced(part, np.array([True, False, True]), values)
    np.testing.assert_array_equal(found, values[:1, :, :2])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_agrees_within_its_rounding(law, policy):
    # one rounding to 11 (8) bits of each activation, in sums of another order
    tolerance = {"mixed_float16": 4e-3, "mixed_bfloat16": 3e-2}[policy]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        x = keras.Input((8, 8, 2))
        h = kl.BatchNormalization()(kl.Conv2D(6, 3, activation="relu", name="k")(x))
        h = kl.Dense(8, name="d", dtype="float32")(kl.Flatten()(h))
        model = keras.Model(x, kl.Dense(3, dtype="float32")(h))
        proof = law(model, tolerance=tolerance)
        masks = [layer for layer in proof.mask.layers if isinstance(layer, UnitMask)]
        assert [str(layer.compute_dtype) for layer in masks] == [policy.removeprefix("mixed_"), "float32"]
    finally:
        keras.config.set_dtype_policy(before)
    kinds = [[layer.dtype_policy.name for layer in m.layers] for m in (model, proof.small)]
    assert kinds[0] == kinds[1]


def test_a_pruned_model_is_cut_with_its_zeros(law):
    x = np.random.default_rng(0).random((64, 12)).astype("float32")
    model = keras.Sequential(
        [keras.Input((12,)), kl.Dense(16, "relu", name="a"), kl.Dense(8, name="b"), kl.Dense(12)]
    )
    model.compile("adam", "mse")
    model.fit(x, x, batch_size=16, epochs=4, verbose=0, callbacks=[Prune(0.75)])
    zeros = np.array(model.get_layer("a").kernel) == 0
    assert zeros.mean() >= 0.7
    proof = law(model, random_weights=False, x=x)
    kept = proof.kept[proof.traced.members[id(model.get_layer("a"))].outputs[0]]
    np.testing.assert_array_equal(np.array(proof.small.get_layer("a").kernel) == 0, zeros[:, kept])
    assert proof.small.compiled
    proof.small.fit(x, x, verbose=0)


def test_gradients_of_both_agree_so_training_goes_on_alike():
    rng = np.random.default_rng(4)
    model = randomized(keras.Sequential([keras.Input((3,)), kl.Dense(6, "tanh", name="a"), kl.Dense(2)]), rng)
    model.compile("sgd", "mse")
    traced = trace(model)
    kept = without(traced, a=[0, 5])
    small, mask = cut(traced, kept), masked(traced, kept)
    x, y = rng.normal(size=(16, 3)).astype("float32"), rng.normal(size=(16, 2)).astype("float32")
    for made in (small, mask):
        made.fit(x, y, epochs=3, shuffle=False, verbose=0)
    np.testing.assert_allclose(small.predict(x, verbose=0), mask.predict(x, verbose=0), atol=1e-4)


def test_a_large_dense_model_is_cut_in_no_time():
    width = 1800
    layers = [kl.Dense(width, "relu", name=f"d{number}") for number in range(4)]
    model = keras.Sequential([keras.Input((64,)), *layers, kl.Dense(64)])
    assert model.count_params() > 9.9e6
    start = time.process_time()
    traced = trace(model)
    removed = np.concatenate([g.classes[::2] for g in traced.groups if not g.reason])
    small = cut(traced, traced.kept(removed))
    assert time.process_time() - start < 10  # about one on a quiet machine
    assert [layer.units for layer in small.layers] == [width // 2] * 4 + [64]
