"""A sample's gradient from what one call of a layer shows: its input, and the gradient before its activation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras import layers as kl

__all__ = ["dense", "is_recurrent", "recurrent", "rule", "swapped"]


def dense(layer: kl.Layer, x: Any, delta: Any) -> Any:
    """(n, inputs, units): the outer product of both, summed over the axes between."""
    if x.shape.rank == 2:
        return x[:, :, None] * delta[:, None, :]
    return tf.matmul(_rows(x), _rows(delta), transpose_a=True)


def _rows(tensor: Any) -> Any:
    """(n, positions, channels)."""
    return tf.reshape(tensor, (tensor.shape[0], -1, tensor.shape[-1]))


def _windows(layer: kl.Layer, x: Any, places: tuple[int, ...]) -> Any:
    """What a convolution's window sees at each place: (n, *places, window * channels), as TensorFlow pads."""
    pads, starts = [(0, 0)], []
    sizes, strides, gaps = layer.kernel_size, layer.strides, layer.dilation_rate
    for length, place, size, stride, gap in zip(x.shape[1:-1], places, sizes, strides, gaps, strict=True):
        reach = (size - 1) * gap
        missing = 0 if layer.padding == "valid" else max((place - 1) * stride + reach + 1 - length, 0)
        before = reach if layer.padding == "causal" else missing // 2
        pads.append((before, max(missing - before, 0)))
        starts.append([(at * gap, at * gap + (place - 1) * stride + 1, stride) for at in range(size)])
    x = tf.pad(x, [*pads, (0, 0)]) if any(map(any, pads)) else x
    if len(places) < 3:  # several times faster than slices
        x = x[:, None] if len(places) == 1 else x
        edges = [(1,) * (3 - len(part)) + (*part, 1) for part in (sizes, strides, gaps)]
        patches = tf.image.extract_patches(x, *edges, "VALID")
        patches = patches[:, 0] if len(places) == 1 else patches
        return patches[(slice(None), *(slice(place) for place in places))]
    slices = [x[(slice(None), *(slice(*part) for part in window))] for window in itertools.product(*starts)]
    return tf.concat(slices, -1)


