"""From scores to masks: plain functions on arrays.

A mask is a boolean array, True where the weight is kept. The number kept is stated, ties are broken by
position (the earlier weight, in C order, is kept), and nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_aeprune._validation import InputError, fraction

__all__ = ["count_zeros", "keep_top", "keep_top_together"]


def count_zeros(size: int, sparsity: float) -> int:
    """How many of `size` weights are zero: floor(sparsity * size + 1/2), but at least one weight is kept.

    Args:
        size: number of weights, >= 0.
        sparsity: fraction of weights set to zero, 0 <= s <= 1; at exactly 1 nothing is kept.

    Example:
        >>> [count_zeros(10, s) for s in (0.0, 0.25, 0.9, 0.99, 1.0)]
        [0, 3, 9, 9, 10]
    """
    fraction("sparsity", sparsity, high_open=False)
    if sparsity == 1.0:
        return size
    return max(0, min(math.floor(sparsity * size + 0.5), size - 1))


def keep_top(scores: np.ndarray, keep: int) -> np.ndarray:
    """The mask of the `keep` highest scores.

    Args:
        scores: array of any shape, finite.
        keep: how many stay, clipped to 0..scores.size.

    Returns:
        Boolean array of the scores' shape with exactly `keep` True values.

    Raises:
        InputError: if a score is NaN or infinite.

    Example:
        >>> keep_top(np.array([[3.0, 1.0], [1.0, 1.0]]), 2).tolist()
        [[True, True], [False, False]]
    """
    flat = np.ravel(scores)
    if keep >= flat.size:
        return np.ones(np.shape(scores), bool)
    if keep <= 0:
        return np.zeros(np.shape(scores), bool)
    _refuse_non_finite(flat)
    cut = flat.size - keep
    threshold = np.partition(flat, cut)[cut]
    mask = flat > threshold
    missing = keep - int(np.count_nonzero(mask))
    if missing:
        mask[np.flatnonzero(flat == threshold)[:missing]] = True
    return mask.reshape(np.shape(scores))


def keep_top_together(scores: Sequence[np.ndarray], keep: int) -> list[np.ndarray]:
    """Masks of the `keep` highest scores over several arrays, under one threshold.

    Every array keeps at least its best weight, so that no layer is cut off; these count towards `keep`.

    Args:
        scores: arrays of any shapes, finite, on one scale.
        keep: how many stay in all; at least one per non-empty array stays in any case.

    Returns:
        Boolean arrays of the scores' shapes; ties go to the earlier array, then the earlier position.

    Example:
        >>> masks = keep_top_together([np.array([5.0, 4.0, 3.0]), np.array([0.1, 0.2])], 3)
        >>> [mask.tolist() for mask in masks]
        [[True, True, False], [False, True]]
    """
    sizes = [np.size(array) for array in scores]
    if not sum(sizes):
        return [np.ones(np.shape(array), bool) for array in scores]
    flat = np.concatenate([np.ravel(array) for array in scores])
    _refuse_non_finite(flat)
    starts = np.cumsum([0, *sizes])
    best = [
        start + int(np.argmax(flat[start : start + size]))
        for start, size in zip(starts[:-1], sizes, strict=True)
        if size
    ]
    flat[best] = np.inf if np.issubdtype(flat.dtype, np.floating) else np.iinfo(flat.dtype).max
    cut = flat.size - max(keep, len(best))
    if cut <= 0:
        return [np.ones(np.shape(array), bool) for array in scores]
    threshold = np.partition(flat, cut)[cut]
    mask = flat > threshold
    missing = flat.size - cut - int(np.count_nonzero(mask))
    if missing:
        mask[np.flatnonzero(flat == threshold)[:missing]] = True
    parts = np.split(mask, starts[1:-1])
    return [part.reshape(np.shape(array)) for part, array in zip(parts, scores, strict=True)]


def _refuse_non_finite(flat: np.ndarray) -> None:
    # A finite sum proves that all are finite, in one pass without a temporary array.
    if np.isfinite(flat.sum(dtype=np.float64)):
        return
    bad = np.flatnonzero(~np.isfinite(flat))
    if len(bad):
        raise InputError(
            f"scores: got {len(bad)} NaN or infinite values of {flat.size}, allowed: finite ones "
            "(did the training diverge?)"
        )
