"""What a compressed model may cost at most, and whether one keeps to it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_aeprune._validation import InputError, is_real, refuse

__all__ = ["Budget", "increase_left", "microseconds", "number_of_bytes"]

_ROUNDING = 1e-6  # of metrics, which are float32
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "KIB": 2**10, "MIB": 2**20}
_MICROSECONDS = {"": 1, "US": 1, "MS": 10**3, "S": 10**6}


def number_of_bytes(name: str, value: Any) -> int | None:
    """Whole bytes from a number, or from text such as "60KB" (1 KB = 1,000 bytes) or "64KiB".

    Args:
        name: of the argument, for the message.
        value: > 0, or None.

    Raises:
        InputError: for anything else.

    Example:
        >>> number_of_bytes("max_size", "60KB"), number_of_bytes("max_size", "1.5 MB")
        (60000, 1500000)
    """
    found = _measure(name, value, _BYTES, "bytes, or text like 60KB, 64KiB or 1.5MB")
    return None if found is None else int(found)


def microseconds(name: str, value: Any) -> float | None:
    """Microseconds from a number, or from text such as "50us" or "2ms".

    Args:
        name: of the argument, for the message.
        value: > 0, or None.

    Raises:
        InputError: for anything else.

    Example:
        >>> microseconds("max_latency", "2ms"), microseconds("max_latency", 50)
        (2000.0, 50.0)
    """
    return _measure(name, value, _MICROSECONDS, "microseconds, or text like 50us or 2ms")


def _measure(name: str, value: Any, units: Mapping[str, int], allowed: str) -> float | None:
    if value is None:
        return None
    found = None
    if isinstance(value, str) and (match := re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([A-Za-z]*)\s*", value)):
        number, unit = match.groups()
        if unit.upper() in units and number.count(".") <= 1 and number != ".":
            found = float(number) * units[unit.upper()]
    elif is_real(value):
        found = float(value)
    if found is None or not 0 < found < math.inf:
        raise refuse(name, value, f"a number > 0 of {allowed}")
    return found


@dataclass(frozen=True)
class Budget:
    """Limits of a compressed model; None is no limit.

    Args:
        max_size: bytes of the .tflite file, > 0.
        max_latency: median microseconds of one invoke on this machine, one thread, > 0.
        max_error_increase: fraction by which the loss may grow over the given model's, >= 0.
        max_drop: {metric: by how much it may get worse}, >= 0; accuracy and the like may fall, errors may grow.

    Example:
        >>> budget = Budget(max_size=60_000, max_error_increase=0.05)
        >>> given = {"bytes": 200_000, "latency_us": 30.0, "scores": {"loss": 1.0}}
        >>> budget.missed({"bytes": 61_000, "latency_us": 9.0, "scores": {"loss": 1.02}}, given)
        {'max_size': '61,000 bytes of 60,000'}
    """

    max_size: int | None = None
    max_latency: float | None = None
    max_error_increase: float | None = None
    max_drop: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, max_size: Any = None, max_latency: Any = None, max_error_increase: Any = None, max_drop: Any = None
    ) -> Budget:
        """From what a user gives; with nothing at all the loss may grow by a twentieth.

        Raises:
            InputError: for a value outside its range.
        """
        increase = max_error_increase
        if increase is not None and not (_real(increase) and increase >= 0):
            raise refuse("max_error_increase", increase, "a fraction >= 0, such as 0.05")
        if max_drop is not None and not isinstance(max_drop, Mapping):
            raise refuse("max_drop", max_drop, 'a dict {metric: number}, such as {"accuracy": 0.01}')
        for metric, value in (max_drop or {}).items():
            if not (_real(value) and value >= 0):
                raise refuse(f"max_drop[{metric!r}]", value, "a number >= 0, such as 0.01")
        if max_size is max_latency is increase is None and not max_drop:
            increase = 0.05
        drop = {str(metric): float(value) for metric, value in (max_drop or {}).items()}
        size, latency = number_of_bytes("max_size", max_size), microseconds("max_latency", max_latency)
        return cls(size, latency, None if increase is None else float(increase), drop)

    def check(self, scores: Mapping[str, float]) -> None:
        """Refuse a limit on a metric that the model does not have.

        Raises:
            InputError: with those that it has.
        """
        for metric in self.max_drop:
            if metric not in scores:
                raise InputError(
                    f"max_drop: got a limit on {metric!r}, allowed: the loss and the compiled metrics, "
                    f"{', '.join(scores)}"
                )

    @property
    def has_cost(self) -> bool:
        """Whether size or latency is limited."""
        return self.max_size is not None or self.max_latency is not None

    def over(self, row: Mapping[str, Any]) -> dict[str, float]:
        """{limit of size or latency that is missed: how many times too much}."""
        asked = {"max_size": (self.max_size, row["bytes"]), "max_latency": (self.max_latency, row["latency_us"])}
        return {n: have / most for n, (most, have) in asked.items() if most is not None and have > most}

    def worse(self, row: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
        """{limit of quality that is missed: in words}."""
        found, scores, before = {}, row["scores"], given["scores"]
        if self.max_error_increase is not None:
            limit = before["loss"] * (1 + self.max_error_increase)
            if not scores["loss"] <= limit:
                found["max_error_increase"] = f"loss {scores['loss']:.6g} of at most {limit:.6g}"
        for metric, most in self.max_drop.items():
            drop = before[metric] - scores[metric]
            drop = drop if higher_is_better(metric) else -drop
            if not drop <= most + _ROUNDING:
                found[f"max_drop {metric}"] = f"{before[metric]:.6g} -> {scores[metric]:.6g}, allowed {most:g}"
        return found

    def missed(self, row: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
        """{limit that is missed: in words}; empty where the model keeps to the budget."""
        words = {
            "max_size": lambda: f"{row['bytes']:,} bytes of {self.max_size:,}",
            "max_latency": lambda: f"{row['latency_us']:.1f} us of {self.max_latency:g} us",
        }
        return {**{name: words[name]() for name in self.over(row)}, **self.worse(row, given)}


def increase_left(limit: float, first: float, now: float) -> float:
    """What a loss may still grow by, as a fraction of what it is now.

    Args:
        limit: fraction of the first loss by which it may grow in all, >= 0.
        first: the loss before any step.
        now: the loss after those that were made.

    Example:
        >>> round(increase_left(0.5, 1.0, 1.2), 3), increase_left(0.1, 1.0, 1.2)
        (0.25, 0.0)
    """
    return max(0.0, (1 + limit) * first / now - 1) if now > 0 else limit


def higher_is_better(metric: str) -> bool:
    """Whether a Keras metric of that name gets better as it grows.

    >>> higher_is_better("accuracy"), higher_is_better("mae"), higher_is_better("val_loss")
    (True, False, False)
    """
    name = metric.lower()
    errors = (
        "loss",
        "error",
        "mse",
        "mae",
        "mape",
        "msle",
        "crossentropy",
        "divergence",
        "hinge",
        "false_",
        "poisson",
    )
    return not any(part in name for part in errors)


def _real(value: Any) -> bool:
    return is_real(value) and math.isfinite(value)
