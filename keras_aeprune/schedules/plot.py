"""Schedules as a picture: what their formulas say, and what is really applied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_aeprune import _files, _plots
from keras_aeprune._plots import MUTED, PAPER, colour, styled
from keras_aeprune._validation import InputError, positive_int, refuse
from keras_aeprune.schedules.lookup import get
from keras_aeprune.schedules.relative import Relative
from keras_aeprune.schedules.timetable import Timetable, evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]

_COLOURS = [colour(name) for name in ("train", "prune", "validation", "pca", "any", "float16", "dense int8")]
_DASHES = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)))
_POINTS = 400  # of a formula's curve
_DPI = 200


@styled
def plot(
    schedule: Any | Mapping[str, Any],
    total_steps: int | None = None,
    *,
    path: str | Path | None = None,
) -> Figure:
    """Sparsity against the step, for a look before the training, at one schedule or several together.

    The thick line is what is applied: it changes only where masks are recomputed, and starts at 0 as a dense
    model does. The thin line is the formula; they drift apart where `frequency` is coarse. A dot marks the
    schedule's last step, a dashed line the end of the training.

    Args:
        schedule: a schedule (tfmot's, a `Relative`, or the dict of `get_config` too), or {name: schedule}.
        total_steps: optimizer updates in the training, >= 1; needed for a schedule by fractions of the
            training and where no schedule has a last step.
        path: file to write as well, its suffix one that matplotlib knows (.png, .svg, .pdf), or None.

    Returns:
        The figure.

    Raises:
        InputError: if there is nothing to draw, the length is needed, or the file cannot be written.

    Example:
        >>> from keras_aeprune.schedules import PolynomialDecay
        >>> plot(PolynomialDecay(0.0, 0.9, 0, 250, frequency=50)).axes[0].get_ylabel()
        'sparsity (fraction of zeros)'
    """
    if total_steps is not None:
        total_steps = positive_int("total_steps", total_steps)
    named = {name: _in_steps(one, total_steps) for name, one in _named(schedule).items()}
    ends = {name: _last_step(one) for name, one in named.items()}
    known = [end for end in (*ends.values(), total_steps) if end is not None]
    if not known:
        raise refuse("total_steps", None, "a whole number >= 1, since no schedule here has a last step")
    horizon = max(known) if total_steps is not None else max(round(1.08 * max(known)), 1)

    made, (axes,) = _plots.figure(height=2.9 + 0.2 * ((len(named) + 1) // 2))
    dots: dict[tuple[int, float], list[str]] = {}
    for place, (name, one) in enumerate(named.items()):
        ink = _COLOURS[place % len(_COLOURS)]
        dashes = _DASHES[place // len(_COLOURS) % len(_DASHES)]
        table = Timetable(one, horizon)
        _lines(axes, table, horizon, color=ink, linestyle=dashes, label=name)
        last = ends[name]
        if last is not None:
            dots.setdefault((last, table.values[-1]), []).append(ink)
    for (end, value), inks in dots.items():  # rings around a dot where schedules end together
        for place, ink in enumerate(inks):
            size = 4.5 + 2 * (len(inks) - 1 - place)
            axes.plot([end], [value], "o", color=ink, markersize=size, clip_on=False, zorder=3 + place / 100)
    if total_steps is not None:
        axes.axvline(total_steps, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.set(xlim=(0, 1.03 * horizon), ylim=(0, 1), ylabel="sparsity (fraction of zeros)")
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.set_xlabel(
        "step (optimizer updates)\nthick: what is applied, thin: formula\ndot: last step"
        + ", dashed: end of training" * (total_steps is not None)
    )
    axes.grid(axis="y")
    made.legend(loc="outside upper left", ncols=2, handlelength=1.4, columnspacing=1.4)
    if path is not None:
        _save(made, Path(path))
    return made


def _named(schedule: Any) -> dict[str, Any]:
    if isinstance(schedule, Mapping) and "class_name" not in schedule:
        if not schedule or not all(isinstance(name, str) for name in schedule):
            raise refuse("schedule", dict(schedule), "{name: schedule} with at least one name")
        return {name: get(one) for name, one in schedule.items()}
    one = get(schedule)
    return {one.schedule if isinstance(one, Relative) else type(one).__name__: one}


def _in_steps(schedule: Any, total_steps: int | None) -> Any:
    if not isinstance(schedule, Relative):
        return schedule
    if total_steps is None:
        raise refuse("total_steps", None, f"a whole number >= 1, needed to draw {schedule!r}")
    if schedule.unit == "epochs":
        raise refuse("schedule", schedule, "one in steps, as its .resolve(total_steps, steps_per_epoch) makes it")
    return schedule.resolve(total_steps)


def _last_step(schedule: Any) -> int | None:
    end = getattr(schedule, "end_step", None)
    return int(end) if end is not None and end >= 0 else None


def _lines(axes: Any, table: Timetable, horizon: int, **style: Any) -> None:
    """What is applied, from a dense model on, and the formula."""
    steps, values = table.steps, table.values
    last = values[-1] if len(values) else 0.0
    axes.plot([0, *steps, horizon], [0.0, *values, last], drawstyle="steps-post", **style)
    if len(steps):
        places = np.unique(np.linspace(steps[0], steps[-1], _POINTS).astype(np.int64))
        formula = evaluate(table.schedule, places)[1]
        axes.plot(places, formula, color=style["color"], linewidth=0.7, alpha=0.7)


def _save(made: Figure, path: Path) -> None:
    known = sorted(made.canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise refuse("path", str(path), f"a file name that ends in one of .{', .'.join(known)}")
    if not path.parent.is_dir():
        raise InputError(f"path: got {str(path)!r}, whose folder is not there, allowed: a file in an existing one")
    with _files.writing(path) as temporary:
        made.savefig(temporary, dpi=_DPI, facecolor=PAPER)
