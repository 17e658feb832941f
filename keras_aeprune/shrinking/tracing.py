"""Follow the units of a whole model through its layers, and find the groups that can go."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_aeprune import _graph
from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError, keras_model
from keras_aeprune.models.stacked import DenseTranspose
from keras_aeprune.shrinking.passing import OPERATIONS, PASSING, is_elementwise
from keras_aeprune.shrinking.rebuild import arguments, as_graph, entrance_shapes
from keras_aeprune.shrinking.rules import WEIGHTED, Rule, dense_transpose
from keras_aeprune.shrinking.units import Flow, Member, Units

__all__ = ["Group", "Traced", "register", "trace"]

_RULES: dict[type, Rule] = {**WEIGHTED, **PASSING, DenseTranspose: dense_transpose}
_INPUT, _OUTPUT = "input of the model", "output of the model"


def register(layer_class: type, rule: Rule) -> None:
    """Tell the package how units pass through an own kind of layer.

    Args:
        layer_class: a `keras.layers.Layer` subclass.
        rule: rule(tracer, layer, flows, shapes) -> flows, one for each output. For a layer that treats each
            channel of the last axis by itself and has no weights, `passing.passing`; see `rules` for others.

    Raises:
        InputError: if `layer_class` is not a layer class.

    Example:
        >>> from keras_aeprune.shrinking.passing import passing
        >>> class Half(keras.layers.Layer):
        ...     def call(self, x):
        ...         return x / 2
        >>> register(Half, passing)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Layer)):
        raise InputError(f"layer_class: got {layer_class!r}, allowed: a keras.layers.Layer subclass")
    _RULES[layer_class] = rule


@dataclass(frozen=True, eq=False)
class Group:
    """Units of one or more layers that go together, one of each layer at a time.

    Args:
        name: path of the first layer that makes them; its heads have "/heads" behind it.
        makers: (name, units) of all that make them.
        classes: number of each unit of the group, as in `Traced.classes`.
        reason: why they all stay; "" where they can go.

    Example:
        >>> Group("code", (("code", np.arange(8)),), np.arange(8), reason="it is an output of the model").size
        8
    """

    name: str
    makers: tuple[tuple[str, np.ndarray], ...]
    classes: np.ndarray
    reason: str = ""

    @property
    def size(self) -> int:
        """How many units can go."""
        return len(self.classes)


