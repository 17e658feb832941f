"""From scores to masks and from shares to counts: plain functions on arrays.

A mask is a boolean array, True where the weight is kept. The number kept is stated, ties are broken by
position (the earlier weight, in C order, is kept), and nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_aeprune._validation import InputError, fraction

__all__ = [
    "count_zeros",
    "keep_top",
    "keep_top_together",
    "lower_hull",
    "refuse_non_finite",
    "share",
    "whole",
]


def count_zeros(size: int, sparsity: float) -> int:
    """How many of `size` weights are zero: floor(sparsity * size + 1/2), but at least one weight is kept.

    Args:
        size: number of weights, or of groups of them, >= 0.
        sparsity: fraction of weights set to zero, 0 <= s <= 1; at exactly 1 nothing is kept.

    Returns:
        A number from 0 to `size`.

    Raises:
        InputError: if `sparsity` is no such fraction.

    Example:
        >>> [count_zeros(10, s) for s in (0.0, 0.25, 0.9, 0.99, 1.0)]
        [0, 3, 9, 9, 10]
    """
    fraction("sparsity", sparsity, high_open=False)
    if sparsity == 1.0:
        return size
    return max(0, min(math.floor(sparsity * size + 0.5), size - 1))


def keep_top(scores: np.ndarray, keep: int, *, locked: np.ndarray | None = None) -> np.ndarray:
    """The mask of the `keep` highest scores.

    Args:
        scores: array of any shape, finite.
        keep: how many stay, clipped to 0..scores.size.
        locked: boolean array of the scores' shape, True where a score counts as higher than all others;
            None for nowhere.

    Returns:
        Boolean array of the scores' shape with exactly `keep` True values.

    Raises:
        InputError: if a score is NaN or infinite.

    Example:
        >>> keep_top(np.array([[3.0, 1.0], [1.0, 1.0]]), 2).tolist()
        [[True, True], [False, False]]
    """
    flat = np.ravel(scores)
    if 0 < keep < flat.size:
        refuse_non_finite(flat)
        if locked is not None:
            flat = np.where(np.ravel(locked), np.inf, flat)
    return _top(flat, keep).reshape(np.shape(scores))


def _top(flat: np.ndarray, keep: int) -> np.ndarray:
    """`keep_top` of one line of scores, infinities allowed."""
    if keep >= flat.size:
        return np.ones(flat.size, bool)
    if keep <= 0:
        return np.zeros(flat.size, bool)
    mask = flat > (threshold := _threshold(flat, flat.size - keep))
    missing = keep - int(np.count_nonzero(mask))
    if missing:
        mask[np.flatnonzero(flat == threshold)[:missing]] = True
    return mask


def _threshold(flat: np.ndarray, cut: int) -> np.generic:
    """The value at position `cut` of the sorted scores.

    A kernel that is half zeros already has as many equal scores, and `np.partition` is many times slower on equal
    values than on different ones. So the copies of the lowest score are told apart first.
    """
    low = flat.min()
    copies = int(np.count_nonzero(flat == low))
    if cut < copies:
        return low
    if 8 * copies > flat.size and np.isfinite(low):
        flat = np.where(flat > low, flat, low - 1 - np.arange(flat.size, dtype=flat.dtype))
    return np.partition(flat, cut)[cut]


def keep_top_together(
    scores: Sequence[np.ndarray],
    keep: float,
    *,
    low: Sequence[int] | np.ndarray | None = None,
    high: Sequence[int] | np.ndarray | None = None,
    locked: Sequence[np.ndarray | None] | None = None,
    cost: Sequence[float] | np.ndarray | None = None,
) -> list[np.ndarray]:
    """Masks of the highest scores over several arrays, under one threshold.

    Every array keeps at least its best score, so that no layer is cut off; these count towards `keep`.

    Args:
        scores: arrays of any shapes, finite, on one scale.
        keep: what stays in all: a number of scores, or the sum of their costs to within half of one cost.
            The bounds `low` and `high` come first.
        low: how many scores of each array go at least; None for 0.
        high: how many scores of each array go at most; None for all but one.
        locked: per array a boolean array of its shape, True where a score never goes; None for nowhere.
        cost: what one score of each array counts, above 0; None for 1.

    Returns:
        Boolean arrays of the scores' shapes; ties go to the earlier array, then the earlier position.

    Raises:
        InputError: if a score is NaN or infinite.

    Example:
        >>> masks = keep_top_together([np.array([5.0, 4.0, 3.0]), np.array([0.1, 0.2])], 3)
        >>> [mask.tolist() for mask in masks]
        [[True, True, False], [False, True]]
    """
    sizes = [np.size(array) for array in scores]
    if not sum(sizes):
        return [np.ones(np.shape(array), bool) for array in scores]
    flat = np.concatenate([np.ravel(array) for array in scores])
    if not np.issubdtype(flat.dtype, np.floating):
        flat = flat.astype(np.float64)
    refuse_non_finite(flat)
    starts = np.cumsum([0, *sizes])
    low = [0] * len(sizes) if low is None else low
    high = [max(size - 1, 0) for size in sizes] if high is None else high
    for i, (start, size) in enumerate(zip(starts[:-1], sizes, strict=True)):
        if size:
            _bound(flat[start : start + size], low[i], high[i], None if locked is None else locked[i])
    prices = np.ones(len(sizes)) if cost is None else np.asarray(cost, float)
    budget = float(prices @ sizes) - keep
    least, most = int(sum(low)), int(sum(high))
    if np.all(prices == prices[0]):
        drop = math.floor(budget / prices[0] + 0.5)
        mask = _top(flat, flat.size - min(max(drop, least), most))
    else:
        mask = _top_by_cost(flat, np.repeat(prices, sizes), budget, (least, most))
    parts = np.split(mask, starts[1:-1])
    return [part.reshape(np.shape(array)) for part, array in zip(parts, scores, strict=True)]


def _bound(part: np.ndarray, low: int, high: int, locked: np.ndarray | None) -> None:
    """Put what must go at the very bottom and what must stay at the very top, in place."""
    if locked is not None:
        part[np.ravel(locked)] = np.inf
    stays: int | np.ndarray
    if high == part.size - 1:
        stays = int(np.argmax(part))  # one pass, for the common case
    else:
        stays = _top(part, part.size - high)
    goes = ~_top(part, part.size - low) if low else None
    part[stays] = np.inf
    if goes is not None:
        part[goes] = -np.inf


def _top_by_cost(flat: np.ndarray, prices: np.ndarray, budget: float, bounds: tuple[int, int]) -> np.ndarray:
    """Drop the lowest, later ones first among equals, as long as that comes nearer to the budget."""
    order = flat.size - 1 - np.argsort(flat[::-1], kind="stable")
    middle = np.cumsum(prices[order]) - prices[order] / 2
    drop = int(np.searchsorted(middle, budget, side="right"))
    mask = np.ones(flat.size, bool)
    mask[order[: min(max(drop, bounds[0]), bounds[1])]] = False
    return mask


def refuse_non_finite(scores: np.ndarray) -> None:
    """Refuse scores that cannot be ranked.

    Args:
        scores: array of any shape.

    Raises:
        InputError: if a score is NaN or infinite, with how many are.

    Example:
        >>> refuse_non_finite(np.array([1.0, 2.0]))
    """
    good = np.isfinite(scores)
    if not good.all():
        raise InputError(
            f"scores: got {good.size - int(np.count_nonzero(good))} NaN or infinite values of {good.size}, "
            "allowed: finite ones (did the training diverge?)"
        )


def share(rates: np.ndarray, low: np.ndarray, high: np.ndarray, total: float) -> np.ndarray:
    """Split a total in proportion to rates, within bounds: clip(t * rates, low, high) for one t.

    Args:
        rates: one per member, >= 0.
        low: least share of each member.
        high: largest share of each member, >= low.
        total: sum of the shares, between the sums of the bounds.

    Returns:
        The shares, float64.

    Example:
        >>> share(np.array([1.0, 1.0, 2.0]), np.zeros(3), np.array([1.0, 9.0, 9.0]), 10.0).tolist()
        [1.0, 3.0, 6.0]
    """
    some = rates > 0
    if not some.any():
        return low.astype(float)
    knots = np.unique(np.concatenate([low[some] / rates[some], high[some] / rates[some]]))
    sums = np.clip(knots[:, None] * rates, low, high).sum(axis=1)
    t = float(np.interp(total, sums, knots))
    return np.clip(t * rates, low, high)


def whole(
    shares: np.ndarray, costs: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], total: float
) -> np.ndarray:
    """Shares to whole numbers: rounded down, then one more where the remainder is largest.

    Args:
        shares: per member, a number of things, not whole.
        costs: what one thing of each member counts, above 0.
        bounds: (low, high), whole numbers of things per member.
        total: what all things together shall count; met to half of one cost where the bounds allow it.

    Returns:
        Whole numbers, low <= n <= high.

    Example:
        >>> whole(np.array([1.5, 2.75]), np.ones(2), (np.zeros(2, int), np.array([9, 9])), 4.0).tolist()
        [1, 3]
    """
    low, high = bounds
    counts = np.clip(np.floor(shares + 1e-9).astype(int), low, high)
    rest = total - float(costs @ counts)
    order = np.argsort(counts - shares, kind="stable")
    given = True
    while given:
        given = False
        for i in order:
            if counts[i] < high[i] and rest >= costs[i] / 2 - 1e-6:
                counts[i] += 1
                rest -= costs[i]
                given = True
    return counts


def lower_hull(points: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The lower convex hull of (x, y) points that are sorted by x.

    Example:
        >>> lower_hull([(0, 0), (1, 5), (2, 2), (3, 6)])
        [(0, 0), (2, 2), (3, 6)]
    """
    hull: list[Sequence[float]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull
