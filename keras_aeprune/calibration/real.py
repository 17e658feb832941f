"""The real samples themselves."""

from __future__ import annotations

import keras

from keras_aeprune._validation import refuse
from keras_aeprune.calibration.samples import Calibration, get
from keras_aeprune.calibration.sources import Source, checked, needed, register

__all__ = ["Real"]


@register("real")
class Real(Source):
    """Real samples, drawn without replacement; the yardstick for every other source.

    Args:
        balanced: whether every class gives equally many, as in `calibration.get`.

    Example:
        >>> import numpy as np
        >>> real = get(np.eye(5))
        >>> Real().draw(3, real=real).x.shape
        (3, 5)
    """

    def __init__(self, balanced: bool = True):
        if not isinstance(balanced, bool):
            raise refuse("balanced", balanced, "True or False")
        self.balanced = balanced

    def draw(
        self, n: int, *, real: Calibration | None = None, model: keras.Model | None = None, seed: int = 0
    ) -> Calibration:
        n, _ = checked(n, real, model, seed)
        real = needed(real, "real")
        if n > len(real):
            raise refuse("n", n, f"at most {len(real)}, the real samples there are; they are drawn only once")
        return get(real, samples=n, seed=seed, balanced=self.balanced)
