"""One trial, whatever engine asks for it: build, load, train, keep the best epoch at the target, measure, save."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from keras_aeprune import _progress
from keras_aeprune._validation import InputError, one_of, positive_int, refuse, shown
from keras_aeprune.search import checkpoints
from keras_aeprune.search.measures import BAD, Measuring
from keras_aeprune.sparsity import SparsityNotReached

__all__ = ["BestEpoch", "Goal", "Rung", "Task", "evaluate", "note", "paired", "run", "seed_of"]


@dataclass(frozen=True)
class Rung:
    """The part of a training that one trial does: epochs `initial_epoch` to `epochs`.

    Args:
        epochs: that the weights have been trained for at the end, > initial_epoch.
        initial_epoch: that the parent's weights have been trained for, 0 for fresh ones.
        last: whether nothing comes after it; what is expensive to measure is measured there.

    Example:
        >>> Rung(9, 3).length
        6
    """

    epochs: int
    initial_epoch: int = 0
    last: bool = True

    def __post_init__(self) -> None:
        positive_int("initial_epoch", self.initial_epoch, minimum=0)
        positive_int("epochs", self.epochs, minimum=self.initial_epoch + 1)

    @property
    def length(self) -> int:
        """Epochs that are trained."""
        return self.epochs - self.initial_epoch


@dataclass(frozen=True)
class Goal:
    """Which number is judged, and which way; a `keras_tuner.Objective` stands in for it.

    Args:
        name: of a metric, such as "val_loss".
        direction: "min" or "max".

    Example:
        >>> Goal("val_accuracy", "max").better_than(0.9, 0.8)
        True
    """

    name: str = "val_loss"
    direction: str = "min"

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("min", "max"))

    def has_value(self, logs: Mapping[str, float]) -> bool:
        """Whether `logs` holds it."""
        return self.name in logs

    def get_value(self, logs: Mapping[str, float]) -> float:
        """Its value."""
        return logs[self.name]

    def better_than(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`."""
        return a > b if self.direction == "max" else a < b


class Prunes(Protocol):
    """What prunes in a rung: a `search.pruning.Pruning`."""

    def callback(self, model: keras.Model, rung: Rung) -> keras.callbacks.Callback: ...


class BestEpoch(keras.callbacks.Callback):
    """Holds the weights of the best epoch at the target, as arrays in memory.

    An epoch is judged by the goal; where its logs lack that, by val_loss, or else by loss. A loss of NaN ends
    the training: weights do not come back from it.

    Args:
        goal: which number is judged.
        pruning: the pruning callback of the same fit, with `at_target`; None, or one without, counts all epochs.

    Attributes:
        logs: of the best epoch, or None if none counted.
        weights: of the best epoch.
        last: logs of the last epoch.
        diverged: the epoch with a loss of NaN, or None.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> best = BestEpoch(Goal("loss"))
        >>> history = model.fit(np.ones((4, 2)), np.ones(4), epochs=2, verbose=0, callbacks=[best])
        >>> best.logs["loss"] == min(history.history["loss"])
        True
    """

    def __init__(self, goal: Any, pruning: Any = None):
        super().__init__()
        self.goal = goal
        self.pruning = pruning
        self.last: dict[str, float] | None = None
        self._forget()

    def _forget(self) -> None:
        self.logs: dict[str, float] | None = None
        self.weights: list[np.ndarray] | None = None
        self.diverged: int | None = None
        self._rank, self._value = 3, math.nan

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._forget()
        self.last = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.last = {name: float(value) for name, value in (logs or {}).items()}
        if math.isnan(self.last.get("loss", 0.0)):
            self.diverged = epoch
            self.model.stop_training = True
            return
        if not getattr(self.pruning, "at_target", True):
            return
        rank, value = self._judged(self.last)
        if not math.isfinite(value) or rank > self._rank:
            return
        better = self.goal.better_than(value, self._value) if rank == 0 else value < self._value
        if rank < self._rank or better:
            self._rank, self._value = rank, value
            self.logs, self.weights = self.last, self.model.get_weights()

    def _judged(self, logs: Mapping[str, float]) -> tuple[int, float]:
        """How good a stand-in for the goal there is (0: the goal itself), and its value."""
        if self.goal.has_value(logs):
            return 0, float(self.goal.get_value(logs))
        if "val_loss" in logs:
            return 1, logs["val_loss"]
        return 2, logs.get("loss", math.nan)


