"""Penalties for the loss: sparse codes, sparse weights, and entropies of both.

- `ActivityL1` pulls activations of any range towards 0
- `ActivityKL` holds the mean of each unit of activations in (0, 1) near a target
- `ActivationEntropy` makes activations tell less, or more
- `WeightPenalty` pulls weights towards 0, by |w| and |w|^p
- `HoyerSquare` makes few weights carry what all carried, whatever their scale
- `WeightEntropy` makes weights more varied, or less
"""

from __future__ import annotations

import functools
import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_aeprune._validation import fraction, is_real, positive_int, positive_number, refuse

__all__ = ["ActivationEntropy", "ActivityKL", "ActivityL1", "HoyerSquare", "WeightEntropy", "WeightPenalty"]

_SMALLEST = 1e-6
_SMOOTHING = 1e-3
_NO_SPREAD = 1e-6
_TINY = 1e-12


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


@keras.saving.register_keras_serializable("keras_aeprune")
class ActivationEntropy(_ActivityPenalty):
    """Entropy of each unit's activations over the batch, as the activity_regularizer of a layer.

    Use it before pruning: where it is low, units say the same to most inputs and can be cut or folded into a
    bias. With h[b, j] the soft histogram of unit j (below) over the n values that it has in the batch (samples
    and positions), the loss grows by

        rate * mean over units j of -sum over b of h[b, j] log h[b, j]      (minimize=True, the default)

    or by minus that (minimize=False), which makes units tell more. A value between the centres of two bins
    counts for both in proportion to its nearness, so that there are gradients; bins are shared by the layer's
    units, their centres lie evenly from the smallest to the largest value in the batch, which is taken as a
    constant. The batch should be large enough for a histogram (64 values or more). A unit can die under it, and
    then costs nothing: combine it with a small rate or check the units.

    Args:
        rate: factor of the penalty, > 0, in units of the loss for 1 nat.
        minimize: whether the loss falls with the entropy (True) or grows as it falls (False).
        bins: number of bins, >= 2; the entropy is at most log(bins).

    Raises:
        InputError: an argument out of range.

    >>> layer = keras.layers.Activation("linear", activity_regularizer=ActivationEntropy(1.0, bins=4))
    >>> outputs = layer(ops.convert_to_tensor([[0.0], [0], [0], [1], [2], [2], [3], [3]]))
    >>> round(float(layer.losses[0]), 4)   # p = 3/8, 1/8, 2/8, 2/8
    1.3209
    """

    def __init__(self, rate: float, minimize: bool = True, *, bins: int = 16):
        self.rate = positive_number("rate", rate)
        self.minimize = _flag("minimize", minimize)
        self.bins = positive_int("bins", bins, minimum=2)

    def penalty(self, activations: Any) -> Any:
        """The formula itself: a scalar for activations of shape (n, ..., units)."""
        a = _float32(activations)
        a = ops.reshape(a, (-1, a.shape[-1]))
        low, high = ops.stop_gradient(ops.min(a)), ops.stop_gradient(ops.max(a))
        entropy = ops.mean(_soft_entropy(a, ops.ones_like(a), low, high, self.bins))
        return entropy * (self.rate if self.minimize else -self.rate)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "minimize": self.minimize, "bins": self.bins}


@keras.saving.register_keras_serializable("keras_aeprune")
class WeightPenalty(keras.regularizers.Regularizer):
    """L1 and Lp penalties on weights together, as the kernel_regularizer of a layer.

    Use it while training the dense model, so that fewer weights matter. The loss grows by

        l1 * sum |w|  +  lp * sum ((w^2 + e^2)^(p/2) - e^p),      e = 0.001

    sums over the weights of the layer. The second sum is |w|^p smoothed at 0: for p < 1 the slope of |w|^p there
    is infinite, smoothed it is 0 at 0 and nowhere above p e^(p-1), for p = 1/2 about 16. p < 1 leaves large
    weights alone and pulls small ones hard; p = 2 is the usual weight decay. The slope of |w| at 0 is taken as 0.

    Args:
        l1: factor of the first sum, >= 0.
        lp: factor of the second sum, >= 0; one of the two is above 0.
        p: exponent, 0 < p <= 2.

    Raises:
        InputError: an argument out of range, or both factors 0.

    >>> round(float(WeightPenalty(l1=0.1, lp=0.01, p=2)(ops.convert_to_tensor([3.0, -4.0]))), 4)
    0.95
    """

    def __init__(self, l1: float = 0.0, lp: float = 0.0, p: float = 0.5):
        for name, value in (("l1", l1), ("lp", lp)):
            number = is_real(value)
            if not number or not 0 <= value < math.inf:
                raise refuse(name, value, "a number >= 0")
        if l1 == lp == 0:
            raise refuse("l1", l1, "a number > 0, or lp > 0: with both 0 there is no penalty")
        if positive_number("p", p) > 2:
            raise refuse("p", p, "a number 0 < p <= 2")
        self.l1, self.lp, self.p = float(l1), float(lp), float(p)

    def __call__(self, x: Any) -> Any:
        w = _float32(x)
        smooth = ops.power(ops.square(w) + _SMOOTHING**2, self.p / 2) - _SMOOTHING**self.p
        return self.l1 * ops.sum(ops.abs(w)) + self.lp * ops.sum(smooth)

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1, "lp": self.lp, "p": self.p}


