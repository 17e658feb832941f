"""The words of a report: numbers with units, the result in one sentence, the notes, and the plain table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_aeprune._validation import InputError, shown

__all__ = ["best_file", "by_name", "error_text", "headline", "notes", "size_text", "table", "time_text"]

Row = Mapping[str, Any]

_WIDTH = 100  # columns of the printed table at most
_LABEL = 30


def size_text(size: float) -> str:
    """Bytes as "812 B", "15.1 kB" or "3.42 MB"; 1 kB is 1000 bytes.

    Args:
        size: bytes, >= 0.

    Example:
        >>> size_text(15144)
        '15.1 kB'
    """
    if size < 1000:
        return f"{size:.0f} B"
    if size < 999_950:
        return f"{size / 1000:.1f} kB"
    return f"{size / 1e6:.2f} MB"


def time_text(microseconds: float) -> str:
    """Microseconds as "0.88 us", "12.3 us" or "4.56 ms".

    Args:
        microseconds: us, >= 0.

    Example:
        >>> time_text(0.8778)
        '0.88 us'
    """
    if microseconds < 9.995:
        return f"{microseconds:.2f} us"
    if microseconds < 999.95:
        return f"{microseconds:.1f} us"
    return f"{microseconds / 1000:.2f} ms"


def error_text(error: float) -> str:
    """An error with four decimals, or with three digits and a power of ten where that would show too few.

    Args:
        error: a mean squared error, >= 0.

    Example:
        >>> error_text(0.016257), error_text(0.000012)
        ('0.0163', '1.20e-05')
    """
    return f"{error:.2e}" if 0 < abs(error) < 0.00095 or abs(error) >= 1e4 else f"{error:.4f}"


def by_name(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows of a report by their names.

    Args:
        rows: dicts with "name", "label" and "test_mse".

    Raises:
        InputError: for a row without one of these, a name that comes twice, or no row at all.

    Example:
        >>> list(by_name([{"name": "pca", "label": "PCA, 8 numbers", "test_mse": 0.02}]))
        ['pca']
    """
    found: dict[str, Row] = {}
    for row in rows:
        missing = [key for key in ("name", "label", "test_mse") if key not in row]
        if missing:
            raise InputError(f"rows: got {shown(dict(row))} without {missing[0]!r}, allowed: rows that have it")
        if row["name"] in found:
            raise InputError(f"rows: got the name {row['name']!r} twice, allowed: each name once")
        found[row["name"]] = row
    if not found:
        raise InputError("rows: got none, allowed: at least one row to compare")
    return found


def best_file(report: Mapping[str, Any]) -> Row | None:
    """The row of the file that the report is about: the one that "best" names, or else the smallest.

    Args:
        report: with "rows" and, if wanted, "best", the name of a row with a file.

    Returns:
        The row, or None where no row has a file.

    Raises:
        InputError: if "best" names no row with a file.

    Example:
        >>> sizes = {"a": 9, "b": 5}
        >>> rows = [{"name": n, "label": n, "test_mse": 0.1, "bytes": size} for n, size in sizes.items()]
        >>> best_file({"rows": rows})["name"]
        'b'
    """
    files = {name: row for name, row in by_name(report["rows"]).items() if "bytes" in row}
    name = report.get("best")
    if name is not None and name not in files:
        raise InputError(f"best: got {shown(name)}, allowed: a row with a file: {', '.join(files) or 'none here'}")
    return files[name] if name else min(files.values(), key=lambda row: row["bytes"], default=None)


