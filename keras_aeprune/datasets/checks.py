"""What every source must satisfy before it is split and scaled."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_aeprune._validation import InputError
from keras_aeprune.datasets.readers import Raw
from keras_aeprune.datasets.rows import Rows
from keras_aeprune.datasets.scaling import row_chunks

MIN_SAMPLES = 10
_KINDS = {"b": "bool", "i": "int", "u": "int", "f": "float"}


def check(raw: Raw) -> None:
    """Refuse with one InputError what cannot become checked float32 splits."""
    tested = raw.x_test is not None
    x_name = "x_train" if tested else "data"
    check_values(x_name, raw.x)
    if len(raw.x) < MIN_SAMPLES:
        raise InputError(f"{x_name}: got {len(raw.x)} samples, allowed: at least {MIN_SAMPLES}")
    if raw.x_test is not None:
        check_values("x_test", raw.x_test)
        if raw.x_test.shape[1:] != raw.x.shape[1:]:
            shapes = raw.x_test.shape[1:], raw.x.shape[1:]
            raise InputError(f"x_test: got samples of shape {shapes[0]}, allowed: {shapes[1]} like x_train")
        types = raw.x.dtype, raw.x_test.dtype
        if types[0] != types[1] and (np.uint8 in types or _KINDS[types[0].kind] != _KINDS[types[1].kind]):
            raise InputError(
                f"x_test: got {types[1]} values, allowed: {types[0]} like x_train, so that one scaling fits"
            )
    check_labels("y_train" if tested else "y", raw.y, raw.x)
    check_labels("y_test", raw.y_test, raw.x_test)
    if all((part == raw.x[0].flat[0]).all() for _, part in row_chunks(raw.x)):
        raise same_everywhere(x_name, raw.x[0].flat[0])


def same_everywhere(name: str, value: object) -> InputError:
    """The error for data without any difference; raise what is returned."""
    return InputError(f"{name}: all values are {value}, allowed: at least two different values")


def check_values(name: str, x: np.ndarray) -> None:
    """Refuse values that are no finite numbers, no rows, or too large for float32."""
    check_kind(name, x)
    if x.dtype.kind == "f":
        seen = Seen(name, x.dtype)
        for place, part in row_chunks(x):
            seen.look(place, part)
        seen.refuse()


def check_kind(name: str, x: Rows) -> None:
    """Refuse a type or shape that no sample can have; no value is read."""
    if x.dtype.kind not in _KINDS:
        raise InputError(
            f"{name}: got values of type {x.dtype}, allowed: bool, whole numbers or floats; convert with "
            "x.astype('float32')"
        )
    if 0 in x.shape:
        raise InputError(f"{name}: got an empty array of shape {x.shape}, allowed: at least {MIN_SAMPLES} samples")
    if x.ndim < 2:
        raise InputError(
            f"{name}: got the shape {x.shape}, allowed: (samples, ...) with at least 2 axes; cut a long "
            "series into windows with datasets.windows(x, length=...), or add an axis with x[:, None]"
        )


class Seen:
    """What pieces of one array were found to hold; `look` at all of them, then `refuse`.

    Args:
        name: of the array, in messages.
        dtype: of its values.
    """

    def __init__(self, name: str, dtype: np.dtype):
        self.name = name
        self.dtype = dtype
        self.differs = False
        self._value: Any = None
        self._first: list[int] | None = None
        self._bad, self._largest = 0, 0.0

    def look(self, place: slice, part: np.ndarray) -> None:
        """One piece, whose first row is row `place.start` of the array."""
        if self._value is None:
            self._value = part[0].flat[0]
        if not self.differs:
            self.differs = bool((part != self._value).any())
        if self.dtype.kind != "f":
            return
        wrong = ~np.isfinite(part)
        if wrong.any():
            if self._first is None:
                index = np.unravel_index(int(wrong.argmax()), wrong.shape)
                self._first = [place.start + int(index[0]), *(int(i) for i in index[1:])]
            self._bad += int(wrong.sum())
        elif self.dtype.itemsize > 4:
            self._largest = max(self._largest, float(np.abs(part).max()))

    def refuse(self) -> None:
        """Raise for values that are NaN, infinite or too large for float32."""
        if self._bad:
            raise InputError(
                f"{self.name}: got {self._bad} values that are NaN or infinite, the first at {self._first}, "
                "allowed: finite numbers; drop or fill them"
            )
        if self._largest > float(np.finfo("float32").max):
            raise InputError(
                f"{self.name}: got values up to {self._largest:g}, allowed: what float32 can hold (up to 3.4e38)"
            )

    def refuse_constant(self) -> None:
        """Raise where all values were the same."""
        if not self.differs:
            raise same_everywhere(self.name, self._value)


def check_labels(name: str, y: np.ndarray | None, x: Rows | None) -> None:
    """Refuse labels that are not one number or text for each sample of `x`."""
    if y is None:
        return
    if x is None:
        raise InputError(f"{name}: got labels without samples, allowed: x_test beside y_test")
    if y.dtype.kind not in "biufUS":
        raise InputError(f"{name}: got labels of type {y.dtype}, allowed: numbers or strings; convert with astype")
    if y.ndim < 1 or len(y) != len(x):
        raise InputError(f"{name}: got labels of shape {y.shape}, allowed: one for each of the {len(x)} samples")
