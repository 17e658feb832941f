"""What each kernel reads and what comes out behind it, streamed over calibration batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._graph import is_graph, operations, output_layers, producers
from keras_aeprune._layers import Weight, walk
from keras_aeprune._validation import InputError
from keras_aeprune.criteria.base import Evidence

__all__ = ["Record", "attribute_replaced", "stream"]

_ACTIVATIONS = {
    kl.ReLU: "relu",
    kl.LeakyReLU: "leaky_relu",
    kl.PReLU: "prelu",
    kl.ELU: "elu",
    kl.Softmax: "softmax",
}
_PASSED = (kl.BatchNormalization, kl.Dropout, kl.GaussianDropout, kl.GaussianNoise, kl.AlphaDropout)
_SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)
_MERGE = {"low": np.minimum, "high": np.maximum}


@dataclass(eq=False)
class Record:
    """One kernel in one call of its layer, inside a graph.

    Args:
        weight: the kernel.
        inputs: what is multiplied with it, float32 (n, ..., features); of a recurrent kernel the hidden states
            before each step; of an Embedding the indices.
        outputs: what the next layer gets, float32 (n, ..., units): after the activation, also where that is a
            layer of its own.
        before: the same before the activation; None where it cannot be seen (recurrent layers).
        activation: name of that activation, "linear" for none.
    """

    weight: Weight
    inputs: tf.Tensor
    outputs: tf.Tensor
    before: tf.Tensor | None
    activation: str


@dataclass(eq=False)
class _Call:
    """One call of a layer while the model is traced."""

    layer: kl.Layer
    inputs: Any
    outputs: Any
    before: Any
    activation: str
    states: Any = None


def stream(
    seen: Evidence, reduce: Callable[[Record], dict[str, tf.Tensor]], *, batch_size: int = 256
) -> list[dict[str, np.ndarray]]:
    """Reductions of what the kernels see, over all calibration batches and all calls of shared layers.

    Use it to write a criterion on activations. No more than one batch of activations is in memory. The model
    runs in inference mode in one compiled function, in which nothing that a layer assigns (statistics, states of
    stateful layers, random seeds) takes effect.

    The outputs of a layer without an activation of its own are followed to the one layer that takes them,
    through BatchNormalization and dropout up to and with the first Activation, ReLU, ..., in functional and
    Sequential models and in such models below others. In the code of a subclassed model nobody can know what
    follows, so there a layer's own output counts; so it does where two layers take it, or where it is an output
    of its model. Every step of a TimeDistributed layer counts as a sample; of recurrent layers every step counts,
    masked ones included.

    Args:
        seen: the model, the kernels and calibration data.
        reduce: gets a `Record`, returns {name: tensor}, the same for every batch. Values named "low..." are
            merged by the minimum, "high..." by the maximum, others are added, in float64.
        batch_size: samples at once, >= 1; a model of a fixed batch size takes its own.

    Returns:
        The merged reductions, one dict of float64 arrays per kernel in the order of `seen.weights`.

    Raises:
        InputError: without data, for data that does not fit the model, for a kernel that the model does not
            use or uses inside a loop, and for values that are NaN or infinite.

    Example:
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((2,)), kl.Dense(1, kernel_initializer="ones")])
        >>> seen = Evidence(model, tuple(weights(model)), Calibration(np.ones((3, 2), "float32")))
        >>> stream(seen, lambda record: {"sum": tf.reduce_sum(record.outputs)})
        [{'sum': array(6.)}]
    """
    model, data = seen.model, seen.data
    if data is None or not len(data):
        raise InputError("data: got none, allowed: calibration samples, since the criterion looks at activations")
    fixed = _fixed_batch(model, data.x)
    recorder = _Recorder(model, seen.weights)

    @tf.function(autograph=False)
    def run(x: Any) -> list[list[dict[str, tf.Tensor]]]:
        with keras.StatelessScope():
            records = recorder.listen(lambda: model(x, training=False))
        return [[reduce(record) for record in calls] for calls in records]

    @functools.cache
    def traced(rows: int | None) -> Any:
        return run.get_concrete_function(tf.TensorSpec((rows, *data.x.shape[1:]), data.x.dtype))

    merged: list[dict[str, np.ndarray]] = [{} for _ in seen.weights]
    one_trace = is_graph(model) and not fixed  # the code of a subclassed model may need to know the number
    with recorder.patched():
        for x, _ in data.batches(fixed or batch_size):
            made = traced(None if one_trace else len(x))
            for total, calls in zip(merged, made(tf.constant(x)), strict=True):
                for part in calls:
                    _merge(total, part)
    for weight, total in zip(seen.weights, merged, strict=True):
        if not all(np.isfinite(value).all() for value in total.values()):
            raise InputError(f"{weight.path}: got NaN or infinite activations, allowed: finite; check training")
    return merged


def _merge(total: dict[str, np.ndarray], part: dict[str, tf.Tensor]) -> None:
    for name, tensor in part.items():
        value = np.asarray(tensor, np.float64)
        how = next((f for start, f in _MERGE.items() if name.startswith(start)), np.add)
        total[name] = how(total[name], value) if name in total else value


def _fixed_batch(model: keras.Model, x: Any) -> int | None:
    """The batch size that a model insists on, if it does; refuses samples that do not fit."""
    tensors = model.inputs if is_graph(model) else []
    if len(tensors) == 1:
        shape = tensors[0].shape[1:]
        if not tf.TensorShape(shape).is_compatible_with(x.shape[1:]):
            raise InputError(f"data: got samples of shape {x.shape[1:]}, allowed: {shape}, what the model takes")
    size = tensors[0].shape[0] if tensors else None
    if size is not None and len(x) % size:
        raise InputError(f"data: got {len(x)} samples for a model of fixed batch size {size}, allowed: a multiple")
    return size


class _Recorder:
    """Listens to the layers of one model by putting a function before their `call`."""

    def __init__(self, model: keras.Model, weights: tuple[Weight, ...]):
        self.weights, self._model = weights, model
        self._wanted = {id(w.layer) for w in weights}
        self._layers = [layer for _, layer in walk(model)]
        if id(model) in self._wanted:
            self._layers.append(model)
        self._chains = _chains([model, *self._layers], self._wanted)
        self._followers = {id(f) for chain in self._chains.values() for f in chain}
        self._calls: list[_Call] | None = None
        self._open: dict[int, list[_Call]] = {}
        self._kept: list[Any] = []  # keeps tensors alive, so that their ids stay theirs

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Functions put before the layers' own, all of them taken away at the end."""
        with ExitStack() as stack:
            stack.enter_context(_kept([*self._layers, self._model]))
            cells = set()
            for layer in self._layers:
                if isinstance(layer, kl.RNN):
                    held = layer.cell.cells if isinstance(layer.cell, kl.StackedRNNCells) else [layer.cell]
                    cells |= {id(cell) for cell in held}
                    stack.enter_context(attribute_replaced(layer, "inner_loop", self._recurrent(layer, held)))
                elif isinstance(layer, kl.TimeDistributed):
                    stack.enter_context(attribute_replaced(layer, "call", self._distributed(layer)))
            for layer in self._layers:
                if id(layer) in self._wanted and id(layer) not in cells:
                    stack.enter_context(attribute_replaced(layer, "call", self._plain(layer)))
                elif id(layer) in self._followers:
                    stack.enter_context(attribute_replaced(layer, "call", self._follower(layer)))
            yield

    def listen(self, run: Callable[[], Any]) -> list[list[Record]]:
        """The records of one run, one list of calls per kernel."""
        calls, self._calls = [], []
        try:
            run()
            calls = self._calls
        finally:
            self._calls, self._open, self._kept = None, {}, []
        graph = tf.compat.v1.get_default_graph()
        found = []
        for weight in self.weights:
            own = [call for call in calls if call.layer is weight.layer]
            tensors = tf.nest.flatten([[call.inputs, call.outputs] for call in own])
            loops = any(getattr(tensor, "graph", graph) is not graph for tensor in tensors)
            if loops or not own:
                problem = "uses inside a loop" if loops else "does not use for its output"
                raise InputError(
                    f"{weight.path}: got a kernel that the model {problem}, allowed: kernels whose inputs and "
                    "outputs can be recorded; exclude the layer"
                )
            found.append([_record(weight, call) for call in own])
        return found

    def _note(self, call: _Call) -> None:
        cast(list[_Call], self._calls).append(call)  # only while it listens
        if id(call.layer) in self._chains and call.activation == "linear" and tf.is_tensor(call.outputs):
            self._hold(call)

    def _hold(self, call: _Call) -> None:
        self._open.setdefault(id(call.outputs), []).append(call)
        self._kept.append(call.outputs)

    def _plain(self, layer: kl.Layer) -> Callable[..., Any]:
        own = layer.call

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._calls is None:
                return own(*args, **kwargs)
            function: Any = getattr(layer, "activation", None)
            seen: list[Any] = []

            def spy(z: Any, *more: Any, **others: Any) -> Any:
                seen[:] = [z, function(z, *more, **others)]
                return seen[1]

            with ExitStack() as stack:
                if callable(function):
                    stack.enter_context(attribute_replaced(layer, "activation", spy))
                outputs = own(*args, **kwargs)
            name = _name(function) if callable(function) else "linear"
            before = seen[0] if seen and seen[1] is outputs else outputs if name == "linear" else None
            self._note(_Call(layer, args[0] if args else list(kwargs.values()), outputs, before, name))
            return outputs

        return call

    def _follower(self, layer: kl.Layer) -> Callable[..., Any]:
        own = layer.call

        def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = own(inputs, *args, **kwargs)
            for held in self._open.get(id(inputs), []) if self._calls is not None else []:
                if any(layer is follower for follower in self._chains[id(held.layer)]):
                    name = _activation_layer(layer)
                    held.before, held.outputs = inputs if name else outputs, outputs
                    held.activation = name or "linear"
                    if outputs is not inputs:  # dropout hands its input on
                        self._hold(held)
            return outputs

        return call

    def _recurrent(self, layer: kl.RNN, cells: list[Any]) -> Callable[..., Any]:
        own = layer.inner_loop

        def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
            with attribute_replaced(layer, "return_sequences", True):
                last, outputs, states = own(
                    sequences=sequences, initial_state=initial_state, mask=mask, training=training
                )
            if self._calls is None or not any(id(cell) in self._wanted for cell in cells):
                return last, outputs, states
            inputs = tf.reverse(sequences, [1]) if layer.go_backwards else sequences
            for number, cell in enumerate(cells):
                start, hidden = initial_state, outputs
                if len(cells) > 1 or cell is not layer.cell:  # inside the loop nobody sees them: one by one
                    start = tf.nest.flatten(initial_state[number])
                    again = kl.RNN(cell, return_sequences=True, name="again", dtype=layer.dtype_policy)
                    hidden = again(inputs, initial_state=start, mask=mask, training=False)
                first = tf.cast(tf.nest.flatten(start)[0], hidden.dtype)
                before = tf.concat([first[:, None], hidden[:, :-1]], axis=1)
                name = _name(getattr(cell, "activation", None))
                self._calls.append(_Call(cell, inputs, hidden, None, name, before))
                inputs = hidden
            return last, outputs, states

        return inner_loop

    def _distributed(self, layer: kl.TimeDistributed) -> Callable[..., Any]:
        own = layer.call

        def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self._calls is None:
                return own(inputs, *args, **kwargs)
            noted, self._calls = self._calls, None  # its own loop over the steps is not listened to
            try:
                outputs = own(inputs, *args, **kwargs)
            finally:
                self._calls = noted
            layer.layer(tf.reshape(inputs, [-1, *_rest(inputs)]), training=False)
            return outputs

        return call


