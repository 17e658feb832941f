"""Masks held on the variables of one model: the engine that the callbacks drive."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import criteria
from keras_aeprune._layers import Weight, weights
from keras_aeprune._validation import InputError, keras_model, one_of, shown
from keras_aeprune.sparsity import allocation as allocations
from keras_aeprune.sparsity.table import SparsityRow, SparsityTable, remember

__all__ = ["MaskConstraint", "Pruner", "release"]


class MaskConstraint(keras.constraints.Constraint):
    """A variable's constraint that sets masked weights to zero, after the constraint the user had.

    Keras' optimizers apply it inside the compiled train step, right after the update. It lives on the
    variable and not in the layer's configuration, so a saved model knows nothing of it.

    Args:
        mask: boolean variable of the weight's shape, True where the weight is kept.
        inner: the constraint that was there before, or None.
    """

    def __init__(self, mask: Any, inner: Any = None):
        self.mask = mask
        self.inner = inner

    def __call__(self, w: Any) -> Any:
        w = tf.convert_to_tensor(w if self.inner is None else self.inner(w))
        return tf.where(tf.convert_to_tensor(self.mask), w, tf.zeros((), w.dtype))


@dataclass
class _Target:
    """One kernel under a mask."""

    weight: Weight
    constraint: MaskConstraint
    mask: np.ndarray
    floor: int
    asked: float | None = None


class Pruner:
    """Holds masks on a model's kernels and recomputes them on demand.

    Args:
        model: a built Keras model.
        criterion: a name or instance from `keras_aeprune.criteria`.
        allocation: "uniform" (every kernel the same fraction) or "global" (one threshold).
        include: layer names, paths or patterns to prune; None for all.
        exclude: layer names, paths or patterns to leave alone.
        on_unsupported: "skip" lists what cannot be pruned with the reason, "raise" refuses the model.

    Raises:
        InputError: for a pattern that fits no layer, or a model in which nothing can be pruned.

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
        *,
        criterion: Any = "magnitude",
        allocation: str = "uniform",
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        on_unsupported: str = "skip",
    ):
        self.model = keras_model(model)
        self.criterion = criteria.get(criterion)
        self.allocation = one_of("allocation", allocation, allocations.ALLOCATIONS)
        one_of("on_unsupported", on_unsupported, ("skip", "raise"))
        chosen, self.skipped = _choose(model, include, exclude)
        if on_unsupported == "raise" and self.skipped:
            listed = "; ".join(f"{path}: {reason}" for path, reason in self.skipped.items())
            raise InputError(f"on_unsupported='raise': got kernels that cannot be pruned: {listed}")
        if not chosen:
            listed = "; ".join(f"{path}: {reason}" for path, reason in self.skipped.items())
            raise InputError(
                f"model {model.name!r}: got nothing to prune ({listed or 'no kernels'}), allowed: a model "
                "with at least one trainable kernel"
            )
        self.retraced = False
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy is not None else nullcontext():
            self.targets = [self._hold(weight) for weight in chosen]

    def _hold(self, weight: Weight) -> _Target:
        variable = weight.variable
        values = keras.ops.convert_to_numpy(variable)
        zeros = int(np.count_nonzero(values == 0))
        floor = 0 if zeros == values.size else zeros  # all zero: not trained yet, not pruned
        mask = values != 0 if floor else np.ones(values.shape, bool)
        constraint = variable.constraint
        if isinstance(constraint, MaskConstraint):
            constraint.mask.assign(mask)
        else:
            held = keras.Variable(mask, trainable=False, dtype="bool", name=f"{variable.name}_mask")
            constraint = variable.constraint = MaskConstraint(held, constraint)
            self.retraced = True
        return _Target(weight, constraint, mask, floor)

    def update(self, sparsity: float) -> None:
        """Recompute all masks for one sparsity and set the weights they mask to zero.

        Zeros that were there when the pruner was made stay zeros.

        Args:
            sparsity: fraction of weights set to zero, 0 <= s < 1.

        Raises:
            InputError: if the weights hold NaN or infinite values.
        """
        kernels = self._kernels()
        masks = self._masks(kernels, sparsity)
        self.ask(sparsity, masks)
        for target, kernel, mask in zip(self.targets, kernels, masks, strict=True):
            self._set(target, kernel, mask)

    def ask(self, sparsity: float, masks: list[np.ndarray] | None = None) -> None:
        """Note what `sparsity` means for each kernel, for the table, without changing a weight."""
        if self.allocation == "uniform":
            asked = [sparsity] * len(self.targets)
        else:
            masks = self._masks(self._kernels(), sparsity) if masks is None else masks
            asked = [_zero_fraction(mask) for mask in masks]
        for target, value in zip(self.targets, asked, strict=True):
            target.asked = float(max(value, target.floor / max(target.mask.size, 1)))

    def _kernels(self) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(t.weight.variable) for t in self.targets]

    def _masks(self, kernels: list[np.ndarray], sparsity: float) -> list[np.ndarray]:
        scores = [
            self.criterion.scores(kernel.astype(np.float32, copy=False), t.weight.path)
            for kernel, t in zip(kernels, self.targets, strict=True)
        ]
        return allocations.get(self.allocation)(scores, sparsity, [t.floor for t in self.targets])

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

    def _zero(self, target: _Target, kernel: np.ndarray) -> None:
        if np.any(kernel[~target.mask]):
            target.weight.variable.assign(np.where(target.mask, kernel, kernel.dtype.type(0)))

    def apply(self) -> None:
        """Set masked weights to zero again, for whatever wrote into them outside an optimizer step."""
        for target, kernel in zip(self.targets, self._kernels(), strict=True):
            self._zero(target, kernel)

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
            SparsityRow.measured(t.weight.path, kernel, t.asked)
            for t, kernel in zip(self.targets, self._kernels(), strict=True)
        ]
        rows += [
            SparsityRow.skipped(w, self.skipped[w.path])
            for w in weights(self.model)
            if w.path in self.skipped
        ]
        table = SparsityTable(tuple(rows))
        remember(self.model, table)
        return table


