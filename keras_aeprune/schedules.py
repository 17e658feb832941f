"""When to prune, and how much by then: step -> (prune now?, sparsity).

Every schedule here is a `tfmot.sparsity.keras.PruningSchedule`: it works inside tfmot, and tfmot's own
schedules work in `keras_aeprune.Prune`. Steps are optimizer updates: step t is the state after t updates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_aeprune import _tfmot
from keras_aeprune._validation import InputError, fraction, positive_int, positive_number, shown

__all__ = ["ConstantSparsity", "PolynomialDecay", "PruningSchedule", "Timetable", "automatic", "get"]

PruningSchedule = _tfmot.PruningSchedule

_UPDATES = 64  # how many times an automatic ramp recomputes the masks
_CHUNK = 8192  # how many steps of a schedule without an end are looked at in one go


class _Configured(PruningSchedule):
    """Constructor = config, in the nested form that tfmot's wrappers store."""

    def _arguments(self) -> dict[str, Any]:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"class_name": type(self).__name__, "config": self._arguments()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _Configured:
        return cls(**config.get("config", config))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.get_config() == self.get_config()

    def __hash__(self) -> int:
        return hash(repr(self.get_config()))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({arguments})"


class ConstantSparsity(_Configured, _tfmot.ConstantSparsity):
    """The same sparsity from `begin_step` on.

    For pruning in one stroke before fine-tuning; a ramp (`PolynomialDecay`) usually loses less.

    Args:
        target_sparsity: fraction of weights set to zero, 0 <= s < 1.
        begin_step: first step at which it is applied, in optimizer updates from 0.
        end_step: last step at which it is applied, or -1 for the end of training.
        frequency: steps between two applications, >= 1.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> schedule = ConstantSparsity(0.5, begin_step=10)
        >>> [bool(schedule(step)[0]) for step in (9, 10, 11, 110)]
        [False, True, False, True]
    """

    def __init__(self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100):
        fraction("target_sparsity", target_sparsity)
        _check_steps(begin_step, end_step, frequency, open_end=True)
        super().__init__(target_sparsity, begin_step, end_step, frequency)

    def _arguments(self) -> dict[str, Any]:
        names = ("target_sparsity", "begin_step", "end_step", "frequency")
        return {name: getattr(self, name) for name in names}


