"""prune_low_magnitude and strip_pruning: tfmot's way into a model and out of it, on Keras 3."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from keras_aeprune import schedules
from keras_aeprune._graph import is_graph
from keras_aeprune._validation import InputError, WrongKerasError, keras_model
from keras_aeprune.sparsity.constraints import release
from keras_aeprune.sparsity.layers import PruneLowMagnitude, attach, attached, has_kernels, supported

__all__ = ["prune_low_magnitude", "prune_scope", "strip_pruning", "warn_if_missed"]


def prune_scope() -> Any:
    """A scope in which pruned layers and models can be deserialized.

    Kept for scripts that use it: `PruneLowMagnitude` is registered with Keras, so that importing this package is
    enough to load such a file.

    Example:
        >>> with prune_scope():
        ...     keras.saving.get_registered_object("PruneLowMagnitude") is PruneLowMagnitude
        True
    """
    return keras.saving.custom_object_scope({"PruneLowMagnitude": PruneLowMagnitude})


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: Any = None,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: Any = None,
    sparsity_m_by_n: tuple[int, int] | None = None,
    criterion: Any = "magnitude",
    **kwargs: Any,
) -> Any:
    """Make a layer, a list of layers or a model prune itself while it trains.

    tfmot's function with its arguments, on Keras 3; new scripts are shorter with the callback `Prune`. A model
    that was given is not changed: a copy with the same weights and no optimizer comes back. A subclassed
    model cannot be copied in general; its variables get the masks and the model itself comes back. Layers that
    are not known are left as they are, with a warning that names them.

    Zhu and Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878.

    Args:
        to_prune: a Keras 3 layer, a list of layers, or a model (Sequential, functional, nested, subclassed and
            built).
        pruning_schedule: a `PruningSchedule`; ConstantSparsity(0.5, 0) if None. Steps are optimizer updates.
        block_size: (height, width) of blocks in the input-by-unit view of a kernel.
        block_pooling_type: "AVG" or "MAX".
        pruning_policy: a `PruningPolicy` that says which layers to wrap; None wraps all.
        sparsity_m_by_n: (m, n): m zeros in every n consecutive weights along the inputs.
        criterion: which weights go first: one that looks at a kernel by itself, as "magnitude" does.
        **kwargs: for the wrapper, if `to_prune` is a layer.

    Returns:
        A `PruneLowMagnitude`, a list, or a model; compile it before training.

    Raises:
        ValueError: for anything else, and for a layer of unknown kind that was given by itself.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        >>> pruned = prune_low_magnitude(model, schedules.ConstantSparsity(0.75, 0))
        >>> type(pruned.layers[0]).__name__, type(model.layers[0]).__name__
        ('PruneLowMagnitude', 'Dense')
    """
    params = {
        "pruning_schedule": schedules.ConstantSparsity(0.5, 0) if pruning_schedule is None else pruning_schedule,
        "block_size": block_size,
        "block_pooling_type": block_pooling_type,
        "sparsity_m_by_n": sparsity_m_by_n,
        "criterion": criterion,
    }
    if kwargs and (isinstance(to_prune, (list, keras.Model))):
        raise InputError(f"got {sorted(kwargs)} for a {type(to_prune).__name__}, allowed: for a layer only")
    if isinstance(to_prune, list):
        return [_wrap_in_list(layer, params) for layer in to_prune]
    if isinstance(to_prune, keras.Model):
        keras_model(to_prune)
        if pruning_policy is not None:
            pruning_policy.ensure_model_supports_pruning(to_prune)
        if not is_graph(to_prune):
            return attach(to_prune, None if pruning_policy is None else pruning_policy.allow_pruning, **params)
        return _wrap_model(to_prune, pruning_policy, params)
    if isinstance(to_prune, keras.layers.Layer):
        return PruneLowMagnitude(to_prune, **params, **kwargs)
    message = (
        "`prune_low_magnitude` can only prune an object of the following types: keras.models.Sequential, keras "
        "functional model, keras.layers.Layer, list of keras.layers.Layer. You passed an object of type: "
        f"{type(to_prune).__name__}."
    )
    if type(to_prune).__module__.startswith("tf_keras"):
        raise WrongKerasError(f"{message} It is of tf_keras (Keras 2): keras_aeprune.models.from_tf_keras")
    raise InputError(message)


def _wrap_in_list(layer: Any, params: dict[str, Any]) -> Any:
    if isinstance(layer, (PruneLowMagnitude, keras.layers.InputLayer)):
        return layer
    return PruneLowMagnitude(layer, **params)


def _wrap_model(model: keras.Model, policy: Any, params: dict[str, Any]) -> keras.Model:
    unknown: list[str] = []

    def clone(layer: Any) -> Any:
        copied = _copy(layer)
        if isinstance(layer, PruneLowMagnitude) or not isinstance(layer, keras.layers.Layer):
            return copied
        if policy is not None and not policy.allow_pruning(layer):
            return copied
        if not supported(layer):
            unknown.append(f"{layer.name} ({type(layer).__name__})")
            return copied
        if not has_kernels(layer):
            return copied
        return PruneLowMagnitude(copied, **params)

    pruned = _cloned(model, clone)
    if unknown:
        warnings.warn(
            f"prune_low_magnitude: layers of unknown kind are not pruned: {', '.join(unknown)}; name their "
            "kernels with sparsity.register_layer, or give them get_prunable_weights",
            stacklevel=3,
        )
    return pruned


def _copy(layer: Any) -> Any:
    """A layer of its own with the same configuration and, if it is built, the same weights."""
    if not isinstance(layer, keras.layers.Layer):
        return layer  # an operation on tensors, like x + y: it has no state
    copied = type(layer).from_config(layer.get_config())
    if layer.built and layer.weights:
        copied.build_from_config(layer.get_build_config())
        if [w.shape for w in copied.weights] != [w.shape for w in layer.weights]:
            raise InputError(
                f"layer {layer.name!r} ({type(layer).__name__}): its copy has {len(copied.weights)} weights "
                f"instead of {len(layer.weights)}, or other shapes; get_config and build must make it anew"
            )
        for new, old in zip(copied.weights, layer.weights, strict=True):
            new.assign(old)
    return copied


def _cloned(model: keras.Model, clone: Any, done: dict[int, Any] | None = None) -> keras.Model:
    """The model with every layer replaced by its clone, sub-models included, and its two halves at hand."""
    done = {} if done is None else done  # a layer that two sub-models share is one layer in the copy as well

    def replaced(layer: Any) -> Any:
        if id(layer) not in done:
            inside = isinstance(layer, keras.Model) and is_graph(layer)
            done[id(layer)] = _cloned(layer, clone, done) if inside else clone(layer)
        return done[id(layer)]

    pruned = keras.models.clone_model(model, input_tensors=_new_inputs(model), clone_function=replaced)
    pruned.optimizer, pruned.compiled = None, False  # clone_model compiles the copy of a compiled model
    if not model.trainable:
        pruned.trainable = False
    for half in ("encoder", "decoder"):
        part = getattr(model, half, None)
        if isinstance(part, keras.Model) and any(layer.name == part.name for layer in pruned.layers):
            setattr(pruned, half, pruned.get_layer(part.name))
    return pruned


def _new_inputs(model: keras.Model) -> Any:
    """Inputs under the names that the model's have; clone_model gives them others."""
    if isinstance(model, keras.Sequential):
        return None

    def new(tensor: Any) -> Any:
        old = tensor._keras_history.operation
        return keras.Input(
            batch_shape=tensor.shape,
            dtype=tensor.dtype,
            sparse=tensor.sparse,
            name=old.name,
            optional=old.optional,
        )

    return keras.tree.map_structure(new, model.input)


