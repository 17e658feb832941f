"""Look at any model file: what is in it, what it costs, what could go."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras

from keras_aeprune import models
from keras_aeprune._validation import InputError, shown
from keras_aeprune.report.hints import hints
from keras_aeprune.report.inspected import Inspection
from keras_aeprune.report.keras_rows import inspect_model
from keras_aeprune.report.measure import file_sizes
from keras_aeprune.report.text import size_text
from keras_aeprune.report.tflite_rows import inspect_tflite

__all__ = ["inspect", "inspect_file"]

SUFFIXES = (".keras", ".h5", ".hdf5", ".tflite")


def inspect_file(path: str | Path, *, data: Any = None) -> Inspection:
    """What is in a model file, layer by layer, and what could be done about it.

    Use it before pruning or cutting, and on files whose origin you do not know: Keras files are read in safe
    mode, .tflite files are read and not run.

    Args:
        path: a .keras, .h5, .hdf5 or .tflite file.
        data: for Keras files, samples (n, *input shape), n >= 2, to find layers and units that do nothing on
            them; None looks at the weights alone.

    Returns:
        An `Inspection`: `print(it)`, `it.layers`, `it.totals`, `it.hints`, `it.to_dict()`.

    Raises:
        InputError: a missing or damaged file, another type, a model that needs code from elsewhere, data that
            does not fit or is given for a .tflite file.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="code")], name="small")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/small.keras")
        ...     inspect_file(f"{folder}/small.keras").totals["macs"]
        8
    """
    return look(path, data)[0]


def inspect(model: Any, *, data: Any = None) -> Inspection:
    """`inspect_file` for a file, and the same for a Keras model in memory.

    Args:
        model: a built Keras model, or the path of a file.
        data: as for `inspect_file`.

    Raises:
        InputError: as for `inspect_file`.

    Example:
        >>> inspect(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])).parameters
        10
    """
    return look(model, data)[0]


def look(model: Any, data: Any = None) -> tuple[Inspection, keras.Model | None]:
    """The inspection, and the model behind it where it is one of Keras."""
    if not isinstance(model, (str, Path)):
        found = inspect_model(model, data=data)
        return replace(found, hints=tuple(hints(found))), model
    path = Path(model)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise InputError(f"path: got {shown(str(path))}, allowed: a file that ends in {', '.join(SUFFIXES)}")
    if kind == ".tflite":
        if data is not None:
            raise InputError(f"data: got data for {path.name}, allowed: only with Keras files; leave it out")
        found, network, more = inspect_tflite(path), None, []
    else:
        network = models.load(path)
        found = replace(inspect_model(network, data=data), format=_format(path))
        more = _training_state(path, network)
    sizes: dict[str, Any] = file_sizes(path)
    found = replace(found, name=path.name, **sizes)
    found = replace(found, hints=(*found.hints, *more))
    return replace(found, hints=tuple(hints(found))), network


def _format(path: Path) -> str:
    return "keras" if zipfile.is_zipfile(path) else "hdf5"


def _training_state(path: Path, model: keras.Model) -> list[str]:
    """A sentence where the file holds what only training needs."""
    size = 0
    if _format(path) == "keras":
        optimizer = getattr(model, "optimizer", None)
        size = sum(4 * v.numpy().size for v in optimizer.variables) if optimizer is not None else 0
    else:
        with h5py.File(path, "r") as file:
            sizes: list[int] = []
            if "optimizer_weights" in file:
                file["optimizer_weights"].visititems(lambda _, item: sizes.append(getattr(item, "nbytes", 0)))
            size = sum(sizes)
    if size < 1000:
        return []
    return [f"{size_text(size)} of the file are the optimizer's state, which only more training needs"]
