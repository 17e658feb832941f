"""Gradients of single examples, all examples of a batch at once and exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl
from keras import tree

from keras_aeprune._layers import Weight, walk
from keras_aeprune._validation import InputError, positive_int
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.layer_gradients import dense, is_recurrent, recurrent, rule, swapped
from keras_aeprune.criteria.losses import forward
from keras_aeprune.criteria.training_loss import training_losses

__all__ = ["PerExample", "squared_gradients"]

# floats that a batch may hold at once in windows and single gradients: 64 MiB
_ROOM = 2**24


def squared_gradients(
    seen: Evidence, *, objective: Callable[[Any, Any], Any] | None = None, batch_size: int = 256
) -> list[np.ndarray]:
    """Mean over the samples of the squared gradient of each sample's own loss, exactly.

    Use it wherever the diagonal of the empirical Fisher information is needed. It is not the square of a batch's
    gradient, in which the samples cancel:

        F_i = 1/N sum_n (d L_n / d w_i)^2

    For a dense layer on vectors this is (x^2)' (delta^2) / N, with the inputs x and the gradients delta before the
    activation of one pass; Dangel et al. 2020, https://arxiv.org/abs/1912.10985. `PerExample` says what happens in
    other layers.

    Args:
        seen: model, kernels, calibration data and loss.
        objective: (targets, outputs) -> tensor (n,), what is differentiated; None for the loss.
        batch_size: samples at once, >= 1; fewer are taken where memory asks for it. The result does not depend
            on it.

    Returns:
        One float32 array per kernel, of its shape, >= 0.

    Raises:
        InputError: no data, no loss, or gradients that are not finite.

    Example:
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((1,)), kl.Dense(1, use_bias=False, kernel_initializer="ones")])
        >>> data = Calibration(np.array([[1.0], [1.0]], "float32"), np.array([[0.0], [2.0]], "float32"))
        >>> seen = Evidence(model, tuple(weights(model)), data, "mse")  # two gradients, 2 and -2
        >>> float(squared_gradients(seen)[0][0, 0])
        4.0
    """
    return PerExample(seen, objective, batch_size=batch_size).squares()


class PerExample:
    """Gradients of each sample's own objective with respect to kernels, compiled once and called often.

    Dense, Conv, transposed and depthwise layers, LSTM, GRU and SimpleRNN (without masks and initial states),
    nested, shared or frozen, take one forward and one backward pass of the whole batch: from each call of such a
    layer the input and the gradient before the activation are kept, and a sample's gradient is their product,
    summed over positions and calls. Kernels that are used in any other way (separable layers, embeddings, own
    layers, kernels tied to another layer, layers inside of loops or behind a reshape of the batch axis) take a
    vectorised gradient of one sample at a time, and a plain loop over the samples where TensorFlow cannot
    vectorise. Which kernels these are is found out and not assumed: with the uses that were kept cut off, the
    loss must not depend on the kernel any more.

    BatchNormalization uses its moving statistics, and there is no dropout. The model is left as it was.

    Args:
        seen: model, kernels, calibration data and loss.
        objective: (targets, outputs) -> tensor (n,); None for the loss of each sample, see `training_losses`.
        batch_size: most samples at once, >= 1.

    Attributes:
        looped: paths of the kernels that are not covered by the one pass.
    """

    def __init__(
        self, seen: Evidence, objective: Callable[[Any, Any], Any] | None = None, *, batch_size: int = 256
    ):
        if seen.data is None:
            raise InputError("data: got None, allowed: calibration samples, for gradients of single examples")
        self.seen, self.model, self.weights = seen, seen.model, list(seen.weights)
        own = objective
        losses = training_losses(seen) if own is None else lambda x, y: own(y, forward(seen.model, x))
        self._each: Callable[[Any, Any], Any] = losses
        self.objective = objective
        self.batch_size = positive_int("batch_size", batch_size)
        self.x = tree.map_structure(_plain, seen.data.x)
        self.y = self.x if seen.data.y is None else tree.map_structure(_plain, seen.data.y)
        self.count = len(tree.flatten(self.x)[0])
        self._variables = [weight.variable.value for weight in self.weights]
        self._compiled: dict[Any, list[tuple[int, Any, list[Any]]]] = {}
        self.looped: list[str] = []

    def squares(self, targets: Any = None) -> list[np.ndarray]:
        """Mean over the samples of the squared gradients, one float32 array per kernel.

        Args:
            targets: what the objective is given in place of the labels, one row per sample; None for the labels.
        """
        sums = [np.zeros(variable.shape, np.float64) for variable in self._variables]
        for _, parts in self._batches("squares", targets):
            for index, part in parts:
                sums[index] += part
        found = [(total / self.count).astype(np.float32) for total in sums]
        for array, weight in zip(found, self.weights, strict=True):
            if not np.isfinite(array).all():
                raise InputError(
                    f"{weight.path}: got gradients that are not finite, allowed: a trained, finite model"
                )
        return found

    def gradients(self, targets: Any = None) -> Iterator[tuple[int, np.ndarray]]:
        """(index of the kernel, array (n, *its shape) of the next n samples), every sample of every kernel once.

        The samples of one kernel come in order; kernels take turns, and not always after equal numbers of samples.
        """
        for kept, parts in self._batches("gradients", targets):
            for index, part in parts:
                yield index, part[:kept]

    def units(self) -> dict[str, np.ndarray]:
        """{layer path: mean over the samples of (sum over positions and calls of a * dL/da)^2 per unit}.

        Raises:
            InputError: a layer whose output cannot be seen, as inside of another layer's loop.
        """
        sums: dict[str, np.ndarray] = {}
        for _, parts in self._batches("units", None):
            for path, part in parts:
                sums[path] = sums.get(path, 0.0) + np.asarray(part, np.float64)
        return {path: (total / self.count).astype(np.float32) for path, total in sums.items()}

    def _batches(self, kind: str, targets: Any) -> Iterator[tuple[int, list[tuple[Any, np.ndarray]]]]:
        """(samples that count, [(index or path, array)]) per batch; the last batch is filled up with weight 0."""
        targets = self.y if targets is None else tree.map_structure(_plain, targets)
        specs = [tf.TensorSpec(a.shape[1:], a.dtype) for a in tree.flatten((self.x, targets))]
        key = (kind, tuple((tuple(spec.shape), spec.dtype.name) for spec in specs))
        if key not in self._compiled:
            self._compiled[key] = self._compile(kind, targets)
        for size, step, names in self._compiled[key]:
            for start in range(0, self.count, size):
                rows = np.arange(start, start + size)
                good = rows < self.count
                rows = np.where(good, rows, start)
                x, y = tree.map_structure(lambda a, rows=rows: tf.constant(a[rows]), (self.x, targets))
                found = step(x, y, tf.constant(good.astype(np.float32)))
                yield int(good.sum()), [(n, f.numpy()) for n, f in zip(names, found, strict=True)]

    def _compile(self, kind: str, targets: Any) -> list[tuple[int, Any, list[Any]]]:
        """[(batch size, compiled step, what its results belong to)]: the one pass, and the rest."""
        size = self._size(self.batch_size)
        while True:
            trace = _Trace(self, kind)
            step = self._function(trace, size, targets)
            fits = self._size(max(1, _ROOM // max(trace.cost, 1)))
            if fits >= size or size == 1:
                break
            size = fits
        if kind == "units":
            return [(size, step, trace.names)]
        steps = [(size, step, trace.names)] if trace.names else []
        rest = trace.rest
        self.looped = [self.weights[index].path for index in rest]
        if rest:
            floats = sum(int(np.prod(self._variables[index].shape)) for index in rest)
            size = self._size(max(1, min(self.batch_size, _ROOM // max(floats, 1))))
            try:
                step = self._function(_Rest(self, kind, rest, tf.vectorized_map), size, targets)
            except (ValueError, TypeError, NotImplementedError, tf.errors.OpError):
                step = self._function(_Rest(self, kind, rest, _loop), size, targets)
            steps.append((size, step, rest))
        return steps

    def _size(self, most: int) -> int:
        """Samples per batch: equal batches, and never the length of another axis, so that axes are told apart."""
        most = min(most, self.count)
        size = -(-self.count // -(-self.count // most))
        lengths = {length for array in tree.flatten(self.x) for length in array.shape[1:]}
        while size > 1 and size in lengths:
            size -= 1
        return size

    def _function(self, body: Any, size: int, targets: Any) -> Any:
        spec = tree.map_structure(lambda a: tf.TensorSpec((size, *a.shape[1:]), a.dtype), (self.x, targets))
        weight = tf.TensorSpec((size,), tf.float32)
        function = tf.function(body, autograph=False)
        function.get_concrete_function(*spec, weight)
        return function

    def value(self, x: Any, y: Any, weight: Any) -> Any:
        """Weighted sum over a batch of the objective; a sample's gradient is that of its own term."""
        each = self._each(x, y)
        each = tf.convert_to_tensor(each)
        if each.shape.rank != 1:
            raise InputError(f"objective: got a tensor of shape {tuple(each.shape)}, allowed: one value a sample")
        return tf.reduce_sum(tf.cast(each, tf.float32) * weight)


