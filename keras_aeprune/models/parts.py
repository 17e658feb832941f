"""What all builders share: checks of their arguments, and the two halves put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_aeprune._validation import InputError, positive_int, refuse

_COMMON = ("relu", "elu", "gelu", "leaky_relu", "silu", "tanh", "sigmoid", "linear")
_RECTIFIERS = ("relu", "relu6", "elu", "selu", "gelu", "leaky_relu", "silu", "swish", "mish")


def assemble(
    encoder: keras.Model, decoder: keras.Model, name: str = "autoencoder", entrance: Sequence[keras.Layer] = ()
) -> keras.Model:
    """The functional model decoder(encoder(x)) with the attributes `encoder` and `decoder`.

    Args:
        encoder: a functional model with one input.
        decoder: a functional model that takes the encoder's output.
        name: of the whole.
        entrance: layers between the input and the encoder, such as noise; part of neither half.
    """
    if not isinstance(name, str) or not name or "/" in name:
        raise refuse("name", name, "a text of 1 or more characters without '/'")
    inputs = keras.Input(encoder.input_shape[1:], name="input")
    x = inputs
    for layer in entrance:
        x = layer(x)
    model = keras.Model(inputs, decoder(encoder(x)), name=name)
    model.encoder, model.decoder = encoder, decoder
    return model


def sample_shape(
    value: Any, axes: Sequence[int] | None = None, example: str = "(784,) or (28, 28, 1)"
) -> tuple[int, ...]:
    """`value` as the shape of one sample: whole numbers >= 1, without the batch axis.

    Args:
        value: what the caller gave as input_shape.
        axes: allowed numbers of axes; None allows any.
        example: what the error shows.
    """
    allowed = f"a tuple of whole numbers >= 1, without the batch axis, for example {example}"
    if isinstance(value, str) or not isinstance(value, Sequence) or not len(value):
        raise refuse("input_shape", value, allowed)
    if axes is not None and len(value) not in axes:
        raise refuse("input_shape", value, allowed)
    try:
        return tuple(positive_int("input_shape", size) for size in value)
    except InputError as error:
        raise refuse("input_shape", value, allowed) from error


def sizes(argument: str, value: Any, example: str, minimum: int = 0) -> tuple[int, ...]:
    """`value` as a tuple of at least `minimum` whole numbers >= 1, such as hidden units or filters."""
    allowed = f"a tuple of {'1 or more ' if minimum else ''}whole numbers >= 1, for example {example}"
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) < minimum:
        raise refuse(argument, value, allowed)
    try:
        return tuple(positive_int(argument, units) for units in value)
    except InputError as error:
        raise refuse(argument, value, allowed) from error


def activation_name(argument: str, value: Any) -> str:
    """`value`, if it is the name of a Keras activation."""
    known = isinstance(value, str) and value not in ("get", "serialize", "deserialize")
    if not known or not callable(getattr(keras.activations, value, None)):
        raise refuse(argument, value, f"the name of a Keras activation, such as {', '.join(_COMMON)}")
    return value


def first_weights(activation: str) -> str:
    """The initializer whose scale suits an activation: He for rectifiers, Glorot for the rest."""
    return "he_normal" if activation in _RECTIFIERS else "glorot_uniform"
