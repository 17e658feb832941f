"""What can make calibration samples, by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import keras
import numpy as np

from keras_aeprune._registry import Registry
from keras_aeprune._validation import InputError, keras_model, positive_int, refuse
from keras_aeprune.calibration.samples import Calibration
from keras_aeprune.models.composed import entrance_of

__all__ = ["Source", "names", "register", "serialize", "source"]


class Source(ABC):
    """Base class. Law: `draw` returns exactly n finite float32 samples in the shape of the model's input.

    The same configuration, data, model and seed give the same samples; the data and the model are left as they
    were. The constructor holds the configuration and nothing else; data and model are passed in the call.
    Samples that are made, not taken, get labels only where a model that is a classifier predicts them (see
    `labels.predicted_labels`); otherwise y is None.

    Example:
        >>> class Zeros(Source):
        ...     def draw(self, n, *, real=None, model=None, seed=0):
        ...         return Calibration(np.zeros((n, *real.x.shape[1:]), "float32"), source="zeros")
        >>> Zeros().draw(3, real=Calibration(np.ones((9, 2), "float32"))).x.shape
        (3, 2)
    """

    @abstractmethod
    def draw(
        self, n: int, *, real: Calibration | None = None, model: keras.Model | None = None, seed: int = 0
    ) -> Calibration:
        """Make n samples.

        Args:
            n: how many, >= 1.
            real: real samples to learn from; None where there are none.
            model: the built Keras model that the samples are for; None where it does not matter.
            seed: a whole number >= 0.

        Returns:
            A `Calibration` whose `source` says how it came about.

        Raises:
            InputError: real samples or a model are needed and missing, or do not fit.
        """

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


_registry: Registry[Source] = Registry("calibration source", Source)
register = _registry.register
names = _registry.names


def source(identifier: Any) -> Source:
    """A source from its name, its serialized dict, its class or itself.

    Example:
        >>> from keras_aeprune import calibration
        >>> calibration.source("shuffled_pixels")
        ShuffledPixels(within='feature')
        >>> calibration.names()
        ['cut', 'decoder', 'gaussian_noise', 'real', 'shuffled_pixels', 'uniform_noise', 'vae']
    """
    return _registry.get(identifier)


def serialize(source: Source) -> dict[str, Any]:
    """The dict from which `source` makes an equal one.

    Example:
        >>> from keras_aeprune import calibration
        >>> calibration.serialize(calibration.Cut("hidden_3"))
        {'class_name': 'cut', 'config': {'part': 'hidden_3'}}
    """
    return _registry.serialize(source)


def checked(n: Any, real: Any, model: Any, seed: Any) -> tuple[int, np.random.Generator]:
    """The number of samples and the generator of random numbers, after a look at all that `draw` was given."""
    n, seed = positive_int("n", n), positive_int("seed", seed, minimum=0)
    if real is not None and not isinstance(real, Calibration):
        raise refuse("real", type(real).__name__, "a Calibration; calibration.get(data) makes one")
    if model is not None:
        wanted = getattr(keras_model(model), "input_shape", None)
        if real is not None and isinstance(wanted, tuple) and not any(isinstance(s, tuple) for s in wanted):
            found = real.x.shape
            fits = len(wanted) == len(found)
            fits = fits and all(a in (None, b) for a, b in zip(wanted[1:], found[1:], strict=True))
            if not fits:
                raise refuse("real", f"samples of shape {found[1:]}", f"those of {model.name!r}: {wanted[1:]}")
    return n, np.random.default_rng(seed)


def needed(real: Calibration | None, who: str, least: int = 1) -> Calibration:
    """`real`, if there is any and enough of it."""
    if real is None or len(real) < least:
        found = "None" if real is None else f"{len(real)} samples"
        raise InputError(
            f"real: got {found}, allowed: {least} or more real samples for {who!r}; calibration.get(data) "
            "makes them"
        )
    return real


def sample_shape(real: Calibration | None, model: keras.Model | None, who: str) -> tuple[int, ...]:
    """Shape of one sample: that of the real ones, else that of the model's one input."""
    if real is not None:
        return tuple(real.x.shape[1:])
    if model is None:
        raise InputError(f"real: got None, and no model, allowed: one of the two, so that {who!r} knows a shape")
    shape = tuple(entrance_of(model).shape[1:])
    if None in shape or not math.prod(shape):
        raise refuse("model", f"an input of shape {shape}", "known sizes, or real samples that show them")
    return shape
