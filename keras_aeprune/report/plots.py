"""Pictures of a report, drawn from its numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_aeprune import _plots
from keras_aeprune._plots import GRID, INK, MUTED, colour, styled
from keras_aeprune._validation import InputError, shown
from keras_aeprune.report.samples import reconstructions
from keras_aeprune.report.text import by_name, size_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "error_against_width",
    "figures",
    "loss_curves",
    "reconstructions",
    "size_against_error",
    "zeros_per_layer",
]

_PHASES = {"dense": "dense", "prune": "prune", "finetune": "fine-tune"}


def figures(report: Mapping[str, Any], reconstructed: Mapping[str, np.ndarray] | None = None) -> dict[str, Figure]:
    """All pictures for which the report has numbers, in the order in which a page shows them.

    Args:
        report: the report; pictures are drawn from "rows", "history", "layers" and "pca_curve".
        reconstructed: samples and their reconstructions by label as for `reconstructions`, or None.

    Returns:
        {name: figure} with names of "reconstructions", "size_against_error", "error_against_width",
        "loss_curves" and "zeros_per_layer".

    Raises:
        InputError: for numbers that cannot be drawn.

    Example:
        >>> list(figures({"rows": [], "history": {"dense": {"loss": [0.2, 0.1]}}}))
        ['loss_curves']
    """
    made = {}
    rows = report.get("rows", [])
    if reconstructed:
        made["reconstructions"] = reconstructions(reconstructed, report["data"]["sample_shape"])
    if any("bytes" in row for row in rows):
        made["size_against_error"] = size_against_error(rows)
    if report.get("pca_curve"):
        made["error_against_width"] = error_against_width(report["pca_curve"], rows)
    if any(values.get("loss") for values in report.get("history", {}).values()):
        made["loss_curves"] = loss_curves(report["history"])
    if report.get("layers"):
        made["zeros_per_layer"] = zeros_per_layer(report["layers"])
    return made


@styled
def zeros_per_layer(table: Sequence[Mapping[str, Any]]) -> Figure:
    """Bars of the fraction of zeros that each kernel reached, with a mark at what was asked.

    Args:
        table: dicts with "path", "weights", "reached" (fraction, 0 <= r <= 1), "asked" (fraction, or None if
            nothing was asked) and, if wanted, "shape" and "reason".

    Returns:
        The figure.

    Raises:
        InputError: for an empty table.

    Example:
        >>> row = {"path": "encoder/code/kernel", "weights": 128, "asked": 0.9, "reached": 0.898}
        >>> zeros_per_layer([row]).axes[0].get_xlabel()
        'fraction of zeros: reached (bar), asked (mark)'
    """
    if not table:
        raise InputError("table: got no layers, allowed: at least one")
    made, (axes,) = _plots.figure(height=0.36 * len(table) + 0.75)
    for place, row in enumerate(table):
        asked = row.get("asked")
        axes.barh(place, 1, height=0.3, color=GRID, alpha=0.6, linewidth=0)
        axes.barh(place, row["reached"], height=0.3, color=colour("zeros") if asked is not None else MUTED)
        if asked is not None:
            axes.plot([asked, asked], [place - 0.15, place + 0.24], color=INK, linewidth=1.8)
        size = " x ".join(map(str, row.get("shape") or ())) or f"{row['weights']:,}"
        label = f"{_middle(row['path'], 48 - len(size))}  ({size})"
        axes.text(0, place - 0.22, label, va="bottom", fontsize=8.5)
        axes.text(1, place - 0.22, f"{row['reached']:.3f}", va="bottom", ha="right", fontsize=8.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(table) - 0.6, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    grey = any(row.get("asked") is None for row in table)
    axes.set_xlabel("fraction of zeros: reached (bar), asked (mark)" + "\ngrey: nothing was asked" * grey)
    return made


def _middle(text: str, limit: int) -> str:
    """`text`, with its middle left out if it is longer than `limit` characters."""
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


@styled
def loss_curves(history: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Training and validation loss per epoch on a log scale, phase after phase, with the fraction of zeros.

    Args:
        history: {phase: {"loss": values per epoch, "val_loss": the same, if known, "sparsity": fractions, if
            known}} with the phases "dense", "prune" and "finetune", which are drawn in this order however
            they come; others follow. One of no epochs is left out.

    Returns:
        The figure. A phase without "sparsity" is drawn with what the phase before ended with, and the first
        one with 0.

    Raises:
        InputError: if there is no epoch, if lists of one phase differ in length, or for a loss that is not
            above 0.

    Example:
        >>> fig = loss_curves({"dense": {"loss": [0.2, 0.1]}, "prune": {"loss": [0.1], "sparsity": [0.9]}})
        >>> len(fig.axes)
        2
    """
    order = [*(phase for phase in _PHASES if phase in history), *(p for p in history if p not in _PHASES)]
    phases = {phase: history[phase] for phase in order if _epochs(phase, history[phase])}
    if not phases:
        raise InputError(f"history: got {shown(dict(history))}, allowed: at least one epoch with a 'loss'")
    made, (axes,) = _plots.figure(height=2.9)
    start, zeros, level, edges = 1, [], 0.0, []
    loss: dict[str, list[tuple[int, float]]] = {"training": [], "validation": []}
    for values in phases.values():
        epochs = range(start, start + len(values["loss"]))
        for name, key in (("training", "loss"), ("validation", "val_loss")):
            found = values.get(key) or ()
            loss[name] += zip(epochs, found, strict=False)  # none, or as many as there are epochs
        zeros += list(values.get("sparsity") or [level] * len(epochs))
        level = zeros[-1]
        edges.append((start - 0.5, epochs[-1] + 0.5))
        start = epochs[-1] + 1
    for name, points in loss.items():
        if points:
            axes.plot(*zip(*points, strict=True), color=colour(name), label=name, linewidth=1.4)
    axes.set_yscale("log")
    _plots.log_ticks(axes.yaxis, lambda value: f"{value:g}")
    axes.grid(axis="y")
    axes.set(xlabel="epoch", ylabel="loss", xlim=(0.5, start - 0.5))
    _phase_marks(axes, list(phases), edges)
    if any(zeros):
        _zeros_behind(axes, zeros)
    made.legend(loc="outside upper left", ncols=3, handlelength=1.4, columnspacing=1.4)
    return made


