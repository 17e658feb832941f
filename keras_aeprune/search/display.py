"""What a person sees of a search: one line while it runs, and a table of its trials."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from keras_tuner.src.engine import oracle as kt_oracle
from keras_tuner.src.engine.trial import TrialStatus

from keras_aeprune import _progress

_VALUES_SHOWN = 3


class SearchDisplay(kt_oracle.Display):
    """One line on standard error in place of Keras Tuner's tables; keeps the seconds of every trial.

    Args:
        oracle: whose search is shown; it has `place`, `units`, `total` and `ranked`.
        say: where the lines go.
    """

    def __init__(self, oracle: Any, say: _progress.Say = _progress.to_stderr):
        super().__init__(oracle, verbose=1)
        self._say = say
        self.seconds: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._here = [0.0, 0.0]  # units of work, and seconds, since this process began to search
        self._since = 0.0
        self._total: tuple[int, Any] = (-1, None)

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "seconds": self.seconds}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.seconds = dict(state.get("seconds", {}))

    def on_trial_begin(self, trial: Any) -> None:
        self._began[trial.trial_id] = time.monotonic()
        self._since = self._since or time.monotonic()
        self.trial_number.setdefault(trial.trial_id, len(self.oracle.trials))
        self._say(self.line(trial), False)

    def on_trial_end(self, trial: Any) -> None:
        began = self._began.pop(trial.trial_id, None)
        if began is not None:
            self.seconds[trial.trial_id] = round(time.monotonic() - began, 3)
            self._here = [self._here[0] + self.oracle.units(trial), time.monotonic() - self._since]

    def line(self, trial: Any) -> str:
        """The search as it stands, with one trial running."""
        total = self._planned()
        number = self.trial_number.get(trial.trial_id, len(self.oracle.trials))
        parts = [self.oracle.place(trial), f"trial {number}" + (f"/{total[0]}" if total else "")]
        parts.append(self.best())
        if total and self._here[0]:
            ended = sum(self.oracle.units(self.oracle.trials[name]) for name in self.oracle.end_order)
            left = max(0.0, total[1] - ended) * self._here[1] / self._here[0]
            parts.append(f"{_progress.clock(left)} left")
        return " | ".join(part for part in parts if part)

    def best(self) -> str:
        """The best score so far among the trials that were trained longest, with its values."""
        ranked = self.oracle.ranked() or self.oracle.ranked(longest=False)
        if not ranked:
            return ""
        values = own_values(ranked[0])
        named = ", ".join(f"{name} {_short(value)}" for name, value in list(values.items())[:_VALUES_SHOWN])
        return f"best {_short(ranked[0].score)}" + (f" ({named})" if named else "")

    def finish(self) -> None:
        """The last line."""
        trials = self.oracle.trials.values()
        failed = sum(trial.status == TrialStatus.FAILED for trial in trials)
        parts = [
            f"search: {len(self.oracle.trials)} trials" + (f", {failed} failed" if failed else ""),
            self.best(),
        ]
        parts.append(_progress.clock(sum(self.seconds.values())))
        self._say(" | ".join(part for part in parts if part), True)

    def _planned(self) -> tuple[int, float] | None:
        size = len(self.oracle.hyperparameters.space)
        if self._total[0] != size:  # a trial may bring new hyperparameters
            self._total = (size, self.oracle.total())
        return self._total[1]


def own_values(trial: Any) -> dict[str, Any]:
    """The values that a trial tries, without those that only steer the tuner."""
    values = trial.hyperparameters.values
    return {name: value for name, value in values.items() if not name.startswith("tuner/")}


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Args:
        trial: its name, which is its folder's after "trial_".
        values: of the hyperparameters.
        bracket: halvings after the first rung, or None outside Hyperband.
        rung: within the bracket, from 0, or None.
        epochs: up to which it was trained, or None where the tuner does not say.
        parent: the trial whose weights it began with, or None.
        score: of the objective; None where it is not finite or not there.
        metrics: {name: the last value that was reported}.
        seconds: it took, or None.
        status: "COMPLETED", "FAILED", or that of one that has not ended.
        error: last line of the traceback, what was not finite, or "".
    """

    trial: str
    values: Mapping[str, Any]
    bracket: int | None
    rung: int | None
    epochs: int | None
    parent: str | None
    score: float | None
    metrics: Mapping[str, float]
    seconds: float | None
    status: str
    error: str


@dataclass(frozen=True)
class SearchTable:
    """All trials of a search, those that may win first; prints as a table.

    Args:
        rows: one `TrialRow` each; first those that were trained longest, by their score.
        objective: name of the score.
        direction: "min" or "max".
    """

    rows: tuple[TrialRow, ...]
    objective: str
    direction: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"objective": self.objective, "direction": self.direction, "trials": [asdict(r) for r in self.rows]}

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row.values))
        metrics = dict.fromkeys(name for row in self.rows for name in row.metrics if name != self.objective)
        heads = ("trial", *names, "rung", "epochs", self.objective, *metrics, "seconds", "status", "")
        lines = [heads]
        for row in self.rows:
            rung = None if row.rung is None else f"{row.bracket}.{row.rung}"
            values = (row.values.get(name) for name in names)
            more = (row.metrics.get(name) for name in metrics)
            seconds = None if row.seconds is None else f"{row.seconds:.1f}"
            cells = (row.trial, *values, rung, row.epochs, row.score, *more, seconds, row.status)
            lines.append((*map(_short, cells), row.error))
        widths = [max(len(line[i]) for line in lines) for i in range(len(heads) - 1)]
        text = ["  ".join([*map(str.rjust, line[:-1], widths), line[-1]]).rstrip() for line in lines]
        return "\n".join([text[0], "-" * len(text[0]), *text[1:]])

    __repr__ = __str__


def table(oracle: Any) -> SearchTable:
    """The trials of an oracle as a `SearchTable`."""
    high = oracle.objective.direction == "max"
    rows = [_row(oracle, trial) for trial in oracle.trials.values()]

    def order(row: TrialRow) -> tuple[bool, int, float, str]:
        score = float("inf") if row.score is None else (-row.score if high else row.score)
        return row.score is None, -(row.epochs or 0), score, row.trial

    return SearchTable(tuple(sorted(rows, key=order)), oracle.objective.name, oracle.objective.direction)


def _row(oracle: Any, trial: Any) -> TrialRow:
    values = trial.hyperparameters.values
    good = trial.status == TrialStatus.COMPLETED and oracle.is_good(trial)
    notes = [line for line in (trial.message or "").splitlines() if line.strip()]
    metrics = {name: float(trial.metrics.get_last_value(name)) for name in trial.metrics.metrics}
    return TrialRow(
        trial=trial.trial_id,
        values=own_values(trial),
        bracket=values.get("tuner/bracket"),
        rung=values.get("tuner/round"),
        epochs=values.get("tuner/epochs"),
        parent=values.get("tuner/trial_id"),
        score=trial.score if good else None,
        metrics=metrics if good else {name: v for name, v in metrics.items() if name != oracle.objective.name},
        seconds=oracle._display.seconds.get(trial.trial_id),
        status=trial.status,
        error=notes[-1].strip() if notes else "",
    )


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
