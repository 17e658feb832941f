"""Denoising autoencoders: what was spoilt on purpose is restored."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_aeprune._validation import fraction, is_real, one_of, positive_int, refuse
from keras_aeprune.models.convolutional import convolutional
from keras_aeprune.models.dense import default_sizes, dense
from keras_aeprune.models.parts import assemble, sample_shape

_KINDS = ("gaussian", "masking", "salt_and_pepper")
_BASES = ("dense", "convolutional")


@keras.saving.register_keras_serializable("keras_aeprune")
class Corruption(keras.layers.Layer):
    """Spoils its inputs while training and passes them on unchanged otherwise.

    Use it at the entrance of a model that is to ignore noise. For each value x on its own, with z from a
    standard normal and u from a uniform distribution on [0, 1):

        gaussian           x + amount * z, then limited to clip if there is one
        masking            0 if u < amount, else x (Dropout would multiply the others by 1 / (1 - amount))
        salt_and_pepper    clip[0] if u < amount / 2, clip[1] if amount / 2 <= u < amount, else x

    Args:
        kind: "gaussian", "masking" or "salt_and_pepper".
        amount: for gaussian the standard deviation in units of the data, >= 0; otherwise the expected
            fraction of values that are replaced, 0 <= amount <= 1. 0 changes nothing.
        clip: (low, high) in units of the data, low < high; None is no limit for gaussian and (0, 1) for
            salt_and_pepper. Masking takes none.
        seed: whole number >= 0 for the same noise in every process; None follows
            keras.utils.set_random_seed.

    Raises:
        InputError: an unknown kind, an amount or a clip that it does not take.

    >>> spoil = Corruption("masking", 0.5, seed=0)
    >>> x = np.ones((100, 100), dtype="float32")
    >>> bool((np.asarray(spoil(x)) == 1).all()), round(float(np.mean(spoil(x, training=True))), 1)
    (True, 0.5)
    """

    def __init__(
        self,
        kind: str = "gaussian",
        amount: float = 0.2,
        *,
        clip: Sequence[float] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.kind, self.amount, self.clip = _checked(kind, amount, clip)
        self.seed = None if seed is None else positive_int("seed", seed, minimum=0)
        self.supports_masking = True
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self._build_at_init()

    def call(self, inputs: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        if not training or self.amount == 0:
            return inputs
        shape, dtype = ops.shape(inputs), inputs.dtype
        if self.kind == "gaussian":
            spoilt = inputs + self.amount * keras.random.normal(shape, dtype=dtype, seed=self.seed_generator)
            return spoilt if self.clip is None else ops.clip(spoilt, *self.clip)
        # in float32, as half precision has too few numbers for small amounts
        uniform = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        if self.kind == "masking":
            return ops.where(uniform < self.amount, ops.zeros_like(inputs), inputs)
        low, high = (ops.cast(limit, dtype) for limit in self.clip or (0.0, 1.0))
        extremes = ops.where(uniform < self.amount / 2, low, high)
        return ops.where(uniform < self.amount, extremes, inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"kind": self.kind, "amount": self.amount, "clip": self.clip and list(self.clip), "seed": self.seed}
        return {**super().get_config(), **own}


def corrupt(
    x: np.ndarray,
    kind: str = "gaussian",
    *,
    amount: float = 0.2,
    clip: Sequence[float] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """A spoilt copy of `x`, by the definitions of `Corruption`; the same seed spoils alike.

    Use it for noisy test data: a denoising autoencoder takes corrupt(x_test) and is compared with x_test.

    Args:
        x: floating-point array of any shape.
        kind: "gaussian", "masking" or "salt_and_pepper".
        amount: standard deviation (gaussian, >= 0) or expected fraction of values replaced, 0 <= amount <= 1.
        clip: (low, high); see `Corruption`.
        seed: whole number >= 0.

    Returns:
        An array of the shape and dtype of `x`.

    Raises:
        InputError: an array of another kind, an unknown kind, an amount or a clip that it does not take.

    >>> corrupt(np.ones((2, 4)), "masking", amount=0.5, seed=1)
    array([[1., 1., 0., 1.],
           [0., 0., 1., 0.]])
    """
    kind, amount, clip = _checked(kind, amount, clip)
    seed = positive_int("seed", seed, minimum=0)
    x = np.asarray(x)
    if x.dtype.kind != "f":
        raise refuse(
            "x", f"{x.dtype} array of shape {x.shape}", "floating-point values; scale whole numbers first"
        )
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        spoilt = x + amount * rng.standard_normal(x.shape)
        spoilt = spoilt if clip is None else np.clip(spoilt, *clip)
    else:
        uniform = rng.random(x.shape)
        low, high = (0.0, 0.0) if kind == "masking" else clip or (0.0, 1.0)
        spoilt = np.where(uniform < amount / 2, low, np.where(uniform < amount, high, x))
    return spoilt.astype(x.dtype)


def denoising(
    input_shape: Sequence[int],
    encoding_dim: int | None = None,
    *,
    base: str = "dense",
    noise: float = 0.2,
    corruption: str = "gaussian",
    clip: Sequence[float] | None = None,
    name: str = "denoising_autoencoder",
    **options: Any,
) -> keras.Model:
    """A denoising autoencoder decoder(encoder(corruption(x))), uncompiled.

    Use it where inputs will be noisy, or so that the code keeps what survives noise. `ae.fit(x, x)` with
    clean data trains it, as the noise is made in the model, anew for every batch, while it trains; predict
    and evaluate are free of it, and so are `encoder` and `decoder`. Vincent et al., "Extracting and composing
    robust features with denoising autoencoders" (ICML 2008). A saved file needs this package to load;
    `for_inference` gives a copy that does not.

    Args:
        input_shape: shape of one sample without the batch axis.
        encoding_dim: width of the code; None derives it (dense: `default_sizes`).
        base: "dense" or "convolutional", the builder of both halves.
        noise: `amount` of `Corruption`: standard deviation (>= 0) or fraction of values (0 to 1).
        corruption: `kind` of `Corruption`: "gaussian", "masking" or "salt_and_pepper".
        clip: (low, high) of `Corruption`.
        name: name of the model.
        **options: further arguments of the builder, such as hidden_units, filters or output_activation
            ("sigmoid" for data in [0, 1], "linear" for other data).

    Returns:
        A keras.Model with the attributes `encoder` and `decoder`; its layer "corruption" is in neither.

    Raises:
        InputError: unknown base, noise that does not exist, options that the builder does not take or refuses.

    >>> ae = denoising((64,), 8, noise=0.3, corruption="masking", hidden_units=(32,))
    >>> [layer.name for layer in ae.layers], ae.encoder.output_shape
    (['input', 'corruption', 'encoder', 'decoder'], (None, 8))
    """
    builders: dict[str, Callable[..., keras.Model]] = {"dense": dense, "convolutional": convolutional}
    build = builders[one_of("base", base, _BASES)]
    settings = _checked(corruption, noise, clip, names=("corruption", "noise"))
    if encoding_dim is None and base == "dense":
        encoding_dim = default_sizes(math.prod(sample_shape(input_shape)))[0]
    accepted = inspect.signature(build).parameters.values()
    known = [one.name for one in accepted if one.kind is one.KEYWORD_ONLY and one.name != "name"]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise refuse("options", ", ".join(unknown), f"those of models.{base}: {', '.join(known)}")
    plain = build(input_shape, encoding_dim, **options)
    layer = Corruption(settings[0], settings[1], clip=settings[2], name="corruption")
    return assemble(plain.encoder, plain.decoder, name, entrance=[layer])


def _checked(
    kind: Any, amount: Any, clip: Any, names: tuple[str, str] = ("kind", "amount")
) -> tuple[str, float, tuple[float, float] | None]:
    """The three settings of noise as plain values that fit each other."""
    kind = one_of(names[0], kind, _KINDS)
    if kind != "gaussian":
        amount = fraction(names[1], amount, high_open=False)
    elif not is_real(amount) or not (0 <= amount < math.inf):
        raise refuse(names[1], amount, "a standard deviation >= 0 in units of the data")
    if clip is None:
        return kind, float(amount), None
    if kind == "masking":
        raise refuse("clip", clip, "None for masking, which sets values to 0 and leaves the others")
    try:
        low, high = (float(limit) for limit in clip)
    except (TypeError, ValueError) as error:
        raise refuse("clip", clip, "None or (low, high), for example (0, 1)") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise refuse("clip", clip, "None or (low, high) with low < high, for example (0, 1)")
    return kind, float(amount), (low, high)