def strip_pruning(model: keras.Model) -> keras.Model:
    """The model without pruning wrappers: the layers as they were before, with sparse weights.

    Args:
        model: a Keras model that `prune_low_magnitude` made or holds.

    Returns:
        A new model with weights of its own; a subclassed model has its masks taken off and comes back itself.
        A schedule that has not reached its final sparsity is a warning that says how far it got.

    Raises:
        ValueError: if it is no Keras model.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a")])
        >>> strip_pruning(prune_low_magnitude(model)).layers[0].name
        'a'
    """
    if not isinstance(model, keras.Model):
        raise InputError(f"Expected model to be a `keras.Model` instance but got:  {model!r}")
    keras_model(model)
    warn_if_missed(model)
    if not is_graph(model):
        release(model)
        return model

    def clone(layer: Any) -> Any:
        return _copy(layer.layer if isinstance(layer, PruneLowMagnitude) else layer)

    return _cloned(model, clone)


def warn_if_missed(model: keras.Model) -> list[str]:
    """Warn about every kernel whose schedule has not reached its final sparsity; returns the messages."""
    missed = [text for held in attached(model) if (text := held.missed())]
    if missed:
        warnings.warn(
            f"pruning has not reached its target: {'; '.join(missed)}; train longer or end the schedule earlier",
            stacklevel=3,
        )
    return missed
