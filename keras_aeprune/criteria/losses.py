"""The loss of each example, and a forward pass that leaves the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError, shown

__all__ = ["forward", "per_example", "unchanged"]


def per_example(model: keras.Model, loss: Any = None) -> Callable[[Any, Any], tf.Tensor]:
    """A function that gives the loss of each example, before anything is summed over the batch.

    Use it where single examples or their weights matter; its mean over a batch is the loss that Keras shows.

        loss_n = sum over outputs o of weight_o * mean over all axes but the first of loss_o(y_true, y_pred)

    What is added beside it, regularization and losses of layers, is left out; `training_losses` adds the
    divergence of a variational autoencoder. Steps that a Keras mask excludes do not count in the mean of their
    example.

    Args:
        model: a Keras model; its compiled loss and loss weights are taken where `loss` is None.
        loss: a Keras name, a `keras.losses.Loss` with any reduction, a function (y_true, y_pred) that returns
            shape (n,) or (n, ...), or a list or dict of them, one per output (None leaves an output out).

    Returns:
        A function (y_true, y_pred) -> tensor of shape (n,), which can be traced. Models with several outputs
        take lists or dicts.

    Raises:
        InputError: no loss given and none compiled, an unknown name, a loss that is already reduced to one
            number, targets that do not fit the outputs.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> losses = per_example(model, "mse")
        >>> losses(tf.zeros((2, 2)), tf.constant([[1.0, 3.0], [0.0, 0.0]])).numpy().tolist()
        [5.0, 0.0]
    """
    compiled = getattr(model, "_compile_loss", None)
    weights = None
    if loss is None:
        if compiled is None or compiled._user_loss is None:
            raise InputError(
                f"loss: got None and model {model.name!r} is compiled without one, allowed: a compiled model, or "
                "loss= with a Keras name, a keras.losses.Loss or a function (y_true, y_pred)"
            )
        loss, weights = compiled._user_loss, compiled._user_loss_weights
    loss = _each(loss, _unreduced)
    names = list(getattr(model, "output_names", None) or [])

    def losses(y_true: Any, y_pred: Any) -> tf.Tensor:
        keys, predicted = _outputs(y_pred, names)
        chosen = _by_output("loss", loss, keys)
        scales = [1.0] * len(keys) if weights is None else _by_output("loss_weights", weights, keys)
        targets = _targets(y_true, keys, [one is not None for one in chosen])
        parts = [
            _values(one, true, pred) * (1.0 if scale is None else scale)
            for one, true, pred, scale in zip(chosen, targets, predicted, scales, strict=True)
            if one is not None
        ]
        if not parts:
            raise InputError("loss: got None for every output, allowed: a loss for at least one")
        return parts[0] if len(parts) == 1 else tf.add_n(parts)

    return losses


def forward(model: keras.Model, x: Any, training: bool = False, *, values: Iterable[tuple[Any, Any]] = ()) -> Any:
    """The outputs of a model, computed without changing anything in it.

    BatchNormalization uses its moving statistics, and there is no dropout and no sampling noise. The pass runs
    in the variables' precision, also where the model computes in float16. It can be traced, and differentiated
    in `values`: tensors to use in the place of variables, frozen ones included.

    Args:
        model: a built Keras model.
        x: inputs, shape (n, ...).
        training: True turns dropout and noise on; what they would store is dropped.
        values: pairs (Keras variable, tensor of its shape and dtype).

    Returns:
        What `model(x)` returns.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> kernel = model.layers[0].kernel
        >>> float(forward(model, tf.ones((1, 1)), values=[(kernel, tf.constant([[5.0]]))])[0, 0])
        5.0
    """
    with unchanged(model):
        for layer in parts(model):
            policy = layer.dtype_policy
            if policy.compute_dtype != policy.variable_dtype and policy.variable_dtype is not None:
                vars(layer)["_dtype_policy"] = keras.DTypePolicy(policy.variable_dtype)
        with keras.StatelessScope(list(values), initialize_variables=False):
            return model(x, training=training)


@contextmanager
def unchanged(model: keras.Model) -> Iterator[None]:
    """Give every layer the attributes back that it had, whatever was set inside; also after an error.

    Variables are not looked after: run in a `keras.StatelessScope`, as `forward` does.

    Example:
        >>> layer = keras.layers.Activation("tanh")
        >>> with unchanged(keras.Sequential([keras.Input((1,)), layer])):
        ...     layer.activation = None
        >>> layer.activation.__name__
        'tanh'
    """
    before = [(part, dict(vars(part)), list(part._losses)) for part in parts(model)]
    try:
        yield
    finally:
        for part, attributes, added in before:
            own = vars(part)
            for name in [name for name in own if name not in attributes]:
                del own[name]
            own.update(attributes)
            part._losses[:] = added


def parts(model: keras.Model) -> list[keras.layers.Layer]:
    """The model and every layer below it, each once, and the functional models inside Sequential ones."""
    found = {id(layer): layer for layer in [model, *(layer for _, layer in walk(model))]}
    for layer in list(found.values()):
        inner = getattr(layer, "_functional", None)
        if inner is not None:
            found[id(inner)] = inner
    return list(found.values())


class _Function(keras.losses.Loss):
    """A plain function as a Keras loss; as `fit` does it, one axis of length 1 more or less is no difference."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__(name="function", reduction=None)
        self.function = function

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        true, pred = len(y_true.shape), len(y_pred.shape)
        if pred == true + 1 and y_pred.shape[-1] == 1:
            if true == 1:
                y_true = tf.expand_dims(y_true, -1)
            else:
                y_pred = tf.squeeze(y_pred, -1)
        elif true == pred + 1 and y_true.shape[-1] == 1:
            if pred == 1:
                y_pred = tf.expand_dims(y_pred, -1)
            else:
                y_true = tf.squeeze(y_true, -1)
        return self.function(y_true, y_pred)


