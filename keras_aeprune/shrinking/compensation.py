"""Make the layers of a cut model put out what those of the large one do, in closed form and without training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
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
from keras_aeprune.shrinking.bottleneck import best_subspace, next_of
from keras_aeprune.shrinking.curved import curve_of, refined
from keras_aeprune.shrinking.regression import LINEAR, assign, bias_of, inner_of, matrix_of, rows_of, solved
from keras_aeprune.shrinking.tracing import Traced
from keras_aeprune.shrinking.walking import Walk

__all__ = ["Compensation", "LayerFit", "compensate"]

_BYTES = 2**29  # of activations of both models that lie in memory at a time, about
_EXACT = 1e-6  # relative errors below are rounding
_WIDEST = 4096  # features of a kernel with zeros to be kept, one system of equations for each unit


@dataclass(frozen=True)
class LayerFit:
    """How well one layer of the small model puts out what it should.

    Args:
        path: of the layer.
        before: relative error of its outputs (before the activation, unless that is relu, sigmoid or tanh) with
            the weights as they were cut, >= 0.
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

    Example:
        >>> found = Compensation((LayerFit("hidden", 0.31, 0.08),), {"gru": "recurrent"}, 0.42, 0.12, samples=256)
        >>> found.after < found.before, [fit.path for fit in found.layers if fit.after < 0.5 * fit.before]
        (True, ['hidden'])
        >>> print(found)
        layer          before     after
        hidden         0.3100    0.0800
        gru                 -         -  left as it was cut: recurrent
        whole model    0.4200    0.1200  256 samples
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


def _relative(missing: float, whole: float) -> float:
    return float(np.sqrt(missing / max(whole, float(np.finfo(np.float32).tiny))))


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

    Where the activation is relu, sigmoid or tanh, further regressions with the same factors bring the outputs
    behind it nearer (`curved.refined`), unless there are zeros to keep.
    Dense layers, convolutions, transposed ones (rows are the windows that an output position reads, drawn at
    random, up to 16384 in all), the pointwise part of separable ones and those inside of TimeDistributed are
    fitted. A linear Dense code that only one Dense layer reads keeps its best subspace in place of the units
    that stayed: both kernels are found together (`bottleneck.best_subspace`), unless they have zeros to keep.
    Recurrent and attention layers, layers that are called more than once or share a weight are left as they
    were cut. An eighth of the samples is held back to judge: where the model's outputs on these got worse in
    the end, all old weights are put back. He et al. 2017, https://arxiv.org/abs/1707.06168; Luo et al. 2017,
    https://arxiv.org/abs/1707.05572.

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
        >>> round(float(small(np.ones((1, 1)))[0, 0]), 4)  # 1 + 2: the other unit is twice this one
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


def _outputs(model: keras.Model, example: tf.Tensor) -> Callable:
    """x -> the outputs of a model as a list; traced here, so that TensorFlow does not warn of many tracings."""
    compiled = tf.function(lambda x: keras.tree.flatten(model(x, training=False)), autograph=False)
    return compiled.get_concrete_function(example)


