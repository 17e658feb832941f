"""From any source to checked, scaled splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_aeprune._files import fingerprint
from keras_aeprune._validation import InputError, fraction, one_of, positive_int, shown
from keras_aeprune.datasets.checks import check
from keras_aeprune.datasets.readers import FILE_TYPES, NAMED_SETS, Raw, read_named, read_path
from keras_aeprune.datasets.scaling import MODES, Scaling, fit
from keras_aeprune.datasets.tfdata import as_tf, is_tf_dataset, read_tf

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, eq=False)
class Dataset:
    """Checked splits for training, validation and test; made by `load` or `windows`.

    Args:
        name: the named set, the file's stem or the folder's name; "array" for an array.
        x_train: float32, shape (n, *sample_shape), scaled.
        x_validation: the same for validation; 0 rows where none was asked.
        x_test: the same for the test.
        y_train: labels of the training samples as given, or None.
        y_validation: labels of the validation samples, or None.
        y_test: labels of the test samples, or None.
        scaling: how the raw values were scaled; `scaling.invert` brings them back.
        fingerprint: sha256 (hex) of all raw arrays with their types and shapes, before splitting and scaling.
        notes: what a reader of the results should know about the data.

    Example:
        >>> digits = load("digits")
        >>> digits.sample_shape, digits.features, digits.flat.x_test.shape
        ((8, 8), 64, (180, 64))
    """

    name: str
    x_train: np.ndarray
    x_validation: np.ndarray
    x_test: np.ndarray
    y_train: np.ndarray | None
    y_validation: np.ndarray | None
    y_test: np.ndarray | None
    scaling: Scaling
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        return tuple(self.x_train.shape[1:])

    @property
    def features(self) -> int:
        """Number of values in one sample."""
        return int(np.prod(self.sample_shape))

    @property
    def flat(self) -> Dataset:
        """The same data with samples as vectors, (n, features); the values are shared, not copied."""
        arrays = {name: getattr(self, name) for name in ("x_train", "x_validation", "x_test")}
        flat = {name: x.reshape(len(x), self.features) for name, x in arrays.items()}
        return replace(self, scaling=self.scaling.flattened(self.sample_shape), **flat)

    def as_tf(
        self,
        split: str = "train",
        *,
        batch_size: int = 128,
        shuffle: bool | None = None,
        seed: int = 0,
        target: str = "input",
    ) -> tf.data.Dataset:
        """One split as a tf.data.Dataset of batches for `model.fit`, `evaluate` and `predict`.

        Use it where a training loop wants tf.data; `model.fit(x, x)` with the arrays does the same.
        Needs TensorFlow, which is imported by this call.

        Args:
            split: "train", "validation" or "test".
            batch_size: samples in a batch, 1 or more; the last one may be smaller.
            shuffle: whether every pass has an order of its own, drawn from all samples; None shuffles the
                training split only.
            seed: of the orders, a whole number >= 0.
            target: "input" gives (x, x) for an autoencoder, "label" gives (x, y).

        Returns:
            A finite dataset of known length, ceil(samples / batch_size) batches; it shares one copy of the
            values for all passes.

        Raises:
            InputError: an unknown split, one without samples, or labels that the data does not have.

        >>> data = load("digits").flat
        >>> x, y = next(iter(data.as_tf("test", target="label")))
        >>> x.shape, y.shape, len(data.as_tf())
        (TensorShape([128, 64]), TensorShape([128]), 12)
        """
        one_of("split", split, ("train", "validation", "test"))
        labels = getattr(self, f"y_{split}")
        shuffle = split == "train" if shuffle is None else shuffle
        return as_tf(
            getattr(self, f"x_{split}"), labels, batch_size=batch_size, shuffle=shuffle, seed=seed, target=target
        )

    def describe(self) -> dict[str, Any]:
        """Counts, shapes, scaling, fingerprint and notes as plain JSON values."""
        return {
            "name": self.name,
            "samples": {
                "train": len(self.x_train),
                "validation": len(self.x_validation),
                "test": len(self.x_test),
            },
            "sample_shape": list(self.sample_shape),
            "features": self.features,
            "scaling": self.scaling.to_dict(),
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }


def load(
    data: Any,
    *,
    key: str | None = None,
    seed: int = 0,
    scale: str = "auto",
    validation: float = 0.1,
    test: float = 0.1,
) -> Dataset:
    """Read data from anywhere, check it, split it and scale it to float32.

    Use it before training, and with the same arguments later to get the same splits again: they depend
    only on the data, the seed and the fractions.

    A string that names something on disk is read from there: "digits", "mnist", "fashion_mnist" and
    "cifar10" are the named sets only where no file or folder of that name exists (a note says when one
    was read instead), and a Path is never a named set. "digits" needs no download. A test split that the
    source has (x_test, or the one of a named set) is kept as it is; then only validation is taken from
    the training samples.

    Args:
        data: an array of shape (n, ...) with one sample a row; a tuple (x, y); a named set; the path of
            a .npy, a .npz, a .csv (comma-separated numbers, perhaps one header line) or a folder of
            png/jpg/jpeg/bmp images of one size and mode (sub-folders included, sorted by path); or a finite
            tf.data.Dataset of x or (x, y), which is read into memory in its own order, up to 4 GiB. It is
            taken as batched where the first axis of x is of unknown size, as `batch` makes it, and as one
            sample an element where all axes are known. `stream` is for data larger than memory.
        key: name of the array in a .npz; None takes x_train (with x_test, y_train, y_test), else x
            (with y), else the only array.
        seed: of the permutation that splits, a whole number >= 0.
        scale: fitted on the training split only and never clipped, so other samples can lie outside its
            range. "auto": uint8 divided by 255; samples with several axes as "unit"; vectors as they are
            where all values lie in [0, 1], else as "standard". "unit": the smallest value becomes 0 and
            the largest 1, one range for all features (uint8: 255 becomes 1). "standard": each feature
            minus its mean, divided by its standard deviation (by 1 where it is constant). "none": values
            as they are.
        validation: fraction of the samples for validation, 0 <= f < 1; 0 leaves that split empty.
        test: fraction of the samples for the test, 0 <= f < 1, 0 leaves it empty; not used where the
            source has a test split. validation + test must leave at least 2 samples for training.

    Returns:
        A Dataset. Sizes are round(fraction * n), at least 1 for a fraction above 0; the rest is for
        training.

    Raises:
        InputError: a missing, unreadable or unknown file, an unknown key or named set, NaN or infinite
            values, fewer than 10 samples, values that are no numbers or all the same, images or splits of
            different shapes, a failed download.

    >>> digits = load("digits")
    >>> digits.x_train.shape, digits.x_test.dtype, digits.scaling.divisor
    ((1437, 8, 8), dtype('float32'), 16.0)
    >>> digits.flat.sample_shape
    (64,)
    """
    positive_int("seed", seed, minimum=0)
    one_of("scale", scale, MODES)
    validation, test = fraction("validation", validation), fraction("test", test)
    raw = _read(data, key)
    check(raw)
    rows = split_rows(len(raw.x), validation, test if raw.x_test is None else 0.0, seed)
    scaling, scaling_notes = fit(raw.x, rows["train"], scale)
    notes = raw.notes + scaling_notes
    if raw.x_test is not None:
        notes += (f"the test split is the source's own, {len(raw.x_test)} samples",)

    def labels(split: str) -> np.ndarray | None:
        return None if raw.y is None else raw.y[rows[split]]

    return Dataset(
        name=raw.name,
        x_train=scaling.apply(raw.x, rows["train"]),
        x_validation=scaling.apply(raw.x, rows["validation"]),
        x_test=scaling.apply(raw.x, rows["test"]) if raw.x_test is None else scaling.apply(raw.x_test),
        y_train=labels("train"),
        y_validation=labels("validation"),
        y_test=labels("test") if raw.x_test is None else raw.y_test,
        scaling=scaling,
        fingerprint=fingerprint((raw.x, raw.x_test, raw.y, raw.y_test)),
        notes=notes,
    )


def split_rows(
    count: int, validation: float, test: float, seed: int, *, noun: str = "samples", least: int = 2
) -> dict[str, np.ndarray]:
    """Positions of the train, validation and test samples among `count`, the same for the same arguments.

    Args:
        count: number of samples.
        validation: fraction for validation, 0 <= f < 1.
        test: fraction for the test, 0 <= f < 1.
        seed: of the permutation.
        noun: what is split, in the message.
        least: smallest number that must be left for training.
    """
    test_size, validation_size = part_size(test, count), part_size(validation, count)
    train_size = count - test_size - validation_size
    if train_size < least:
        raise InputError(
            f"validation and test: got {validation} and {test} of {count} {noun}, which leaves "
            f"{max(train_size, 0)} for training, allowed: fractions that leave at least {least}"
        )
    order = np.random.default_rng(seed).permutation(count)
    return {
        "test": order[:test_size],
        "validation": order[test_size : test_size + validation_size],
        "train": order[test_size + validation_size :],
    }


def part_size(part: float, count: int) -> int:
    """round(part * count), at least 1 for a fraction above 0."""
    return max(1, round(part * count)) if part > 0 else 0


def _read(data: Any, key: str | None) -> Raw:
    if isinstance(data, (str, Path)):
        path = Path(data)
        if isinstance(data, str) and data in NAMED_SETS:
            if not path.exists():
                if key is not None:
                    raise InputError(
                        f"key: got {key!r} for the named set {data!r}, allowed: only with a .npz file"
                    )
                return read_named(data)
            note = f"read from the path {data!r}; the named set of that name was not used"
            raw = read_path(path, key)
            return replace(raw, notes=(note, *raw.notes))
        return read_path(path, key)
    if key is not None:
        raise InputError(f"key: got {key!r} with an array, allowed: only with a .npz file; leave it out")
    if is_tf_dataset(data):
        x, y, notes = read_tf(data)
        return Raw("tf.data", x, y=y, notes=notes)
    if isinstance(data, tuple):
        if len(data) != 2:
            raise InputError(f"data: got a tuple of {len(data)}, allowed: (x, y), or one array")
        return Raw("array", as_array("x", data[0]), y=as_array("y", data[1]))
    return Raw("array", as_array("data", data))


def as_array(name: str, value: Any) -> np.ndarray:
    """`value` as an array, if it is one already or can say how; lists and masked values are refused."""
    if not hasattr(value, "__array__"):
        raise InputError(
            f"{name}: got {shown(value)} of type {type(value).__name__}, allowed: a NumPy array (np.asarray "
            f"makes one of a list), a tuple (x, y), a tf.data.Dataset, the path of {FILE_TYPES}, or "
            f"one of {', '.join(NAMED_SETS)}"
        )
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise InputError(f"{name}: got an array with masked values, allowed: an array without; fill or drop them")
    return np.asarray(value)
