"""Keras Tuner's oracles, which say what is tried next, with their faults repaired."""

from __future__ import annotations

import functools
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.src.engine import metrics_tracking, objective
from keras_tuner.src.engine import oracle as kt_oracle
from keras_tuner.src.engine.trial import Trial, TrialStatus

from keras_aeprune import _files, _progress
from keras_aeprune._validation import InputError, one_of, refuse
from keras_aeprune.search import checkpoints
from keras_aeprune.search.display import SearchDisplay
from keras_aeprune.search.state import Written, hashed_seed

WORST = 1e30  # the score of a trial without a finite one, with a minus where high is good
_DRAWS = 100  # colliding draws before the whole space is looked through
_SPACE_LIMIT = 10_000  # sets of values that are counted; a larger space counts as endless
_SMALL = (
    *("loss", "mse", "mean_squared_error", "mae", "mean_absolute_error", "root_mean_squared_error", "huber"),
    *("mape", "mean_absolute_percentage_error", "msle", "mean_squared_logarithmic_error", "log_cosh", "poisson"),
    *("crossentropy", "binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy"),
    "kl_divergence",
)
_LARGE = (
    *("acc", "accuracy", "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy"),
    *("top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy", "auc", "precision", "recall"),
)


def known_objective(value: Any) -> Any:
    """The `keras_tuner.Objective` of a name, a (name, direction), an Objective, or a list of them.

    A name is taken alone only where its direction is beyond doubt: Keras Tuner minimises "val_r2_score".

    Raises:
        InputError: for a name whose direction is not known.

    Example:
        >>> known_objective("val_loss").direction, known_objective(("val_r2_score", "max")).direction
        ('min', 'max')
    """
    if value is None or isinstance(value, objective.Objective):
        return objective.create_objective(value)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return objective.Objective(value[0], one_of("objective's direction", value[1], ("min", "max")))
    if isinstance(value, list) and value:
        return objective.MultiObjective([known_objective(one) for one in value])
    base = value.removeprefix("val_") if isinstance(value, str) else None
    if base in _SMALL or base in _LARGE:
        return objective.Objective(value, "min" if base in _SMALL else "max")
    raise refuse(
        "objective",
        value,
        'a loss or an accuracy such as "val_loss"; others with a direction, such as ("val_r2_score", "max")',
    )


def combinations(space: Sequence[Any], limit: int = _SPACE_LIMIT) -> list[dict[str, Any]] | None:
    """Every set of active values of a search space; None for a continuous one, or more than `limit`.

    Example:
        >>> hp = keras_tuner.HyperParameters()
        >>> _ = hp.Int("encoding_dim", 16, 64, step=4), hp.Boolean("deep")
        >>> len(combinations(hp.space))
        26
    """
    found: list[dict[str, Any]] = [{}]
    for parameter in space:
        grown = []
        for values in found:
            if not all(condition.is_active(values) for condition in parameter.conditions):
                grown.append(values)
                continue
            choices = _choices(parameter)
            if choices is None or len(grown) + len(choices) > limit:
                return None
            grown += [{**values, parameter.name: choice} for choice in choices]
        found = grown
    return found


def _choices(parameter: Any) -> list[Any] | None:
    if hasattr(parameter, "step") and parameter.step is None:
        whole = isinstance(parameter.min_value, int) and isinstance(parameter.max_value, int)
        return list(range(parameter.min_value, parameter.max_value + 1)) if whole else None
    return list(parameter.values)


