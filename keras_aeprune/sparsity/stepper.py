"""Step by step along a timetable: what `Prune` does in `fit` and `Pruner.step` in a loop of one's own."""

from __future__ import annotations

from typing import Any, Protocol

from keras_aeprune.schedules import Timetable

__all__ = ["Stepper"]


class _Updates(Protocol):
    """What a stepper drives: a `Pruner`."""

    def update(self, sparsity: float) -> None: ...

    def exchange(self, step: int, total: int | None) -> None: ...


class Stepper:
    """Brings masks to what a timetable asks for, and lets them move where weights may grow again.

    Args:
        pruner: has `update(sparsity)` and `exchange(step, total)`.
        timetable: from a schedule.
        total: the step at which the training ends, or None.
        regrowth: says with `due(step, total)` when weights are exchanged; None for never.

    Attributes:
        step: optimizer updates seen.
        at_target: whether the final sparsity has been applied for good.

    Example:
        >>> from keras_aeprune.schedules import PolynomialDecay
        >>> class Pruner:
        ...     def update(self, sparsity):
        ...         print(f"{sparsity:.4f}")
        >>> steps = Stepper(Pruner(), Timetable(PolynomialDecay(0.0, 0.5, 0, 4, frequency=2)), 6)
        >>> steps.move_to(0), steps.move_to(1), steps.move_to(5), steps.at_target
        0.0000
        0.5000
        (None, None, None, True)
    """

    def __init__(self, pruner: _Updates, timetable: Timetable, total: int | None = None, *, regrowth: Any = None):
        self.pruner = pruner
        self.timetable = timetable
        self.total = total
        self.regrowth = regrowth
        self.step = 0
        self.applied: float | None = None
        self.at_target = False
        self._next: int | None = 0

    def move_to(self, step: int) -> None:
        """Apply whatever is due after `step` updates; steps that were passed over count."""
        before, self.step = self.step, step
        if self._next is not None and step >= self._next:
            sparsity = self.timetable.latest(step)
            if sparsity is not None:
                self._apply(sparsity)
            self._next = self.timetable.next_after(step)
        if self.regrowth is not None and self.at_target and self.regrowth.due(before, step, self.total):
            self.pruner.exchange(step, self.total)

    def resume(self, step: int) -> None:
        """Go on at `step` with masks that are already those of that step."""
        self.step = step
        self.applied = self.timetable.latest(step)
        self._next = self.timetable.next_after(step)
        final_step = self.timetable.final_step
        self.at_target = final_step is not None and step >= final_step

    def to_the_end(self) -> None:
        """Apply the final sparsity now."""
        if self.timetable.final is not None:
            self._apply(self.timetable.final)
        self.at_target = True

    def _apply(self, sparsity: float) -> None:
        if sparsity != self.applied:
            self.pruner.update(sparsity)
            self.applied = sparsity
        final_step = self.timetable.final_step
        self.at_target = final_step is not None and self.step >= final_step
