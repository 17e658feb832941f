"""Models of tf_keras (Keras 2), rebuilt in Keras 3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._validation import InputError, shown
from keras_aeprune.models.files import one_line
from keras_aeprune.models.legacy import mend

_UNKNOWN_SIZE = 32


def from_tf_keras(model: Any) -> keras.Model:
    """A tf_keras (Keras 2) Sequential or functional model, rebuilt in Keras 3 with the same weights.

    Use it where a model is refused because it is one of tf_keras, for example after
    tf_keras.models.load_model on a SavedModel or on a .keras file that Keras 2 wrote. Layer names are
    kept, models inside the model too. Both models are compared on seeded random inputs before the new
    one is returned: no output may differ by more than 1e-5 of the largest output (of 1, if that is
    larger). Compile settings, such as the optimizer, are not carried over: call `compile` on the result.

    Args:
        model: a built tf_keras.Sequential or functional tf_keras.Model. It is not changed.

    Returns:
        An uncompiled keras.Model.

    Raises:
        InputError: a subclassed model or layer, a model that is not built, stateful recurrent layers,
            layers or arguments that Keras 3 does not have, Python code in Lambda layers, another output
            than before.

    >>> import tf_keras
    >>> old = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
    >>> new = from_tf_keras(old)
    >>> x = np.ones((1, 3), dtype="float32")
    >>> bool(np.allclose(new(x), old(x))), isinstance(new, keras.Model)
    (True, True)
    """
    _check(model)
    try:
        config = mend(json.loads(model.to_json()))
        rebuild = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
        new = rebuild.from_config(config["config"])
    except InputError:
        raise
    except Exception as error:  # whatever Keras 3 does not accept of a config of Keras 2
        raise InputError(
            f"model: Keras 3 does not accept the config of {model.name!r} ({one_line(error)}), allowed: "
            "layers and arguments that both have; rebuild it in Keras 3 and copy the weights with set_weights"
        ) from error
    for old_layer, new_layer in _pairs(model, new):
        _copy_weights(old_layer, new_layer)
    _compare(model, new)
    return new


def _check(model: Any) -> None:
    import tf_keras  # late: few need it, and it takes seconds

    rebuild = "build the same in Keras 3 and copy the weights with new.set_weights(old.get_weights())"
    if isinstance(model, keras.Model):
        raise InputError("model: got a model of Keras 3, allowed: a model of tf_keras; use this one as it is")
    if not isinstance(model, tf_keras.Model):
        raise InputError(f"model: got {shown(model)}, allowed: a Sequential or functional model of tf_keras")
    own = type(model)
    if not own.__module__.startswith("tf_keras.") or own is tf_keras.Model:
        raise InputError(
            f"model: {model.name!r} is of the class {own.__name__}, whose call is Python code that no "
            f"config describes, allowed: Sequential and functional models of tf_keras; {rebuild}"
        )
    if not model.built or not getattr(model, "inputs", None):
        raise InputError(
            f"model: {model.name!r} has no weights and no input shape yet, allowed: a built model; "
            "call it on data or give its first layer an input_shape"
        )
    for layer in _all_layers(model):
        if not type(layer).__module__.startswith("tf_keras."):
            raise InputError(
                f"model: layer {layer.name!r} is of the class {type(layer).__name__}, which Keras 3 "
                "does not have, allowed: layers of tf_keras (strip pruning or quantization wrappers "
                f"first); {rebuild}"
            )
        if getattr(layer, "stateful", False) and not hasattr(layer, "layers"):
            raise InputError(
                f"model: layer {layer.name!r} is stateful, so comparing would change its state, allowed: "
                "stateful=False; rebuild it so, with the same weights"
            )


def _all_layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _all_layers(layer)
        if hasattr(layer, "layer"):
            yield layer.layer


def _pairs(old: Any, new: keras.Model) -> Iterator[tuple[Any, keras.Layer]]:
    """The same layer of both models, models inside models taken apart; names differ within one model."""
    for old_layer in old.layers:
        new_layer = new.get_layer(old_layer.name)
        if hasattr(old_layer, "layers"):
            yield from _pairs(old_layer, new_layer)
        else:
            yield old_layer, new_layer


def _copy_weights(old: Any, new: keras.Layer) -> None:
    sources = [*old.trainable_weights, *old.non_trainable_weights]
    targets = [*new.trainable_weights, *new.non_trainable_weights]
    shapes = [tuple(v.shape) for v in sources], [tuple(v.shape) for v in targets]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"model: layer {old.name!r} ({type(old).__name__}) has weights of shapes {shapes[0]}, and "
            f"{shapes[1]} in Keras 3, allowed: layers that have the same in both"
        )
    for source, target in zip(sources, targets, strict=True):
        target.assign(source.numpy())


def _compare(old: Any, new: keras.Model) -> None:
    """Refuses `new` where its outputs for seeded random inputs differ from those of `old`."""
    rng = np.random.default_rng(0)
    inputs = [_random(rng, tensor) for tensor in old.inputs]
    inputs = tf.nest.pack_sequence_as(old.input, inputs)
    before = [np.asarray(t, dtype="float64") for t in tf.nest.flatten(old(inputs, training=False))]
    after = [np.asarray(t, dtype="float64") for t in tf.nest.flatten(new(inputs, training=False))]
    for number, (a, b) in enumerate(zip(before, after, strict=True)):
        limit = 1e-5 * max(1.0, np.abs(a).max(initial=0.0))
        difference = np.abs(a - b).max(initial=0.0) if a.shape == b.shape else np.inf
        if not difference <= limit:
            raise InputError(
                f"model: rebuilt in Keras 3, output {number} of {old.name!r} differs by "
                f"{difference:.3g}, allowed: {limit:.3g}; a layer of it works differently there, so "
                "rebuild it by hand"
            )


def _random(rng: np.random.Generator, tensor: Any) -> np.ndarray:
    shape = [2 if axis == 0 else _UNKNOWN_SIZE for axis in range(len(tensor.shape))]
    shape = [known or guess for known, guess in zip(tensor.shape, shape, strict=True)]
    dtype = tensor.dtype.as_numpy_dtype
    if np.issubdtype(dtype, np.floating):
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
