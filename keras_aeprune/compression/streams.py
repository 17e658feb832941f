"""Symbol streams: whole numbers, entropy coded."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError
from keras_aeprune.compression.container import (
    Reader,
    damaged,
    levels_of,
    packed,
    put_table,
    put_varint,
    take_table,
    unpacked,
    weights_of,
)

__all__ = ["Stream", "entropy", "from_range", "put_range", "put_symbols", "range_coder", "take_symbols"]

CODERS = ("smallest", "range", "huffman")
_NOTHING, _FIXED, _HUFFMAN, _RANGE_FINE, _RANGE_COARSE = range(5)
_PER_OCTAVE = {_RANGE_FINE: 2, _RANGE_COARSE: 1}  # levels
_LONGEST = 15  # bits of a Huffman code
BLOCK = 2**20  # symbols or bits that are worked on at a time, to bound memory


@dataclass(frozen=True)
class Stream:
    """What one coded stream takes.

    Args:
        data: its bytes, tables and lengths included.
        bound: bytes that its symbols take at their empirical entropy, without any table.
        name: how it is coded.
        tables: of the bytes, those of tables of counts and code lengths.
    """

    data: bytes
    bound: float
    name: str
    tables: int = 0

    @property
    def bytes(self) -> int:
        """Bytes in the file."""
        return len(self.data)


def entropy(counts: np.ndarray) -> float:
    """Bytes of symbols that occur `counts` times, at their empirical entropy.

    Formula: sum_i n_i * log2(N / n_i) / 8, with N the sum of the counts.

    Args:
        counts: whole numbers >= 0, any shape.

    Example:
        >>> entropy(np.array([4, 4]))
        1.0
    """
    counts = np.asarray(counts, np.float64).ravel()
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum() / 8)


def range_coder() -> Any:
    """The library of range coding."""
    try:
        import constriction
    except ImportError as error:
        raise InputError(
            "packed file: the package constriction is not installed, which codes its streams; "
            'install it with pip install "keras-aeprune[pack]"'
        ) from error
    return constriction.stream


def put_symbols(symbols: np.ndarray, alphabet: int, coder: str = "smallest") -> Stream:
    """Code whole numbers below `alphabet` by one static table, as small as it gets.

    The table holds a level per symbol of the alphabet that occurs: the logarithm of its count in half or
    whole octaves (range coding), or the length of its code (Huffman). Half octaves cost at most about
    0.007 bits a symbol. Plain bits of fixed width are taken where no table pays.

    Args:
        symbols: shape (n,), 0 <= symbol < alphabet.
        alphabet: number of different symbols, 1 to 65536; the reader must know it.
        coder: "smallest", "range" or "huffman"; plain bits are always tried too.

    Example:
        >>> stream = put_symbols(np.array([0, 0, 3, 0]), 4)
        >>> take_symbols(Reader(stream.data), 4, 4).tolist(), stream.bytes
        ([0, 0, 3, 0], 2)
    """
    symbols = np.ascontiguousarray(symbols, np.int32)
    counts = np.bincount(symbols, minlength=alphabet)
    bound = entropy(counts)
    if len(symbols) == 0 or alphabet == 1:
        return Stream(b"", bound, "nothing")
    if np.count_nonzero(counts) == 1:
        out = bytearray([_NOTHING])
        put_varint(out, int(symbols[0]))
        return Stream(bytes(out), bound, "one symbol")
    forms = [(_fixed(symbols, alphabet), "fixed width", 0)]
    if len(symbols) > 16:
        if coder != "huffman":
            ranged = ((_ranged(symbols, counts, form), "range") for form in (_RANGE_FINE, _RANGE_COARSE))
            forms += [(data, name, tables) for (data, tables), name in ranged]
        if coder != "range":
            data, tables = _huffman(symbols, counts)
            forms.append((data, "huffman", tables))
    data, name, tables = min(forms, key=lambda form: len(form[0]))
    return Stream(data, bound, name, tables)


def take_symbols(reader: Reader, count: int, alphabet: int) -> np.ndarray:
    """What `put_symbols` wrote: int32 of shape (count,), each below `alphabet`."""
    if count == 0 or alphabet == 1:
        return np.zeros(count, np.int32)
    form = reader.byte(_RANGE_COARSE, "a coder")
    if form == _NOTHING:
        return np.full(count, reader.varint(alphabet - 1, "a symbol"), np.int32)
    if form == _FIXED:
        width = (alphabet - 1).bit_length()
        symbols = unpacked(reader, count, width)
        if symbols.max() >= alphabet:
            raise damaged(f"a symbol is {symbols.max()} of {alphabet}")
        return symbols
    table = take_table(reader, alphabet)
    if form == _HUFFMAN:
        return _from_huffman(reader, count, table)
    weights = weights_of(table, _PER_OCTAVE[form])
    if not weights.any():
        raise damaged("a table of counts is empty")
    model = range_coder().model.Categorical(weights, perfect=False)
    return from_range(reader, [(model, count, None)])


def _fixed(symbols: np.ndarray, alphabet: int) -> bytes:
    return bytes([_FIXED]) + packed(symbols, (alphabet - 1).bit_length())


def _ranged(symbols: np.ndarray, counts: np.ndarray, form: int) -> tuple[bytes, int]:
    out = bytearray([form])
    levels = levels_of(counts, _PER_OCTAVE[form])
    put_table(out, levels)
    tables = len(out) - 1
    model = range_coder().model.Categorical(weights_of(levels, _PER_OCTAVE[form]), perfect=False)
    put_range(out, [(model, symbols, None)])
    return bytes(out), tables


def put_range(out: bytearray, parts: Iterable[tuple[Any, np.ndarray, Any]]) -> None:
    """Range-coded symbols; each part is a model, symbols and, for a family of models, a probability each."""
    encoder = range_coder().queue.RangeEncoder()
    for model, symbols, chances in parts:
        encoder.encode(symbols, model, *([] if chances is None else [chances]))
    words = encoder.get_compressed().astype(">u4").tobytes().rstrip(b"\0")
    put_varint(out, len(words))
    out += words


def from_range(reader: Reader, parts: Iterable[tuple[Any, int, Any]]) -> np.ndarray:
    """What `put_range` wrote, with how many symbols each part has, or a probability each."""
    words = bytes(reader.take(reader.varint(reader.left, "the size of a stream")))
    words += b"\0" * (-len(words) % 4)
    decoder = range_coder().queue.RangeDecoder(np.frombuffer(words, ">u4").astype(np.uint32))
    try:
        found = [decoder.decode(model, count if chances is None else chances) for model, count, chances in parts]
    except AssertionError as error:  # how the library says that no encoder can have written this
        raise damaged("a stream cannot be decoded") from error
    if not decoder.maybe_exhausted():
        raise damaged("a stream is longer than its symbols")
    return np.concatenate(found) if found else np.zeros(0, np.int32)


def _code_lengths(counts: np.ndarray) -> np.ndarray:
    """Lengths of Huffman codes, at most 15 bits; 0 for a symbol that does not occur."""
    counts = np.array(counts, np.int64)
    while True:
        heap = [(int(n), index, [index]) for index, n in enumerate(counts) if n]
        heapq.heapify(heap)
        lengths = np.zeros(len(counts), np.int64)
        while len(heap) > 1:
            few, index, members = heapq.heappop(heap)
            more, _, others = heapq.heappop(heap)
            members = members + others
            lengths[members] += 1
            heapq.heappush(heap, (few + more, index, members))
        if lengths.max() <= _LONGEST:
            return lengths
        counts = np.where(counts > 0, counts // 2 + 1, 0)  # flatter, until the codes are short enough


def _codes(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Canonical codes by symbol, and the symbols in the order of their codes."""
    order = np.lexsort((np.arange(len(lengths)), lengths))
    order = order[lengths[order] > 0]
    steps = 1 << (_LONGEST - lengths[order])
    codes = np.zeros(len(lengths), np.int64)
    codes[order] = (np.cumsum(steps) - steps) >> (_LONGEST - lengths[order])
    return codes, order