def _epochs(phase: str, values: Mapping[str, Sequence[float]]) -> int:
    """How many epochs a phase has, its lists checked."""
    count = len(values.get("loss") or ())
    for key in ("loss", "val_loss", "sparsity"):
        found = values.get(key) or ()
        if found and len(found) != count:
            raise InputError(
                f"history[{phase!r}][{key!r}]: got {len(found)} values for {count} epochs, allowed: one each"
            )
        if key != "sparsity" and any(not value > 0 for value in found):
            raise InputError(
                f"history[{phase!r}][{key!r}]: got {shown(min(found))}, allowed: losses above 0 (log scale)"
            )
    return count


def _phase_marks(axes: Any, phases: Sequence[str], edges: Sequence[tuple[float, float]]) -> None:
    for left, _ in edges[1:]:
        axes.axvline(left, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
    if len(phases) < 2:
        return
    labels = []
    for index, (phase, (left, right)) in enumerate(zip(phases, edges, strict=True)):
        last = index == len(phases) - 1
        label = axes.annotate(
            _PHASES.get(phase, phase),
            (right if last else left, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0 if last else 2, 3),
            textcoords="offset points",
            ha="right" if last else "left",
            color=MUTED,
        )
        labels.append(label)
    _plots.stack(labels)


def _zeros_behind(axes: Any, zeros: Sequence[float]) -> None:
    right = axes.twinx()
    epochs = np.arange(1, len(zeros) + 1)
    right.plot(epochs, zeros, color=colour("zeros"), linewidth=1.2, label="zeros (right axis)")
    right.fill_between(epochs, zeros, color=colour("zeros"), alpha=0.10, linewidth=0)
    right.set(ylim=(0, 1), ylabel="fraction of zeros")
    right.spines["right"].set_visible(True)
    axes.set_zorder(right.get_zorder() + 1)


@styled
def size_against_error(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Every file by its bytes and its error on the test data; lower left is better.

    A full mark is the file as it is, the hollow one beside it the same file after gzip. Lines show the errors
    of PCA and of predicting the mean.

    Args:
        rows: dicts with "name", "label" and "test_mse" as in the report; rows with "bytes" become marks.

    Returns:
        The figure.

    Raises:
        InputError: if no row has "bytes".

    Example:
        >>> row = {"name": "pruned_int8", "label": "pruned, int8", "test_mse": 0.02, "bytes": 15144}
        >>> size_against_error([row]).axes[0].get_xscale()
        'log'
    """
    known = by_name(rows)
    files = [row for row in rows if "bytes" in row]
    if not files:
        raise InputError("rows: got none with 'bytes', allowed: at least one file")
    made, (axes,) = _plots.figure(height=2.8)
    sizes = [row["bytes"] for row in files] + [row["gzip_bytes"] for row in files if "gzip_bytes" in row]
    for row in files:
        ink, error = colour(row["name"]), row["test_mse"]
        if "gzip_bytes" in row:
            axes.plot(row["gzip_bytes"], error, _mark(row), color=ink, markerfacecolor="none", markersize=5.5)
        axes.plot(row["bytes"], error, _mark(row), color=ink, markersize=6.5)
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.35, max(sizes) * 1.35)
    _plots.log_ticks(axes.xaxis, lambda value: size_text(value).replace(".00", "").replace(".0 ", " "), most=5)
    axes.set(xlabel="file (full), gzip of it (hollow)", ylabel="test MSE")
    lines = [known[name] for name in ("mean", "pca") if name in known]
    errors = [row["test_mse"] for row in [*files, *lines]]
    error_axis(axes, errors, log=min(errors) > 0)
    right = sum(size > math.sqrt(min(sizes) * max(sizes)) for size in sizes) > len(sizes) / 2
    for row in lines:
        _level(axes, row, "left" if right else "right")
    points = [(row["bytes"], row["test_mse"]) for row in files]
    _plots.place_labels(axes, points, [_short(row) for row in files], fontsize=8.5)
    return made


def _mark(row: Mapping[str, Any]) -> str:
    """Squares for what was cut smaller, circles for the rest."""
    return "s" if str(row["name"]).startswith("shrunk") else "o"


def _short(row: Mapping[str, Any]) -> str:
    return str(row["label"]).removeprefix("autoencoder, ").removesuffix(".tflite").strip()


def error_axis(axes: Any, errors: Sequence[float], *, log: bool) -> None:
    """Limits and ticks of an axis of errors."""
    if log:
        axes.set_yscale("log")
        axes.set_ylim(min(errors) / 1.45, max(errors) * 1.45)
        _plots.log_ticks(axes.yaxis, lambda value: f"{value:g}")
    else:
        axes.set_ylim(0, max(errors) * 1.15 or 1.0)
        axes.locator_params(axis="y", nbins=6)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(axis="y")


def _level(axes: Any, row: Mapping[str, Any], side: str) -> None:
    """A horizontal line at a row's error, with its label at one side."""
    ink = colour(row["name"])
    axes.axhline(row["test_mse"], color=ink, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.annotate(
        str(row["label"]),
        (0 if side == "left" else 1, row["test_mse"]),
        xycoords=axes.get_yaxis_transform(),
        xytext=(3 if side == "left" else -3, 2.5),
        textcoords="offset points",
        ha=side,
        color=ink,
        fontsize=8.5,
    )


@styled
def error_against_width(curve: Mapping[str, Sequence[float]], rows: Sequence[Mapping[str, Any]]) -> Figure:
    """PCA's error at every width, and the autoencoders' at theirs: how many numbers of PCA they are worth.

    Args:
        curve: {"widths": numbers kept, at least 1, "test_mse": PCA's error at each}.
        rows: the rows of the report; "dense" and "pruned" are marked at the width "numbers" of row "pca", and
            "shrunk" at its own.

    Returns:
        The figure.

    Raises:
        InputError: if the two lists of the curve are empty or not of one length.

    Example:
        >>> curve = {"widths": [1, 2, 4], "test_mse": [0.05, 0.04, 0.03]}
        >>> error_against_width(curve, []).axes[0].get_xlabel()
        'numbers kept per sample'
    """
    widths, errors = list(curve["widths"]), list(curve["test_mse"])
    if not widths or len(widths) != len(errors):
        raise InputError(f"curve: got {len(widths)} widths and {len(errors)} errors, allowed: as many, at least 1")
    known = by_name(rows) if rows else {}
    made, (axes,) = _plots.figure(height=2.8)
    axes.plot(widths, errors, color=colour("pca"), marker="o", markersize=2.5)
    axes.set_xscale("log")
    axes.set_xlim(min(widths) / 1.2, max(widths) * 1.2)
    _plots.log_ticks(axes.xaxis, lambda value: f"{value:g}")
    marks = [known[name] for name in ("dense", "pruned") if name in known and "numbers" in known.get("pca", {})]
    marks += [known[name] for name in ("shrunk",) if "numbers" in known.get(name, {})]
    lines = [known["mean"]] if "mean" in known else []
    error_axis(axes, errors + [row["test_mse"] for row in marks + lines], log=False)
    for row in lines:
        _level(axes, row, "right")
    axes.set(xlabel="numbers kept per sample", ylabel="test MSE")
    points = [(row.get("numbers") or known["pca"]["numbers"], row["test_mse"]) for row in marks]
    for (x, y), row in zip(points, marks, strict=True):
        axes.plot(x, y, _mark(row), color=colour(row["name"]), markersize=6.5)
    middle = 2 * len(widths) // 3
    texts = [*(_short(row) for row in marks), "PCA"]
    _plots.place_labels(axes, [*points, (widths[middle], errors[middle])], texts, fontsize=8.5)
    return made