def _crossentropy(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """What compile takes for "crossentropy": binary, sparse or categorical by the shapes."""
    if y_pred.shape[-1] == 1:
        return keras.losses.binary_crossentropy(y_true, y_pred)
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
    return keras.losses.categorical_crossentropy(y_true, y_pred)


def _each(loss: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(loss, dict) and "class_name" not in loss:
        return {key: _each(one, change) for key, one in loss.items()}
    if isinstance(loss, (list, tuple)):
        return [_each(one, change) for one in loss]
    return None if loss is None else change(loss)


def _unreduced(loss: Any) -> keras.losses.Loss:
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        return _Function(_crossentropy)
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"loss: got {shown(loss)}, allowed: a Keras name such as 'mse', a keras.losses.Loss or a function "
            "(y_true, y_pred)"
        ) from error
    if not isinstance(found, keras.losses.Loss):
        return _Function(found)
    found = copy.copy(found)
    found.reduction = None
    return found


def _outputs(y_pred: Any, names: list[str]) -> tuple[Sequence[str | int], list[tf.Tensor]]:
    """(keys, tensors), one of each per output; a key is a name where there is one, else a number."""
    if isinstance(y_pred, dict):
        keys, values = list(y_pred), list(y_pred.values())
    elif isinstance(y_pred, (list, tuple)):
        values = list(y_pred)
        keys = names if len(names) == len(values) else list(range(len(values)))
    else:
        keys, values = names if len(names) == 1 else [0], [y_pred]
    if any(isinstance(value, (dict, list, tuple)) for value in values):
        raise InputError(
            f"model: got outputs within outputs {keys}, allowed: one output, or a list or dict of them"
        )
    return keys, values


def _by_output(name: str, given: Any, keys: Sequence[str | int]) -> list[Any]:
    """One entry of `given` per output."""
    if isinstance(given, dict):
        unknown = [key for key in given if key not in keys]
        if unknown:
            raise InputError(f"{name}: got an entry for {shown(unknown)}, allowed: {', '.join(map(str, keys))}")
        return [given.get(key) for key in keys]
    if isinstance(given, (list, tuple)):
        if len(given) != len(keys):
            raise InputError(f"{name}: got {len(given)} entries, allowed: {len(keys)}, one per output")
        return list(given)
    return [given] * len(keys)


def _targets(y_true: Any, keys: Sequence[str | int], active: Sequence[bool]) -> list[Any]:
    if isinstance(y_true, dict):
        missing = [key for key, used in zip(keys, active, strict=True) if used and key not in y_true]
        if missing:
            raise InputError(f"y: got no targets for the outputs {shown(missing)}, allowed: one array for each")
        return [y_true.get(key) for key in keys]
    if len(keys) == 1:
        return [y_true[0] if isinstance(y_true, (list, tuple)) and len(y_true) == 1 else y_true]
    found = list(y_true) if isinstance(y_true, (list, tuple)) else [y_true]
    if len(found) == sum(active) != len(keys):
        left = iter(found)
        return [next(left) if used else None for used in active]
    if len(found) != len(keys):
        raise InputError(
            f"y: got {len(found)} array{'s' * (len(found) > 1)} for {len(keys)} outputs, allowed: a list or dict "
            f"of targets for {', '.join(map(str, keys))}"
        )
    return found


def _values(loss: Callable[..., Any], y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Shape (n,): the mean of one output's loss over all axes but the first."""
    values = tf.convert_to_tensor(loss(y_true, y_pred))
    rows, expected = (values.shape[:1].as_list() or [None])[0], y_pred.shape[0]
    name = getattr(getattr(loss, "function", loss), "__name__", type(loss).__name__)
    if values.shape.rank == 0 or (None not in (rows, expected) and rows != expected):
        raise InputError(
            f"loss: got {shown(name)}, which returns shape {tuple(values.shape)} for outputs of shape "
            f"{tuple(y_pred.shape)}, allowed: one loss per example, shape (n,) or (n, ...); take the mean over "
            "the last axes only"
        )
    mean = _mean(values)
    mask = getattr(y_pred, "_keras_mask", None)
    return mean if mask is None else tf.math.divide_no_nan(mean, _mean(tf.cast(mask, mean.dtype)))


def _mean(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(values, axis=list(range(1, values.shape.rank))) if values.shape.rank > 1 else values