def _huffman(symbols: np.ndarray, counts: np.ndarray) -> tuple[bytes, int]:
    lengths = _code_lengths(counts)
    out = bytearray([_HUFFMAN])
    put_table(out, lengths)
    tables = len(out) - 1
    codes, _ = _codes(lengths)
    widths, words = lengths[symbols], codes[symbols]
    starts = np.cumsum(widths) - widths
    bits = np.zeros(int(widths.sum()), np.uint8)
    for position in range(int(widths.max())):
        longer = widths > position
        bits[starts[longer] + position] = words[longer] >> (widths[longer] - 1 - position) & 1
    data = np.packbits(bits).tobytes()
    put_varint(out, len(data))
    out += data
    return bytes(out), tables


def _from_huffman(reader: Reader, count: int, lengths: np.ndarray) -> np.ndarray:
    size = reader.varint(reader.left, "the size of a stream")
    spent = np.sum(np.where(lengths > 0, 2.0 ** (_LONGEST - lengths), 0))
    if lengths.max() > _LONGEST or spent != 2**_LONGEST:
        raise damaged("a table of code lengths is no Huffman code")
    _, order = _codes(lengths)
    by_word = np.repeat(order, 1 << (_LONGEST - lengths[order])).astype(np.int32)
    data = np.frombuffer(bytes(reader.take(size)) + bytes(4), np.uint8)
    found, start, total = [], 0, 0
    while total < count and start < size * 8:
        here = np.unpackbits(data[start // 8 : start // 8 + BLOCK // 8 + 4])
        found.append(_huffman_block(here, start % 8, by_word, lengths)[: count - total])
        start, total = start + int(lengths[found[-1]].sum()), total + len(found[-1])
    if total < count or (start + 7) // 8 != size:
        raise damaged("a stream has not as many bits as its symbols")
    return np.concatenate(found)


def _huffman_block(bits: np.ndarray, start: int, by_word: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Symbols that begin between bit `start` and the last 32 bits; every step is an array operation.

    Each bit is read as if a code began there, which tells where the next one would begin. The true
    beginnings follow by doubling: the first 2n are the first n and where n steps from each lead.
    """
    end = len(bits) - 32
    words = np.zeros(end, np.int32)
    for offset in range(_LONGEST):
        words = words << 1 | bits[offset : offset + end]
    symbols = by_word[words]
    jump = np.append(np.minimum(np.arange(end) + lengths[symbols], end), end)
    starts = np.array([start])
    while starts[-1] < end:
        starts = np.concatenate([starts, jump[starts]])
        jump = jump[jump]
    return symbols[starts[starts < end]]
