"""The three trainings of a run: dense, prune, fine-tune."""

from __future__ import annotations

import time
import zlib
from typing import Any

import keras
import numpy as np

from keras_aeprune import models
from keras_aeprune._progress import Say
from keras_aeprune.datasets import Dataset
from keras_aeprune.pipeline.progress import EpochProgress
from keras_aeprune.pipeline.settings import Settings
from keras_aeprune.sparsity import KeepSparse, Prune, sparsity_table

__all__ = ["build", "seed_of", "start", "train"]

# While the masks still change, a rate that falls leaves too little time to recover: constant there.
_LEARNING_RATE = 2e-3


def seed_of(settings: Settings, step: str) -> int:
    """The seed of one step, 0 <= seed < 2**32."""
    return (settings.seed + zlib.crc32(step.encode())) % 2**32


def start(settings: Settings, step: str) -> None:
    """Seed everything for one step alone, so that a continued run equals one that was never stopped."""
    keras.utils.set_random_seed(seed_of(settings, step))


def build(data: Dataset, settings: Settings) -> keras.Model:
    """The dense autoencoder, untrained."""
    start(settings, "build")
    return models.dense(
        data.x_train.shape[1:],
        settings.encoding_dim,
        hidden_units=settings.hidden_units,
        output_activation=settings.output_activation,
    )


class _Zeros(keras.callbacks.Callback):
    """Writes the fraction of zeros at the end of each epoch into the logs, and so into the history."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["sparsity"] = self.now()

    def now(self) -> float:
        return sparsity_table(self.model).sparsity


def train(
    model: keras.Model, data: Dataset, settings: Settings, phase: str, *, epochs: int, say: Say, title: str
) -> dict[str, Any]:
    """Train one phase in place.

    Args:
        model: the autoencoder as the phase before left it.
        data: inputs, which are the targets too.
        settings: of the run.
        phase: "dense", "prune" or "finetune".
        epochs: passes over the training data.
        say: takes progress lines.
        title: what the phase is called in them.

    Returns:
        {"history": losses per epoch, "epochs": ..., "asked": sparsity per kernel, "seconds": ...}, plain
        JSON values.
    """
    start(settings, phase)
    steps = -(-len(data.x_train) // settings.batch_size) * epochs
    rate = _LEARNING_RATE
    if phase != "prune":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(rate), "mse")
    callbacks: list[keras.callbacks.Callback] = []
    zeros = pruning = None
    if phase != "dense" and settings.sparsity > 0:
        zeros = _Zeros()
        pruning = Prune(settings.sparsity, allocation=settings.allocation) if phase == "prune" else KeepSparse()
        callbacks = [zeros, pruning]
    callbacks.append(EpochProgress(say, title, zeros.now if zeros else None))
    began = time.monotonic()
    history = model.fit(
        data.x_train,
        data.x_train,
        validation_data=(data.x_validation, data.x_validation),
        batch_size=settings.batch_size,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )
    record = {name: [float(value) for value in values] for name, values in history.history.items()}
    if not np.isfinite(record["loss"]).all():
        raise FloatingPointError(
            f"the loss became {record['loss'][-1]} in epoch {len(record['loss'])} of the {phase} training; "
            "the data are finite and scaled, so try fewer epochs or another seed"
        )
    table = None if pruning is None else pruning.table
    asked = {} if table is None else {row.path: row.asked for row in table.pruned}
    return {
        "history": record,
        "epochs": epochs,
        "asked": asked,
        "seconds": time.monotonic() - began,
    }