def headline(report: Mapping[str, Any]) -> str:
    """The result in plain words: how small, and how much worse or better than what.

    Args:
        report: with "rows"; a comparison is left out where its row is.

    Returns:
        Text without markup.

    Raises:
        InputError: for rows that cannot be used.

    Example:
        >>> rows = [
        ...     {"name": "dense", "label": "dense", "test_mse": 0.020},
        ...     {"name": "dense_float32", "label": "dense", "test_mse": 0.020, "bytes": 20000},
        ...     {"name": "pruned_int8", "label": "pruned", "test_mse": 0.021, "bytes": 5000},
        ... ]
        >>> first, second = headline({"rows": rows}).split(". ")
        >>> print(first)
        The pruned int8 file is 5.0 kB, 4.0x smaller than the dense float32 file
        >>> print(second)
        Its error is 1.05x the dense autoencoder's.
    """
    rows = by_name(report["rows"])
    best = best_file(report)
    if best is None:
        best = rows.get("pruned") or list(rows.values())[-1]
        said = f"No file was written. Comparing: {best['label']}. "
    else:
        said = f"The {best['name'].replace('_', ' ')} file is {size_text(best['bytes'])}"
        if "gzip_bytes" in best:
            said += f" ({size_text(best['gzip_bytes'])} gzipped)"
        dense = rows.get("dense_float32")
        if dense is not None and dense is not best:
            said += f", {_factor(dense['bytes'], best['bytes'])} the dense float32 file"
            if "gzip_bytes" in best and "gzip_bytes" in dense:
                said += f" (gzipped: {_factor(dense['gzip_bytes'], best['gzip_bytes'], short=True)})"
        said += ". "
    compared = []
    if "dense" in rows and rows["dense"] is not best:
        compared.append(f"{_ratio(best, rows['dense'])} the dense autoencoder's")
    pca = _pca(rows, best)
    if pca is not None and pca is not best:
        numbers = pca.get("numbers")
        same = "the same " if numbers == _numbers(report, best) else ""
        width = f" with {same}{numbers} numbers" if numbers else ""
        compared.append(f"{_ratio(best, pca)} that of PCA{width}")
    if not compared:
        return f"{said}Its error is {error_text(best['test_mse'])}."
    return f"{said}Its error is {' and '.join(compared)}."


def _numbers(report: Mapping[str, Any], row: Row) -> int | None:
    """As how many numbers the model of a row keeps a sample."""
    return row.get("numbers", report.get("settings", {}).get("encoding_dim"))


def _pca(rows: Mapping[str, Row], row: Row) -> Row | None:
    """PCA with as many numbers as the model of a row, where there is one, or else the report's."""
    if rows.get("pca_shrunk", {}).get("numbers", 0) == row.get("numbers"):
        return rows["pca_shrunk"]
    return rows.get("pca")


def _factor(before: float, after: float, *, short: bool = False) -> str:
    if after > before:
        return f"{after / before:.1f}x{' larger' if short else ' as large as'}"
    return f"{before / after:.1f}x{'' if short else ' smaller than'}"


def _ratio(row: Row, reference: Row) -> str:
    return times(row, reference) or "not comparable with"


