"""One look for every picture: colours, sizes, fonts. Matplotlib is imported here only, and only when drawing.

Pictures are `Figure` objects with an Agg canvas of their own. `pyplot` is never imported and the settings of
the caller's session are put back after every call, so drawing changes nobody's backend or style.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from keras_aeprune._validation import InputError, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "PAPER",
    "WIDTH",
    "colour",
    "figure",
    "log_ticks",
    "place_labels",
    "stack",
    "styled",
    "svg",
]

WIDTH = 4.1  # inches; with 9 pt letters readable on a phone without zooming
INK, MUTED, GRID, PAPER = "#1f2937", "#6b7280", "#d9dde3", "#ffffff"

# The first key that is part of a name decides, so "pruned_int8" and "autoencoder, pruned" both find theirs.
_COLOURS = (
    (("dense", "int8"), "#0e8fb0"),
    (("int8",), "#0f9d76"),
    (("float16",), "#b45309"),
    (("prun",), "#e8701a"),
    (("dense",), "#3069e8"),
    (("pca",), "#9457eb"),
    (("train",), "#3069e8"),
    (("validation",), "#0f9d76"),
    (("zero",), "#e8701a"),
    (("mean",), MUTED),
    (("original",), MUTED),
)
_OTHER = "#c2407a"

# What a page may restyle, for example in dark mode: the colour in the drawing, and its CSS variable.
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}

_LOOK = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "svg.fonttype": "none",
}
_LEFT_ALONE = ("backend", "interactive", "toolbar", "timezone", "webagg", "tk.", "macosx", "figure.raise")

Drawing = TypeVar("Drawing", bound=Callable[..., Any])


def colour(name: str) -> str:
    """The colour of a thing in every picture, found by the words in its name or label.

    Args:
        name: a row's name or label, a file's name, or a series such as "training".

    Returns:
        A colour as "#rrggbb", readable on white and on near-black.

    Example:
        >>> colour("pruned_int8") == colour("pruned, int8 .tflite")
        True
    """
    text = name.lower()
    return next((found for words, found in _COLOURS if all(word in text for word in words)), _OTHER)


def _settings() -> dict[Any, Any]:
    """Matplotlib's own defaults under this package's look, without what a session chooses for itself."""
    import matplotlib

    defaults = matplotlib.rcParamsDefault
    keep: dict[Any, Any] = {key: defaults[key] for key in defaults if not key.startswith(_LEFT_ALONE)}
    return {**keep, **_LOOK}


def styled(function: Drawing) -> Drawing:
    """Decorator: `function` draws in this package's look; the session's settings come back after it."""

    @functools.wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context(_settings()):
            return function(*args, **kwargs)

    return draw  # type: ignore[return-value]


@functools.cache
def _shown() -> type[Figure]:
    """Figures that a notebook shows as pictures, whether it has loaded matplotlib's own means for that or not."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return Shown


def figure(width: float = WIDTH, height: float = 3.0, *, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure with `rows` axes under each other; call it inside a `styled` function.

    Args:
        width: inches, above 0.
        height: inches, above 0.
        rows: number of axes, at least 1.

    Returns:
        The figure, and its axes from top to bottom.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.03, hspace=0.02)
    made = _shown()(figsize=(width, height), layout=layout)
    FigureCanvasAgg(made)
    return made, list(made.subplots(rows, 1, squeeze=False)[:, 0])


