"""A .tflite file operation by operation, read from its flatbuffer alone: nothing of it is run."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_aeprune._validation import InputError, shown
from keras_aeprune.report.inspected import Inspection, LayerRow
from keras_aeprune.report.storage import sparse_bytes

__all__ = ["inspect_tflite"]

_NUMPY = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
}
_BITS = {"INT4": 4, "UINT4": 4, "INT2": 2, "BFLOAT16": 16}  # packed, or without a NumPy type
_LOOPS = ("WHILE", "IF", "CALL", "CALL_ONCE", "STABLEHLO_WHILE")
_UNPACKED = ("DEQUANTIZE", "DENSIFY", "CAST")  # what stands between a stored weight and its user
# operation: (positions of its kernels among the inputs, axis of the units that they make)
_KERNELS = {
    "FULLY_CONNECTED": ((1,), 0),
    "CONV_2D": ((1,), 0),
    "CONV_3D": ((1,), -1),
    "DEPTHWISE_CONV_2D": ((1,), -1),
    "TRANSPOSE_CONV": ((1,), 0),
    "CONV_3D_TRANSPOSE": ((1,), -2),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (tuple(range(1, 9)), 0),
    "LSTM": (tuple(range(1, 9)), 0),
    "UNIDIRECTIONAL_SEQUENCE_RNN": ((1, 2), 0),
    "RNN": ((1, 2), 0),
    "BATCH_MATMUL": ((1,), -1),
}
_LSTM_STEPS = ("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN")
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, KeyError)


def inspect_tflite(path: str | Path) -> Inspection:
    """Look at a .tflite file operation by operation without loading it into an interpreter.

    Constants of real or quantized numbers are parameters, shapes and indices are not. A quantized weight is
    zero where it equals its zero point. What a loop does is counted as often as its condition says, where that
    is a number in the file.

    Args:
        path: a .tflite file; it may come from anywhere.

    Returns:
        An `Inspection` without bytes, which `inspect_file` adds.

    Raises:
        InputError: no such file, or a damaged one.

    Example:
        >>> import tempfile, tensorflow as tf
        >>> double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((1, 3), name="x")])
        >>> concrete = [double.get_concrete_function()]
        >>> path = Path(tempfile.mkdtemp()) / "double.tflite"
        >>> _ = path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions(concrete).convert())
        >>> [(row.kind, row.output_shape) for row in inspect_tflite(path).layers]
        [('MUL', (1, 3))]
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"path: got {shown(str(path))}, allowed: an existing .tflite file")
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise InputError(f"path: got {path.name}, which is no .tflite file (no mark TFL3), allowed: a whole one")
    try:
        file = _File(content)
        rows = [row for number in range(len(file.graphs)) for row in file.rows(number)]
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"path: got {path.name}, which is damaged ({shown(reason)}), allowed: a whole one"
        ) from error
    return Inspection(path.name, "tflite", tuple(rows), (), tuple(_said(rows)))


