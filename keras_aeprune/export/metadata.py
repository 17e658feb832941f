"""A JSON record inside a .tflite file, which loads everywhere with it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_aeprune._validation import InputError, refuse, shown
from keras_aeprune._version import __version__
from keras_aeprune.export.flatbuffer import is_tflite, packed

ENTRY = "keras_aeprune"
_BROKEN = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `tflite` wrote about a file into the file.

    Use it where a file is run, to know its threshold, its scaling or its labels without a second file.

    Args:
        path: a .tflite file, by whomever.

    Returns:
        A dict of plain JSON values: "package" and its "version", "precision", "coding", "batch", "unrolled",
        "removed_units"; for an anomaly detector "detector" with "threshold", "error", "standardize" and
        "scaling"; "user" with what was passed as `metadata=`. {} for a file without such a record.

    Raises:
        InputError: no file, no .tflite file, or a record that is damaged.

    Example:
        >>> import tempfile, tensorflow as tf
        >>> same = tf.function(lambda x: x + 0, input_signature=[tf.TensorSpec((1, 3), name="x")])
        >>> concrete = [same.get_concrete_function()]
        >>> content = tf.lite.TFLiteConverter.from_concrete_functions(concrete).convert()
        >>> path = Path(tempfile.mkdtemp()) / "same.tflite"
        >>> _ = path.write_bytes(labelled(content, {"labels": ["cat", "dog"]}))
        >>> read_metadata(path)
        {'labels': ['cat', 'dog']}
    """
    if not isinstance(path, (str, Path)):
        raise refuse("path", path, "an existing .tflite file")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"path: got {str(path)!r}, which is no file, allowed: an existing .tflite file")
    content = path.read_bytes()
    if not is_tflite(content):
        raise InputError(f"path: got {str(path)!r}, which is no .tflite file, allowed: a whole .tflite file")
    try:
        text = _entry(content)
        values = {} if text is None else json.loads(text, parse_constant=_no_constant)
        if not isinstance(values, dict):
            raise ValueError(f"a {type(values).__name__} instead of a dict")
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"path: got {str(path)!r}, whose record {ENTRY!r} cannot be read ({type(error).__name__}: {reason}), "
            "allowed: a whole file that keras_aeprune wrote, or one without such a record"
        ) from error
    return values


def checked(metadata: Any) -> dict[str, Any]:
    """The caller's `metadata` as plain JSON values; objects with `to_dict`, such as a `Scaling`, become dicts.

    Raises:
        InputError: it is no dict, or holds what JSON cannot: other keys than text, NaN, other objects.

    Example:
        >>> checked({"labels": ("cat", "dog"), "mean": np.float32(0.5)})
        {'labels': ['cat', 'dog'], 'mean': 0.5}
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise refuse("metadata", metadata, "None or a dict of JSON values")
    try:
        return _plain(metadata, "metadata")
    except RecursionError:
        raise refuse("metadata", type(metadata), "a dict of JSON values that does not hold itself") from None


def labelled(content: bytes, values: Mapping[str, Any]) -> bytes:
    """A .tflite file with `values` as its record; the same values give the same bytes.

    Args:
        content: of a file that the converter wrote.
        values: plain JSON values.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(content), 0))
    text = json.dumps(values, sort_keys=True, allow_nan=False, separators=(",", ":"))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    entries = [one for one in model.metadata or [] if one.name != ENTRY.encode()]
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*entries, entry]
    return packed(model, len(content) + len(text) + 1024)


def sparse_tensors(content: bytes) -> int:
    """How many tensors of a .tflite file are stored in sparse coding."""
    model = schema.Model.GetRootAs(content, 0)
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return sum(graph.Tensors(i).Sparsity() is not None for graph in graphs for i in range(graph.TensorsLength()))


def described(*, row: str, coding: str, batch: int, unrolled: bool, removed: int) -> dict[str, Any]:
    """What is recorded about every file."""
    return {
        "package": ENTRY,
        "version": __version__,
        "precision": row,
        "coding": coding,
        "batch": batch,
        "unrolled": unrolled,
        "removed_units": removed,
    }


def of_detector(detector: Any) -> dict[str, Any]:
    """What is recorded about an anomaly detector; all of it is already part of its file's calculation."""
    return {
        "threshold": detector.threshold,
        "error": detector.error,
        "standardize": detector.standardize,
        "scaling": None if detector.scaling is None else detector.scaling.to_dict(),
    }


def _entry(content: bytes) -> str | None:
    """The text of the record; None where there is none."""
    model = schema.Model.GetRootAs(content, 0)
    for i in range(model.MetadataLength()):  # reading behind the end of the file raises
        entry = model.Metadata(i)
        if entry.Name() != ENTRY.encode():
            continue
        if not entry.Buffer() < model.BuffersLength():
            raise ValueError(f"buffer {entry.Buffer()} of {model.BuffersLength()}")
        data = model.Buffers(entry.Buffer()).DataAsNumpy()
        if not isinstance(data, np.ndarray):
            raise ValueError("an empty buffer")
        return data.tobytes().decode("utf-8")
    return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} in it")


def _plain(value: Any, where: str) -> Any:
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise refuse(f"key in {where}", key, "text")
        return {key: _plain(inner, f"{where}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(inner, where) for inner in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and np.isfinite(value):
        return value
    raise InputError(
        f"{where}: got {shown(value)}, allowed: JSON values: dicts, lists, text, finite numbers, True, False, None"
    )
