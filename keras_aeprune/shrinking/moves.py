"""What can be done next to make a model smaller: narrower layers, or fewer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import BudgetError
from keras_aeprune.shrinking.choice import Bounds, counts_for_budget, removed_classes
from keras_aeprune.shrinking.compensation import compensate
from keras_aeprune.shrinking.costs import Costs
from keras_aeprune.shrinking.cutting import cut
from keras_aeprune.shrinking.depth import paired, without
from keras_aeprune.shrinking.planning import kept_with, ranked
from keras_aeprune.shrinking.tracing import Traced, trace

__all__ = ["Move", "costs_of", "moves"]

_LEAST = 0.02  # of the cost that a layer must save to be worth a try


@dataclass(frozen=True, eq=False)
class Move:
    """One way to a smaller model.

    Args:
        text: what it does.
        params: of the model that comes of it.
        macs: of that model.
        make: makes it, compensated on calibration data, uncompiled or compiled like the given one.
    """

    text: str
    params: int
    macs: int
    make: Callable[[], keras.Model]


def costs_of(model: keras.Model) -> dict[str, int]:
    """{"params", "macs"} of a model as it is."""
    traced = trace(model)
    costs, every = Costs(traced), traced.kept([])
    return {"params": costs.params(every), "macs": costs.macs(every)}


def moves(
    model: keras.Model,
    data: Any,
    *,
    by: str,
    target: float,
    criterion: Any,
    loss: Any = None,
    bounds: Bounds,
    layers: bool = True,
    scopes: Sequence[str] = ("layer", "global"),
) -> list[Move]:
    """All moves that make a model cheaper: widths down to `target`, and each layer that can go.

    Args:
        model: a built Keras model.
        data: calibration samples.
        by: "params" or "macs", what a move is to save.
        target: what narrower widths have to reach, in that.
        criterion: as for `plan`.
        loss: as for `plan`.
        bounds: widths that are allowed.
        layers: whether layers may go.
        scopes: how widths are shared out: the same fraction of every group, the lowest scores anywhere.
    """
    traced = trace(model)
    found = _narrower(model, traced, data, by, target, criterion, loss, bounds, scopes)
    if layers:
        found += _shallower(model, traced, data, by)
    return found


def _narrower(
    model: keras.Model,
    traced: Traced,
    data: Any,
    by: str,
    target: float,
    criterion: Any,
    loss: Any,
    bounds: Bounds,
    scopes: Sequence[str],
) -> list[Move]:
    free = [group for group in traced.groups if not group.reason]
    if not free:
        return []
    costs = Costs(traced)
    cost = getattr(costs, by)
    scores, _ = ranked(traced, criterion, data, loss)
    found: list[Move] = []
    seen: set[tuple] = set()
    for scope in scopes:
        try:
            counts = counts_for_budget(
                free, scores, bounds, lambda c: cost(kept_with(traced, scores, c)) <= target, scope=scope
            )
        except BudgetError:
            continue
        gone = removed_classes(traced, scores, counts)
        if tuple(counts) in seen or not any(len(places) for places in gone.values()):
            continue
        seen.add(tuple(counts))
        kept = kept_with(traced, scores, counts)
        changed = [f"{g.name} {g.size}->{c}" for g, c in zip(free, counts, strict=True) if c != g.size]
        text = f"units: {', '.join(changed[:4])}{', ...' if len(changed) > 4 else ''}"
        found.append(Move(text, costs.params(kept), costs.macs(kept), _cutter(model, traced, kept, data)))
    return found


def _cutter(model: keras.Model, traced: Traced, kept: np.ndarray, data: Any) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        small = cut(traced, kept)
        compensate(model, small, traced, kept, data)
        return small

    return make


def _shallower(model: keras.Model, traced: Traced, data: Any, by: str) -> list[Move]:
    now = costs_of(model)
    found: list[Move] = []
    for pair in paired(model):
        for cuts in [[pair[0]], [pair[1]], list(pair)] if len(pair) > 1 else [list(pair)]:
            small = without(model, cuts)
            paths = [f"{cut.path} ({cut.kind})" for cut in cuts]
            costs: Mapping[str, int] = costs_of(small)
            if costs[by] <= (1 - _LEAST) * now[by]:
                text = f"layer{'s' if len(paths) > 1 else ''} out: {', '.join(paths)}"
                make = _refitter(model, traced, small, data)
                found.append(Move(text, costs["params"], costs["macs"], make))
    return found


def _refitter(model: keras.Model, traced: Traced, small: keras.Model, data: Any) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        compensate(model, small, traced, traced.kept([]), data)
        return small

    return make
