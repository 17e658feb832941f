"""Masks held on the variables of one model: the engine that the callbacks drive."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_aeprune import calibration, criteria, schedules
from keras_aeprune._layers import Weight, weights
from keras_aeprune._validation import InputError, keras_model, one_of
from keras_aeprune.criteria.base import Compensating
from keras_aeprune.criteria.scoring import evidence, measured
from keras_aeprune.sparsity import allocation as allocations
from keras_aeprune.sparsity import patterns
from keras_aeprune.sparsity import regrowth as regrowths
from keras_aeprune.sparsity.constraints import MaskConstraint, release
from keras_aeprune.sparsity.ranking import masked_last
from keras_aeprune.sparsity.selection import choose
from keras_aeprune.sparsity.stepper import Stepper
from keras_aeprune.sparsity.table import SparsityRow, SparsityTable, remember
from keras_aeprune.sparsity.threshold import Threshold, ThresholdSteps, ThresholdTimes

__all__ = ["MaskConstraint", "Pruner", "release"]


@dataclass
class _Target:
    """One kernel under a mask."""

    weight: Weight
    constraint: MaskConstraint
    mask: np.ndarray
    free: np.ndarray  # False where a zero was found at the start; those stay
    floor: int = 0  # groups of the pattern that are zero for that reason
    asked: float | None = None
    note: str = ""


class Pruner:
    """Holds masks on a model's kernels and recomputes them on demand.

    The engine of `Prune`, and what to use in a training loop of one's own: give it a schedule, make it before the
    train step is traced, and call `step` once per optimizer update. The optimizer applies the masks, through
    the variables' constraints.

    Args:
        model: a built Keras model.
        schedule: a `PruningSchedule` or `Threshold`, for `step`; None if only `update` is called.
        total_steps: the step at which the training ends; needed for relative schedules.
        criterion: a name or instance from `keras_aeprune.criteria`.
        allocation: which kernels share the zeros: "uniform", "global", "erk", "entropy" (measured on `data` at
            each update), a dict of fractions by layer, or an instance from `keras_aeprune.sparsity.allocation`.
        pattern: which weights go together: "unstructured", "2:4", "unit", or an instance from
            `keras_aeprune.sparsity.patterns`.
        limits: {layer name, path or pattern: (low, high)}, fractions of a kernel's zeros; or one fraction, the
            most that the first and the last kernel get.
        include: layer names, paths or patterns to prune; None for all.
        exclude: layer names, paths or patterns to leave alone.
        on_unsupported: "skip" lists what cannot be pruned with the reason, "raise" refuses the model.
        regrowth: "set" or an instance from `keras_aeprune.sparsity.regrowth`; None for none.
        data: calibration samples for criteria and allocations that look at more than weights: x of shape
            (n, ...), (x, y), or what else `calibration.get` takes; all are used at every update of the masks.
        loss: a Keras loss by name, instance or function for such criteria; None for the compiled one.

    Raises:
        InputError: for a pattern that fits no layer, limits that leave no room, a model in which nothing
            can be pruned, or a criterion that needs data and has none.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="hidden")])
        >>> pruner = Pruner(model)
        >>> pruner.update(0.5)
        >>> int(np.count_nonzero(model.layers[0].kernel.numpy() == 0))
        10
    """

    def __init__(
        self,
        model: keras.Model,
        schedule: Any = None,
        *,
        total_steps: int | None = None,
        criterion: Any = "magnitude",
        allocation: Any = "uniform",
        pattern: Any = "unstructured",
        limits: Any = None,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        on_unsupported: str = "skip",
        regrowth: Any = None,
        data: Any = None,
        loss: Any = None,
    ):
        self.model = keras_model(model)
        self.criterion = criteria.get(criterion)
        self.allocation = allocations.get(allocation)
        self.data = calibration.get(data) if data is not None and self._looks_beyond_weights() else None
        self.loss = loss
        evidence(self.criterion, model, (), self.data)  # refused here if it needs data, not in the training
        if self.allocation.needs_data and self.data is None:
            raise InputError(
                f"data: got None, allowed: calibration samples for allocation {self.allocation!r}, which measures "
                "activations; give data=x"
            )
        self.pattern = patterns.get(pattern)
        self.regrowth = None if regrowth is None else regrowths.get(regrowth)
        by_layer = limits is None or isinstance(limits, dict)
        self._limits, self._ends = (limits if by_layer else None), (None if by_layer else limits)
        one_of("on_unsupported", on_unsupported, ("skip", "raise"))
        chosen, self.skipped = choose(model, self.pattern, include, exclude)
        listed = "; ".join(f"{path}: {reason}" for path, reason in self.skipped.items())
        if on_unsupported == "raise" and self.skipped:
            raise InputError(f"on_unsupported='raise': got kernels that cannot be pruned: {listed}")
        if not chosen:
            raise InputError(
                f"model {model.name!r}: got nothing to prune ({listed or 'no kernels'}), allowed: a model "
                "with at least one trainable kernel"
            )
        self.retraced = False
        self.final: float | None = None
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy is not None else nullcontext():
            self.targets = [self._hold(weight) for weight in chosen]
        self._stepper = None if schedule is None else self._follow(schedule, total_steps)

    def _hold(self, weight: Weight) -> _Target:
        variable = weight.variable
        values = keras.ops.convert_to_numpy(variable)
        free = values != 0
        if not free.any():  # all zero: not trained yet, not pruned
            free = np.ones(values.shape, bool)
        floor = 0 if free.all() else self.pattern.floor(free, weight.facts)
        constraint = variable.constraint
        if type(constraint) is MaskConstraint:
            constraint.mask.assign(free)
        else:
            inner = constraint.inner if isinstance(constraint, MaskConstraint) else constraint
            held = keras.Variable(free, trainable=False, dtype="bool", name=f"{variable.name}_mask")
            constraint = variable.constraint = MaskConstraint(held, inner)
            self.retraced = True
        return _Target(weight, constraint, free, free, floor)

    def _looks_beyond_weights(self) -> bool:
        criterion = self.criterion
        return criterion.needs != "weights" or criterion.needs_data or self.allocation.needs_data

    def _follow(self, schedule: Any, total_steps: int | None) -> Stepper | ThresholdSteps:
        schedule = schedule if isinstance(schedule, Threshold) else schedules.get(schedule)
        if isinstance(schedule, schedules.Relative):
            if total_steps is None:
                raise InputError("total_steps: got None, allowed: a whole number, since the schedule is relative")
            schedule = schedule.resolve(total_steps)
        known = isinstance(schedule, Threshold)
        timetable = ThresholdTimes(schedule) if known else schedules.Timetable(schedule, total_steps)
        stepper = self.stepper(timetable, total_steps)
        stepper.move_to(0)
        return stepper

    def stepper(
        self, timetable: schedules.Timetable | ThresholdTimes, total_steps: int | None
    ) -> Stepper | ThresholdSteps:
        """What brings the masks, step by step, to what a timetable asks for; checked first."""
        self.check(timetable)
        if isinstance(timetable, ThresholdTimes):
            return ThresholdSteps(self, timetable)
        return Stepper(self, timetable, total_steps, regrowth=self.regrowth)

    def step(self) -> None:
        """Count one optimizer update and apply what the schedule asks for; for a training loop of one's own.

        Raises:
            InputError: if no schedule was given, or a train step that was traced before the pruner was made
                has written into masked weights.
        """
        if self._stepper is None:
            raise InputError("step: got a Pruner without schedule, allowed: Pruner(model, schedule)")
        if self._stepper.step == 0 and self.restored():
            raise InputError(
                "step: got masked weights that are not zero after the first update, allowed: a train step that is "
                "traced after the Pruner is made and applies gradients with a Keras optimizer"
            )
        self._stepper.move_to(self._stepper.step + 1)

    @property
    def at_target(self) -> bool:
        """Whether the schedule's final sparsity has been applied."""
        return self._stepper is not None and self._stepper.at_target

    def check(self, timetable: schedules.Timetable | ThresholdTimes) -> None:
        """Refuse, before training, what limits and pattern rule out, and a criterion that cannot be measured."""
        if isinstance(timetable, ThresholdTimes):
            if not self._plain() or self.regrowth is not None:
                raise InputError(
                    f"schedule: got {timetable.schedule!r} with allocation {self.allocation!r}, pattern "
                    f"{self.pattern}, limits {self._limits or self._ends} and regrowth {self.regrowth!r}, allowed "
                    "with a threshold: 'uniform', 'unstructured', None and None"
                )
            if self._looks_beyond_weights():
                self._scores(self._kernels())
        elif len(timetable.values) and timetable.final is not None:
            self.final = float(timetable.values.max())
            if not self._plain() or self._looks_beyond_weights():
                self._masks(self._kernels(), self.final)

    def _plain(self) -> bool:
        """Whether every kernel gets the same fraction, to the weight."""
        uniform = type(self.allocation) is allocations.Uniform
        return uniform and not self._limits and self._ends is None and str(self.pattern) == "unstructured"

    def update(self, sparsity: float, *, compensate: bool = False) -> None:
        """Recompute all masks for one sparsity and set the weights they mask to zero.

        Zeros that were there when the pruner was made stay zeros.

        Args:
            sparsity: fraction of weights set to zero, 0 <= s < 1.
            compensate: whether a criterion that can (`compensated`) also moves the weights that stay.

        Raises:
            InputError: if the weights hold NaN or infinite values.
        """
        kernels = self._kernels()
        masks = self._masks(kernels, sparsity)
        self.ask(sparsity, masks)
        moved: list[np.ndarray] = []
        if compensate and isinstance(self.criterion, Compensating):
            moved = self.criterion.compensated(self._seen(kernels), masks)
        self._set_all(kernels, masks)
        for target, kernel in zip(self.targets, moved, strict=bool(moved)):
            variable = target.weight.variable
            variable.assign(target.constraint(keras.ops.cast(kernel, variable.dtype)))

    def ask(self, sparsity: float, masks: list[np.ndarray] | None = None) -> None:
        """Note what `sparsity` means for each kernel, for the table, without changing a weight."""
        if self._plain():
            asked = [max(sparsity, t.floor / max(t.mask.size, 1)) for t in self.targets]
        else:
            masks = self._masks(self._kernels(), sparsity) if masks is None else masks
            asked = [_zero_fraction(mask) for mask in masks]
        for target, value in zip(self.targets, asked, strict=True):
            target.asked = float(value)

    def cut(self, threshold: Threshold) -> None:
        """Mask what scores below a threshold; what is masked stays so, and each kernel keeps one weight.

        Args:
            threshold: the rule.

        Raises:
            InputError: if the weights or scores hold NaN or infinite values.
        """
        kernels = self._kernels()
        masks = []
        for target, kernel, scores in zip(self.targets, kernels, self._scores(kernels), strict=True):
            mask = threshold.mask(scores, target.mask) if kernel.any() else target.mask  # else: not trained yet
            alone = not mask.all() and np.count_nonzero(mask) == 1
            target.note = "one weight stays; the threshold is above the others" if alone else ""
            target.asked = _zero_fraction(mask)
            masks.append(mask)
        self._set_all(kernels, masks)

    def exchange(self, step: int, total: int | None) -> None:
        """Drop and regrow weights as the regrowth rule says; the number kept does not change."""
        if self.regrowth is None:
            return
        kernels = self._kernels()
        variables, paths = ([getattr(t.weight, name) for t in self.targets] for name in ("variable", "path"))
        growth = self.regrowth.growth(self.model, variables, paths, step)
        masks = []
        for target, kernel, scores in zip(self.targets, kernels, growth, strict=True):
            kept = int(np.count_nonzero(target.mask))
            masks.append(regrowths.exchange(kernel, target.mask, self.regrowth.count(kept, step, total), scores))
        self._set_all(kernels, masks)

    def masks(self) -> dict[str, np.ndarray]:
        """{kernel path: boolean mask, True where a weight is kept}."""
        return {target.weight.path: target.mask for target in self.targets}

    def restore(self, masks: dict[str, np.ndarray]) -> None:
        """Take masks from elsewhere, for example from a file.

        Raises:
            InputError: if they are not those of these kernels.
        """
        for path, mask in self.masks().items():
            if path not in masks or masks[path].shape != mask.shape:
                raise InputError(f"masks: got none of shape {mask.shape} for {path}, allowed: those of this model")
        self.keep_growing()
        self._set_all(self._kernels(), [masks[target.weight.path] for target in self.targets])

    def keep_growing(self) -> None:
        """Let zeros that were found at the start follow the schedule too; for a training that goes on."""
        for target in self.targets:
            target.free, target.floor = np.ones(target.mask.shape, bool), 0

    def _kernels(self) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(t.weight.variable) for t in self.targets]

    def _seen(self, kernels: list[np.ndarray]) -> criteria.Evidence:
        values = [kernel.astype(np.float32, copy=False) for kernel in kernels]
        chosen = [t.weight for t in self.targets]
        return evidence(self.criterion, self.model, chosen, self.data, self.loss, kernels=values)

    def _scores(self, kernels: list[np.ndarray]) -> list[np.ndarray]:
        found = measured(self.criterion, self._seen(kernels))
        return masked_last(self.criterion, found, [t.mask for t in self.targets])

    def _masks(self, kernels: list[np.ndarray], sparsity: float) -> list[np.ndarray]:
        groups = [
            self.pattern.groups(scores, t.weight.facts, t.weight.path)
            for scores, t in zip(self._scores(kernels), self.targets, strict=True)
        ]
        measured_anew = self.allocation.needs_data  # shares may fall then, and what is zero is to stay so
        floors = [self.pattern.floor(t.mask, t.weight.facts) if measured_anew else t.floor for t in self.targets]
        masks = allocations.allocate(
            groups,
            sparsity,
            allocation=self.allocation.measured(self.model, self.data, [t.weight for t in self.targets]),
            floors=floors,
            limits=self._limits,
            ends=self._ends,
            final=self.final if self.final is not None and self.final >= sparsity else None,
        )
        return [mask if t.free.all() else mask & t.free for mask, t in zip(masks, self.targets, strict=True)]

    def _set_all(self, kernels: list[np.ndarray], masks: list[np.ndarray]) -> None:
        for target, kernel, mask in zip(self.targets, kernels, masks, strict=True):
            self._set(target, kernel, mask)

    def keep_zeros(self) -> None:
        """Mask what is exactly zero now; a kernel of zeros only is taken as untrained and left free.

        Raises:
            InputError: if no kernel holds a zero.
        """
        kernels = self._kernels()
        masks = [kernel != 0 if kernel.any() else np.ones(kernel.shape, bool) for kernel in kernels]
        if all(mask.all() for mask in masks):
            raise InputError(
                f"model {self.model.name!r}: got kernels without a single zero, allowed: a sparse model; "
                "prune it first with keras_aeprune.Prune"
            )
        for target, kernel, mask in zip(self.targets, kernels, masks, strict=True):
            target.asked = _zero_fraction(mask)
            self._set(target, kernel, mask)

    def _set(self, target: _Target, kernel: np.ndarray, mask: np.ndarray) -> None:
        if not np.array_equal(mask, target.mask):
            target.mask = mask
            target.constraint.mask.assign(mask)
        self._zero(target, kernel)

    def _zero(self, target: _Target, kernel: np.ndarray) -> bool:
        masked = np.where(target.mask, kernel, kernel.dtype.type(0))
        if np.array_equal(masked, kernel):
            return False
        target.weight.variable.assign(masked)
        return True

    def restored(self) -> bool:
        """Set masked weights to zero again, for whatever wrote into them; whether any was not zero."""
        changed = [self._zero(t, kernel) for t, kernel in zip(self.targets, self._kernels(), strict=True)]
        return any(changed)

    def retrace(self) -> None:
        """Make the model's compiled train step anew if it was traced before the constraints were set."""
        if self.retraced and getattr(self.model, "train_function", None) is not None:
            self.model.make_train_function(force=True)
        self.retraced = False

    def sparsity(self) -> float:
        """Fraction of zeros over all kernels that are pruned."""
        size = sum(t.mask.size for t in self.targets)
        zeros = sum(int(np.count_nonzero(kernel == 0)) for kernel in self._kernels())
        return zeros / max(size, 1)

    def table(self) -> SparsityTable:
        """Asked and reached sparsity of every kernel, and what was skipped with the reason."""
        rows = [
            replace(SparsityRow.measured(t.weight.path, kernel, t.asked, str(self.pattern)), reason=t.note)
            for t, kernel in zip(self.targets, self._kernels(), strict=True)
        ]
        rows += [
            SparsityRow.skipped(w, self.skipped[w.path]) for w in weights(self.model) if w.path in self.skipped
        ]
        table = SparsityTable(tuple(rows))
        remember(self.model, table)
        return table


def _zero_fraction(mask: np.ndarray) -> float:
    return 1.0 - int(np.count_nonzero(mask)) / mask.size if mask.size else 0.0
