"""One small file for a pruned model: shared values, positions of the non-zeros, entropy coding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import _files
from keras_aeprune._layers import fits
from keras_aeprune._progress import to_stderr
from keras_aeprune._validation import InputError, keras_model, one_of, positive_int, refuse
from keras_aeprune.compression import container, delta, graphs
from keras_aeprune.compression.codebook import kmeans
from keras_aeprune.compression.container import Reader, damaged, put_section, take_section
from keras_aeprune.compression.delta import Coded, Share
from keras_aeprune.compression.graphs import Tensor
from keras_aeprune.compression.packed_rows import Packed, PackedRow
from keras_aeprune.compression.streams import CODERS
from keras_aeprune.models import files

__all__ = ["pack", "unpack"]

Bits = int | dict[str, int | None] | None
_MAX_BYTES = 10**9
_MAX_CONFIG = 2**24  # bytes of JSON, which take several times that when read


def pack(
    model: keras.Model | str | Path,
    path: str | Path,
    *,
    bits: Bits = 5,
    bias_bits: int | None = None,
    base: keras.Model | str | Path | None = None,
    coder: str = "smallest",
    progress: bool = False,
) -> Packed:
    """Write a model into one entropy-coded file, as small as its zeros and shared values allow.

    Use it on a pruned model to send or keep it; `unpack` gives the model back. Every kernel's non-zero
    weights are shared: k-means with k = 2^bits values that start evenly between the smallest and the
    largest. Zeros stay zero. Then positions and values are coded, each by the cheapest of several ways,
    in about

        bytes = (N H(non-zero) + n H(shared value)) / 8 + codebook and tables

    for n of N weights that are not zero, H in bits a symbol. This is Deep Compression without its
    retraining (Han et al. 2016, https://arxiv.org/abs/1510.00149), with range coding in place of Huffman
    codes where that is smaller; train shared values with `cluster` before to lose less. A kernel with at
    most 2^bits different values is kept to the bit. Weights only: what compile() set is not stored.

    Args:
        model: a built Keras model, or a path to a .tflite, .keras or .h5 file. In a .tflite file float
            arrays of two and more axes are shared; integers are always kept exactly.
        path: of the file to write.
        bits: 1 to 8, log2 of the values per kernel; a dict from path patterns ("encoder/*") to bits, the
            first that fits counts and a kernel that none fits is exact; None for everything exact.
        bias_bits: the same for biases, 1 to 8, or 16 for rounding to float16; None keeps them exactly.
        base: a model (or path) of the same architecture that the reader has too: only the difference is
            stored, as a federated client sends it. Shared differences are added to the base.
        coder: "smallest", "range" or "huffman".
        progress: say on standard error which array is coded.

    Returns:
        A `Packed`; its `model` is what `unpack` gives. The file was read back and compared before it was
        kept.

    Raises:
        InputError: arguments out of range, patterns that fit nothing, a base of another architecture,
            NaN in a kernel to share, layers with Python code, the package constriction not installed.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
        >>> packed = pack(model, Path(tempfile.mkdtemp()) / "model.kap", bits=4)
        >>> packed.dense_bytes, packed.bytes < 2000, unpack(packed.path).output_shape
        (8320, True, (None, 32))
    """
    one_of("coder", coder, CODERS)
    source, known = _source(model, "model"), None if base is None else _source(base, "base")
    graph, tensors = source.graph, source.tensors
    share, body = _sharing(tensors, bits, bias_bits), bytearray()
    old: list[np.ndarray | None] = [None] * len(tensors)
    if known is not None:
        if known.kind != source.kind:
            raise InputError(f"base: got a {known.kind} model, allowed: {source.kind} as the model")
        delta.same_layout(tensors, known.tensors)
        body += delta.put_base(known.tensors)
        old[:] = [tensor.value for tensor in known.tensors]
    dictionary = known.graph if known else graphs.DICTIONARY if source.kind == "keras" else b""
    put_section(body, graph, dictionary)
    if source.kind == "tflite":
        put_section(body, graphs.put_layout(tensors))
    graph_bytes, rows, final = len(body), [], []
    for number, (tensor, before, rounded) in enumerate(zip(tensors, old, share, strict=True), 1):
        if progress:
            to_stderr(f"packing {tensor.path}, {number} of {len(tensors)}", number == len(tensors))
        coded, value = delta.put_tensor(tensor.value, before, rounded, coder)
        body += coded.data
        rows.append(_row(tensor, coded))
        final.append(value)
    kind = source.kind if known is None else f"{source.kind} delta"
    data = container.seal(kind, bytes(body))
    result, found = _read(data, known, container.CLAIMS)
    for tensor, value, back in zip(tensors, final, found, strict=True):
        if value.tobytes() != back.tobytes():
            raise RuntimeError(f"{tensor.path} did not come back as it was packed; nothing was written")
    with _files.writing(path) as temporary:
        temporary.write_bytes(data)
    kernels = [value for tensor, value in zip(tensors, final, strict=True) if tensor.role == "kernel"]
    return Packed(
        path=str(path),
        kind=kind,
        bytes=len(data),
        graph_bytes=graph_bytes,
        dense_bytes=sum(tensor.value.nbytes for tensor in tensors),
        kernel_weights=sum(value.size for value in kernels),
        kernel_nonzeros=sum(int(np.count_nonzero(value)) for value in kernels),
        rows=tuple(rows),
        model=result,
    )


def unpack(
    path: str | Path,
    out: str | Path | None = None,
    *,
    base: keras.Model | str | Path | None = None,
    max_bytes: int = _MAX_BYTES,
) -> keras.Model | Path:
    """The model in a file that `pack` wrote, every weight to the bit.

    Use it on files from anywhere: nothing in them is run, and damaged ones are refused. Own layer classes
    must be registered with keras.saving.register_keras_serializable before, as for a .keras file.

    Args:
        path: a packed file.
        out: where to write the model, a .keras file (may be None) or the .tflite file (must be given).
        base: the model, or a path to it, that the file was packed against; None where there was none.
        max_bytes: of weights and graph, >= 1; a file that declares more is refused before memory is taken.

    Returns:
        The Keras model, not compiled; or the path of the .tflite file.

    Raises:
        InputError: a damaged file, too large a model, a missing or another base, Python code, classes
            that are not registered.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
        >>> packed = pack(model, Path(tempfile.mkdtemp()) / "model.kap", bits=None)
        >>> bool((unpack(packed.path).weights[0].numpy() == model.weights[0].numpy()).all())
        True
    """
    max_bytes = positive_int("max_bytes", max_bytes)
    data = container.read_file(path, max_bytes)
    result, _ = _read(data, None if base is None else _source(base, "base"), max_bytes)
    if isinstance(result, bytes):
        if out is None:
            raise InputError("out: got None, allowed: a path for the .tflite file that is packed here")
        with _files.writing(out) as temporary:
            temporary.write_bytes(result)
        return Path(out)
    if out is not None:
        if Path(out).suffix != ".keras":
            raise refuse("out", str(out), "a path that ends in .keras, as a Keras model is packed here")
        with _files.writing(out) as temporary:
            result.save(temporary)
    return result


@dataclass(frozen=True)
class _Source:
    """A model that was taken apart."""

    kind: str
    graph: bytes
    tensors: list[Tensor]


def _source(model: Any, name: str) -> _Source:
    if isinstance(model, str | Path) and Path(model).suffix.lower() == ".tflite":
        if not Path(model).is_file():
            raise InputError(f"{name}: nothing is at {str(model)!r}, allowed: a Keras model or an existing file")
        data = Path(model).read_bytes()
        tensors = graphs.tflite_tensors(data, name)
        return _Source("tflite", graphs.tflite_skeleton(data, tensors), tensors)
    model = files.load(model) if isinstance(model, str | Path) else keras_model(model, name)
    return _Source("keras", graphs.keras_graph(model), graphs.keras_tensors(model))


def _read(data: bytes, known: _Source | None, max_bytes: int) -> tuple[Any, list[np.ndarray]]:
    """The model of a packed file and its arrays."""
    kind, reader = container.unseal(data)
    kind, _, against = kind.partition(" ")
    if against and known is None:
        raise InputError("base: got None, allowed: the model that this file was packed against")
    if known is not None and (not against or known.kind != kind):
        allowed = f"a {kind} model" if against else "None, as this file needs no base"
        raise InputError(f"base: got a {known.kind} model, allowed: {allowed}")
    if known is not None:
        delta.take_base(reader, known.tensors)
    dictionary = known.graph if known else graphs.DICTIONARY if kind == "keras" else b""
    graph = take_section(reader, max_bytes if kind == "tflite" else min(max_bytes, _MAX_CONFIG), dictionary)
    if kind == "keras":
        model = graphs.rebuild(graph, max_bytes)
        layout = [(0, tuple(v.shape), graphs.keras_dtype(v)) for v in model.weights]
    else:
        places = graphs.take_layout(Reader(take_section(reader, max_bytes)), max_bytes)
        layout = [(start, shape, np.dtype(f"u{width}")) for start, width, shape in places]
    old = [None] * len(layout) if known is None else [tensor.value for tensor in known.tensors]
    if len(old) != len(layout):
        raise damaged("it has not as many arrays as its base")
    values = []
    for (_, shape, dtype), before in zip(layout, old, strict=True):
        values.append(delta.take_tensor(reader, shape, dtype, before))
    reader.done()
    if kind == "keras":
        graphs.assign(model, values)
        return model, values
    tensors = [Tensor("", value, "other", start) for (start, _, _), value in zip(layout, values, strict=True)]
    return graphs.tflite_bytes(graph, tensors), values


def _sharing(tensors: list[Tensor], bits: Bits, bias_bits: int | None) -> list[Share | None]:
    """What rounds each array to few values; None for what stays exact."""
    if not isinstance(bits, dict):
        bits = {"*": bits}
    for pattern in bits:
        kernels = [tensor.path for tensor in tensors if tensor.role == "kernel"]
        if pattern != "*" and not any(fits(path, pattern) for path in kernels):
            raise refuse("bits", pattern, f"a pattern that fits one of {', '.join(kernels)}")
    bits = {pattern: value if value is None else _bits("bits", value) for pattern, value in bits.items()}
    if bias_bits is not None and bias_bits != 16:
        bias_bits = _bits("bias_bits", bias_bits)
    shares: list[Share | None] = []
    for tensor in tensors:
        wanted = bias_bits if tensor.role == "bias" else None
        if tensor.role == "kernel":
            wanted = next((value for pattern, value in bits.items() if fits(tensor.path, pattern)), None)
        floats = tensor.value.dtype.kind not in "iub"
        shares.append(partial(_shared, bits=wanted, path=tensor.path) if wanted and floats else None)
    return shares


def _bits(name: str, value: Any) -> int:
    return positive_int(name, value, maximum=8)


def _shared(value: np.ndarray, bits: int, path: str) -> np.ndarray:
    """An array with at most 2^bits different non-zero values; itself, if it has no more already."""
    if bits == 16:
        return value.astype(np.float16).astype(value.dtype)
    words = value[value != 0]
    if len(np.unique(words)) <= 2**bits:
        return value
    if not np.isfinite(words.astype(np.float32)).all():
        raise InputError(f"{path}: got NaN or infinite weights, allowed: finite ones, or bits=None to keep them")
    book, labels = kmeans(value.astype(np.float32), 2**bits)
    with np.errstate(over="ignore"):
        halves = book.astype(np.float16).astype(np.float32)
    # Codebooks are a large part of a small file; 11 bits are plenty for the middle of a cluster.
    book = np.where(np.abs(halves - book) <= np.abs(book) * 2.0**-10, halves, book).astype(value.dtype)
    return np.where(labels < 0, 0, book[labels]).astype(value.dtype)


def _row(tensor: Tensor, coded: Coded) -> PackedRow:
    value = tensor.value
    gaps = np.diff(np.flatnonzero(value), prepend=-1) - 1
    plain = [value.size / 8]  # bitmask, or gaps of a fixed width with a filler weight where one is too long
    for width in (5, 8):
        fillers = (gaps // (2**width - 1)).sum()
        plain.append((width * (len(gaps) + fillers) + 8 * value.itemsize * fillers) / 8)
    return PackedRow(
        path=tensor.path,
        shape=tuple(value.shape),
        weights=value.size,
        nonzeros=coded.nonzeros,
        bits=coded.bits,
        index=coded.index,
        mode=coded.mode,
        bytes=len(coded.data),
        index_bytes=coded.index_bytes,
        codebook_bytes=coded.codebook_bytes,
        table_bytes=coded.table_bytes,
        bound=coded.bound,
        sparse_bytes=min(value.nbytes, math.ceil(len(gaps) * value.itemsize + min(plain))),
    )
