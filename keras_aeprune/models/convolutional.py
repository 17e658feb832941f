"""Convolutional autoencoders for series and images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers as kl

from keras_aeprune._validation import InputError, one_of, positive_int
from keras_aeprune.models.parts import activation_name, assemble, first_weights, sample_shape, sizes

# one table for both numbers of spatial axes, so that no builder asks how many there are
_LAYERS = {
    1: (kl.Conv1D, kl.Conv1DTranspose, kl.MaxPooling1D, kl.UpSampling1D, kl.Cropping1D),
    2: (kl.Conv2D, kl.Conv2DTranspose, kl.MaxPooling2D, kl.UpSampling2D, kl.Cropping2D),
}


def convolutional(
    input_shape: Sequence[int],
    encoding_dim: int | None = None,
    *,
    filters: Sequence[int] | None = None,
    kernel_size: int = 3,
    downsampling: str = "strided",
    upsampling: str = "transposed",
    activation: str = "relu",
    output_activation: str = "sigmoid",
    batch_normalization: bool = False,
    name: str = "autoencoder",
) -> keras.Model:
    """A convolutional autoencoder decoder(encoder(x)), uncompiled.

    Use it for images and for long windows of a series, where the same pattern can stand anywhere. It is a
    plain Keras functional model of two nested ones, "encoder" and "decoder", so a saved file loads anywhere.

    Each number in `filters` is one stage. A stage of the encoder turns n steps (rows, columns) into
    ceil(n / 2); the decoder mirrors the stages and crops each of them to the size that was there on the way
    down: 28, 14, 7, 4 comes back as 4, 7, 14, 28. A last convolution, "output", has one filter a channel.

    Args:
        input_shape: (length, channels) or (height, width, channels) of one sample, each 1 or more. A grey
            image needs its channel axis: (28, 28) is a series of 28 steps with 28 channels.
        encoding_dim: None takes the last feature map as the code, and the model has convolutions only. A
            number, from 1 to the number of values in a sample minus 1, adds a linear Dense layer "code" of
            that width, and one behind it that fills the feature map again.
        filters: filters of the encoder's stages from the input on, 1 stage or more, each 1 or more. None takes
            (16, 32) with an `encoding_dim`, and (16, f) without one: f is the largest number up to 8 with
            which the code has at most half as many values as the sample.
        kernel_size: steps, or rows and columns, that a kernel spans, 1 or more.
        downsampling: "strided" is one convolution with stride 2; "pooled" a convolution with stride 1, then
            the maximum of each 2 (2 x 2) values.
        upsampling: "transposed" is one transposed convolution with stride 2; "resized" repeats each value
            2 (2 x 2) times, then convolves with stride 1: no checkerboard, 4 times the work for images.
        activation: Keras name of the activation of every stage. In int8 files "leaky_relu" runs faster
            behind a transposed convolution than "relu".
        output_activation: Keras name of the last layer's activation: "sigmoid" for data in [0, 1],
            "linear" for other data; `output_for` chooses.
        batch_normalization: whether BatchNormalization stands between each layer and its activation; not in
            the code layer and not in the last one.
        name: name of the model.

    Returns:
        A keras.Model with the attributes `encoder` and `decoder`, which share its weights. The stages'
        convolutions are named filters_1, filters_2, ... in each half, the last one "output".

    Raises:
        InputError: a shape without a channel axis, a code that is not smaller than the sample, more stages
            than the sample can be halved, sizes that are no positive whole numbers, unknown names.

    The denoiser of TensorFlow's tutorial, whose code has 7 x 7 x 8 = 392 values:

    >>> ae = convolutional(input_shape=(28, 28, 1), filters=(16, 8))
    >>> ae.encoder.output_shape, ae.output_shape, ae.count_params()
    ((None, 7, 7, 8), (None, 28, 28, 1), 3217)

    Windows of a series with 32 numbers each:

    >>> ae = convolutional((140, 1), 32, filters=(8, 16), output_activation="linear")
    >>> ae.encoder.output_shape, ae.output_shape
    ((None, 32), (None, 140, 1))
    """
    shape = sample_shape(input_shape, axes=(2, 3), example="(140, 1) for a series or (28, 28, 1) for an image")
    if filters is None:
        filters = (16, 32) if encoding_dim is not None else (16, _half_as_many(shape))
    filters = sizes("filters", filters, "(16, 32), or None for the default", minimum=1)
    kernel_size = positive_int("kernel_size", kernel_size)
    one_of("downsampling", downsampling, ("strided", "pooled"))
    one_of("upsampling", upsampling, ("transposed", "resized"))
    activation_name("activation", activation)
    activation_name("output_activation", output_activation)
    spatial = _halved(shape[:-1], filters)
    encoding_dim = _checked_code(encoding_dim, shape, (*spatial[-1], filters[-1]))
    conv, transposed, pooling, repeat, cropping = _LAYERS[len(shape) - 1]

    def active(x: keras.KerasTensor, layer: Callable[..., keras.Layer]) -> keras.KerasTensor:
        """`layer`, which has no activation yet, and what follows it."""
        weights = first_weights(activation)
        if not batch_normalization:
            return layer(activation=activation, kernel_initializer=weights)(x)
        last = layer(kernel_initializer=weights)
        x = kl.BatchNormalization(name=f"{last.name}_normalization")(last(x))
        return x if activation == "linear" else kl.Activation(activation, name=f"{last.name}_activation")(x)

    def convolve(kind: type[keras.Layer], count: int, number: int, strides: int) -> Callable[..., keras.Layer]:
        def layer(**settings: Any) -> keras.Layer:
            name = f"filters_{number}"
            return kind(count, kernel_size, strides=strides, padding="same", name=name, **settings)

        return layer

    sample = keras.Input(shape, name="sample")
    x = sample
    for number, count in enumerate(filters, start=1):
        x = active(x, convolve(conv, count, number, 2 if downsampling == "strided" else 1))
        if downsampling == "pooled":
            x = pooling(2, padding="same", name=f"pool_{number}")(x)
    feature_map = x.shape[1:]
    if encoding_dim is not None:
        x = kl.Dense(encoding_dim, name="code")(kl.Flatten(name="flatten")(x))
    encoder = keras.Model(sample, x, name="encoder")

    entrance = keras.Input(x.shape[1:], name="code")
    x = entrance
    if encoding_dim is not None:
        x = active(x, lambda **settings: kl.Dense(math.prod(feature_map), name="expand", **settings))
        x = kl.Reshape(feature_map, name="feature_map")(x)

    def crop(x: keras.KerasTensor, wanted: Sequence[int], at_start: bool, number: int) -> keras.KerasTensor:
        surplus = [have - want for have, want in zip(x.shape[1:-1], wanted, strict=True)]
        if not any(surplus):
            return x
        amounts = [(extra, 0) if at_start else (0, extra) for extra in surplus]
        return cropping(amounts if len(amounts) > 1 else amounts[0], name=f"crop_{number}")(x)

    # where the window of the transposed convolution starts a step later, the first one is the surplus
    at_start = kernel_size % 2 == 1 and kernel_size > 1
    for number, (count, wanted) in enumerate(zip(filters[::-1], spatial[-2::-1], strict=True), start=1):
        if upsampling == "transposed":
            x = active(x, convolve(transposed, count, number, 2))
            x = crop(x, wanted, at_start, number)
        else:
            x = crop(repeat(2, name=f"repeat_{number}")(x), wanted, False, number)
            x = active(x, convolve(conv, count, number, 1))
    x = conv(shape[-1], kernel_size, padding="same", activation=output_activation, name="output")(x)
    return assemble(encoder, keras.Model(entrance, x, name="decoder"), name)


def _half_as_many(shape: Sequence[int]) -> int:
    """Filters behind two stages whose feature map has at most half of a sample's values; 1 to 8."""
    positions = math.prod(-(-size // 4) for size in shape[:-1])
    return max(1, min(8, math.prod(shape) // (2 * positions)))


def _halved(sizes: Sequence[int], filters: Sequence[int]) -> list[tuple[int, ...]]:
    """The spatial sizes before the first stage, after it, and so on down."""
    spatial = [tuple(sizes)]
    for number in range(1, len(filters) + 1):
        if max(spatial[-1]) == 1:
            text = " x ".join(map(str, sizes))
            raise InputError(
                f"filters: got {len(filters)} stages for samples of {text}, where nothing is left to halve "
                f"before stage {number}, allowed: at most {number - 1} stages; leave the last ones out"
            )
        spatial.append(tuple((size + 1) // 2 for size in spatial[-1]))
    return spatial


def _checked_code(encoding_dim: Any, shape: Sequence[int], feature_map: Sequence[int]) -> int | None:
    """`encoding_dim`, if what it means is smaller than a sample."""
    values = math.prod(shape)
    sample_text = f"{' x '.join(map(str, shape))} = {values}"
    if encoding_dim is not None:
        encoding_dim = positive_int("encoding_dim", encoding_dim)
        if encoding_dim >= values:
            raise InputError(
                f"encoding_dim: got {encoding_dim} for samples of {sample_text} values, allowed: a code that "
                f"is smaller, 1 to {values - 1}, or None for the last feature map"
            )
        return encoding_dim
    code = math.prod(feature_map)
    if code >= values:
        most = (values - 1) // math.prod(feature_map[:-1])
        ways = [f"at most {most} filters in the last stage"] if most else []
        ways += ["one stage more"] if max(feature_map[:-1]) > 1 else []
        raise InputError(
            f"filters: the code, the last feature map, has {' x '.join(map(str, feature_map))} = {code} "
            f"values and a sample {sample_text}, allowed: a code that is smaller; give "
            f"{', '.join([*ways, 'or an encoding_dim'])}"
        )
    return None
