"""Hyperband's brackets: which trials, for how many epochs, and who is promoted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import keras_tuner
from keras_tuner.src.engine.trial import TrialStatus

from keras_aeprune._validation import positive_int
from keras_aeprune.search.oracle import Repairs, is_good


@dataclass(frozen=True)
class Rung:
    """Trials that are trained equally long.

    Args:
        iteration: of the whole algorithm, from 1.
        bracket: number of halvings after its first rung; brackets run from the most halvings to 0.
        rung: within the bracket, from 0.
        trials: at most.
        initial_epoch: where they go on.
        epochs: up to which they are trained, counted from the first rung.
    """

    iteration: int
    bracket: int
    rung: int
    trials: int
    initial_epoch: int
    epochs: int


@dataclass(frozen=True)
class HyperbandPlan:
    """The rungs of a whole search; prints as a table.

    Args:
        rungs: in the order in which they are run.
    """

    rungs: tuple[Rung, ...]

    @property
    def trials(self) -> int:
        """Trials in all, promoted ones counted anew."""
        return sum(rung.trials for rung in self.rungs)

    @property
    def configurations(self) -> int:
        """Different sets of values."""
        return sum(rung.trials for rung in self.rungs if rung.rung == 0)

    @property
    def epochs(self) -> int:
        """Epochs that are trained in all."""
        return sum(rung.trials * (rung.epochs - rung.initial_epoch) for rung in self.rungs)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        own = {name: getattr(self, name) for name in ("trials", "configurations", "epochs")}
        return {**own, "rungs": [asdict(rung) for rung in self.rungs]}

    def __str__(self) -> str:
        heads = f"{'iteration':>9} {'bracket':>8} {'rung':>5} {'trials':>7} {'epochs':>12}"
        lines = [
            f"{rung.iteration:>9} {rung.bracket:>8} {rung.rung:>5} {rung.trials:>7} "
            f"{f'{rung.initial_epoch} to {rung.epochs}':>12}"
            for rung in self.rungs
        ]
        end = f"{self.trials} trials of {self.configurations} configurations, {self.epochs} epochs"
        return "\n".join([heads, "-" * len(heads), *lines, end])

    __repr__ = __str__


def hyperband_plan(
    max_epochs: int = 100, factor: int = 3, *, iterations: int = 1, values: int | None = None
) -> HyperbandPlan:
    """What a Hyperband search will cost: brackets, rungs, trials and epochs, before it begins.

    With R = max_epochs, f = factor and brackets b from floor(log_f R) down to 0, rung r = 0..b has
    ceil(ceil(1 + log_f R) / (b + 1) * f^(b - r)) trials that are trained up to epoch ceil(R / f^(b - r)).
    Li et al. 2018, https://jmlr.org/papers/v18/16-558.html.

    Args:
        max_epochs: of the longest trials, 1 or more.
        factor: epochs grow, and trials shrink, by this from rung to rung, 2 or more.
        iterations: of the whole algorithm, 1 or more.
        values: different sets of values that the search space has; None for endless. A value is tried once, so a
            small space leaves later brackets with fewer trials or none.

    Returns:
        A `HyperbandPlan`; failed trials can make the search shorter, never longer.

    Raises:
        InputError: for numbers below those.

    Example:
        >>> plan = hyperband_plan(9, 3)
        >>> plan.trials, plan.configurations, plan.epochs
        (23, 17, 75)
    """
    positive_int("max_epochs", max_epochs)
    positive_int("factor", factor, minimum=2)
    positive_int("iterations", iterations)
    left = None if values is None else positive_int("values", values)
    shape = keras_tuner.oracles.HyperbandOracle("loss", max_epochs=max_epochs, factor=factor)
    rungs = []
    for iteration in range(1, iterations + 1):
        for bracket in reversed(range(shape._get_num_brackets())):
            trials = left
            for rung in range(bracket + 1):
                size = shape._get_size(bracket, rung)
                trials = size if trials is None else min(size, trials)
                if rung == 0 and left is not None:
                    left -= trials
                begin = shape._get_epochs(bracket, rung - 1) if rung else 0
                rungs.append(Rung(iteration, bracket, rung, trials, begin, shape._get_epochs(bracket, rung)))
    return HyperbandPlan(tuple(rung for rung in rungs if rung.trials))


class HyperbandOracle(Repairs, keras_tuner.oracles.HyperbandOracle):
    """Hyperband that runs every bracket to its end; see `search.Hyperband`."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        while True:
            self._brackets: list[dict[str, Any]] = [one for one in self._brackets if not self._over(one)]
            for bracket in self._brackets:
                values = self._first(bracket) or self._promoted(bracket)
                if values:
                    parent = values.get("tuner/trial_id")
                    bracket["rounds"][values["tuner/round"]].append({"past_id": parent, "id": trial_id})
                    return {"status": TrialStatus.RUNNING, "values": values}
            waiting = bool(self.ongoing_trials or self._retry_queue)
            exhausted = any(bracket.get("exhausted") for bracket in self._brackets)
            last = self._current_bracket == 0 and self._current_iteration + 1 >= self.hyperband_iterations
            if last or (exhausted and waiting):
                return {"status": TrialStatus.IDLE if waiting else TrialStatus.STOPPED}
            self._increment_bracket_num()
            self._start_new_bracket()

    def _first(self, bracket: dict[str, Any]) -> dict[str, Any] | None:
        """Values for the first rung; where there are no new ones, the rung is shorter than planned."""
        number, rounds = bracket["bracket_num"], bracket["rounds"]
        if self._closed(bracket, 0):
            return None
        values = self._random_values()
        if values is None:
            # A trial that runs may still bring new hyperparameters, so the rung is not closed before it ends.
            if not self.ongoing_trials:
                bracket["exhausted"] = True
            return None
        return {**values, **self._position(number, 0), "tuner/initial_epoch": 0} if rounds else None

    def _promoted(self, bracket: dict[str, Any]) -> dict[str, Any] | None:
        """Values of the best trial of a rung, once it is sure to be among those that go on."""
        number, rounds = bracket["bracket_num"], bracket["rounds"]
        for rung in range(1, len(rounds)):
            past = [self.trials[info["id"]] for info in rounds[rung - 1]]
            planned = len(past) if self._closed(bracket, rung - 1) else self._get_size(number, rung - 1)
            size = self._get_size(number, rung)
            gone = {info["past_id"] for info in rounds[rung]}
            ended = [trial for trial in past if trial.trial_id not in gone and _has_ended(trial)]
            able = [trial for trial in ended if is_good(trial)]  # a failed trial is a loser: it takes no place
            if able and len(gone) < size and len(ended) > planned - size:
                pick = max if self.objective.direction == "max" else min
                best = pick(able, key=lambda trial: trial.score)
                values = {**best.hyperparameters.values, **self._position(number, rung)}
                return {
                    **values,
                    "tuner/trial_id": best.trial_id,
                    "tuner/initial_epoch": self._get_epochs(number, rung - 1),
                }
        return None

    def _position(self, number: int, rung: int) -> dict[str, Any]:
        return {"tuner/epochs": self._get_epochs(number, rung), "tuner/bracket": number, "tuner/round": rung}

    def _closed(self, bracket: dict[str, Any], rung: int) -> bool:
        """Whether no trial will be added to the rung."""
        rounds = bracket["rounds"]
        if len(rounds[rung]) >= self._get_size(bracket["bracket_num"], rung):
            return True
        if rung == 0:
            return bool(bracket.get("exhausted"))
        past = [self.trials[info["id"]] for info in rounds[rung - 1]]
        gone = {info["past_id"] for info in rounds[rung]}
        left = [trial for trial in past if is_good(trial) and trial.trial_id not in gone]
        return self._closed(bracket, rung - 1) and all(map(_has_ended, past)) and not left

    def _over(self, bracket: dict[str, Any]) -> bool:
        last = len(bracket["rounds"]) - 1
        ids = [info["id"] for info in bracket["rounds"][last]]
        return self._closed(bracket, last) and all(_has_ended(self.trials[trial_id]) for trial_id in ids)

    def _needed(self) -> set[str]:
        running = [bracket for bracket in self._brackets if not self._over(bracket)]
        ids = {info["id"] for bracket in running for rung in bracket["rounds"] for info in rung}
        return super()._needed() | ids

    def is_last(self, trial: Any) -> bool:
        values = trial.hyperparameters.values
        return values.get("tuner/round") == values.get("tuner/bracket")

    def place(self, trial: Any) -> str:
        values = trial.hyperparameters.values
        brackets, bracket, rung = self._get_num_brackets(), values["tuner/bracket"], values["tuner/round"]
        size = self._get_size(bracket, rung)
        return f"bracket {brackets - bracket}/{brackets} rung {size}@{values['tuner/epochs']} epochs"

    def units(self, trial: Any) -> float:
        values = trial.hyperparameters.values
        return float(values["tuner/epochs"] - values["tuner/initial_epoch"])

    def total(self) -> tuple[int, float]:
        iterations, values = self.hyperband_iterations, self.set_count()
        plan = hyperband_plan(self.max_epochs, self.factor, iterations=iterations, values=values)
        return plan.trials, float(plan.epochs)


def _has_ended(trial: Any) -> bool:
    return trial.status in (TrialStatus.COMPLETED, TrialStatus.FAILED)
