"""Which layers share the budget: one sparsity for all kernels to one mask per kernel.

>>> get("erk"), get({"encoder/*": 0.9})  # what `Prune(0.9, allocation=...)` takes
(ERK(), ByLayer(entries={'encoder/*': 0.9}))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_aeprune._layers import Kernel, fits
from keras_aeprune._registry import Registry
from keras_aeprune._validation import InputError, fraction, refuse, shown
from keras_aeprune.sparsity.masks import count_zeros, keep_top_together, lower_hull, share, whole
from keras_aeprune.sparsity.patterns import TOLERANCE, Groups, Unstructured

__all__ = ["ALLOCATIONS", "ERK", "Allocation", "Bounds", "ByLayer", "Global", "Sensitivity", "Uniform"]
__all__ += ["allocate", "fits", "get", "register", "serialize"]


@dataclass(frozen=True)
class Bounds:
    """What an allocation must respect.

    Args:
        sparsity: fraction of all weights set to zero, 0 <= s < 1.
        total: weights set to zero in all kernels together.
        floor: per kernel, groups that are zero already.
        low, high: per kernel, groups that are zero at least, and at most.
        costs: per kernel, weights in a group.
    """

    sparsity: float
    total: float
    floor: np.ndarray
    low: np.ndarray
    high: np.ndarray
    costs: np.ndarray

    def whole(self, weights: np.ndarray) -> np.ndarray:
        """Weights set to zero per kernel, rounded to groups so that the total is met."""
        return whole(weights / self.costs, self.costs, (self.low, self.high), self.total)


class Allocation:
    """Base class: how many groups of each kernel are zero.

    Laws of `zeros`: one whole number per kernel, low <= k <= high, and the weights in them sum up to the
    total to one group (unstructured: to one weight). A group counts the mean number of weights of its
    kernel's groups.
    """

    entries: Mapping[str, Any] = {}  # limits that are part of the allocation itself

    @property
    def needs_data(self) -> bool:
        """Whether it must be `measured` on data before it can split anything."""
        return False

    def measured(self, model: Any, data: Any, chosen: Sequence[Any] | None = None) -> Allocation:
        """The allocation for a model as it is now; a fresh one where it depends on the model's activations.

        Args:
            model: a built Keras model.
            data: calibration samples, what `calibration.get` takes.
            chosen: the kernels (`Weight`) that share the zeros; None for all.
        """
        return self

    def zeros(self, groups: Sequence[Groups], bounds: Bounds) -> np.ndarray:
        """Groups set to zero, one whole number per kernel."""
        raise NotImplementedError

    def keep(self, groups: Sequence[Groups], bounds: Bounds) -> list[np.ndarray]:
        """Groups that stay, one boolean array of the group scores' shape per kernel."""
        zeros = self.zeros(groups, bounds)
        return [g.top(g.count - int(k)) for g, k in zip(groups, zeros, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return dict(vars(self))

    def __call__(self, scores: Sequence[Any], sparsity: float, floors: Sequence[int]) -> list[np.ndarray]:
        """Masks of single weights: `allocate` for the pattern "unstructured"."""
        one = Unstructured()
        groups = [one.groups(array, Kernel("kernel"), str(i)) for i, array in enumerate(scores)]
        return allocate(groups, sparsity, allocation=self, floors=floors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={shown(v)}' for k, v in self.get_config().items())})"


_registry: Registry[Allocation] = Registry("allocation", Allocation)
register = _registry.register
serialize = _registry.serialize
ALLOCATIONS = _registry._members  # by name; `register` adds to it


def get(identifier: Any) -> Allocation:
    """An allocation from its name, a dict of fractions by layer, its serialized dict, its class or itself.

    Args:
        identifier: "uniform", "global", "erk", "entropy"; a dict {layer name, path or pattern: fraction or (low,
            high)}, see `ByLayer`; a dict from `serialize`; an `Allocation`. Else: InputError.

    Example:
        >>> get("erk"), get({"encoder/*": 0.9})
        (ERK(), ByLayer(entries={'encoder/*': 0.9}))
    """
    entries = isinstance(identifier, Mapping) and "class_name" not in identifier
    return ByLayer(identifier) if entries else _registry.get(identifier)


def allocate(
    groups: Sequence[Groups],
    sparsity: float,
    *,
    allocation: Any = "uniform",
    floors: Sequence[int] | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
    ends: float | None = None,
    final: float | None = None,
) -> list[np.ndarray]:
    """Masks for one total sparsity over all kernels.

    The total is floor(s * weights + 1/2), and exact to one group; "uniform" without limits rounds in each
    kernel by itself instead. Each kernel keeps at least one group, and floors count as zeros even where they
    are more than the total. On the way of a schedule (s < final), lower limits and fixed fractions grow with
    s / final, so that what is possible at its end is possible all along.

    Args:
        groups: one per kernel, in the order of the model, from `Pattern.groups`.
        sparsity: fraction of weights set to zero over all kernels, 0 <= s < 1.
        allocation: what `get` takes.
        floors: groups of each kernel that are zero already and stay so (`Pattern.floor`); None for 0.
        limits: {layer name, path or pattern: (low, high)}, fractions 0 <= low <= high <= 1 of a kernel's
            groups set to zero; the first entry that fits a kernel counts.
        ends: fraction of zeros, 0 <= e <= 1, that the first and the last kernel get at most: they are
            usually the most sensitive ones. None for no such limit.
        final: the sparsity that a schedule ends with, sparsity <= final < 1; None for `sparsity`.

    Returns:
        One boolean mask per kernel, of its shape, True where the weight is kept.

    Raises:
        InputError: for limits that fit no kernel or contradict each other, and for a total that the limits
            or the pattern rule out (by more than 0.0005), with the totals that are possible.

    Example:
        >>> one = Unstructured()
        >>> paths = ("a/kernel", "b/kernel")
        >>> kernels = [one.groups(np.arange(4.0), Kernel("kernel"), path) for path in paths]
        >>> masks = allocate(kernels, 0.5, limits={"a": (0.0, 0.25)})
        >>> [mask.astype(int).tolist() for mask in masks]
        [[0, 1, 1, 1], [0, 0, 0, 1]]
    """
    method = get(allocation)
    s = fraction("sparsity", sparsity)
    last = s if final is None else fraction("final", final)
    if last < s:
        raise refuse("final", final, f"a fraction {s} <= final < 1, since sparsity is {s}")
    bounds = _bounds(groups, s, s / last if last else 1.0, _wanted(groups, method, limits, ends), floors)
    keep = method.keep(groups, bounds)
    return [g.spread(kept) for g, kept in zip(groups, keep, strict=True)]


def _range(name: str, pattern: str, value: Any, *, single: bool) -> tuple[float, float]:
    if single and not isinstance(value, (tuple, list)):
        number = fraction(f"{name}[{pattern!r}]", value)
        return number, number
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise refuse(f"{name}[{pattern!r}]", value, "(low, high)" + (" or one fraction" * single))
    low, high = (fraction(f"{name}[{pattern!r}]", number, high_open=False) for number in value)
    if low > high:
        raise refuse(f"{name}[{pattern!r}]", value, "(low, high) with low <= high")
    return low, high


def _wanted(groups: Sequence[Groups], method: Allocation, limits: Any, ends: float | None) -> np.ndarray:
    """Fractions (low, high) per kernel from all limits together; shape (kernels, 2)."""
    paths = [g.path for g in groups]
    wanted = np.tile([0.0, 1.0], (len(groups), 1))

    def narrow(i: int, low: float, high: float) -> None:
        both = max(wanted[i, 0], low), min(wanted[i, 1], high)
        if both[0] > both[1]:
            raise InputError(
                f"limits: got fractions of at least {both[0]:g} and at most {both[1]:g} for {paths[i]!r}, "
                "allowed: limits that leave something possible"
            )
        wanted[i] = both

    for name, entries in (("allocation", method.entries), ("limits", limits or {})):
        if not isinstance(entries, Mapping):
            raise refuse(name, entries, "a dict {layer name, path or pattern: (low, high)}")
        ranges = {p: _range(name, p, value, single=name == "allocation") for p, value in entries.items()}
        for pattern in ranges:
            if not any(fits(path, pattern) for path in paths):
                raise refuse(name, pattern, f"what fits one of the kernels: {', '.join(paths)}")
        for i, path in enumerate(paths):
            first = next((pattern for pattern in ranges if fits(path, pattern)), None)
            if first is not None:
                narrow(i, *ranges[first])
    if ends is not None and groups:
        most = fraction("ends", ends, high_open=False)
        for i in {0, len(groups) - 1}:
            narrow(i, 0.0, most)
    return wanted


def _bounds(
    groups: Sequence[Groups], s: float, progress: float, wanted: np.ndarray, floors: Sequence[int] | None
) -> Bounds:
    counts, costs = np.array([g.count for g in groups], int), np.array([g.cost for g in groups])
    free = np.array([g.free for g in groups], int)
    floor = np.minimum(free, 0 if floors is None else np.asarray(floors, int))
    lows = wanted[:, 0] * progress
    highs = np.where(wanted[:, 0] == wanted[:, 1], lows, wanted[:, 1])
    low, high = (
        np.minimum([count_zeros(int(n), x) for n, x in zip(counts, ends, strict=True)], free)
        for ends in (lows, highs)
    )
    for i in np.flatnonzero((floor > high) & (wanted[:, 1] < 1)).tolist():
        if floor[i] > count_zeros(int(counts[i]), wanted[i, 1]):
            raise InputError(
                f"{groups[i].path}: got {floor[i] / counts[i]:.4f} of zeros already, allowed by its limits: "
                f"at most {wanted[i, 1]:g}; raise the limit or exclude the layer"
            )
    low, high = np.maximum(low, floor), np.maximum(high, floor)
    total = max(count_zeros(sum(g.size for g in groups), s), float(costs @ floor))
    _possible(groups, wanted, (total, s), (low, high), costs)
    return Bounds(s, min(max(total, float(costs @ low)), float(costs @ high)), floor, low, high, costs)


def _possible(groups: Sequence[Groups], wanted: np.ndarray, asked: tuple, bounds: tuple, costs: Any) -> None:
    """Refuse a total that limits or patterns rule out; that each kernel keeps one group is no reason."""
    total, s = asked
    sizes, (least, most) = np.array([g.size for g in groups], float), (bound * costs for bound in bounds)
    limited = (wanted[:, 0] > 0) | (wanted[:, 1] < 1)
    slack = TOLERANCE * sizes.sum() + float(costs[limited].sum()) / 2
    roof = np.minimum(wanted[:, 1], [g.most for g in groups]) * sizes
    most = np.where(wanted[:, 0] == wanted[:, 1], most, np.maximum(roof, most))
    if not least.sum() - slack <= total <= most.sum() + slack:
        raise InputError(
            f"sparsity: got {s:g} of all {sizes.sum():.0f} weights, allowed by the limits and patterns: "
            f"{least.sum() / sizes.sum():.4f} to {most.sum() / sizes.sum():.4f}; change one of them"
        )


@register("uniform")
class Uniform(Allocation):
    """The same fraction of zeros in every kernel, floor(s n + 1/2) of its n groups.

    Kernels that had more zeros keep them. Where limits forbid the fraction in a kernel, the others get more
    or less of it, all the same, so that the total stays.

    Example:
        >>> masks = Uniform()([np.array([1.0, 2.0]), np.array([30.0, 40.0])], 0.5, [0, 0])
        >>> [mask.tolist() for mask in masks]
        [[False, True], [False, True]]
    """

    def zeros(self, groups: Sequence[Groups], bounds: Bounds) -> np.ndarray:
        asked = np.array([min(count_zeros(g.count, bounds.sparsity), g.free) for g in groups], int)
        asked = np.maximum(asked, bounds.floor)
        if np.all(asked >= bounds.low) and np.all(asked <= bounds.high):
            return asked
        sizes = np.array([g.size for g in groups], float)
        low, high = bounds.low * bounds.costs, bounds.high * bounds.costs
        return bounds.whole(share(sizes, low, high, bounds.total))


@register("by_layer")
class ByLayer(Uniform):
    """Fractions by layer; what is left of the total is shared uniformly by the kernels that no entry fits.

    Args:
        entries: {layer name, path or pattern: fraction 0 <= f < 1, or (low, high), 0 <= low <= high <= 1};
            the first entry that fits a kernel counts. A range is filled like the kernels without an entry,
            within its ends.

    Raises:
        InputError: for other values; when it is used, for a total that the entries rule out.

    Example:
        >>> masks = ByLayer({"0": 0.25})([np.arange(4.0), np.arange(4.0)], 0.5, [0, 0])
        >>> [int((~mask).sum()) for mask in masks]
        [1, 3]
    """

    def __init__(self, entries: Mapping[str, Any] | None = None):
        if not isinstance(entries, Mapping) or not entries:
            raise refuse("entries", entries, "a dict {layer name, path or pattern: fraction or (low, high)}")
        for pattern, value in entries.items():
            _range("allocation", pattern, value, single=True)
        self.entries = {p: list(v) if isinstance(v, tuple) else v for p, v in entries.items()}


@register("global")
class Global(Allocation):
    """One threshold over the scores of all groups: the lowest go, wherever they are.

    Example:
        >>> masks = Global()([np.array([1.0, 2.0]), np.array([30.0, 40.0])], 0.25, [0, 0])
        >>> [mask.tolist() for mask in masks]
        [[False, True], [True, True]]
    """

    def zeros(self, groups: Sequence[Groups], bounds: Bounds) -> np.ndarray:
        return np.array([kept.size - np.count_nonzero(kept) for kept in self.keep(groups, bounds)], int)

    def keep(self, groups: Sequence[Groups], bounds: Bounds) -> list[np.ndarray]:
        return keep_top_together(
            [g.scores for g in groups],
            sum(g.size for g in groups) - bounds.total,
            low=bounds.low,
            high=bounds.high,
            locked=[g.locked for g in groups],
            cost=bounds.costs,
        )


@register("erk")
class ERK(Allocation):
    """Small kernels stay denser: weights kept are proportional to the sum of a kernel's sides.

    density_l = eps * (n_in + n_out + w + h) / (n_in * n_out * w * h), one eps for the total; a kernel that
    would exceed density 1 stays dense. Evci et al., "Rigging the Lottery", 2020,
    https://arxiv.org/abs/1911.11134.

    Example:
        >>> masks = ERK()([np.ones((2, 8)), np.ones((8, 8))], 0.5, [0, 0])
        >>> [int(mask.sum()) for mask in masks]  # 10 and 16 sides share 40 weights
        [15, 25]
    """

    def zeros(self, groups: Sequence[Groups], bounds: Bounds) -> np.ndarray:
        sizes = np.array([g.size for g in groups], float)
        sides = np.array([float(sum(g.shape)) if g.size else 0.0 for g in groups])
        low, high = sizes - bounds.high * bounds.costs, sizes - bounds.low * bounds.costs
        return bounds.whole(sizes - share(sides, low, high, sizes.sum() - bounds.total))


@register("sensitivity")
class Sensitivity(Allocation):
    """The split with the smallest summed error, from measured errors per kernel and sparsity.

    Each kernel's points (zeros, error) are replaced by their lower convex hull, and the cheapest pieces go
    first; for convex curves that is the best split. Sparsities beyond a kernel's last measured one are used
    only when no kernel has a measured one left.

    Args:
        errors: {kernel's path: {sparsity: error}} with the error being the loss minus the dense model's, or
            lists of such pairs; or a `SensitivityMap`. Error 0 at sparsity 0 is added.

    Raises:
        InputError: for other values; when it is used, for a kernel without measurements.

    Example:
        >>> errors = {"0": {0.5: 1.0}, "1": {0.5: 0.1}}
        >>> masks = Sensitivity(errors)([np.arange(4.0), np.arange(4.0)], 0.25, [0, 0])
        >>> [int((~mask).sum()) for mask in masks]
        [0, 2]
    """

    def __init__(self, errors: Any = None):
        errors = errors.errors() if callable(getattr(errors, "errors", None)) else errors
        allowed = "{path: {sparsity: error}}, 0 < sparsity < 1, or a map of sensitivity_map(model, data)"
        if not isinstance(errors, Mapping) or not errors:
            raise refuse("errors", errors, allowed)
        self.errors: dict[str, list[list[float]]] = {}
        for path, points in errors.items():
            pairs = sorted(points.items() if isinstance(points, Mapping) else map(tuple, points))
            if not pairs or not all(0 < s < 1 and math.isfinite(e) for s, e in pairs):
                raise refuse(f"errors[{path!r}]", points, allowed)
            self.errors[path] = [[float(s), float(e)] for s, e in pairs]

    def zeros(self, groups: Sequence[Groups], bounds: Bounds) -> np.ndarray:
        missing = [g.path for g in groups if g.path not in self.errors]
        if missing:
            raise refuse("errors", sorted(self.errors), f"an entry for every kernel; missing: {missing}")
        wanted, high = bounds.low * bounds.costs, bounds.high * bounds.costs
        pieces = []
        for i, g in enumerate(groups):
            hull = lower_hull([[0.0, 0.0], *self.errors[g.path]])
            for (s0, e0), (s1, e1) in itertools.pairwise(hull):
                pieces.append((False, (e1 - e0) / ((s1 - s0) * max(g.size, 1)), s0, i, s1 * g.size))
            pieces.append((True, *pieces[-1][1:3], i, float(g.size)))
        rest = bounds.total - wanted.sum()
        for *_, i, end in sorted(pieces):
            more = min(max(min(end, high[i]) - wanted[i], 0.0), rest)
            wanted[i] += more
            rest -= more
        return bounds.whole(wanted)
