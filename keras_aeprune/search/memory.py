"""What a trial leaves behind in memory, and how it is given back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tensorflow.python.framework import ops


@contextmanager
def frozen() -> Iterator[None]:
    """What is there before the search is not looked through again after every trial."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def gradient_registry() -> dict[str, Any]:
    """TensorFlow's registry of gradients, or an empty one where it has no such thing any more."""
    return getattr(getattr(ops, "gradient_registry", None), "_registry", {})


@contextmanager
def forgotten_gradients() -> Iterator[None]:
    """Every traced train step registers custom gradients for ever, which hold its whole graph: 7 MiB a trial."""
    registry = gradient_registry()
    before = set(registry)
    try:
        yield
    finally:
        for name in set(registry) - before:
            if name.startswith("CustomGradient"):
                del registry[name]
