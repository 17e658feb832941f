"""What a finished trial weighs: parameters, nonzero weights, bytes and latency of its file; and who is best."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import _progress, export
from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError, keras_model, one_of, positive_int, shown

__all__ = ["BAD", "EXPORTED", "MEASURES", "Measuring", "measure", "pareto"]

BAD = 1e30  # stands for what is not finite: both ends of a search can store and compare it
COUNTED = ("params", "nonzero")
EXPORTED = ("tflite_bytes", "latency_us")
MEASURES = COUNTED + EXPORTED
_PRECISIONS = ("float32", "int8")
_BLOCK = 1 << 22  # comparisons that are held in memory at once


def measure(
    model: keras.Model,
    names: Iterable[str] = MEASURES,
    *,
    quantize: str = "float32",
    data: Any = None,
    runs: int = 200,
) -> dict[str, float]:
    """What a model weighs, by name; the numbers that stand beside the loss in a search for small models.

    | name | meaning |
    |---|---|
    | "params" | numbers in all weights, not trainable ones included |
    | "nonzero" | the same without the exact zeros in kernels; what pruning leaves |
    | "tflite_bytes" | size of the checked .tflite file |
    | "latency_us" | median time of one invoke of that file on this machine, microseconds |

    The file is written by `export.tflite` (about 4 s, most of it the start of the converter) and thrown away.
    The precision is float32 or int8: with "dynamic" tensors of less than 1024 numbers stay in float32, so
    that a wider model can have the smaller file. Zeros take as much room as other weights in both.

    Args:
        model: a built Keras model.
        names: what to measure, of the table above.
        quantize: "float32" or "int8", of the file.
        data: inputs (n, *input shape); "int8" needs them, 100 or more are recommended.
        runs: timed readings for the latency, >= 1.

    Returns:
        {name: number}, in the order of `names`.

    Raises:
        InputError: for an unknown name or precision, or int8 without data.
        ConversionError: if the converter fails; see `export.tflite`.
        ExportMismatch: if the file computes something else than the model.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.set_weights([np.eye(4, 3), np.zeros(3)])
        >>> measure(model, ("params", "nonzero"))
        {'params': 15.0, 'nonzero': 6.0}
    """
    keras_model(model)
    wanted = [one_of("names", name, MEASURES) for name in names]
    one_of("quantize", quantize, _PRECISIONS)
    found: dict[str, float] = {}
    if "params" in wanted:
        found["params"] = float(model.count_params())
    if "nonzero" in wanted:
        found["nonzero"] = float(model.count_params() - _zeros(model))
    if set(EXPORTED) & set(wanted):
        positive_int("runs", runs)
        with tempfile.TemporaryDirectory(prefix="keras_aeprune_") as folder:
            file = export.tflite(model, Path(folder) / "trial.tflite", quantize=quantize, data=data)
            found["tflite_bytes"] = float(file.bytes)
            if "latency_us" in wanted:
                found["latency_us"] = export.benchmark(file.path, runs=runs)[0].median_us
    return {name: found[name] for name in wanted}


@dataclass(frozen=True)
class Measuring:
    """What is measured in each trial of a search.

    Args:
        names: of `MEASURES`.
        on: "last" exports in the last rung only and counts parameters in all; "every" exports in every
            trial, about 4 s each.
        quantize: precision of the exported file, "float32" or "int8".
        samples: inputs that "int8" is calibrated with, the first ones of the training data, >= 1.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> Measuring(("params", "tflite_bytes")).of(model, last=False)
        {'params': 15.0}
    """

    names: tuple[str, ...] = ("params",)
    on: str = "last"
    quantize: str = "float32"
    samples: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise InputError(f"measures: got {self.names!r}, allowed: a tuple of names, of {', '.join(MEASURES)}")
        object.__setattr__(self, "names", tuple(one_of("measures", name, MEASURES) for name in self.names))
        one_of("measure_on", self.on, ("last", "every"))
        one_of("quantize", self.quantize, _PRECISIONS)
        positive_int("samples", self.samples)

    def of(self, model: keras.Model, *, last: bool, data: Any = None) -> dict[str, float]:
        """The numbers of one trial; a file that cannot be written counts as `BAD`, with a line on stderr."""
        names = [name for name in self.names if name in COUNTED or last or self.on == "every"]
        try:
            return measure(model, names, quantize=self.quantize, data=self._calibration(data))
        except (export.ConversionError, export.ExportMismatch) as error:
            _progress.to_stderr(f"search: a trial's file counts as {BAD:g}: {shown(str(error), 200)}", True)
            counted = measure(model, [name for name in names if name in COUNTED])
            return {name: counted.get(name, BAD) for name in names}

    def _calibration(self, data: Any) -> Any:
        return data[: self.samples] if isinstance(data, np.ndarray) else None


def pareto(
    rows: Iterable[Any],
    objectives: Sequence[Any] = (("val_loss", "min"), ("tflite_bytes", "min")),
) -> list[Any]:
    """The rows that no other row beats: for each, every other one is worse somewhere or the same everywhere.

    For a choice between small and good after a search. Row a beats row b if it is at least as good in all
    objectives and better in one. Rows that are the same in all objectives stay or go together. A row in which
    an objective is missing, NaN, infinite or `BAD` (1e30) is out of the running.

    Args:
        rows: mappings from name to number, Keras Tuner trials, or objects with a mapping `metrics`.
        objectives: (name, "min" or "max") each, one or more; a name alone is minimised, and a
            `keras_tuner.Objective` will do as well.

    Returns:
        The rows themselves, best first in the first objective, ties in the order given.

    Raises:
        InputError: for no objective, or a direction that is neither "min" nor "max".

    Example:
        >>> rows = [{"loss": 1.0, "bytes": 9}, {"loss": 2.0, "bytes": 3}, {"loss": 2.0, "bytes": 5}]
        >>> pareto(rows, (("loss", "min"), ("bytes", "min")))
        [{'loss': 1.0, 'bytes': 9}, {'loss': 2.0, 'bytes': 3}]
    """
    wanted = [_objective(one) for one in objectives]
    if not wanted:
        raise InputError("objectives: got none, allowed: one or more pairs (name, 'min' or 'max')")
    rows = list(rows)
    if not rows:
        return []
    signs = np.array([1.0 if direction == "min" else -1.0 for _, direction in wanted])
    values = np.array([[_value(row, name) for name, _ in wanted] for row in rows], float) * signs
    usable = np.flatnonzero((np.abs(values) < BAD).all(axis=1))  # NaN is not below anything either
    front = usable[_undominated(values[usable])]
    order = np.argsort(values[front, 0], kind="stable")
    return [rows[i] for i in front[order]]


def _undominated(values: np.ndarray) -> np.ndarray:
    """Which rows of (n, objectives), all minimised, no other row beats; blocks of rows against all."""
    count, axes = values.shape
    step = max(1, _BLOCK // max(1, count * axes))
    free = np.ones(count, bool)
    for start in range(0, count, step):
        block = values[start : start + step, None, :]
        beaten = (values[None] <= block).all(axis=2) & (values[None] < block).any(axis=2)
        free[start : start + step] = ~np.any(beaten, axis=1)
    return free


def _objective(one: Any) -> tuple[str, str]:
    if isinstance(one, str):
        return one, "min"
    if hasattr(one, "direction"):
        return one.name, one_of("direction", one.direction, ("min", "max"))
    name, direction = one
    return name, one_of("direction", direction, ("min", "max"))


def _value(row: Any, name: str) -> float:
    """One number of a row; NaN where it has none."""
    metrics = row if isinstance(row, Mapping) else row.metrics
    if not isinstance(metrics, Mapping):  # Keras Tuner's tracker
        return float(metrics.get_last_value(name)) if metrics.exists(name) else math.nan
    value = metrics.get(name)
    return math.nan if value is None else float(value)


def _zeros(model: keras.Model) -> int:
    kernels = [w.variable for w in weights(model) if w.variable is not None]
    return sum(int(np.count_nonzero(keras.ops.convert_to_numpy(kernel) == 0)) for kernel in kernels)
