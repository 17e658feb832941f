"""Criteria of the user's own, from a class or from a plain function, known by name everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_aeprune._registry import Registry
from keras_aeprune._validation import InputError, one_of, refuse, shown
from keras_aeprune.criteria import base
from keras_aeprune.criteria.base import Criterion, Evidence

__all__ = ["register"]

_NEEDS = ("weights", "gradients", "activations")
_registry: Registry[Criterion] = base._registry


class _Function(Criterion):
    """A criterion that calls a function; each function gets a class of its own, so that it has a name."""

    function: Callable[..., Any]

    def get_config(self) -> dict[str, Any]:
        return {}


class _ByKernel(_Function):
    def scores(self, kernel: np.ndarray, path: str) -> np.ndarray:
        found = np.asarray(type(self).function(kernel, path), np.float32)
        if found.shape != kernel.shape:
            raise InputError(
                f"criterion {shown(self)}: got scores of shape {found.shape} for {path}, allowed: {kernel.shape}, "
                "the kernel's shape"
            )
        return found


class _ByModel(_Function):
    def measure(self, seen: Evidence) -> list[np.ndarray]:
        return type(self).function(seen)


def register(name: str, *, needs: str = "weights") -> Callable[[Any], Any]:
    """Make a criterion of one's own known under a name: to `Prune`, `scores` and everything that takes one.

    Decorates a `Criterion` class, or a function of one of two forms:

        f(kernel, path) -> array         one kernel at a time, from its weights alone
        f(seen) -> list of arrays        all kernels of an `Evidence`: seen.model, .weights, .kernels, .data, .loss

    Scores have the kernel's shape and are finite; higher means keep. Weights that are masked already need no
    care: `Prune` ranks them last.

    Args:
        name: not taken by another criterion; a function that is defined again at the same place, as in a
            notebook, replaces the former one.
        needs: what a function of the second form looks at: "weights", "gradients" (data and a loss) or
            "activations" (data). A class says it in its attribute `needs`.

    Returns:
        A decorator that returns what it decorates.

    Raises:
        InputError: for a name that is taken, what is neither a `Criterion` class nor such a function, or a
            function of the first form that needs more than weights.

    Example:
        >>> @register("signed")
        ... def signed(kernel, path):
        ...     return kernel
        >>> from keras_aeprune.criteria.base import get
        >>> get("signed").scores(np.array([-1.0, 2.0], "float32"), "a/kernel").tolist()
        [-1.0, 2.0]
    """
    if not isinstance(name, str) or not name:
        raise refuse("name", name, "a text that is not empty")
    one_of("needs", needs, _NEEDS)

    def add(member: Any) -> Any:
        if isinstance(member, type) and issubclass(member, Criterion):
            if needs != "weights":
                raise refuse("needs", needs, f"for a class none: it says needs = {needs!r} in its body")
            return _registry.register(name)(member)
        made = _class_of(name, member, needs)
        known = _registry._members.get(name)
        if known is not None and _place(made) is not None and _place(known) == _place(made):
            del _registry._members[name]
        _registry.register(name)(made)
        return member

    return add


def _class_of(name: str, function: Any, needs: str) -> type[Criterion]:
    allowed = "a Criterion class, a function f(kernel, path), or f(seen)"
    if isinstance(function, type) or not callable(function):
        raise InputError(f"criterion {name!r}: got {shown(function)}, allowed: {allowed}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise InputError(
            f"criterion {name!r}: got {shown(function)} without signature, allowed: {allowed}"
        ) from None
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [p.name for p in parameters if p.kind in plain and p.default is p.empty]
    other = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(wanted) not in (1, 2) or other:
        raise InputError(
            f"criterion {name!r}: got a function of ({', '.join([*wanted, *other])}), allowed: {allowed}"
        )
    if len(wanted) == 2 and needs != "weights":
        raise InputError(
            f"criterion {name!r}: got needs={needs!r} with f({', '.join(wanted)}), allowed: f(seen), which is "
            "shown the model and the data"
        )
    body = {
        "function": staticmethod(function),
        "needs": needs,
        "__doc__": function.__doc__ or f"{getattr(function, '__name__', name)}, a function of the user's own.",
        "__module__": getattr(function, "__module__", __name__),
        "__qualname__": getattr(function, "__qualname__", name),
    }
    return type(getattr(function, "__name__", name), (_ByKernel if len(wanted) == 2 else _ByModel,), body)


def _place(cls: type[Criterion]) -> tuple[str, str] | None:
    """Where the function of a criterion was defined; None for criteria that are classes, and for lambdas."""
    if not issubclass(cls, _Function) or "<lambda>" in cls.__qualname__:
        return None
    return cls.__module__, cls.__qualname__
