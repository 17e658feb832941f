"""What every source must satisfy before it is split and scaled."""

from __future__ import annotations

import numpy as np

from keras_aeprune._validation import InputError
from keras_aeprune.datasets.readers import Raw
from keras_aeprune.datasets.scaling import row_chunks

MIN_SAMPLES = 10
_KINDS = {"b": "bool", "i": "int", "u": "int", "f": "float"}


def check(raw: Raw) -> None:
    """Refuse with one InputError what cannot become checked float32 splits."""
    tested = raw.x_test is not None
    x_name = "x_train" if tested else "data"
    _check_values(x_name, raw.x)
    if len(raw.x) < MIN_SAMPLES:
        raise InputError(f"{x_name}: got {len(raw.x)} samples, allowed: at least {MIN_SAMPLES}")
    if tested:
        _check_values("x_test", raw.x_test)
        if raw.x_test.shape[1:] != raw.x.shape[1:]:
            shapes = raw.x_test.shape[1:], raw.x.shape[1:]
            raise InputError(f"x_test: got samples of shape {shapes[0]}, allowed: {shapes[1]} like x_train")
        types = raw.x.dtype, raw.x_test.dtype
        if types[0] != types[1] and (np.uint8 in types or _KINDS[types[0].kind] != _KINDS[types[1].kind]):
            raise InputError(
                f"x_test: got {types[1]} values, allowed: {types[0]} like x_train, so that one scaling fits"
            )
    _check_labels("y_train" if tested else "y", raw.y, raw.x)
    _check_labels("y_test", raw.y_test, raw.x_test)
    if all((part == raw.x[0].flat[0]).all() for _, part in row_chunks(raw.x)):
        raise InputError(f"{x_name}: all values are {raw.x[0].flat[0]}, allowed: at least two different values")


def _check_values(name: str, x: np.ndarray) -> None:
    if x.dtype.kind not in _KINDS:
        raise InputError(
            f"{name}: got values of type {x.dtype}, allowed: bool, whole numbers or floats; convert with "
            "x.astype('float32')"
        )
    if x.size == 0:
        raise InputError(f"{name}: got an empty array of shape {x.shape}, allowed: at least {MIN_SAMPLES} samples")
    if x.ndim < 2:
        raise InputError(
            f"{name}: got the shape {x.shape}, allowed: (samples, ...) with at least 2 axes; cut a long "
            "series into windows first (np.lib.stride_tricks.sliding_window_view), or add an axis with "
            "x[:, None]"
        )
    if x.dtype.kind != "f":
        return
    bad, first, largest = 0, None, 0.0
    for place, part in row_chunks(x):
        wrong = ~np.isfinite(part)
        if wrong.any():
            if first is None:
                index = np.unravel_index(int(wrong.argmax()), wrong.shape)
                first = (place.start + int(index[0]), *(int(i) for i in index[1:]))
            bad += int(wrong.sum())
        elif x.dtype.itemsize > 4:
            largest = max(largest, float(np.abs(part).max()))
    if bad:
        raise InputError(
            f"{name}: got {bad} values that are NaN or infinite, the first at {list(first)}, allowed: "
            "finite numbers; drop or fill them"
        )
    if largest > float(np.finfo("float32").max):
        raise InputError(f"{name}: got values up to {largest:g}, allowed: what float32 can hold (up to 3.4e38)")


def _check_labels(name: str, y: np.ndarray | None, x: np.ndarray | None) -> None:
    if y is None:
        return
    if x is None:
        raise InputError(f"{name}: got labels without samples, allowed: x_test beside y_test")
    if y.dtype.kind not in "biufUS":
        raise InputError(f"{name}: got labels of type {y.dtype}, allowed: numbers or strings; convert with astype")
    if y.ndim < 1 or len(y) != len(x):
        raise InputError(f"{name}: got labels of shape {y.shape}, allowed: one for each of the {len(x)} samples")
