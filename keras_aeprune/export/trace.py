"""A Keras model to a SavedModel with one batch-1 signature; what cannot be converted is refused here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
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

SIGNATURE = "serving_default"
RANDOM = re.compile(r"Random|Multinomial|Rng")
LOOPS = ("While", "StatelessWhile")


@dataclass(frozen=True)
class Traced:
    """What is known about a model after its SavedModel was written."""

    folder: Path
    kernel_count: int
    has_loop: bool


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


def write_saved_model(model: keras.Model, inputs: Inputs, shapes: list[tuple[int, ...]], folder: Path) -> Traced:
    """Write `model` as a SavedModel whose signature takes one sample and returns the outputs by name, see `named`.

    Args:
        model: a built Keras model; it is not changed.
        inputs: of the model.
        shapes: per input, the shape of one sample, without the batch axis and without unknown sizes.
        folder: where the SavedModel is written; made if it is not there.

    Raises:
        InputError: if the model cannot be called like that, draws random numbers or keeps state.
    """
    specs = [
        tf.TensorSpec((1, *shape), item.dtype, name=item.name)
        for item, shape in zip(inputs.items, shapes, strict=True)
    ]

    def serve(*tensors: Any) -> dict[str, Any]:
        return named(model(inputs.pack(tensors), training=False))

    archive = keras.export.ExportArchive()
    with portable(model):
        try:
            graph = archive.add_endpoint(SIGNATURE, serve, specs).get_concrete_function().graph
        except Exception as error:
            wanted = ", ".join(f"{spec.name} {tuple(spec.shape)}" for spec in specs)
            raise InputError(
                f"model {model.name!r}: calling it on one sample ({wanted}) failed with "
                f"{type(error).__name__}: {shorter(str(error))}; allowed: a model that takes all its inputs "
                "as its first argument"
            ) from error
        nodes = _nodes(graph)
        _check_nodes(model, nodes)
        archive.write_out(str(folder), verbose=False)
    return Traced(folder, kernel_count(graph), any(node.op in LOOPS for node in nodes))


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


def kernel_count(graph: Any) -> int:
    """How many numbers the weights with two or more axes longer than 1 hold, those that reach an output.

    Equal arrays count once, because the converter stores them once. Biases and normalization are left out,
    because the converter may fold them into kernels.
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
    sizes: dict[bytes, int] = {}
    for variable in graph.variables:
        if id(variable.handle) in reached and sum(size > 1 for size in variable.shape) >= 2:
            value = np.ascontiguousarray(variable.numpy())
            sizes[hashlib.sha256(value).digest()] = value.size

    return sum(sizes.values())


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
