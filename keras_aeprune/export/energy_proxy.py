"""What one invoke of a .tflite file has to do: multiplications, bytes moved, and a proxy for its energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_aeprune.export.flatbuffer import (
    bits,
    constants,
    elements,
    graph_of,
    listed,
    operator_name,
    read_flatbuffer,
    shape_of,
    tensor_bytes,
)
from keras_aeprune.shrinking.text import table

FLOAT_MAC_PJ = 3.7 + 0.9  # a 32-bit floating-point multiplication and addition
INT8_MAC_PJ = 0.2 + 0.03  # an 8-bit integer multiplication and addition
SRAM_BYTE_PJ = 5 / 4  # 5 pJ for 32 bits from 8 kB of SRAM
DRAM_BYTE_PJ = 640 / 4  # 640 pJ for 32 bits from DRAM

_LOOK_UPS = ("GATHER", "EMBEDDING_LOOKUP")  # they read the rows asked for, not the table


@dataclass(frozen=True)
class Work:
    """What one operation does for one sample.

    Args:
        index: of the operation in the file, >= 0.
        name: of its kind, such as "FULLY_CONNECTED".
        shape: of its first output.
        macs: multiply-accumulates, >= 0; None where there is no rule for the kind.
        whole_numbers: whether the weights are whole numbers of at most 8 bits.
        weight_bytes: constants read, >= 0.
        activation_bytes: other inputs read and outputs written, >= 0.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    macs: int | None
    whole_numbers: bool
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Energy:
    """Operations, bytes moved and an energy proxy for one invoke; see `energy`. Printing it gives a table.

    Args:
        path: the file.
        operations: what each operation does, in the order in which they run.

    Example:
        >>> sizes = {"weight_bytes": 544, "activation_bytes": 72}
        >>> work = Work(0, "FULLY_CONNECTED", (1, 8), macs=512, whole_numbers=True, **sizes)
        >>> energy = Energy(Path("ae.tflite"), (work,))
        >>> energy.macs, energy.bytes_moved
        (512, 616)
    """

    path: Path
    operations: tuple[Work, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(work.macs or 0 for work in self.operations)

    @property
    def int8_macs(self) -> int:
        """Those with weights of at most 8 bits."""
        return sum(work.macs or 0 for work in self.operations if work.whole_numbers)

    @property
    def float_macs(self) -> int:
        """All others."""
        return self.macs - self.int8_macs

    @property
    def weight_bytes(self) -> int:
        """Constants read."""
        return sum(work.weight_bytes for work in self.operations)

    @property
    def activation_bytes(self) -> int:
        """Activations read and written."""
        return sum(work.activation_bytes for work in self.operations)

    @property
    def bytes_moved(self) -> int:
        """Weights and activations, read or written once per operation."""
        return self.weight_bytes + self.activation_bytes

    @property
    def compute_pj(self) -> float:
        """Proxy for the arithmetic alone, picojoules."""
        return self.float_macs * FLOAT_MAC_PJ + self.int8_macs * INT8_MAC_PJ

    @property
    def sram_pj(self) -> float:
        """Proxy where every byte comes from a small SRAM, picojoules: the lower end."""
        return self.compute_pj + self.bytes_moved * SRAM_BYTE_PJ

    @property
    def dram_pj(self) -> float:
        """Proxy where every byte comes from DRAM, picojoules: the upper end."""
        return self.compute_pj + self.bytes_moved * DRAM_BYTE_PJ

    @property
    def not_counted(self) -> tuple[str, ...]:
        """Kinds of operations whose arithmetic is not in `macs`, sorted."""
        return tuple(sorted({work.name for work in self.operations if work.macs is None}))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("macs", "float_macs", "int8_macs", "weight_bytes", "activation_bytes", "bytes_moved")
        proxies = ("compute_pj", "sram_pj", "dram_pj")
        return {
            "path": str(self.path),
            **{name: getattr(self, name) for name in names},
            **{f"proxy_{name}": getattr(self, name) for name in proxies},
            "not_counted": list(self.not_counted),
        }

    def __str__(self) -> str:
        rows = [
            [
                str(work.index),
                work.name,
                "x".join(map(str, work.shape)),
                "-" if work.macs is None else f"{work.macs:,}",
                f"{work.weight_bytes:,}",
                f"{work.activation_bytes:,}",
            ]
            for work in self.operations
        ]
        rows.append(["", "all", "", f"{self.macs:,}", f"{self.weight_bytes:,}", f"{self.activation_bytes:,}"])
        lines = table(["", "operation", "output", "MACs", "weight bytes", "activation bytes"], rows, left=3)
        return "\n".join(
            [
                *lines,
                f"energy proxy, not a measurement (45 nm): {self.sram_pj / 1e6:.3g} uJ with all bytes from SRAM, "
                f"{self.dram_pj / 1e6:.3g} uJ from DRAM; {self.compute_pj / 1e6:.3g} uJ of it arithmetic",
            ]
        )


def energy(path: str | Path, *, signature: str | None = None) -> Energy:
    """Count what one invoke of a .tflite file multiplies and moves, and turn it into an energy proxy.

    Use it to compare files that shall run on the same chip. The proxy is not a measurement: it has the
    constants of one 45 nm chip, and no idea of the caches, the clock or the idle current of yours. With m
    float and q 8-bit multiply-accumulates and b bytes,

        arithmetic = 4.6 m + 0.23 q      (3.7 + 0.9 pJ and 0.2 + 0.03 pJ)
        proxy      = arithmetic + b * e  (e = 5/4 pJ per byte from SRAM, 640/4 from DRAM)

    The arithmetic and the 8 kB SRAM are from Horowitz, "Computing's energy problem", ISSCC 2014
    (https://doi.org/10.1109/ISSCC.2014.6757323); 640 pJ per 32 bits is his DRAM range as Han et al. 2015 use it
    (https://arxiv.org/abs/1506.02626). Bytes: every operation reads its weights and inputs and writes its
    outputs once; a table look-up reads the rows asked for. Operations on constants alone run once when a file is
    loaded and count nothing. Zeros count like other weights, because the runtime multiplies by them. Rules for
    multiply-accumulates: FULLY_CONNECTED, CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV (what "same" padding
    cuts away is counted), BATCH_MATMUL and UNIDIRECTIONAL_SEQUENCE_LSTM; all other operations count bytes
    only and stand in `not_counted`. The body of a WHILE is not counted: unroll a recurrent layer first.

    Args:
        path: a .tflite file.
        signature: which one, by name; None is the one that the interpreter runs by default. An open size is 1.

    Returns:
        An `Energy`.

    Raises:
        InputError: if it is no .tflite file or has no such signature.

    Example:
        >>> import tempfile, tensorflow as tf
        >>> weights = tf.ones((3, 2))
        >>> one = tf.function(lambda x: x @ weights, input_signature=[tf.TensorSpec((1, 3), name="x")])
        >>> path = Path(tempfile.mkdtemp()) / "one.tflite"
        >>> converter = tf.lite.TFLiteConverter.from_concrete_functions([one.get_concrete_function()])
        >>> _ = path.write_bytes(converter.convert())
        >>> estimate = energy(path)
        >>> estimate.macs, estimate.bytes_moved, round(estimate.compute_pj, 1)  # (6 + 3 + 2) * 4 bytes
        (6, 44, 27.6)
    """
    path = Path(path)
    model = read_flatbuffer(path)
    graph = graph_of(model, signature)
    fixed = constants(model, graph)
    work = []
    for index, operator in enumerate(graph.operators):
        outputs = [graph.tensors[i] for i in operator.outputs]
        if all(i in fixed for i in operator.outputs):
            continue
        name = operator_name(model, operator)
        inputs = [graph.tensors[i] if i >= 0 else None for i in listed(operator.inputs)]
        unique = {i for i in listed(operator.inputs) if i >= 0}
        written = sum(map(tensor_bytes, outputs))
        read = {i: tensor_bytes(graph.tensors[i]) for i in unique}
        if name in _LOOK_UPS:
            rows = operator.inputs[0 if name == "GATHER" else 1]
            read[rows] = min(read[rows], written)
        rule = _RULES.get(name)
        weights = inputs[1] if rule and len(inputs) > 1 else None
        if name == "UNIDIRECTIONAL_SEQUENCE_LSTM":
            weights = inputs[2]  # the first is missing where input and forget gates are coupled
        work.append(
            Work(
                index=index,
                name=name,
                shape=shape_of(outputs[0]) if outputs else (),
                macs=rule(inputs, outputs, operator.builtinOptions) if rule else None,
                whole_numbers=weights is not None and 0 < bits(weights) <= 8,
                weight_bytes=sum(size for i, size in read.items() if i in fixed),
                activation_bytes=written + sum(size for i, size in read.items() if i not in fixed),
            )
        )
    return Energy(path, tuple(work))


def _fully_connected(inputs: Sequence[Any], outputs: Sequence[Any], options: Any) -> int:
    return elements(inputs[1]) * (elements(inputs[0]) // max(1, shape_of(inputs[1])[-1]))


def _convolution(inputs: Sequence[Any], outputs: Sequence[Any], options: Any) -> int:
    return elements(outputs[0]) * math.prod(shape_of(inputs[1])[1:])  # (filters, height, width, channels)


def _depthwise(inputs: Sequence[Any], outputs: Sequence[Any], options: Any) -> int:
    return elements(outputs[0]) * math.prod(shape_of(inputs[1])[1:3])


def _transposed(inputs: Sequence[Any], outputs: Sequence[Any], options: Any) -> int:
    return elements(inputs[2]) * math.prod(shape_of(inputs[1])[:3])


def _batch_matmul(inputs: Sequence[Any], outputs: Sequence[Any], options: Any) -> int:
    return elements(outputs[0]) * shape_of(inputs[0])[-2 if getattr(options, "adjX", False) else -1]


def _lstm(inputs: Sequence[Any], outputs: Sequence[Any], options: Any) -> int:
    """Per step: input and recurrent kernels (1 to 8), peepholes (9 to 11) and the projection (16)."""
    weights = [*inputs[1:12], *inputs[16:17]]
    steps = math.prod(shape_of(inputs[0])[:2])
    return steps * sum(elements(tensor) for tensor in weights if tensor is not None)


_RULES: dict[str, Callable[[Sequence[Any], Sequence[Any], Any], int]] = {
    "FULLY_CONNECTED": _fully_connected,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "BATCH_MATMUL": _batch_matmul,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}
WEIGHTED = tuple(_RULES)  # kinds of operations that multiply by weights
