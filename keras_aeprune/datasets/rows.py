"""Samples that lie in files, read by position like an array: `x[rows]` is in memory, `x` is not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_aeprune._validation import InputError
from keras_aeprune.datasets.readers import read_image, read_npy, same_kind, unreadable


class Rows(Protocol):
    """What is sliced by position like an array: an array itself, or one of the classes below."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def ndim(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray: ...


class NpyRows:
    """The rows of one .npy file, which is mapped for the length of one read only.

    A map that stays open keeps every page that was ever read in the process's memory.

    Args:
        path: of the file.

    Raises:
        InputError: it is no whole .npy file of numbers.
    """

    def __init__(self, path: Path):
        x = read_npy(path).x
        self.path = path
        self.shape, self.dtype, self.ndim = x.shape, x.dtype, x.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        try:
            mapped = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise unreadable(self.path, error, "a file that stays in place while it is read") from error
        if (mapped.shape, mapped.dtype) != (self.shape, self.dtype):
            raise InputError(
                f"data: {self.path.name} changed from {self.dtype} {self.shape} to {mapped.dtype} {mapped.shape}, "
                "allowed: a file that stays as it is while it is read"
            )
        return np.array(mapped[rows])


class ImageRows:
    """Images of one size and mode, decoded when they are asked for.

    Args:
        folder: that the files are in; their names in messages are relative to it.
        files: one image each.
    """

    def __init__(self, folder: Path, files: Sequence[Path]):
        self.folder = folder
        self.files = np.array(files, dtype=object)
        self._first, pixels = read_image(folder, files[0])
        self.shape, self.dtype, self.ndim = (len(files), *pixels.shape), pixels.dtype, pixels.ndim + 1

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        files = self.files[rows]
        out = np.empty((len(files), *self.shape[1:]), dtype=self.dtype)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            images = threads.map(lambda file: read_image(self.folder, file), files)
            for index, (kind, pixels) in enumerate(images):
                same_kind(self._first, kind)
                out[index] = pixels
        return out


class Joined:
    """Several parts of equal sample shape and type, one after the other.

    Args:
        parts: arrays, or objects of this module.
        names: of the parts, in messages.

    Raises:
        InputError: two parts differ in their sample shape or type.

    >>> both = Joined([np.zeros((2, 3)), np.ones((4, 3))], ["a", "b"])
    >>> both.shape, both[np.array([5, 1])][:, 0].tolist()
    ((6, 3), [1.0, 0.0])
    """

    def __init__(self, parts: Sequence[Rows], names: Sequence[str]):
        first = parts[0]
        for name, part in zip(names, parts, strict=True):
            if part.ndim == 0 or (part.shape[1:], part.dtype) != (first.shape[1:], first.dtype):
                raise InputError(
                    f"data: {names[0]} is {first.dtype} {first.shape} and {name} is {part.dtype} {part.shape}, "
                    "allowed: arrays of one type whose shapes differ in the first axis only"
                )
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.starts = self.ends - [len(part) for part in parts]
        self.shape, self.dtype, self.ndim = (int(self.ends[-1]), *first.shape[1:]), first.dtype, first.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            inside = np.flatnonzero((self.starts <= start) & (stop <= self.ends))
            if step == 1 and inside.size:
                at = int(self.starts[inside[0]])
                return self.parts[inside[0]][start - at : stop - at]
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows)
        owner = np.searchsorted(self.ends, rows, side="right")
        out = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for index in np.unique(owner):
            here = owner == index
            out[here] = self.parts[index][rows[here] - self.starts[index]]
        return out
