"""Choose units by what is lost when the next layer makes up for them as well as it can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune import calibration
from keras_aeprune.shrinking.inputs import check_samples, recorder
from keras_aeprune.shrinking.tracing import Group, Traced
from keras_aeprune.shrinking.units import Member, Part

__all__ = ["Consumer", "consumers", "elimination_scores", "eliminate"]

_ROWS = 20_000  # positions of one layer's input that are looked at
_BATCH = 256
_LARGEST = 4096  # columns of a layer's input whose second moments are held


@dataclass(eq=False)
class Consumer:
    """A layer's input on data, as far as its own weights tell what matters of it.

    Args:
        gram: second moments of its columns, shape (columns, columns).
        weights: what it makes of each column, shape (columns, outputs).
        classes: class of units of each column.
    """

    gram: np.ndarray
    weights: np.ndarray
    classes: np.ndarray


def eliminate(consumers: Sequence[Consumer], classes: np.ndarray, *, damping: float = 1e-2) -> np.ndarray:
    """Take classes out one by one, always the one whose loss can best be made up for, and say when each went.

    With G = X'X / n and the weights W of a layer that takes X, the least error of its output without the columns
    S, when the remaining weights are refitted, grows by

        sum over outputs of w_S' ((G^-1)_SS)^-1 w_S

    after which W and G^-1 are those without S (Optimal Brain Surgeon, Hassibi and Stork 1992,
    https://papers.nips.cc/paper/1992/hash/303ed4c69846ab36c2904d3ba8573050-Abstract.html, for columns instead of
    single weights). Errors of several layers that take the same units are added, each relative to its output's
    power.

    Args:
        consumers: layers that take these units.
        classes: numbers of the classes that may go; 1 or more.
        damping: added to the diagonal of G, as a fraction of its mean, > 0.

    Returns:
        float64 array, for each of `classes` the relative error of the outputs once it is gone, with all that
        went before it; ascending in the order of going, so a higher one stays longer.

    Example:
        >>> gram = np.diag([4.0, 1.0, 1.0])
        >>> one = Consumer(gram, np.array([[1.0], [3.0], [1.0]]), np.array([0, 1, 2]))
        >>> eliminate([one], np.array([0, 1, 2]), damping=1e-9).round(3).tolist()  # of 4 + 9 + 1
        [0.357, 1.0, 0.071]
    """
    parts = [part for one in consumers if (part := _Columns.of(one, classes, damping)) is not None]
    left, found, gone = np.ones(len(classes), bool), np.zeros(len(classes)), 0.0
    for _ in range(len(classes)):
        rise = np.where(left, sum((part.rises() for part in parts), np.zeros(len(classes))), np.inf)
        number = int(np.argmin(rise))
        gone += float(rise[number])
        found[number], left[number] = gone, False
        for part in parts:
            part.take(number)
    return found


class _Columns:
    """One layer's columns while classes of them go: G^-1 and W W', which is all that the error needs of W."""

    def __init__(self, inverse: np.ndarray, power: np.ndarray, owner: np.ndarray, count: int):
        self.inverse, self.power, self.owner, self.count = inverse, power, owner, count
        self.single = len(np.unique(owner[owner >= 0])) == np.count_nonzero(owner >= 0)
        self.live = np.ones(len(owner), bool)

    @classmethod
    def of(cls, one: Consumer, classes: np.ndarray, damping: float) -> _Columns | None:
        """The columns of a layer; None for one whose output is always 0."""
        power = one.weights @ one.weights.T
        whole, mean = float(np.einsum("ij,ij->", power, one.gram)), float(np.trace(one.gram)) / len(one.gram)
        if whole <= 0 or mean <= 0:
            return None
        places = np.searchsorted(classes, one.classes, sorter=(order := np.argsort(classes)))
        at = order[np.minimum(places, len(classes) - 1)]
        owner = np.where(classes[at] == one.classes, at, -1)
        inverse = np.linalg.inv(one.gram + damping * mean * np.eye(len(one.gram)))
        return cls(inverse, power / whole, owner, len(classes))

    def rises(self) -> np.ndarray:
        """For each class the growth of the relative error if it goes next; 0 for one that is not taken here."""
        found = np.zeros(self.count)
        if self.single:
            own = self.live & (self.owner >= 0)
            ratio = np.diagonal(self.power)[own] / np.diagonal(self.inverse)[own]
            found[self.owner[own]] = ratio
            return found
        for number in np.unique(self.owner[self.live & (self.owner >= 0)]):
            at = np.flatnonzero(self.live & (self.owner == number))
            block = np.ix_(at, at)
            found[number] = np.trace(np.linalg.solve(self.inverse[block], self.power[block]))
        return found

    def take(self, number: int) -> None:
        """Let a class go, and refit."""
        at = np.flatnonzero(self.live & (self.owner == number))
        if not len(at):
            return
        across = np.linalg.solve(self.inverse[np.ix_(at, at)], self.inverse[at]).T
        own = self.power[at]
        mixed = across @ (own - 0.5 * own[:, at] @ across.T)
        self.power -= mixed
        self.power -= mixed.T
        self.inverse -= across @ self.inverse[at]
        self.live[at] = False
        if self.live.sum() < 0.75 * len(self.live):  # smaller arrays from here on
            keep = np.flatnonzero(self.live)
            self.power, self.inverse = self.power[np.ix_(keep, keep)], self.inverse[np.ix_(keep, keep)]
            self.owner, self.live = self.owner[keep], self.live[keep]


def consumers(traced: Traced, data: Any, *, samples: int = 2048, seed: int = 0) -> dict[int, list[Consumer]]:
    """{class: the layers that take its units}, with their inputs' second moments on calibration data.

    Layers that are looked at: those whose kernel takes the last axis of their first input (Dense, convolutions,
    recurrent kernels). A convolution's window is taken apart: the moments are those of its channels.

    Args:
        traced: the model with its units.
        data: calibration samples, as for `calibration.get`.
        samples: that are used at most, >= 1.
        seed: of their draw, and of the positions that are looked at.
    """
    outer = [(m, found) for m in dict.fromkeys(traced.members.values()) for found in [_outer(m)] if found]
    known = calibration.get(data, samples=samples, seed=seed)
    record = recorder(traced.model, [m.layer for m, _ in outer])
    check_samples(traced.model, known.x)
    arrays = keras.tree.flatten(known.x)
    count = len(arrays[0])
    random = np.random.default_rng(seed)
    sums: list[Any] = [0.0] * len(outer)
    rows = [0] * len(outer)
    for start in range(0, count, _BATCH):
        batch = [a[start : start + _BATCH] for a in arrays]
        for number, calls in enumerate(record(batch if len(batch) > 1 else batch[0])):
            for call in calls:
                values = np.asarray(call[0], np.float64)
                values = values.reshape(-1, values.shape[-1])
                most = max(1, _ROWS * _BATCH // max(count, _BATCH))
                if len(values) > most:
                    values = values[random.choice(len(values), most, replace=False)]
                sums[number] = sums[number] + values.T @ values
                rows[number] += len(values)
    found: dict[int, list[Consumer]] = {}
    for (_, (part, takes)), total, n in zip(outer, sums, rows, strict=True):
        values = np.moveaxis(keras.ops.convert_to_numpy(part.variable).astype(np.float64), takes, 0)
        ids = traced.classes[part.along(takes)]
        one = Consumer(total / max(n, 1), values.reshape(len(values), -1), ids)
        for number in np.unique(ids).tolist():
            found.setdefault(number, []).append(one)
    return found


def _outer(member: Member) -> tuple[Part, int] | None:
    """The kernel that takes the layer's first input, and its axis for it; None where it is too wide to handle."""
    if tuple(member.mixed) != (0,) or member.inputs[0] is None or len(member.inputs[0]) > _LARGEST:
        return None
    for part in member.parts:
        ids = part.axes[part.takes] if part.takes is not None else None
        if part.takes is not None and ids is not None and np.array_equal(ids, member.inputs[0]):
            return part, part.takes
    return None


def elimination_scores(
    traced: Traced, groups: Sequence[Group], data: Any, *, samples: int = 2048, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Scores of all classes by `eliminate`, and the names of groups that no such layer takes.

    Args:
        traced: the model with its units.
        groups: that can be cut.
        data: calibration samples.
        samples: as for `consumers`.
        seed: as for `consumers`.
    """
    taken = consumers(traced, data, samples=samples, seed=seed)
    scores, unknown = np.zeros(len(traced.classes)), []
    for group in groups:
        own = {id(one): one for number in group.classes.tolist() for one in taken.get(number, ())}
        if not own:
            unknown.append(group.name)
            continue
        scores[group.classes] = eliminate(list(own.values()), group.classes)
    return scores, unknown
