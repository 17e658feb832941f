import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.per_example import PerExample, squared_gradients
from keras_aeprune.models.variational import variational


def evidence(model, x, y=None, loss="mse"):
    return Evidence(model, tuple(weights(model)), Calibration(x, y), loss)


def random_evidence(model, shape, n=5):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(n, *shape)).astype("float32")
    y = draw.normal(size=model(x).shape).astype("float32")
    return evidence(model, x, y)


def one_by_one(seen):
    """Squares of the gradients of single samples, each from a pass of its own."""
    variables = [weight.variable.value for weight in seen.weights]
    sums = [0.0] * len(variables)
    for x, y in seen.data.batches(1):
        with tf.GradientTape() as tape:
            tape.watch(variables)
            loss = tf.reduce_mean(tf.square(seen.model(x, training=False) - y)) + sum(seen.model.losses)
        found = tape.gradient(loss, variables, unconnected_gradients="zero")
        found = [tf.convert_to_tensor(g).numpy().astype("float64") for g in found]
        sums = [s + np.square(g) for s, g in zip(sums, found, strict=True)]
    return [s / len(seen.data) for s in sums]


def assert_equal_to_one_by_one(seen, looped=(), batch_size=3):
    gradients = PerExample(seen, batch_size=batch_size)
    for found, expected in zip(gradients.squares(), one_by_one(seen), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())
    assert [path.split("/")[-2] for path in gradients.looped] == list(looped)


STACKS = {
    "dense": ((4,), [kl.Dense(5, "relu"), kl.Dense(2, "tanh")]),
    "dense with positions": ((3, 4), [kl.Dense(5, "relu"), kl.Dense(2)]),
    "conv2d": (
        (9, 8, 2),
        [
            kl.Conv2D(3, 3, strides=2, padding="same", activation="relu"),
            kl.Conv2D(2, 2, dilation_rate=2),
            kl.Flatten(),
            kl.Dense(2),
        ],
    ),
    "conv1d": ((11, 2), [kl.Conv1D(3, 3, padding="causal", dilation_rate=2), kl.Conv1D(4, 4, 3, "same")]),
    "conv3d": ((5, 6, 4, 2), [kl.Conv3D(3, 2, padding="same"), kl.Conv3D(2, 3, strides=2)]),
    "groups": ((5, 6, 4), [kl.Conv2D(6, 3, groups=2, padding="same")]),
    "conv2d transposed": (
        (4, 5, 2),
        [kl.Conv2DTranspose(3, 3, 2, "same", activation="tanh"), kl.Conv2DTranspose(2, 2, 3)],
    ),
    "conv1d transposed": (
        (4, 2),
        [kl.Conv1DTranspose(3, 5, 2, "same", output_padding=1), kl.Conv1DTranspose(2, 2, 3)],
    ),
    "conv3d transposed": ((3, 2, 2, 2), [kl.Conv3DTranspose(3, 3, strides=2, padding="same")]),
    "depthwise": ((7, 6, 3), [kl.DepthwiseConv2D(3, 2, "same", depth_multiplier=2), kl.DepthwiseConv2D(2)]),
    "batch normalization": ((4,), [kl.Dense(5), kl.BatchNormalization(), kl.ReLU(), kl.Dropout(0.5), kl.Dense(2)]),
}


@pytest.mark.parametrize("name", STACKS)
def test_squares_equal_those_of_single_passes(name):
    shape, layers = STACKS[name]
    model = keras.Sequential([keras.Input(shape), *(type(la).from_config(la.get_config()) for la in layers)])
    assert_equal_to_one_by_one(random_evidence(model, shape))


def test_the_worked_example():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(2, "relu"), kl.Dense(1)])
    model.set_weights([np.array(a) for a in ([[1, -1], [2, 0.5]], [0, 1], [[1], [-2]], [0.5])])
    x, y = np.array([[1, 2], [-1, 1]], "float32"), np.array([[1], [0]], "float32")
    first, second = squared_gradients(evidence(model, x, y, lambda t, p: 0.5 * (p - t) ** 2))
    np.testing.assert_allclose(first, [[9.25, 37], [18.625, 74.5]], rtol=1e-6)
    np.testing.assert_allclose(second.ravel(), [84.25, 41.40625], rtol=1e-6)


def test_a_shared_layer_sums_its_calls_before_squaring():
    shared = kl.Dense(3, "relu")
    a = keras.Input((3,))
    model = keras.Model(a, kl.Dense(1)(shared(shared(a))))
    assert_equal_to_one_by_one(random_evidence(model, (3,)))


class Own(keras.Model):
    """Subclassed: an own matrix, and a layer whose rows are positions of samples."""

    def __init__(self):
        super().__init__()
        self.mix = kl.Dense(3, "tanh", name="mix")
        self.out = kl.Dense(2)

    def call(self, x):
        h = self.mix(tf.reshape(x, (-1, 2)))
        return self.out(tf.reshape(h, (-1, 12)))


def test_rows_that_are_not_samples_are_noticed():
    model = Own()
    model(np.zeros((2, 4, 2), "float32"))
    assert_equal_to_one_by_one(random_evidence(model, (4, 2)), looped=["mix"])


