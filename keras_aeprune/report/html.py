"""One page that needs nothing else: report.html, and report.json beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_aeprune._validation import InputError
from keras_aeprune._version import __version__
from keras_aeprune.report.markup import (
    WORDS,
    bullets,
    document,
    json_text,
    pairs,
    picture,
    plain,
    signs,
    table,
    write_pair,
)
from keras_aeprune.report.text import (
    best_file,
    by_name,
    error_text,
    headline,
    notes,
    size_text,
    time_text,
    times,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["page", "write"]

_NEEDED = ("rows", "data", "settings")
_CAPTIONS = {
    "reconstructions": ("Reconstructions", "Test samples, and what each model makes of them."),
    "size_against_error": ("Size and error", "Every file by its size and its error; lower left is better."),
    "error_against_width": (
        "Compared with PCA",
        "PCA's error at every width, and the autoencoders at theirs.",
    ),
    "loss_curves": ("Training", "Loss per epoch, and the fraction of zeros while it grows."),
    "zeros_per_layer": ("Zeros per layer", "Fraction of each kernel that is exactly zero."),
}


def page(report: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    """The whole report as one HTML page without scripts and without anything to fetch.

    Args:
        report: the report: "rows", "data" and "settings" are needed; "layers", "shrinking", "best" and
            "measured_on_this_machine" are shown where given.
        figures: {name: figure} in the order in which they are shown, as from `plots.figures`.

    Returns:
        The text of the page. The same report and figures always give the same text.

    Raises:
        InputError: if the report lacks a needed part, or its rows cannot be used.

    Example:
        >>> rows = [{"name": "dense", "label": "a < b", "test_mse": 0.02}]
        >>> text = page({"rows": rows, "data": {"name": "x"}, "settings": {}}, {})
        >>> "a &lt; b" in text, "<script" in text
        (True, False)
    """
    missing = [key for key in _NEEDED if key not in report]
    if missing:
        raise InputError(f"report: got no {missing[0]!r}, allowed: a report with {', '.join(_NEEDED)}")
    name = str(report["data"].get("name", "data"))
    parts = [
        f"<h1>{signs(headline(report))}</h1>",
        f'<p class="about">{escape(_about(report))}</p>',
        f"<section><h2>Compared</h2>{_rows(report)}</section>",
        '<div class="pictures">',
        *(_picture(key, figure) for key, figure in figures.items()),
        "</div>",
        _shrinking(report.get("shrinking")),
        f"<section><h2>Good to know</h2>{bullets(notes(report))}</section>",
        _usage(report),
        f"<section><h2>What was done</h2>{pairs(_done(report))}</section>",
        _layers(report.get("layers", [])),
        _machine(report.get("measured_on_this_machine", {})),
        f"<footer>Written by keras_aeprune {escape(__version__)}; all numbers are in report.json.</footer>",
    ]
    return document(f"{name}: compression report", parts)


def write(report: Mapping[str, Any], figures: Mapping[str, Figure], *, folder: str | Path) -> tuple[Path, Path]:
    """Write report.json and report.html; each appears whole under its name, or not at all.

    Args:
        report: the report as for `page`, in plain JSON values: dicts with str keys, lists, str, int, float,
            bool and None.
        figures: {name: figure} as for `page`.
        folder: where to write; made if it is not there.

    Returns:
        The paths of report.json (keys sorted) and report.html.

    Raises:
        InputError: for a value that JSON cannot hold, such as NaN (with its place), or a folder that cannot
            be used. Nothing is written then.

    Example:
        >>> import tempfile
        >>> report = {"rows": [{"name": "a", "label": "a", "test_mse": 0.1}], "data": {}, "settings": {}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in write(report, {}, folder=folder)]
        ['report.json', 'report.html']
    """
    json_text(report)  # refused before the page is made
    return write_pair(report, page(report, figures), folder)


def _about(report: Mapping[str, Any]) -> str:
    data = report["data"]
    said = [str(data.get("name", "data"))]
    if "sample_shape" in data:
        said.append(f"samples of shape {plain(data['sample_shape'], ' x ')}")
    if "encoding_dim" in report["settings"]:
        width = report["settings"]["encoding_dim"]
        narrow = report.get("shrinking", {}).get("encoding_dim", width)
        also = f" ({narrow} in the shrunk autoencoder)" if narrow != width else ""
        said.append(f"kept as {width} numbers each{also}")
    return ", ".join(said) + ". Errors are mean squared errors on test data."


def _rows(report: Mapping[str, Any]) -> str:
    known, best = by_name(report["rows"]), best_file(report)
    latency = {row["name"]: row for row in report.get("measured_on_this_machine", {}).get("latency", [])}
    cells = {
        "test MSE": lambda row: error_text(row["test_mse"]),
        "vs dense": lambda row: times(row, known.get("dense")),
        "parameters": lambda row: f"{row['parameters']:,}" if "parameters" in row else "",
        "not zero": lambda row: f"{row['nonzero']:,}" if "nonzero" in row else "",
        "file": lambda row: size_text(row["bytes"]) if "bytes" in row else "",
        "gzip": lambda row: size_text(row["gzip_bytes"]) if "gzip_bytes" in row else "",
        "time": lambda row: time_text(latency[row["name"]]["median_us"]) if row["name"] in latency else "",
    }
    titles = [title for title, cell in cells.items() if any(cell(row) for row in known.values())]
    lines = [(str(row["label"]), [cells[title](row) for title in titles]) for row in known.values()]
    marked = list(known.values()).index(best) if best is not None else None
    return table(titles, lines, marked=marked) + f'<p class="about">{escape(_legend(titles))}</p>'


def _legend(titles: Sequence[str]) -> str:
    said = {
        "vs dense": "error relative to the dense autoencoder's",
        "not zero": "parameters that are left after pruning",
        "gzip": "size of the packed file",
        "time": "median for one sample on this machine, not on a phone",
    }
    return "; ".join(f"{title}: {meaning}" for title, meaning in said.items() if title in titles)


def _picture(name: str, figure: Figure) -> str:
    title, caption = _CAPTIONS.get(name, (name.replace("_", " ").capitalize(), ""))
    return picture(name, figure, title, caption)


def _usage(report: Mapping[str, Any]) -> str:
    best = best_file(report)
    if best is None:
        return ""
    shape = tuple(report["data"].get("sample_shape", ()))
    code = _code(str(best.get("file", best["name"])), shape, report["data"].get("scaling") or {})
    return (
        f"<section><h2>Use the file</h2><pre><code>{escape(code)}</code></pre>"
        "<p>Input and output are float32; the file does its own rounding inside. "
        "In an app, keep the interpreter and call it again for each sample.</p></section>"
    )


def _code(file: str, shape: tuple[int, ...], scaling: Mapping[str, Any]) -> str:
    """Python that runs the file on one raw sample, scaled as the training data was."""
    offset, divisor = scaling.get("offset", 0.0), scaling.get("divisor", 1.0)
    lines = ["from ai_edge_litert.interpreter import Interpreter", ""]
    if isinstance(offset, (list, tuple)):
        lines = ["import json", "import numpy as np", *lines]
        lines.append('scaling = json.load(open("report.json"))["data"]["scaling"]')
        lines += [f'{key} = np.reshape(scaling["{key}"], {shape})' for key in ("offset", "divisor")]
    else:
        lines.append(f"offset, divisor = {float(offset)!r}, {float(divisor)!r}")
    lines += [
        f"model = Interpreter({json.dumps(file)})",
        "model.allocate_tensors()",
        "source, target = model.get_input_details()[0], model.get_output_details()[0]",
        "",
        f"x = (raw - offset) / divisor  # raw: one sample, shape {shape}",
        'model.set_tensor(source["index"], x.reshape(source["shape"]).astype("float32"))',
        "model.invoke()",
        f'rebuilt = model.get_tensor(target["index"]).reshape({shape}) * divisor + offset',
    ]
    return "\n".join(lines)


def _done(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    data = report["data"]
    yield "data", data.get("name", "data")
    for key in ("samples", "sample_shape", "features"):
        if key in data:
            yield key, data[key]
    if "fingerprint" in data:
        yield "fingerprint", f"{data['fingerprint'][:16]}... (sha256)"
    scaling = data.get("scaling") or {}
    if "kind" in scaling:
        yield "scaling", scaling["kind"]
    yield from report["settings"].items()
    measured = report.get("measured_on_this_machine", {})
    if "seconds" in measured:
        yield "time", ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in measured["seconds"].items())
    if "peak_memory_mb" in measured:
        yield "peak memory", f"{measured['peak_memory_mb']:,.0f} MB"


def _shrinking(shrinking: Mapping[str, Any] | None) -> str:
    """The rounds of cutting, and what became of each layer."""
    if not shrinking:
        return ""
    first = shrinking["rounds"][0]
    rounds = [
        (
            f"round {one['number']}" if one["number"] else "dense",
            [
                f"{one['params']:,}",
                f"{one['macs']:,}",
                error_text(one["error"]),
                times({"test_mse": one["error"]}, {"test_mse": first["error"]}),
                one["move"] if one["held"] else f"too much, taken back: {one['move']}",
            ],
        )
        for one in shrinking["rounds"]
    ]
    layers = [
        (
            str(layer["path"]),
            [layer["kind"], *(_from_to(*layer[key]) for key in ("units", "parameters", "macs"))],
        )
        for layer in shrinking["layers"]
    ]
    about = f"Errors are on the validation samples, after each round's training. It ended: {shrinking['stopped']}."
    return (
        "<section><h2>Cut smaller, round by round</h2>"
        + table(["parameters", "multiplications", "error", "vs dense", WORDS], rounds)
        + f'<p class="about">{escape(about)}</p></section>'
        + "<section><h2>What is left of each layer</h2>"
        + table(["kind", "units", "parameters", "multiplications"], layers)
        + "</section>"
    )


def _from_to(before: int, after: int) -> str:
    if before and not after:
        return f"{before:,} to none"
    return f"{before:,}" if before == after else f"{before:,} to {after:,}"


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    if not layers:
        return ""
    lines = []
    for layer in layers:
        asked = "" if layer.get("asked") is None else f"{layer['asked']:.3f}"
        note = ", ".join(str(layer[key]) for key in ("pattern", "reason") if layer.get(key))
        shape = plain(layer.get("shape", ()), " x ")
        lines.append(
            (str(layer["path"]), [shape, f"{layer['weights']:,}", asked, f"{layer['reached']:.4f}", note])
        )
    titles = ["shape", "weights", "asked", "reached", WORDS]
    return f"<details><summary>Every kernel</summary>{table(titles, lines)}</details>"


def _machine(measured: Mapping[str, Any]) -> str:
    found = list(measured.get("environment", {}).items())
    for row in measured.get("latency", []):
        spread = ""
        if "p10_us" in row and "p90_us" in row:
            spread = f", middle 80 of 100 runs {time_text(row['p10_us'])} to {time_text(row['p90_us'])}"
        threads = f", {row['threads']} thread{'s' * (row['threads'] != 1)}" if "threads" in row else ""
        found.append((f"{row['name']}", f"median {time_text(row['median_us'])}{spread}{threads}"))
    if not found:
        return ""
    return f"<details><summary>The machine, and the times on it</summary>{pairs(found)}</details>"
