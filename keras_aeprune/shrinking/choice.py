"""How many units stay in each group, and which."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_aeprune._layers import fits
from keras_aeprune._validation import BudgetError, InputError, fraction, is_whole, positive_int, refuse
from keras_aeprune.shrinking.tracing import Group, Traced

__all__ = ["Bounds", "counts_by_name", "counts_for_budget", "removed_classes"]

_STEPS = 24  # halvings of the range of fractions
_SIMILAR = 0.8  # groups whose sizes differ by less are mirrors of each other: dead units may have gone on one side


class Bounds:
    """The widths that groups may have.

    Args:
        round_to: kept widths are rounded up to a multiple of it, as far as there are units; 1 or more.
        minimum: units that stay at least, 1 or more; or {name or pattern: units}.
        maximum: units that stay at most; None for all; or {name or pattern: units}.
        mirror: whether groups of about one size, as far from the input as from the output, keep the same width.
    """

    def __init__(self, round_to: int = 1, minimum: Any = 1, maximum: Any = None, mirror: bool = False):
        self.round_to = positive_int("round_to", round_to)
        self._minimum, self._maximum = _by_name("minimum", minimum), _by_name("maximum", maximum)
        self.mirror = mirror

    def check(self, groups: Sequence[Group]) -> None:
        """Refuse names that fit no group."""
        for name, given in (("minimum", self._minimum), ("maximum", self._maximum)):
            if isinstance(given, Mapping):
                named(name, given, groups)

    def width(self, group: Group, wanted: float) -> int:
        """The allowed width for a wanted one."""
        low = _of(group, self._minimum, 1)
        high = _of(group, self._maximum, None)
        units = max(math.ceil(wanted - 1e-9), low, 1)
        if group.name.endswith("/heads"):
            units = min(units, group.size)
        else:
            units = min(math.ceil(units / self.round_to) * self.round_to, group.size)
        return units if high is None else max(1, min(units, high))

    def widths(self, groups: Sequence[Group], wanted: Sequence[float]) -> list[int]:
        """The allowed widths of all groups."""
        found = [self.width(group, want) for group, want in zip(groups, wanted, strict=True)]
        if self.mirror:
            for number, other in mirrored(groups):
                both = (wanted[number] + wanted[other]) / 2
                pair = [self.width(groups[n], both) for n in (number, other)]
                found[number] = found[other] = min(pair)
        return found


def mirrored(groups: Sequence[Group]) -> list[tuple[int, int]]:
    """Pairs of groups, as far from the first as from the last one, that have about the same size."""
    last = len(groups) - 1
    pairs = [(n, last - n) for n in range(len(groups) // 2)]
    sizes = [(groups[n].size, groups[other].size) for n, other in pairs]
    return [pair for pair, both in zip(pairs, sizes, strict=True) if min(both) >= _SIMILAR * max(both)]


def _by_name(name: str, value: Any) -> Any:
    if value is None and name == "maximum":
        return None
    if isinstance(value, Mapping):
        return {key: positive_int(f"{name}[{key!r}]", units) for key, units in value.items()}
    return positive_int(name, value)


def _of(group: Group, value: Any, default: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return next((units for pattern, units in value.items() if _is_named(group, pattern)), default)


def _is_named(group: Group, pattern: str) -> bool:
    return any(name == pattern or fits(f"{name}/units", pattern) for name, _ in group.makers)


def named(name: str, given: Mapping[str, Any], groups: Sequence[Group]) -> None:
    """Refuse names and patterns that fit no group that can be cut."""
    free = [group for group in groups if not group.reason]
    for pattern in given:
        if any(_is_named(group, pattern) for group in free):
            continue
        kept = [f"{g.name} stays whole: {g.reason}" for g in groups if g.reason and _is_named(g, pattern)]
        raise refuse(name, pattern, "; ".join([f"a name or pattern of {', '.join(g.name for g in free)}", *kept]))


def counts_by_name(groups: Sequence[Group], keep: Any, bounds: Bounds) -> list[int]:
    """How many units stay for one fraction, or for a fraction or number of units by name; the rest stays whole."""
    free = [group for group in groups if not group.reason]
    if not isinstance(keep, Mapping):
        share = fraction("keep", keep, low_open=True, high_open=False)
        return bounds.widths(free, [share * group.size for group in free])
    named("keep", keep, groups)
    found = [float(group.size) for group in free]
    chosen = [False] * len(free)
    for pattern, value in keep.items():
        units = is_whole(value)
        if not units:
            fraction(f"keep[{pattern!r}]", value, low_open=True, high_open=False)
        for number, group in enumerate(free):
            if not chosen[number] and _is_named(group, pattern):
                if units:
                    positive_int(f"keep[{pattern!r}]", value, maximum=group.size)
                found[number], chosen[number] = float(value) if units else value * group.size, True
    if any(chosen) and bounds.mirror:
        for number, other in mirrored(free):
            if chosen[number] != chosen[other]:
                one = number if chosen[number] else other
                found[number] = found[other] = found[one]
    whole = Bounds()
    widths = bounds.widths(free, found)
    return [w if found[n] < free[n].size else whole.width(free[n], found[n]) for n, w in enumerate(widths)]


def counts_for_budget(
    groups: Sequence[Group],
    scores: np.ndarray,
    bounds: Bounds,
    fits_in: Callable[[list[int]], bool],
    *,
    scope: str = "layer",
    told: Callable[[list[int]], str] = str,
    narrowest: bool = False,
) -> list[int]:
    """The widest choice that meets a budget: halving the range of the fraction that stays.

    Args:
        groups: that can be cut.
        scores: of `class_scores`.
        bounds: widths that are allowed.
        fits_in: whether the limit is met with these numbers of units.
        scope: "layer" keeps the same fraction everywhere; "global" cuts the lowest scores, wherever they are.
        told: what is said of the smallest choice where even that does not fit.
        narrowest: find the narrowest choice that fits instead, for a limit that wide models keep, like an error.

    Raises:
        BudgetError: if the narrowest widths that are allowed do not meet the limit.
    """

    def counts(share: float) -> list[int]:
        if scope == "layer":
            return bounds.widths(groups, [share * group.size for group in groups])
        every = np.concatenate([scores[group.classes] for group in groups])
        limit = np.sort(every)[min(len(every) - 1, round((1 - share) * len(every)))]
        return bounds.widths(groups, [float((scores[group.classes] >= limit).sum()) for group in groups])

    low, high = (1.0, 0.0) if narrowest else (0.0, 1.0)  # `low` fits, `high` does not
    if fits_in(counts(high)):
        return counts(high)
    if not fits_in(counts(low)):
        raise BudgetError(
            f"the limit cannot be met: {told(counts(low))} with every group at its minimum; allow narrower layers "
            "(minimum=, round_to=) or take layers out"
        )
    seen: dict[tuple, bool] = {}
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = counts(middle)
        key = tuple(found)
        if key not in seen:
            seen[key] = fits_in(found)
        low, high = (middle, high) if seen[key] else (low, middle)
        if counts(low) == counts(high):
            break
    return counts(low)


def removed_classes(traced: Traced, scores: np.ndarray, counts: Sequence[int]) -> dict[str, np.ndarray]:
    """{group: positions of the units that go}, those of the lowest scores; of equal ones the later ones."""
    free = [group for group in traced.groups if not group.reason]
    found = {}
    for group, count in zip(free, counts, strict=True):
        order = np.argsort(-scores[group.classes], kind="stable")
        found[group.name] = np.sort(order[count:])
    return found


def known_scope(value: str) -> str:
    """`value`, if it is a scope."""
    if value not in ("layer", "global"):
        raise InputError(f"scope: got {value!r}, allowed: layer, global")
    return value
