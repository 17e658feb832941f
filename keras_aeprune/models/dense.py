"""Dense autoencoders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from keras_aeprune._validation import InputError, positive_int, refuse

_COMMON = ("relu", "elu", "gelu", "leaky_relu", "silu", "tanh", "sigmoid", "linear")
_RECTIFIERS = ("relu", "relu6", "elu", "selu", "gelu", "leaky_relu", "silu", "swish", "mish")


def default_sizes(features: int, encoding_dim: int | None = None) -> tuple[int, tuple[int, ...]]:
    """Sizes of a dense autoencoder for samples of `features` values; the rule behind `hidden_units=None`.

    Use it for a first model. With powers of two throughout:
    encoding_dim = 2 ** round(log2(sqrt(features))), hidden_units = (h, h / 2) with h = 4 * encoding_dim,
    but at least twice as wide as the data where that is up to 64 values (few features need room).

    Args:
        features: values in one sample, 2 or more.
        encoding_dim: width of the code, 1 to features - 1; None derives it. Hidden layers that are narrower
            than the code are left out; where none is left, there is one halfway between data and code.

    Returns:
        (encoding_dim, hidden_units); encoding_dim is smaller than `features`.

    Raises:
        InputError: `features` is no whole number or below 2, where nothing smaller exists; `encoding_dim` is
            not between 1 and features - 1.

    >>> default_sizes(784), default_sizes(64), default_sizes(9)
    ((32, (128, 64)), (8, (128, 64)), (4, (32, 16)))
    >>> default_sizes(784, 100), default_sizes(784, 400)
    ((100, (128,)), (400, (592,)))
    """
    features = positive_int("features", features, minimum=2)
    derived = min(2 ** math.floor(math.log2(features) / 2 + 0.5), features - 1)
    widest = max(4 * derived, 2 * 2 ** math.ceil(math.log2(min(features, 64))))
    hidden = (widest, widest // 2)
    if encoding_dim is None:
        return derived, hidden
    encoding_dim = positive_int("encoding_dim", encoding_dim, maximum=features - 1)
    wide_enough = tuple(units for units in hidden if units >= encoding_dim)
    return encoding_dim, wide_enough or ((features + encoding_dim) // 2,)


def dense(
    input_shape: Sequence[int],
    encoding_dim: int,
    *,
    hidden_units: Sequence[int] | None = None,
    activation: str = "relu",
    output_activation: str = "sigmoid",
    name: str = "autoencoder",
) -> keras.Model:
    """A dense autoencoder decoder(encoder(x)), uncompiled.

    Use it for vectors, small images and short windows. It is a plain Keras functional model of two
    nested ones, "encoder" and "decoder", so a saved file loads anywhere. The code layer is linear: a
    rectifier there cuts off half of every direction and can lose units for good, and it reconstructed
    worse on digits and on MNIST.

    Args:
        input_shape: shape of one sample without the batch axis, for example (784,) or (28, 28, 1);
            samples with several axes are flattened at the entrance and reshaped at the end.
        encoding_dim: width of the code, from 1 to the number of values in a sample minus 1.
        hidden_units: units of the encoder's hidden layers from the input on, each 1 or more; the decoder
            mirrors them. () is the linear autoencoder with one layer on each side. None takes those of
            `default_sizes`.
        activation: Keras name of the hidden layers' activation.
        output_activation: Keras name of the last layer's activation: "sigmoid" for data in [0, 1],
            "linear" for other data.
        name: name of the model.

    Returns:
        A keras.Model with the attributes `encoder` and `decoder`, which share its weights. Hidden layers
        are named hidden_1, hidden_2, ... in each half, the code layer "code", the last one "output".

    Raises:
        InputError: an empty or non-positive shape, a code that is not smaller than the data, hidden units
            that are no positive whole numbers, an unknown activation.

    >>> ae = dense(input_shape=(784,), encoding_dim=32, hidden_units=(128, 64))
    >>> ae.output_shape, ae.encoder.output_shape, ae.count_params()
    ((None, 784), (None, 32), 222384)
    """
    shape = _shape(input_shape)
    features = math.prod(shape)
    if features < 2:
        raise refuse("input_shape", input_shape, "a shape of 2 or more values (one cannot be made shorter)")
    encoding_dim = positive_int("encoding_dim", encoding_dim, maximum=features - 1)
    hidden_units = _hidden_units(hidden_units, features, encoding_dim)
    for argument, value in (("activation", activation), ("output_activation", output_activation)):
        _check_activation(argument, value)
    if not isinstance(name, str) or not name or "/" in name:
        raise refuse("name", name, "a text of 1 or more characters without '/'")

    def layers(x, units):
        # the scale of the first weights that suits each kind of activation (He, Glorot)
        initializer = "he_normal" if activation in _RECTIFIERS else "glorot_uniform"
        for number, width in enumerate(units, start=1):
            name = f"hidden_{number}"
            x = keras.layers.Dense(width, activation, kernel_initializer=initializer, name=name)(x)
        return x

    sample = keras.Input(shape, name="sample")
    flat = keras.layers.Flatten(name="flatten")(sample) if len(shape) > 1 else sample
    code = keras.layers.Dense(encoding_dim, name="code")(layers(flat, hidden_units))
    encoder = keras.Model(sample, code, name="encoder")

    entrance = keras.Input((encoding_dim,), name="code")
    output = layers(entrance, hidden_units[::-1])
    output = keras.layers.Dense(features, output_activation, name="output")(output)
    if len(shape) > 1:
        output = keras.layers.Reshape(shape, name="reshape")(output)
    decoder = keras.Model(entrance, output, name="decoder")

    inputs = keras.Input(shape, name="input")
    model = keras.Model(inputs, decoder(encoder(inputs)), name=name)
    model.encoder, model.decoder = encoder, decoder
    return model


def _shape(input_shape) -> tuple[int, ...]:
    allowed = "a tuple of whole numbers >= 1, without the batch axis, for example (784,) or (28, 28, 1)"
    if isinstance(input_shape, str) or not isinstance(input_shape, Sequence) or not len(input_shape):
        raise refuse("input_shape", input_shape, allowed)
    try:
        return tuple(positive_int("input_shape", size) for size in input_shape)
    except InputError as error:
        raise refuse("input_shape", input_shape, allowed) from error


def _hidden_units(hidden_units, features, encoding_dim) -> tuple[int, ...]:
    if hidden_units is None:
        return default_sizes(features, encoding_dim)[1]
    allowed = "a tuple of whole numbers >= 1, for example (128, 64), () for none, or None for the default"
    if isinstance(hidden_units, str) or not isinstance(hidden_units, Sequence):
        raise refuse("hidden_units", hidden_units, allowed)
    try:
        return tuple(positive_int("hidden_units", units) for units in hidden_units)
    except InputError as error:
        raise refuse("hidden_units", hidden_units, allowed) from error


def _check_activation(argument, value):
    known = isinstance(value, str) and value not in ("get", "serialize", "deserialize")
    if not known or not callable(getattr(keras.activations, value, None)):
        raise refuse(argument, value, f"the name of a Keras activation, such as {', '.join(_COMMON)}")
