"""The one table of layer facts, and the walk through nested models that gives every weight its path."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers as kl

from keras_aeprune._validation import InputError, shown

__all__ = ["Kernel", "Weight", "fits", "is_built", "kernels_of", "register", "walk", "weights"]


@dataclass(frozen=True)
class Kernel:
    """A weight of a layer that can be pruned.

    Args:
        name: attribute of the layer that holds the variable.
        unit_axis: axis of the layer's output units (neurons, filters), None where there is none.
        input_axis: axis of the units that come in, None where there is none.
    """

    name: str
    unit_axis: int | None = -1
    input_axis: int | None = -2

    @property
    def axis(self) -> int:
        """`unit_axis` of a kernel that is known to have one."""
        if self.unit_axis is None:
            raise InputError(f"{self.name}: got a kernel without a known unit axis, allowed: one that has it")
        return self.unit_axis


_KERNEL = (Kernel("kernel"),)
_TRANSPOSED = (Kernel("kernel", unit_axis=-2, input_axis=-1),)
_DEPTHWISE = (Kernel("kernel", unit_axis=-2, input_axis=None),)
_SEPARABLE = (Kernel("depthwise_kernel", unit_axis=-2, input_axis=None), Kernel("pointwise_kernel"))
_RECURRENT = (Kernel("kernel"), Kernel("recurrent_kernel"))

# A layer kind that is in none of these and has weights of its own is unknown: listed, never passed over.
_PRUNABLE: dict[type, tuple[Kernel, ...]] = {
    kl.Dense: _KERNEL,
    kl.EinsumDense: (Kernel("kernel", unit_axis=None, input_axis=None),),
    kl.Conv1D: _KERNEL,
    kl.Conv2D: _KERNEL,
    kl.Conv3D: _KERNEL,
    kl.Conv1DTranspose: _TRANSPOSED,
    kl.Conv2DTranspose: _TRANSPOSED,
    kl.Conv3DTranspose: _TRANSPOSED,
    kl.DepthwiseConv1D: _DEPTHWISE,
    kl.DepthwiseConv2D: _DEPTHWISE,
    kl.SeparableConv1D: _SEPARABLE,
    kl.SeparableConv2D: _SEPARABLE,
    kl.Embedding: (Kernel("embeddings", unit_axis=-1, input_axis=None),),
    kl.SimpleRNNCell: _RECURRENT,
    kl.LSTMCell: _RECURRENT,
    kl.GRUCell: _RECURRENT,
}
# ConvLSTM's cells are not exported by name; they sit in the layer's `cell` and hold the same two kernels.
_PRUNABLE_BY_NAME = {"ConvLSTMCell": _RECURRENT}
_NOTHING_TO_PRUNE: tuple[type, ...] = (
    kl.BatchNormalization,
    kl.LayerNormalization,
    kl.GroupNormalization,
    kl.UnitNormalization,
    kl.RMSNormalization,
    kl.Normalization,
    kl.PReLU,
)


def register(layer_class: type, *kernels: Kernel | str) -> None:
    """Tell the package which weights of an own layer kind can be pruned; none means nothing to prune.

    Args:
        layer_class: a `keras.layers.Layer` subclass.
        *kernels: attribute names, or `Kernel` facts.

    Raises:
        InputError: if `layer_class` is not a layer class.

    Example:
        >>> class Scale(kl.Layer):
        ...     def build(self, shape):
        ...         self.scale = self.add_weight(shape=(shape[-1],))
        >>> register(Scale)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, kl.Layer)):
        raise InputError(f"layer_class: got {shown(layer_class)}, allowed: a keras.layers.Layer subclass")
    _PRUNABLE[layer_class] = tuple(k if isinstance(k, Kernel) else Kernel(k, None, None) for k in kernels)


def kernels_of(layer: kl.Layer) -> tuple[Kernel, ...] | None:
    """The prunable weights of a layer kind; () for nothing to prune, None for an unknown kind."""
    for cls in type(layer).__mro__:
        if cls in _PRUNABLE:
            return _PRUNABLE[cls]
        if cls.__name__ in _PRUNABLE_BY_NAME and cls.__module__.startswith("keras."):
            return _PRUNABLE_BY_NAME[cls.__name__]
    if hasattr(layer, "get_prunable_weights"):  # tfmot's protocol for layers of the user's own
        wanted = {id(variable) for variable in layer.get_prunable_weights()}
        found = [name for name, value in vars(layer).items() if id(value) in wanted]
        return tuple(Kernel(name, None, None) for name in found)
    if isinstance(layer, _NOTHING_TO_PRUNE) or not _own_variables(layer):
        return ()
    return None