class PolynomialDecay(_Configured, _tfmot.PolynomialDecay):
    """A ramp that prunes fast at first and slowly at the end; power 3 is the cubic schedule.

    With p = (step - begin_step) / (end_step - begin_step), clipped to [0, 1]:

        s = final_sparsity + (initial_sparsity - final_sparsity) * (1 - p) ** power

    Zhu and Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878. The last step is
    always applied, also when `frequency` does not hit it; begin_step = end_step prunes once, to the end.

    Args:
        initial_sparsity: fraction of weights that are zero at `begin_step`, 0 <= s < 1.
        final_sparsity: fraction of weights that are zero from `end_step` on, 0 <= s < 1.
        begin_step: first step, in optimizer updates from 0.
        end_step: last step, >= begin_step.
        power: exponent, > 0.
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
        fraction("initial_sparsity", initial_sparsity)
        fraction("final_sparsity", final_sparsity)
        positive_number("power", power)
        _check_steps(begin_step, end_step, frequency, open_end=False)
        super().__init__(initial_sparsity, final_sparsity, begin_step, end_step, power, frequency)

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        step = tf.convert_to_tensor(step)
        length = max(self.end_step - self.begin_step, 1)
        past = tf.cast(step - self.begin_step, tf.float32) / length
        past = tf.where(step >= self.end_step, 1.0, tf.clip_by_value(past, 0.0, 1.0))
        sparsity = (self.initial_sparsity - self.final_sparsity) * (1.0 - past) ** self.power
        due = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return due | (step == self.end_step), sparsity + self.final_sparsity

    def _arguments(self) -> dict[str, Any]:
        names = ("initial_sparsity", "final_sparsity", "begin_step", "end_step", "power", "frequency")
        return {name: getattr(self, name) for name in names}


def _check_steps(begin_step: int, end_step: int, frequency: int, *, open_end: bool) -> None:
    positive_int("begin_step", begin_step, minimum=0)
    positive_int("frequency", frequency)
    if open_end and end_step == -1:
        return
    if isinstance(end_step, bool) or not isinstance(end_step, (int, np.integer)) or end_step < begin_step:
        extra = ", or -1 for the end of training" if open_end else ""
        raise InputError(
            f"end_step: got {shown(end_step)}, allowed: a whole number >= begin_step {begin_step}{extra}"
        )


_KNOWN = {"ConstantSparsity": ConstantSparsity, "PolynomialDecay": PolynomialDecay}


def get(schedule: Any) -> PruningSchedule:
    """A schedule from itself (tfmot's own included) or from the dict that `get_config` returned."""
    if isinstance(schedule, PruningSchedule):
        return schedule
    if isinstance(schedule, dict) and schedule.get("class_name") in _KNOWN:
        return _KNOWN[schedule["class_name"]].from_config(schedule)
    raise InputError(
        f"schedule: got {shown(schedule)}, allowed: a tfmot or keras_aeprune PruningSchedule, or the "
        f"get_config() of one of {', '.join(_KNOWN)}"
    )


def automatic(final_sparsity: float, total_steps: int) -> PolynomialDecay:
    """The cubic ramp of `Prune(0.9)`: from a tenth to six tenths of the training, then fine-tuning.

    Args:
        final_sparsity: fraction of weights that are zero at the end, 0 <= s < 1.
        total_steps: optimizer updates in the whole training, >= 1.

    Example:
        >>> schedule = automatic(0.9, 1000)
        >>> schedule.begin_step, schedule.end_step, schedule.frequency
        (100, 600, 8)
    """
    positive_int("total_steps", total_steps)
    begin = total_steps // 10
    end = max(begin, round(0.6 * total_steps))
    frequency = max(1, math.ceil((end - begin) / _UPDATES))
    return PolynomialDecay(0.0, fraction("final_sparsity", final_sparsity), begin, end, frequency=frequency)


class Timetable:
    """The steps at which a schedule changes the masks, looked up once instead of called at every step.

    The last step of the schedule is part of it even when the schedule's own frequency misses it.

    Args:
        schedule: any `PruningSchedule`.
        total_steps: the step at which the training ends, or None if nobody knows; then a schedule
            without an `end_step` is looked up piece by piece.

    Attributes:
        final: the last sparsity (fraction), or None while it is not known.
        final_step: the first step from which the sparsity stays `final`, or None.

    Example:
        >>> table = Timetable(PolynomialDecay(0.0, 0.9, 0, 250, frequency=100), total_steps=300)
        >>> table.steps.tolist(), table.final_step
        ([0, 100, 200, 250], 250)
        >>> table.latest(249) == table.latest(200), table.latest(-1)
        (True, None)
    """

    def __init__(self, schedule: PruningSchedule, total_steps: int | None = None):
        self.schedule = schedule
        end = getattr(schedule, "end_step", -1)
        self._end = int(end) if end is not None and end >= 0 else None
        self._open = self._end is None and total_steps is None
        horizon = self._end if self._end is not None else _CHUNK if total_steps is None else total_steps
        self.steps, self.values = self._look_up(0, horizon)
        self._horizon = horizon

    def _look_up(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        steps = np.arange(first, last + 1, dtype=np.int64)
        due, values = _evaluate(self.schedule, steps)
        if self._end is not None:
            due[-1] = True
        steps, values = steps[due], values[due]
        final = getattr(self.schedule, "final_sparsity", getattr(self.schedule, "target_sparsity", None))
        if final is not None:  # float32 arithmetic, and 0 / 0 where tfmot's begin_step = end_step
            exact = np.isclose(values, final, rtol=1e-6, atol=0) | (np.isnan(values) & (steps == self._end))
            values[exact] = final
        wrong = ~((values >= 0) & (values <= 1))
        if wrong.any():
            raise InputError(
                f"schedule {shown(self.schedule)}: got sparsity {values[wrong][0]} at step "
                f"{steps[wrong][0]}, allowed: a fraction 0 <= s < 1"
            )
        return steps, values

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


def _evaluate(schedule: PruningSchedule, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(due, sparsity) of every step; in one call where the schedule is known to be elementwise."""
    if isinstance(schedule, (_tfmot.ConstantSparsity, _tfmot.PolynomialDecay)):
        due, values = schedule(tf.constant(steps))
        due = np.array(due)
        return due, np.broadcast_to(np.asarray(values, np.float64), due.shape).copy()

    def one(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        due, value = schedule(step)
        return tf.cast(due, tf.bool), tf.cast(value, tf.float32)

    @tf.function(reduce_retracing=True)
    def every(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.map_fn(one, steps, fn_output_signature=(tf.bool, tf.float32))

    due, values = every(tf.constant(steps))
    return np.array(due), np.asarray(values, np.float64)
