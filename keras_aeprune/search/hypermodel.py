"""Autoencoders as a search space for Keras Tuner: any argument fixed or searched, pruning included."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner.errors import FatalError

from keras_aeprune._validation import InputError, one_of, positive_int, refuse, shown
from keras_aeprune.datasets import Dataset
from keras_aeprune.models import output_for
from keras_aeprune.models.front import KINDS
from keras_aeprune.models.parts import sample_shape
from keras_aeprune.search.measures import BAD, EXPORTED, MEASURES, Measuring
from keras_aeprune.search.pruning import PruningSpace, TunerTrial
from keras_aeprune.search.space import Axis, identity
from keras_aeprune.search.trial import Goal, Task, note, paired, seed_of

__all__ = ["AutoencoderHyperModel"]

_UNITS = [32, 64, 128]
_LOSSES = ("loss", "val_loss")


class _Fatal(InputError, FatalError):
    """Refused input that ends a search at once, instead of failing one trial after the other."""


class AutoencoderHyperModel(keras_tuner.HyperModel):
    """Autoencoders to search over, for Keras Tuner's tuners and this package's.

    Any argument is fixed or searched: a list is a choice, a `range` or, for whole numbers, a tuple
    (low, high, step) is a range with both ends. The data go into the tuner's `search(x, validation_data=v)`,
    where x alone is its own target. Every trial stores its losses and `measures`; the weights saved are those
    of the epoch that was scored. With `sparsity` each trial prunes, in each of Hyperband's rounds; see
    `search.pruning.Pruning`.

    A configuration that cannot be built, or is larger than `max_params`, is not trained and gets the score 1e30,
    as a loss of NaN does: a failed trial would stop a search or take a promotion away.

    Args:
        data: shape of one sample, (784,) or (28, 28, 1); or training data, an array (n, ...) or a
            `datasets.Dataset`, from which shape, output activation and loss follow (see `models.output_for`).
        kind: of `models.autoencoder`: "dense", "convolutional", "recurrent", "variational", "denoising", "sparse",
            "stacked", or a list.
        encoding_dim: width of the code, >= 1.
        depth: number of hidden layers (convolutional: stages), >= 1; their widths are then the
            hyperparameters units_1, units_2, ... up to the depth. None for `hidden_units`.
        units: width of one hidden layer, with `depth`; None is [32, 64, 128].
        hidden_units: widths of all hidden layers, a tuple such as (128, 64), or a list of tuples; None is the
            builder's own. For convolutional ones these are `filters`, for recurrent ones `units`.
        activation: of the hidden layers; None is the builder's own.
        learning_rate: of Adam, > 0; (low, high) searches evenly in the logarithm.
        batch_size: samples in a step, >= 1.
        loss: "auto", "mse", "huber" or "binary_crossentropy".
        sparsity: fraction of the kernels' weights set to zero in each trial, 0 <= s < 1; None for no pruning.
        criterion: which weights go first; None is "magnitude".
        allocation: which kernels share the zeros; None is "uniform".
        pruning: {argument: value}, further ones of `search.pruning.Pruning` and `sparsity.Prune`, such as ramp,
            schedule, pattern or data.
        objective: None for the lowest val_loss; a (name, direction) or `keras_tuner.Objective`; or a function
            (metrics, values) -> number to be minimised, which is stored as "score". Give the attribute
            `objective` to the tuner.
        measures: stored beside the losses: "params", "nonzero", "tflite_bytes", "latency_us".
        measure_on: "last" exports a file in the last round only, "every" in every trial (about 4 s each).
        quantize: precision of that file, "float32" or "int8".
        max_params: largest number of weights, >= 1; None for any.
        seed: of first weights and the order of samples, >= 0, for each configuration its own; None leaves it
            to the tuner.
        **options: further arguments of the builder, such as noise, beta, kernel_size or batch_normalization; only
            lists are searched. With several kinds each goes to those that take it.

    Attributes:
        objective: a `keras_tuner.Objective`.

    Raises:
        InputError: for arguments that cannot be used.

    Example:
        >>> hypermodel = AutoencoderHyperModel((8,), encoding_dim=(2, 6, 2), depth=[1, 2], units=[8, 16])
        >>> hp = keras_tuner.HyperParameters()
        >>> model = hypermodel.build(hp)
        >>> model.encoder.output_shape, [one.name for one in hp.space]
        ((None, 2), ['encoding_dim', 'depth', 'units_1', 'units_2'])
        >>> x = np.random.default_rng(0).random((64, 8), "float32")
        >>> metrics = hypermodel.fit(hp, model, x, epochs=2, validation_data=x, verbose=0)
        >>> sorted(metrics)
        ['loss', 'params', 'val_loss']
    """

    def __init__(
        self,
        data: Any,
        *,
        kind: Any = "dense",
        encoding_dim: Any = (16, 64, 4),
        depth: Any = None,
        units: Any = None,
        hidden_units: Any = None,
        activation: Any = None,
        learning_rate: Any = 1e-3,
        batch_size: Any = 32,
        loss: str = "auto",
        sparsity: Any = None,
        criterion: Any = None,
        allocation: Any = None,
        pruning: Mapping[str, Any] | None = None,
        objective: Any = None,
        measures: Sequence[str] = ("params",),
        measure_on: str = "last",
        quantize: str = "float32",
        max_params: int | None = None,
        seed: int | None = None,
        **options: Any,
    ):
        self.input_shape, self._output = _sample(data, loss)
        self.loss = loss
        self.objective, self.score = _objective(objective)
        wanted = (measures,) if isinstance(measures, str) else tuple(measures)
        self.measuring = Measuring(tuple(m for m in wanted if m not in _LOSSES), measure_on, quantize)
        if self.objective.name in EXPORTED and measure_on == "last":
            raise refuse("measure_on", measure_on, f"'every', as the objective {self.objective.name} is a measure")
        self.max_params = None if max_params is None else positive_int("max_params", max_params)
        self.seed = None if seed is None else positive_int("seed", seed, minimum=0)
        self.pruning = PruningSpace(sparsity, criterion, allocation, pruning)
        self.kind = Axis("kind", kind)
        for one in self.kind.values:
            one_of("kind", one, KINDS)
        self.encoding_dim = Axis("encoding_dim", encoding_dim, ranges=(3,))
        self.depth = None if depth is None else Axis("depth", depth, ranges=(3,))
        if self.depth is not None and hidden_units is not None:
            raise refuse("hidden_units", hidden_units, "None with depth=, which takes units= for each layer")
        if self.depth is None and units is not None:
            raise refuse("units", units, "None without depth=; hidden_units= gives the widths of all layers")
        self.units = Axis("units", _UNITS if units is None else units, ranges=(3,))
        self.hidden_units = None if hidden_units is None else Axis("hidden_units", hidden_units)
        self.learning_rate = Axis("learning_rate", learning_rate, ranges=(2,))
        self.batch_size = Axis("batch_size", batch_size)
        self._check_numbers()
        options = {**({} if activation is None else {"activation": activation}), **options}
        self.options = {name: Axis(name, value) for name, value in options.items()}
        self._takers = {name: self._kinds_with(name) for name in options}
        super().__init__()

    def _check_numbers(self) -> None:
        for axis in filter(None, (self.encoding_dim, self.depth, self.units, self.batch_size)):
            for one in axis.every():
                if not (one == "default" and axis is self.encoding_dim):
                    positive_int(axis.name, one)
        for one in self.learning_rate.numbers or self.learning_rate.values:
            if isinstance(one, bool) or not isinstance(one, (int, float)) or not 0 < one < math.inf:
                raise refuse("learning_rate", one, "a number > 0, a list of them, or (low, high)")
        features = math.prod(self.input_shape)
        narrowest = min((n for n in self.encoding_dim.every() if n != "default"), default=1)
        if narrowest >= features:
            raise refuse("encoding_dim", narrowest, f"codes that are smaller than a sample of {features} values")

    def _kinds_with(self, option: str) -> list[str]:
        """The kinds whose builder takes an option."""
        found = [kind for kind in self.kind.values if option in self._accepted(kind)]
        if not found:
            known = sorted({name for kind in self.kind.values for name in self._accepted(kind)})
            raise InputError(
                f"{option}: got an option that kind {', '.join(self.kind.values)} does not take, allowed: "
                f"{', '.join(known)}"
            )
        return found

    def _accepted(self, kind: str) -> set[str]:
        known = _defaults(kind)
        names = set(known)
        if "base" in known:
            bases = self.options["base"].values if "base" in self.options else (known["base"],)
            names.update(*(_defaults(one_of("base", base, KINDS)) for base in bases))
        return names - {"name"}

    def values(self, hp: Any) -> dict[str, Any]:
        """Tell Keras Tuner of all hyperparameters; the plain values of this configuration, fixed ones included.

        Args:
            hp: `keras_tuner.HyperParameters`, or what has its methods.

        Returns:
            Plain values by name, as `model` and `search.trial.evaluate` take them.
        """
        values = {"kind": self.kind.declare(hp), "encoding_dim": self.encoding_dim.declare(hp)}
        if self.hidden_units is not None:
            values["hidden_units"] = self.hidden_units.declare(hp)
        if self.depth is not None:
            values["depth"] = self.depth.declare(hp)
            depths = sorted(self.depth.every())
            for number in range(1, depths[-1] + 1):
                deep = [one for one in depths if one >= number]
                parent = ("depth", deep) if self.depth.searched and len(deep) < len(depths) else ()
                plain = self.units.named(f"units_{number}").declare(hp, *parent)
                if number <= values["depth"]:
                    values[f"units_{number}"] = plain
        for name, axis in self.options.items():
            takers = self._takers[name]
            parent = ("kind", takers) if len(takers) < len(self.kind.values) else ()
            plain = axis.declare(hp, *parent)
            if values["kind"] in takers:
                values[name] = plain
        for axis in (self.learning_rate, self.batch_size):
            values[axis.name] = axis.declare(hp)
        return {**values, **self.pruning.declare(hp)}

    def model(self, values: Mapping[str, Any]) -> keras.Model:
        """The built and compiled model of plain values; a stand-in where they are not feasible."""
        try:
            model = self._built(values)
        except InputError as error:
            if not any(axis.searched for axis in self._axes()):
                raise
            return self._stand_in(str(error))
        if self.max_params is not None and model.count_params() > self.max_params:
            return self._stand_in(f"{model.count_params()} parameters, more than max_params {self.max_params}")
        return model

    def _built(self, values: Mapping[str, Any]) -> keras.Model:
        kind = values["kind"]
        options = {name: axis.value(values[name]) for name, axis in self.options.items() if name in values}
        sizes = None
        if self.depth is not None:
            sizes = tuple(values[f"units_{number}"] for number in range(1, values["depth"] + 1))
        elif self.hidden_units is not None:
            sizes = self.hidden_units.value(values["hidden_units"])
        if sizes is not None:
            options[_layers_of(kind, options)] = sizes
        defaults = _defaults(kind)
        activation = options.pop("output_activation", self._output and self._output.activation)
        activation = activation or defaults.get("output_activation", "sigmoid")
        model = KINDS[kind](
            self.input_shape,
            self.encoding_dim.value(values["encoding_dim"]),
            output_activation=activation,
            **options,
        )
        loss = self.loss if self.loss != "auto" else self._output.loss if self._output else "mse"
        if kind == "variational" and self.loss == "auto" and activation == "sigmoid":
            loss = "binary_crossentropy"  # the likelihood that the KL divergence is weighed against
        model.compile(keras.optimizers.Adam(values["learning_rate"]), loss)
        return model

    def _stand_in(self, reason: str) -> keras.Model:
        """A tiny model that takes the samples, for a tuner that must be given one."""
        model = keras.Sequential([keras.Input(self.input_shape), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.infeasible = reason
        return model

    def build(self, hp: Any) -> keras.Model:
        values = self.values(hp)
        if self.seed is not None:
            keras.utils.set_random_seed(seed_of(self.seed, values))
        return self.model(values)

    def fit(
        self,
        hp: Any,
        model: keras.Model,
        x: Any = None,
        y: Any = None,
        validation_data: Any = None,
        callbacks: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        values = self.values(hp)
        trial = TunerTrial(hp, callbacks, kwargs, goal=self.objective)
        if isinstance(x, Dataset):
            if validation_data is None and len(x.x_validation):
                validation_data = x.x_validation
            x = x.x_train
        x, y, validation_data = paired(x, y, validation_data)
        if validation_data is None and not kwargs.get("validation_split") and trial.goal.name != "loss":
            raise _Fatal(
                "validation_data: got none, allowed: search(x, validation_data=v); trials are judged by it"
            )
        if getattr(model, "infeasible", None):
            note(trial.values, f"not feasible: {model.infeasible}")
            metrics = self._infeasible(trial.goal)
            trial.save(model, metrics[trial.goal.name])
            return metrics
        if self.seed is not None:
            keras.utils.set_random_seed(seed_of(self.seed, values, trial.rung.initial_epoch))
        arguments = {"batch_size": values["batch_size"], **kwargs} if isinstance(x, np.ndarray) else kwargs

        def fit(own: list[Any]) -> dict[str, float]:
            model.fit(x, y, validation_data=validation_data, callbacks=[*trial.callbacks, *own], **arguments)
            return {}

        return trial.run(
            model,
            fit,
            pruning=self.pruning.pruning(values),
            measuring=self.measuring,
            objective=self.score,
            values=values,
            data=x,
        )

    def _infeasible(self, goal: Any) -> dict[str, float]:
        names = [*_LOSSES, *([] if self.score is None else ["score"])]
        return {**dict.fromkeys(names, BAD), goal.name: -BAD if goal.direction == "max" else BAD}

    def task(self, x: Any, validation: Any, **fit: Any) -> Task:
        """The same trials without Keras Tuner, for `search.trial.evaluate` with values as `values` gives them.

        Args:
            x: training samples.
            validation: validation samples.
            **fit: further arguments of `model.fit`.

        Raises:
            InputError: when a trial is evaluated whose values are not feasible.
        """

        def build(values: Mapping[str, Any]) -> keras.Model:
            model = self.model(values)
            if getattr(model, "infeasible", None):
                raise InputError(f"config: got {shown(dict(values))}, which is not feasible: {model.infeasible}")
            return model

        goal = None if self.score is not None else self.objective
        return Task(
            build,
            x,
            validation=validation,
            fit={"batch_size": self.batch_size.labels[0], **fit},
            pruning=self.pruning.pruning,
            measuring=self.measuring,
            objective=self.score,
            goal=goal,
            seed=self.seed or 0,
        )

    def _axes(self) -> list[Axis]:
        found = [self.kind, self.encoding_dim, self.depth, self.hidden_units, self.learning_rate, self.batch_size]
        found += [] if self.depth is None else [self.units]
        return [axis for axis in (*found, *self.options.values()) if axis is not None]

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values that say whether two searches are the same."""
        own = {axis.name: axis.described() for axis in self._axes()}
        goal = {"name": self.objective.name, "direction": self.objective.direction}
        return {
            **own,
            "input_shape": list(self.input_shape),
            "output": None if self._output is None else [self._output.activation, self._output.loss],
            "loss": self.loss,
            "pruning": self.pruning.get_config(),
            "objective": {**goal, "score": identity(self.score)},
            "measures": [*self.measuring.names, self.measuring.on, self.measuring.quantize],
            "max_params": self.max_params,
            "seed": self.seed,
        }


