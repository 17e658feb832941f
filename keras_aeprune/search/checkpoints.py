"""Weights of trials in files: whole or not there, without the optimizer's moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras_tuner.src.engine.tuner_utils import SaveBestEpoch

from keras_aeprune import _files
from keras_aeprune._validation import InputError, keras_model, refuse

SUFFIX = ".weights.h5"
FILE = "checkpoint" + SUFFIX  # the name that Keras Tuner looks for in a trial's folder


def save_weights(model: keras.Model, path: str | Path) -> None:
    """Write the weights of a model without its optimizer; the file is whole or not there.

    Use it at the end of a trial. Adam's two moments would make the file 2.7 times as large, and a search does not
    need them. The file is one that `model.load_weights` reads.

    Args:
        model: a built Keras 3 model, compiled or not.
        path: of the file, ending in ".weights.h5"; its folder must exist.

    Raises:
        InputError: if the model is not built or the name has another ending.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> path = Path(tempfile.mkdtemp()) / "dense.weights.h5"
        >>> save_weights(model, path)
        >>> load_weights(model, path)
    """
    path = _checked(model, path)
    if not model.built:
        raise InputError(f"model: {model.name} is not built, allowed: a built model; call it on data first")
    with _without_optimizers(model), _files.writing(path) as temporary:
        model.save_weights(str(temporary))


def load_weights(model: keras.Model, path: str | Path) -> None:
    """Read weights that `save_weights` wrote; the model's optimizer stays as it is.

    Args:
        model: a built Keras 3 model of the same layers.
        path: of the file.

    Raises:
        InputError: if there is no such file.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> load_weights(model, "none.weights.h5")
        Traceback (most recent call last):
            ...
        keras_aeprune._validation.InputError: path: got 'none.weights.h5', allowed: a file of weights that exists
    """
    path = _checked(model, path)
    if not path.exists():
        raise refuse("path", str(path), "a file of weights that exists")
    with _without_optimizers(model):
        model.load_weights(str(path))


def _checked(model: keras.Model, path: str | Path) -> Path:
    keras_model(model)
    if not str(path).endswith(SUFFIX):
        raise refuse("path", str(path), f"a file name that ends in {SUFFIX}")
    return Path(path)


@contextmanager
def _without_optimizers(model: keras.Model) -> Iterator[None]:
    """Keras walks all attributes for state; a model whose optimizer is not among them has only its weights."""
    layers = [vars(layer) for layer in model._flatten_layers()]
    taken = [(layer, layer.pop("optimizer")) for layer in layers if "optimizer" in layer]
    try:
        yield
    finally:
        for layer, optimizer in taken:
            layer["optimizer"] = optimizer


class SaveBestWeights(SaveBestEpoch):
    """The best epoch's weights, held in memory and written once, by `write`.

    An objective that is not in the logs (returned by `HyperModel.fit`) makes the last epoch the best, as in Keras
    Tuner. One that is never finite keeps the last epoch too: the trial is then counted as the worst.

    Args:
        objective: a `keras_tuner.Objective`.
        filepath: of the file, ending in ".weights.h5".
    """

    def __init__(self, objective: Any, filepath: str | Path):
        super().__init__(objective, filepath)
        self._best: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not np.isfinite(self.best_value) and self.objective.has_value(logs or {}):
            self._save_model()  # nothing finite so far: better the last epoch than nothing
        super().on_epoch_end(epoch, logs or {})

    def _save_model(self) -> None:
        self._best = _values(self.model.weights)

    def write(self) -> None:
        """Write the best weights; the model keeps those that it has. Nothing, if no epoch has ended."""
        if self._best is None or not _writes(self.model):
            return
        variables = self.model.weights
        last = _values(variables)
        _assign(variables, self._best)
        try:
            save_weights(self.model, self.filepath)
        finally:
            _assign(variables, last)


def _writes(model: keras.Model) -> bool:
    """Whether this process writes: in a multi-worker strategy only the first does."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is None or bool(getattr(strategy.extended, "should_checkpoint", True))


def _assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _values(variables: Any) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable), copy=True) for variable in variables]
