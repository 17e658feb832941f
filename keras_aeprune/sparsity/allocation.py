"""Which layers share the budget: one sparsity for all kernels to one mask per kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_aeprune._validation import one_of
from keras_aeprune.sparsity.masks import count_zeros, keep_top, keep_top_together

__all__ = ["ALLOCATIONS", "get", "global_", "uniform"]

Allocation = Callable[[Sequence[np.ndarray], float, Sequence[int]], list[np.ndarray]]


def uniform(scores: Sequence[np.ndarray], sparsity: float, floors: Sequence[int]) -> list[np.ndarray]:
    """The same fraction of zeros in every kernel.

    Args:
        scores: one array per kernel, higher means keep.
        sparsity: fraction of weights set to zero, 0 <= s < 1.
        floors: zeros that each kernel keeps at least (those it had before).

    Returns:
        One boolean mask per kernel, True where the weight is kept.

    Example:
        >>> masks = uniform([np.array([1.0, 2.0]), np.array([30.0, 40.0])], 0.5, [0, 0])
        >>> [mask.tolist() for mask in masks]
        [[False, True], [False, True]]
    """
    return [
        keep_top(array, array.size - max(count_zeros(array.size, sparsity), floor))
        for array, floor in zip(scores, floors, strict=True)
    ]


def global_(scores: Sequence[np.ndarray], sparsity: float, floors: Sequence[int]) -> list[np.ndarray]:
    """One threshold over all kernels; each keeps at least one weight.

    Arguments and return value as in `uniform`; the floors count together.

    Example:
        >>> masks = global_([np.array([1.0, 2.0]), np.array([30.0, 40.0])], 0.25, [0, 0])
        >>> [mask.tolist() for mask in masks]
        [[False, True], [True, True]]
    """
    size = sum(array.size for array in scores)
    return keep_top_together(scores, size - max(count_zeros(size, sparsity), sum(floors)))


ALLOCATIONS: dict[str, Allocation] = {"global": global_, "uniform": uniform}


def get(name: str) -> Allocation:
    """The allocation of that name."""
    return ALLOCATIONS[one_of("allocation", name, ALLOCATIONS)]
