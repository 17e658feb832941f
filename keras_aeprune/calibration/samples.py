"""Calibration samples in memory, from whatever the caller has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError, positive_int, refuse
from keras_aeprune.calibration.drawing import classes_of, rows
from keras_aeprune.calibration.reading import read

__all__ = ["Calibration", "get"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Samples in memory, with labels or targets where there are any.

    Args:
        x: model inputs, shape (n, ...), float32, n >= 1.
        y: labels or targets, n of them; None for an autoencoder, whose target is x.
        source: how they came about, for tables: "real", "vae", ...

    Example:
        >>> samples = Calibration(np.zeros((600, 4), "float32"))
        >>> len(samples), [len(x) for x, target in samples.batches()], samples.source
        (600, [256, 256, 88], 'real')
    """

    x: np.ndarray
    y: np.ndarray | None = None
    source: str = "real"

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(x, target) in order, the last one perhaps smaller; the target is x where there is no y."""
        for start in range(0, len(self.x), size):
            part = slice(start, start + size)
            yield self.x[part], self.x[part] if self.y is None else self.y[part]


def get(data: Any, *, samples: int | None = None, seed: int = 0, balanced: bool = True) -> Calibration:
    """Calibration samples from arrays, datasets and streams of batches.

    Use it wherever a criterion, an exporter or a source of generated samples needs representative inputs; a few
    hundred are usually enough. The draw is seeded and without replacement. With `balanced` and labels that are
    classes (whole numbers, texts or one-hot rows) every class gives equally many samples as far as they go; a
    remainder goes to classes drawn at random:

        number of class c = min(n_c, t) or one more, with one t for all classes

    Pairs (x, x) of an autoencoder, the same object or equal values, come back with y=None.

    What is read: of arrays and of a `datasets.Dataset` only the rows that are drawn. Of a PyDataset, batches in
    an order drawn by the seed; of a tf.data.Dataset, a `datasets.Stream` and a generator, batches from the
    first on, so shuffle a sorted one. Reading stops as soon as there are enough: `samples` of them, or 4 times
    as many where classes are balanced. Generators and iterators are used up as far as they are read.

    Args:
        data: an array of shape (n, ...) with one sample a row; a tuple (x, y); a `datasets.Dataset` (its
            training split); a `datasets.Stream` (its training batches); a tf.data.Dataset of x or (x, y),
            batched or not; a keras.utils.PyDataset; a generator or iterable of batches of x or (x, y); a
            `Calibration`.
        samples: at most how many, >= 1; all there are where they are fewer. None takes all, in the order given;
            endless data needs a number.
        seed: of the draw, a whole number >= 0.
        balanced: whether the classes count; False draws from all samples alike.

    Returns:
        A `Calibration` with float32 `x`; `y` keeps its type. Drawn samples come in random order, so that
        every batch of them is like the whole.

    Raises:
        InputError: other data, no samples, NaN, infinite values or what float32 cannot hold, labels that are not
            one for each sample, endless data without `samples`.

    >>> x, y = np.arange(20.0).reshape(10, 2), np.array([0] * 8 + [1] * 2)
    >>> drawn = get((x, y), samples=4)
    >>> drawn.x.shape, drawn.x.dtype, np.bincount(drawn.y).tolist()
    ((4, 2), dtype('float32'), [2, 2])
    >>> get((x, x)).y is None
    True
    """
    if samples is not None:
        samples = positive_int("samples", samples)
    seed = positive_int("seed", seed, minimum=0)
    if not isinstance(balanced, bool | np.bool_):
        raise refuse("balanced", balanced, "True or False")
    generator = np.random.default_rng(seed)
    source = "real"
    if isinstance(data, Calibration):
        if samples is None or samples >= len(data):
            return data
        x, y, source = data.x, data.y, data.source
    else:
        x, y = read(data, samples, bool(balanced), generator)
    _check_shapes(x, y)
    if y is not None and _equal(x, y):
        y = None
    if samples is not None and samples < len(x):
        chosen = rows(classes_of(y) if balanced else None, len(x), samples, generator)
        x, y = x[chosen], None if y is None else y[chosen]
    return Calibration(_finite_float32(x), _finite_targets(y), source)


def _check_shapes(x: np.ndarray, y: np.ndarray | None) -> None:
    if x.dtype.kind not in "biuf" or x.ndim < 2 or not x.size:
        hint = "; x[None] for a single sample, x[:, None] for one value a sample" if x.ndim == 1 and x.size else ""
        raise refuse("data", f"{x.dtype} array of shape {x.shape}", f"numbers of shape (n, ...), n >= 1{hint}")
    if y is None:
        return
    if y.dtype.kind not in "biufUS" or not y.ndim or len(y) != len(x):
        received = f"{len(x)} samples, {y.dtype} labels of shape {y.shape}"
        raise refuse("data", received, "one label or target for each sample, numbers or texts")


def _equal(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether the targets are the inputs; the first rows settle it for most data."""
    if x is y:
        return True
    return x.shape == y.shape and np.array_equal(x[:1], y[:1]) and np.array_equal(x, y)


def _finite_float32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite and is refused below
        found = np.ascontiguousarray(x, dtype="float32")
    finite = np.isfinite(found)
    if not finite.all():
        row = int(np.flatnonzero(~finite.reshape(len(found), -1).all(axis=1))[0])
        raise InputError(
            f"data: got NaN, infinite or larger values than float32 holds (sample {row} of those drawn), "
            "allowed: finite numbers; drop or fill them"
        )
    return found


def _finite_targets(y: np.ndarray | None) -> np.ndarray | None:
    if y is not None and y.dtype.kind == "f" and not np.isfinite(y).all():
        raise InputError("data: got NaN or infinite targets y, allowed: finite numbers; drop or fill them")
    return y
