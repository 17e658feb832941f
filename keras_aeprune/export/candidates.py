"""Which files are tried for what was asked, and the table of what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from keras_aeprune._validation import InputError
from keras_aeprune.export.precisions import SPARSE_REFUSED, Precision

_CODINGS = {"auto": (False, True), True: (True,), False: (False,)}


@dataclass(frozen=True)
class Candidate:
    """One file to try.

    Args:
        row: its precision.
        sparse: whether kernels with many zeros are stored in sparse coding.
        unrolled: whether recurrent layers run without their loop.
    """

    row: Precision
    sparse: bool = False
    unrolled: bool = False

    @property
    def name(self) -> str:
        """For tables and messages, for example "float16, sparse, unrolled"."""
        return ", ".join([self.row.name, *(["sparse"] * self.sparse), *(["unrolled"] * self.unrolled)])


@dataclass(frozen=True)
class Tried:
    """What came of one candidate.

    Args:
        name: precision and what else was done, for example "float16, sparse".
        bytes: size of the file; None where there is none.
        gzip_bytes: after gzip at level 9.
        max_difference: as in `ExportedFile`.
        rms_difference: as in `ExportedFile`.
        reason: why it is not right; "" where it is.
        kept: whether this is the file that was written.

    Example:
        >>> Tried("dynamic", reason="it was off by 0.9").kept
        False
    """

    name: str
    bytes: int | None = None
    gzip_bytes: int | None = None
    max_difference: float | None = None
    rms_difference: float | None = None
    reason: str = ""
    kept: bool = False


@dataclass(frozen=True)
class Candidates:
    """All files that were tried; `print` shows a table, smallest first, those that are not right at the end.

    Args:
        rows: one for each file.

    Example:
        >>> good = Tried("int8", 900, 700, 0.02, 0.01, kept=True)
        >>> print(Candidates((Tried("dynamic", reason="it was off by 0.9"), good)))
           file     bytes  gzip  max diff  rms diff  outcome
        *  int8     900    700   0.02      0.01      right
           dynamic                                   it was off by 0.9
    """

    rows: tuple[Tried, ...] = ()

    def __iter__(self) -> Iterator[Tried]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        table: list[tuple[str, ...]] = [("", "file", "bytes", "gzip", "max diff", "rms diff", "outcome")]
        for row in sorted(self.rows, key=lambda row: (bool(row.reason), row.bytes or 0)):
            numbers = ["" if value is None else str(value) for value in (row.bytes, row.gzip_bytes)]
            numbers += ["" if v is None else f"{v:.2g}" for v in (row.max_difference, row.rms_difference)]
            table.append(("*" if row.kept else "", row.name, *numbers, row.reason or "right"))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        )


def codings(row: Precision, sparse: bool | str, zeros_pay: bool) -> tuple[bool, ...]:
    """Whether to try dense coding (False), sparse coding (True) or both.

    Args:
        row: the precision.
        sparse: "auto", True or False.
        zeros_pay: whether there are zeros enough; see `trace.Traced`.

    Raises:
        InputError: sparse=True where it cannot be right or cannot pay.

    Example:
        >>> from keras_aeprune.export.precisions import PRECISIONS
        >>> codings(PRECISIONS["float16"], "auto", True), codings(PRECISIONS["int8"], "auto", True)
        ((False, True), (False,))
    """
    if sparse is True and not row.can_be_sparse:
        raise InputError(
            f"sparse: got True for quantize={row.name!r}, allowed: 'auto' or False; {SPARSE_REFUSED}; it is "
            "possible with quantize=None and 'float16'"
        )
    if sparse is True and not zeros_pay:
        raise InputError(
            "sparse: got True for a model in which no larger kernel has more than 2/3 zeros, allowed: 'auto' or "
            "False; prune it further first"
        )
    if sparse == "auto" and not (row.can_be_sparse and zeros_pay):
        return (False,)
    return _CODINGS[sparse]
