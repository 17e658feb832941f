"""PruneLowMagnitude: the wrapper behind `prune_low_magnitude`, under tfmot's name and arguments."""

from __future__ import annotations

import inspect
import warnings
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import criteria, schedules
from keras_aeprune._layers import Weight, is_built, kernels_of, walk, weights
from keras_aeprune._validation import InputError, refuse, shown
from keras_aeprune.criteria.scoring import single_kernel
from keras_aeprune.sparsity import allocation, patterns
from keras_aeprune.sparsity.constraints import MaskConstraint

__all__ = ["PruneLowMagnitude", "ScheduledMask", "attach", "attached", "collect_prunable_layers"]


class ScheduledMask(MaskConstraint):
    """A mask that recomputes itself: an optimizer applies it once per update, and so it counts the steps.

    A layer that is called several times in a model therefore counts once, and no callback is needed.

    Args:
        mask: boolean variable of the weight's shape.
        threshold: scalar variable; the smallest score that is kept.
        step: int64 scalar variable; updates seen so far, -1 before the first.
        rule: what decides when and how much.
        weight: the kernel that is held.
        inner: the constraint that was there before, or None.
    """

    def __init__(self, mask: Any, threshold: Any, step: Any, rule: _Rule, weight: Weight, inner: Any = None):
        super().__init__(mask, inner)
        self.threshold = threshold
        self.step = step
        self.rule = rule
        self.weight = weight

    def __call__(self, w: Any) -> Any:
        w = tf.convert_to_tensor(w if self.inner is None else self.inner(w))
        first = self.step < 0
        step = tf.maximum(tf.convert_to_tensor(self.step), 0) + 1
        self.step.assign(step)
        due, sparsity = self.rule.at(step)
        due_before, sparsity_before = self.rule.at(tf.zeros_like(step))  # before the first update: step 0
        at_start = tf.logical_and(first, tf.logical_and(due_before, tf.logical_not(due)))
        sparsity = tf.where(at_start, sparsity_before, sparsity)

        def renew() -> tuple[tf.Tensor, tf.Tensor]:
            mask, threshold = tf.numpy_function(self._renew, [w, sparsity], (tf.bool, tf.float32))
            return tf.ensure_shape(mask, w.shape), tf.ensure_shape(threshold, ())

        def keep() -> tuple[tf.Tensor, tf.Tensor]:
            return tf.convert_to_tensor(self.mask), tf.cast(tf.convert_to_tensor(self.threshold), tf.float32)

        mask, threshold = tf.cond(tf.logical_or(due, at_start), renew, keep)
        self.mask.assign(mask)
        self.threshold.assign(tf.cast(threshold, self.threshold.dtype))
        return tf.where(mask, w, tf.zeros((), w.dtype))

    def zero(self) -> None:
        """Set the masked weights to zero again, for whatever wrote into them outside an optimizer step."""
        variable = self.weight.variable
        kernel, mask = keras.ops.convert_to_numpy(variable), keras.ops.convert_to_numpy(self.mask)
        if np.any(kernel[~mask]):
            variable.assign(np.where(mask, kernel, kernel.dtype.type(0)))

    def missed(self) -> str:
        """What is missing from the schedule's final sparsity, or "" if nothing is or nothing was trained yet."""
        step = int(keras.ops.convert_to_numpy(self.step))
        timetable = schedules.Timetable(self.rule.schedule, max(step, 0))
        final_step = timetable.final_step
        if step < 0 or (len(timetable.steps) and (final_step is None or step >= final_step)):
            return ""
        reached = 1 - float(keras.ops.convert_to_numpy(self.mask).mean())
        asked = "its end" if self.rule.final is None else f"{self.rule.final:.4f}"
        return f"{self.weight.path} is at {reached:.4f} of {asked} after {step} steps"

    def _renew(self, kernel: np.ndarray, sparsity: np.ndarray) -> tuple[np.ndarray, np.float32]:
        return self.rule.mask(kernel, float(sparsity), self.weight)


