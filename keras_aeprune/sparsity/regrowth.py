"""Weights that may grow again while as many others go: SET and RigL."""

from __future__ import annotations

import math
import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._registry import Registry
from keras_aeprune._validation import InputError, fraction, positive_int, shown
from keras_aeprune.sparsity.masks import keep_top

__all__ = ["SET", "Regrowth", "RigL", "exchange", "get"]


def exchange(kernel: np.ndarray, mask: np.ndarray, count: int, growth: np.ndarray) -> np.ndarray:
    """The mask after `count` weights were dropped and as many grown.

    Dropped are the kept weights of smallest magnitude; grown are the best candidates among all weights that are
    masked then, those just dropped included. Ties go by position. The number kept does not change.

    Args:
        kernel: the weights.
        mask: True where a weight is kept.
        count: how many to exchange, 0 <= count <= kept.
        growth: scores of the kernel's shape, >= 0 and finite, higher means grow first.

    Example:
        >>> kernel, mask = np.array([0.1, 0.9, 0.0, 0.0]), np.array([True, True, False, False])
        >>> exchange(kernel, mask, 1, np.array([0.0, 0.0, 1.0, 2.0])).tolist()
        [False, True, False, True]
    """
    kept = int(np.count_nonzero(mask))
    stay = keep_top(np.where(mask, np.abs(kernel), -1.0), kept - count)
    grown = keep_top(np.where(stay, -1.0, growth), count)
    return stay | grown


class Regrowth:
    """Base class: when weights are exchanged, how many, and which grow."""

    def due(self, before: int, now: int, total: int | None) -> bool:
        """Whether an exchange falls into the steps from `before` (exclusive) to `now`."""
        raise NotImplementedError

    def count(self, kept: int, step: int, total: int | None) -> int:
        """How many of `kept` weights are exchanged after `step` updates."""
        raise NotImplementedError

    def growth(self, model: Any, variables: list[Any], paths: list[str], step: int) -> list[np.ndarray]:
        """Scores >= 0 of each kernel's shape, higher means grow first."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={shown(v, 30)}' for k, v in self.get_config().items())})"


_registry: Registry[Regrowth] = Registry("regrowth", Regrowth)
register = _registry.register
get = _registry.get


def _every(frequency: int, before: int, now: int) -> bool:
    return now // frequency > before // frequency


@register("set")
class SET(Regrowth):
    """Drop the smallest weights every so often and grow as many at random places.

    Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity", 2018,
    https://arxiv.org/abs/1707.04780.

    Args:
        fraction: of the kept weights that are exchanged each time, 0 < f < 1.
        frequency: optimizer updates between two exchanges, >= 1.
        seed: whole number >= 0; the same seed, step and kernel grow the same weights.

    Example:
        >>> SET(fraction=0.3).count(100, step=100, total=None)
        30
    """

    def __init__(self, fraction: float = 0.3, frequency: int = 100, seed: int = 0):
        self.fraction = _share(fraction)
        self.frequency = positive_int("frequency", frequency)
        self.seed = positive_int("seed", seed, minimum=0)

    def due(self, before: int, now: int, total: int | None) -> bool:
        return _every(self.frequency, before, now)

    def count(self, kept: int, step: int, total: int | None) -> int:
        return math.floor(self.fraction * kept)

    def growth(self, model: Any, variables: list[Any], paths: list[str], step: int) -> list[np.ndarray]:
        return [
            np.random.default_rng([self.seed, step, zlib.crc32(path.encode())]).random(tuple(variable.shape))
            for variable, path in zip(variables, paths, strict=True)
        ]


@register("rigl")
class RigL(Regrowth):
    """Drop the smallest weights every so often and grow those with the largest gradient.

    With t the step and T = until * total, the fraction exchanged is fraction / 2 * (1 + cos(pi t / T)), and
    nothing after T. Evci et al., "Rigging the lottery", 2020, https://arxiv.org/abs/1911.11134.

    Args:
        data: inputs x for an autoencoder, else (x, y): where gradients of the compiled loss are taken.
        fraction: of the kept weights exchanged at the start, 0 < f < 1.
        until: fraction of the training after which nothing is exchanged, 0 < u <= 1.
        frequency: optimizer updates between two exchanges, >= 1.
        batch_size: samples of `data` per gradient, drawn by step and seed.
        seed: whole number >= 0.

    Example:
        >>> rigl = RigL(np.zeros((4, 2)), fraction=0.3, until=0.75)
        >>> [rigl.count(1000, step, total=100) for step in (0, 25, 75)]
        [300, 225, 0]
    """

    def __init__(
        self,
        data: Any = None,
        *,
        fraction: float = 0.3,
        until: float = 0.75,
        frequency: int = 100,
        batch_size: int = 512,
        seed: int = 0,
    ):
        if data is None:
            raise InputError(
                "RigL: got no data, allowed: RigL(x) or RigL((x, y)), the samples on which gradients are taken"
            )
        self.data = data
        self.fraction = _share(fraction)
        self.until = _until(until)
        self.frequency = positive_int("frequency", frequency)
        self.batch_size = positive_int("batch_size", batch_size)
        self.seed = positive_int("seed", seed, minimum=0)

    def due(self, before: int, now: int, total: int | None) -> bool:
        return _every(self.frequency, before, now) and (total is None or now <= self.until * total)

    def count(self, kept: int, step: int, total: int | None) -> int:
        past = 0.0 if total is None else min(step / (self.until * total), 1.0)
        return math.floor(self.fraction / 2 * (1 + math.cos(math.pi * past)) * kept + 1e-9)

    def growth(self, model: Any, variables: list[Any], paths: list[str], step: int) -> list[np.ndarray]:
        x, y = self.data if isinstance(self.data, tuple) else (self.data, self.data)
        rows = np.random.default_rng([self.seed, step]).permutation(len(x))[: self.batch_size]
        x, y = (keras.ops.convert_to_tensor(np.asarray(part)[rows]) for part in (x, y))
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=False), training=False)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        return [np.abs(tf.convert_to_tensor(gradient).numpy()) for gradient in gradients]


def _share(value: float) -> float:
    return fraction("fraction", value, low_open=True)


def _until(value: float) -> float:
    return fraction("until", value, low_open=True, high_open=False)
