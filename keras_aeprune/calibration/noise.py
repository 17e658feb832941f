"""Samples without structure: the controls that every generator has to beat."""

from __future__ import annotations

import keras
import numpy as np

from keras_aeprune._validation import one_of, refuse
from keras_aeprune.calibration.labels import predicted_labels
from keras_aeprune.calibration.samples import Calibration
from keras_aeprune.calibration.sources import Source, checked, needed, register, sample_shape

__all__ = ["GaussianNoise", "ShuffledPixels", "UniformNoise"]


def _finished(x: np.ndarray, real: Calibration | None, model: keras.Model | None, name: str) -> Calibration:
    labels = predicted_labels(model, x, None if real is None else real.y)
    return Calibration(x, labels, name)


@register("gaussian_noise")
class GaussianNoise(Source):
    """Independent normal values with the mean and the deviation that each feature has in the real samples.

        x_j = clip(m_j + s_j e, min_j, max_j),  e ~ N(0, 1)

    Use it as a control that has the right scale of every feature and nothing else. The clipping takes a little
    off the deviations. Without real samples it is N(0, 1) in the shape of the model's input.

    Example:
        >>> from keras_aeprune.calibration.samples import get
        >>> GaussianNoise().draw(4, real=get(np.array([[0.0, 5.0], [1.0, 5.0]]))).x[:, 1].tolist()
        [5.0, 5.0, 5.0, 5.0]
    """

    def draw(
        self, n: int, *, real: Calibration | None = None, model: keras.Model | None = None, seed: int = 0
    ) -> Calibration:
        n, generator = checked(n, real, model, seed)
        noise = generator.standard_normal((n, *sample_shape(real, model, "gaussian_noise")))
        if real is not None:
            mean, deviation = real.x.mean(axis=0, dtype="float64"), real.x.std(axis=0, dtype="float64")
            noise = np.clip(mean + deviation * noise, real.x.min(axis=0), real.x.max(axis=0))
        return _finished(noise.astype("float32"), real, model, "gaussian_noise")


@register("uniform_noise")
class UniformNoise(Source):
    """Independent values, all equally likely between the smallest and the largest real ones.

    Use it as the crudest control. Without real samples it is uniform in [0, 1) in the shape of the model's input.

    Args:
        range: "feature" takes the smallest and the largest value of each feature, so that constant features
            stay so; "all" takes those of all features together.

    Example:
        >>> from keras_aeprune.calibration.samples import get
        >>> x = UniformNoise().draw(100, real=get(np.array([[0.0, -9.0], [1.0, 9.0]]))).x
        >>> x.min(axis=0).round().tolist(), x.max(axis=0).round().tolist()
        ([0.0, -9.0], [1.0, 9.0])
    """

    def __init__(self, range: str = "feature"):
        self.range = one_of("range", range, ("feature", "all"))

    def draw(
        self, n: int, *, real: Calibration | None = None, model: keras.Model | None = None, seed: int = 0
    ) -> Calibration:
        n, generator = checked(n, real, model, seed)
        noise = generator.random((n, *sample_shape(real, model, "uniform_noise")))
        if real is not None:
            axis = 0 if self.range == "feature" else None
            low, high = (
                np.asarray(value, dtype="float64") for value in (real.x.min(axis=axis), real.x.max(axis=axis))
            )
            noise = low + (high - low) * noise
        return _finished(noise.astype("float32"), real, model, "uniform_noise")


@register("shuffled_pixels")
class ShuffledPixels(Source):
    """Real values in wrong places.

    Use it as the control that keeps the values of real samples and destroys what belongs together. It makes
    no new values, so it also suits codes for words.

    Args:
        within: "feature" permutes each feature across the samples: the distribution of each feature stays as
            it is, exactly where n is a multiple of the number of real samples, and features become
            independent. "sample" permutes the values within each sample: each sample keeps its values, and all
            places become alike. Of samples with three axes (height, width, channels) whole pixels move,
            their channels together; of others single values.

    Example:
        >>> from keras_aeprune.calibration.samples import get
        >>> real = get(np.arange(6.0).reshape(3, 2))
        >>> sorted(ShuffledPixels("feature").draw(3, real=real).x[:, 0].tolist())
        [0.0, 2.0, 4.0]
    """

    def __init__(self, within: str = "feature"):
        if not isinstance(within, str):
            raise refuse("within", within, "feature, sample")
        self.within = one_of("within", within, ("feature", "sample"))

    def draw(
        self, n: int, *, real: Calibration | None = None, model: keras.Model | None = None, seed: int = 0
    ) -> Calibration:
        n, generator = checked(n, real, model, seed)
        x = needed(real, "shuffled_pixels").x
        rounds = -(-n // len(x))
        if self.within == "feature":
            flat = x.reshape(len(x), -1)
            found = np.concatenate([generator.permuted(flat, axis=0) for _ in range(rounds)])[:n]
        else:
            chosen = np.concatenate([generator.permutation(len(x)) for _ in range(rounds)])[:n]
            pixels = x[chosen].reshape(n, -1, x.shape[-1] if x.ndim == 4 else 1)
            order = generator.permuted(np.tile(np.arange(pixels.shape[1]), (n, 1)), axis=1)
            found = np.take_along_axis(pixels, order[:, :, None], axis=1)
        found = np.ascontiguousarray(found.reshape(n, *x.shape[1:]))
        return _finished(found, real, model, "shuffled_pixels")
