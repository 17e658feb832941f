"""Pruning inside the trials of a search: the target is reached in every rung, before anything is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner.src.engine.tuner_utils import SaveBestEpoch, convert_to_metrics_dict

from keras_aeprune import criteria, schedules
from keras_aeprune._validation import fraction, keras_model, refuse
from keras_aeprune.search import checkpoints
from keras_aeprune.search.measures import Measuring
from keras_aeprune.search.space import Axis, identity
from keras_aeprune.search.trial import Goal, Rung, run
from keras_aeprune.sparsity import KeepSparse, Prune, patterns
from keras_aeprune.sparsity import allocation as allocations
from keras_aeprune.sparsity.selection import choose

__all__ = ["PrunedHyperModel", "Pruning", "PruningSpace", "TunerTrial", "with_pruning"]

_PRUNE = ("pattern", "limits", "include", "exclude", "on_unsupported", "data", "loss")


@dataclass(frozen=True)
class Pruning:
    """Pruning inside one rung of a search: the target is reached in every rung, before anything is scored.

    Trials of all rungs are compared with each other, so none may be scored while it is still denser than
    asked. With n epochs in the rung the ramp goes

        from  ramp[0] * n  to  min(ramp[1] * n, n - 1)  epochs after the rung's start     (n = 1: to ramp[1])

    so that at least the last epoch, or the last part of the only one, trains at the target. A rung that goes
    on from a parent at the target keeps the zeros of the parent's kernels and needs no ramp. Nothing counts
    the optimizer's steps: they begin anew in every rung.

    Args:
        sparsity: fraction of the weights of the kernels set to zero, 0 < s < 1.
        criterion: which weights go first; see `sparsity.Prune`.
        allocation: which kernels share the zeros; see `sparsity.Prune`.
        schedule: class or name of a schedule; see `schedules.relative`.
        ramp: its begin and end, fractions of the rung, 0 <= begin <= end < 1.
        options: further arguments of `sparsity.Prune`: pattern, limits, include, exclude, on_unsupported, data,
            loss.

    Example:
        >>> Pruning(0.9).times(Rung(9, 3)), Pruning(0.9).times(Rung(2))
        ((3.6, 6.6), (0.2, 1.0))
    """

    sparsity: float
    criterion: Any = "magnitude"
    allocation: Any = "uniform"
    schedule: Any = "PolynomialDecay"
    ramp: tuple[float, float] = (0.1, 0.6)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fraction("sparsity", self.sparsity, low_open=True)
        begin, end = self.ramp
        if fraction("ramp", begin) > fraction("ramp", end):
            raise refuse("ramp", self.ramp, "two fractions of the rung, begin <= end")
        unknown = sorted(set(self.options) - set(_PRUNE))
        if unknown:
            raise refuse("pruning", unknown, f"of Prune's arguments {', '.join(_PRUNE)}")
        schedules.relative(self.schedule, self.sparsity, begin=begin, end=end)

    def times(self, rung: Rung) -> tuple[float, float]:
        """First and last moment of the ramp, in epochs from the start of all training."""
        n, (begin, end) = rung.length, self.ramp
        end = end * n if n == 1 else min(end * n, n - 1)
        first, last = (round(float(rung.initial_epoch + at), 9) for at in (min(begin * n, end), end))
        return first, last

    def callback(self, model: keras.Model, rung: Rung) -> Prune | KeepSparse:
        """What prunes in the rung's `fit`; made after the parent's weights are loaded."""
        if rung.initial_epoch and self._reached(model):
            return KeepSparse(self.options.get("include"), self.options.get("exclude"))
        begin, end = self.times(rung)
        ramp = schedules.relative(self.schedule, self.sparsity, begin=begin, end=end, unit="epochs")
        return Prune(ramp, criterion=self.criterion, allocation=self.allocation, **self.options)

    def _reached(self, model: keras.Model) -> bool:
        """Whether the kernels hold the zeros already, up to the rounding of one weight each."""
        pattern = patterns.get(self.options.get("pattern", "unstructured"))
        chosen, _ = choose(model, pattern, self.options.get("include"), self.options.get("exclude"))
        kernels = [keras.ops.convert_to_numpy(weight.variable) for weight in chosen]
        zeros = sum(int(np.count_nonzero(kernel == 0)) for kernel in kernels)
        return zeros > 0 and zeros + len(kernels) >= self.sparsity * sum(kernel.size for kernel in kernels)


class PruningSpace:
    """What pruning may be in the trials of a search: single values, or lists to search over.

    Args:
        sparsity: fraction of the kernels' weights set to zero, 0 <= s < 1, or a list; 0 prunes nothing. None is 0.
        criterion: name or instance, or a list; None is "magnitude".
        allocation: name or instance, or a list; None is "uniform".
        further: further arguments of `Pruning` and of `sparsity.Prune`.

    Example:
        >>> space = PruningSpace([0.0, 0.5, 0.9], criterion=["magnitude", "random"])
        >>> space.declare(keras_tuner.HyperParameters())
        {'sparsity': 0.0}
        >>> space.pruning({"sparsity": 0.9, "criterion": "random"}).criterion
        'random'
    """

    def __init__(self, sparsity: Any, criterion: Any = None, allocation: Any = None, further: Any = None):
        self.further = dict(further or {})
        self.sparsity = Axis("sparsity", 0.0 if sparsity is None else sparsity)
        for one in self.sparsity.values:
            fraction("sparsity", one)
        self.criterion = Axis("criterion", "magnitude" if criterion is None else criterion)
        self.allocation = Axis("allocation", "uniform" if allocation is None else allocation)
        for one in self.criterion.values:
            criteria.get(one)
        for one in self.allocation.values:
            allocations.get(one)
        self.pruned = [one for one in self.sparsity.values if one > 0]
        for one in self.pruned:
            self._pruning(one, None, None)  # refused now, not in the first trial

    def declare(self, hp: Any) -> dict[str, Any]:
        """Plain values of this trial; criterion and allocation only where something is pruned."""
        values = {"sparsity": self.sparsity.declare(hp)}
        if not self.pruned:
            return {}
        either = len(self.pruned) < len(self.sparsity.values)
        for axis in (self.criterion, self.allocation):
            plain = axis.declare(hp, "sparsity" if either else None, self.pruned)
            if values["sparsity"] > 0:
                values[axis.name] = plain
        return values

    def pruning(self, values: Mapping[str, Any]) -> Pruning | None:
        """The `Pruning` of a configuration."""
        if not values.get("sparsity"):
            return None
        chosen = [axis.value(values.get(axis.name, axis.labels[0])) for axis in (self.criterion, self.allocation)]
        return self._pruning(values["sparsity"], *chosen)

    def _pruning(self, sparsity: float, criterion: Any, allocation: Any) -> Pruning:
        own = {name: value for name, value in self.further.items() if name in ("schedule", "ramp")}
        options = {name: value for name, value in self.further.items() if name not in own}
        return Pruning(sparsity, criterion, allocation, **own, options=options)

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values; data by their fingerprint."""
        axes = {axis.name: axis.described() for axis in (self.sparsity, self.criterion, self.allocation)}
        return {**axes, **{name: identity(value) for name, value in sorted(self.further.items())}}


