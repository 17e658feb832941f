"""Zeros by layer from how much each layer's ON/OFF states still tell."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_aeprune import calibration
from keras_aeprune._layers import Weight, fits, weights
from keras_aeprune._validation import InputError, keras_model, refuse
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.entropy import mean_of_changing, state_entropies
from keras_aeprune.sparsity.allocation import Allocation, Bounds, register
from keras_aeprune.sparsity.patterns import Groups

__all__ = ["EntropyAllocation", "entropy_allocation"]


@register("entropy")
class EntropyAllocation(Allocation):
    """Layers whose ReLUs hardly ever switch are emptied first (EGP).

    Use it with criterion "magnitude" to prune and, at high sparsity, to empty whole layers that can then be cut.
    With H[l] the state entropy of the layer behind kernel l in bits and m[l] the mean of its non-zero scores (the
    mean |w| for magnitude),

        R[l] = H[l] * m[l],      share[l] = softmax over l of (sum of all R / R[l])

    of the zeros beyond those that are there already. What does not fit into a kernel is shared by the others in
    the same way. Kernels with R = 0 (their layer is linear already) come last, in proportion to their size. Of
    equal R all get the same number of zeros, whatever their size. Liao et al., "Can unstructured pruning reduce
    the depth in deep neural networks?", 2023, https://arxiv.org/abs/2308.06619.

    Entropies change while layers are pruned, so EGP measures them anew in every round. So do `iterative` and
    `one_shot` for allocation="entropy", and `Prune(..., allocation="entropy", data=x)` at each update of the
    masks: 0.2 s for a dense autoencoder of 784 inputs and 2,048 samples on two cores, some 13 s for the 65 updates
    of a ramp however long the training is. What is zero stays zero. Entropies that are given are not measured
    again.

    Args:
        entropies: {kernel's path, or layer name, path or pattern: H}, 0 <= H <= 1 bit, an entry for every
            kernel; the kernel's own path counts first, then its layer's, then the first entry that fits.
            `entropy_allocation(model, data)` measures them. None: to be measured whenever it is used.

    Raises:
        InputError: for other values; when it is used, for a kernel without an entry, or a negative score.

    Example:
        >>> split = EntropyAllocation({"0": 1.0, "1": 0.25})  # R = 2.5, 0.625; sum / R = 1.25, 5
        >>> masks = split([np.arange(1.0, 5), np.arange(1.0, 5)], 0.25, [0, 0])
        >>> [int((~mask).sum()) for mask in masks]  # shares 0.023 and 0.977
        [0, 2]
    """

    def __init__(self, entropies: Mapping[str, float] | None = None):
        allowed = "{layer path or pattern: 0 <= H <= 1}; entropy_allocation(model, data) measures it"
        if entropies is not None and (not isinstance(entropies, Mapping) or not entropies):
            raise refuse("entropies", entropies, allowed)
        for path, value in (entropies or {}).items():
            number = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
            if not number or not 0 <= value <= 1:
                raise refuse(f"entropies[{path!r}]", value, "a number 0 <= H <= 1, in bits")
        self.entropies = None if entropies is None else {path: float(h) for path, h in entropies.items()}
        self._told = ""

    @property
    def needs_data(self) -> bool:
        return self.entropies is None

    def get_config(self) -> dict[str, Any]:
        return {"entropies": self.entropies}

    def measured(self, model: Any, data: Any, chosen: Sequence[Weight] | None = None) -> Allocation:
        if not self.needs_data:
            return self
        found, text = _measured(model, data, chosen)
        if text and text != self._told:  # once, not at every update of the masks
            self._told = text
            warnings.warn(text, stacklevel=2)
        return EntropyAllocation(found)

    def zeros(self, groups: Sequence[Groups], bounds: Bounds) -> np.ndarray:
        if self.entropies is None:
            raise InputError(
                "allocation 'entropy': got no entropies, allowed: EntropyAllocation({path: H}), "
                "entropy_allocation(model, data), or Prune(..., allocation='entropy', data=x), which measures them"
            )
        found = [self._entropy(g.path) for g in groups]
        missing = [g.path for g, entropy in zip(groups, found, strict=True) if entropy is None]
        if missing:
            raise refuse("entropies", sorted(self.entropies), f"an entry for every kernel; missing: {missing}")
        relevance = np.array([(entropy or 0.0) * _mean(g) for g, entropy in zip(groups, found, strict=True)])
        wanted, high = bounds.low * bounds.costs, bounds.high * bounds.costs
        sizes = np.array([g.size for g in groups], float)
        _fill(wanted, high, relevance, sizes, bounds.total - wanted.sum())
        return bounds.whole(wanted)

    def _entropy(self, path: str) -> float | None:
        known = self.entropies or {}
        for exact in (path, path.rpartition("/")[0]):
            if exact in known:
                return known[exact]
        return next((h for pattern, h in known.items() if fits(path, pattern)), None)


def entropy_allocation(model: keras.Model, data: Any) -> EntropyAllocation:
    """Measures the state entropy of every layer for `EntropyAllocation`.

    H is EGP's: the mean over a layer's units with 0 < P(z > 0) < 1 of the entropy of their ON/OFF state. Layers
    whose outputs have no OFF side (linear codes, sigmoid, recurrent ones) get 1 bit, the largest, so that they
    are not preferred; a warning lists them.

    Args:
        model: a built Keras model.
        data: calibration samples, what `calibration.get` takes; no labels are needed.

    Returns:
        The allocation, for `Prune(..., allocation=...)`.

    Raises:
        InputError: for data that does not fit, or a model in which no layer has an OFF side.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="relu", name="a")])
        >>> model.set_weights([np.eye(2), np.zeros(2)])
        >>> x = np.array([[1, 1], [-1, 1], [-1, 1], [-1, 1]], "float32")  # p = 1/4 and 1
        >>> entropy_allocation(model, x)
        EntropyAllocation(entropies={'a/kernel': 0.811278})
    """
    found, text = _measured(model, data)
    if text:
        warnings.warn(text, stacklevel=2)
    return EntropyAllocation(found)


def _measured(model: Any, data: Any, chosen: Sequence[Weight] | None = None) -> tuple[dict[str, float], str]:
    """{kernel's path: H}, and a line about layers in which it has no meaning, or ""."""
    found = weights(keras_model(model)) if chosen is None else chosen
    kernels = tuple(w for w in found if w.kernel is not None)
    states = state_entropies(Evidence(model, kernels, calibration.get(data)))
    reasons = {w.layer_path: reason for w, (_, reason) in zip(kernels, states, strict=True) if reason}
    listed = "; ".join(f"{path or 'the model'}: {reason}" for path, reason in reasons.items())
    if all(reason for _, reason in states):
        raise InputError(
            f"model {model.name!r}: got no layer whose state has a meaning ({listed or 'no kernels'}), allowed: a "
            "model with ReLU or its kin; use allocation='uniform' or 'erk'"
        )
    text = f"state entropy has no meaning for {listed}; they get 1 bit, the largest" if listed else ""
    pairs = zip(kernels, states, strict=True)
    return {w.path: 1.0 if why else round(mean_of_changing(h), 6) for w, (h, why) in pairs}, text


def _mean(group: Groups) -> float:
    """Mean of the scores that are not zero; 0 without any."""
    scores = np.asarray(group.scores, np.float64)
    if (scores < 0).any():
        raise InputError(
            f"{group.path}: got negative scores, allowed: scores >= 0, which EGP's relevance is a product of; "
            "use criterion='magnitude'"
        )
    some = scores[scores > 0]
    return float(some.mean()) if some.size else 0.0


def _fill(wanted: np.ndarray, high: np.ndarray, relevance: np.ndarray, sizes: np.ndarray, rest: float) -> None:
    """Share `rest` into `wanted`, in place: by softmax among those with room, R = 0 last, by size."""
    some = relevance > 0
    for last in (False, True):
        while rest > 1e-9:
            room = (high - wanted > 1e-9) & (some != last)
            if not room.any():
                break
            share = sizes[room]
            if not last:
                ratio = relevance[some].sum() / relevance[room]
                share = np.exp(ratio - ratio.max())
            part = np.minimum(rest * share / share.sum(), (high - wanted)[room])
            wanted[room] += part
            rest -= math.fsum(part)
