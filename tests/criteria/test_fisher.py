import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria.base import Evidence, get, serialize
from keras_aeprune.criteria.fisher import Fisher, PredictionSensitivity

X, Y = np.array([[1, 2], [-1, 1]], "float32"), np.array([[1], [0]], "float32")


def evidence(model, x, y=None, loss=None):
    return Evidence(model, tuple(weights(model)), Calibration(x, y), loss)


def half_square(y, outputs):
    return 0.5 * (outputs - y) ** 2


@pytest.fixture(scope="module")
def worked():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(2, "relu", name="a"), kl.Dense(1, name="b")])
    model.set_weights([np.array(a) for a in ([[1, -1], [2, 0.5]], [0, 1], [[1], [-2]], [0.5])])
    return evidence(model, X, Y, half_square)


def test_fisher_is_half_the_square_of_the_weight_times_the_curvature(worked):
    np.testing.assert_allclose(Fisher().measure(worked)[0], [[4.625, 18.5], [37.25, 9.3125]], rtol=1e-6)
    np.testing.assert_allclose(Fisher("curvature").measure(worked)[1].ravel(), [84.25, 41.40625], rtol=1e-6)


def test_units_have_the_score_of_theis(worked):
    found = Fisher().measure_units(worked)
    np.testing.assert_allclose(found["a"], np.array([84.25, 165.625]) / 2, rtol=1e-6)
    assert found["b"].shape == (1,)


def test_units_sum_over_positions_before_squaring():
    model = keras.Sequential(
        [keras.Input((4, 2)), kl.Conv1D(3, 2, activation="relu", name="c"), kl.Flatten(), kl.Dense(1)]
    )
    draw = np.random.default_rng(0)
    seen = evidence(
        model, draw.normal(size=(5, 4, 2)).astype("float32"), draw.normal(size=(5, 1)).astype("float32"), "mse"
    )
    expected = 0
    for x, y in seen.data.batches(1):
        with tf.GradientTape() as tape:
            a = model.layers[0](x)
            tape.watch(a)
            loss = tf.reduce_mean((model.layers[2](model.layers[1](a)) - y) ** 2)
        expected += np.sum(a.numpy() * tape.gradient(loss, a).numpy(), axis=(0, 1)) ** 2 / (2 * 5)
    np.testing.assert_allclose(Fisher().measure_units(seen)["c"], expected, rtol=1e-4)


def test_units_of_a_recurrent_layer_are_those_it_returns():
    model = keras.Sequential([keras.Input((3, 2)), kl.SimpleRNN(4, name="r"), kl.Dense(1)])
    seen = evidence(model, np.ones((2, 3, 2), "float32"), np.ones((2, 1), "float32"), "mse")
    assert [found.shape for found in Fisher().measure_units(seen).values()] == [(4,), (1,)]


def test_sensitivity_of_a_sigmoid_counts_both_classes_by_hand():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(1, "sigmoid", use_bias=False)])
    model.set_weights([np.array([[0.0], [0.0]])])  # p = 1/2, dp/dw = x / 4, both classes: 2 x^2 / 16
    for loss in ("binary_crossentropy", keras.losses.BinaryCrossentropy()):
        found = PredictionSensitivity().measure(evidence(model, X, Y, loss))[0]
        np.testing.assert_allclose(found.ravel(), [2 * 2 / 16, 2 * 5 / 16], rtol=1e-6)


def test_sensitivity_of_a_softmax_is_that_of_the_sigmoid_of_the_difference():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(2, "softmax", use_bias=False)])
    model.set_weights([np.array([[np.log(3.0), 0.0]])])  # x = 1: P = 3/4, 1/4; dP/dw = +-3/16 for both classes
    found = PredictionSensitivity().measure(evidence(model, np.ones((1, 1), "float32")))[0]
    np.testing.assert_allclose(found, [[2 * (3 / 16) ** 2] * 2], rtol=1e-5)


def slow_sensitivity(seen, outputs_of, scale):
    variables = [weight.variable.value for weight in seen.weights]
    sums = [0.0] * len(variables)
    for x, _ in seen.data.batches(1):
        for j in range(len(scale)):
            with tf.GradientTape() as tape:
                value = tf.reshape(outputs_of(seen.model(x)), [-1])[j] * scale[j]
            sums = [s + g.numpy() ** 2 for s, g in zip(sums, tape.gradient(value, variables), strict=True)]
    return sums


def test_sensitivity_of_a_convolutional_classifier_equals_the_slow_loop_for_logits():
    model = keras.Sequential(
        [keras.Input((5, 5, 1)), kl.Conv2D(2, 3, activation="relu"), kl.Flatten(), kl.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(4, 5, 5, 1)).astype("float32")
    seen = evidence(model, x, np.zeros(4, int), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for found, expected in zip(
        PredictionSensitivity().measure(seen), slow_sensitivity(seen, tf.nn.softmax, [1] * 3), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_sensitivity_of_a_reconstruction_weighs_outputs_by_their_residuals():
    model = keras.Sequential([keras.Input((3,)), kl.Dense(2, "tanh"), kl.Dense(3)])
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    seen = evidence(model, x, loss="mse")
    variance = np.mean((model(x).numpy() - x) ** 2, axis=0)
    expected = slow_sensitivity(seen, lambda y: y, 1 / np.sqrt(variance))
    for found, slow in zip(PredictionSensitivity(floor=1e-6).measure(seen), expected, strict=True):
        np.testing.assert_allclose(found, slow, rtol=1e-4, atol=1e-6 * slow.max())


def test_random_signs_come_near_the_exact_sum():
    model = keras.Sequential([keras.Input((3,)), kl.Dense(2, "tanh"), kl.Dense(4)])
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    seen = evidence(model, x, np.zeros((64, 4), "float32"), "mse")
    exact, estimate = (PredictionSensitivity(probes=p).measure(seen) for p in (None, 40))
    for a, b in zip(exact, estimate, strict=True):
        np.testing.assert_allclose(b, a, rtol=0.15)


def test_a_component_without_residual_has_the_floor_for_its_scale():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(2, use_bias=False)])
    model.set_weights([np.array([[1.0, 1.0]])])  # residuals 2 and 0; mean square 2
    seen = evidence(model, np.ones((1, 1), "float32"), np.array([[3.0, 1.0]], "float32"), "mse")
    np.testing.assert_allclose(PredictionSensitivity(floor=0.1).measure(seen)[0], [[1 / 4, 1 / 0.2]], rtol=1e-5)


def test_logits_that_were_taken_for_probabilities_are_refused():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(2)])
    model.set_weights([np.array([[5.0, -5.0]]), np.zeros(2)])
    seen = evidence(model, np.ones((1, 1), "float32"), np.zeros(1, int), "sparse_categorical_crossentropy")
    with pytest.raises(InputError, match="no probabilities, allowed: .*from_logits=True"):
        PredictionSensitivity().measure(seen)


@pytest.mark.parametrize("name", ["fisher", "prediction_sensitivity"])
def test_the_config_makes_an_equal_criterion(name):
    member = get(name)
    assert get(serialize(member)).get_config() == member.get_config() == type(member)().get_config()


def test_arguments_are_checked():
    with pytest.raises(InputError, match="form: got 'obd', allowed: saliency, curvature"):
        Fisher("obd")
    with pytest.raises(InputError, match="floor: got 0"):
        PredictionSensitivity(floor=0)
    with pytest.raises(InputError, match="probes: got 0"):
        PredictionSensitivity(probes=0)
