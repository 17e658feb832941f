"""What a packed file takes, array by array."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Packed", "PackedRow"]


@dataclass(frozen=True)
class PackedRow:
    """What one array of weights takes.

    Args:
        path: names from the model down, "encoder/hidden/kernel".
        shape: of the array.
        weights: number of elements.
        nonzeros: of what is coded: elements that are not zero, or that changed where a base is known.
        bits: of one coded value: log2 of the shared values, or the width of the type.
        index: how positions are coded: "dense", "gaps", "bitmask", "bitmask by row", ...
        mode: "whole", "exact difference" or "shared difference".
        bytes: all of it, in the file.
        index_bytes: of the positions.
        codebook_bytes: of the shared values themselves.
        table_bytes: of tables of counts, which the reader needs to decode.
        bound: bytes of positions and values at their empirical entropy, without codebook and tables.
        sparse_bytes: of the non-zeros as they are and the cheapest plain index, nothing coded.

    Example:
        >>> row = PackedRow("a/kernel", (64, 32), 2048, 205, 5.0, "gaps", "whole", 291, 115, 64, 12, 250.0, 948)
        >>> row.nonzeros / row.weights < 0.11, round(8 * row.bytes / row.nonzeros, 1)  # bits a non-zero
        (True, 11.4)
    """

    path: str
    shape: tuple[int, ...]
    weights: int
    nonzeros: int
    bits: float
    index: str
    mode: str
    bytes: int
    index_bytes: int
    codebook_bytes: int
    table_bytes: int
    bound: float
    sparse_bytes: int


@dataclass(frozen=True)
class Packed:
    """What `pack` wrote; `print` shows a table.

    Args:
        path: the file.
        kind: "keras", "tflite", "keras delta" or "tflite delta".
        bytes: size of the file.
        graph_bytes: of it, layers and connections.
        dense_bytes: of all weights as they are in memory.
        kernel_weights, kernel_nonzeros: elements of all kernels, and those that are not zero.
        rows: one `PackedRow` per array.
        model: what `unpack` gives back: a Keras model, or the bytes of a .tflite file.

    Example:
        >>> import tempfile, keras
        >>> from keras_aeprune.compression import pack
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, name="hidden")])
        >>> packed = pack(model, f"{tempfile.mkdtemp()}/model.kap", bits=4)
        >>> packed.kind, packed.rows[0].path, packed.rows[0].bits, packed.ratios["stored_coded"] > 4
        ('keras', 'hidden/kernel', 4.0, True)
    """

    path: str
    kind: str
    bytes: int
    graph_bytes: int
    dense_bytes: int
    kernel_weights: int
    kernel_nonzeros: int
    rows: tuple[PackedRow, ...]
    model: Any = field(repr=False, compare=False)

    @property
    def overhead(self) -> int:
        """Bytes that are not coded positions, values or exact weights: graph, codebooks, header, checksum."""
        return self.bytes - sum(row.bytes - row.codebook_bytes for row in self.rows)

    @property
    def ratios(self) -> dict[str, float]:
        """Three ratios that must not be mixed up.

        nnz: weights of kernels / those that are not zero. stored_sparse: all bytes / bytes with only the
        non-zeros and their index kept. stored_coded: all bytes / bytes of the file.
        """
        sparse = sum(row.sparse_bytes for row in self.rows)
        return {
            "nnz": self.kernel_weights / max(self.kernel_nonzeros, 1),
            "stored_sparse": self.dense_bytes / max(sparse, 1),
            "stored_coded": self.dense_bytes / self.bytes,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the model."""
        rows = [{**asdict(row), "shape": list(row.shape)} for row in self.rows]
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("rows", "model")}
        return {**plain, "overhead": self.overhead, "ratios": self.ratios, "rows": rows}

    def __str__(self) -> str:
        lines = [("weights", "shape", "number", "non-zero", "bits", "index", "bytes", "index bytes", "bound")]
        for row in self.rows:
            shape = "x".join(map(str, row.shape)) or "-"
            index = row.index if row.mode == "whole" else f"{row.index}, {row.mode}"
            numbers = f"{row.weights:,}", f"{row.nonzeros:,}", f"{row.bits:.1f}"
            sizes = f"{row.bytes:,}", f"{row.index_bytes:,}", f"{row.bound:,.0f}"
            lines.append((row.path, shape, *numbers, index, *sizes))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(
                cell.ljust(width) if column in (0, 1, 5) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        named = ", ".join(f"{name} {ratio:.1f}x" for name, ratio in self.ratios.items())
        total = f"file: {self.bytes:,} bytes, graph {self.graph_bytes:,}, overhead {self.overhead:,}; {named}"
        return "\n".join([text[0], "-" * max(map(len, text)), *text[1:], total])