def run(
    model: keras.Model,
    fit: Callable[[list[keras.callbacks.Callback]], Mapping[str, float]],
    rung: Rung,
    *,
    goal: Any = None,
    pruning: Prunes | None = None,
    measuring: Measuring | None = None,
    objective: Callable[[Mapping[str, float], Mapping[str, Any]], float] | None = None,
    values: Mapping[str, Any] | None = None,
    data: Any = None,
) -> dict[str, float]:
    """Train a model that has its weights, leave it with those that are scored, and say what they are worth.

    The part that `evaluate` and the hypermodels share. After it the model holds the weights of the best epoch
    at the target, and the metrics are that epoch's. Metrics of its own that `fit` returns are added; where they
    hold the goal and the epochs' logs do not, they were computed after the training, and its last weights stay.

    Args:
        model: built, compiled, with the parent's weights if it has one.
        fit: is called once with the callbacks that belong in front; trains, and returns metrics of its own,
            usually none.
        rung: epochs of this trial.
        goal: which number of an epoch is judged; None for the lowest val_loss.
        pruning: a `search.pruning.Pruning`, or None for none.
        measuring: what is measured at the end; None for nothing.
        objective: (metrics, values) -> the score, minimised; stored as "score".
        values: of the configuration, for `objective` and messages.
        data: inputs to calibrate an int8 file with.

    Returns:
        Finite numbers by name. What is not finite becomes `BAD` (1e30; -1e30 for a goal that is maximised).

    Raises:
        InputError: if `fit` does not pass the callbacks on.
        SparsityNotReached: if the training ended before the target, other than by a loss of NaN.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).random((32, 4), "float32")
        >>> def fit(callbacks):
        ...     model.fit(x, x, epochs=4, verbose=0, callbacks=callbacks, validation_data=(x, x))
        ...     return {}
        >>> metrics = run(model, fit, Rung(4))
        >>> abs(metrics["val_loss"] - model.evaluate(x, x, verbose=0)) < 1e-6
        True
    """
    goal, values, measuring = goal or Goal(), values or {}, measuring or Measuring(())
    hold = None if pruning is None else pruning.callback(model, rung)
    best = BestEpoch(goal, hold)
    own: Mapping[str, float] = {}
    try:
        _build_optimizer(model)
        own = fit([*([] if hold is None else [hold]), best])
    except (InputError, SparsityNotReached):
        if best.diverged is None and _finite_weights(model):
            raise
    if best.last is None:
        raise InputError("fit: got one without these callbacks, allowed: pass callbacks= on to model.fit")
    metrics = _counted(model, best, own, goal)
    diverged = metrics is None
    if metrics is None:
        when = "" if best.diverged is None else f" in epoch {best.diverged + 1}"
        note(values, f"its loss is not finite{when}; its score counts as {BAD:g}")
        metrics = {**dict.fromkeys(["loss", *(best.last or {}), goal.name], math.nan)}
    metrics |= measuring.of(model, last=rung.last, data=data) if not diverged else {}
    if objective is not None:
        metrics["score"] = math.nan if diverged else float(objective(metrics, values))
        if not diverged and not math.isfinite(metrics["score"]):
            note(values, f"its score is {metrics['score']}; it counts as {BAD:g}")
    if goal.name not in metrics and goal.has_value(metrics):  # several objectives in one
        metrics[goal.name] = goal.get_value(metrics)
    worst = -BAD if goal.direction == "max" else BAD
    return {
        name: value if math.isfinite(value) else worst if name == goal.name else BAD
        for name, value in metrics.items()
    }


def _counted(model: keras.Model, best: BestEpoch, own: Mapping[str, float], goal: Any) -> dict[str, float] | None:
    """The metrics that count, with their weights in the model; None if there are no finite ones."""
    own = {name: float(value) for name, value in (own or {}).items()}
    if best.logs is None:
        return None
    if goal.has_value(own) and not goal.has_value(best.logs):
        return {**(best.last or {}), **own} if best.diverged is None else None
    model.set_weights(best.weights)
    return {**own, **best.logs}


@dataclass(frozen=True)
class Task:
    """All that stays the same between the trials of a search.

    Args:
        build: configuration -> a built and compiled model.
        x: training inputs, or anything that `model.fit` takes.
        y: training targets; None makes x the targets where x is an array.
        validation: `validation_data` of `model.fit`, or one array, which is its own target.
        fit: further arguments of `model.fit`, such as batch_size.
        pruning: configuration -> a `search.pruning.Pruning` or None; or one of these for all.
        measuring: what is measured at the end of a trial.
        objective: (metrics, configuration) -> the score, minimised; None leaves it out.
        goal: which number of an epoch is judged; None for the lowest val_loss.
        seed: of first weights and the order of the samples, >= 0; a trial has its own, from seed and values.

    Example:
        >>> def build(config):
        ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(config["width"])])
        ...     model.compile("sgd", "mse")
        ...     return model
        >>> task = Task(build, np.ones((16, 4)), np.ones((16, 2)), fit={"batch_size": 8}, goal=Goal("loss"))
        >>> sorted(evaluate(task, {"width": 2}, Rung(1)))
        ['loss', 'params']
    """

    build: Callable[[Mapping[str, Any]], keras.Model]
    x: Any
    y: Any = None
    validation: Any = None
    fit: Mapping[str, Any] = field(default_factory=dict)
    pruning: Callable[[Mapping[str, Any]], Prunes | None] | Prunes | None = None
    measuring: Measuring | None = field(default_factory=Measuring)
    objective: Callable[[Mapping[str, float], Mapping[str, Any]], float] | None = None
    goal: Any = None
    seed: int = 0


