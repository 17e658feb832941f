"""What a transfer of an encoder gives: the model, and how large and how good it was at each stage."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune import _graph
from keras_aeprune._validation import InputError, keras_model, positive_int, positive_number, refuse

ACCURACY, ERROR = "accuracy", "mse"
_CHUNK = 512


@dataclass(frozen=True)
class Stage:
    """A model at one point of a transfer.

    Args:
        name: "start", "fine-tuned", ...
        parameters: numbers in all weights.
        bytes: of all weights as float32, 4 * parameters.
        score: accuracy as a fraction from 0 to 1, or mean squared error; None where there was no test data.
        seconds: this stage took, 0 or more.
        note: what else happened in it, or "".
    """

    name: str
    parameters: int
    bytes: int
    score: float | None
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Transfer:
    """The result of a transfer; `str` gives a table, `to_dict` plain values.

    Args:
        model: the keras.Model that came out.
        stages: from the first to the last.
        score_name: "accuracy" (higher is better) or "mse" (lower is better).
        kept: name of the stage whose weights `model` has; "" means the last.

    >>> first = Stage("start", 1000, 4000, 0.5, 0.0)
    >>> print(Transfer(None, (first, Stage("fine-tuned", 500, 2000, 0.75, 3.2)), "accuracy"))
    stage       parameters  bytes  accuracy  seconds
    start            1,000  4,000    0.5000      0.0
    fine-tuned         500  2,000    0.7500      3.2  kept
    before -> after: parameters 1,000 -> 500 (0.50x), accuracy 0.5000 -> 0.7500
    """

    model: Any
    stages: tuple[Stage, ...]
    score_name: str
    kept: str = ""

    @property
    def final(self) -> Stage:
        """The stage whose weights `model` has."""
        return next((stage for stage in self.stages if stage.name == self.kept), self.stages[-1])

    def to_dict(self) -> dict[str, Any]:
        """All but the model, as plain JSON values."""
        stages = [asdict(stage) for stage in self.stages]
        return {"score_name": self.score_name, "kept": self.final.name, "stages": stages}

    def __str__(self) -> str:
        rows = [("stage", "parameters", "bytes", self.score_name, "seconds", "")]
        for stage in self.stages:
            kept = "kept" if stage is self.final else ""
            remark = "; ".join(text for text in (kept, stage.note) if text)
            numbers = f"{stage.parameters:,}", f"{stage.bytes:,}", _score(stage.score), f"{stage.seconds:.1f}"
            rows.append((stage.name, *numbers, remark))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = []
        for name, *written, remark in rows:
            cells = [text.rjust(width) for text, width in zip(written, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *cells, remark]).rstrip())
        first, last = self.stages[0], self.final
        ratio = last.parameters / first.parameters if first.parameters else 1.0
        lines.append(
            f"before -> after: parameters {first.parameters:,} -> {last.parameters:,} ({ratio:.2f}x), "
            f"{self.score_name} {_score(first.score)} -> {_score(last.score)}"
        )
        return "\n".join(lines)


def _score(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2e}" if 0 < abs(value) < 0.001 else f"{value:.4f}"


def score(model: keras.Model, x: np.ndarray, y: np.ndarray) -> tuple[str, float]:
    """How good a model with one output is on (x, y): its accuracy where `y` are labels, else its squared error.

    Whole-number labels of shape (n, ...) and an output (n, ..., classes) of two or more classes give the
    fraction of samples whose largest output is the label. One output with a sigmoid and labels 0 and 1 give
    the fraction that lies on the right side of 0.5. Anything else gives mean((y - output) ** 2), where `y` has
    the output's shape.

    Args:
        model: a Keras model with one output.
        x: what it takes, 1 sample or more.
        y: labels or targets.

    Returns:
        ("accuracy", fraction from 0 to 1, higher is better) or ("mse", lower is better).

    Raises:
        InputError: no samples, other numbers of samples, targets that do not fit the output.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
    >>> score(model, np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    ('accuracy', 0.5)
    """
    keras_model(model)
    x, y = pair("x, y", (x, y))
    outputs = predicted(model, x)
    kind = kind_of(model, outputs.shape, y)
    if kind == "values":
        if y.shape != outputs.shape:
            raise refuse("y", y.shape, f"labels, or values of the output's shape {outputs.shape}")
        return ERROR, float(np.mean(np.square(outputs - y, dtype="float64")))
    guess = outputs.argmax(axis=-1) if kind == "classes" else (outputs > 0.5)
    return ACCURACY, float(np.mean(guess.reshape(-1) == y.reshape(-1)))


def kind_of(model: keras.Model, output_shape: tuple[int | None, ...], y: np.ndarray) -> str:
    """What `y` is for a model with this output: "classes", "binary" (one sigmoid) or "values"."""
    whole = y.dtype.kind in "biu"
    *before, last = output_shape[1:] or (None,)
    if not whole or tuple(y.shape[1:]) not in (tuple(before), (*before, 1)):
        return "values"
    if last is not None and last >= 2:
        if len(y) and (y.min() < 0 or y.max() >= last):
            raise refuse("y", f"labels from {y.min()} to {y.max()}", f"whole numbers from 0 to {last - 1}")
        return "classes"
    return "binary" if last_activation(model) == "sigmoid" and not set(np.unique(y)) - {0, 1} else "values"


def loss_of(model: keras.Model, y: np.ndarray) -> keras.losses.Loss:
    """The loss that fits a model's output and `y`: cross entropy for labels, else the mean squared error."""
    kind = kind_of(model, model.output_shape, y)
    if kind == "classes":
        probabilities = last_activation(model) in ("softmax", "sigmoid")
        return keras.losses.SparseCategoricalCrossentropy(from_logits=not probabilities)
    return keras.losses.BinaryCrossentropy() if kind == "binary" else keras.losses.MeanSquaredError()


def last_activation(model: keras.Layer) -> str | None:
    """The Keras name of the activation that a model ends with; None where its layers do not say."""
    layer = model
    while isinstance(layer, keras.Model):
        if not _graph.is_graph(layer) or not layer.built:
            layer = getattr(layer, "decoder", None)
            continue
        graph, layer = layer, _graph.output_layers(layer)[0]
        while isinstance(layer, keras.layers.Reshape | keras.layers.Flatten | keras.layers.Dropout):
            layer = _graph.producers(graph, layer)[0]
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", None)


def predicted(model: keras.Layer, x: np.ndarray) -> np.ndarray:
    """The outputs of a model or layer with one output, in inference mode, computed in chunks."""
    chunks = [model(x[i : i + _CHUNK], training=False) for i in range(0, len(x), _CHUNK)]
    if any(isinstance(chunk, list | tuple | dict) for chunk in chunks):
        raise InputError(f"model {model.name!r}: got several outputs, allowed: a model with one output")
    return np.concatenate([keras.ops.convert_to_numpy(chunk) for chunk in chunks])


def stage(
    name: str,
    model: keras.Model,
    test: tuple[np.ndarray, np.ndarray] | None,
    *,
    seconds: float = 0.0,
    note: str = "",
) -> Stage:
    """The stage that `model` is at now."""
    parameters = int(sum(np.prod(v.shape, dtype="int64") for v in model.weights))
    value = None if test is None else score(model, *test)[1]
    return Stage(name, parameters, 4 * parameters, value, seconds, note)


def train(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    loss: Any,
    epochs: int,
    learning_rate: float,
    batch_size: int | None,
    verbose: int = 0,
) -> float:
    """Train with Adam and leave the model compiled with a fresh one; the seconds that it took."""
    start = time.perf_counter()
    metrics = [ACCURACY] if "entropy" in getattr(loss, "name", "") else []
    if epochs:
        model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=metrics)
        model.fit(x, y, epochs=epochs, batch_size=batch_size or batch_for(len(x)), verbose=verbose)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=metrics)
    return time.perf_counter() - start


