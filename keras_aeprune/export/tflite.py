"""Write checked .tflite files of Keras models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune._files import writing
from keras_aeprune._validation import InputError, one_of
from keras_aeprune.export.check import ExportedFile, ExportMismatch, check, reference
from keras_aeprune.export.convert import ConversionError, Job, convert
from keras_aeprune.export.precisions import Precision, precision
from keras_aeprune.export.request import Request, request
from keras_aeprune.export.trace import Traced, rolled_layers, write_saved_model
from keras_aeprune.models.anomaly import AnomalyDetector

# What a detector does after the autoencoder. In int8 a squared error has 256 levels up to the largest one, and
# nearly all normal scores share a few of them; in float32 it costs a few additions and multiplications a value.
DETECTOR_OPS = (
    *("SUB", "ADD", "MUL", "DIV", "SQUARED_DIFFERENCE", "SQUARE", "ABS", "MEAN", "SUM"),
    *("REDUCE_MAX", "GREATER", "CAST", "MAXIMUM"),
)


def tflite(
    model: keras.Model | AnomalyDetector,
    path: str | Path,
    *,
    quantize: str | None = None,
    data: Any = None,
    seed: int = 0,
) -> ExportedFile:
    """Write `model` as a .tflite file that was loaded back and compared with the model first.

    Use it for one file; `tflite_many` writes several precisions of a model in hardly more time than one. The
    model is traced for one sample at a time, converted in a process of its own (about 4 s, most of it the
    start of TensorFlow), loaded with LiteRT's default interpreter and run on up to 64 samples. With e the
    model's outputs and g the file's, the file is kept if

        max |g - e| <= limit * max |e|    and    sqrt(mean (g - e)^2) <= rms_limit * S

    where S = max(standard deviation of e, max |e| / 20). The second one decides whether the file is good: an
    rms of r leaves about 1 - r^2 of the output's variance. The first one catches a single wild value; where
    outputs saturate it is large for good files as well.

    | quantize | weights and activations | limit | rms_limit |
    |---|---|---|---|
    | None, "float32" | float32 | 2e-4 | 3e-5 |
    | "float16" | weights stored in float16, computed in float32 | 5e-2 | 1e-2 |
    | "dynamic" | kernels of 1024 numbers or more in int8 | 0.5 | 0.2 |
    | "int8" | both in int8, input and output in float32 | 0.5 | 0.2 |

    An `AnomalyDetector` becomes a file from raw samples to "score" and "anomaly" (0 or 1). Its scores are held
    to the limits above; its flags must agree with the detector's on every sample whose score is farther from
    the threshold than the largest difference between the two scores. With "int8" only the autoencoder is
    quantized: scores are sums of squares, for which 256 levels are too few.

    A model that returns a dict of tensors gives a file whose outputs have its keys as names; any other one has
    output_0, output_1, ... The model, its weights and its compiled state are not changed. The same model gives
    the same bytes.

    Args:
        model: a built Keras 3 model that computes in float32, or a fitted `AnomalyDetector`.
        path: ends in .tflite; its folder is made if it is not there, an existing file is replaced.
        quantize: None, "float32", "float16", "dynamic" or "int8".
        data: inputs (n, *input shape), finite, n >= 1; "int8" needs them, and 100 or more from the training
            data are recommended. All of them calibrate int8; the first 64 are compared. For several inputs a
            dict by input name, or a list. None compares on 64 random samples, uniform in [0, 1).
        seed: of those random samples, >= 0.

    Returns:
        What was written, with the differences and the limits.

    Raises:
        InputError: if an argument cannot be used, or the model cannot be exported at that precision.
        ConversionError: if the converter fails or crashes, or its file does not load.
        ExportMismatch: if the file computes something else than the model.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> file = tflite(model, Path(tempfile.mkdtemp()) / "model.tflite")
        >>> file.quantize, file.samples_compared, file.max_difference <= file.limit
        ('float32', 64, True)
    """
    name = precision(quantize).name
    return tflite_many(model, {name: path}, data=data, seed=seed)[name]


def tflite_many(
    model: keras.Model | AnomalyDetector,
    paths: Mapping[str | None, str | Path],
    *,
    data: Any = None,
    seed: int = 0,
    on_failure: str = "raise",
) -> dict[str | None, Any]:
    """Write one model at several precisions, with one start of the converter.

    Args:
        model: as in `tflite`.
        paths: {quantize: path}, at least one, each path once.
        data: as in `tflite`.
        seed: as in `tflite`.
        on_failure: "raise" writes all files or none; "return" writes those that pass, and returns the error
            of each other precision in its place.

    Returns:
        {quantize: `ExportedFile`}, with the keys of `paths` in their order.

    Raises:
        InputError: as in `tflite`; for a bad argument also with on_failure="return".
        ConversionError: as in `tflite`.
        ExportMismatch: as in `tflite`.

    Example:
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
        >>> folder = Path(tempfile.mkdtemp())
        >>> files = tflite_many(model, {None: folder / "a.tflite", "float16": folder / "b.tflite"})
        >>> files["float16"].bytes < files[None].bytes
        True
    """
    one_of("on_failure", on_failure, ["raise", "return"])
    (outcomes,) = export([request(model, paths, data, seed)], all_or_none=on_failure == "raise")
    return dict(zip(paths, outcomes, strict=True))


def export(requests: Sequence[Request], *, all_or_none: bool) -> list[list[Any]]:
    """Convert everything in one subprocess, check every file, then give the good ones their names.

    Args:
        requests: the models.
        all_or_none: raise the first error before any file gets its name; else errors are returned.

    Returns:
        Per request, per target: an `ExportedFile` or the error.
    """
    outcomes: list[list[Any]] = [[None] * len(asked.targets) for asked in requests]
    with tempfile.TemporaryDirectory(prefix="keras_aeprune_") as name:
        folder = Path(name)
        jobs: dict[tuple[int, int], Job] = {}
        traces: dict[int, Traced] = {}
        for i, asked in enumerate(requests):
            try:
                traces[i], calibration = _prepare(asked, folder / str(i))
            except InputError as error:
                outcomes[i] = [error] * len(asked.targets)
                continue
            kept = () if asked.threshold is None else DETECTOR_OPS
            for k, (row, _) in enumerate(asked.targets):
                if row.needs_data and traces[i].has_loop:
                    outcomes[i][k] = _loop_error(asked.model, row)
                else:
                    jobs[i, k] = Job(traces[i].folder, folder / str(i) / f"{k}.tflite", row, calibration, kept)
        _raise_first(outcomes, all_or_none)

        for (i, k), error in zip(jobs, convert(list(jobs.values()), folder), strict=True):
            outcomes[i][k] = error
        for i, asked in enumerate(requests):
            converted = {k: jobs[i, k].output for k in range(len(asked.targets)) if outcomes[i][k] is None}
            if converted:
                outcomes[i] = _checked(asked, traces[i], converted, outcomes[i])
        _raise_first(outcomes, all_or_none)

        for (i, k), job in jobs.items():
            if isinstance(outcomes[i][k], ExportedFile):
                with writing(outcomes[i][k].path) as temporary:
                    temporary.write_bytes(job.output.read_bytes())
    return outcomes


def _prepare(asked: Request, folder: Path) -> tuple[Traced, dict[str, Path] | None]:
    folder.mkdir()
    shapes = [asked.arrays[item.name].shape[1:] for item in asked.inputs.items]
    traced = write_saved_model(asked.model, asked.inputs, shapes, folder / "saved_model")
    if not any(row.needs_data for row, _ in asked.targets):
        return traced, None
    calibration = {}
    for i, (name, array) in enumerate(asked.arrays.items()):
        calibration[name] = folder / f"calibration_{i}.npy"
        np.save(calibration[name], array, allow_pickle=False)
    return traced, calibration


def _checked(asked: Request, traced: Traced, converted: dict[int, Path], outcomes: list[Any]) -> list[Any]:
    """`outcomes` with the converted files' places filled: what was found, or the error."""
    outcomes = list(outcomes)
    try:
        expected = reference(asked)
    except InputError as error:
        return [error if k in converted else outcome for k, outcome in enumerate(outcomes)]
    for k, file in converted.items():
        row, path = asked.targets[k]
        try:
            outcomes[k] = check(
                asked, row, converted=file, path=path, kernels=traced.kernel_count, expected=expected
            )
        except (ConversionError, ExportMismatch) as error:
            outcomes[k] = error
    return outcomes


def _raise_first(outcomes: list[list[Any]], wanted: bool) -> None:
    for outcome in (value for row in outcomes for value in row):
        if wanted and isinstance(outcome, Exception):
            raise outcome


def _loop_error(model: keras.Model, row: Precision) -> InputError:
    layers = ", ".join(rolled_layers(model)) or "a while loop in the model"
    return InputError(
        f"quantize: got {row.name!r} for a model with a recurrent loop ({layers}), whose calibration crashes "
        "the converter, allowed: None, 'float16', 'dynamic', or the same layers built with unroll=True"
    )
