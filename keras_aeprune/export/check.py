"""Compare a converted file with its model, and say why it is off."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError
from keras_aeprune.export.candidates import Candidate, Candidates
from keras_aeprune.export.convert import ConversionError
from keras_aeprune.export.dead import Removal, dead_layers
from keras_aeprune.export.flatbuffer import is_tflite
from keras_aeprune.export.metadata import described, labelled, sparse_tensors
from keras_aeprune.export.precisions import Precision
from keras_aeprune.export.request import Request
from keras_aeprune.export.signatures import SIGNATURE, Signature
from keras_aeprune.export.trace import Traced, portable
from keras_aeprune.export.verify import Difference, TFLiteModel, difference

ROUTE = "ExportArchive, batch {} > SavedModel > TFLiteConverter"
COMPARED = 64


class ExportMismatch(RuntimeError):
    """The converted file does not compute what the Keras model computes; it was not kept.

    `tflite` and `onnx` raise it. Catch it to go on with another precision: "float16" and "dynamic" need no
    calibration data and stay near the model where int8 does not.

    Example:
        >>> scores = np.array([0.2, 0.8])
        >>> model = {"score": scores, "anomaly": np.array([0, 1])}
        >>> file = {"score": scores, "anomaly": np.array([0, 0])}
        >>> try:  # one of the checks that a detector's file has to pass
        ...     check_flags("int8", "detector", model, file, threshold=0.5)
        ... except ExportMismatch as error:
        ...     print(str(error).partition(", ")[0])
        int8: the converted file judges 1 of 2 samples otherwise than 'detector'
    """


@dataclass(frozen=True)
class ExportedFile:
    """A file that was loaded back and compared with its model before it got its name.

    Args:
        path: the file.
        quantize: its precision, for example "int8"; for "smallest" that of the file that was kept.
        bytes: its size.
        gzip_bytes: its size after gzip at level 9, about what a download takes.
        max_difference: largest difference from the Keras model, as a fraction of its largest absolute output.
        rms_difference: root-mean-square difference, as a fraction of the spread of the model's output.
        limit: what `max_difference` may be at most.
        rms_limit: what `rms_difference` may be at most.
        samples_compared: how many inputs were run through both.
        route: how it was converted.
        coding: "dense", or "sparse" where kernels with many zeros are stored without them.
        batch: samples an invoke.
        unrolled: whether recurrent layers run without their loop.
        signatures: names that the file answers to.
        removed_units: units that did nothing and are not in the file.
        removed_from: paths of the layers that lost them.
        notes: what else is to be known, such as why a loop was kept or dead units were not looked for.
        candidates: all files that were tried, where it was more than one.

    Example:
        >>> file = ExportedFile(Path("ae.tflite"), "int8", 900, 700, 0.02, 0.01, 0.5, 0.2, 64)
        >>> file.rms_difference <= file.rms_limit, file.coding
        (True, 'dense')
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
    route: str = ROUTE.format(1)
    coding: str = "dense"
    batch: int = 1
    unrolled: bool = False
    signatures: tuple[str, ...] = (SIGNATURE,)
    removed_units: int = 0
    removed_from: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    candidates: Candidates | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the path as text."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        table = None if self.candidates is None else self.candidates.to_dict()
        return {**values, "path": str(self.path), "candidates": table}


def reference(request: Request) -> list[dict[str, np.ndarray]]:
    """What the Keras models themselves give for the first 64 samples, by output name, one for each signature."""
    return [finite_outputs(signature) for signature in request.signatures]


def finite_outputs(signature: Signature) -> dict[str, np.ndarray]:
    """What one Keras model gives for its first 64 samples, by output name.

    Raises:
        InputError: if that is not finite, so that nothing can be compared.
    """
    expected = signature.outputs(COMPARED)
    for name, array in expected.items():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        if bad:
            raise InputError(
                f"model {signature.model.name!r}: got {bad} values that are NaN or infinite in {name} on "
                f"{len(array)} samples, allowed: finite outputs; check its weights, or give data= like what "
                "it was trained on"
            )
    return expected


