"""Variational autoencoders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._validation import InputError, keras_model, one_of, positive_int, refuse
from keras_aeprune.models.convolutional import convolutional
from keras_aeprune.models.dense import dense
from keras_aeprune.models.halves import decoder_of, encoder_of
from keras_aeprune.models.parts import sample_shape
from keras_aeprune.models.sampling import Sampling, sampling_of

_BUILDERS: dict[str, Callable[..., keras.Model]] = {"dense": dense, "convolutional": convolutional}
_NOT_OPTIONS = ("input_shape", "encoding_dim", "output_activation", "code_activation", "name")


@keras.saving.register_keras_serializable("keras_aeprune")
class VariationalAutoencoder(keras.Model):
    """A functional Keras model with one `Sampling` layer that shows the two parts of its loss.

    `variational` builds it; an own one is VariationalAutoencoder(inputs, outputs). Beside the loss and the
    metrics of `compile`, the logs of fit and evaluate and the History hold

    - "kl": divergence from the prior in nats a sample, whatever its weight and free nats
    - "reconstruction": the compiled loss alone

    both as means over the samples of an epoch. Saving, loading, cloning, custom optimizers, jit_compile and
    steps_per_execution work as in every functional model.

    >>> from keras_aeprune.models.variational import variational
    >>> model = variational((8,), 2)
    >>> model.compile("adam", "binary_crossentropy")
    >>> sorted(model.evaluate(np.ones((4, 8)), np.ones((4, 8)), verbose=0, return_dict=True))
    ['kl', 'loss', 'reconstruction']
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._kl = keras.metrics.Mean(name="kl")
        self._reconstruction = keras.metrics.Mean(name="reconstruction")

    @property
    def encoder(self) -> keras.Model:
        """The layer named "encoder"; its output is the code."""
        return self._half("encoder")

    @property
    def decoder(self) -> keras.Model:
        """The layer named "decoder"."""
        return self._half("decoder")

    def _half(self, name: str) -> keras.Model:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise AttributeError(f"{self.name!r} has no layer named {name!r}")

    @property
    def beta(self) -> float:
        """Weight of the divergence, >= 0; setting it takes effect with the next batch, in a running fit too."""
        return sampling_of(self).weight

    @beta.setter
    def beta(self, value: float) -> None:
        sampling_of(self).weight = value

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        total = super().compute_loss(x, y, y_pred, sample_weight, training=training)
        layer = sampling_of(self)
        if layer.losses:  # there are none before the first call, nor while Keras only asks for shapes
            # Keras divides a replica's loss by the number of replicas, before it adds them up
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            added = sum(tf.cast(tf.reduce_sum(loss), total.dtype) for loss in self.losses)
            count = tf.shape(keras.tree.flatten(y_pred)[0])[0]
            self._kl.update_state(layer.divergence, sample_weight=count)
            self._reconstruction.update_state(total * replicas - added, sample_weight=count)
        return total


def variational(
    input_shape: Sequence[int],
    encoding_dim: int,
    *,
    base: str = "dense",
    beta: float = 1.0,
    free_nats: float = 0.0,
    output_activation: str = "sigmoid",
    name: str = "autoencoder",
    **options: Any,
) -> keras.Model:
    """A variational autoencoder, uncompiled: a code whose distribution is known, so that new data can be drawn.

    Use it to generate samples (`sample`), for calibration data without real data, or where each code axis
    should cost what it carries. Train it as model.fit(x, x). The added loss is divided by the number of values
    in a sample because the losses of Keras are means over them, so that

        features * loss = features * binary_crossentropy + beta * KL(q(z|x) || N(0, I))

    which for beta = 1 is the negative evidence lower bound (ELBO) in nats a sample. Beyond "loss", logs hold
    "kl" and "reconstruction"; see `VariationalAutoencoder`. A warm-up of beta is one callback:

        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: setattr(model, "beta", min(1.0, epoch / 10)))

    Kingma and Welling 2014, https://arxiv.org/abs/1312.6114; beta: Higgins et al. 2017,
    https://openreview.net/forum?id=Sy2fzU9gl.

    Args:
        input_shape: shape of one sample without the batch axis.
        encoding_dim: number of code axes, 1 or more; at most what the base allows.
        base: "dense" or "convolutional", the builder of the layers before and after the code.
        beta: weight of the divergence, >= 0; `model.beta` changes it later.
        free_nats: divergence of a code axis that costs nothing, >= 0, in nats; see `Sampling`.
        output_activation: Keras name; "sigmoid" with binary_crossentropy for data in [0, 1], "linear" with
            mean_squared_error for other data (then the two parts of the loss are not on one scale: choose beta).
        name: name of the model.
        **options: of the base builder, such as hidden_units or filters.

    Returns:
        A `VariationalAutoencoder` of "encoder" and "decoder". The encoder ends in the layers "mean",
        "log_variance" and "code", whose output is the mean outside of training.

    Raises:
        InputError: an argument out of range, or an option that the base does not have.

    >>> model = variational((784,), 10, hidden_units=(64,))
    >>> model.encoder.output_shape, model.decoder.output_shape, model.beta
    ((None, 10), (None, 784), 1.0)
    """
    builder = _BUILDERS[one_of("base", base, _BUILDERS)]
    features = math.prod(sample_shape(input_shape))
    encoding_dim = positive_int("encoding_dim", encoding_dim)
    known = [option for option in inspect.signature(builder).parameters if option not in _NOT_OPTIONS]
    for option, value in options.items():
        if option not in known:
            raise refuse(option, value, f"for base={base!r} only {', '.join(known)}")
    code = Sampling(beta, features=features, free_nats=free_nats, name="code")
    plain = builder(input_shape, encoding_dim, output_activation=output_activation, name=name, **options)

    x = plain.encoder.get_layer("code").input
    mean = keras.layers.Dense(encoding_dim, name="mean")(x)
    log_variance = keras.layers.Dense(encoding_dim, name="log_variance")(x)
    encoder = keras.Model(plain.encoder.input, code([mean, log_variance]), name="encoder")
    inputs = keras.Input(plain.input_shape[1:], name="input")
    return VariationalAutoencoder(inputs, plain.decoder(encoder(inputs)), name=name)


