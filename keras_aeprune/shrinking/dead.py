"""Cut out what does nothing: units that nothing takes, and units whose value never changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from keras_aeprune._validation import InputError, keras_model, refuse
from keras_aeprune.shrinking import constants, rules
from keras_aeprune.shrinking.constants import Extent, connected
from keras_aeprune.shrinking.cutting import cut
from keras_aeprune.shrinking.rebuild import compile_like, rebuild
from keras_aeprune.shrinking.tracing import Traced, trace
from keras_aeprune.shrinking.units import Member, Part

__all__ = ["Dead", "DeadUnits", "find_dead", "without_dead"]

_ROUNDING = 1e-6  # what is the same by its weights may differ by this much between rows of a batch


@dataclass(frozen=True)
class DeadUnits:
    """Units of one layer, or of layers whose units go together, that do nothing for the same reason.

    Args:
        path: of the first layer that makes them, as `Group.name`.
        units: their positions among that layer's units, from 0.
        why: "outgoing" where nothing that stays takes them, "incoming" where all weights that make them are
            zero, "constant" where their value is the same on all of the data.
        removed: whether they go.
        exact: whether the model without them equals the given one on any input, not only on the data.
        reason: why they stay; "" where they go.
    """

    path: str
    units: tuple[int, ...]
    why: str
    removed: bool
    exact: bool
    reason: str = ""


@dataclass(frozen=True)
class Dead:
    """What `find_dead` found; `print` shows a table.

    Args:
        rows: units layer by layer, in the model's order.

    Example:
        >>> dead = Dead((DeadUnits("hidden", (0, 3), "incoming", True, True),))
        >>> print(dead)
        layer   units  why       exact  outcome
        hidden  2      incoming  yes    goes
        >>> Dead.from_dict(dead.to_dict()) == dead, dead.removed
        (True, 2)
    """

    rows: tuple[DeadUnits, ...] = ()

    @property
    def removed(self) -> int:
        """How many units go."""
        return sum(len(row.units) for row in self.rows if row.removed)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"rows": [{**asdict(row), "units": list(row.units)} for row in self.rows]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Dead:
        """What `to_dict` gave.

        Raises:
            InputError: something else.
        """
        try:
            return cls(tuple(DeadUnits(**{**row, "units": tuple(row["units"])}) for row in values["rows"]))
        except (KeyError, TypeError) as error:
            raise refuse("values", values, "what Dead.to_dict returns") from error

    def __str__(self) -> str:
        if not self.rows:
            return "no dead units"
        table = [("layer", "units", "why", "exact", "outcome")]
        for row in self.rows:
            outcome = "goes" if row.removed else f"stays: {row.reason}"
            table.append((row.path, str(len(row.units)), row.why, "yes" if row.exact else "on the data", outcome))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        )


class _Link:
    """A weight that mixes units, seen from the units that it takes: can their values be folded into a bias?"""

    def __init__(self, traced: Traced, member: Member, part: Part):
        self.member, self.part, self.layer = member, part, member.layer
        self.inner = self.layer.layer if isinstance(self.layer, kl.TimeDistributed) else self.layer
        self.rule = traced.rule(self.inner)
        ids = part.along(part.takes)
        self.rows = traced.classes[ids]
        made = None if part.makes is None else part.axes[part.makes]
        self.nonzero = connected(part)
        if self.rule is rules.separable:
            self.nonzero &= constants.passes(self.inner)[:, None]
            times = self.inner.depth_multiplier
            self.channels = np.repeat(np.arange(len(ids) // times), times)
            self.inputs = [0]
        else:
            self.channels = np.arange(len(ids))
            self.inputs = [number for number in member.mixed if member.inputs[number] is ids]
        # -1: a column that belongs to no unit, and so always stays
        self.columns = traced.classes[made] if made is not None else np.full(self.nonzero.shape[1], -1)
        self.inside = not self.inputs  # from a recurrent layer's units to themselves, from heads
        self.bias = constants.bias_of(member, part)
        count = len(ids)
        self.values, self.constant = np.zeros(count), np.zeros(count, bool)
        self.sure = np.ones(count, bool)  # constant on any input
        self.exact, self.known = np.zeros(count, bool), np.zeros(count, bool)  # can be folded
        self.reasons = np.full(count, "", object)
        if self.inside:
            self.exact = self.known = constants.silent(member, part)
            self.reasons[:] = f"{member.path} uses it inside, at every step"

    def measure(self, always: dict, found: dict[tuple, Extent], with_data: bool, tolerance: float) -> None:
        """Take over what is known of the values that come in."""
        places = [(id(self.member), number) for number in self.inputs]
        self.sure = sure = np.logical_and.reduce([always[place][self.channels] for place in places])
        if not with_data and not sure.any():
            return
        low = np.min([found[place].low[self.channels] for place in places], axis=0)
        high = np.max([found[place].high[self.channels] for place in places], axis=0)
        moves = np.max([found[place].moves[self.channels] for place in places], axis=0)
        self.values = (low + high) / 2
        limit = np.where(sure, max(tolerance, _ROUNDING), tolerance) * np.maximum(1, np.abs(self.values))
        self.constant = (moves <= limit) & (sure | with_data)
        same, zero = high - low <= limit, (low == 0) & (high == 0)
        obstacle = constants.obstacle(self.member, self.inner, self.rule, self.bias)
        can = self.constant & (zero | same & (obstacle == ""))
        self.exact, self.known = can & sure, can
        self.reasons[:] = np.where(
            same, obstacle, f"its value differs between positions or calls of {self.member.path}"
        )

    def folded(self, chosen: np.ndarray) -> np.ndarray | None:
        """What the values of the chosen rows add to all outputs; None where it is nothing."""
        values = np.where(chosen, self.values, 0.0)
        takes = self.part.takes
        if self.inside or takes is None or not values.any():
            return None
        kernel = keras.ops.convert_to_numpy(self.part.variable).astype("float64")
        if rank := len(getattr(self.inner, "kernel_size", ())):  # a window sees the value at all its positions
            kernel, takes = kernel.sum(axis=tuple(range(rank))), takes - rank
        if self.rule is rules.separable:
            first = keras.ops.convert_to_numpy(self.inner.depthwise_kernel).astype("float64")
            values = values * first.sum(axis=tuple(range(rank))).ravel()
        return np.tensordot(values, kernel, axes=(0, takes))


@dataclass
class _Findings:
    links: list[_Link]
    gone: np.ndarray  # for each class whether it does nothing, the last of a group included
    stays: dict[int, bool]  # last of a group -> whether it is constant
    dead: Dead


def _closed(links: list[_Link], start: np.ndarray, kind: str) -> np.ndarray:
    """The largest set of classes of which nothing but what can be folded reaches a unit outside."""
    gone = np.append(start, False)
    while True:
        bad = np.zeros(len(gone), bool)
        for link in links:
            stays = ~gone[link.columns]
            needed = link.nonzero[:, stays].any(axis=1)
            bad[link.rows[needed & ~getattr(link, kind)] if kind else link.rows[needed]] = True
        if not (gone & bad).any():
            return gone[:-1]
        gone &= ~bad


def _analysed(traced: Traced, data: Any, tolerance: float) -> _Findings:
    if traced.accept_normalization:
        raise InputError("traced: got one with accept_normalization=True, allowed: trace(model)")
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        raise refuse("tolerance", tolerance, "a number 0 <= tolerance < 1")
    members = list(dict.fromkeys(traced.members.values()))
    links = [
        _Link(traced, member, part)
        for member in members
        for part in member.parts
        if part.takes is not None and part.axes[part.takes] is not None
    ]
    stateful = any(getattr(member.layer, "stateful", False) for member in members)
    always = constants.proven(traced)
    found: dict = {}
    if data is not None and stateful:
        raise InputError("data: got data for a model that keeps a state between calls, allowed: None")
    if data is not None:
        found = constants.extents(traced, constants.batches(traced.model, data))
    elif any(flags.any() for flags in always.values()) and not stateful:
        found = constants.extents(traced, constants.probes(traced.model))
    for link in (link for link in links if found and not link.inside):
        link.measure(always, found, data is not None, tolerance)
    free = np.zeros(len(traced.classes), bool)
    for group in traced.groups:
        free[group.classes] = not group.reason
    for member in members:  # an own kind of layer may take units without a weight that says so
        for number in member.mixed:
            ids = member.inputs[number]
            if ids is not None and not any(link.member is member and number in link.inputs for link in links):
                free[traced.classes[ids]] = False
    sets = [_closed(links, free, kind) for kind in ("", "exact", "known")]
    return _told(traced, links, sets)


def _told(traced: Traced, links: list[_Link], sets: list[np.ndarray]) -> _Findings:
    unused, exact, gone = sets
    ended, count = np.append(gone, False), len(gone)
    moving, folds, seen = (np.zeros(count, bool) for _ in range(3))
    sure, blocked = np.ones(count, bool), dict[int, str]()
    for link in links:
        used = link.nonzero[:, ~ended[link.columns]].any(axis=1)
        if link.inside:
            blocks = used & ~link.known
        else:
            seen[link.rows] = True
            moving[link.rows[~link.constant]] = True
            folds[link.rows[used]] = True
            blocks = used & link.constant & ~link.known
            sure[link.rows[used & ~link.sure]] = False
        for one, reason in zip(link.rows[blocks].tolist(), link.reasons[blocks], strict=True):
            blocked.setdefault(one, reason)
    still = seen & ~moving
    stays: dict[int, bool] = {}
    rows: dict[tuple, list[int]] = {}
    for group in traced.groups:
        if group.reason:
            continue
        made = group.makers[0][1]
        place = {one: number for number, one in reversed(list(enumerate(traced.classes[made].tolist())))}
        if gone[group.classes].all():
            last = min(group.classes.tolist(), key=lambda one: (bool(still[one]), place[one]))
            stays[last] = bool(still[last])
        for one in group.classes.tolist():
            if not gone[one] and not (still[one] and one in blocked):
                continue
            why = "outgoing" if gone[one] and (unused[one] or not folds[one]) else "constant"
            certain = bool(exact[one]) if gone[one] else bool(sure[one])
            if why == "constant" and certain:
                why = "incoming"
            reason = "the last of its layer, for the shape" if one in stays else blocked.get(one, "")
            goes = bool(gone[one]) and one not in stays
            rows.setdefault((group.name, why, goes, certain, "" if goes else reason), []).append(place[one])
    told = (DeadUnits(name, tuple(units), *rest) for (name, *rest), units in rows.items())
    return _Findings(links, gone, stays, Dead(tuple(told)))


def find_dead(traced: Traced, data: Any = None, *, tolerance: float = 0.0) -> Dead:
    """List the units that do nothing; the model is not changed.

    See `without_dead` for what counts and for the arguments.

    Args:
        traced: what `trace(model)` returns.
        data: as there.
        tolerance: as there.

    Raises:
        InputError: as there.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), kl.Dense(3, name="hidden"), kl.Dense(1)])
        >>> model.set_weights([np.ones((2, 3)), np.zeros(3), np.array([[1.0], [0.0], [1.0]]), np.zeros(1)])
        >>> print(find_dead(trace(model)))
        layer   units  why       exact  outcome
        hidden  1      outgoing  yes    goes
    """
    return _analysed(traced, data, tolerance).dead


def without_dead(model: keras.Model, data: Any = None, *, tolerance: float = 0.0) -> tuple[keras.Model, Dead]:
    """A smaller model with the same outputs: units that do nothing are cut out.

    Use it after pruning, and before an int8 export, which a layer that never fires breaks. A unit goes if

    - all weights that take it are zero, or lead to units that go ("outgoing"), or
    - all weights that make it are zero ("incoming"), or its value is constant on `data` ("constant"):

          max - min <= tolerance * max(1, |value|)        value = (max + min) / 2

      over samples and positions. Its value v then goes into the next bias: b + sum over the window of v W.

    A value other than 0 cannot be folded where a convolution pads, where it differs from position to position
    (behind a Flatten each position counts by itself), or where there is no bias and none can be made; such
    units stay and are listed. At least one unit of each layer stays; where it is constant, it takes nothing,
    gives 1 before its activation, and nothing takes it, so that the layer does not stand still.

    Args:
        model: a built Keras model; it is not changed.
        data: calibration samples (n, *input shape), n >= 2, or what else `calibration.get` reads; a dict or
            list of arrays for a model with several inputs. None looks at the weights alone.
        tolerance: 0 <= tolerance < 1; of weights that are exactly zero the rounding of float32 is allowed.

    Returns:
        The new model, compiled like the given one, and what was found.

    Raises:
        InputError: a model that is not built, data of another shape or fewer than 2 samples, a tolerance out of
            range, data for a model with stateful layers.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), kl.Dense(2, "relu", name="hidden"), kl.Dense(1)])
        >>> model.set_weights([np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0.0, 2.0]),
        ...                    np.array([[1.0], [3.0]]), np.array([0.5])])
        >>> small, dead = without_dead(model)
        >>> print(dead)
        layer   units  why       exact  outcome
        hidden  1      incoming  yes    goes
        >>> small.layers[0].units, small.layers[1].bias.numpy().tolist()   # 0.5 + 2 * 3
        (1, [6.5])
    """
    traced = trace(keras_model(model))
    findings = _analysed(traced, data, tolerance)
    values, added = _values(traced, findings)
    copy, maker = rebuild(
        model,
        lambda layer: (
            type(layer).from_config({**layer.get_config(), "use_bias": True}) if id(layer) in added else None
        ),
    )
    for old, twin in maker.pairs:
        if isinstance(old, keras.Layer) and (old.weights or id(old) in added):
            weights = [values.get(id(one), keras.ops.convert_to_numpy(one)) for one in old.weights]
            if id(old) in added:  # a bias is the last weight of its layer
                weights.append(np.zeros(twin.weights[-1].shape))
                _inputs_row(weights[-1], added[id(old)])[...] = added[id(old)]
            twin.set_weights(weights)
    compile_like(copy, model)
    again = trace(copy)
    kept = np.ones(len(again.classes), bool)
    goes = findings.gone.copy()
    goes[list(findings.stays)] = False
    for old, twin in maker.pairs:
        if (before := traced.members.get(id(old))) and (now := again.members.get(id(twin))):
            for name, ids in before.made.items():
                kept[now.made[name]] = ~goes[traced.classes[ids]]
    return cut(again, kept), findings.dead


def _values(traced: Traced, findings: _Findings) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """New numbers of weights by the id of the variable, and biases of layers that have none by id of the layer."""
    values: dict[int, np.ndarray] = {}
    added: dict[int, np.ndarray] = {}

    def of(variable: Any) -> np.ndarray:
        return values.setdefault(id(variable), keras.ops.convert_to_numpy(variable).astype("float64"))

    for link in findings.links:
        more = link.folded(findings.gone[link.rows] & link.known)
        if more is None:
            continue
        if link.bias is None:
            added[id(link.layer)] = added.get(id(link.layer), 0.0) + more
        else:
            _inputs_row(of(link.bias), more)[...] += more
    for member in dict.fromkeys(traced.members.values()):
        layer = member.layer.layer if isinstance(member.layer, kl.TimeDistributed) else member.layer
        loop = isinstance(layer, (kl.RNN, kl.Bidirectional, kl.MultiHeadAttention))
        inputs = [member.inputs[number] for number in member.mixed]
        for part in member.parts:
            if part.takes is not None and (not loop or any(part.axes[part.takes] is ids for ids in inputs)):
                _clear(of, traced, part, part.takes, list(findings.stays), 0.0)
            quiet = [one for one, still in findings.stays.items() if still]
            if not loop and part.makes is not None:
                _clear(of, traced, part, part.makes, quiet, 0.0)
            if not loop and member.made and part.takes is None and part.makes is None and len(part.axes) == 1:
                _clear(of, traced, part, 0, quiet, 1.0)
    return values, added


def _inputs_row(bias: np.ndarray, added: np.ndarray) -> np.ndarray:
    """The part of a bias that belongs to the inputs: a GRU may have a second one, for its states."""
    return bias[0] if bias.ndim > added.ndim else bias


def _clear(of: Any, traced: Traced, part: Part, axis: int, classes: list[int], value: float) -> None:
    """Set the slices of some units along an axis of a weight."""
    ids = part.axes[axis]
    chosen = np.isin(traced.classes[ids], classes) if ids is not None and classes else np.zeros(1, bool)
    if chosen.any():
        np.moveaxis(of(part.variable), axis, 0)[chosen] = value
