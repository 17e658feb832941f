"""Which weights go together: single ones, blocks, N of every M, whole units.

A pattern turns the scores of one kernel into scores of groups (`Groups`) and a choice of groups back into a
mask. Who gets how many zeros is decided elsewhere (`allocation`), on groups of any pattern alike.

Blocks and N:M look at the kernel's *input-by-unit view*: the unit axis moved last, all other axes flattened
in C order into rows. For Dense that is the kernel itself, (inputs, units); for a convolution it is the
im2col matrix, (height * width * channels in, filters), for a transposed one the same with its axes put
right; for a recurrent cell each of its two matrices.

>>> [get(name) for name in ("2:4", "1x4", "unit")]  # what `Prune(0.5, pattern=...)` takes
[NM(n=2, m=4), Block(size=[1, 4], pooling='AVG'), Unit()]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_aeprune._layers import Kernel, Weight
from keras_aeprune._registry import Registry
from keras_aeprune._validation import InputError, fraction, one_of, positive_int, refuse
from keras_aeprune.sparsity.masks import count_zeros, keep_top, refuse_non_finite

__all__ = ["NM", "Block", "Groups", "Pattern", "Unit", "Unstructured", "get", "register", "serialize"]

TOLERANCE = 0.0005  # limits and N:M fix sparsities that nobody writes with more decimals


@dataclass(frozen=True, eq=False)
class Groups:
    """One kernel as a pattern sees it.

    Args:
        path: the kernel's whole path, "encoder/hidden_1/kernel".
        shape: of the kernel.
        scores: one per group, higher means keep; any shape.
        spread: makes the kernel's mask from a boolean array of the scores' shape, True where a group is kept.
        locked: boolean array of the scores' shape, True where a group always stays; None for nowhere.
        most: largest fraction of zeros that the pattern allows, 0 <= m <= 1.
    """

    path: str
    shape: tuple[int, ...]
    scores: np.ndarray
    spread: Callable[[np.ndarray], np.ndarray]
    locked: np.ndarray | None = None
    most: float = 1.0

    @property
    def count(self) -> int:
        """Number of groups."""
        return int(np.size(self.scores))

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))

    @property
    def cost(self) -> float:
        """Weights per group, the mean where edge groups are smaller."""
        return self.size / self.count if self.count else 1.0

    @property
    def free(self) -> int:
        """How many groups can be zero: at least one stays, and those that are locked."""
        stay = 1 if self.locked is None else max(1, int(np.count_nonzero(self.locked)))
        return max(self.count - stay, 0)

    def top(self, keep: int) -> np.ndarray:
        """The `keep` best groups as a boolean array of the scores' shape; locked ones come first."""
        return keep_top(self.scores, keep, locked=self.locked)


class Pattern:
    """Base class: groups of weights that live or die together.

    A member says in `groups` what the groups of a kernel are. Laws: every weight is in exactly one group;
    the score of a group depends on the scores of its weights alone; at least one group can stay.
    """

    def groups(self, scores: np.ndarray, kernel: Kernel, path: str = "") -> Groups:
        """The groups of one kernel.

        Args:
            scores: of the kernel's shape, finite, higher means keep.
            kernel: which of its axes are units and inputs.
            path: the kernel's whole path.

        Raises:
            InputError: if a score is NaN or infinite.
        """
        raise NotImplementedError

    def obstacle(self, shape: Sequence[int], kernel: Kernel, layer: Any = None) -> str:
        """Why the pattern does not fit a kernel of that shape and layer, for the table; "" if it does."""
        return ""

    def reason(self, weight: Weight) -> str:
        """Why a model's weight cannot be pruned in this pattern, for the table; "" if it can."""
        return weight.reason or self.obstacle(tuple(weight.variable.shape), weight.facts, weight.layer)

    def mask(self, scores: np.ndarray, sparsity: float, weight: Weight) -> np.ndarray:
        """The mask of one kernel by itself: floor(s n + 1/2) of its n groups are zero, at least one stays.

        Args:
            scores: of the kernel's shape, finite, higher means keep.
            sparsity: fraction of weights set to zero, 0 <= s < 1, at most the pattern's own (`most`).
            weight: whose kernel it is; `path` and `kernel` are used.

        Raises:
            InputError: for another sparsity, scores that are not finite, or a kernel that does not fit.
        """
        groups = self.groups(scores, weight.facts, weight.path)
        if fraction("sparsity", sparsity) > groups.most + TOLERANCE:
            raise refuse("sparsity", sparsity, f"at most {groups.most:g}, which the pattern {self} fixes")
        zeros = min(count_zeros(groups.count, sparsity), groups.free)
        return groups.spread(groups.top(groups.count - zeros))

    def floor(self, mask: np.ndarray, kernel: Kernel) -> int:
        """How many groups that may be zero hold no weight of a mask (True where a weight is not zero).

        For zeros that were there before: pass the result as a floor to `allocation.allocate`.
        """
        groups = self.groups(mask.astype(np.float32), kernel)
        return min(int(np.count_nonzero(groups.scores == 0)), groups.free)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


