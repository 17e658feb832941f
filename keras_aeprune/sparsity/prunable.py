"""The protocol for layers of the user's own."""

from __future__ import annotations

import abc
from typing import Any

__all__ = ["PrunableLayer"]


class PrunableLayer(abc.ABC):
    """A layer of the user's own that says which of its weights can be pruned.

    Derive from it beside `keras.layers.Layer`, or only define the method: both are recognised.

    Example:
        >>> import keras
        >>> class Scale(keras.layers.Layer, PrunableLayer):
        ...     def build(self, shape):
        ...         self.scale = self.add_weight(shape=(shape[-1],))
        ...     def get_prunable_weights(self):
        ...         return [self.scale]
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[Any]:
        """The variables that are to be pruned, attributes of the layer."""
