"""Which numbers inside a model do not depend on what it is given, and which values they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from keras_aeprune import _graph
from keras_aeprune._validation import InputError, refuse, shown
from keras_aeprune.calibration import samples
from keras_aeprune.shrinking import passing, rules
from keras_aeprune.shrinking.inputs import recorder
from keras_aeprune.shrinking.rebuild import arguments, as_graph
from keras_aeprune.shrinking.tracing import Traced
from keras_aeprune.shrinking.units import Flow, Member, Part

__all__ = [
    "Extent",
    "batches",
    "bias_of",
    "connected",
    "extents",
    "obstacle",
    "passes",
    "probes",
    "proven",
    "silent",
]

_BATCH = 256
_SIZES = (32, 64)  # of axes of unknown length, where a model is only tried out

_CAN_HAVE_BIAS: tuple[type, ...] = (kl.Dense, kl.Conv1D, kl.Conv2D, kl.Conv3D, kl.SeparableConv1D)
_CAN_HAVE_BIAS += (kl.SeparableConv2D,)
_TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
_CAN_HAVE_BIAS += (*_TRANSPOSED, kl.LSTM, kl.GRU, kl.SimpleRNN)

Place = tuple[int, int]  # id of a member, and which of its inputs


def connected(part: Part) -> np.ndarray:
    """Which units that come in are connected with which that a weight makes; shape (taken, made).

    Example:
        >>> kernel = keras.Variable([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
        >>> connected(Part(kernel, (np.arange(2), np.arange(3)), 0, 1)).tolist()
        [[False, True, False], [False, False, False]]
    """
    found = keras.ops.convert_to_numpy(part.variable) != 0
    ends = [axis for axis in (part.takes, part.makes) if axis is not None]
    found = np.moveaxis(found, ends, range(len(ends)))
    found = found.any(axis=tuple(range(len(ends), found.ndim)))
    if part.takes is None:
        return found[None]
    return found if part.makes is not None else found[:, None]


def passes(layer: Any) -> np.ndarray:
    """Which channels a depthwise kernel lets through, in the order of its outputs."""
    kernel = layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel
    kernel = keras.ops.convert_to_numpy(kernel)
    return (kernel != 0).any(axis=tuple(range(layer.rank))).ravel()


# what is constant for any input: flows carry one flag for each channel


def _no(shapes: list[tuple]) -> list[np.ndarray]:
    return [np.zeros(shape[-1] if shape and shape[-1] else 0, bool) for shape in shapes]


def _affine(layer: Any, member: Member, flags: list[np.ndarray]) -> list[np.ndarray]:
    taken = connected(next(part for part in member.parts if part.takes is not None))
    return [~taken[~flags[0]].any(axis=0)]


def _separable(layer: Any, member: Member, flags: list[np.ndarray]) -> list[np.ndarray]:
    live = ~np.repeat(flags[0], layer.depth_multiplier) & passes(layer)
    return [~connected(next(part for part in member.parts if part.takes is not None))[live].any(axis=0)]


def _depthwise(layer: Any, member: Member, flags: list[np.ndarray]) -> list[np.ndarray]:
    return [np.repeat(flags[0], layer.depth_multiplier) | ~passes(layer)]


def _normalization(layer: Any, member: Member, flags: list[np.ndarray]) -> list[np.ndarray]:
    return [flags[0] | (keras.ops.convert_to_numpy(layer.gamma) == 0) if layer.scale else flags[0]]


def _any(matrix: np.ndarray) -> np.ndarray:
    """Which columns hold something true."""
    return np.asarray(matrix.any(axis=0))


def _embedding(layer: Any, member: Member, flags: list[np.ndarray]) -> list[np.ndarray]:
    return [~_any(connected(member.parts[0]))]


def _attention(layer: Any, member: Member, flags: list[np.ndarray]) -> list[np.ndarray]:
    last = next(part for part in member.parts if part.variable is layer.output_dense.kernel)
    return [~_any(connected(last))]


def _half(kernel: Part, recurrent: Part, flags: np.ndarray, states: list[np.ndarray]) -> np.ndarray:
    """Units of a recurrent layer that neither an input nor another unit moves."""
    units = len(recurrent.along(0))
    by_input = _any(connected(kernel)[~flags].any(axis=0).reshape(-1, units))
    moved: np.ndarray = np.logical_or.reduce([by_input, *(~state for state in states)])
    between = np.asarray(connected(recurrent).reshape(units, -1, units).any(axis=1))
    while True:
        more = moved | between[moved].any(axis=0)
        if (more == moved).all():
            return ~moved
        moved = more


def _recurrent(layer: Any, member: Member, flags: list[np.ndarray]) -> list[np.ndarray]:
    kernel, recurrent = (part for part in member.parts if part.takes is not None)
    found = _half(kernel, recurrent, flags[0], flags[1:])
    return [found] * len(member.outputs)


def _bidirectional(layer: Any, member: Member, flags: list[np.ndarray]) -> list[np.ndarray]:
    kernels = [part for part in member.parts if part.takes is not None]
    both = [_half(kernels[first], kernels[first + 1], flags[0], []) for first in (0, 2)]
    if layer.merge_mode is None:
        return both
    return [np.concatenate(both) if layer.merge_mode == "concat" else both[0] & both[1]]


def _merged(layer: Any, member: Member | None, flags: list[np.ndarray]) -> list[np.ndarray]:
    return [np.logical_and.reduce(np.broadcast_arrays(*flags))]


def _concatenation(layer: Any, member: Member, flags: list[np.ndarray]) -> list[np.ndarray]:
    return [np.concatenate(flags)] if member.outputs else _merged(layer, member, flags)


_AFFINE = (rules.dense, rules.dense_transpose, rules.convolution, rules.transposed)
_WEIGHTED: dict[Any, Callable[..., list[np.ndarray]]] = {
    **dict.fromkeys(_AFFINE, _affine),
    rules.separable: _separable,
    rules.depthwise: _depthwise,
    rules.normalization: _normalization,
    rules.prelu: _merged,
    rules.embedding: _embedding,
    rules.attention: _attention,
    rules.recurrent: _recurrent,
    rules.bidirectional: _bidirectional,
}
_PASSING = (passing.passing, passing.merging, passing.activation, passing.rescaling, passing.elementwise_operation)
_MOVING = (kl.Flatten, kl.Reshape, kl.Permute)


def _moved(layer: Any, flow: Flow, shape: tuple) -> np.ndarray:
    """A channel whose numbers come from several is constant where all of them are."""
    known, wanted = (tuple(size or 1 for size in sizes) for sizes in (flow.shape, shape))
    if np.prod(known) % wanted[-1]:
        return np.zeros(wanted[-1], bool)
    flags = np.broadcast_to(flow.units, known)
    if isinstance(layer, kl.Permute):
        flags = flags.transpose([axis - 1 for axis in layer.dims])
    return np.asarray(flags.reshape(-1, wanted[-1]).all(axis=0))


def _out(traced: Traced, layer: Any, member: Member | None, flows: list[Flow], shapes: list[tuple]) -> list:
    if isinstance(layer, kl.TimeDistributed):
        inside = [Flow(flow.shape[1:], flow.ids) for flow in flows]
        return _out(traced, layer.layer, member, inside, [shape[1:] for shape in shapes])
    rule, flags = traced.rule(layer), [flow.units for flow in flows]
    if member is None and isinstance(layer, keras.Layer):
        return _no(shapes)
    if member is not None and rule in _WEIGHTED:
        whole = not member.parts  # a layer that its rule left as it is
        loop = isinstance(layer, (kl.RNN, kl.Bidirectional)) and _keeps_or_skips(traced)
        return _no(shapes) if whole or loop else _WEIGHTED[rule](layer, member, flags)
    if not flags or any(not len(one) for one in flags):
        return _no(shapes)
    if member is not None and rule is passing.concatenation:
        return _concatenation(layer, member, flags)
    if isinstance(layer, _MOVING) and shapes[0][-1] is not None:
        return [_moved(layer, flows[0], shapes[0])]
    if rule in _PASSING and (member is None or not member.outputs):
        return _merged(layer, member, flags) * len(shapes)
    return _no(shapes)


def _keeps_or_skips(traced: Traced) -> bool:
    """Whether recurrent layers carry a state from call to call, or skip masked steps, which the data decides."""
    layers = [member.layer for member in traced.members.values()]
    return any(
        getattr(layer, "stateful", False) or getattr(layer, "mask_zero", False) or isinstance(layer, kl.Masking)
        for layer in layers
    )


def proven(traced: Traced) -> dict[Place, np.ndarray]:
    """For each place where units are mixed: which channels have the same values whatever the model is given.

    A channel is one of them where all weights that make it from something else are zero.

    Args:
        traced: the model with its units.

    Example:
        >>> from keras_aeprune.shrinking.tracing import trace
        >>> model = keras.Sequential([keras.Input((2,)), kl.Dense(3), kl.Dense(1)])
        >>> model.layers[0].kernel.assign([[1, 0, 0], [0, 0, 1]]).shape
        TensorShape([2, 3])
        >>> [flags.tolist() for flags in proven(trace(model)).values()]
        [[False, False], [False, True, False]]
    """
    found: dict[Place, np.ndarray] = {}

    def call(node: Any, args: tuple, kwargs: dict) -> list[Flow]:
        layer = node.operation
        values = keras.tree.flatten(list(arguments(layer, args, kwargs).arguments.values()))
        flows = [value for value in values if isinstance(value, Flow)]
        if isinstance(layer, keras.Model):
            given = keras.tree.map_structure(lambda t: tuple(t.shape), node.arguments.args[0])
            return _graph.run(as_graph(layer, given), flows, call)
        member, shapes = traced.members.get(id(layer)), [tuple(tensor.shape[1:]) for tensor in node.outputs]
        for number in member.mixed if member is not None else ():
            flags = flows[number].units
            found[id(member), number] = flags & found.get((id(member), number), True)
        out = _out(traced, layer, member, flows, shapes)
        return [Flow(shape, flags) for shape, flags in zip(shapes, out, strict=True)]

    view = as_graph(traced.model)
    entrances = [tuple(tensor.shape[1:]) for tensor in view.inputs]
    _graph.run(view, [Flow(s, f) for s, f in zip(entrances, _no(entrances), strict=True)], call)
    return found


def bias_of(member: Member, part: Part) -> Any:
    """The bias that is added to what a kernel makes."""
    for other in member.parts[member.parts.index(part) + 1 :]:
        if other.takes is None:
            return other.variable
        if any(member.inputs[number] is other.axes[other.takes] for number in member.mixed):
            return None
    return None


def obstacle(member: Member, layer: Any, rule: Any, bias: Any) -> str:
    """Why a value that is not 0 cannot go into the bias of a layer; "" where it can."""
    if rule not in _WEIGHTED:
        return f"{member.path} is of a kind of which it is not known what it does with a constant"
    window = getattr(layer, "kernel_size", ())
    if isinstance(layer, _TRANSPOSED) and {*window, *layer.strides} != {1}:
        return f"{member.path} spreads it unevenly over positions"
    if set(window) - {1} and getattr(layer, "padding", "valid") != "valid":
        return f"{member.path} pads with zeros, so its border sees another value"
    if bias is None and type(member.layer) not in _CAN_HAVE_BIAS:
        return f"{member.path} has no bias to fold it into"
    return ""


def silent(member: Member, part: Part) -> np.ndarray:
    """Units of a recurrent layer whose state is 0 from the first step on."""
    ids = part.along(part.takes)
    index = member.parts.index(part)
    halves = (getattr(member.layer, name, None) for name in ("forward_layer", "backward_layer"))
    layers = [half for half in halves if half is not None] or [member.layer]
    if not all(isinstance(layer, (kl.LSTM, kl.GRU, kl.SimpleRNN)) for layer in layers) or len(member.inputs) > 1:
        return np.zeros(len(ids), bool)
    zero = keras.ops.zeros((1, 1, 1))
    if any(layer.stateful or np.any(keras.ops.convert_to_numpy(layer.activation(zero))) for layer in layers):
        return np.zeros(len(ids), bool)
    either = _any(np.concatenate([connected(member.parts[index - 1]), connected(part)]))
    moved = _any(either.reshape(-1, len(ids)))
    bias = bias_of(member, part)
    if bias is not None:
        gates = keras.ops.convert_to_numpy(bias).reshape(-1, bias.shape[-1] // len(ids), len(ids))
        moved |= gates[:, min(2, gates.shape[1] - 1)].any(axis=0)  # the gate that makes the new state
    return ~moved


# the values


@dataclass(frozen=True, eq=False)
class Extent:
    """Values of each channel of a tensor, over everything that was run.

    Args:
        low: smallest.
        high: largest.
        moves: how far samples differ at the same position, at most.
    """

    low: np.ndarray
    high: np.ndarray
    moves: np.ndarray


def extents(traced: Traced, runs: Iterable[list[Any]]) -> dict[Place, Extent]:
    """Values of all channels at the places where units are mixed.

    Args:
        traced: the model with its units.
        runs: batches, each a list with a tensor for each input of the model.
    """
    members = [member for member in dict.fromkeys(traced.members.values()) if member.mixed]
    record = recorder(traced.model, [member.layer for member in members])
    ends: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
    for batch in runs:
        for member, calls in zip(members, record(batch), strict=True):
            for count, tensors in enumerate(calls):
                for number in member.mixed:
                    values = tensors[number]
                    now = [reduce(values, axis=0).numpy() for reduce in (tf.reduce_min, tf.reduce_max)]
                    key = (id(member), number, count, tuple(values.shape[1:]))
                    low, high = ends.get(key, now)
                    ends[key] = np.minimum(low, now[0]), np.maximum(high, now[1])
    found: dict[Place, Extent] = {}
    for key, (low, high) in ends.items():
        low, high = (end.astype("float64").reshape(-1, end.shape[-1]) for end in (low, high))
        new = Extent(low.min(axis=0), high.max(axis=0), (high - low).max(axis=0))
        old = found.get(key[:2], new)
        found[key[:2]] = Extent(
            np.minimum(old.low, new.low), np.maximum(old.high, new.high), np.maximum(old.moves, new.moves)
        )
    return found


def probes(model: keras.Model, seed: int = 0) -> Iterable[list[Any]]:
    """Two random samples for a model; axes of unknown length are tried with two lengths.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), kl.Dense(1)])
        >>> [[tensor.shape.as_list() for tensor in batch] for batch in probes(model)]
        [[[2, 3]]]
    """
    inputs, random = as_graph(model).inputs, np.random.default_rng(seed)
    open_axes = any(size is None for tensor in inputs for size in tensor.shape[1:])
    for unknown in _SIZES if open_axes else _SIZES[:1]:
        batch = []
        for tensor in inputs:
            shape = (2, *(size or unknown for size in tensor.shape[1:]))
            floats = keras.backend.is_float_dtype(tensor.dtype)
            values = random.normal(size=shape) if floats else random.integers(0, 2, size=shape)
            batch.append(tf.cast(tf.constant(values), tensor.dtype))
        yield batch


def batches(model: keras.Model, data: Any) -> Iterable[list[Any]]:
    """Calibration data as batches for `extents`.

    Args:
        model: a built Keras model.
        data: what `calibration.get` reads; for a model with several inputs a dict by input name, or a list in
            their order, of arrays with as many samples each; 2 samples or more.

    Raises:
        InputError: other data.
    """
    inputs = as_graph(model).inputs
    if len(inputs) == 1:
        arrays = [samples.get(data, balanced=False).x]
    else:
        names = [tensor.name for tensor in inputs]
        listed = isinstance(data, (list, tuple)) and len(data) == len(names)
        if not listed and not (isinstance(data, dict) and set(data) == set(names)):
            raise refuse(
                "data", type(data).__name__, f"a dict or list of arrays for the inputs {', '.join(names)}"
            )
        arrays = [np.asarray(one) for one in (data if listed else (data[name] for name in names))]
    counts = {len(array) for array in arrays}
    if len(counts) > 1 or min(counts) < 2:
        raise InputError(f"data: got {sorted(counts)} samples, allowed: 2 or more, as many for each input")
    for array, tensor in zip(arrays, inputs, strict=True):
        wanted = tuple(tensor.shape[1:])
        fits = len(wanted) == array.ndim - 1
        if not fits or any(a not in (b, None) for a, b in zip(wanted, array.shape[1:], strict=True)):
            raise InputError(f"data: got samples of shape {shown(array.shape[1:])}, allowed: {shown(wanted)}")
    for start in range(0, counts.pop(), _BATCH):
        yield [tf.cast(a[start : start + _BATCH], t.dtype) for a, t in zip(arrays, inputs, strict=True)]
