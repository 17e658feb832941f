"""The encoder and the decoder of an autoencoder, whoever built it."""

from __future__ import annotations

import keras

from keras_aeprune._validation import InputError, keras_model


def encoder_of(model: keras.Model) -> keras.Model:
    """The part of `model` that is called encoder; use it on a model that was loaded from a file.

    Args:
        model: a Keras model with an attribute or a layer named "encoder".

    Returns:
        That part itself; its weights are those of `model`.

    Raises:
        InputError: there is none.

    >>> from keras_aeprune import models
    >>> encoder_of(models.dense((64,), 8)).output_shape
    (None, 8)
    """
    return _half(model, "encoder")


def decoder_of(model: keras.Model) -> keras.Model:
    """The part of `model` that is called decoder; see `encoder_of`.

    >>> from keras_aeprune import models
    >>> decoder_of(models.dense((64,), 8)).input_shape
    (None, 8)
    """
    return _half(model, "decoder")


def _half(model, name):
    keras_model(model)
    found = getattr(model, name, None)
    if not isinstance(found, keras.Layer):
        found = next((layer for layer in model.layers if layer.name == name), None)
    if found is None:
        layers = ", ".join(layer.name for layer in model.layers[:8]) or "none"
        raise InputError(
            f"model: {model.name!r} has no attribute and no layer named {name!r} (layers: {layers}), "
            f"allowed: a model of keras_aeprune.models, or an own one with model.{name} set to that part"
        )
    return found
