"""The loss of each example as training has it: the compiled loss, and the divergence of a variational model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.losses import forward, per_example, unchanged
from keras_aeprune.models.sampling import Sampling, divergence

__all__ = ["training_losses"]

Losses = Callable[..., tf.Tensor]
_Calls = list[tuple[Sampling, tf.Tensor]]


def training_losses(seen: Evidence) -> Losses:
    """A function that gives the training loss of each example, computed as `forward` does.

    Use it for gradients of weights. To the loss of `per_example` it adds what the `Sampling` layers add in
    training, here for example n and code axes j, in nats:

        weight / features * sum over j of (KL_nj where axis j costs more than its free nats, else free_nats)

    An axis costs the mean of its KL over all calibration data, so that the mean of these losses is the training
    loss with all data in one batch. The code is the mean of the posterior; its variance is felt in KL alone.
    Regularization and other added losses are left out.

    Args:
        seen: model, data and loss.

    Returns:
        A function (x, y, values=()) -> tensor of shape (n,), which can be traced; `values` as for `forward`.

    Raises:
        InputError: as `per_example`; when called, for a `Sampling` layer inside of a loop.

    Example:
        >>> from keras_aeprune.calibration import Calibration
        >>> inputs = keras.Input((2,))
        >>> model = keras.Model(inputs, Sampling()([inputs, inputs]))
        >>> x = tf.constant([[1.0, 0.0], [0.0, 0.0]])
        >>> losses = training_losses(Evidence(model, (), Calibration(x.numpy()), "mse"))
        >>> [round(float(loss), 4) for loss in losses(x, x)]  # (1 + e - 1 - 1) / 2
        [0.8591, 0.0]
    """
    model, losses = seen.model, per_example(seen.model, seen.loss)
    layers = [layer for _, layer in walk(model) if isinstance(layer, Sampling)]
    if not layers:
        return lambda x, y, values=(): losses(y, forward(model, x, values=values))
    costs = _costs(seen, layers)

    def each(x: Any, y: Any, values: Iterable[tuple[Any, Any]] = ()) -> tf.Tensor:
        outputs, calls = _heard(model, layers, x, values)
        found = losses(y, outputs)
        for (layer, kl), cost in zip(calls, costs or repeat(None, len(calls)), strict=True):
            if cost is not None:
                kl = tf.where(cost > layer.free_nats, kl, tf.cast(layer.free_nats, kl.dtype))
            kl = tf.reduce_mean(tf.reshape(kl, (tf.shape(found)[0], -1, kl[0].shape.num_elements())), axis=1)
            scale = tf.convert_to_tensor(layer._weight) / layer.features
            found += tf.cast(scale, found.dtype) * tf.cast(tf.reduce_sum(kl, axis=-1), found.dtype)
        return found

    return each


def _costs(seen: Evidence, layers: list[Sampling]) -> list[np.ndarray] | None:
    """Mean KL of each code axis over all data, one array per call; None where nothing is free."""
    if seen.data is None or not any(layer.free_nats for layer in layers):
        return None

    @tf.function(autograph=False, reduce_retracing=True)
    def sums(x: Any) -> list[tf.Tensor]:
        kls = [kl for _, kl in _heard(seen.model, layers, x)[1]]
        return [tf.reduce_mean(kl, axis=0) * tf.cast(tf.shape(x)[0], kl.dtype) for kl in kls]

    parts = [sums(tf.constant(x)) for x, _ in seen.data.batches()]
    return [np.sum([part.numpy() for part in one], axis=0) / len(seen.data) for one in zip(*parts, strict=True)]


def _heard(
    model: keras.Model, layers: list[Sampling], x: Any, values: Iterable[tuple[Any, Any]] = ()
) -> tuple[Any, _Calls]:
    """What `forward` gives, and the KL of each number of each call of the layers."""
    calls: _Calls = []
    graph = tf.compat.v1.get_default_graph()

    def listening(layer: Sampling) -> Callable[..., Any]:
        original = layer.call

        def call(inputs: Any, training: bool = False) -> Any:
            if tf.compat.v1.get_default_graph() is not graph:
                raise InputError(
                    f"layer {layer.name!r}: got a Sampling layer inside of a loop, allowed: one whose loss can be "
                    "seen"
                )
            calls.append((layer, divergence(*inputs)))
            return original(inputs, training=training)

        return call

    with unchanged(model):
        for layer in layers:
            layer.__dict__["call"] = listening(layer)
        return forward(model, x, values=values), calls
