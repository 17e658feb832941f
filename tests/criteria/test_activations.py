"""Activation criteria against hand-worked numbers and slow NumPy."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import models
from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria.activations import ActivationMean, ActivationVariance, APoZ, Wanda
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.entropy import ActivationEntropy

UNIT_CRITERIA = [ActivationMean(), APoZ(0.1), ActivationVariance(), ActivationEntropy()]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def evidence(model, x):
    return Evidence(model, tuple(w for w in weights(model) if w.kernel), Calibration(np.asarray(x, "float32")))


def relu_layer():
    """x = [[1, 2], [-1, 1]] gives z = [[5, 1], [1, 2.5]]; a third unit is always off."""
    model = keras.Sequential([keras.Input((2,)), kl.Dense(3, activation="relu", name="a")])
    model.set_weights([np.array([[1, -1, 0], [2, 0.5, 0]]), np.array([0, 1, -1])])
    return evidence(model, [[1, 2], [-1, 1]])


@pytest.mark.parametrize(
    ("criterion", "by_hand"),
    [
        (ActivationMean(), [3.0, 1.75, 0.0]),
        (APoZ(), [1.0, 1.0, 0.0]),
        (APoZ(threshold=1.0), [0.5, 0.5, 0.0]),
        (ActivationVariance(), [4.0, 0.5625, 0.0]),
    ],
)
def test_units_are_scored_by_hand(criterion, by_hand):
    seen = relu_layer()
    np.testing.assert_allclose(criterion.measure_units(seen)["a"], by_hand, rtol=1e-6)
    (scores,) = criterion.measure(seen)
    np.testing.assert_allclose(scores, [by_hand, by_hand], rtol=1e-6)


def test_wanda_is_worked_by_hand():
    (scores,) = Wanda().measure(relu_layer())  # norms sqrt(2) and sqrt(5)
    by_hand = np.sqrt([[2.0], [5.0]]) * np.array([[1, 1, 0], [2, 0.5, 0]])
    np.testing.assert_allclose(scores, by_hand, rtol=1e-6)


def test_the_variance_of_a_far_off_unit_is_exact_over_batches():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(2, name="a")])
    model.set_weights([np.array([[1.0, 0.0]]), np.array([1000.0, 1000.1])])
    x = noise(700, 1)
    got = ActivationVariance().measure_units(evidence(model, x))["a"]
    np.testing.assert_allclose(got[0], np.var((x + np.float32(1000)).astype("float64")), rtol=1e-6)
    assert got[1] == 0


def slow_wanda(x, kernel):
    """Each weight by itself: |w| times the root of its channel's summed squares."""
    scores = np.zeros_like(kernel)
    for index in np.ndindex(kernel.shape):
        scores[index] = abs(kernel[index]) * np.sqrt(sum(float(v) ** 2 for v in x[..., index[2]].ravel()))
    return scores


def test_wanda_takes_a_convolutions_input_channels_over_all_positions():
    layer, x = kl.Conv2D(4, 2, name="a"), noise(3, 4, 4, 2)
    model = keras.Sequential([keras.Input((4, 4, 2)), layer])
    (scores,) = Wanda().measure(evidence(model, x))
    np.testing.assert_allclose(scores, slow_wanda(x, layer.kernel.numpy()), rtol=1e-5)


def norms(x):
    return np.sqrt(np.square(x, dtype="float64").reshape(-1, x.shape[-1]).sum(axis=0))


def test_wanda_knows_the_input_axis_of_other_convolutions():
    x = noise(3, 5, 5, 4)
    n = norms(x)
    depthwise, transposed, grouped = kl.DepthwiseConv2D(3), kl.Conv2DTranspose(3, 2), kl.Conv2D(6, 3, groups=2)
    for layer in (depthwise, transposed, grouped):
        (scores,) = Wanda().measure(evidence(keras.Sequential([keras.Input((5, 5, 4)), layer]), x))
        w = np.abs(layer.kernel.numpy())
        if layer is depthwise:
            by_hand = w * n[:, None]
        elif layer is transposed:
            by_hand = w * n
        else:  # filters 0..2 read channels 0 and 1, filters 3..5 channels 2 and 3
            by_hand = np.concatenate([w[..., :3] * n[:2, None], w[..., 3:] * n[2:, None]], axis=-1)
        np.testing.assert_allclose(scores, by_hand, rtol=1e-5)


def test_wanda_reads_inputs_and_hidden_states_of_an_lstm():
    layer, x = kl.LSTM(3, return_sequences=True), noise(4, 5, 2)
    model = keras.Sequential([keras.Input((5, 2)), layer])
    kernel, recurrent = Wanda().measure(evidence(model, x))
    np.testing.assert_allclose(kernel, np.abs(layer.cell.kernel) * norms(x)[:, None], rtol=1e-5)
    states = model(x).numpy()[:, :-1]
    by_hand = np.abs(layer.cell.recurrent_kernel) * norms(states)[:, None]
    np.testing.assert_allclose(recurrent, by_hand, rtol=1e-4)


