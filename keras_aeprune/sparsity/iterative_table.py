"""The rounds of an iterative run as a table, and the limits they hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras

from keras_aeprune._progress import clock
from keras_aeprune._validation import is_real, refuse, shown
from keras_aeprune.sparsity.table import SparsityRow, SparsityTable

__all__ = ["IterativeResult", "Limit", "Round", "judged", "limits_of", "progress_line"]

_INCREASE = "error_increase"
_LOWER: tuple[str, ...] = (
    "loss",
    "error",
    "mse",
    "mae",
    "mape",
    "msle",
    "rmse",
    "crossentropy",
    "divergence",
    "kl",
    "kld",
    "hinge",
)
_LOWER += ("poisson", "logcosh", "cosh", "perplexity", "nll", "deviation", "brier", "wer", "cer")
_HIGHER: tuple[str, ...] = (
    "accuracy",
    "acc",
    "auc",
    "precision",
    "recall",
    "sensitivity",
    "specificity",
    "f1",
    "fbeta",
    "iou",
    "u",
)
_HIGHER += ("dice", "r2", "psnr", "ssim", "similarity", "pearson", "concordance", "bleu", "score")


@dataclass(frozen=True)
class Limit:
    """What a round must hold.

    Args:
        metric: a name that `model.evaluate` gives, or "error_increase".
        sense: "<=" or ">=".
        value: the bound; of "error_increase" the fraction of the dense model's loss that is allowed on top.
    """

    metric: str
    sense: str
    value: float

    def holds(self, metrics: Mapping[str, float], dense: Mapping[str, float]) -> bool:
        """Whether these metrics hold the limit; a number that is not finite never does."""
        found = metrics["loss" if self.metric == _INCREASE else self.metric]
        bound = self.value
        if self.metric == _INCREASE:
            bound = dense["loss"] + self.value * abs(dense["loss"])
        return math.isfinite(found) and (found <= bound if self.sense == "<=" else found >= bound)

    def __str__(self) -> str:
        return f"{self.metric} {self.sense} {self.value:g}"


def limits_of(limit: Any) -> tuple[Limit, ...]:
    """The limits in what the caller wrote; see `iterative`.

    The direction of {name: bound} comes from the name, cut at "_": at most for names with a part such as loss,
    error, mse, crossentropy or divergence; at least for parts such as accuracy, auc, precision, recall, f1, iou
    or r2. A name with neither, or with both, needs (name, ">=", bound).

    Raises:
        InputError: for anything else, and for a name whose direction does not show.

    Example:
        >>> [str(entry) for entry in limits_of({"accuracy": 0.95, "val_mse": 0.01})]
        ['accuracy >= 0.95', 'val_mse <= 0.01']
        >>> str(limits_of(("hits", ">=", 3))[0])
        'hits >= 3'
    """
    if limit is None:
        return ()
    if isinstance(limit, Mapping):
        return tuple(_limit(name, _sense(name), value) for name, value in limit.items())
    entries = [limit] if isinstance(limit, tuple) and limit and isinstance(limit[0], str) else limit
    if not isinstance(entries, (list, tuple)) or any(len(e) != 3 for e in entries if isinstance(e, Sequence)):
        raise refuse("limit", limit, '{name: bound}, (name, ">=", bound), or a list of these tuples')
    if not all(isinstance(entry, tuple) for entry in entries):
        raise refuse("limit", limit, '{name: bound}, (name, ">=", bound), or a list of these tuples')
    return tuple(_limit(*entry) for entry in entries)


def _limit(name: Any, sense: Any, value: Any) -> Limit:
    if sense not in ("<=", ">=") or (name == _INCREASE and sense != "<="):
        raise refuse("limit", (name, sense, value), '"<=" or ">=" between name and bound')
    number = is_real(value) and math.isfinite(value)
    if not number or (name == _INCREASE and value < 0):
        raise refuse("limit", {name: value}, "a finite number; of error_increase a fraction >= 0")
    return Limit(str(name), str(sense), float(value))


def _sense(name: Any) -> str:
    parts = str(name).lower().split("_")
    lower, higher = (any(part in known for part in parts) for known in (_LOWER, _HIGHER))
    if name == _INCREASE or (lower and not higher):
        return "<="
    if higher and not lower:
        return ">="
    raise refuse(
        "limit", name, f'({shown(name)}, ">=", bound) or "<=", since the name does not tell the direction'
    )


@dataclass(frozen=True)
class Round:
    """One round; number 0 is the dense model.

    Args:
        number: from 0.
        asked: sparsity asked for, a fraction.
        reached: fraction of zeros over the kernels that are pruned.
        metrics: what `model.evaluate` gave on the validation data.
        seconds: it took.
        held: whether all limits held and the loss is finite.
        kernels: asked and reached sparsity of each kernel.
    """

    number: int
    asked: float
    reached: float
    metrics: Mapping[str, float]
    seconds: float
    held: bool
    kernels: SparsityTable

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a metric that is not finite is written as text."""
        metrics = {k: v if math.isfinite(v) else str(v) for k, v in self.metrics.items()}
        own = {name: getattr(self, name) for name in ("number", "asked", "reached", "seconds", "held")}
        return {**own, "metrics": metrics, "kernels": [asdict(row) for row in self.kernels.rows]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Round:
        """The round that `to_dict` described."""
        rows = (SparsityRow(**{**row, "shape": tuple(row["shape"])}) for row in values["kernels"])
        metrics = {k: float(v) for k, v in values["metrics"].items()}
        return cls(**{**values, "metrics": metrics, "kernels": SparsityTable(tuple(rows))})


@dataclass(frozen=True, eq=False)
class IterativeResult:
    """The outcome of `iterative`; prints as a table of the rounds.

    Args:
        model: the model that was given, with the weights and masks of the round that is kept.
        rounds: the dense model (number 0) and every round that was trained.
        kept: the last round that held the limits; number 0 if none did.
        limits: what the rounds had to hold.
        asked: the sparsities of all rounds.

    Example:
        >>> none = SparsityTable(())
        >>> dense = Round(0, 0.0, 0.0, {"loss": 0.013}, 2.0, True, none)
        >>> half = Round(1, 0.5, 0.5, {"loss": 0.014}, 1.0, True, none)
        >>> most = Round(2, 0.75, 0.75, {"loss": 0.030}, 1.0, False, none)
        >>> result = IterativeResult(None, (dense, half, most), half, limits_of({"loss": 0.015}), (0.5, 0.75))
        >>> result.kept.reached, result.reason
        (0.5, 'kept: round 1, since round 2 did not hold loss <= 0.015')
    """

    model: keras.Model
    rounds: tuple[Round, ...]
    kept: Round
    limits: tuple[Limit, ...]
    asked: tuple[float, ...]

    @property
    def reason(self) -> str:
        """Why it ended here, as a sentence."""
        wanted = ", ".join(map(str, self.limits)) or "a finite loss"
        number, last = self.kept.number, self.rounds[-1].number
        if number == len(self.asked):
            return f"kept: round {number}, the last one" + (f"; {wanted} held" if self.limits else "")
        if number:
            return f"kept: round {number}, since round {last} did not hold {wanted}"
        if last:
            return f"kept: the dense model, since not even round 1 held {wanted}"
        return f"kept: the dense model, which does not hold {wanted} itself"

    def to_dict(self) -> dict[str, Any]:
        """All but the model, as plain JSON values."""
        rounds = [entry.to_dict() for entry in self.rounds]
        return {"rounds": rounds, "kept": self.kept.number, "limits": [asdict(entry) for entry in self.limits]}

    def __str__(self) -> str:
        names = list(self.rounds[0].metrics)
        lines = [("round", "asked", "reached", *names, "seconds", "")]
        for r in self.rounds:
            note = "kept" if r is self.kept else "" if r.held else "limit not held"
            figures = (f"{r.metrics[name]:.4g}" for name in names)
            label = str(r.number) if r.number else "dense"
            lines.append((label, f"{r.asked:.4f}", f"{r.reached:.4f}", *figures, f"{r.seconds:.1f}", note))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
        text = [f"{row[: -widths[-1]]}{line[-1]}".rstrip() for row, line in zip(text, lines, strict=True)]
        return "\n".join([text[0], "-" * max(map(len, text)), *text[1:], self.reason])

    __repr__ = __str__


def judged(entry: Round, limits: Sequence[Limit], dense: Mapping[str, float]) -> Round:
    """The round with its verdict."""
    finite = math.isfinite(entry.metrics["loss"])
    return replace(entry, held=finite and all(limit.holds(entry.metrics, dense) for limit in limits))


def progress_line(rounds: Sequence[Round], total: int) -> str:
    """What is known after the last of these rounds, with the time that the others will take.

    Example:
        >>> dense = Round(0, 0.0, 0.0, {"loss": 0.5}, 75.0, True, SparsityTable(()))
        >>> progress_line([dense], 3)
        'dense: loss 0.5  1 min 15 s'
        >>> progress_line([dense, replace(dense, number=1, reached=0.25, seconds=7.0)], 3)
        'round 1/3: sparsity 0.2500  loss 0.5  7 s, 14 s left'
    """
    last = rounds[-1]
    figures = "  ".join(f"{name} {value:.4g}" for name, value in last.metrics.items())
    verdict = "" if last.held else "  limit not held"
    if not last.number:
        return f"dense: {figures}{verdict}  {clock(last.seconds)}"
    mean = sum(r.seconds for r in rounds[1:]) / last.number
    left = f", {clock(mean * (total - last.number))} left" if last.held and last.number < total else ""
    name = f"round {last.number}/{total}: sparsity {last.reached:.4f}"
    return f"{name}  {figures}{verdict}  {clock(last.seconds)}{left}"
