"""What will be cut out of a model, and the two models that come of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import _files
from keras_aeprune._validation import InputError, shown
from keras_aeprune.shrinking.compensation import compensate
from keras_aeprune.shrinking.costs import LayerCost
from keras_aeprune.shrinking.cutting import cut, masked
from keras_aeprune.shrinking.text import plan_table
from keras_aeprune.shrinking.tracing import Traced, trace

__all__ = ["GroupCut", "ShrinkPlan"]

_FORMAT = 1


@dataclass(frozen=True)
class GroupCut:
    """What goes of one group of units.

    Args:
        name: path of the first layer that makes them.
        makers: all layers that make them; their units go together.
        units: how many there are.
        removed: positions of those that go, ascending, 0 <= position < units.

    Example:
        >>> GroupCut("encoder/code", ("encoder/code",), units=8, removed=(1, 5)).kept
        6
    """

    name: str
    makers: tuple[str, ...]
    units: int
    removed: tuple[int, ...]

    @property
    def kept(self) -> int:
        """How many stay."""
        return self.units - len(self.removed)


@dataclass(frozen=True)
class ShrinkPlan:
    """Which units go, layer by layer, before anything is changed; made by `shrinking.plan`.

    print(plan) shows it like model.summary(), with before and after. It is plain data: `to_dict` and `save` write
    it as JSON, and it can be applied to any model of the same architecture.

    Args:
        model: name of the model that it was made for.
        groups: groups of units that can be cut, those included of which nothing goes.
        skipped: (group, why it stays whole).
        layers: costs of each layer before and after.
        settings: how it was made.
        notes: what its reader should know.

    Example:
        >>> from keras_aeprune.models import dense
        >>> from keras_aeprune.shrinking.planning import plan
        >>> ae = dense((16,), 4, hidden_units=(32,))
        >>> made = plan(ae, keep={"encoder/hidden_1": 0.5})
        >>> ae.count_params(), made.apply(ae).count_params()
        (1364, 1028)
    """

    model: str
    groups: tuple[GroupCut, ...]
    skipped: tuple[tuple[str, str], ...]
    layers: tuple[LayerCost, ...]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def apply(self, model: keras.Model, *, data: Any = None) -> keras.Model:
        """The smaller model; the given one stays as it is.

        Args:
            model: the one that the plan was made for, or one of the same architecture.
            data: calibration samples: the layers that stay then get, in closed form, the weights that come nearest
                to the given model's outputs (see `compensate`); None keeps the weights as they are.

        Returns:
            A new model of the same kind, compiled like the given one with a new optimizer. Without `data` its
            outputs are those of `masked(model)`, in float32 within 1e-5 of the largest.

        Raises:
            InputError: for a model of another architecture.
        """
        traced = self._traced(model)
        small = cut(traced, self.kept(traced))
        if data is not None:
            compensate(model, small, traced, self.kept(traced), data)
        return small

    def masked(self, model: keras.Model) -> keras.Model:
        """A copy of the large model in which removed units count as zero wherever they are taken up.

        Args:
            model: as for `apply`.

        Raises:
            InputError: as for `apply`.
        """
        traced = self._traced(model)
        return masked(traced, self.kept(traced))

    def kept(self, traced: Traced) -> np.ndarray:
        """For each unit of a traced model whether it stays."""
        by_name = {group.name: group for group in traced.groups}
        gone = [by_name[one.name].classes[list(one.removed)] for one in self.groups if one.removed]
        return traced.kept(np.concatenate(gone) if gone else [])

    @property
    def params(self) -> tuple[int, int]:
        """Numbers in all weights, before and after."""
        return self._total("params")

    @property
    def macs(self) -> tuple[int, int]:
        """Multiplications with weights for one sample, before and after."""
        return self._total("macs")

    @property
    def removed(self) -> int:
        """How many units of all groups go."""
        return sum(len(group.removed) for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {"format": _FORMAT, **asdict(self), "settings": dict(self.settings)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ShrinkPlan:
        """The plan that `to_dict` gave.

        Raises:
            InputError: for other values.
        """
        try:
            if value["format"] != _FORMAT:
                raise KeyError("format")
            return cls(
                value["model"],
                tuple(GroupCut(**_tuples(one)) for one in value["groups"]),
                tuple((name, reason) for name, reason in value["skipped"]),
                tuple(LayerCost(**_tuples(one)) for one in value["layers"]),
                dict(value["settings"]),
                tuple(value["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"plan: got {shown(value)} ({type(error).__name__}: {error}), allowed: what ShrinkPlan.to_dict "
                f"gave (format {_FORMAT})"
            ) from None

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        _files.write_json(path, json.loads(json.dumps(self.to_dict())))

    @classmethod
    def load(cls, path: str | Path) -> ShrinkPlan:
        """Read what `save` wrote.

        Raises:
            InputError: if there is no such file, or it holds something else.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"plan: cannot read {str(path)!r} ({error}), allowed: a file of ShrinkPlan.save"
            ) from None
        return cls.from_dict(value)

    def __str__(self) -> str:
        return plan_table(self)

    def _total(self, name: str) -> tuple[int, int]:
        pairs = [getattr(layer, name) for layer in self.layers]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def _traced(self, model: keras.Model) -> Traced:
        traced = trace(model, accept_normalization=bool(self.settings.get("accept_normalization")))
        found = {group.name: group.size for group in traced.groups if not group.reason}
        wanted = {group.name: group.units for group in self.groups}
        if found != wanted:
            names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            seen = ", ".join(
                f"{n}: {wanted.get(n, 'none')} in the plan, {found.get(n, 'none')} here" for n in names[:3]
            )
            raise InputError(
                f"model: {model.name!r} has other groups of units than the plan for {self.model!r} ({seen}), "
                "allowed: a model of the same architecture; make a new plan"
            )
        return traced


def _tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(item) if isinstance(item, Sequence) and not isinstance(item, str) else item
        for key, item in value.items()
    }
