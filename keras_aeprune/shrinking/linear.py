"""Linear maps with a bias, as layers have them, and what two of them make together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers as kl

__all__ = ["Linear", "linear_of"]

Numbers = Callable[[], tuple[np.ndarray, "np.ndarray | None"]]

_CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D)
_TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
_DEPTHWISE = (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
_SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)


@dataclass(frozen=True, eq=False)
class Linear:
    """A map x -> x K + b over the channels of a window, with numbers that are made when they are asked for.

    Args:
        layer: whose class and config it has: Dense, a convolution of any kind, or BatchNormalization.
        ends: whose name and activation it has.
        wide: channels in and out; of BatchNormalization both are equal.
        fixed: weights that no merge changes.
        size: weights of the kernel.
        has_bias: whether it has one.
        shifts: whether that adds anything.
        numbers: () -> (kernel as (*window, in, out), bias or None), float64; for BatchNormalization
            (scale, shift), one of each per channel.
        linear: whether no activation follows, or it is left out.
    """

    layer: Any
    ends: Any
    wide: tuple[int, int]
    fixed: int
    size: int
    has_bias: bool
    shifts: bool
    numbers: Numbers
    linear: bool

    @property
    def normalizes(self) -> bool:
        """Whether it acts on each channel by itself."""
        return type(self.layer) is kl.BatchNormalization

    @property
    def params(self) -> int:
        """How many weights it has."""
        return self.fixed + self.size + (self.wide[1] if self.has_bias and not self.normalizes else 0)

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in a tensor with the batch axis; -1 where it is the last."""
        if self.normalizes:
            last = self.layer.input_spec.ndim - 1
            return -1 if self.layer.axis % (last + 1) == last else self.layer.axis
        return 1 if getattr(self.layer, "data_format", "channels_last") == "channels_first" else -1

    @property
    def pointwise(self) -> bool:
        """Whether it mixes the channels of each position by themselves, all of them."""
        if type(self.layer) is kl.Dense:
            return True
        ones = type(self.layer) in _CONVOLUTIONS and self.layer.groups == 1
        return ones and math.prod(self.layer.kernel_size) == math.prod(self.layer.strides) == 1

    @property
    def pads(self) -> bool:
        """Whether zeros that are no outputs of the layer before may lie in its window."""
        if type(self.layer) is kl.Dense:
            return False
        return type(self.layer) in _TRANSPOSED or (
            math.prod(self.layer.kernel_size) > 1 and self.layer.padding != "valid"
        )

    def settings(self) -> dict[str, Any]:
        """The config of the layer that computes it."""
        config = self.layer.get_config()
        ends = self.ends.get_config()
        config.update(name=ends["name"], use_bias=self.has_bias)
        if "activation" in ends:
            config["activation"] = "linear" if self.linear else ends["activation"]
            config["activity_regularizer"] = ends.get("activity_regularizer")
        if type(self.layer) in _CONVOLUTIONS + _TRANSPOSED + _SEPARABLE:
            config["filters"] = self.wide[1]
        elif type(self.layer) is kl.Dense:
            config["units"] = self.wide[1]
        return config

    def weights(self) -> list[np.ndarray]:
        """Its numbers in the order of the layer's weights."""
        kernel, bias = self.numbers()
        if type(self.layer) in _TRANSPOSED:
            kernel = np.swapaxes(kernel, -1, -2)
        elif type(self.layer) in _DEPTHWISE:
            kernel = kernel.reshape(self.layer.kernel.shape)
        found = [kernel] if bias is None else [kernel, bias]
        if type(self.layer) in _SEPARABLE:
            found.insert(0, keras.ops.convert_to_numpy(self.layer.depthwise_kernel))
        return found


def linear_of(layer: Any, straight: bool = False) -> Linear | None:
    """The map of a layer; None for one that is no linear map, or of an unknown kind.

    Args:
        layer: any layer or operation.
        straight: whether its activation is left out.

    Example:
        >>> layer = keras.layers.Dense(2, activation="relu")
        >>> layer.build((None, 3))
        >>> found = linear_of(layer)
        >>> found.wide, found.params, found.linear
        ((3, 2), 8, False)
    """
    kind = type(layer)
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return None
    if kind is kl.BatchNormalization:
        return _normalization(layer)
    if kind not in (kl.Dense, *_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE):
        return None
    variable = layer.pointwise_kernel if kind in _SEPARABLE else layer.kernel
    shape = tuple(variable.shape)
    inside, outside = shape[-2:]
    if kind in _TRANSPOSED:
        inside, outside = outside, inside
    elif kind in _DEPTHWISE:
        outside = inside * outside

    def numbers() -> tuple[np.ndarray, np.ndarray | None]:
        kernel = _float64(variable)
        if kind in _TRANSPOSED:
            kernel = np.swapaxes(kernel, -1, -2)
        elif kind in _DEPTHWISE:
            kernel = kernel.reshape(*shape[:-2], 1, outside)
        return kernel, _float64(layer.bias) if layer.bias is not None else None

    return Linear(
        layer,
        layer,
        (inside, outside),
        math.prod(layer.depthwise_kernel.shape) if kind in _SEPARABLE else 0,
        math.prod(shape),
        layer.bias is not None,
        layer.bias is not None and bool(np.any(_float64(layer.bias))),
        numbers,
        straight or layer.activation in (None, keras.activations.linear),
    )


