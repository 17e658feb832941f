"""Write checked .tflite files of Keras models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_aeprune._files import writing
from keras_aeprune._progress import Say, silent, to_stderr
from keras_aeprune._validation import one_of
from keras_aeprune.export.attempts import Attempts, best, check_all, outcomes_of
from keras_aeprune.export.check import ExportedFile
from keras_aeprune.export.convert import convert
from keras_aeprune.export.precisions import SMALLEST, precision
from keras_aeprune.export.request import Request, request
from keras_aeprune.models.anomaly import AnomalyDetector


def tflite(
    model: keras.Model | AnomalyDetector,
    path: str | Path,
    *,
    quantize: str | None = None,
    data: Any = None,
    seed: int = 0,
    sparse: bool | str = "auto",
    batch: int = 1,
    unroll: bool | str = "auto",
    parts: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> ExportedFile:
    """Write `model` as a .tflite file that was loaded back and compared with the model first.

    Use it for one file; `tflite_many` writes several precisions of a model in hardly more time than one. The
    model is traced for `batch` samples at a time, converted in a process of its own (about 4 s, most of it the
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
    | "int8_io" | both in int8, input and output too | 0.5 | 0.2 |
    | "int16x8" | weights in int8, activations in int16, input and output in float32 | 0.5 | 0.2 |
    | "smallest" | all but "int8_io" are tried; the smallest file that is right is kept | its own | its own |

    Before that, units that do nothing are cut out (`shrinking.without_dead`): exactly, by the weights alone.
    Only where a whole layer gives nothing but zeros on `data`, which breaks an int8 file, units that are
    constant on `data` go too. The given model stays the reference of the comparison.

    An `AnomalyDetector` becomes a file from raw samples to "score" and "anomaly" (0 or 1). Its scores are held
    to the limits above; its flags must agree with the detector's on every sample whose score is farther from
    the threshold than the largest difference between the two scores. With "int8" only the autoencoder is
    quantized: scores are sums of squares, for which 256 levels are too few. "int8_io" and "int16x8" are refused.

    A model that returns a dict of tensors gives a file whose outputs have its keys as names; any other one has
    output_0, output_1, ... The model, its weights and its compiled state are not changed. The same model gives
    the same bytes.

    Args:
        model: a built Keras 3 model that computes in float32, or a fitted `AnomalyDetector`.
        path: ends in .tflite; its folder is made if it is not there, an existing file is replaced.
        quantize: None or a name of the table.
        data: inputs (n, *input shape), finite, n >= 1; the int8 and int16x8 ones need them, and 100 or more from
            the training data are recommended. All of them calibrate; the first 64 are compared. For several
            inputs a dict by input name, or a list. None compares on 64 random samples, uniform in [0, 1).
        seed: of those random samples, >= 0.
        sparse: "auto" also tries to store kernels with many zeros without them (None and "float16" only, where
            a larger kernel has more than 2/3 zeros) and keeps the smaller file that is right. It is smaller on
            flash, hardly as a compressed download. True insists on it, False does without.
        batch: samples an invoke, >= 1.
        unroll: "auto" writes recurrent layers without their loop where the precision cannot have one (int8,
            int8_io, int16x8), and up to 64 steps: about 3 times as fast, in a larger file. True always, False
            never. The number of steps must be known.
        parts: None, or one or more of "encoder", "decoder" and "autoencoder": the file then has these named
            signatures instead of one for the whole model, see `TFLiteModel(path, signature=...)`.
        metadata: a dict of JSON values, for example {"labels": [...]}, that the file carries; `read_metadata`
            reads it, with the threshold and the scaling of a detector, precision and version.
        progress: True writes a line to standard error that says how many files are converted.

    Returns:
        What was written, with the differences and the limits; for "smallest", and where sparse coding was
        tried, with a printable table `candidates`.

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
    name = quantize if quantize == SMALLEST else precision(quantize).name
    options: dict[str, Any] = {
        "sparse": sparse,
        "batch": batch,
        "unroll": unroll,
        "parts": parts,
        "metadata": metadata,
    }
    return tflite_many(model, {name: path}, data=data, seed=seed, progress=progress, **options)[name]


def tflite_many(
    model: keras.Model | AnomalyDetector,
    paths: Mapping[str | None, str | Path],
    *,
    data: Any = None,
    seed: int = 0,
    on_failure: str = "raise",
    progress: bool = False,
    **options: Any,
) -> dict[str | None, Any]:
    """Write one model at several precisions, with one start of the converter.

    Args:
        model: as in `tflite`.
        paths: {quantize: path}, at least one, each path once.
        data: as in `tflite`.
        seed: as in `tflite`.
        on_failure: "raise" writes all files or none; "return" writes those that pass, and returns the error
            of each other precision in its place.
        progress: as in `tflite`.
        **options: `sparse`, `batch`, `unroll`, `parts` and `metadata` as in `tflite`.

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
    for name in options:
        one_of("options", name, ["sparse", "batch", "unroll", "parts", "metadata"])
    asked = request(model, paths, data, seed, **options)
    say = to_stderr if progress else silent
    (outcomes,) = export([asked], all_or_none=on_failure == "raise", say=say)
    return dict(zip(paths, outcomes, strict=True))


def export(requests: Sequence[Request], *, all_or_none: bool, say: Say = silent) -> list[list[Any]]:
    """Convert everything in one subprocess, check every file, then give the good ones their names.

    Args:
        requests: the models.
        all_or_none: raise the first error before any file gets its name; else errors are returned.
        say: called with a line before the conversion.

    Returns:
        Per request, per target: an `ExportedFile` or the error.
    """
    with tempfile.TemporaryDirectory(prefix="keras_aeprune_") as name:
        folder = Path(name)
        attempts = [Attempts(asked, folder / str(i)).made for i, asked in enumerate(requests)]
        _raise_first(
            [outcomes_of(asked, made) for asked, made in zip(requests, attempts, strict=True)], all_or_none
        )

        waiting = [one for made in attempts for one in made if one.job is not None]
        if waiting:
            say(f"{len(waiting)} file{'s' * (len(waiting) > 1)} to convert and compare", True)
        jobs = [one.job for one in waiting if one.job is not None]
        for one, error in zip(waiting, convert(jobs, folder), strict=True):
            one.outcome = error
        for asked, made in zip(requests, attempts, strict=True):
            check_all(asked, [one for one in made if one.job is not None and one.outcome is None])
        outcomes = [outcomes_of(asked, made) for asked, made in zip(requests, attempts, strict=True)]
        _raise_first(outcomes, all_or_none)

        for made, found in zip(attempts, outcomes, strict=True):
            for file in (one for one in found if isinstance(one, ExportedFile)):
                kept = best([one for one in made if one.target.path == file.path])
                assert kept is not None  # since there is a file
                assert kept.job is not None
                with writing(file.path) as temporary:
                    temporary.write_bytes(kept.job.output.read_bytes())
    return outcomes


def _raise_first(outcomes: list[list[Any]], wanted: bool) -> None:
    for outcome in (value for row in outcomes for value in row):
        if wanted and isinstance(outcome, Exception):
            raise outcome