class Tied(kl.Layer):
    """The transposed kernel of another layer."""

    def __init__(self, other):
        super().__init__()
        self.other = [other]  # in a list that Keras does not look into

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.other[0].kernel))


def test_a_kernel_that_is_also_used_elsewhere_is_noticed():
    encoder = kl.Dense(2, "relu", name="encoder")
    a = keras.Input((4,))
    model = keras.Model(a, Tied(encoder)(encoder(a)))
    assert_equal_to_one_by_one(random_evidence(model, (4,)), looped=["encoder"])


RECURRENT = {
    "lstm, last state": [kl.LSTM(3), kl.Dense(2)],
    "gru, backwards": [kl.GRU(3, return_sequences=True, go_backwards=True), kl.Flatten(), kl.Dense(2)],
    "gru, reset before": [kl.GRU(3, reset_after=False, unroll=True)],
    "both ways": [kl.Bidirectional(kl.SimpleRNN(2, return_sequences=True, unroll=True)), kl.Dense(1)],
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_are_exact_in_one_pass(name):
    model = keras.Sequential([keras.Input((4, 2)), *RECURRENT[name]])
    assert_equal_to_one_by_one(random_evidence(model, (4, 2)))


def test_embeddings_and_separable_layers_are_exact():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            kl.Embedding(4, 2, name="embedding"),
            kl.SeparableConv1D(2, 2, name="separable_conv1d"),
            kl.Flatten(),
            kl.Dense(1),
        ]
    )
    x = np.array([[0, 1, 1, 2, 0, 0], [3, 0, 2, 1, 1, 1]], "float32")
    seen = evidence(model, x, np.array([[1.0], [2.0]], "float32"))
    assert_equal_to_one_by_one(seen, looped=["embedding", "separable_conv1d", "separable_conv1d"])


def test_the_plain_loop_takes_over_where_nothing_vectorises(monkeypatch):
    def refuse(*arguments):
        raise ValueError("no converter")

    monkeypatch.setattr(tf, "vectorized_map", refuse)
    model = keras.Sequential(
        [keras.Input((3, 2)), kl.EinsumDense("abc,cd->abd", (3, 4), name="einsum_dense"), kl.Dense(2)]
    )
    assert_equal_to_one_by_one(random_evidence(model, (3, 2)), looped=["einsum_dense"])


def test_nested_frozen_and_variational_models_are_exact_and_left_as_they_were():
    model = variational((6,), 2, hidden_units=(4,))
    model.compile("adam", "mse")
    model.encoder.layers[1].trainable = False
    x = np.random.default_rng(0).random((5, 6), "float32")
    state = {id(layer): dict(vars(layer)) for layer in model._flatten_layers()}
    before = [v.numpy() for v in model.variables]
    assert_equal_to_one_by_one(evidence(model, x))
    for layer in model._flatten_layers():
        assert "call" not in vars(layer)
        assert vars(layer).get("activation") is state[id(layer)].get("activation")
    for old, v in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, v.numpy())


def test_an_error_leaves_no_trace():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(1, "relu")])

    def broken(y, outputs):
        raise RuntimeError("broken")

    seen = evidence(model, np.ones((2, 2), "float32"))
    with pytest.raises(RuntimeError, match="broken"):
        squared_gradients(seen, objective=broken)
    layer = model.layers[0]
    assert "call" not in vars(layer) and layer.activation is keras.activations.relu
    assert isinstance(layer.kernel, keras.Variable)


def test_the_batch_size_does_not_matter_and_a_short_last_batch_counts_in_full():
    model = keras.Sequential([keras.Input((3, 4)), kl.Conv1D(2, 2), kl.Flatten(), kl.Dense(2)])
    seen = random_evidence(model, (3, 4), n=7)
    whole = squared_gradients(seen, batch_size=7)
    for size in (1, 2, 5):
        for a, b in zip(whole, squared_gradients(seen, batch_size=size), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_single_gradients_come_complete_and_in_order():
    model = keras.Sequential([keras.Input((3,)), kl.Dense(2, "tanh"), kl.Dense(1)])
    seen = random_evidence(model, (3,), n=5)
    parts = {0: [], 1: []}
    for index, part in PerExample(seen, batch_size=2).gradients():
        parts[index].append(part)
    for index, expected in enumerate(one_by_one(seen)):
        found = np.concatenate(parts[index])
        assert found.shape == (5, *expected.shape)
        np.testing.assert_allclose(np.square(found).mean(axis=0), expected, rtol=1e-4, atol=1e-7)


def test_without_data_nothing_can_be_measured():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(1)])
    with pytest.raises(InputError, match="data: got None, allowed: calibration samples"):
        PerExample(Evidence(model, tuple(weights(model)), None, "mse"))


def test_an_objective_has_one_value_a_sample():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(1)])
    seen = evidence(model, np.ones((2, 2), "float32"))
    with pytest.raises(InputError, match=r"objective: got a tensor of shape \(\)"):
        squared_gradients(seen, objective=lambda y, outputs: tf.reduce_sum(outputs))
