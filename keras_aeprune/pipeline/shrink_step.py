"""The step of `compress` that cuts the dense autoencoder smaller, and what it is assumed to cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_aeprune.datasets import Dataset
from keras_aeprune.pipeline.settings import Settings
from keras_aeprune.pipeline.training import seed_of, start
from keras_aeprune.shrinking.costs import Costs, LayerCost
from keras_aeprune.shrinking.iteration import Shrunk, shrink_until
from keras_aeprune.shrinking.tracing import trace

__all__ = ["ROUNDS", "around", "changes", "epochs_of", "fitted_epochs", "passes", "shrink"]

ROUNDS = 8  # that the cost assumes: nobody knows before how many the error allows
_TRAININGS = 4  # of a round: three moves for a moment, and the best of them
_SECONDS = 3.0  # of a round besides training: ranking, cutting and compensating each move


def epochs_of(dense: int) -> dict[str, int]:
    """Passes of each training of the step, from those of the dense training.

    >>> epochs_of(100)
    {'epochs': 10, 'probe_epochs': 4, 'final_epochs': 50}
    """
    shares = {"epochs": 10, "probe_epochs": 30, "final_epochs": 2}
    return {name: math.ceil(dense / share) for name, share in shares.items()}


def passes(epochs: Mapping[str, int]) -> int:
    """Passes over the data of the whole step, if it takes as many rounds as is assumed.

    >>> passes({"epochs": 10, "probe_epochs": 4, "final_epochs": 50})
    226
    """
    return ROUNDS * ((_TRAININGS - 1) * epochs["probe_epochs"] + epochs["epochs"]) + epochs["final_epochs"]


def fitted_epochs(dense: int, available: int) -> dict[str, int]:
    """`epochs_of(dense)`, fewer in proportion so that `available` passes are enough; each 1 at least.

    >>> fitted_epochs(100, 113), fitted_epochs(100, 1000) == epochs_of(100)
    ({'epochs': 5, 'probe_epochs': 2, 'final_epochs': 25}, True)
    """
    wanted = epochs_of(dense)
    share = min(1.0, available / passes(wanted))
    return {name: max(1, int(share * value)) for name, value in wanted.items()}


def around(trace_seconds: float) -> float:
    """Seconds that the step takes besides its passes over the data, if it takes as many rounds as is assumed.

    Args:
        trace_seconds: what it takes until a training begins.
    """
    return ROUNDS * (_SECONDS + _TRAININGS * trace_seconds) + trace_seconds


def shrink(
    model: keras.Model,
    data: Dataset,
    settings: Settings,
    *,
    epochs: Mapping[str, Any],
    directory: Path,
    progress: bool,
) -> Shrunk:
    """Cut in rounds as `shrinking.shrink_until` does, with the errors of the run: squared, on its own splits.

    Args:
        model: the dense autoencoder; it is not changed.
        data: inputs, which are the targets too.
        settings: of the run, with `max_error_increase`.
        epochs: as from `epochs_of`.
        directory: where the rounds are kept.
        progress: whether lines go to standard error.
    """
    start(settings, "shrink")
    model.compile("adam", "mse")
    return shrink_until(
        model,
        data.x_train,
        validation=data.x_validation,
        max_error_increase=settings.max_error_increase,
        batch_size=settings.batch_size,
        directory=directory,
        seed=seed_of(settings, "shrink") % 2**31,  # each round adds its number
        progress=progress,
        **epochs,
    )


def changes(before: keras.Model, after: keras.Model) -> list[dict[str, Any]]:
    """What became of each layer: {"path", "kind", "units": [before, after], "parameters": ..., "macs": ...}.

    Layers that are gone have zeros afterwards, and layers that are new have zeros before.
    """
    old, new = _layers(before), _layers(after)
    rows = []
    for path in [*old, *(path for path in new if path not in old)]:
        pair = [old.get(path), new.get(path)]
        counts = [(one.units[0], one.params[0], one.macs[0]) if one else (0, 0, 0) for one in pair]
        kind = next(one.kind for one in pair if one)
        values = zip(("units", "parameters", "macs"), map(list, zip(*counts, strict=True)), strict=True)
        rows.append({"path": path, "kind": kind, **dict(values)})
    return rows


def _layers(model: keras.Model) -> dict[str, LayerCost]:
    traced = trace(model)
    return {layer.path: layer for layer in Costs(traced).layers(traced.kept([]))}
