"""Compare a converted file with its model, and say why it is off."""

from __future__ import annotations

import gzip
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import InputError
from keras_aeprune.export.convert import ConversionError
from keras_aeprune.export.dead import dead_layers
from keras_aeprune.export.precisions import Precision
from keras_aeprune.export.request import Request
from keras_aeprune.export.trace import named, portable
from keras_aeprune.export.verify import TFLiteModel, difference

ROUTE = "ExportArchive, batch 1 > SavedModel > TFLiteConverter"
COMPARED = 64


class ExportMismatch(RuntimeError):
    """The converted file does not compute what the Keras model computes; it was not kept."""


@dataclass(frozen=True)
class ExportedFile:
    """A file that was loaded back and compared with its model before it got its name.

    Args:
        path: the file.
        quantize: its precision: "float32", "float16", "dynamic" or "int8".
        bytes: its size.
        gzip_bytes: its size after gzip at level 9, about what a download takes.
        max_difference: largest difference from the Keras model, as a fraction of its largest absolute output.
        rms_difference: root-mean-square difference, as a fraction of the spread of the model's output.
        limit: what `max_difference` may be at most.
        rms_limit: what `rms_difference` may be at most.
        samples_compared: how many inputs were run through both.
        route: how it was converted.
    """

    path: Path
    quantize: str
    bytes: int
    gzip_bytes: int
    max_difference: float
    rms_difference: float
    limit: float
    rms_limit: float
    samples_compared: int
    route: str = ROUTE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the path as text."""
        return {**asdict(self), "path": str(self.path)}


def reference(request: Request) -> dict[str, np.ndarray]:
    """What the Keras model itself gives for the first 64 samples, by output name.

    Raises:
        InputError: if that is not finite, so that nothing can be compared.
    """
    parts = []
    with portable(request.model):
        for batch in request.batches(COMPARED):
            outputs = named(request.model(batch, training=False))
            parts.append({name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()})
    expected = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, array in expected.items():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        if bad:
            raise InputError(
                f"model {request.model.name!r}: got {bad} values that are NaN or infinite in {name} on "
                f"{len(array)} samples, allowed: finite outputs; check its weights, or give data= like what "
                "it was trained on"
            )
    return expected


def check(
    request: Request,
    row: Precision,
    *,
    converted: Path,
    path: Path,
    kernels: int,
    expected: dict[str, np.ndarray],
) -> ExportedFile:
    """Load the converted file, run it and compare it with the model.

    Args:
        request: the model and its samples.
        row: the precision.
        converted: the file to look at.
        path: where it will go.
        kernels: how many numbers the kernels of the model hold.
        expected: from `reference`.

    Raises:
        ConversionError: if the file does not load or run.
        ExportMismatch: if it is too small to hold the weights, or too far from the model.
    """
    content = converted.read_bytes()
    least = kernels * row.weight_bytes
    if len(content) < least:
        raise ExportMismatch(
            f"{row.name}: the converted file has {len(content)} bytes, but the kernels of "
            f"{request.model.name!r} alone take {least}; its weights are missing"
        )
    count = len(next(iter(expected.values())))
    try:
        got = TFLiteModel(converted).predict({k: v[:count] for k, v in request.arrays.items()})
    except InputError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConversionError(
            f"{row.name}: the converted file does not run: {reason}{_why(request, row)}"
        ) from error
    outputs = got if isinstance(got, dict) else dict.fromkeys(expected, got)
    if request.threshold is not None:
        _check_flags(request, row, expected, outputs)
        expected, outputs = ({"score": values["score"]} for values in (expected, outputs))
    found = difference(expected, outputs)
    if not (found.max <= row.limit and found.rms <= row.rms_limit):
        raise ExportMismatch(
            f"{row.name}: on {count} samples the converted file differs from {request.model.name!r} by up to "
            f"{found.max:.2g} of the largest output (limit {row.limit:g}) and by {found.rms:.2g} of the "
            f"output's spread in root mean square (limit {row.rms_limit:g}){_why(request, row)}"
        )
    return ExportedFile(
        path=path,
        quantize=row.name,
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, 9, mtime=0)),
        max_difference=found.max,
        rms_difference=found.rms,
        limit=row.limit,
        rms_limit=row.rms_limit,
        samples_compared=count,
    )


def _check_flags(
    request: Request, row: Precision, expected: dict[str, np.ndarray], got: dict[str, np.ndarray]
) -> None:
    """Refuse a detector's file that judges otherwise where the difference of the scores does not explain it."""
    error = np.abs(np.asarray(got["score"], "float64") - expected["score"]).max()
    sure = np.abs(expected["score"] - request.threshold) > error
    wrong = int((sure & (got["anomaly"] != expected["anomaly"])).sum())
    if wrong:
        raise ExportMismatch(
            f"{row.name}: the converted file judges {wrong} of {len(sure)} samples otherwise than "
            f"{request.model.name!r}, although their scores are farther from the threshold than the largest "
            f"difference of the scores, {error:.2g}"
        )


def _why(request: Request, row: Precision) -> str:
    """For calibrated precisions the known cause of a bad file: layers that are dead on the data."""
    if not row.needs_data:
        return ""
    with portable(request.model):
        dead = dead_layers(request.model, request.batches())
    if not dead:
        return ""
    count = len(next(iter(request.arrays.values())))
    return (
        f"; dead on the {count} calibration samples (only zeros come out): {', '.join(dead)}; "
        "give data on which it fires, prune it less, or build the model without it; "
        "quantize=None, 'float16' and 'dynamic' are not affected"
    )
