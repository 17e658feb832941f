"""Models that take raw values: the scaling is part of the model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import InputError, keras_model, refuse, shown
from keras_aeprune.datasets.scaling import Scaling

# The TFLite converter folds a scaling into the kernel behind it. Then 8 bits have to hold the raw values and
# kernels of very different columns; measured, detectors of values around 40 were off by 0.8 of the spread of
# their scores. It does not fold through a maximum, and this one changes no finite number of use.
_LOWEST = -3e38


def on_raw_values(
    model: keras.Model, scaling: Scaling, *, invert: bool = True, name: str | None = None
) -> keras.Model:
    """A plain Keras model that scales raw values, runs `model`, and brings its output back to raw values.

    Use it before a model is saved or exported, so that the scaling learnt on the training part travels in the
    same file and nobody has to scale by hand. The file loads without this package.

        output = model((raw - offset) / divisor) * divisor + offset

    The result is built from Keras layers and shares the weights of `model`. The offset is subtracted first, in
    two float32 parts, so that values far from 0 keep the precision of `Scaling.apply`.

    Args:
        model: a Keras model with one input, built; a subclassed one that was called once.
        scaling: how raw values become the model's input, for example `datasets.load(...).scaling`.
        invert: bring the output back to raw values; needs an autoencoder, whose output has the shape of its
            input. False returns the output as it is, for an encoder or a classifier.
        name: of the new model; None is the model's name with "_raw" behind it.

    Returns:
        A functional model of float32 raw values, shape (n, *input shape of the model).

    Raises:
        InputError: `scaling` does not fit the model's input, the model has several inputs or is not built, or
            invert=True for a model whose output has another shape.

    >>> from keras_aeprune.datasets import load
    >>> from keras_aeprune.models.dense import dense
    >>> digits = load("digits")
    >>> model = on_raw_values(dense(digits.sample_shape, 8), digits.scaling)
    >>> sixteenths = digits.scaling.invert(digits.x_test)
    >>> model(sixteenths).shape, model.name
    (TensorShape([180, 8, 8]), 'autoencoder_raw')
    """
    shape = sample_of(keras_model(model))
    check_scaling(scaling, shape)
    if not isinstance(invert, (bool, np.bool_)):
        raise refuse("invert", invert, "True or False")
    if name is not None and (not isinstance(name, str) or not name or "/" in name):
        raise refuse("name", name, "None or a text of 1 or more characters without '/'")
    raw = keras.Input(shape, name="raw_values")
    outputs = model(scaled(raw, scaling, shape))
    if invert:
        found = getattr(outputs, "shape", None)
        if found is None or tuple(found[1:]) != shape:
            raise InputError(
                f"invert: got True for {model.name!r}, whose output {shown(found)} is not of its input's shape "
                f"{shape}, allowed: invert=False, which returns the output as it is"
            )
        outputs = unscaled(outputs, scaling, shape)
    return keras.Model(raw, outputs, name=name or f"{model.name}_raw")


def sample_of(model: keras.Model) -> tuple[int | None, ...]:
    """Shape of one sample that `model` takes, without the batch axis.

    Raises:
        InputError: the model has several inputs, or is not built.
    """
    inputs = getattr(model, "inputs", None)
    if inputs:
        shapes = [tuple(tensor.shape) for tensor in inputs]
    else:
        shapes = list((getattr(model, "_build_shapes_dict", None) or {}).values())
    if not shapes:
        raise InputError(
            f"model {model.name!r}: got a model that is not built, allowed: a built one; call it once on a batch"
        )
    one = len(shapes) == 1 and isinstance(shapes[0], (tuple, list))
    if not one or len(shapes[0]) < 2 or not all(size is None or isinstance(size, int) for size in shapes[0]):
        raise InputError(f"model {model.name!r}: got inputs of shape {shown(shapes)}, allowed: one input (n, ...)")
    return tuple(shapes[0][1:])


def check_scaling(scaling: Any, shape: tuple[int | None, ...]) -> Scaling:
    """`scaling`, if samples of that shape can be scaled by it; refused in the words of `Scaling.apply`."""
    if not isinstance(scaling, Scaling):
        raise refuse("scaling", scaling, "a keras_aeprune.datasets Scaling, such as load(...).scaling")
    scaling.apply(np.zeros((1, *(1 if size is None else size for size in shape)), dtype="float32"))
    return scaling


def scaled(x: Any, scaling: Scaling, shape: tuple[int | None, ...]) -> Any:
    """`x` through layers that do what `Scaling.apply` does; `shape` is that of one sample."""
    offset, divisor = (_placed(value, shape) for value in (scaling.offset, scaling.divisor))
    coarse = offset.astype("float32").astype("float64")
    if coarse.any():
        x = rescaling(np.ones(()), -coarse, "subtract_offset")(x)
    x = rescaling(1 / divisor, -(offset - coarse) / divisor, "divide")(x)
    return keras.ops.maximum(x, _LOWEST)


def unscaled(x: Any, scaling: Scaling, shape: tuple[int | None, ...]) -> Any:
    """`x` through a layer that does what `Scaling.invert` does."""
    offset, divisor = (_placed(value, shape) for value in (scaling.offset, scaling.divisor))
    return rescaling(divisor, offset, "to_raw_values")(x)


def rescaling(scale: np.ndarray, offset: np.ndarray, name: str) -> keras.layers.Layer:
    """x * scale + offset in float32, with plain numbers in its config."""
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), name=name, dtype="float32")


def _placed(value: float | tuple[float, ...], shape: tuple[int | None, ...]) -> np.ndarray:
    """One number, one for each feature in the shape of a sample, or one for each channel (the last axis)."""
    numbers = np.asarray(value, dtype="float64")
    known = [size for size in shape if size is not None]
    fits = len(known) == len(shape) and numbers.ndim and numbers.size == int(np.prod(known))
    return numbers.reshape(known) if fits else numbers
