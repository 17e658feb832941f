"""What models put out for the same samples, and how far that is from what they should."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import datasets
from keras_aeprune._validation import InputError, one_of
from keras_aeprune.export.verify import TFLiteModel, difference
from keras_aeprune.report.measure import Predict, mse

__all__ = ["ERRORS", "Samples", "errors", "read", "runner"]

ERRORS = {
    "mse": ("MSE", "mean squared error between a sample and its reconstruction"),
    "wrong": ("wrong answers", "fraction of samples whose largest output is not the label"),
    "difference": (
        "difference",
        "root-mean-square difference from the first model's outputs, relative to their standard deviation",
    ),
}
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Samples:
    """What models are compared on.

    Args:
        name: where the samples are from.
        x: shape (n, ...).
        y: labels (n,), or None.
        notes: what was done to them.
    """

    name: str
    x: np.ndarray
    y: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Plain JSON values."""
        shape = [int(side) for side in self.x.shape[1:]]
        return {"name": self.name, "samples": len(self.x), "sample_shape": shape, "notes": list(self.notes)}


def read(data: Any, *, key: str | None, scale: str, samples: int, seed: int) -> Samples:
    """At most `samples` samples, drawn with a seed; of files and named sets from the test split.

    Raises:
        InputError: data that cannot be read, or a scale for arrays, which are used as they are.
    """
    if isinstance(data, np.ndarray) or (isinstance(data, tuple) and len(data) == 2):
        if key is not None:
            raise InputError(f"key: got {key!r} with an array, allowed: only with a .npz file; leave it out")
        one_of("scale", scale, ["none"])
        x, y = data if isinstance(data, tuple) else (data, None)
        x, y = np.asarray(x), None if y is None else np.asarray(y)
        if x.ndim < 2 or not x.size or x.dtype.kind not in "fiub" or not np.isfinite(x).all():
            raise InputError(f"data: got shape {x.shape} of {x.dtype}, allowed: finite numbers, shape (n, ...)")
        if y is not None and len(y) != len(x):
            raise InputError(f"data: got {len(y)} labels for {len(x)} samples, allowed: one each")
        found = Samples("array", x, y)
    else:
        loaded = datasets.load(data, key=key, scale=scale, seed=seed)
        split = f"the test split, {len(loaded.x_test)} samples"
        found = Samples(loaded.name, loaded.x_test, loaded.y_test, (f"samples are from {split}", *loaded.notes))
    if len(found.x) <= samples:
        return found
    rows = np.sort(np.random.default_rng(seed).permutation(len(found.x))[:samples])
    drawn = f"{samples:,} of {len(found.x):,} samples, drawn with seed {seed}"
    return Samples(found.name, found.x[rows], None if found.y is None else found.y[rows], (*found.notes, drawn))


def runner(label: str, model: keras.Model | Path) -> Run:
    """A function from samples to outputs (n, numbers); samples are reshaped to the model's input.

    Raises:
        InputError: a file that does not load, several inputs, or, when it is called, samples of another size.
    """
    predict: Callable[[np.ndarray], Any]
    shapes: list[tuple[int | None, ...]]
    if isinstance(model, Path):
        file = TFLiteModel(model)
        shapes, predict = list(file.input_shapes.values()), file.predict
    else:
        shapes = [tuple(tensor.shape) for tensor in keras.tree.flatten(model.inputs or [])]
        predict = functools.partial(model.predict, verbose=0, batch_size=256)

    if len(shapes) != 1:
        raise InputError(f"{label}: got a model with {len(shapes)} known inputs, allowed with data: one input")
    wanted = shapes[0][1:]
    known = [size for size in wanted if size is not None]

    def run(x: np.ndarray) -> np.ndarray:
        fits = len(wanted) == x.ndim - 1 and all(
            size in (None, got) for size, got in zip(wanted, x.shape[1:], strict=True)
        )
        if not fits and (len(known) < len(wanted) or math.prod(known) != math.prod(x.shape[1:])):
            raise InputError(
                f"data: got samples of shape {x.shape[1:]}, allowed for {label}: {wanted}, or as many numbers"
            )
        found = predict(x if fits else x.reshape(len(x), *known))
        parts = found.values() if isinstance(found, Mapping) else keras.tree.flatten(found)
        return np.concatenate([np.asarray(part).reshape(len(x), -1) for part in parts], axis=1)

    return run


def errors(outputs: Mapping[str, np.ndarray], samples: Samples) -> tuple[str, dict[str, float]]:
    """The kind of error that fits all models, and each model's.

    "mse" where all put out as many numbers as they take, "wrong" where there are labels and all put out one
    number for each class, else "difference" from the first.

    Args:
        outputs: {label: (n, numbers)}, the first model first.
        samples: what they were given.

    Raises:
        InputError: outputs that are not finite, or differ in shape from the first model's.

    Example:
        >>> x = np.zeros((2, 3))
        >>> errors({"a": x, "b": x + 0.5}, Samples("array", x))
        ('mse', {'a': 0.0, 'b': 0.25})
    """
    for label, values in outputs.items():
        if not np.isfinite(values).all():
            raise InputError(f"{label}: got outputs that are not finite, allowed: a model that gives numbers")
    flat = samples.x.reshape(len(samples.x), -1)
    if all(values.shape == flat.shape for values in outputs.values()):
        return "mse", {label: mse(_always(values), flat, batch=len(flat)) for label, values in outputs.items()}
    if samples.y is not None and _classes(outputs, samples.y):
        truth = samples.y.ravel()
        return "wrong", {
            label: float(np.mean(values.argmax(axis=1) != truth)) for label, values in outputs.items()
        }
    (first, expected), *_ = outputs.items()
    for label, values in outputs.items():
        if values.shape != expected.shape:
            raise InputError(
                f"{label}: got outputs of shape {values.shape[1:]}, allowed: {expected.shape[1:]} as of {first}"
            )
    return "difference", {k: difference({"y": expected}, {"y": values}).rms for k, values in outputs.items()}


def _always(values: np.ndarray) -> Predict:
    """A model that gives these values, whatever it is asked."""
    return lambda x: values


def _classes(outputs: Mapping[str, np.ndarray], y: np.ndarray | None) -> bool:
    """Whether labels are whole numbers, one a sample, and every model has an output for each of them."""
    if y is None or y.size != len(y) or y.dtype.kind not in "iu" or y.min() < 0:
        return False
    return all(values.shape[1] > max(1, int(y.max())) for values in outputs.values())
