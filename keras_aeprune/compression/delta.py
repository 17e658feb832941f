"""Arrays of weights as bytes: whole, or as what changed since a base that the reader has too."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from keras_aeprune._files import fingerprint
from keras_aeprune._validation import InputError
from keras_aeprune.compression.container import Reader, damaged, put_section, put_varint, take_section
from keras_aeprune.compression.graphs import Tensor
from keras_aeprune.compression.positions import put_mask, take_mask
from keras_aeprune.compression.streams import Stream, entropy, put_symbols, take_symbols

__all__ = ["Coded", "candidates", "put_array", "put_base", "put_tensor", "restored", "take_array", "take_base"]

Share = Callable[[np.ndarray], np.ndarray]
WHOLE, STEPS, SHARED = range(3)
MODE_NAMES = {WHOLE: "whole", STEPS: "exact difference", SHARED: "shared difference"}
_ZEROS, _CODEBOOK, _CODEBOOK_16, _PLANES = range(4)
_MASKED, _WITH_ZERO = 4, 8  # flags beside these
_SECTION = 16  # in place of all these
_MOST_VALUES = 256
_BASE_BYTES = 16


def put_base(base: list[Tensor]) -> bytes:
    """16 bytes by which a base is known again: of the sha256 of all its types, shapes and values."""
    digest = fingerprint(tensor.value for tensor in base)
    return hashlib.sha256(digest.encode()).digest()[:_BASE_BYTES]


def take_base(reader: Reader, base: list[Tensor]) -> None:
    """Refuse a base that is not the one of the file."""
    wanted, got = bytes(reader.take(_BASE_BYTES)), put_base(base)
    if wanted != got:
        raise InputError(
            f"base: got weights with the fingerprint {got.hex()}, allowed: the base that was packed against, "
            f"{wanted.hex()}"
        )


def same_layout(new: list[Tensor], base: list[Tensor]) -> None:
    """Refuse a base of another architecture."""
    if len(new) != len(base):
        raise InputError(f"base: got {len(base)} arrays of weights, allowed: {len(new)} as in the model")
    for left, right in zip(new, base, strict=True):
        if left.value.shape != right.value.shape or left.value.dtype != right.value.dtype:
            raise InputError(
                f"base: {right.path} is {right.value.dtype}{right.value.shape}, allowed: "
                f"{left.value.dtype}{left.value.shape} as in the model; give the same architecture"
            )


def candidates(
    new: np.ndarray, old: np.ndarray, share: Callable[[np.ndarray], np.ndarray] | None
) -> list[tuple[int, np.ndarray]]:
    """Ways to say `new` where `old` is known, each as (mode, array to code); the caller keeps the smallest.

    Whole: `new` itself. Exact difference: how many representable numbers lie between the two, with the
    sign in the lowest bit, so that small steps are small numbers and no step is 0. Shared difference:
    share(new - old); NaN there means that a weight becomes zero, so that pruned weights stay pruned.

    Args:
        new: any shape and type of numbers.
        old: the same shape and type.
        share: what rounds differences to a few values; None where the result must be exact.

    Example:
        >>> ways = candidates(np.float32([1, 2]), np.float32([1, 3]), None)
        >>> [(MODE_NAMES[mode], array.tolist()) for mode, array in ways]
        [('whole', [1.0, 2.0]), ('exact difference', [0, 8388607])]
    """
    ways = [(WHOLE, new), (STEPS, _steps(new, old))]
    if share is not None:
        ended = (new == 0) & (old != 0)
        difference = np.where(ended, 0, new.astype(np.float32) - old.astype(np.float32)).astype(np.float32)
        ways.append((SHARED, np.where(ended, np.float32(np.nan), share(difference))))
    return ways


def coded_dtype(mode: int, dtype: np.dtype) -> np.dtype:
    """The type of the array that `candidates` gives to code in this mode."""
    if mode == WHOLE:
        return dtype
    return np.dtype(f"u{dtype.itemsize}" if mode == STEPS else np.float32)


def restored(mode: int, coded: np.ndarray, old: np.ndarray) -> np.ndarray:
    """`new` from what was coded of it.

    Example:
        >>> old = np.float32([1, 3])
        >>> restored(STEPS, np.uint32([0, 8388607]), old).tolist()
        [1.0, 2.0]
    """
    if mode == WHOLE:
        return coded
    if mode == SHARED:
        ended = np.isnan(coded)
        moved = old.astype(np.float32) + np.where(ended, 0, coded)
        return np.where(ended, 0, np.where(coded == 0, old, moved.astype(old.dtype))).astype(old.dtype)
    one = coded.dtype.type(1)
    steps = (coded >> one) ^ (~(coded & one) + one)
    return _unordered(_ordered(old) + steps, old)


def _steps(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    steps = _ordered(new) - _ordered(old)
    one, top = steps.dtype.type(1), steps.dtype.type(8 * steps.itemsize - 1)
    return (steps << one) ^ (~(steps >> top) + one)


def _ordered(value: np.ndarray) -> np.ndarray:
    """Unsigned numbers whose order around zero is that of the values; a step is to the next float."""
    bits = np.ascontiguousarray(value).reshape(value.shape).view(f"u{value.itemsize}")
    return _flipped(bits) if _is_float(value) else bits


def _unordered(bits: np.ndarray, like: np.ndarray) -> np.ndarray:
    return (_flipped(bits) if _is_float(like) else bits).view(like.dtype)


def _flipped(bits: np.ndarray) -> np.ndarray:
    """Turns sign and magnitude into two's complement and back."""
    top = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return np.where(bits & top, ~(bits ^ top), bits)


