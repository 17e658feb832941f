"""A variational autoencoder that was trained to make samples, and samples from it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._validation import keras_model, one_of, positive_int
from keras_aeprune.calibration.drawing import classes_of
from keras_aeprune.calibration.gaussian import Gaussian
from keras_aeprune.calibration.samples import Calibration, get
from keras_aeprune.models import PCA, decoder_of, default_sizes, output_for, posterior, sample, variational
from keras_aeprune.models.composed import copied
from keras_aeprune.models.outcome import batch_for, predicted
from keras_aeprune.models.sampling import sampling_of
from keras_aeprune.models.variational import VariationalAutoencoder

__all__ = ["KINDS", "generate", "train_generator"]

KINDS = ("dense", "convolutional")
_LEARNING_RATE = 2e-3
_STEPS_AT_ONCE = 10
_LEAST_NOISE = 1e-3  # of the data's mean variance


def train_generator(
    x: Any, *, encoding_dim: int | None = None, epochs: int = 30, seed: int = 0, kind: str = "dense"
) -> keras.Model:
    """A variational autoencoder trained on `x`, which makes samples like it.

    Use it to train once and draw often, or to hand on a file in the place of data: save it with
    generator.save("vae.keras"), load it with `models.load`, draw with `generate` or with
    `calibration.source("vae")`. What it has learnt can contain traits of single samples, so the file is no
    guarantee of privacy.

    The loss follows from the data (`models.output_for`). Values that are all 0 or 1 get a sigmoid and
    binary_crossentropy with beta = 1, the evidence lower bound. All others get a Gaussian likelihood of variance
    s^2, whose lower bound is, but for constants,

        features * mse + beta * KL,   beta = 2 s^2

    with s^2 the noise that probabilistic PCA of the same width leaves (mean of the smaller eigenvalues of the
    covariance, at least 0.001 of the mean variance). Cross entropy on grey values, the frequent choice, lets the
    code carry a quarter of that on digits, and the samples turn out grey and alike. Values in [0, 1] end in a
    sigmoid. Others, such as tables with negative values, are standardized inside the model, each feature
    of the last axis by its mean and deviation, and come out in their own units; where they have heavy tails, the
    Huber loss with beta = s^2 takes the place of the squared error. Tipping and Bishop 1999,
    https://doi.org/10.1111/1467-9868.00196; Rybkin et al. 2021, https://arxiv.org/abs/2006.13202.

    Args:
        x: samples of shape (n, ...), n >= 2, with 2 or more values each, or what `calibration.get` takes.
            kind="convolutional" takes (length, channels) and (height, width, channels), "dense" any shape.
        encoding_dim: width of the code, from 1 to values in a sample - 1; None takes `models.default_sizes`.
        epochs: passes over the data, >= 1, in batches of 8 to 128 samples (about n / 40).
        seed: of weights, order and noise, a whole number >= 0. Keras' global seed is neither used nor changed.
        kind: "dense" or "convolutional", the layers before and after the code.

    Returns:
        An uncompiled `VariationalAutoencoder`, a functional Keras model of "encoder" and "decoder".

    Raises:
        InputError: data or numbers that cannot be used.

    Example:
        >>> x = np.random.default_rng(0).random((40, 6), "float32")
        >>> generator = train_generator(x, encoding_dim=2, epochs=1)
        >>> generate(generator, 3).x.shape
        (3, 6)
    """
    x = get(x).x
    epochs, seed = positive_int("epochs", epochs), positive_int("seed", seed, minimum=0, maximum=2**32 - 1)
    one_of("kind", kind, KINDS)
    positive_int("x: number of samples", len(x), minimum=2)
    features = int(np.prod(x.shape[1:]))
    width = default_sizes(features, encoding_dim)[0]
    output = output_for(x)
    mean, deviation = None, None
    if output.activation == "linear":
        axes = tuple(range(x.ndim - 1))
        mean, deviation = x.mean(axis=axes, dtype="float64"), x.std(axis=axes, dtype="float64")
        deviation = np.where(deviation > 0, deviation, 1.0)
        x = ((x - mean) / deviation).astype("float32")
    beta = 1.0 if output.loss == "binary_crossentropy" else 2.0 * _noise(x, width)
    beta = min(beta, 2.0) / 2 if output.loss == "huber" else beta
    model = variational(x.shape[1:], width, base=kind, beta=beta, output_activation=output.activation)
    _seed(model, seed)
    _train(model, x, output.loss, epochs, np.random.default_rng(seed))
    return _uncompiled(model, mean, deviation)


def _noise(x: np.ndarray, width: int) -> float:
    """Variance of the noise in probabilistic PCA with `width` components."""
    features = x[0].size
    left = PCA.fit(x, [width]).mse(x, width) * features / (features - width)
    return max(left, _LEAST_NOISE * float(x.var(axis=0, dtype="float64").mean()), 1e-8)


def _seed(model: keras.Model, seed: int) -> None:
    """Draw the first weights again and set the noise, so that both depend on `seed` alone."""
    streams = iter(np.random.SeedSequence(seed).generate_state(len(model.weights) + 1).tolist())
    for layer in model._flatten_layers():
        initializer = getattr(layer, "kernel_initializer", None)
        if initializer is not None and layer.built:
            first = type(initializer).from_config({**initializer.get_config(), "seed": next(streams) >> 1})
            layer.kernel.assign(first(layer.kernel.shape, dtype=layer.kernel.dtype))
    state = sampling_of(model).noise.state
    state.assign(np.array([next(streams), 0], dtype="uint32"))


def _train(model: keras.Model, x: np.ndarray, loss: Any, epochs: int, generator: np.random.Generator) -> None:
    size = min(batch_for(len(x)), len(x))
    steps = len(x) // size
    places = np.concatenate([generator.permutation(len(x))[: steps * size] for _ in range(epochs)])
    with tf.device("CPU"):
        samples = tf.constant(x)

    def batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        taken = tf.gather(samples, rows)
        return taken, taken

    batches = tf.data.Dataset.from_tensor_slices(places.reshape(-1, size)).map(batch).prefetch(2)
    at_once = min(_STEPS_AT_ONCE, len(places) // size)
    optimizer = keras.optimizers.Adam(_LEARNING_RATE)
    optimizer.build(model.trainable_variables)  # else the train step is traced twice
    model.compile(optimizer, loss, jit_compile=False, steps_per_execution=at_once)
    model.fit(batches, shuffle=False, verbose=0)


def _uncompiled(model: keras.Model, mean: np.ndarray | None, deviation: np.ndarray | None) -> keras.Model:
    """The same layers without optimizer and loss; with `mean`, between values in their own units."""
    encoder, decoder = model.encoder, model.decoder
    if mean is not None and deviation is not None:
        scale = {"axis": -1, "mean": mean.tolist(), "variance": np.square(deviation).tolist()}
        inputs = keras.Input(encoder.input_shape[1:], name="sample")
        trunk = keras.Model(encoder.input, encoder.get_layer("mean").input, name="trunk")
        x = trunk(keras.layers.Normalization(name="standardize", **scale)(inputs))
        moments = [encoder.get_layer(name)(x) for name in ("mean", "log_variance")]
        encoder = keras.Model(inputs, encoder.get_layer("code")(moments), name="encoder")
        back = keras.layers.Normalization(name="own_units", invert=True, **scale)
        decoder = keras.Model(decoder.input, back(decoder.output), name="decoder")
    inputs = keras.Input(encoder.input_shape[1:], name="input")
    whole = VariationalAutoencoder(inputs, decoder(encoder(inputs)), name="generator")
    return copied(whole)  # with layers that are part of no other model


def generate(generator: keras.Model, n: int, *, real: Calibration | None = None, seed: int = 0) -> Calibration:
    """Samples from a trained variational autoencoder.

    Use it with `train_generator` where many draws are made from one generator. Without real samples the codes
    come from the prior N(0, I), as in `models.sample`. With them, codes come from the Gaussian that fits
    the codes of the real samples, the mean over samples of N(mean_i, variance_i),

        N(mean, covariance of the means + mean of the variances)

    since the decoder was trained on those and the prior is only near. Where the real samples have classes there is
    one such Gaussian for each class; classes occur as often as among the real samples, and each sample gets
    the class that it was drawn for. The samples are the decoder's means, smoother than real ones.

    Args:
        generator: a model from `train_generator` or `models.variational`.
        n: how many, >= 1.
        real: samples as the generator takes them, perhaps with classes.
        seed: a whole number >= 0.

    Returns:
        A `Calibration` with source "vae"; y is of the kind of `real.y` where that holds classes, else None.

    Raises:
        InputError: a model without a `Sampling` layer, samples that do not fit.

    Example:
        >>> from keras_aeprune.models import variational
        >>> real = Calibration(np.zeros((4, 8), "float32"), np.array([0, 0, 1, 1]))
        >>> sorted(generate(variational((8,), 2), 4, real=real).y.tolist())
        [0, 0, 1, 1]
    """
    sampling_of(keras_model(generator, "generator"))
    n, seed = positive_int("n", n), positive_int("seed", seed, minimum=0)
    if real is None:
        return Calibration(np.asarray(sample(generator, n, seed=seed), "float32"), None, "vae")
    random = np.random.default_rng(seed)
    means, log_variances = posterior(generator, real.x)
    shape = means.shape[1:]
    means, variances = means.reshape(len(means), -1), np.exp(log_variances).reshape(len(means), -1)
    classes = classes_of(real.y)
    group = np.zeros(len(means), int) if classes is None else np.unique(classes, return_inverse=True)[1]
    # rows of real samples in random order, over and over: their classes are those of the new samples
    drawn = np.concatenate([random.permutation(len(means)) for _ in range(-(-n // len(means)))])[:n]
    codes = np.empty((n, means.shape[1]), "float32")
    for number in np.unique(group[drawn]):
        own, new = group == number, group[drawn] == number
        codes[new] = Gaussian.fit(means[own]).draw(int(new.sum()), random)
        codes[new] += np.sqrt(variances[own].mean(axis=0)) * random.standard_normal(codes[new].shape)
    x = np.asarray(predicted(decoder_of(generator), codes.reshape(n, *shape)), "float32")
    return Calibration(x, None if classes is None else np.asarray(real.y)[drawn], "vae")