def _rest(tensor: Any) -> list[Any]:
    dynamic = tf.shape(tensor)
    return [dynamic[i] if n is None else n for i, n in enumerate(tensor.shape)][2:]


@contextmanager
def _kept(layers: list[kl.Layer]) -> Iterator[None]:
    """What layers note in passing, losses and tensors, is as before at the end."""
    before = [(layer, dict(vars(layer)), list(layer._losses), set(layer._loss_ids)) for layer in layers]
    try:
        yield
    finally:
        for layer, own, losses, ids in before:
            layer._losses[:] = losses
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)
            now = vars(layer)
            now.update({k: v for k, v in own.items() if tf.is_tensor(now.get(k)) and now[k] is not v})


@contextmanager
def attribute_replaced(layer: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of one layer object for a while, past Keras' tracking of attributes."""
    own = vars(layer)
    there, before = name in own, own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if there:
            own[name] = before
        else:
            del own[name]


def _chains(models: list[Any], wanted: set[int]) -> dict[int, list[kl.Layer]]:
    """{id of a layer: the layers that its outputs are followed through}."""
    chains = {}
    for model in models:
        if not isinstance(model, keras.Model) or not is_graph(model) or not model.built:
            continue
        takers: dict[int, list[Any]] = {}
        for taker in operations(model):
            for source in producers(model, taker):
                takers.setdefault(id(source), []).append(taker)
        ends = {id(layer) for layer in output_layers(model)}
        for layer in operations(model):
            chain, last = [], layer
            while id(layer) in wanted and id(last) not in ends and len(takers.get(id(last), [])) == 1:
                last = takers[id(last)][0]
                named = _activation_layer(last)
                if not named and not isinstance(last, _PASSED):
                    break
                chain.append(last)
                if named and named != "linear":
                    break
            if chain:
                chains[id(layer)] = chain
    return chains


def _activation_layer(layer: Any) -> str:
    """The name of what an activation layer computes; "" for another kind of layer."""
    if isinstance(layer, kl.Activation):
        return _name(layer.activation)
    return next((name for kind, name in _ACTIVATIONS.items() if isinstance(layer, kind)), "")


def _name(function: Any) -> str:
    if function is None:
        return "linear"
    return _activation_layer(function) or getattr(function, "__name__", type(function).__name__)


def _record(weight: Weight, call: _Call) -> Record:
    layer, inputs, outputs, before, name = call.layer, call.inputs, call.outputs, call.before, call.activation
    if call.states is not None and "recurrent" in weight.facts.name:
        inputs = call.states
    if isinstance(layer, _SEPARABLE):
        middle = keras.ops.depthwise_conv(
            inputs, layer.depthwise_kernel, layer.strides, layer.padding, layer.data_format, layer.dilation_rate
        )
        if weight.facts.name == "depthwise_kernel":
            outputs, before, name = middle, middle, "linear"
        else:
            inputs = middle
    first = getattr(layer, "data_format", None) == "channels_first"
    inputs, outputs = _one(inputs, first), _one(outputs, first)
    return Record(weight, inputs, outputs, None if before is None else _one(before, first), name)


def _one(tensors: Any, channels_first: bool) -> tf.Tensor:
    """One float32 tensor, its units last; several are laid flat side by side."""
    found = [tf.cast(t, tf.float32) for t in tf.nest.flatten(tensors) if tf.is_tensor(t)]
    tensor = found[0] if len(found) == 1 else tf.concat([tf.reshape(t, (tf.shape(t)[0], -1)) for t in found], 1)
    return tf.experimental.numpy.moveaxis(tensor, 1, -1) if channels_first else tensor
