"""Which activations a model is to have: what was measured for each, as a table, as JSON, and applied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune._layers import kernels_of
from keras_aeprune._validation import refuse
from keras_aeprune.shrinking import folding
from keras_aeprune.shrinking.folding import sites
from keras_aeprune.shrinking.text import table

__all__ = ["ActivationChange", "ActivationPlan", "changed"]

_FORMAT = 1


@dataclass(frozen=True)
class ActivationChange:
    """One activation that another takes the place of, or does not.

    Args:
        path, before, after: of the layer, and the names of both activations.
        why: the rule, or what stands against it.
        difference: mean squared difference to the given model's outputs, with it and all accepted before it.
        loss_before, loss_after: without and with it; these three are None where nothing was measured.
        saved: microseconds that it saves; None where no latency was measured.
        off: units that never fire, whose weights become 0 where a relu becomes linear.
    """

    path: str
    before: str
    after: str
    why: str
    difference: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    saved: float | None = None
    off: tuple[int, ...] = ()


@dataclass(frozen=True)
class ActivationPlan:
    """Which activations change, in the order of acceptance, and which do not; made by `simplify`.

    `model` is the name of the model that it was made for; `settings` has samples, limit, losses before and after.

    Example:
        >>> change = ActivationChange("hidden", "gelu", "relu", "relu is fused", 0.001, 0.020, 0.021)
        >>> settings = {"samples": 256, "limit": 0.021, "loss": 0.020, "loss_after": 0.021}
        >>> print(str(ActivationPlan("ae", (change,), (), settings)).splitlines()[0])
        Plan for 'ae': 1 activations change, loss 0.02 -> 0.021 (limit 0.021, 256 samples)
    """

    model: str
    changes: tuple[ActivationChange, ...]
    refused: tuple[ActivationChange, ...]
    settings: Mapping[str, Any]

    def apply(self, model: keras.Model) -> keras.Model:
        """A new model with the plan's activations, compiled like the given one; InputError where layers differ."""
        return changed(model, self.changes)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {"format": _FORMAT, **json.loads(json.dumps(asdict(self), allow_nan=False))}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ActivationPlan:
        """The plan that `to_dict` gave; other values raise an InputError."""
        try:
            if value["format"] != _FORMAT:
                raise KeyError("format")
            parts = [[{**one, "off": tuple(one["off"])} for one in value[name]] for name in ("changes", "refused")]
            changes, refused = (tuple(ActivationChange(**one) for one in part) for part in parts)
            return cls(value["model"], changes, refused, dict(value["settings"]))
        except (KeyError, TypeError, ValueError) as error:
            allowed = f"what ActivationPlan.to_dict gave (format {_FORMAT}; {type(error).__name__}: {error})"
            raise refuse("plan", value, allowed) from None

    def __str__(self) -> str:
        before, after, limit = (f"{self.settings[name]:.4g}" for name in ("loss", "loss_after", "limit"))
        title = f"Plan for {self.model!r}: {len(self.changes)} activations change, loss {before} -> {after}"
        lines = [f"{title} (limit {limit}, {self.settings['samples']} samples)"]
        head, rows = ["layer", "from", "to", "done", "difference", "loss", "with it", "saved us", "why"], []
        for one in (*self.changes, *self.refused):
            figures = (one.difference, one.loss_before, one.loss_after, one.saved)
            cells = ["-" if value is None else f"{value:.4g}" for value in figures]
            rows.append([one.path, one.before, one.after, "yes" if one in self.changes else "no", *cells, one.why])
        return "\n".join(lines + (table(head, rows, left=len(head)) if rows else []))


def changed(model: keras.Model, changes: Sequence[ActivationChange]) -> keras.Model:
    """A new model with some changes; units that are always OFF get weights of 0 where the relu goes."""
    found = {site.path: site for site in sites(model)}
    for one in changes:
        site = found.get(one.path)
        if site is None or site.fixed or site.name != one.before:
            raise refuse(f"model, {one.path}", site and site.name, f"{one.before}, as the plan was made for")
    result, twins = folding.rebuilt(model, [(found[one.path], one.after) for one in changes])
    for one in changes:
        layer = twins[one.path]
        silenced = ((layer.kernel, next(iter(kernels_of(layer) or ())).axis), (layer.bias, 0)) if one.off else ()
        for variable, axis in silenced:
            if variable is not None:
                values = np.moveaxis(keras.ops.convert_to_numpy(variable).copy(), axis, 0)
                values[list(one.off)] = 0
                variable.assign(np.moveaxis(values, 0, axis))
    return result
