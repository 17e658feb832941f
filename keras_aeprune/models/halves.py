"""The encoder and the decoder of an autoencoder, whoever built it."""

from __future__ import annotations

from typing import Any

import keras

from keras_aeprune._validation import InputError, keras_model, refuse, shown


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


def code_of(encoder_output: Any) -> Any:
    """The code among what an encoder returns; use it wherever an encoder may return more than the code.

    A tensor is the code itself; of a list or tuple (code, feature, feature, ...) it is the first, of a
    dict the value under "code". Shapes and dtypes stand in for tensors just as well.

    Args:
        encoder_output: a tensor or array of shape (n, ...), or 1 or more of them in a list, tuple or dict.

    Returns:
        The code as it was found, shape (n, ...).

    Raises:
        InputError: an empty list or tuple, a dict without "code", a structure inside another, or None.

    >>> code_of(["code", "feature 1", "feature 2"]), code_of({"feature": 1, "code": 2}), code_of(3.5)
    ('code', 2, 3.5)
    """
    code = encoder_output
    if isinstance(code, dict):
        if "code" not in code:
            raise refuse("encoder output", sorted(map(str, code)), 'a dict with the code under the key "code"')
        code = code["code"]
    elif isinstance(code, list | tuple):
        if not len(code):
            raise refuse("encoder output", code, "a code, or (code, feature, ...) with 1 or more entries")
        code = code[0]
    if code is None or isinstance(code, list | tuple | dict):
        raise InputError(
            f"encoder output: the code is {shown(code)}, allowed: a tensor; return it directly, as the first "
            'of a list or tuple, or under the key "code" of a dict'
        )
    return code


def _half(model: keras.Model, name: str) -> keras.Layer:
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
