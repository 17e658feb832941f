"""A .tflite file as C++ for TensorFlow Lite Micro: the bytes as an array, and the code that runs them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_aeprune._validation import InputError, refuse
from keras_aeprune.export.energy_proxy import WEIGHTED
from keras_aeprune.export.flatbuffer import (
    constants,
    elements,
    operator_name,
    read_flatbuffer,
    shape_of,
    tensor_bytes,
    type_name,
)

_BYTES_PER_LINE = 12
_ALIGNMENT = 16  # of every tensor in the arena
_FIXED_BYTES = 2048  # interpreter and allocator
_NODE_BYTES, _TENSOR_BYTES = 128, 64  # what the interpreter keeps per operation and per tensor

# Operations of TensorFlow Lite Micro whose method is not simply the name in camel case.
_IRREGULAR = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "AVERAGE_POOL_2D": "AveragePool2D",
    "MAX_POOL_2D": "MaxPool2D",
    "L2_POOL_2D": "L2Pool2D",
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
_REGULAR = """
    ABS ADD ADD_N ARG_MAX ARG_MIN BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CAST CEIL
    CONCATENATION COS DEPTH_TO_SPACE DEQUANTIZE DIV ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV
    FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION LEAKY_RELU LESS
    LESS_EQUAL LOG LOG_SOFTMAX LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM MEAN MINIMUM MIRROR_PAD MUL NEG
    NOT_EQUAL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
    SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
    TRANSPOSE_CONV UNPACK WHILE ZEROS_LIKE
