"""How well scores separate anomalies from normal samples; plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_aeprune._validation import InputError, fraction, refuse


def binary_labels(y: Any, count: int) -> np.ndarray:
    """`y` as bool, shape (count,), True = anomaly, with at least one sample of each kind.

    Raises:
        InputError: another shape, other values than 0 and 1, or only one kind.
    """
    labels = np.asarray(y)
    if labels.shape != (count,) or labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        raise InputError(
            f"y: got {labels.dtype} of shape {labels.shape} with values {np.unique(labels)[:6].tolist()}, "
            f"allowed: 0 or 1 (1 = anomaly) for each of the {count} samples; for example y = labels != normal"
        )
    labels = labels.astype(bool)
    if labels.all() or not labels.any():
        raise refuse("y", f"{int(labels.sum())} anomalies in {count} samples", "at least one of each kind")
    return labels


def auc(scores: np.ndarray, y: np.ndarray) -> float:
    """Area under the ROC curve: the chance that an anomaly scores higher than a normal sample, from 0 to 1.

    Exact, from ranks; equal scores count as half. With R the sum of the ranks (from 1, equal scores share
    their mean rank) of the p anomalies among n samples:

        auc = (R - p (p + 1) / 2) / (p (n - p))

    Args:
        scores: shape (n,), finite, higher = more anomalous.
        y: shape (n,), 1 or True = anomaly; both kinds must be there.

    >>> auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    0.875
    """
    scores = _finite(scores)
    labels = binary_labels(y, len(scores))
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = int(labels.sum())
    pairs = positives * (len(scores) - positives)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / pairs)


def partial_auc(scores: np.ndarray, y: np.ndarray, *, max_fpr: float = 0.1) -> float:
    """Area under the ROC curve up to a false alarm rate, scaled so that chance is 0.5 and perfect is 1.

    Use it where false alarms are costly; DCASE and MLPerf Tiny report it with max_fpr = 0.1. With A the area
    from 0 to m = max_fpr (McClish 1989):

        partial auc = (1 + (A - m^2 / 2) / (m - m^2 / 2)) / 2

    Args:
        scores: shape (n,), finite, higher = more anomalous.
        y: shape (n,), 1 or True = anomaly; both kinds must be there.
        max_fpr: fraction of the normal samples that may be flagged, 0 < m <= 1; 1 gives `auc`.

    >>> round(partial_auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([0, 0, 1, 1]), max_fpr=1.0), 6)
    0.875
    """
    limit = fraction("max_fpr", max_fpr, low_open=True, high_open=False)
    scores = _finite(scores)
    labels = binary_labels(y, len(scores))
    _, hits, alarms = _steps(scores, labels)
    found = np.concatenate([[0], hits]) / labels.sum()
    false = np.concatenate([[0], alarms]) / (~labels).sum()
    after = min(int(np.searchsorted(false, limit, side="right")), len(false) - 1)
    last = after - 1
    run = false[after] - false[last]
    rise = (found[after] - found[last]) * (min(limit - false[last], run) / run if run else 1.0)
    false = np.append(false[:after], limit)
    found = np.append(found[:after], found[last] + rise)
    area = float(np.sum(np.diff(false) * (found[1:] + found[:-1]) / 2))
    chance = limit**2 / 2
    return 1.0 if limit == chance else (1 + (area - chance) / (limit - chance)) / 2


def best_threshold(scores: np.ndarray, y: np.ndarray) -> float:
    """The threshold with the highest F-score of `score > threshold`, exact over all of them.

    F = 2 * found / (flagged + anomalies). The candidates are the midpoints between neighbouring different
    scores, and one below the smallest (half of it, or -1 where it is not above 0), which flags everything.
    Of equal F-scores the highest threshold wins, which flags least.

    Args:
        scores: shape (n,), finite, higher = more anomalous.
        y: shape (n,), 1 or True = anomaly; both kinds must be there.

    >>> best_threshold(np.array([1.0, 2.0, 4.0, 8.0]), np.array([0, 0, 1, 1]))
    3.0
    """
    scores = _finite(scores)
    labels = binary_labels(y, len(scores))
    levels, hits, alarms = _steps(scores, labels)
    quality = 2 * hits / (hits + alarms + labels.sum())
    best = int(np.argmax(quality))  # the first of equal ones is the highest threshold
    lowest = float(levels[best])
    if best + 1 < len(levels):
        below = float(levels[best + 1])
        middle = below + (lowest - below) / 2
        return middle if middle < lowest else below
    return lowest / 2 if lowest > 0 else min(-1.0, 2 * lowest)


def _steps(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different scores from high to low; anomalies and normal samples that score at least that much."""
    levels, place = np.unique(-scores, return_inverse=True)
    hits = np.cumsum(np.bincount(place, weights=labels, minlength=len(levels)))
    alarms = np.cumsum(np.bincount(place, weights=~labels, minlength=len(levels)))
    return -levels, hits, alarms


def _finite(scores: Any) -> np.ndarray:
    array = np.asarray(scores, dtype="float64")
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise refuse("scores", f"array of shape {array.shape}", "one finite number for each sample")
    return array