def with_pruning(
    build_model: Any,
    sparsity: Any = 0.9,
    *,
    criterion: Any = None,
    allocation: Any = None,
    schedule: Any = "PolynomialDecay",
    ramp: tuple[float, float] = (0.1, 0.6),
    data: Any = None,
    measures: Sequence[str] = ("params", "nonzero"),
    **options: Any,
) -> keras_tuner.HyperModel:
    """Your own search, with pruning inside every trial; for any tuner of Keras Tuner or of this package.

    Every trial reaches its sparsity in its own epochs, also in each of Hyperband's rounds; only epochs at the
    target are scored, and the saved weights are those of the best of them. See `Pruning` for when what is
    pruned.

    A `fit` of your own hypermodel is called with the pruning callback among its `callbacks`. Where it returns
    the objective itself and the epochs' logs do not have it, it was computed after the training, so the last
    weights are saved; else the best epoch's count.

    Args:
        build_model: function hp -> compiled Keras model, or a `keras_tuner.HyperModel`.
        sparsity: fraction of the kernels' weights set to zero, 0 <= s < 1, or a list to search over.
        criterion: which weights go first, name or instance, or a list; None is "magnitude".
        allocation: which kernels share the zeros, name or instance, or a list; None is "uniform".
        schedule: class or name of a schedule; see `schedules.relative`.
        ramp: its begin and end, fractions of a round's epochs, 0 <= begin <= end < 1.
        data: calibration samples for a criterion that looks at more than weights.
        measures: stored with every trial: "params", "nonzero"; and, in the last round, "tflite_bytes" and
            "latency_us" of a float32 file.
        **options: further arguments of `sparsity.Prune`: pattern, limits, include, exclude, on_unsupported, loss.

    Returns:
        A `keras_tuner.HyperModel`.

    Raises:
        InputError: for arguments that cannot be used.

    Example:
        >>> def build_model(hp):
        ...     layers = [keras.Input((8,)), keras.layers.Dense(hp.Int("width", 2, 6)), keras.layers.Dense(8)]
        ...     model = keras.Sequential(layers)
        ...     model.compile("adam", "mse")
        ...     return model
        >>> hypermodel = with_pruning(build_model, [0.5, 0.8])
        >>> hp = keras_tuner.HyperParameters()
        >>> model = hypermodel.build(hp)
        >>> x = np.random.default_rng(0).random((64, 8), "float32")
        >>> metrics = hypermodel.fit(hp, model, x, x, epochs=2, validation_data=(x, x), verbose=0)
        >>> sorted(hp.values.items()), sorted(metrics)
        ([('sparsity', 0.5), ('width', 2)], ['loss', 'nonzero', 'params', 'val_loss'])
    """
    further = {"schedule": schedule, "ramp": ramp, **options}
    if data is not None:
        further["data"] = data
    space = PruningSpace(sparsity, criterion, allocation, further)
    return PrunedHyperModel(build_model, space, Measuring(tuple(measures)))


