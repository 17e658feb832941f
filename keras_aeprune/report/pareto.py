"""Which models no other one beats, and the pictures of error against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_aeprune import _plots
from keras_aeprune._plots import MUTED, colour, styled
from keras_aeprune._validation import InputError
from keras_aeprune.report.plots import error_axis
from keras_aeprune.report.text import size_text, time_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["error_against", "front"]

# what is on the lower axis: its words, and how a number on it is written
_COSTS = {
    "bytes": ("file", size_text),
    "gzip_bytes": ("file after gzip", size_text),
    "median_us": ("time", time_text),
}
_LABEL = 26


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points that no other point beats; smaller is better in both numbers.

    A point is beaten by one that is as small in both and smaller in one. Of equal points all are kept.

    Args:
        points: (cost, error) pairs.

    Returns:
        Positions, by cost and then by error.

    Example:
        >>> front([(3, 1.0), (1, 2.0), (2, 3.0), (2, 1.5)])
        [1, 3, 0]
    """
    order = sorted(range(len(points)), key=lambda index: points[index])
    found: list[int] = []
    for index in order:
        if not found or points[index][1] < points[found[-1]][1] or points[index] == points[found[-1]]:
            found.append(index)
    return found


@styled
def error_against(rows: Sequence[Mapping[str, Any]], cost: str, *, error: str = "MSE") -> Figure:
    """Every model by what it costs and by its error; lower left is better.

    Full marks are models that no other beats in both, joined by a line; hollow ones are beaten.

    Args:
        rows: dicts with "label"; those that have "error" and the cost become marks.
        cost: "bytes", "gzip_bytes" or "median_us".
        error: what the error is called.

    Returns:
        The figure.

    Raises:
        InputError: for another cost, or if no row has both numbers.

    Example:
        >>> rows = [{"label": "a", "bytes": 900, "error": 0.02}, {"label": "b", "bytes": 300, "error": 0.03}]
        >>> error_against(rows, "bytes").axes[0].get_ylabel()
        'MSE'
    """
    if cost not in _COSTS:
        raise InputError(f"cost: got {cost!r}, allowed: {', '.join(_COSTS)}")
    title, written = _COSTS[cost]
    shown = [row for row in rows if row.get(cost) and row.get("error") is not None]
    if not shown:
        raise InputError(f"rows: got none with 'error' and {cost!r}, allowed: at least one")
    points = [(float(row[cost]), float(row["error"])) for row in shown]
    best = front(points)
    made, (axes,) = _plots.figure(height=2.9)
    axes.plot(*zip(*[points[i] for i in best], strict=True), color=MUTED, linewidth=1.0, drawstyle="steps-post")
    for index, (row, point) in enumerate(zip(shown, points, strict=True)):
        ink = colour(str(row["label"]))
        face = ink if index in best else "none"
        axes.plot(*point, "o", color=ink, markersize=6.5, markerfacecolor=face)
    costs, errors = zip(*points, strict=True)
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.5, max(costs) * 1.5)
    _plots.log_ticks(axes.xaxis, lambda value: written(value).replace(".00", "").replace(".0 ", " "), most=5)
    axes.set(xlabel=title, ylabel=error)
    error_axis(axes, errors, log=min(errors) > 0)
    if min(errors) <= 0:
        axes.set_ylim(-0.06 * (max(errors) or 1.0), 1.15 * (max(errors) or 1.0))
    _plots.place_labels(axes, points, [_short(str(row["label"])) for row in shown], fontsize=8.5)
    return made


def _short(label: str) -> str:
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 3]}..."