def _is_float(value: np.ndarray) -> bool:
    return value.dtype.kind not in "iub"


@dataclass(frozen=True)
class Coded:
    """One array in bytes, and what they are spent on; see `PackedRow` for the numbers."""

    data: bytes
    nonzeros: int
    bits: float
    index: str = "dense"
    index_bytes: int = 0
    codebook_bytes: int = 0
    table_bytes: int = 0
    bound: float = 0.0
    mode: str = MODE_NAMES[WHOLE]


def put_tensor(
    new: np.ndarray, old: np.ndarray | None, share: Share | None, coder: str
) -> tuple[Coded, np.ndarray]:
    """Code an array, and say what it will be when it comes back (shared values differ from `new`)."""
    if old is None:
        value = new if share is None else share(new)
        return put_array(value, coder), value
    flat_new, flat_old = (np.ascontiguousarray(value).reshape(value.shape or (1,)) for value in (new, old))
    ways = [(put_array(array, coder), mode, array) for mode, array in candidates(flat_new, flat_old, share)]
    coded, mode, array = min(ways, key=lambda way: len(way[0].data))
    value = restored(mode, array, flat_old).reshape(new.shape)
    return replace(coded, data=bytes([mode]) + coded.data, mode=MODE_NAMES[mode]), value


def take_tensor(reader: Reader, shape: tuple[int, ...], dtype: np.dtype, old: np.ndarray | None) -> np.ndarray:
    """What `put_tensor` wrote."""
    if old is None:
        return take_array(reader, shape, dtype)
    if old.size != math.prod(shape) or old.itemsize != dtype.itemsize:
        raise damaged("an array has not the shape of its base")
    mode = reader.byte(SHARED, "how an array differs from its base")
    old = np.ascontiguousarray(old).reshape(shape or (1,))
    coded = take_array(reader, old.shape, coded_dtype(mode, old.dtype))
    return restored(mode, coded, old).reshape(shape)


def put_array(value: np.ndarray, coder: str = "smallest") -> Coded:
    """Code an array to the bit.

    Non-zeros are either numbers of a codebook (at most 256 different values) or planes, one per byte of
    the type. Where they are is a mask before them, or zero is one more number.

    Args:
        value: any shape; any type of 1, 2, 4 or 8 bytes.
        coder: as `put_symbols` takes it.

    Example:
        >>> coded = put_array(np.float32([0, 0, 1.5, 0]))
        >>> take_array(Reader(coded.data), (4,), np.dtype("float32")).tolist(), coded.nonzeros
        ([0.0, 0.0, 1.5, 0.0], 1)
    """
    words = np.ascontiguousarray(value).reshape(-1).view(f"u{value.itemsize}")
    places = words != 0
    count = int(np.count_nonzero(places))
    if count == 0:
        return Coded(bytes([_ZEROS]), 0, 0.0)
    forms = []
    if count == words.size or words.size < 4096 or count > words.size // 2:
        forms.append(_coded(words, count, 0, Stream(b"", 0.0, "dense"), value, coder))
    if count < words.size:
        mask = put_mask(places.reshape(-1, value.shape[-1]), coder)
        forms.append(_coded(words[places], count, _MASKED, mask, value, coder))
    if words.itemsize == 1:  # quantized weights may repeat in runs, which one table cannot see
        out = bytearray([_SECTION])
        put_section(out, words.tobytes())
        forms.append(Coded(bytes(out), count, 8.0, "repeats", bound=entropy(np.bincount(words))))
    return min(forms, key=lambda form: len(form.data))