def _own_variables(layer: kl.Layer) -> list[Any]:
    """Trainable or frozen weights that the layer holds itself and that are not a wrapped layer's."""
    below = {id(variable) for child in _children(layer) for variable in child.weights}
    return [v for v in layer._trainable_variables if len(v.shape) > 0 and id(v) not in below]


def _children(layer: kl.Layer) -> list[kl.Layer]:
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    return list(layer._flatten_layers(include_self=False, recursive=False))


def walk(model: kl.Layer, prefix: str = "") -> Iterator[tuple[str, kl.Layer]]:
    """(path, layer) of every layer below `model`, sub-models and wrapped layers included, each once.

    The path joins the names from the outermost model down with "/", the model's own name left out:
    "encoder/hidden_1". Two layers of one name beside each other get "_2", "_3" behind the later ones.
    """
    yield from _walk(model, prefix, set())


def _walk(layer: kl.Layer, prefix: str, seen: set[int]) -> Iterator[tuple[str, kl.Layer]]:
    taken: dict[str, int] = {}
    for child in _children(layer):
        if id(child) in seen:
            continue
        seen.add(id(child))
        taken[child.name] = taken.get(child.name, 0) + 1
        name = child.name if taken[child.name] == 1 else f"{child.name}_{taken[child.name]}"
        path = f"{prefix}/{name}" if prefix else name
        yield path, child
        yield from _walk(child, path, seen)


def is_built(model: kl.Layer) -> bool:
    """Whether every layer has its weights; a subclassed model gets them with its first batch."""
    return all(layer.built for layer in model._flatten_layers())


@dataclass(frozen=True)
class Weight:
    """One prunable weight of a model, or one layer whose weights cannot be pruned (then with a reason)."""

    path: str
    layer_path: str
    layer: kl.Layer
    kernel: Kernel | None
    variable: Any
    reason: str = ""

    @property
    def facts(self) -> Kernel:
        """`kernel` of a weight that is known to have one."""
        if self.kernel is None:
            raise InputError(f"{self.path}: got a weight that is no kernel, allowed: a kernel")
        return self.kernel


def weights(model: kl.Layer) -> list[Weight]:
    """Every kernel of a built model by its whole path, and what cannot be pruned with the reason.

    Args:
        model: a built Keras model or layer.

    Returns:
        One `Weight` per kernel; one without a kernel for each layer of unknown kind.

    Raises:
        InputError: if the model has no weights yet.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), kl.Dense(3, name="hidden")])
        >>> [weight.path for weight in weights(model)]
        ['hidden/kernel']
    """
    if isinstance(model, keras.Model) and not model.built and not model.weights:
        raise InputError(
            f"model {model.name!r}: got a model without weights, allowed: a built one; call it once on a "
            "batch, or give it an Input"
        )
    found: list[Weight] = []
    seen: set[int] = set()
    pairs = list(walk(model))
    if not isinstance(model, keras.Model) or _own_variables(model):
        pairs.insert(0, ("", model))
    for layer_path, layer in pairs:
        kernels = kernels_of(layer)
        if kernels is None:
            kind = type(layer).__name__
            reason = f"unknown layer kind {kind}; name its kernels with sparsity.register_layer({kind}, ...)"
            found.append(Weight(layer_path, layer_path, layer, None, None, reason))
            continue
        for kernel in kernels:
            variable = getattr(layer, kernel.name, None)
            if variable is None or id(variable) in seen:
                continue
            seen.add(id(variable))
            path = f"{layer_path}/{kernel.name}" if layer_path else kernel.name
            found.append(Weight(path, layer_path, layer, kernel, variable, _obstacle(layer, variable)))
    return found


def _obstacle(layer: kl.Layer, variable: Any) -> str:
    if not isinstance(variable, keras.Variable):
        return f"its weights are {type(variable).__name__}, not a Keras variable"
    if getattr(layer, "lora_enabled", False):
        return "LoRA adapters are enabled; merge them first"
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"quantized to {variable.dtype}; prune before quantizing"
    if not variable.trainable or not layer.trainable:
        return "frozen (trainable=False)"
    return ""


def fits(path: str, pattern: str) -> bool:
    """Whether a name, a path from the model down or a pattern with * fits a kernel's path.

    Example:
        >>> [fits("encoder/code/kernel", p) for p in ("code", "encoder", "encoder/*", "cod", "kernel")]
        [True, True, True, False, False]
    """
    parts = path.split("/")
    heads = {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return any(fnmatch.fnmatchcase(text, pattern) for text in {*parts[:-1], *heads})
