"""The error that a cut may cost, measured on samples that the compensation does not see."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_aeprune import calibration
from keras_aeprune._validation import InputError, refuse
from keras_aeprune.shrinking.compensation import compensate
from keras_aeprune.shrinking.cutting import cut
from keras_aeprune.shrinking.tracing import Traced

__all__ = ["Limit"]


class Limit:
    """Whether a cut and compensated model keeps its loss.

    Args:
        traced: the model with its units.
        increase: fraction by which the loss may grow, >= 0.
        data: calibration samples, 8 or more; every fourth judges.
        loss: a Keras loss by name, instance or function; None takes the compiled one.

    Raises:
        InputError: without data or a single loss, for a model of several outputs, or a loss that is not above 0.
    """

    def __init__(self, traced: Traced, increase: float, data: Any, loss: Any = None):
        if isinstance(increase, bool) or not isinstance(increase, (int, float)) or not 0 <= increase < math.inf:
            raise refuse("max_error_increase", increase, "a fraction >= 0")
        model = traced.model
        if data is None:
            raise refuse("data", None, "calibration samples, for max_error_increase")
        loss = getattr(model, "loss", None) if loss is None else loss
        if loss is None or isinstance(loss, (list, tuple, dict)):
            raise InputError(
                f"loss: model {model.name!r} has {'none' if loss is None else 'several'}, allowed: one; give loss="
            )
        self._loss, self._traced, self._increase = keras.losses.get(loss), traced, float(increase)
        seen = calibration.get(data)
        if len(seen) < 8:
            raise InputError(f"data: got {len(seen)} samples, allowed: 8 or more for max_error_increase")
        judges = np.arange(len(seen)) % 4 == 3
        targets = seen.x if seen.y is None else seen.y
        self._fitted, self._x, self._y = seen.x[~judges], seen.x[judges], targets[judges]
        self.first = self._error(model)
        if not (math.isfinite(self.first) and self.first > 0):
            raise InputError(f"model {model.name!r}: its loss on the data is {self.first}, allowed: above 0")
        self._best = self.first

    def holds(self, kept: np.ndarray) -> bool:
        """Whether the loss stays within the limit if these units stay."""
        if kept.all():
            return True
        small = cut(self._traced, kept)
        compensate(self._traced.model, small, self._traced, kept, self._fitted)
        error = self._error(small)
        held = bool(error <= (1 + self._increase) * self.first)
        if held:
            self._best = error
        return held

    @property
    def told(self) -> str:
        """What was measured, in words."""
        return (
            f"loss on {len(self._x)} samples {self.first:.5g} -> {self._best:.5g} "
            f"(x{self._best / self.first:.3f}) after the cut and its compensation"
        )

    def _error(self, model: keras.Model) -> float:
        found = model.predict(self._x, batch_size=256, verbose=0)
        if isinstance(found, (list, dict)):
            raise InputError(f"model {model.name!r}: got several outputs, allowed: one, for max_error_increase")
        return float(np.mean(keras.ops.convert_to_numpy(self._loss(self._y, found))))