def _coded(words: np.ndarray, count: int, flags: int, mask: Stream, value: np.ndarray, coder: str) -> Coded:
    """Values of which `count` are not zero, behind the mask that says where they are."""
    forms = []
    book = _codebook(words)
    if book is not None:
        stream = put_symbols(np.searchsorted(book, words), len(book), coder)
        zero = _WITH_ZERO if book[0] == 0 else 0
        kind, table = _put_book(book[book != 0], value.dtype)
        forms.append((kind | zero, table, [stream], math.log2(max(1, len(book) - bool(zero)))))
    if book is None or 8 * len(book) > count:
        planes = words.view(np.uint8).reshape(-1, words.itemsize).T
        forms.append((_PLANES, b"", [put_symbols(plane, 256, coder) for plane in planes], 8.0 * words.itemsize))
    sizes = [len(table) + sum(stream.bytes for stream in streams) for _, table, streams, _ in forms]
    kind, table, streams, bits = forms[sizes.index(min(sizes))]
    data = bytes([kind | flags]) + mask.data + table + b"".join(stream.data for stream in streams)
    bound = mask.bound + sum(stream.bound for stream in streams)
    tables = mask.tables + sum(stream.tables for stream in streams)
    return Coded(data, count, bits, mask.name, mask.bytes, len(table), tables, bound)


def _put_book(book: np.ndarray, dtype: np.dtype) -> tuple[int, bytes]:
    """A codebook of words, as float16 where these are the same numbers."""
    kind, stored = _CODEBOOK, book.tobytes()
    if dtype == np.float32:
        with np.errstate(over="ignore"):
            halves = book.view(np.float32).astype(np.float16)
        if halves.astype(np.float32).tobytes() == stored:
            kind, stored = _CODEBOOK_16, halves.tobytes()
    size = bytearray()
    put_varint(size, len(book))
    return kind, bytes(size) + stored


def _codebook(words: np.ndarray) -> np.ndarray | None:
    """The different values in rising order, if they are few; bytes need none."""
    if words.itemsize == 1 or len(np.unique(words[:4096])) > _MOST_VALUES:
        return None
    book = np.unique(words)
    return book if np.count_nonzero(book) <= _MOST_VALUES else None


def take_array(reader: Reader, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What `put_array` wrote: an array of the given shape and type."""
    size, columns = math.prod(shape), shape[-1] if shape else 1
    flags, word = reader.byte(_SECTION, "how an array is coded"), np.dtype(f"u{dtype.itemsize}")
    kind = flags & 3
    if flags == _SECTION:
        data = take_section(reader, size * word.itemsize)
        if len(data) != size * word.itemsize:
            raise damaged("an array is shorter than its shape")
        return np.frombuffer(data, dtype).reshape(shape)
    words = np.zeros(size, word)
    if kind == _ZEROS or size == 0:
        return words.view(dtype).reshape(shape)
    places = take_mask(reader, size // columns, columns).ravel() if flags & _MASKED else np.ones(size, bool)
    count = int(np.count_nonzero(places))
    if kind == _PLANES:
        planes = [take_symbols(reader, count, 256) for _ in range(word.itemsize)]
        words[places] = np.stack(planes, 1).astype(np.uint8).reshape(-1).view(word)
    else:
        half = kind == _CODEBOOK_16
        if half and word.itemsize != 4:
            raise damaged("a codebook has not the type of its array")
        number = reader.varint(_MOST_VALUES, "the number of shared values")
        stored = bytes(reader.take(number * (2 if half else word.itemsize)))
        book = np.frombuffer(stored, np.float16 if half else word)
        book = book.astype(np.float32).view(word) if half else book
        if flags & _WITH_ZERO:
            book = np.concatenate([np.zeros(1, word), book])
        if not len(book):
            raise damaged("a codebook is empty")
        words[places] = book[take_symbols(reader, count, len(book))]
    return words.view(dtype).reshape(shape)