@keras.saving.register_keras_serializable("keras_aeprune")
class HoyerSquare(keras.regularizers.Regularizer):
    """Hoyer-square penalty on weights, as the kernel_regularizer of a layer.

    Use it while `Prune` takes weights out: it draws small weights to zero and lets large ones grow, where L1
    makes all smaller. The loss grows by

        rate * (sum |w|)^2 / (sum w^2)

    sums over the weights of the layer. The ratio does not change with the scale of the weights; it is 1 where a
    single weight is not zero, and n where all n of them are equally large. A step makes weights below
    (sum w^2) / (sum |w|) smaller and those above larger; exact zeros stay. A kernel of zeros costs nothing.
    DeepHoyer, Yang et al. 2020, https://arxiv.org/abs/1908.09979.

    Args:
        rate: factor of the penalty, > 0, in units of the loss for a ratio of 1.

    Raises:
        InputError: `rate` is no number above 0.

    >>> round(float(HoyerSquare(0.1)(ops.convert_to_tensor([3.0, -4.0, 0.0]))), 4)   # 0.1 * 7^2 / 5^2
    0.196
    """

    def __init__(self, rate: float):
        self.rate = positive_number("rate", rate)

    def __call__(self, x: Any) -> Any:
        w = _float32(x)
        squares = ops.sum(ops.square(w))
        return self.rate * ops.square(ops.sum(ops.abs(w))) / ops.maximum(squares, _TINY)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate}


@keras.saving.register_keras_serializable("keras_aeprune")
class WeightEntropy(keras.regularizers.Regularizer):
    """Entropy of a layer's weights, as its kernel_regularizer.

    Use it to keep the weights of a model that is being pruned varied (the default), or, with maximize=False, to
    draw them together for clustering and entropy coding. With h[b] the soft histogram of the weights that are
    not exactly zero (masked ones do not count), the loss grows by

        -rate * H(W),      H(W) = -sum over b of h[b] log h[b]      (maximize=True)

    or by +rate * H(W) (maximize=False). A weight between the centres of two bins counts for both in proportion
    to its nearness, so that there are gradients: the slope of one weight is the difference of log h of its two
    bins, divided by their distance and the number of weights. The centres lie evenly from -m to m, with m the
    largest |w|, taken as a constant; so H does not change with the scale of the weights.

    Args:
        rate: factor of the penalty, > 0, in units of the loss for 1 nat.
        maximize: whether the loss falls as H(W) grows (True) or as it falls (False).
        bins: number of bins, >= 2; H(W) is at most log(bins).

    Raises:
        InputError: an argument out of range.

    >>> w = ops.convert_to_tensor([-1.0, -1.0, 0.0, 1.0])   # 0 does not count: p = 2/3 and 1/3
    >>> round(float(WeightEntropy(1.0, bins=3)(w)), 4), round(float(WeightEntropy(1.0, False, bins=3)(w)), 4)
    (-0.6365, 0.6365)
    """

    def __init__(self, rate: float, maximize: bool = True, *, bins: int = 32):
        self.rate = positive_number("rate", rate)
        self.maximize = _flag("maximize", maximize)
        self.bins = positive_int("bins", bins, minimum=2)

    def __call__(self, x: Any) -> Any:
        w = ops.reshape(_float32(x), (-1, 1))
        most = ops.stop_gradient(ops.max(ops.abs(w)))
        counted = ops.cast(ops.not_equal(w, 0), "float32")
        (entropy,) = ops.unstack(_soft_entropy(w, counted, -most, most, self.bins))
        return entropy * (-self.rate if self.maximize else self.rate)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "maximize": self.maximize, "bins": self.bins}


def _soft_entropy(values: Any, counted: Any, low: Any, high: Any, bins: int) -> Any:
    """Entropy in nats of each column of `values`, shape (n, units), by a histogram with slopes.

    Values that differ by rounding only have entropy 0 and slope 0: bins between them would have huge slopes.
    """
    units = values.shape[1]
    spread = high - low > ops.maximum(_NO_SPREAD * ops.maximum(ops.abs(low), ops.abs(high)), _TINY)
    width = ops.where(spread, high - low, 1.0) / (bins - 1)
    place = ops.clip((values - low) / width, 0, bins - 1)
    left = ops.stop_gradient(ops.minimum(ops.floor(place), bins - 2))
    right_share = place - left
    column = ops.arange(units, dtype="int32") * bins
    segment = ops.reshape(ops.cast(left, "int32") + column, (-1,))

    def total(shares: Any, segments: Any) -> Any:
        return ops.segment_sum(ops.reshape(shares * counted, (-1,)), segments, num_segments=units * bins)

    h = ops.reshape(total(1 - right_share, segment) + total(right_share, segment + 1), (units, bins))
    h = h / ops.maximum(ops.sum(h, axis=1, keepdims=True), 1.0)
    return -ops.cast(spread, "float32") * ops.sum(h * ops.log(ops.maximum(h, _SMALLEST)), axis=1)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise refuse(name, value, "True or False")
    return value


def _float32(activations: Any) -> Any:
    return ops.cast(ops.convert_to_tensor(activations), "float32")


def _samples(a: Any) -> Any:
    return ops.cast(ops.maximum(ops.shape(a)[0], 1), "float32")


@functools.cache
def _keras_divides_by_the_batch_size() -> bool:
    """Tried out rather than looked up: the loss of a layer whose regularizer returns 1 for a batch of 2."""
    with tf.init_scope():  # out of a graph that may be being traced
        layer = keras.layers.Identity(activity_regularizer=lambda a: ops.ones(()), dtype="float32")
        layer(ops.ones((2, 1)))
        return float(layer.losses[0]) == 0.5
