"""Criteria that look at what the units put out, or at what the weights read."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._layers import Weight
from keras_aeprune._validation import refuse
from keras_aeprune.criteria.base import Criterion, Evidence, register
from keras_aeprune.criteria.recording import Record, stream

__all__ = [
    "APoZ",
    "ActivationCriterion",
    "ActivationMean",
    "ActivationVariance",
    "Wanda",
    "fold_units",
    "spread_units",
]


class ActivationCriterion(Criterion):
    """Base class of criteria that score units by their outputs; a member implements `units`.

    Outputs are those of `recording.stream`: after the activation, over all samples, positions, steps and calls.
    Every weight gets the score of the unit that it feeds, see `spread_units`.
    """

    needs = "activations"

    def units(self, seen: Evidence) -> list[np.ndarray]:
        """Scores of the output units, one array per kernel."""
        raise NotImplementedError

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        return [spread_units(u, w) for u, w in zip(self.units(seen), seen.weights, strict=True)]

    def measure_units(self, seen: Evidence) -> dict[str, np.ndarray]:
        """Scores of whole units, higher means keep.

        Args:
            seen: the model, its kernels and calibration data.

        Returns:
            {path of a layer: float32 array of one number per unit}; layers whose kernels have no known unit
            axis (EinsumDense) are not in it.

        Raises:
            InputError: as `measure`: without data, or where activations cannot be recorded.
        """
        found = zip(seen.weights, self.units(seen), strict=True)
        folded = ((weight.layer_path, fold_units(scores, weight)) for weight, scores in found)
        return {path: scores for path, scores in folded if scores is not None}


@register("activation_mean")
class ActivationMean(ActivationCriterion):
    """Mean absolute activation of a unit: quiet units go first.

    Use it for a first look, and for units behind any activation. With a[i, j] the activation of unit j over all
    N samples and positions i, the score is

        (1 / N) * sum over i of |a[i, j]|

    Polyak and Wolf, "Channel-level acceleration of deep face representations", 2015,
    https://doi.org/10.1109/ACCESS.2015.2494536, use the like for channels.

    Example:
        >>> import keras
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((1,)), kl.Dense(2, name="a", use_bias=False)])
        >>> model.set_weights([np.array([[1.0, -3.0]])])
        >>> data = Calibration(np.array([[1.0], [-2.0]], "float32"))
        >>> ActivationMean().measure_units(Evidence(model, tuple(weights(model)), data))["a"].tolist()
        [1.5, 4.5]
    """

    def units(self, seen: Evidence) -> list[np.ndarray]:
        return _means(seen, tf.abs)


@register("apoz")
class APoZ(ActivationCriterion):
    """One minus the average fraction of zeros: units that are mostly off go first.

    Use it behind ReLU. Behind activations that reach no exact zero all scores are 1 at threshold 0, which ranks
    nothing; give a threshold there. The score is

        1 - (number of |a[i, j]| <= threshold) / N

    Hu et al., "Network trimming", 2016, https://arxiv.org/abs/1607.03250 (APoZ is the fraction itself).

    Args:
        threshold: largest absolute activation that counts as zero, >= 0.

    Raises:
        InputError: for a threshold below 0, or no number.

    Example:
        >>> import keras
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((2,)), kl.ReLU(), kl.Dense(2, activation="relu", name="a")])
        >>> model.set_weights([np.eye(2), np.zeros(2)])
        >>> data = Calibration(np.array([[1, 0], [1, 0], [1, 3], [1, 0]], "float32"))
        >>> APoZ().measure_units(Evidence(model, tuple(weights(model)), data))["a"].tolist()
        [1.0, 0.25]
    """

    def __init__(self, threshold: float = 0.0):
        number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not number or not 0 <= threshold < math.inf:
            raise refuse("threshold", threshold, "a number >= 0")
        self.threshold = float(threshold)

    def units(self, seen: Evidence) -> list[np.ndarray]:
        return _means(seen, lambda a: tf.cast(tf.abs(a) > self.threshold, tf.float32))


@register("activation_variance")
class ActivationVariance(ActivationCriterion):
    """Variance of a unit's activation: units that say the same to every input go first.

    Use it before cutting: what a constant unit carries can be folded into the next bias. The score is

        (1 / N) * sum over i of (a[i, j] - mean over i of a[i, j])^2

    A variance below 1e-12 of the squared mean is rounding and counts as 0.

    Example:
        >>> import keras
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((1,)), kl.Dense(2, name="a")])
        >>> model.set_weights([np.array([[1.0, 0.0]]), np.array([5.0, 7.0])])
        >>> data = Calibration(np.array([[1.0], [-1.0]], "float32"))
        >>> ActivationVariance().measure_units(Evidence(model, tuple(weights(model)), data))["a"].tolist()
        [1.0, 0.0]
    """

    def units(self, seen: Evidence) -> list[np.ndarray]:
        def reduce(record: Record) -> dict[str, tf.Tensor]:
            a = tf.cast(rows(record.outputs), tf.float64)
            return {"sum": tf.reduce_sum(a, 0), "squares": tf.reduce_sum(a * a, 0), "n": tf.shape(a)[0]}

        found = []
        for s in stream(seen, reduce):
            mean = s["sum"] / np.maximum(s["n"], 1)
            variance = s["squares"] / np.maximum(s["n"], 1) - mean**2
            found.append(np.where(variance > 1e-12 * mean**2, variance, 0.0).astype(np.float32))
        return found


@register("wanda")
class Wanda(Criterion):
    """|w| times the L2 norm of the input it multiplies: small weights on quiet inputs go first.

    Use it to prune without training afterwards. With x[i, k] input feature k over all samples and positions i,

        score of w[k, j] = |w[k, j]| * sqrt(sum over i of x[i, k]^2)

    Sun et al., "A simple and effective pruning approach for large language models", 2023,
    https://arxiv.org/abs/2306.11695. Norms grow with the number of positions, so scores are comparable within a
    layer (allocation "uniform"), not between layers. What x is:

    - convolutions: the input's channels at all positions; of grouped ones the channels of the filter's group
    - depthwise: the channel itself; separable: its second kernel reads the outputs of the first
    - recurrent: the inputs of every step for the kernel, the hidden states before every step for the recurrent
      one (also in a GRU, which multiplies them by a gate)
    - Embedding: 1 where a row is looked up, so that its norm is the root of how often
    - kernels without a known input axis (EinsumDense, layers registered by attribute name): the root mean square
      of the features' norms for all weights, which ranks the layer by |w|

    Example:
        >>> import keras
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((2,)), kl.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[-2.0], [1.0]])])
        >>> data = Calibration(np.array([[3, 0], [4, 20]], "float32"))
        >>> Wanda().measure(Evidence(model, tuple(weights(model)), data))[0].tolist()  # norms 5 and 20
        [[10.0], [20.0]]
    """

    needs = "activations"

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        def reduce(record: Record) -> dict[str, tf.Tensor]:
            layer = record.weight.layer
            if isinstance(layer, kl.Embedding):
                indices = tf.reshape(tf.cast(record.inputs, tf.int32), [-1])
                return {"power": tf.math.bincount(indices, minlength=layer.input_dim, maxlength=layer.input_dim)}
            return {"power": tf.reduce_sum(tf.square(rows(record.inputs)), axis=0)}

        powers = stream(seen, reduce)
        found = []
        for kernel, weight, power in zip(seen.kernels, seen.weights, powers, strict=True):
            norm = _of_inputs(np.sqrt(power["power"]).astype(np.float32), weight, kernel.shape)
            found.append(np.abs(kernel) * norm)
        return found


def fold_units(scores: np.ndarray, weight: Weight) -> np.ndarray | None:
    """Scores of a layer's outputs as scores of its units, the members of `Kernel.unit_axis`.

    They are the same but for depthwise kernels with a multiplier m, where a unit is an input channel with m
    outputs and gets their mean.

    Args:
        scores: one per output unit.
        weight: a kernel of the layer.

    Returns:
        One number per unit, float32; None for a kernel without a known unit axis.
    """
    axis = weight.facts.unit_axis
    if axis is None:
        return None
    size = int(weight.variable.shape[axis])
    per_unit = len(scores) // size if size else 0
    if axis == -2 and per_unit > 1 and weight.facts.input_axis is None:
        scores = scores.reshape(size, per_unit).mean(axis=1)
    return scores.astype(np.float32)


def spread_units(scores: np.ndarray, weight: Weight) -> np.ndarray:
    """Each weight gets the score of the unit that it feeds.

    The gates of a recurrent kernel lie side by side along its last axis (LSTM: i, f, c, o; GRU: z, r, h), units
    of them each; each gate of a unit gets the unit's score. A depthwise kernel with a multiplier has one output
    per weight column, which is used. Where the unit axis is not known (EinsumDense, layers registered by
    attribute name only), all weights get the mean over the layer's outputs.

    Args:
        scores: one per output unit.
        weight: the kernel.

    Returns:
        Array of the kernel's shape, float32.
    """
    shape = tuple(map(int, weight.variable.shape))
    axis, count = weight.facts.unit_axis, len(scores)
    scores = np.asarray(scores, np.float32)
    if axis is not None and count and math.prod(shape):
        size = shape[axis]
        if size % count == 0:  # gates side by side, or one to one
            line = np.tile(scores, size // count)
            return np.broadcast_to(line.reshape(-1, *[1] * (-1 - axis)), shape).astype(np.float32)
        if axis == -2 and size * shape[-1] == count:
            return np.broadcast_to(scores.reshape(size, shape[-1]), shape).astype(np.float32)
    return np.full(shape, scores.mean() if count else 0.0, np.float32)


def rows(tensor: tf.Tensor) -> tf.Tensor:
    """A tensor (n, ..., units) as (samples and positions, units)."""
    return tf.reshape(tensor, [-1, tensor.shape[-1] or tf.shape(tensor)[-1]])


def _means(seen: Evidence, value: Callable[[tf.Tensor], tf.Tensor]) -> list[np.ndarray]:
    def reduce(record: Record) -> dict[str, tf.Tensor]:
        a = rows(record.outputs)
        return {"sum": tf.reduce_sum(value(a), axis=0), "n": tf.shape(a)[0]}

    return [(s["sum"] / np.maximum(s["n"], 1)).astype(np.float32) for s in stream(seen, reduce)]


def _of_inputs(norms: np.ndarray, weight: Weight, shape: tuple[int, ...]) -> np.ndarray:
    """The features' norms, laid out so that they multiply a kernel of that shape."""
    axis, layer = weight.facts.input_axis, weight.layer
    if isinstance(layer, kl.Embedding):
        return norms[:, None]
    if axis is None and weight.facts.unit_axis == -2:  # depthwise: the unit is the input
        axis = -2
    if axis is None:
        return np.sqrt(np.mean(np.square(norms), dtype=np.float64)).astype(np.float32)
    groups = getattr(layer, "groups", 1) or 1
    if groups > 1:  # (features of a group, filters): the column of each filter's group
        return np.repeat(norms.reshape(groups, -1).T, shape[-1] // groups, axis=1)
    return norms.reshape(-1, *[1] * (-1 - axis))
