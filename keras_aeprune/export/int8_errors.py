"""Where an int8 file loses: the difference from float32 at every operation, and the layers that cause it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_aeprune._layers import walk
from keras_aeprune._progress import silent, to_stderr
from keras_aeprune._validation import keras_model, positive_int, refuse
from keras_aeprune.compression.fake_quant import FakeQuantized
from keras_aeprune.export.flatbuffer import read_flatbuffer, type_name
from keras_aeprune.export.tflite import tflite, tflite_many

__all__ = ["LayerError", "LayerErrors", "Sensitivity", "layer_errors", "sensitivity"]

_FLOOR = 20  # as in `verify.difference`: the spread is at least the largest value / 20


@dataclass(frozen=True)
class LayerError:
    """One operation of the file.

    Args:
        layer: path of the Keras layer that it belongs to; "" where its name does not tell.
        operation: of LiteRT, FULLY_CONNECTED for example.
        rms: sqrt(mean (q - f)^2) / S with q the int8 and f the float32 file's values at its output and S their
            spread, max(standard deviation of f, max |f| / 20); what came in wrong is part of it.
        largest: max |q - f| / max |f|.
        step: distance of two int8 levels at its output / S; step / sqrt(12) of `rms` is rounding alone. 0 where
            the output is not int8.
        tensor: name of its output in the file.
    """

    layer: str
    operation: str
    rms: float
    largest: float
    step: float
    tensor: str


@dataclass(frozen=True)
class Sensitivity:
    """What one layer would bring back if it stayed in float.

    Args:
        layer: its path.
        kind: its class.
        brings_back: fraction of the mean squared error of the model's output that is gone when this layer alone
            is not rounded; below 0 where its rounding cancels another's.
    """

    layer: str
    kind: str
    brings_back: float


@dataclass(frozen=True)
class LayerErrors:
    """What `layer_errors` found; print it for tables with the most harmful first.

    Args:
        operations: in the order of the file.
        unmatched: outputs of the float32 file that the int8 file does not have.
        sensitivity: by layer, the most harmful first; empty where it was not asked for.
        samples: how many inputs were run through both.

    Example:
        >>> found = (("a", 0.02), ("b", 0.07))
        >>> rows = [LayerError(name, "FULLY_CONNECTED", rms, 0.1, 0.01, name) for name, rms in found]
        >>> [row.layer for row in LayerErrors(tuple(rows), (), (), samples=64).by_harm]
        ['b', 'a']
    """

    operations: tuple[LayerError, ...]
    unmatched: tuple[str, ...]
    sensitivity: tuple[Sensitivity, ...]
    samples: int

    @property
    def by_harm(self) -> list[LayerError]:
        """The operations, the largest `rms` first."""
        return sorted(self.operations, key=lambda row: -row.rms)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "operations": [asdict(row) for row in self.operations]}

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("layer", "operation", "rms", "largest", "step")]
        rows += [
            (r.layer or r.tensor, r.operation, f"{r.rms:.4f}", f"{r.largest:.4f}", f"{r.step:.4f}")
            for r in self.by_harm
        ]
        text = [*_table(rows), f"({self.samples} samples; rms and step as fractions of the spread of the output)"]
        if self.unmatched:
            text.append(f"not in the int8 file: {', '.join(self.unmatched)}")
        if self.sensitivity:
            found = [(s.layer, s.kind, f"{s.brings_back:+.3f}") for s in self.sensitivity]
            text += ["", *_table([("kept in float", "kind", "brings back"), *found])]
        return "\n".join(text)


def layer_errors(
    model: keras.Model, path: str | Path | None = None, *, data: Any, samples: int = 64, sensitive: bool = True
) -> LayerErrors:
    """Compare an int8 file with a float32 file of the same model at the output of every operation.

    Use it where int8 costs more than is good, to see where it goes wrong. Both files run in the LiteRT
    interpreter with its reference order of operations (no XNNPACK delegate, which would hide what is between)
    and all tensors kept; the converter gives corresponding tensors the same name, by which they are matched.

    Args:
        model: a built Keras model that `tflite` can export. It is not changed.
        path: its int8 file; None makes one, calibrated on `data`.
        data: inputs, shape (n, ...), n >= 1.
        samples: at most how many of them are run, the first ones, >= 1.
        sensitive: whether `sensitivity` is measured too.

    Returns:
        A `LayerErrors`.

    Raises:
        InputError: arguments that do not fit, a file that is not there, computes nothing in int8 or belongs
            to another model; with `sensitive` a model whose order of layers is not known.
        ConversionError: as in `tflite`.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="code")])
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
        >>> found = layer_errors(model, data=x)
        >>> found.operations[0].layer, found.operations[0].operation, 0 < found.operations[0].rms < 0.05
        ('code', 'FULLY_CONNECTED', True)
    """
    samples = positive_int("samples", samples)
    keras_model(model)
    if path is not None:
        _refuse_without_int8(path)
    with tempfile.TemporaryDirectory(prefix="keras_aeprune_") as name:
        folder = Path(name)
        whole = folder / "float32.tflite"
        if path is None:
            path = folder / "int8.tflite"
            tflite_many(model, {None: whole, "int8": path}, data=data)
        else:
            tflite(model, whole, data=data)
        rows, unmatched, count = _compare(model, whole, Path(path), data, samples)
    found = sensitivity(model, data, samples=samples, progress=False) if sensitive else ()
    return LayerErrors(tuple(rows), tuple(unmatched), tuple(found), count)


def _refuse_without_int8(path: str | Path) -> None:
    """Before anything is converted."""
    if not Path(path).is_file():
        raise refuse("path", str(path), "an int8 .tflite file of the model, or None to make one")
    (graph, *_) = read_flatbuffer(path).subgraphs
    made = {i for operator in graph.operators for i in operator.outputs}
    if not any(type_name(graph.tensors[i]) == "INT8" for i in made):
        raise refuse("path", str(path), "a file of this model that was exported with quantize='int8'")


def sensitivity(
    model: keras.Model, data: Any, *, calibration: Any = None, samples: int = 256, progress: bool = True
) -> list[Sensitivity]:
    """How much of the error of int8 goes away when one layer alone stays in float.

    Use it to decide which layers to keep out of int8, or to change. Computed with the roundings of
    `compression.FakeQuantized` on the Keras model, so nothing is converted; with o the float model's outputs, q
    the rounded and q_l those with layer l in float,

        brings_back_l = 1 - mean (q_l - o)^2 / mean (q - o)^2

    Args:
        model: a built functional or Sequential model with one input and one output. It is not changed.
        data: inputs, shape (n, ...).
        calibration: inputs that set the ranges; None takes `data`.
        samples: at most how many of `data` are run, >= 1.
        progress: True writes a line for each layer to standard error.

    Returns:
        One `Sensitivity` for each layer that is rounded, the most harmful first.

    Raises:
        InputError: for another model.

    Example:
        >>> layers = [keras.layers.Dense(8, "relu", name="a"), keras.layers.Dense(4, name="b")]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> found = sensitivity(model, np.random.default_rng(0).random((64, 4)), progress=False)
        >>> sorted(row.layer for row in found)
        ['a', 'b']
    """
    x = np.asarray(data, "float32")
    ranges = x if calibration is None else np.asarray(calibration, "float32")
    part = x[: positive_int("samples", samples)]
    first = FakeQuantized(keras_model(model))
    expected = np.asarray(model(part, training=False))
    whole = _rounded_error(first, ranges, part, expected)
    rounded = [layer for layer in first.layers if layer.how not in ("nothing", "float")]
    say, found = to_stderr if progress else silent, []
    for layer in rounded:
        left = _rounded_error(FakeQuantized(model, (layer.path,)), ranges, part, expected)
        found.append(Sensitivity(layer.path, layer.kind, 1 - left / whole if whole else 0.0))
        say(f"int8 without {layer.path}: brings back {found[-1].brings_back:+.3f}", layer is rounded[-1])
    return sorted(found, key=lambda row: -row.brings_back)


def _rounded_error(fake: FakeQuantized, ranges: np.ndarray, x: np.ndarray, expected: np.ndarray) -> float:
    fake.observe(ranges)
    with fake.rounded():
        got = np.asarray(fake.model(keras.ops.convert_to_tensor(x), training=False))  # arrays are not rounded
    return float(np.mean((got.astype("float64") - expected) ** 2))


def _compare(
    model: keras.Model, whole: Path, path: Path, data: Any, samples: int
) -> tuple[list[LayerError], list[str], int]:
    """Rows in the order of the float file, outputs that only it has, and the number of samples."""
    exact, small = _Kept(whole), _Kept(path)
    names = _Names(model)
    rows = [(operation, name) for operation, name in exact.outputs if name in small.places]
    unmatched = [name for _, name in exact.outputs if name not in small.places]
    if not rows:
        raise refuse("path", str(path), "a file of this model that was exported with quantize='int8'")
    inputs = exact.inputs(data, samples)
    count = len(inputs[0])
    sums = np.zeros((len(rows), 5))  # of squared errors, values, squared values; largest error, largest value
    sizes = np.zeros(len(rows))
    for i in range(count):
        exact.run([array[i : i + 1] for array in inputs])
        small.run([array[i : i + 1] for array in inputs])
        for k, (_, name) in enumerate(rows):
            f, q = exact.value(name), small.value(name)
            if f.shape != q.shape:
                raise refuse("path", str(path), f"a file of {model.name!r}; {name!r} has another shape in it")
            error = q - f
            sums[k, :3] += [np.sum(error**2), np.sum(f), np.sum(f**2)]
            sums[k, 3:] = np.maximum(sums[k, 3:], [np.abs(error).max(), np.abs(f).max()])
            sizes[k] += f.size
    squared, mean, power = (sums[:, :3] / sizes[:, None]).T
    largest = np.where(sums[:, 4] > 0, sums[:, 4], 1)
    spread = np.maximum(np.sqrt(np.maximum(power - mean**2, 0)), largest / _FLOOR)
    return (
        [
            LayerError(
                names.layer(name, exact.sources.get(name, ())),
                operation,
                float(np.sqrt(squared[k]) / spread[k]),
                float(sums[k, 3] / largest[k]),
                float(small.scale(name) / spread[k]),
                name,
            )
            for k, (operation, name) in enumerate(rows)
        ],
        unmatched,
        count,
    )


class _Kept:
    """A file whose every tensor can be read after a run."""

    def __init__(self, path: Path):
        self._interpreter = Interpreter(
            model_path=str(path),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        self._details = {d["index"]: d for d in self._interpreter.get_tensor_details()}
        self.outputs: list[tuple[str, str]] = []
        self.places: dict[str, int] = {}
        self.sources: dict[str, list[str]] = {}
        self._scales: dict[str, float] = {}
        for operation in self._interpreter._get_ops_details():
            read = [self._details[i] for i in operation["inputs"] if i >= 0]
            for i in operation["outputs"]:
                d = self._details[i]
                if d["dtype"] not in (np.float32, np.int8):
                    continue
                self.outputs.append((operation["op_name"], d["name"]))
                self.places[d["name"]] = i
                self.sources[d["name"]] = [one["name"] for one in read[1:] + read[:1]]  # weights say more
                scaled = read[0] if operation["op_name"] == "DEQUANTIZE" else d
                self._scales[d["name"]] = float(scaled["quantization"][0])

    def inputs(self, data: Any, samples: int) -> list[np.ndarray]:
        """The first samples for each input, in this file's order; the names are those of the model's inputs."""
        given = self._given()
        if not isinstance(data, dict):
            data = dict(zip(given, data if isinstance(data, (list, tuple)) else [data], strict=True))
        if set(data) != set(given):
            raise refuse("data", sorted(data), f"arrays for the inputs {', '.join(given)}")
        return [np.asarray(data[name])[:samples].astype(d["dtype"]) for name, d in given.items()]

    def _given(self) -> dict[str, Any]:
        runner = self._interpreter.get_signature_runner()
        return runner.get_input_details()

    def run(self, values: list[np.ndarray]) -> None:
        """Run one sample of every input."""
        if not hasattr(self, "_places"):
            self._places = [d["index"] for d in self._given().values()]
        for place, value in zip(self._places, values, strict=True):
            d = self._details[place]
            scale, zero = d["quantization"]
            if d["dtype"] is np.int8:
                value = np.clip(np.round(value / scale) + zero, -128, 127)
            self._interpreter.set_tensor(place, value.astype(d["dtype"]))
        self._interpreter.invoke()

    def value(self, name: str) -> np.ndarray:
        """One tensor as real numbers."""
        d = self._details[self.places[name]]
        value = self._interpreter.get_tensor(self.places[name]).astype("float64")
        scale, zero = d["quantization"]
        return (value - zero) * scale if d["dtype"] is np.int8 else value

    def scale(self, name: str) -> float:
        """The distance of two int8 levels of one tensor; 0 where it is not int8."""
        return self._scales[name]


class _Names:
    """Layers of a Keras model by the names that the converter gives their tensors."""

    def __init__(self, model: keras.Model):
        leaves = [(path, layer) for path, layer in walk(model) if not any(True for _ in walk(layer))]
        self._model = model.name
        self._leaves = [(path, bool(layer.weights)) for path, layer in leaves]

    def layer(self, name: str, sources: Any) -> str:
        """The path of the layer that made a tensor; of several that were fused, the first one with weights."""
        for text in (name, *sources):
            found = [path for part in text.split(";") for path in self._found(part)]
            if found:
                weighted = [path for path, has in self._leaves if has and path in found]
                return weighted[0] if weighted else found[0]
        return ""

    def _found(self, text: str) -> Iterator[str]:
        """Keras numbers the scopes of later calls ("code_1"), all of them or none."""
        raw = text.split("/")
        bare = [re.sub(r"_\d+$", "", part) for part in raw]
        for parts in (raw, bare) if raw[0] == self._model else (bare, raw):
            inner = "/" + "/".join(parts[1:]) + "/"
            found = [path for path, _ in self._leaves if f"/{path}/" in inner]
            if found:
                yield max(found, key=len)
                return


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
        rest = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join([*first, *rest]).rstrip()