def evaluate(
    task: Task,
    config: Mapping[str, Any],
    rung: Rung,
    checkpoint: str | Path | None = None,
    save_to: str | Path | None = None,
) -> dict[str, float]:
    """One trial without any engine: what one configuration is worth after one rung.

    An engine of any kind needs nothing else: it says which configuration goes on for how long. The same task,
    configuration, rung and checkpoint give the same metrics.

    Args:
        task: model, data and what is judged.
        config: plain values by name.
        rung: epochs of this trial.
        checkpoint: weights that the parent saved; None for fresh ones.
        save_to: where the weights that were scored go, ends in .weights.h5; None saves nothing.

    Returns:
        Finite numbers by name, as `run`.

    Raises:
        InputError: if rung and checkpoint do not fit each other, or the task cannot be trained.

    Example:
        >>> def build(config):
        ...     layers = [keras.Input((4,)), keras.layers.Dense(config["width"]), keras.layers.Dense(4)]
        ...     model = keras.Sequential(layers)
        ...     model.compile("sgd", "mse")
        ...     return model
        >>> x = np.random.default_rng(0).random((32, 4), "float32")
        >>> metrics = evaluate(Task(build, x, validation=x), {"width": 2}, Rung(2))
        >>> sorted(metrics)
        ['loss', 'params', 'val_loss']
    """
    if (checkpoint is None) != (rung.initial_epoch == 0):
        raise refuse("checkpoint", checkpoint, "the parent's weights if, and only if, initial_epoch is above 0")
    keras.utils.set_random_seed(seed_of(task.seed, config, rung.initial_epoch))
    model = task.build(config)
    if checkpoint is not None:
        checkpoints.load_weights(model, checkpoint)
    x, y, validation = paired(task.x, task.y, task.validation)
    pruning = task.pruning(config) if callable(task.pruning) else task.pruning
    arguments = {"verbose": 0, **task.fit, "epochs": rung.epochs, "initial_epoch": rung.initial_epoch}

    def fit(callbacks: Sequence[keras.callbacks.Callback]) -> dict[str, float]:
        extra = list(arguments.pop("callbacks", ()))
        model.fit(x, y, validation_data=validation, callbacks=[*extra, *callbacks], **arguments)
        return {}

    with _progress.no_retracing_lines():
        metrics = run(
            model,
            fit,
            rung,
            goal=task.goal,
            pruning=pruning,
            measuring=task.measuring,
            objective=task.objective,
            values=config,
            data=x,
        )
    if save_to is not None:
        checkpoints.save_weights(model, save_to)
    return metrics


def _build_optimizer(model: keras.Model) -> None:
    """Make the optimizer's variables now: where the first step makes them, Keras traces that step twice."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built and model.built:
        optimizer.build(model.trainable_variables)


def paired(x: Any, y: Any = None, validation: Any = None) -> tuple[Any, Any, Any]:
    """(x, y, validation_data) for `model.fit`, arrays without targets as their own targets."""
    if y is None and isinstance(x, np.ndarray):
        y = x
    if isinstance(validation, np.ndarray):
        validation = (validation, validation)
    elif isinstance(validation, (tuple, list)) and (len(validation) == 1 or validation[1] is None):
        validation = (validation[0], validation[0], *validation[2:])
    return x, y, validation


def seed_of(seed: int, values: Mapping[str, Any], part: int = 0) -> int:
    """A seed below 2**31 from a search's seed, a configuration's values and the epochs done; far apart for all.

    Example:
        >>> seed_of(0, {"width": 2}) == seed_of(0, {"width": 2}), seed_of(0, {"w": 2}) == seed_of(1, {"w": 2})
        (True, False)
    """
    known = {name: value for name, value in values.items() if not name.startswith("tuner/")}
    text = json.dumps([seed, known, part], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _finite_weights(model: keras.Model) -> bool:
    return all(np.isfinite(values).all() for values in model.get_weights())


def note(values: Mapping[str, Any], text: str) -> None:
    """One line for a person about one trial, on stderr."""
    known = ", ".join(f"{name} {value}" for name, value in values.items() if not name.startswith("tuner/"))
    _progress.to_stderr(f"search: trial ({shown(known, 120)[1:-1]}): {text}", True)
