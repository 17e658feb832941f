"""The packed file: magic, version, checksum, and a reader that believes nothing it has not checked."""

from __future__ import annotations

import hashlib
import lzma
import math
import zlib
from pathlib import Path

import numpy as np

from keras_aeprune._validation import InputError

__all__ = ["CLAIMS", "Reader", "put_section", "put_varint", "seal", "take_section", "unseal"]

_MAGIC = b"kap\x01"  # the last byte is the version of the format
_CHECKSUM_BYTES = 8
KINDS = {0: "keras", 1: "tflite", 2: "keras delta", 3: "tflite delta"}
_STORED, _DEFLATE, _LZMA = range(3)
_LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**22, "preset": 9}]
_WINDOW = 2**15  # what deflate can look back on in a preset dictionary
LEVELS = 64  # of a table
CLAIMS = 2**62  # no number in a file may be larger


def seal(kind: str, body: bytes) -> bytes:
    """A whole file: magic and version, kind, body, and the first 8 bytes of the sha256 of all that."""
    number = {name: number for number, name in KINDS.items()}[kind]
    head = _MAGIC + bytes([number]) + body
    return head + _checksum(head)


def unseal(data: bytes, name: str = "packed file") -> tuple[str, Reader]:
    """The kind of a packed file and a reader at the start of its body.

    Raises:
        InputError: not a packed file, a newer format, or bytes that do not fit the checksum.

    Example:
        >>> kind, reader = unseal(seal("tflite", b"body"))
        >>> kind, bytes(reader.take(4))
        ('tflite', b'body')
    """
    fixed = len(_MAGIC) + 1 + _CHECKSUM_BYTES
    if data[:3] != _MAGIC[:3]:
        raise InputError(f"{name}: got a file that does not start as one, allowed: a file that pack() wrote")
    if len(data) < fixed:
        raise damaged(f"{name} has {len(data)} bytes of at least {fixed}")
    if data[3] != _MAGIC[3]:
        raise InputError(
            f"{name}: got format version {data[3]}, allowed: {_MAGIC[3]}; read it with the version of "
            "keras_aeprune that wrote it"
        )
    if _checksum(data[:-_CHECKSUM_BYTES]) != data[-_CHECKSUM_BYTES:]:
        raise damaged(f"the checksum of {name} is wrong")
    if data[4] not in KINDS:
        raise damaged(f"{name} is of the unknown kind {data[4]}")
    return KINDS[data[4]], Reader(data[len(_MAGIC) + 1 : -_CHECKSUM_BYTES])


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """The bytes of a packed file, if it is there and not above `max_bytes`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"packed file: nothing is at {str(path)!r}, allowed: a file that pack() wrote")
    size = path.stat().st_size
    if size > max_bytes:
        raise InputError(f"packed file: {path.name} has {size} bytes, allowed: at most max_bytes={max_bytes}")
    return path.read_bytes()


def damaged(what: str) -> InputError:
    """The error for a file that is not whole."""
    return InputError(f"packed file: damaged ({what}), allowed: a whole file; copy or pack it again")


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_CHECKSUM_BYTES]


class Reader:
    """Takes numbers and bytes off the front of a body, and refuses what is not there.

    Args:
        data: the body.
    """

    def __init__(self, data: bytes):
        self._data = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, not copied."""
        if count > self.left:
            raise damaged(f"{count} bytes are promised where {self.left} are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self, limit: int = 255, what: str = "a byte") -> int:
        """The next byte, at most `limit`."""
        value = self.take(1)[0]
        if value > limit:
            raise damaged(f"{what} is {value}, more than {limit}")
        return value

    def varint(self, limit: int, what: str = "a number") -> int:
        """The next number, 7 bits a byte and the lowest first, at most `limit`."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if value > limit:
                raise damaged(f"{what} is more than {limit}")
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise damaged(f"{what} has too many digits")

    def done(self) -> None:
        """Refuse what stands behind the end."""
        if self.left:
            raise damaged(f"{self.left} bytes too many")


def put_varint(out: bytearray, value: int) -> None:
    """Append a whole number >= 0, 7 bits a byte and the lowest first.

    Example:
        >>> out = bytearray()
        >>> put_varint(out, 300)
        >>> out.hex()
        'ac02'
    """
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def put_section(out: bytearray, data: bytes, dictionary: bytes = b"") -> int:
    """Append `data` in the smallest of three forms; returns how many bytes that took.

    Args:
        out: where to append.
        data: any bytes.
        dictionary: text that is likely to occur in `data` and that the reader has too. Deflate may
            refer to its last 32 KiB.

    Example:
        >>> out = bytearray()
        >>> put_section(out, b"a" * 1000), bytes(take_section(Reader(bytes(out)), 1000)) == b"a" * 1000
        (15, True)
    """
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, dictionary[-_WINDOW:])
    forms = {
        _STORED: data,
        _DEFLATE: deflate.compress(data) + deflate.flush(),
        _LZMA: lzma.compress(data, format=lzma.FORMAT_RAW, filters=_LZMA_FILTERS),
    }
    form = min(forms, key=lambda key: (len(forms[key]), key))
    before = len(out)
    out.append(form)
    put_varint(out, len(data))
    if form != _STORED:
        put_varint(out, len(forms[form]))
    out += forms[form]
    return len(out) - before


def take_section(reader: Reader, limit: int, dictionary: bytes = b"") -> bytes:
    """What `put_section` wrote, if it is not longer than `limit` bytes; never holds more than that."""
    form = reader.byte(_LZMA, "a form")
    size = reader.varint(limit, "the size of a section")
    if form == _STORED:
        return bytes(reader.take(size))
    packed = reader.take(reader.varint(CLAIMS, "the size of a section"))
    try:
        if form == _DEFLATE:
            inflate = zlib.decompressobj(-15, dictionary[-_WINDOW:])
            data = inflate.decompress(packed, size + 1)
            whole = inflate.eof and not inflate.unused_data
        else:
            unpack = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
            data = unpack.decompress(packed, size + 1)
            whole = unpack.eof and not unpack.unused_data
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise damaged(f"a section cannot be decompressed: {error}") from error
    if len(data) != size or not whole:
        raise damaged("a section is not as long as it says")
    return data


def packed(values: np.ndarray, width: int) -> bytes:
    """Whole numbers in `width` bits each, the highest bit first."""
    shifts = np.arange(width - 1, -1, -1)
    return np.packbits((values[:, None] >> shifts & 1).astype(np.uint8)).tobytes()


def unpacked(reader: Reader, count: int, width: int) -> np.ndarray:
    data = np.frombuffer(reader.take((count * width + 7) // 8), np.uint8)
    values = np.zeros(count, np.int32)
    bits = np.unpackbits(data, count=count * width).reshape(count, width)
    for column in range(width):
        values = values << 1 | bits[:, column]
    return values


def put_table(out: bytearray, levels: np.ndarray) -> None:
    """Small whole numbers per symbol, 0 for a symbol that does not occur."""
    used = np.flatnonzero(levels)
    first, last = int(used[0]), int(used[-1])
    levels = levels[first : last + 1]
    low = int(levels[levels > 0].min())
    width = int(levels.max() - low + 1).bit_length()
    put_varint(out, first)
    put_varint(out, last - first)
    out += bytes([low, width])
    out += packed(np.where(levels > 0, levels - low + 1, 0), width)


def take_table(reader: Reader, alphabet: int) -> np.ndarray:
    first = reader.varint(alphabet - 1, "the first symbol")
    count = reader.varint(alphabet - 1 - first, "the number of symbols") + 1
    low, width = reader.byte(LEVELS - 1, "a level"), reader.byte(6, "the width of a table")
    levels = unpacked(reader, count, width)
    levels = np.where(levels > 0, levels + low - 1, 0)
    if levels.max() >= LEVELS:
        raise damaged("a level of a table is too high")
    table = np.zeros(alphabet, np.int32)
    table[first : first + count] = levels
    return table


def levels_of(counts: np.ndarray, per_octave: int) -> np.ndarray:
    """Logarithms of counts in steps, from 1; 0 for none."""
    steps = np.rint(per_octave * np.log2(np.maximum(counts, 1))).astype(np.int64) + 1
    return np.where(counts > 0, np.minimum(steps, LEVELS - 1), 0)


def weights_of(levels: np.ndarray, per_octave: int) -> np.ndarray:
    """Counts times 256 from levels, by whole numbers only, so that every machine finds the same ones."""
    table = [0] + [math.isqrt(2 ** (2 * step // per_octave + 16)) for step in range(LEVELS - 1)]
    return np.array(table, np.float64)[levels]
