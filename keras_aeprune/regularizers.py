"""Penalties on activations, for the loss: sparse codes.

- `ActivityL1` pulls activations of any range towards 0
- `ActivityKL` holds the mean of each unit of activations in (0, 1) near a target
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_aeprune._validation import fraction, positive_number

__all__ = ["ActivityKL", "ActivityL1"]

_SMALLEST = 1e-6


class _ActivityPenalty(keras.regularizers.Regularizer):
    """A layer's activity_regularizer whose share of the loss is `penalty`, under every Keras 3.

    Keras divides what an activity regularizer returns by the batch size, but only since 2026 (keras-team/keras,
    pull request 22021). `__call__` makes up for that, so that the penalty means the same before and after.
    """

    def penalty(self, activations: Any) -> Any:
        raise NotImplementedError

    def __call__(self, x: Any) -> Any:
        x = ops.convert_to_tensor(x)
        penalty = self.penalty(x)
        if _keras_divides_by_the_batch_size():
            penalty = penalty * ops.cast(ops.shape(x)[0], penalty.dtype)
        return penalty


@keras.saving.register_keras_serializable("keras_aeprune")
class ActivityL1(_ActivityPenalty):
    """L1 penalty on activations, as the activity_regularizer of a layer.

    Use it for a sparse code of any activation, best "relu", which reaches exact zeros. With a[i, j] the
    activation of unit j for sample i, in a batch of n samples, the loss grows by

        rate * (1 / n) * sum over i and j of |a[i, j]|

    whatever the batch size and the version of Keras. Keras's own L1 sums over the batch too; versions before
    2026 do not divide that by n, so that there the same factor means n times the penalty.

    Args:
        rate: factor of the penalty, > 0, in units of the loss for a sum of activations of 1.

    Raises:
        InputError: `rate` is no number above 0.

    >>> layer = keras.layers.Dense(2, kernel_initializer="ones", activity_regularizer=ActivityL1(0.5))
    >>> outputs = layer(ops.convert_to_tensor([[1.0, 1.0], [-3.0, 0.0]]))   # 2, 2 and -3, -3
    >>> float(layer.losses[0])   # 0.5 * (4 + 6) / 2
    2.5
    """

    def __init__(self, rate: float):
        self.rate = positive_number("rate", rate)

    def penalty(self, activations: Any) -> Any:
        """The formula itself: a scalar for activations of shape (n, ...)."""
        a = _float32(activations)
        return self.rate * ops.sum(ops.abs(a)) / _samples(a)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate}


@keras.saving.register_keras_serializable("keras_aeprune")
class ActivityKL(_ActivityPenalty):
    """Penalty on mean activations away from a target, as the activity_regularizer of a layer.

    Use it for a sparse code of a "sigmoid" layer: each unit is to be active for few samples, and no unit for
    none. With m[j] the mean of unit j over the batch, which should be large enough for means (64 or more),
    and t the target, the loss grows by

        rate * sum over j of (t * log(t / m[j]) + (1 - t) * log((1 - t) / (1 - m[j])))

    the Kullback-Leibler divergence between coins of probability t and m[j]; 0 where all means are t. See
    Andrew Ng, "Sparse autoencoder", lecture notes CS294A (https://web.stanford.edu/class/cs294a/).

    Args:
        rate: factor of the penalty, > 0, in units of the loss for a divergence of 1 nat.
        target: wanted mean activation of every unit, 0 < target < 1. Means are taken as at least 1e-6 and at
            most 1 - 1e-6, where the logarithm ends.

    Raises:
        InputError: `rate` is no number above 0, `target` is not between 0 and 1.

    >>> penalty = ActivityKL(1.0, target=0.5)
    >>> layer = keras.layers.Activation("linear", activity_regularizer=penalty)
    >>> outputs = layer(ops.convert_to_tensor([[0.1, 0.9], [0.4, 0.1]]))   # means 0.25 and 0.5
    >>> round(float(layer.losses[0]), 4)   # 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
    0.1438
    """

    def __init__(self, rate: float, target: float = 0.05):
        self.rate = positive_number("rate", rate)
        self.target = fraction("target", target, low_open=True)

    def penalty(self, activations: Any) -> Any:
        """The formula itself: a scalar for activations in (0, 1) of shape (n, ...)."""
        a = _float32(activations)
        mean = ops.clip(ops.sum(a, axis=0) / _samples(a), _SMALLEST, 1.0 - _SMALLEST)
        t = self.target
        return self.rate * ops.sum(t * ops.log(t / mean) + (1 - t) * ops.log((1 - t) / (1 - mean)))

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "target": self.target}


def _float32(activations):
    return ops.cast(ops.convert_to_tensor(activations), "float32")


def _samples(a):
    return ops.cast(ops.maximum(ops.shape(a)[0], 1), "float32")


@functools.cache
def _keras_divides_by_the_batch_size() -> bool:
    """Tried out rather than looked up: the loss of a layer whose regularizer returns 1 for a batch of 2."""
    with tf.init_scope():  # out of a graph that may be being traced
        layer = keras.layers.Identity(activity_regularizer=lambda a: ops.ones(()), dtype="float32")
        layer(ops.ones((2, 1)))
        return float(layer.losses[0]) == 0.5
