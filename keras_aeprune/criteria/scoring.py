"""Scores of a whole model by name: per weight, per unit, and checked against the law of criteria."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import _graph, calibration
from keras_aeprune._layers import Weight, fits, weights
from keras_aeprune._validation import InputError, keras_model, one_of, refuse, shown
from keras_aeprune.criteria.base import Criterion, Evidence, get
from keras_aeprune.criteria.losses import forward

__all__ = ["checked", "evidence", "measured", "scores", "single_kernel", "unit_scores"]

REDUCTIONS = ("l2", "l1", "mean", "max")


def evidence(
    criterion: Criterion,
    model: keras.Model,
    chosen: Sequence[Weight],
    data: Any = None,
    loss: Any = None,
    *,
    kernels: list[np.ndarray] | None = None,
) -> Evidence:
    """What a criterion is shown; data that it looks at must be there and in the shape that the model takes.

    Labels that come with the data of an autoencoder are left out: where the output has the input's shape and
    the labels have not, the inputs are the targets. A loss that takes class numbers (sparse_...) keeps them.

    Args:
        criterion: that will look at it.
        model: a built Keras model.
        chosen: the kernels to score.
        data: a `Calibration` or None.
        loss: as for `scores`.
        kernels: the kernels' values as float32, for a caller that holds them; None reads the variables.

    Raises:
        InputError: if the criterion needs data and there are none, or samples have another shape than the
            model's input.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> evidence(get("magnitude"), model, weights(model)).kernels[0].shape
        (2, 1)
    """
    if criterion.needs_data and data is None:
        raise InputError(
            f"data: got None, allowed: calibration samples for criterion {shown(criterion)}, which looks at "
            f"{criterion.needs}; give data=x for an autoencoder, data=(x, y) otherwise"
        )
    if data is not None and criterion.needs != "weights" and model.built:
        data = _fitting(model, data, loss)
    seen = Evidence(model, tuple(chosen), data, loss)
    if kernels is not None:
        seen.__dict__["kernels"] = kernels  # where cached_property would put them; no second copy of the weights
    return seen


def _fitting(model: keras.Model, data: calibration.Calibration, loss: Any) -> calibration.Calibration:
    """The samples, if the model takes them; without labels where the inputs are the targets."""
    given = [tuple(np.shape(part)[1:]) for part in keras.tree.flatten(data.x)]
    if _graph.is_graph(model):
        inputs, outputs = ([tuple(t.shape[1:]) for t in tensors] for tensors in (model.inputs, model.outputs))
        if len(inputs) > 1 and len(given) == 1:
            raise InputError(
                f"data: got one array, samples of shape {given[0]}, allowed: for model {model.name!r} with the "
                f"inputs {', '.join(map(str, inputs))} a criterion without data, such as 'magnitude'; calibration "
                "data serve models with one input"
            )
        if len(inputs) != len(given) or not all(map(_same_shape, given, inputs)):
            raise InputError(
                f"data: got samples of shape {', '.join(map(str, given))}, allowed: "
                f"{', '.join(map(str, inputs))}, the input of model {model.name!r}; reshape the data"
            )
    else:  # what a subclassed model takes shows when it is called
        try:
            found = forward(model, keras.tree.map_structure(lambda part: part[:1], data.x))
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise InputError(
                f"data: got samples of shape {', '.join(map(str, given))}, which model {model.name!r} does not "
                f"take ({shown(str(error), 160)}), allowed: samples of the shape that it was built with"
            ) from error
        inputs, outputs = given, [tuple(part.shape[1:]) for part in keras.tree.flatten(found)]
    if data.y is None or len(outputs) != 1 or inputs != outputs or _same_shape(data.y.shape[1:], outputs[0]):
        return data
    return data if _takes_numbers_of_classes(model, loss) else replace(data, y=None)


def _same_shape(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether Keras takes one for the other: None is any size, a last axis of 1 may be there or not."""
    if len(given) == len(wanted) + 1 and given[-1] == 1:
        given = given[:-1]
    elif len(given) == len(wanted) - 1 and wanted[-1] == 1:
        given = (*given, 1)
    return len(given) == len(wanted) and all(w in (None, g) for g, w in zip(given, wanted, strict=True))


