"""Which activations a model has, and a plan of simpler ones: measured one by one, then applied together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from keras_aeprune import calibration
from keras_aeprune._progress import silent, to_stderr
from keras_aeprune._validation import InputError, positive_number, refuse
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria.losses import forward, per_example, unchanged
from keras_aeprune.shrinking import folding
from keras_aeprune.shrinking.activation_plan import ActivationChange, ActivationPlan, changed
from keras_aeprune.shrinking.folding import RECTIFIERS, Site, check_name, known, sites, wanted

__all__ = ["States", "activations", "relu_states", "replaced", "simplify"]

_SILENCED = (kl.Dense, kl.Conv1D, kl.Conv2D, kl.Conv3D, kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
_SMOOTH = ("gelu", "silu", "mish", "hard_silu", "elu", "selu", "celu", "softplus", "leaky_relu", "prelu")
RULES: Mapping[str, str] = {
    **dict.fromkeys((f"{name}->relu" for name in _SMOOTH), "relu is fused into the layer before by converters"),
    "relu->linear": "all live units are always ON on the data, and linear layers can be merged",
}


def activations(model: keras.Model) -> dict[str, str]:
    """The activation of every layer that has one, under the path that `replaced` and `simplify` take.

    Args:
        model: a Keras model; models inside it and layers in TimeDistributed count as well.

    Returns:
        {path: name}. What cannot be changed has the reason behind its name. ReLU layers with a slope are
        "leaky_relu", those up to 6 "relu6".

    Example:
        >>> model = keras.Sequential([keras.Input((4, 3)), kl.Dense(2, "gelu", name="a"), kl.GRU(2, name="b")])
        >>> activations(model)
        {'a': 'gelu', 'b': 'tanh, sigmoid (fixed: recurrent)'}
    """
    return {site.path: f"{site.name} (fixed: {site.fixed})" if site.fixed else site.name for site in sites(model)}


def replaced(model: keras.Model, names: Mapping[str, str]) -> keras.Model:
    """A new model with other activations and the same weights.

    Use it to try a change by hand; `simplify` measures first. An Activation or ReLU layer that becomes "linear" is
    left out (at one of several outputs an Identity takes its place, for its name).

    Args:
        model: a built Keras model; it is not changed.
        names: {path, name or pattern with *: name of a Keras activation}. "encoder" or "encoder/*" means all
            layers in it; of several that fit, the last counts. Layers that have one of that name stay as they
            are, and patterns pass over layers that cannot be changed.

    Returns:
        A model of the same kind, compiled like the given one. The weights are copies.

    Raises:
        InputError: no such layer, a fixed one, or no such activation, each with the list.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), kl.Dense(2, name="a"), kl.ReLU(name="b")])
        >>> activations(replaced(model, {"a": "tanh", "b": "linear"}))
        {'a': 'tanh'}
    """
    changes = [(site, name) for site, name in wanted(sites(model), names) if site.name != name]
    return folding.rebuilt(model, changes)[0]


@dataclass(frozen=True, eq=False)
class States:
    """How often each unit of one rectifier is ON: `on`, a fraction 0 <= p <= 1 of samples and positions."""

    activation: str
    on: np.ndarray

    always_on = property(lambda self: np.flatnonzero(self.on == 1), doc="Units that are always ON.")
    always_off = property(lambda self: np.flatnonzero(self.on == 0), doc="Units that are never ON.")
    mixed = property(lambda self: np.flatnonzero((self.on > 0) & (self.on < 1)), doc="The other units.")

    def __str__(self) -> str:
        return f"{len(self.always_on)} units always ON, {len(self.always_off)} always OFF, {len(self.mixed)} mixed"


def relu_states(model: keras.Model, data: Any) -> dict[str, States]:
    """How often each unit of each rectifier is ON, on calibration data.

    Use it to see which activations do nothing (all units ON), and which units are dead (always OFF). Unit j with
    inputs z is ON for the share mean(z[n, j] > 0) of all samples n, positions and calls of the layer.

    Args:
        model: a built Keras model; it is not changed.
        data: calibration samples, what `calibration.get` takes; n >= 1.

    Returns:
        {path: `States`} of relu, leaky_relu, prelu, elu, gelu, silu and their kin.

    Raises:
        InputError: data that does not fit the model, layers inside of a loop.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), kl.Dense(3, "relu", name="a")])
        >>> model.set_weights([np.array([[1.0, 1.0, 1.0]]), np.array([0.0, 9.0, -9.0])])
        >>> states = relu_states(model, np.array([[-1.0], [1.0], [2.0], [3.0]]))["a"]
        >>> states.on.tolist(), str(states)
        ([0.75, 1.0, 0.0], '1 units always ON, 1 always OFF, 1 mixed')
    """
    chosen = [site for site in sites(model) if not site.fixed and site.name in RECTIFIERS]
    found = _states(model, calibration.get(data), chosen)
    if unseen := [site.path for site in chosen if site.path not in found]:
        raise refuse("model", unseen, "activations that are used, and not inside of a loop")
    return found


def _states(model: keras.Model, data: Calibration, chosen: Sequence[Site]) -> dict[str, States]:
    """States of the sites whose inputs can be seen."""

    @tf.function(autograph=False, reduce_retracing=True)
    def count(x: Any) -> dict[str, tf.Tensor]:
        noted, graph = dict[str, tf.Tensor](), tf.compat.v1.get_default_graph()

        def note(number: int, own: Any, z: Any) -> Any:
            path, first = chosen[number].path, getattr(chosen[number].layer, "data_format", "") == "channels_first"
            z_last = tf.experimental.numpy.moveaxis(z, 1, -1) if first else z
            if tf.compat.v1.get_default_graph() is graph:
                on = tf.reshape(z_last > 0, (-1, tf.shape(z_last)[-1]))
                counts = [tf.math.count_nonzero(on, 0), tf.shape(on, tf.int64)[:1]]
                noted[path] = noted.get(path, 0) + tf.concat(counts, 0)
            return own(z)

        with unchanged(model):
            folding.heard(chosen, note)
            forward(model, x)
        return noted

    totals: dict[str, np.ndarray] = {}
    for x, _ in folding.batches_for(model, data):
        for path, counts in count(tf.constant(x)).items():
            totals[path] = totals.get(path, 0) + counts.numpy()
    names = {site.path: site.name for site in chosen}
    return {path: States(names[path], counts[:-1] / counts[-1]) for path, counts in totals.items()}


def simplify(
    model: keras.Model,
    data: Any,
    *,
    rules: Sequence[str] = tuple(RULES),
    names: Mapping[str, str] | None = None,
    max_error_increase: float = 0.05,
    loss: Any = None,
    latency: Callable[[keras.Model], float] | None = None,
    progress: bool = True,
) -> ActivationPlan:
    """Plan cheaper activations, as far as the loss allows it; nothing is changed before `plan.apply(model)`.

    Use it before a model is converted, or to make room for merging layers. Each change is measured alone; then
    they are tried in the order of least loss, each on top of those accepted so far, and accepted while

        loss <= loss of the given model + max_error_increase * |loss of the given model|

    The loss is the mean of the compiled one over the data, without regularization. Training on after `apply` wins
    some of it back. Rules pass over the outputs of the model. relu -> linear holds where every unit is always ON
    or always OFF on the data; units that are OFF get weights of 0. A leaky_relu after a Conv2DTranspose stays:
    int8 LiteRT is 1.75 times as fast with it. What a rule asks for and does not get is listed with the reason.

    Args:
        model: a built Keras model with one input; it is not changed.
        data: calibration samples, what `calibration.get` takes, with targets unless it is an autoencoder.
        rules: such as "gelu->relu", between names of `activations`; `RULES` has the default ones. () for none.
        names: as for `replaced`; before any rule, also at outputs. The limit counts for them too.
        max_error_increase: fraction of the loss, >= 0; 0 allows what costs nothing.
        loss: Keras name or function instead of the compiled loss.
        latency: function of a model -> microseconds; called for the given model and for each accepted change.
        progress: True writes lines to standard error.

    Raises:
        InputError: no loss, unknown names, rules or layers, a loss that is not finite.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), kl.Dense(2, "gelu", name="a"), kl.Dense(1, name="b")])
        >>> model.set_weights([np.ones((1, 2)), np.zeros(2), np.ones((2, 1)), np.zeros(1)])
        >>> x = np.array([[8.0], [9.0]])
        >>> plan = simplify(model, (x, 2 * x + 0.1), loss="mse", progress=False)
        >>> [(one.path, one.before, one.after) for one in plan.changes], activations(plan.apply(model))
        ([('a', 'gelu', 'relu')], {'a': 'relu', 'b': 'linear'})
    """
    if type(max_error_increase) not in (int, float) or not 0 <= max_error_increase < math.inf:
        raise refuse("max_error_increase", max_error_increase, "a number >= 0, a fraction of the loss")
    say = to_stderr if progress else silent
    seen, found = calibration.get(data), {site.path: site for site in sites(model)}
    moves, refused = _moves(model, seen, list(found.values()), _parsed(rules), names or {})
    judge = _judge(model, seen, loss, [(found[move.path], move) for move in moves])
    start = judge(())[1]
    if not math.isfinite(start):
        raise InputError(f"loss: got {start} for the given model, allowed: a finite loss; check data and training")
    limit = start + max_error_increase * abs(start)
    say(f"activations: measuring {len(moves)} changes", False)
    alone = [judge([number])[1] for number in range(len(moves))]
    taken, changes = list[int](), list[ActivationChange]()
    now, clock = start, positive_number("latency", latency(model), "microseconds") if latency else 0.0
    for number in sorted(range(len(moves)), key=lambda n: (not math.isfinite(alone[n]), alone[n], n)):
        difference, then = judge([*taken, number])
        one, finite = moves[number], math.isfinite(then) and math.isfinite(difference)
        if finite:
            one = replace(one, difference=difference, loss_before=now, loss_after=then)
        if not finite or then > limit:
            reason = f"loss above the limit of {limit:.4g}" if finite else "gives values that are not finite"
            refused.append(replace(one, why=f"{one.why}; {reason}"))
            continue
        taken.append(number)
        changes.append(one)
        now, before = then, clock
        if latency:
            clock = positive_number("latency", latency(changed(model, changes)), "microseconds")
            changes[-1] = replace(one, saved=before - clock)
    say(f"activations: {len(changes)} of {len(moves)} changes accepted, loss {start:.4g} -> {now:.4g}", True)
    settings = {"samples": len(seen), "limit": limit, "loss": start, "loss_after": now}
    return ActivationPlan(model.name, tuple(changes), tuple(refused), settings)


def _parsed(rules: Any) -> dict[str, str]:
    """{from: to} of the rules, the first one for each."""
    found: dict[str, str] = {}
    if isinstance(rules, str) or not isinstance(rules, Sequence | Mapping):
        raise refuse("rules", rules, f"a list of rules such as {', '.join(RULES)}")
    for rule in rules:
        before, arrow, after = rule.partition("->") if isinstance(rule, str) else (rule, "", "")
        if not arrow or before not in (*known(), "prelu"):
            raise refuse("rules", rule, f"rules of the form 'gelu->relu' between {', '.join(known())}, prelu")
        found.setdefault(before, check_name(f"rules, {rule!r}", after))
    return found


def _moves(
    model: keras.Model, seen: Calibration, found: Sequence[Site], rules: dict[str, str], names: Mapping[str, str]
) -> tuple[list[ActivationChange], list[ActivationChange]]:
    """What is to be measured, and what is not done for a reason that needs no measuring."""
    named = {site.path: name for site, name in wanted(found, names)}
    ends, free = folding.output_ids(model), [site for site in found if not site.fixed]
    states = _states(model, seen, [site for site in free if site.name == "relu"] if "relu" in rules else [])
    moves, kept = list[ActivationChange](), list[ActivationChange]()
    for site in free:
        after = named.get(site.path, rules.get(site.name, site.name))
        one, reason = ActivationChange(site.path, site.name, after, "named"), ""
        if site.path not in named:
            one = replace(one, why=RULES.get(f"{site.name}->{after}", "rule"))
            if id(site.holder) in ends:
                reason = "at the output of the model; name it to change it"
            elif (site.name, after) == ("leaky_relu", "relu") and folding.after_transposed(model, site.holder):
                reason = "after Conv2DTranspose, where int8 LiteRT is faster with leaky_relu"
            elif (site.name, after) == ("relu", "linear"):
                state = states.get(site.path)
                silent_too = site.holder is site.layer and type(site.layer) in _SILENCED
                silent_too = silent_too and getattr(site.layer, "data_format", "") != "channels_first"
                one = replace(one, off=tuple(state.always_off.tolist()) if state else ())
                if state is None or len(state.mixed) or not len(state.always_on) or (one.off and not silent_too):
                    reason = str(state or "inside of a loop, where its states cannot be seen")
        if after != site.name:
            (kept if reason else moves).append(replace(one, why=reason or one.why))
    return moves, kept


def _judge(
    model: keras.Model, seen: Calibration, loss: Any, moves: Sequence[tuple[Site, ActivationChange]]
) -> Callable[[Sequence[int]], tuple[float, float]]:
    """A function of the numbers of changes -> (mean squared difference, mean loss); traced only once."""
    chosen, losses = [site for site, _ in moves], per_example(model, loss)
    functions = [keras.activations.get(move.after) for _, move in moves]

    @tf.function(autograph=False, reduce_retracing=True)
    def run(x: Any, flags: Any) -> Any:
        def switch(number: int, own: Any, z: Any) -> Any:
            new, off = functions[number](z), moves[number][1].off
            if off:
                new *= tf.constant(~np.isin(np.arange(z.shape[-1]), off), new.dtype)
            return tf.where(flags[number], new, own(z))

        with unchanged(model):
            folding.heard(chosen, switch)
            return forward(model, x)

    batches = folding.batches_for(model, seen)

    def outputs(numbers: Sequence[int]) -> list[Any]:
        flags = tf.constant(np.isin(np.arange(len(moves)), list(numbers)))
        return [run(tf.constant(x), flags) for x, _ in batches]

    given = [list(map(np.asarray, keras.tree.flatten(one))) for one in outputs(())]
    count = sum(value.size for one in given for value in one)

    def judge(numbers: Sequence[int]) -> tuple[float, float]:
        squares, total = 0.0, 0.0
        for (_, y), found, before in zip(batches, outputs(numbers), given, strict=True):
            total += float(np.sum(losses(y, found), dtype=np.float64))
            for now, then in zip(keras.tree.flatten(found), before, strict=True):
                squares += float(np.sum(np.square(np.subtract(now, then, dtype=np.float64))))
        return squares / count, total / len(seen)

    return judge