def check(
    request: Request,
    candidate: Candidate,
    *,
    converted: Path,
    path: Path,
    traced: Traced,
    expected: list[dict[str, np.ndarray]],
    removals: Sequence[Removal] = (),
    notes: Sequence[str] = (),
) -> ExportedFile:
    """Record what is known in the converted file, load it, run it and compare it with the model.

    Args:
        request: the model and its samples.
        candidate: what was asked of the converter.
        converted: the file to look at; it gets its record.
        path: where it will go.
        traced: what was converted.
        expected: from `reference`.
        removals: what was cut out of each model before.
        notes: for `ExportedFile.notes`.

    Raises:
        ConversionError: if the file does not load or run.
        ExportMismatch: if it is too small to hold the weights, or too far from the model.
    """
    row, content = candidate.row, converted.read_bytes()
    least = (traced.kernel_nonzeros if candidate.sparse else traced.kernel_count) * row.weight_bytes
    if len(content) < least:
        raise ExportMismatch(
            f"{row.name}: the converted file has {len(content)} bytes, but the kernels of "
            f"{request.model.name!r} alone take {least}; its weights are missing"
        )
    removed = sum(removal.units for removal in removals)
    coding = "sparse" if candidate.sparse else "dense"
    if is_tflite(content):
        if candidate.sparse and not sparse_tensors(content):
            raise ExportMismatch(f"{candidate.name}: the converter stored no kernel in sparse coding")
        known = described(
            row=row.name, coding=coding, batch=request.batch, unrolled=candidate.unrolled, removed=removed
        )
        content = labelled(content, {**known, **request.metadata})
        converted.write_bytes(content)
    differences = [
        _compared(request, candidate, signature, converted, wanted)
        for signature, wanted in zip(request.signatures, expected, strict=True)
    ]
    return ExportedFile(
        path=path,
        quantize=row.name,
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, 9, mtime=0)),
        max_difference=max(found.max for found in differences),
        rms_difference=max(found.rms for found in differences),
        limit=row.limit,
        rms_limit=row.rms_limit,
        samples_compared=min(len(next(iter(wanted.values()))) for wanted in expected),
        route=ROUTE.format(request.batch),
        coding=coding,
        batch=request.batch,
        unrolled=candidate.unrolled,
        signatures=tuple(signature.name for signature in request.signatures),
        removed_units=removed,
        removed_from=tuple(dict.fromkeys(layer for removal in removals for layer in removal.layers)),
        notes=(*notes, *(removal.note for removal in removals if removal.note)),
    )


def _compared(
    request: Request, candidate: Candidate, signature: Signature, converted: Path, expected: dict[str, np.ndarray]
) -> Difference:
    """How far one signature is from its model."""
    row, count = candidate.row, len(next(iter(expected.values())))
    called = candidate.name if len(request.signatures) == 1 else f"{candidate.name}, {signature.name}"
    name = None if len(request.signatures) == 1 else signature.name
    try:
        model = TFLiteModel(converted, signature=name)
        got = model.predict({k: v[:count] for k, v in signature.arrays.items()})
    except InputError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConversionError(
            f"{called}: the converted file does not run: {reason}{_why(signature, row)}"
        ) from error
    outputs = got if isinstance(got, dict) else dict.fromkeys(expected, got)
    if request.threshold is not None:
        check_flags(row.name, request.model.name, expected, outputs, request.threshold)
        expected, outputs = ({"score": values["score"]} for values in (expected, outputs))
    found = difference(expected, outputs)
    if not (found.max <= row.limit and found.rms <= row.rms_limit):
        raise ExportMismatch(
            f"{called}: on {count} samples the converted file differs from {signature.model.name!r} by up to "
            f"{found.max:.2g} of the largest output (limit {row.limit:g}) and by {found.rms:.2g} of the "
            f"output's spread in root mean square (limit {row.rms_limit:g}){_why(signature, row)}"
        )
    return found


def check_flags(
    file: str, model: str, expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], threshold: float
) -> None:
    """Refuse a detector's file that judges otherwise where the difference of the scores does not explain it."""
    error = np.abs(np.asarray(got["score"], "float64") - expected["score"]).max()
    sure = np.abs(expected["score"] - threshold) > error
    wrong = int((sure & (got["anomaly"] != expected["anomaly"])).sum())
    if wrong:
        raise ExportMismatch(
            f"{file}: the converted file judges {wrong} of {len(sure)} samples otherwise than {model!r}, although "
            f"their scores are farther from the threshold than the largest difference of the scores, {error:.2g}"
        )


def _why(signature: Signature, row: Precision) -> str:
    """For calibrated precisions the known cause of a bad file: layers that are dead on the data."""
    if not row.needs_data:
        return ""
    with portable(signature.model):
        dead = dead_layers(signature.model, signature.batches())
    if not dead:
        return ""
    return (
        f"; dead on the {signature.count} calibration samples (only zeros come out): {', '.join(dead)}; "
        "give data on which it fires, prune it less, or build the model without it; "
        "quantize=None, 'float16' and 'dynamic' are not affected"
    )
