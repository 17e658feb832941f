"""The random layer of a variational autoencoder, and its divergence from the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError, is_real, positive_int, refuse

_LIMIT = 20.0


def bounded(log_variance: Any) -> Any:
    """`log_variance` clipped to [-20, 20], with the gradient of the number that was not clipped.

    A standard deviation then lies between 4.5e-5 and 2.2e4, so that nothing overflows in float32, and a value
    outside is still pulled back.

    >>> [float(value) for value in bounded(ops.convert_to_tensor([-99.0, 1.5, 99.0]))]
    [-20.0, 1.5, 20.0]
    """
    return log_variance + ops.stop_gradient(ops.clip(log_variance, -_LIMIT, _LIMIT) - log_variance)


def divergence(mean: Any, log_variance: Any) -> Any:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each number, in nats.

        KL = (mean^2 + exp(log_variance) - 1 - log_variance) / 2

    Args:
        mean: any shape.
        log_variance: same shape; clipped by `bounded`.

    Returns:
        Tensor of that shape, >= 0 but for rounding; the divergence of a code is the sum over its axes.

    >>> [round(float(value), 4) for value in divergence(ops.array([0.0, 1.0]), ops.array([0.0, 1.0]))]
    [0.0, 0.8591]
    """
    log_variance = bounded(log_variance)
    return 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance)


@keras.saving.register_keras_serializable("keras_aeprune")
class Sampling(keras.layers.Layer):
    """A code drawn from N(mean, exp(log_variance)) in training, the mean otherwise, and a loss beside it.

    Use it as the last layer of an encoder of your own; `variational` does. In training z = mean +
    exp(log_variance / 2) * eps with eps ~ N(0, 1); in evaluate, predict and export z = mean, nothing random.
    In all of them the layer adds the loss

        weight / features * sum over code axes of max(free_nats, mean over the batch of KL of that axis)

    with KL from `divergence`. log_variance is clipped to [-20, 20] by `bounded`. The weight is a saved variable
    that is not trained: set `layer.weight = 0.5` at any time, between batches of a compiled `fit` too. As any
    weight, it comes back with a checkpoint and with EarlyStopping(restore_best_weights=True). Free nats keep
    code axes from being switched off early in training (Kingma et al. 2016,
    https://arxiv.org/abs/1606.04934).

    Args:
        weight: of the divergence, >= 0; 1 is the evidence lower bound, more is a beta-VAE.
        seed: of the noise, a whole number >= 0; None takes Keras' global seed, a new one each time.
        features: what the divergence is divided by, >= 1: the values in one sample where the compiled loss is
            a mean over them, as those of Keras are.
        free_nats: divergence of each code axis that costs no more than less would, >= 0, in nats.
        **kwargs: of keras.layers.Layer, such as name.

    Call it with [mean, log_variance], two tensors of shape (batch, ...); it returns one.

    Raises:
        InputError: a number out of range, or inputs that are not two tensors of one shape.

    >>> layer = Sampling(weight=2.0)
    >>> mean, log_variance = ops.array([[1.0, 0.0], [3.0, 0.0]]), ops.zeros((2, 2))
    >>> ops.convert_to_numpy(layer([mean, log_variance])).tolist()
    [[1.0, 0.0], [3.0, 0.0]]
    >>> float(layer.losses[0])  # 2 * (1 / 2 + 9 / 2) / 2
    5.0
    """

    def __init__(
        self,
        weight: float = 1.0,
        seed: int | None = None,
        *,
        features: int = 1,
        free_nats: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._first_weight = _not_negative("weight", weight)
        self.seed = None if seed is None else positive_int("seed", seed, minimum=0)
        self.features = positive_int("features", features)
        self.free_nats = _not_negative("free_nats", free_nats)
        self.noise = keras.random.SeedGenerator(self.seed)
        # float32 whatever the layer computes in: float16 would round it
        self._weight = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self._first_weight),
            dtype="float32",
            trainable=False,
            autocast=False,
            name="weight",
        )
        self.divergence = None

    @property
    def weight(self) -> float:
        """The weight of the divergence now."""
        return float(str(self._weight.numpy()))  # 0.1, not 0.10000000149

    @weight.setter
    def weight(self, value: float) -> None:
        self._weight.assign(_not_negative("weight", value))

    def build(self, input_shape: Any) -> None:
        shapes = input_shape if isinstance(input_shape, (list, tuple)) else ()
        if len(shapes) != 2 or not all(isinstance(s, (list, tuple)) for s in shapes) or shapes[0] != shapes[1]:
            raise InputError(
                f"layer {self.name!r}: got inputs of shape {input_shape}, allowed: [mean, log_variance], two "
                "tensors of the same shape (batch, ...)"
            )
        self.built = True

    def call(self, inputs: Sequence[keras.KerasTensor], training: bool = False) -> keras.KerasTensor:
        mean, log_variance = (ops.cast(value, "float32") for value in inputs)
        each_axis = ops.mean(divergence(mean, log_variance), axis=0)
        # read by the model in the same step, as `losses` are; a metric here would put state into inference
        self.divergence = ops.sum(each_axis)
        if self.free_nats:
            each_axis = ops.maximum(each_axis, self.free_nats)
        self.add_loss(self._weight / self.features * ops.sum(each_axis))
        if not training:
            return inputs[0]
        eps = keras.random.normal(ops.shape(mean), dtype="float32", seed=self.noise)
        return ops.cast(mean + ops.exp(0.5 * bounded(log_variance)) * eps, self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weight": self._first_weight,
            "seed": self.seed,
            "features": self.features,
            "free_nats": self.free_nats,
        }


def sampling_of(model: keras.Model) -> Sampling:
    """The one `Sampling` layer below `model`.

    Raises:
        InputError: there is none, or more than one.
    """
    found = [layer for _, layer in walk(model) if isinstance(layer, Sampling)]
    if len(found) != 1:
        raise InputError(
            f"model: {model.name!r} has {len(found) or 'no'} Sampling layer{'s' if found else ''}, allowed: a "
            "variational autoencoder with one, as keras_aeprune.models.variational builds it"
        )
    return found[0]


def _not_negative(name: str, value: Any) -> float:
    if not is_real(value) or not (0 <= value < math.inf):
        raise refuse(name, value, "a number >= 0")
    return float(value)
