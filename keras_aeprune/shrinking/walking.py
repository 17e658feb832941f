"""A model's calls one by one on samples in memory, and normalization that is measured again on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from keras_aeprune import _graph, calibration
from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError, keras_model, positive_int
from keras_aeprune.criteria.losses import unchanged
from keras_aeprune.shrinking.rebuild import as_graph

__all__ = ["Walk", "reestimate_normalization"]


class _Slot:
    """Stands for a tensor in the arguments of a call."""


@dataclass(eq=False)
class _Call:
    layer: Any
    args: tuple
    kwargs: dict
    inputs: list[_Slot]
    outputs: list[_Slot]


class Walk:
    """A model's calls one by one on samples in memory, nested models flattened.

    Iterating gives (layer, its first input as a list of batches) before each call; weights that are changed then
    count in the call and in all that follow. An activation is dropped after its last use. Layers run in
    inference mode, and states of recurrent layers stay as they are.

    Args:
        model: a built Keras model with one input.
        x: samples, shape (n, ...).
        batch_size: samples of one batch, >= 1; a model of a fixed batch size takes its own.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), kl.Dense(1, name="a"), kl.Dense(1, name="b")])
        >>> [(layer.name, len(batches)) for layer, batches in Walk(model, np.ones((5, 1)), 2)]
        [('a', 3), ('b', 3)]
    """

    def __init__(self, model: keras.Model, x: np.ndarray, batch_size: int = 256):
        view = as_graph(model)
        if len(view.inputs) != 1 or not tf.TensorShape(view.inputs[0].shape[1:]).is_compatible_with(x.shape[1:]):
            taken = " and ".join(str(tuple(tensor.shape[1:])) for tensor in view.inputs)
            raise InputError(
                f"data: got samples of shape {x.shape[1:]} for model {model.name!r} that takes {taken}, allowed: "
                "one input, and samples of its shape"
            )
        self.calls: list[_Call] = []
        self.sample_bytes = 4 * int(np.prod(x.shape[1:]))  # of the widest call
        self._views: dict[int, keras.Model] = {}
        entrance, size = _Slot(), view.inputs[0].shape[0] or batch_size
        _graph.run(view, [entrance], self._note)
        last = {id(slot): call for call in self.calls for slot in call.inputs}
        self._done: dict[int, list[int]] = {}
        for slot, call in last.items():
            self._done.setdefault(id(call), []).append(slot)
        batches = [x[start : start + size] for start in range(0, len(x), size)]
        self._count = len(batches)
        self._values = {id(entrance): [tf.constant(part, view.inputs[0].dtype) for part in batches]}

    def _note(self, node: Any, args: tuple, kwargs: dict) -> list[_Slot]:
        operation = node.operation
        slots = [value for value in keras.tree.flatten([args, kwargs]) if isinstance(value, _Slot)]
        if isinstance(operation, keras.Model):
            view = self._views.get(id(operation))
            if view is None:
                shapes = None
                if not _graph.is_graph(operation):
                    shapes = keras.tree.map_structure(lambda t: tuple(t.shape), node.arguments.args[0])
                view = self._views[id(operation)] = as_graph(operation, shapes)
            return _graph.run(view, slots, self._note)
        shapes = [tensor.shape[1:] for tensor in (*node.input_tensors, *node.outputs)]
        width = sum(int(np.prod([length or 1 for length in shape])) for shape in shapes)
        self.sample_bytes = max(self.sample_bytes, 4 * width)
        if getattr(operation, "_call_has_training_arg", False):
            kwargs = {**kwargs, "training": False}
        outputs = [_Slot() for _ in node.outputs]
        self.calls.append(_Call(operation, args, kwargs, slots, outputs))
        return outputs

    def __iter__(self) -> Iterator[tuple[Any, list[Any]]]:
        for call in self.calls:
            yield call.layer, self._values[id(call.inputs[0])] if call.inputs else []
            found = [self._run(call, number) for number in range(self._count)]
            for slot, batches in zip(call.outputs, zip(*found, strict=True), strict=True):
                self._values[id(slot)] = list(batches)
            for number in self._done.get(id(call), ()):
                del self._values[number]

    def _run(self, call: _Call, number: int) -> list[Any]:
        args, kwargs = keras.tree.map_structure(
            lambda value: self._values[id(value)][number] if isinstance(value, _Slot) else value,
            (call.args, call.kwargs),
        )
        with keras.StatelessScope() if getattr(call.layer, "stateful", False) else nullcontext():
            return keras.tree.flatten(call.layer(*args, **kwargs))


def reestimate_normalization(
    model: keras.Model, data: Any, *, batch_size: int = 256, samples: int = 2048
) -> dict[str, str]:
    """Measure mean and variance of every BatchNormalization again; the weights are changed in place.

    Use it after cutting, masking or compensating, where the statistics are those of another model. Over all
    samples and positions,

        mean = sum(x) / n,   variance = sum((x - mean)^2) / n

    Layer after layer, in one walk through the model: each layer is measured on what it gets once those before it
    have their new numbers, so that the statistics are exactly those of the model as it then predicts. Torch's
    update_bn measures all in one pass in training mode, where each layer still sees inputs that were
    normalized batch by batch.

    Args:
        model: a built Keras model with one input.
        data: what `calibration.get` takes; only inputs are used.
        batch_size: samples at once, >= 1.
        samples: at most how many, >= 1; the activations of all of them lie in memory.

    Returns:
        {path of a BatchNormalization: "" or why it was left as it was}.

    Raises:
        InputError: a model with several inputs, data that do not fit.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), kl.BatchNormalization(name="norm")])
        >>> reestimate_normalization(model, np.array([[1.0], [3.0], [8.0]]))
        {'norm': ''}
        >>> layer = model.layers[0]
        >>> float(layer.moving_mean[0].numpy()), round(float(layer.moving_variance[0].numpy()), 4)
        (4.0, 8.6667)
    """
    x = calibration.get(data, samples=positive_int("samples", samples)).x
    paths = {id(layer): path for path, layer in walk(keras_model(model))}
    found: dict[str, str] = {}
    with unchanged(model):
        steps = Walk(model, x, positive_int("batch_size", batch_size))
        calls = Counter(id(call.layer) for call in steps.calls)
        for layer, batches in steps:
            if not isinstance(layer, kl.BatchNormalization):
                continue
            if calls[id(layer)] > 1:
                found[paths[id(layer)]] = f"called {calls[id(layer)]} times"
                continue
            mean, variance = _moments(layer, batches)
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
            found[paths[id(layer)]] = ""
    return found


def _moments(layer: kl.BatchNormalization, batches: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    def rows(x: Any) -> np.ndarray:
        values, mask = keras.ops.convert_to_numpy(x), getattr(x, "_keras_mask", None)
        if mask is not None:  # steps that do not count
            return values[keras.ops.convert_to_numpy(mask).astype(bool)].astype(np.float64)
        return np.moveaxis(values, layer.axis, -1).reshape(-1, values.shape[layer.axis]).astype(np.float64)

    count = sum(len(rows(x)) for x in batches)
    mean = sum(rows(x).sum(axis=0) for x in batches) / count
    return mean, sum(np.square(rows(x) - mean).sum(axis=0) for x in batches) / count
