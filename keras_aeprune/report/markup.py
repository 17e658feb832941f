"""The parts that every page is made of, and the way a page and its numbers get into a folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_aeprune import _plots
from keras_aeprune._files import writable_folder, writing
from keras_aeprune._validation import InputError, shown
from keras_aeprune.report.style import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "WORDS",
    "bullets",
    "document",
    "json_text",
    "pairs",
    "picture",
    "plain",
    "signs",
    "table",
    "write_pair",
]

WORDS = "note"  # the one column of words, aligned to the left


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of finished parts; it needs nothing else and runs nothing."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(part for part in parts if part) + "\n</main>\n</body>\n</html>\n"
    )


def write_pair(report: Mapping[str, Any], page: str, folder: str | Path) -> tuple[Path, Path]:
    """Write report.json and report.html; each appears whole under its name, or not at all.

    Raises:
        InputError: for a value that JSON cannot hold (with its place), or a folder that cannot be used.
    """
    text = json_text(report)
    folder = writable_folder("folder", folder)
    json_path, html_path = folder / "report.json", folder / "report.html"
    try:
        with writing(json_path) as first, writing(html_path) as second:
            first.write_text(text, encoding="utf-8", newline="\n")
            second.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(
            f"folder: got {shown(str(folder))} ({error.strerror}), allowed: a folder with room to write in"
        ) from error
    return json_path, html_path


def json_text(report: Mapping[str, Any]) -> str:
    """A report as JSON with sorted keys; a value that JSON cannot hold is refused with its place."""
    for place, value in _not_plain(report, "report"):
        raise InputError(
            f"{place}: got {shown(value)}, allowed: finite numbers, text, true, false, null, lists and dicts "
            "with text keys; convert arrays with .tolist() and leave out what was not measured"
        )
    return json.dumps(report, sort_keys=True, indent=1, allow_nan=False) + "\n"


def _not_plain(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Places and values that are not plain JSON."""
    if type(value) is dict:
        for key, inner in value.items():
            if type(key) is not str:
                yield f"{place} key", key
            yield from _not_plain(inner, f"{place}.{key}")
    elif type(value) in (list, tuple):
        for index, inner in enumerate(value):
            yield from _not_plain(inner, f"{place}[{index}]")
    elif type(value) is float:
        if not math.isfinite(value):
            yield place, value
    elif value is not None and type(value) not in (str, int, bool):
        yield place, value


def table(titles: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]], *, marked: int | None = None) -> str:
    """Lines of a label and right-aligned cells; on a narrow screen each line becomes a small card."""
    body = []
    for index, (label, values) in enumerate(lines):
        cells = [f'<th scope="row">{escape(label)}</th>']
        for title, value in zip(titles, values, strict=True):
            words = ' class="words"' if title == WORDS else ""
            cells.append(f'<td{words} data-label="{escape(title)}">{signs(value)}</td>')
        best = ' class="best"' if index == marked else ""
        body.append(f"<tr{best}>{''.join(cells)}</tr>")
    kinds = {title: ' class="words"' if title == WORDS else "" for title in titles}
    head = "".join(f'<th{kinds[title]} scope="col">{escape(title)}</th>' for title in titles)
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def signs(text: str) -> str:
    """Escaped text with the signs that a page can show: times, micro, and no line end before a unit."""
    text = re.sub(r"(?<=\d)x\b", "&times;", escape(text))
    text = re.sub(r"(?<=\d )us\b", "&micro;s", text)
    return re.sub(r"(?<=\d) (?=(?:B|kB|MB|ms|&micro;s)\b)", "&nbsp;", text)


def picture(name: str, figure: Figure, title: str, caption: str) -> str:
    """A figure with its title and a line about it."""
    drawn = _plots.svg(figure, name).replace(
        "<svg ", f'<svg role="img" aria-label="{escape(f"{title}. {caption}".strip())}" ', 1
    )
    wide = ' class="wide"' if name == "reconstructions" else ""
    return f"<figure{wide}><h2>{escape(title)}</h2><figcaption>{escape(caption)}</figcaption>{drawn}</figure>"


def pairs(values: Any) -> str:
    """(name, value) pairs as a list in two columns."""
    inner = "".join(
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(plain(value))}</dd>" for key, value in values
    )
    return f"<dl>{inner}</dl>"


def bullets(sentences: Sequence[str]) -> str:
    """Sentences as a list."""
    return f"<ul>{''.join(f'<li>{signs(sentence)}</li>' for sentence in sentences)}</ul>"


def plain(value: Any, between: str = ", ") -> str:
    """A settings value in words."""
    if isinstance(value, Mapping):
        return between.join(f"{str(key).replace('_', ' ')} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return between.join(map(plain, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)
