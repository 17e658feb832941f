"""What a model takes, and checked samples of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import InputError, refuse, shown

RANDOM_SAMPLES = 64


@dataclass(frozen=True)
class Input:
    """One input of a model: its name in the file, its shape without the batch axis, its NumPy type name."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Inputs:
    """All inputs of a model, in the order of `keras.tree.flatten(structure)`."""

    items: tuple[Input, ...]
    structure: Any
    batch: int | None = None

    def __str__(self) -> str:
        """Names and shapes of the arrays that fit, for messages."""
        return ", ".join(f"{item.name} {_shape(item)}" for item in self.items)

    def pack(self, arrays: list[Any] | tuple[Any, ...]) -> Any:
        """Arrays or tensors, one per input, in the structure that the model is called with."""
        return keras.tree.pack_sequence_as(self.structure, list(arrays))


def inputs_of(model: keras.Model, batch: int = 1) -> Inputs:
    """The inputs of a built model; a subclassed one must have been built on, or called with, one batch.

    Args:
        model: a built Keras model.
        batch: samples an invoke of the file; a model that was made for a fixed batch must have been made for it.

    Raises:
        InputError: if the model is not built, or was made for another fixed batch.

    Example:
        >>> model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
        >>> inputs_of(model).items
        (Input(name='x', shape=(4,), dtype='float32'),)
    """
    structure = None
    if isinstance(model, keras.Sequential):
        structure = model.inputs[0] if model.built else None
    elif hasattr(model, "inputs"):
        structure = model.input
        if isinstance(structure, (list, tuple)) and len(structure) == 1:
            structure = structure[0]
    elif model.built and getattr(model, "_build_shapes_dict", None):
        shapes = next(iter(model._build_shapes_dict.values()))
        structure = _described(shapes, str(model.input_dtype), "input")
    if structure is None or not all(layer.built for layer in model._flatten_layers()):
        raise InputError(
            f"model {model.name!r}: got a model that is not built, allowed: a built one; call it once on a batch"
        )
    flat = keras.tree.flatten(structure)
    batches = {tensor.shape[0] for tensor in flat} - {None}
    fixed = hasattr(model, "inputs") and batches
    if fixed and batches != {batch}:
        raise InputError(
            f"model {model.name!r}: got a fixed batch of {max(batches)} samples, allowed: {batch} or None; pass "
            f"batch={max(batches)}, or build it again without batch_shape and copy the weights with set_weights"
        )
    names = _names([_layer_name(tensor) for tensor in flat])
    items = tuple(
        Input(name, tuple(tensor.shape[1:]), str(tensor.dtype)) for name, tensor in zip(names, flat, strict=True)
    )
    return Inputs(items, structure, batch if fixed else None)


def _described(shapes: Any, dtype: str, name: str) -> Any:
    """The shapes that a subclassed model recorded, as named KerasTensors in the same structure."""
    if isinstance(shapes, Mapping):
        return {key: _described(value, dtype, str(key)) for key, value in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.KerasTensor(tuple(shapes), dtype, name=name)
    return type(shapes)(_described(value, dtype, f"{name}_{i}") for i, value in enumerate(shapes))


def _layer_name(tensor: keras.KerasTensor) -> str:
    """The name of the input layer, which a saved model keeps; the tensor's own may be a running number."""
    history = getattr(tensor, "_keras_history", None)
    return history.operation.name if history else tensor.name


def _names(wanted: list[str]) -> list[str]:
    """Names that TensorFlow keeps as they are: letters, digits and underscores, each once."""
    names: list[str] = []
    for name in wanted:
        clean = re.sub(r"\W", "_", name, flags=re.ASCII)
        clean = clean if clean[:1].isalpha() else f"input_{clean}"
        while clean in names:
            clean += "_"
        names.append(clean)
    return names


def samples(inputs: Inputs, data: Any, *, seed: int) -> dict[str, np.ndarray]:
    """Arrays by input name: the caller's `data`, checked, or 64 seeded samples uniform in [0, 1).

    Args:
        inputs: of the model.
        data: None; an array (n, *input shape) for a model with one input; a dict by input name, or a list in
            the order of the model's inputs, for several. n >= 1, finite numbers.
        seed: of the random samples, >= 0.

    Raises:
        InputError: if the data does not fit, is empty or not finite, or cannot be drawn.
    """
    if data is None:
        return _random(inputs, seed)
    items = inputs.items
    if isinstance(data, Mapping):
        if set(data) != {item.name for item in items}:
            raise refuse("data", sorted(map(str, data)), f"a dict of arrays by input name: {inputs}")
        given = [data[item.name] for item in items]
    elif len(items) == 1 and not (isinstance(data, (list, tuple)) and len(data) == 1):
        given = [data]
    elif isinstance(data, (list, tuple)) and len(data) == len(items):
        given = list(data)
    else:
        raise refuse("data", data, f"one array per input, as a list or a dict by name: {inputs}")
    arrays = {item.name: _checked(item, value) for item, value in zip(items, given, strict=True)}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise refuse("data", counts, "the same number of samples for every input")
    return arrays


def _shape(item: Input) -> str:
    return "(" + ", ".join(["n", *("any" if size is None else str(size) for size in item.shape)]) + ")"


def _checked(item: Input, value: Any) -> np.ndarray:
    name = f"data for input {item.name!r}"
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name}: got {shown(value)}, which is no array ({error}), allowed: {_shape(item)}"
        ) from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name}: got type {array.dtype}, allowed: numbers, shape {_shape(item)}")
    fits = array.ndim == len(item.shape) + 1 and all(
        size is None or size == got for size, got in zip(item.shape, array.shape[1:], strict=True)
    )
    if not fits or array.size == 0:
        raise InputError(f"{name}: got shape {array.shape}, allowed: {_shape(item)} with n >= 1 samples")
    if np.issubdtype(item.dtype, np.integer) and not np.array_equal(array, array.astype(item.dtype)):
        raise InputError(f"{name}: got values that {item.dtype} cannot hold, allowed: whole numbers in its range")
    with np.errstate(over="ignore"):
        array = array.astype(item.dtype)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        raise InputError(
            f"{name}: got {len(bad)} values that are NaN or infinite as {item.dtype}, the first at {where}, "
            "allowed: finite numbers"
        )
    return array


def _random(inputs: Inputs, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    arrays = {}
    for item in inputs.items:
        sizes = [size for size in item.shape if size is not None]
        if len(sizes) < len(item.shape) or not np.issubdtype(item.dtype, np.floating):
            raise InputError(
                f"data: got None, allowed for input {item.name!r}: an array {_shape(item)} of {item.dtype}; "
                "only real numbers of a known shape can be drawn at random"
            )
        arrays[item.name] = generator.random((RANDOM_SAMPLES, *sizes)).astype(item.dtype)
    return arrays