def batch_for(samples: int) -> int:
    """The power of two nearest to samples / 40, from 8 to 128: few samples need many steps an epoch.

    >>> batch_for(100), batch_for(600), batch_for(60_000)
    (8, 16, 128)
    """
    return int(np.clip(2 ** np.round(np.log2(max(samples, 1) / 40)), 8, 128))


def pair(name: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """`value` as checked arrays (samples, labels) of one length, 1 sample or more."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise refuse(name, type(value).__name__, "a pair of arrays (samples, labels)")
    x, y = inputs(name, value[0]), np.asarray(value[1])
    if y.dtype.kind not in "biuf" or not y.ndim or len(y) != len(x):
        raise refuse(name, f"{len(x)} samples, {y.dtype} labels of shape {y.shape}", "one number or row a sample")
    return x, y


def inputs(name: str, value: Any, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
    """`value` as an array of finite numbers of shape (n, *shape), n >= 1; None in `shape` fits any size."""
    x = np.asarray(value)
    if x.dtype.kind not in "biuf" or x.ndim < 2 or not len(x):
        raise refuse(name, f"{x.dtype} array of shape {x.shape}", "numbers of shape (n, ...), n >= 1")
    if not np.isfinite(x).all():
        raise InputError(f"{name}: got NaN or infinite values, allowed: finite numbers; drop or fill them")
    if shape is not None:
        fits = len(shape) == x.ndim - 1 and all(a in (None, b) for a, b in zip(shape, x.shape[1:], strict=True))
        if not fits:
            raise refuse(name, x.shape, f"samples of shape {shape}")
    return x


def two(name: str, value: Any, check: str, minimum: int = 0) -> tuple[Any, Any]:
    """`value` as one setting for each of two stages: whole numbers ("epochs") or numbers > 0 ("rate")."""
    if isinstance(value, str) or not isinstance(value, list | tuple) or len(value) != 2:
        raise refuse(name, value, "two numbers, one for each stage")
    first, second = value
    if check == "epochs":
        return positive_int(name, first, minimum=minimum), positive_int(name, second, minimum=minimum)
    return positive_number(name, first), positive_number(name, second)
