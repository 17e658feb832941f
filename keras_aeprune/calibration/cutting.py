"""A model cut in two at one layer, in a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_aeprune import _graph
from keras_aeprune._validation import InputError, refuse
from keras_aeprune.models.composed import copied, tensors_of
from keras_aeprune.models.outcome import predicted

__all__ = ["Halves", "cut"]


@dataclass(frozen=True)
class Halves:
    """What comes before a layer of a model, and the rest from that layer on.

    Args:
        before: models to apply one after the other, from the input to the layer's input.
        after: models from there to the output.
    """

    before: tuple[keras.Model, ...]
    after: tuple[keras.Model, ...]

    def encode(self, x: np.ndarray) -> np.ndarray:
        """The activations at the cut."""
        return _applied(self.before, x)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The outputs for activations at the cut."""
        return _applied(self.after, codes)


def _applied(models: Sequence[keras.Model], values: np.ndarray) -> np.ndarray:
    for model in models:
        values = predicted(model, values)
    return values


def cut(model: keras.Model, part: str) -> Halves:
    """The two halves of a copy of `model`; the model itself is left alone.

    Args:
        model: a built functional or Sequential model with one input and one output.
        part: name of the first layer of the second half; "decoder/hidden_2" names a layer inside a nested
            model. Everything after the cut must be computed from that layer's one input.

    Raises:
        InputError: another model, no such layer, a layer with several inputs or uses, or a connection that
            leads around the cut.

    >>> from keras_aeprune.models.dense import dense
    >>> halves = cut(dense((8,), 2, hidden_units=(4,)), "decoder/output")
    >>> halves.encode(np.zeros((3, 8), "float32")).shape, halves.decode(np.zeros((3, 4), "float32")).shape
    ((3, 4), (3, 8))
    """
    if not _graph.is_graph(model) or not model.built:
        raise InputError(
            f"model: {model.name!r} is subclassed or not built, allowed: a built functional or Sequential model "
            "for 'cut', or a model with a decoder for 'decoder'"
        )
    return _split(copied(model), part.split("/"), part)


def _split(model: keras.Model, path: Sequence[str], part: str) -> Halves:
    if not _graph.is_graph(model) or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"part: {part!r} lies in {model.name!r}, allowed: a layer of functional or Sequential models with one "
            "input and one output"
        )
    layers = {layer.name: layer for layer in _graph.operations(model)}
    names = [name for name, layer in layers.items() if not isinstance(layer, keras.layers.InputLayer)]
    if path[0] not in names:
        raise refuse("part", part, f"a layer of {model.name!r}: {', '.join(names)}; 'outer/inner' for nested ones")
    layer = layers[path[0]]
    sources = _graph.producers(model, layer)
    tensors = [tensor for source in sources for tensor in tensors_of(model, source)]
    if len(tensors) != 1 or len(tensors_of(model, layer)) != 1:
        raise InputError(f"part: {part!r} has several inputs, outputs or uses, allowed: a layer with one of each")
    entrance = tensors[0]
    first = isinstance(sources[0], keras.layers.InputLayer)
    before = () if first else (keras.Model(model.inputs[0], entrance),)
    if len(path) == 1:
        if first:
            raise refuse("part", part, f"a layer after the first one of {model.name!r}: {', '.join(names[1:])}")
        return Halves(before, (_from(entrance, model, part),))
    inner = _split(layer, path[1:], part)
    exit_ = tensors_of(model, layer)[0]
    last = layer in _graph.output_layers(model)
    after = () if last else (_from(exit_, model, part),)
    if not last:
        _from(entrance, model, part)  # refuses what leads around the nested model
    return Halves((*before, *inner.before), (*inner.after, *after))


def _from(tensor: keras.KerasTensor, model: keras.Model, part: str) -> keras.Model:
    try:
        return keras.Model(tensor, model.outputs[0])
    except ValueError as error:
        raise InputError(
            f"part: a connection in {model.name!r} leads around {part!r}, allowed: a layer that everything passes"
        ) from error