"""
_METHODS = {name: "".join(part.capitalize() for part in name.split("_")) for name in _REGULAR.split()} | _IRREGULAR
_TYPES = {"FLOAT32": "float", "INT8": "int8_t", "UINT8": "uint8_t", "INT16": "int16_t"}


def c_array(path: str | Path, *, name: str = "model") -> str:
    """A .tflite file as C++ source: an aligned array of its bytes, and its length.

    Use it where there is no file system; write the text to a .cc file beside that of `micro_source`.

    Args:
        path: a .tflite file.
        name: the array is `<name>_data` and its length, in bytes, `<name>_size`; a C++ name.

    Returns:
        The source, about six characters per byte.

    Raises:
        InputError: if it is no .tflite file, or `name` is no C++ name.

    Example:
        >>> import tempfile, tensorflow as tf
        >>> double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((1, 3), name="x")])
        >>> concrete = [double.get_concrete_function()]
        >>> path = Path(tempfile.mkdtemp()) / "double.tflite"
        >>> _ = path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions(concrete).convert())
        >>> c_array(path).splitlines()[5][:50]  # bytes 4 to 7 spell TFL3
        '    0x1c, 0x00, 0x00, 0x00, 0x54, 0x46, 0x4c, 0x33'
    """
    name = _cpp_name(name)
    read_flatbuffer(path)  # refuses what is no .tflite file
    data = Path(path).read_bytes()
    rows = (data[start : start + _BYTES_PER_LINE] for start in range(0, len(data), _BYTES_PER_LINE))
    lines = [f"    {', '.join(f'0x{byte:02x}' for byte in row)}," for row in rows]
    return "\n".join(
        [
            f"// {_comment(Path(path).name)}, {len(data)} bytes",
            f"extern const unsigned char {name}_data[];",
            f"extern const unsigned int {name}_size;",
            "",
            f"alignas({_ALIGNMENT}) const unsigned char {name}_data[] = {{",
            *lines,
            "};",
            f"const unsigned int {name}_size = {len(data)};",
            "",
        ]
    )


def micro_source(path: str | Path, *, name: str = "model") -> str:
    """C++ source that runs a .tflite file with TensorFlow Lite Micro, float32 in and out.

    Use it with `c_array`, whose array it reads. The resolver knows exactly the operations of this file, so
    nothing else is linked. Two functions come out of it, both true on success:

        bool <name>_setup();
        bool <name>_run(const float* input_0, ..., float* output_0, ...);

    Quantized inputs and outputs are converted with the file's own scale s and zero point z: q = round(x / s) + z
    and x = s (q - z), q cut to the range of its type. The size of the arena is a hint: the largest sum of
    activations that are alive together plus a quarter, and what the interpreter keeps; `<name>_arena_used()`
    tells the true one after the set-up.

    Args:
        path: a .tflite file whose shapes are fixed; of several signatures the first is run.
        name: what the names in the source begin with; a C++ name.

    Returns:
        The source of one .cc file.

    Raises:
        InputError: if it is no .tflite file, or TensorFlow Lite Micro does not have one of its operations or
            types.

    Example:
        >>> import tempfile, tensorflow as tf
        >>> double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((1, 3), name="x")])
        >>> concrete = [double.get_concrete_function()]
        >>> path = Path(tempfile.mkdtemp()) / "double.tflite"
        >>> _ = path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions(concrete).convert())
        >>> [line.strip() for line in micro_source(path).splitlines() if "resolver.Add" in line]
        ['return resolver.AddMul() == kTfLiteOk;']
    """
    name = _cpp_name(name)
    path = Path(path)
    model = read_flatbuffer(path)
    graph = model.subgraphs[0]
    operations = _operations(path, model)
    methods = [f"resolver.Add{_METHODS[operation]}() == kTfLiteOk" for operation in operations]
    inputs = [_described(path, graph.tensors[i], f"input_{n}") for n, i in enumerate(graph.inputs)]
    outputs = [_described(path, graph.tensors[i], f"output_{n}") for n, i in enumerate(graph.outputs)]
    parameters = [f"const float* {port}" for port, *_ in inputs] + [f"float* {port}" for port, *_ in outputs]
    quantized = any(kind != "float" for _, _, kind, _ in inputs + outputs)
    loads = [_load(n, *port) for n, port in enumerate(inputs)]
    stores = [_store(n, *port) for n, port in enumerate(outputs)]
    shapes = [f"//   {port}: {size} values, {shape}" for port, size, _, shape in inputs + outputs]
    return "\n".join(
        [
            f"// Runs {_comment(path.name)} with TensorFlow Lite Micro; float32 in and out.",
            *shapes,
            *(["#include <cmath>"] if quantized else []),
            "#include <cstddef>",
            "#include <cstdint>",
            *(["#include <limits>"] if quantized else []),
            "",
            '#include "tensorflow/lite/micro/micro_interpreter.h"',
            '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
            '#include "tensorflow/lite/schema/schema_generated.h"',
            "",
            f"extern const unsigned char {name}_data[];",
            "",
            "namespace {",
            "",
            "// A hint: raise it until the set-up succeeds, then lower it to what the arena really uses.",
            f"constexpr size_t kArenaBytes = {arena_hint(path)};",
            f"alignas({_ALIGNMENT}) uint8_t arena[kArenaBytes];",
            "tflite::MicroInterpreter* interpreter = nullptr;",
            f"using Resolver = tflite::MicroMutableOpResolver<{max(1, len(operations))}>;",
            "",
            "bool AddOperations(Resolver& resolver) {",
            *(["  (void)resolver;"] if not methods else []),
            f"  return {_joined(methods) or 'true'};",
            "}",
            "",
            *(_converters() if quantized else []),
            "}  // namespace",
            "",
            f"bool {name}_setup() {{",
            "  if (interpreter != nullptr) return true;",
            f"  const tflite::Model* model = tflite::GetModel({name}_data);",
            "  if (model->version() != TFLITE_SCHEMA_VERSION) return false;",
            "  static Resolver resolver;",
            "  if (!AddOperations(resolver)) return false;",
            "  static tflite::MicroInterpreter instance(model, resolver, arena, kArenaBytes);",
            "  if (instance.AllocateTensors() != kTfLiteOk) return false;",
            "  interpreter = &instance;",
            "  return true;",
            "}",
            "",
            f"size_t {name}_arena_used() {{",
            "  return interpreter == nullptr ? 0 : interpreter->arena_used_bytes();",
            "}",
            "",
            f"bool {name}_run({', '.join(parameters)}) {{",
            "  if (interpreter == nullptr) return false;",
            *loads,
            "  if (interpreter->Invoke() != kTfLiteOk) return false;",
            *stores,
            "  return true;",
            "}",
            "",
        ]
    )


def arena_hint(path: str | Path) -> int:
    """Bytes of working memory that TensorFlow Lite Micro may need for a .tflite file; an estimate.

    The largest sum of activations that one operation and those after it need together, plus a quarter for
    scratch buffers and gaps, plus what the interpreter keeps per operation and tensor; a multiple of 16.

    Example:
        >>> import keras, tempfile
        >>> from keras_aeprune.export.tflite import tflite
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> file = tflite(model, Path(tempfile.mkdtemp()) / "model.tflite")
        >>> arena_hint(file.path) % 16
        0
    """
    model = read_flatbuffer(path)
    graph = model.subgraphs[0]
    stored = constants(model, graph)
    last: dict[int, int] = {int(i): len(graph.operators) for i in graph.outputs}
    first: dict[int, int] = {int(i): -1 for i in graph.inputs}
    for step, operator in enumerate(graph.operators):
        for i in map(int, operator.outputs):
            first.setdefault(i, step)
            last.setdefault(i, step)
        for i in map(int, operator.inputs):
            if i >= 0 and i not in stored:
                first.setdefault(i, -1)  # a state that is kept between invokes
                last[i] = max(last.get(i, 0), len(graph.operators) if graph.tensors[i].isVariable else step)
    peak = max(
        sum(_aligned(tensor_bytes(graph.tensors[i])) for i in first if first[i] <= step <= last.get(i, -1))
        for step in range(-1, len(graph.operators) + 1)
    )
    kept = _FIXED_BYTES + _NODE_BYTES * len(graph.operators) + _TENSOR_BYTES * len(graph.tensors)
    return _aligned(math.ceil(1.25 * peak) + kept)


def _operations(path: Path, model: Any) -> list[str]:
    """The kinds of all graphs of the file, sorted; what TensorFlow Lite Micro cannot run is refused."""
    kinds = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = operator_name(model, operator)
            kinds.add(kind)
            tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
            reason = _unfit(kind, tensors)
            if reason:
                raise InputError(
                    f"path: got {str(path)!r}, where {kind} has {reason}, which TensorFlow Lite Micro does not "
                    "run, allowed: float32 and calibrated int8 files without sparse encoding"
                )
    missing = sorted(kinds - set(_METHODS))
    if missing:
        raise InputError(
            f"path: got {str(path)!r} with {', '.join(missing)}, which this source cannot run with TensorFlow "
            f"Lite Micro, allowed: {', '.join(sorted(_METHODS))}"
        )
    return sorted(kinds)


def _unfit(kind: str, tensors: Sequence[Any]) -> str:
    """Why the inputs of an operation do not fit, or nothing."""
    types = [type_name(tensor) for tensor in tensors]
    if "FLOAT16" in types:
        return "float16 weights"
    if any(tensor.sparsity is not None for tensor in tensors):
        return "sparse-coded weights"
    if kind in WEIGHTED and "FLOAT32" in types and {"INT8", "INT4", "UINT8"} & set(types):
        return "int8 weights and float32 inputs (dynamic-range quantization)"
    return ""


def _described(path: Path, tensor: Any, port: str) -> tuple[str, int, str, str]:
    """Name, elements, C++ type and what is known about an input or output."""
    kind = type_name(tensor)
    if kind not in _TYPES:
        raise InputError(f"path: got {str(path)!r} with {port} of {kind}, allowed: {', '.join(_TYPES)}")
    shape = shape_of(tensor)
    text = f"{kind} of shape ({', '.join(map(str, shape))})"
    return port, elements(tensor), _TYPES[kind], f"{text}, {_comment(tensor.name.decode(errors='replace'))}"


def _load(index: int, port: str, size: int, kind: str, shape: str) -> str:
    value = f"{port}[i]" if kind == "float" else f"Quantized<{kind}>({port}[i], tensor_{port}->params)"
    return (
        f"  TfLiteTensor* tensor_{port} = interpreter->input({index});\n"
        f"  for (int i = 0; i < {size}; ++i) tensor_{port}->data.{_member(kind)}[i] = {value};"
    )


def _store(index: int, port: str, size: int, kind: str, shape: str) -> str:
    value = f"tensor_{port}->data.{_member(kind)}[i]"
    value = value if kind == "float" else f"Real({value}, tensor_{port}->params)"
    return (
        f"  const TfLiteTensor* tensor_{port} = interpreter->output({index});\n"
        f"  for (int i = 0; i < {size}; ++i) {port}[i] = {value};"
    )


def _member(kind: str) -> str:
    """The member of TfLitePtrUnion for a C++ type."""
    return {"float": "f", "int8_t": "int8", "uint8_t": "uint8", "int16_t": "i16"}[kind]


def _converters() -> list[str]:
    return [
        "template <typename T>",
        "T Quantized(float value, const TfLiteQuantizationParams& params) {",
        "  const float low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();",
        "  const float scaled = std::round(value / params.scale) + static_cast<float>(params.zero_point);",
        "  return static_cast<T>(scaled < low ? low : scaled > high ? high : scaled);",
        "}",
        "",
        "inline float Real(int value, const TfLiteQuantizationParams& params) {",
        "  return params.scale * static_cast<float>(value - params.zero_point);",
        "}",
        "",
    ]


def _joined(calls: Sequence[str]) -> str:
    return " &&\n         ".join(calls)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _cpp_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise refuse("name", name, "a C++ name of letters, digits and underscores that begins with a letter")
    return name


def _comment(text: str) -> str:
    """Text of a file that is safe behind two slashes: printable ASCII without a backslash at the end."""
    return re.sub(r"[^ -\[\]-~]", "?", text)
