"""What is asked for, checked before anything is converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from keras_aeprune._files import writable_folder
from keras_aeprune._validation import InputError, keras_model, positive_int, refuse
from keras_aeprune.export.candidates import codings
from keras_aeprune.export.inputs import inputs_of
from keras_aeprune.export.metadata import checked, of_detector
from keras_aeprune.export.precisions import SMALLEST, Precision, precisions
from keras_aeprune.export.signatures import Signature, signatures_of
from keras_aeprune.export.trace import check_supported
from keras_aeprune.models.anomaly import AnomalyDetector


@dataclass(frozen=True)
class Target:
    """One file that was asked for: the precisions that may be in it, one or more, and where it goes."""

    quantize: str
    rows: tuple[Precision, ...]
    path: Path


@dataclass(frozen=True)
class Request:
    """What goes into a file, with samples, and the files that are asked for.

    Args:
        model: the whole model.
        signatures: what the files answer to, one or more.
        targets: the files, one or more.
        has_data: whether the samples are the caller's.
        batch: samples an invoke, >= 1.
        sparse: "auto", True or False.
        unroll: "auto", True or False.
        threshold: that of an anomaly detector, whose outputs are "score" and "anomaly"; None for other models.
        metadata: what is recorded in the files beside what is known of each.
    """

    model: keras.Model
    signatures: tuple[Signature, ...]
    targets: tuple[Target, ...]
    has_data: bool = True
    batch: int = 1
    sparse: bool | str = "auto"
    unroll: bool | str = "auto"
    threshold: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def request(
    model: Any,
    paths: Mapping[str | None, str | Path],
    data: Any = None,
    seed: int = 0,
    *,
    batch: int = 1,
    sparse: bool | str = "auto",
    unroll: bool | str = "auto",
    parts: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Request:
    """A request whose arguments can be used; nothing is written yet, but the folders are there.

    Raises:
        InputError: with the argument that cannot be used.
    """
    record: dict[str, Any] = {}
    threshold = None
    if isinstance(model, AnomalyDetector):
        if parts is not None:
            raise refuse("parts", parts, "None for an anomaly detector; export detector.autoencoder in parts")
        detector = model
        model, threshold = detector.as_model(), detector.threshold
        record["detector"] = of_detector(detector)
    keras_model(model)
    seed = positive_int("seed", seed, minimum=0)
    batch = positive_int("batch", batch)
    for name, value in (("sparse", sparse), ("unroll", unroll)):
        if value not in ("auto", True, False) or not isinstance(value, (str, bool)):
            raise refuse(name, value, "'auto', True or False")
    if user := checked(metadata):
        record["user"] = user
    if not isinstance(paths, Mapping) or not paths:
        raise refuse("paths", paths, "a dict {quantize: path} with at least one entry")
    wanted = [precisions(quantize) for quantize in paths]
    inputs = inputs_of(model, batch)
    check_supported(model)
    for quantize, rows in zip(paths, wanted, strict=True):
        if quantize == SMALLEST:
            continue
        (row,) = rows
        codings(row, sparse, True)
        if row.needs_data and data is None:
            raise InputError(
                f"data: got None, allowed for quantize={row.name!r}: inputs to calibrate with, {inputs}; "
                "100 or more samples of the training data are recommended"
            )
        if threshold is not None and not row.for_detectors:
            raise detector_error(row)
    signatures = signatures_of(model, parts, data, seed=seed, batch=batch)
    files = [checked_path(path) for path in paths.values()]
    if len({path.resolve() for path in files}) < len(files):
        raise refuse("paths", [str(path) for path in files], "a different path for every precision")
    targets = tuple(
        Target(SMALLEST if quantize == SMALLEST else rows[0].name, rows, path)
        for quantize, rows, path in zip(paths, wanted, files, strict=True)
    )
    return Request(
        *(model, signatures, targets, data is not None, batch, sparse, unroll, threshold),
        metadata=record,
    )


def detector_error(row: Precision) -> InputError:
    """The refusal of a precision at which a score cannot stay in float32."""
    return InputError(
        f"quantize: got {row.name!r} for an anomaly detector, allowed: None, 'float16', 'dynamic', 'int8', which "
        "calculate the score in float32; quantized levels are too few for a score"
    )


def checked_path(path: str | Path, suffix: str = ".tflite") -> Path:
    """The path of a file that can be written; refuses another suffix, a folder, and where none can be made."""
    if not isinstance(path, (str, Path)) or Path(path).suffix != suffix:
        raise refuse("path", path, f"a file name that ends in {suffix}")
    path = Path(path)
    if path.is_dir():
        raise refuse("path", str(path), "a file; there is a folder of that name")
    writable_folder("path", path.parent)
    return path
