"""Make the layers of a cut model put out what those of the large one do, in closed form and without training."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from keras_aeprune import calibration
from keras_aeprune._layers import walk
from keras_aeprune._validation import positive_int, positive_number, refuse
from keras_aeprune.criteria.losses import unchanged
from keras_aeprune.models.stacked import DenseTranspose
from keras_aeprune.shrinking.tracing import Traced
from keras_aeprune.shrinking.walking import Walk

__all__ = ["Compensation", "LayerFit", "compensate", "fit_linear"]

_CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D)
_TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
_SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)
_LINEAR = (kl.Dense, DenseTranspose, *_CONVOLUTIONS, *_TRANSPOSED, *_SEPARABLE)
_ROWS = (4096, 16384)  # of the regression of one layer: at least and at most, between them 8 for each feature
_BYTES = 2**29  # of activations of both models that lie in memory at a time, about
_EXACT = 1e-6  # relative errors below are rounding
_WIDEST = 4096  # features of a kernel with zeros to be kept, one system of equations for each unit


@dataclass(frozen=True)
class LayerFit:
    """How well one layer of the small model puts out what it should.

    Args:
        path: of the layer.
        before: relative error of its outputs before the activation with the weights as they were cut, >= 0.
        after: the same with the weights that it has now, >= 0; both on the samples that were fitted.
        note: "" where new weights are in place, else why not.
    """

    path: str
    before: float
    after: float
    note: str = ""


@dataclass(frozen=True)
class Compensation:
    """What `compensate` did; `str` gives a table, `to_dict` plain values.

    A relative error is |outputs of the large model - of the small one| / |outputs of the large one|, with the
    root of the sum of squares for |.|.

    Args:
        layers: those that were looked at, from input to output.
        left: {path: why} of those that mix what comes in and were left as they were cut.
        before: relative error of the model's outputs as it was cut, on samples that were not fitted.
        after: the same with the weights that it has now.
        samples: how many were used in all.
        seconds: it took.
    """

    layers: tuple[LayerFit, ...]
    left: dict[str, str]
    before: float
    after: float
    samples: int
    seconds: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [("layer", "before", "after", "")]
        rows += [(fit.path, f"{fit.before:.4f}", f"{fit.after:.4f}", fit.note) for fit in self.layers]
        rows += [(path, "-", "-", f"left as it was cut: {reason}") for path, reason in self.left.items()]
        rows.append(("whole model", f"{self.before:.4f}", f"{self.after:.4f}", f"{self.samples} samples"))
        width = max(len(row[0]) for row in rows)
        return "\n".join(f"{a.ljust(width)}  {b:>8}  {c:>8}  {d}".rstrip() for a, b, c, d in rows)


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


def _inner(layer: Any) -> Any:
    return layer.layer if isinstance(layer, kl.TimeDistributed) else layer


def _kernel(layer: Any) -> Any:
    return layer.pointwise_kernel if isinstance(layer, _SEPARABLE) else layer.kernel


def _matrix(layer: Any) -> np.ndarray:
    """The kernel as (features, units), float64."""
    values = keras.ops.convert_to_numpy(_kernel(layer)).astype(np.float64)
    if isinstance(layer, (DenseTranspose, *_TRANSPOSED)):
        values = np.swapaxes(values, -1, -2)
    return values.reshape(-1, values.shape[-1])


def _bias(layer: Any) -> np.ndarray | None:
    return None if layer.bias is None else keras.ops.convert_to_numpy(layer.bias).astype(np.float64)


def _assign(layer: Any, matrix: np.ndarray, bias: np.ndarray | None) -> None:
    kernel = _kernel(layer)
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


def _all_rows(layer: Any, batches: list[Any], features: int) -> np.ndarray:
    limit = -(-int(np.clip(8 * features, *_ROWS)) // len(batches))
    found = []
    for number, x in enumerate(batches):
        x = keras.ops.convert_to_numpy(x)
        if isinstance(layer, kl.TimeDistributed):
            x = x.reshape(-1, *x.shape[2:])
        found.append(_rows(_inner(layer), x, limit, np.random.default_rng(number)))
    return np.concatenate(found)


def _solved(x: np.ndarray, missing: np.ndarray, prior: np.ndarray, ridge: float, zeros: bool) -> np.ndarray:
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


def _relative(missing: float, whole: float) -> float:
    return float(np.sqrt(missing / max(whole, np.finfo(np.float32).tiny)))


def compensate(
    model: keras.Model,
    small: keras.Model,
    traced: Traced,
    kept: np.ndarray,
    data: Any,
    *,
    ridge: float = 1e-3,
    batch_size: int = 256,
    samples: int = 2048,
    keep_zeros: bool = True,
) -> Compensation:
    """Give the layers of a cut model the weights that come nearest to the large model's outputs, without training.

    Use it right after cutting, before any fine-tuning: it takes seconds and needs no labels. Units that stay
    take over what those that went have in common with them. Layer by layer from input to output, with X what the
    layer of the small model reads now and Y what the large model's layer puts out at the units that stay, before
    the activation,

        min over W, b of |Y - X W - b|^2 + r |W - W_cut|^2,   r = ridge * mean(diag(Xc' Xc)), Xc = X - mean(X)

    Dense layers, convolutions, transposed ones (rows are the windows that an output position reads, drawn at
    random, up to 16384 in all), the pointwise part of separable ones and those inside of TimeDistributed are
    fitted. Recurrent and attention layers, layers that are called more than once or share a weight are left as
    they were cut. An eighth of the samples is held back to judge: where the model's outputs on these got worse in
    the end, all old weights are put back. He et al. 2017, https://arxiv.org/abs/1707.06168; Luo et
    al. 2017, https://arxiv.org/abs/1707.05572.

    Args:
        model: the large model; it is not changed.
        small: `cut(traced, kept)`; its weights are changed in place.
        traced: of the large model.
        kept: for each unit whether it stays.
        data: what `calibration.get` takes; only inputs are used.
        ridge: > 0; large values leave the weights as they were cut, 1e-8 trusts the samples alone.
        batch_size: samples at once, >= 1.
        samples: at most how many, >= 1; fewer where their activations would not fit into about 512 MB.
        keep_zeros: whether single weights that are zero stay zero, as after pruning.

    Returns:
        A `Compensation`: relative errors before and after, of each layer and of the whole model.

    Raises:
        InputError: arguments that do not fit, a model with several inputs.

    Example:
        >>> from keras_aeprune.shrinking.cutting import cut
        >>> from keras_aeprune.shrinking.tracing import trace
        >>> model = keras.Sequential([keras.Input((1,)), kl.Dense(2, name="a"), kl.Dense(1, name="b")])
        >>> model.set_weights([np.array([[1.0, 2.0]]), np.zeros(2), np.array([[1.0], [1.0]]), np.zeros(1)])
        >>> traced = trace(model)
        >>> kept = traced.kept([traced.groups[0].classes[1]])
        >>> small = cut(traced, kept)
        >>> x = np.linspace(-1, 1, 64)[:, None]
        >>> found = compensate(model, small, traced, kept, x, ridge=1e-9)
        >>> float(small.get_layer("b").kernel[0, 0].numpy().round(4))  # 1 + 2: the other unit is twice this one
        3.0
    """
    began = time.monotonic()
    ridge, samples = positive_number("ridge", ridge), positive_int("samples", samples)
    batch_size = positive_int("batch_size", batch_size)
    if traced.model is not model:
        raise refuse("traced", getattr(traced, "model", traced), "trace(model) of the same model")
    x = calibration.get(data, samples=samples).x
    room = _BYTES // (2 * Walk(model, x[:1]).sample_bytes)
    x = x[: max(room, 64)]
    judges = np.arange(len(x)) % 8 == 7 if len(x) >= 16 else np.full(len(x), True)
    fitted = x[~judges] if len(x) >= 16 else x
    run = _Run(traced, small, kept, x[judges], ridge, keep_zeros)
    with unchanged(model), unchanged(small):
        fits, left, before, after = run.all(Walk(model, fitted, batch_size), Walk(small, fitted, batch_size))
    return Compensation(fits, left, before, after, len(x), time.monotonic() - began)


class _Run:
    """One compensation: which layers can be fitted, and how good the whole model is."""

    def __init__(
        self, traced: Traced, small: keras.Model, kept: np.ndarray, judged: np.ndarray, ridge: float, zeros: bool
    ):
        self.traced, self.kept, self.ridge, self.zeros = traced, kept, ridge, zeros
        by_path = dict(walk(traced.model))
        self.twins = {id(layer): (path, by_path[path]) for path, layer in walk(small) if path in by_path}
        members = dict.fromkeys(traced.members.values())
        self.owners = Counter(id(part.variable) for member in members for part in member.parts)
        self.judged = tf.constant(judged)
        self.large_outputs = tf.function(
            lambda x: keras.tree.flatten(traced.model(x, training=False)), autograph=False
        )
        self.small_outputs = tf.function(lambda x: keras.tree.flatten(small(x, training=False)), autograph=False)
        self.wanted: list[np.ndarray] = []

    def error(self) -> float:
        """Of the small model's outputs now, relative."""
        found = [np.asarray(tensor, np.float64) for tensor in self.small_outputs(self.judged)]
        missing = sum(np.square(a - b).sum() for a, b in zip(self.wanted, found, strict=True))
        return _relative(missing, sum(np.square(a).sum() for a in self.wanted))

    def all(self, large: Walk, small: Walk) -> tuple[tuple[LayerFit, ...], dict[str, str], float, float]:
        """Every layer from input to output: fits, those that are left and why, errors before and after."""
        self.wanted = [np.asarray(tensor, np.float64) for tensor in self.large_outputs(self.judged)]
        calls = Counter(id(call.layer) for call in small.calls)
        fits: list[LayerFit] = []
        left: dict[str, str] = {}
        seen: dict[int, list[Any]] = {}  # inputs of layers that the large model comes to earlier than the small
        ahead = iter(large)
        before: list[tuple[Any, np.ndarray, Any]] = []
        first = self.error()
        for layer, batches in small:
            path, twin = self.twins.get(id(layer), ("", None))
            if twin is None or not any(len(variable.shape) for variable in layer.weights):
                continue
            reason = self._obstacle(twin, calls[id(layer)])
            if reason:
                left[path] = reason
            if reason != "":
                continue
            while id(twin) not in seen:
                other, inputs = next(ahead)
                if isinstance(_inner(other), _LINEAR):
                    seen[id(other)] = inputs
            own = _inner(layer)
            before.append((own, _matrix(own), _bias(own)))
            fits.append(self._fit(path, layer, twin, batches, seen.pop(id(twin))))
        now = self.error()
        if now <= first * (1 + _EXACT) + _EXACT:
            return tuple(fits), left, first, now
        for own, matrix, bias in before:
            _assign(own, matrix, bias)
        note = f"put back: the model's error went from {first:.4f} to {now:.4f}"
        return tuple(replace(fit, after=fit.before, note=fit.note or note) for fit in fits), left, first, first

    def _obstacle(self, layer: Any, calls: int) -> str | None:
        """Why a layer cannot be fitted; "" where it can, None where there is nothing that could be."""
        member = self.traced.members.get(id(layer))
        if member is not None and member.parts and not member.mixed:
            return None  # each channel by itself
        inner = _inner(layer)
        if isinstance(inner, (kl.BatchNormalization, kl.LayerNormalization)):
            return None
        if member is None or not member.mixed or type(inner) not in _LINEAR:
            return f"{type(inner).__name__} is not fitted"
        if calls > 1:
            return f"called {calls} times"
        if any(self.owners[id(part.variable)] > 1 for part in member.parts):
            return "shares a weight with another layer"
        return ""

    def _fit(self, path: str, layer: Any, twin: Any, batches: list[Any], large: list[Any]) -> LayerFit:
        """New weights for one layer."""
        member, own = self.traced.members[id(twin)], _inner(layer)
        out = self.kept[member.made[""]]
        prior, bias = _matrix(own), _bias(own)
        features = len(prior)
        x = _all_rows(layer, batches, features)
        y = _all_rows(twin, large, features) @ _matrix(_inner(twin))[:, out]
        if bias is not None:
            y += _bias(_inner(twin))[out]
        whole, missing = np.square(y).sum(), y - x @ prior - (0.0 if bias is None else bias)
        before = _relative(np.square(missing).sum(), whole)
        if before <= _EXACT:
            return LayerFit(path, before, before, "already exact")
        zeros = self.zeros and bool((prior == 0).any()) and bool(prior.any())
        if zeros and features > _WIDEST:
            return LayerFit(path, before, before, f"has zeros to keep and more than {_WIDEST} features")
        if bias is not None:
            centre, offset = x.mean(axis=0), missing.mean(axis=0)
            x, missing = x - centre, missing - offset
        matrix = _solved(x, missing, prior, self.ridge, zeros)
        after = _relative(np.square(missing - x @ (matrix - prior)).sum(), whole)
        new_bias = None if bias is None else bias + offset - centre @ (matrix - prior)
        if not (np.isfinite(after) and np.isfinite(matrix).all()):
            return LayerFit(path, before, before, "put back: the new weights are not finite")
        _assign(own, matrix, new_bias)
        return LayerFit(path, before, after)
