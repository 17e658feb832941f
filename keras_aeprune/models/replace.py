"""An encoder takes the place of a network's first layers."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np

from keras_aeprune import _graph
from keras_aeprune._validation import InputError, positive_int
from keras_aeprune.models.composed import entrance_of, free_name, layer_at, rewired
from keras_aeprune.models.head import encoder_copy
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
    two,
)

_RIDGE = 1e-5
_CHUNK = 1024


def replace_front(
    network: keras.Model,
    encoder: keras.Layer,
    at_layer: str,
    data: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: tuple[int, int] = (10, 10),
    learning_rate: tuple[float, float] = (1e-3, 3e-4),
    batch_size: int | None = None,
    seed: int = 0,
) -> Transfer:
    """Replace a network's layers up to and including `at_layer` by an encoder and a small adapter.

    Use it where the front of a network is its expensive part and a pruned or narrow encoder of the same
    data exists: what comes after `at_layer` is kept with its weights. The adapter a(c) = c W + b turns the
    code c into the activation h of `at_layer`. It starts from the ridge solution
    argmin sum |h - c W - b|^2 + r |W|^2, is trained with the encoder to give the network's own h (feature
    matching, needs no labels), and then, with labels, everything is trained on the task.

    Args:
        network: a built functional or Sequential model with one input and one output. It is not changed.
        encoder: an encoder, or an autoencoder, that takes the network's input. It is not changed.
        at_layer: name of a layer at the network's top level through which everything that follows depends
            on the input. For a feature map of the code's height and width the adapter is a 1x1 convolution,
            else a Dense layer; it ends with a ReLU where no activation on `data` is negative.
        data: samples, shape (n, *input shape), n >= 1; their activations at `at_layer` are held in memory.
        labels: whole-number labels, or targets of the output's shape, of `data`; None stops before fine-tuning.
        test: (x, y) that only measures each stage; None measures the mean squared difference to the given
            network's outputs on `data`.
        epochs: of feature matching and of fine-tuning, 0 or more each; 0 leaves that stage out.
        learning_rate: of Adam in these two stages, > 0.
        batch_size: samples a step, 1 or more; None takes the power of two next to n / 40, from 8 to 128.
        seed: of the order of the samples and of dropout; it seeds Keras, NumPy and Python.

    Returns:
        A `Transfer` with the stages "network", "encoder in front", "features matched" and "fine-tuned"; its
        model has the layers "encoder", "adapter" and those of the network that follow.

    Raises:
        InputError: a layer that others bypass, no such layer, an encoder of another input, bad numbers.

    >>> network = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "relu", name="front"),
    ...     keras.layers.Dense(2, name="end")])
    >>> encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    >>> x = np.random.default_rng(0).random((32, 6), dtype="float32")
    >>> result = replace_front(network, encoder, "front", x, epochs=(0, 0))
    >>> [layer.name for layer in result.model.layers], [stage.parameters for stage in result.stages]
    (['input', 'encoder', 'adapter', 'end'], [47, 53])
    """
    layer, tensor = layer_at(network, at_layer)
    taken = _names_after(network, layer)
    matching, tuning = two("epochs", epochs, "epochs")
    rates = two("learning_rate", learning_rate, "rate")
    data = inputs("data", data, network.input_shape[1:])
    if labels is not None:
        labels = pair("data, labels", (data, labels))[1]
    if batch_size is not None:
        batch_size = positive_int("batch_size", batch_size)
    test = (data, predicted(network, data)) if test is None else pair("test", test)
    keras.utils.set_random_seed(positive_int("seed", seed, minimum=0, maximum=2**32 - 1))
    stages = [stage("network", network, test)]

    began = time.perf_counter()
    features = predicted(keras.Model(network.inputs[0], tensor), data)
    front = _front(network, encoder, features, taken)
    _solve(front, data, features)
    model = _joined(network, layer, front)
    stages.append(stage("encoder in front", model, test, seconds=time.perf_counter() - began))

    if matching:
        loss = keras.losses.MeanSquaredError()
        settings = {"loss": loss, "epochs": matching, "learning_rate": rates[0], "batch_size": batch_size}
        seconds = train(front, data, features, **settings)
        stages.append(stage("features matched", model, test, seconds=seconds))
    if labels is not None and tuning:
        loss = loss_of(model, labels)
        settings = {"loss": loss, "epochs": tuning, "learning_rate": rates[1], "batch_size": batch_size}
        seconds = train(model, data, labels, **settings)
        stages.append(stage("fine-tuned", model, test, seconds=seconds))
    values = kind_of(model, model.output_shape, test[1]) == "values"
    return Transfer(model, tuple(stages), ERROR if values else ACCURACY, stages[-1].name)


def _names_after(network: keras.Model, layer: keras.Layer) -> set[str]:
    """Names of what follows `layer`; refuses it when that takes anything else that depends on the input."""
    before, waiting = [], _graph.producers(network, layer)
    while waiting:
        source = waiting.pop()
        if source not in before:
            before.append(source)
            waiting.extend(_graph.producers(network, source))
    if layer in before or any(source in before for source in _graph.output_layers(network)):
        raise InputError(f"at_layer: {layer.name!r} is used before and after itself, allowed: a layer used once")
    after = [other for other in _graph.operations(network) if other is not layer and other not in before]
    bypassing = [
        f"{other.name} takes {source.name}"
        for other in after
        for source in _graph.producers(network, other)
        if source in before
    ]
    if bypassing:
        raise InputError(
            f"at_layer: {layer.name!r} is bypassed ({', '.join(bypassing[:4])}), allowed: a layer through which "
            "everything after it depends on the input; choose one where the branches have joined"
        )
    return {other.name for other in after}


def _front(
    network: keras.Model, encoder: keras.Model, features: np.ndarray, taken: Collection[str]
) -> keras.Model:
    """Encoder copy and untrained adapter, from the network's input to activations like `features`."""
    encoder = encoder_copy(encoder, free_name("encoder", taken))
    entrance = entrance_of(encoder, free_name("input", taken))
    if tuple(entrance.shape[1:]) != tuple(network.input_shape[1:]):
        got, wanted = tuple(entrance.shape[1:]), tuple(network.input_shape[1:])
        raise InputError(f"encoder: got one of samples {got}, allowed: one of the network's samples {wanted}")
    encoder.trainable = True
    code = encoder(entrance)
    shape = features.shape[1:]
    activation = "relu" if features.min() >= 0 else "linear"
    adapter = free_name("adapter", taken)
    if _per_position(code.shape, shape):
        kinds = {2: keras.layers.Conv1D, 3: keras.layers.Conv2D, 4: keras.layers.Conv3D}
        x = kinds[len(shape)](shape[-1], 1, activation=activation, name=adapter)(code)
    else:
        if None in code.shape[1:]:
            raise InputError(
                f"encoder: got a code of shape {tuple(code.shape)}, allowed: known sizes after the batch"
            )
        if len(code.shape) > 2:
            code = keras.layers.Flatten(name=free_name("adapter_flatten", taken))(code)
        x = keras.layers.Dense(math.prod(shape), activation, name=adapter)(code)
        if len(shape) > 1:
            x = keras.layers.Reshape(shape, name=free_name("adapter_reshape", taken))(x)
    return keras.Model(entrance, x, name="front")


