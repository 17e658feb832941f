"""tf.data in and out; TensorFlow is imported when a function needs it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_aeprune._validation import InputError, one_of, positive_int, refuse

if TYPE_CHECKING:
    import tensorflow as tf

TARGETS = ("input", "label")
LIMIT_BYTES = 4 << 30
_READ_BATCH = 256


def as_tf(
    x: np.ndarray, y: np.ndarray | None, *, batch_size: int, shuffle: bool, seed: int, target: str
) -> tf.data.Dataset:
    """Batches (x, x) or (x, y) of arrays in memory; see `Dataset.as_tf`."""
    positive_int("batch_size", batch_size)
    positive_int("seed", seed, minimum=0)
    check_target(target, y)
    if not isinstance(shuffle, bool):
        raise refuse("shuffle", shuffle, "True, False or None")
    if not len(x):
        raise InputError(
            "split: got one without samples, allowed: one that load was asked for with a fraction > 0"
        )
    import tensorflow as tf

    with tf.device("CPU"):
        samples = tf.constant(x)
        targets = None if target == "input" else tf.constant(y)
    rows = tf.data.Dataset.range(len(x))
    if shuffle:
        rows = rows.shuffle(len(x), seed=seed, reshuffle_each_iteration=True)

    def batch(places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        taken = tf.gather(samples, places)
        return (taken, taken) if targets is None else (taken, tf.gather(targets, places))

    return rows.batch(batch_size).map(batch, num_parallel_calls=2).prefetch(2)


def check_target(target: str, y: np.ndarray | None) -> None:
    """Refuse an unknown target, and "label" without labels."""
    one_of("target", target, TARGETS)
    if target == "label" and y is None:
        raise InputError("target: got 'label' for data without labels, allowed: 'input', or data given as (x, y)")


def is_tf_dataset(value: Any) -> bool:
    """Whether `value` is a tf.data.Dataset; TensorFlow is not imported to find out."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(value, tensorflow.data.Dataset)


def read_tf(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """All samples of a finite dataset of x or (x, y), in its own order.

    An element is a batch where the first axis of x has no known size; where all axes are known it is one
    sample. What could be either is refused: all axes known after a `batch` (drop_remainder=True).

    Returns:
        (x, y or None, notes)

    Raises:
        InputError: other elements, an endless dataset, more than 4 GiB, samples whose shape is unknown.
    """
    spec = dataset.element_spec
    pair = isinstance(spec, tuple)
    specs = spec if pair else (spec,)
    if len(specs) not in (1, 2) or not all(_is_dense(part) for part in specs):
        raise InputError(
            f"data: got a tf.data.Dataset of {spec}, allowed: one of x or (x, y), each a dense tensor"
        )
    if dataset.cardinality().numpy() == -1:
        raise InputError(
            "data: got a tf.data.Dataset without end, allowed: a finite one; leave out repeat(), or add take(n)"
        )
    batched = _is_batched(dataset, specs[0].shape)
    notes: tuple[str, ...] = ()
    if batched and not _made_by_batch(dataset):
        notes = (f"elements of shape {specs[0].shape} were read as batches: their first axis is of unknown size",)
    if not batched:
        dataset = dataset.batch(_READ_BATCH)
    parts, held = [], 0
    for element in dataset.as_numpy_iterator():
        parts.append(element if pair else (element,))
        held += parts[-1][0].nbytes
        if held > LIMIT_BYTES:
            raise InputError(
                f"data: got a tf.data.Dataset of more than {LIMIT_BYTES >> 20} MiB, allowed: what fits; "
                "take(n) of it, or save it as .npy and read it with datasets.stream"
            )
    if not parts:
        raise InputError("data: got a tf.data.Dataset without elements, allowed: one with samples")
    x, *y = (np.concatenate(column) for column in zip(*parts, strict=True))
    return x, _plain(y[0]) if y else None, notes


def _is_dense(spec: Any) -> bool:
    import tensorflow as tf

    return isinstance(spec, tf.TensorSpec)


def _is_batched(dataset: tf.data.Dataset, shape: tf.TensorShape) -> bool:
    advice = "give samples a known shape with map(lambda x: tf.ensure_shape(x, (height, width, channels)))"
    if shape.rank is None or (shape.rank and None in shape.as_list()[1:]):
        raise InputError(
            f"data: got a tf.data.Dataset of x with the shape {shape}, allowed: samples of one shape; {advice}"
        )
    if shape.rank and shape[0] is None:
        return True
    if _made_by_batch(dataset):
        raise InputError(
            f"data: got a tf.data.Dataset that was batched and has x of shape {shape}, allowed: a first axis of "
            "unknown size for batches; leave out drop_remainder=True, or add unbatch()"
        )
    return False


def _made_by_batch(dataset: tf.data.Dataset) -> bool:
    """Whether a batch of samples was formed on the way to this dataset, and not taken apart again."""
    waiting = [dataset]
    while waiting:
        step = waiting.pop()
        kind = type(step).__name__.lower()
        if "unbatch" in kind:
            continue
        if "batch" in kind:
            return True
        waiting.extend(step._inputs())
    return False


def _plain(y: np.ndarray) -> np.ndarray:
    """Labels as NumPy has them: TensorFlow's byte strings become text."""
    return np.char.decode(y.astype("S"), "utf-8") if y.dtype == object else y
