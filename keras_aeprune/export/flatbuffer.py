"""Look into a .tflite file: the tables of its flatbuffer as plain objects, and back to bytes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_aeprune._validation import InputError, refuse

_IDENTIFIER = b"TFL3"
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_TYPES = {code: name for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
HANDLES = ("STRING", "RESOURCE", "VARIANT")  # no numbers, so no graph can return them to Python


def is_tflite(content: bytes) -> bool:
    """Whether it begins like a .tflite file."""
    return content[4:8] == _IDENTIFIER


def read_flatbuffer(path: str | Path) -> Any:
    """The contents of a .tflite file as the objects of its schema; refuses what is no such file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"path: got {str(path)!r}, which is no file, allowed: an existing .tflite file")
    data = path.read_bytes()
    try:
        if not is_tflite(data):
            raise ValueError(f"it lacks the mark {_IDENTIFIER.decode()}")
        model = schema.ModelT.InitFromPackedBuf(data)
        if not model.subgraphs or not all(graph.tensors is not None for graph in model.subgraphs):
            raise ValueError("it holds no graph")
    except Exception as error:  # a damaged file can fail anywhere in the generated reader
        raise InputError(
            f"path: got {str(path)!r}, which cannot be read ({type(error).__name__}: {error}), allowed: a whole "
            ".tflite file"
        ) from error
    for graph in model.subgraphs:
        graph.operators = listed(graph.operators)
    return model


def packed(model: Any, size: int = 1024) -> bytes:
    """The contents of the .tflite file that the objects of the schema describe; `size` in bytes is a guess."""
    builder = flatbuffers.Builder(size)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def graph_of(model: Any, signature: str | None) -> Any:
    """The graph of a signature; None is the one that the interpreter runs by default, the first."""
    known = {item.signatureKey.decode(): item.subgraphIndex for item in listed(model.signatureDefs)}
    if signature is not None and signature not in known:
        raise refuse("signature", signature, ", ".join(known) or "None, as this file has no named ones")
    return model.subgraphs[0 if signature is None else known[signature]]


def operator_name(model: Any, operator: Any) -> str:
    """The kind of an operation: its name in the schema, or its own where it is a custom one."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files have the second only
    name = _OPERATORS.get(number, f"OPERATOR_{number}")
    return code.customCode.decode(errors="replace") if name == "CUSTOM" and code.customCode else name


def constants(model: Any, graph: Any) -> set[int]:
    """Tensors that hold weights, or are computed from weights alone."""
    fixed = {i for i, tensor in enumerate(graph.tensors) if _is_stored(model, tensor)}
    for operator in graph.operators:
        inputs = [i for i in listed(operator.inputs) if i >= 0]
        if inputs and all(i in fixed for i in inputs):
            fixed.update(operator.outputs)
    return fixed


def listed(values: Any) -> list[Any]:
    """A vector of the schema, which is None where it is empty."""
    if values is None:
        return []
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor; an open size is 1."""
    return tuple(1 if size < 0 else int(size) for size in listed(tensor.shape))


def type_name(tensor: Any) -> str:
    """The element type as the schema calls it, such as "FLOAT32"."""
    return _TYPES.get(tensor.type, f"TYPE_{tensor.type}")


def elements(tensor: Any) -> int:
    """How many numbers a tensor has, with its open sizes at 1."""
    return math.prod(shape_of(tensor))


def bits(tensor: Any) -> int:
    """Bits of one element; 0 for what is no number."""
    name = type_name(tensor)
    if name in HANDLES:
        return 0
    digits = re.search(r"\d+", name)
    return int(digits.group()) if digits else 8  # BOOL


def tensor_bytes(tensor: Any) -> int:
    """Bytes of a tensor with its open sizes at 1; a last byte that is partly used counts."""
    return math.ceil(elements(tensor) * bits(tensor) / 8)


def _is_stored(model: Any, tensor: Any) -> bool:
    buffer = model.buffers[tensor.buffer]
    return tensor.buffer > 0 and not tensor.isVariable and (buffer.data is not None or bool(buffer.size))
