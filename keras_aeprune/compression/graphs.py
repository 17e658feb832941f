"""The graph of a Keras model or a .tflite file without its weights, and how weights leave it and come back."""

from __future__ import annotations

import importlib
import json
import re
import struct
from dataclasses import dataclass
from typing import Any

import keras
import ml_dtypes  # comes with TensorFlow; gives NumPy its small floats
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from keras.src.backend.common import global_state

from keras_aeprune._layers import is_built, walk, weights
from keras_aeprune._validation import InputError, shown
from keras_aeprune.compression.container import CLAIMS, Reader, damaged, put_varint
from keras_aeprune.models.files import one_line

__all__ = ["DICTIONARY", "Tensor", "keras_graph", "keras_tensors", "rebuild", "tflite_bytes", "tflite_tensors"]

_SMALLEST_BUFFER = 64  # bytes; smaller ones stay in the skeleton
_PENDING = "uninitialized_variables"
_PLAIN_CLASSES = {
    "__tensor__",
    "__numpy__",
    "__keras_tensor__",
    "__tuple__",
    "__ellipsis__",
    "__bytes__",
    "__slice__",
}
_RUNS_CODE = {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
_OWN_MODULE = re.compile(r"keras_aeprune\.(models|regularizers|sparsity|shrinking|compression)(\.\w+)*")


@dataclass(frozen=True)
class Tensor:
    """One array of weights.

    Args:
        path: names from the model down, "encoder/hidden/kernel"; a tensor's name in a .tflite file.
        value: the array; read only.
        role: "kernel", "bias" or "other".
        start: where a .tflite file holds it, bytes from the beginning; 0 for a Keras model.
    """

    path: str
    value: np.ndarray
    role: str
    start: int = 0


def keras_graph(model: keras.Model) -> bytes:
    """The config of a model as compact JSON: layers, connections, shapes; nothing of compile().

    Raises:
        InputError: layers that hold Python code or files, objects that are not registered.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> json.loads(keras_graph(model))["class_name"]
        'Sequential'
    """
    for layer in model._flatten_layers():
        if hasattr(layer, "save_assets"):
            raise InputError(
                f"model {model.name!r}: got layer {layer.name!r} ({type(layer).__name__}), which keeps files of "
                "its own, allowed: layers with weights only; put it before the model"
            )
    try:
        config = _stripped(keras.saving.serialize_keras_object(model))
        text = json.dumps(config, separators=(",", ":"))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"model {model.name!r}: its config cannot be written ({one_line(error)}), allowed: a model with "
            "get_config of plain values"
        ) from error
    _check_classes(config)
    return text.encode()


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stripped(item) for key, item in value.items() if key != "compile_config"}
    if isinstance(value, list | tuple):
        return [_stripped(item) for item in value]
    return value


def keras_tensors(model: keras.Model) -> list[Tensor]:
    """Every weight of a built model, in its order.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")])
        >>> [(tensor.path, tensor.role) for tensor in keras_tensors(model)]
        [('out/kernel', 'kernel'), ('out/bias', 'bias')]
    """
    if not model.weights and not is_built(model):
        raise InputError(
            f"model {model.name!r}: got a model without weights, allowed: a built one; call it once on a "
            "batch, or give it an Input"
        )
    kernels = {id(found.variable) for found in weights(model) if found.kernel is not None}
    paths = {id(v): f"{path}/{v.name}" for path, layer in walk(model) for v in layer.weights}  # deepest last
    tensors = []
    for variable in model.weights:
        value = np.asarray(variable.numpy())
        if value.dtype.kind in "OSU":
            raise InputError(f"weight {variable.path}: got {value.dtype}, allowed: numbers")
        role = "kernel" if id(variable) in kernels else "bias" if variable.name == "bias" else "other"
        tensors.append(Tensor(paths.get(id(variable), variable.name), value, role))
    return tensors


