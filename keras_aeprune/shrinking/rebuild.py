"""A new model like a given one, with other layers in the place of some."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_aeprune import _graph
from keras_aeprune._validation import InputError, shown

__all__ = ["Rebuilt", "build_optimizer", "arguments", "as_graph", "compile_like", "entrance_shapes", "rebuild"]

_HALVES = ("encoder", "decoder")


def as_graph(model: keras.Model, shapes: Any = None) -> keras.Model:
    """A model whose layers and their order are known: itself, or a subclassed one traced through its `call`.

    The traced model shares the layers, and so the weights, of the given one.

    Args:
        model: a built Keras model.
        shapes: of its inputs with the batch axis, where the model itself does not know them.

    Raises:
        InputError: a model that is not built, or whose `call` does more than call layers and Keras operations.

    Example:
        >>> class Own(keras.Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.dense = keras.layers.Dense(2, name="dense")
        ...     def call(self, x):
        ...         return self.dense(x) + 1.0
        >>> own = Own()
        >>> _ = own(keras.ops.zeros((1, 3)))
        >>> [type(operation).__name__ for operation in as_graph(own).operations][1:]
        ['Dense', 'Add']
    """
    if _graph.is_graph(model):
        if not model.built or not getattr(model, "inputs", None):
            raise InputError(
                f"model {model.name!r}: got a model that is not built, allowed: a built one; give it an Input"
            )
        if type(model).call.__module__.startswith("keras."):
            return model
        struct = getattr(model, "_inputs_struct", model.inputs[0])  # its class computes more than its graph
        shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), struct)
    if shapes is None:
        shapes = getattr(model, "_build_shapes_dict", None) or {}
        shapes = next(iter(shapes.values())) if len(shapes) == 1 else None
    if shapes is None:
        raise InputError(
            f"model {model.name!r}: got a subclassed model whose input shape is not known, allowed: one that was "
            "called on a batch"
        )
    single = isinstance(shapes, (list, tuple)) and all(size is None or isinstance(size, int) for size in shapes)
    try:
        if single:
            inputs: Any = keras.Input((*shapes[1:],), name="input")
        elif isinstance(shapes, dict):
            inputs = {key: keras.Input((*shape[1:],), name=key) for key, shape in shapes.items()}
        else:
            inputs = keras.tree.map_shape_structure(lambda shape: keras.Input((*shape[1:],)), shapes)
        outputs = model.call(inputs)
        traced = keras.Model(inputs, outputs, name=model.name)
    except Exception as error:  # whatever the user's own code meets
        raise InputError(
            f"model {model.name!r}: {type(model).__name__}.call cannot be traced "
            f"({shown(' '.join(str(error).split()), 160)}), allowed: a call made of layers and keras.ops; build "
            "it as keras.Model(inputs, outputs)"
        ) from error
    reached = {id(v) for v in traced.weights}
    missing = [v.path for v in model.weights if id(v) not in reached]
    if missing:
        raise InputError(
            f"model {model.name!r}: {type(model).__name__} has weights that its call uses without a layer, or not "
            f"at all ({', '.join(missing[:3])}), allowed: weights in layers; move them into a layer"
        )
    return traced


def arguments(operation: Any, args: tuple, kwargs: dict) -> inspect.BoundArguments:
    """What a layer or operation is called with, in the order of its own arguments."""
    call = operation.call if hasattr(operation, "call") else operation
    return inspect.signature(call).bind(*args, **kwargs)


def entrance_shapes(node: Any) -> Any:
    """Shapes of the tensors that a nested model is called with, batch axis included, as they are packed."""
    given = arguments(node.operation, node.arguments.args, node.arguments.kwargs)
    return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), next(iter(given.arguments.values())))


def _alike(layer: Any) -> Any:
    """A layer or operation with the same config.

    An operation could serve both models, but would hold the new model, weights included, as long as it lives.

    Raises:
        InputError: it has no config that makes it again.
    """
    kind = type(layer)
    try:
        if isinstance(layer, keras.layers.Lambda):  # the user's own function, here already: nothing is loaded
            return kind.from_config(layer.get_config(), safe_mode=False)
        return kind.from_config(layer.get_config())
    except Exception as error:  # whatever the user's own code meets
        if not isinstance(layer, keras.Layer):
            return layer
        raise InputError(
            f"layer {layer.name!r}: {kind.__name__} cannot be made again from its config "
            f"({shown(' '.join(str(error).split()), 160)}), allowed: layers with a get_config that returns what "
            "their constructor takes"
        ) from error


class Rebuilt:
    """Builds a new model call by call; each layer is made once, however often it is used.

    Args:
        make: make(layer) -> the layer for its place, or None for a copy with the same config.
        entrance: entrance(model, number of the input, its tensor) -> shape of the nested model's new input
            without the batch axis.
        call: call(layer, new layer, args, kwargs) -> outputs, for what is to be done around a call; None calls.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        entrance: Callable[[keras.Model, int, Any], tuple] | None = None,
        call: Callable[[Any, Any, tuple, dict], Any] | None = None,
    ):
        self._make, self._entrance, self._around = make, entrance, call
        self.made: dict[int, Any] = {}  # by the id of what it was made from
        self.pairs: list[tuple[Any, Any]] = []  # (layer, new layer), without models
        self._views: dict[int, keras.Model] = {}

    def model(self, model: keras.Model, top: bool = True) -> keras.Model:
        """The new model for `model`, and those for all models inside; weights are the initial ones."""
        if id(model) in self.made:
            return self.made[id(model)]
        view = self._views.get(id(model)) or as_graph(model)
        shapes = [
            tuple(t.shape[1:]) if top or self._entrance is None else self._entrance(model, number, t)
            for number, t in enumerate(view.inputs)
        ]
        entrances = [
            keras.Input(shape, dtype=tensor.dtype, name=tensor.name, batch_size=tensor.shape[0])
            for shape, tensor in zip(shapes, view.inputs, strict=True)
        ]
        if isinstance(view, keras.Sequential) and self._around is None:
            layers = [self._new(layer) for layer in view.layers]
            new = keras.Sequential([entrances[0], *layers], name=view.name)
        else:
            outputs = _graph.run(view, entrances, self._call)
            new = self._assembled(view, entrances, outputs)
        for name in _HALVES:
            half = self.made.get(id(vars(model).get(name)))
            if half is not None and name not in vars(new):
                setattr(new, name, half)
        self.made[id(model)] = new
        return new

    def _assembled(self, view: keras.Model, entrances: list, outputs: list) -> keras.Model:
        inputs = keras.tree.pack_sequence_as(view._inputs_struct, entrances) if _struct(view) else entrances[0]
        results = keras.tree.pack_sequence_as(view._outputs_struct, outputs) if _struct(view) else outputs[0]
        kind = type(view) if _made_of_tensors(type(view)) else keras.Model
        return kind(inputs, results, name=view.name)

    def _new(self, layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return self.model(layer, top=False)
        if id(layer) not in self.made:
            new = self._make(layer)
            if new is None:
                new = _alike(layer)
            if isinstance(new, keras.Layer) and new.trainable != layer.trainable:
                new.trainable = layer.trainable
            self.made[id(layer)] = new
            self.pairs.append((layer, new))
        return self.made[id(layer)]

    def _call(self, node: Any, args: tuple, kwargs: dict) -> Any:
        operation = node.operation
        subclassed = isinstance(operation, keras.Model) and not _graph.is_graph(operation)
        if subclassed and id(operation) not in self._views:
            self._views[id(operation)] = as_graph(operation, entrance_shapes(node))
        if not isinstance(operation, keras.Layer):
            new = self._make(operation) or _alike(operation)
        else:
            new = self._new(operation)
        if self._around is not None:
            return self._around(operation, new, args, kwargs)
        return new(*args, **kwargs)


def _struct(view: keras.Model) -> bool:
    return hasattr(view, "_inputs_struct")


def _made_of_tensors(kind: type) -> bool:
    """Whether a class is made as kind(inputs, outputs, name=...), like the functional models of this package."""
    return kind.__module__.startswith(("keras_aeprune.", "keras.")) and not issubclass(kind, keras.Sequential)


def rebuild(model: keras.Model, make: Callable[[Any], Any], **hooks: Any) -> tuple[keras.Model, Rebuilt]:
    """A new model in which `make(layer)` stands for each layer, None for a copy; see `Rebuilt`.

    The new layers have their first weights; `Rebuilt.pairs` says which was made from which.

    Args:
        model: a built Keras model: Sequential, functional, nested, or subclassed if `as_graph` can trace it.
        make: make(layer) -> a new layer or None.
        **hooks: `entrance` and `call` of `Rebuilt`.
    """
    maker = Rebuilt(make, **hooks)
    return maker.model(model), maker


def build_optimizer(model: keras.Model) -> None:
    """Make the optimizer's variables, without which a saved model loads with a warning."""
    optimizer = model.optimizer
    if optimizer is not None and model.built and not optimizer.built:
        optimizer.build(model.trainable_variables)


def compile_like(new: keras.Model, model: keras.Model) -> None:
    """Compile `new` as `model` is, with an optimizer of its own; say so where that cannot be done."""
    if not model.compiled:
        return
    try:
        new.compile_from_config(model.get_compile_config())
        build_optimizer(new)
    except Exception as error:  # a loss or metric of the user's own that has no config
        warnings.warn(
            f"model {new.name!r}: not compiled, since the loss or metrics of the given one have no config "
            f"({shown(' '.join(str(error).split()), 120)}); call compile() on it",
            stacklevel=3,
        )
