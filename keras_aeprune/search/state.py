"""What a search project is, in its folder: the manifest, state files that are always whole, and hashed seeds."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import _files
from keras_aeprune._validation import InputError, shown
from keras_aeprune._version import __version__

MANIFEST = "manifest.json"
_MANY = 64  # a longer list of numbers is fingerprinted like an array


def hashed_seed(*parts: Any) -> int:
    """A seed 0 <= s < 2^31 from JSON values, so that neighbouring seeds share no stream.

    Example:
        >>> hashed_seed(1, 0) == hashed_seed(1, 0), hashed_seed(1, 1) == hashed_seed(2, 0)
        (True, False)
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


class Written:
    """State files: written whole, and only where something changed since the last time."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def write(self, path: str | Path, value: Any) -> None:
        """Write `value` as JSON to `path`."""
        text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
        if self._last.get(str(path)) != text or not Path(path).exists():
            with _files.writing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            self._last[str(path)] = text


def manifest(tuner: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a search this search and no other, as plain JSON values; the data come later."""
    identity = getattr(tuner.hypermodel, "get_config", None)
    space: dict[str, Any] = {}
    for parameter in tuner.oracle.get_space().space:
        same = sum(name == parameter.name or name.startswith(parameter.name + "#") for name in space)
        config = dict(parameter.get_config(), kind=type(parameter).__name__)
        space[parameter.name + (f"#{same + 1}" if same else "")] = config
    known = {
        "versions": {
            "keras_aeprune": __version__,
            "keras_tuner": metadata.version("keras-tuner"),
            "keras": keras.version(),
        },
        "settings": dict(settings),
        "space": space,
        "hypermodel": identity() if callable(identity) else None,
    }
    return json.loads(json.dumps(known, default=str))


def compare_manifest(folder: str | Path, now: Mapping[str, Any]) -> None:
    """Write the manifest of a new project; refuse an old one that is of another search.

    Args:
        folder: of the project.
        now: `manifest(...)`, with "data" or without it.

    Raises:
        InputError: with one line for everything that differs. Other versions only warn.
    """
    path = Path(folder) / MANIFEST
    if not path.exists():
        if (Path(folder) / "oracle.json").exists():
            raise InputError(
                f"directory: {str(folder)!r} holds a search without {MANIFEST}, which keras_aeprune did not "
                "write, allowed: an empty folder; give another directory or project_name, or overwrite=True"
            )
        _files.write_json(path, now)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    asked = {key: value for key, value in now.items() if key != "versions"}
    kept = {key: before[key] for key in asked if key in before}
    lines = _differences(kept, {key: asked[key] for key in kept})
    if lines:
        raise InputError(
            f"directory: {str(folder)!r} holds another search, allowed: the same search, which then goes on; give "
            "another directory or project_name, or overwrite=True to delete it. What differs:\n  "
            + "\n  ".join(lines)
        )
    for line in _differences(before.get("versions", {}), now["versions"]):
        warnings.warn(f"the search in {str(folder)!r} goes on under another version: {line}", stacklevel=4)
    if set(asked) - set(before):
        _files.write_json(path, {**before, **asked})


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        lines = []
        for key in sorted({*before, *now}):
            inner = f"{name}.{key}" if name else str(key)
            lines += _differences(before.get(key, "nothing"), now.get(key, "nothing"), inner)
        return lines
    return [] if before == now else [f"{name}: was {shown(before)}, is {shown(now)}"]


def data_identity(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What `search(*args, **kwargs)` was given, as JSON values by which it can be known again.

    Arrays count with type, shape and all values; datasets with element spec, length and, where it is the same
    each time, first batch; numbers and names as they are; other objects (callbacks, generators) with their type.
    """
    named = {f"argument {i + 1}": value for i, value in enumerate(args)}
    named |= {key: value for key, value in kwargs.items() if key != "verbose"}
    seen: dict[int, Any] = {}
    return json.loads(json.dumps({key: _identity(value, seen) for key, value in named.items()}))


def _identity(value: Any, seen: dict[int, Any]) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _identity(inner, seen) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) and len(value) <= _MANY:
        return [_identity(inner, seen) for inner in value]
    if id(value) not in seen:
        seen[id(value)] = _object_identity(value)
    return seen[id(value)]


def _object_identity(value: Any) -> Any:
    if isinstance(value, tf.data.Dataset):
        found = {"elements": str(value.element_spec), "length": int(value.cardinality().numpy())}
        return found | _same_twice(lambda: next(iter(value.take(1))), _shuffles(value))
    if isinstance(value, keras.utils.PyDataset):
        return {"type": _type_name(value), "length": len(value)} | _same_twice(lambda: value[0])
    if isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype != object:
            return f"{array.dtype}{list(array.shape)} {_files.fingerprint([array])[:16]}"
    return _type_name(value)


def _same_twice(first: Any, shuffled: bool = False) -> dict[str, str]:
    """The first batch's fingerprint, if it says anything: a shuffled one is another in every process."""
    if shuffled:
        return {}
    one, other = (_files.fingerprint([np.asarray(a) for a in tf.nest.flatten(first())]) for _ in range(2))
    return {"first batch": one[:16]} if one == other else {}


def _shuffles(dataset: Any) -> bool:
    inputs: list[Any] = getattr(dataset, "_inputs", list)()
    return "Shuffle" in type(dataset).__name__ or any(_shuffles(inner) for inner in inputs)


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
