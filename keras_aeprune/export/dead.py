"""Layers that give only zeros on some inputs, and models without the units that do nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune._graph import is_graph
from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError
from keras_aeprune.export.signatures import Signature
from keras_aeprune.export.trace import portable
from keras_aeprune.shrinking.dead import without_dead


@dataclass(frozen=True)
class Removal:
    """A model without what does nothing.

    Args:
        model: the smaller model, or the given one where nothing was found or it could not be followed.
        units: how many units are gone.
        layers: paths of the layers that lost some.
        on_data: whether some of them only do nothing on the calibration data.
        note: why the model was left as it is although there are zeros in it, or what was cut only because it
            does nothing on the data; else "".
    """

    model: keras.Model
    units: int = 0
    layers: tuple[str, ...] = ()
    on_data: bool = False
    note: str = ""


def without_dead_units(signature: Signature, *, with_data: bool) -> Removal:
    """The model of `signature` without the units that do nothing on any input.

    Args:
        signature: the model and its samples; it is not changed.
        with_data: where a whole layer gives only zeros on all samples, which breaks an int8 file, units that
            are constant on the samples go as well.

    Example:
        >>> from keras_aeprune.export.signatures import signatures_of
        >>> layers = [keras.layers.Dense(3, "relu", name="hidden"), keras.layers.Dense(1)]
        >>> model = keras.Sequential([keras.Input((2,)), *layers])
        >>> model.set_weights([np.ones((2, 3)), np.zeros(3), np.array([[1.0], [0.0], [1.0]]), np.zeros(1)])
        >>> (signature,) = signatures_of(model, None, None, seed=0, batch=1)
        >>> removal = without_dead_units(signature, with_data=False)
        >>> removal.units, removal.layers, removal.model.layers[0].units
        (1, ('hidden',), 2)
    """
    model = signature.model
    data = None
    if with_data and signature.count > 1:
        with portable(model):
            if dead_layers(model, signature.batches()):
                data = signature.inputs.pack([signature.arrays[item.name] for item in signature.inputs.items])
    if data is None and not has_dead_slices(model):
        return Removal(model)
    try:
        with portable(model):
            small, dead = without_dead(_uncompiled(model), data)
    except InputError as error:
        return Removal(model, note=f"dead units were not looked for in {model.name!r}: {error}")
    rows = [row for row in dead.rows if row.removed]
    # a layer that never fires keeps one unit, with other weights, so that it does not stand still
    if not rows and (data is None or not dead.rows):
        return Removal(model)
    layers = tuple(dict.fromkeys(row.path for row in rows))
    inexact = [row.path for row in dead.rows if not row.exact]
    note = ""
    if inexact:
        paths = ", ".join(dict.fromkeys(inexact))
        note = f"{paths}: units that are constant on the {signature.count} calibration samples were cut out"
    return Removal(small, dead.removed, layers, bool(inexact), note)


def has_dead_slices(model: keras.Model) -> bool:
    """Whether a unit may be dead by its weights: a quick look that costs a pass over the weights.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> has_dead_slices(model)
        False
    """
    for variable in model.weights:
        value = variable.numpy()
        if variable.name == "gamma" and not value.all():
            return True
        if value.ndim > 1 and value.dtype.kind == "f":
            used = value != 0
            for axis in (-1, -2):
                others = tuple(i for i in range(value.ndim) if i != value.ndim + axis)
                if not used.any(axis=others).all():
                    return True
    return False


def _uncompiled(model: keras.Model) -> keras.Model:
    """A view of the same layers without optimizer and loss, which a copy need not have."""
    plain = is_graph(model) and type(model).call.__module__.startswith("keras.")
    if not (plain and model.compiled):
        return model
    if isinstance(model, keras.Sequential):  # it has no `input` before its first call
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def dead_layers(model: keras.Model, batches: Iterable[Any]) -> list[str]:
    """Paths of the layers that turn something into nothing but zeros on all batches, in the model's order.

    A ReLU layer that never fires is the usual one. A layer that gets only zeros is not named, since the cause
    is before it, nor is a model that holds a dead layer.

    It stops at the first batch after which all are known to be alive.

    Args:
        model: a built Keras model; it is not changed.
        batches: inputs, each in the structure that the model is called with.

    Example:
        >>> below = keras.initializers.Constant(-99.0)
        >>> hidden = keras.layers.Dense(3, activation="relu", bias_initializer=below, name="hidden")
        >>> dead_layers(keras.Sequential([keras.Input((2,)), hidden]), [np.ones((4, 2), "float32")])
        ['hidden']
    """
    alive: dict[str, bool] = {}

    def watch(path: str, layer: keras.layers.Layer) -> None:
        call = layer.call

        def watched(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            if not _all_zero((args, kwargs)):  # one live call keeps a layer alive
                alive[path] = alive.get(path, False) or not _all_zero(outputs)
            return outputs

        object.__setattr__(layer, "call", watched)

    leaves = [(path, layer) for path, layer in walk(model) if not any(True for _ in walk(layer))]
    leaves = [pair for pair in leaves if "call" not in vars(pair[1])]
    try:
        for path, layer in leaves:
            watch(path, layer)
        for batch in batches:
            model(batch, training=False)
            if alive and all(alive.values()) and len(alive) == len(leaves):
                break
    finally:
        for _, layer in leaves:
            vars(layer).pop("call", None)
    return [path for path, _ in leaves if alive.get(path) is False]


def _all_zero(structure: Any) -> bool:
    """Whether every eager tensor in it is zero; a tensor inside a traced loop has no values to look at."""
    tensors = [value for value in keras.tree.flatten(structure) if hasattr(value, "shape")]
    return all(hasattr(value, "numpy") and not np.any(value.numpy()) for value in tensors)
