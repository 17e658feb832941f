"""How the candidates of a search for a width are trained: in one graph, or as the trials of a tuner are."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.models.dense import default_sizes
from keras_aeprune.search import checkpoints
from keras_aeprune.search.hypermodel import AutoencoderHyperModel
from keras_aeprune.search.measures import BAD, measure
from keras_aeprune.search.rules import WORST, Hinge
from keras_aeprune.search.screening import Batch, flat
from keras_aeprune.search.state import hashed_seed
from keras_aeprune.search.trial import Rung, evaluate
from keras_aeprune.search.tuner import Hyperband
from keras_aeprune.search.width_inputs import BATCHED, Data
from keras_aeprune.search.workers import launch

UNITS = {"bytes": "bytes", "latency": "ms"}


class Dense:
    """Dense autoencoders of one width under several seeds, in one graph."""

    def __init__(self, data: Data, widest: int, hidden_units: Any, options: Mapping[str, Any]):
        self.data, self.widest = data, widest
        units = default_sizes(data.features, widest)[1] if hidden_units is None else hidden_units
        output = options.get("output_activation") or models.output_for(data.x, loss="mse").activation
        self.units: dict[str, Any] = {
            "hidden_units": tuple(units),
            "activation": options.get("activation") or "relu",
            "output_activation": output,
        }
        self.training = {"batch_size": options["batch_size"], "learning_rate": options["learning_rate"]}
        self.values = {**self.units, **self.training, "hidden_units": list(units)}
        self._batch: Batch | None = None

    def build(self, width: int) -> keras.Model:
        model = models.dense(self.data.x.shape[1:], width, **self.units)
        model.compile(keras.optimizers.Adam(self.training["learning_rate"]), "mse")
        return model

    def train(self, width: int, seeds: Sequence[int], epochs: int, heard: Callable) -> tuple[list, keras.Model]:
        """The losses under each seed, and the model of the best one."""
        if self._batch is None:
            self._batch = Batch(self.data.features, len(seeds), self.widest, **self.units)
            self._batch.see(flat("x", self.data.x), flat("validation", self.data.validation))
        self._batch.start([width] * len(seeds), seeds)
        losses = self._batch.fit(seeds, epochs=epochs, **self.training, heard=heard, keep=True)
        model = self.build(width)
        model.set_weights(self._batch.weights(int(losses.argmin())))
        return losses.tolist(), model


class _Measured(AutoencoderHyperModel):
    """A hypermodel whose trials also know the mean squared error, whatever their loss is."""

    def model(self, values: Mapping[str, Any]) -> keras.Model:
        model = super().model(values)
        model.compile(model.optimizer, model.loss, metrics=["mse"])
        return model


class Tuned:
    """Autoencoders with the settings of a search's best trial, in any width."""

    def __init__(self, data: Data, hypermodel: AutoencoderHyperModel, values: Mapping[str, Any]):
        self.data, self.hypermodel, self.values = data, hypermodel, dict(values)

    def build(self, width: int) -> keras.Model:
        return self.hypermodel.model({**self.values, "encoding_dim": width})

    def train(self, width: int, seeds: Sequence[int], epochs: int, heard: Callable) -> tuple[list, keras.Model]:
        config = {**self.values, "encoding_dim": width}
        losses: list[float] = []
        best, kept = math.inf, None
        task = self.hypermodel.task(self.data.x, self.data.validation, batch_size=config["batch_size"])
        with tempfile.TemporaryDirectory() as folder:
            for number, seed in enumerate(seeds):
                path = Path(folder) / f"{number}{checkpoints.SUFFIX}"
                metrics = evaluate(replace(task, seed=seed), config, Rung(epochs), save_to=path)
                losses.append(_mse(metrics))
                if losses[-1] <= best:  # false for NaN
                    best, kept = losses[-1], path
                heard(round(epochs * (number + 1) / len(seeds)), np.array(losses))
            model = self.build(width)
            if kept is not None:
                checkpoints.load_weights(model, kept)
        return losses, model


class Score:
    """The hinge of a trial's mean squared error and its width, as the objective of a tuner."""

    def __init__(self, hinge: Hinge):
        self.hinge = hinge

    def __call__(self, metrics: Mapping[str, float], values: Mapping[str, Any]) -> float:
        return self.hinge(_mse(metrics), values["encoding_dim"])

    def get_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.hinge.get_config()