_registry: Registry[Pattern] = Registry("pattern", Pattern)
register = _registry.register
serialize = _registry.serialize


def get(identifier: Any) -> Pattern:
    """A pattern from its name or short form, its serialized dict, its class or itself.

    Args:
        identifier: "unstructured"; "unit"; "2:4" (2 kept of every 4); "1x4" or "1x4 max" (blocks of 1 input
            and 4 units, average or maximum); a dict from `serialize`; a `Pattern` or its class.

    Returns:
        The pattern.

    Raises:
        InputError: for anything else.

    Example:
        >>> [get(name) for name in ("2:4", "1x4 max", "unit")]
        [NM(n=2, m=4), Block(size=[1, 4], pooling='MAX'), Unit()]
    """
    if isinstance(identifier, str) and identifier not in _registry.names():
        if found := re.fullmatch(r"(\d+):(\d+)", identifier):
            return NM(int(found[1]), int(found[2]))
        if found := re.fullmatch(r"(\d+)x(\d+)( max)?", identifier):
            return Block((int(found[1]), int(found[2])), pooling="MAX" if found[3] else "AVG")
        raise refuse(
            "pattern", identifier, f"{', '.join(_registry.names())}, '2:4', '1x4', '1x4 max', or a Pattern"
        )
    return _registry.get(identifier)


@register("unstructured")
class Unstructured(Pattern):
    """Every weight for itself: the finest choice, and no faster in LiteRT.

    Of a kernel of n weights, n - floor(s n + 1/2) stay, at least one.

    Example:
        >>> groups = Unstructured().groups(np.array([[3.0, 1.0], [2.0, 4.0]]), Kernel("kernel"))
        >>> groups.spread(groups.top(2)).tolist()
        [[True, False], [False, True]]
    """

    def groups(self, scores: np.ndarray, kernel: Kernel, path: str = "") -> Groups:
        return Groups(path, np.shape(scores), scores, lambda keep: keep)

    def __str__(self) -> str:
        return "unstructured"


