"""Make the smaller model, and the large one whose removed units count as zero."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_aeprune.shrinking.rebuild import Rebuilt, arguments, compile_like
from keras_aeprune.shrinking.tracing import Traced
from keras_aeprune.shrinking.units import Member, Part

__all__ = ["UnitMask", "cut", "masked", "sliced"]


@keras.saving.register_keras_serializable("keras_aeprune")
class UnitMask(keras.layers.Layer):
    """Sets channels of the last axis to zero: y = where(mask, x, 0).

    Args:
        mask: one 0 or 1 for each channel.

    Example:
        >>> keras.ops.convert_to_numpy(UnitMask([1, 0])(np.array([[3.0, 4.0]]))).tolist()
        [[3.0, 0.0]]
    """

    def __init__(self, mask: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.mask = np.asarray(mask, bool)
        self.supports_masking = True

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.where(self.mask, inputs, keras.ops.zeros_like(inputs))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mask": self.mask.astype(int).tolist()}


def sliced(part: Part, kept: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """The numbers of a weight that stay.

    Args:
        part: a weight and the units along its axes.
        kept: for each unit of the model whether it stays.
        values: the weight's numbers; None reads the variable.
    """
    values = keras.ops.convert_to_numpy(part.variable) if values is None else values
    for axis, ids in enumerate(part.axes):
        if ids is not None:
            values = np.compress(kept[ids], values, axis=axis)
    return values


def cut(traced: Traced, kept: np.ndarray) -> keras.Model:
    """The smaller model.

    Args:
        traced: the model with its units.
        kept: for each unit whether it stays; at least one of every group.
    """

    def count(ids: np.ndarray) -> int:
        return int(np.count_nonzero(kept[ids]))

    def make(layer: Any) -> Any:
        member = traced.members.get(id(layer))
        if member is None or member.resized is None or _untouched(member, kept):
            return None
        changes = member.resized(count)
        return type(layer).from_config({**layer.get_config(), **changes})

    def entrance(model: keras.Model, number: int, tensor: Any) -> tuple:
        ids, shape = traced.entrances[id(model)][number].ids, tuple(tensor.shape[1:])
        return shape if ids is None else (*shape[:-1], count(ids))

    maker = Rebuilt(make, entrance)
    new = maker.model(traced.model)
    for old, twin in maker.pairs:
        if isinstance(old, keras.Layer) and old.weights:
            member = traced.members.get(id(old))
            parts = {id(part.variable): part for part in member.parts} if member is not None else {}
            _give(twin, [_value(variable, parts, kept) for variable in old.weights])
    compile_like(new, traced.model)
    return new


def _give(layer: Any, values: list[np.ndarray]) -> None:
    layer.set_weights(values)
    if hasattr(layer, "finalize_state"):  # Normalization reads its weights once
        layer.finalize_state()


def _untouched(member: Member, kept: np.ndarray) -> bool:
    every = [ids for ids in (*member.inputs, *member.outputs, *member.made.values()) if ids is not None]
    return all(kept[ids].all() for ids in every)


def _value(variable: Any, parts: dict[int, Part], kept: np.ndarray) -> np.ndarray:
    part = parts.get(id(variable))
    return keras.ops.convert_to_numpy(variable) if part is None else sliced(part, kept)


def masked(traced: Traced, kept: np.ndarray) -> keras.Model:
    """A copy of the large model in which removed units count as zero wherever a layer mixes what comes in.

    Args:
        traced: the model with its units.
        kept: for each unit whether it stays.
    """
    count = 0

    def call(layer: Any, new: Any, args: tuple, kwargs: dict) -> Any:
        nonlocal count
        member = traced.members.get(id(layer))
        if member is None or not member.mixed:
            return new(*args, **kwargs)
        bound = arguments(new, args, kwargs)
        number = -1

        def hidden(value: Any) -> Any:
            nonlocal number, count
            if not isinstance(value, keras.KerasTensor):
                return value
            number += 1
            ids = member.inputs[number] if number in member.mixed else None
            if ids is None or kept[ids].all():
                return value
            count += 1
            # of the tensor's own type: it is not to be rounded, whatever the global policy says
            return UnitMask(kept[ids], name=f"unit_mask_{count}", dtype=value.dtype)(value)

        found = {name: keras.tree.map_structure(hidden, value) for name, value in bound.arguments.items()}
        bound.arguments.update(found)
        return new(*bound.args, **bound.kwargs)

    maker = Rebuilt(lambda layer: None, call=call)
    new = maker.model(traced.model)
    for old, twin in maker.pairs:
        if isinstance(old, keras.Layer) and old.weights:
            member = traced.members.get(id(old))
            parts = {id(part.variable): part for part in member.parts} if member is not None else {}
            _give(twin, [_silenced(variable, parts, member, kept) for variable in old.weights])
    compile_like(new, traced.model)
    return new


def _silenced(variable: Any, parts: dict[int, Part], member: Member | None, kept: np.ndarray) -> np.ndarray:
    """A weight without what it takes from removed units inside the layer itself: recurrent states, heads."""
    values, part = keras.ops.convert_to_numpy(variable), parts.get(id(variable))
    if part is None or part.takes is None or member is None:
        return values
    ids = part.axes[part.takes]
    inside = [made for made in member.made.values() if ids is not None and np.isin(ids, made).all()]
    if not inside:
        return values
    shape = [1] * values.ndim
    shape[part.takes] = -1
    return np.where(kept[ids].reshape(shape), values, 0).astype(values.dtype)