def batchable(settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options for the screen; None where dense ones of one size are not among what is searched."""
    found = {name: value for name, value in options.items() if name in BATCHED}
    units = settings["hidden_units"]
    flat_units = units is None or (isinstance(units, (tuple, list)) and all(isinstance(u, int) for u in units))
    one = not any(isinstance(value, (list, tuple)) for value in found.values())
    return found if settings["kind"] == "dense" and flat_units and one and "depth" not in options else None


def hypermodel_of(
    data: Data, widths: Sequence[int], settings: Mapping[str, Any], options: Mapping[str, Any], hinge: Hinge
) -> AutoencoderHyperModel:
    """What Hyperband searches."""
    units = settings["hidden_units"]
    if isinstance(units, list) and units and all(isinstance(u, int) for u in units):
        units = tuple(units)
    return _Measured(
        data.x,
        kind=settings["kind"],
        encoding_dim=list(widths) if len(widths) > 1 else widths[0],
        hidden_units=units,
        sparsity=settings["sparsity"],
        criterion=settings["criterion"],
        objective=Score(hinge),
        seed=settings["seed"],
        **{"loss": "mse", **options},
    )


def refuse_early(
    data: Data, widths: Sequence[int], settings: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Refuse what cannot be built, before anything is trained or written."""
    hypermodel_of(data, widths, settings, options, Hinge(0.0, 1.0, 0.0, widths[-1]))
    batched = batchable(settings, options)
    if batched is not None:
        Dense(data, widths[-1], settings["hidden_units"], batched).build(widths[-1])


def searched(
    data: Data,
    hypermodel: AutoencoderHyperModel,
    settings: Mapping[str, Any],
    folder: Path,
    progress: bool,
    workers: int | None = None,
) -> dict[str, Any]:
    """Run Hyperband to its end, or go on with it: all trials, and the values of the best one.

    Args:
        data: that the trials are trained and judged on.
        hypermodel: of `hypermodel_of`.
        settings: max_epochs, factor and seed of the search.
        folder: of its project, "hyperband".
        progress: whether lines on standard error say where it stands.
        workers: processes that share the trials; None for this one.

    Raises:
        InputError: if no trial reached a finite loss.
    """
    make = functools.partial(
        Hyperband,
        hypermodel,
        max_epochs=settings["max_epochs"],
        factor=settings["factor"],
        seed=hashed_seed(settings["seed"], "hyperband"),
        directory=folder,
        project_name="hyperband",
        progress=progress,
    )
    fit: dict[str, Any] = {"validation_data": data.validation, "verbose": 0}
    if workers is None:
        tuner = make()
        tuner.search(data.x, **fit)
    else:
        tuner = launch(make, data.x, workers=workers, **fit)
    rows = tuner.table().rows
    widest = max((row.epochs or 0 for row in rows), default=0)
    width = hypermodel.encoding_dim.labels[0] if not hypermodel.encoding_dim.searched else None
    found = []
    for row in rows:
        loss = _mse(row.metrics)
        trial = {"width": row.values.get("encoding_dim", width), "epochs": row.epochs, "seconds": row.seconds}
        trial |= {"loss": loss if math.isfinite(loss) else None, "last": row.epochs == widest}
        found.append({**trial, "values": dict(row.values)})
    best = tuner.get_best_trials(1)[0]
    if best.score >= WORST:
        raise InputError(
            "trials: got none with a finite loss, allowed: at least one; take a smaller learning_rate"
        )
    return {"trials": found, "best": hypermodel.values(best.hyperparameters)}


def cost_of(model: keras.Model, limits: Mapping[str, float]) -> dict[str, float]:
    """Bytes of the model's float32 .tflite file, and its time for one sample in ms, as far as they are limited."""
    names = [name for name, limit in (("tflite_bytes", "bytes"), ("latency_us", "latency")) if limit in limits]
    found = measure(model, names)
    cost = {"bytes": found.get("tflite_bytes", math.nan), "latency": found.get("latency_us", 0) / 1000}
    return {name: cost[name] for name in limits}


def _mse(metrics: Mapping[str, float]) -> float:
    """The held-out mean squared error among a trial's metrics; NaN where it is missing or stands for none."""
    found = metrics.get("val_mse", metrics.get("val_mean_squared_error", math.nan))
    return found if found < BAD else math.nan
