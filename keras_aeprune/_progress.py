"""Lines that a person sees while something long runs; all of them go to standard error."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str, bool], None]

_SECONDS_BETWEEN_LINES = 10.0  # where the output is a file: a line now and then instead of one that changes


def silent(text: str, final: bool = True) -> None:
    """Say nothing."""


class _Terminal:
    """Rewrites one line on a terminal; writes fewer, whole lines into a file."""

    def __init__(self) -> None:
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


@contextmanager
def no_retracing_lines() -> Iterator[None]:
    """Without TensorFlow's advice on functions that are traced often: every new model has to be traced."""
    logger = logging.getLogger("tensorflow")

    def wanted(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


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
