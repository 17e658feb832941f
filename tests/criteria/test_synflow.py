import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.synflow import SynFlow
from keras_aeprune.models import variational


def synflow(model, biases=True, data=None):
    found = tuple(w for w in weights(model) if w.kernel is not None)
    scores = SynFlow(biases).measure(Evidence(model, found, data))
    for weight, score in zip(found, scores, strict=True):
        assert score.shape == tuple(weight.variable.shape)
        assert score.dtype == np.float32
        assert np.isfinite(score).all()
    return scores


def worked(activation="relu", output=None):
    """The net of the hand-worked values: W1 [[1, -1], [2, .5]], b1 [0, 1], W2 [1, -2], b2 .5."""
    model = keras.Sequential([keras.Input((2,)), kl.Dense(2, activation), kl.Dense(1, output)])
    model.set_weights([np.array(v) for v in ([[1, -1], [2, 0.5]], [0, 1], [[1], [-2]], [0.5])])
    return model


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "softmax", "selu", "relu6"])
def test_without_biases_each_layer_adds_up_to_the_flow(activation):
    # |W1| gives hidden values 1 + 2 = 3 and 1 + .5 = 1.5, |W2| then R = 3 + 2 * 1.5 = 6
    first, second = synflow(worked(activation, output=activation), biases=False)
    np.testing.assert_allclose(first, [[1, 2], [2, 1]], rtol=1e-6)
    np.testing.assert_allclose(second, [[3], [3]], rtol=1e-6)


def test_with_biases_the_second_hidden_value_is_larger():
    # hidden values 3 and 1.5 + 1, so R = 3 + 2 * 2.5 + .5 = 8.5
    first, second = synflow(worked())
    np.testing.assert_allclose(first, [[1, 2], [2, 1]], rtol=1e-6)
    np.testing.assert_allclose(second, [[3], [5]], rtol=1e-6)


def residual():
    x = keras.Input((6, 6, 2))
    h = kl.Conv2D(3, 3, padding="same", activation="relu")(x)
    h = kl.BatchNormalization()(kl.Conv2D(3, 3, padding="same")(h)) + h
    h = kl.Conv2DTranspose(2, 2, strides=2)(kl.MaxPooling2D()(kl.DepthwiseConv2D(3, padding="same")(h)))
    return keras.Model(x, kl.Dense(2, "softmax")(kl.SeparableConv2D(4, 3)(h)))


class Twice(keras.Model):
    """One layer used twice, in a subclassed model."""

    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(4, "relu")

    def call(self, x):
        return self.dense(self.dense(x))


def nested():
    encoder = keras.Sequential([keras.Input((5,)), kl.Dense(3, "sigmoid")], name="encoder")
    decoder = keras.Sequential([keras.Input((3,)), kl.Dense(5, "sigmoid")], name="decoder")
    return keras.Sequential([keras.Input((5,)), encoder, decoder])


def subclassed():
    model = Twice()
    model(np.zeros((2, 4), "float32"))
    return model


def recurrent(kind=kl.LSTM):
    return keras.Sequential([keras.Input((3, 2)), kl.Bidirectional(kind(2, return_sequences=True)), kind(2)])


def tokens():
    return keras.Sequential([keras.Input((3,), dtype="int32"), kl.Embedding(5, 2), kl.Flatten(), kl.Dense(1)])


MODELS = [
    nested,
    residual,
    subclassed,
    recurrent,
    lambda: recurrent(kl.GRU),
    lambda: recurrent(kl.SimpleRNN),
    tokens,
]


@pytest.mark.parametrize("make", MODELS)
def test_every_weight_carries_flow_and_the_model_stays_as_it_was(make):
    keras.utils.set_random_seed(1)
    model = make()
    before = [v.numpy() for v in model.variables]
    attributes = [dict(vars(layer)) for layer in model._flatten_layers()]
    dtypes = [tensor.dtype for tensor in getattr(model, "inputs", None) or ()]
    for scores in synflow(model):
        assert (scores > 0).mean() > 0.99
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    for old, layer in zip(attributes, model._flatten_layers(), strict=True):
        assert vars(layer) == old
    assert [tensor.dtype for tensor in getattr(model, "inputs", None) or ()] == dtypes


