"""How much each class of units matters, by any criterion of this package."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_aeprune import criteria
from keras_aeprune._layers import weights
from keras_aeprune.shrinking.tracing import Traced
from keras_aeprune.shrinking.units import Part

__all__ = ["class_scores"]


def class_scores(traced: Traced, criterion: Any, data: Any = None, loss: Any = None) -> np.ndarray:
    """A score for each class of units; higher means keep.

    Each layer's unit scores are divided by their root mean square, so that layers can be compared, and those of
    the layers that make a class together are averaged. A unit's score is what the criterion says of units, or
    the root of the sum of squares of its weights' scores. Kernels that a criterion of units does not know, such
    as the heads of attention, are scored by the size of their weights.

    Args:
        traced: the model with its units.
        criterion: a name or instance from `keras_aeprune.criteria`.
        data: calibration samples, as for `criteria.scores`.
        loss: as for `criteria.scores`.

    Returns:
        float64 array as long as `traced.classes`; only the places of class numbers are filled, others are 0.
    """
    chosen = criteria.get(criterion)
    known = {id(weight.variable): weight for weight in weights(traced.model)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="criteria: layers without scores")  # the plan lists them itself
        by_unit = criteria.unit_scores(traced.model, chosen, data, loss=loss) if _native(chosen) else {}
        by_weight = {} if _native(chosen) else criteria.scores(traced.model, chosen, data, loss=loss)
    total, count = np.zeros(len(traced.classes)), np.zeros(len(traced.classes))
    for member in dict.fromkeys(traced.members.values()):
        for ids in member.made.values():
            squares = np.zeros(len(traced.classes))
            for part in member.parts:
                made = None if part.makes is None else part.axes[part.makes]
                if made is not None and np.isin(made, ids).all():
                    found = _unit_scores(part, known.get(id(part.variable)), by_unit, by_weight)
                    np.add.at(squares, traced.classes[made[: len(found)]], found)
            members = np.unique(traced.classes[ids])
            scale = np.sqrt(squares[members].mean())
            total[members] += np.sqrt(squares[members]) / scale if scale > 0 else 0.0
            count[members] += 1
    return total / np.maximum(count, 1)


def _native(criterion: Any) -> bool:
    return hasattr(criterion, "measure_units")


def _unit_scores(
    part: Part, weight: Any, by_unit: Mapping[str, np.ndarray], by_weight: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The squared scores of the units that a weight makes."""
    if weight is not None and weight.layer_path in by_unit:
        found = np.asarray(by_unit[weight.layer_path], np.float64)
        found = found - min(found.min(), 0.0)  # a criterion with a sign: the order is what counts
        if len(part.along(part.makes)) % len(found) == 0:
            return np.square(found)
    scores = by_weight.get(weight.path) if weight is not None else None
    values = keras.ops.convert_to_numpy(part.variable) if scores is None else scores
    axes = tuple(axis for axis in range(len(part.axes)) if axis != part.makes)
    return np.square(np.asarray(values, np.float64)).sum(axis=axes)
