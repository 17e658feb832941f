"""Files that are either whole or not there, and fingerprints of arrays."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError

PREFIX = ".unfinished-"
_CHUNK_BYTES = 2**24


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it when the block ends well, removed when it does not.

    The temporary name keeps the suffix, since some writers look at it.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with writing(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    path = Path(path)
    temporary = path.with_name(f"{PREFIX}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON with sorted keys; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def writable_folder(name: str, folder: str | Path) -> Path:
    """`folder`, made if it is not there, after a file could be written into it.

    Raises:
        InputError: if it is a file, or cannot be made or written.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=PREFIX):
            pass
    except OSError as error:
        raise InputError(
            f"{name}: got {str(folder)!r}, where nothing can be written ({error.strerror}), allowed: a "
            "folder that can be made or written"
        ) from None
    return path


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder`."""
    for path in folder.glob(f"{PREFIX}*"):
        path.unlink(missing_ok=True)


def fingerprint(arrays: Iterable[np.ndarray | None]) -> str:
    """sha256 (hex) of arrays with their types and shapes; None has its own mark.

    Example:
        >>> fingerprint([np.zeros(2)]) == fingerprint([np.zeros(3)])
        False
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest_array(digest, array)
    return digest.hexdigest()


def digest_array(digest: Any, array: np.ndarray | None) -> None:
    """Add type, shape and values of one array to a hashlib digest, without a copy of more than some MB."""
    if array is None:
        digest.update(b"none;")
        return
    digest.update(f"{array.dtype.str}{array.shape};".encode())
    if array.ndim == 0 or array.flags.c_contiguous:
        digest.update(_octets(array))
        return
    step = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        digest.update(_octets(array[start : start + step]))


def _octets(array: np.ndarray) -> np.ndarray:
    """The bytes of an array of any type, half precisions included, which have no buffers of their own."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
