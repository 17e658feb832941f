"""How long one invoke of a .tflite file takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError, positive_int
from keras_aeprune.export.verify import TFLiteModel
from keras_aeprune.shrinking.text import table

READING_NS = 20_000  # shorter readings would measure the clock


@dataclass(frozen=True)
class Latency:
    """The time of one invoke, over many readings.

    Args:
        path: the file.
        threads: of the interpreter.
        runs: readings.
        median_us: median, microseconds.
        p10_us: tenth percentile, microseconds.
        p90_us: ninetieth percentile, microseconds.
        min_us: fastest reading, microseconds.
        ratio: median relative to that of the first file, > 0; below 1 is faster.
        block: invokes that one reading timed together, >= 1.

    Example:
        >>> latency = Latency(Path("ae.tflite"), 1, 200, 2.5, 2.4, 2.9, 2.4, 1.0)
        >>> latency.to_dict()["path"], latency.median_us
        ('ae.tflite', 2.5)
    """

    path: Path
    threads: int
    runs: int
    median_us: float
    p10_us: float
    p90_us: float
    min_us: float
    ratio: float
    block: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the path as text."""
        return {**asdict(self), "path": str(self.path)}


class Latencies(list[Latency]):
    """A list of `Latency` that prints as a table.

    Example:
        >>> print(Latencies([Latency(Path("ae.tflite"), 1, 200, 2.5, 2.4, 2.9, 2.4, 1.0)]))
        file       threads  runs  median us   p10   p90   min  ratio
        ae.tflite        1   200       2.50  2.40  2.90  2.40  1.000
    """

    def __str__(self) -> str:
        return latency_table(self)


def benchmark(
    *paths: str | Path,
    runs: int = 200,
    threads: int = 1,
    warmup: int = 20,
    seed: int = 0,
    signature: str | None = None,
) -> Latencies:
    """Time .tflite files against each other, on this machine, one sample per invoke.

    Use it to compare files: the rounds are interleaved (A B C A B C ...), so that a machine that slows down
    meanwhile slows all of them. Every file is loaded once and fed the same seeded random inputs. A reading is
    the time of one invoke, or the mean of a block of invokes that takes 20 us or more together. An invoke that
    is not counted comes before each reading, so that all files are timed warm: with their own weights in the
    caches as far as these hold them, and not those of the file before. A device that does other work between
    two invokes is slower.

    Args:
        *paths: .tflite files, at least one; ratios refer to the first.
        runs: readings per file, >= 1.
        threads: of the interpreter, >= 1.
        warmup: invokes per file that are not counted, >= 0.
        seed: of the inputs, >= 0.
        signature: which one to time, by a name that every file has; None is what the interpreter runs by default,
            the first of several. A named one of several costs a few microseconds more an invoke, in Python.

    Returns:
        A list with one `Latency` per file, in the order given; printed, it is a table.

    Raises:
        InputError: if a file cannot be loaded or lacks that signature, or an argument is outside its range.

    Example:
        >>> import tempfile, tensorflow as tf
        >>> double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((1, 3), name="x")])
        >>> concrete = [double.get_concrete_function()]
        >>> path = Path(tempfile.mkdtemp()) / "double.tflite"
        >>> _ = path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions(concrete).convert())
        >>> (latency,) = benchmark(path, runs=5)
        >>> latency.ratio, latency.min_us <= latency.median_us
        (1.0, True)
    """
    if not paths:
        raise InputError("paths: got none, allowed: one or more .tflite files")
    runs, threads = positive_int("runs", runs), positive_int("threads", threads)
    warmup, seed = positive_int("warmup", warmup, minimum=0), positive_int("seed", seed, minimum=0)
    models = [TFLiteModel(path, threads=threads, signature=signature) for path in paths]
    readings, blocks = interleaved(models, runs, warmup=warmup, seed=seed)
    medians = np.median(readings, axis=1)
    return Latencies(
        Latency(
            path=model.path,
            threads=threads,
            runs=runs,
            median_us=float(medians[i]),
            p10_us=float(np.percentile(readings[i], 10)),
            p90_us=float(np.percentile(readings[i], 90)),
            min_us=float(readings[i].min()),
            ratio=float(medians[i] / medians[0]),
            block=blocks[i],
        )
        for i, model in enumerate(models)
    )


def latency_table(latencies: Sequence[Latency]) -> str:
    """Several `Latency` as plain text for a terminal.

    Example:
        >>> print(latency_table([Latency(Path("a/dense.tflite"), 1, 200, 12.3, 12.0, 14.1, 11.8, 1.0)]))
        file          threads  runs  median us   p10   p90   min  ratio
        dense.tflite        1   200       12.3  12.0  14.1  11.8  1.000
    """
    names = _short_names([latency.path for latency in latencies])
    rows = [
        [
            name,
            str(one.threads),
            str(one.runs),
            *(_digits(value) for value in (one.median_us, one.p10_us, one.p90_us, one.min_us)),
            f"{one.ratio:.3f}",
        ]
        for name, one in zip(names, latencies, strict=True)
    ]
    return "\n".join(table(["file", "threads", "runs", "median us", "p10", "p90", "min", "ratio"], rows))


def interleaved(
    models: Sequence[TFLiteModel], runs: int, *, warmup: int, seed: int
) -> tuple[np.ndarray, list[int]]:
    """Readings in microseconds, (models, runs), taken in turns, and the invokes that one reading holds.

    One invoke that is not counted comes before each reading: its weights are in the caches then, and not those
    of the model before it.
    """
    invokes = [model.prepare(random_inputs(model, seed)) for model in models]
    blocks = [_block(invoke, warmup) for invoke in invokes]
    readings = np.empty((len(models), runs))
    for run in range(runs):
        for i, (invoke, block) in enumerate(zip(invokes, blocks, strict=True)):
            invoke()
            readings[i, run] = _reading(invoke, block)
    return readings / 1000, blocks


def random_inputs(model: TFLiteModel, seed: int) -> dict[str, np.ndarray]:
    """One sample by input name: uniform in [0, 1), or 0 and 1 for whole numbers; open sizes are 1."""
    generator = np.random.default_rng(seed)
    sample = {}
    for name, shape in model.input_shapes.items():
        size = tuple(1 if axis is None else axis for axis in shape)
        whole = model.input_dtypes[name].kind != "f"
        sample[name] = generator.integers(0, 2, size) if whole else generator.random(size)
    return sample


def _reading(invoke: Any, block: int) -> float:
    """Nanoseconds per invoke over one block; at least the clock's smallest step, so that ratios exist."""
    began = time.perf_counter_ns()
    for _ in range(block):
        invoke()
    return max(1, time.perf_counter_ns() - began) / block


def _block(invoke: Any, warmup: int) -> int:
    """How many invokes one reading needs, from the fastest of a few after the warm-up."""
    for _ in range(warmup):
        invoke()
    fastest = min(_reading(invoke, 1) for _ in range(5))
    return max(1, int(np.ceil(READING_NS / max(fastest, 1))))


def _digits(microseconds: float) -> str:
    """Three digits or more."""
    return f"{microseconds:.{2 if microseconds < 10 else 1 if microseconds < 100 else 0}f}"


def _short_names(paths: Sequence[Path]) -> list[str]:
    """File names, with folders where two are the same."""
    names = [path.name for path in paths]
    return [str(path) if names.count(path.name) > 1 else path.name for path in paths]