class PrunedHyperModel(keras_tuner.HyperModel):
    """What `with_pruning` returns."""

    def __init__(self, build_model: Any, space: PruningSpace, measuring: Measuring):
        if not isinstance(build_model, keras_tuner.HyperModel) and not callable(build_model):
            raise refuse("build_model", build_model, "a function hp -> model, or a keras_tuner.HyperModel")
        self.inner, self.space, self.measuring = build_model, space, measuring
        super().__init__(getattr(build_model, "name", None))

    def declare_hyperparameters(self, hp: Any) -> None:
        if isinstance(self.inner, keras_tuner.HyperModel):
            self.inner.declare_hyperparameters(hp)

    def build(self, hp: Any) -> keras.Model:
        build = self.inner.build if isinstance(self.inner, keras_tuner.HyperModel) else self.inner
        model = keras_model(build(hp), "build_model")
        self.space.declare(hp)
        return model

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> dict[str, float]:
        own = self.inner.fit if isinstance(self.inner, keras_tuner.HyperModel) else None
        trial = TunerTrial(hp, kwargs.pop("callbacks", None), kwargs)

        def fit(callbacks: list[Any]) -> dict[str, float]:
            arguments = {**kwargs, "callbacks": [*trial.callbacks, *callbacks]}
            result = model.fit(*args, **arguments) if own is None else own(hp, model, *args, **arguments)
            if result is None or isinstance(result, keras.callbacks.History):
                return {}
            return convert_to_metrics_dict(result, trial.goal)

        x = args[0] if args else kwargs.get("x")
        return trial.run(
            model, fit, pruning=self.space.pruning(self.space.declare(hp)), measuring=self.measuring, data=x
        )

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values that say whether two searches are the same."""
        inner = self.inner.get_config() if hasattr(self.inner, "get_config") else identity(self.inner)
        return {"build_model": inner, "pruning": self.space.get_config(), "measures": list(self.measuring.names)}


class TunerTrial:
    """What a tuner hands to `HyperModel.fit`, read once: the rung, the goal, and where weights are saved.

    Args:
        hp: of the trial.
        callbacks: that the tuner made; its saver is taken out.
        arguments: of `fit`, with epochs and initial_epoch if there are any.
        goal: what is judged where no tuner says; None for the lowest val_loss.
    """

    def __init__(self, hp: Any, callbacks: Sequence[Any] | None, arguments: Mapping[str, Any], goal: Any = None):
        savers = [one for one in callbacks or () if isinstance(one, SaveBestEpoch)]
        self.callbacks = [one for one in callbacks or () if one not in savers]
        self.saver = savers[0] if savers else None
        self.goal = savers[0].objective if savers else goal or Goal()
        self.values = dict(hp.values)
        last = self.values.get("tuner/round") == self.values.get("tuner/bracket")
        self.rung = Rung(arguments.get("epochs", 1), arguments.get("initial_epoch", 0), last)

    def run(self, model: keras.Model, fit: Callable[[list[Any]], Mapping[str, float]], **how: Any) -> Any:
        """Train and measure, then save once: the weights that the score is of."""
        metrics = run(
            model, fit, self.rung, goal=self.goal, values={**self.values, **how.pop("values", {})}, **how
        )
        if self.goal.name == "default_objective":  # the tuner was given none
            metrics[self.goal.name] = metrics.get("score", metrics.get("val_loss", metrics["loss"]))
        self.save(model, metrics.get(self.goal.name))
        return metrics

    def save(self, model: keras.Model, score: float | None) -> None:
        """Save if it is the best execution of this trial so far."""
        if self.saver is None:
            return
        if score is not None:
            if not self.goal.better_than(score, self.saver.best_value):
                return
            self.saver.best_value = score
        checkpoints.save_weights(model, self.saver.filepath)
