"""The best subspace of a linear code, in place of the best of its units."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers as kl

from keras_aeprune.shrinking.regression import fit_linear
from keras_aeprune.shrinking.tracing import Traced
from keras_aeprune.shrinking.units import Member

__all__ = ["best_subspace", "next_of"]


def next_of(traced: Traced, kept: np.ndarray) -> dict[int, Any]:
    """{id of a linear layer that loses units: the only layer that takes what it makes, a Dense one with a bias}.

    What lies between them may be any basis of their subspace: nobody else sees it.

    Args:
        traced: of the large model.
        kept: for each unit whether it stays.
    """
    members = list(dict.fromkeys(traced.members.values()))
    found = {}
    for member in members:
        if not _dense(member.layer) or member.layer.activation.__name__ != "linear" or not member.mixed:
            continue
        made = member.made[""]
        classes = traced.classes[made]
        if kept[made].all() or any(_meets(traced, classes, m.made.values()) for m in members if m is not member):
            continue
        takers = [m for m in members if _meets(traced, classes, m.inputs)]
        if len(takers) == 1 and _takes(takers[0], made):
            found[id(member.layer)] = takers[0].layer
    return found


def _dense(layer: Any) -> bool:
    return type(layer) is kl.Dense and layer.bias is not None


def _meets(traced: Traced, classes: np.ndarray, several: Any) -> bool:
    return any(ids is not None and bool(np.isin(traced.classes[ids], classes).any()) for ids in several)


def _takes(member: Member, made: np.ndarray) -> bool:
    one = len(member.inputs) == 1 and bool(member.mixed) and _dense(member.layer)
    taken = member.inputs[0] if one else None
    return taken is not None and np.array_equal(taken, made)


def best_subspace(
    x: np.ndarray, code: np.ndarray, kernel: np.ndarray, width: int, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """The two kernels A, C with `width` numbers between them that make |code kernel - x A C| smallest.

    Reduced-rank regression: D = argmin |code - x D|^2 + r |D|^2; with kernel = R' Q', Q'Q = I, and V the first
    `width` right singular vectors of x D R',

        A = D R' V,   C = V' Q'

    so that the numbers between are uncorrelated and, each divided by one common number, about as large as the code
    was. Izenman 1975, https://doi.org/10.1016/0047-259X(75)90042-1.

    Args:
        x: what the layer of the small model reads, mean 0, shape (rows, features).
        code: what the large model's layer makes, mean 0, shape (rows, units).
        kernel: of the next layer of the large model, at the units that stay, shape (units, outputs).
        width: numbers between, 1 <= width <= units.
        ridge: as for `fit_linear`, > 0.

    Returns:
        A, shape (features, width), and C, shape (width, outputs).

    Example:
        >>> x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> a, c = best_subspace(x, x, np.array([[3.0], [4.0]]), 1, 1e-12)  # one output needs one number
        >>> np.round(a @ c, 6).tolist()
        [[3.0], [4.0]]
    """
    if x.shape[1] <= len(x):
        taken = fit_linear(x.T @ x, x.T @ code, np.zeros((x.shape[1], code.shape[1])), ridge)
    else:  # as many equations as rows
        share = ridge * len(x) / x.shape[1]
        taken = x.T @ fit_linear(x @ x.T, code, np.zeros_like(code), share)
    basis, triangle = np.linalg.qr(kernel.T)
    ways = taken @ triangle.T
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov((x @ ways).T)))
    vectors = vectors[:, ::-1][:, :width]
    first, second = ways @ vectors, vectors.T @ basis.T
    size = np.sqrt(np.square(x @ first).mean() / max(np.square(code).mean(), np.finfo(np.float32).tiny))
    size = size if size > 0 else 1.0
    return first / size, size * second
