"""Threshold: prune what scores too little, instead of a number of weights that is fixed beforehand."""

from __future__ import annotations

import math
from typing import Any, Protocol

import keras
import numpy as np

from keras_aeprune._validation import is_real, one_of, positive_int, positive_number, refuse

__all__ = ["Threshold", "ThresholdSteps", "ThresholdTimes"]


@keras.saving.register_keras_serializable("keras_aeprune")
class Threshold:
    """Prune every weight whose score is below a threshold; stands in the schedule's place in `Prune`.

    For pruning by what a weight is worth instead of by how many shall go: each layer gets the sparsity that its
    own scores say, and there is no target that could be missed. `Prune(...).table` says what was reached. With T
    the threshold and s the scores of one kernel, the weights go for which

        relative=None:   s < T
        relative="std":  s < T * std(s), over the whole kernel, masked weights with score 0

    as in Han et al., "Deep Compression", 2016, https://arxiv.org/abs/1510.00149, which takes the deviation of the
    weights; that of their magnitudes is 0.60 of it where weights are normal around 0. However often it is applied
    to the same weights, T * std(s) never exceeds T times their root mean square. What is masked stays masked.
    Every kernel keeps at least one weight, its best one, and the table says where that was needed. A
    kernel of zeros only is taken as untrained and left alone.

    It goes with the pattern "unstructured" and the allocation "uniform", without limits and without regrowth;
    others are refused, since they fix numbers of weights.

    Args:
        threshold: T, in the unit of the criterion's scores: any finite number; with relative="std", in standard
            deviations, > 0.
        begin_step: first step at which it is applied, in optimizer updates from 0.
        end_step: last step at which it is applied, whatever the frequency says, >= begin_step and within the
            training; None for no such step. Callbacks that keep the best epoch only judge epochs from there
            on, with None from `begin_step` on.
        frequency: steps between two applications, >= 1.
        relative: None or "std".

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> rule = Threshold(0.5)
        >>> rule.mask(np.array([0.1, 0.5, 0.9]), np.array([True, True, True])).tolist()
        [False, True, True]
    """

    def __init__(
        self,
        threshold: float,
        *,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 100,
        relative: str | None = None,
    ):
        one_of("relative", relative, (None, "std"))
        number = is_real(threshold)
        if not number or not math.isfinite(threshold):
            raise refuse("threshold", threshold, "a finite number, in the unit of the scores")
        self.threshold = positive_number("threshold", threshold) if relative else float(threshold)
        self.begin_step = positive_int("begin_step", begin_step, minimum=0)
        self.end_step = None if end_step is None else positive_int("end_step", end_step, minimum=self.begin_step)
        self.frequency = positive_int("frequency", frequency)
        self.relative = relative

    def mask(self, scores: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """What is left of `kept`; at least one weight, the earliest of the best ones.

        Args:
            scores: of one kernel, finite, higher means keep.
            kept: boolean array of the same shape, True where a weight is not masked yet.

        Returns:
            Boolean array of the same shape, True only where `kept` is.

        Example:
            >>> Threshold(9.0).mask(np.array([3.0, 4.0, 5.0]), np.array([True, True, False])).tolist()
            [False, True, False]
        """
        if not kept.any():
            return kept
        deviation = float(np.where(kept, scores, 0).std(dtype=np.float64)) if self.relative else 1.0
        left = kept & (scores >= self.threshold * deviation)
        if not left.any():
            left.flat[np.argmax(np.where(kept, scores, -np.inf))] = True
        return left

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Threshold:
        """The rule that `get_config` described."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).items()))

    def __repr__(self) -> str:
        return f"Threshold({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class ThresholdTimes:
    """The steps at which a threshold is applied: what `Timetable` is for schedules, without sparsities.

    Args:
        schedule: the `Threshold`.

    Attributes:
        final: None: there is no sparsity to be reached.
        final_step: from which step on the model is as sparse as it was asked to be.

    Example:
        >>> times = ThresholdTimes(Threshold(0.5, begin_step=10, end_step=25, frequency=10))
        >>> [step for step in range(30) if times.due(step, step)]
        [10, 20, 25]
    """

    final = None

    def __init__(self, schedule: Threshold):
        self.schedule = schedule
        self.final_step = schedule.begin_step if schedule.end_step is None else schedule.end_step

    def due(self, first: int, step: int) -> bool:
        """Whether the threshold is applied at one of the steps from `first` to `step`, both included."""
        begin, end, every = self.schedule.begin_step, self.schedule.end_step, self.schedule.frequency
        step = step if end is None else min(step, end)
        if step < max(begin, first):
            return False
        return first <= begin or step == end or (step - begin) // every > (first - 1 - begin) // every


class _Cuts(Protocol):
    """What the steps drive: a `Pruner`."""

    def cut(self, threshold: Threshold) -> None: ...

    def sparsity(self) -> float: ...


class ThresholdSteps:
    """Applies a threshold when it is due: what `Stepper` is for schedules.

    Args:
        pruner: has `cut(threshold)` and `sparsity()`.
        times: from a threshold.

    Attributes:
        step: optimizer updates seen; -1 before the first call.

    Example:
        >>> class Pruner:
        ...     def cut(self, threshold):
        ...         print(threshold.threshold)
        >>> steps = ThresholdSteps(Pruner(), ThresholdTimes(Threshold(0.5, begin_step=1, frequency=9)))
        >>> steps.move_to(0), steps.move_to(1), steps.move_to(2), steps.at_target
        0.5
        (None, None, None, True)
    """

    def __init__(self, pruner: _Cuts, times: ThresholdTimes):
        self.pruner = pruner
        self.timetable = times
        self.step = -1

    def move_to(self, step: int) -> None:
        """Apply the threshold if it was due after the last step seen, up to this one."""
        first, self.step = self.step + 1, step
        if self.timetable.due(first, step):
            self.pruner.cut(self.timetable.schedule)

    def resume(self, step: int) -> None:
        """Go on at `step` with masks that are already those of that step."""
        self.step = step

    @property
    def applied(self) -> float | None:
        """The fraction of zeros now, or None before the threshold was applied."""
        return self.pruner.sparsity() if self.step >= self.timetable.schedule.begin_step else None

    @property
    def at_target(self) -> bool:
        """Whether the threshold has been applied as often as callbacks that keep the best epoch must wait for."""
        return self.step >= self.timetable.final_step
