"""Keras models to a SavedModel with signatures of a fixed batch; what cannot be converted is refused here."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError
from keras_aeprune.export.convert import shorter
from keras_aeprune.export.inputs import Inputs

RANDOM = re.compile(r"Random|Multinomial|Rng")
SMALLEST_FLOAT16 = 2.0**-24
LOOPS = ("While", "StatelessWhile")


@dataclass(frozen=True)
class Traced:
    """What is known about the models after their SavedModel was written.

    Args:
        folder: the SavedModel.
        kernel_count: how many numbers the kernels hold, see `kernel_sizes`.
        kernel_nonzeros: how many of them are not zero.
        has_loop: whether there is a while loop.
        zeros_pay: whether a kernel that holds a tenth of all numbers, or more, has more than 2/3 zeros, which
            is where sparse coding becomes smaller.
    """

    folder: Path
    kernel_count: int
    kernel_nonzeros: int
    has_loop: bool
    zeros_pay: bool


@dataclass(frozen=True)
class Endpoint:
    """One signature of the SavedModel.

    Args:
        name: of the signature.
        model: a built Keras model.
        inputs: how it is called.
        shapes: per input, the shape of one sample, without the batch axis and without unknown sizes.
    """

    name: str
    model: keras.Model
    inputs: Inputs
    shapes: tuple[tuple[int, ...], ...]


def check_supported(model: keras.Model) -> None:
    """Refuse a model whose numbers TFLite cannot hold: quantized by Keras, or not computed in float32.

    Raises:
        InputError: with the layer and what to do.
    """
    for path, layer in walk(model):
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            raise InputError(
                f"layer {path!r}: got weights quantized by Keras to {mode}, allowed: float weights; export "
                "the model as it was before model.quantize(...) and pass quantize='int8'"
            )
        dtype = getattr(layer, "compute_dtype", "float32")
        if layer.weights and dtype != "float32":
            raise InputError(
                f"layer {path!r}: got a layer that computes in {dtype}, allowed: float32; build the model "
                "again with dtype='float32' and copy the weights with set_weights(model.get_weights())"
            )


def write_saved_model(endpoints: Sequence[Endpoint], folder: Path, batch: int = 1) -> Traced:
    """Write models as one SavedModel; its signatures take `batch` samples and return outputs by name, see `named`.

    Args:
        endpoints: one or more; the models are not changed.
        folder: where the SavedModel is written; made if it is not there.
        batch: samples an invoke, >= 1.

    Raises:
        InputError: if a model cannot be called like that, draws random numbers or keeps state.
    """
    archive = keras.export.ExportArchive()
    graphs = []
    with ExitStack() as stack:
        for endpoint in endpoints:
            stack.enter_context(portable(endpoint.model))
        for endpoint in endpoints:
            graphs.append(_add(archive, endpoint, batch))
        with _quiet_logger():
            archive.write_out(str(folder), verbose=False)
    sizes = {digest: size for graph in graphs for digest, size in kernel_sizes(graph).items()}
    whole = sum(size for size, _ in sizes.values())
    return Traced(
        folder=folder,
        kernel_count=whole,
        kernel_nonzeros=sum(nonzeros for _, nonzeros in sizes.values()),
        has_loop=any(node.op in LOOPS for graph in graphs for node in _nodes(graph)),
        zeros_pay=any(10 * size >= whole and 3 * nonzeros < size for size, nonzeros in sizes.values()),
    )


@contextmanager
def _quiet_logger() -> Iterator[None]:
    """No lines about temporary folders: in notebooks TensorFlow's logger is more talkative than elsewhere."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(max(logging.WARNING, level))
    try:
        yield
    finally:
        logger.setLevel(level)


