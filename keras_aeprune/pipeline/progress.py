"""What a person sees while a long step runs; all of it goes to standard error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras

from keras_aeprune._progress import Say, clock

__all__ = ["EpochProgress"]


class EpochProgress(keras.callbacks.Callback):
    """One line per epoch: where it stands, the losses, the zeros, the time left.

    Args:
        say: called with the line and whether it is the phase's last.
        title: the step's number and name.
        sparsity: gives the fraction of zeros now, or None.
    """

    def __init__(self, say: Say, title: str, sparsity: Callable[[], float] | None = None):
        super().__init__()
        self._say = say
        self._title = title
        self._sparsity = sparsity
        self._started = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._started = time.monotonic()
        self._say(f"{self._title}: starting", False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        done, epochs = epoch + 1, self.params["epochs"]
        passed = time.monotonic() - self._started
        losses = "  ".join(f"{name} {logs[name]:.5f}" for name in ("loss", "val_loss") if name in logs)
        zeros = f"  zeros {self._sparsity():.3f}" if self._sparsity else ""
        left = "" if done == epochs else f"  {clock(passed / done * (epochs - done))} left"
        time_text = f"  {clock(passed)}" if done == epochs else left
        self._say(f"{self._title}: epoch {done}/{epochs}  {losses}{zeros}{time_text}", done == epochs)
