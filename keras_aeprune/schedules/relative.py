"""Schedules whose begin and end are fractions of the training, or epochs, until its length is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import keras

from keras_aeprune._validation import InputError, is_real, one_of, positive_int, refuse
from keras_aeprune.schedules.base import Schedule, checked_sparsity, make, registry
from keras_aeprune.schedules.tfmot_names import PolynomialDecay

__all__ = ["Relative", "automatic", "relative"]

_RESOLVED = ("begin_step", "end_step", "frequency")


@keras.saving.register_keras_serializable("keras_aeprune")
@dataclass(frozen=True, init=False, repr=False)
class Relative:
    """A schedule that waits for the length of the training; `relative` makes it and explains its arguments.

    It is frozen and compares by value; its configuration is plain JSON values.

    Example:
        >>> Relative("CosineDecay", 0.9, begin=2, end=8, unit="epochs").resolve(1000, 100)
        CosineDecay(initial_sparsity=0.0, final_sparsity=0.9, begin_step=200, end_step=800, frequency=10)
    """

    schedule: str
    sparsity: float
    begin: float
    end: float
    unit: str
    updates: int
    arguments: tuple[tuple[str, Any], ...]

    def __init__(
        self,
        schedule: str | type[Schedule],
        sparsity: float,
        *,
        begin: float | None = None,
        end: float | None = None,
        unit: str = "training",
        updates: int = 64,
        **arguments: Any,
    ):
        kind = registry.find(schedule)
        if not registry.knows(kind):
            raise refuse("schedule", kind, "a class decorated with register(name), so that it has a name")
        self._set("unit", one_of("unit", unit, ("training", "epochs")))
        if unit == "training":
            begin, end = 0.1 if begin is None else begin, 0.6 if end is None else end
        self._set("begin", _time("begin", begin, unit))
        self._set("end", _time("end", end, unit, first=self.begin))
        self._set("sparsity", checked_sparsity("sparsity", sparsity))
        self._set("updates", positive_int("updates", updates))
        self._set("schedule", registry.name_of(kind))
        allowed = [name for name in kind.parameters() if name not in (*_RESOLVED, kind.target)]
        unknown = sorted(set(arguments) - set(allowed))
        if unknown:
            raise refuse("arguments", unknown, f"for {kind.__name__}: {', '.join(allowed) or 'none'}")
        if "initial_sparsity" in allowed:
            arguments = {"initial_sparsity": 0.0, **arguments}
        self._set("arguments", tuple(arguments.items()))
        checked = self._between(0, 0 if begin == end else 2).arguments()  # refused now, not in the training
        self._set("arguments", tuple((name, checked[name]) for name in allowed if name in arguments))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _between(self, first: int, last: int) -> Schedule:
        kind = registry.find(self.schedule)
        values = {
            **dict(self.arguments),
            kind.target: self.sparsity,
            "begin_step": first,
            "end_step": last,
            "frequency": max(1, math.ceil((last - first) / self.updates)),
        }
        return make(kind, values)

    def resolve(self, total_steps: int, steps_per_epoch: int | None = None) -> Schedule:
        """The schedule in optimizer updates; its last step is within the training, however short that is.

        The first step is rounded down, the last to the nearest step that is not before the first.

        Args:
            total_steps: optimizer updates in the whole training, >= 1.
            steps_per_epoch: optimizer updates in an epoch, >= 1; needed where the unit is "epochs".

        Returns:
            A schedule of the kind that was asked for, with begin_step, end_step and frequency.

        Raises:
            InputError: if the schedule would end after the training, or an epoch's length is needed.

        Example:
            >>> relative("PolynomialDecay", 0.9, begin=0, end=1).resolve(3).end_step
            3
        """
        length = total = positive_int("total_steps", total_steps)
        if self.unit == "epochs":
            if steps_per_epoch is None:
                raise refuse("steps_per_epoch", None, "a whole number >= 1, since the schedule is in epochs")
            length = positive_int("steps_per_epoch", steps_per_epoch)
        first = math.floor(_exact(self.begin) * length)
        end = _exact(self.end) * length
        if end > total:
            raise InputError(
                f"end: got {self.end} epochs of {length} steps, allowed: at most the {total} steps "
                f"({total / length:g} epochs) of the training; train longer or end the schedule earlier"
            )
        return self._between(first, round(end))

    def get_config(self) -> dict[str, Any]:
        """Class name and constructor arguments, nested like those of the other schedules."""
        names = ("schedule", "sparsity", "begin", "end", "unit", "updates")
        own = {name: getattr(self, name) for name in names}
        return {"class_name": "Relative", "config": {**own, **dict(self.arguments)}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Relative:
        """The object that `get_config` described."""
        return cls(**config.get("config", config))

    def __repr__(self) -> str:
        values = self.get_config()["config"]
        return f"Relative({', '.join(f'{name}={value!r}' for name, value in values.items())})"


def relative(
    schedule: str | type[Schedule],
    sparsity: float,
    *,
    begin: float | None = None,
    end: float | None = None,
    unit: str = "training",
    updates: int = 64,
    **arguments: Any,
) -> Relative:
    """A schedule by fractions of the training or by epochs; it knows its steps when the training's are known.

    For schedules that go from one model and data set to another.

    Args:
        schedule: class or name of a schedule of this package, or of your own decorated with `register(name)`.
        sparsity: fraction of weights that it prunes, 0 <= s < 1: `final_sparsity`, for ConstantSparsity
            `target_sparsity`, for DenseSparseDense `sparsity`.
        begin: its first step, 0 <= begin <= end: a fraction of the training (0.1 if None), or a number of
            epochs, which may have a fraction (to be given).
        end: its last step: a fraction of the training up to 1 (0.6 if None: the rest is fine-tuning), or a
            number of epochs, at most those of the training (to be given).
        unit: "training" or "epochs".
        updates: how many times at most the masks are recomputed after the first, >= 1 (once more for
            the middle of DenseSparseDense).
        **arguments: what else the schedule takes, as `power`; `initial_sparsity` is 0 unless given.

    Returns:
        A `Relative`; `.resolve(total_steps, steps_per_epoch)` makes the schedule.

    Raises:
        InputError: for a value outside its range, or an argument that the schedule does not take.

    Example:
        >>> relative("OneCycle", 0.9, alpha=10).resolve(1000).arguments()["end_step"]
        600
    """
    return Relative(schedule, sparsity, begin=begin, end=end, unit=unit, updates=updates, **arguments)


def automatic(final_sparsity: float, total_steps: int) -> PolynomialDecay:
    """The cubic ramp of `Prune(0.9)`: from a tenth to six tenths of the training, then fine-tuning.

    Args:
        final_sparsity: fraction of weights that are zero at the end, 0 <= s < 1.
        total_steps: optimizer updates in the whole training, >= 1.

    Returns:
        `relative(PolynomialDecay, final_sparsity)`, resolved.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> schedule = automatic(0.9, 1000)
        >>> schedule.begin_step, schedule.end_step, schedule.frequency
        (100, 600, 8)
    """
    return relative(PolynomialDecay, final_sparsity).resolve(total_steps)


def _time(name: str, value: Any, unit: str, first: float = 0.0) -> float:
    """`value` as a finite number from `first` on, in a training's fraction up to 1."""
    low = f"begin {first:g}" if first else "0"
    most = " <= 1, a fraction of the training" if unit == "training" else ", a number of epochs"
    is_number = is_real(value) and math.isfinite(value)
    if not is_number or value < first or (unit == "training" and value > 1):
        raise refuse(name, value, f"{low} <= {name}{most}")
    return float(value)


def _exact(value: float) -> Fraction:
    """The decimal that was written: 0.29 of 100 is 29, and not 28.999999999999996."""
    return Fraction(repr(value))
