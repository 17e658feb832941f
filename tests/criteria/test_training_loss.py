"""The loss that training has, example by example: against Keras' own added losses, one example at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._layers import weights
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria import PredictionSensitivity, base
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.gradients import gradients
from keras_aeprune.criteria.per_example import PerExample
from keras_aeprune.criteria.training_loss import training_losses
from keras_aeprune.models import variational
from keras_aeprune.models.sampling import Sampling

WITH_GRADIENTS = ("snip", "gradient_magnitude", "taylor", "grasp", "fisher", "woodfisher")


def shown(n=6, **options):
    keras.utils.set_random_seed(3)
    model = variational((5,), 2, hidden_units=(4,), **options)
    x = np.random.default_rng(4).random((n, 5), "float32")
    return Evidence(model, tuple(weights(model)), Calibration(x), "mse")


def tape_of(seen, x):
    """Gradients of what Keras adds up in training for a batch, but with the mean of the posterior as the code."""
    variables = [weight.variable.value for weight in seen.weights]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        loss = tf.reduce_mean(tf.square(seen.model(x, training=False) - x)) + sum(seen.model.losses)
    return [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, variables, unconnected_gradients="zero")]


def log_variance_of(seen, found):
    [array] = [a for w, a in zip(seen.weights, found, strict=True) if "log_variance" in w.path]
    return array


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_single_gradients_are_those_of_reconstruction_and_divergence(beta):
    seen = shown(beta=beta)
    expected = [tape_of(seen, seen.data.x[i : i + 1]) for i in range(len(seen.data))]
    parts = {index: [] for index in range(len(seen.weights))}
    for index, part in PerExample(seen, batch_size=4).gradients():
        parts[index].append(part)
    for index, found in parts.items():
        one_by_one = np.stack([single[index] for single in expected])
        np.testing.assert_allclose(np.concatenate(found), one_by_one, rtol=1e-4, atol=1e-7)
    assert np.abs(log_variance_of(seen, expected[0])).max() > 1e-3


@pytest.mark.parametrize("free_nats", [0.0, 0.5])
@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_the_mean_gradient_is_that_of_all_data_in_one_batch_also_with_free_nats(free_nats, batch_size):
    seen = shown(free_nats=free_nats)
    code = seen.model.encoder.get_layer("code")
    mean, log_variance = map(np.asarray, keras.Model(seen.model.encoder.input, code.input)(seen.data.x))
    axes = np.mean(mean**2 + np.exp(log_variance) - 1 - log_variance, axis=0) / 2
    assert free_nats == 0 or axes.min() < free_nats < axes.max()  # one axis is free, the other is not
    for found, expected in zip(
        gradients(seen, batch_size=batch_size), tape_of(seen, tf.constant(seen.data.x)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_the_mean_of_the_losses_is_what_evaluate_shows():
    seen = shown(free_nats=0.5, beta=2.0)
    seen.model.compile("sgd", "mse")
    expected = seen.model.evaluate(seen.data.x, seen.data.x, batch_size=6, verbose=0, return_dict=True)["loss"]
    found = training_losses(seen)(tf.constant(seen.data.x), tf.constant(seen.data.x))
    assert found.shape == (6,)
    np.testing.assert_allclose(np.mean(found), expected, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_the_log_variance_has_scores_that_follow_its_weights(name):
    seen = shown()
    scores = log_variance_of(seen, base.get(name).measure(seen))
    assert np.count_nonzero(scores) > scores.size / 2
    assert scores.std() > 0


def test_no_prediction_depends_on_the_log_variance():
    seen = shown()
    scores = PredictionSensitivity().measure(seen)
    assert not log_variance_of(seen, scores).any()
    assert all(array.any() for w, array in zip(seen.weights, scores, strict=True) if "log_var" not in w.path)


def test_a_new_weight_of_the_divergence_counts_at_once():
    seen = shown()
    each = PerExample(seen)
    before = log_variance_of(seen, each.squares())
    seen.model.beta = 2.0
    np.testing.assert_allclose(log_variance_of(seen, each.squares()), 4 * before, rtol=1e-5)


def test_a_sampling_layer_that_is_called_twice_on_several_rows_a_sample_counts_each():
    inputs = keras.Input((2, 3))
    keras.utils.set_random_seed(0)
    mean, log_variance, code = kl.Dense(2, name="mean"), kl.Dense(2, name="log_variance"), Sampling(1.5)
    flat = keras.ops.reshape(inputs, (-1, 3))
    first = code([mean(flat), log_variance(flat)])
    second = code([mean(inputs[:, 0]), log_variance(inputs[:, 1])])
    model = keras.Model(inputs, keras.ops.reshape(first, (-1, 2, 2))[:, 0] + second)
    x = np.random.default_rng(1).normal(size=(4, 2, 3)).astype("float32")
    seen = Evidence(model, tuple(weights(model)), Calibration(x, x[:, 0, :2]), "mse")
    losses = training_losses(seen)(tf.constant(x), tf.constant(x[:, 0, :2]))
    for i, loss in enumerate(losses):
        one = x[i : i + 1]
        alone = tf.reduce_mean(tf.square(model(one, training=False) - one[:, 0, :2])) + sum(model.losses)
        np.testing.assert_allclose(loss, alone, rtol=1e-5)