def log_ticks(axis: Any, written: Callable[[float], str], *, most: int = 7) -> None:
    """Put round numbers on a log axis: as many as there is room for, and some even on a short one.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`, with its limits set.
        written: text of a number.
        most: numbers to write at most, at least 2.
    """
    low, high = sorted(axis.get_view_interval())
    low, high = low * (1 - 1e-9), high * (1 + 1e-9)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in (range(10, 100, 5), range(10, 100, 10), (10, 20, 30, 50), (10, 20, 50), (10,)):
        found = [step * 10.0 ** (decade - 1) for decade in decades for step in steps]
        found = [float(f"{value:.3g}") for value in found if low <= value <= high]
        if len(found) <= most:
            break
    if len(found) > most:
        found = found[:: math.ceil(len(found) / most)]
    if len(found) < 2:
        from matplotlib.ticker import MaxNLocator

        found = [
            value for value in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= value <= high
        ]
    axis.set_ticks(found, [written(value) for value in found])
    axis.set_ticks([], minor=True)


def place_labels(axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], **style: Any) -> list:
    """Write a text beside each point so that it covers no other text, line, mark or edge of the axes.

    Each text tries the places around its point, near ones first, and takes the first free one; a text with no
    free place goes where it covers least. Several orders are tried, and the best outcome is kept. A text
    that ends far from its point is tied to it by a line. Draw everything else and set the limits before.

    Args:
        axes: axes in which the points are drawn.
        points: (x, y) in data units.
        texts: one per point.
        **style: of the texts, as for `Axes.annotate`.

    Returns:
        The annotations, in the order of `texts`.

    Raises:
        InputError: if there are more or fewer texts than points.
    """
    if len(points) != len(texts):
        raise InputError(f"texts: got {len(texts)} for {len(points)} points, allowed: one text per point")
    canvas = cast("FigureCanvasAgg", axes.figure.canvas)  # as `figure` makes it
    canvas.draw()
    renderer = canvas.get_renderer()
    unit = axes.figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    written = [text.get_window_extent(renderer) for text in axes.texts]
    inked = _inked(axes, 2 * unit)
    centres = axes.transData.transform(np.asarray(points, float).reshape(-1, 2))
    notes = [
        axes.annotate(t, p, xytext=(0, 0), textcoords="offset points", va="bottom", **style)
        for t, p in zip(texts, points, strict=True)
    ]
    sizes = [note.get_window_extent(renderer) for note in notes]

    def cost(box: Any, taken: list) -> float:
        shared = sum(_shared(box, other) for other in taken)
        return shared + 10 * (box.width * box.height - _shared(box, frame)) + unit**2 * _hits(box, inked)

    def arranged(order: Iterable[int]) -> tuple[float, float, dict[int, tuple]]:
        taken, chosen, total, away = list(written), {}, 0.0, 0.0
        for index in order:
            wide, high = sizes[index].width / unit, sizes[index].height / unit
            others = np.delete(centres, index, axis=0)
            tries: list[tuple] = []
            for dx, dy, far in _places(wide, high):
                if tries and far > tries[-1][1] and min(tries)[0] == 0:
                    break
                left, bottom = centres[index] + np.array([dx, dy]) * unit
                box = _box(left, bottom, wide * unit, high * unit)
                tries.append((cost(box, taken), far, _nearness(box, others, 40 * unit), dx, dy, box))
            worst, far, _, dx, dy, box = min(tries, key=lambda one: one[:3])
            taken.append(box)
            chosen[index] = (dx, dy, far)
            total, away = total + worst, away + far
        return total, away, chosen

    across, up = np.argsort(centres[:, 0], kind="stable"), np.argsort(centres[:, 1], kind="stable")
    orders: list[Iterable[int]] = [range(len(points)), across, across[::-1], up, up[::-1]]
    _, _, chosen = min((arranged(order) for order in orders), key=lambda one: one[:2])
    for index, note in enumerate(notes):
        dx, dy, far = chosen[index]
        note.set_position((dx, dy))
        if far > 1:
            half = (dx + sizes[index].width / unit / 2, dy + (sizes[index].height / unit if dy < 0 else 0))
            axes.annotate(
                "",
                points[index],
                xytext=half,
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4},
            )
    return notes


