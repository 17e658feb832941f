"""The page of a comparison, in the look of the report's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from keras_aeprune._version import __version__
from keras_aeprune.report.inspected import Inspection, shape_text
from keras_aeprune.report.markup import WORDS, bullets, document, pairs, picture, signs, table
from keras_aeprune.report.outcomes import ERRORS
from keras_aeprune.report.text import time_text
from keras_aeprune.report.versus_text import columns, ratio_columns, versus_headline, versus_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["versus_page"]

_FRONT = "Full marks on the line: no other model is better in both. Hollow: another one is."
_CAPTIONS = {
    "reconstructions": ("Reconstructions", "Samples, and what each model makes of them."),
    "error_against_size": ("Error and size", _FRONT),
    "error_against_time": ("Error and time", _FRONT),
}


def versus_page(report: Mapping[str, Any], looks: Sequence[Inspection], figures: Mapping[str, Figure]) -> str:
    """A comparison as one HTML page without scripts and without anything to fetch.

    Args:
        report: of a comparison.
        looks: the models layer by layer.
        figures: {name: figure} in the order in which they are shown.

    Returns:
        The text of the page.
    """
    parts = [
        f"<h1>{signs(versus_headline(report))}</h1>",
        f'<p class="about">{escape(_about(report))}</p>',
        f"<section><h2>Compared</h2>{_rows(report, columns(report))}</section>",
        f"<section><h2>How much smaller: three ratios</h2>{_rows(report, ratio_columns())}"
        '<p class="about">All relative to the first model; what each of them counts stands below.</p></section>',
        '<div class="pictures">',
        *(picture(name, figure, *_CAPTIONS[name]) for name, figure in figures.items()),
        "</div>",
        f"<section><h2>Good to know</h2>{bullets(versus_notes(report))}</section>",
        *(_hints(look) for look in looks if look.hints),
        *(_layers(look) for look in looks),
        _machine(report["measured_on_this_machine"]),
        f"<footer>Written by keras_aeprune {escape(__version__)}; all numbers are in report.json.</footer>",
    ]
    return document(f"{report['rows'][0]['label']}: comparison", parts)


def _about(report: Mapping[str, Any]) -> str:
    data = report.get("data")
    if data is None:
        return "Compared without data."
    shape = " x ".join(map(str, data["sample_shape"]))
    kind = ERRORS[report["error"]["kind"]][1]
    return f"On {data['samples']:,} samples of {data['name']}, shape {shape}. Error: {kind}."


def _rows(report: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    lines = [(str(row["label"]), [cell(row) for cell in shown.values()]) for row in report["rows"]]
    return table(list(shown), lines)


def _hints(look: Inspection) -> str:
    return f"<section><h2>What could be done: {escape(look.name)}</h2>{bullets(look.hints)}</section>"


def _layers(look: Inspection) -> str:
    titles = ["kind", "output", "parameters", "not zero", "MACs", "type", "dead", WORDS]
    lines = [
        (
            row.path,
            [
                row.kind,
                shape_text(row.output_shape),
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.nonzero:,}" if row.parameters else "",
                "?" if row.macs is None else f"{row.macs:,}" if row.macs else "",
                row.dtype,
                f"{row.dead:,}" if row.dead else "",
                row.note,
            ],
        )
        for row in look.layers
    ]
    used = [place for place in range(len(titles)) if any(cells[place] for _, cells in lines)]
    lines = [(label, [cells[place] for place in used]) for label, cells in lines]
    shown = table([titles[place] for place in used], lines)
    return f"<details><summary>Every layer of {escape(look.name)}</summary>{shown}{_groups(look)}</details>"


def _groups(look: Inspection) -> str:
    free = [group for group in look.groups if not group.reason]
    if not free:
        return ""
    said = ", ".join(f"{group.name} ({group.units:,})" for group in free)
    return f'<p class="about">Units that can be cut out: {escape(said)}.</p>'


def _machine(measured: Mapping[str, Any]) -> str:
    return (
        "<details><summary>The machine, and the times on it</summary>"
        f"{pairs([*_times(measured['latency']), *measured['environment'].items()])}</details>"
    )


def _times(latency: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for row in latency:
        spread = f"{time_text(row['p10_us'])} to {time_text(row['p90_us'])}"
        yield row["name"], f"median {time_text(row['median_us'])}, middle 80 of 100 runs {spread}"
