"""Run the TFLite converter in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_aeprune._validation import shown
from keras_aeprune.export.precisions import Precision

WORKER = Path(__file__).with_name("_convert.py")
NOISE = ("WARNING: All log messages before", "Extension modules:", "INFO: Created TensorFlow Lite")


class ConversionError(RuntimeError):
    """The converter refused the model, crashed, or wrote a file that cannot be loaded.

    Catch it where a model may have operations that TFLite lacks; its text holds what the converter said, and no
    file was written. `int8_quality` raises it too where it made no file at all.

    Example:
        >>> import keras, numpy
        >>> from keras_aeprune.export import int8_quality
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        >>> try:
        ...     int8_quality(model, "a.tflite", numpy.ones((8, 4)), calibrations=["clipped"], progress=False)
        ... except ConversionError as error:
        ...     print(f"{error}; a.tflite is there: {Path('a.tflite').exists()}")
        no file was tried; a.tflite is there: False
    """


@dataclass(frozen=True)
class Job:
    """One conversion of a SavedModel to a .tflite file.

    Args:
        saved_model: its folder.
        output: the file to write.
        precision: the row of the table.
        calibration: .npy files by input name, by name of the signature.
        signatures: the names that the file gets, one or more of those that the SavedModel has.
        batch: samples an invoke, >= 1.
        sparse: whether kernels with many zeros may be stored in sparse coding.
        keep_float: operations of TFLite that stay in float32 where the rest is quantized to int8.
    """

    saved_model: Path
    output: Path
    precision: Precision
    calibration: Mapping[str, Mapping[str, Path]] | None = None
    signatures: tuple[str, ...] = ("serving_default",)
    batch: int = 1
    sparse: bool = False
    keep_float: tuple[str, ...] = ()

    def request(self) -> dict[str, object]:
        """What the worker reads, as plain JSON values."""
        row = self.precision
        arrays = {
            name: {key: str(path) for key, path in paths.items()}
            for name, paths in (self.calibration or {}).items()
        }
        return {
            "saved_model": str(self.saved_model),
            "output": str(self.output),
            "signatures": list(self.signatures),
            "calibration": arrays if row.needs_data else None,
            "batch": self.batch,
            "optimize": row.optimize,
            "sparse": self.sparse,
            "types": list(row.types),
            "ops": list(row.ops),
            "quantized_io": row.quantized_io,
            "keep_float": list(self.keep_float) if row.needs_data else [],
        }


def convert(jobs: Sequence[Job], folder: Path) -> list[ConversionError | None]:
    """Run all `jobs` in one subprocess; a crash costs the job that crashed, the rest run in a new subprocess.

    Starting TensorFlow takes seconds and one small conversion takes tenths of a second, so several jobs in
    one call are much faster than one call each.

    Args:
        jobs: what to convert; each has an output path of its own.
        folder: an existing folder for the request.

    Returns:
        For each job None, when its output file was written, or the error that says why not.
    """
    results: list[ConversionError | None] = [None] * len(jobs)
    waiting = list(range(len(jobs)))
    while waiting:
        ended = _run([jobs[i] for i in waiting], folder / "request.json")
        unfinished = []
        for i in waiting:
            message = jobs[i].output.with_name(jobs[i].output.name + ".error")
            if message.exists():
                text = message.read_text(encoding="utf-8", errors="replace")
                results[i] = _error(jobs[i], f"the converter refused it: {shorter(text)}")
                message.unlink()
            elif not jobs[i].output.exists():
                unfinished.append(i)
        if unfinished:
            first = unfinished.pop(0)
            results[first] = _error(jobs[first], f"the converter process {_ending(ended)}")
        waiting = unfinished
    return results


def shorter(text: str, limit: int = 400) -> str:
    """`text` on one line, with the middle left out when it has more than `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 105]} ... {line[-100:]}"


def _run(jobs: Sequence[Job], request: Path) -> subprocess.CompletedProcess[str]:
    request.write_text(json.dumps({"jobs": [job.request() for job in jobs]}), encoding="utf-8")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    # -P keeps the folder of the script off sys.path, where its neighbours would hide modules of the same name
    command = [sys.executable, "-P", "-X", "faulthandler", str(WORKER), str(request)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)


def _error(job: Job, reason: str) -> ConversionError:
    return ConversionError(f"{job.precision.name} conversion failed: {reason}")


def _ending(ended: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(NOISE) and ".cc:" not in line]
    tail = shorter(" | ".join(lines[:2] + lines[2:][-4:])) or "nothing on its stderr"
    if ended.returncode >= 0:
        return f"ended with exit status {ended.returncode} before it wrote a file: {tail}"
    try:
        name = signal.Signals(-ended.returncode).name
    except ValueError:
        name = f"signal {-ended.returncode}"
    return f"crashed with {name}: {shown(tail, 500)}"
