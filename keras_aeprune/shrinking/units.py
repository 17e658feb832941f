"""Units of a model, and which of them can only go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Flow", "Member", "Part", "Units"]


class Units:
    """Numbers for all units of a model; joined ones must go together, kept ones must stay.

    Example:
        >>> units = Units()
        >>> a, b = units.new(3), units.new(3)
        >>> units.join(a, b)
        >>> units.keep(b[2:], "output of the model")
        >>> units.classes()[b].tolist(), units.reasons()
        ([0, 1, 2], {2: 'output of the model'})
    """

    def __init__(self) -> None:
        self._count = 0
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._kept: list[tuple[np.ndarray, str]] = []

    def new(self, count: int) -> np.ndarray:
        """Numbers of `count` more units."""
        found = np.arange(self._count, self._count + count)
        self._count += count
        return found

    def join(self, ids: np.ndarray, others: np.ndarray) -> None:
        """Let each unit of `ids` go only with the one at its place in `others`; arrays of one shape."""
        if ids is not others:
            self._pairs.append((np.ravel(ids), np.ravel(np.broadcast_to(others, np.shape(ids)))))

    def keep(self, ids: np.ndarray | None, reason: str) -> None:
        """Let units stay; the first reason that is given for one is shown."""
        if ids is not None and len(ids):
            self._kept.append((np.ravel(ids), reason))

    def classes(self) -> np.ndarray:
        """For each unit the lowest number among those that go with it."""
        found = np.arange(self._count)
        if not self._pairs:
            return found
        ids, others = (np.concatenate(side) for side in zip(*self._pairs, strict=True))
        while True:
            lowest = np.minimum(found[ids], found[others])
            before = found.copy()
            for side in (ids, others):
                np.minimum.at(found, before[side], lowest)  # the class itself, and so all that point to it
                np.minimum.at(found, side, lowest)
            found = found[found]
            if np.array_equal(found, before):
                return found

    def reasons(self) -> dict[int, str]:
        """{class that stays: why}."""
        classes = self.classes()
        found: dict[int, str] = {}
        for ids, reason in self._kept:
            for number in np.unique(classes[ids]).tolist():
                found.setdefault(number, reason)
        return found


@dataclass(frozen=True, eq=False)
class Flow:
    """What stands for a tensor: its shape without the batch axis, and the units along its last axis."""

    shape: tuple[int | None, ...]
    ids: np.ndarray | None = None

    @property
    def units(self) -> np.ndarray:
        """`ids` of a tensor that is known to have some."""
        if self.ids is None:
            raise ValueError(f"a tensor of shape {self.shape} has no known units")
        return self.ids


@dataclass(frozen=True, eq=False)
class Part:
    """One weight of a layer, and the units along its axes.

    Args:
        variable: the weight.
        axes: for each axis the units along it, or None where it has none that could go.
        takes: axis of the units that come in and are mixed; None where none are.
        makes: axis of the units that this weight makes; None where it makes none.
        times: how often each number of it is multiplied for one sample; 0 for what is added or folded away.
    """

    variable: Any
    axes: tuple[np.ndarray | None, ...]
    takes: int | None = None
    makes: int | None = None
    times: int = 0

    def along(self, axis: int | None) -> np.ndarray:
        """The units along an axis that is known to have some."""
        ids = None if axis is None else self.axes[axis]
        if ids is None:
            raise ValueError(f"a weight of shape {tuple(self.variable.shape)} has no known units along {axis}")
        return ids


@dataclass(eq=False)
class Member:
    """A layer of a model: the units that come in, pass and go out.

    Args:
        path: through nested models.
        layer: it.
        inputs: units of each tensor that it is called with, None for one without.
        outputs: units of each tensor that it returns.
        mixed: positions of the inputs that it mixes: a unit that is gone counts as zero there.
        parts: its weights.
        made: names and units of what it makes: {"": output units, "heads": ...}.
        resized: changes of its config, as a function of how many units are kept: resized(count) -> dict.
    """

    path: str
    layer: Any
    inputs: list[np.ndarray | None]
    outputs: list[np.ndarray | None] = field(default_factory=list)
    mixed: Sequence[int] = ()
    parts: list[Part] = field(default_factory=list)
    made: dict[str, np.ndarray] = field(default_factory=dict)
    resized: Any = None
