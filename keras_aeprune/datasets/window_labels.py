"""Labels of steps or recordings become labels of windows."""

from __future__ import annotations

import numpy as np

from keras_aeprune._validation import InputError


def steps_or_recordings(
    labels: np.ndarray | list[np.ndarray], source: np.ndarray | list[np.ndarray], lengths: list[int]
) -> np.ndarray:
    """One label for each step of all recordings, from labels of steps or of recordings.

    Args:
        labels: as given to `windows`, as an array or a list of arrays.
        source: the series as given.
        lengths: steps of each recording.

    Returns:
        Array of sum(lengths) labels.

    Raises:
        InputError: labels of another type or number.
    """
    for part in labels if isinstance(labels, list) else [labels]:
        if part.dtype.kind not in "biufUS":
            raise InputError(
                f"labels: got labels of type {part.dtype}, allowed: numbers or strings; convert with astype"
            )
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise InputError("labels: got NaN or infinite labels, allowed: finite numbers; fill them")
    if isinstance(labels, list):
        shapes = [part.shape for part in labels]
        if shapes == [(length,) for length in lengths]:
            return np.concatenate(labels)
        raise InputError(f"labels: got a list of shapes {shapes[:8]}, allowed: {_allowed(lengths)}")
    single = not isinstance(source, list) and source.ndim < 3
    if single and labels.shape == (lengths[0],):
        return labels
    if not isinstance(source, list) and not single and labels.shape == source.shape[:2]:
        return labels.reshape(-1)
    if labels.shape == (len(lengths),):
        return np.repeat(labels, lengths)
    raise InputError(f"labels: got the shape {labels.shape}, allowed: {_allowed(lengths)}")


def label_windows(labels: np.ndarray | None, starts: np.ndarray, length: int, rule: str) -> np.ndarray | None:
    """The label of each window from those of its steps.

    Args:
        labels: one for each step, or None.
        starts: first step of each window.
        length: steps in a window.
        rule: "any", "last" or "majority".

    Returns:
        Array of len(starts) labels of the same type, or None.

    >>> label_windows(np.array([0, 0, 1, 0]), np.array([0, 2]), 2, "any")
    array([0, 1])
    """
    if labels is None:
        return None
    if rule == "last":
        return labels[starts + length - 1]
    classes, codes = np.unique(labels, return_inverse=True)
    if rule == "any" and not (labels.dtype.kind in "biuf" and np.isin(classes, (0, 1)).all()):
        raise InputError(
            f"label: got 'any' for the labels {classes[:8].tolist()}, allowed: 'any' for 0 and 1 only; "
            "'last' or 'majority' for classes"
        )
    if rule == "any":
        return (_counts(labels == 1, starts, length) > 0).astype(labels.dtype)
    best, most = np.zeros(len(starts), dtype=int), np.zeros(len(starts), dtype=int)
    for code in range(len(classes)):
        count = _counts(codes == code, starts, length)
        best, most = np.where(count > most, code, best), np.maximum(count, most)
    return classes[best]


def _counts(hits: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    running = np.concatenate([[0], np.cumsum(hits)])
    return running[starts + length] - running[starts]


def _allowed(lengths: list[int]) -> str:
    shown = ", ".join(map(str, lengths[:8])) + (", ..." if len(lengths) > 8 else "")
    return f"one for each step ({shown}) or one for each of the {len(lengths)} recordings"
