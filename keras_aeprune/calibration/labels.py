"""Labels for samples that nobody labelled."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import InputError
from keras_aeprune.calibration.drawing import classes_of
from keras_aeprune.models.outcome import last_activation, predicted

__all__ = ["predicted_labels"]


def predicted_labels(model: keras.Model | None, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray | None:
    """The classes that `model` predicts for `x` where it is a classifier, else None.

    A model is taken for a classifier where its compiled loss is a categorical cross entropy, where it ends in
    a softmax, or where it ends in one sigmoid or, being no autoencoder, has outputs for all classes in `y`. The
    class is the largest output, or 1 where a single output is above 0.5 (above 0 where it is linear).

    Args:
        model: a built Keras model with one input; None gives None.
        x: its inputs, shape (n, ...).
        y: labels of real samples, which the result is like: class numbers of shape (n,) or (n, 1), or
            one-hot rows. Without them a loss named categorical_crossentropy asks for one-hot rows.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
    >>> predicted_labels(model, np.eye(3)[[2, 0]]).tolist()
    [2, 0]
    """
    if model is None or len(getattr(model, "outputs", None) or [0]) > 1:
        return None
    loss, ending = _loss_name(model), last_activation(model)
    classes = classes_of(y)
    try:
        outputs = predicted(model, x)
    except InputError:  # several outputs of a subclassed model: no classifier with one answer
        return None
    width = outputs.shape[-1] if outputs.ndim == 2 else 0
    several = width >= 2 and (
        "categorical" in loss
        or ending == "softmax"
        or (outputs.shape != x.shape and _are_numbers_below(classes, width))
    )
    single = width == 1 and x.shape != outputs.shape
    single = single and (ending == "sigmoid" or "binary" in loss or _are_numbers_below(classes, 2))
    if several:
        found = outputs.argmax(axis=1)
    elif single:
        found = (outputs[:, 0] > (0.5 if ending == "sigmoid" else 0.0)).astype("int64")
    else:
        return None
    one_hot = y is not None and classes is not None and y.ndim == 2 and y.shape[1] == width and width >= 2
    if one_hot or (y is None and several and loss == "categorical_crossentropy"):
        return np.eye(width, dtype="float32" if y is None else y.dtype)[found]
    return found[:, None] if y is not None and y.ndim == 2 else found


def _are_numbers_below(classes: np.ndarray | None, width: int) -> bool:
    if classes is None or classes.dtype.kind not in "biu":
        return False
    return bool(classes.min() >= 0 and classes.max() < width)


def _loss_name(model: Any) -> str:
    """Name of the compiled loss in lower case with underscores, "" where there is none."""
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    return str(name).lower()