def _takes_numbers_of_classes(model: keras.Model, loss: Any) -> bool:
    loss = getattr(model, "loss", None) if loss is None else loss
    names = [one if isinstance(one, str) else getattr(one, "name", "") for one in keras.tree.flatten(loss)]
    names += [getattr(one, "__name__", "") for one in keras.tree.flatten(loss)]
    return any("sparse" in str(name).lower() or str(name).lower() in ("crossentropy", "ce") for name in names)


def measured(criterion: Criterion, seen: Evidence) -> list[np.ndarray]:
    """The scores of all kernels in `seen.weights`, after a check that they keep the law of criteria.

    Args:
        criterion: an instance.
        seen: model, kernels, data and loss, from `evidence`.

    Returns:
        One float32 array per kernel, of its shape, finite, higher means keep.

    Raises:
        InputError: for another number of arrays, another shape, or NaN and infinite values, with the kernel and
            the likely cause.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> criterion = get("magnitude")
        >>> measured(criterion, evidence(criterion, model, weights(model)))[0].tolist()
        [[1.0], [1.0]]
    """
    found = criterion.measure(seen)
    if not isinstance(found, (list, tuple)) or len(found) != len(seen.weights):
        got = f"{len(found)} arrays" if isinstance(found, (list, tuple)) else shown(found)
        raise InputError(
            f"criterion {shown(criterion)}: got {got}, allowed: a list of {len(seen.weights)} arrays, "
            "one per kernel"
        )
    return [checked(criterion, array, w, seen) for array, w in zip(found, seen.weights, strict=True)]


