"""What a criterion is."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_aeprune._registry import Registry

__all__ = ["Criterion", "get", "register", "serialize"]


class Criterion:
    """Base class: scores weights; its law is in `scores`.

    The constructor holds the configuration and nothing else; data is passed in the call.
    """

    def scores(self, kernel: np.ndarray, path: str) -> np.ndarray:
        """Scores of the kernel's shape, finite, higher means keep.

        Args:
            kernel: the weights, float32.
            path: the kernel's whole path, for criteria that draw numbers per kernel.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


_registry: Registry[Criterion] = Registry("criterion", Criterion)
register = _registry.register


def get(identifier: Any) -> Criterion:
    """A criterion from its name ("magnitude"), its serialized dict, its class or itself.

    Example:
        >>> get("magnitude")
        Magnitude(order=1)
    """
    return _registry.get(identifier)


def serialize(criterion: Criterion) -> dict[str, Any]:
    """The dict from which `get` makes an equal criterion.

    Example:
        >>> serialize(get("magnitude"))
        {'class_name': 'magnitude', 'config': {'order': 1}}
    """
    return _registry.serialize(criterion)
