"""Calibration samples in memory, from whatever the caller has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Calibration:
    """Samples in memory, with labels or targets where there are any.

    Args:
        x: model inputs, shape (n, ...), float32, n >= 1.
        y: labels or targets, n of them; None for an autoencoder, whose target is x.
        source: how they came about, for tables: "real", "vae", ...
    """

    x: np.ndarray
    y: np.ndarray | None = None
    source: str = "real"

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(x, target) in order, the last one perhaps smaller; the target is x where there is no y."""
        for start in range(0, len(self.x), size):
            part = slice(start, start + size)
            yield self.x[part], self.x[part] if self.y is None else self.y[part]


def get(data: Any, *, samples: int | None = None, seed: int = 0) -> Calibration:
    """Placeholder of the real one: arrays and (x, y)."""
    if isinstance(data, Calibration):
        return data
    x, y = data if isinstance(data, tuple) else (data, None)
    return Calibration(np.asarray(x, "float32"), None if y is None else np.asarray(y))
