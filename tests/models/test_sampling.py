"""The Sampling layer: its divergence by hand, its noise, its weight, and what it leaves at inference."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune._validation import InputError
from keras_aeprune.models.dense import dense
from keras_aeprune.models.sampling import Sampling, bounded, divergence, sampling_of

MEAN = np.array([[1.0, 0.0], [3.0, -2.0]], "float32")
LOG_VARIANCE = np.array([[0.0, np.log(4.0)], [np.log(0.25), 0.0]], "float32")
# (m^2 + v - 1 - log v) / 2 with v = 1, 4, 1/4, 1
BY_HAND = np.array([[0.5, (3 - np.log(4)) / 2], [(9 - 0.75 + np.log(4)) / 2, 2.0]])


def test_the_divergence_is_the_one_worked_by_hand():
    np.testing.assert_allclose(divergence(MEAN, LOG_VARIANCE), BY_HAND, rtol=1e-6)


def test_the_divergence_is_the_mean_log_ratio_of_the_two_densities():
    mean, deviation = 0.7, 0.4
    z = np.random.default_rng(0).normal(mean, deviation, 400_000)
    ratio = -np.log(deviation) - ((z - mean) / deviation) ** 2 / 2 + z**2 / 2
    kl = divergence(np.float32(mean), np.float32(2 * np.log(deviation)))
    assert abs(float(kl) - ratio.mean()) < 5 * ratio.std() / np.sqrt(z.size)


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_weighted_mean_over_the_batch_in_training_and_in_evaluation(training):
    layer = Sampling(3.0, features=4)
    layer([MEAN, LOG_VARIANCE], training=training)
    np.testing.assert_allclose(layer.losses, [3 / 4 * BY_HAND.sum() / 2], rtol=1e-6)
    np.testing.assert_allclose(layer.divergence, BY_HAND.sum() / 2, rtol=1e-6)


def test_free_nats_are_a_floor_for_each_axis_of_the_mean_over_the_batch():
    axes = BY_HAND.mean(axis=0)
    assert axes[1] < 2 < axes[0]
    layer = Sampling(free_nats=2.0)
    layer([MEAN, LOG_VARIANCE])
    np.testing.assert_allclose(layer.losses, [axes[0] + 2.0], rtol=1e-6)
    np.testing.assert_allclose(layer.divergence, axes.sum(), rtol=1e-6)


def test_the_code_is_the_mean_outside_of_training():
    np.testing.assert_array_equal(Sampling()([MEAN, LOG_VARIANCE]), MEAN)


def test_codes_in_training_have_the_mean_and_the_variance():
    mean, log_variance = np.full((200_000, 1), 2.0, "float32"), np.full((200_000, 1), np.log(9.0), "float32")
    z = np.asarray(Sampling(seed=1)([mean, log_variance], training=True))
    assert abs(z.mean() - 2) < 5 * 3 / np.sqrt(len(z))
    assert abs(z.var() - 9) < 0.2


def test_noise_follows_the_seed_and_changes_from_call_to_call():
    def draws():
        layer = Sampling(seed=3)
        return [np.asarray(layer([MEAN, LOG_VARIANCE], training=True)) for _ in range(2)]

    first, second = draws(), draws()
    np.testing.assert_array_equal(first, second)
    assert (first[0] != first[1]).all()


def test_extreme_log_variances_stay_finite_and_are_pulled_back():
    values = tf.Variable([[-1e4, 1e4]])
    layer = Sampling()
    with tf.GradientTape() as tape:
        z = layer([tf.zeros((1, 2)), values], training=True)
        (loss,) = layer.losses
    assert np.isfinite(z).all() and np.isfinite(loss)
    low, high = tape.gradient(loss, values).numpy()[0]
    assert low < 0 < high  # a step against the gradient goes back towards 0
    np.testing.assert_array_equal(bounded(tf.constant([-30.0, 7.0, 30.0])), [-20, 7, 20])


def test_nothing_random_and_nothing_assigned_is_left_in_an_inference_trace():
    layer = Sampling()

    def ops(training):
        call = tf.function(lambda m, v: layer([m, v], training=training))
        graph = call.get_concrete_function(MEAN, LOG_VARIANCE).graph.as_graph_def()
        nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
        return {node.op for node in nodes}

    def stateful(names):
        return {name for name in names if "Random" in name or "Rng" in name or name.startswith("Assign")}

    assert stateful(ops(True))
    assert not stateful(ops(False))


def test_the_weight_can_be_set_and_is_exact_and_saved(tmp_path):
    mean, log_variance = keras.Input((2,)), keras.Input((2,))
    model = keras.Model([mean, log_variance], Sampling(0.1, seed=5, free_nats=0.5)([mean, log_variance]))
    layer = sampling_of(model)
    assert layer.weight == 0.1
    layer.weight = 0.7
    assert layer.weight == 0.7
    model.save(tmp_path / "m.keras")
    loaded = sampling_of(keras.saving.load_model(tmp_path / "m.keras"))
    assert loaded.weight == 0.7
    assert loaded.get_config() == layer.get_config()
    assert layer.get_config()["weight"] == 0.1  # what the constructor was given
    assert layer.trainable_weights == []


def test_half_precision_computes_the_divergence_in_float32():
    layer = Sampling(1e-5, dtype="mixed_float16")
    mean = np.full((1, 1), 300.0, "float32")  # its square is beyond float16
    z = layer([mean, np.zeros((1, 1), "float32")], training=True)
    assert z.dtype == tf.float16
    np.testing.assert_allclose(layer.losses, [1e-5 * 300**2 / 2], rtol=1e-5)
    assert layer.weight == 1e-5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weight": -1.0}, "weight: got -1.0"),
        ({"weight": float("nan")}, "weight: got nan"),
        ({"weight": True}, "weight: got True"),
        ({"weight": "1"}, "weight: got '1'"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 1.5}, "seed: got 1.5"),
        ({"features": 0}, "features: got 0"),
        ({"free_nats": -0.1}, "free_nats: got -0.1"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        Sampling(**arguments)


def test_a_bad_weight_is_refused_later_too():
    layer = Sampling(0.5)
    with pytest.raises(InputError, match="weight: got -2"):
        layer.weight = -2
    assert layer.weight == 0.5


@pytest.mark.parametrize(
    "inputs", [np.zeros((2, 3)), [np.zeros((2, 3))], [np.zeros((2, 3)), np.zeros((2, 4))], [np.zeros((2, 3))] * 3]
)
def test_inputs_that_are_no_pair_are_refused(inputs):
    with pytest.raises(InputError, match="allowed: \\[mean, log_variance\\]"):
        Sampling()(inputs)


def test_a_model_without_the_layer_is_refused():
    with pytest.raises(InputError, match="'autoencoder' has no Sampling layer"):
        sampling_of(dense((8,), 2))
