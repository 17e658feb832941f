"""One reader for each kind of source; all return `Raw`, values as they are stored."""

from __future__ import annotations

import csv
import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from keras_aeprune._validation import InputError, shown

NAMED_SETS = ("digits", "mnist", "fashion_mnist", "cifar10")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
FILE_TYPES = ".npy, .npz, .csv, a folder of png/jpg/jpeg/bmp images"
_IMAGE_MODES = ("1", "L", "RGB", "RGBA", "I;16")


@dataclass(frozen=True, eq=False)
class Raw:
    """What was found, before any check or change; the *_test members only where the source has that split."""

    name: str
    x: np.ndarray
    x_test: np.ndarray | None = None
    y: np.ndarray | None = None
    y_test: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def read_path(path: Path, key: str | None) -> Raw:
    """The content of a file or folder, by its kind."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise InputError(
            f"data: nothing is at {str(path)!r}, allowed: an existing {FILE_TYPES}, or one of the named sets "
            f"{', '.join(NAMED_SETS)}"
        )
    if suffix == ".npz" and path.is_file():
        return read_npz(path, key)
    if key is not None:
        raise InputError(f"key: got {key!r} for {path.name}, allowed: only with a .npz file; leave it out")
    if path.is_dir():
        return read_images(path)
    if suffix == ".npy":
        return read_npy(path)
    if suffix == ".csv":
        return read_csv(path)
    raise InputError(
        f"data: got a file of type {suffix or 'without suffix'!r} ({path.name}), allowed: {FILE_TYPES}"
    )


def read_named(name: str) -> Raw:
    """One of NAMED_SETS; digits comes with scikit-learn, the others are downloaded by Keras on first use."""
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return Raw(name, digits.images, y=digits.target)
    from keras import datasets

    try:
        (x, y), (x_test, y_test) = getattr(datasets, name).load_data()
    except Exception as error:  # Keras raises plain Exception for a failed download
        raise InputError(
            f"data: the named set {name!r} could not be downloaded ({_cause(error)}), allowed: try again "
            f"with a network connection, or give the path of a {name}.npz with x_train and x_test, or "
            "'digits', which needs no download"
        ) from error
    return Raw(name, x, x_test, np.ravel(y), np.ravel(y_test))


def read_npy(path: Path) -> Raw:
    """One array, memory-mapped so that only the scaled copy takes memory."""
    try:
        large = path.stat().st_size > 1 << 20
        x = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error, "a .npy file of numbers, without pickled objects") from error
    if not isinstance(x, np.ndarray):
        x.close()
        raise InputError(f"data: {path.name} is a .npz archive, allowed: rename it to {path.stem}.npz")
    return Raw(path.stem, x)


def read_npz(path: Path, key: str | None) -> Raw:
    """The array named by `key`; or x_train (and x_test, y_train, y_test); or x (and y); or the only array."""
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error, "a .npz file of numbers, without pickled objects") from error
    if isinstance(archive, np.ndarray):
        raise InputError(f"data: {path.name} is a single .npy array, allowed: rename it to {path.stem}.npy")
    with archive:
        keys = list(archive.files)

        def get(name: str) -> np.ndarray:
            try:
                return archive[name]
            except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
                raise unreadable(path, error, f"numbers under {name!r}, without pickled objects") from error

        def optional(name: str) -> np.ndarray | None:
            return get(name) if name in keys else None

        listed = ", ".join(keys) or "none"
        if key is not None:
            if key not in keys:
                raise InputError(f"key: got {key!r}, allowed: one of the arrays in {path.name}: {listed}")
            return Raw(f"{path.stem}:{key}", get(key))
        if "x_train" in keys:
            return Raw(path.stem, get("x_train"), optional("x_test"), optional("y_train"), optional("y_test"))
        if "x" in keys:
            return Raw(path.stem, get("x"), y=optional("y"))
        if len(keys) == 1:
            return Raw(path.stem, get(keys[0]))
        raise InputError(
            f"data: {path.name} holds the arrays {listed}, allowed: x_train (with x_test, y_train, y_test), "
            "x (with y), or a single array; otherwise name one with key="
        )


def read_csv(path: Path) -> Raw:
    """Comma-separated finite numbers, one sample a line; the first line may be a header without numbers."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = next((row for row in csv.reader(file) if row), [])
        header = bool(first) and not any(_is_number(cell) for cell in first)
        with open(path, encoding="utf-8-sig", newline="") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about a file without rows; the empty array is refused
            x = np.loadtxt(
                file,
                delimiter=",",
                quotechar='"',
                comments=None,
                ndmin=2,
                skiprows=_lines_before_data(path, header),
            )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, error, "a UTF-8 text file with comma-separated numbers") from error
    except ValueError as error:
        raise _bad_cell(path, header) or unreadable(path, error, "comma-separated numbers") from error
    if not np.isfinite(x).all():
        raise _bad_cell(path, header) or InputError(f"data: {path.name} holds NaN or infinite values")
    notes = (f"header line: {shown(', '.join(cell.strip() for cell in first), 200)}",) if header else ()
    return Raw(path.stem, x, notes=notes)