def _zero_fraction(mask: np.ndarray) -> float:
    return 1.0 - int(np.count_nonzero(mask)) / mask.size if mask.size else 0.0


def _patterns(name: str, value: str | Iterable[str] | None) -> list[str]:
    patterns = [value] if isinstance(value, str) else list(value or [])
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(
                f"{name}: got {shown(pattern)}, allowed: layer names, paths or patterns like 'enc*'"
            )
    return patterns


def _fits(weight: Weight, pattern: str) -> bool:
    parts = weight.path.split("/")
    heads = {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return any(fnmatch.fnmatchcase(text, pattern) for text in {*parts[:-1], *heads})


def _choose(model: Any, include: Any, exclude: Any) -> tuple[list[Weight], dict[str, str]]:
    found = weights(model)
    wanted, unwanted = _patterns("include", include), _patterns("exclude", exclude)
    for name, patterns in (("include", wanted), ("exclude", unwanted)):
        for pattern in patterns:
            if not any(_fits(weight, pattern) for weight in found):
                layers = ", ".join(dict.fromkeys(weight.layer_path for weight in found))
                raise InputError(
                    f"{name}: got {pattern!r}, which fits no layer with weights; there are: {layers}"
                )
    chosen, skipped = [], {}
    for weight in found:
        if any(_fits(weight, pattern) for pattern in unwanted):
            skipped[weight.path] = "excluded"
        elif wanted and not any(_fits(weight, pattern) for pattern in wanted):
            skipped[weight.path] = "not included"
        elif weight.reason:
            skipped[weight.path] = weight.reason
        else:
            chosen.append(weight)
    return chosen, skipped


def release(model: keras.Model) -> int:
    """Take all masks off a model, so that its zeros may train again.

    The weights stay as they are, zeros included; constraints that the user had are put back.

    Args:
        model: a Keras model that was pruned in this process.

    Returns:
        How many kernels were released.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
        >>> Pruner(model).update(0.5)
        >>> release(model), release(model)
        (1, 0)
    """
    held = [
        weight.variable
        for weight in weights(keras_model(model))
        if isinstance(getattr(weight.variable, "constraint", None), MaskConstraint)
    ]
    for variable in held:
        variable.constraint = variable.constraint.inner
    if held and getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)
    return len(held)
