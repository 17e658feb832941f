"""Write a model file as a checked .tflite or .onnx file."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_aeprune import datasets, export, models
from keras_aeprune._validation import InputError, one_of, positive_int
from keras_aeprune.pipeline.model_files import shaped
from keras_aeprune.report.text import size_text

__all__ = ["ExportFile", "export_file"]

_SUFFIXES = (".tflite", ".onnx")


@dataclass(frozen=True)
class ExportFile:
    """What `export_file` wrote; prints what was compared and what the exporter did on the way.

    Attributes:
        file: as `export.tflite` or `export.onnx` returns it.
        compared_on: what the file and the model were compared on.

    Example:
        >>> file = export.ExportedFile(Path("ae.tflite"), "int8", 9000, 7000, 0.02, 0.01, 0.5, 0.2, 64)
        >>> print(ExportFile(file, "samples of digits"))
        ae.tflite
        int8, 9.0 kB, 7.0 kB zipped
        64 samples of digits through both: largest difference 0.02 of the largest output, 0.01 of its spread (rms)
    """

    file: Any
    compared_on: str

    def __str__(self) -> str:
        file = self.file
        candidates = getattr(file, "candidates", None)
        kind = getattr(file, "quantize", f"opset {getattr(file, 'opset', '')}")
        lines = [
            str(file.path),
            f"{kind}, {size_text(file.bytes)}, {size_text(file.gzip_bytes)} zipped",
            f"{file.samples_compared} {self.compared_on} through both: largest difference "
            f"{file.max_difference:.2g} of the largest output, {file.rms_difference:.2g} of its spread (rms)",
        ]
        lines += [textwrap.fill(note, 100) for note in getattr(file, "notes", ())]
        return "\n".join([*lines, *([] if candidates is None else ["", str(candidates)])])


def export_file(
    model: str | Path,
    out: str | Path,
    *,
    quantize: str | None = None,
    data: Any = None,
    batch: int | None = None,
    sparse: str = "auto",
    unroll: str = "auto",
    parts: tuple[str, ...] | None = None,
    labels: tuple[str, ...] | None = None,
    samples: int = 256,
    key: str | None = None,
    scale: str = "none",
    seed: int = 0,
    progress: bool = True,
) -> ExportFile:
    """Load a model and write it as a .tflite or .onnx file that computes the same.

    Args:
        model: a .keras or .h5 file.
        out: the file to write; .tflite or .onnx decides the format.
        quantize: for .tflite, as for `export.tflite`: float16, dynamic, int8, int8_io, int16x8 or smallest.
        data: as for `compress`; int8 needs it.
        batch: samples an invoke takes, >= 1; None is 1 for .tflite and any for .onnx.
        sparse: for .tflite "auto", "yes" or "no", as `sparse` of `export.tflite`.
        unroll: for .tflite "auto", "yes" or "no", as `unroll` of `export.tflite`.
        parts: for .tflite, "encoder" and "decoder" as signatures of one file.
        labels: for .tflite, names of the outputs' classes, kept in the file.
        samples: of the training split to calibrate and compare with, at most, >= 1.
        key: which array of a .npz file.
        scale: "none" (default), "auto", "unit" or "standard", as for `datasets.load`.
        seed: of the draw of samples, >= 0.
        progress: print a line to standard error where several files are tried.

    Returns:
        An `ExportFile`; print it.

    Raises:
        InputError: for a model, data or arguments that cannot be used.
        ConversionError: if the converter fails.
        ExportMismatch: if the file would compute something else; nothing is written then.

    Example:
        >>> print(export_file("model.keras", "model.tflite", quantize="int8", data="x.npz"))   # doctest: +SKIP
    """
    path = Path(out)
    if path.suffix not in _SUFFIXES:
        raise InputError(f"out: got {str(out)!r}, allowed: a name that ends in {' or '.join(_SUFFIXES)}")
    if Path(model).suffix in _SUFFIXES:
        raise InputError(
            f"model: got {str(model)!r}, allowed: a .keras or .h5 file; a converted file cannot be converted again"
        )
    switches = {"auto": "auto", "yes": True, "no": False}
    one_of("sparse", sparse, list(switches))
    one_of("unroll", unroll, list(switches))
    positive_int("samples", samples)
    network = models.load(model)
    x, compared_on = None, "random samples"
    if data is not None:
        loaded = datasets.load(data, key=key, seed=seed, scale=scale)
        inputs, _ = shaped(network, loaded)
        x = inputs["train"][np.random.default_rng(seed).permutation(len(inputs["train"]))[:samples]]
        compared_on = f"samples of {loaded.name}"
    if path.suffix == ".onnx":
        given = {"quantize": quantize, "parts": parts, "labels": labels}
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name}: got {value!r} for a .onnx file, allowed: for .tflite files only")
        return ExportFile(export.onnx(network, path, data=x, batch=batch, seed=seed), compared_on)
    options: dict[str, Any] = {"sparse": switches[sparse], "unroll": switches[unroll], "parts": parts}
    if labels is not None:
        options["metadata"] = {"labels": list(labels)}
    file = export.tflite(
        network, path, quantize=quantize, data=x, seed=seed, batch=batch or 1, progress=progress, **options
    )
    return ExportFile(file, compared_on)
