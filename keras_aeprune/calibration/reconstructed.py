"""Samples from the model's own decoder, or from a part that was cut out of it."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import InputError, refuse
from keras_aeprune.calibration.cutting import cut
from keras_aeprune.calibration.gaussian import Gaussian
from keras_aeprune.calibration.labels import predicted_labels
from keras_aeprune.calibration.samples import Calibration
from keras_aeprune.calibration.sources import Source, checked, needed, register
from keras_aeprune.models import decoder_of, embed
from keras_aeprune.models.outcome import predicted

__all__ = ["Cut", "Decoder"]


def _given(model: keras.Model | None, who: str) -> keras.Model:
    if model is None:
        raise InputError(f"model: got None, allowed: the model whose part makes the samples of {who!r}")
    return model


def _finished(x: Any, real: Calibration | None, model: keras.Model, name: str) -> Calibration:
    x = np.asarray(x, dtype="float32")
    if not np.isfinite(x).all():
        raise InputError(f"model: {model.name!r} makes NaN or infinite samples of drawn codes; train it first")
    wanted = getattr(model, "input_shape", None) if real is None else real.x.shape
    if not isinstance(wanted, tuple) or any(isinstance(size, tuple) for size in wanted):
        wanted = x.shape  # several inputs, or none known: nothing to compare with
    if len(wanted) != x.ndim or any(a not in (None, b) for a, b in zip(wanted[1:], x.shape[1:], strict=True)):
        raise InputError(
            f"model: the part behind {name!r} makes values of shape {x.shape[1:]}, allowed: a part that makes "
            f"samples of shape {tuple(wanted[1:])}, as in an autoencoder"
        )
    return Calibration(x, predicted_labels(model, x, None if real is None else real.y), name)


@register("decoder")
class Decoder(Source):
    """What the autoencoder's own decoder makes of drawn codes.

    Use it where the model to prune is itself the best knowledge of the data that is at hand: nothing is trained.
    With real samples the codes come from the Gaussian with the mean and covariance of their codes (shrunk towards
    a sphere as Ledoit and Wolf, see `gaussian.Gaussian`), clipped to the range of the codes on each axis, so
    that a code behind a rectifier stays one. Without real samples they come from N(0, I), which suits variational
    autoencoders; the codes of others lie elsewhere.

    The model needs a part called decoder, see `models.decoder_of`, that takes the code alone.

    Example:
        >>> from keras_aeprune.models import dense
        >>> Decoder().draw(3, model=dense((8,), 2)).x.shape
        (3, 8)
    """

    def draw(
        self, n: int, *, real: Calibration | None = None, model: keras.Model | None = None, seed: int = 0
    ) -> Calibration:
        n, generator = checked(n, real, model, seed)
        model = _given(model, "decoder")
        decoder = decoder_of(model)
        shape = getattr(decoder, "input_shape", None)
        known = isinstance(shape, tuple) and all(size is None or isinstance(size, int) for size in shape)
        if shape is not None and (not known or None in shape[1:]):
            raise refuse("model", f"a decoder that takes {shape}", "one that takes one code of known shape")
        if real is None:
            if shape is None:
                raise InputError(
                    f"model: the decoder of {model.name!r} does not say what it takes, allowed: real samples, "
                    "whose codes show it"
                )
            codes = generator.standard_normal((n, *shape[1:]), dtype="float32")
        else:
            known_codes = embed(model, needed(real, "decoder", least=2).x)
            shape = (None, known_codes.shape[1]) if shape is None else shape
            if math.prod(shape[1:]) != known_codes.shape[1]:
                wide = known_codes.shape[1]
                raise refuse("model", f"codes of {wide} values", f"what its decoder takes, {tuple(shape[1:])}")
            codes = Gaussian.fit(known_codes).draw(n, generator, clip=True).reshape(n, *shape[1:])
        return _finished(predicted(decoder, codes), real, model, "decoder")


@register("cut")
class Cut(Source):
    """What a part that was cut out of the model makes of drawn activations.

    Use it for autoencoders whose halves have no names, or to draw at another place than the code: further from
    the output there is more freedom, nearer to it samples are more like the real ones. The model is cut in
    front of the layer `part`; the activations that the real samples have there are fitted by a Gaussian as
    in `Decoder`, and drawn ones go through the rest of the model. `Cut("decoder")` is `Decoder()`. The
    literature has no settled meaning for such a source; this is ours.

    The rest must make samples, so the model must be an autoencoder, functional or Sequential. The cut is made
    in a copy; the model stays as it is.

    Args:
        part: name of the first layer that belongs to the part, "outer/inner" for a layer of a nested model.

    Raises:
        InputError: `part` is no name.

    Example:
        >>> from keras_aeprune.calibration.samples import get
        >>> from keras_aeprune.models import dense
        >>> real = get(np.random.default_rng(0).random((20, 8)))
        >>> Cut("decoder/output").draw(3, real=real, model=dense((8,), 2)).x.shape
        (3, 8)
    """

    def __init__(self, part: str = "decoder"):
        if not isinstance(part, str) or not part:
            raise refuse("part", part, "the name of a layer")
        self.part = part

    def draw(
        self, n: int, *, real: Calibration | None = None, model: keras.Model | None = None, seed: int = 0
    ) -> Calibration:
        n, generator = checked(n, real, model, seed)
        model = _given(model, "cut")
        halves = cut(model, self.part)
        activations = halves.encode(needed(real, "cut", least=2).x)
        shape = activations.shape[1:]
        codes = Gaussian.fit(activations.reshape(len(activations), -1)).draw(n, generator, clip=True)
        return _finished(halves.decode(codes.reshape(n, *shape)), real, model, "cut")
