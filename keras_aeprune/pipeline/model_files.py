"""A model file and data that are to fit each other: shapes, targets, loss."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._validation import InputError, positive_number, shown
from keras_aeprune.datasets import Dataset

__all__ = ["compile_for", "evaluated", "shaped", "targets_of"]


def shaped(model: keras.Model, data: Dataset) -> tuple[dict[str, np.ndarray], list[str]]:
    """The splits in the shape that the model takes."""
    shapes = model.input_shape
    if not isinstance(shapes, tuple) or (shapes and isinstance(shapes[0], (tuple, list))):
        raise InputError(f"model {model.name!r}: got one with several inputs {shapes}, allowed: a single input")
    wanted = tuple(shapes[1:])
    splits = {name: getattr(data, f"x_{name}") for name in ("train", "validation", "test")}
    given = data.sample_shape
    if len(given) == len(wanted) and all(w in (None, g) for w, g in zip(wanted, given, strict=True)):
        return splits, []
    if None in wanted or int(np.prod(wanted)) != data.features:
        raise InputError(
            f"data: got samples of shape {given}, allowed: {wanted}, the input of {model.name!r}, or as "
            "many numbers in another shape"
        )
    note = f"samples of shape {given} were reshaped to the model's input {wanted}"
    return {name: x.reshape(len(x), *wanted) for name, x in splits.items()}, [note]


def targets_of(
    model: keras.Model, data: Dataset, inputs: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """What the model is to put out for each split: labels, or its inputs; and a note where labels are not used."""
    output, wanted = tuple(model.output_shape[1:]), inputs["train"].shape[1:]
    if data.y_train is not None:
        if output == wanted and data.y_train.shape[1:] != output:
            return inputs, ["an autoencoder: its inputs are its targets, the labels were not used"]
        return {name: getattr(data, f"y_{name}") for name in inputs}, []
    if output != wanted:
        raise InputError(
            f"data: got inputs without labels, but model {model.name!r} maps {wanted} to {output}, allowed: "
            "a .npz with y or y_train, or an autoencoder, whose output has its input's shape"
        )
    return inputs, []


def compile_for(model: keras.Model, loss: str | None, learning_rate: float | None) -> None:
    """Compile a model that was saved without a loss, or with another loss or rate than is wanted."""
    if learning_rate is not None:
        positive_number("learning_rate", learning_rate)
    if not model.compiled and loss is None:
        raise InputError(
            f"model {model.name!r}: got one saved without a loss, allowed: a compiled one, or name "
            "the loss (--loss mse, --loss sparse_categorical_crossentropy, ...)"
        )
    if loss is not None:
        try:
            keras.losses.get(loss)
        except ValueError:
            raise InputError(f"loss: got {loss!r}, allowed: the name of a Keras loss such as mse") from None
        model.compile(keras.optimizers.Adam(learning_rate or 1e-3), loss)
    elif learning_rate is not None:
        model.optimizer.learning_rate = learning_rate


def evaluated(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Loss and metrics."""
    try:
        values = model.evaluate(x, y, verbose=0, return_dict=True)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise InputError(
            f"data: got targets of shape {y.shape[1:]} ({y.dtype}), which the loss of model {model.name!r} with "
            f"output {tuple(model.output_shape[1:])} does not take ({shown(str(error), 160)}), allowed: targets "
            "that fit, or another --loss (whole-number labels go with sparse_categorical_crossentropy)"
        ) from None
    return {name: float(value) for name, value in values.items()}