class _Trace:
    """The one pass: what is kept of each layer's calls, and what is made of it."""

    def __init__(self, owner: PerExample, kind: str):
        self.owner, self.kind = owner, kind
        self.names: list[Any] = []
        self.rest: list[int] = []
        self.cost = 1

    def __call__(self, x: Any, y: Any, weight: Any) -> list[Any]:
        self.names, self.rest, self.cost = [], [], 1
        variables = self.owner._variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            size = weight.shape[0]
            if self.kind == "units":
                uses, wraps = _outputs(self.owner, tape, size)
            else:
                uses, wraps = _kept_uses(self.owner, tape, size)
            with _calls(wraps):
                total = self.owner.value(x, y, weight)
        marks = [use[-1] for use in uses]
        found = tape.gradient(total, [*marks, *variables])
        deltas, direct = found[: len(marks)], found[len(marks) :]
        if self.kind == "units":
            return self._units(uses, deltas)
        results = []
        for index, variable in enumerate(variables):
            if direct[index] is not None:
                self.rest.append(index)
                continue
            own = [
                (layer, rule, _float(inputs), tf.zeros(mark.shape) if delta is None else _float(delta))
                for (which, layer, rule, inputs, mark), delta in zip(uses, deltas, strict=True)
                if which == index
            ]
            self.names.append(index)
            results.append(self._reduce(own, size, tuple(variable.shape)))
        return results

    def _reduce(self, uses: list[Any], size: int, shape: tuple[int, ...]) -> Any:
        squares = self.kind == "squares"
        if squares and len(uses) == 1 and uses[0][1] is dense and uses[0][2].shape.rank == 2:
            _, _, x, delta = uses[0]
            return tf.matmul(tf.square(x), tf.square(delta), transpose_a=True)
        windows = max((int(np.prod(x.shape[1:-1])) * int(np.prod(shape[:-1])) for _, _, x, _ in uses), default=1)
        self.cost = max(self.cost, int(np.prod(shape)), windows)
        each = tf.zeros((size, *shape))
        if uses:
            each = tf.add_n([tf.reshape(rule(layer, x, delta), (size, *shape)) for layer, rule, x, delta in uses])
        return tf.reduce_sum(tf.square(each), axis=0) if squares else each

    def _units(self, uses: list[Any], deltas: list[Any]) -> list[Any]:
        sums: dict[str, Any] = {}
        for (path, output), delta in zip(uses, deltas, strict=True):
            product = tf.zeros(output.shape) if delta is None else _float(output) * _float(delta)
            product = tf.reduce_sum(tf.reshape(product, (output.shape[0], -1, output.shape[-1])), axis=1)
            sums[path] = sums[path] + product if path in sums else product
        self.names = list(sums)
        return [tf.reduce_sum(tf.square(total), axis=0) for total in sums.values()]


