"""Compute a Keras model with the roundings that LiteRT's full-integer files have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._graph import consumers, is_graph, operations, output_layers, producers
from keras_aeprune._layers import kernels_of, walk
from keras_aeprune._validation import InputError
from keras_aeprune.criteria.recording import attribute_replaced

__all__ = ["FakeQuantized", "QuantizedLayer", "quantized_layers", "round_activations", "round_weights"]

_LEVELS = 255
_KERNELED: tuple[type, ...] = (kl.Dense, kl.Conv1D, kl.Conv2D, kl.Conv1DTranspose, kl.Conv2DTranspose)
_KERNELED += (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
_SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)
_ACTIVATIONS = (kl.Activation, kl.ReLU, kl.LeakyReLU, kl.PReLU, kl.ELU, kl.Softmax)
_COMPUTED: tuple[type, ...] = (kl.Add, kl.Subtract, kl.Multiply, kl.Average, kl.Maximum, kl.Minimum)
_COMPUTED += (kl.AveragePooling1D, kl.AveragePooling2D, kl.GlobalAveragePooling1D, kl.GlobalAveragePooling2D)
_COMPUTED += (kl.Concatenate, kl.Rescaling)
# what hands values on as they are, so that the file keeps one scale before and after it
_PASSING: tuple[type, ...] = (kl.InputLayer, kl.Identity, kl.Flatten, kl.Reshape, kl.Permute, kl.RepeatVector)
_PASSING += (kl.MaxPooling1D, kl.MaxPooling2D, kl.GlobalMaxPooling1D, kl.GlobalMaxPooling2D)
_PASSING += (kl.UpSampling1D, kl.ZeroPadding1D, kl.ZeroPadding2D, kl.Cropping1D, kl.Cropping2D)
_PASSING += (kl.Dropout, kl.SpatialDropout1D, kl.SpatialDropout2D, kl.GaussianDropout, kl.GaussianNoise)
_PASSING += (kl.ActivityRegularization,)
_FUSED = ("linear", "relu", "relu6")  # computed inside the operation before it, which rounds once, after it
_FIXED = {"sigmoid": (0.0, 255 / 256), "softmax": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)}  # by LiteRT


def round_weights(kernel: Any, unit_axis: int) -> tf.Tensor:
    """A kernel rounded to int8 as the converter rounds it, with the gradient of the kernel as it was.

        s_u = max |w_u| / 127        w' = s_u * round(w / s_u)

    with one scale for every output unit u, for Dense kernels too (TensorFlow 2.21). Zeros stay zeros.

    Args:
        kernel: float32.
        unit_axis: axis of the output units.

    Example:
        >>> round_weights(tf.constant([[127.0, 1.0], [0.4, 0.0]]), -1).numpy().tolist()
        [[127.0, 1.0], [0.0, 0.0]]
    """
    kernel = tf.convert_to_tensor(kernel)
    axes = [i for i in range(len(kernel.shape)) if i != unit_axis % len(kernel.shape)]
    scale = tf.reduce_max(tf.abs(kernel), axis=axes, keepdims=True) / 127
    rounded = scale * tf.round(tf.math.divide_no_nan(kernel, scale))
    return kernel + tf.stop_gradient(rounded - kernel)


def round_activations(x: Any, low: Any, high: Any) -> tf.Tensor:
    """Activations rounded to the 256 levels of an int8 tensor; the gradient passes inside of the range.

    The range is widened to hold 0, and shifted by less than half a step so that 0 is one of the levels:

        s = (high - low) / 255       x' = s * round(clip(x, low, high) / s)

    Args:
        x: float32.
        low: smallest value of the range.
        high: largest value of the range; where it equals `low` at 0, x is returned as it is.

    Example:
        >>> round_activations(tf.constant([0.4, 0.6, 99.0]), 0.0, 255.0).numpy().tolist()
        [0.0, 1.0, 99.0]
    """
    x = tf.convert_to_tensor(x)
    low, high = tf.minimum(tf.cast(low, tf.float32), 0.0), tf.maximum(tf.cast(high, tf.float32), 0.0)
    scale = (high - low) / _LEVELS
    zero = tf.round(tf.math.divide_no_nan(-low, scale))  # level of the number 0, counted from the lowest
    level = tf.clip_by_value(tf.math.divide_no_nan(x, scale), -zero, _LEVELS - zero)
    clipped = level * scale
    rounded = clipped + tf.stop_gradient(tf.round(level) * scale - clipped)
    return tf.where(scale > 0, rounded, x)


@dataclass(frozen=True)
class QuantizedLayer:
    """How one layer is computed under fake quantization.

    Args:
        path: of the layer through nested models.
        kind: its class.
        how: "weights and outputs", "weights" (its outputs are rounded behind the BatchNormalization or ReLU
            after it), "outputs", "nothing" (rounded behind what follows it, or values only pass through), or
            "float": LiteRT rounds inside of it and this package does not know how.
    """

    path: str
    kind: str
    how: str

    def to_dict(self) -> dict[str, str]:
        """Plain JSON values."""
        return {"path": self.path, "kind": self.kind, "how": self.how}


def quantized_layers(model: keras.Model) -> list[QuantizedLayer]:
    """Every layer of a built model, and what of it is rounded in `quantization_aware` training.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), kl.Dense(3, name="a"), kl.LayerNormalization(name="b")])
        >>> [(layer.path, layer.how) for layer in quantized_layers(model)]
        [('a', 'weights and outputs'), ('b', 'float')]
    """
    return FakeQuantized(model).layers


class FakeQuantized:
    """A model whose calls can be rounded for a while, with the ranges of its activations.

    Only `call` of its layers is replaced, on the objects, while `rounded()` or `observe` run; weights, graph and
    classes stay as they are. A layer that is called several times has one range for all its calls.

    Args:
        model: a built functional or Sequential Keras model with one input.
        keep_float: paths of layers that are not rounded.

    Raises:
        InputError: for another model, or a path that it does not have.
    """

    def __init__(self, model: keras.Model, keep_float: tuple[str, ...] = ()):
        if not is_graph(model) or not model.built:
            raise InputError(
                f"model {model.name!r}: got a {type(model).__name__} whose layers' order is not known, allowed: a "
                "built functional or Sequential model"
            )
        self.model = model
        self.layers: list[QuantizedLayer] = []
        self._ranges: dict[tuple[int, str], Any] = {}
        self._observed: dict[tuple[int, str], tuple[Any, Any]] | None = None
        self._places: list[tuple[int, str]] = []
        self._watch = self._watcher()
        leaves = _leaves(model)
        unknown = sorted(set(keep_float) - {path for path, _ in leaves})
        if unknown:
            raise InputError(f"keep_float: got {', '.join(unknown)}, allowed: {', '.join(p for p, _ in leaves)}")
        absorbed = _absorbed(model)
        self._calls: list[tuple[Any, Callable[..., Any]]] = [(model, self._entrance(model))]
        for path, layer in leaves:
            make, how = self._kind(layer, id(layer) in absorbed)
            if path in keep_float:
                make, how = None, "float"
            self.layers.append(QuantizedLayer(path, type(layer).__name__, how))
            if make is not None:
                self._calls.append((layer, make))

    @property
    def left_float(self) -> list[QuantizedLayer]:
        """The layers that are not rounded although LiteRT does."""
        return [layer for layer in self.layers if layer.how == "float"]

    @contextmanager
    def rounded(self) -> Iterator[None]:
        """The model computes with roundings inside of this block; what is traced in it keeps them.

        Raises:
            InputError: before `observe` has measured the ranges.
        """
        if not self._ranges:
            raise InputError("FakeQuantized: got no ranges of the activations, allowed: call observe(x) first")
        with self._patched():
            yield

    def observe(self, x: np.ndarray, *, batch_size: int = 256) -> None:
        """Set the ranges to the smallest and largest activations of the float model on x, as the converter does.

        Args:
            x: inputs, shape (n, ...), n >= 1.
            batch_size: samples at once, >= 1.
        """
        found: dict[tuple[int, str], tuple[float, float]] = {}
        with self._patched():
            for start in range(0, len(x), batch_size):
                pairs = self._watch(tf.constant(x[start : start + batch_size]))
                for key, (low, high) in zip(self._places, pairs, strict=True):
                    old = found.get(key, (np.inf, -np.inf))
                    found[key] = (min(old[0], float(low)), max(old[1], float(high)))
        for key, pair in found.items():
            if key not in self._ranges:
                self._ranges[key] = tf.Variable(pair, trainable=False, dtype=tf.float32)
            self._ranges[key].assign(pair)

    def _watcher(self) -> Callable[[tf.Tensor], list[tuple[Any, Any]]]:
        """A compiled function that returns the ranges on one batch, in the order of `_places`."""

        @tf.function(autograph=False, reduce_retracing=True)
        def watch(x: tf.Tensor) -> list[tuple[Any, Any]]:
            self._observed = {}
            try:
                self.model(x, training=False)
                self._places = list(self._observed)
                return list(self._observed.values())
            finally:
                self._observed = None

        return watch

    @contextmanager
    def _patched(self) -> Iterator[None]:
        with ExitStack() as stack:
            for layer, call in self._calls:
                stack.enter_context(attribute_replaced(layer, "call", call))
            yield

    def _round(self, layer: Any, place: str, x: Any, fixed: str = "") -> Any:
        """x rounded at one place of one layer, or noted while the ranges are measured."""
        x = tf.convert_to_tensor(x) if isinstance(x, np.ndarray) else x
        if not (tf.is_tensor(x) and x.dtype.is_floating):
            return x
        key = (id(layer), place)
        if self._observed is not None:
            low, high = self._observed.get(key, (np.inf, -np.inf))
            self._observed[key] = (tf.minimum(tf.reduce_min(x), low), tf.maximum(tf.reduce_max(x), high))
            return x
        if fixed in _FIXED:
            return round_activations(x, *_FIXED[fixed])
        return round_activations(x, self._ranges[key][0], self._ranges[key][1])

    def _entrance(self, model: keras.Model) -> Callable[..., Any]:
        own = model.call

        def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return own(self._round(model, "input", inputs), *args, **kwargs)

        return call

    def _kind(self, layer: Any, absorbed: bool) -> tuple[Callable[..., Any] | None, str]:
        """The call that rounds, None where nothing is done, and what is done in words."""
        end = "nothing" if absorbed else "outputs"
        if isinstance(layer, _SEPARABLE) or type(layer) in _KERNELED:
            make = self._separable if isinstance(layer, _SEPARABLE) else self._kerneled
            return make(layer, absorbed), "weights" if absorbed else "weights and outputs"
        if isinstance(layer, kl.BatchNormalization):
            return self._frozen(layer, absorbed), end
        if isinstance(layer, _ACTIVATIONS):
            return self._outputs(layer, _activation(layer)), "outputs"
        if isinstance(layer, _COMPUTED) or _interpolates(layer):
            return (None if absorbed else self._outputs(layer)), end
        if isinstance(layer, (*_PASSING, kl.UpSampling2D)):
            return None, "nothing"
        return None, "float"

    def _outputs(self, layer: Any, name: str = "") -> Callable[..., Any]:
        own = layer.call
        return lambda *args, **kwargs: self._round(layer, "outputs", own(*args, **kwargs), name)

    def _frozen(self, layer: Any, absorbed: bool) -> Callable[..., Any]:
        own = layer.call  # its statistics are constants of the file, so training uses them as well

        def call(inputs: Any, training: Any = None, **kwargs: Any) -> Any:
            outputs = own(inputs, training=False, **kwargs)
            return outputs if absorbed else self._round(layer, "outputs", outputs)

        return call

    def _kerneled(self, layer: Any, absorbed: bool) -> Callable[..., Any]:
        own, function = layer.call, layer.activation
        name = _activation(layer)

        def activation(z: Any) -> Any:
            return function(z if name in _FUSED else self._round(layer, "before", z))

        def call(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                if callable(function):
                    stack.enter_context(attribute_replaced(layer, "activation", activation))
                if self._observed is None:
                    values = self._weights(layer)
                    stack.enter_context(keras.StatelessScope(values, initialize_variables=False))
                outputs = own(*args, **kwargs)
            return outputs if absorbed else self._round(layer, "outputs", outputs, name)

        return call

    def _separable(self, layer: Any, absorbed: bool) -> Callable[..., Any]:
        """Two operations in the file, with a rounded tensor between them."""
        name = _activation(layer)

        def call(inputs: Any) -> Any:
            depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
            if self._observed is None:
                (_, depthwise), (_, pointwise) = self._weights(layer)
            layout = {"data_format": layer.data_format}
            strides, dilation = layer.strides, layer.dilation_rate
            middle = keras.ops.depthwise_conv(
                inputs, depthwise, strides, layer.padding, dilation_rate=dilation, **layout
            )
            z = keras.ops.conv(self._round(layer, "middle", middle), pointwise, 1, "valid", **layout)
            if layer.use_bias:
                z = z + keras.ops.reshape(layer.bias, _beside(layer))
            if name not in _FUSED:
                z = self._round(layer, "before", z)
            outputs = z if layer.activation is None else layer.activation(z)
            return outputs if absorbed else self._round(layer, "outputs", outputs, name)

        return call

    def _weights(self, layer: Any) -> list[tuple[Any, tf.Tensor]]:
        found = []
        for kernel in kernels_of(layer) or ():
            variable, axis = getattr(layer, kernel.name), kernel.axis
            value = tf.convert_to_tensor(variable.value)
            if "epthwise" in type(layer).__name__ or kernel.name == "depthwise_kernel":
                shape = value.shape  # the units are channels times multiplier
                flat = tf.reshape(value, [*shape[:-2], shape[-2] * shape[-1]])
                found.append((variable, tf.reshape(round_weights(flat, -1), shape)))
            else:
                found.append((variable, round_weights(value, axis)))
        return found


def _leaves(model: keras.Model) -> list[tuple[str, Any]]:
    """Layers without layers inside, but recurrent ones as a whole, and operations on tensors, by path."""
    found: list[tuple[str, Any]] = []
    inside: set[int] = set()
    for path, layer in walk(model):
        below = [part for _, part in walk(layer)]
        if id(layer) in inside:
            continue
        if isinstance(layer, (kl.RNN, kl.Bidirectional, kl.MultiHeadAttention)) or (below and kernels_of(layer)):
            inside |= {id(part) for part in below}
        elif below:
            continue
        found.append((path, layer))
    graphs = [("", model), *((p, part) for p, part in walk(model) if isinstance(part, keras.Model))]
    for path, graph in graphs:
        if is_graph(graph):
            extra = [one for one in operations(graph) if not isinstance(one, kl.Layer)]
            found += [(f"{path}/{one.name}" if path else one.name, one) for one in extra]
    return found


def _absorbed(model: keras.Model) -> set[int]:
    """Ids of the layers whose outputs the file does not have: the next operation is part of theirs."""
    found: set[int] = set()
    for graph in [model, *(part for _, part in walk(model) if isinstance(part, keras.Model))]:
        if not is_graph(graph) or not graph.built:
            continue
        ends = {id(layer) for layer in output_layers(graph)}
        for layer in operations(graph):
            takers = consumers(graph, layer)
            if id(layer) in ends or len(takers) != 1 or len(producers(graph, takers[0])) != 1:
                continue
            linear = _activation(layer) == "linear"
            kernels = (type(layer) in _KERNELED or isinstance(layer, _SEPARABLE)) and linear
            computes = kernels or isinstance(layer, (kl.BatchNormalization, kl.Add))
            if (computes and _is_relu(takers[0])) or (kernels and isinstance(takers[0], kl.BatchNormalization)):
                found.add(id(layer))
    return found


def _is_relu(layer: Any) -> bool:
    if isinstance(layer, kl.ReLU):
        return layer.max_value in (None, 6) and not layer.negative_slope and not layer.threshold
    return isinstance(layer, kl.Activation) and _activation(layer) in ("relu", "relu6")


def _activation(layer: Any) -> str:
    """The name of the function that a layer applies; "linear" for none."""
    if isinstance(layer, kl.Softmax):
        return "softmax"
    function = getattr(layer, "activation", None)
    return "linear" if function is None else getattr(function, "__name__", type(function).__name__)


def _interpolates(layer: Any) -> bool:
    return isinstance(layer, kl.UpSampling2D) and layer.interpolation != "nearest"


def _beside(layer: Any) -> tuple[int, ...]:
    """The shape in which a bias is added to feature maps."""
    ones = (1,) * layer.rank
    return (1, *ones, -1) if layer.data_format == "channels_last" else (1, -1, *ones)