class _Run:
    """One compensation: which layers can be fitted, and how good the whole model is."""

    def __init__(
        self, traced: Traced, small: keras.Model, kept: np.ndarray, judged: np.ndarray, ridge: float, zeros: bool
    ):
        self.traced, self.kept, self.ridge, self.zeros = traced, kept, ridge, zeros
        by_path = dict(walk(traced.model))
        self.twins = {id(layer): (path, by_path[path]) for path, layer in walk(small) if path in by_path}
        self.smalls = {id(by_path[path]): layer for path, layer in walk(small) if path in by_path}
        self.codes = next_of(traced, kept)
        members = dict.fromkeys(traced.members.values())
        self.owners = Counter(id(part.variable) for member in members for part in member.parts)
        self.judged = tf.constant(judged)
        self.large_outputs, self.small_outputs = (_outputs(one, self.judged) for one in (traced.model, small))
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
                if isinstance(inner_of(other), LINEAR):
                    seen[id(other)] = inputs
            inputs, follower = seen.pop(id(twin)), self._follower(twin, calls)
            for own in (inner_of(layer), *([] if follower is None else [self.smalls[id(follower)]])):
                before.append((own, matrix_of(own), bias_of(own)))
            if follower is None:
                fits.append(self._fit(path, layer, twin, batches, inputs))
            else:
                fits.append(self._fit_code(path, layer, twin, follower, batches, inputs))
        now = self.error()
        if now <= first * (1 + _EXACT) + _EXACT:
            return tuple(fits), left, first, now
        for own, matrix, bias in reversed(before):
            assign(own, matrix, bias)
        note = f"put back: the model's error went from {first:.4f} to {now:.4f}"
        return tuple(replace(fit, after=fit.before, note=fit.note or note) for fit in fits), left, first, first

    def _obstacle(self, layer: Any, calls: int) -> str | None:
        """Why a layer cannot be fitted; "" where it can, None where there is nothing that could be."""
        member = self.traced.members.get(id(layer))
        if member is not None and member.parts and not member.mixed:
            return None  # each channel by itself
        inner = inner_of(layer)
        if isinstance(inner, (kl.BatchNormalization, kl.LayerNormalization)):
            return None
        if member is None or not member.mixed or type(inner) not in LINEAR:
            return f"{type(inner).__name__} is not fitted"
        if calls > 1:
            return f"called {calls} times"
        if any(self.owners[id(part.variable)] > 1 for part in member.parts):
            return "shares a weight with another layer"
        return ""

    def _follower(self, twin: Any, calls: Counter) -> Any:
        """The layer behind a code whose basis is free; None where the units that stay are to be matched."""
        follower = self.codes.get(id(twin))
        if follower is None or self._obstacle(follower, calls[id(self.smalls[id(follower)])]) != "":
            return None
        pair = [matrix_of(self.smalls[id(layer)]) for layer in (twin, follower)]
        return None if self.zeros and any((matrix == 0).any() for matrix in pair) else follower

    def _fit_code(self, path: str, layer: Any, twin: Any, follower: Any, batches: list, large: list) -> LayerFit:
        """New weights for a linear code and the layer behind it; errors are those of that layer's outputs."""
        behind = self.smalls[id(follower)]
        out = self.kept[self.traced.members[id(follower)].made[""]]
        kernel, cut_code, cut_kernel = matrix_of(follower)[:, out], matrix_of(layer), matrix_of(behind)
        x = rows_of(layer, batches, len(cut_code))
        code = rows_of(twin, large, len(cut_code)) @ matrix_of(twin) + bias_of(twin)
        wanted = code @ kernel + np.asarray(bias_of(follower))[out]
        found = (x @ cut_code + bias_of(layer)) @ cut_kernel + bias_of(behind)
        whole, before = np.square(wanted).sum(), np.square(wanted - found).sum()
        centre, middle = x.mean(axis=0), code.mean(axis=0)
        first, second = best_subspace(x - centre, code - middle, kernel, cut_code.shape[1], self.ridge)
        now = np.square((code - middle) @ kernel - (x - centre) @ first @ second).sum()
        if not now < before:
            return self._fit(path, layer, twin, batches, large)
        assign(layer, first, -centre @ first)
        assign(behind, second, wanted.mean(axis=0))
        return LayerFit(path, _relative(before, whole), _relative(now, whole))

    def _fit(self, path: str, layer: Any, twin: Any, batches: list[Any], large: list[Any]) -> LayerFit:
        """New weights for one layer."""
        member, own = self.traced.members[id(twin)], inner_of(layer)
        out = self.kept[member.made[""]]
        prior, bias = matrix_of(own), bias_of(own)
        features, curve = len(prior), curve_of(own)
        value = (lambda z: z) if curve is None else curve.value
        x = rows_of(layer, batches, features)
        y = rows_of(twin, large, features) @ matrix_of(inner_of(twin))[:, out]
        if bias is not None:
            y += np.asarray(bias_of(inner_of(twin)))[out]
        wanted, missing = value(y), y - x @ prior - (0.0 if bias is None else bias)
        whole = np.square(wanted).sum()
        before = _relative(np.square(wanted - value(y - missing)).sum(), whole)
        if _relative(np.square(missing).sum(), np.square(y).sum()) <= _EXACT:
            return LayerFit(path, before, before, "already exact")
        zeros = self.zeros and bool((prior == 0).any()) and bool(prior.any())
        if zeros and features > _WIDEST:
            return LayerFit(path, before, before, f"has zeros to keep and more than {_WIDEST} features")
        centre, offset = (0.0, 0.0) if bias is None else (x.mean(axis=0), missing.mean(axis=0))
        matrix = solved(x - centre, missing - offset, prior, self.ridge, zeros)
        new_bias = None if bias is None else bias + offset - centre @ (matrix - prior)
        if curve is not None and not zeros:
            matrix, new_bias = refined(curve, x, y, (prior, bias), (matrix, new_bias), self.ridge)
        found = value(x @ matrix + (0.0 if new_bias is None else new_bias))
        after = _relative(np.square(wanted - found).sum(), whole)
        if not (np.isfinite(after) and np.isfinite(matrix).all()):
            return LayerFit(path, before, before, "put back: the new weights are not finite")
        assign(own, matrix, new_bias)
        return LayerFit(path, before, after)
