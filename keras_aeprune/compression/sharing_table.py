"""How many values each kernel shares, as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["SharedRow", "SharingTable"]


@dataclass(frozen=True)
class SharedRow:
    """One kernel: how many values it shares.

    Attributes:
        path: of the kernel.
        weights: all, zeros included.
        nonzero: weights that are not zero.
        bits: asked; None where the kernel was left alone.
        values: different non-zero values in it now.
        change: root mean square of what clustering changed in the non-zero weights, before any training,
            as a fraction of theirs; None where nothing was clustered.
        reason: why it was left alone, else "".

    Example:
        >>> row = SharedRow("hidden/kernel", 64, nonzero=20, bits=3, values=8, change=0.06)
        >>> row.bits * row.nonzero / 8, 4 * row.nonzero  # bytes of its non-zero weights, and as float32
        (7.5, 80)
    """

    path: str
    weights: int
    nonzero: int
    bits: int | None
    values: int
    change: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class SharingTable:
    """What `Cluster` and `cluster` did, kernel by kernel.

    Example:
        >>> import keras
        >>> from keras_aeprune.compression import cluster
        >>> _, table = cluster(keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="hidden")]), bits=3)
        >>> [(row.path, row.bits, row.values) for row in table.rows]
        [('hidden/kernel', 3, 8)]
    """

    rows: tuple[SharedRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """All as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        width = max([6, *(len(row.path) for row in self.rows)])
        lines = [f"{'kernel':<{width}}{'weights':>10}{'non-zero':>10}{'bits':>6}{'values':>8}{'change':>9}"]
        for row in self.rows:
            line = f"{row.path:<{width}}{row.weights:>10}{row.nonzero:>10}"
            if row.reason:
                lines.append(f"{line}  left alone: {row.reason}")
            else:
                lines.append(f"{line}{row.bits:>6}{row.values:>8}{row.change:>9.4f}")
        return "\n".join(lines)