def checked(criterion: Criterion, array: Any, weight: Weight, seen: Evidence | None = None) -> np.ndarray:
    """One kernel's scores as float32, if they have its shape and are finite.

    Args:
        criterion: that made them, for the message.
        array: the scores.
        weight: whose scores they are.
        seen: what the criterion was shown, for the likely cause in the message; None if nobody knows.

    Raises:
        InputError: for another shape, what is no array of numbers, or NaN and infinite values.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> checked(get("magnitude"), [[1], [2]], weights(model)[0]).dtype
        dtype('float32')
    """
    wanted = tuple(weight.variable.shape)
    try:
        array = np.asarray(array, np.float32)
    except (TypeError, ValueError):
        raise InputError(
            f"criterion {shown(criterion)}: got {shown(array)} for {weight.path}, allowed: numbers of "
            f"shape {wanted}"
        ) from None
    if array.shape != wanted:
        raise InputError(
            f"criterion {shown(criterion)}: got scores of shape {array.shape} for {weight.path}, allowed: "
            f"{wanted}, the kernel's shape"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(array.sum()) or np.isfinite(array).all()  # the sum is one pass and no array
    if not finite:
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        raise InputError(
            f"scores: got {bad} NaN or infinite values of {array.size} for {weight.path} from criterion "
            f"{shown(criterion)}, allowed: finite ones ({_cause(weight, criterion, seen)})"
        )
    return array


def _cause(weight: Weight, criterion: Criterion, seen: Evidence | None) -> str:
    if not np.isfinite(keras.ops.convert_to_numpy(weight.variable).astype(np.float32)).all():
        return "the weights hold some themselves: did the training diverge?"
    if seen is not None and seen.data is not None and criterion.needs != "weights":
        if not np.isfinite(np.asarray(seen.data.x, np.float32)).all():
            return "the calibration data hold some"
        return f"the weights and data are finite, so its {criterion.needs} overflowed: lower the loss or scale x"
    return "the weights are finite, so the criterion itself overflows or divides by 0"


def single_kernel(identifier: Any) -> Criterion:
    """A criterion that can score one kernel by itself, for layers that see no more than that.

    Args:
        identifier: as for `get`.

    Raises:
        InputError: for a criterion that needs the whole model or data.

    Example:
        >>> single_kernel("magnitude")
        Magnitude(order=1)
    """
    criterion = get(identifier)
    if criterion.needs != "weights" or type(criterion).measure is not Criterion.measure:
        raise InputError(
            f"criterion: got {shown(criterion)}, which looks at a whole model, allowed: one that scores a kernel "
            "by itself, such as magnitude: a layer sees no more; use the callback keras_aeprune.Prune(schedule, "
            "criterion=..., data=...)"
        )
    return criterion


def scores(
    model: keras.Model,
    criterion: Any = "magnitude",
    data: Any = None,
    *,
    loss: Any = None,
    include: str | Iterable[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """How much each weight of a model matters, as a criterion sees it.

    For looking at a model, for comparing criteria, and for pruning by rules of one's own; `Prune` calls the
    criterion itself. Frozen kernels are scored as well. The model is left as it was.

    Args:
        model: a built Keras model: Sequential, functional, nested or subclassed.
        criterion: a name, or an instance, from `keras_aeprune.criteria`.
        data: calibration samples: x of shape (n, ...) for an autoencoder, (x, y), or what else
            `calibration.get` takes; None for criteria that look at the weights alone.
        loss: a Keras loss by name, instance or function, for criteria that look at gradients; None for the
            compiled one.
        include: layer names, paths like "encoder/hidden_1" or patterns like "encoder/*"; None for all.
        samples: how many samples are drawn from the data, >= 1; None for all.
        seed: of that draw, >= 0.

    Returns:
        {path through nested models: float32 array of the kernel's shape}, finite, higher means keep. Layers of
        unknown kind are left out with a warning.

    Raises:
        InputError: for a criterion that needs data and has none, for a name that fits no kernel, and for
            scores that are NaN.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="a")])
        >>> model.set_weights([np.array([[1.0, -3.0], [0.0, 2.0]]), np.zeros(2)])
        >>> scores(model)["a/kernel"].tolist()
        [[1.0, 3.0], [0.0, 2.0]]
    """
    chosen, seen = _shown(model, criterion, data, loss, include, samples, seed)
    found = measured(chosen, seen)
    return {weight.path: array for weight, array in zip(seen.weights, found, strict=True)}


def unit_scores(
    model: keras.Model,
    criterion: Any = "magnitude",
    data: Any = None,
    *,
    loss: Any = None,
    reduction: str | None = None,
    include: str | Iterable[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """How much each output unit (neuron, filter, channel) of a layer matters.

    A criterion that scores units natively (activations, Taylor gates) is asked for those. Otherwise a unit's score
    is a reduction of the scores s of all weights that lead into it:

        l2: sqrt(sum s^2)    l1: sum |s|    mean: sum s / n    max: max s

    These are the weights along `Kernel.unit_axis`. A recurrent unit has the columns of all its gates, in the
    kernel and in the recurrent kernel. A separable convolution's filters are those of its pointwise kernel; its
    depthwise weights serve all filters alike and are left out. l1 and l2 lose the sign of criteria that have one.

    Args:
        model: a built Keras model.
        criterion: as for `scores`.
        data: as for `scores`.
        loss: as for `scores`.
        reduction: "l2", "l1", "mean" or "max"; None takes the criterion's own unit scores where it has them,
            and "l2" elsewhere.
        include: as for `scores`.
        samples: as for `scores`.
        seed: as for `scores`.

    Returns:
        {layer path: float32 array of shape (units,)}, higher means keep. Kernels without an axis of units
        (EinsumDense) are left out.

    Raises:
        InputError: as for `scores`, and for another reduction.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="a")])
        >>> model.set_weights([np.array([[3.0, -1.0], [4.0, 0.0]]), np.zeros(2)])
        >>> unit_scores(model)["a"].tolist(), unit_scores(model, reduction="mean")["a"].tolist()
        ([5.0, 1.0], [3.5, 0.5])
    """
    if reduction is not None:
        one_of("reduction", reduction, REDUCTIONS)
    chosen, seen = _shown(model, criterion, data, loss, include, samples, seed)
    if reduction is None and hasattr(chosen, "measure_units"):
        return _native(chosen, seen)
    parts: dict[str, list[np.ndarray]] = {}
    for weight, array in zip(seen.weights, measured(chosen, seen), strict=True):
        if (view := _by_unit(weight, array)) is not None:
            parts.setdefault(weight.layer_path, []).append(view)
    return {path: _reduced(views, reduction or "l2") for path, views in parts.items()}


def _native(criterion: Any, seen: Evidence) -> dict[str, np.ndarray]:
    found = criterion.measure_units(seen)
    for path, array in found.items():
        if np.ndim(array) != 1 or not np.isfinite(array).all():
            raise InputError(
                f"criterion {shown(criterion)}: got unit scores {shown(array)} for {path}, allowed: finite "
                "numbers of shape (units,)"
            )
    return {path: np.asarray(array, np.float32) for path, array in found.items()}


def _by_unit(weight: Weight, array: np.ndarray) -> np.ndarray | None:
    """Scores as (weights of a unit, units), or None where the weights belong to no single unit."""
    kernel, layer = weight.facts, weight.layer
    if kernel.unit_axis is None:
        return None
    if kernel.input_axis is None and hasattr(layer, "pointwise_kernel"):
        return None
    units: int = array.shape[kernel.unit_axis]
    view = np.moveaxis(array, kernel.unit_axis, -1).reshape(-1, units)
    if hasattr(layer, "recurrent_kernel"):  # its columns are gates of `units` columns each, one after the other
        units = getattr(layer, "units", getattr(layer, "filters", units))
        view = view.reshape(-1, units)
    return view


def _reduced(views: list[np.ndarray], reduction: str) -> np.ndarray:
    both = np.concatenate(views).astype(np.float64)
    if reduction == "l2":
        found = np.sqrt(np.square(both).sum(axis=0))
    elif reduction == "l1":
        found = np.abs(both).sum(axis=0)
    else:
        found = both.mean(axis=0) if reduction == "mean" else both.max(axis=0)
    return found.astype(np.float32)


def _shown(
    model: Any, criterion: Any, data: Any, loss: Any, include: Any, samples: int | None, seed: int
) -> tuple[Criterion, Evidence]:
    chosen = get(criterion)
    found = weights(keras_model(model))
    usable = [w for w in found if w.kernel is not None and (not w.reason or _frozen(w))]
    unusable = [w for w in found if w not in usable]
    if include is not None:
        names = [include] if isinstance(include, str) else list(include)
        for name in names:
            if not isinstance(name, str) or not any(fits(w.path, name) for w in usable):
                reasons = [
                    f"{w.path}: {w.reason}" for w in unusable if isinstance(name, str) and fits(w.path, name)
                ]
                allowed = f"what fits one of: {', '.join(w.path for w in usable)}"
                raise refuse("include", name, "; ".join([allowed, *reasons]))
        usable = [w for w in usable if any(fits(w.path, name) for name in names)]
    elif unusable:
        listed = "; ".join(f"{w.path}: {w.reason}" for w in unusable)
        warnings.warn(f"criteria: layers without scores: {listed}", stacklevel=3)
    if not usable:
        raise InputError(f"model {model.name!r}: got no kernel that can be scored, allowed: at least one")
    known = None if data is None else calibration.get(data, samples=samples, seed=seed)
    return chosen, evidence(chosen, model, usable, known, loss)


def _frozen(weight: Weight) -> bool:
    """Whether being frozen is all that speaks against pruning a kernel: it still can be scored."""
    return weight.reason.startswith("frozen")
