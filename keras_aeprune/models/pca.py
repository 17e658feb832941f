"""PCA, the linear baseline of every autoencoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError, positive_int, refuse

_CHUNK = 4096
_LARGEST = 10_000


@dataclass(frozen=True, eq=False)
class PCA:
    """The best linear autoencoder of each width, solved in closed form; made by `PCA.fit`.

    Use it beside every autoencoder: one that does not beat PCA with as many numbers has learnt nothing
    that needs a network. With m the mean of the training data and V its first k principal directions
    (columns of unit length, largest variance first):

        reconstruction = m + (x - m) V V',  error = mean over samples and features of ((x - m)(I - V V'))^2

    On the training data the error is (1 / features) * sum of variances[k:].

    Args:
        mean: float64, shape (features,).
        directions: float64, shape (features, number kept).
        variances: float64, shape (features,), largest first, divided by n (not n - 1); 0 beyond the rank.
        widths: what `curve` takes by default.

    >>> pca = PCA.fit(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]]))
    >>> [round(pca.mse(np.array([[3.0, 1.0]]), width), 6) for width in (0, 1, 2)]
    [5.0, 0.5, 0.0]
    >>> pca.variances, pca.explained(1)
    (array([4.5, 0.5]), 0.9)
    """

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    widths: tuple[int, ...]

    @classmethod
    def fit(cls, x: np.ndarray, widths: Iterable[int] | None = None) -> PCA:
        """Principal directions of `x`, from one eigendecomposition in float64.

        Deterministic. Where there are fewer samples than features, the decomposition is that of the
        samples' inner products, and there are fewer directions than features: a width beyond them adds
        nothing.

        Args:
            x: training data, shape (n, ...), 2 samples or more, finite; samples with several axes are
                flattened.
            widths: the widths that will be asked for, 0 <= k <= features; only the directions that they
                need are kept. None keeps all.

        Raises:
            InputError: another shape, NaN or infinite values, or more than 10000 samples of more than
                10000 features, which takes too long.
        """
        x = _flat("x", x)
        count, features = x.shape
        if count < 2:
            raise refuse("x", x.shape, "2 samples or more")
        if min(count, features) > _LARGEST:
            raise InputError(
                f"x: got {count} samples of {features} values, allowed: at most {_LARGEST} of one of them; "
                f"give fewer samples, for example x[:{_LARGEST // 2}]"
            )
        wanted = None if widths is None else _widths(widths, features)
        mean = x.mean(axis=0, dtype="float64")
        if not np.isfinite(mean).all():
            raise InputError("x: got NaN or infinite values, allowed: finite numbers; drop or fill them")
        if count >= features:
            variances, directions = _of_covariance(x, mean)
        else:
            variances, directions = _of_samples(x, mean)
        keep = directions.shape[1] if wanted is None else min(max(wanted, default=0), directions.shape[1])
        # the sign of a direction is arbitrary: its largest entry is made positive
        largest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
        directions = directions * np.where(largest < 0, -1.0, 1.0)
        if wanted is None:
            wanted = tuple(range(1, directions.shape[1] + 1))
        return cls(mean, np.ascontiguousarray(directions[:, :keep]), variances, wanted)

    @property
    def features(self) -> int:
        """Number of values in one sample."""
        return self.mean.size

    def reconstruct(self, x: np.ndarray, width: int) -> np.ndarray:
        """`x` after its way through `width` numbers a sample, as float32 of the same shape.

        Args:
            x: shape (n, ...) with as many values a sample as in the training data.
            width: numbers kept for each sample, 0 <= width <= features; 0 gives the mean.
        """
        flat = _flat("x", x, self.features)
        basis = self.directions[:, : self._known(width)]
        out = np.empty(flat.shape, dtype="float32")
        for start in range(0, len(flat), _CHUNK):
            centred = flat[start : start + _CHUNK] - self.mean
            out[start : start + _CHUNK] = self.mean + (centred @ basis) @ basis.T
        return out.reshape(np.shape(x))

    def mse(self, x: np.ndarray, width: int) -> float:
        """Mean squared error of reconstructing `x` from `width` numbers a sample; see `curve`."""
        return float(self.curve(x, [width])[0])

    def errors(self, x: np.ndarray, width: int) -> np.ndarray:
        """Mean squared error of each sample; as an anomaly score it is the baseline of every detector.

        Args:
            x: shape (n, ...), 1 sample or more.
            width: numbers kept for each sample, 0 <= width <= features; 0 gives the distance to the mean.

        Returns:
            float64 array of shape (n,); its mean is `mse(x, width)`.
        """
        flat = _flat("x", x, self.features)
        if not len(flat):
            raise refuse("x", flat.shape, "1 sample or more")
        basis = self.directions[:, : self._known(width)]
        out = np.empty(len(flat))
        for start in range(0, len(flat), _CHUNK):
            centred = flat[start : start + _CHUNK] - self.mean
            out[start : start + _CHUNK] = np.square(centred - (centred @ basis) @ basis.T).mean(axis=1)
        return out

    def curve(self, x: np.ndarray, widths: Iterable[int] | None = None) -> np.ndarray:
        """Mean squared error over samples and features, for each width.

        All widths come from one projection: error(k) = (mean |x - m|^2 - the first k mean squared
        coordinates) / features.

        Args:
            x: shape (n, ...), 1 sample or more.
            widths: 0 <= k <= features each, in any order; None takes those of `fit`.

        Returns:
            float64 array with one error for each width, in their order.
        """
        flat = _flat("x", x, self.features)
        if not len(flat):
            raise refuse("x", flat.shape, "1 sample or more")
        asked = self.widths if widths is None else _widths(widths, self.features)
        known = [self._known(width) for width in asked]
        basis = self.directions[:, : max(known, default=0)]
        total, coordinates = 0.0, np.zeros(basis.shape[1])
        for start in range(0, len(flat), _CHUNK):
            centred = flat[start : start + _CHUNK] - self.mean
            total += np.square(centred).sum()
            coordinates += np.square(centred @ basis).sum(axis=0)
        explained = np.concatenate([[0.0], np.cumsum(coordinates)])[known]
        return np.maximum(total - explained, 0.0) / flat.size

    def explained(self, width: int) -> float:
        """Fraction of the training data's variance that `width` numbers keep, from 0 to 1.

        sum of variances[:width] / sum of variances; 1 for constant data.
        """
        width = positive_int("width", width, minimum=0, maximum=self.features)
        total = self.variances.sum()
        return float(self.variances[:width].sum() / total) if total > 0 else 1.0

    def _known(self, width: Any) -> int:
        """`width`, or the number of directions that the training data has, if that is smaller."""
        width = positive_int("width", width, minimum=0, maximum=self.features)
        kept = self.directions.shape[1]
        if width > kept and kept < np.count_nonzero(self.variances):
            raise refuse("width", width, f"at most {kept}, the largest of the widths that PCA.fit was given")
        return min(width, kept)


def _of_covariance(x: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    covariance = np.zeros((mean.size, mean.size))
    for start in range(0, len(x), _CHUNK):
        centred = x[start : start + _CHUNK] - mean
        covariance += centred.T @ centred
    variances, directions = np.linalg.eigh(covariance / len(x))
    return np.maximum(variances[::-1], 0.0), directions[:, ::-1]


def _of_samples(x: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = x - mean
    squares, coordinates = np.linalg.eigh(centred @ centred.T)
    squares, coordinates = squares[::-1], coordinates[:, ::-1]
    rank = int((squares > squares[0] * mean.size * np.finfo("float64").eps).sum())
    directions = (centred.T @ coordinates[:, :rank]) / np.sqrt(squares[:rank])
    variances = np.zeros(mean.size)
    variances[:rank] = squares[:rank] / len(x)
    return variances, directions


def _flat(name: str, x: Any, features: int | None = None) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim < 2 or x.dtype.kind not in "biuf" or not np.prod(x.shape[1:]):
        raise refuse(name, f"{x.dtype} array of shape {x.shape}", "numbers of shape (samples, ...)")
    flat = x.reshape(len(x), int(np.prod(x.shape[1:])))
    if features not in (None, flat.shape[1]):
        raise refuse(name, x.shape, f"samples of {features} values, like the training data")
    return flat


def _widths(widths: Any, features: int) -> tuple[int, ...]:
    if isinstance(widths, str) or not isinstance(widths, Iterable):
        raise refuse("widths", widths, "whole numbers, for example range(4, 33, 4)")
    return tuple(positive_int("widths", width, minimum=0, maximum=features) for width in widths)
