"""A Gaussian fitted to codes or activations, that can be drawn from whatever their number is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Gaussian", "shrinkage"]

_ROWS = 2048  # codes that a fit uses at most; more do not move a mean or a covariance


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, covariance) with covariance = (1 - a) S + a trace(S) / d I, a from `shrinkage`.

    S is the covariance of the codes with divisor n. It is held as the codes themselves, so that a feature map with
    thousands of values costs no more than they do: (1 - a) S = factor' factor.

    Args:
        mean: shape (d,).
        factor: shape (n, d).
        noise: sqrt(a trace(S) / d).
        low: smallest code on each axis, shape (d,).
        high: largest code on each axis, shape (d,).

    >>> codes = np.random.default_rng(0).normal(3.0, 2.0, (500, 2))
    >>> drawn = Gaussian.fit(codes).draw(2000, np.random.default_rng(1))
    >>> drawn.mean(axis=0).round().tolist(), drawn.std(axis=0).round().tolist()
    ([3.0, 3.0], [2.0, 2.0])
    """

    mean: np.ndarray
    factor: np.ndarray
    noise: float
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fit(cls, codes: np.ndarray) -> Gaussian:
        """The Gaussian of codes of shape (n, d), n >= 1; of more than 2048, of as many spread over all."""
        low, high = codes.min(axis=0), codes.max(axis=0)
        if len(codes) > _ROWS:
            codes = codes[np.linspace(0, len(codes) - 1, _ROWS).round().astype(int)]
        codes = codes.astype("float64")
        mean = codes.mean(axis=0)
        away = codes - mean
        weight = shrinkage(away)
        variance = np.square(away).sum() / away.size
        factor = away * np.sqrt((1 - weight) / len(away))
        return cls(mean, factor, float(np.sqrt(weight * variance)), low, high)

    def draw(self, n: int, generator: np.random.Generator, clip: bool = False) -> np.ndarray:
        """n codes, float32, shape (n, d); with `clip` none lies outside the range of the fitted ones."""
        codes = self.mean + generator.standard_normal((n, len(self.factor))) @ self.factor
        if self.noise:
            codes += self.noise * generator.standard_normal(codes.shape)
        if clip:
            np.clip(codes, self.low, self.high, out=codes)
        return codes.astype("float32")


def shrinkage(away: np.ndarray) -> float:
    """Ledoit and Wolf's weight of the identity in the covariance of `away`, 0 <= a <= 1.

        a = min(1, ((1 / n) sum |x_k|^4 - |S|^2) / (n |S - m I|^2)),  m = trace(S) / d, |.| Frobenius' norm

    Ledoit and Wolf 2004, https://doi.org/10.1016/S0047-259X(03)00096-4.

    Args:
        away: centred codes, shape (n, d), n >= 1.

    >>> shrinkage(np.zeros((3, 2)))
    0.0
    """
    count, width = away.shape
    lengths = np.square(away).sum(axis=1)
    product = away @ away.T if count < width else away.T @ away  # both have the same norm
    squared = np.square(product).sum() / count**2
    spread = squared - (lengths.sum() / count) ** 2 / width
    error = (np.square(lengths).mean() - squared) / count
    if spread <= 1e-12 * squared:
        return 0.0 if error <= 1e-12 * squared else 1.0
    return float(np.clip(error / spread, 0.0, 1.0))
