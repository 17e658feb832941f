"""Keras model files, read safely."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import keras

from keras_aeprune._validation import InputError, shown
from keras_aeprune.models.legacy import mend

_SUFFIXES = (".keras", ".h5", ".hdf5")
_FROM_TF_KERAS = (
    "load it with tf_keras.models.load_model, give the model to keras_aeprune.models.from_tf_keras, "
    "and save the result as .keras"
)


def load(path: str | Path) -> keras.Model:
    """The Keras model in a .keras, .h5 or .hdf5 file, read in safe mode (no code from the file is run).

    Use it for every file that you did not write yourself. HDF5 files by Keras 2 that Keras 3 refuses are
    mended on the way (a copy in a temporary folder; the file itself is never written to). Which of the
    two formats a file has is decided by its content, as HDF5 files named .keras are common.

    Args:
        path: an existing file. Custom layers must be registered with
            keras.saving.register_keras_serializable before.

    Returns:
        The model; compiled as it was saved when it comes from a .keras file, uncompiled from .h5 and
        .hdf5. Where it has layers named "encoder" and "decoder" they are its attributes of these names
        too, as in a model that was just built (functional models lose attributes in a file).

    Raises:
        InputError: a missing file, another type, a damaged file, a file with weights only, a .keras
            file written by tf_keras (Keras 2), Python code in a Lambda layer, unknown layers.

    >>> import os, tempfile
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(os.path.join(folder, "m.keras"))
    ...     load(os.path.join(folder, "m.keras")).output_shape
    (None, 2)
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"model file: nothing is at {str(path)!r}, allowed: an existing {', '.join(_SUFFIXES)} file"
        )
    if path.is_dir():
        kind = "a SavedModel folder" if (path / "saved_model.pb").exists() else "a folder"
        raise InputError(
            f"model file: {str(path)!r} is {kind}, allowed: a {', '.join(_SUFFIXES)} file; for a "
            f"SavedModel of a Keras 2 model: {_FROM_TF_KERAS}"
        )
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"model file: got {path.name!r}, allowed: a file that ends in {', '.join(_SUFFIXES)}")
    if zipfile.is_zipfile(path):
        return _with_halves(_load_archive(path))
    if h5py.is_hdf5(path):
        return _with_halves(_load_hdf5(path))
    raise InputError(
        f"model file: {path.name} is damaged or no Keras model (neither a zip archive nor HDF5), "
        f"allowed: a whole {', '.join(_SUFFIXES)} file; save or copy it again"
    )


def one_line(error: BaseException) -> str:
    """What an error of Keras says, short; the cause stands at the end of its long ones."""
    text = " ".join(str(error).split("Exception encountered:")[-1].split())
    return shown(text or type(error).__name__, 200).strip("'\"")


def _with_halves(model: keras.Model) -> keras.Model:
    """`model` with its layers "encoder" and "decoder" as attributes, where it has none of that name yet."""
    for half in ("encoder", "decoder"):
        layer = next((layer for layer in model.layers if layer.name == half), None)
        if layer is not None and not hasattr(model, half):
            setattr(model, half, layer)
    return model


def _load_archive(path: Path) -> keras.Model:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # Keras reads the weights without looking at their checksum
            if damaged is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
            metadata = json.loads(archive.read("metadata.json"))
            config = json.loads(archive.read("config.json"))
        version, module = str(metadata.get("keras_version", "")), str(config.get("module", ""))
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error
    if version.split(".")[0] in ("1", "2") or module.startswith("tf_keras"):
        raise InputError(
            f"model file: {path.name} was written by tf_keras (Keras {version or 2}), allowed: files "
            f"of Keras 3; {_FROM_TF_KERAS}"
        )
    return _load_as(path, ".keras")


def _load_hdf5(path: Path) -> keras.Model:
    try:
        with h5py.File(path, "r") as file:
            text, version = (_text(file.attrs.get(name)) for name in ("model_config", "keras_version"))
        config = None if text is None else json.loads(text)
        major = int((version or "1").split(".")[0])
    except (OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    if config is None:
        raise InputError(
            f"model file: {path.name} holds weights only, allowed: a whole model; build the model and "
            "call its load_weights, or save it with model.save"
        )
    if major >= 3:
        return _load_as(path, ".h5")
    try:
        mended = mend(config)
    except InputError as error:
        raise InputError(f"model file: {path.name} (Keras {version or 1}): {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from error
    return _load_as(path, ".h5", mended)


def _load_as(path: Path, suffix: str, config: dict[str, Any] | None = None) -> keras.Model:
    """Loads `path` under a name with `suffix`, with `config` in place of an .h5 file's own."""
    with tempfile.TemporaryDirectory() as folder:
        file = path
        if config is not None or path.suffix != suffix:
            file = Path(shutil.copyfile(path, Path(folder) / f"model{suffix}"))
        if config is not None:
            with h5py.File(file, "r+") as copy:
                copy.attrs["model_config"] = json.dumps(config)
        try:
            return keras.saving.load_model(file, compile=suffix == ".keras", safe_mode=True)
        except Exception as error:  # whatever Keras meets in a file that it did not write
            raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> InputError:
    text = str(error)
    if "Lambda" in text or "lambda" in text or "safe_mode" in text:
        return InputError(
            f"model file: {path.name} holds Python code (a Lambda layer), which is not run from a "
            "file, allowed: layers of Keras; rebuild the model without it, or load it yourself with "
            "keras.saving.load_model"
        )
    if "custom" in text or "Could not locate" in text or "Unknown layer" in text:
        return InputError(
            f"model file: {path.name} needs an object that Keras does not know ({one_line(error)}), "
            "allowed: layers of Keras, or own ones that are registered with "
            "keras.saving.register_keras_serializable before loading"
        )
    return InputError(
        f"model file: {path.name} is refused by Keras {keras.__version__} ({one_line(error)}), allowed: a "
        "whole model of layers that it has; save it again, or load it with the version that wrote it"
    )


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"model file: {path.name} could not be read ({one_line(error)}), allowed: a whole Keras model; "
        "save or copy it again"
    )


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
