"""The words of a comparison: the result in a sentence, the notes, and its tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_aeprune.report.outcomes import ERRORS
from keras_aeprune.report.text import error_text, size_text, time_text
from keras_aeprune.shrinking.text import table

__all__ = ["columns", "ratio_columns", "versus_headline", "versus_notes", "versus_table"]

Row = Mapping[str, Any]
Columns = dict[str, Callable[[Row], str]]

_LABEL = 34


def columns(report: Mapping[str, Any]) -> Columns:
    """The columns of the first table that any row fills: title and text of a row."""
    rows = report["rows"]
    kind = (report.get("error") or {}).get("kind", "mse")
    first = rows[0].get("error", 0)

    def relative(row: Row) -> str:
        return f"{row['error'] / first:.2f}x" if "error" in row and first > 0 and kind != "difference" else ""

    def number(name: str, text: Callable[[Any], str]) -> Callable[[Row], str]:
        return lambda row: "" if row.get(name) is None else text(row[name])

    every: Columns = {
        ERRORS[kind][0]: number("error", error_text),
        "vs first": relative,
        "parameters": number("parameters", "{:,}".format),
        "not zero": number("nonzero", "{:,}".format),
        "MACs": number("macs", "{:,}".format),
        "file": number("bytes", size_text),
        "gzip": number("gzip_bytes", size_text),
        "packed": number("packed_bytes", size_text),
        "time": number("median_us", time_text),
        "energy proxy": number("energy", "{:.4g}".format),
    }
    return {title: cell for title, cell in every.items() if any(cell(row) for row in rows)}


def ratio_columns() -> Columns:
    """The three ratios that papers mix up, by their own names."""

    def ratio(name: str) -> Callable[[Row], str]:
        return lambda row: f"{row['ratios'][name]:.1f}x" if name in row["ratios"] else ""

    return {
        "zeros": lambda row: f"{row['sparsity']:.3f}",
        "nnz": ratio("nnz"),
        "stored, sparse": ratio("stored_sparse"),
        "stored, coded": ratio("stored_coded"),
        "coded by": lambda row: row["ratios"].get("coded_by", ""),
    }


def versus_headline(report: Mapping[str, Any]) -> str:
    """The result in plain words.

    Example:
        >>> rows = [{"label": "a", "bytes": 9000, "error": 0.02}, {"label": "b", "bytes": 3000, "error": 0.03}]
        >>> versus_headline({"rows": rows, "error": {"kind": "mse"}})
        'b: 3.0x smaller, MSE 1.50x that of a.'
    """
    rows = report["rows"]
    first = rows[0]
    if len(rows) == 1:
        size = f", {size_text(first['bytes'])}" if "bytes" in first else ""
        return f"{first['label']}: {first['parameters']:,} parameters{size}."
    if len(rows) == 2:
        said = _against(rows[1], first, report)
        if not said:
            return f"{rows[1]['label']}: nothing to compare with {first['label']}."
        return f"{rows[1]['label']}: {', '.join(said)} {_that_of(said)}{first['label']}."
    said = []
    for name, key, text in (("smallest", "bytes", size_text), ("fastest", "median_us", time_text)):
        held = [row for row in rows if row.get(key)]
        if held:
            best = min(held, key=lambda row: row[key])
            said.append(f"{name} {best['label']} ({text(best[key])})")
    kind = (report.get("error") or {}).get("kind")
    held = [row for row in rows if "error" in row]
    if kind in ("mse", "wrong") and held:
        best = min(held, key=lambda row: row["error"])
        said.append(f"lowest error {best['label']} ({error_text(best['error'])})")
    return f"{len(rows)} models compared: {', '.join(said) or 'nothing was measured'}."


def _that_of(said: Sequence[str]) -> str:
    return "that of " if said[-1].endswith("x") else "than "


def _against(row: Row, first: Row, report: Mapping[str, Any]) -> list[str]:
    said = []
    for key, better, worse in (("bytes", "smaller", "larger"), ("median_us", "faster", "slower")):
        if row.get(key) and first.get(key):
            ratio = first[key] / row[key]
            said.append(f"{ratio:.1f}x {better}" if ratio >= 1 else f"{1 / ratio:.1f}x {worse}")
    kind = (report.get("error") or {}).get("kind")
    if kind in ("mse", "wrong") and first.get("error", 0) > 0 and "error" in row:
        said.append(f"{ERRORS[kind][0]} {row['error'] / first['error']:.2f}x")
    return said


def versus_notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know to use the numbers rightly.

    Args:
        report: of a comparison.

    Returns:
        Sentences without markup.
    """
    rows, said = report["rows"], []
    error = report.get("error")
    if error:
        said.append(f"Error: {ERRORS[error['kind']][1]}, over {error['samples']:,} samples.")
        said += [f"Data: {note}." for note in report["data"]["notes"]]
    else:
        said.append("No data were given, so no errors were compared.")
    said.append(
        "The ratios are relative to the parameters of the first model, W. nnz: W divided by the parameters that "
        "are not zero. Stored, sparse: 4 W bytes divided by what is left without zeros, values as 32 bits and the "
        "index counted. Stored, coded: 4 W bytes divided by the packed file, or else by what gzip makes of "
        "the .tflite file or of a Keras model's weights. They are three different things: compare each with its "
        "own kind only."
    )
    if any(row["sparsity"] >= 0.3 for row in rows):
        said.append("Zeros spread over a layer do not make LiteRT faster: it multiplies by them too.")
    if any("median_us" in row for row in rows):
        said.append(
            "Times are medians for one sample on this machine, files timed in turns; they are no times of a phone."
        )
    if len({row["format"] == "tflite" for row in rows}) > 1:
        said.append(
            "Keras files may hold the state of the optimizer too: compare their sizes with each other only."
        )
    said += [f"{row['label']}: {row['note']}." for row in rows if row["note"]]
    return said


def versus_table(report: Mapping[str, Any]) -> str:
    """The comparison as plain text: sizes, times and errors, and the ratios under it.

    Args:
        report: of a comparison.

    Returns:
        Lines without a line end after the last.
    """
    rows = report["rows"]
    blocks = [versus_headline(report)]
    for shown in (columns(report), ratio_columns()):
        lines = [[_cut(row["label"]), *(cell(row) for cell in shown.values())] for row in rows]
        blocks.append("\n".join(table(["", *shown], lines)))
    return "\n\n".join(blocks)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 3]}..."
