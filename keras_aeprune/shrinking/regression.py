"""The weights of linear layers as regressions: what is multiplied with a kernel, and the kernel that fits best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from keras_aeprune.models.stacked import DenseTranspose

__all__ = ["LINEAR", "assign", "bias_of", "fit_linear", "inner_of", "matrix_of", "rows_of", "solved", "solver"]

_CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D)
_TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
_SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)
LINEAR = (kl.Dense, DenseTranspose, *_CONVOLUTIONS, *_TRANSPOSED, *_SEPARABLE)
_ROWS = (4096, 16384)  # of the regression of one layer: at least and at most, between them 8 for each feature


def fit_linear(gram: np.ndarray, cross: np.ndarray, prior: np.ndarray, ridge: float) -> np.ndarray:
    """The kernel W that makes |Y - X W|^2 + r |W - prior|^2 smallest, r = ridge * mean(diag(X'X)).

        (X'X + r I) (W - prior) = X'Y - X'X prior

    Args:
        gram: X'X, shape (features, features).
        cross: X'Y, shape (features, units).
        prior: shape (features, units).
        ridge: relative to the mean diagonal of X'X, >= 0.

    Returns:
        W, float64, shape (features, units).

    Example:
        >>> fit_linear(np.array([[2.0]]), np.array([[6.0]]), np.array([[1.0]]), 1.0).tolist()  # (6 + 2) / (2 + 2)
        [[2.0]]
    """
    gram, prior = np.asarray(gram, np.float64), np.asarray(prior, np.float64)
    missing = np.asarray(cross, np.float64) - gram @ prior
    system = gram + ridge * np.mean(np.diagonal(gram)) * np.eye(len(gram))
    try:
        return prior + np.linalg.solve(system, missing)
    except np.linalg.LinAlgError:  # ridge 0 and features that depend on each other
        return prior + np.linalg.lstsq(system, missing, rcond=None)[0]


def inner_of(layer: Any) -> Any:
    """The layer inside of TimeDistributed."""
    return layer.layer if isinstance(layer, kl.TimeDistributed) else layer


def kernel_of(layer: Any) -> Any:
    return layer.pointwise_kernel if isinstance(layer, _SEPARABLE) else layer.kernel


def matrix_of(layer: Any) -> np.ndarray:
    """The kernel as (features, units), float64."""
    values = keras.ops.convert_to_numpy(kernel_of(layer)).astype(np.float64)
    if isinstance(layer, (DenseTranspose, *_TRANSPOSED)):
        values = np.swapaxes(values, -1, -2)
    return values.reshape(-1, values.shape[-1])


def bias_of(layer: Any) -> np.ndarray | None:
    """The bias, float64."""
    return None if layer.bias is None else keras.ops.convert_to_numpy(layer.bias).astype(np.float64)


def assign(layer: Any, matrix: np.ndarray, bias: np.ndarray | None) -> None:
    """Put a kernel as from `matrix_of` and a bias into a layer."""
    kernel = kernel_of(layer)
    if isinstance(layer, (DenseTranspose, *_TRANSPOSED)):
        *window, units, inputs = kernel.shape
        matrix = np.swapaxes(matrix.reshape(*window, inputs, units), -1, -2)
    kernel.assign(matrix.reshape(kernel.shape))
    if bias is not None:
        layer.bias.assign(bias)


def _sources(layer: Any, axis: int, size: int, length: int) -> np.ndarray:
    """Which input position each output position reads at each place of the window; `size` where there is none.

    Shape (length, window).
    """
    window, step, gap = (values[axis] for values in (layer.kernel_size, layer.strides, layer.dilation_rate))
    out, at = np.arange(length)[:, None], np.arange(window) * gap
    reach, back = (window - 1) * gap + 1, isinstance(layer, _TRANSPOSED)
    before = 0
    if layer.padding == "causal":
        before = reach - 1
    elif layer.padding == "same":  # of a transposed one: that of the convolution that it turns around
        there, here = (length, size) if back else (size, length)
        before = max((here - 1) * step + reach - there, 0) // 2
    found = out + before - at if back else out * step + at - before
    fits = found % step == 0 if back else np.full(found.shape, True)
    found = found // step if back else found
    return np.where(fits & (found >= 0) & (found < size), found, size)


def _rows(layer: Any, x: np.ndarray, limit: int, generator: np.random.Generator) -> np.ndarray:
    """What is multiplied with the kernel at places drawn at random, float64, shape (rows, features)."""
    if isinstance(layer, _SEPARABLE):
        options = {name: getattr(layer, name) for name in ("strides", "padding", "data_format", "dilation_rate")}
        x = keras.ops.convert_to_numpy(keras.ops.depthwise_conv(x, layer.depthwise_kernel, **options))
    if not isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED)):
        x = x.reshape(-1, x.shape[-1])
        return x[_drawn(len(x), limit, generator)].astype(np.float64)
    outputs, rank = layer.compute_output_shape(x.shape)[1:-1], layer.rank
    drawn = _drawn(len(x) * int(np.prod(outputs)), limit, generator)
    sample, *places = np.unravel_index(drawn, (len(x), *outputs))
    index = [sample.reshape(-1, *[1] * rank)]
    for axis, place in enumerate(places):
        found = _sources(layer, axis, x.shape[axis + 1], outputs[axis])[place]
        index.append(found.reshape(len(drawn), *[-1 if other == axis else 1 for other in range(rank)]))
    padded = np.pad(x, [(0, 0), *[(0, 1)] * rank, (0, 0)])  # zeros at `size`
    return padded[tuple(index)].reshape(len(drawn), -1).astype(np.float64)


def _drawn(count: int, limit: int, generator: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= limit else generator.choice(count, limit, replace=False, shuffle=False)


def rows_of(layer: Any, batches: list[Any], features: int) -> np.ndarray:
    """What is multiplied with the kernel at places drawn at random, of all batches; the same for equal shapes."""
    limit = -(-int(np.clip(8 * features, *_ROWS)) // len(batches))
    found = []
    for number, x in enumerate(batches):
        x = keras.ops.convert_to_numpy(x)
        if isinstance(layer, kl.TimeDistributed):
            x = x.reshape(-1, *x.shape[2:])
        found.append(_rows(inner_of(layer), x, limit, np.random.default_rng(number)))
    return np.concatenate(found)


def solved(x: np.ndarray, missing: np.ndarray, prior: np.ndarray, ridge: float, zeros: bool) -> np.ndarray:
    """prior + D with |missing - x D|^2 + r |D|^2 smallest; D is 0 where the prior is, if `zeros`."""
    rows, features = x.shape
    none = np.zeros_like(prior)
    if zeros:
        gram, cross = x.T @ x, x.T @ missing
        for unit, free in enumerate((prior != 0).T):
            if free.any():
                own = np.zeros((np.count_nonzero(free), 1))
                found = fit_linear(gram[np.ix_(free, free)], cross[free, unit, None], own, ridge)
                none[free, unit] = found[:, 0]
        return prior + none
    if features <= rows:
        return prior + fit_linear(x.T @ x, x.T @ missing, none, ridge)
    # the same by (X'X + r I)^-1 X' = X' (X X' + r I)^-1, with as many equations as rows
    return prior + x.T @ fit_linear(x @ x.T, missing, np.zeros_like(missing), ridge * rows / features)


def solver(x: np.ndarray, ridge: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function of Y that gives the D with |Y - x D|^2 + r |D|^2 smallest, for many Y; x is not all zeros."""
    rows, features = x.shape
    share = ridge * np.square(x).sum() / features
    if features <= rows:
        inverse = np.linalg.inv(x.T @ x + share * np.eye(features))
        return lambda y: inverse @ (x.T @ y)
    inverse = np.linalg.inv(x @ x.T + share * np.eye(rows))
    return lambda y: x.T @ (inverse @ y)
