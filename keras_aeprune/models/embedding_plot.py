"""A picture of codes: the model's above, PCA's below, coloured by label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_aeprune._plots import MUTED, WIDTH, figure, styled
from keras_aeprune._validation import InputError, positive_int, refuse
from keras_aeprune.models.embed import embed
from keras_aeprune.models.pca import PCA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Ten colours that stay apart on white and on near-black; each label also has its own mark.
_PALETTE = (
    *("#3069e8", "#e8701a", "#0f9d76", "#c2407a", "#b08900"),
    *("#9457eb", "#0e8fb0", "#d23b3b", "#6b7280", "#7a9a01"),
)
_MARKS = "os^Dvp*Xh<"


@styled
def plot_embedding(
    model: keras.Model,
    x: np.ndarray,
    *,
    y: np.ndarray,
    samples: int = 1000,
    seed: int = 0,
    path: str | Path | None = None,
) -> Figure:
    """Two pictures of the same samples: the model's code, and PCA with two numbers.

    Use it to see what a code separates that PCA does not. A code of 2 numbers is drawn as it is; of a wider one
    the two directions in which the codes vary most.

    Args:
        model: an autoencoder or an encoder with a code of 2 numbers or more, as in `embed`.
        x: shape (n, ...), n >= 3, as the model takes it; PCA is fitted on it.
        y: shape (n,), at most 10 different labels.
        samples: largest number of points, >= 3; they are drawn at random.
        seed: of the draw, >= 0.
        path: a .png, .svg or .pdf file to write as well; None writes none.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: an argument cannot be used.

    >>> from keras_aeprune.datasets import load
    >>> from keras_aeprune.models.dense import dense
    >>> data = load("digits")
    >>> picture = plot_embedding(dense((8, 8), 2), data.x_test, y=data.y_test)
    >>> [axes.get_title(loc="left") for axes in picture.axes]
    ['autoencoder, code of 2 numbers', 'PCA, 2 numbers']
    """
    most, seed = positive_int("samples", samples, minimum=3), positive_int("seed", seed, minimum=0)
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim < 2 or len(x) < 3 or y.shape != (len(x),):
        raise refuse("x and y", (x.shape, y.shape), "3 or more samples (n, ...) and one label for each, (n,)")
    known = np.unique(y)
    if len(known) > len(_PALETTE):
        raise refuse("y", f"{len(known)} different labels", f"at most {len(_PALETTE)}; group them first")
    if path is not None and Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise refuse("path", path, "a file name that ends in .png, .svg or .pdf")
    codes = embed(model, x)
    width = codes.shape[1]
    if width < 2:
        raise InputError(f"model: got {model.name!r} with a code of 1 number, allowed: 2 or more to draw a plane")
    of_code = ("code 1", "code 2") if width == 2 else ("code, direction 1", "code, direction 2")
    panels = [
        (f"{model.name}, code of {width} numbers", codes if width == 2 else _plane(codes), of_code),
        ("PCA, 2 numbers", _plane(x), ("component 1", "component 2")),
    ]
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:most])
    picture, both = figure(WIDTH, 6.4, rows=2)
    for axes, (title, points, names) in zip(both, panels, strict=True):
        for number, label in enumerate(known):
            chosen = points[rows][y[rows] == label]
            style: dict[str, Any] = {"s": 11, "color": _PALETTE[number], "marker": _MARKS[number], "linewidths": 0}
            axes.scatter(*chosen.T, label=str(label), alpha=0.75, **style)
        axes.set_title(title, loc="left")
        axes.set_xlabel(names[0], color=MUTED)
        axes.set_ylabel(names[1], color=MUTED)
    handles, texts = both[0].get_legend_handles_labels()
    picture.legend(
        handles, texts, loc="outside lower center", ncols=min(len(known), 5), markerscale=1.6, handletextpad=0.1
    )
    if path is not None:
        picture.savefig(path, dpi=160, facecolor="white")
    return picture


def _plane(values: np.ndarray) -> np.ndarray:
    """Coordinates along the two directions of largest variance, shape (n, 2)."""
    flat = values.reshape(len(values), -1)
    pca = PCA.fit(flat, [min(2, flat.shape[1])])
    points = (flat - pca.mean) @ pca.directions
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
