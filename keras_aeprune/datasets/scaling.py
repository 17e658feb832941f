"""How raw values become float32 model inputs, and how they come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError, one_of, refuse
from keras_aeprune.datasets.rows import Rows

MODES = ("auto", "unit", "standard", "none")
_CHUNK_BYTES = 4 << 20


def row_chunks(x: Rows, rows: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Pieces of x[rows] of a few MB with their place, so that no large temporary copy is ever made."""
    count = len(x) if rows is None else len(rows)
    step = max(1, _CHUNK_BYTES // max(1, 8 * x[:1].size))
    for start in range(0, count, step):
        place = slice(start, min(start + step, count))
        yield place, x[place] if rows is None else x[rows[place]]


@dataclass(frozen=True)
class Scaling:
    """One affine map between raw values and what the model sees; comes from `load`, `windows` or `stream`.

    scaled = (raw - offset) / divisor, raw = scaled * divisor + offset

    Args:
        kind: "none", "unit" (one range for all values, or one for each channel) or "standard" (mean and
            standard deviation of each feature or channel).
        offset: one number; or one for each feature in the order of the flattened sample; or one for each
            place on the sample's last axis (channels), the same at all other places.
        divisor: the same for the divisor, never 0.
        output_range: "unit" when the scaled training data lies in [0, 1] (a sigmoid output can reach it),
            else "real" (use a linear output).

    >>> pixels = Scaling("unit", offset=0.0, divisor=255.0, output_range="unit")
    >>> pixels.apply(np.array([[0, 51, 255]], dtype="uint8"))
    array([[0. , 0.2, 1. ]], dtype=float32)
    >>> Scaling.from_dict(pixels.to_dict()) == pixels
    True
    >>> channels = Scaling("standard", offset=(1.0, 20.0), divisor=(1.0, 10.0))
    >>> channels.apply(np.array([[[1, 20], [2, 40], [3, 60]]])).tolist()  # one window of 3 steps
    [[[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]]
    """

    kind: str = "none"
    offset: float | tuple[float, ...] = 0.0
    divisor: float | tuple[float, ...] = 1.0
    output_range: str = "real"

    def __post_init__(self) -> None:
        one_of("kind", self.kind, MODES[1:])
        one_of("output_range", self.output_range, ("unit", "real"))
        for name in ("offset", "divisor"):
            value = getattr(self, name)
            numbers = np.asarray(value)
            usable = numbers.dtype.kind in "iuf" and numbers.ndim < 2 and np.isfinite(numbers).all()
            if not usable or (name == "divisor" and not numbers.all()):
                raise refuse(name, value, "a finite number or one for each feature; no divisor is 0")
            object.__setattr__(self, name, tuple(numbers.tolist()) if numbers.ndim else float(numbers))
        if np.shape(self.offset) != np.shape(self.divisor):
            raise InputError("offset and divisor: allowed: two numbers, or two tuples of the same length")

    def apply(self, x: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Scaled float32 copy of raw `x`.

        Args:
            x: raw values of shape (n, ...), any numeric type.
            rows: positions to take from `x`, in this order; None takes all.

        Returns:
            float32 array of shape (n or len(rows), ...). Values outside the range of the training data are
            not clipped.

        Raises:
            InputError: neither the whole sample nor its last axis has as many values as this scaling.
        """
        x = np.asarray(x)
        return self._affine(x, rows, lambda part, offset, divisor: (part - offset) / divisor)

    def invert(self, x: np.ndarray) -> np.ndarray:
        """Raw values from scaled ones of shape (n, ...), as float32; the inverse of `apply`."""
        x = np.asarray(x)
        return self._affine(x, None, lambda part, offset, divisor: part * divisor + offset)

    def arrays(self, sample_shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(offset, divisor) as float64 arrays that broadcast against samples of this shape.

        Args:
            sample_shape: without the batch axis. Several numbers belong to the flattened sample where it has
                as many values, else to its last axis.

        Raises:
            InputError: neither fits.

        >>> Scaling("standard", (1.0, 2.0), (1.0, 1.0)).arrays((5, 2))[0].shape
        (2,)
        """
        shape = tuple(sample_shape)
        offset, divisor = np.asarray(self.offset), np.asarray(self.divisor)
        features = int(np.prod(shape))
        if not offset.ndim or (offset.size != features and shape and offset.size == shape[-1]):
            return offset, divisor
        if offset.size != features:
            raise InputError(
                f"x: got samples of shape {shape} with {features} values, allowed: {offset.size} values in a "
                f"sample, or {offset.size} on its last axis, which is what this scaling was made for"
            )
        return offset.reshape(shape), divisor.reshape(shape)

    def constants(self, x: Rows) -> tuple[np.ndarray, np.ndarray]:
        """`arrays` for the samples of `x`, in the float type that `apply` computes with."""
        offset, divisor = self.arrays(x.shape[1:])
        if not offset.ndim and x.dtype.itemsize < 4:
            # uint8 pixels and half floats fit into float32 exactly, and float32 is twice as fast
            return offset.astype("float32"), divisor.astype("float32")
        return offset, divisor

    def flattened(self, sample_shape: Sequence[int]) -> Scaling:
        """The same map for samples of this shape that were flattened to vectors.

        >>> Scaling("standard", (1.0, 2.0), (1.0, 4.0)).flattened((3, 2)).divisor
        (1.0, 4.0, 1.0, 4.0, 1.0, 4.0)
        """
        if not isinstance(self.offset, tuple):
            return self
        shape = tuple(sample_shape)
        offset, divisor = (np.broadcast_to(value, shape).ravel().tolist() for value in self.arrays(shape))
        return replace(self, offset=tuple(offset), divisor=tuple(divisor))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values from which `from_dict` makes an equal scaling."""

        def plain(value: float | tuple[float, ...]) -> float | list[float]:
            return list(value) if isinstance(value, tuple) else value

        return {
            "kind": self.kind,
            "offset": plain(self.offset),
            "divisor": plain(self.divisor),
            "output_range": self.output_range,
        }

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Scaling:
        """The scaling that `to_dict` described."""
        known = set(cls.__dataclass_fields__)
        if not isinstance(config, dict) or set(config) != known:
            raise InputError(f"scaling: got {config!r}, allowed: a dict with the keys {', '.join(sorted(known))}")
        return cls(**config)

    def _affine(
        self,
        x: np.ndarray,
        rows: np.ndarray | None,
        formula: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        out = np.empty((len(x) if rows is None else len(rows), *x.shape[1:]), dtype="float32")
        offset, divisor = self.constants(x)
        for place, part in row_chunks(x, rows):
            out[place] = formula(part.astype(offset.dtype), offset, divisor)
        return out


@dataclass(frozen=True, eq=False)
class Survey:
    """What one pass over the data tells about each feature of the training samples.

    Args:
        low: smallest value of each feature, the shape of a sample.
        high: largest value.
        total: sum in float64, flattened; 0 where no mean is needed.
    """

    low: np.ndarray
    high: np.ndarray
    total: np.ndarray


def survey(
    x: Rows,
    rows: np.ndarray,
    mode: str,
    inspect: Callable[[slice, np.ndarray], None] | None = None,
) -> Survey:
    """The first pass of `fit`: `x` is read once, from its first row to its last.

    Args:
        x: raw values of shape (n, ...), an array or something that is sliced like one.
        rows: positions of the training samples, each once, in any order.
        mode: as for `fit`.
        inspect: called with (place, values) of every piece of `x`, before it is used.
    """
    one_of("scale", mode, MODES)
    wants_mean = mode == "standard" or (mode == "auto" and not _unit_by_default(x))
    low = high = None
    total: np.ndarray | float = 0.0
    for part in _chosen(x, rows, inspect):
        part_low, part_high = part.min(axis=0), part.max(axis=0)
        low = part_low if low is None else np.minimum(low, part_low)
        high = part_high if high is None else np.maximum(high, part_high)
        if wants_mean:
            total = total + part.reshape(len(part), -1).sum(axis=0, dtype="float64")
    return Survey(np.asarray(low), np.asarray(high), np.asarray(total))


def fit(
    x: Rows, rows: np.ndarray, mode: str, *, each: bool = False, seen: Survey | None = None
) -> tuple[Scaling, tuple[str, ...]]:
    """The scaling that `mode` means for the training rows of `x`, and notes on what is worth knowing.

    Args:
        x: raw values of shape (n, ...), an array or something that is sliced like one.
        rows: positions of the training samples in `x`, each once; nothing else is looked at.
        mode: "auto", "unit", "standard" or "none", as in `load`.
        each: whether "unit" takes one range for each feature; False takes one for all.
        seen: what `survey(x, rows, mode)` returned, where that was done already.

    Returns:
        (scaling, notes)
    """
    seen = survey(x, rows, mode) if seen is None else seen
    lowest, highest = float(seen.low.min()), float(seen.high.max())
    in_unit = lowest >= 0 and highest <= 1
    if mode == "auto":
        if _unit_by_default(x):
            mode = "unit"
        else:
            mode = "none" if in_unit else "standard"
    if mode == "none":
        return Scaling("none", 0.0, 1.0, "unit" if in_unit else "real"), ()
    if mode == "unit" and (not each or x.dtype == np.uint8 or lowest == highest):
        return _unit(x, lowest, highest)
    constant = (seen.low == seen.high).ravel()
    offset: np.ndarray
    divisor: np.ndarray
    if mode == "unit":
        offset = seen.low.ravel().astype("float64")
        divisor = seen.high.ravel().astype("float64") - offset
    else:
        offset = seen.total / len(rows)
        divisor = _deviation(x, rows, offset)
    divisor[constant | (divisor == 0)] = 1.0
    notes: tuple[str, ...] = ()
    if constant.any():
        count = int(constant.sum())
        notes = (f"{count} of {constant.size} features are constant in the training data; not divided",)
    kind_of_output = "unit" if mode == "unit" else "real"
    return Scaling(mode, tuple(offset.tolist()), tuple(divisor.tolist()), kind_of_output), notes


def _unit_by_default(x: Rows) -> bool:
    return x.dtype == np.uint8 or x.ndim > 2


def _unit(x: Rows, lowest: float, highest: float) -> tuple[Scaling, tuple[str, ...]]:
    if x.dtype == np.uint8:
        notes: tuple[str, ...] = ()
        if highest < 128:
            notes = (
                f"uint8 values are divided by 255, but the largest is {highest:.0f}; give "
                "x.astype('float32') with scale='unit' to use the whole range",
            )
        return Scaling("unit", 0.0, 255.0, "unit"), notes
    if lowest == highest:
        raise InputError(
            f"data: all values of the training split are {lowest:g}, allowed: at least two different values"
        )
    return Scaling("unit", lowest, highest - lowest, "unit"), ()


def _chosen(
    x: Rows, rows: np.ndarray, inspect: Callable[[slice, np.ndarray], None] | None = None
) -> Iterator[np.ndarray]:
    """The given rows in pieces and in the order of `x`, so that a file is read from its start to its end."""
    wanted = np.zeros(len(x), dtype=bool)
    wanted[rows] = True
    for place, part in row_chunks(x):
        if inspect is not None:
            inspect(place, part)
        here = wanted[place]
        if here.any():
            yield part if here.all() else part[here]


def _deviation(x: Rows, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Standard deviation of each feature (divided by n) in float64, by a second pass around the mean."""
    squares: np.ndarray | float = 0.0
    for part in _chosen(x, rows):
        squares = squares + np.square(part.reshape(len(part), -1) - mean).sum(axis=0)
    return np.asarray(np.sqrt(squares / len(rows)))
