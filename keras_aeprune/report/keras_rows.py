"""A Keras model layer by layer: weights, zeros, work, units that can go and units that do nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from keras_aeprune._layers import walk, weights
from keras_aeprune._validation import InputError, keras_model
from keras_aeprune.export.dead import dead_layers
from keras_aeprune.report.inspected import Inspection, LayerRow, UnitGroup
from keras_aeprune.report.measure import calls, macs
from keras_aeprune.report.storage import sparse_bytes
from keras_aeprune.shrinking.costs import Costs
from keras_aeprune.shrinking.dead import Dead, find_dead
from keras_aeprune.shrinking.tracing import Traced, trace

__all__ = ["inspect_model"]

_NO_MACS = (kl.Embedding, kl.BatchNormalization, kl.Normalization, kl.Rescaling)
_BATCH = 256


def inspect_model(model: keras.Model, *, data: Any = None) -> Inspection:
    """Look at a Keras model layer by layer; the model is not changed.

    Args:
        model: a built Keras model.
        data: samples (n, *input shape), n >= 2, to find units and layers that do nothing on them; None looks
            at the weights alone.

    Returns:
        An `Inspection` without bytes, since there is no file. MACs are those with weights; an axis of unknown
        length counts as one position, a layer whose work is not known has None.

    Raises:
        InputError: a model without weights, or data that does not fit.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), kl.Dense(3, name="hidden"), kl.Dense(4, name="out")])
        >>> found = inspect_model(model)
        >>> found.macs, found.parameters, [(group.name, group.units) for group in found.groups if not group.reason]
        (24, 31, [('hidden', 3)])
    """
    keras_model(model)
    kernels = {id(weight.variable): weight for weight in weights(model) if weight.kernel is not None}
    traced, hints = _traced(model)
    work, unknown = _work(model, traced)
    dead, lost = _dead(model, traced, data)
    rows: list[LayerRow] = []
    seen: set[int] = set()
    for path, layer in _outermost(model):
        rows.append(_row(path, layer, kernels, seen, work, dead))
    own = [variable for variable in model.weights if id(variable) not in seen]
    if own:  # weights that the model holds itself, or that only a loop of layers reaches
        rows.append(_numbers(LayerRow("(the model itself)", type(model).__name__, None, ""), own, kernels, seen))
    groups = () if traced is None else tuple(_groups(traced))
    return Inspection(model.name, "memory", tuple(rows), groups, (*hints, *unknown, *lost))


def _traced(model: keras.Model) -> tuple[Traced | None, list[str]]:
    try:
        return trace(model), []
    except InputError as error:
        return None, [f"what can be cut is not known: {error}"]


def _outermost(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Layers of the model and of nested models; a layer inside another layer belongs to that one."""
    owner = None
    for path, layer in walk(model):
        if owner is not None and path.startswith(f"{owner}/"):
            continue
        owner = None
        if not isinstance(layer, (keras.Model, kl.InputLayer)):
            owner = path
            yield path, layer


def _work(model: keras.Model, traced: Traced | None) -> tuple[dict[str, int], list[str]]:
    """Multiplications with weights by path, and what is not counted."""
    if traced is None:
        counted = macs(model)
        return counted["by_layer"], [f"MACs are not counted for {line}" for line in counted["not_counted"]]
    costs = Costs(traced).layers(np.ones(len(traced.classes), bool))
    paths = {id(layer): path for path, layer in walk(model)}
    times = Counter(
        paths.get(id(layer), "") for _, layer, _ in calls(model, "")
    )  # Costs count one call of a layer
    open_axes = any(None in shape[1:] for shape in _shapes(model.inputs))
    told = ["an input has an axis of open length: MACs count one position along it"] * open_axes
    return {cost.path: cost.macs[0] * max(times[cost.path], 1) for cost in costs}, told


def _shapes(tensors: Any) -> list[tuple]:
    return [tuple(tensor.shape) for tensor in keras.tree.flatten(tensors or [])]


