"""Dense autoencoders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from keras_aeprune._validation import positive_int, refuse
from keras_aeprune.models.parts import activation_name, assemble, first_weights, sample_shape, sizes


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
    code_activation: str = "linear",
    batch_normalization: bool = False,
    name: str = "autoencoder",
) -> keras.Model:
    """A dense autoencoder decoder(encoder(x)), uncompiled.

    Use it for vectors, small images and short windows. It is a plain Keras functional model of two
    nested ones, "encoder" and "decoder", so a saved file loads anywhere. The code layer is linear by
    default: a rectifier there cuts off half of every direction and can lose units for good, and it
    reconstructed worse on digits and on MNIST.

    Args:
        input_shape: shape of one sample without the batch axis, for example (784,) or (28, 28, 1);
            samples with several axes are flattened at the entrance and reshaped at the end.
        encoding_dim: width of the code, from 1 to the number of values in a sample minus 1.
        hidden_units: units of the encoder's hidden layers from the input on, each 1 or more; the decoder
            mirrors them. () is the linear autoencoder with one layer on each side. None takes those of
            `default_sizes`.
        activation: Keras name of the hidden layers' activation.
        output_activation: Keras name of the last layer's activation: "sigmoid" for data in [0, 1],
            "linear" for other data; `output_for` chooses.
        code_activation: Keras name of the code layer's activation.
        batch_normalization: whether BatchNormalization stands between each layer, the code layer too but not
            the last one, and its activation.
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

    The anomaly detector of the MLPerf Tiny benchmark:

    >>> tiny = dense(
    ...     (640,), 8, hidden_units=(128,) * 4, code_activation="relu", output_activation="linear",
    ...     batch_normalization=True,
    ... )
    >>> tiny.count_params()
    269992
    """
    shape = sample_shape(input_shape)
    features = math.prod(shape)
    if features < 2:
        raise refuse("input_shape", input_shape, "a shape of 2 or more values (one cannot be made shorter)")
    encoding_dim = positive_int("encoding_dim", encoding_dim, maximum=features - 1)
    if hidden_units is None:
        hidden_units = default_sizes(features, encoding_dim)[1]
    hidden_units = sizes("hidden_units", hidden_units, "(128, 64), () for none, or None for the default")
    for argument, value in (
        ("activation", activation),
        ("output_activation", output_activation),
        ("code_activation", code_activation),
    ):
        activation_name(argument, value)

    def layer(x: keras.KerasTensor, width: int, function: str, name: str) -> keras.KerasTensor:
        # the scale of the first weights that suits each kind of activation (He, Glorot)
        weights = first_weights(function)
        if not batch_normalization:
            return keras.layers.Dense(width, function, kernel_initializer=weights, name=name)(x)
        x = keras.layers.Dense(width, kernel_initializer=weights, name=name)(x)
        x = keras.layers.BatchNormalization(name=f"{name}_normalization")(x)
        return x if function == "linear" else keras.layers.Activation(function, name=f"{name}_activation")(x)

    def hidden(x: keras.KerasTensor, units: Sequence[int]) -> keras.KerasTensor:
        for number, width in enumerate(units, start=1):
            x = layer(x, width, activation, f"hidden_{number}")
        return x

    sample = keras.Input(shape, name="sample")
    flat = keras.layers.Flatten(name="flatten")(sample) if len(shape) > 1 else sample
    encoder = keras.Model(
        sample, layer(hidden(flat, hidden_units), encoding_dim, code_activation, "code"), name="encoder"
    )

    entrance = keras.Input((encoding_dim,), name="code")
    output = hidden(entrance, hidden_units[::-1])
    output = keras.layers.Dense(features, output_activation, name="output")(output)
    if len(shape) > 1:
        output = keras.layers.Reshape(shape, name="reshape")(output)
    return assemble(encoder, keras.Model(entrance, output, name="decoder"), name)
