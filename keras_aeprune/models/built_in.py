"""A linear autoencoder built into a network: the activations of one layer pass through fewer numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_aeprune import _graph
from keras_aeprune._validation import InputError, positive_int, positive_number, refuse
from keras_aeprune.models.composed import copied, free_name, layer_at, rewired, tensors_of
from keras_aeprune.models.outcome import (
    ACCURACY,
    ERROR,
    Transfer,
    inputs,
    kind_of,
    loss_of,
    pair,
    predicted,
    stage,
    train,
)

_CHUNK = 1024
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_BY_AXES = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}


def build_in(
    network: keras.Model,
    at_layer: str,
    encoding_dim: int,
    data: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: int = 0,
    learning_rate: float = 3e-4,
    batch_size: int | None = None,
    seed: int = 0,
) -> Transfer:
    """Build a linear autoencoder of the activations of `at_layer` into a network.

    Use it where a layer's units or channels say much the same: n x m weights behind it become
    n x k + k x m. Each position's activation h (its n units or channels) goes through k numbers,

        h -> h U -> (h U) U^T,

    with U the k leading eigenvectors of the mean of h^T h on `data`: the linear bottleneck with the least
    squared error (PCA that is not centred, so that zero padding stays zero and no bias is needed). With k = n
    it changes nothing. The decoder half U^T is merged into the kernels that follow, K -> U^T K, which
    changes no output, where all that follows `at_layer` is Dense or Conv layers, used once, directly or
    behind a Flatten; else it stays as a layer of its own, as it does not commute with an activation, a
    normalization or a pooling. The note of the stage "built in" says which.

    Args:
        network: a built functional or Sequential model with one input and one output. It is not changed.
        at_layer: name of a layer at the network's top level with an output (n, ..., units), for example Dense,
            Conv, or the activation or normalization behind one.
        encoding_dim: numbers that each position passes through, 1 <= k <= units.
        data: samples, shape (n, *input shape), n >= 1.
        labels: whole-number labels, or targets of the output's shape, of `data`, for fine-tuning.
        test: (x, y) that only measures each stage; None measures the mean squared difference to the given
            network's outputs on `data`.
        epochs: of fine-tuning, 0 or more; needs labels.
        learning_rate: of Adam, > 0.
        batch_size: samples a step, 1 or more; None takes the power of two next to n / 40, from 8 to 128.
        seed: of the order of the samples and of dropout; it seeds Keras, NumPy and Python.

    Returns:
        A `Transfer` with the stages "network", "built in" and, with labels and epochs, "fine-tuned". The new
        layers are named "<at_layer>_encoder" and "<at_layer>_decoder".

    Raises:
        InputError: no such layer, labels without epochs or the reverse, channels first, bad numbers.

    >>> network = keras.Sequential([keras.Input((6,)), keras.layers.Dense(20, "relu", name="wide"),
    ...     keras.layers.Dense(30, name="end")])
    >>> x = np.random.default_rng(0).random((64, 6), dtype="float32")
    >>> result = build_in(network, "wide", 5, x)
    >>> result.model.get_layer("wide_encoder").units, [stage.parameters for stage in result.stages]
    (5, [770, 420])
    >>> result.stages[1].note
    "decoder merged into 'end'"
    """
    layer, tensor = layer_at(network, at_layer)
    units = _units(layer, tensor)
    encoding_dim = positive_int("encoding_dim", encoding_dim, maximum=units)
    epochs = positive_int("epochs", epochs, minimum=0)
    learning_rate = positive_number("learning_rate", learning_rate)
    data = inputs("data", data, network.inputs[0].shape[1:])
    if (labels is None) != (epochs == 0):
        given = f"epochs={epochs} {'without' if labels is None else 'with'} labels"
        raise InputError(f"labels: got {given}, allowed: labels and epochs >= 1 for fine-tuning, or neither")
    if labels is not None:
        labels = pair("data, labels", (data, labels))[1]
    if batch_size is not None:
        batch_size = positive_int("batch_size", batch_size)
    test = (data, predicted(network, data)) if test is None else pair("test", test)
    keras.utils.set_random_seed(positive_int("seed", seed, minimum=0, maximum=2**32 - 1))
    stages = [stage("network", network, test)]

    began = time.perf_counter()
    directions = _directions(keras.Model(network.inputs[0], tensor), data)[:, :encoding_dim]
    merged, obstacle = _mergeable(network, layer)
    model = _with_bottleneck(network, layer, len(tensor.shape), directions, merged)
    if obstacle:
        note = f"decoder kept as a layer: {obstacle}"
    else:
        note = "decoder merged into " + ", ".join(repr(other.name) for other in merged)
    stages.append(stage("built in", model, test, seconds=time.perf_counter() - began, note=note))
    if labels is not None:
        loss = loss_of(model, labels)
        settings = {"loss": loss, "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
        stages.append(stage("fine-tuned", model, test, seconds=train(model, data, labels, **settings)))
    values = kind_of(model, model.output_shape, test[1]) == "values"
    return Transfer(model, tuple(stages), ERROR if values else ACCURACY, stages[-1].name)


def _units(layer: keras.Layer, tensor: keras.KerasTensor) -> int:
    if getattr(layer, "data_format", None) == "channels_first":
        raise InputError(f"at_layer: {layer.name!r} has its channels first, allowed: channels on the last axis")
    if not 2 <= len(tensor.shape) <= 5 or tensor.shape[-1] is None:
        raise refuse("at_layer", f"{layer.name} with the output {tensor.shape}", "an output (n, ..., units)")
    return tensor.shape[-1]


def _directions(front: keras.Model, data: np.ndarray) -> np.ndarray:
    """Eigenvectors of the mean of h^T h as columns, the largest eigenvalue first, in float64."""
    moment: np.ndarray | float = 0.0
    for i in range(0, len(data), _CHUNK):
        activations = predicted(front, data[i : i + _CHUNK])
        flat = activations.reshape(-1, activations.shape[-1]).astype("float64")
        moment = moment + flat.T @ flat
    return np.linalg.eigh(moment / len(data))[1][:, ::-1]


def _mergeable(network: keras.Model, layer: keras.Layer) -> tuple[list[keras.Layer], str]:
    """The linear layers right after `layer`, and what stands against merging into them, or ""."""
    found, waiting = [], _graph.consumers(network, layer)
    while waiting:
        other = waiting.pop(0)
        if type(other) is keras.layers.Flatten and other.data_format != "channels_first":
            if len(tensors_of(network, other)) != 1:
                return [], f"{other.name} is used several times"
            waiting.extend(_graph.consumers(network, other))
            if other in _graph.output_layers(network):
                return [], f"{other.name} is the output"
            continue
        linear = type(other) is keras.layers.Dense or (
            type(other) in _CONVOLUTIONS and other.groups == 1 and other.data_format == "channels_last"
        )
        if not linear:
            return [], f"{other.name} ({type(other).__name__}) follows"
        if len(tensors_of(network, other)) != 1:
            return [], f"{other.name} is used several times"
        found.append(other)
    return found, ""


def _with_bottleneck(
    network: keras.Model, layer: keras.Layer, axes: int, directions: np.ndarray, merged: Sequence[keras.Layer]
) -> keras.Model:
    encoder = _linear(network, layer, axes, directions.shape[1], "encoder")
    decoder = None if merged else _linear(network, layer, axes, len(directions), "decoder")
    inside = {other.name: other for other in merged}

    def copy(other: keras.Layer) -> keras.Layer:
        return type(other).from_config(other.get_config()) if other.name in inside else copied(other)

    def call(other: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        made = other(*args, **kwargs)
        if other.name != layer.name:
            return made
        made = encoder(made)
        return made if decoder is None else decoder(made)

    model = rewired(network, call, copy=copy)
    for part, kernel in ((encoder, directions), (decoder, directions.T)):
        if part is not None:
            part.kernel.assign(kernel.reshape(part.kernel.shape))
    for name, other in inside.items():
        kernel = keras.ops.convert_to_numpy(other.kernel).astype("float64")
        blocks = kernel.reshape(-1, len(directions), kernel.shape[-1])
        new = model.get_layer(name)
        new.kernel.assign(np.einsum("nk,snm->skm", directions, blocks).reshape(new.kernel.shape))
        if other.use_bias:
            new.bias.assign(keras.ops.convert_to_numpy(other.bias))
    return model


def _linear(network: keras.Model, layer: keras.Layer, axes: int, units: int, half: str) -> keras.Layer:
    """A layer without bias for one half, of the rank of the activation."""
    name = free_name(f"{layer.name}_{half}", [other.name for other in _graph.operations(network)])
    if axes == 2 or isinstance(layer, keras.layers.Dense):
        return keras.layers.Dense(units, use_bias=False, name=name)
    return _BY_AXES[axes](units, 1, use_bias=False, name=name)
