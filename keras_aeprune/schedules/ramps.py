"""Ramps beside the polynomial one: cosine, one-cycle, exponential, iterative, and up and down again."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_aeprune._validation import InputError, is_real, positive_int, positive_number, refuse
from keras_aeprune.schedules.base import (
    Ramp,
    Schedule,
    checked_sparsity,
    checked_steps,
    register,
    whole_steps,
)

__all__ = ["CosineDecay", "DenseSparseDense", "ExponentialDecay", "IterativeSteps", "OneCycle"]


@register("CosineDecay")
@keras.saving.register_keras_serializable("keras_aeprune")
class CosineDecay(Ramp):
    """A ramp that starts and ends gently and is steepest half way.

    For models that lose much when many weights go early. With p = (step - begin_step) / (end_step -
    begin_step), clipped to [0, 1]:

        s = initial_sparsity + (final_sparsity - initial_sparsity) * (1 - cos(pi p)) / 2

    Args:
        initial_sparsity: fraction of weights that are zero at `begin_step`, 0 <= s < 1.
        final_sparsity: fraction of weights that are zero from `end_step` on, 0 <= s < 1.
        begin_step: first step, in optimizer updates from 0.
        end_step: last step, >= begin_step.
        frequency: steps between two updates of the masks, >= 1.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> schedule = CosineDecay(0.0, 0.9, begin_step=0, end_step=100)
        >>> [round(float(schedule(step)[1]), 4) for step in (0, 25, 50, 75, 100)]
        [0.0, 0.1318, 0.45, 0.7682, 0.9]
    """

    def sparsity_after(self, done: tf.Tensor, length: int) -> tf.Tensor:
        return self.initial_sparsity + self.rise * (1 - tf.cos(math.pi * (done / length))) / 2


@register("OneCycle")
@keras.saving.register_keras_serializable("keras_aeprune")
class OneCycle(Ramp):
    """An S-shaped ramp: a short warm-up, most of the pruning in the middle, a long flat end.

    For a small budget of epochs: pruning and fine-tuning share one training. With p = (step - begin_step) /
    (end_step - begin_step), clipped to [0, 1]:

        s = initial_sparsity + (final_sparsity - initial_sparsity) * f(p)
        f(p) = (1 + e^(beta - alpha)) / (1 + e^(beta - alpha p))

    At `begin_step` this is not `initial_sparsity`: f(0) is above 0, with the defaults 0.0025. Hubens et al.,
    "One-Cycle Pruning", 2021, https://arxiv.org/abs/2107.02086.

    Args:
        initial_sparsity: fraction of weights that are zero before the ramp, 0 <= s < 1.
        final_sparsity: fraction of weights that are zero from `end_step` on, 0 <= s < 1.
        begin_step: first step, in optimizer updates from 0.
        end_step: last step, >= begin_step.
        alpha: steepness, > 0.
        beta: where the ramp is steepest, namely at p = beta / alpha; 0 <= beta <= alpha.
        frequency: steps between two updates of the masks, >= 1.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> schedule = OneCycle(0.0, 0.9, begin_step=0, end_step=100)
        >>> [round(float(schedule(step)[1]), 4) for step in (0, 25, 50, 75, 100)]
        [0.0022, 0.0683, 0.6582, 0.8904, 0.9]
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        *,
        alpha: float = 14.0,
        beta: float = 6.0,
        frequency: int = 100,
    ):
        super().__init__(initial_sparsity, final_sparsity, begin_step, end_step, frequency=frequency)
        self.alpha = positive_number("alpha", alpha)
        if not is_real(beta) or not 0 <= beta <= self.alpha:
            raise refuse("beta", beta, f"a number 0 <= beta <= alpha {self.alpha}")
        self.beta = float(beta)

    def sparsity_after(self, done: tf.Tensor, length: int) -> tf.Tensor:
        part = (1 + math.exp(self.beta - self.alpha)) / (1 + tf.exp(self.beta - self.alpha * (done / length)))
        return self.initial_sparsity + self.rise * part


@register("ExponentialDecay")
@keras.saving.register_keras_serializable("keras_aeprune")
class ExponentialDecay(Ramp):
    """A ramp that takes the same fraction of what is left at every update.

    The smooth form of the rounds of the lottery ticket work (a fifth of what is left each round). With p =
    (step - begin_step) / (end_step - begin_step), clipped to [0, 1]:

        s = 1 - (1 - initial_sparsity) * ((1 - final_sparsity) / (1 - initial_sparsity)) ** p

    Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, https://arxiv.org/abs/1803.03635.

    Args:
        initial_sparsity: fraction of weights that are zero at `begin_step`, 0 <= s < 1.
        final_sparsity: fraction of weights that are zero from `end_step` on, 0 <= s < 1.
        begin_step: first step, in optimizer updates from 0.
        end_step: last step, >= begin_step.
        frequency: steps between two updates of the masks, >= 1.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> schedule = ExponentialDecay(0.0, 0.9, begin_step=0, end_step=100)
        >>> [round(float(schedule(step)[1]), 4) for step in (0, 25, 50, 75, 100)]
        [0.0, 0.4377, 0.6838, 0.8222, 0.9]
    """

    def sparsity_after(self, done: tf.Tensor, length: int) -> tf.Tensor:
        density = 1 - self.initial_sparsity
        return 1 - density * ((1 - self.final_sparsity) / density) ** (done / length)