class _Rule:
    """When (a schedule), what (a criterion) and in which groups (a pattern)."""

    def __init__(self, schedule: Any, pattern: Any, criterion: Any):
        found = schedules.get(schedule)
        if isinstance(found, schedules.Relative):
            raise InputError(
                f"pruning_schedule: got {found!r}, allowed: a schedule in steps; a layer does not know "
                "the length of the training (the callback Prune does)"
            )
        self.schedule, self.pattern = found, patterns.get(pattern)
        self.criterion = single_kernel(criterion)
        end = getattr(self.schedule, "end_step", -1)
        self.end = int(end) if end is not None and end >= 0 else None
        self.final = getattr(self.schedule, "final_sparsity", getattr(self.schedule, "target_sparsity", None))

    def at(self, step: Any) -> tuple[Any, Any]:
        """(due, sparsity) at a step in a graph; the last step is always due, and exact."""
        due, sparsity = self.schedule(step)
        sparsity = tf.cast(sparsity, tf.float32)
        if self.end is not None:
            last = step == self.end
            due = tf.logical_or(due, last)
            if self.final is not None:
                sparsity = tf.where(last, tf.constant(self.final, tf.float32), sparsity)
        return due, sparsity

    def mask(self, kernel: np.ndarray, sparsity: float, weight: Weight) -> tuple[np.ndarray, np.float32]:
        if self.final is not None and np.isclose(sparsity, self.final, rtol=1e-6, atol=0):
            sparsity = self.final  # schedules compute in float32
        scores = self.criterion.scores(kernel.astype(np.float32, copy=False), weight.path)
        groups = self.pattern.groups(scores, weight.facts, weight.path)
        if isinstance(self.pattern, patterns.NM):
            sparsity = groups.most  # m of every n, whatever the schedule says
        [mask] = allocation.allocate([groups], sparsity)
        kept = scores[mask]
        return mask, np.float32(kept.min() if kept.size else 0.0)


def schedule_masks(
    layer: keras.layers.Layer, rule: _Rule, new_variable: Any, allow: Any = None
) -> list[tuple[Any, Any, Any, Any]]:
    """Put a `ScheduledMask` on every prunable kernel of a built layer.

    Args:
        layer: a built layer or model.
        rule: when, what, in which groups.
        new_variable: `add_weight` of whoever stores the state.
        allow: which of the layers inside may be pruned; None for all.

    Returns:
        (weight, mask, threshold, step) variables of each kernel; one that the pattern does not fit is a warning.
    """
    held = []
    for weight in prunable(layer):
        if allow is not None and not allow(weight.layer):
            continue
        variable = weight.variable
        reason = rule.pattern.obstacle(tuple(variable.shape), weight.facts, weight.layer)
        if reason:
            warnings.warn(f"layer {layer.name!r}: {weight.path} is not pruned: {reason}", stacklevel=2)
            continue
        name = weight.path.replace("/", "_")
        mask = new_variable(
            name=f"{name}_mask", shape=variable.shape, initializer="ones", dtype="bool", trainable=False
        )
        threshold = new_variable(
            name=f"{name}_threshold", shape=(), initializer="zeros", dtype="float32", trainable=False
        )
        step = new_variable(name=f"{name}_step", shape=(), initializer=_minus_one, dtype="int64", trainable=False)
        inner = variable.constraint
        inner = inner.inner if isinstance(inner, MaskConstraint) else inner
        variable.constraint = ScheduledMask(mask, threshold, step, rule, weight, inner)
        held.append((variable, mask, threshold, step))
    return held


def _minus_one(shape: Any, dtype: Any = None) -> Any:
    return keras.ops.full(shape, -1, dtype=dtype)


def prunable(layer: keras.layers.Layer) -> list[Weight]:
    """The kernels of a built layer and of the layers in it, frozen ones left out."""
    kernels = kernels_of(layer)
    if kernels and not isinstance(layer, keras.Model):
        found = [
            Weight(f"{layer.name}/{kernel.name}", layer.name, layer, kernel, getattr(layer, kernel.name))
            for kernel in kernels
        ]
        return [weight for weight in found if weight.variable is not None and weight.variable.trainable]
    return [weight for weight in weights(layer) if not weight.reason and weight.kernel is not None]


