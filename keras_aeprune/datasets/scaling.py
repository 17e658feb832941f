"""How raw values become float32 model inputs, and how they come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError, one_of, refuse

MODES = ("auto", "unit", "standard", "none")
_CHUNK_BYTES = 4 << 20


def row_chunks(x: np.ndarray, rows: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Pieces of x[rows] of a few MB with their place, so that no large temporary copy is ever made."""
    count = len(x) if rows is None else len(rows)
    step = max(1, _CHUNK_BYTES // max(1, 8 * x[:1].size))
    for start in range(0, count, step):
        place = slice(start, min(start + step, count))
        yield place, x[place] if rows is None else x[rows[place]]


@dataclass(frozen=True)
class Scaling:
    """One affine map between raw values and what the model sees; comes from `load`.

    scaled = (raw - offset) / divisor, raw = scaled * divisor + offset

    Args:
        kind: "none", "unit" (one range for all values) or "standard" (mean and standard deviation of each
            feature).
        offset: one number, or one for each feature in the order of the flattened sample.
        divisor: the same for the divisor, never 0.
        output_range: "unit" when the scaled training data lies in [0, 1] (a sigmoid output can reach it),
            else "real" (use a linear output).

    >>> pixels = Scaling("unit", offset=0.0, divisor=255.0, output_range="unit")
    >>> pixels.apply(np.array([[0, 51, 255]], dtype="uint8"))
    array([[0. , 0.2, 1. ]], dtype=float32)
    >>> Scaling.from_dict(pixels.to_dict()) == pixels
    True
    """

    kind: str = "none"
    offset: float | tuple[float, ...] = 0.0
    divisor: float | tuple[float, ...] = 1.0
    output_range: str = "real"

    def __post_init__(self):
        one_of("kind", self.kind, MODES[1:])
        one_of("output_range", self.output_range, ("unit", "real"))
        for name in ("offset", "divisor"):
            value = getattr(self, name)
            numbers = np.asarray(value)
            usable = numbers.dtype.kind in "iuf" and numbers.ndim < 2 and np.isfinite(numbers).all()
            if not usable or (name == "divisor" and not numbers.all()):
                raise refuse(name, value, "a finite number or one for each feature; no divisor is 0")
            object.__setattr__(self, name, tuple(numbers.tolist()) if numbers.ndim else float(numbers))
        if isinstance(self.offset, tuple) != isinstance(self.divisor, tuple) or (
            isinstance(self.offset, tuple) and len(self.offset) != len(self.divisor)
        ):
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
            InputError: `x` has another number of features than this scaling was made for.
        """
        x = np.asarray(x)
        return self._affine(x, rows, lambda part, offset, divisor: (part - offset) / divisor)

    def invert(self, x: np.ndarray) -> np.ndarray:
        """Raw values from scaled ones of shape (n, ...), as float32; the inverse of `apply`."""
        x = np.asarray(x)
        return self._affine(x, None, lambda part, offset, divisor: part * divisor + offset)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values from which `from_dict` makes an equal scaling."""

        def plain(value):
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

    def _affine(self, x, rows, formula):
        out = np.empty((len(x) if rows is None else len(rows), *x.shape[1:]), dtype="float32")
        offset, divisor = np.asarray(self.offset), np.asarray(self.divisor)
        if offset.ndim:
            features = int(np.prod(x.shape[1:]))
            if features != offset.size:
                raise InputError(
                    f"x: got samples of shape {x.shape[1:]} with {features} values, allowed: "
                    f"{offset.size} values, the number of features that this scaling was made for"
                )
            offset, divisor = offset.reshape(x.shape[1:]), divisor.reshape(x.shape[1:])
        elif x.dtype.itemsize < 4:
            # uint8 pixels and half floats fit into float32 exactly, and float32 is twice as fast
            offset, divisor = offset.astype("float32"), divisor.astype("float32")
        for place, part in row_chunks(x, rows):
            out[place] = formula(part.astype(offset.dtype), offset, divisor)
        return out


def fit(x: np.ndarray, rows: np.ndarray, mode: str) -> tuple[Scaling, tuple[str, ...]]:
    """The scaling that `mode` means for the training rows of `x`, and notes on what is worth knowing.

    Args:
        x: raw values of shape (n, ...).
        rows: positions of the training samples in `x`; nothing else is looked at.
        mode: "auto", "unit", "standard" or "none", as in `load`.

    Returns:
        (scaling, notes)
    """
    one_of("scale", mode, MODES)
    low, high = _per_feature_range(x, rows)
    lowest, highest = float(low.min()), float(high.max())
    in_unit = lowest >= 0 and highest <= 1
    if mode == "auto":
        if x.dtype == np.uint8 or x.ndim > 2:
            mode = "unit"
        else:
            mode = "none" if in_unit else "standard"
    if mode == "none":
        return Scaling("none", 0.0, 1.0, "unit" if in_unit else "real"), ()
    if mode == "unit":
        return _unit(x, lowest, highest)
    mean, deviation = _moments(x, rows)
    constant = (low == high).ravel()
    deviation[constant | (deviation == 0)] = 1.0
    notes = ()
    if constant.any():
        count = int(constant.sum())
        notes = (f"{count} of {constant.size} features are constant in the training data; not divided",)
    return Scaling("standard", tuple(mean.tolist()), tuple(deviation.tolist()), "real"), notes


def _unit(x, lowest, highest):
    if x.dtype == np.uint8:
        notes = ()
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


def _per_feature_range(x, rows):
    low = high = None
    for _, part in row_chunks(x, rows):
        part_low, part_high = part.min(axis=0), part.max(axis=0)
        low = part_low if low is None else np.minimum(low, part_low)
        high = part_high if high is None else np.maximum(high, part_high)
    return np.asarray(low), np.asarray(high)


def _moments(x, rows):
    """Mean and standard deviation of each feature (divided by n), in float64 and in two passes."""
    total = 0.0
    for _, part in row_chunks(x, rows):
        total = total + part.reshape(len(part), -1).sum(axis=0, dtype="float64")
    mean = total / len(rows)
    squares = 0.0
    for _, part in row_chunks(x, rows):
        squares = squares + np.square(part.reshape(len(part), -1) - mean).sum(axis=0)
    return mean, np.sqrt(squares / len(rows))