def _normalization(layer: Any) -> Linear:
    """y = x s + t with s = gamma / sqrt(variance + epsilon) and t = beta - mean s."""
    mean, variance = _float64(layer.moving_mean), _float64(layer.moving_variance)
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * _float64(layer.gamma)
    shift = -mean * scale
    if layer.beta is not None:
        shift = shift + _float64(layer.beta)
    size = sum(math.prod(variable.shape) for variable in layer.weights)
    wide = (len(mean), len(mean))
    return Linear(layer, layer, wide, size, 0, True, bool(np.any(shift)), lambda: (scale, shift), True)


def _float64(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def normalized(first: Linear, second: Linear) -> Linear:
    """BatchNormalization behind a layer: its kernel scaled for each channel out."""

    def numbers() -> tuple[np.ndarray, np.ndarray | None]:
        (kernel, bias), (scale, shift) = first.numbers(), second.numbers()
        return kernel * scale, shift if bias is None else bias * scale + shift

    return replace(first, has_bias=True, shifts=first.shifts or second.shifts, numbers=numbers)


def entered(first: Linear, second: Linear) -> Linear:
    """BatchNormalization or a map of single positions before a layer: what comes in is mixed in its kernel."""

    def numbers() -> tuple[np.ndarray, np.ndarray | None]:
        (one, shift), (kernel, bias) = first.numbers(), second.numbers()
        if shift is not None:
            constant = shift @ kernel.sum(axis=tuple(range(kernel.ndim - 2)))
            bias = constant if bias is None else bias + constant
        if first.normalizes:
            return kernel * one[:, None], bias
        one = one.reshape(one.shape[-2:])
        return np.moveaxis(np.tensordot(one, kernel, ((1,), (kernel.ndim - 2,))), 0, -2), bias

    return replace(
        second,
        wide=(first.wide[0], second.wide[1]),
        size=second.size // second.wide[0] * first.wide[0],
        has_bias=first.has_bias or second.has_bias,
        shifts=first.shifts or second.shifts,
        numbers=numbers,
    )


def left(first: Linear, second: Linear) -> Linear:
    """A map of single positions behind a layer: what goes out is mixed in its kernel."""

    def numbers() -> tuple[np.ndarray, np.ndarray | None]:
        (kernel, shift), (one, bias) = first.numbers(), second.numbers()
        one = one.reshape(one.shape[-2:])
        if shift is not None:
            bias = shift @ one if bias is None else shift @ one + bias
        return kernel @ one, bias

    return replace(
        first,
        ends=second.ends,
        wide=(first.wide[0], second.wide[1]),
        size=first.size // first.wide[1] * second.wide[1],
        has_bias=first.has_bias or second.has_bias,
        shifts=first.shifts or second.shifts,
        numbers=numbers,
        linear=second.linear,
    )


def together(first: Linear, second: Linear) -> tuple[Linear | None, str]:
    """The one map that does what two do, or why there is none.

    Args:
        first: without an activation.
        second: what takes its outputs alone.

    Returns:
        (map, "") or (None, reason).
    """
    if first.layer.dtype_policy.name != second.layer.dtype_policy.name:
        return None, "they compute in different precisions"
    if first.ends.activity_regularizer is not None:
        return None, "a penalty on what lies between them would be lost"
    if first.channel_axis != second.channel_axis:
        return None, "they act on different axes"
    if second.normalizes:
        return (None, "both normalize") if first.normalizes else (normalized(first, second), "")
    if first.normalizes or first.pointwise:
        if type(second.layer) in _DEPTHWISE + _SEPARABLE or getattr(second.layer, "groups", 1) > 1:
            return None, "the second one does not mix all channels in each window"
        if first.shifts and second.pads:
            return None, "the first one adds a bias, which the zeros of the second one's padding do not have"
        return entered(first, second), ""
    if not second.pointwise:
        return None, "both have windows of several positions"
    if type(first.layer) in _DEPTHWISE:
        return None, "a depthwise convolution does not mix channels"
    if getattr(first.layer, "groups", 1) > 1:
        return None, "the first one is a convolution in groups"
    return left(first, second), ""