@keras.saving.register_keras_serializable("keras_aeprune")
class PruneLowMagnitude(keras.layers.Wrapper):
    """A layer whose kernels are pruned while it trains; masks, thresholds and steps are saved with it.

    What `prune_low_magnitude` puts around layers. The masks are constraints on the variables: they are applied
    and counted by the optimizer, once per update, so no callback is needed, a layer that a model uses twice
    counts once, and the stored weights hold exact zeros after every batch.

    Args:
        layer: the layer to prune; one whose kernels are known, or with `get_prunable_weights`.
        pruning_schedule: a `PruningSchedule`, tfmot's included; its steps are optimizer updates.
        block_size: (height, width) of the blocks that are pruned together, (1, 1) for single weights.
        block_pooling_type: "AVG" or "MAX": how a block's scores become one.
        sparsity_m_by_n: (m, n): m zeros in every n consecutive weights; None for none.
        criterion: which weights go first: one that looks at a kernel by itself, as "magnitude" does.
        **kwargs: for the Keras layer.

    Raises:
        ValueError: for what is no layer, a layer of unknown kind, or a bad pooling type.

    Example:
        >>> schedule = schedules.ConstantSparsity(0.5, begin_step=0)
        >>> model = keras.Sequential([keras.Input((4,)), PruneLowMagnitude(keras.layers.Dense(4), schedule)])
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 4)), verbose=0)
        >>> int((model.layers[0].layer.kernel.numpy() == 0).sum())
        8
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        pruning_schedule: Any = None,
        block_size: tuple[int, int] = (1, 1),
        block_pooling_type: str = "AVG",
        sparsity_m_by_n: tuple[int, int] | None = None,
        criterion: Any = "magnitude",
        **kwargs: Any,
    ):
        if block_pooling_type not in ("AVG", "MAX"):
            raise InputError(f"Unsupported pooling type '{block_pooling_type}'. Should be 'AVG' or 'MAX'.")
        if not isinstance(layer, keras.layers.Layer):
            raise InputError(
                f"Please initialize `Prune` layer with a `Layer` instance. You passed: {shown(layer)}"
            )
        _must_be_supported(layer)
        kwargs.setdefault("name", f"prune_low_magnitude_{layer.name}")
        super().__init__(layer, **kwargs)
        if pruning_schedule is None:
            pruning_schedule = schedules.ConstantSparsity(0.5, 0)
        self.pruning_schedule = schedules.get(pruning_schedule)
        self.block_size = tuple(block_size)
        self.block_pooling_type = block_pooling_type
        self.sparsity_m_by_n = None if sparsity_m_by_n is None else _zeros_of(sparsity_m_by_n)
        if self.sparsity_m_by_n and self.block_size != (1, 1):
            raise InputError(
                f"block_size: got {shown(block_size)} together with sparsity_m_by_n, allowed: one of the two"
            )
        self.criterion = criteria.get(criterion)
        self.supports_jit = False  # masks are computed in NumPy; "auto" then compiles without XLA
        self._rule = _Rule(self.pruning_schedule, self._pattern(), self.criterion)
        self._held: list[tuple[Any, Any, Any, Any]] = []
        if layer.built:
            self.build()

    def _pattern(self) -> Any:
        if self.sparsity_m_by_n:
            zeros, of = self.sparsity_m_by_n
            return patterns.NM(of - zeros, of)
        if self.block_size == (1, 1):
            return "unstructured"
        return patterns.Block(self.block_size, pooling=self.block_pooling_type)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not args and kwargs:  # layer(query=q, value=v): the first argument of its call comes first here
            first = next(iter(inspect.signature(self.layer.call).parameters))
            args = (kwargs.pop(first),) if first in kwargs else ()
        if not self.layer.built:
            self.layer(*args, **kwargs)  # Keras builds it from whatever arguments its call takes
        return super().__call__(*args, **kwargs)

    def build(self, input_shape: Any = None, **shapes: Any) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True
        if not self._held:
            _must_be_supported(self.layer)  # a layer of the user's own shows its weights only now
            self._held = schedule_masks(self.layer, self._rule, self.add_weight)
            for i, (_, mask, threshold, step) in enumerate(self._held):  # tf.train.Checkpoint sees attributes
                for name, variable in (("mask", mask), ("threshold", threshold), ("step", step)):
                    setattr(self, f"_{name}_{i}", variable)
        self.built = True

    def get_build_config(self) -> dict[str, Any] | None:
        config = self.layer.get_build_config()  # None: not built yet, or only a call can build it
        return None if config is None else {"layer": config}

    def build_from_config(self, config: dict[str, Any]) -> None:
        if not self.layer.built:
            self.layer.build_from_config(config["layer"])
        self.build()

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self.layer(inputs, *args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    @property
    def pruning_vars(self) -> list[tuple[Any, Any, Any]]:
        """(weight, mask, threshold) of every kernel that is pruned."""
        return [held[:3] for held in self._held]

    @property
    def pruning_step(self) -> Any:
        """Updates seen so far, -1 before the first; None without a kernel."""
        return self._held[0][3] if self._held else None

    @property
    def prunable_weights(self) -> list[Any]:
        """The kernels that are pruned."""
        return [held[0] for held in self._held]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pruning_schedule": self.pruning_schedule.get_config(),
            "block_size": list(self.block_size),
            "block_pooling_type": self.block_pooling_type,
            "sparsity_m_by_n": list(self.sparsity_m_by_n) if self.sparsity_m_by_n else None,
            "criterion": criteria.serialize(self.criterion),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PruneLowMagnitude:
        config = dict(config)
        config["layer"] = keras.saving.deserialize_keras_object(config["layer"])
        schedule = config["pruning_schedule"]
        own = keras.saving.get_registered_object(schedule["class_name"])  # registered, or in a custom object scope
        if own is not None:
            config["pruning_schedule"] = own(**schedule["config"])
        return cls(**config)


def _must_be_supported(layer: keras.layers.Layer) -> None:
    if not supported(layer):
        raise InputError(
            "Please initialize `Prune` with a supported layer. Layers should either be supported by the "
            "PruneRegistry (built-in keras layers) or should be a `PrunableLayer` instance, or should has a "
            f"customer defined `get_prunable_weights` method. You passed: {type(layer)}"
        )


def has_kernels(layer: keras.layers.Layer) -> bool:
    """Whether there is anything to prune in a layer or in the layers inside it."""
    inside = [layer, *(inner for _, inner in walk(layer))]
    return any(hasattr(one, "get_prunable_weights") or kernels_of(one) for one in inside)


def supported(layer: keras.layers.Layer) -> bool:
    """Whether it is known what can be pruned in a layer and in all layers inside it."""
    inside = [layer, *(inner for _, inner in walk(layer))]
    return all(hasattr(one, "get_prunable_weights") or kernels_of(one) is not None for one in inside)


def attached(model: keras.Model) -> list[ScheduledMask]:
    """The self-updating masks on a model's variables, each once."""
    held = [getattr(variable, "constraint", None) for variable in model.trainable_variables]
    return [constraint for constraint in held if isinstance(constraint, ScheduledMask)]