def rebuild(graph: bytes, max_bytes: int) -> keras.Model:
    """The model of a config, with fresh weights; runs no code that the config brings.

    Variables are laid out without memory first, and made only if all of them fit into `max_bytes`.

    Raises:
        InputError: text that is no config, Python code in it, unknown classes, too many weights.
    """
    try:
        config = json.loads(graph)
    except (ValueError, RecursionError) as error:
        raise damaged("the graph is no JSON") from error
    if not isinstance(config, dict):
        raise damaged("the graph is no config")
    _check_classes(config)
    before = list(global_state.get_global_attribute(_PENDING, []))
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        if not isinstance(model, keras.Model):
            raise damaged(f"the graph is a {type(model).__name__}")
        asked = sum(_bytes_of(variable) for variable in model.variables)
        if asked > max_bytes:
            raise InputError(
                f"packed file: its weights take {asked} bytes, allowed: at most max_bytes={max_bytes}; give "
                "a larger max_bytes if you trust the file"
            )
    except InputError:
        global_state.set_global_attribute(_PENDING, before)
        raise
    except Exception as error:  # whatever Keras meets in a config that it did not write
        global_state.set_global_attribute(_PENDING, before)
        raise InputError(
            f"packed file: its graph is refused by Keras {keras.__version__} ({one_line(error)}), allowed: "
            "layers that it has, and own ones that are registered"
        ) from error
    with keras.StatelessScope():
        pass  # Keras makes the variables when the outermost of these scopes ends
    for half in ("encoder", "decoder"):
        layer = next((layer for layer in model.layers if layer.name == half), None)
        if layer is not None and not hasattr(model, half):
            setattr(model, half, layer)
    return model


def assign(model: keras.Model, values: list[np.ndarray]) -> None:
    """Put values, in the order of `keras_tensors`, into a rebuilt model."""
    for variable, value in zip(model.weights, values, strict=True):
        variable.assign(value)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.finalize_state()


def _bytes_of(variable: Any) -> int:
    size = 1
    for length in variable.shape:
        size *= int(length)
    return size * keras_dtype(variable).itemsize


def keras_dtype(variable: Any) -> np.dtype:
    """NumPy's type of a variable, bfloat16 included."""
    return np.dtype(getattr(ml_dtypes, variable.dtype, variable.dtype))


def _check_classes(config: dict[str, Any]) -> None:
    """Refuse classes that carry code, and those that are neither of Keras nor registered."""
    waiting: list[Any] = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if not isinstance(node, dict):
            continue
        waiting += node.values()
        if isinstance(node.get("vocabulary"), str):
            raise InputError(f"graph: got a vocabulary in the file {shown(node['vocabulary'])}, allowed: none")
        if "class_name" not in node:
            continue
        name, module, registered = (node.get(key) for key in ("class_name", "module", "registered_name"))
        if name in _RUNS_CODE:
            raise InputError(
                f"graph: got a {name}, which is code and not packed or run from a file, allowed: layers of Keras "
                "and registered ones; rebuild the model without it"
            )
        keras_own = isinstance(module, str) and (module == "keras" or module.startswith("keras."))
        if name in _PLAIN_CLASSES or keras_own or (name == "function" and module == "builtins"):
            continue
        if isinstance(module, str) and _OWN_MODULE.fullmatch(module):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise InputError(f"graph: got the unknown module {shown(module)}, allowed: ours") from error
        if not isinstance(registered, str) or keras.saving.get_registered_object(registered) is None:
            raise InputError(
                f"graph: got {shown(name)} of {shown(module)}, allowed: layers of Keras, and own ones that are "
                "registered with keras.saving.register_keras_serializable (import the module that does it)"
            )


_ITEM_BYTES = {
    schema.TensorType.FLOAT32: 4, schema.TensorType.FLOAT16: 2, schema.TensorType.INT32: 4,
    schema.TensorType.INT64: 8, schema.TensorType.INT16: 2, schema.TensorType.FLOAT64: 8,
    schema.TensorType.UINT32: 4, schema.TensorType.UINT16: 2, schema.TensorType.UINT64: 8,
}  # fmt: skip
_FLOATS = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}


def tflite_tensors(data: bytes, name: str = "model") -> list[Tensor]:
    """The constant arrays of a .tflite file of 64 bytes or more, in the order of the file.

    Floats come as floats, all else as unsigned numbers of the same width; a buffer whose size does not
    fit its tensor (sparse encoding, 4 bits) comes as bytes.

    Raises:
        InputError: bytes that are no .tflite file.
    """
    try:
        return _buffers(data)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{name}: cannot be read as .tflite ({one_line(error)}), allowed: a whole file"
        ) from error


