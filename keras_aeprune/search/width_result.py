"""What a search for a width found: the curve, every training, the answer in words, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_aeprune import _plots
from keras_aeprune._plots import INK, MUTED, colour, styled
from keras_aeprune._validation import refuse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Curve", "Trials", "WidthResult"]

_SERIES = ("pca", "tried", "tried_deviation", "retrained", "retrained_deviation")
_COLUMNS = ("stage", "width", "seed", "epochs", "loss", "seconds", "values")


@dataclass(frozen=True, eq=False)
class Curve:
    """Held-out mean squared error against width; NaN where nothing was trained.

    Args:
        widths: ascending.
        pca: PCA's errors, shape (widths,), as all others.
        tried: of the screen, mean over its seeds; or of Hyperband's best trial of each width.
        tried_deviation: standard deviation over the seeds.
        retrained: mean over the seeds of the candidates that were trained again.
        retrained_deviation: standard deviation over these seeds.

    Example:
        >>> curve = Curve.of((2, 4), pca=[0.5, 0.3], tried=[0.4, 0.2], retrained={4: [0.1, 0.3]})
        >>> curve.mean.round(6).tolist(), curve.retrained_deviation.round(4).tolist()
        ([0.4, 0.2], [nan, 0.1414])
    """

    widths: tuple[int, ...]
    pca: np.ndarray
    tried: np.ndarray
    tried_deviation: np.ndarray
    retrained: np.ndarray
    retrained_deviation: np.ndarray

    @classmethod
    def of(
        cls,
        widths: Sequence[int],
        *,
        pca: Any,
        tried: Any,
        tried_deviation: Any = None,
        retrained: Mapping[int, Sequence[float]],
    ) -> Curve:
        """The curve from lists, and the losses of the candidates by width."""
        again = [np.asarray(retrained.get(width, [np.nan]), float) for width in widths]
        mean = [float(losses.mean()) for losses in again]
        spread = [float(losses.std(ddof=1)) if len(losses) > 1 else losses[0] * 0 for losses in again]
        none = np.zeros(len(widths))
        given = (pca, tried, none if tried_deviation is None else tried_deviation, mean, spread)
        return cls(tuple(widths), *(np.asarray(values, float) for values in given))

    @property
    def mean(self) -> np.ndarray:
        """The loss that is known best for each width: of the retraining, else of the trial."""
        return np.where(np.isnan(self.retrained), self.tried, self.retrained)

    @property
    def deviation(self) -> np.ndarray:
        """The standard deviation of `mean` over seeds."""
        return np.where(np.isnan(self.retrained), self.tried_deviation, self.retrained_deviation)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is None."""
        own = {name: [_plain(value) for value in getattr(self, name).tolist()] for name in _SERIES}
        return {"widths": list(self.widths), **own}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Curve:
        """What `to_dict` wrote."""
        return cls(tuple(values["widths"]), *(_array(values[name]) for name in _SERIES))


@dataclass(frozen=True)
class Trials:
    """Every training of a search; prints as a table.

    Args:
        rows: {"stage", "width", "seed", "epochs", "loss", "seconds", "values"} each; what is not known is None.

    Example:
        >>> print(Trials(({"stage": "screen", "width": 8, "seed": 0, "epochs": 5, "loss": 0.25},)))
        stage   width  seed  epochs  loss
        ---------------------------------
        screen      8     0       5  0.25
    """

    rows: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"trials": [dict(row) for row in self.rows]}

    def __str__(self) -> str:
        columns = [name for name in _COLUMNS if any(row.get(name) is not None for row in self.rows)]
        return table(columns, [[_cell(row.get(name)) for name in columns] for row in self.rows])

    __repr__ = __str__


