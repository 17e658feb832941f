"""Sparse autoencoders: few units of the code are active at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from keras_aeprune._validation import one_of, positive_int
from keras_aeprune.models.parts import activation_name, assemble, first_weights, sample_shape, sizes
from keras_aeprune.regularizers import ActivityKL, ActivityL1


def sparse(
    input_shape: Sequence[int],
    encoding_dim: int,
    *,
    penalty: str = "l1",
    rate: float = 1e-4,
    target: float = 0.05,
    hidden_units: Sequence[int] = (),
    activation: str = "relu",
    output_activation: str = "sigmoid",
    name: str = "sparse_autoencoder",
) -> keras.Model:
    """A dense autoencoder whose code is held sparse by a penalty on its activations, uncompiled.

    Use it to find parts that samples are made of: each sample is described by few of many units. As the
    penalty is what keeps the model from copying its input, the code may be wider than the data. The penalty
    is added to the loss: it is in "loss" and "val_loss", and in no metric; compile with metrics=["mse"] to
    see the error alone. Sparse are the activations, the weights are not: for those use `Prune`.

    Args:
        input_shape: shape of one sample without the batch axis; several axes are flattened at the entrance.
        encoding_dim: width of the code, 1 or more; more than values in a sample is allowed.
        penalty: "l1" (`regularizers.ActivityL1`, code activation "relu") or "kl" (`regularizers.ActivityKL`,
            code activation "sigmoid").
        rate: factor of the penalty, > 0. The error of "mse" is a mean over features while the penalty is a
            sum over units, so a useful rate is small: 1e-5 to 1e-2.
        target: wanted mean activation of each unit, 0 < target < 1; for "kl" only, "l1" has none.
        hidden_units: units of the encoder's hidden layers from the input on; the decoder mirrors them.
        activation: Keras name of the hidden layers' activation.
        output_activation: Keras name of the last layer's activation: "sigmoid" for data in [0, 1], "linear"
            for other data.
        name: name of the model.

    Returns:
        A keras.Model with the attributes `encoder` and `decoder`, and the layer names of `dense`. A saved file
        needs this package to load; `for_inference` gives a copy that does not.

    Raises:
        InputError: a shape, a width, an activation, a penalty, a rate or a target that is not allowed.

    >>> ae = sparse((64,), 100, penalty="kl", rate=1e-3, target=0.1)
    >>> ae.encoder.output_shape, ae.encoder.get_layer("code").activity_regularizer.get_config()
    ((None, 100), {'rate': 0.001, 'target': 0.1})
    """
    shape = sample_shape(input_shape)
    encoding_dim = positive_int("encoding_dim", encoding_dim)
    hidden_units = sizes("hidden_units", hidden_units, "(128, 64), or () for none")
    activation_name("activation", activation)
    activation_name("output_activation", output_activation)
    kl = ActivityKL(rate, target)  # checks both numbers, whatever the penalty
    regularizer = {"l1": ActivityL1(rate), "kl": kl}[one_of("penalty", penalty, ("l1", "kl"))]
    code_activation = {"l1": "relu", "kl": "sigmoid"}[penalty]

    def layers(x: keras.KerasTensor, units: Sequence[int]) -> keras.KerasTensor:
        for number, width in enumerate(units, start=1):
            x = keras.layers.Dense(
                width, activation, kernel_initializer=first_weights(activation), name=f"hidden_{number}"
            )(x)
        return x

    sample = keras.Input(shape, name="sample")
    flat = keras.layers.Flatten(name="flatten")(sample) if len(shape) > 1 else sample
    code = keras.layers.Dense(
        encoding_dim,
        code_activation,
        kernel_initializer=first_weights(code_activation),
        activity_regularizer=regularizer,
        name="code",
    )
    encoder = keras.Model(sample, code(layers(flat, hidden_units)), name="encoder")

    entrance = keras.Input((encoding_dim,), name="code")
    output = layers(entrance, hidden_units[::-1])
    output = keras.layers.Dense(math.prod(shape), output_activation, name="output")(output)
    if len(shape) > 1:
        output = keras.layers.Reshape(shape, name="reshape")(output)
    return assemble(encoder, keras.Model(entrance, output, name="decoder"), name)
