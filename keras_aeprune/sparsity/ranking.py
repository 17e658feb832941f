"""Weights that are masked rank below all others, whatever a criterion says of zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_aeprune.criteria import Magnitude, Random

__all__ = ["masked_last"]

_BY_THEMSELVES = (Magnitude, Random)  # they give zeros their lowest score


def masked_last(criterion: Any, scores: list[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scores in which every masked weight is below every weight that is kept, over all kernels.

    A weight that is zero already has nothing to lose; with a score of its own (entropy, activations) or a tie (a
    dead unit's gradient is 0) it would take the place of one that still works. It gets 0 if all others are above
    that, and a little less than the lowest one else.

    Args:
        criterion: that made the scores; "magnitude" and "random" see to it by themselves.
        scores: one float32 array per kernel, finite.
        masks: boolean arrays of the same shapes, True where a weight is kept.

    Returns:
        The scores, in new arrays where a weight is masked.

    Example:
        >>> masked_last(None, [np.array([5.0, 2.0, 1.0])], [np.array([False, True, True])])[0].tolist()
        [0.0, 2.0, 1.0]
    """
    if type(criterion) in _BY_THEMSELVES:
        return scores
    whole = [bool(mask.all()) for mask in masks]
    if all(whole):
        return scores
    lows, highs = [], []
    for array, mask, full in zip(scores, masks, whole, strict=True):
        kept = array if full else array[mask]
        if kept.size:
            lows.append(float(kept.min()))
            highs.append(float(kept.max()))
    below = _below(min(lows), max(highs)) if lows else 0.0
    return [
        array if full else np.where(mask, array, array.dtype.type(below))
        for array, mask, full in zip(scores, masks, whole, strict=True)
    ]


def _below(low: float, high: float) -> float:
    """A number that is below `low` also after means over blocks of equal numbers have been rounded."""
    if low > 1e-30:
        return 0.0
    return max(low - max(1e-3 * (high - low), 1e-5 * abs(low), 1e-30), float(np.finfo(np.float32).min))
