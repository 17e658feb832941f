"""Where the non-zeros of a kernel are: gaps or bitmasks, entropy coded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_aeprune.compression.container import LEVELS, Reader, damaged, levels_of, put_varint, weights_of
from keras_aeprune.compression.streams import (
    BLOCK,
    Stream,
    entropy,
    from_range,
    put_range,
    put_symbols,
    range_coder,
    take_symbols,
)

__all__ = ["MASK_NAMES", "put_mask", "take_mask"]

_WHOLE_MASK, _BY_ROW, _BY_COLUMN, _BY_BOTH, _GAPS_32, _GAPS_256 = range(6)
_GAP_ALPHABET = {_GAPS_32: 32, _GAPS_256: 256}
MASK_NAMES = ("bitmask", "bitmask by row", "bitmask by column", "bitmask by row and column", "gaps", "gaps")


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
        found = from_range(reader, ((m, len(at[0]) * len(at[1]), p) for m, at, p in parts))
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
    return Stream(bytes(out) + stream.data, stream.bound, MASK_NAMES[form], stream.tables)


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
        put_range(out, ((m, mask[np.ix_(*at)].ravel().astype(np.int32), p) for m, at, p in parts))
    return Stream(bytes(out), bounds[form], MASK_NAMES[form], len(tables) if count else 0)


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
    models = range_coder().model
    if rows is None and columns is None:
        chance = np.array([shape[0] * shape[1] - count, count], np.float64)
        yield models.Categorical(chance, perfect=False), (at_rows, at_columns), None
        return
    # Only + - * / from the levels on, which come out alike on every machine.
    down = _odds(rows, at_rows, shape[1], len(at_columns))
    across = _odds(columns, at_columns, shape[0], len(at_rows))
    if rows is not None and columns is not None:
        across /= count / max(len(at_rows) * len(at_columns) - count, 0.25)
    step = max(1, BLOCK // max(1, len(at_columns)))
    for start in range(0, len(at_rows), step):
        some = at_rows[start : start + step]
        product = down[start : start + step, None] * across
        chances = np.clip(product / (1 + product), 2.0**-16, 1 - 2.0**-16).ravel()
        yield models.Bernoulli(perfect=False), (some, at_columns), chances