def _add(archive: keras.export.ExportArchive, endpoint: Endpoint, batch: int) -> Any:
    """Add one model under its name; its graph."""
    model, inputs = endpoint.model, endpoint.inputs
    specs = [
        tf.TensorSpec((batch, *shape), item.dtype, name=item.name)
        for item, shape in zip(inputs.items, endpoint.shapes, strict=True)
    ]

    def serve(*tensors: Any) -> dict[str, Any]:
        return named(model(inputs.pack(tensors), training=False))

    try:
        graph = archive.add_endpoint(endpoint.name, serve, specs).get_concrete_function().graph
    except Exception as error:
        wanted = ", ".join(f"{spec.name} {tuple(spec.shape)}" for spec in specs)
        raise InputError(
            f"model {model.name!r}: calling it on one sample ({wanted}) failed with "
            f"{type(error).__name__}: {shorter(str(error))}; allowed: a model that takes all its inputs "
            "as its first argument"
        ) from error
    _check_nodes(model, _nodes(graph))
    return graph


def named(outputs: Any) -> dict[str, Any]:
    """The outputs of a model by name: the keys of a dict of tensors, else output_0, output_1, ... in order."""
    if isinstance(outputs, dict) and all(isinstance(k, str) and hasattr(v, "shape") for k, v in outputs.items()):
        return dict(outputs)
    return {f"output_{i}": value for i, value in enumerate(keras.tree.flatten(outputs))}


@contextmanager
def portable(model: keras.Model) -> Iterator[None]:
    """Keep recurrent layers off cuDNN, which no .tflite file has, and everything else on the CPU."""
    changed = [(layer, layer.use_cudnn) for _, layer in walk(model) if getattr(layer, "use_cudnn", False)]
    for layer, _ in changed:
        layer.use_cudnn = False
    try:
        with tf.device("/CPU:0"):
            yield
    finally:
        for layer, value in changed:
            layer.use_cudnn = value


def rolled_layers(model: keras.Model) -> list[str]:
    """Paths of the recurrent layers that run as a loop."""
    return [path for path, layer in walk(model) if isinstance(layer, keras.layers.RNN) and not layer.unroll]


def kernel_sizes(graph: Any) -> dict[bytes, tuple[int, int]]:
    """How many numbers, and how many other than 0, the weights with two or more axes longer than 1 hold.

    Only those that reach an output, by the hash of their values. Equal arrays count once, because the converter
    stores them once. Biases and normalization are left out, because the converter may fold them into kernels.
    """
    internal = {id(inner): outer for outer, inner in graph.captures}
    reached: dict[int, Any] = {}
    waiting = list(graph.outputs)
    seen = set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in internal:
            reached[id(internal[id(tensor)])] = internal[id(tensor)]
        if tensor.op.name not in seen:
            seen.add(tensor.op.name)
            waiting.extend(tensor.op.inputs)
    sizes: dict[bytes, tuple[int, int]] = {}
    for variable in graph.variables:
        if id(variable.handle) in reached and sum(size > 1 for size in variable.shape) >= 2:
            value = np.ascontiguousarray(variable.numpy())
            # what float16 turns into zero may be missing in a sparse-coded file
            nonzeros = int(np.count_nonzero(np.abs(value) > SMALLEST_FLOAT16))
            sizes[hashlib.sha256(value.data).digest()] = value.size, nonzeros
    return sizes


def _nodes(graph: Any) -> list[Any]:
    definition = graph.as_graph_def()
    return [
        *definition.node,
        *(node for function in definition.library.function for node in function.node_def),
    ]


def _check_nodes(model: keras.Model, nodes: list[Any]) -> None:
    for node in nodes:
        if RANDOM.search(node.op):
            raise InputError(
                f"model {model.name!r}: got random numbers at inference ({node.op} in {_where(node)!r}), "
                "allowed: a model that does not use keras.random when training=False, since TFLite cannot "
                "draw them; use the mean there, or make the noise an input"
            )
    for node in nodes:
        if node.op.startswith("Assign") or node.op == "ResourceScatterUpdate":
            stateful = [path for path, layer in walk(model) if getattr(layer, "stateful", False)]
            named_layers = f"stateful layers: {', '.join(stateful)}" if stateful else f"in {_where(node)!r}"
            raise InputError(
                f"model {model.name!r}: got a model that changes its own variables when it is called "
                f"({named_layers}), allowed: one whose output depends on its input only; build it with "
                "stateful=False"
            )


def _where(node: Any) -> str:
    parts = node.name.split("/")
    return "/".join(parts[:-1]) or node.name
