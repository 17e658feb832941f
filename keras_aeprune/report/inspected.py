"""What is known about a model or a file, layer by layer, and how it is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from keras_aeprune._validation import refuse
from keras_aeprune.report.text import size_text
from keras_aeprune.shrinking.text import table

__all__ = ["Inspection", "LayerRow", "UnitGroup"]

FORMATS = {"keras": "Keras file", "hdf5": "HDF5 file of Keras", "tflite": "LiteRT file", "memory": "model"}
_PATH = 36


@dataclass(frozen=True)
class LayerRow:
    """One layer of a Keras model, or one operation of a .tflite file.

    Args:
        path: through nested models; for an operation its number and the name of what it makes.
        kind: class of the layer, name of the operation.
        output_shape: with the batch axis, None for an open size; None where it is not known.
        dtype: of the weights, or of the output where there are none.
        parameters: numbers in its weights; weights that several share count at the first.
        kernel_weights: those of them in kernels.
        zeros: zeros in kernels.
        macs: multiply-accumulates with weights for one sample; None where they cannot be counted.
        weight_bytes: of its weights in their own type.
        sparse_bytes: of its weights as `storage.sparse_bytes` stores kernels, all else as 32 bits.
        units: width of the kernel's output; 0 without a kernel.
        dead: units that do nothing, by the weights alone or on the data that was given.
        note: what there is to know about it, or "".
    """

    path: str
    kind: str
    output_shape: tuple[int | None, ...] | None
    dtype: str
    parameters: int = 0
    kernel_weights: int = 0
    zeros: int = 0
    macs: int | None = 0
    weight_bytes: int = 0
    sparse_bytes: int = 0
    units: int = 0
    dead: int = 0
    note: str = ""

    @property
    def nonzero(self) -> int:
        """Parameters without the zeros in kernels."""
        return self.parameters - self.zeros


@dataclass(frozen=True)
class UnitGroup:
    """Units that can be cut out together.

    Args:
        name: path of the first layer that makes them.
        units: how many there are.
        layers: all layers that make them.
        reason: why they all stay; "" where they can go.
    """

    name: str
    units: int
    layers: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class Inspection:
    """A model or a file, layer by layer; `print` shows it like `model.summary()`.

    Args:
        name: of the file or the model.
        format: "keras", "hdf5", "tflite", or "memory" for a model that is not a file.
        layers: in the model's order.
        groups: of units that can be cut out of a Keras model, and those that must stay with the reason.
        hints: what to do or to know, one sentence each.
        bytes: of the file; None for a model in memory.
        gzip_bytes: of the file after gzip at level 9.
        packed_bytes: of the file that `compression` packs of it, where one was made.
        energy: a proxy of the energy for one sample, where it was computed.

    Example:
        >>> row = LayerRow("code", "Dense", (None, 2), "float32", 8, 6, 3, 6, 32, 21, 2)
        >>> print(Inspection("small", "memory", (row,)))
        small: model, 8 parameters, 5 of them not zero, 6 multiplications a sample
        layer  kind   output  parameters  not zero  MACs     type  dead
        code   Dense  - x 2            8         5     6  float32
        all                            8         5     6
        kernels: 0.5000 of 6 weights are zero; weights are 32 B in their own type, 21 B without zeros
    """

    name: str
    format: str
    layers: tuple[LayerRow, ...]
    groups: tuple[UnitGroup, ...] = ()
    hints: tuple[str, ...] = ()
    bytes: int | None = None
    gzip_bytes: int | None = None
    packed_bytes: int | None = None
    energy: float | None = None

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(row.parameters for row in self.layers)

    @property
    def kernel_weights(self) -> int:
        """Numbers in all kernels."""
        return sum(row.kernel_weights for row in self.layers)

    @property
    def zeros(self) -> int:
        """Zeros in all kernels."""
        return sum(row.zeros for row in self.layers)

    @property
    def nonzero(self) -> int:
        """Parameters without the zeros in kernels."""
        return self.parameters - self.zeros

    @property
    def sparsity(self) -> float:
        """Fraction of the kernels' weights that is zero; 0 without kernels."""
        return self.zeros / self.kernel_weights if self.kernel_weights else 0.0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers that can be counted."""
        return sum(row.macs or 0 for row in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in their own types."""
        return sum(row.weight_bytes for row in self.layers)

    @property
    def sparse_bytes(self) -> int:
        """Bytes of all weights with the zeros of the kernels left out, values as 32 bits, index included."""
        return sum(row.sparse_bytes for row in self.layers)

    @property
    def dead(self) -> int:
        """Units that do nothing."""
        return sum(row.dead for row in self.layers)

    @property
    def totals(self) -> dict[str, Any]:
        """The numbers of the whole model by name."""
        names = ("parameters", "nonzero", "kernel_weights", "zeros", "sparsity", "macs", "weight_bytes")
        return {name: getattr(self, name) for name in (*names, "sparse_bytes", "dead")}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `totals` are added for readers."""
        values = asdict(self)
        for row in values["layers"]:
            row["output_shape"] = None if row["output_shape"] is None else list(row["output_shape"])
        for group in values["groups"]:
            group["layers"] = list(group["layers"])
        values.update({key: list(values[key]) for key in ("layers", "groups", "hints")})
        return {**values, "totals": self.totals}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Inspection:
        """What `to_dict` gave.

        Raises:
            InputError: something else.
        """
        try:
            given = {key: value for key, value in values.items() if key != "totals"}
            given["layers"] = tuple(LayerRow(**{**row, "output_shape": _shape(row)}) for row in values["layers"])
            given["groups"] = tuple(UnitGroup(**{**g, "layers": tuple(g["layers"])}) for g in values["groups"])
            return cls(**{**given, "hints": tuple(values["hints"])})
        except (AttributeError, KeyError, TypeError) as error:
            raise refuse("values", values, "what Inspection.to_dict returns") from error

    def __str__(self) -> str:
        head = ["layer", "kind", "output", "parameters", "not zero", "MACs", "type", "dead"]
        rows = [
            [
                _middle(row.path, _PATH),
                row.kind,
                shape_text(row.output_shape),
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.nonzero:,}" if row.parameters else "",
                "?" if row.macs is None else f"{row.macs:,}" if row.macs else "",
                row.dtype,
                f"{row.dead:,}" if row.dead else "",
            ]
            for row in self.layers
        ]
        whole = [f"{self.parameters:,}", f"{self.nonzero:,}", f"{self.macs:,}"]
        rows.append(["all", "", "", *whole, "", f"{self.dead:,}" if self.dead else ""])
        lines = [self._headline(), *table(head, rows, left=3)]
        if self.kernel_weights:
            lines.append(
                f"kernels: {self.sparsity:.4f} of {self.kernel_weights:,} weights are zero; weights are "
                f"{size_text(self.weight_bytes)} in their own type, {size_text(self.sparse_bytes)} without zeros"
            )
        free = [group for group in self.groups if not group.reason and group.units > 1]
        if free:
            named = ", ".join(f"{group.name} ({group.units:,})" for group in free[:6])
            more = f" and {len(free) - 6} more" * (len(free) > 6)
            groups = f"{len(free)} group{'s' * (len(free) > 1)}"
            lines.append(f"can be cut: {sum(g.units for g in free):,} units in {groups}: {named}{more}")
        lines += [f"hint: {hint}" for hint in self.hints]
        return "\n".join(lines)

    __repr__ = __str__

    def _headline(self) -> str:
        said = [FORMATS.get(self.format, self.format)]
        if self.bytes is not None:
            packed = f"{size_text(self.gzip_bytes)} gzipped" if self.gzip_bytes is not None else ""
            said[0] += f" of {size_text(self.bytes)}" + f" ({packed})" * bool(packed)
        if self.packed_bytes is not None:
            said.append(f"{size_text(self.packed_bytes)} packed")
        said.append(f"{self.parameters:,} parameters, {self.nonzero:,} of them not zero")
        said.append(f"{self.macs:,} multiplications a sample")
        if self.energy is not None:
            said.append(f"energy proxy {self.energy:.4g}")
        return f"{self.name}: {', '.join(said)}"


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """A shape in words.

    Example:
        >>> shape_text((None, 28, 1)), shape_text(())
        ('- x 28 x 1', 'scalar')
    """
    if shape is None:
        return "?"
    return " x ".join("-" if size is None else str(size) for size in shape) or "scalar"


def _shape(row: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    return None if row["output_shape"] is None else tuple(row["output_shape"])


def _middle(text: str, limit: int) -> str:
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"