def sample(model: keras.Model, n: int, *, seed: int = 0) -> np.ndarray:
    """New data: the decoder's outputs for codes drawn from the prior N(0, I).

    Args:
        model: a variational autoencoder: a decoder, and an encoder with one `Sampling` layer.
        n: how many, 1 or more.
        seed: a whole number >= 0; the same seed and model give the same data.

    Returns:
        Array of shape (n, *sample shape). With a sigmoid at the end these are the probabilities of 1.

    Raises:
        InputError: a model without a `Sampling` layer, whose codes follow no known distribution.

    >>> sample(variational((8,), 2), 3).shape
    (3, 8)
    """
    sampling_of(keras_model(model))
    n, seed = positive_int("n", n), positive_int("seed", seed, minimum=0)
    decoder = decoder_of(model)
    codes = np.random.default_rng(seed).standard_normal((n, *decoder.input_shape[1:]), dtype="float32")
    return decoder.predict(codes, batch_size=1024, verbose=0)


def posterior(model: keras.Model, x: np.ndarray, *, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-variance of q(z|x), the code's distribution for each sample.

    Use it to see what each code axis carries: `divergence(*posterior(model, x))` is its cost in nats.

    Args:
        model: a variational autoencoder whose encoder ends in a `Sampling` layer.
        x: shape (n, *sample shape), n >= 1, finite.
        batch_size: samples at once, >= 1.

    Returns:
        (mean, log_variance), float32 arrays of shape (n, encoding_dim); log_variance is clipped to [-20, 20],
        as in training.

    Raises:
        InputError: a model without such an encoder, samples of another shape, NaN or infinite values.

    >>> mean, log_variance = posterior(variational((8,), 2), np.zeros((5, 8)))
    >>> mean.shape, log_variance.shape
    ((5, 2), (5, 2))
    """
    layer = sampling_of(keras_model(model))
    encoder = encoder_of(model)
    batch_size = positive_int("batch_size", batch_size)
    x = as_samples(encoder, x)
    if layer not in encoder.layers:
        raise InputError(f"model: the layer {layer.name!r} is not in the encoder itself, allowed: where it is")
    moments = keras.Model(encoder.inputs, layer.input).predict(x, batch_size=batch_size, verbose=0)
    mean, log_variance = (np.asarray(value, "float32") for value in moments)
    return mean, np.clip(log_variance, -20, 20)


def as_samples(encoder: keras.Model, x: Any) -> np.ndarray:
    """`x` as a finite float32 array of 1 or more samples that `encoder` takes."""
    x = np.asarray(x)
    shape = tuple(encoder.input_shape[1:])
    if x.dtype.kind not in "biuf" or x.ndim != len(shape) + 1 or x.shape[1:] != shape or not len(x):
        allowed = f"numbers of shape (n, {', '.join(map(str, shape))}), n >= 1"
        raise refuse("x", f"{x.dtype} array of shape {x.shape}", allowed)
    x = x.astype("float32", copy=False)
    if not np.isfinite(x).all():
        raise InputError("x: got NaN or infinite values, allowed: finite numbers; drop or fill them")
    return x