@dataclass(frozen=True, eq=False)
class WidthResult:
    """What `encoding_width` found; `print(result)` says it in words.

    Args:
        encoding_dim: the width that was chosen.
        model: the trained autoencoder of that width, with .encoder and .decoder.
        curve: loss against width.
        trials: every training.
        mean_loss: held-out loss of always predicting the training data's mean.
        limit: largest loss that is good; None where the choice was made by another rule.
        tolerance: fraction of the way from the best loss to `mean_loss`.
        choose: the rule.
        method: "screen" or "hyperband".
        notes: what a reader should know.
        values: other hyperparameters of the model.
        costs: {width: {"bytes", "latency"}} where a limit was asked.

    Example:
        >>> errors = {"pca": [0.06, 0.03, 0.02], "tried": [0.05, 0.012, 0.011]}
        >>> curve = Curve.of((2, 4, 8), **errors, retrained={4: [0.010], 8: [0.009]})
        >>> result = WidthResult(4, None, curve, Trials(()), 0.1, 0.0135, 0.05, "tolerance", "screen")
        >>> result.encoding_dim, result.loss, result.answer.split(" is ")[0]
        (4, 0.01, 'encoding_dim 4: smallest whose loss 0.01')
    """

    encoding_dim: int
    model: keras.Model
    curve: Curve
    trials: Trials
    mean_loss: float
    limit: float | None
    tolerance: float
    choose: str
    method: str
    notes: tuple[str, ...] = ()
    values: Mapping[str, Any] | None = None
    costs: Mapping[int, Mapping[str, float]] | None = None

    @property
    def loss(self) -> float:
        """Held-out mean squared error of the chosen width, mean over the seeds."""
        return float(self.curve.mean[self.curve.widths.index(self.encoding_dim)])

    @property
    def answer(self) -> str:
        """The choice in a sentence."""
        place = int(np.nanargmin(self._compared))
        best, at = self._compared[place], self.curve.widths[place]
        mean = f"predicting the mean: {self.mean_loss:.4g}"
        if self.choose == "tolerance":
            why = (
                f"smallest whose loss {self.loss:.4g} is within {self.limit:.4g}, a fraction {self.tolerance:g} "
                f"of the way from the best {best:.4g} (width {at}) to the mean ({mean})"
            )
        elif self.choose == "knee":
            why = f"where the curve of loss against width bends most, loss {self.loss:.4g} ({mean})"
        elif self.choose == "pareto":
            why = f"on the front of width and loss nearest to the ideal corner, loss {self.loss:.4g} ({mean})"
        else:
            why = f"smallest loss within the limits, {self.loss:.4g} ({mean})"
        return f"encoding_dim {self.encoding_dim}: {why}"

    @property
    def _compared(self) -> np.ndarray:
        """The losses that the choice was made of: by tolerance those of the retraining."""
        return self.curve.retrained if self.choose == "tolerance" else self.curve.mean

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the model."""
        own = ("encoding_dim", "mean_loss", "limit", "tolerance", "choose", "method")
        return {
            **{name: getattr(self, name) for name in own},
            "answer": self.answer,
            "loss": self.loss,
            "notes": list(self.notes),
            "values": dict(self.values or {}),
            "costs": {str(width): dict(cost) for width, cost in (self.costs or {}).items()},
            "curve": self.curve.to_dict(),
            **self.trials.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], model: keras.Model) -> WidthResult:
        """What `to_dict` wrote, with the model from its file."""
        own = ("encoding_dim", "mean_loss", "limit", "tolerance", "choose", "method", "values")
        return cls(
            **{name: values[name] for name in own},
            model=model,
            curve=Curve.from_dict(values["curve"]),
            trials=Trials(tuple(values["trials"])),
            notes=tuple(values["notes"]),
            costs={int(width): cost for width, cost in values["costs"].items()},
        )

    def __str__(self) -> str:
        tried = "screen" if self.method == "screen" else "best trial"
        costs = [
            name for name in ("bytes", "latency") if any(name in cost for cost in (self.costs or {}).values())
        ]
        heads = ["width", "PCA", tried, "+-", "retrained", "+-", *costs, ""]
        lines = []
        for i, width in enumerate(self.curve.widths):
            series = [getattr(self.curve, name)[i] for name in _SERIES]
            cells = [_number(series[0]), _number(series[1]), _spread(series[2], series[1])]
            cells += [_number(series[3]), _spread(series[4], series[3])]
            cells += [_number((self.costs or {}).get(width, {}).get(name, np.nan)) for name in costs]
            lines.append([str(width), *cells, "chosen" if width == self.encoding_dim else ""])
        return "\n".join([self.answer, "", table(heads, lines), *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__

    @styled
    def plot(self, path: str | Path | None = None) -> Figure:
        """Loss against width: PCA, the tries and the retraining with error bars, the limit and the choice.

        Args:
            path: a .png, .svg or .pdf file to write as well; None writes none.

        Returns:
            A matplotlib figure.

        Raises:
            InputError: another ending.
        """
        if path is not None and Path(path).suffix not in (".png", ".svg", ".pdf"):
            raise refuse("path", str(path), "a file name that ends in .png, .svg or .pdf")
        curve, widths = self.curve, np.array(self.curve.widths)
        made, (axes,) = _plots.figure(height=3.6)
        tried = "screen" if self.method == "screen" else "best trial"
        series = (
            ("PCA", curve.pca, None, {"color": colour("pca"), "marker": "", "linestyle": "--"}),
            (
                tried,
                curve.tried,
                curve.tried_deviation,
                {"color": colour("dense"), "marker": "o", "markersize": 3.5},
            ),
            (
                "retrained",
                curve.retrained,
                curve.retrained_deviation,
                {"color": colour("prun"), "marker": "D", "markersize": 5, "linestyle": "none"},
            ),
        )
        for name, losses, deviation, style in series:
            known = np.isfinite(losses)
            if not known.any():
                continue
            bars = None if deviation is None else np.nan_to_num(deviation[known])
            axes.errorbar(widths[known], losses[known], bars, label=name, capsize=2.5, **style)
        if self.limit is not None:
            axes.axhline(self.limit, color=MUTED, linewidth=1.1, label=f"limit {self.limit:.3g}")
        axes.axvline(self.encoding_dim, color=INK, linewidth=1.1, linestyle=":")
        axes.set_ylim(0, 1.08 * np.nanmax([curve.pca, curve.tried, curve.retrained]))  # linear, like the rule
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y")
        axes.set_xlabel("width of the code")
        axes.set_ylabel("held-out mean squared error")
        axes.set_title(
            f"encoding_dim {self.encoding_dim}  (predicting the mean: {self.mean_loss:.3g})", loc="left"
        )
        made.legend(loc="outside lower center", ncols=2)
        if path is not None:
            made.savefig(path, dpi=160, facecolor="white")
        return made


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns under their heads, numbers to the right; the first and last column to the left if they are text."""
    rows = [list(heads), *(list(line) for line in lines)]
    wide = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    left = [not _is_number(lines[0][i]) if lines else True for i in range(len(heads))]
    text = [
        "  ".join(
            cell.ljust(w) if flush else cell.rjust(w) for cell, w, flush in zip(row, wide, left, strict=True)
        )
        for row in rows
    ]
    text = [line.rstrip() for line in text]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace("-", "").replace("e", "").isdigit() or text == "-"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "-"


def _spread(deviation: float, beside: float) -> str:
    return f"{deviation:.1g}" if np.isfinite(deviation) and np.isfinite(beside) and deviation > 0 else "-"


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)
