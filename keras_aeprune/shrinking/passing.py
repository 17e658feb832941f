"""Rules for what has no weights: which units pass, are joined, laid side by side or spread over other axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from keras_aeprune.models.denoising import Corruption
from keras_aeprune.models.sampling import Sampling
from keras_aeprune.shrinking.rules import Rule
from keras_aeprune.shrinking.units import Flow, Member

__all__ = ["OPERATIONS", "PASSING"]


def passing(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """Each channel by itself; what is done to positions is the same for all of them."""
    ids = flows[0].ids
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        return tracer.whole(layer, flows, shapes, "has its channels first")
    if getattr(layer, "noise_shape", None) is not None:
        return tracer.whole(layer, flows, shapes, "has a noise shape of its own")
    tracer.passed(layer, [ids])
    return [Flow(shape, ids) for shape in shapes]


def activation(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """A function of each number, or one that mixes them."""
    if not tracer.elementwise(layer, flows[0].shape):
        if tracer.accept_normalization:
            return passing(tracer, layer, flows, shapes)
        return tracer.whole(layer, flows, shapes, "mixes its units")
    return passing(tracer, layer, flows, shapes)


def rescaling(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """x * scale + offset; by channel it has a config that is not cut."""
    if np.size(layer.scale) > 1 or np.size(layer.offset) > 1:
        return tracer.whole(layer, flows, shapes, "has a scale for each channel")
    return passing(tracer, layer, flows, shapes)


def merging(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """Numbers at the same place: their units go together."""
    wide = [flow for flow in flows if flow.ids is not None and len(flow.ids) > 1]
    path = tracer.path(layer)
    for flow in flows:
        if flow not in wide:
            tracer.units.keep(flow.ids, f"{path} repeats its only channel")
    if any(flow.ids is None for flow in flows):
        return tracer.whole(layer, flows, shapes, "merges tensors of unknown width")
    for flow in wide[1:]:
        tracer.join(wide[0].ids, flow.ids, path)
    tracer.passed(layer, [flow.ids for flow in flows])
    return [Flow(shapes[0], (wide or flows)[0].ids)]


def concatenation(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """Side by side along the last axis; one after the other along another."""
    axis = layer.axis
    if axis not in (-1, len(flows[0].shape)):
        return merging(tracer, layer, flows, shapes)
    ids = [flow.ids for flow in flows if flow.ids is not None]
    if len(ids) < len(flows):
        return tracer.whole(layer, flows, shapes, "merges tensors of unknown width")
    tracer.passed(layer, ids, [np.concatenate(ids)])
    return [Flow(shapes[0], np.concatenate(ids))]


def _spread(move: Callable[[Any, np.ndarray, tuple], np.ndarray]) -> Rule:
    """The rule of a layer that moves numbers without changing them: units are followed one by one."""

    def rule(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
        flow, shape = flows[0], tuple(size or 1 for size in shapes[0])
        if flow.ids is None:
            return tracer.whole(layer, flows, shapes, "has channels of unknown number")
        if shapes[0][-1] is None:
            return tracer.whole(layer, flows, shapes, "moves units to an axis of unknown length")
        known = tuple(size or 1 for size in flow.shape)
        if getattr(layer, "data_format", "channels_last") == "channels_first":
            return tracer.whole(layer, flows, shapes, "has its channels first")
        if math.prod(known) != math.prod(shape):
            return tracer.whole(layer, flows, shapes, "moves units over an axis of unknown length")
        moved = move(layer, np.broadcast_to(flow.ids, known), shape).reshape(-1, shape[-1])
        if (moved != moved[0]).any():  # a channel is made of many units: they go together
            tracer.units.join(moved, np.broadcast_to(moved[0], moved.shape))

        def note(member: Member) -> None:
            member.outputs = [moved[0]]
            if isinstance(layer, kl.Reshape):
                target = tuple(layer.target_shape)
                fixed = all(size is not None and size > 0 for size in flow.shape[:-1]) and len(target) > 1
                head = tuple(shapes[0][:-1]) if fixed else target[:-1]
                member.resized = lambda count: {"target_shape": (*head, count(moved[0]))}

        member = tracer.member(layer, [flow.ids], note)
        return [Flow(shapes[0], member.outputs[0])]

    return rule


def elementwise_operation(tracer: Any, operation: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """x + y, x * 2, keras.ops.relu(x) on tensors."""
    if not flows:
        return tracer.whole(operation, flows, shapes, "takes no tensor")
    return (
        merging(tracer, operation, flows, shapes) if len(flows) > 1 else passing(tracer, operation, flows, shapes)
    )


_PASSING = (
    *(kl.ELU, kl.LeakyReLU, kl.ReLU, kl.Identity, kl.ActivityRegularization, kl.RepeatVector),
    *(kl.Dropout, kl.AlphaDropout, kl.GaussianDropout, kl.GaussianNoise),
    *(kl.SpatialDropout1D, kl.SpatialDropout2D, kl.SpatialDropout3D),
    *(kl.MaxPooling1D, kl.MaxPooling2D, kl.MaxPooling3D),
    *(kl.AveragePooling1D, kl.AveragePooling2D, kl.AveragePooling3D),
    *(kl.GlobalAveragePooling1D, kl.GlobalAveragePooling2D, kl.GlobalAveragePooling3D),
    *(kl.GlobalMaxPooling1D, kl.GlobalMaxPooling2D, kl.GlobalMaxPooling3D),
    *(kl.UpSampling1D, kl.UpSampling2D, kl.UpSampling3D),
    *(kl.ZeroPadding1D, kl.ZeroPadding2D, kl.ZeroPadding3D),
    *(kl.Cropping1D, kl.Cropping2D, kl.Cropping3D),
    Corruption,
)
_MERGING = (kl.Add, kl.Subtract, kl.Multiply, kl.Average, kl.Maximum, kl.Minimum, Sampling)

PASSING: dict[type, Rule] = {
    **dict.fromkeys(_PASSING, passing),
    **dict.fromkeys(_MERGING, merging),
    kl.Activation: activation,
    kl.Softmax: activation,
    kl.Rescaling: rescaling,
    kl.Concatenate: concatenation,
    kl.Flatten: _spread(lambda layer, ids, shape: ids.reshape(shape)),
    kl.Reshape: _spread(lambda layer, ids, shape: ids.reshape(shape)),
    kl.Permute: _spread(lambda layer, ids, shape: ids.transpose([axis - 1 for axis in layer.dims])),
}

# Keras operations on tensors, which have no class that is exported; by name
OPERATIONS: dict[str, Rule] = dict.fromkeys(
    (
        *("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu"),
        *("Gelu", "Silu", "Sigmoid", "HardSigmoid", "HardSilu", "Tanh", "Softplus", "Softsign", "Exp"),
        *("Absolute", "Square", "Sqrt", "Negative", "Clip", "Divide", "TrueDivide"),
    ),
    elementwise_operation,
)


def is_elementwise(function: Any, rank: int = 2, width: int = 6) -> bool:
    """Whether a function, or a layer without weights, makes each number of one number alone; tried out.

    Args:
        function: of a tensor; None returns it.
        rank: of the tensors without their batch axis.
        width: of their last axis in the trial.

    Example:
        >>> is_elementwise(keras.activations.gelu), is_elementwise(keras.activations.softmax)
        (True, False)
    """
    if function is None:
        return True
    around = (1,) * (rank - 1)
    rows = np.random.default_rng(0).normal(size=(1, *around, width)).astype("float32").repeat(width, axis=0)
    changed = rows + np.eye(width, dtype="float32").reshape(rows.shape)
    try:
        before, after = (
            keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x))) for x in (rows, changed)
        )
    except Exception:  # it needs another shape than a channel by itself: so it does more than that
        return False
    if before.shape != rows.shape:
        return False
    others = ~np.eye(width, dtype=bool)
    return bool((before == after).reshape(width, width)[others].all())
