"""How long one invoke of a model takes once it is a .tflite file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_aeprune.export.benchmark import benchmark
from keras_aeprune.export.tflite import tflite

__all__ = ["latency"]


def latency(
    model: keras.Model, *, quantize: str | None = None, data: Any = None, runs: int = 200, seed: int = 0
) -> float:
    """Median time of one invoke of the model as a .tflite file, in microseconds, on this machine with one thread.

    Use it where a time is wanted and no file: `shrinking.simplify(model, x, latency=export.latency)` says what
    each simpler activation saves. The file is written to a temporary folder, checked, timed and thrown away;
    about 5 s, most of it the start of the converter. Two files are better compared by `benchmark`, in turns.

    Args:
        model: as for `tflite`.
        quantize: as for `tflite`.
        data: as for `tflite`; required for int8.
        runs: readings, >= 1.
        seed: of the inputs, >= 0.

    Raises:
        InputError: as `tflite` does.
        ConversionError: as `tflite` does.
        ExportMismatch: as `tflite` does.

    Example:
        >>> latency(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]), runs=5) > 0
        True
    """
    with tempfile.TemporaryDirectory() as folder:
        file = tflite(model, Path(folder) / "timed.tflite", quantize=quantize, data=data, seed=seed)
        return benchmark(file.path, runs=runs, seed=seed)[0].median_us
