"""What was asked, what was reached, what was skipped and why."""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune._layers import Weight, weights
from keras_aeprune._validation import keras_model
from keras_aeprune.sparsity.masks import count_zeros

__all__ = ["SparsityNotReached", "SparsityRow", "SparsityTable", "remember", "sparsity_table"]

_tables: weakref.WeakKeyDictionary[Any, SparsityTable] = weakref.WeakKeyDictionary()


class SparsityNotReached(RuntimeError):
    """The training ended before the schedule did; `.table` says what was reached.

    Example:
        >>> missed = SparsityNotReached("asked 0.9", SparsityTable(()))
        >>> len(missed.table.rows)
        0
    """

    def __init__(self, message: str, table: SparsityTable):
        super().__init__(message)
        self.table = table


@dataclass(frozen=True)
class SparsityRow:
    """One kernel.

    Args:
        path: names from the outermost model down, "encoder/hidden_1/kernel".
        shape: of the kernel.
        weights: number of weights.
        zeros: number of weights that are exactly zero.
        asked: fraction that was asked for, None if nothing was.
        pattern: "unstructured", "2:4", ..., or "" where nothing was asked.
        reason: why it was skipped, or "".

    Example:
        >>> row = SparsityRow("hidden/kernel", (8, 4), 32, zeros=28, asked=0.9, pattern="unstructured", reason="")
        >>> row.reached, row.missed
        (0.875, True)
    """

    path: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    asked: float | None
    pattern: str
    reason: str

    @property
    def reached(self) -> float:
        """Fraction of weights that are exactly zero."""
        return self.zeros / self.weights if self.weights else 0.0

    @property
    def missed(self) -> bool:
        """Whether fewer weights are zero than were asked for."""
        return self.asked is not None and self.zeros < count_zeros(self.weights, self.asked)

    @classmethod
    def measured(
        cls, path: str, kernel: np.ndarray, asked: float | None, pattern: str = "unstructured"
    ) -> SparsityRow:
        """The row of a kernel that is pruned."""
        zeros = int(np.count_nonzero(kernel == 0))
        return cls(path, tuple(kernel.shape), kernel.size, zeros, asked, pattern, "")

    @classmethod
    def skipped(cls, weight: Weight, reason: str) -> SparsityRow:
        """The row of a kernel, or of a layer of unknown kind, that is left alone."""
        if weight.kernel is None:
            return cls(
                weight.path, (), sum(int(np.prod(v.shape)) for v in weight.layer.weights), 0, None, "", reason
            )
        kernel = keras.ops.convert_to_numpy(weight.variable)
        return cls(
            weight.path,
            tuple(kernel.shape),
            kernel.size,
            int(np.count_nonzero(kernel == 0)),
            None,
            "",
            reason,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "shape": list(self.shape), "reached": self.reached}


@dataclass(frozen=True)
class SparsityTable:
    """All kernels of a model; prints like `model.summary()`.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="a")])
        >>> model.set_weights([np.array([[1.0, 0.0], [0.0, 2.0]]), np.zeros(2)])
        >>> table = sparsity_table(model)
        >>> table["a/kernel"].zeros, table.sparsity
        (2, 0.5)
    """

    rows: tuple[SparsityRow, ...]

    @property
    def pruned(self) -> tuple[SparsityRow, ...]:
        """The rows for which something was asked."""
        return tuple(row for row in self.rows if row.asked is not None)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros over the pruned kernels, or over all where none was pruned."""
        rows = self.pruned or self.rows
        return sum(row.zeros for row in rows) / max(sum(row.weights for row in rows), 1)

    def __getitem__(self, path: str) -> SparsityRow:
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(f"{path!r} is not in the table; there are: {', '.join(row.path for row in self.rows)}")

    def to_dict(self) -> list[dict[str, Any]]:
        """One dict of plain JSON values per row."""
        return [row.to_dict() for row in self.rows]

    def __str__(self) -> str:
        header = ("kernel", "shape", "weights", "zeros", "asked", "reached", "note")
        lines = [header]
        for row in self.rows:
            asked = "-" if row.asked is None else f"{row.asked:.4f}"
            note = row.reason or ("missed" if row.missed else "")
            shape = "x".join(map(str, row.shape)) or "-"
            lines.append(
                (row.path, shape, f"{row.weights:,}", f"{row.zeros:,}", asked, f"{row.reached:.4f}", note)
            )
        size, zeros = sum(r.weights for r in self.rows), sum(r.zeros for r in self.rows)
        lines.append(("total", "", f"{size:,}", f"{zeros:,}", "", f"{zeros / max(size, 1):.4f}", ""))
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        text = [
            "  ".join(
                cell.ljust(width) if column in (0, 1, 6) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "-" * max(map(len, text))
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])

    __repr__ = __str__


def remember(model: Any, table: SparsityTable) -> None:
    """Keep what was asked of a model, for as long as the model lives."""
    _tables[model] = table


def sparsity_table(model: keras.Model) -> SparsityTable:
    """Zeros asked and reached in every kernel of a model, as they are now.

    Args:
        model: a built Keras model, pruned in this process or loaded from a file (then nothing is asked).

    Returns:
        A `SparsityTable`: `print(table)`, `table["encoder/code/kernel"].reached`, `table.to_dict()`.

    Raises:
        WrongKerasError: if it is no Keras 3 model.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden")])
        >>> print(sparsity_table(model))
        kernel         shape  weights  zeros  asked  reached  note
        ----------------------------------------------------------
        hidden/kernel  4x3         12      0      -   0.0000
        ----------------------------------------------------------
        total                      12      0          0.0000
    """
    known = {row.path: row for row in _tables.get(keras_model(model), SparsityTable(())).rows}
    rows = []
    for weight in weights(model):
        before = known.get(weight.path)
        if weight.kernel is None or (before is not None and before.asked is None):
            rows.append(SparsityRow.skipped(weight, before.reason if before else weight.reason))
        elif before is None:
            rows.append(SparsityRow.skipped(weight, weight.reason))
        else:
            kernel = keras.ops.convert_to_numpy(weight.variable)
            rows.append(SparsityRow.measured(weight.path, kernel, before.asked, before.pattern))
    return SparsityTable(tuple(rows))
