"""Samples of a variational autoencoder as a source by name."""

from __future__ import annotations

import os

import keras

from keras_aeprune._validation import one_of, positive_int, refuse
from keras_aeprune.calibration.generator import KINDS, generate, train_generator
from keras_aeprune.calibration.labels import predicted_labels
from keras_aeprune.calibration.samples import Calibration
from keras_aeprune.calibration.sources import Source, checked, needed, register
from keras_aeprune.models import load

__all__ = ["Vae"]


@register("vae")
class Vae(Source):
    """Samples of a variational autoencoder that is trained on the real ones, or was and is read from a file.

    Use it to prune or calibrate without keeping the data, or with more samples than there are. `draw` trains
    with `train_generator` each time, which takes seconds; give `path` to use one generator again. How
    codes are drawn is said at `generate`: one Gaussian for each class of labelled samples, one for all of
    unlabelled ones, and the prior N(0, I) where a file is given and no real samples are.

    Labels: predicted by `model` where it is a classifier; the class a sample was drawn for where no model is
    given; None for other models. Kingma and Welling 2014, https://arxiv.org/abs/1312.6114.

    Args:
        encoding_dim: width of the code; None takes `models.default_sizes`. Not used with `path`.
        epochs: of the training, >= 1. Not used with `path`.
        kind: "dense" or "convolutional". Not used with `path`.
        path: a .keras file of a generator; None trains one.

    Raises:
        InputError: an argument cannot be used.

    Example:
        >>> import numpy as np
        >>> from keras_aeprune.calibration.samples import get
        >>> real = get(np.random.default_rng(0).normal(size=(40, 6)))
        >>> Vae(encoding_dim=2, epochs=1).draw(5, real=real).x.shape
        (5, 6)
    """

    def __init__(
        self, encoding_dim: int | None = None, epochs: int = 30, kind: str = "dense", path: str | None = None
    ):
        self.encoding_dim = None if encoding_dim is None else positive_int("encoding_dim", encoding_dim)
        self.epochs = positive_int("epochs", epochs)
        self.kind = one_of("kind", kind, KINDS)
        if path is not None and not isinstance(path, str | os.PathLike):
            raise refuse("path", path, "the path of a .keras file, or None")
        self.path = None if path is None else os.fspath(path)

    def draw(
        self, n: int, *, real: Calibration | None = None, model: keras.Model | None = None, seed: int = 0
    ) -> Calibration:
        n, _ = checked(n, real, model, seed)
        if self.path is not None:
            generator = load(self.path)
        else:
            real = needed(real, "vae", least=2)
            options = {"encoding_dim": self.encoding_dim, "epochs": self.epochs, "kind": self.kind}
            generator = train_generator(real.x, seed=seed, **options)
        found = generate(generator, n, real=real, seed=seed)
        if model is None:
            return found
        return Calibration(found.x, predicted_labels(model, found.x, None if real is None else real.y), "vae")