def _convolution(layer: kl.Layer, x: Any, delta: Any) -> Any:
    groups, windows = layer.groups, _windows(layer, x, tuple(delta.shape[1:-1]))
    if groups == 1:
        return tf.matmul(_rows(windows), _rows(delta), transpose_a=True)
    left = tf.reshape(windows, (x.shape[0], math.prod(delta.shape[1:-1]), -1, groups, x.shape[-1] // groups))
    right = tf.reshape(delta, (x.shape[0], -1, groups, delta.shape[-1] // groups))
    return tf.einsum("npkgi,npgo->nkigo", left, right)


def _transposed(layer: kl.Layer, x: Any, delta: Any) -> Any:
    return tf.matmul(_rows(_windows(layer, delta, tuple(x.shape[1:-1]))), _rows(x), transpose_a=True)


def _depthwise(layer: kl.Layer, x: Any, delta: Any) -> Any:
    windows = _rows(_windows(layer, x, tuple(delta.shape[1:-1])))
    shape = (*windows.shape[:2], -1, x.shape[-1])
    delta = tf.reshape(delta, (*windows.shape[:2], x.shape[-1], -1))
    return tf.einsum("npkc,npcm->nkcm", tf.reshape(windows, shape), delta)


# Where `call` is the layer's own, a layer kind's product is a sample's gradient.
_RULES: dict[type[kl.Layer], Callable[[kl.Layer, Any, Any], Any]] = {
    kl.Dense: dense,
    **dict.fromkeys((kl.Conv1D, kl.Conv2D, kl.Conv3D), _convolution),
    **dict.fromkeys((kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose), _transposed),
    **dict.fromkeys((kl.DepthwiseConv1D, kl.DepthwiseConv2D), _depthwise),
}


def rule(layer: kl.Layer) -> Callable[[kl.Layer, Any, Any], Any] | None:
    """A function (layer, input, gradient before the activation) -> (n, ...), a kernel's gradient per sample.

    None for layer kinds without one, layers whose `call` is not their kind's own, and channels first. Arrays are
    float32 with static shapes; reshaped to (n, *kernel shape) the result is the gradient.

    Example:
        >>> rule(kl.Dense(2)) is dense, rule(kl.LSTM(2))
        (True, None)
    """
    plain = getattr(layer, "data_format", "channels_last") == "channels_last" and "call" not in vars(layer)
    if not plain or getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return None
    kinds = (kind for kind in _RULES if isinstance(layer, kind) and type(layer).call is kind.call)
    return next((_RULES[kind] for kind in kinds), None)


_CELLS: dict[type[kl.RNN], type[kl.Layer]] = {
    kl.LSTM: kl.LSTMCell,
    kl.GRU: kl.GRUCell,
    kl.SimpleRNN: kl.SimpleRNNCell,
}


def is_recurrent(layer: kl.Layer) -> bool:
    """Whether `recurrent` can run a layer: LSTM, GRU or SimpleRNN that returns and keeps no state.

    Example:
        >>> is_recurrent(kl.LSTM(2)), is_recurrent(kl.LSTM(2, stateful=True))
        (True, False)
    """
    kind = next((kind for kind in _CELLS if isinstance(layer, kind) and type(layer).call is kind.call), None)
    if kind is None or layer.stateful or layer.return_state or "call" in vars(layer):
        return False
    return type(layer.cell).call is _CELLS[kind].call and getattr(layer.cell, "quantization_mode", None) is None


def recurrent(layer: kl.RNN, call: Callable[..., Any], x: Any, tape: tf.GradientTape) -> tuple[Any, list[Any]]:
    """A recurrent layer's outputs, and (kernel, rule, input, mark) of both kernels as `rule` has them.

    The mark is a zero that is added to what the input's kernel gives, at each step: its gradient is the one before
    the activations. It comes in beside the input, through an identity below the kernel; Keras' own loop runs.
    """
    cell = layer.cell
    names = {kernel: _attribute(cell, getattr(cell, kernel)) for kernel in ("kernel", "recurrent_kernel")}
    kernel, inner = (tf.stop_gradient(keras.ops.convert_to_tensor(getattr(cell, name))) for name in names)
    mark = tf.zeros((*x.shape[:2], kernel.shape[-1]), x.dtype)
    tape.watch(mark)
    wide = tf.concat([kernel, tf.eye(kernel.shape[-1], dtype=kernel.dtype)], 0)
    replaced = {names["kernel"]: wide, names["recurrent_kernel"]: inner}
    with swapped(cell, replaced), swapped(layer, {"return_sequences": True}):
        states = call(tf.concat([x, mark], -1))
    before = tf.concat([tf.zeros_like(states[:, :1]), states[:, :-1]], 1)
    reset = None
    if isinstance(layer, kl.GRU):
        reset = _reset_gate(cell, _in_order(layer, x) @ kernel, before @ inner)

    def inner_rule(layer: kl.Layer, before: Any, delta: Any) -> Any:
        delta = _in_order(layer, delta)
        if reset is None:
            return dense(layer, before, delta)
        gates, candidate = delta[..., : -reset.shape[-1]], delta[..., -reset.shape[-1] :]
        if cell.reset_after:
            return dense(layer, before, tf.concat([gates, candidate * reset], -1))
        return tf.concat([dense(layer, before, gates), dense(layer, before * reset, candidate)], -1)

    outputs = states if layer.return_sequences else states[:, -1]
    return outputs, [("kernel", dense, x, mark), ("recurrent_kernel", inner_rule, before, mark)]


def _reset_gate(cell: kl.Layer, outer: Any, inner: Any) -> Any:
    """The GRU's reset gate at all steps; the gates are update, reset, candidate."""
    if cell.use_bias:
        bias = keras.ops.convert_to_tensor(cell.bias)
        outer, inner = (outer + bias[0], inner + bias[1]) if cell.reset_after else (outer + bias, inner)
    part = slice(cell.units, 2 * cell.units)
    return cell.recurrent_activation(outer[..., part] + inner[..., part])


def _in_order(layer: kl.RNN, sequence: Any) -> Any:
    return tf.reverse(sequence, [1]) if layer.go_backwards else sequence


def _attribute(layer: kl.Layer, variable: Any) -> str:
    """The attribute that holds a variable itself, also where a property stands before it."""
    return next(name for name, value in vars(layer).items() if value is variable)


@contextmanager
def swapped(layer: kl.Layer, values: dict[str, Any]) -> Iterator[None]:
    """Other attributes for a moment, past Keras' and TensorFlow's tracking."""
    before = {name: vars(layer)[name] for name in values}
    vars(layer).update(values)
    try:
        yield
    finally:
        vars(layer).update(before)
