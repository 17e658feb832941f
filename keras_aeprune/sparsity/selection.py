"""Which kernels of a model are pruned, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras_aeprune._layers import Weight, fits, weights
from keras_aeprune._validation import InputError, shown
from keras_aeprune.sparsity.patterns import Pattern

__all__ = ["choose"]


def choose(
    model: Any, pattern: Pattern, include: str | Iterable[str] | None, exclude: str | Iterable[str] | None
) -> tuple[list[Weight], dict[str, str]]:
    """The kernels to prune, and {path: reason} of those that are left alone.

    Args:
        model: a built Keras model.
        pattern: which weights go together; it may not fit every kernel.
        include: layer names, paths or patterns; None for all.
        exclude: the same, for kernels to leave alone.

    Raises:
        InputError: for a name or pattern that fits no layer.

    Example:
        >>> import keras
        >>> from keras_aeprune.sparsity import patterns
        >>> layers = [keras.Input((4,)), keras.layers.Dense(5, name="a"), keras.layers.Dense(5, name="b")]
        >>> chosen, skipped = choose(keras.Sequential(layers), patterns.get("unstructured"), "a", None)
        >>> [weight.path for weight in chosen], skipped
        (['a/kernel'], {'b/kernel': 'not included'})
    """
    found = weights(model)
    wanted, unwanted = _names("include", include), _names("exclude", exclude)
    for name, listed in (("include", wanted), ("exclude", unwanted)):
        for one in listed:
            if not any(fits(weight.path, one) for weight in found):
                layers = ", ".join(dict.fromkeys(weight.layer_path for weight in found))
                raise InputError(f"{name}: got {one!r}, which fits no layer with weights; there are: {layers}")
    chosen, skipped = [], {}
    for weight in found:
        if any(fits(weight.path, one) for one in unwanted):
            skipped[weight.path] = "excluded"
        elif wanted and not any(fits(weight.path, one) for one in wanted):
            skipped[weight.path] = "not included"
        elif reason := weight.reason or pattern.reason(weight):
            skipped[weight.path] = reason
        else:
            chosen.append(weight)
    return chosen, skipped


def _names(name: str, value: str | Iterable[str] | None) -> list[str]:
    listed = [value] if isinstance(value, str) else list(value or [])
    for one in listed:
        if not isinstance(one, str):
            raise InputError(f"{name}: got {shown(one)}, allowed: layer names, paths or patterns like 'enc*'")
    return listed
