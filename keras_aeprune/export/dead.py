"""Find the layers that give only zeros on some inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_aeprune._layers import walk


def dead_layers(model: keras.Model, batches: Iterable[Any]) -> list[str]:
    """Paths of the layers that turn something into nothing but zeros on all batches, in the model's order.

    A ReLU layer that never fires is the usual one. A layer that gets only zeros is not named, since the cause
    is before it, nor is a model that holds a dead layer.

    Args:
        model: a built Keras model; it is not changed.
        batches: inputs, each in the structure that the model is called with.

    Example:
        >>> below = keras.initializers.Constant(-99.0)
        >>> hidden = keras.layers.Dense(3, activation="relu", bias_initializer=below, name="hidden")
        >>> dead_layers(keras.Sequential([keras.Input((2,)), hidden]), [np.ones((4, 2), "float32")])
        ['hidden']
    """
    alive: dict[str, bool] = {}

    def watch(path: str, layer: keras.layers.Layer) -> None:
        call = layer.call

        def watched(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            if not _all_zero((args, kwargs)):  # one live call keeps a layer alive
                alive[path] = alive.get(path, False) or not _all_zero(outputs)
            return outputs

        object.__setattr__(layer, "call", watched)

    leaves = [(path, layer) for path, layer in walk(model) if not any(True for _ in walk(layer))]
    leaves = [pair for pair in leaves if "call" not in vars(pair[1])]
    try:
        for path, layer in leaves:
            watch(path, layer)
        for batch in batches:
            model(batch, training=False)
    finally:
        for _, layer in leaves:
            vars(layer).pop("call", None)
    return [path for path, _ in leaves if alive.get(path) is False]


def _all_zero(structure: Any) -> bool:
    """Whether every eager tensor in it is zero; a tensor inside a traced loop has no values to look at."""
    tensors = [value for value in keras.tree.flatten(structure) if hasattr(value, "shape")]
    return all(hasattr(value, "numpy") and not np.any(value.numpy()) for value in tensors)
