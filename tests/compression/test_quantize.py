"""Training under int8 roundings: the roundings are the converter's, the zeros stay, the error falls."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.compression.fake_quant import (
    FakeQuantized,
    quantized_layers,
    round_activations,
    round_weights,
)
from keras_aeprune.compression.quantize import quantization_aware, rounded_loss


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def sequential(*layers, shape=(6,), loss="mse"):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input(shape), *layers])
    model.compile("sgd", loss)
    return model


def convolutional():
    """Nested, with every kind of kernel, BatchNormalization, joins and an activation layer."""
    keras.utils.set_random_seed(4)
    pixels = keras.Input((8, 8, 1), name="pixels")
    h = kl.Conv2D(4, 3, padding="same", use_bias=False, name="first")(pixels)
    h = kl.ReLU(name="relu")(kl.BatchNormalization(name="norm")(h))
    side = kl.DepthwiseConv2D(3, padding="same", name="depthwise")(h)
    h = kl.Add(name="add")([h, side])
    h = kl.SeparableConv2D(6, 3, strides=2, padding="same", activation="relu", name="separable")(h)
    encoder = keras.Model(pixels, kl.Dense(5, name="code")(kl.Flatten(name="flat")(h)), name="encoder")
    code = keras.Input((5,), name="code_in")
    h = kl.Reshape((4, 4, 2), name="reshape")(kl.Dense(32, "relu", name="dense")(code))
    h = kl.LeakyReLU(name="leaky")(kl.Conv2DTranspose(3, 3, strides=2, padding="same", name="transposed")(h))
    decoder = keras.Model(
        code, kl.Conv2D(1, 3, padding="same", activation="sigmoid", name="out")(h), name="decoder"
    )
    x = keras.Input((8, 8, 1), name="x")
    model = keras.Model(x, decoder(encoder(x)), name="ae")
    model.compile("adam", "mse")
    return model


def slow_rounding(x, low, high):
    """The 256 levels written out, and the nearest of them for each value."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    levels = (np.arange(256) - round(-low / step)) * step
    return levels[np.abs(np.asarray(x)[..., None] - levels).argmin(-1)]


def test_weights_are_rounded_to_127_levels_of_their_own_unit():
    kernel = np.random.default_rng(0).normal(size=(9, 4)) * [1, 10, 100, 0]
    kernel[2] = 0
    got = round_weights(tf.constant(kernel), -1).numpy()
    for unit in range(3):
        step = np.abs(kernel[:, unit]).max() / 127
        assert np.abs(got[:, unit] / step - np.round(got[:, unit] / step)).max() < 1e-6
        assert np.abs(got[:, unit] - kernel[:, unit]).max() <= step / 2 * (1 + 1e-6)
    assert not got[2].any() and not got[:, 3].any()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 1e-3)])
def test_activations_go_to_the_nearest_of_256_levels_with_zero_among_them(low, high):
    x = np.concatenate([np.linspace(2 * min(low, 0) - 0.1, 2 * max(high, 0) + 0.1, 501), [0.0]]).astype("float32")
    got = round_activations(x, low, high).numpy()
    step = (max(high, 0) - min(low, 0)) / 255
    assert np.abs(got - slow_rounding(x, low, high)).max() < step * 1.001  # of two equally near ones either
    assert np.mean(np.abs(got - slow_rounding(x, low, high)) < 1e-3 * step) > 0.98
    assert got[-1] == 0 and len(np.unique(got)) <= 256


def test_gradients_pass_the_rounding_inside_of_the_range_only():
    x = tf.Variable([-2.0, -0.5, 0.3, 0.9, 2.0])
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(round_activations(x, -1.0, 1.0))
    assert tape.gradient(y, x).numpy().tolist() == [0, 1, 1, 1, 0]
    kernel = tf.Variable([[0.3, -0.7], [1.0, 0.2]])
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(round_weights(kernel, -1) * [[1.0, 2.0], [3.0, 4.0]])
    assert tape.gradient(y, kernel).numpy().tolist() == [[1, 2], [3, 4]]


def test_a_dense_layer_under_rounding_is_what_hand_computation_gives():
    model = sequential(kl.Dense(3, name="a"), kl.Dense(2, "sigmoid", name="b"))
    x = uniform(50, 6) - 0.3
    (wa, ba), (wb, bb) = (layer.get_weights() for layer in model.layers)
    h = x @ wa + ba
    z = h @ wb + bb  # ranges are those of the float model

    def channels(w):
        step = np.abs(w).max(0) / 127
        return np.round(w / step) * step

    def near(v, like):
        return slow_rounding(v, like.min(), like.max())

    expected = near(near(x, x) @ channels(wa) + ba, h)
    expected = 1 / (1 + np.exp(-near(expected @ channels(wb) + bb, z)))
    expected = np.clip(np.round(expected * 256), 0, 255) / 256  # LiteRT's own levels for a sigmoid
    fake = FakeQuantized(model)
    fake.observe(x)
    before = model.predict(x, verbose=0)
    with fake.rounded():
        got = model(x).numpy()
    off = np.abs(got - expected)
    assert off.max() < 1.01 / 256 and (off < 1e-6).mean() > 0.9  # half-way values may go either way
    assert np.array_equal(model.predict(x, verbose=0), before)


def test_every_layer_is_listed_with_what_is_rounded():
    how = {layer.path: layer.how for layer in quantized_layers(convolutional())}
    assert how["encoder/first"] == "weights"  # one operation with norm and relu
    assert how["encoder/norm"] == "nothing" and how["encoder/relu"] == "outputs"
    both = ("encoder/depthwise", "encoder/separable", "encoder/code", "decoder/dense", "decoder/transposed")
    assert {how[path] for path in (*both, "decoder/out")} == {"weights and outputs"}
    assert how["encoder/add"] == how["decoder/leaky"] == "outputs"
    assert how["encoder/flat"] == how["decoder/reshape"] == "nothing"


