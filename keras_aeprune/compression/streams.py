"""Symbol streams: entropy coding, and where the non-zeros are."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_aeprune._validation import InputError
from keras_aeprune.compression.container import (
    LEVELS,
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

__all__ = ["Stream", "entropy", "put_mask", "put_symbols", "take_mask", "take_symbols"]

CODERS = ("smallest", "range", "huffman")
_NOTHING, _FIXED, _HUFFMAN, _RANGE_FINE, _RANGE_COARSE = range(5)
_PER_OCTAVE = {_RANGE_FINE: 2, _RANGE_COARSE: 1}  # levels
_LONGEST = 15  # bits of a Huffman code
_BLOCK = 2**20  # symbols or bits that are worked on at a time, to bound memory
_WHOLE_MASK, _BY_ROW, _BY_COLUMN, _BY_BOTH, _GAPS_32, _GAPS_256 = range(6)
_GAP_ALPHABET = {_GAPS_32: 32, _GAPS_256: 256}
MASK_NAMES = ("bitmask", "bitmask by row", "bitmask by column", "bitmask by row and column", "gaps", "gaps")


@dataclass(frozen=True)
class Stream:
    """What one coded stream takes.

    Args:
        data: its bytes, tables and lengths included.
        bound: bytes that its symbols take at their empirical entropy, without any table.
        name: how it is coded.
    """

    data: bytes
    bound: float
    name: str

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


def _coder() -> Any:
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
    forms = [(_fixed(symbols, alphabet), "fixed width")]
    if len(symbols) > 16:
        if coder != "huffman":
            forms += [(_ranged(symbols, counts, form), "range") for form in (_RANGE_FINE, _RANGE_COARSE)]
        if coder != "range":
            forms.append((_huffman(symbols, counts), "huffman"))
    data, name = min(forms, key=lambda form: len(form[0]))
    return Stream(data, bound, name)


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
    model = _coder().model.Categorical(weights, perfect=False)
    return _from_range(reader, [(model, count, None)])


def _fixed(symbols: np.ndarray, alphabet: int) -> bytes:
    return bytes([_FIXED]) + packed(symbols, (alphabet - 1).bit_length())


def _ranged(symbols: np.ndarray, counts: np.ndarray, form: int) -> bytes:
    out = bytearray([form])
    levels = levels_of(counts, _PER_OCTAVE[form])
    put_table(out, levels)
    model = _coder().model.Categorical(weights_of(levels, _PER_OCTAVE[form]), perfect=False)
    _put_range(out, [(model, symbols, None)])
    return bytes(out)


def _put_range(out: bytearray, parts: Iterable[tuple[Any, np.ndarray, Any]]) -> None:
    """Range-coded symbols; each part is a model, symbols and, for a family of models, a probability each."""
    encoder = _coder().queue.RangeEncoder()
    for model, symbols, chances in parts:
        encoder.encode(symbols, model, *([] if chances is None else [chances]))
    words = encoder.get_compressed().astype(">u4").tobytes().rstrip(b"\0")
    put_varint(out, len(words))
    out += words


def _from_range(reader: Reader, parts: Iterable[tuple[Any, int, Any]]) -> np.ndarray:
    words = bytes(reader.take(reader.varint(reader.left, "the size of a stream")))
    words += b"\0" * (-len(words) % 4)
    decoder = _coder().queue.RangeDecoder(np.frombuffer(words, ">u4").astype(np.uint32))
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


def _huffman(symbols: np.ndarray, counts: np.ndarray) -> bytes:
    lengths = _code_lengths(counts)
    out = bytearray([_HUFFMAN])
    put_table(out, lengths)
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
    return bytes(out)


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
        here = np.unpackbits(data[start // 8 : start // 8 + _BLOCK // 8 + 4])
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


def put_mask(mask: np.ndarray, coder: str = "smallest") -> Stream:
    """Code where the non-zeros of a kernel are: as gaps or as a bitmask, whichever is smaller.

    Gaps are the numbers of zeros before each non-zero (the relative index of Han et al., 2016,
    https://arxiv.org/abs/1510.00149), long ones cut in pieces. The bitmask has one chance of a non-zero
    for all, for each row, for each column, or row times column over the whole, stored as levels of the
    counts; rows and columns without any are left out.

    Args:
        mask: bool, shape (rows, columns): a kernel's last axis and all others.
        coder: of the gaps, "smallest", "range" or "huffman"; bitmasks are always range-coded.

    Example:
        >>> mask = np.eye(40, dtype=bool)
        >>> stream = put_mask(mask)
        >>> stream.name, bool((take_mask(Reader(stream.data), 40, 40) == mask).all())
        ('gaps', True)
    """
    forms = [_put_bitmask(mask), *(_put_gaps(mask, form, coder) for form in _GAP_ALPHABET)]
    return min(forms, key=lambda form: form.bytes)


def take_mask(reader: Reader, rows: int, columns: int) -> np.ndarray:
    """What `put_mask` wrote: bool of shape (rows, columns)."""
    form = reader.byte(_GAPS_256, "a mask")
    count = reader.varint(rows * columns, "the number of non-zeros")
    if form in _GAP_ALPHABET:
        return _take_gaps(reader, count, rows * columns, form).reshape(rows, columns)
    mask = np.zeros((rows, columns), bool)
    if count:
        by_row = take_symbols(reader, rows, 2 * LEVELS) if form in (_BY_ROW, _BY_BOTH) else None
        by_column = take_symbols(reader, columns, 2 * LEVELS) if form in (_BY_COLUMN, _BY_BOTH) else None
        parts = _parts(count, mask.shape, by_row, by_column)
        found = _from_range(reader, ((m, len(at[0]) * len(at[1]), p) for m, at, p in parts))
        live = np.ix_(*_live(mask.shape, by_row, by_column))
        mask[live] = found.reshape(len(live[0]), -1)
    if np.count_nonzero(mask) != count:
        raise damaged("a mask has not as many non-zeros as it says")
    return mask


def _put_gaps(mask: np.ndarray, form: int, coder: str) -> Stream:
    longest = _GAP_ALPHABET[form] - 1  # this symbol: so many zeros, and no non-zero behind them
    places = np.flatnonzero(mask)
    gaps = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(gaps // longest + 1)
    symbols = np.full(ends[-1] if len(ends) else 0, longest, np.int32)
    symbols[ends - 1] = gaps % longest
    stream = put_symbols(symbols, longest + 1, coder)
    out = bytearray([form])
    put_varint(out, len(places))
    put_varint(out, len(symbols))
    return Stream(bytes(out) + stream.data, stream.bound, MASK_NAMES[form])


def _take_gaps(reader: Reader, count: int, size: int, form: int) -> np.ndarray:
    symbols = take_symbols(reader, reader.varint(size, "the number of gaps"), _GAP_ALPHABET[form])
    ends = symbols < _GAP_ALPHABET[form] - 1
    places = np.cumsum(symbols.astype(np.int64) + ends)[ends] - 1
    if len(places) != count or (count and places[-1] >= size):
        raise damaged("gaps lead out of a kernel")
    return np.bincount(places, minlength=size).astype(bool)


def _put_bitmask(mask: np.ndarray) -> Stream:
    count = int(np.count_nonzero(mask))
    rows, columns = (_densities(mask.sum(axis), mask.shape[axis]) for axis in (1, 0))
    by_row, by_column = put_symbols(rows, 2 * LEVELS).data, put_symbols(columns, 2 * LEVELS).data
    forms = {
        _WHOLE_MASK: (b"", None, None),
        _BY_ROW: (by_row, rows, None),
        _BY_COLUMN: (by_column, None, columns),
        _BY_BOTH: (by_row + by_column, rows, columns),
    }
    bounds = {form: _ideal_bytes(mask, count, *levels) for form, (_, *levels) in forms.items()}
    form = min(forms, key=lambda form: bounds[form] + len(forms[form][0]))
    tables, *levels = forms[form]
    out = bytearray([form])
    put_varint(out, count)
    if count:
        out += tables
        parts = _parts(count, mask.shape, *levels)
        _put_range(out, ((m, mask[np.ix_(*at)].ravel().astype(np.int32), p) for m, at, p in parts))
    return Stream(bytes(out), bounds[form], MASK_NAMES[form])


def _ideal_bytes(mask: np.ndarray, count: int, rows: np.ndarray | None, columns: np.ndarray | None) -> float:
    if rows is None and columns is None:
        return entropy(np.array([count, mask.size - count]))
    bits = 0.0
    for _, at, chances in _parts(count, mask.shape, rows, columns):
        bits -= np.log2(np.where(mask[np.ix_(*at)].ravel(), chances, 1 - chances)).sum()
    return float(bits / 8)


def _live(shape: tuple[int, int], rows: np.ndarray | None, columns: np.ndarray | None) -> list[np.ndarray]:
    """Indices of the rows and of the columns that are not known to be empty."""
    return [
        np.arange(n) if by is None else np.flatnonzero(by) for n, by in zip(shape, (rows, columns), strict=True)
    ]


def _densities(counts: np.ndarray, whole: int) -> np.ndarray:
    """Levels of counts of non-zeros, or of zeros where these are fewer."""
    return levels_of(np.minimum(counts, whole - counts), 2) + LEVELS * (2 * counts > whole)


def _odds(densities: np.ndarray | None, at: np.ndarray, whole: int, live: int) -> np.ndarray:
    """Non-zeros per zero among the `live` places of the rows `at`, which have `whole` places."""
    if densities is None:
        return np.ones(len(at))
    counts = weights_of(densities[at] % LEVELS, 2) / 256
    counts = np.where(densities[at] < LEVELS, counts, whole - counts)
    return np.maximum(counts, 0.25) / np.maximum(live - counts, 0.25)


def _parts(
    count: int, shape: tuple[int, int], rows: np.ndarray | None, columns: np.ndarray | None
) -> Iterator[tuple[Any, tuple[np.ndarray, np.ndarray], Any]]:
    """(model, (rows, columns), chance of each non-zero) of a bitmask, some rows at a time."""
    at_rows, at_columns = _live(shape, rows, columns)
    models = _coder().model
    if rows is None and columns is None:
        chance = np.array([shape[0] * shape[1] - count, count], np.float64)
        yield models.Categorical(chance, perfect=False), (at_rows, at_columns), None
        return
    # Only + - * / from the levels on, which come out alike on every machine.
    down = _odds(rows, at_rows, shape[1], len(at_columns))
    across = _odds(columns, at_columns, shape[0], len(at_rows))
    if rows is not None and columns is not None:
        across /= count / max(len(at_rows) * len(at_columns) - count, 0.25)
    step = max(1, _BLOCK // max(1, len(at_columns)))
    for start in range(0, len(at_rows), step):
        some = at_rows[start : start + step]
        product = down[start : start + step, None] * across
        chances = np.clip(product / (1 + product), 2.0**-16, 1 - 2.0**-16).ravel()
        yield models.Bernoulli(perfect=False), (some, at_columns), chances
