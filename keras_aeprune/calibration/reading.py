"""Arrays from datasets and streams of batches; no more is read than what is needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import InputError, refuse, shown
from keras_aeprune.calibration.drawing import classes_of
from keras_aeprune.datasets import Dataset, Stream
from keras_aeprune.datasets.tfdata import is_tf_dataset, read_tf

__all__ = ["read"]

LIMIT_BYTES = 1 << 30
_AHEAD = 4  # times as many samples are read where classes are to be balanced
_ALLOWED = (
    "an array (n, ...), a tuple (x, y), a datasets.Dataset, a tf.data.Dataset, a keras.utils.PyDataset, a "
    "generator of batches"
)
Pair = tuple[np.ndarray, np.ndarray | None]


def read(data: Any, samples: int | None, balanced: bool, generator: np.random.Generator) -> Pair:
    """(x, y or None) of `data`: whole arrays as they are, of streams about `samples` rows.

    Args:
        data: as `calibration.get` takes it.
        samples: how many are wanted; None reads all.
        balanced: whether more is read for data with classes, so that they can be balanced.
        generator: draws the order in which a PyDataset is read.
    """
    if isinstance(data, Dataset):
        return data.x_train, data.y_train
    if isinstance(data, Stream):
        data = data.train
    if is_tf_dataset(data):
        return _from_tf(data, samples, balanced)
    if isinstance(data, keras.utils.PyDataset):
        return _collected(_py_batches(data, samples, generator), samples, balanced)
    if isinstance(data, tuple):
        if len(data) != 2:
            raise refuse("data", f"a tuple of {len(data)}", "(x, y), or one array; sample weights are not used")
        x, y = data
        return _array("x", x), None if y is None else _array("y", y)
    if hasattr(data, "__array__"):
        return _array("data", data), None
    if isinstance(data, str | bytes | list | dict | set) or not isinstance(data, Iterable):
        hints: dict[type, str] = {
            str: "; datasets.load reads files and named sets",
            list: "; np.asarray makes an array of a list of samples, iter() a stream of a list of batches",
            dict: "; models with several inputs are not supported",
        }
        received = f"{shown(data, 40)} of type {type(data).__name__}"
        raise refuse("data", received, _ALLOWED + hints.get(type(data), ""))
    return _collected((_pair(batch) for batch in data), samples, balanced)


def _array(name: str, value: Any) -> np.ndarray:
    if not hasattr(value, "__array__"):
        raise refuse(name, f"{shown(value, 40)} of type {type(value).__name__}", "an array; np.asarray makes one")
    if np.ma.is_masked(value):
        raise refuse(name, "an array with masked values", "an array without; fill or drop them")
    return np.asarray(value)


def _pair(batch: Any) -> Pair:
    """x and y of one batch, as arrays."""
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    if len(parts) not in (1, 2):
        raise refuse("data", f"batches of {len(parts)} parts", "x or (x, y); sample weights are not used")
    x = _array("x of a batch", parts[0])
    y = _array("y of a batch", parts[1]) if len(parts) == 2 and parts[1] is not None else None
    if x.ndim < 2 or (y is not None and (not y.ndim or len(y) != len(x))):
        found = f"x of shape {x.shape}" + ("" if y is None else f" with y of shape {y.shape}")
        raise refuse("data", f"a batch with {found}", "batches: x of shape (n, ...), and n labels or targets")
    return x, y


def _py_batches(data: Any, samples: int | None, generator: np.random.Generator) -> Iterator[Pair]:
    count = data.num_batches
    if count is None and samples is None:
        raise InputError("samples: got None for an endless PyDataset, allowed: a whole number >= 1")
    if count is None:
        places: Iterable[int] = itertools.count()
    else:
        places = range(count) if samples is None else generator.permutation(count).tolist()
    return (_pair(data[place]) for place in places)


def _from_tf(data: Any, samples: int | None, balanced: bool) -> Pair:
    if data.cardinality().numpy() == -1 and samples is None:
        raise InputError(
            "samples: got None for a tf.data.Dataset without end, allowed: a whole number >= 1, or data.take(n)"
        )
    if samples is None:
        return read_tf(data)[:2]
    first = read_tf(data.take(1))[0]  # refuses what is no dense x or (x, y), and what could be read in two ways
    spec = data.element_spec[0] if isinstance(data.element_spec, tuple) else data.element_spec
    batched = len(spec.shape) == first.ndim

    def prepared(element: Any) -> Pair:
        parts = element if isinstance(element, tuple) else (element,)
        return _pair(parts if batched else tuple(np.asarray(part)[None] for part in parts))

    return _collected((prepared(element) for element in data.as_numpy_iterator()), samples, balanced)


def _collected(batches: Iterator[Pair], samples: int | None, balanced: bool) -> Pair:
    """One pair of arrays of as many batches as are needed."""
    inputs: list[np.ndarray] = []
    targets: list[np.ndarray | None] = []
    count = held = 0
    wanted = samples
    for x, y in batches:
        if samples is not None and not inputs and balanced and classes_of(y) is not None and not _same(x, y):
            wanted = _AHEAD * samples
        inputs.append(x)
        targets.append(y)
        count, held = count + len(x), held + x.nbytes
        if wanted is not None and count >= wanted:
            break
        if held > LIMIT_BYTES:
            raise InputError(
                f"data: got batches of more than {LIMIT_BYTES >> 20} MiB, allowed: what fits; give samples= "
                "where the data is large or has no end"
            )
    if not inputs:
        raise refuse("data", "no batches", "one or more; an iterator that was used before has nothing left")
    if len({x.shape[1:] for x in inputs}) > 1:
        shapes = sorted({x.shape[1:] for x in inputs})
        raise refuse("data", f"samples of shapes {', '.join(map(str, shapes[:3]))}", "samples of one shape")
    if len({None if y is None else y.shape[1:] for y in targets}) > 1:
        raise refuse(
            "data", "batches with different kinds of targets", "y of one shape in all batches, or in none"
        )
    given = [part for part in targets if part is not None]  # all of them or none, see above
    if not given:
        return np.concatenate(inputs), None
    y = np.concatenate(given)
    return np.concatenate(inputs), np.char.decode(y.astype("S"), "utf-8") if y.dtype == object else y


def _same(x: np.ndarray, y: np.ndarray | None) -> bool:
    return y is x or (y is not None and x.shape == y.shape and np.array_equal(x, y))
