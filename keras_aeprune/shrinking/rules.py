"""One rule per kind of layer that has weights: which units come in, go out, and lie along each weight.

A rule is a function (tracer, layer, flows, shapes) -> the flows that go out: `flows` stand for the tensors that
the layer is called with, masks left out, `shapes` are those of its outputs without the batch axis. It notes a
`Member` for the layer once, however often it is called, and joins the units of later calls with the first one's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from keras_aeprune.shrinking.units import Flow, Member, Part

__all__ = ["WEIGHTED", "Rule"]

Rule = Callable[[Any, Any, list[Flow], list[tuple]], list[Flow]]


def _sizes(shape: Sequence[int | None]) -> int:
    """Positions along axes; one of unknown length counts as one."""
    return math.prod(size or 1 for size in shape)


def _bias(layer: Any, ids: np.ndarray, name: str = "bias") -> list[Part]:
    variable = getattr(layer, name, None)
    return [] if variable is None else [Part(variable, (ids,))]


def _affine(
    tracer: Any, layer: Any, flow: Flow, shape: tuple, make: Callable[[Any, Any], list[Part]], resized: str
) -> list[Flow]:
    """A layer that mixes what comes in into units of its own."""

    def note(member: Member) -> None:
        out = tracer.units.new(shape[-1])
        member.made[""] = out
        member.mixed, member.parts = (0,), make(flow.ids, out)
        member.resized = lambda count: {resized: count(out)}
        member.outputs = [out]
        if not tracer.elementwise(getattr(layer, "activation", None), shape):
            tracer.units.keep(out, f"the activation of {member.path} mixes its units")

    member = tracer.member(layer, [flow.ids], note)
    return [Flow(shape, member.outputs[0])]


def dense(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """inputs W + b."""
    times = _sizes(shapes[0][:-1])
    return _affine(
        tracer,
        layer,
        flows[0],
        shapes[0],
        lambda i, o: [Part(layer.kernel, (i, o), 0, 1, times), *_bias(layer, o)],
        "units",
    )


def dense_transpose(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """inputs W' + b, where W may be another layer's kernel."""
    times = _sizes(shapes[0][:-1])
    return _affine(
        tracer,
        layer,
        flows[0],
        shapes[0],
        lambda i, o: [Part(layer.kernel, (o, i), 1, 0, times), *_bias(layer, o)],
        "units",
    )


def convolution(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """Filters of shape (*window, channels in, channels out)."""
    if (reason := _unusual(layer)) or getattr(layer, "groups", 1) > 1:
        reason = reason or "is a convolution in groups"
        return tracer.whole(layer, flows, shapes, reason)
    window, times = (None,) * layer.rank, _sizes(shapes[0][:-1])
    return _affine(
        tracer,
        layer,
        flows[0],
        shapes[0],
        lambda i, o: [
            Part(layer.kernel, (*window, i, o), layer.rank, layer.rank + 1, times),
            *_bias(layer, o),
        ],
        "filters",
    )


def transposed(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """Filters of shape (*window, channels out, channels in); each input position is multiplied once."""
    if reason := _unusual(layer):
        return tracer.whole(layer, flows, shapes, reason)
    window, times = (None,) * layer.rank, _sizes(flows[0].shape[:-1])
    return _affine(
        tracer,
        layer,
        flows[0],
        shapes[0],
        lambda i, o: [
            Part(layer.kernel, (*window, o, i), layer.rank + 1, layer.rank, times),
            *_bias(layer, o),
        ],
        "filters",
    )


def depthwise(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """Filters of shape (*window, channels, multiplier): each channel passes by itself, multiplied."""
    ids = flows[0].ids
    if (reason := _unusual(layer)) or ids is None:
        return tracer.whole(layer, flows, shapes, reason or "has channels of unknown number")

    def note(member: Member) -> None:
        out = np.repeat(ids, layer.depth_multiplier)
        kernel = (*(None,) * layer.rank, ids, None)
        times = _sizes(shapes[0][:-1])
        member.parts, member.outputs = [Part(layer.kernel, kernel, times=times), *_bias(layer, out)], [out]
        if not tracer.elementwise(layer.activation, shapes[0]):
            tracer.units.keep(out, f"the activation of {member.path} mixes its units")

    return [Flow(shapes[0], tracer.member(layer, [flows[0].ids], note).outputs[0])]


def separable(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """A depthwise convolution without bias, then filters of one position."""
    if reason := _unusual(layer):
        return tracer.whole(layer, flows, shapes, reason)
    window, times = (None,) * layer.rank, _sizes(shapes[0][:-1])

    def make(i: Any, o: Any) -> list[Part]:
        between = None if i is None else np.repeat(i, layer.depth_multiplier)
        first = Part(layer.depthwise_kernel, (*window, i, None), times=times)
        second = Part(layer.pointwise_kernel, (*window, between, o), layer.rank, layer.rank + 1, times)
        return [first, second, *_bias(layer, o)]

    return _affine(tracer, layer, flows[0], shapes[0], make, "filters")


def normalization(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """Each channel by its own numbers, as long as the channels are the last axis."""
    axis = getattr(layer, "axis", -1)
    axes = [axis] if isinstance(axis, int) else list(axis)
    if axes not in ([-1], [len(flows[0].shape)]):
        return tracer.whole(layer, flows, shapes, "normalizes another axis than the last")
    return _by_channel(tracer, layer, flows, shapes)


def over_units(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """A normalization across units: left whole, unless normalizing over the kept ones is accepted."""
    grouped = isinstance(layer, kl.GroupNormalization) and layer.groups not in (1, -1)
    if grouped or not tracer.accept_normalization or getattr(layer, "axis", -1) not in (-1, [-1]):
        return tracer.whole(layer, flows, shapes, "normalizes across its units")
    return _by_channel(tracer, layer, flows, shapes)


def prelu(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """A slope for each channel, or for each channel and position."""
    return _by_channel(tracer, layer, flows, shapes)


def _by_channel(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    ids = flows[0].ids
    if ids is None:
        return tracer.whole(layer, flows, shapes, "has channels of unknown number")

    def note(member: Member) -> None:
        for variable in layer.weights:
            channels = ids if variable.shape and variable.shape[-1] == len(ids) else None
            if channels is None and variable.shape and variable.shape[-1] != 1:
                tracer.units.keep(ids, f"{member.path} has weights that are not by channel")
            member.parts.append(Part(variable, (*(None,) * (len(variable.shape) - 1), channels)))
        member.outputs = [ids]

    tracer.member(layer, [ids], note)
    return [Flow(shapes[0], ids)]


def embedding(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """A row of numbers for each token."""

    def note(member: Member) -> None:
        out = tracer.units.new(shapes[0][-1])
        member.made[""], member.outputs = out, [out]
        member.parts = [Part(layer.embeddings, (None, out), None, 1)]
        member.resized = lambda count: {"output_dim": count(out)}

    return [Flow(shapes[0], tracer.member(layer, [None], note).outputs[0])]


def _gates(cell: Any, units: np.ndarray, inputs: np.ndarray | None, steps: int) -> list[Part]:
    """The weights of a recurrent cell; its columns are gates of all units, one after the other."""
    count = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1}[type(cell).__name__]
    columns = np.tile(units, count)
    found = [
        Part(cell.kernel, (inputs, columns), 0, 1, steps),
        Part(cell.recurrent_kernel, (units, columns), 0, 1, steps),
    ]
    if cell.bias is not None:
        found.append(Part(cell.bias, (*(None,) * (len(cell.bias.shape) - 1), columns)))
    return found


def _cell_mixes(tracer: Any, cell: Any) -> bool:
    functions = (cell.activation, getattr(cell, "recurrent_activation", None))
    return not all(tracer.elementwise(function, (cell.units,)) for function in functions)


def recurrent(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """LSTM, GRU and SimpleRNN: a unit is its columns in all gates, and its row in the recurrent kernel."""
    steps = flows[0].shape[0] or 1

    def note(member: Member) -> None:
        units = tracer.units.new(layer.units)
        member.made[""], member.mixed = units, (0,)
        member.parts = _gates(layer.cell, units, flows[0].ids, steps)
        member.resized = lambda count: {"units": count(units)}
        member.outputs = [units] * len(shapes)
        if _cell_mixes(tracer, layer.cell):
            tracer.units.keep(units, f"an activation of {member.path} mixes its units")

    member = tracer.member(layer, [flows[0].ids], note)
    for state in flows[1:]:
        tracer.join(member.outputs[0], state.ids, member.path)
    return [Flow(shape, member.outputs[0]) for shape in shapes]


def bidirectional(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """Two recurrent layers; the same unit of both goes, as Keras takes them to be of one width."""
    halves = (layer.forward_layer, layer.backward_layer)
    usual = all(type(half) in (kl.LSTM, kl.GRU, kl.SimpleRNN) for half in halves)
    if usual and halves[0].units != halves[1].units:
        return tracer.whole(layer, flows, shapes, "has two halves of different width")
    if not usual or layer.return_state or len(flows) > 1:
        return tracer.whole(layer, flows, shapes, "is a Bidirectional of states or of other layers than LSTM, GRU")
    steps = flows[0].shape[0] or 1

    def note(member: Member) -> None:
        both = [tracer.units.new(half.units) for half in halves]
        for half, units, name in zip(halves, both, ("forward", "backward"), strict=True):
            member.made[name] = units
            member.parts += _gates(half.cell, units, flows[0].ids, steps)
            if _cell_mixes(tracer, half.cell):
                tracer.units.keep(units, f"an activation of {member.path} mixes its units")
        tracer.units.join(both[0], both[1])
        member.mixed = (0,)
        member.resized = lambda count: _two(layer, [count(units) for units in both])
        if layer.merge_mode == "concat":
            member.outputs = [np.concatenate(both)]
        else:
            member.outputs = both if layer.merge_mode is None else both[:1]

    member = tracer.member(layer, [flows[0].ids], note)
    return [Flow(shape, ids) for shape, ids in zip(shapes, member.outputs, strict=True)]


def _two(layer: Any, counts: Sequence[int]) -> dict[str, Any]:
    config = layer.get_config()
    for key, count in zip(("layer", "backward_layer"), counts, strict=True):
        config[key]["config"]["units"] = count
        config[key].pop("build_config", None)  # it would be built with the old input at once
    return {key: config[key] for key in ("layer", "backward_layer")}


def time_distributed(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """The rule of the layer inside, at every step."""
    inner = layer.layer
    rule = tracer.rule(inner)
    if isinstance(inner, keras.Model) or rule is None:
        return tracer.whole(layer, flows, shapes, f"holds a {type(inner).__name__}")
    if tracer.elsewhere(inner, layer):
        return tracer.whole(layer, flows, shapes, f"holds {tracer.path(inner)}, which is called by itself too")
    before = len(tracer.members)
    found = rule(tracer, inner, [Flow(flow.shape[1:], flow.ids) for flow in flows], [s[1:] for s in shapes])
    steps = flows[0].shape[0] or 1
    for member in list(tracer.members.values())[before:]:
        changed = member.resized
        member.parts = [Part(p.variable, p.axes, p.takes, p.makes, p.times * steps) for p in member.parts]
        member.path, member.layer = tracer.path(layer), layer
        # without its own change too, as its config says for which shape the layer inside was built
        member.resized = lambda count, changed=changed: _inside(layer, changed(count) if changed else {})
        tracer.members[id(layer)] = member
    return [Flow(shape, flow.ids) for shape, flow in zip(shapes, found, strict=True)]


def _inside(layer: Any, changes: dict[str, Any]) -> dict[str, Any]:
    config = layer.get_config()["layer"]
    config["config"].update(changes)
    config.pop("build_config", None)
    return {"layer": config}


def attention(tracer: Any, layer: Any, flows: list[Flow], shapes: list[tuple]) -> list[Flow]:
    """Multi-head attention: whole heads go, and channels at its entrances and its exit."""
    # the tensors of query, value and key, in this order
    query, value, key = flows[0], flows[1], flows[2] if len(flows) > 2 else flows[1]
    axes, shape = layer.attention_axes, layer.get_config()["output_shape"]
    gated = getattr(layer, "_use_gate", False)
    if len(query.shape) != 2 or axes not in (None, (1,)) or (shape and len(shape) > 1) or gated:
        return tracer.whole(layer, flows, shapes, "is an attention over several axes or with gates")

    def note(member: Member) -> None:
        heads, out = tracer.units.new(layer.num_heads), tracer.units.new(shapes[0][-1])
        member.made = {"": out, "heads": heads}
        member.mixed, member.outputs = tuple(range(len(flows))), [out]
        for part, flow in (
            (layer.query_dense, query),
            (layer.key_dense, key),
            (layer.value_dense, value),
        ):
            steps = flow.shape[0] or 1
            member.parts.append(Part(part.kernel, (flow.ids, heads, None), 0, 1, steps))
            if part.bias is not None:
                member.parts.append(Part(part.bias, (heads, None)))
        last, steps = layer.output_dense, query.shape[0] or 1
        member.parts.append(Part(last.kernel, (heads, None, out), 0, 2, steps))
        member.parts += _bias(last, out)
        member.resized = lambda count: {"num_heads": count(heads), "output_shape": (count(out),)}

    member = tracer.member(layer, [flow.ids for flow in flows], note)
    return [Flow(shapes[0], member.outputs[0])]


def _unusual(layer: Any) -> str:
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return "has its channels first" if first else ""


WEIGHTED: dict[type, Rule] = {
    kl.Dense: dense,
    kl.Conv1D: convolution,
    kl.Conv2D: convolution,
    kl.Conv3D: convolution,
    kl.Conv1DTranspose: transposed,
    kl.Conv2DTranspose: transposed,
    kl.Conv3DTranspose: transposed,
    kl.DepthwiseConv1D: depthwise,
    kl.DepthwiseConv2D: depthwise,
    kl.SeparableConv1D: separable,
    kl.SeparableConv2D: separable,
    kl.BatchNormalization: normalization,
    kl.LayerNormalization: over_units,
    kl.GroupNormalization: over_units,
    kl.RMSNormalization: over_units,
    kl.UnitNormalization: over_units,
    kl.PReLU: prelu,
    kl.Embedding: embedding,
    kl.LSTM: recurrent,
    kl.GRU: recurrent,
    kl.SimpleRNN: recurrent,
    kl.Bidirectional: bidirectional,
    kl.TimeDistributed: time_distributed,
    kl.MultiHeadAttention: attention,
}