def times(row: Row, reference: Row | None) -> str:
    """The error of a row relative to a reference row's as "1.31x"; "" where there is nothing to divide by.

    Args:
        row: with "test_mse".
        reference: with "test_mse", or None.

    Example:
        >>> times({"test_mse": 0.03}, {"test_mse": 0.02})
        '1.50x'
    """
    if reference is None or reference["test_mse"] <= 0:
        return ""
    return f"{row['test_mse'] / reference['test_mse']:.2f}x"


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know to use the numbers rightly, the bad news included.

    Args:
        report: with "rows"; "layers", "settings", "data" and "measured_on_this_machine" are used where given.

    Returns:
        Sentences without markup.

    Raises:
        InputError: for rows that cannot be used.

    Example:
        >>> rows = [{"name": n, "label": n, "test_mse": e} for n, e in {"pca": 1.0, "dense": 2.0}.items()]
        >>> notes({"rows": rows})
        ['PCA with as many numbers has the lower error here: it is the simpler and better choice.']
    """
    rows = by_name(report["rows"])
    best = best_file(report) or rows.get("pruned") or rows.get("dense")
    said = []
    pca = None if best is None else _pca(rows, best)
    if best is not None and pca is not None and pca["test_mse"] < best["test_mse"]:
        said.append("PCA with as many numbers has the lower error here: it is the simpler and better choice.")
    said.extend(_about_limit(report.get("shrinking"), rows))
    layers = report.get("layers", [])
    short = [layer["path"] for layer in layers if _missed(layer)]
    if short:
        said.append(f"Fewer zeros than asked for in: {', '.join(short)}.")
    left = [f"{layer['path']} ({layer['reason']})" for layer in layers if layer.get("reason")]
    if left:
        said.append(f"Not pruned: {', '.join(left)}.")
    if any(layer.get("pattern") == "unstructured" for layer in layers):
        said.append(_about_zeros(rows))
    if any("gzip_bytes" in row for row in rows.values()):
        said.append("gzip is the size of the packed file, about what a compressed download of it weighs.")
    if report.get("measured_on_this_machine", {}).get("latency"):
        said.append(
            "Times were measured on the machine named below, not on a phone: compare files with each other "
            "and measure on the phone before you decide by speed."
        )
    samples = report.get("data", {}).get("samples", {}).get("test")
    if samples:
        one = f"The errors are means over {samples:,} test samples that were not used in training"
        seed = report.get("settings", {}).get("seed")
        run = "one run" if seed is None else f"one run with seed {seed}"
        said.append(f"{one}, from {run}; another seed gives other errors.")
    said.extend(str(note) for note in report.get("data", {}).get("notes", []))
    return said


def _about_limit(shrinking: Mapping[str, Any] | None, rows: Mapping[str, Row]) -> list[str]:
    """What became of the limit of the error, on the samples that it was held on and on the others."""
    if not shrinking:
        return []
    before, after = shrinking["validation_mse"]
    limit = 1 + shrinking["max_error_increase"]
    said = [
        f"The shrunk autoencoder was cut while its error on the validation samples was at most {limit:.4g}x the "
        f"dense one's; it ended at {after / before:.2f}x, since {shrinking['stopped']}."
    ]
    dense = rows.get("dense", {}).get("test_mse", 0)
    over = [
        f"{name.replace('_', ' ')} {times(rows[name], rows['dense'])}"
        for name in ("shrunk", "shrunk_float32", "shrunk_int8")
        if name in rows and dense > 0 and rows[name]["test_mse"] > limit * dense
    ]
    if over:
        said.append(f"On the test samples the error is beyond that: {', '.join(over)}.")
    return said


def _missed(layer: Row) -> bool:
    """Whether more than one weight fewer than asked for is zero."""
    return layer.get("asked") is not None and layer["reached"] < layer["asked"] - 1 / max(layer["weights"], 1)


def _about_zeros(rows: Mapping[str, Row]) -> str:
    said = "Zeros spread over a layer do not make LiteRT faster: it multiplies by them too."
    for precision in ("float32", "int8", "float16"):
        dense, pruned = rows.get(f"dense_{precision}", {}), rows.get(f"pruned_{precision}", {})
        if pruned.get("gzip_bytes", 1) < dense.get("gzip_bytes", 0):
            return (
                f"{said} They make the file compress better: the {precision} file packs to "
                f"{size_text(pruned['gzip_bytes'])} instead of {size_text(dense['gzip_bytes'])}."
            )
    return f"{said} They help where the file is stored or sent compressed."


def table(rows: Sequence[Row], *, latency: Sequence[Row] = ()) -> str:
    """The comparison as plain text for a terminal: aligned, at most 100 columns wide, no colour codes.

    Args:
        rows: dicts with "name", "label", "test_mse" and what else is known: "parameters", "sparsity" (a
            fraction), "bytes", "gzip_bytes".
        latency: dicts with "name" of a row and "median_us".

    Returns:
        Lines without a line end after the last; a column that no row fills is left out.

    Raises:
        InputError: for rows that cannot be used.

    Example:
        >>> rows = [
        ...     {"name": "dense", "label": "autoencoder", "test_mse": 0.02, "parameters": 5544},
        ...     {"name": "pruned_int8", "label": "int8 file", "test_mse": 0.03, "bytes": 15144},
        ... ]
        >>> print(table(rows))
                     test MSE  vs dense  parameters     file
        autoencoder    0.0200     1.00x       5,544
        int8 file      0.0300     1.50x              15.1 kB
    """
    known = by_name(rows)
    times_us = {entry["name"]: entry["median_us"] for entry in latency}
    columns = {
        "test MSE": lambda row: error_text(row["test_mse"]),
        "vs dense": lambda row: times(row, known.get("dense")),
        "parameters": lambda row: f"{row['parameters']:,}" if "parameters" in row else "",
        "zeros": lambda row: f"{row['sparsity']:.3f}" if "sparsity" in row else "",
        "file": lambda row: size_text(row["bytes"]) if "bytes" in row else "",
        "gzip": lambda row: size_text(row["gzip_bytes"]) if "gzip_bytes" in row else "",
        "time": lambda row: time_text(times_us[row["name"]]) if row["name"] in times_us else "",
    }
    lines = ["", *("" for _ in rows)]
    for title, cell in columns.items():
        cells = [cell(row) for row in rows]
        if any(cells):
            width = max(len(title), *map(len, cells))
            lines = [f"{line}  {text.rjust(width)}" for line, text in zip(lines, [title, *cells], strict=True)]
    labels = ["", *(_cut(str(row["label"]), min(_LABEL, _WIDTH - len(lines[0]))) for row in rows)]
    wide = max(map(len, labels))
    return "\n".join((label.ljust(wide) + line).rstrip() for label, line in zip(labels, lines, strict=True))


def _cut(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
