"""Data larger than memory, as tf.data batches with the splits and the scaling of `load`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_aeprune._files import digest_array
from keras_aeprune._validation import InputError, fraction, one_of, positive_int
from keras_aeprune.datasets.checks import MIN_SAMPLES, Seen, check_kind, check_labels
from keras_aeprune.datasets.loading import as_array, split_rows
from keras_aeprune.datasets.readers import IMAGE_SUFFIXES, find_images, left_out, sorted_files
from keras_aeprune.datasets.rows import ImageRows, Joined, NpyRows, Rows
from keras_aeprune.datasets.scaling import MODES, Scaling, fit, survey
from keras_aeprune.datasets.tfdata import check_target

if TYPE_CHECKING:
    import tensorflow as tf

_ALLOWED = "a .npy file, a folder of .npy files, a folder of images, or an array"
_PIECE_BYTES = 2 << 20
_POOL_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches for training, validation and test that are read when they are asked for; made by `stream`.

    Args:
        name: the file's stem or the folder's name; "array" for an array.
        train: finite tf.data.Dataset of float32 batches (x, x) or (x, y), in another order in every pass.
        validation: the same in the order of the file; None where none was asked.
        test: the same for the test.
        steps: batches in one pass over each split, {"train": n, "validation": n, "test": n}.
        rows: positions in the source of each split's samples, ascending.
        sample_shape: shape of one sample, without the batch axis.
        scaling: how the raw values are scaled; `scaling.invert` brings them back.
        fingerprint: as in `Dataset`, and equal to it for the same data.
        notes: what a reader of the results should know about the data.

    Example:
        >>> s = stream(np.arange(800, dtype="uint8").reshape(200, 4), batch_size=32)
        >>> s.sample_shape, len(s.rows["train"]), s.steps["validation"]
        ((4,), 160, 1)
    """

    name: str
    train: tf.data.Dataset
    validation: tf.data.Dataset | None
    test: tf.data.Dataset | None
    steps: dict[str, int]
    rows: dict[str, np.ndarray]
    sample_shape: tuple[int, ...]
    scaling: Scaling
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        """Number of values in one sample."""
        return int(np.prod(self.sample_shape))

    def describe(self) -> dict[str, Any]:
        """Counts, shapes, steps, scaling, fingerprint and notes as plain JSON values."""
        return {
            "name": self.name,
            "samples": {split: len(rows) for split, rows in self.rows.items()},
            "steps": dict(self.steps),
            "sample_shape": list(self.sample_shape),
            "features": self.features,
            "scaling": self.scaling.to_dict(),
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }


def stream(
    source: Any,
    *,
    target: str = "input",
    batch_size: int = 128,
    seed: int = 0,
    scale: str = "auto",
    validation: float = 0.1,
    test: float = 0.1,
) -> Stream:
    """Read batches from disk while a model trains, for data larger than memory.

    Use it instead of `load` where the data does not fit: the splits, the scaling, the checks and the
    fingerprint are those of `load` with the same arguments. All values are read once at the start (checks,
    range and mean), and a second time for the standard deviation where "standard" scales.

    Training samples come in another order in every pass: the training rows are cut into runs of 2 MB, at other
    places in every pass; 16 runs from anywhere in the file are read and mixed at a time. So reading stays
    nearly sequential and memory bounded (about 100 MB, or two samples where they are larger than that). Pass k
    has the order of (seed, k), counted from the first pass over `train`. Single images are drawn
    from the whole folder. Needs TensorFlow, which is imported by this call.

    Args:
        source: path of a .npy, of a folder of .npy files (sub-folders included, sorted by path, one type
            and sample shape, joined along the first axis) or of a folder of images as for `load`; an
            array of shape (n, ...); or a tuple (one of these, labels) with an array of n labels.
        target: "input" gives (x, x) for an autoencoder, "label" gives (x, y).
        batch_size: samples in a batch, 1 or more; the last one of a pass may be smaller.
        seed: of the splits and of the orders, a whole number >= 0.
        scale: "auto", "unit", "standard" or "none", as for `load`; fitted on the training split only.
        validation: fraction of the samples for validation, 0 <= f < 1; 0 leaves that split out.
        test: fraction of the samples for the test, 0 <= f < 1; 0 leaves that split out.

    Returns:
        A Stream; `model.fit(s.train, validation_data=s.validation, epochs=10)` trains with it.

    Raises:
        InputError: what `load` refuses; a compressed or other file, which cannot be read in parts.

    >>> s = stream(np.arange(800, dtype="uint8").reshape(200, 4), batch_size=32)
    >>> s.steps, next(iter(s.train))[0].shape
    ({'train': 5, 'validation': 1, 'test': 1}, TensorShape([32, 4]))
    """
    positive_int("batch_size", batch_size)
    positive_int("seed", seed, minimum=0)
    one_of("scale", scale, MODES)
    validation, test = fraction("validation", validation), fraction("test", test)
    y = None
    if isinstance(source, tuple):
        if len(source) != 2:
            raise InputError(f"source: got a tuple of {len(source)}, allowed: (source, labels), or {_ALLOWED}")
        source, y = source[0], as_array("labels", source[1])
    check_target(target, y)
    name, x, notes = _open(source)
    check_kind("data", x)
    if len(x) < MIN_SAMPLES:
        raise InputError(f"data: got {len(x)} samples, allowed: at least {MIN_SAMPLES}")
    check_labels("labels", y, x)
    rows = {split: np.sort(places) for split, places in split_rows(len(x), validation, test, seed).items()}
    seen, digest = Seen("data", x.dtype), hashlib.sha256(f"{x.dtype.str}{x.shape};".encode())

    def inspect(place: slice, part: np.ndarray) -> None:
        seen.look(place, part)
        digest.update(np.ascontiguousarray(part).data)

    with np.errstate(all="ignore"):  # sums of values that are refused right after
        found = survey(x, rows["train"], scale, inspect)
    seen.refuse()
    seen.refuse_constant()
    scaling, scaling_notes = fit(x, rows["train"], scale, seen=found)
    for array in (None, y, None):  # no own test samples, labels, no labels of such
        digest_array(digest, array)
    wanted = y if target == "label" else None
    batches = {
        split: _batches(x, wanted, places, scaling, batch_size, seed if split == "train" else None)
        for split, places in rows.items()
        if len(places)
    }
    return Stream(
        name=name,
        train=batches["train"],
        validation=batches.get("validation"),
        test=batches.get("test"),
        steps={split: -(-len(rows[split]) // batch_size) for split in ("train", "validation", "test")},
        rows={split: rows[split] for split in ("train", "validation", "test")},
        sample_shape=tuple(x.shape[1:]),
        scaling=scaling,
        fingerprint=digest.hexdigest(),
        notes=notes + scaling_notes,
    )


def _open(source: Any) -> tuple[str, Rows, tuple[str, ...]]:
    """(name, something that is indexed by rows, notes)"""
    if not isinstance(source, (str, Path)):
        return "array", as_array("source", source), ()
    path = Path(source)
    if not path.exists():
        raise InputError(f"source: nothing is at {str(path)!r}, allowed: {_ALLOWED}")
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() != ".npy":
        raise InputError(
            f"source: got {path.name}, which cannot be read in parts, allowed: {_ALLOWED}; read it with "
            "datasets.load, or save its array with np.save"
        )
    return path.stem, NpyRows(path), ()


def _open_folder(folder: Path) -> tuple[str, Rows, tuple[str, ...]]:
    files = sorted_files(folder)
    shards = [file for file in files if file.suffix.lower() == ".npy"]
    name = folder.resolve().name
    if not shards:
        images, others = find_images(folder)
        return name, ImageRows(folder, images), left_out(others, "images")
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        raise InputError(
            f"source: the folder {str(folder)!r} holds {len(shards)} .npy files and {len(images)} images, "
            "allowed: one kind; move the other away"
        )
    others = [file for file in files if file not in set(shards)]
    names = [shard.relative_to(folder).as_posix() for shard in shards]
    return name, Joined([NpyRows(shard) for shard in shards], names), left_out(others, ".npy")


def _batches(
    x: Rows, y: np.ndarray | None, rows: np.ndarray, scaling: Scaling, batch_size: int, seed: int | None
) -> tf.data.Dataset:
    import tensorflow as tf

    passes = itertools.count()
    # TensorFlow knows neither swapped bytes nor floats of more than 64 bits
    kind = np.dtype("float64") if x.dtype.itemsize > 8 else x.dtype.newbyteorder("=")
    offset, divisor = scaling.constants(x)

    def generate() -> Iterator[Any]:
        pieces = (
            _in_order(x, rows) if seed is None else _mixed(x, rows, np.random.default_rng([seed, next(passes)]))
        )
        for part, places in pieces:
            raw = part.astype(kind, copy=False)
            yield raw if y is None else (raw, y[places])

    def scaled(part: tf.Tensor, *labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        part = tf.cast((tf.cast(part, offset.dtype) - offset) / divisor, "float32")
        return (part, *(labels or (part,)))

    signature = tf.TensorSpec((None, *x.shape[1:]), kind)
    if y is not None:
        label = tf.string if y.dtype.kind in "US" else tf.as_dtype(y.dtype)
        signature = (signature, tf.TensorSpec((None, *y.shape[1:]), label))
    batches = tf.data.Dataset.from_generator(generate, output_signature=signature)
    batches = batches.rebatch(batch_size).map(scaled, num_parallel_calls=2)
    steps = -(-len(rows) // batch_size)
    return batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def _piece_rows(x: Rows) -> int:
    return max(1, _PIECE_BYTES // max(1, x.dtype.itemsize * int(np.prod(x.shape[1:]))))


def _in_order(x: Rows, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    step = _piece_rows(x)
    for start in range(0, len(rows), step):
        places = rows[start : start + step]
        yield x[places], places


def _mixed(x: Rows, rows: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every row once in a random order, in pieces of (values, positions)."""
    step = _piece_rows(x)
    if isinstance(x, ImageRows):
        yield from _in_order(x, rng.permutation(rows))
        return
    edges = np.unique([0, *range(int(rng.integers(step)), len(rows), step), len(rows)])
    runs = rng.permutation(np.stack([edges[:-1], edges[1:]], axis=1))
    together = max(1, _POOL_BYTES // max(_PIECE_BYTES, x.dtype.itemsize * int(np.prod(x.shape[1:]))))
    for first in range(0, len(runs), together):
        chosen = runs[first : first + together]
        size = int((chosen[:, 1] - chosen[:, 0]).sum())
        mixing = rng.permutation(size)
        pool, places = np.empty((size, *x.shape[1:]), dtype=x.dtype), np.empty(size, dtype=rows.dtype)
        filled = 0
        for start, stop in chosen:
            to = mixing[filled : filled + stop - start]
            places[to] = rows[start:stop]
            pool[to] = x[rows[start:stop]]
            filled += stop - start
        for start in range(0, size, step):
            yield pool[start : start + step], places[start : start + step]
        del pool