def positive_flow(model, kernels, x):
    """R as Keras itself computes it, with absolute weights put into a copy."""
    twin = keras.models.clone_model(model)
    twin.set_weights(kernels)
    return float(np.sum(twin(x)))


def test_scores_of_a_residual_convolution_follow_the_definition():
    x = keras.Input((4, 4, 1))
    h = kl.Conv2D(2, 3, padding="same", activation="relu")(x)
    h = kl.BatchNormalization()(kl.Conv2D(2, 3, padding="same")(h)) + h
    model = keras.Model(x, kl.Conv2DTranspose(1, 2, strides=2)(h))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    norm = next(layer for layer in model.layers if isinstance(layer, kl.BatchNormalization))
    norm.moving_mean.assign([-0.3, -0.5])  # subtracted, so these shift upwards
    norm.moving_variance.assign([0.5, 2.0])
    absolute = [np.abs(w.numpy()) if w is not norm.moving_mean else w.numpy() for w in model.weights]
    ones = np.ones((1, 4, 4, 1), "float32")
    found = dict(
        zip((w.path for w in weights(model)), zip(weights(model), synflow(model), strict=True), strict=True)
    )
    last = next(path for path in found if "transpose" in path)  # behind the shifts, so it feels them
    for path, indices in ((next(iter(found)), [(0, 0, 0, 0), (1, 1, 0, 1)]), (last, [(0, 0, 0, 0), (1, 0, 0, 1)])):
        weight, scores = found[path]
        kernel = [id(w) for w in model.weights].index(id(weight.variable))
        for index in indices:
            without = [w.copy() for w in absolute]
            without[kernel][index] = 0  # R is linear in a single weight: w dR/dw = R - R without it
            expected = positive_flow(model, absolute, ones) - positive_flow(model, without, ones)
            np.testing.assert_allclose(scores[index], expected, rtol=1e-4)


def test_signs_make_no_difference():
    model = nested()
    first = synflow(model)
    model.set_weights([-w for w in model.get_weights()])
    for a, b in zip(first, synflow(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_deep_net_does_not_overflow():
    model = keras.Sequential([keras.Input((20,)), *(kl.Dense(20, use_bias=False) for _ in range(60))])
    model.set_weights([np.full((20, 20), 5.0 if n else -5.0) for n in range(60)])  # R about 100 ** 60
    for scores in synflow(model):
        np.testing.assert_allclose(scores, 1.0, rtol=1e-6)
    halves = keras.Sequential([keras.Input((20,)), model])  # the nested entrance is float32 by itself
    np.testing.assert_allclose(synflow(keras.Sequential([keras.Input((20,)), halves, model]))[0], 1.0, rtol=1e-6)


def test_a_log_variance_that_nothing_reads_gets_zeros():
    model = variational((4,), 2, hidden_units=(3,))
    found = {w.path: s for w, s in zip(weights(model), synflow(model), strict=True)}
    assert not found["encoder/log_variance/kernel"].any()
    assert found["encoder/mean/kernel"].all()


def test_data_is_needed_for_its_shape_only_where_sizes_are_open():
    model = keras.Sequential([keras.Input((None, 2)), kl.SimpleRNN(3)])
    with pytest.raises(
        InputError, match=r"inputs of shape \[\(None, None, 2\)\], allowed: known sizes; give data=x"
    ):
        synflow(model)
    a, b = (synflow(model, data=Calibration(x)) for x in (np.zeros((7, 4, 2)), np.ones((1, 4, 2))))
    np.testing.assert_array_equal(a[0], b[0])
    assert not SynFlow().needs_data


def test_the_embedding_passes_on_all_its_rows():
    model = tokens()
    assert synflow(model)[0].all()
