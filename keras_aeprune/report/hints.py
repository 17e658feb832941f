"""What to do about a model or a file, one sentence each, from its layers alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from keras_aeprune.report.inspected import Inspection, LayerRow
from keras_aeprune.report.text import size_text

__all__ = ["hints"]

_MANY = 0.3  # fraction of zeros from which they are worth a word
_LARGE = 20_000  # bytes of float32 weights from which int8 is
_STEP = 8  # LiteRT works on so many units at once
_NARROW = 16  # below this a width that is no multiple of it costs little


def hints(found: Inspection) -> list[str]:
    """Hints for an inspection; those that it holds already stand first.

    The facts behind them were measured with LiteRT: zeros spread over a kernel make no operation faster,
    unrolled recurrent layers are about 3 times faster, float16 files are not faster.

    Args:
        found: an inspection, with bytes where it is of a file.

    Returns:
        Sentences without markup.

    Example:
        >>> row = LayerRow("hidden", "Dense", (None, 8), "float32", 72, 64, 63, 64, 288, 10, 8)
        >>> [hint.split(":")[0] for hint in hints(Inspection("m", "memory", (row,)))]
        ['0.984 of the kernel weights are zero']
    """
    said = [*found.hints, *_zeros(found)]
    said += _tflite(found) if found.format == "tflite" else _keras(found)
    said += _widths(found.layers)
    return list(dict.fromkeys(said))


def _zeros(found: Inspection) -> Iterator[str]:
    if found.sparsity < _MANY:
        return
    begin = f"{found.sparsity:.3f} of the kernel weights are zero: "
    advice = "cut units out with shrink"
    if found.gzip_bytes is not None:
        yield f"{begin}the file zips to {size_text(found.gzip_bytes)}, but will not run faster; {advice}"
    else:
        yield f"{begin}files of it compress well, but will not run faster; {advice}"


def _keras(found: Inspection) -> Iterator[str]:
    for row in found.layers:
        if row.note == "runs as a loop":
            yield f"{row.path} ({row.kind}) runs as a loop: unrolled (models.unrolled) it is about 3x faster"
        if row.kind == "Sampling":
            yield f"{row.path} draws random numbers: export models.for_inference(model), which takes the mean"


def _tflite(found: Inspection) -> Iterator[str]:
    rows = found.layers
    for row in rows:
        if row.kind == "WHILE":
            yield (
                f"operation {row.path} is a loop, as of a rolled LSTM or GRU: unrolled (models.unrolled) it is "
                "about 3x faster"
            )
        if row.kind.startswith("Flex"):
            yield f"operation {row.path} ({row.kind}) needs TensorFlow's own kernels, which LiteRT lacks in Python"
        if row.dead:
            yield (
                f"operation {row.path}: all weights of {row.dead:,} of its {row.units:,} units are zero; cut them "
                "out of the Keras model with shrinking.without_dead"
            )
    plain = sum(row.weight_bytes for row in rows if row.dtype == "float32" and "sparse-encoded" not in row.note)
    if plain >= _LARGE:
        yield f"{size_text(plain)} of the weights are float32: int8 makes them 4 times smaller, and faster"
    if any(row.dtype == "float16" for row in rows):
        yield "float16 weights halve the file but run at the speed of float32; int8 is smaller and faster"
    if any("sparse-encoded" in row.note and row.dtype != "float32" for row in rows):
        yield "sparse-encoded weights that are not float32: LiteRT may not load them, or be wrong; compare"
    for first, second in pairwise(rows):
        if first.kind == "TRANSPOSE_CONV" and first.dtype == "int8" and second.kind == "RELU":
            yield (
                f"operation {first.path} (int8 TRANSPOSE_CONV followed by RELU) is slow: LeakyReLU there is "
                "about 1.75x faster"
            )


def _widths(rows: tuple[LayerRow, ...]) -> Iterator[str]:
    inner = [row for row in rows if row.kernel_weights and row.macs][:-1]  # the last one's width is the output's
    odd = [f"{row.path} ({row.units})" for row in inner if row.units > _NARROW and row.units % _STEP]
    if odd:
        more = f" and {len(odd) - 5} more" * (len(odd) > 5)
        named = f"{', '.join(odd[:5])}{more}"
        yield f"widths that are no multiple of {_STEP} run slower than the next one that is: {named}"