def test_wanda_counts_how_often_a_row_of_an_embedding_is_looked_up():
    layer = kl.Embedding(4, 2)
    model = keras.Sequential([keras.Input((3,)), layer])
    (scores,) = Wanda().measure(evidence(model, [[0, 1, 1], [1, 1, 3]]))
    by_hand = np.abs(layer.embeddings.numpy()) * np.array([[1], [2], [0], [1]])
    np.testing.assert_allclose(scores, by_hand, rtol=1e-6)


def test_wanda_ranks_a_kernel_of_unknown_axes_by_magnitude():
    layer, x = kl.EinsumDense("ab,bc->ac", 3), noise(4, 2)
    (scores,) = Wanda().measure(evidence(keras.Sequential([keras.Input((2,)), layer]), x))
    mean = np.sqrt(np.mean(norms(x) ** 2))
    np.testing.assert_allclose(scores, np.abs(layer.kernel.numpy()) * mean, rtol=1e-5)


def test_all_gates_of_a_recurrent_unit_get_its_score():
    layer, x = kl.LSTM(3, return_sequences=True, name="l"), noise(4, 5, 2)
    model = keras.Sequential([keras.Input((5, 2)), layer])
    seen = evidence(model, x)
    mean = np.abs(model(x)).mean(axis=(0, 1))
    kernel, recurrent = ActivationMean().measure(seen)
    np.testing.assert_allclose(kernel, np.tile(mean, (2, 4)), rtol=1e-4)
    np.testing.assert_allclose(recurrent, np.tile(mean, (3, 4)), rtol=1e-4)
    (units,) = ActivationMean().measure_units(seen).values()
    np.testing.assert_allclose(units, mean, rtol=1e-4)


def test_outputs_of_depthwise_and_transposed_kernels_find_their_weights():
    x = noise(3, 5, 5, 4)
    depthwise = kl.DepthwiseConv2D(3, depth_multiplier=2, name="d")
    model = keras.Sequential([keras.Input((5, 5, 4)), depthwise])
    seen = evidence(model, x)
    mean = np.abs(model(x)).mean(axis=(0, 1, 2))
    (scores,) = ActivationMean().measure(seen)
    np.testing.assert_allclose(scores, np.broadcast_to(mean.reshape(4, 2), (3, 3, 4, 2)), rtol=1e-5)
    folded = mean.reshape(4, 2).mean(axis=1)
    np.testing.assert_allclose(ActivationMean().measure_units(seen)["d"], folded, rtol=1e-5)
    transposed = keras.Sequential([keras.Input((5, 5, 4)), kl.Conv2DTranspose(3, 2)])
    (scores,) = ActivationMean().measure(evidence(transposed, x))
    mean = np.abs(transposed(x)).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(scores, np.broadcast_to(mean[:, None], (2, 2, 3, 4)), rtol=1e-5)


def test_weights_without_a_known_unit_axis_get_the_layers_mean():
    model, x = keras.Sequential([keras.Input((2,)), kl.EinsumDense("ab,bc->ac", 3)]), noise(4, 2)
    seen = evidence(model, x)
    (scores,) = ActivationMean().measure(seen)
    np.testing.assert_allclose(scores, np.full((2, 3), np.abs(model(x)).mean()), rtol=1e-5)
    assert ActivationMean().measure_units(seen) == {}


MODELS = {
    "dense": lambda: (models.dense((8,), 2, hidden_units=(4,)), noise(9, 8)),
    "convolutional": lambda: (models.convolutional((8, 8, 1), 4, filters=(3, 2)), noise(6, 8, 8, 1)),
    "recurrent": lambda: (models.recurrent((5, 2), 3), noise(6, 5, 2)),
    "variational": lambda: (models.variational((8,), 2, hidden_units=(4,)), noise(9, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_scores_have_the_kernels_shapes_and_are_finite(name):
    model, x = MODELS[name]()
    seen = evidence(model, x)
    for criterion in (APoZ(), Wanda()):
        scores = criterion.measure(seen)
        for array, weight in zip(scores, seen.weights, strict=True):
            assert array.shape == tuple(weight.variable.shape)
            assert array.dtype == np.float32 and np.isfinite(array).all()


@pytest.mark.parametrize("criterion", [*UNIT_CRITERIA, Wanda()], ids=repr)
def test_configs_come_back_and_data_are_needed(criterion):
    assert type(criterion)(**criterion.get_config()).get_config() == criterion.get_config()
    assert criterion.needs_data
    with pytest.raises(InputError, match="data: got none"):
        criterion.measure(Evidence(relu_layer().model, relu_layer().weights))


@pytest.mark.parametrize("threshold", [-1, float("nan"), float("inf"), "0", True, None])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(InputError, match="threshold: got .* allowed: a number >= 0"):
        APoZ(threshold)


def test_apoz_finds_the_dead_units_of_a_trained_digit_reader(real_data):
    x = np.load(real_data / "data" / "mnist.npz")
    x = next(x[name] for name in x.files if x[name].ndim >= 3)[:64]
    model = keras.Sequential([keras.Input((28, 28)), kl.Flatten(), kl.Dense(8, activation="relu", name="a")])
    kernel, bias = model.layers[1].get_weights()
    bias[3] = -1e6
    model.layers[1].set_weights([kernel, bias])
    units = APoZ().measure_units(evidence(model, np.squeeze(x).reshape(-1, 28, 28) / 255))["a"]
    assert units[3] == 0 and np.delete(units, 3).max() > 0
