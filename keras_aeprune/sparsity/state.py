"""Masks and the step in a file, for what zeros alone do not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from keras_aeprune._files import writable_folder, writing
from keras_aeprune._validation import InputError

__all__ = ["load_state", "save_state"]


def save_state(path: str | Path, masks: dict[str, np.ndarray], *, epoch: int, step: int) -> None:
    """Write masks (True where a weight is kept), the epochs done and the step; whole or not at all.

    Args:
        path: a .npz file; its folder is made if it is not there.
        masks: {kernel path: boolean array}.
        epoch: epochs done.
        step: optimizer updates done.
    """
    path = Path(path)
    writable_folder("state", path.parent)
    packed: dict[str, Any] = {f"mask:{name}": np.packbits(mask) for name, mask in masks.items()}
    shapes: dict[str, Any] = {f"shape:{name}": np.array(mask.shape, np.int64) for name, mask in masks.items()}
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, epoch=epoch, step=step, **packed, **shapes)


def load_state(path: str | Path) -> tuple[dict[str, np.ndarray], int, int] | None:
    """(masks, epoch, step) as `save_state` was given them, or None where there is no file.

    Raises:
        InputError: if the file holds something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.npz"
        >>> save_state(path, {"a/kernel": np.array([[True, False]])}, epoch=2, step=30)
        >>> load_state(path)
        ({'a/kernel': array([[ True, False]])}, 2, 30)
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [key.removeprefix("mask:") for key in file.files if key.startswith("mask:")]
            shapes = {name: tuple(int(n) for n in file[f"shape:{name}"]) for name in names}
            masks = {
                name: np.unpackbits(file[f"mask:{name}"], count=int(np.prod(shape))).astype(bool).reshape(shape)
                for name, shape in shapes.items()
            }
            return masks, int(file["epoch"]), int(file["step"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise InputError(
            f"state: got {str(path)!r}, which cannot be read ({error}), allowed: a file that Prune wrote; "
            "delete it to start anew"
        ) from None