def _buffers(data: bytes) -> list[Tensor]:
    if data[4:8] != b"TFL3":
        raise ValueError("it does not start as one")
    whole = np.frombuffer(data, np.uint8)
    model = schema.Model.GetRootAsModel(data, 0)
    found: dict[int, Tensor] = {}
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        for t in range(graph.TensorsLength()):
            tensor = graph.Tensors(t)
            buffer = model.Buffers(tensor.Buffer())
            count = buffer.DataLength()
            if count < _SMALLEST_BUFFER or tensor.Buffer() in found:
                continue
            start = buffer.DataAsNumpy().__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            shape = tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
            width = _ITEM_BYTES.get(tensor.Type(), 1)
            if int(np.prod(shape, dtype=np.int64)) * width != count:
                shape, width, kind = (count,), 1, None
            else:
                kind = _FLOATS.get(tensor.Type())
            value = np.frombuffer(data, kind or f"u{width}", count // width, start).reshape(shape)
            role = "kernel" if kind and len(shape) > 1 else "bias" if kind else "other"
            found[tensor.Buffer()] = Tensor((tensor.Name() or b"").decode(), value, role, start)
    ordered = sorted(found.values(), key=lambda tensor: tensor.start)
    ends = [0] + [tensor.start + tensor.value.nbytes for tensor in ordered]
    if any(tensor.start < end for tensor, end in zip(ordered, ends, strict=False)):
        raise ValueError("its buffers overlap")
    return ordered


def tflite_skeleton(data: bytes, tensors: list[Tensor]) -> bytes:
    """A .tflite file with its arrays cut out."""
    edges = [0] + [edge for t in tensors for edge in (t.start, t.start + t.value.nbytes)] + [len(data)]
    return b"".join(data[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))


def tflite_bytes(skeleton: bytes, tensors: list[Tensor]) -> bytes:
    """The .tflite file of a skeleton and its arrays."""
    parts, at, taken = [], 0, 0
    for tensor in tensors:
        parts += [skeleton[at : at + tensor.start - taken], tensor.value.tobytes()]
        at += tensor.start - taken
        taken = tensor.start + tensor.value.nbytes
    return b"".join([*parts, skeleton[at:]])


def put_layout(tensors: list[Tensor]) -> bytes:
    """Where the arrays of a .tflite file are, of which width and shape."""
    out = bytearray()
    put_varint(out, len(tensors))
    end = 0
    for tensor in tensors:
        value = tensor.value
        columns = value.shape[-1]
        for number in (tensor.start - end, value.itemsize, columns, value.size // columns):
            put_varint(out, number)
        end = tensor.start + value.nbytes
    return bytes(out)


def take_layout(reader: Reader, max_bytes: int) -> list[tuple[int, int, tuple[int, int]]]:
    """(start, bytes of an element, (rows, columns)) of each array, if all fit into `max_bytes`."""
    layout, end, total = [], 0, 0
    for _ in range(reader.varint(reader.left, "the number of arrays")):
        start = end + reader.varint(CLAIMS, "a place")
        width, columns, rows = (reader.varint(CLAIMS, "a size") for _ in range(3))
        if width not in (1, 2, 4, 8):
            raise damaged(f"an element has {width} bytes")
        total += width * rows * columns
        if total > max_bytes:
            raise InputError(
                f"packed file: its weights take {total} bytes or more, allowed: max_bytes={max_bytes}"
            )
        layout.append((start, width, (rows, columns)))
        end = start + width * rows * columns
    return layout


def _layer_text(name: str, own: str = "") -> str:
    """How the config of a layer of Keras usually begins."""
    policy = '{"module":"keras","class_name":"DTypePolicy","config":{"name":"float32"},"registered_name":null}'
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    head = f'{{"module":"keras.layers","class_name":"{name}","config":{{"name":"{snake}","trainable":true,"dtype":'
    return head + policy + ("," + own if own else "") + '},"registered_name":null,'


def _dictionary() -> bytes:
    """Text that configs of Keras models share, the most frequent last; a change is a new version of the format."""
    uniform = (
        '{"module":"keras.initializers","class_name":"GlorotUniform","config":{"seed":null,"input_axes":null,'
    )
    uniform += '"output_axes":null},"registered_name":null},'
    zeros, ones, orthogonal = (
        f'{{"module":"keras.initializers","class_name":"{name}","config":{{{own}}},"registered_name":null}},'
        for name, own in (("Zeros", ""), ("Ones", ""), ("Orthogonal", '"seed":null,"gain":1.0'))
    )
    tail = '"kernel_regularizer":null,"bias_regularizer":null,{}"kernel_constraint":null,"bias_constraint":null'
    active = tail.format('"activity_regularizer":null,')
    begin = f'"use_bias":true,"kernel_initializer":{uniform}'
    bias = f'"bias_initializer":{zeros}'
    shaped = '"strides":[1,1],"padding":"same","data_format":"channels_last","dilation_rate":[1,1],"groups":1,'
    node = '"inbound_nodes":[{"args":[{"class_name":"__keras_tensor__","config":{"shape":[null,'
    ends = '"dtype":"float32","keras_history":["'
    recurrent = (
        '"return_sequences":false,"return_state":false,"go_backwards":false,"stateful":false,"unroll":false,'
    )
    recurrent += (
        f'"zero_output_for_mask":false,"units":32,"activation":"tanh","recurrent_activation":"sigmoid",{begin}'
    )
    recurrent += f'"recurrent_initializer":{orthogonal}{bias}"unit_forget_bias":true,"kernel_regularizer":null,'
    recurrent += '"recurrent_regularizer":null,"bias_regularizer":null,"activity_regularizer":null,'
    recurrent += '"kernel_constraint":null,"recurrent_constraint":null,"bias_constraint":null,"dropout":0.0,'
    recurrent += '"recurrent_dropout":0.0,"reset_after":true,"seed":null'
    norm = f'"axis":-1,"momentum":0.99,"epsilon":0.001,"center":true,"scale":true,"beta_initializer":{zeros}'
    norm += f'"gamma_initializer":{ones}"moving_mean_initializer":{zeros}"moving_variance_initializer":{ones}'
    norm += '"beta_regularizer":null,"gamma_regularizer":null,"beta_constraint":null,"gamma_constraint":null,'
    norm += '"synchronized":false,"renorm":false,"renorm_clipping":null,"renorm_momentum":0.99'
    size = '"size":[2,2],"data_format":"channels_last","interpolation":"nearest"'
    pool = '"pool_size":[2,2],"padding":"valid","strides":[2,2],"data_format":"channels_last"'
    entry = (
        '{"module":"keras.layers","class_name":"InputLayer","config":{"batch_shape":[null,784],"dtype":"float32",'
    )
    entry += '"sparse":false,"ragged":false,"name":"input_layer_1","optional":false},"registered_name":null,'
    model = '{"module":"keras.src.models.functional","class_name":"Functional","config":{"name":"functional",'
    layers = [
        '"registered_name":"keras_aeprune>Autoencoder" "encoder_input" "decoder_input" "hidden_1" "code" "output"',
        '"depthwise_initializer" "depthwise_regularizer" "depthwise_constraint" "depth_multiplier":1 "pointwise_"',
        _layer_text("Bidirectional", '"merge_mode":"concat","layer":'), _layer_text("TimeDistributed"),
        _layer_text("GRU"), _layer_text("LSTM", recurrent), _layer_text("RepeatVector"), _layer_text("Conv1D"),
        _layer_text("DepthwiseConv2D"), _layer_text("GlobalAveragePooling2D", '"keepdims":false'),
        _layer_text("LayerNormalization"), _layer_text("GaussianNoise", '"stddev":0.1,"seed":null'),
        _layer_text("Concatenate", '"axis":-1'), _layer_text("Add"), _layer_text("Activation"),
        _layer_text("ReLU", '"max_value":null,"negative_slope":0.0,"threshold":0.0'), _layer_text("LeakyReLU"),
        _layer_text("Dropout", '"rate":0.1,"seed":null,"noise_shape":null'), _layer_text("AveragePooling2D"),
        _layer_text("UpSampling2D", size), _layer_text("MaxPooling2D", pool), _layer_text("ZeroPadding2D"),
        _layer_text("Flatten", '"data_format":"channels_last"'), _layer_text("Reshape", '"target_shape":[-1]'),
        _layer_text("BatchNormalization", norm), '"kernel_size":[3,3],"strides":[2,2],"output_padding":null',
        _layer_text("Conv2DTranspose"),
        _layer_text("Conv2D", f'"filters":32,"kernel_size":[3,3],{shaped}"activation":"relu",{begin}{active}'),
        f'"name":"conv2d",{node}32,32,32],{ends}conv2d_1",0,0]}}}}],"kwargs":{{}}}}]}},"kwargs":{{"mask":null}}',
        f'{model}"trainable":true,"layers":[{entry}"name":"encoder","inbound_nodes":[]}},',
        '"input_layers":["input",0,0],"output_layers":["decoder",1,0]},"registered_name":"Functional",',
        _layer_text("Dense").replace("keras.layers", "keras").replace("Dense", "Sequential"), entry,
        '"activation":"softmax","activation":"tanh","activation":"sigmoid","activation":"linear",',
        _layer_text("Dense", f'"units":100,"activation":"relu",{begin}{bias}' + tail.format("")
                    + ',"quantization_config":null'),
        '"build_config":{"input_shape":[null,10]}}],"build_input_shape":[null,784]},"registered_name":null,',
        '"build_config":{"input_shape":[null,784]}}',
    ]  # fmt: skip
    return "".join(layers).encode()


DICTIONARY = _dictionary()
