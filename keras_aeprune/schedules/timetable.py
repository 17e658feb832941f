"""The steps at which a schedule changes the masks, looked up once."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_aeprune import _tfmot
from keras_aeprune._validation import InputError, is_real, positive_int, refuse, shown
from keras_aeprune.schedules.base import PruningSchedule

__all__ = ["Timetable", "evaluate"]

_CHUNK = 8192  # how many steps of a schedule without an end are looked at in one go
_PIECE = 1 << 20  # how many steps are held in memory at once
_WRITTEN = ("initial_sparsity", "final_sparsity", "target_sparsity", "sparsity")


class Timetable:
    """The steps at which a schedule changes the masks, looked up once instead of called at every step.

    The last step of the schedule is part of it even when the schedule's own frequency misses it. It depends
    on the step alone: after a restart in the middle, `latest` says what it would have said without.

    Args:
        schedule: any `PruningSchedule`.
        total_steps: the step at which the training ends, or None if nobody knows; then a schedule
            without an `end_step` is looked up piece by piece.

    Attributes:
        final: the last sparsity (fraction), or None while it is not known.
        final_step: the first step from which the sparsity stays `final`, or None.

    Raises:
        InputError: if the schedule says NaN or anything else that is not a fraction 0 <= s < 1.

    Example:
        >>> from keras_aeprune.schedules import PolynomialDecay
        >>> table = Timetable(PolynomialDecay(0.0, 0.9, 0, 250, frequency=100), total_steps=300)
        >>> table.steps.tolist(), table.final_step
        ([0, 100, 200, 250], 250)
        >>> table.latest(249) == table.latest(200), table.latest(-1)
        (True, None)
    """

    def __init__(self, schedule: PruningSchedule, total_steps: int | None = None):
        if not isinstance(schedule, PruningSchedule):
            raise refuse("schedule", schedule, "a PruningSchedule (a Relative after resolve)")
        if total_steps is not None:
            total_steps = positive_int("total_steps", total_steps, minimum=0)
        self.schedule = schedule
        end = getattr(schedule, "end_step", -1)
        self._end = int(end) if end is not None and end >= 0 else None
        self._open = self._end is None and total_steps is None
        horizon = self._end if self._end is not None else _CHUNK if total_steps is None else total_steps
        self.steps, self.values = self._look_up(0, horizon)
        self._horizon = horizon

    def _look_up(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        found = [self._piece(at, min(at + _PIECE - 1, last)) for at in range(first, last + 1, _PIECE)]
        steps, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
        wrong = ~((values >= 0) & (values < 1))  # NaN is neither
        if wrong.any():
            raise InputError(
                f"schedule {shown(self.schedule)}: got sparsity {values[wrong][0]} at step "
                f"{steps[wrong][0]}, allowed: a fraction 0 <= s < 1"
            )
        return steps, values

    def _piece(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        steps = np.arange(first, last + 1, dtype=np.int64)
        due, values = evaluate(self.schedule, steps)
        due |= steps == (-1 if self._end is None else self._end)
        return steps[due], values[due]

    def _extend_to(self, step: int) -> None:
        while self._open and step > self._horizon:
            steps, values = self._look_up(self._horizon + 1, self._horizon + _CHUNK)
            self.steps = np.concatenate([self.steps, steps])
            self.values = np.concatenate([self.values, values])
            self._horizon += _CHUNK

    def latest(self, step: int) -> float | None:
        """The sparsity that holds after `step` updates, or None before the first."""
        self._extend_to(step)
        position = int(np.searchsorted(self.steps, step, side="right"))
        return float(self.values[position - 1]) if position else None

    def next_after(self, step: int) -> int | None:
        """The next step at which something is due, or None."""
        self._extend_to(step + 1)
        position = int(np.searchsorted(self.steps, step, side="right"))
        return int(self.steps[position]) if position < len(self.steps) else None

    @property
    def final(self) -> float | None:
        if not len(self.values) or (self._open and not isinstance(self.schedule, _tfmot.ConstantSparsity)):
            return None
        return float(self.values[-1])

    @property
    def final_step(self) -> int | None:
        if self.final is None:
            return None
        different = np.flatnonzero(self.values != self.final)
        return int(self.steps[different[-1] + 1 if len(different) else 0])


def evaluate(schedule: PruningSchedule, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each step is due, and its sparsity (float64), in one call where the schedule is elementwise.

    Schedules answer in float32; where that is a sparsity the schedule was made with, it is given as written.

    Args:
        schedule: any `PruningSchedule`; one with a true attribute `elementwise` gets all steps at once.
        steps: int64, shape (n,).

    Returns:
        Two arrays of shape (n,).

    Example:
        >>> due, values = evaluate(_tfmot.PolynomialDecay(0.0, 0.9, 0, 2, 1, frequency=2), np.arange(3))
        >>> due.tolist(), values.tolist()
        ([True, False, True], [0.0, 0.44999998807907104, 0.9])
    """
    if getattr(schedule, "elementwise", type(schedule) in (_tfmot.ConstantSparsity, _tfmot.PolynomialDecay)):
        due, values = schedule(tf.constant(steps))
    else:
        due, values = _one_by_one(schedule, steps)
    due = np.array(due)
    values = np.broadcast_to(np.asarray(values, np.float64), due.shape).copy()
    for written in (getattr(schedule, name, None) for name in _WRITTEN):
        if written is not None and is_real(written):
            values[np.isclose(values, written, rtol=1e-6, atol=0)] = written
    if type(schedule) is _tfmot.PolynomialDecay:  # tfmot divides 0 by 0 where begin_step is end_step
        values[np.isnan(values) & (steps == schedule.end_step)] = schedule.final_sparsity
    return due, values


def _one_by_one(schedule: PruningSchedule, steps: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    def one(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        due, value = schedule(step)
        return tf.cast(due, tf.bool), tf.cast(value, tf.float32)

    @tf.function(reduce_retracing=True)
    def every(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.map_fn(one, steps, fn_output_signature=(tf.bool, tf.float32))

    return every(tf.constant(steps))
