"""Which width is the answer? Rules on plain numbers: widths, their losses, and what they cost.

Example:
    >>> from keras_aeprune.search import rules
    >>> widths, losses = [4, 8, 12, 16], [0.30, 0.05, 0.012, 0.010]
    >>> rules.smallest_good(widths, losses, mean_loss=1.0), rules.knee(widths, losses)
    (8, 8)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError, fraction, positive_int, refuse

__all__ = ["Hinge", "knee", "limit", "nearest_to_ideal", "pareto_widths", "smallest_good", "within"]

WORST = 1e6  # the hinge of a loss that is no finite number; every other hinge is below 700


def limit(best: float, mean_loss: float, tolerance: float = 0.05) -> float:
    """The largest loss that is still good.

    Use it to draw or test the line that `smallest_good` decides by:

        limit = best + tolerance * (mean_loss - best)

    so that a tolerance of 0.05 gives up a twentieth of what the best one explains. A limit of the form
    1.05 * best would run after noise: on data of 12 dimensions with 2% of noise it asks for 32 of 64.

    Args:
        best: smallest loss that is known, >= 0.
        mean_loss: loss of always predicting the mean, above `best`.
        tolerance: fraction of the way from `best` to `mean_loss`, 0 <= t < 1.

    Returns:
        The limit, best <= limit < mean_loss.

    Raises:
        InputError: a tolerance outside its range, or a `best` that is not below `mean_loss`.

    Example:
        >>> round(limit(0.01, 0.21, 0.05), 4)
        0.02
    """
    tolerance = fraction("tolerance", tolerance)
    if not 0 <= best < mean_loss < math.inf:
        raise InputError(
            f"losses: got the best loss {best:g} and {mean_loss:g} for predicting the mean, allowed: 0 <= best < "
            "that of the mean; where nothing beats the mean, train longer or scale the data"
        )
    return best + tolerance * (mean_loss - best)


def smallest_good(
    widths: Sequence[int],
    losses: Sequence[float] | np.ndarray,
    mean_loss: float,
    tolerance: float = 0.05,
    best: float | None = None,
) -> int:
    """The smallest width whose loss is still good: at most `limit(best, mean_loss, tolerance)`.

    Use it on a curve of loss against width. The smallest loss alone would always choose the widest.

    Args:
        widths: whole numbers >= 1, in any order, each once.
        losses: one for each width, >= 0; NaN and infinity mean that the width failed.
        mean_loss: loss of always predicting the mean, in the unit of `losses`.
        tolerance: fraction of the way from the best loss to that of the mean, 0 <= t < 1.
        best: the best loss that is known from elsewhere; None takes the smallest of `losses`.

    Returns:
        One of `widths`.

    Raises:
        InputError: lengths that differ, no finite loss, nothing that beats the mean, or no loss within the limit.

    Example:
        >>> smallest_good([8, 12, 16], [0.15, 0.012, 0.010], mean_loss=1.0)
        12
    """
    wide, found = _curve(widths, losses)
    least = float(found.min()) if best is None else best
    most = limit(least, mean_loss, tolerance)
    good = wide[found <= most]
    if not good.size:
        raise InputError(
            f"losses: got none within {most:g}; the smallest is {found.min():g} at width "
            f"{wide[found.argmin()]}, allowed: at least one; give wider widths or a larger tolerance"
        )
    return int(good[0])


def knee(widths: Sequence[int], losses: Sequence[float] | np.ndarray) -> int:
    """The width at which the curve bends most: the largest distance below the line between its two ends.

    Use it where no tolerance can be named. With width and loss both scaled to 0..1, the distance to the chord
    is proportional to  chord(width) - loss  on the linear loss. (On log loss noise decides.) The first one is
    taken of equal distances. The answer depends on the ends of the range. Satopaa and others 2011,
    https://doi.org/10.1109/ICDCSW.2011.20.

    Args:
        widths: 3 or more whole numbers >= 1, in any order, each once.
        losses: one for each width, >= 0; NaN and infinity mean that the width failed.

    Returns:
        One of `widths`, neither the first nor the last.

    Raises:
        InputError: fewer than 3 finite losses, or none below the line, so that nothing bends.

    Example:
        >>> knee([4, 8, 12, 16], [1.0, 0.2, 0.1, 0.0])
        8
    """
    wide, found = _curve(widths, losses)
    if wide.size < 3:
        raise InputError(f"widths: got {wide.size} with a finite loss, allowed: 3 or more for a knee")
    chord = np.interp(wide, wide[[0, -1]], found[[0, -1]])
    below = chord - found
    if below.max() <= 1e-12 * found.max():
        raise InputError(
            "losses: got a curve without a knee, none lies below the line between its ends, allowed: one that "
            "bends; choose by tolerance instead"
        )
    return int(wide[below.argmax()])


def pareto_widths(widths: Sequence[int], losses: Sequence[float] | np.ndarray) -> list[int]:
    """The widths that no other one beats in both size and loss, ascending.

    Of equal losses only the narrowest stays; widths without a finite loss do not take part.

    Example:
        >>> pareto_widths([4, 8, 12, 16], [1.0, 0.2, 0.3, 0.1])
        [4, 8, 16]
    """
    wide, found = _curve(widths, losses)
    before = np.concatenate([[np.inf], np.minimum.accumulate(found)[:-1]])
    return [int(width) for width in wide[found < before]]


def nearest_to_ideal(widths: Sequence[int], losses: Sequence[float]) -> int:
    """The width on the Pareto front that is nearest to the ideal of smallest width and smallest loss.

    Use it to take one point of the front without a tolerance. Both axes are scaled to 0..1 over the front; the
    distance is Euclidean; the narrower one is taken of equal distances.

    Args:
        widths: whole numbers >= 1, in any order, each once.
        losses: one for each width, >= 0; NaN and infinity mean that the width failed.

    Returns:
        One of `widths`.

    Raises:
        InputError: lengths that differ or no finite loss.

    Example:
        >>> nearest_to_ideal([4, 8, 12, 16], [1.0, 0.2, 0.3, 0.1])
        8
    """
    front = np.array(pareto_widths(widths, losses))
    known = dict(zip(widths, losses, strict=True))
    heights = np.array([known[int(width)] for width in front], float)
    across, up = _unit(front.astype(float)), _unit(heights)
    return int(front[np.hypot(across, up).argmin()])


def within(
    costs: Mapping[int, Mapping[str, float]], *, max_bytes: float | None = None, max_latency: float | None = None
) -> list[int]:
    """The widths whose model keeps the limits, ascending.

    Args:
        costs: {width: {"bytes": of its file, "latency": milliseconds a sample}}.
        max_bytes: largest file in bytes; None for no limit.
        max_latency: longest time a sample in ms; None for no limit.

    Raises:
        InputError: a limit for which a width has no number.

    Example:
        >>> within({8: {"bytes": 900}, 16: {"bytes": 1500}}, max_bytes=1000)
        [8]
    """
    limits = {name: most for name, most in (("bytes", max_bytes), ("latency", max_latency)) if most is not None}
    for width, cost in costs.items():
        missing = sorted(set(limits) - set(cost))
        if missing:
            raise InputError(f"costs: got no {missing[0]!r} for width {width}, allowed: one for every width")
    return sorted(w for w, cost in costs.items() if all(cost[name] <= most for name, most in limits.items()))


class Hinge:
    """A score that a search may minimise: narrow among the good ones, and good before narrow.

    Use it as the objective of Hyperband: the loss alone prefers the widest, and a sum of loss and size needs a
    weight for every data set. With  limit = best + tolerance * (mean - best):

        score = width / widest             if loss <= limit       (above 0, at most 1)
        score = 1 + log10(loss / limit)    otherwise              (above 1)

    A loss that is NaN or infinite scores 1e6, so that a search engine goes on.

    Args:
        best: smallest loss that is known, for example PCA's at the widest width, >= 0.
        mean: loss of always predicting the mean, above `best`.
        tolerance: fraction of the way from `best` to `mean`, 0 <= t < 1.
        widest: the largest width that is searched, 1 or more.

    Example:
        >>> hinge = Hinge(best=0.0, mean=1.0, tolerance=0.05, widest=64)
        >>> hinge(0.04, 32), round(hinge(0.5, 16), 9), hinge(float("nan"), 16)
        (0.5, 2.0, 1000000.0)
    """

    def __init__(self, best: float, mean: float, tolerance: float = 0.05, widest: int = 64):
        self.limit = limit(best, mean, tolerance)
        self.widest = positive_int("widest", widest)
        self.best, self.mean, self.tolerance = float(best), float(mean), float(tolerance)

    def __call__(self, loss: float, width: int) -> float:
        loss = float(loss)
        if not math.isfinite(loss):
            return WORST
        if loss <= self.limit:
            return width / self.widest
        # a limit of 0, where the best is exact and the tolerance 0, must not divide
        return 1 + math.log10(loss) - math.log10(max(self.limit, np.finfo("float64").tiny))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor as plain JSON values."""
        return {"best": self.best, "mean": self.mean, "tolerance": self.tolerance, "widest": self.widest}

    def __repr__(self) -> str:
        return f"Hinge({', '.join(f'{k}={v:g}' for k, v in self.get_config().items())})"


def _unit(values: np.ndarray) -> np.ndarray:
    """`values` moved and scaled to 0..1; 0 where all are equal."""
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread > 0 else np.zeros(values.shape)


def _curve(widths: Sequence[int], losses: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widths in ascending order and their losses, without those that are not finite."""
    found = np.array([positive_int("widths", width) for width in widths], int)
    values = np.asarray(losses, float)
    if values.shape != found.shape or not found.size:
        raise refuse("losses", f"{values.size} for {found.size} widths", "one for each width, at least one")
    if len(set(found.tolist())) < found.size:
        raise refuse("widths", widths, "each width once")
    if (values < 0).any():
        raise refuse("losses", float(values.min()), "numbers >= 0")
    order = np.argsort(found)
    found, values = found[order], values[order]
    finite = np.isfinite(values)
    if not finite.any():
        raise InputError("losses: got no finite one, allowed: at least one; train with a smaller learning rate")
    return found[finite], values[finite]