@register("IterativeSteps")
@keras.saving.register_keras_serializable("keras_aeprune")
class IterativeSteps(Ramp):
    """A staircase: prune in equal stages and train in between.

    For models that need time to recover after each loss of weights. With p = (step - begin_step) /
    (end_step - begin_step), clipped to [0, 1]:

        s = initial_sparsity + (final_sparsity - initial_sparsity) * ceil(p * stages) / stages

    So a stage is reached at the first update of the masks after the one before has ended; with a
    `frequency` longer than a stage, stages are left out. Han et al., "Learning both weights and
    connections", 2015, https://arxiv.org/abs/1506.02626.

    Args:
        initial_sparsity: fraction of weights that are zero at `begin_step`, 0 <= s < 1.
        final_sparsity: fraction of weights that are zero from `end_step` on, 0 <= s < 1.
        begin_step: first step, in optimizer updates from 0.
        end_step: last step, >= begin_step.
        stages: how many, >= 1.
        frequency: steps between two updates of the masks, >= 1.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> schedule = IterativeSteps(0.0, 0.9, begin_step=0, end_step=300)
        >>> [round(float(schedule(step)[1]), 4) for step in (0, 1, 100, 101, 300)]
        [0.0, 0.3, 0.3, 0.6, 0.9]
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        *,
        stages: int = 3,
        frequency: int = 100,
    ):
        super().__init__(initial_sparsity, final_sparsity, begin_step, end_step, frequency=frequency)
        self.stages = positive_int("stages", stages)

    def sparsity_after(self, done: tf.Tensor, length: int) -> tf.Tensor:
        stage = -(-done * self.stages // length)  # whole numbers: a rounded p would climb a step too early
        return self.initial_sparsity + self.rise * (stage / self.stages)


@register("DenseSparseDense")
@keras.saving.register_keras_serializable("keras_aeprune")
class DenseSparseDense(Schedule):
    """Up to `sparsity` half way, and back down to 0: a regularizer, the model ends dense.

    For a better dense model, not for a smaller one. With middle = begin_step + (end_step - begin_step) // 2:

        s = sparsity * (1 - cos(pi q)) / 2,  q = (step - begin_step) / (middle - begin_step) up to the middle,
                                             q = (end_step - step) / (end_step - middle) after it

    The middle step is always due, so that `sparsity` is reached exactly; so is the last one, at 0. Han et
    al., "DSD: Dense-Sparse-Dense Training", 2017, https://arxiv.org/abs/1607.04381.

    Args:
        sparsity: fraction of weights that are zero half way, 0 <= s < 1; the final sparsity is always 0.
        begin_step: first step, in optimizer updates from 0.
        end_step: last step, > begin_step: a way up and down of no length would never prune.
        frequency: steps between two updates of the masks, >= 1.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> schedule = DenseSparseDense(0.9, begin_step=0, end_step=100)
        >>> [round(float(schedule(step)[1]), 4) for step in (0, 25, 50, 75, 100)]
        [0.0, 0.45, 0.9, 0.45, 0.0]
    """

    target = "sparsity"
    final_sparsity = 0.0

    def __init__(self, sparsity: float, begin_step: int, end_step: int, *, frequency: int = 100):
        self.sparsity = checked_sparsity("sparsity", sparsity)
        self.begin_step, self.end_step, self.frequency = checked_steps(begin_step, end_step, frequency)
        if self.end_step == self.begin_step:
            raise InputError(
                f"end_step: got {end_step}, allowed: a whole number > begin_step {begin_step}; "
                "dense-sparse-dense needs a step for the way down"
            )

    @property
    def middle_step(self) -> int:
        """The step at which `sparsity` is reached."""
        return self.begin_step + (self.end_step - self.begin_step) // 2

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        step = whole_steps(step)
        middle = self.middle_step
        up = tf.clip_by_value((step - self.begin_step) / max(middle - self.begin_step, 1), 0.0, 1.0)
        down = tf.clip_by_value((self.end_step - step) / (self.end_step - middle), 0.0, 1.0)
        way = tf.where(step < middle, up, down)
        values = tf.cast(self.sparsity * (1 - tf.cos(math.pi * way)) / 2, tf.float32)
        due = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return due | (step == middle) | (step == self.end_step), values
