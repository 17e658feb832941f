"""Who feeds whom in a built functional or Sequential model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

__all__ = ["consumers", "input_layers", "is_graph", "operations", "output_layers", "producers", "run"]


def is_graph(model: Any) -> bool:
    """Whether the layers of a model and their order are known: functional and Sequential models.

    Example:
        >>> is_graph(keras.Sequential([keras.layers.Dense(1)]))
        True
    """
    return isinstance(model, keras.Sequential) or type(model).__name__ == "Functional" or hasattr(model, "_nodes")


def _graph(model: keras.Model) -> Any:
    return model._functional if isinstance(model, keras.Sequential) else model


def _operation(tensor: Any) -> Any:
    return tensor._keras_history.operation


def operations(model: keras.Model) -> list[Any]:
    """The layers of a built model and what else computes in it, like x + y on tensors; its inputs included."""
    return list(_graph(model).operations)


def producers(model: keras.Model, layer: Any) -> list[Any]:
    """The layers whose outputs `layer` takes inside `model`, each once, in order."""
    found: list[Any] = []
    for node in _nodes(model, layer):
        for tensor in node.input_tensors:
            source = _operation(tensor)
            if source not in found:
                found.append(source)
    return found


def consumers(model: keras.Model, layer: Any) -> list[Any]:
    """The layers that take outputs of `layer` inside `model`, each once, in order."""
    return [other for other in operations(model) if layer in producers(model, other)]


def _nodes(model: keras.Model, layer: Any) -> list[Any]:
    inside = {id(node) for nodes in _graph(model)._nodes_by_depth.values() for node in nodes}
    return [node for node in layer._inbound_nodes if id(node) in inside]


def input_layers(model: keras.Model) -> list[Any]:
    """The operations that hold the model's inputs."""
    return [_operation(tensor) for tensor in model.inputs]


def output_layers(model: keras.Model) -> list[Any]:
    """The layers that make the model's outputs."""
    return [_operation(tensor) for tensor in model.outputs]


def run(model: keras.Model, inputs: Sequence[Any], call: Callable[..., Any]) -> list[Any]:
    """Walk through a model's calls in their order with values of any kind in the place of its tensors.

    Args:
        model: a built functional or Sequential model.
        inputs: one value for each of its input tensors.
        call: call(node, args, kwargs) -> the values of the node's outputs; `node.operation` is the layer or
            operation that is called, a nested model as a whole.

    Returns:
        One value for each output tensor.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        >>> run(model, [1], lambda node, args, kwargs: args[0] * node.operation.units)
        [3]
    """
    graph = _graph(model)
    values = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or any(id(tensor) not in values for tensor in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(values)
            outputs = keras.tree.flatten(call(node, args, kwargs))
            values.update((id(tensor), value) for tensor, value in zip(node.outputs, outputs, strict=True))
    return [values[id(tensor)] for tensor in graph.outputs]
