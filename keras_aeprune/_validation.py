"""One wording for every refused argument: what was received, what is allowed, what to do."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Something that the caller gave cannot be used; the message is one line and says what is allowed."""


class WrongKerasError(InputError, TypeError):
    """A model that is not a Keras 3 model on the TensorFlow backend."""


class BudgetError(RuntimeError):
    """A limit that the caller set (time, size, error) cannot be met."""


def is_real(value: Any) -> bool:
    """Whether `value` is a real number of any type, NumPy's included; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether `value` is a whole number of any type, NumPy's included; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def shown(value: Any, limit: int = 80) -> str:
    """`repr(value)` on one line, cut after `limit` characters, for use in a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def refuse(name: str, value: Any, allowed: str) -> InputError:
    """The error for argument `name`; raise what is returned."""
    return InputError(f"{name}: got {shown(value)}, allowed: {allowed}")


def fraction(name: str, value: Any, *, low_open: bool = False, high_open: bool = True) -> float:
    """`value` as a float between 0 and 1; by default 0 is allowed and 1 is not."""
    allowed = f"a fraction {'0 <' if low_open else '0 <='} {name} {'< 1' if high_open else '<= 1'}"
    if not is_real(value) or not math.isfinite(value):
        raise refuse(name, value, allowed)
    below = value <= 0 if low_open else value < 0
    above = value >= 1 if high_open else value > 1
    if below or above:
        raise refuse(name, value, allowed)
    return float(value)


def positive_int(name: str, value: Any, *, minimum: int = 1, maximum: int | None = None) -> int:
    """`value` as an int of at least `minimum` and at most `maximum`."""
    allowed = f"a whole number >= {minimum}" + ("" if maximum is None else f" and <= {maximum}")
    if not is_whole(value):
        raise refuse(name, value, allowed)
    if value < minimum or (maximum is not None and value > maximum):
        raise refuse(name, value, allowed)
    return int(value)


def positive_number(name: str, value: Any, unit: str = "") -> float:
    """`value` as a finite float above 0."""
    if not is_real(value) or not (0 < value < math.inf):
        raise refuse(name, value, f"a number > 0{' ' + unit if unit else ''}")
    return float(value)


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """`value`, if it is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise refuse(name, value, ", ".join(map(str, allowed)))
    return value


def keras_model(model: Any, name: str = "model") -> Any:
    """`model`, if it is a Keras 3 model and Keras runs on TensorFlow.

    Raises:
        WrongKerasError: for a `tf_keras` (Keras 2) model, another object, or another backend.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise WrongKerasError(
            f"Keras runs on the {keras.backend.backend()!r} backend; keras_aeprune needs 'tensorflow' "
            "(set KERAS_BACKEND=tensorflow before Keras is imported)"
        )
    if isinstance(model, keras.Model):
        return model
    origin = type(model).__module__.split(".")[0]
    if origin == "tf_keras" or any(base.__module__.startswith("tf_keras.") for base in type(model).__mro__):
        raise WrongKerasError(
            f"{name}: got a {type(model).__name__} of tf_keras (Keras 2), allowed: a keras.Model of Keras 3; "
            "keras_aeprune.models.from_tf_keras(model) rebuilds Sequential and functional models with the "
            "same weights"
        )
    raise WrongKerasError(f"{name}: got {shown(model)}, allowed: a keras.Model of Keras 3")
