"""What a person sees while a long step runs; all of it goes to standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import keras

__all__ = ["EpochProgress", "Say", "silent", "to_stderr"]

Say = Callable[[str, bool], None]

_SECONDS_BETWEEN_LINES = 10.0  # where the output is a file: a line now and then instead of one that changes


def silent(text: str, final: bool = True) -> None:
    """Say nothing."""


class _Terminal:
    """Rewrites one line on a terminal; writes fewer, whole lines into a file."""

    def __init__(self):
        self._open = False
        self._last = 0.0

    def __call__(self, text: str, final: bool = True) -> None:
        stream = sys.stderr
        if stream.isatty():
            stream.write(("\r\x1b[2K" if self._open else "") + text + ("\n" if final else ""))
            self._open = not final
        elif final or time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            stream.write(text + "\n")
            self._last = time.monotonic()
        stream.flush()


to_stderr: Say = _Terminal()


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


def clock(seconds: float) -> str:
    """Seconds as text.

    >>> clock(7.2), clock(75), clock(3700)
    ('7 s', '1 min 15 s', '1 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
