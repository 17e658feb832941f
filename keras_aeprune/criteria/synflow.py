"""SynFlow: which weights carry the flow through the network, without any data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._validation import InputError, one_of
from keras_aeprune.criteria.base import Criterion, Evidence, register
from keras_aeprune.criteria.losses import parts, unchanged

__all__ = ["SynFlow"]

# Layers that take no part in the linear network: activations, and scalings by anything but weights.
_PASSED_BY = (
    kl.ReLU,
    kl.LeakyReLU,
    kl.ELU,
    kl.PReLU,
    kl.Softmax,
    kl.Normalization,
    kl.Rescaling,
    kl.LayerNormalization,
    kl.GroupNormalization,
    kl.RMSNormalization,
    kl.UnitNormalization,
)


@register("synflow")
class SynFlow(Criterion):
    """|w dR/dw| in the network of absolute values: no data, no loss, and no layer that is emptied first.

    Use it before training or without data. The scores of one layer depend on how much is left in the others, so
    prune in many small steps; `Prune` with a schedule measures anew at each.

        s = |w * dR/dw|,    R = sum of the outputs for an input of ones, every parameter by its absolute value

    Without biases the scores of each layer on a path add up to the same R, so one threshold for all layers
    never empties a layer that the others still use. Tanaka et al., "Pruning neural networks without any data by
    iteratively conserving synaptic flow", 2020, https://arxiv.org/abs/2006.05467.

    R is taken of a linear network, which networks with ReLU are once all values are positive. Other activation
    functions are left out for it (`activation=` of any layer, activation layers): a saturated sigmoid or softmax
    would let nothing through. The gates of LSTM and GRU become x / (1 + x), which stays between 0 and 1 and
    never saturates wholly. BatchNormalization scales by |gamma| / sqrt(variance + epsilon) and shifts by
    |beta| and |moving mean|; other normalizations and rescalings are passed by, and an Embedding gives the sum
    of its rows. Functions that a model calls itself stay as they are.

    Everything is computed in float64 (float32 where a layer casts to that by itself). Scores that float32
    cannot hold are divided by the largest.

    Args:
        biases: True keeps biases, beta and moving means by absolute value, as the paper's code does; False sets
            them to zero, as in its formula.

    Example:
        >>> from keras_aeprune._layers import weights
        >>> model = keras.Sequential([keras.Input((2,)), kl.Dense(1, use_bias=False), kl.Dense(2, use_bias=False)])
        >>> model.set_weights([np.array([[1.0], [-2.0]]), np.array([[3.0, -4.0]])])
        >>> [scores.tolist() for scores in SynFlow().measure(Evidence(model, tuple(weights(model))))]
        [[[7.0], [14.0]], [[9.0, 12.0]]]
    """

    needs = "gradients"

    def __init__(self, biases: bool = True):
        self.biases = bool(one_of("biases", biases, (True, False)))

    @property
    def needs_data(self) -> bool:
        return False

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        try:
            scores = self._flow(seen, "float64")
        except (TypeError, ValueError, tf.errors.InvalidArgumentError):
            scores = self._flow(seen, "float32")  # a layer casts to float32 by itself; other errors come again
        for weight, score in zip(seen.weights, scores, strict=True):
            if not np.isfinite(score).all():
                raise InputError(
                    f"{weight.path}: got a flow that is NaN or beyond float64, allowed: finite weights, and "
                    "fewer layers or steps; another criterion, such as 'magnitude', has no such limit"
                )
        largest = max((float(score.max()) for score in scores if score.size), default=0.0)
        scale = 1.0 if largest == 0 or 1e-20 < largest < 1e30 else largest
        return [(score / scale).astype(np.float32) for score in scores]

    def _flow(self, seen: Evidence, precision: str) -> list[np.ndarray]:
        state = _absolute(seen.model, self.biases, precision)
        kernels = [state[id(weight.variable)] for weight in seen.weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernels)
            with _linear(seen.model, state, precision):
                outputs = seen.model(_ones(seen, precision), training=False)
            flow = tf.add_n([tf.reduce_sum(tf.cast(one, precision)) for one in keras.tree.flatten(outputs)])
        slopes = tape.gradient(flow, kernels, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [np.abs((w * tf.convert_to_tensor(g)).numpy()) for w, g in zip(kernels, slopes, strict=True)]


def _absolute(model: keras.Model, biases: bool, precision: str) -> dict[int, tf.Tensor]:
    """{id of a variable: its absolute value}; moving means get a minus, since they are subtracted."""
    state = {
        id(variable): tf.abs(tf.cast(tf.convert_to_tensor(variable), precision))
        for variable in model.variables
        if keras.backend.is_float_dtype(variable.dtype)
    }
    for layer in parts(model):
        signs = {"bias": 1.0, "beta": 1.0, "moving_mean": -1.0}
        for name, sign in signs.items():
            variable = vars(layer).get(name)
            if id(variable) in state and (name == "bias" or isinstance(layer, kl.BatchNormalization)):
                state[id(variable)] = state[id(variable)] * (sign if biases else 0.0)
    return state


@contextmanager
def _linear(model: keras.Model, state: dict[int, tf.Tensor], precision: str) -> Iterator[None]:
    """The linear network of `SynFlow` in the place of the model; all is put back, after errors too."""
    # nested models cast what comes in to the dtype of their own entrance
    entrances = [tensor for part in parts(model) for tensor in getattr(part, "_inputs", None) or ()]
    entrances += [layer for part in parts(model) for layer in part._layers if isinstance(layer, kl.InputLayer)]
    floats = [entrance for entrance in entrances if keras.backend.is_float_dtype(entrance.dtype)]
    before = [entrance._dtype for entrance in floats]
    with unchanged(model), keras.StatelessScope(initialize_variables=False) as scope:
        scope.state_mapping.update(state)  # given as an argument, values are cast to float32
        try:
            for entrance in floats:
                entrance._dtype = precision
            for layer in parts(model):
                _linearize(layer, precision)
            yield
        finally:
            for entrance, dtype in zip(floats, before, strict=True):
                entrance._dtype = dtype


def _linearize(layer: kl.Layer, precision: str) -> None:
    own = vars(layer)
    own["_dtype_policy"] = keras.DTypePolicy(precision)
    if "activation" in own:
        own["activation"] = keras.activations.linear
    if "recurrent_activation" in own:
        own["recurrent_activation"] = lambda x: x / (1.0 + x)
    if "use_cudnn" in own:
        own["use_cudnn"] = False
    if isinstance(layer, _PASSED_BY):
        own["call"] = lambda inputs, *args, **kwargs: inputs
    if isinstance(layer, kl.Embedding):
        own["call"] = lambda inputs, *args, **kwargs: _all_rows(inputs, tf.convert_to_tensor(layer.embeddings))


def _all_rows(inputs: Any, embeddings: tf.Tensor) -> tf.Tensor:
    """What an Embedding gives where every row is looked up at once."""
    return tf.ones((*inputs.shape, 1), embeddings.dtype) * tf.reduce_sum(embeddings, axis=0)


def _ones(seen: Evidence, precision: str) -> Any:
    """One sample of ones for each input of the model."""
    model = seen.model
    if seen.data is not None:
        return keras.tree.map_structure(lambda x: tf.ones((1, *np.shape(x)[1:]), precision), seen.data.x)
    inputs = getattr(model, "inputs", None)
    if inputs:
        shapes = [tuple(tensor.shape) for tensor in inputs]
    else:
        known = getattr(model, "_build_shapes_dict", None) or {}
        shapes = [tuple(shape) for shape in known.values() if isinstance(shape, (list, tuple))]
        shapes = shapes if len(shapes) == 1 else []
    if not shapes or any(size is None for shape in shapes for size in shape[1:]):
        raise InputError(
            f"SynFlow: model {model.name!r} has inputs of shape {shapes or 'unknown'}, allowed: known sizes; give "
            "data=x, of which only the shape is used"
        )
    ones = [tf.ones((1, *shape[1:]), precision) for shape in shapes]
    return ones[0] if len(ones) == 1 else keras.tree.pack_sequence_as(model._inputs_struct, ones)