class _Rest:
    """Gradients of one sample at a time, for kernels that the one pass does not cover."""

    def __init__(self, owner: PerExample, kind: str, rest: list[int], over: Callable[..., Any]):
        self.owner, self.kind, self.over = owner, kind, over
        self.variables = [owner._variables[index] for index in rest]

    def __call__(self, x: Any, y: Any, weight: Any) -> list[Any]:
        def one(sample: Any) -> list[Any]:
            x, y, weight = tree.map_structure(lambda value: value[None], sample)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self.variables)
                total = self.owner.value(x, y, weight)
            found = tape.gradient(total, self.variables, unconnected_gradients="zero")
            return [_float(gradient) for gradient in found]

        found = self.over(one, (x, y, weight))
        return [tf.reduce_sum(tf.square(f), axis=0) for f in found] if self.kind == "squares" else list(found)


def _loop(one: Callable[[Any], list[Any]], batch: Any) -> list[Any]:
    return tf.map_fn(
        one, batch, fn_output_signature=[tf.float32] * len(one(tree.map_structure(lambda v: v[0], batch)))
    )


def _plain(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _float(tensor: Any) -> Any:
    return tf.cast(tf.convert_to_tensor(tensor), tf.float32)


def _kept_uses(owner: PerExample, tape: tf.GradientTape, size: int) -> tuple[list[Any], list[Any]]:
    """(index of the kernel, layer, rule, input, output before the activation) per call, filled as they happen."""
    uses: list[Any] = []
    graph = tf.compat.v1.get_default_graph()

    def wrapped(index: int, weight: Weight, rule: Any) -> Callable[..., Any]:
        layer, original = weight.layer, weight.layer.call
        attribute = next(name for name, value in vars(layer).items() if value is weight.variable)

        def call(x: Any, *args: Any, **kwargs: Any) -> Any:
            if tf.compat.v1.get_default_graph() is not graph or None in x.shape or x.shape[0] != size:
                return original(x, *args, **kwargs)  # in a loop, or rows that are not samples
            activation, kernel = layer.activation, tf.stop_gradient(keras.ops.convert_to_tensor(weight.variable))
            with swapped(layer, {attribute: kernel, "activation": None}):
                z = original(x, *args, **kwargs)
            tape.watch(z)
            uses.append((index, layer, rule, x, z))
            return z if activation is None else activation(z)

        return call

    def wrapped_recurrent(layer: kl.RNN, indices: dict[str, int]) -> Callable[..., Any]:
        original = layer.call

        def call(x: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
            plain = initial_state is None and mask is None and tf.compat.v1.get_default_graph() is graph
            if not plain or None in x.shape or x.shape[0] != size:
                return original(x, initial_state=initial_state, mask=mask, training=training)
            outputs, kept = recurrent(layer, original, x, tape)
            uses.extend((indices[name], layer, *rest) for name, *rest in kept if name in indices)
            return outputs

        return call

    wraps = []
    cells: dict[int, tuple[kl.RNN, dict[str, int]]] = {
        id(layer.cell): (layer, {}) for _, layer in walk(owner.model) if is_recurrent(layer)
    }
    for index, weight in enumerate(owner.weights):
        found = rule(weight.layer)
        if found is not None:
            wraps.append((weight.layer, wrapped(index, weight, found)))
        elif id(weight.layer) in cells:
            cells[id(weight.layer)][1][weight.facts.name] = index
    return uses, wraps + [
        (layer, wrapped_recurrent(layer, indices)) for layer, indices in cells.values() if indices
    ]


def _outputs(owner: PerExample, tape: tf.GradientTape, size: int) -> tuple[list[Any], list[Any]]:
    """(layer path, output) per call of the layers that hold the kernels, filled while they happen."""
    uses: list[Any] = []
    graph = tf.compat.v1.get_default_graph()
    inner = {}  # cells and the layers of TimeDistributed run in a loop; who holds them shows their outputs
    for _, layer in walk(owner.model):
        if isinstance(layer, (kl.RNN, kl.TimeDistributed)):
            inner[id(layer.cell if isinstance(layer, kl.RNN) else layer.layer)] = layer

    def wrapped(path: str, layer: kl.Layer) -> Callable[..., Any]:
        original = layer.call

        def call(*args: Any, **kwargs: Any) -> Any:
            found = original(*args, **kwargs)
            output = tree.flatten(found)[0]
            if tf.compat.v1.get_default_graph() is not graph or None in output.shape or output.shape[0] != size:
                raise InputError(f"{path}: got a layer inside of a loop, allowed: one whose outputs can be seen")
            tape.watch(output)
            uses.append((path, output))
            return found

        return call

    weights = [weight for weight in owner.weights if weight.facts.unit_axis is not None]
    layers = {weight.layer_path: inner.get(id(weight.layer), weight.layer) for weight in weights}
    return uses, [(layer, wrapped(path, layer)) for path, layer in layers.items()]


@contextmanager
def _calls(wraps: list[tuple[kl.Layer, Any]]) -> Iterator[None]:
    for layer, call in wraps:
        vars(layer)["call"] = call
    try:
        yield
    finally:
        for layer, _ in wraps:
            vars(layer).pop("call", None)
