"""Samples beside their reconstructions: images side by side, series over each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_aeprune import _plots
from keras_aeprune._plots import MUTED, colour, styled
from keras_aeprune._validation import InputError, positive_int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["reconstructions"]

_PIXELS = 64  # a side of a drawn image at most; larger ones are averaged down
_STEPS, _CHANNELS = 256, 3  # of a drawn series at most; the picture says what was left out


@styled
def reconstructions(
    rows: Mapping[str, np.ndarray], sample_shape: Sequence[int], *, n: int | None = None
) -> Figure:
    """The same samples as they are and as each model rebuilds them, one line of pictures per model.

    Images stand side by side; series are drawn over the original. Samples with three axes are images. Samples
    with two axes are images too, unless one side is shorter than 4 or more than 6 times the other: then they
    are (steps, channels). A vector is a series, except where folding it into a square puts alike values under
    each other, as it does with flattened images.

    Args:
        rows: {label: samples of shape (m, *sample_shape) or (m, features)}; the first one is the original.
        sample_shape: shape of one sample.
        n: samples to draw, at least 1; None for 10 images or 4 series.

    Returns:
        The figure.

    Raises:
        InputError: for no rows, an array of another shape, or fewer samples than `n`.

    Example:
        >>> x = np.random.default_rng(0).random((10, 8, 8))
        >>> len(reconstructions({"original": x, "dense": x * 0.9}, (8, 8)).axes)
        2
    """
    if not rows:
        raise InputError("rows: got none, allowed: at least the original samples")
    shape = tuple(int(side) for side in sample_shape)
    arrays = {label: _checked(label, array, shape) for label, array in rows.items()}
    first = next(iter(arrays.values()))
    folded = _image_shape(first)
    wanted = positive_int("n", n) if n is not None else (4 if folded is None else 10)
    fewest = min(len(array) for array in arrays.values())
    if n is not None and fewest < wanted:
        raise InputError(f"n: got {n}, allowed: at most {fewest}, the samples that are given")
    arrays = {label: array[: min(wanted, fewest)] for label, array in arrays.items()}
    return _series(arrays) if folded is None else _images(arrays, folded)


def _checked(label: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim < 1 or len(array) == 0 or array.shape[1:] not in (shape, (math.prod(shape),)):
        raise InputError(
            f"rows[{label!r}]: got shape {array.shape}, allowed: (samples, {', '.join(map(str, shape))})"
        )
    return array.reshape(-1, *shape).astype(np.float64)


def _image_shape(samples: np.ndarray) -> tuple[int, int, int] | None:
    """(height, width, channels) if a sample is an image, None if it is a series."""
    shape = samples.shape[1:]
    if len(shape) == 1:
        side = math.isqrt(shape[0])
        return (side, side, 1) if side >= 4 and side * side == shape[0] and _folds(samples, side) else None
    if len(shape) == 2:
        return (*shape, 1) if min(shape) >= 4 and max(shape) <= 6 * min(shape) else None
    return shape if len(shape) == 3 and min(shape[:2]) > 1 else None


def _folds(samples: np.ndarray, side: int) -> bool:
    """Whether values one row apart are clearly more alike than values half a row apart."""

    def apart(lag: int) -> float:
        return float(np.abs(samples[:, lag:] - samples[:, :-lag]).mean())

    return apart(side) < 0.6 * apart(side // 2)  # real images: 0.2 to 0.4, real series: above 0.9


def _images(arrays: Mapping[str, np.ndarray], shape: tuple[int, int, int]) -> Figure:
    height, width, channels = shape
    first = next(iter(arrays.values()))
    low, high = float(first.min()), float(first.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    count = len(first)
    cell = (_plots.WIDTH - 0.1) / count
    tall = len(arrays) * (min(cell * height / width, 1.0) + 0.21)
    made, axes = _plots.figure(height=tall, rows=len(arrays))
    for place, (label, array) in zip(axes, arrays.items(), strict=True):
        shades = array.reshape(-1, height, width, channels)
        if channels not in (1, 3):
            shades, label = shades[..., :1], f"{label} (first of {channels} channels)"
        shades = np.clip((shades - low) / ((high - low) or 1.0), 0, 1)
        place.imshow(_mosaic(shades), interpolation="none", aspect="equal")
        place.set_title(label, loc="left", pad=2.5, fontsize=8.5)
        place.set_axis_off()
    return made


def _mosaic(shades: np.ndarray) -> np.ndarray:
    """Images of shape (n, h, w, 1 or 3) with values 0..1 side by side, as RGBA bytes, clear between them."""
    shades = np.broadcast_to(_smaller(shades), (*_smaller(shades).shape[:3], 3))
    count, height, width, _ = shades.shape
    gap = max(1, round(width / 14))
    canvas = np.zeros((height, count * (width + gap) - gap, 4), np.uint8)
    for index, image in enumerate(shades):
        left = index * (width + gap)
        canvas[:, left : left + width, :3] = np.round(image * 255)
        canvas[:, left : left + width, 3] = 255
    return canvas


def _smaller(shades: np.ndarray) -> np.ndarray:
    """Images averaged over blocks until no side is longer than `_PIXELS`."""
    block = math.ceil(max(shades.shape[1:3]) / _PIXELS)
    if block == 1:
        return shades
    for axis in (1, 2):
        starts = np.arange(0, shades.shape[axis], block)
        sizes = np.diff(np.append(starts, shades.shape[axis]))
        sums = np.add.reduceat(shades, starts, axis=axis)
        shades = sums / sizes.reshape([-1 if other == axis else 1 for other in range(4)])
    return shades


def _series(arrays: Mapping[str, np.ndarray]) -> Figure:
    (name, first), *others = arrays.items()
    count, steps = first.shape[:2]
    channels = math.prod(first.shape[2:])
    drawn = min(steps, _STEPS)
    left_out = [f"first {drawn} of {steps:,} values"] * (steps > drawn)
    left_out += [f"first {_CHANNELS} of {channels} channels"] * (channels > _CHANNELS)
    cut = {k: a.reshape(count, steps, channels)[:, :drawn, :_CHANNELS] for k, a in arrays.items()}
    gap = max(1, round(drawn / 12))
    low, high = float(cut[name].min()), float(cut[name].max())
    room = 0.12 * ((high - low) or 1.0)
    made, axes = _plots.figure(height=0.95 * max(1, len(others)) + 0.1, rows=max(1, len(others)))
    for place, (label, _) in zip(axes, others or [(name, first)], strict=True):
        for index in range(count):
            x = index * (drawn + gap) + np.arange(drawn)
            place.plot(x, cut[name][index], color=MUTED, linewidth=2.2, alpha=0.55)
            if others:
                place.plot(x, cut[label][index], color=colour(label), linewidth=1.1)
        place.set_ylim(low - room, high + room)
        place.margins(x=0.01)
        title = f"{label} over {name} (grey)" if others else label
        place.set_title(title, loc="left", pad=2.5, fontsize=8.5)
        place.set_xticks([])
        place.spines["bottom"].set_visible(False)
        place.locator_params(axis="y", nbins=4)
    axes[-1].set_xlabel(", ".join(left_out))
    return made