def _dead(model: keras.Model, traced: Traced | None, data: Any) -> tuple[Dead, list[str]]:
    """Units that do nothing, and sentences about whole layers."""
    said = []
    if data is not None:
        x = _fitting(model, data)
        batches = [x[start : start + _BATCH] for start in range(0, len(x), _BATCH)]
        said = [f"{path} never fires on the data: it gives only zeros" for path in dead_layers(model, batches)]
    if traced is None:
        return Dead(), said
    dead = find_dead(traced, data)
    for row in dead.rows:
        if row.reason.startswith("the last of its layer") and row.why == "incoming":
            said.append(f"{row.path} always gives the same: all weights that make it are zero")
    if dead.removed:
        paths = ", ".join(dict.fromkeys(row.path for row in dead.rows if row.removed))
        where = "the weights" if data is None else "the data"
        said.append(
            f"{dead.removed:,} units do nothing by {where} ({paths}): shrinking.without_dead cuts them out and "
            "leaves the outputs as they are"
        )
    return dead, said


def _fitting(model: keras.Model, data: Any) -> np.ndarray:
    x = np.asarray(data)
    shapes = _shapes(model.inputs)
    wanted = shapes[0][1:] if len(shapes) == 1 else None
    fits = wanted is not None and x.ndim == len(wanted) + 1 and len(x) > 1
    if not fits or any(size not in (None, got) for size, got in zip(wanted or (), x.shape[1:], strict=True)):
        text = "one input" if wanted is None else f"(n, {', '.join(map(str, wanted))}) with n >= 2"
        raise InputError(f"data: got shape {x.shape} for model {model.name!r}, allowed: {text}")
    return x


def _row(path: str, layer: Any, kernels: dict, seen: set, work: dict[str, int], dead: Dead) -> LayerRow:
    kind = type(layer).__name__
    below = [value for name, value in work.items() if name == path or name.startswith(f"{path}/")]
    counted = sum(below)
    heavy = any(len(variable.shape) > 1 for variable in layer.weights) and not isinstance(layer, _NO_MACS)
    count = sum(
        len(row.units)
        for row in dead.rows
        if row.path.split("#")[0].removesuffix("/heads") == path and (row.removed or row.reason)
    )
    row = LayerRow(
        path,
        kind,
        _output_shape(layer),
        _dtype(layer),
        macs=None if heavy and not counted else counted,
        dead=count,
        note="runs as a loop" if isinstance(layer, kl.RNN) and not layer.unroll else "",
    )
    return _numbers(row, layer.weights, kernels, seen)


def _numbers(row: LayerRow, variables: Any, kernels: dict, seen: set) -> LayerRow:
    """The row with what its weights hold; a weight that was counted before is not counted again."""
    held = dict.fromkeys(("parameters", "kernel_weights", "zeros", "weight_bytes", "sparse_bytes", "units"), 0)
    for variable in variables:
        weight = kernels.get(id(variable))
        if weight is not None and weight.kernel.unit_axis is not None:
            held["units"] = max(held["units"], int(variable.shape[weight.kernel.unit_axis]))
        if id(variable) in seen:
            continue
        seen.add(id(variable))
        size = math.prod(variable.shape)
        held["parameters"] += size
        held["weight_bytes"] += size * _width(variable.dtype)
        if weight is None:
            held["sparse_bytes"] += 4 * size
            continue
        used = keras.ops.convert_to_numpy(variable) != 0
        held["kernel_weights"] += size
        held["zeros"] += size - int(np.count_nonzero(used))
        held["sparse_bytes"] += sparse_bytes(used)
    return LayerRow(**{**vars(row), **held})


def _width(dtype: Any) -> int:
    name = keras.backend.standardize_dtype(dtype)
    return {"bfloat16": 2, "int4": 1, "bool": 1}.get(name) or np.dtype(name).itemsize


def _dtype(layer: Any) -> str:
    named = [keras.backend.standardize_dtype(v.dtype) for v in layer.weights if len(v.shape) > 1] or [
        layer.compute_dtype
    ]
    return str(named[0])


def _output_shape(layer: Any) -> tuple[int | None, ...] | None:
    """Of the first call; None where the calls cannot be seen, as in a subclassed model."""
    for node in layer._inbound_nodes:
        if node.outputs:
            return tuple(node.outputs[0].shape)
    return None


def _groups(traced: Traced) -> Iterator[UnitGroup]:
    for group in traced.groups:
        yield UnitGroup(group.name, int(group.size), tuple(name for name, _ in group.makers), group.reason)