def test_roundings_cost_a_little_and_float_layers_cost_nothing():
    model, x = convolutional(), uniform(40, 8, 8, 1)
    paths = tuple(layer.path for layer in quantized_layers(model))
    whole = rounded_loss(model, x)
    plain = float(np.mean((model.predict(x, verbose=0) - x) ** 2))
    assert whole != pytest.approx(plain, rel=1e-7) and whole == pytest.approx(plain, rel=0.05)
    fake = FakeQuantized(model, paths)
    fake.observe(x)
    with fake.rounded():  # only the input is rounded now
        got = model(x).numpy()
    assert np.abs(got - model.predict(slow_rounding(x, 0, x.max()).astype("float32"), verbose=0)).max() < 1e-4


def test_fine_tuning_gives_a_plain_model_and_leaves_the_given_one():
    model, x = convolutional(), uniform(64, 8, 8, 1)
    before, statistics = model.get_weights(), model.get_layer("encoder").get_layer("norm").moving_variance.numpy()
    tuned = quantization_aware(model, x, epochs=2, learning_rate=1e-3, progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert [layer.name for layer in tuned.layers] == [layer.name for layer in model.layers]
    assert [type(layer) for layer in tuned._flatten_layers()] == [type(layer) for layer in model._flatten_layers()]
    assert not any("call" in vars(layer) for layer in [*tuned._flatten_layers(), *model._flatten_layers()])
    assert np.array_equal(tuned.get_layer("encoder").get_layer("norm").moving_variance.numpy(), statistics)
    assert rounded_loss(tuned, x) < rounded_loss(model, x)
    outputs = tuned.predict(x, verbose=0)
    assert tuned.evaluate(x, x, verbose=0) == pytest.approx(np.mean((outputs - x) ** 2), rel=1e-4)  # not rounded


def test_zeros_stay_and_may_train_again_afterwards():
    model = sequential(kl.Dense(8, "relu", name="a"), kl.Dense(6, name="b"))
    kernel = model.get_layer("a").kernel
    mask = np.random.default_rng(1).random(kernel.shape) < 0.5
    kernel.assign(kernel.numpy() * mask)
    tuned = quantization_aware(model, uniform(128, 6), epochs=2, learning_rate=1e-2, progress=False)
    after = tuned.get_layer("a").kernel.numpy()
    assert not after[~mask].any() and not np.array_equal(after, kernel.numpy())
    assert tuned.get_layer("a").kernel.constraint is None


def test_it_takes_back_what_rounding_costs_more_than_training_alone_does():
    """Units of the code whose ranges are 64 times apart share one scale: the small ones get few levels."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3000, 4)).astype("float32")  # many steps in few epochs take less time
    x = hidden @ rng.normal(size=(4, 12)).astype("float32") / 2
    base, _, _ = np.linalg.svd(x.T, full_matrices=False)
    scales = np.array([1, 2, 8, 64], "float32")
    model = sequential(kl.Dense(4, name="code"), kl.Dense(12, name="out"), shape=(12,))
    model.set_weights([base[:, :4] * scales, np.zeros(4), (base[:, :4] / scales).T, np.zeros(12)])
    before = rounded_loss(model, x)  # the float model makes no error, so training alone cannot help
    tuned = quantization_aware(model, x, epochs=6, learning_rate=1e-2, progress=False)
    assert rounded_loss(tuned, x) < before / 2


def test_a_classifier_learns_from_labels_with_its_compiled_loss():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 1000)
    x = (np.eye(3)[y] + rng.normal(size=(1000, 3)) / 4).astype("float32")
    model = sequential(kl.Dense(3, "softmax"), shape=(3,), loss="sparse_categorical_crossentropy")
    tuned = quantization_aware(model, (x, y), epochs=2, learning_rate=0.1, progress=False)
    assert (tuned.predict(x, verbose=0).argmax(1) == y).mean() > 0.9
    assert rounded_loss(tuned, (x, y)) < rounded_loss(model, (x, y))


def test_layers_that_cannot_be_rounded_are_named():
    model = sequential(kl.LayerNormalization(name="norm"), kl.Dense(2, name="out"), shape=(4,))
    data = (uniform(16, 4), uniform(16, 2))
    with pytest.raises(InputError, match=r"norm \(LayerNormalization\)"):
        quantization_aware(model, data, on_unsupported="raise", progress=False)
    with pytest.warns(UserWarning, match=r"trained in float.*norm \(LayerNormalization\)"):
        quantization_aware(model, data, epochs=1, progress=False)


def test_the_same_seed_gives_the_same_weights():
    model, x = sequential(kl.Dense(6)), uniform(100, 6)
    first, again = (quantization_aware(model, x, epochs=2, progress=False, seed=5).get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: got 0"),
        ({"learning_rate": -1}, "learning_rate: got -1"),
        ({"on_unsupported": "ignore"}, "on_unsupported"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        quantization_aware(sequential(kl.Dense(6)), uniform(8, 6), progress=False, **change)


def test_models_that_cannot_be_rounded_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own()
    own(np.zeros((1, 2), "float32"))
    with pytest.raises(InputError, match="order is not known"):
        quantized_layers(own)
    with pytest.raises(InputError, match="call observe"), FakeQuantized(sequential(kl.Dense(2))).rounded():
        pass
    with pytest.raises(InputError, match="keep_float: got nobody"):
        FakeQuantized(sequential(kl.Dense(2)), ("nobody",))