@register("block")
class Block(Pattern):
    """Rectangles of the input-by-unit view, as in tfmot's `block_size` and `block_pooling_type`.

    The view of an (r, c) kernel has b = ceil(r / height) * ceil(c / width) blocks, of which
    b - floor(s b + 1/2) stay, at least one. Where the sides do not divide, the last blocks are smaller and
    are pooled over the weights that they have.

    Args:
        size: (height, width): weights along the inputs and along the units, each >= 1.
        pooling: "AVG" or "MAX" of the scores of a block.

    Raises:
        InputError: for another size or pooling.

    Example:
        >>> groups = Block((1, 2)).groups(np.array([[1.0, 3.0, 5.0], [0.0, 0.0, 1.0]]), Kernel("kernel"))
        >>> groups.scores.tolist()
        [[2.0, 5.0], [0.0, 1.0]]
        >>> groups.spread(groups.top(2)).astype(int).tolist()
        [[1, 1, 1], [0, 0, 0]]
    """

    def __init__(self, size: Sequence[int] = (1, 4), pooling: str = "AVG"):
        if isinstance(size, str) or not isinstance(size, Sequence) or len(size) != 2:
            raise refuse("size", size, "two whole numbers >= 1: weights along the inputs and along the units")
        self.size = [positive_int("size", number) for number in size]
        self.pooling = one_of("pooling", pooling, ("AVG", "MAX"))

    def obstacle(self, shape: Sequence[int], kernel: Kernel, layer: Any = None) -> str:
        return _no_view(str(self), kernel)

    def groups(self, scores: np.ndarray, kernel: Kernel, path: str = "") -> Groups:
        _must_fit(self, scores, kernel, path)
        view, back = _view(np.asarray(scores), kernel)
        pooled = view
        for axis, length in enumerate(self.size):
            pooled = _pool(pooled, axis, length, self.pooling)

        def spread(keep: np.ndarray) -> np.ndarray:
            wide = np.repeat(keep, self.size[0], axis=0)[: view.shape[0]]
            return back(np.repeat(wide, self.size[1], axis=1)[:, : view.shape[1]])

        return Groups(path, np.shape(scores), pooled, spread)

    def __str__(self) -> str:
        return f"{self.size[0]}x{self.size[1]}" + (" max" if self.pooling == "MAX" else "")


def _pool(view: np.ndarray, axis: int, length: int, pooling: str) -> np.ndarray:
    """Every `length` places along an axis to one, the last one over what is left."""
    size = view.shape[axis]
    if length == 1 or size == 0:
        return view
    lines = np.moveaxis(view, axis, 0)
    pooled = lines[::length].astype(np.result_type(view, np.float32))  # a copy
    for offset in range(1, min(length, size)):
        part = lines[offset::length]
        target = pooled[: len(part)]
        if pooling == "MAX":
            np.maximum(target, part, out=target)
        else:
            target += part
    if pooling == "AVG":
        counts = np.minimum(length, size - length * np.arange(len(pooled)))
        pooled /= counts[:, None].astype(pooled.dtype)
    return np.moveaxis(pooled, 0, axis)


@register("nm")
class NM(Pattern):
    """N of every M: in each run of m weights along the inputs, the n best stay.

    Runs go down the columns of the input-by-unit view from its first row, one unit at a time; in a
    convolution the input channel changes fastest, so with channels divisible by m a run stays within one
    place of the filter. The last run of a column, with r < m weights, keeps min(n, r).

    The pattern itself fixes the sparsity, s = 1 - n/m, where all other weights are zero. On the way there (a
    schedule that starts lower), the lowest of the weights that will go are: floor(s size + 1/2) of them. More
    than 1 - n/m (to 0.0005) is refused. Beware: `sparsity_m_by_n` of tfmot counts the zeros first, this one
    the weights that stay.

    Args:
        n: weights that stay in a run, 1 <= n <= m.
        m: weights in a run, m >= 1.

    Raises:
        InputError: for other numbers.

    Example:
        >>> groups = NM(1, 2).groups(np.array([[1.0], [2.0], [4.0], [3.0], [0.0]]), Kernel("kernel"))
        >>> groups.spread(groups.top(groups.count - groups.free)).ravel().astype(int).tolist()
        [0, 1, 1, 0, 1]
    """

    def __init__(self, n: int = 2, m: int = 4):
        self.m = positive_int("m", m)
        self.n = positive_int("n", n, maximum=self.m)

    def get_config(self) -> dict[str, Any]:
        return {"n": self.n, "m": self.m}

    def obstacle(self, shape: Sequence[int], kernel: Kernel, layer: Any = None) -> str:
        return _no_view(str(self), kernel)

    def groups(self, scores: np.ndarray, kernel: Kernel, path: str = "") -> Groups:
        _must_fit(self, scores, kernel, path)
        refuse_non_finite(scores)
        view, back = _view(np.asarray(scores), kernel)
        locked = back(_best_of_runs(view, self.n, self.m))
        return Groups(path, np.shape(scores), scores, lambda keep: keep, locked, 1 - self.n / self.m)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


