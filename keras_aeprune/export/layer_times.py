"""How long each operation of a .tflite file takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.isotonic import isotonic_regression

from keras_aeprune import _progress
from keras_aeprune._validation import InputError, positive_int
from keras_aeprune.export.benchmark import interleaved
from keras_aeprune.export.flatbuffer import (
    HANDLES,
    constants,
    operator_name,
    packed,
    read_flatbuffer,
    shape_of,
    type_name,
)
from keras_aeprune.export.verify import TFLiteModel
from keras_aeprune.shrinking.text import table

_WARMUP = 20
_GROUP_BYTES = 2**29  # weights of the cut files that are in memory at a time


@dataclass(frozen=True)
class OperationTime:
    """The time of one operation.

    Args:
        index: of the operation in the file, >= 0.
        name: of its kind, such as "FULLY_CONNECTED".
        output: name of its first output.
        shape: of its first output.
        time_us: what the file takes longer with it than without it, microseconds, >= 0.
        error_us: standard error of that difference, microseconds; a smaller time is noise.
        share: fraction of the time of all operations, 0 <= share <= 1.

    Example:
        >>> OperationTime(0, "FULLY_CONNECTED", "code", (1, 8), time_us=0.4, error_us=0.02, share=1.0).share
        1.0
    """

    index: int
    name: str
    output: str
    shape: tuple[int, ...]
    time_us: float
    error_us: float
    share: float


@dataclass(frozen=True)
class Profile:
    """The times of all operations of a file; see `profile`. Printing it gives a table.

    Args:
        path: the file.
        runs: readings per cut.
        threads: of the interpreter.
        whole_us: median of the whole file, measured beside the cuts, microseconds.
        overhead_us: of an invoke without any operation, microseconds.
        operations: their times, in the order in which they run.

    Example:
        >>> one = OperationTime(0, "FULLY_CONNECTED", "code", (1, 8), time_us=0.5, error_us=0.02, share=1.0)
        >>> Profile(Path("ae.tflite"), 200, 1, 1.3, 0.75, (one,)).sum_us
        1.25
    """

    path: Path
    runs: int
    threads: int
    whole_us: float
    overhead_us: float
    operations: tuple[OperationTime, ...]

    @property
    def sum_us(self) -> float:
        """The overhead and all operations; about `whole_us`, or the machine was too restless."""
        return self.overhead_us + sum(operation.time_us for operation in self.operations)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path), "operations": [_plain(o) for o in self.operations]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Profile:
        """The profile that `to_dict` described."""
        operations = tuple(OperationTime(**{**o, "shape": tuple(o["shape"])}) for o in values["operations"])
        return cls(**{**values, "path": Path(values["path"]), "operations": operations})

    def __str__(self) -> str:
        rows = [
            [str(o.index), o.name, "x".join(map(str, o.shape)), *(f"{v:.2f}" for v in (o.time_us, o.error_us))]
            for o in self.operations
        ]
        rows = [[*row, f"{o.share:.3f}"] for row, o in zip(rows, self.operations, strict=True)]
        rows.append(["", "invoke", "", f"{self.overhead_us:.2f}", "", ""])
        rows.append(["", "sum", "", f"{self.sum_us:.2f}", "", ""])
        lines = table(["", "operation", "output", "us", "+-", "share"], rows, left=3)
        measured = f"whole file: {self.whole_us:.2f} us (threads {self.threads}, median of {self.runs} readings)"
        return "\n".join([*lines, measured])


def profile(
    path: str | Path, *, runs: int = 200, threads: int = 1, progress: _progress.Say = _progress.to_stderr
) -> Profile:
    """Time every operation of a .tflite file on this machine, by cutting the file after each of them.

    Use it to see where the time goes. Cut k holds the first k operations and returns what the others need; all
    cuts and the whole file are timed in turns, warm as in `benchmark`, and with T(k) the median of cut k,

        time of operation k = T'(k) - T'(k - 1)

    where T' is the closest sequence to T that never falls (isotonic regression), so no time is negative: an
    operation that made the file faster by chance shares the time of its neighbours. T(0) is the overhead
    of an invoke. The runtime may run neighbours together, a convolution and the ReLU after it say; then the
    sum of both is right, and which of them has it says little. (The interpreter's own profiler cannot be
    reached from Python.)

    Args:
        path: a .tflite file. Of several signatures the first is profiled; an open size is 1.
        runs: readings per cut, >= 1; the time needed is about runs * operations / 2 invokes of the file.
        threads: of the interpreter, >= 1.
        progress: called with each line to show; `_progress.silent` for none.

    Returns:
        A `Profile`; operations that run once when the file is loaded (on constants alone) are not in it.

    Raises:
        InputError: if the file cannot be loaded or cut.

    Example:
        >>> import tensorflow as tf
        >>> two = tf.function(lambda x: tf.exp(x) + 1, input_signature=[tf.TensorSpec((1, 3), name="x")])
        >>> path = Path(tempfile.mkdtemp()) / "two.tflite"
        >>> converter = tf.lite.TFLiteConverter.from_concrete_functions([two.get_concrete_function()])
        >>> _ = path.write_bytes(converter.convert())
        >>> [operation.name for operation in profile(path, runs=3, progress=_progress.silent).operations]
        ['EXP', 'ADD']
    """
    path = Path(path)
    runs, threads = positive_int("runs", runs), positive_int("threads", threads)
    whole = TFLiteModel(path, threads=threads)
    model = read_flatbuffer(path)
    graph = model.subgraphs[0]
    operators, fixed = graph.operators, constants(model, graph)
    steps = [k for k, op in enumerate(operators) if not all(i in fixed for i in op.outputs)]
    with tempfile.TemporaryDirectory() as folder:
        cuts = []
        for count in (0, *(k + 1 for k in steps)):
            file = Path(folder) / f"{path.stem}-{count}.tflite"
            file.write_bytes(cut(path, count))
            cuts.append(file)
        medians, errors, whole_us = _timed(whole, cuts, runs, progress)
    smooth = isotonic_regression(medians)
    times = np.diff(smooth)
    total = float(times.sum())
    operations = []
    for n, k in enumerate(steps):
        first = graph.tensors[operators[k].outputs[0]] if len(operators[k].outputs) else None
        operations.append(
            OperationTime(
                index=k,
                name=operator_name(model, operators[k]),
                output=first.name.decode() if first is not None else "",
                shape=shape_of(first) if first is not None else (),
                time_us=float(times[n]),
                error_us=float(np.hypot(errors[n], errors[n + 1])),
                share=float(times[n]) / total if total else 0.0,
            )
        )
    return Profile(path, runs, threads, whole_us, float(smooth[0]), tuple(operations))


def cut(path: str | Path, count: int) -> bytes:
    """The contents of a .tflite file that ends after its first `count` operations.

    Its outputs are the tensors that the removed operations or the whole file needed, under their own names.

    Args:
        path: a .tflite file.
        count: operations to keep, 0 <= count <= those of the file.

    Returns:
        A whole .tflite file without signatures, and without the weights that it no longer uses.

    Raises:
        InputError: if `path` is no .tflite file or has fewer operations.
    """
    model = read_flatbuffer(path)
    graph = model.subgraphs[0]
    count = positive_int("count", count, minimum=0, maximum=len(graph.operators))
    kept, removed = graph.operators[:count], graph.operators[count:]
    fixed = constants(model, graph)
    needed = {int(i) for i in graph.outputs} | {int(i) for op in removed for i in op.inputs}
    made = [int(i) for op in kept for i in op.outputs]
    last = set(map(int, kept[-1].outputs)) if kept else set()
    graph.operators = kept
    graph.outputs = [
        i
        for i in made
        if (i in needed or i in last) and i not in fixed and type_name(graph.tensors[i]) not in HANDLES
    ]
    model.signatureDefs = None
    used = {int(i) for op in kept for i in [*op.inputs, *op.outputs]}
    for i, tensor in enumerate(graph.tensors):
        if i not in used and i in fixed:
            tensor.buffer, tensor.sparsity = 0, None
    buffers = {tensor.buffer for subgraph in model.subgraphs for tensor in subgraph.tensors}
    for i, buffer in enumerate(model.buffers):
        if i not in buffers:
            buffer.data = None
    model.metadata = model.metadataBuffer = None
    return packed(model)


def _timed(
    whole: TFLiteModel, cuts: list[Path], runs: int, progress: Callable[[str, bool], None]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Medians of the cuts, their standard errors, and the median of the whole file, microseconds."""
    medians: list[np.ndarray] = []
    errors, wholes = [], []
    for group in _groups(cuts):
        progress(f"{whole.path.name}: timing {len(medians) + len(group)} of {len(cuts)} cuts", False)
        models = [_loaded(file, whole) for file in group]
        readings, _ = interleaved([*models, whole], runs, warmup=_WARMUP, seed=0)
        low, middle, high = np.percentile(readings, [25, 50, 75], axis=1)
        medians.append(middle[:-1] / middle[-1])
        # A median's standard error is 1.25 deviations / sqrt(n), and a normal deviation is 0.74 quartile ranges.
        errors.append(0.93 * (high - low)[:-1] / np.sqrt(runs))
        wholes.append(middle[-1])
    whole_us = float(np.median(wholes))
    progress(f"{whole.path.name}: timed {len(cuts)} cuts", True)
    return np.concatenate(medians) * whole_us, np.concatenate(errors), whole_us


def _groups(cuts: list[Path]) -> list[list[Path]]:
    """Cuts that are timed in turns; large files in several groups, each beside the whole file."""
    groups: list[list[Path]] = [[]]
    size = 0
    for file in cuts:
        size += file.stat().st_size
        if groups[-1] and size > _GROUP_BYTES:
            groups.append([])
            size = file.stat().st_size
        groups[-1].append(file)
    return groups


def _loaded(file: Path, whole: TFLiteModel) -> TFLiteModel:
    try:
        return TFLiteModel(file, threads=whole.threads)
    except InputError as error:
        count = file.stem.rpartition("-")[2]
        raise InputError(
            f"path: got {str(whole.path)!r}, whose first {count} operations do not load without the others "
            f"({error.__cause__}), allowed: a file that can be cut after every operation"
        ) from error


def _plain(operation: OperationTime) -> dict[str, Any]:
    return {**asdict(operation), "shape": list(operation.shape)}