def read_images(folder: Path) -> Raw:
    """All images below a folder, sorted by path; pixel values as stored, no colour conversion."""
    images, others = find_images(folder)
    first: tuple[str, tuple[int, int], str] = ("", (0, 0), "")
    x = np.empty(0)
    for index, file in enumerate(images):
        kind, pixels = read_image(folder, file)
        if not index:
            first, x = kind, np.empty((len(images), *pixels.shape), dtype=pixels.dtype)
        same_kind(first, kind)
        x[index] = pixels
    return Raw(folder.resolve().name, x, notes=left_out(others, "images"))


def sorted_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted by path."""
    return sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.relative_to(folder).as_posix())


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """(images, other files) below a folder, sorted by path; refused without any image."""
    files = sorted_files(folder)
    images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    others = [p for p in files if p.suffix.lower() not in IMAGE_SUFFIXES]
    if not images:
        hint = ""
        if str(folder) in NAMED_SETS:
            hint = f" (the named set {folder.name!r} is used only where nothing on disk has its name)"
        raise InputError(
            f"data: the folder {str(folder)!r} holds no image among {len(others)} files, allowed: files "
            f"that end in {', '.join(IMAGE_SUFFIXES)}{hint}"
        )
    return images, others


def read_image(folder: Path, file: Path) -> tuple[tuple[str, tuple[int, int], str], np.ndarray]:
    """((name, size, mode), pixels) of one image, its name relative to `folder`."""
    name = file.relative_to(folder).as_posix()
    try:
        with Image.open(file) as image:
            kind, pixels = (name, image.size, image.mode), np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(file, error, "an image that is whole; mend or remove it") from error
    if kind[2] not in _IMAGE_MODES:
        raise InputError(
            f"data: {name} has the mode {kind[2]!r}, allowed: {', '.join(_IMAGE_MODES)}; convert the "
            "images, for example to 'L' (grey) or 'RGB'"
        )
    return kind, pixels


def same_kind(first: tuple[str, tuple[int, int], str], other: tuple[str, tuple[int, int], str]) -> None:
    """Refuse two images of different size or mode, each as (name, size, mode)."""
    if first[1:] != other[1:]:
        raise InputError(
            f"data: {_image(*first)} and {_image(*other)} differ, allowed: images of one size "
            "and one mode; resize or convert them"
        )


def left_out(others: list[Path], what: str) -> tuple[str, ...]:
    """The note on files of a folder that were not used."""
    return (f"{len(others)} files that are no {what} were left out, first {others[0].name}",) if others else ()


def _image(name: str, size: tuple[int, int], mode: str) -> str:
    return f"{name} ({size[0]}x{size[1]} {mode})"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _lines_before_data(path: Path, header: bool) -> int:
    """Physical lines up to the end of the header, because loadtxt counts lines and not records."""
    if not header:
        return 0
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        next(row for row in reader if row)
        return reader.line_num


def _bad_cell(path: Path, header: bool) -> InputError | None:
    """The error that names the first cell that is no finite number, or the first row of another length."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        rows = ((reader.line_num, row) for row in reader if row)
        if header:
            next(rows)
        width = None
        for line, row in rows:
            width = width or len(row)
            for column, cell in enumerate(row, start=1):
                if not _is_number(cell) or not math.isfinite(float(cell)):
                    return InputError(
                        f"data: {path.name} line {line}, column {column}: got {shown(cell, 40)}, allowed: "
                        "a finite number (comma-separated); mend the cell or drop its line or column"
                    )
            if len(row) != width:
                return InputError(
                    f"data: {path.name} line {line} has {len(row)} cells, allowed: {width}, like the lines before"
                )
    return None


def _cause(error: BaseException) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__, 160).strip("'\"")


def unreadable(path: Path, error: BaseException, allowed: str) -> InputError:
    """The error for a file that cannot be read; raise what is returned."""
    return InputError(f"data: {path.name} could not be read ({_cause(error)}), allowed: {allowed}")