class Traced:
    """A model's units; made by `trace`.

    Args:
        model: a built Keras model.
        accept_normalization: whether layers that normalize or mix across units may do so over the kept ones.
    """

    def __init__(self, model: keras.Model, *, accept_normalization: bool = False):
        self.model, self.accept_normalization = model, accept_normalization
        self.units = Units()
        self.members: dict[int, Member] = {}
        self.entrances: dict[int, list[Flow]] = {}  # of nested models, by id
        self._paths = {id(layer): path for path, layer in walk(model)}
        self._known: dict[int, tuple] = {}  # axes of weights that several layers share
        self._views: dict[int, keras.Model] = {}
        self._elementwise: dict[tuple, tuple[Any, bool]] = {}
        view = as_graph(model)
        flows = [self._fixed(tensor, _INPUT) for tensor in view.inputs]
        for flow in _graph.run(view, flows, self._call):
            self.units.keep(flow.ids, _OUTPUT)

    # what rules use

    def member(self, layer: Any, inputs: list, note: Callable[[Member], None]) -> Member:
        """The member of a layer: noted at the first call, its inputs joined with those of later ones."""
        member = self.members.get(id(layer))
        if member is None:
            member = Member(self.path(layer), layer, list(inputs))
            self.members[id(layer)] = member
            note(member)
            for part in member.parts:
                known = self._known.setdefault(id(part.variable), part.axes)
                for ids, others in zip(part.axes, known, strict=True):
                    if ids is not None and others is not None:
                        self.units.join(ids, others)
            return member
        for first, now in zip(member.inputs, inputs, strict=True):
            self.join(first, now, member.path)
        return member

    def passed(self, layer: Any, inputs: list, outputs: Sequence = ()) -> None:
        """Note a layer without weights; its calls have nothing in common, so nothing is joined."""
        if id(layer) not in self.members:
            self.members[id(layer)] = Member(self.path(layer), layer, list(inputs), list(outputs))

    def elsewhere(self, layer: Any, caller: Any) -> bool:
        """Whether a layer is called by something else than `caller` too; then all its units stay."""
        known = self.members.get(id(layer))
        if known is None or known.layer is caller:
            return False
        for ids in (*known.inputs, *known.made.values()):
            self.units.keep(ids, f"{known.path} ({type(known.layer).__name__}) and others call one layer")
        return True

    def join(self, ids: np.ndarray | None, others: np.ndarray | None, path: str) -> None:
        """Units that meet in one place go together."""
        if ids is None or others is None or len(ids) != len(others):
            for one in (ids, others):
                self.units.keep(one, f"{path} joins tensors of different or unknown width")
        else:
            self.units.join(ids, others)

    def whole(self, layer: Any, flows: Sequence[Flow], shapes: Sequence[tuple], reason: str) -> list[Flow]:
        """Leave all units at a layer's entrances and exits as they are."""
        told = f"{self.path(layer)} ({type(layer).__name__}) {reason}"
        for flow in flows:
            self.units.keep(flow.ids, told)
        found = []
        for shape in shapes:
            ids = self.units.new(shape[-1]) if shape and shape[-1] else None
            self.units.keep(ids, told)
            found.append(Flow(tuple(shape), ids))
        known = self.members.get(id(layer))
        if known is None:
            self.members[id(layer)] = Member(self.path(layer), layer, [flow.ids for flow in flows])
            self.members[id(layer)].outputs = [flow.ids for flow in found]
        return found

    def elementwise(self, function: Any, shape: Sequence[int | None]) -> bool:
        """Whether an activation of tensors of that shape makes each number of one number alone."""
        width = 6 if shape[-1] != 6 else 7  # not the real one, so that numbers by channel are not taken
        key = (id(function), len(shape), width)
        if key not in self._elementwise:
            self._elementwise[key] = (function, is_elementwise(function, len(shape), width))
        return self._elementwise[key][1]

    def path(self, layer: Any) -> str:
        """Of a layer through nested models; the name of an operation."""
        return self._paths.get(id(layer), getattr(layer, "name", "?"))

    def rule(self, layer: Any) -> Rule | None:
        """How units pass through a layer or operation; None for an unknown kind."""
        if not isinstance(layer, keras.Layer):
            return OPERATIONS.get(type(layer).__name__)
        if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
            return None
        return _RULES.get(type(layer))  # a subclass may compute something else

    # the walk

    def _fixed(self, tensor: Any, reason: str) -> Flow:
        shape = tuple(tensor.shape[1:])
        if not shape or shape[-1] is None or not keras.backend.is_float_dtype(tensor.dtype):
            return Flow(shape)
        ids = self.units.new(shape[-1])
        self.units.keep(ids, reason)
        return Flow(shape, ids)

    def _call(self, node: Any, args: tuple, kwargs: dict) -> list[Flow]:
        operation = node.operation
        given = arguments(operation, args, kwargs).arguments
        masks = [value for name, value in given.items() if name.endswith("mask")]
        for mask in keras.tree.flatten(masks):
            if isinstance(mask, Flow):
                self.units.keep(mask.ids, f"mask of {self.path(operation)}")
        values = keras.tree.flatten([value for name, value in given.items() if not name.endswith("mask")])
        flows = [value for value in values if isinstance(value, Flow)]
        shapes = [tuple(tensor.shape[1:]) for tensor in node.outputs]
        if isinstance(operation, keras.Model):
            return self._nested(operation, flows, node)
        rule = self.rule(operation)
        if rule is None:
            return self.whole(operation, flows, shapes, "is of a kind without a rule")
        if self.elsewhere(operation, operation):
            return self.whole(operation, flows, shapes, "is called through another layer too")
        own = () if isinstance(operation, keras.Layer) else vars(operation).values()  # such as limits of a clip
        constants = [value for value in (*values, *own) if hasattr(value, "shape") and not isinstance(value, Flow)]
        if any(math.prod(value.shape) > 1 for value in constants):
            return self.whole(operation, flows, shapes, "takes an array of constants")
        return rule(self, operation, flows, shapes)

    def _nested(self, model: keras.Model, flows: list[Flow], node: Any) -> list[Flow]:
        view = self._views.get(id(model))
        if view is None:
            shapes = None
            if not _graph.is_graph(model):
                shapes = entrance_shapes(node)
            view = self._views[id(model)] = as_graph(model, shapes)
        first = self.entrances.setdefault(id(model), flows)
        if first is not flows:
            for ids, others in zip(first, flows, strict=True):
                self.join(ids.ids, others.ids, self.path(model))
        return _graph.run(view, flows, self._call)

    # what was found

    @cached_property
    def classes(self) -> np.ndarray:
        """For each unit the number of its class."""
        return self.units.classes()

    @cached_property
    def groups(self) -> list[Group]:
        """All groups, in the order of the layers that make them."""
        reasons = self.units.reasons()
        makers = [
            (f"{member.path}/{name}" if name else member.path, ids)
            for member in dict.fromkeys(self.members.values())
            for name, ids in member.made.items()
        ]
        seen: dict[int, list[int]] = {}
        for number, (_, ids) in enumerate(makers):
            for one in dict.fromkeys(self.classes[ids].tolist()):
                seen.setdefault(one, []).append(number)
        found: dict[tuple, list[int]] = {}
        for one, numbers in seen.items():
            found.setdefault((tuple(numbers), reasons.get(one, "")), []).append(one)
        taken: dict[str, int] = {}
        groups = []
        for (numbers, reason), members in found.items():
            name = makers[numbers[0]][0]
            taken[name] = taken.get(name, 0) + 1
            label = name if taken[name] == 1 else f"{name}#{taken[name]}"
            made = tuple(makers[number] for number in numbers)
            groups.append(Group(label, made, np.array(members), reason))
        return groups

    def kept(self, removed: Sequence[int] | np.ndarray) -> np.ndarray:
        """For each unit whether it stays when the classes `removed` go."""
        return ~np.isin(self.classes, removed)


def trace(model: keras.Model, *, accept_normalization: bool = False) -> Traced:
    """Follow the units through a model.

    Args:
        model: a built Keras model; it is not changed.
        accept_normalization: as for `plan`.

    Raises:
        InputError: a model that is not built, or a subclassed one that cannot be traced.

    Example:
        >>> layers = [keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")]
        >>> model = keras.Sequential([keras.Input((3,)), *layers])
        >>> [(group.name, group.size, group.reason) for group in trace(model).groups]
        [('a', 4, ''), ('b', 2, 'output of the model')]
    """
    return Traced(keras_model(model), accept_normalization=accept_normalization)
