"""What layers are called with when a model runs on data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import _graph
from keras_aeprune._validation import InputError
from keras_aeprune.shrinking.rebuild import arguments, as_graph

__all__ = ["check_samples", "recorder"]


def check_samples(model: keras.Model, x: Any, name: str = "data") -> None:
    """Refuse samples of another shape than the model takes.

    Raises:
        InputError: with both shapes.

    Example:
        >>> check_samples(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), np.zeros((5, 2)))
    """
    wanted = [tuple(tensor.shape[1:]) for tensor in as_graph(model).inputs]
    given = [tuple(np.shape(part)[1:]) for part in keras.tree.flatten(x)]
    same = len(given) == len(wanted) and all(
        len(g) == len(w) and all(size in (None, there) for size, there in zip(w, g, strict=True))
        for g, w in zip(given, wanted, strict=True)
    )
    if not same:
        raise InputError(
            f"{name}: got samples of shape {', '.join(map(str, given))}, allowed: {', '.join(map(str, wanted))}, "
            f"the input of model {model.name!r}; reshape the data"
        )


def recorder(model: keras.Model, layers: Sequence[Any]) -> Callable[[Any], list[list[list[Any]]]]:
    """A compiled function that runs a model and returns what some of its layers are called with.

    Args:
        model: a built Keras model; layers inside nested models count as well.
        layers: of it.

    Returns:
        function of a batch of inputs (one tensor, or a list in the order of `model.inputs`) -> for each layer its
        calls in their order, for each call the tensors that it takes, in the order of its arguments.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="identity"),
        ...                           keras.layers.Dense(1)])
        >>> [[[taken]]] = recorder(model, model.layers[1:])(tf.constant([[3.0, 4.0]]))
        >>> taken.numpy().tolist()
        [[3.0, 4.0]]
    """
    views: dict[int, keras.Model] = {}

    def run(part: keras.Model, inputs: list[Any], found: dict[int, list]) -> list[Any]:
        def call(node: Any, args: tuple, kwargs: dict) -> Any:
            operation = node.operation
            if id(operation) in found:
                values = keras.tree.flatten(list(arguments(operation, args, kwargs).arguments.values()))
                found[id(operation)].append([value for value in values if tf.is_tensor(value)])
            if isinstance(operation, keras.Model) and any(
                id(layer) in found for layer in operation._flatten_layers()
            ):
                if id(operation) not in views:
                    shapes = keras.tree.map_structure(lambda t: tuple(t.shape), node.arguments.args[0])
                    views[id(operation)] = as_graph(operation, shapes)
                return run(
                    views[id(operation)], [v for v in keras.tree.flatten((args, kwargs)) if tf.is_tensor(v)], found
                )
            return operation(*args, **kwargs)

        return _graph.run(part, inputs, call)

    view = as_graph(model)

    @tf.function(reduce_retracing=True, autograph=False)
    def record(inputs: Any) -> list[list[list[Any]]]:
        found: dict[int, list] = {id(layer): [] for layer in layers}
        run(view, keras.tree.flatten(inputs), found)
        return [found[id(layer)] for layer in layers]

    return record