def attach(model: keras.Model, allow: Any = None, **params: Any) -> keras.Model:
    """Put masks on the variables of a built model itself, for models that cannot be copied.

    The masks are not saved with the model; its zeros are, and `KeepSparse` finds them again.
    """
    if not is_built(model):
        raise InputError(
            f"model {model.name!r}: got a subclassed model without weights, allowed: a built one; call it once on "
            "a batch, or use the callback Prune, which waits for the first batch"
        )
    probe = PruneLowMagnitude(keras.layers.Dense(1), **params)  # checks the arguments in one place
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy is not None else nullcontext():
        schedule_masks(model, probe._rule, _stand_alone, allow)
    model.supports_jit = False  # as for the wrapper
    return model


def _stand_alone(*, name: str, shape: Any, initializer: Any, dtype: str, trainable: bool) -> Any:
    return keras.Variable(
        keras.initializers.get(initializer)(shape, dtype=dtype), name=name, dtype=dtype, trainable=trainable
    )


def _zeros_of(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, (tuple, list)) else ()
    whole = [v for v in values if isinstance(v, (int, np.integer)) and not isinstance(v, bool)]
    if len(values) != 2 or len(whole) != 2 or not 0 < whole[0] < whole[1]:
        raise refuse("sparsity_m_by_n", value, "(m, n), m zeros in every n weights, 0 < m < n, like (2, 4)")
    return int(whole[0]), int(whole[1])


def collect_prunable_layers(model: keras.Model) -> list[PruneLowMagnitude]:
    """Every `PruneLowMagnitude` in a model, sub-models included.

    Args:
        model: a Keras model.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), PruneLowMagnitude(keras.layers.Dense(4))])
        >>> [layer.name[:19] for layer in collect_prunable_layers(model)]
        ['prune_low_magnitude']
    """
    return [layer for _, layer in walk(model) if isinstance(layer, PruneLowMagnitude)]
