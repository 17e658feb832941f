"""Weights that fit behind the activation: a few regressions in place of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from keras_aeprune.shrinking.regression import solver

__all__ = ["Curve", "curve_of", "refined"]

_ROUNDS, _PATIENCE = 500, 8
_GAIN = 1e-4  # fraction of the error that a round has to win, or it is one of those that did not
_WORK = 4e9  # multiplications for one layer: wide ones cost many and win little


@dataclass(frozen=True)
class Curve:
    """An activation, and what its inputs should move to where its outputs are to come nearer to others.

    Args:
        value: of the activation, elementwise.
        aim: (wanted inputs, wanted outputs, inputs now) -> inputs to fit next.
        smooth: whether momentum helps.
    """

    value: Callable[[np.ndarray], np.ndarray]
    aim: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    smooth: bool = True


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def _relu_aim(wanted: np.ndarray, outputs: np.ndarray, now: np.ndarray) -> np.ndarray:
    return np.where(wanted > 0, wanted, np.minimum(now, 0))  # any negative number is right where 0 is wanted


def _sigmoid_aim(wanted: np.ndarray, outputs: np.ndarray, now: np.ndarray) -> np.ndarray:
    found = _sigmoid(now)
    return now - found * (1 - found) * (found - outputs) / 0.16  # the curvature is at most 1/16 + 1/(6 sqrt 3)


def _tanh_aim(wanted: np.ndarray, outputs: np.ndarray, now: np.ndarray) -> np.ndarray:
    found = np.tanh(now)
    return now - (1 - np.square(found)) * (found - outputs) / 2.54  # 1 + 2 * 4/(3 sqrt 3)


_CURVES = {
    keras.activations.relu: Curve(lambda z: np.maximum(z, 0), _relu_aim, smooth=False),
    keras.activations.sigmoid: Curve(_sigmoid, _sigmoid_aim),
    keras.activations.tanh: Curve(np.tanh, _tanh_aim),
}


def curve_of(layer: keras.layers.Layer) -> Curve | None:
    """The curve of a layer's own activation; None for a linear one and for those that are not known here."""
    return _CURVES.get(getattr(layer, "activation", None))


def refined(
    curve: Curve,
    x: np.ndarray,
    wanted: np.ndarray,
    prior: tuple[np.ndarray, np.ndarray | None],
    first: tuple[np.ndarray, np.ndarray | None],
    ridge: float,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel and bias with |f(wanted) - f(x W + b)|^2 + r |W - prior|^2 smaller than with the first ones.

    One round fits x W + b to numbers that lie on the way from the present ones to outputs nearer to the wanted:
    those minimize a bound of the error that touches it at the present ones (majorization), so that the factors of
    the regression serve all rounds. For a relu what is wanted below 0 is met by anything below 0. Zhang et al.
    2015, https://arxiv.org/abs/1505.06798, put a relu into the fit in a like manner.

    Args:
        curve: f.
        x: what the kernel is multiplied with, shape (rows, features).
        wanted: inputs of the activation, shape (rows, units).
        prior: kernel and bias as they were cut; a bias of None stays None.
        first: those to begin with.
        ridge: as for `fit_linear`, > 0.

    Returns:
        The best that was found; `first` where nothing was better.

    Example:
        >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])  # wanted is 2 x where it is seen, and anything below 0
        >>> wanted, none = np.array([[-1.0], [-9.0], [2.0], [4.0]]), np.zeros((1, 1))
        >>> plain = (np.array([[2.3]]), None)
        >>> kernel, _ = refined(curve_of(keras.layers.Dense(1, "relu")), x, wanted, (none, None), plain, 1e-9)
        >>> round(float(kernel[0, 0]), 3)
        2.0
    """
    kernel, bias = prior
    rows, features = x.shape
    centre = np.zeros(features) if bias is None else x.mean(axis=0)
    try:
        solve = solver(x - centre, ridge)
    except np.linalg.LinAlgError:
        return first
    base, outputs = x @ kernel, curve.value(wanted)
    found, offset = first
    now = before = x @ found + (0.0 if offset is None else offset)
    best = (np.square(outputs - curve.value(now)).sum(), first)
    waited = 0
    for number in range(min(_ROUNDS, int(_WORK / (2 * rows * features * wanted.shape[1])))):
        ahead = now + number / (number + 3) * (now - before) if curve.smooth else now
        missing = curve.aim(wanted, outputs, ahead) - base
        middle = 0.0 if bias is None else missing.mean(axis=0)
        change = solve(missing - middle)
        found, offset = kernel + change, None if bias is None else middle - centre @ change
        before, now = now, x @ found + (0.0 if offset is None else offset)
        error = np.square(outputs - curve.value(now)).sum()
        waited = 0 if error < best[0] * (1 - _GAIN) else waited + 1
        if error < best[0]:
            best = (error, (found, offset))
        if waited == _PATIENCE:
            break
    return best[1]
