"""What a schedule is: step -> (prune now?, sparsity), and the names by which schedules are known."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from keras_aeprune._registry import Registry
from keras_aeprune._tfmot import PruningSchedule
from keras_aeprune._validation import InputError, fraction, is_whole, positive_int, refuse, shown

__all__ = ["PruningSchedule", "Ramp", "Schedule", "register"]

T = TypeVar("T")


class Schedule(PruningSchedule):
    """Base of every schedule of this package: the constructor's arguments are the configuration.

    Called with a step (whole number from 0) it returns whether masks are recomputed there (bool) and the
    sparsity (float32 fraction, 0 <= s < 1); with steps of any shape, both have that shape. The last step
    is always due, also where `frequency` misses it.

    Example:
        >>> from keras_aeprune.schedules import PolynomialDecay
        >>> schedule = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=10, frequency=4)
        >>> [bool(schedule(step)[0]) for step in (3, 4, 10)], round(float(schedule(10)[1]), 4)
        ([False, True, True], 0.8)
    """

    elementwise = True  # one call with all steps gives what one call per step gives
    target = "final_sparsity"  # the constructor's argument that says how sparse it gets

    @classmethod
    def parameters(cls) -> list[str]:
        """Names of the constructor's arguments, in their order."""
        return list(inspect.signature(cls).parameters)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return {name: getattr(self, name) for name in self.parameters()}

    def get_config(self) -> dict[str, Any]:
        """Class name and arguments, nested in the way that tfmot's wrapper layers store."""
        return {"class_name": registry.name_of(type(self)), "config": self.arguments()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """The schedule that `get_config` described; its inner dict alone will do as well."""
        return cls(**config.get("config", config))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.arguments() == self.arguments()

    def __hash__(self) -> int:
        return hash((type(self), *self.arguments().items()))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())
        return f"{type(self).__name__}({arguments})"


class _Schedules(Registry[Schedule]):
    """Schedules by name. None can be made from its name alone: there is no schedule without steps."""

    def find(self, identifier: Any) -> type[Schedule]:
        """The class from its name or itself."""
        if isinstance(identifier, type) and issubclass(identifier, self.base):
            return identifier
        if isinstance(identifier, str) and identifier in self._members:
            return self._members[identifier]
        raise refuse(
            self.kind,
            identifier,
            f"{', '.join(self.names())}, or a subclass of {self.base.__name__} (own ones: decorate it with "
            "register(name) to have a name for it)",
        )

    def knows(self, cls: type[Schedule]) -> bool:
        """Whether a class has been registered."""
        return cls in self._members.values()

    def name_of(self, cls: type[Schedule]) -> str:
        """The name under which a class is registered, or its own."""
        return next((name for name, known in self._members.items() if known is cls), cls.__name__)


def make(cls: type[T], arguments: dict[str, Any]) -> T:
    """`cls(**arguments)`; arguments that it does not take, or lacks, are refused."""
    signature = inspect.signature(cls)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(
            f"{cls.__name__}: got {shown(arguments)} ({error}), allowed: {', '.join(signature.parameters)}"
        ) from None
    return cls(**arguments)


registry = _Schedules("schedule", Schedule)
register = registry.register


class Ramp(Schedule):
    """Base class of schedules that go from one sparsity at `begin_step` to another at `end_step`.

    A member says how, in `sparsity_after`; a class decorated with `register(name)` is found by its name.

    Law: the sparsity is what `sparsity_after` says from `begin_step` on, the same before it, and exactly
    `final_sparsity` from `end_step` on. Masks are recomputed at begin_step + k * frequency and at end_step;
    so a frequency longer than the ramp leaves its first and its last step, and begin_step = end_step is one
    step, at the final sparsity.

    Args:
        initial_sparsity: fraction of weights that are zero at `begin_step`, 0 <= s < 1.
        final_sparsity: fraction of weights that are zero from `end_step` on, 0 <= s < 1.
        begin_step: first step, in optimizer updates from 0.
        end_step: last step, >= begin_step.
        frequency: steps between two updates of the masks, >= 1.

    Raises:
        InputError: for a value outside its range.

    Example:
        >>> class Linear(Ramp):
        ...     def sparsity_after(self, done, length):
        ...         return self.initial_sparsity + self.rise * (done / length)
        >>> Linear(0.0, 0.5, begin_step=10, end_step=30, frequency=10)([10, 20, 30])[1].numpy().tolist()
        [0.0, 0.25, 0.5]
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        *,
        frequency: int = 100,
    ):
        self.initial_sparsity = checked_sparsity("initial_sparsity", initial_sparsity)
        self.final_sparsity = checked_sparsity("final_sparsity", final_sparsity)
        self.begin_step, self.end_step, self.frequency = checked_steps(begin_step, end_step, frequency)

    @property
    def rise(self) -> float:
        """Final minus initial sparsity."""
        return self.final_sparsity - self.initial_sparsity

    @abstractmethod
    def sparsity_after(self, done: tf.Tensor, length: int) -> tf.Tensor:
        """The sparsity (float64) after `done` (int64, any shape, 0 <= done <= length) of `length` steps."""

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        step = whole_steps(step)
        length = self.end_step - self.begin_step
        done = tf.clip_by_value(step - self.begin_step, 0, length)
        values = tf.cast(self.sparsity_after(done, max(length, 1)), tf.float32)
        values = tf.where(step >= self.end_step, tf.constant(self.final_sparsity, tf.float32), values)
        due = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return due | (step == self.end_step), values


def checked_sparsity(name: str, value: Any) -> float:
    """`value` as a sparsity: a fraction below 1 that TensorFlow's float32 does not round to 1."""
    if fraction(name, value) and np.float32(value) >= 1:
        raise refuse(name, value, f"a fraction 0 <= {name} < 1, also as float32 (at most 0.9999999)")
    return float(value)


def checked_steps(begin: Any, end: Any, frequency: Any, *, open_end: bool = False) -> tuple[int, int, int]:
    """First step, last step (-1 for none, if `open_end`) and the steps between two updates, checked."""
    begin = positive_int("begin_step", begin, minimum=0)
    frequency = positive_int("frequency", frequency)
    whole = is_whole(end)
    if not whole or (end < begin and not (open_end and end == -1)):
        extra = ", or -1 for the end of training" if open_end else ""
        raise InputError(f"end_step: got {shown(end)}, allowed: a whole number >= begin_step {begin}{extra}")
    return begin, int(end), frequency


def whole_steps(step: Any) -> tf.Tensor:
    """`step` as int64."""
    step = tf.convert_to_tensor(step)
    if not step.dtype.is_integer:
        raise InputError(f"step: got values of type {step.dtype.name}, allowed: whole numbers")
    return tf.cast(step, tf.int64)