class _File:
    """The tables of one file."""

    def __init__(self, content: bytes):
        self.content = content
        self.model = schema.Model.GetRootAs(content, 0)
        self.limit = len(content) // 4  # a table of more entries than that is damaged
        if self.count(self.model.SubgraphsLength()) < 1:
            raise ValueError("no graph in it")
        self.graphs = [self.model.Subgraphs(i) for i in range(self.model.SubgraphsLength())]
        self.operators = [
            [graph.Operators(i) for i in range(self.count(graph.OperatorsLength()))] for graph in self.graphs
        ]
        self.makers = [
            {int(t): op for op in ops for t in _ints(op.Outputs, op.OutputsLength())} for ops in self.operators
        ]
        self.kinds = [self.kind_of(self.model.OperatorCodes(i)) for i in range(self.model.OperatorCodesLength())]
        self.seen: set[int] = set()
        self.callers: dict[int, tuple[int, Any]] = {}  # graph of a loop's body -> (graph, operation) that runs it
        self.trips: dict[int, int | None] = {}
        for number, ops in enumerate(self.operators):
            for op in ops:
                self.note_loop(number, op)

    def count(self, length: int) -> int:
        if not 0 <= length <= self.limit:
            raise ValueError(f"a table of {length} entries")
        return length

    @staticmethod
    def kind_of(code: Any) -> str:
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == schema.BuiltinOperator.CUSTOM:
            return _name(code.CustomCode()) or "CUSTOM"
        return _OPERATIONS.get(number, f"operation {number}")

    def kind(self, op: Any) -> str:
        return self.kinds[op.OpcodeIndex()]

    def tensor(self, graph: int, index: int) -> Any:
        if not 0 <= index < self.graphs[graph].TensorsLength():
            raise IndexError(f"tensor {index}")
        return self.graphs[graph].Tensors(index)

    def note_loop(self, number: int, op: Any) -> None:
        if self.kind(op) != "WHILE":
            return
        options = schema.WhileOptions()
        table = op.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        body, condition = options.BodySubgraphIndex(), options.CondSubgraphIndex()
        if not (number < body < len(self.graphs) and number < condition < len(self.graphs)):
            raise ValueError("a loop without a body")
        self.callers[body] = self.callers[condition] = (number, op)
        self.trips[body] = self.trip_count(number, op, condition)
        self.trips[condition] = None

    def trip_count(self, number: int, op: Any, condition: int) -> int | None:
        """The smallest limit of a counter that starts at 0, or None."""
        starts = _ints(op.Inputs, op.InputsLength())
        entries = _ints(self.graphs[condition].Inputs, self.graphs[condition].InputsLength())
        limits = []
        for inner in self.operators[condition]:
            if self.kind(inner) != "LESS":
                continue
            counter, limit = _ints(inner.Inputs, inner.InputsLength())
            first = self.scalar(number, starts[entries.index(counter)]) if counter in entries else None
            end = self.scalar(condition, limit)
            if first == 0 and end is not None:
                limits.append(end)
        return min(limits, default=None)

    def scalar(self, graph: int, index: int) -> int | None:
        values = self.values(graph, index)
        return int(values[0]) if values is not None and values.size == 1 else None

    def times(self, graph: int) -> int | None:
        """How often a graph runs for one sample; None where that is not known."""
        count: int | None = 1
        while graph in self.callers:
            trips = self.trips[graph]
            count = None if count is None or trips is None else count * trips
            graph = self.callers[graph][0]
        return count

    def constant(self, graph: int, index: int) -> tuple[int, int] | None:
        """(graph, tensor) of the numbers in the file that a tensor stands for; None where it is computed."""
        for _ in range(64):
            if index < 0:
                return None
            if self.buffer(graph, index) is not None:
                return graph, index
            maker = self.makers[graph].get(index)
            if maker is not None and self.kind(maker) in _UNPACKED:
                index = _ints(maker.Inputs, maker.InputsLength())[0]
                continue
            entries = _ints(self.graphs[graph].Inputs, self.graphs[graph].InputsLength())
            if graph not in self.callers or index not in entries:
                return None
            exits = _ints(self.graphs[graph].Outputs, self.graphs[graph].OutputsLength())
            if index not in exits:  # a state that the loop changes
                return None
            graph, loop = self.callers[graph]
            index = _ints(loop.Inputs, loop.InputsLength())[entries.index(index)]
        return None

    def buffer(self, graph: int, index: int) -> Any:
        """The bytes of a tensor that is stored in the file, or None."""
        number = self.tensor(graph, index).Buffer()
        if not 0 <= number < self.model.BuffersLength():
            raise IndexError(f"buffer {number}")
        if number == 0:
            return None
        held = self.model.Buffers(number)
        if held.Offset() > 1:  # a large file keeps its numbers behind the tables
            end = held.Offset() + held.Size()
            if end > len(self.content):
                raise ValueError("a buffer beyond the end of the file")
            return np.frombuffer(self.content, np.uint8, held.Size(), held.Offset())
        return held.DataAsNumpy() if held.DataLength() else None

    def values(self, graph: int, index: int) -> np.ndarray | None:
        """The numbers of a stored tensor, flat, as they are stored; None for types that NumPy does not have."""
        octets = None if index < 0 else self.buffer(graph, index)
        if octets is None:
            return None
        kind = _TYPES.get(self.tensor(graph, index).Type(), "?")
        if kind in ("INT4", "UINT4"):
            nibbles = np.stack([octets & 15, octets >> 4], axis=1).ravel()
            return np.where(nibbles > 7, nibbles.astype(np.int8) - 16, nibbles) if kind == "INT4" else nibbles
        return np.frombuffer(octets.tobytes(), _NUMPY[kind]) if kind in _NUMPY else None

    def shape(self, graph: int, index: int) -> tuple[int, ...]:
        tensor = self.tensor(graph, index)
        return tuple(_ints(tensor.Shape, tensor.ShapeLength()))

    def open_shape(self, graph: int, index: int) -> tuple[int | None, ...]:
        tensor = self.tensor(graph, index)
        if not tensor.ShapeSignatureLength():
            return self.shape(graph, index)
        return tuple(None if i < 0 else i for i in _ints(tensor.ShapeSignature, tensor.ShapeSignatureLength()))

    def is_weight(self, graph: int, index: int) -> bool:
        """Whether stored numbers are real or stand for real ones; shapes and indices are neither."""
        kind = _TYPES.get(self.tensor(graph, index).Type(), "?")
        quantization = self.tensor(graph, index).Quantization()
        scaled = quantization is not None and quantization.ScaleLength() > 0
        return "FLOAT" in kind or kind in _BITS or scaled

    def rows(self, graph: int) -> Iterator[LayerRow]:
        for number, op in enumerate(self.operators[graph]):
            yield self.row(graph, number, op)

    def row(self, graph: int, number: int, op: Any) -> LayerRow:
        kind = self.kind(op)
        inputs, outputs = _ints(op.Inputs, op.InputsLength()), _ints(op.Outputs, op.OutputsLength())
        first = outputs[0] if outputs else -1
        name = _name(self.tensor(graph, first).Name()) if first >= 0 else ""
        places, axis = _KERNELS.get(kind, ((), 0))
        held = dict.fromkeys(
            ("parameters", "kernel_weights", "zeros", "weight_bytes", "sparse_bytes", "units", "dead"), 0
        )
        notes: list[str] = []
        dtype = ""
        for place, index in enumerate(inputs):
            found = None if kind in _UNPACKED or kind in _LOOPS else self.constant(graph, index)
            if found is None or not self.is_weight(*found):
                continue
            shape = self.shape(*found)
            kernel = place in places or (not places and sum(side > 1 for side in shape) > 1)
            if kernel:
                dtype = dtype or _TYPES[self.tensor(*found).Type()].lower()
            self.count_weights(held, notes, found, shape, axis if place in places else None, kernel)
        macs = self.work(graph, kind, inputs, outputs, places)
        times = self.times(graph)
        if macs:
            macs = None if times is None else macs * times
        if graph in self.trips and self.trips[graph] and macs:
            notes.append(f"runs {times} times")
        if kind in _UNPACKED and self.constant(graph, first) is not None:
            notes.append("unpacks weights")
        where = f"{graph}.{number}" if graph else str(number)
        made = self.open_shape(graph, first) if first >= 0 else None
        own = _TYPES.get(self.tensor(graph, first).Type(), "?").lower() if first >= 0 else ""
        return LayerRow(
            f"{where} {name}".strip(), kind, made, dtype or own, macs=macs, note=", ".join(notes), **held
        )

    def count_weights(
        self, held: dict, notes: list, found: tuple[int, int], shape: tuple, axis: int | None, kernel: bool
    ) -> None:
        buffer = self.tensor(*found).Buffer()
        size = math.prod(shape)
        values = self.values(*found)
        sparse = self.tensor(*found).Sparsity() is not None
        if axis is not None and shape:
            held["units"] = max(held["units"], shape[axis])
        if buffer in self.seen:
            return
        self.seen.add(buffer)
        held["parameters"] += size
        held["weight_bytes"] += len(self.buffer(*found))
        if not kernel or values is None:
            held["sparse_bytes"] += 4 * size
            if kernel:
                held["kernel_weights"] += size
                notes.append(f"zeros of {_TYPES[self.tensor(*found).Type()].lower()} are not counted")
            return
        used = values[:size] != self.zero_points(found, shape, sparse)
        held["kernel_weights"] += size
        held["zeros"] += size - int(np.count_nonzero(used))
        if sparse:
            notes.append("sparse-encoded")
            spread = np.zeros(size, bool)  # where they lie is not unpacked: as if they came first
            spread[: np.count_nonzero(used)] = True
            held["sparse_bytes"] += min(4 * size, -(-size // 8) + 4 * int(spread.sum()))
            return
        if len(used) != size:
            raise ValueError(f"{len(used)} numbers for a weight of shape {shape}")
        held["sparse_bytes"] += sparse_bytes(used)
        if axis is not None and len(shape) > 1:
            others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
            held["dead"] += int(np.count_nonzero(~used.reshape(shape).any(axis=others)))

    def zero_points(self, found: tuple[int, int], shape: tuple, sparse: bool) -> Any:
        """What stands for zero, for each number or for all."""
        quantization = self.tensor(*found).Quantization()
        if quantization is None or not quantization.ZeroPointLength():
            return 0
        points = np.asarray(_ints(quantization.ZeroPoint, quantization.ZeroPointLength()))
        if sparse or len(np.unique(points)) == 1:
            return points[0]
        along = [1] * len(shape)
        along[quantization.QuantizedDimension()] = len(points)
        return np.broadcast_to(points.reshape(along), shape).ravel()

    def work(self, graph: int, kind: str, inputs: list, outputs: list, places: tuple) -> int | None:
        """Multiply-accumulates with weights for one run; 0 for what has none, None where it is not known."""
        if not places:
            return None if kind.startswith("Flex") else 0
        if len(inputs) <= max(places[:1]) or not outputs:
            raise ValueError(f"{kind} without a kernel")
        kernel, result = self.shape(graph, inputs[places[0]]), math.prod(self.shape(graph, outputs[0]))
        if kind == "FULLY_CONNECTED":
            return result * kernel[-1]
        if kind == "BATCH_MATMUL":
            return result * self.shape(graph, inputs[0])[-1]
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return result * math.prod(kernel[1:3]) * (kernel[3] if kind == "CONV_2D" else 1)
        if kind == "CONV_3D":
            return result * math.prod(kernel[:4])
        if kind in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"):
            source = self.shape(graph, inputs[2])
            return math.prod(source[:-1]) * math.prod(kernel)
        held = sum(math.prod(self.shape(graph, inputs[place])) for place in places if inputs[place] >= 0)
        source = self.shape(graph, inputs[0])
        return held * (math.prod(source[:-1]) if kind in _LSTM_STEPS else source[0])


def _names(table: type) -> dict[int, str]:
    return {number: name for name, number in vars(table).items() if isinstance(number, int)}


_OPERATIONS, _TYPES = _names(schema.BuiltinOperator), _names(schema.TensorType)


def _ints(entry: Any, length: int) -> list[int]:
    return [int(entry(i)) for i in range(length)]


def _name(raw: Any) -> str:
    """The first name of a tensor that stands for several, without what a terminal would act on."""
    text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else str(raw or "")
    text = "".join(letter if letter.isprintable() else "?" for letter in text.split(";")[0])
    return text if len(text) <= 60 else f"...{text[-57:]}"


def _said(rows: list[LayerRow]) -> Iterator[str]:
    lost = [row.path for row in rows if row.macs is None]
    if lost:
        yield f"MACs are not counted for {', '.join(lost[:5])}{' and more' * (len(lost) > 5)}"