def stack(labels: Sequence[Any]) -> None:
    """Raise each annotation that would touch one after it until it stands free above it.

    Args:
        labels: annotations of one axes with `textcoords="offset points"`, from left to right.
    """
    if not labels:
        return
    canvas, unit = labels[0].figure.canvas, labels[0].figure.dpi / 72
    canvas.draw()
    taken: list[Any] = []
    for label in reversed(labels):
        box = label.get_window_extent(canvas.get_renderer())
        dx, dy = label.get_position()
        while hit := [other.y1 for other in taken if _shared(box.padded(3 * unit, 0), other)]:
            rise = max(hit) - box.y0 + unit
            box, dy = box.translated(0, rise), dy + rise / unit
        label.set_position((dx, dy))
        taken.append(box)


def _places(wide: float, high: float) -> Iterator[tuple[float, float, float]]:
    """Offsets of a text's lower left corner from its mark in points, nearest first, and how far that is."""
    yield 6, -high / 2, 0
    yield -6 - wide, -high / 2, 0
    for step in range(6):
        near = 4 + step * high
        for left in (
            -wide / 2,
            -wide / 4,
            -3 * wide / 4,
            2,
            -wide - 2,
            *(() if step == 0 else (20, -wide - 20)),
        ):
            yield left, near, step + 0.5
            yield left, -near - high, step + 0.5


def _inked(axes: Axes, step: float) -> np.ndarray:
    """Places that lines and marks cover, in pixels, one every `step` along each line; shape (n, 2)."""
    found = [np.empty((0, 2))]
    for line in axes.lines:
        corners = line.get_transform().transform(line.get_xydata())
        if str(line.get_linestyle()) != "None":
            for start, end in itertools.pairwise(corners):
                count = int(np.hypot(*(end - start)) / step) + 2
                found.append(np.linspace(start, end, min(count, 5000)))
        if str(line.get_marker()) != "None":
            reach = line.get_markersize() / 2 * axes.figure.dpi / 72
            around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            ring = reach * np.stack([np.cos(around), np.sin(around)], axis=1)
            found.append((corners[:, None] + ring).reshape(-1, 2))
    return np.concatenate(found)


def _nearness(box: Any, places: np.ndarray, reach: float) -> float:
    """0 if none of the places is within `reach` of a box, up to 1 if one is in it."""
    away = places - np.clip(places, [box.x0, box.y0], [box.x1, box.y1])
    return float(np.clip(1 - np.hypot(*away.T) / reach, 0, 1).max(initial=0))


def _hits(box: Any, places: np.ndarray) -> int:
    x, y = places[:, 0], places[:, 1]
    return int(np.count_nonzero((x > box.x0) & (x < box.x1) & (y > box.y0) & (y < box.y1)))


def _box(left: float, bottom: float, width: float, height: float) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(left, bottom, width, height)


def _shared(one: Any, other: Any) -> float:
    """Area that two boxes share, in square pixels."""
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return wide * high if wide > 0 and high > 0 else 0.0


@styled
def svg(picture: Figure, name: str) -> str:
    """A figure as one `<svg>` element to put into a page; the same figure always gives the same text.

    Letters stay text. The four colours that are not data (ink, muted, grid, paper) become CSS variables with
    the drawn colour as the fallback, so that a page can turn them around in dark mode.

    Args:
        picture: a figure of this module.
        name: becomes part of every id, so that several pictures can stand in one page; letters, digits, "-".

    Returns:
        The element, without a fixed width and height: it fills the width it is given.

    Raises:
        InputError: if `name` has other characters.
    """
    import matplotlib

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise InputError(f"name: got {shown(name)}, allowed: letters, digits, '-' and '_', a letter first")
    matplotlib.rcParams["svg.hashsalt"] = name
    buffer = io.StringIO()
    picture.savefig(buffer, format="svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'(\sid=")', rf"\g<1>{name}-", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    for code, variable in _VARIABLES.items():
        text = text.replace(code, f"var(--{variable}, {code})")
    return text
