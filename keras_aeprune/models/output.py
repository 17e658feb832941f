"""Which output activation and which loss suit the data?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError, one_of, shown
from keras_aeprune.datasets import Dataset
from keras_aeprune.datasets.scaling import row_chunks

_LOSSES = ("auto", "mse", "huber", "binary_crossentropy")
_FAR = 10  # median absolute deviations from the median
_MUCH = 0.5  # fraction of the squared error that comes from there
_FEW = 20  # samples; with fewer, normal data can seem to have heavy tails
_SAMPLE = 1 << 20  # values from which medians and deviations are found, from at least _ROWS samples
_ROWS = 128


@dataclass(frozen=True)
class Output:
    """What `output_for` chose.

    Args:
        activation: for `output_activation` of a builder, "sigmoid" or "linear".
        loss: for `compile`, "mse", "huber" or "binary_crossentropy".
        reason: why, with the numbers that decided.

    >>> print(Output("sigmoid", "mse", "all values lie in [0, 1]"))
    output activation sigmoid, loss mse: all values lie in [0, 1]
    """

    activation: str
    loss: str
    reason: str

    def __str__(self) -> str:
        return f"output activation {self.activation}, loss {self.loss}: {self.reason}"


def output_for(data: Any, *, loss: str = "auto") -> Output:
    """The output activation and the loss that suit the data of an autoencoder.

    Use it before a model is built, on the scaled training data. The activation is "sigmoid" where all values
    lie in [0, 1] and "linear" elsewhere; the loss with loss="auto" is "binary_crossentropy" where every value
    is 0 or 1, "huber" where the output is linear and the data has heavy tails, else "mse".

    Heavy tails: values further than 10 median absolute deviations from the median of their feature make more
    than half of the squared error of predicting that median, so that "mse" would follow a few wild values.
    That part is 0 for normal data, 0.03 for a Laplace distribution, and 0.7 for 200,000 values of Student's t
    with 2 degrees of freedom. Each feature has its own median, so that a peak that every sample has at one
    place is no tail. Where more than half of a feature's values are equal, its mean absolute deviation takes
    the place of the median one. With fewer than 20 samples nothing is said about tails. Medians and
    deviations of large data come from a seeded sample of about a million values; the squared errors come from
    all of it.

    With the target t and the output p of each value, and the mean over all values of all samples:

        mse                  = mean (t - p)^2
        huber                = mean h(t - p), h(r) = r^2 / 2 for |r| <= 1, |r| - 1/2 beyond
        binary_crossentropy  = mean -(t log p + (1 - t) log(1 - p))

    Args:
        data: numbers of shape (n, ...), finite, as the model will see them; or a `datasets.Dataset`, of which
            the training split counts and where `scaling.output_range` decides on the activation.
        loss: "auto", "mse", "huber", or "binary_crossentropy" for data in [0, 1].

    Returns:
        An `Output`.

    Raises:
        InputError: no numbers, no values, NaN, infinite values or what float32 cannot hold, an unknown loss,
            binary_crossentropy for data outside [0, 1].

    >>> print(output_for(np.array([[0.0, 0.25], [1.0, 0.5]])))
    output activation sigmoid, loss mse: all values lie in [0, 1]
    >>> output_for(np.array([[0, 1], [1, 1]])).loss
    'binary_crossentropy'
    """
    one_of("loss", loss, _LOSSES)
    if isinstance(data, Dataset):
        name, x = "data.x_train", data.x_train
    else:
        name, x = "data", _array(data)
    found = _look(name, x)
    reach = f"from {found.low:g} to {found.high:g}"
    activation = "sigmoid" if found.low >= 0 and found.high <= 1 else "linear"
    why = "all values lie in [0, 1]" if activation == "sigmoid" else f"values {reach} are not all in [0, 1]"
    if isinstance(data, Dataset):
        unit = data.scaling.output_range == "unit"
        activation = "sigmoid" if unit else "linear"
        why = f"data scaled to the output range {data.scaling.output_range!r}, values {reach}"
    if loss == "binary_crossentropy" and (activation == "linear" or found.low < 0 or found.high > 1):
        raise InputError(
            f"loss: got 'binary_crossentropy' for {why}, allowed: with data in [0, 1]; scale it "
            "(datasets.load(..., scale='unit')) or take 'mse' or 'huber'"
        )
    if loss != "auto":
        return Output(activation, loss, f"{why}; {loss} was asked for")
    if activation == "sigmoid":
        if found.binary:
            return Output(activation, "binary_crossentropy", f"{why}; every value is 0 or 1")
        return Output(activation, "mse", why)
    if len(x) < _FEW:
        return Output(activation, "mse", f"{why}; {len(x)} samples are too few to judge tails")
    far, share = _far(x)
    tails = (
        f"{far:.2g} of them are further than {_FAR} deviations from their feature's median and make {share:.2g} "
        f"of the squared error (limit {_MUCH})"
    )
    if share > _MUCH:
        return Output(activation, "huber", f"{why}; heavy tails, {tails}")
    return Output(activation, "mse", f"{why}; no heavy tails, {tails}")


@dataclass(frozen=True)
class _Found:
    low: float
    high: float
    binary: bool


def _array(data: Any) -> np.ndarray:
    if not hasattr(data, "__array__"):
        raise InputError(
            f"data: got {shown(data)} of type {type(data).__name__}, allowed: a NumPy array or a "
            "datasets.Dataset (datasets.load reads files and named sets)"
        )
    return np.asarray(data)


def _look(name: str, x: np.ndarray) -> _Found:
    """Range and kind of the values, without a copy of the whole."""
    if x.dtype.kind not in "biuf" or x.ndim < 1 or not x.size:
        raise InputError(
            f"{name}: got a {x.dtype} array of shape {x.shape}, allowed: numbers of shape (samples, ...), one "
            "or more"
        )
    lows, highs, binary = [], [], True
    for place, part in row_chunks(x):
        finite = np.isfinite(part)
        if not finite.all():
            row, *rest = (int(i) for i in np.unravel_index(int(finite.argmin()), finite.shape))
            raise InputError(
                f"{name}: got a NaN or infinite value at {[place.start + row, *rest]}, allowed: finite "
                "numbers; drop or fill them"
            )
        lows.append(part.min())
        highs.append(part.max())
        binary = binary and bool(((part == 0) | (part == 1)).all())
    low, high = float(min(lows)), float(max(highs))
    largest = float(np.finfo("float32").max)
    if max(-low, high) > largest:
        raise InputError(
            f"{name}: got values from {low:g} to {high:g}, allowed: what float32 can hold, up to {largest:g}"
        )
    return _Found(low, high, binary)


def _far(x: np.ndarray) -> tuple[float, float]:
    """The fraction of the values that are far from their feature's median, and of the squared error."""
    count, features = len(x), x[:1].size
    rows = min(count, max(_ROWS, _SAMPLE // features))
    chosen = np.sort(np.random.default_rng(0).choice(count, rows, replace=False))
    sample = x[chosen].reshape(rows, features)
    middle, scale = np.empty(features), np.empty(features)
    step = max(1, _SAMPLE // rows)
    for start in range(0, features, step):
        block = slice(start, start + step)
        values = sample[:, block].astype("float64")
        middle[block] = np.median(values, axis=0)
        away = np.abs(values - middle[block])
        median = np.median(away, axis=0)
        scale[block] = np.where(median > 0, median, away.mean(axis=0))
    far, far_squares, squares = 0, 0.0, 0.0
    for _, part in row_chunks(x):
        away = np.abs(part.reshape(len(part), features) - middle)
        wild = away > _FAR * scale
        np.square(away, out=away)
        far += int(wild.sum())
        far_squares += float(away[wild].sum())
        squares += float(away.sum())
    return far / x.size, far_squares / squares if squares else 0.0