def _best_of_runs(view: np.ndarray, n: int, m: int) -> np.ndarray:
    """True at the n best of every m rows, per column; the earlier row first among equals."""
    rows, columns = view.shape
    if n == m or not view.size:
        return np.ones(view.shape, bool)
    padded = np.full((-(-rows // m) * m, columns), -np.inf, np.result_type(view, np.float32))
    padded[:rows] = view
    runs = padded.reshape(-1, m, columns)
    if m > 16:  # from here on sorting is cheaper than comparing all pairs
        order = np.argsort(-runs, axis=1, kind="stable")
        best = np.zeros(runs.shape, bool)
        np.put_along_axis(best, order[:, :n], True, axis=1)
        return best.reshape(padded.shape)[:rows]
    better = np.zeros(runs.shape, np.uint8)  # how many of its run come before each weight
    for one in range(m):
        for other in range(one + 1, m):
            first = runs[:, one] >= runs[:, other]
            better[:, other] += first
            better[:, one] += ~first
    return (better < n).reshape(padded.shape)[:rows]


@register("unit")
class Unit(Pattern):
    """Whole output units: neurons, filters, channels of a depthwise convolution.

    For kernels whose dead units shall be cut out afterwards. The score of a unit is the mean over its
    weights; of u units, u - floor(s u + 1/2) stay, at least one.

    Example:
        >>> groups = Unit().groups(np.array([[1.0, 9.0, 4.0], [3.0, 1.0, 4.0]]), Kernel("kernel"))
        >>> groups.scores.tolist(), groups.spread(groups.top(2)).astype(int).tolist()
        ([2.0, 5.0, 4.0], [[0, 1, 1], [0, 1, 1]])
    """

    def obstacle(self, shape: Sequence[int], kernel: Kernel, layer: Any = None) -> str:
        if kernel.unit_axis is None:
            return "pattern unit needs an axis of output units, and this kernel has none"
        units = getattr(layer, "units", getattr(layer, "filters", None))
        if hasattr(layer, "recurrent_kernel") and units not in (None, shape[kernel.unit_axis]):
            return f"pattern unit: its {shape[kernel.unit_axis]} columns are gates of {units} units"
        return ""

    def groups(self, scores: np.ndarray, kernel: Kernel, path: str = "") -> Groups:
        _must_fit(self, scores, kernel, path)
        shape = np.shape(scores)
        axis = kernel.axis % len(shape)
        others = tuple(i for i in range(len(shape)) if i != axis)
        place = tuple(-1 if i == axis else 1 for i in range(len(shape)))
        empty = not np.size(scores)
        pooled = np.zeros(0, np.float32) if empty else np.mean(scores, axis=others)

        def spread(keep: np.ndarray) -> np.ndarray:
            return np.ones(shape, bool) if empty else np.broadcast_to(keep.reshape(place), shape).copy()

        return Groups(path, shape, pooled, spread)

    def __str__(self) -> str:
        return "unit"


def _no_view(pattern: str, kernel: Kernel) -> str:
    if kernel.unit_axis is None or kernel.input_axis is None:
        missing = "output units" if kernel.unit_axis is None else "inputs"
        return f"pattern {pattern} needs axes of inputs and of units, and this kernel has none of {missing}"
    return ""


def _must_fit(pattern: Pattern, scores: np.ndarray, kernel: Kernel, path: str) -> None:
    reason = pattern.obstacle(np.shape(scores), kernel)
    if reason:
        where = f"{path or kernel.name} {np.shape(scores)}"
        raise InputError(f"{where}: {reason}; exclude it or change the pattern")


def _view(array: np.ndarray, kernel: Kernel) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """The input-by-unit view of a kernel, and the way back to its shape."""
    moved = np.moveaxis(array, kernel.axis, -1)
    units = moved.shape[-1]
    rows = int(np.prod(moved.shape[:-1]))

    def back(view: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(view.reshape(moved.shape), -1, kernel.axis))

    return moved.reshape(rows, units), back