def _sample(data: Any, loss: str) -> tuple[tuple[int, ...], Any]:
    """Shape of a sample, and the output that suits the data, None where there are none."""
    if isinstance(data, Dataset):
        return data.sample_shape, output_for(data, loss=loss)
    if isinstance(data, np.ndarray):
        return sample_shape(tuple(data.shape[1:])), output_for(data, loss=loss)
    one_of("loss", loss, ("auto", "mse", "huber", "binary_crossentropy"))
    return sample_shape(data), None


def _objective(objective: Any) -> tuple[keras_tuner.Objective, Callable[..., float] | None]:
    """What the tuner compares, and the function that makes the score if it is one."""
    if objective is None:
        return keras_tuner.Objective("val_loss", "min"), None
    if isinstance(objective, (keras_tuner.Objective, Goal)):
        return keras_tuner.Objective(objective.name, objective.direction), None
    if callable(objective):
        return keras_tuner.Objective("score", "min"), objective
    if isinstance(objective, (tuple, list)) and len(objective) == 2:
        name, direction = objective
        return keras_tuner.Objective(name, one_of("direction", direction, ("min", "max"))), None
    known = (*_LOSSES, *MEASURES)
    if objective in known:
        return keras_tuner.Objective(objective, "min"), None
    raise refuse("objective", objective, f"{', '.join(known)}, (name, 'min' or 'max'), or a function")


def _defaults(kind: str) -> dict[str, Any]:
    """The keyword arguments of a kind's builder."""
    return KINDS[kind].__kwdefaults__ or {}


def _layers_of(kind: str, options: Mapping[str, Any]) -> str:
    """The builder's argument for the widths of the hidden layers."""
    base = options.get("base", kind)
    return {"convolutional": "filters", "recurrent": "units"}.get(base, "hidden_units")
