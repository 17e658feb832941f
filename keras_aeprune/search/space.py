"""The arguments of a search: single values or hyperparameters, and what says that two searches are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_aeprune._files import fingerprint
from keras_aeprune._validation import refuse, shown

__all__ = ["Axis", "identity"]


class Axis:
    """One argument of a search: a single value, or a hyperparameter that stands for several.

    A list is a choice, a `range` and (low, high, step) with step >= 1 are whole numbers, both ends included,
    (low, high) are real numbers drawn evenly in their logarithm, everything else is a single value. What a
    trial stores is plain: numbers and names; other things go by a label.

    Args:
        name: of the hyperparameter.
        value: as above.
        ranges: lengths of tuples that are ranges: 3, 2 or both; () where a tuple is a single value.

    Attributes:
        searched: whether it is a hyperparameter.

    Raises:
        InputError: for an empty choice or range.

    Example:
        >>> import keras_tuner
        >>> hp = keras_tuner.HyperParameters()
        >>> Axis("width", (16, 64, 4), ranges=(3,)).declare(hp), hp.space[0].max_value
        (16, 64)
        >>> Axis("layers", [(64, 32), (64,)]).labels
        ('64-32', '64')
    """

    def __init__(self, name: str, value: Any, *, ranges: Sequence[int] = ()):
        self.name = name
        self.numbers: tuple[Any, ...] | None = None  # (low, high, step) as int, or (low, high) as float
        self.values: tuple[Any, ...] = ()
        self.labels: tuple[Any, ...] = ()
        if isinstance(value, range):
            value = list(value) if len(value) < 2 else (value[0], value[-1], value.step)
            ranges = (3,)
        if isinstance(value, tuple) and len(value) in ranges:
            self.numbers = _numbers(name, value)
        else:
            self.values = tuple(value) if isinstance(value, list) else (value,)
            self.labels = tuple(_label(one) for one in self.values)
            if not self.values or len(set(self.labels)) < len(self.labels):
                raise refuse(name, value, "one value, or a list of one or more different ones")
        self.searched = self.numbers is not None or len(self.values) > 1

    def declare(self, hp: Any, parent: str | None = None, parent_values: Sequence[Any] | None = None) -> Any:
        """Tell Keras Tuner of it; its plain value in this trial, None where its parent rules it out."""
        if not self.searched:
            return self.labels[0]
        under = {"parent_name": parent, "parent_values": list(parent_values or ())} if parent is not None else {}
        if self.numbers is None:
            return hp.Choice(self.name, list(self.labels), **under)
        if len(self.numbers) == 3:
            low, high, step = self.numbers
            return hp.Int(self.name, low, high, step, **under)
        return hp.Float(self.name, *self.numbers, sampling="log", **under)

    def value(self, plain: Any) -> Any:
        """What a plain value stands for."""
        if self.numbers is not None:
            return plain
        if plain not in self.labels:
            raise refuse(self.name, plain, ", ".join(map(str, self.labels)))
        return self.values[self.labels.index(plain)]

    def every(self) -> list[Any]:
        """All plain values, for conditions; not of real numbers."""
        if self.numbers is None:
            return list(self.labels)
        low, high, step = self.numbers
        return list(range(low, high + 1, step))

    def named(self, name: str) -> Axis:
        """The same values under another name."""
        other = object.__new__(Axis)
        other.__dict__.update(vars(self), name=name)
        return other

    def described(self) -> Any:
        """Plain JSON values."""
        return list(self.numbers or self.labels) if self.searched else self.labels[0]


def identity(value: Any) -> Any:
    """Plain JSON values that two equal arguments share: data by fingerprint, functions by name."""
    if isinstance(value, np.ndarray):
        return f"sha256 {fingerprint([value])}"
    if isinstance(value, Mapping):
        return {str(name): identity(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "get_config"):
        return {"class_name": type(value).__name__, "config": identity(value.get_config())}
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{getattr(value, '__module__', type(value).__module__)}.{name}"


def _label(value: Any) -> Any:
    """A plain value that stands for `value` in a trial."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(one, (int, np.integer)) for one in value):
        return "-".join(map(str, value)) or "none"
    if value is None:
        return "default"
    return shown(json.dumps(identity(value), sort_keys=True), 200)[1:-1]


def _numbers(name: str, value: tuple[Any, ...]) -> tuple[Any, ...]:
    """A checked range."""
    if len(value) == 3:
        low, high, step = value
        if all(isinstance(one, (int, np.integer)) and not isinstance(one, bool) for one in value):
            low, high, step = int(low), int(high), int(step)
            if step >= 1 and high >= low:
                return low, low + (high - low) // step * step, step
        raise refuse(name, value, "whole numbers (low, high, step) with low <= high and step >= 1")
    low, high = value
    if not all(isinstance(one, (int, float)) for one in value) or not 0 < low < high:
        raise refuse(name, value, "two numbers (low, high), 0 < low < high")
    return float(low), float(high)