def _locked(method: Callable) -> Callable:
    """Keras Tuner's lock of this oracle, given back also after an error."""

    @functools.wraps(method)
    def inside(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = kt_oracle.threading.current_thread().name
        if kt_oracle.THREADS[self] == name:
            return method(self, *args, **kwargs)
        with kt_oracle.LOCKS[self]:
            kt_oracle.THREADS[self] = name
            try:
                return method(self, *args, **kwargs)
            finally:
                kt_oracle.THREADS[self] = None

    return inside


class Repairs(keras_tuner.Oracle):
    """What every oracle here does better; stands before the class of Keras Tuner that it repairs."""

    def repair(self, seed: int, max_failures: int, keep: int, say: _progress.Say) -> None:
        """Set what Keras Tuner's constructors do not take."""
        self.seed, self._seed_state = seed, 0  # Keras Tuner would replace 0 by a random seed
        self.max_failures, self.keep = max_failures, keep
        self.gave_up = ""  # why the search was ended before its time
        self._ended, self._failed = 0, 0  # in this process
        self._notes: dict[str, str] = {}
        self._without_weights: set[str] = set()
        self._written = Written()
        self._display = SearchDisplay(self, say)

    @_locked
    def create_trial(self, tuner_id: str) -> Trial:
        if self.gave_up:
            self.tuner_ids.discard(tuner_id)
            return Trial(self.hyperparameters.copy(), trial_id="", status=TrialStatus.STOPPED)
        again = self.ongoing_trials.get(tuner_id)
        if again is None and self._retry_queue:
            again = self.trials[self._retry_queue[-1]]
        if again is not None and not self.multi_worker:  # it starts anew: nothing of the last run may stay
            again.metrics = metrics_tracking.MetricsTracker()
            again.score, again.best_step, again.message = None, 0, None
            again.status = TrialStatus.RUNNING
            self._save_trial(again)
        return super().create_trial(tuner_id)

    @_locked
    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Trial:
        self._check_objective_found(metrics)
        if trial_id in self.end_order:
            return self.trials[trial_id]
        judged = {self.objective.name, *getattr(self.objective, "name_to_direction", ())}
        worst = WORST if self.objective.direction == "min" else -WORST
        finite, notes = {}, []
        for name, value in metrics.items():
            if math.isfinite(value):
                finite[name] = float(value)
                continue
            notes.append(f"{name} was {float(value)}")
            if name in judged:
                finite[name] = worst
        if notes:
            self._notes[trial_id] = ", ".join(notes)
        return super().update_trial(trial_id, finite, step)

    @_locked
    def end_trial(self, trial: Trial) -> None:
        given, trial = trial, self.trials[trial.trial_id]
        if trial.trial_id not in self.end_order:  # a chief that was restarted may have given it out twice
            self._take(trial, given)
        for tuner_id in [key for key, ongoing in self.ongoing_trials.items() if ongoing is trial]:
            del self.ongoing_trials[tuner_id]
        self.save()
        self._remove_weights()

    def _take(self, trial: Trial, given: Trial) -> None:
        """The end of a trial as the worker gave it."""
        trial.hyperparameters, trial.status, trial.message = given.hyperparameters, given.status, given.message
        if trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        self._end(trial)
        self._display.on_trial_end(trial)
        self._save_trial(trial)

    def _end(self, trial: Trial) -> None:
        """Score a trial, or send it for another run."""
        self.update_space(trial.hyperparameters)
        note = self._notes.pop(trial.trial_id, None)
        if trial.status == TrialStatus.COMPLETED:
            self.score_trial(trial)
            trial.score, trial.message = float(trial.score), note
        self._record_values(trial)
        self._run_times[trial.trial_id] += 1
        failed = trial.status == TrialStatus.INVALID
        if failed or (trial.status == TrialStatus.COMPLETED and not is_good(trial)):
            if self._run_times[trial.trial_id] <= self.max_retries_per_trial:
                trial.status = TrialStatus.INVALID
                self._retry_queue.append(trial.trial_id)
                return
            trial.status = TrialStatus.FAILED if failed else TrialStatus.COMPLETED
        self.end_order.append(trial.trial_id)
        self._ended += 1
        self._failed += trial.status == TrialStatus.FAILED
        if self._ended == self._failed == self.max_failures:
            self.gave_up = f"the first {self._failed} trials all failed (max_failures)"

    def failure(self) -> str:
        """Why there is no result at all, with the last traceback; "" where there is one, or may be."""
        trials = [self.trials[trial_id] for trial_id in self.end_order]
        if not trials or any(trial.status != TrialStatus.FAILED for trial in trials):
            return ""
        last = trials[-1].message or "(no traceback came with it: see the output of the worker)"
        return f"{self.gave_up or f'all {len(trials)} trials failed'}; the last one:\n{last}"

    def attempts(self, trial_id: str) -> int:
        """How often this trial was run to an end before."""
        return self._run_times[trial_id]

    def is_good(self, trial: Trial) -> bool:
        """Whether the trial ended with a finite score."""
        return is_good(trial)

    def ranked(self, longest: bool = True) -> list[Trial]:
        """The trials that may win, best first; or those of the longest rung that was reached so far."""
        found = [
            trial for trial in self.trials.values() if is_good(trial) and (self.is_last(trial) or not longest)
        ]
        if not longest:
            epochs = [trial.hyperparameters.values.get("tuner/epochs", 0) for trial in found]
            found = [trial for trial, count in zip(found, epochs, strict=True) if count == max(epochs)]
        return sorted(found, key=lambda trial: trial.score, reverse=self.objective.direction == "max")

    def is_last(self, trial: Trial) -> bool:
        """Whether the trial was trained as long as any: only these are compared in the end."""
        return True

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        found = self.ranked()
        if not found:
            raise InputError(f"num_trials: got {num_trials}, but {self._why_none()}")
        return found[:num_trials]

    def _why_none(self) -> str:
        done = [trial for trial in self.trials.values() if trial.status == TrialStatus.COMPLETED]
        counts = {
            "completed, but in shorter rungs only": sum(is_good(trial) for trial in done),
            "without a finite score": sum(not is_good(trial) for trial in done),
            "failed": sum(trial.status == TrialStatus.FAILED for trial in self.trials.values()),
            "not ended": len(self.trials) - len(self.end_order),
        }
        text = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"no trial can win: {text or 'none has been run; call search(...) first'}"

    def place(self, trial: Trial) -> str:
        """Where the trial stands in the search, for the line of progress."""
        return ""

    def units(self, trial: Trial) -> float:
        """The trial's share of the work."""
        return 1.0

    def total(self) -> tuple[int, float] | None:
        """Trials and units of work in all, where they can be known."""
        if self.max_trials is None:
            return None
        trials = min(self.max_trials, self.set_count() or self.max_trials)
        return trials, float(trials)

    def set_count(self) -> int | None:
        """Different sets of values that the space has; None for endless, or where none is known yet."""
        space = self.hyperparameters.space
        counted = combinations(space) if space else None
        return None if counted is None else len(counted)

    def _random_values(self) -> dict[str, Any] | None:
        space = self.hyperparameters.space
        for _ in range(_DRAWS):
            values = keras_tuner.HyperParameters()
            for parameter in space:
                values.merge([parameter])
                if values.is_active(parameter):
                    values.values[parameter.name] = parameter.random_sample(
                        hashed_seed(self.seed, self._seed_state)
                    )
                    self._seed_state += 1
            if not self._duplicate(values.values):
                return values.values
        left = [values for values in combinations(space) or () if not self._duplicate(values)]
        self._seed_state += 1
        return left[hashed_seed(self.seed, self._seed_state) % len(left)] if left else None

    def save(self) -> None:
        self._written.write(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Trial) -> None:
        self._written.write(Path(self._get_trial_dir(trial.trial_id)) / "trial.json", trial.get_state())

    def reload(self) -> None:
        """Go on where the files end: a trial that ended is ended, one that never began is forgotten."""
        super().reload()
        for trial_id in set(self.trials) - set(self.start_order):
            shutil.rmtree(self._folder(trial_id), ignore_errors=True)
        self.trials: dict[str, Trial] = {trial_id: self.trials[trial_id] for trial_id in self.start_order}
        for trial_id in list(self._retry_queue):
            trial = self.trials[trial_id]
            if trial.status in (TrialStatus.COMPLETED, TrialStatus.FAILED):
                self._retry_queue.remove(trial_id)
                self._run_times[trial_id] += 1
                self.end_order.append(trial_id)
                self.update_space(trial.hyperparameters)
                self._record_values(trial)

    def remove_unfinished(self) -> None:
        """Remove what a killed process left half-written; not while workers write."""
        folder = Path(self._project_dir)
        for path in (folder, *folder.glob("trial_*")):
            _files.remove_unfinished(path)

    def _folder(self, trial_id: str) -> Path:
        return Path(os.path.join(str(self._directory), self._project_name, f"trial_{trial_id}"))

    def _needed(self) -> set[str]:
        """Trials whose weights are still of use."""
        running = {trial.trial_id for trial in self.ongoing_trials.values()} | set(self._retry_queue)
        return running | {trial.trial_id for trial in self.ranked()[: self.keep]}

    def _remove_weights(self) -> None:
        for trial_id in set(self.end_order) - self._needed() - self._without_weights:
            (self._folder(trial_id) / checkpoints.FILE).unlink(missing_ok=True)
            self._without_weights.add(trial_id)


def is_good(trial: Trial) -> bool:
    """Whether the trial ended with a finite score."""
    return trial.status == TrialStatus.COMPLETED and trial.score is not None and abs(trial.score) < WORST


class RandomSearchOracle(Repairs, keras_tuner.oracles.RandomSearchOracle):
    """Random search; see `search.RandomSearch`."""


class BayesianOptimizationOracle(Repairs, keras_tuner.oracles.BayesianOptimizationOracle):
    """Gaussian process; see `search.BayesianOptimization`."""

    def repair(self, seed: int, max_failures: int, keep: int, say: _progress.Say) -> None:
        super().repair(seed, max_failures, keep, say)
        self.seed = hashed_seed("gaussian process", seed)
        self.gpr = self._make_gpr()
        self.seed = seed

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        self._random_state = np.random.RandomState(hashed_seed("starts", self.seed, len(self.trials)))
        found = super().populate_space(trial_id)
        if found["values"] is not None and self._duplicate(found["values"]):
            found = self._random_populate_space()
        return found

    def _vectorize_trials(self) -> Any:
        """Without trials that wait for another run; a score that is not finite counts as the worst finite one."""
        trials, waiting = self.trials, set(self._retry_queue)
        scores = [trial.score for trial in trials.values() if is_good(trial)]
        worst = (max if self.objective.direction == "min" else min)(scores, default=0.0)
        seen = {}
        for trial_id, trial in trials.items():
            if trial.status == TrialStatus.COMPLETED and not is_good(trial):
                trial = Trial(trial.hyperparameters, trial_id, trial.status)
                trial.score = worst
            if trial_id not in waiting:
                seen[trial_id] = trial
        self.trials = seen
        try:
            return super()._vectorize_trials()
        finally:
            self.trials = trials
