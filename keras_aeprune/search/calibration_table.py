"""What calibration sources are worth, as numbers, a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_aeprune._plots import INK, MUTED, WIDTH, figure, log_ticks, styled
from keras_aeprune._validation import refuse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NO_DATA", "CalibrationRow", "CalibrationTable", "Spread"]

NO_DATA = "no data"
_HEADS = ("criterion", "source", "rank by kernel", "rank overall", "loss, pruned", "loss, fine-tuned", "seconds")
_COLOURS = ("#3069e8", "#e8701a", "#0f9d76", "#c2407a", "#9457eb", "#b08900")
_MARKS = "os^Dvp"
_LINES = {"magnitude": (INK, "--"), "random": (MUTED, ":")}


@dataclass(frozen=True)
class Spread:
    """The same measurement with each seed.

    Args:
        values: one per seed, at least two, in the order of the seeds.

    Example:
        >>> found = Spread((1.0, 3.0))
        >>> found.mean, round(found.deviation, 4), str(found)
        (2.0, 1.4142, '2.000 +- 1.414')
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean; NaN or infinite where one is."""
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Their standard deviation, with divisor n - 1."""
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.std(self.values, ddof=1))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; one that is not finite is written as text."""
        numbers = {"mean": _plain(self.mean), "deviation": _plain(self.deviation)}
        return {**numbers, "values": [_plain(value) for value in self.values]}

    def __str__(self) -> str:
        digits = _digits(self.mean)
        return f"{self.mean:.{digits}f} +- {self.deviation:.{digits}f}"


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _digits(value: float) -> int:
    """Decimals that show four digits of a number, and at least three decimals."""
    small = value != 0 and math.isfinite(value)
    return min(max(3, 3 - math.floor(math.log10(abs(value)))), 10) if small else 3


@dataclass(frozen=True)
class CalibrationRow:
    """One source of calibration samples with one criterion.

    Args:
        source: its name; "no data" for the controls.
        criterion: its name.
        by_kernel: Spearman's rank correlation of the scores with those from other real samples, -1 to 1, the mean
            over kernels weighted by their size; None for controls.
        overall: the same over all weights at once.
        pruned: validation loss after pruning in one step.
        tuned: validation loss after fine-tuning.
        seconds: mean time of one seed; without the drawing of the samples.

    Example:
        >>> pruned, tuned = Spread((0.08, 0.1)), Spread((0.03, 0.03))
        >>> row = CalibrationRow("no data", "magnitude", None, None, pruned, tuned, seconds=0.1)
        >>> row.to_dict()["by_kernel"] is None
        True
    """

    source: str
    criterion: str
    by_kernel: Spread | None
    overall: Spread | None
    pruned: Spread
    tuned: Spread
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        spreads = {name: getattr(self, name) for name in ("by_kernel", "overall", "pruned", "tuned")}
        own = {name: getattr(self, name) for name in ("source", "criterion", "seconds")}
        return {**own, **{k: None if v is None else v.to_dict() for k, v in spreads.items()}}


@dataclass(frozen=True)
class CalibrationTable:
    """Sources beside each other; prints as a table.

    Args:
        rows: sources by criterion, then the controls.
        skipped: (source, criterion or "", reason) of what could not be compared.
        sparsity: fraction of weights set to zero.
        samples: calibration samples that each source gave.
        seeds: number of seeds, 2 or more.
        epochs: of fine-tuning.
        dense_loss: validation loss of the model as it was given.

    Example:
        >>> row = CalibrationRow("real", "fisher", Spread((0.9, 1.0)), None, Spread((0.1,)), Spread((0.1,)), 0.1)
        >>> CalibrationTable((row,), (), 0.9, 64, 2, 1, 0.05).row("real").criterion
        'fisher'
    """

    rows: tuple[CalibrationRow, ...]
    skipped: tuple[tuple[str, str, str], ...]
    sparsity: float
    samples: int
    seeds: int
    epochs: int
    dense_loss: float

    def row(self, source: str, criterion: str | None = None) -> CalibrationRow:
        """The row of a source; the first one where no criterion is named.

        Raises:
            InputError: if there is none.
        """
        for row in self.rows:
            if row.source == source and criterion in (None, row.criterion):
                return row
        there = ", ".join(f"{row.source} with {row.criterion}" for row in self.rows)
        raise refuse("source, criterion", (source, criterion), there)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        own = {name: getattr(self, name) for name in ("sparsity", "samples", "seeds", "epochs")}
        skipped = [{"source": s, "criterion": c, "reason": reason} for s, c, reason in self.skipped]
        rows = [row.to_dict() for row in self.rows]
        return {**own, "dense_loss": _plain(self.dense_loss), "rows": rows, "skipped": skipped}

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [_HEADS]
        for row in self.rows:
            spreads = (row.by_kernel, row.overall, row.pruned, row.tuned)
            cells = ("-" if spread is None else str(spread) for spread in spreads)
            lines.append((row.criterion, row.source, *cells, f"{row.seconds:.1f}"))
        widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADS))]
        text = []
        for a, b, *more in lines:
            text.append("  ".join([a.ljust(widths[0]), b.ljust(widths[1]), *map(str.rjust, more, widths[2:])]))
        epochs = f"{self.epochs} epoch" + "s" * (self.epochs != 1)
        title = [
            f"sparsity {self.sparsity:g}, {self.samples} samples, fine-tuned for {epochs}; "
            f"mean +- standard deviation over {self.seeds} seeds",
            "rank: Spearman's correlation of the scores with those from other real samples; "
            f"loss: on validation data, dense {self.dense_loss:.4g}",
        ]
        left = [f"skipped: {s}{f' with {c}' if c else ''}: {reason}" for s, c, reason in self.skipped]
        return "\n".join([*title, text[0], "-" * len(text[0]), *text[1:], *left])

    __repr__ = __str__

    @styled
    def plot(self, path: str | Path | None = None) -> Figure:
        """Three pictures under each other: rank correlation, loss after pruning, loss after fine-tuning.

        A large mark is the mean, small ones are the seeds; a longer line is a control. Losses that are not
        positive and finite are left out.

        Args:
            path: a .png, .svg or .pdf file to write as well; None writes none.

        Returns:
            A matplotlib figure.

        Raises:
            InputError: for another ending.
        """
        if path is not None and Path(path).suffix not in (".png", ".svg", ".pdf"):
            raise refuse("path", path, "a file name that ends in .png, .svg or .pdf")
        rows = [row for row in self.rows if row.source != NO_DATA]
        controls = [row for row in self.rows if row.source == NO_DATA]
        names = list(dict.fromkeys(row.source for row in rows))
        kinds = list(dict.fromkeys(row.criterion for row in rows))
        height = 0.14 * len(names) * (1 + len(kinds)) / 2 + 0.75
        picture, axes = figure(WIDTH, 3 * height + 0.3 + 0.2 * math.ceil((len(kinds) + 3) / 3), rows=3)
        titles = (
            "rank correlation with real samples",
            f"loss after pruning to {self.sparsity:g}",
            f"loss after {self.epochs} more epoch{'s' * (self.epochs != 1)}",
        )
        for panel, field, title in zip(axes, ("overall", "pruned", "tuned"), titles, strict=True):
            _draw(panel, field, rows, names, kinds)
            panel.set_title(title, loc="left")
            if field != "overall":
                for row in controls:
                    colour, line = _LINES.get(row.criterion, (MUTED, "-."))
                    _line(panel, getattr(row, field).mean, color=colour, linestyle=line, label=row.criterion)
                _line(panel, self.dense_loss, color=MUTED, linewidth=0.8, label="dense")
                _log(panel)
        handles = {}
        for panel in axes:
            handles.update({text: h for h, text in zip(*panel.get_legend_handles_labels(), strict=True)})
        picture.legend(handles.values(), handles, loc="outside lower center", ncols=3, handlelength=1.6)
        if path is not None:
            picture.savefig(path, dpi=160, facecolor="white")
        return picture


def _line(axes: Axes, value: float, **style: Any) -> None:
    if math.isfinite(value) and value > 0:
        axes.axvline(value, zorder=1, **style)


def _draw(axes: Axes, field: str, rows: Sequence[CalibrationRow], names: list[str], kinds: list[str]) -> None:
    """One panel: a line of marks for each source, one above the other for each criterion."""
    for number, kind in enumerate(kinds):
        colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
        shift = (number - (len(kinds) - 1) / 2) * 0.7 / len(kinds)
        places, means = [], []
        for row in rows:
            spread = getattr(row, field)
            usable = [v for v in spread.values if math.isfinite(v) and (v > 0 or field == "overall")]
            if row.criterion != kind or len(usable) < len(spread.values):
                continue
            place = names.index(row.source) + shift
            axes.plot(usable, [place] * len(usable), mark, color=colour, markersize=2.5, alpha=0.45)
            places.append(place)
            means.append(spread.mean)
        axes.plot(means, places, mark, color=colour, markersize=5, label=kind)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x")


def _log(axes: Axes) -> None:
    """A logarithmic axis with round numbers, where there is anything positive on it."""
    if any(np.size(line.get_xdata()) for line in axes.lines):
        axes.set_xscale("log")
        log_ticks(axes.xaxis, lambda value: f"{value:g}", most=5)
