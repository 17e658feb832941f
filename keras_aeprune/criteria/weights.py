"""Criteria that look at the weights alone."""

from __future__ import annotations

import zlib

import numpy as np

from keras_aeprune._validation import one_of, positive_int
from keras_aeprune.criteria.base import Criterion, register

__all__ = ["Magnitude", "Random"]


@register("magnitude")
class Magnitude(Criterion):
    """|w| (order 1) or w^2 (order 2): small weights go first.

    Both orders rank one kernel alike; they differ where scores are summed over a unit.
    Han et al., "Learning both weights and connections", 2015, https://arxiv.org/abs/1506.02626.

    Args:
        order: 1 or 2.

    Example:
        >>> Magnitude().scores(np.array([[-2.0, 0.5]], "float32"), "dense/kernel").tolist()
        [[2.0, 0.5]]
    """

    def __init__(self, order: int = 1):
        self.order = one_of("order", order, (1, 2))

    def scores(self, kernel: np.ndarray, path: str) -> np.ndarray:
        return np.abs(kernel) if self.order == 1 else np.square(kernel)


@register("random")
class Random(Criterion):
    """Uniform random numbers: the control that every other criterion has to beat.

    The same seed gives the same scores for the same path; weights that are already zero stay last.

    Args:
        seed: whole number >= 0.

    Example:
        >>> a, b = (Random(seed=1).scores(np.ones((2, 2), "float32"), "dense/kernel") for _ in range(2))
        >>> bool((a == b).all())
        True
    """

    def __init__(self, seed: int = 0):
        self.seed = positive_int("seed", seed, minimum=0)

    def scores(self, kernel: np.ndarray, path: str) -> np.ndarray:
        drawn = np.random.default_rng([self.seed, zlib.crc32(path.encode())]).random(kernel.shape, np.float32)
        return np.where(kernel == 0, np.float32(-1), drawn)
