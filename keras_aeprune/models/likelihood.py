"""How probable a variational autoencoder finds data, by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import _graph
from keras_aeprune._validation import InputError, positive_int, refuse
from keras_aeprune.models.halves import decoder_of, encoder_of
from keras_aeprune.models.variational import as_samples, posterior

_KEEPS_VALUES = (
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
)
_SMALLEST = 1e-7


def log_likelihood(
    model: keras.Model,
    x: np.ndarray,
    *,
    samples: int = 5000,
    batch_size: int = 2500,
    seed: int = 0,
    progress: bool = False,
) -> np.ndarray:
    """log p(x) of each binary sample, estimated with importance samples from the encoder, in nats.

    Use it to compare models by one number that does not depend on how good the encoder is; its mean over
    held-out data is what papers on binarised MNIST report. With K = samples and z_k ~ q(z|x)

        log p(x) ~ log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)

    where p(x|z) is Bernoulli with the decoder's outputs, p(z) = N(0, I) and q is the encoder's normal
    distribution. Its expectation is a lower bound, the ELBO for K = 1, that rises to log p(x) with K (Burda,
    Grosse and Salakhutdinov 2016, https://arxiv.org/abs/1509.00519). Computed with logits where the decoder ends
    in a sigmoid, else with its outputs clipped to [1e-7, 1 - 1e-7].

    Args:
        model: a variational autoencoder with a decoder whose outputs lie in [0, 1].
        x: shape (n, *sample shape), n >= 1, each value 0 or 1; `binarise` makes such data of grey values.
        samples: codes drawn for each x, K >= 1. 5000 is usual; the time is proportional to n * K.
        batch_size: codes decoded at once, >= 1. It bounds the memory: about 4 arrays of batch_size times the
            decoder's widest layer.
        seed: of the codes, a whole number >= 0. The codes of x[i] depend on seed and i, not on batch_size.
        progress: whether to show a progress bar.

    Returns:
        float64 array of shape (n,), each <= 0.

    Raises:
        InputError: values other than 0 and 1, another shape, outputs outside [0, 1], no `Sampling` layer.

    >>> from keras_aeprune.models.variational import variational
    >>> log_likelihood(variational((8,), 2), np.eye(8), samples=10).shape
    (8,)
    """
    count, rows = positive_int("samples", samples), positive_int("batch_size", batch_size)
    seed = positive_int("seed", seed, minimum=0)
    mean, log_variance = posterior(model, x)
    x = _binary(encoder_of(model), x)
    log_weights = _log_weights(decoder_of(model), mean)

    chunks = np.array_split(np.arange(count), math.ceil(count / rows))
    together = max(1, rows // count)
    result = np.full(len(x), -np.inf)
    bar = keras.utils.Progbar(len(x), unit_name="sample", verbose=int(bool(progress)))
    for start in range(0, len(x), together):
        part = slice(start, min(start + together, len(x)))
        draws = [np.random.default_rng([seed, i]) for i in range(part.start, part.stop)]
        for chunk in chunks:
            shape = (len(chunk), mean.shape[1])
            eps = np.stack([draw.standard_normal(shape, dtype="float32") for draw in draws])
            sums = log_weights(x[part], mean[part], log_variance[part], eps)
            result[part] = np.logaddexp(result[part], sums.numpy())
        bar.update(part.stop)
    return result - math.log(count)


def binarise(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """0 or 1 for each value, 1 with the probability that the value says.

    Use it once on test data for `log_likelihood`, as is usual for MNIST. Values 0 and 1 stay what they are.

    Args:
        x: any shape, each value 0 <= v <= 1.
        seed: a whole number >= 0.

    Returns:
        float32 array of the same shape.

    Raises:
        InputError: values outside [0, 1], such as bytes (divide by 255 first), or NaN.

    >>> binarise(np.array([0.0, 1.0]))
    array([0., 1.], dtype=float32)
    """
    x = np.asarray(x)
    if x.dtype.kind not in "biuf":
        raise refuse("x", f"{x.dtype} array of shape {x.shape}", "numbers 0 <= v <= 1")
    if not ((x >= 0) & (x <= 1)).all():
        raise InputError(
            f"x: got values from {x.min()} to {x.max()}, allowed: 0 <= v <= 1 without NaN; scale them first, "
            "bytes by x / 255"
        )
    draws = np.random.default_rng(positive_int("seed", seed, minimum=0)).random(x.shape, dtype="float32")
    return (draws < x).astype("float32")


def _binary(encoder: keras.Model, x: Any) -> np.ndarray:
    x = as_samples(encoder, x)
    grey = (x != 0) & (x != 1)
    if grey.any():
        raise InputError(
            f"x: got {int(grey.sum())} of {x.size} values that are neither 0 nor 1, such as {x[grey][0]:.4g}, "
            "allowed: 0 and 1 only, since a Bernoulli distribution has no other; draw them with binarise(x)"
        )
    return x.reshape(len(x), -1)


def _log_weights(decoder: keras.Model, means: np.ndarray) -> Callable[..., Any]:
    """The compiled function (x, mean, log_variance, eps) -> log sum over codes of p(x|z) p(z) / q(z|x)."""
    logits = _logits(decoder)
    if logits is None:
        outputs = decoder.predict(means, batch_size=1024, verbose=0)
        if not ((outputs >= 0) & (outputs <= 1)).all():
            raise InputError(
                f"model: got decoder outputs from {outputs.min():.4g} to {outputs.max():.4g}, allowed: "
                "probabilities in [0, 1]; build the model with output_activation='sigmoid'"
            )

    def spec(*shape: int | None) -> tf.TensorSpec:
        return tf.TensorSpec(shape, tf.float32)

    width = means.shape[1]
    moments = spec(None, width)

    @tf.function(input_signature=[spec(None, None), moments, moments, spec(None, None, width)], autograph=False)
    def log_sum(x: tf.Tensor, mean: tf.Tensor, log_variance: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(eps)
        z = mean[:, None] + tf.exp(0.5 * log_variance)[:, None] * eps
        # log p(z) - log q(z|x); the two constants cancel
        ratio = 0.5 * tf.reduce_sum(tf.square(eps) - tf.square(z) + log_variance[:, None], -1)
        codes = tf.reshape(z, (-1, width))

        def each(values: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.cast(values, tf.float32), (shape[0], shape[1], -1))

        if logits is None:
            p = tf.clip_by_value(each(decoder(codes, training=False)), _SMALLEST, 1 - _SMALLEST)
            no = tf.math.log1p(-p)
            fit = tf.linalg.matvec(tf.math.log(p) - no, x) + tf.reduce_sum(no, -1)
        else:
            # log p(x|z) = x . logits - sum of log(1 + exp(logits)): one product, one pass
            values = each(logits(codes))
            fit = tf.linalg.matvec(values, x) - tf.reduce_sum(tf.nn.softplus(values), -1)
        return tf.reduce_logsumexp(fit + ratio, -1)

    return log_sum


def _logits(decoder: keras.Model) -> Callable[[Any], Any] | None:
    """codes -> what goes into the decoder's last sigmoid; None where it does not end in one."""
    if not _graph.is_graph(decoder):
        return None
    (last,) = _graph.output_layers(decoder)
    after: list[keras.Layer] = []
    while isinstance(last, _KEEPS_VALUES):
        after.insert(0, last)
        (last,) = _graph.producers(decoder, last)
    if getattr(last, "activation", None) is not keras.activations.sigmoid or len(last._inbound_nodes) != 1:
        return None
    before = keras.Model(decoder.inputs, last.input)
    linear = type(last).from_config({**last.get_config(), "activation": "linear"})
    linear.build(last.input.shape)
    linear.set_weights(last.get_weights())

    def logits(codes: tf.Tensor) -> tf.Tensor:
        values = linear(before(codes, training=False))
        for layer in after:
            values = layer(values)
        return values

    return logits
