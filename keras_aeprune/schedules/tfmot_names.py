"""The two schedules that tfmot has as well, under its names and with its arguments."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_aeprune import _tfmot
from keras_aeprune._validation import positive_number
from keras_aeprune.schedules.base import (
    Ramp,
    Schedule,
    checked_sparsity,
    checked_steps,
    register,
    whole_steps,
)

__all__ = ["ConstantSparsity", "PolynomialDecay"]


@register("ConstantSparsity")
@keras.saving.register_keras_serializable("keras_aeprune")
class ConstantSparsity(Schedule, _tfmot.ConstantSparsity):
    """The same sparsity from `begin_step` on.

    For pruning in one stroke before fine-tuning; a ramp (`PolynomialDecay`) usually loses less.

    Args:
        target_sparsity: fraction of weights set to zero, 0 <= s < 1.
        begin_step: first step at which it is applied, in optimizer updates from 0.
        end_step: last step at which it is applied, or -1 for the end of training.
        frequency: steps between two applications, >= 1; longer than the training, it is applied once.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> schedule = ConstantSparsity(0.5, begin_step=10)
        >>> [bool(schedule(step)[0]) for step in (9, 10, 11, 110)]
        [False, True, False, True]
    """

    target = "target_sparsity"

    def __init__(self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100):
        self.target_sparsity = checked_sparsity("target_sparsity", target_sparsity)
        self.begin_step, self.end_step, self.frequency = checked_steps(
            begin_step, end_step, frequency, open_end=True
        )

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        step = whole_steps(step)
        due = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        values = tf.fill(tf.shape(step), tf.constant(self.target_sparsity, tf.float32))
        return due | (step == self.end_step), values


@register("PolynomialDecay")
@keras.saving.register_keras_serializable("keras_aeprune")
class PolynomialDecay(Ramp, _tfmot.PolynomialDecay):
    """A ramp that prunes fast at first and slowly at the end; power 3 is the cubic schedule.

    The first choice. With p = (step - begin_step) / (end_step - begin_step), clipped to [0, 1]:

        s = final_sparsity + (initial_sparsity - final_sparsity) * (1 - p) ** power

    Zhu and Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878. Unlike tfmot's,
    the last step is always applied, also when `frequency` does not hit it, and begin_step = end_step prunes
    once, to the end.

    Args:
        initial_sparsity: fraction of weights that are zero at `begin_step`, 0 <= s < 1.
        final_sparsity: fraction of weights that are zero from `end_step` on, 0 <= s < 1.
        begin_step: first step, in optimizer updates from 0.
        end_step: last step, >= begin_step.
        power: exponent, > 0; 1 is a straight line.
        frequency: steps between two updates of the masks, >= 1.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> schedule = PolynomialDecay(0.0, 0.9, begin_step=0, end_step=100)
        >>> [round(float(schedule(step)[1]), 4) for step in (0, 25, 50, 75, 100)]
        [0.0, 0.5203, 0.7875, 0.8859, 0.9]
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ):
        super().__init__(initial_sparsity, final_sparsity, begin_step, end_step, frequency=frequency)
        self.power = positive_number("power", power)

    def sparsity_after(self, done: tf.Tensor, length: int) -> tf.Tensor:
        return self.final_sparsity - self.rise * (1 - done / length) ** self.power