def _per_position(code: Sequence[int | None], features: Sequence[int]) -> bool:
    return 2 <= len(features) <= 4 and tuple(code[1:-1]) == tuple(features[:-1])


def _solve(front: keras.Model, data: np.ndarray, features: np.ndarray) -> None:
    """The adapter's weights by ridge regression of the activations on the codes, in float64."""
    adapter = next(layer for layer in front.layers if layer.name.startswith("adapter") and layer.weights)
    encode = keras.Model(front.inputs[0], adapter.input)
    width, values = adapter.kernel.shape[-2], adapter.kernel.shape[-1]
    gram, cross = np.zeros((width + 1, width + 1)), np.zeros((width + 1, values))
    for i in range(0, len(data), _CHUNK):
        codes = predicted(encode, data[i : i + _CHUNK]).reshape(-1, width).astype("float64")
        codes = np.concatenate([codes, np.ones((len(codes), 1))], axis=1)
        targets = features[i : i + _CHUNK].reshape(-1, values).astype("float64")
        gram += codes.T @ codes
        cross += codes.T @ targets
    # centred, so that the penalty leaves the bias alone
    count = gram[-1, -1]
    mean, target_mean = gram[-1, :-1] / count, cross[-1] / count
    gram = gram[:-1, :-1] - count * np.outer(mean, mean)
    cross = cross[:-1] - count * np.outer(mean, target_mean)
    ridge = _RIDGE * np.trace(gram) / width + np.finfo("float64").tiny
    kernel = np.linalg.lstsq(gram + ridge * np.eye(width), cross, rcond=None)[0]
    adapter.kernel.assign(kernel.reshape(adapter.kernel.shape))
    adapter.bias.assign(target_mean - mean @ kernel)


def _joined(network: keras.Model, layer: keras.Layer, front: keras.Model) -> keras.Model:
    """A copy of the network that takes the outputs of `front` where it took those of `layer`."""
    made = front.outputs[0]

    def call(copy: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return made if copy.name == layer.name else copy(*args, **kwargs)

    return rewired(network, call, entrance=front.inputs[0])
