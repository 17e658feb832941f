"""What is asked for, checked before anything is converted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune._files import writable_folder
from keras_aeprune._validation import InputError, keras_model, positive_int, refuse
from keras_aeprune.export.inputs import Inputs, inputs_of, samples
from keras_aeprune.export.precisions import Precision, precision
from keras_aeprune.export.trace import check_supported
from keras_aeprune.models.anomaly import AnomalyDetector

CHUNK = 16  # samples that the Keras model gets at a time


@dataclass(frozen=True)
class Request:
    """One model, its samples by input name, and where it goes at which precision.

    `threshold` is that of an anomaly detector, whose outputs are "score" and "anomaly"; None for other models.
    """

    model: keras.Model
    inputs: Inputs
    arrays: dict[str, np.ndarray]
    targets: tuple[tuple[Precision, Path], ...]
    threshold: float | None = None

    def batches(self, count: int | None = None) -> Iterator[Any]:
        """The first `count` samples, a few at a time, in the structure that the model is called with."""
        arrays = [self.arrays[item.name][:count] for item in self.inputs.items]
        size = self.inputs.batch or CHUNK
        for i in range(0, len(arrays[0]), size):
            yield self.inputs.pack([keras.ops.convert_to_tensor(array[i : i + size]) for array in arrays])


def request(model: Any, paths: Mapping[str | None, str | Path], data: Any = None, seed: int = 0) -> Request:
    """A request whose arguments can be used; nothing is written yet, but the folders are there.

    Raises:
        InputError: with the argument that cannot be used.
    """
    threshold = None
    if isinstance(model, AnomalyDetector):
        model, threshold = model.as_model(), model.threshold
    keras_model(model)
    seed = positive_int("seed", seed, minimum=0)
    if not isinstance(paths, Mapping) or not paths:
        raise refuse("paths", paths, "a dict {quantize: path} with at least one entry")
    rows = [precision(quantize) for quantize in paths]
    inputs = inputs_of(model)
    check_supported(model)
    for row in rows:
        if row.needs_data and data is None:
            raise InputError(
                f"data: got None, allowed for quantize={row.name!r}: inputs to calibrate with, {inputs}; "
                "100 or more samples of the training data are recommended"
            )
    arrays = samples(inputs, data, seed=seed)
    files = [_checked_path(path) for path in paths.values()]
    if len({path.resolve() for path in files}) < len(files):
        raise refuse("paths", [str(path) for path in files], "a different path for every precision")
    return Request(model, inputs, arrays, tuple(zip(rows, files, strict=True)), threshold)


def _checked_path(path: str | Path) -> Path:
    if not isinstance(path, (str, Path)) or Path(path).suffix != ".tflite":
        raise refuse("path", path, "a file name that ends in .tflite")
    path = Path(path)
    if path.is_dir():
        raise refuse("path", str(path), "a file; there is a folder of that name")
    writable_folder("path", path.parent)
    return path
