"""Which rows are drawn: seeded, without replacement, and as many of each class as there are of the others."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["classes_of", "quotas", "rows"]


def classes_of(y: Any) -> np.ndarray | None:
    """The class of each sample, shape (n,), or None where `y` holds no classes but targets.

    Classes are whole numbers, bools or texts of shape (n,) or (n, 1), and rows with a single 1 among zeros
    (one-hot), whose class is its place.

    >>> classes_of(np.array([[0.0, 1.0], [1.0, 0.0]])).tolist(), classes_of(np.array([0.5, 2.0]))
    ([1, 0], None)
    """
    if y is None:
        return None
    y = np.asarray(y)
    if y.dtype.kind in "biuUS" and (y.ndim == 1 or y.shape[1:] == (1,)):
        return y.reshape(-1)
    if y.dtype.kind in "biuf" and y.ndim == 2 and y.shape[1] >= 2:
        one_hot = bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())
        return y.argmax(axis=1) if one_hot else None
    return None


def quotas(counts: np.ndarray, total: int, generator: np.random.Generator) -> np.ndarray:
    """How many of each class: equally many as far as they go, the remainder to classes drawn at random.

    Args:
        counts: samples that each class has, >= 0.
        total: samples that are wanted, 0 <= total <= counts.sum().
        generator: decides who gets the remainder.

    >>> quotas(np.array([9, 2, 9]), 12, np.random.default_rng(0)).tolist()
    [5, 2, 5]
    """
    counts = np.asarray(counts)
    low, high = 0, int(counts.max(initial=0))
    while low < high:  # the highest level that all classes can be filled up to
        level = (low + high + 1) // 2
        if np.minimum(counts, level).sum() <= total:
            low = level
        else:
            high = level - 1
    chosen = np.minimum(counts, low)
    open_ones = np.flatnonzero(counts > low)
    extra = generator.permutation(open_ones)[: total - int(chosen.sum())]
    chosen[extra] += 1
    return chosen


def rows(classes: np.ndarray | None, count: int, samples: int, generator: np.random.Generator) -> np.ndarray:
    """`samples` different positions among `count`, in random order, balanced over `classes` unless None."""
    order = generator.permutation(count)
    if classes is None:
        return order[:samples]
    _, group, counts = np.unique(classes, return_inverse=True, return_counts=True)
    wanted = quotas(counts, samples, generator)
    order = order[np.argsort(group[order], kind="stable")]
    place_in_class = np.arange(count) - np.repeat(np.cumsum(counts) - counts, counts)
    return generator.permutation(order[place_in_class < np.repeat(wanted, counts)])
