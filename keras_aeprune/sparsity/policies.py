"""Which layers `prune_low_magnitude` wraps: policies, and the one for XNNPACK's sparse convolutions."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import keras
from keras import layers as kl

from keras_aeprune import _graph
from keras_aeprune._validation import InputError
from keras_aeprune.sparsity.layers import PruneLowMagnitude

__all__ = ["PruneForLatencyOnXNNPack", "PruningPolicy"]


class PruningPolicy(abc.ABC):
    """Says which layers of a model are pruned, and whether the model is one for which that helps.

    Derive from it for a rule of your own and pass an instance to `prune_low_magnitude`.

    Example:
        >>> class DenseOnly(PruningPolicy):
        ...     def allow_pruning(self, layer):
        ...         return isinstance(layer, kl.Dense)
        ...     def ensure_model_supports_pruning(self, model):
        ...         pass
        >>> DenseOnly().allow_pruning(kl.Dense(4)), DenseOnly().allow_pruning(kl.Conv2D(4, 3))
        (True, False)
    """

    @abc.abstractmethod
    def allow_pruning(self, layer: kl.Layer) -> bool:
        """Whether this layer is to be pruned."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise ValueError for a model that this policy is not made for."""


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes the 1x1 convolutions of models whose zeros XNNPACK can turn into speed.

    That takes an input branch that starts with a 3x3 convolution of stride 2 over 3 channels behind a
    ZeroPadding2D of 1, a GlobalAveragePooling2D with keepdims at the end, and only supported layers between
    them. Elsen et al., "Fast Sparse ConvNets", https://arxiv.org/abs/1911.09723.

    Example:
        >>> PruneForLatencyOnXNNPack().allow_pruning(kl.Conv2D(8, 1))
        True
    """

    def allow_pruning(self, layer: kl.Layer) -> bool:
        return type(layer) is kl.Conv2D and tuple(layer.kernel_size) == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        if not _graph.is_graph(model):
            raise InputError("Subclassed models are not supported currently.")
        if not model.built:
            raise InputError("Unbuilt models are not supported currently.")
        graph = _Graph(model)
        starts = _reach(_graph.input_layers(model), lambda layer: _starts(layer, graph), graph.consumers)
        if not starts:
            raise InputError(
                "Could not find `Conv2D 3x3` layer with stride 2x2, `input filters == 3` and `VALID` padding and "
                "preceding `ZeroPadding2D` with `padding == 1` in all input branches of the model"
            )
        ends = _reach(
            _graph.output_layers(model),
            lambda layer: isinstance(layer, kl.GlobalAveragePooling2D),
            graph.producers,
        )
        if not ends:
            raise InputError("Could not find a `GlobalAveragePooling2D` layer in all output branches")

        def stop(layer: Any) -> bool:
            slow = None if layer in ends else _slow(layer, graph)
            if slow is not None:
                raise InputError(
                    f"Layer {type(slow).__name__} is not supported for the {type(self).__name__} pruning policy"
                )
            return layer in ends

        _reach([after for start in starts for after in graph.consumers(start)], stop, graph.consumers)


class _Graph:
    """Neighbours of the layers of one model; a wrapper counts as the layer in it."""

    def __init__(self, model: keras.Model):
        self._model = model

    def producers(self, layer: Any) -> list[Any]:
        return _graph.producers(self._model, layer)

    def consumers(self, layer: Any) -> list[Any]:
        return _graph.consumers(self._model, layer)


def _reach(sources: list[Any], found: Callable[[Any], bool], following: Callable[[Any], list[Any]]) -> list[Any]:
    """The layers for which `found` says yes on every way from `sources`; [] if one way ends without."""
    waiting, seen, reached = list(sources), list(sources), []
    while waiting:
        layer = waiting.pop()
        if found(layer):
            reached.append(layer)
            continue
        after = following(layer)
        if not after:
            return []
        for other in after:
            if not any(other is known for known in seen):
                seen.append(other)
                waiting.append(other)
    return reached


def _bare(layer: Any) -> Any:
    return layer.layer if isinstance(layer, PruneLowMagnitude) else layer


def _padding_before(layer: Any, graph: _Graph) -> tuple | None:
    sources = graph.producers(layer)
    if len(sources) == 1 and isinstance(_bare(sources[0]), kl.ZeroPadding2D):
        return tuple(tuple(pair) for pair in _bare(sources[0]).padding)
    return None


def _starts(layer: Any, graph: _Graph) -> bool:
    bare = _bare(layer)
    return (
        type(bare) is kl.Conv2D
        and tuple(bare.kernel.shape[:3]) == (3, 3, 3)
        and tuple(bare.strides) == (2, 2)
        and bare.padding.lower() == "valid"
        and _padding_before(layer, graph) == ((1, 1), (1, 1))
    )


_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid")
_ELEMENTWISE: tuple[type, ...] = (kl.Add, kl.Multiply, kl.Subtract, kl.ReLU, kl.LeakyReLU, kl.ELU)
_ELEMENTWISE += (kl.ZeroPadding2D, kl.Dropout, kl.Identity)
_OPERATIONS = ("Identity", "Add", "Subtract", "Multiply")  # x + y on Keras tensors


def _slow(layer: Any, graph: _Graph) -> Any:
    """The layer itself, or the first one of a model inside, through which sparse inference does not go."""
    if isinstance(layer, keras.Model) and _graph.is_graph(layer):
        inner = _Graph(layer)
        found = [_slow(one, inner) for one in _graph.operations(layer) if not isinstance(one, kl.InputLayer)]
        return next((one for one in found if one is not None), None)
    return None if _runs_sparse(layer, graph) else layer


def _runs_sparse(layer: Any, graph: _Graph) -> bool:
    """Whether XNNPACK's sparse inference goes through this layer."""
    bare = _bare(layer)
    if isinstance(bare, _ELEMENTWISE):
        return True
    if isinstance(bare, kl.DepthwiseConv2D):
        return _depthwise_runs_sparse(bare, _padding_before(layer, graph))
    if type(bare) is kl.Conv2D:
        return (
            bare.groups == 1
            and tuple(bare.dilation_rate) == (1, 1)
            and tuple(bare.kernel_size) == (1, 1)
            and tuple(bare.strides) == (1, 1)
        )
    if isinstance(bare, kl.GlobalAveragePooling2D):
        return bool(bare.keepdims)
    if isinstance(bare, kl.BatchNormalization):
        return bare.axis in (3, -1, [3], [-1])
    if isinstance(bare, kl.UpSampling2D):
        return bare.interpolation == "bilinear"
    if isinstance(bare, kl.Activation):
        return getattr(bare.activation, "__name__", "") in _ACTIVATIONS
    return not isinstance(bare, kl.Layer) and type(bare).__name__ in _OPERATIONS


def _depthwise_runs_sparse(layer: kl.DepthwiseConv2D, padding: tuple | None) -> bool:
    """3x3 or 5x5, undilated; `same` with stride 1, or `valid` with stride 1 or 2 behind the fitting padding."""
    size, strides = tuple(layer.kernel_size), tuple(layer.strides)
    if layer.depth_multiplier != 1 or tuple(layer.dilation_rate) != (1, 1) or size not in ((3, 3), (5, 5)):
        return False
    if layer.padding.lower() == "same":
        return strides == (1, 1)
    half = size[0] // 2
    return strides in ((1, 1), (2, 2)) and padding == ((half, half), (half, half))
