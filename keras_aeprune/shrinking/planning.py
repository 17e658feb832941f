"""Decide which units of a model go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_aeprune import criteria
from keras_aeprune._progress import Say, silent
from keras_aeprune._validation import InputError, positive_number, refuse
from keras_aeprune.shrinking.choice import (
    Bounds,
    counts_by_name,
    counts_for_budget,
    known_scope,
    removed_classes,
)
from keras_aeprune.shrinking.costs import Costs
from keras_aeprune.shrinking.elimination import elimination_scores
from keras_aeprune.shrinking.limit import Limit
from keras_aeprune.shrinking.ranking import class_scores
from keras_aeprune.shrinking.shrink_plan import GroupCut, ShrinkPlan
from keras_aeprune.shrinking.tracing import Group, Traced, trace

__all__ = ["ELIMINATION", "made_plan", "plan", "unused"]

ELIMINATION = "elimination"
_TARGETS = ("params", "macs", "bytes")


def plan(
    model: keras.Model,
    criterion: Any = "magnitude",
    *,
    keep: Any = None,
    target_params: float | None = None,
    target_macs: float | None = None,
    target_bytes: float | None = None,
    max_error_increase: float | None = None,
    data: Any = None,
    loss: Any = None,
    scope: str = "layer",
    round_to: int = 8,
    minimum: Any = 1,
    maximum: Any = None,
    mirror: bool = False,
    accept_normalization: bool = False,
) -> ShrinkPlan:
    """Find out which units of a model can go together, and which of them go.

    Units are neurons, filters, recurrent units and attention heads. Those that meet in an Add or a Multiply, or at
    the same place of a layer that is used twice, can only go together; inputs and outputs of the model stay. Units
    that nothing takes up any more, since all weights behind them are zero after pruning, always go first, and go
    alone where neither `keep` nor a target is given.

    Nothing is changed: print the plan, then `plan.apply(model)` makes the smaller model. For a model that keeps
    its error, `compensate` and train after the cut, or use `shrink_until`, which does all of it in rounds.

    Args:
        model: a built Keras model: Sequential, functional, nested, or subclassed if its call can be traced.
        criterion: what ranks units: a name or instance from `keras_aeprune.criteria`, or "elimination": units go
            one by one, always the one whose loss the next layer can best make up for (needs data; see
            `shrinking.eliminate`; pair it with `compensate`).
        keep: fraction of the units of each group that stay, 0 < keep <= 1; or {name or pattern: fraction or
            number of units}, groups that are not named stay whole.
        target_params: numbers in all weights at most, > 0.
        target_macs: multiplications with weights for one sample at most, > 0.
        target_bytes: bytes of all weights as float32 at most, > 0. An int8 file has about a quarter of them.
        max_error_increase: fraction by which the loss may grow through the cut, >= 0, before any training: the
            narrowest widths at which the cut and compensated model keeps it, judged on a quarter of `data`, which
            the compensation does not see.
        data: calibration samples, for criteria that need them and for `max_error_increase`: x for an autoencoder,
            (x, y) otherwise.
        loss: as for `criteria.scores`.
        scope: for a target or limit, "layer" keeps the same fraction of every group, "global" takes the lowest
            scores wherever they are (each layer's scores are divided by their root mean square first).
        round_to: kept widths are rounded up to a multiple of it, 1 or more; 8 and 16 are fast on phones. Groups
            of up to so many units stay whole.
        minimum: units that stay at least in each group, 1 or more; or {name or pattern: units}.
        maximum: units that stay at most; None for all; or {name or pattern: units}.
        mirror: whether groups of about one size, as far from the input as from the output, keep the same width.
        accept_normalization: whether layers that normalize across units, or a softmax over them, may go on over
            the kept ones. `masked` then still normalizes over all, and is no reference any more.

    Returns:
        A `ShrinkPlan`.

    Raises:
        InputError: for arguments that cannot be used, or more than one of `keep`, the targets and the limit.
        BudgetError: if the narrowest widths that are allowed do not meet a target.

    Example:
        >>> model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(64, "relu", name="hidden"),
        ...                           keras.layers.Dense(16, name="out")])
        >>> half = plan(model, keep=0.5)
        >>> half.params, half.apply(model).get_layer("hidden").units
        ((2128, 1072), 32)
        >>> print(half)
        Plan for ...: 32 of 64 units go
        layer   kind      units      parameters            MACs
        hidden  Dense  64 -> 32    1,088 -> 544    1,024 -> 512
        out     Dense        16    1,040 -> 528    1,024 -> 512
        all                      2,128 -> 1,072  2,048 -> 1,024
        parameters x0.50, MACs x0.50, float32 weights 8.5 -> 4.3 kB
    """
    targets = dict(zip(_TARGETS, (target_params, target_macs, target_bytes), strict=True))
    budgets = {"keep": keep, **{f"target_{name}": value for name, value in targets.items()}}
    budgets["max_error_increase"] = max_error_increase
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"plan: got {' and '.join(given)}, allowed: one of {', '.join(budgets)}")
    traced = trace(model, accept_normalization=accept_normalization)
    bounds = Bounds(round_to, minimum, maximum, mirror)
    bounds.check(traced.groups)
    known_scope(scope)
    if keep is not None:
        counts_by_name(traced.groups, keep, bounds)  # refuses before anything is measured
    scores, notes = ranked(traced, criterion, data, loss)
    free = [group for group in traced.groups if not group.reason]
    costs = Costs(traced)
    if keep is not None:
        counts = counts_by_name(traced.groups, keep, bounds)
    elif max_error_increase is not None:
        limit = Limit(traced, max_error_increase, data, loss)
        counts = counts_for_budget(
            free,
            scores,
            bounds,
            lambda counts: limit.holds(kept_with(traced, scores, counts)),
            scope=scope,
            narrowest=True,
        )
        notes.append(limit.told)
    elif given:
        name = given[0].removeprefix("target_")
        most = positive_number(given[0], targets[name])
        cost: Callable[[np.ndarray], int] = getattr(costs, name)

        def total(counts: Sequence[int]) -> int:
            return cost(kept_with(traced, scores, counts))

        counts = counts_for_budget(
            free,
            scores,
            bounds,
            lambda counts: total(counts) <= most,
            scope=scope,
            told=lambda counts: f"target_{name}={most:,.0f}, and there are {total(counts):,} {name}",
        )
    else:
        counts = bounds.widths(free, [int(np.isfinite(scores[g.classes]).sum()) for g in free])
    settings = {
        "criterion": str(criterion),
        **{name: _plain(value) for name, value in budgets.items()},
        **{"scope": scope, "round_to": round_to, "mirror": mirror, "accept_normalization": accept_normalization},
    }
    return made_plan(traced, removed_classes(traced, scores, counts), settings, notes)


def known_criterion(criterion: Any) -> Any:
    """A criterion of `keras_aeprune.criteria`, or "elimination" itself.

    Raises:
        InputError: for another name, with those that there are.
    """
    if isinstance(criterion, str) and criterion == ELIMINATION:
        return criterion
    try:
        return criteria.get(criterion)
    except InputError as error:
        raise InputError(f"{error}; or {ELIMINATION}") from None


def ranked(
    traced: Traced, criterion: Any, data: Any = None, loss: Any = None, say: Say = silent
) -> tuple[np.ndarray, list[str]]:
    """Scores of all classes, -inf for those that nothing takes up, and notes on how they came about."""
    criterion = known_criterion(criterion)
    free = [group for group in traced.groups if not group.reason]
    notes = []
    if isinstance(criterion, str):
        if data is None:
            raise refuse("data", None, 'calibration samples for criterion "elimination"')
        scores, unknown = elimination_scores(traced, free, data)
        if unknown:
            by_size = class_scores(traced, "magnitude")
            for group in free:
                if group.name in unknown:
                    scores[group.classes] = by_size[group.classes]
            notes.append(
                f"ranked by magnitude, since no dense layer or convolution takes them: {', '.join(unknown)}"
            )
    else:
        scores = class_scores(traced, criterion, data, loss)
    scores = scores.astype(np.float64)
    scores[unused(traced)] = -np.inf
    return scores, notes


def unused(traced: Traced) -> np.ndarray:
    """Classes of units that no weight takes up: all that would multiply them is zero."""
    takers, used = np.zeros(len(traced.classes), bool), np.zeros(len(traced.classes), bool)
    for member in dict.fromkeys(traced.members.values()):
        for part in member.parts:
            ids = part.axes[part.takes] if part.takes is not None else None
            if ids is None:
                continue
            axes = tuple(axis for axis in range(len(part.axes)) if axis != part.takes)
            live = np.any(keras.ops.convert_to_numpy(part.variable) != 0, axis=axes)
            takers[traced.classes[ids]] = True
            used[traced.classes[ids[live]]] = True
    free = np.zeros(len(traced.classes), bool)
    for group in traced.groups:
        if not group.reason:
            free[group.classes] = True
    return np.flatnonzero(takers & ~used & free)


def kept_with(traced: Traced, scores: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """For each unit whether it stays when the groups keep `counts` units of the highest scores."""
    by_name = {group.name: group for group in traced.groups}
    gone = [by_name[name].classes[places] for name, places in removed_classes(traced, scores, counts).items()]
    return traced.kept(np.concatenate(gone) if gone else [])


def made_plan(
    traced: Traced,
    removed: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> ShrinkPlan:
    """The plan that takes the units at the positions `removed` out of the groups of those names.

    Args:
        traced: the model with its units.
        removed: {group: positions of units}.
        settings: JSON values that say how it was made.
        notes: lines for the reader.
    """
    groups = [
        GroupCut(
            group.name,
            tuple(name for name, _ in group.makers),
            group.size,
            tuple(int(place) for place in removed.get(group.name, ())),
        )
        for group in traced.groups
        if not group.reason
    ]
    by_name: dict[str, Group] = {group.name: group for group in traced.groups}
    gone = [by_name[one.name].classes[list(one.removed)] for one in groups if one.removed]
    kept = traced.kept(np.concatenate(gone) if gone else [])
    skipped = tuple((group.name, group.reason) for group in traced.groups if group.reason)
    layers = Costs(traced).layers(kept)
    return ShrinkPlan(traced.model.name, tuple(groups), skipped, layers, dict(settings), tuple(notes))


def _plain(keep: Any) -> Any:
    return dict(keep) if isinstance(keep, Mapping) else keep
