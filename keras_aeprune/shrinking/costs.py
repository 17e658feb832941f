"""What a model costs with some of its units gone: parameters, multiplications and bytes, without building it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_aeprune.shrinking.tracing import Traced
from keras_aeprune.shrinking.units import Member, Part

__all__ = ["Costs", "LayerCost"]

FLOAT_BYTES = 4


@dataclass(frozen=True)
class LayerCost:
    """One layer before and after.

    Args:
        path: through nested models.
        kind: name of its class.
        units: (before, after) along the last axis of what it returns; (0, 0) where that is not known.
        params: (before, after), numbers in its weights.
        macs: (before, after), multiplications with its weights for one sample.
    """

    path: str
    kind: str
    units: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]


class Costs:
    """Parameters and multiplications of a traced model for any choice of units.

    Multiplications are those with weights: products of activations with each other, as in attention, are not
    counted, nor is what a layer without a rule does. An axis of unknown length counts as one position.
    """

    def __init__(self, traced: Traced):
        self._members = [m for m in dict.fromkeys(traced.members.values()) if hasattr(m.layer, "weights")]
        seen: set[int] = set()
        self._parts: dict[int, list[Part]] = {}
        self._fixed: dict[int, int] = {}
        for member in self._members:
            own = [part for part in member.parts if id(part.variable) not in seen]
            known = {id(part.variable) for part in member.parts}
            rest = [v for v in member.layer.weights if id(v) not in known | seen]
            self._parts[id(member)] = own
            self._fixed[id(member)] = sum(int(np.prod(v.shape)) for v in rest)
            seen |= known | {id(v) for v in rest}

    def params(self, kept: np.ndarray) -> int:
        """Numbers in all weights."""
        return sum(self._params(member, kept) for member in self._members)

    def macs(self, kept: np.ndarray) -> int:
        """Multiplications with weights for one sample."""
        return sum(self._macs(member, kept) for member in self._members)

    def bytes(self, kept: np.ndarray) -> int:
        """Of all weights as float32."""
        return FLOAT_BYTES * self.params(kept)

    def layers(self, kept: np.ndarray) -> tuple[LayerCost, ...]:
        """Each layer that has weights or whose width changes."""
        every, found = np.ones_like(kept), []
        for member in self._members:
            params = (self._params(member, every), self._params(member, kept))
            ids = member.outputs[0] if member.outputs else None
            units = (0, 0) if ids is None else (len(ids), int(np.count_nonzero(kept[ids])))
            if params[0] or units[0] != units[1]:
                macs = (self._macs(member, every), self._macs(member, kept))
                found.append(LayerCost(member.path, type(member.layer).__name__, units, params, macs))
        return tuple(found)

    def _params(self, member: Member, kept: np.ndarray) -> int:
        return self._fixed[id(member)] + sum(_size(part, kept) for part in self._parts[id(member)])

    def _macs(self, member: Member, kept: np.ndarray) -> int:
        return sum(part.times * _size(part, kept) for part in member.parts if part.times)


def _size(part: Part, kept: np.ndarray) -> int:
    size = 1
    for length, ids in zip(part.variable.shape, part.axes, strict=True):
        size *= length if ids is None else int(np.count_nonzero(kept[ids]))
    return size
