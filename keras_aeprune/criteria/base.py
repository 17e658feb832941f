"""What a criterion is, and what it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from keras_aeprune._layers import Weight
from keras_aeprune._registry import Registry
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration

__all__ = ["Criterion", "Evidence", "get", "names", "register", "serialize"]


@dataclass(frozen=True)
class Evidence:
    """What a criterion is shown: the model, the kernels to score, and data where there are any.

    Args:
        model: a built Keras model, with its weights as they are now.
        weights: the kernels to score.
        data: calibration samples; None where the caller gave none.
        loss: what the caller gave as loss=: a name, a `keras.losses.Loss` or a function; None takes the
            compiled one.

    Example:
        >>> from keras_aeprune._layers import weights
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="a")])
        >>> seen = Evidence(model, tuple(weights(model)))
        >>> [kernel.shape for kernel in seen.kernels], seen.data
        ([(2, 3)], None)
    """

    model: keras.Model
    weights: tuple[Weight, ...]
    data: Calibration | None = None
    loss: str | keras.losses.Loss | Callable[..., Any] | None = field(default=None)

    @property
    def samples(self) -> Calibration:
        """`data` for a criterion that cannot do without."""
        if self.data is None:
            raise InputError("data: got None, allowed: calibration samples")
        return self.data

    @cached_property
    def kernels(self) -> list[np.ndarray]:
        """The kernels' values as float32, in the order of `weights`."""
        return [
            keras.ops.convert_to_numpy(weight.variable).astype(np.float32, copy=False) for weight in self.weights
        ]


class Criterion:
    """Base class. Law: one array per kernel, of its shape, float32 and finite, higher means keep.

    A criterion that looks at weights alone implements `scores`. One that needs data sets `needs` and
    overrides `measure`. The constructor holds the configuration and nothing else; data is passed in the call.

    Attributes:
        needs: "weights", "gradients" (data and a loss) or "activations" (data).
        needs_data: whether `measure` must be given calibration data.

    Example:
        >>> class Spread(Criterion):
        ...     def scores(self, kernel, path):
        ...         return np.abs(kernel - kernel.mean())
        >>> Spread().scores(np.array([[1.0, 3.0, 8.0]]), "a/kernel").tolist()
        [[3.0, 1.0, 4.0]]
    """

    needs: str = "weights"

    @property
    def needs_data(self) -> bool:
        """Whether calibration data must be given; SynFlow needs gradients, but no data."""
        return self.needs != "weights"

    def scores(self, kernel: np.ndarray, path: str) -> np.ndarray:
        """Scores of one kernel from its weights alone.

        Args:
            kernel: the weights, float32.
            path: the kernel's whole path, for criteria that draw numbers per kernel.
        """
        raise NotImplementedError(f"{type(self).__name__} scores whole models, not single kernels")

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        """Scores of all kernels in `seen.weights`, in their order."""
        return [self.scores(kernel, w.path) for kernel, w in zip(seen.kernels, seen.weights, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


@runtime_checkable
class Compensating(Protocol):
    """A criterion that also says how the weights that stay make up for those that go."""

    def compensated(self, seen: Evidence, masks: list[np.ndarray]) -> list[np.ndarray]:
        """The kernels with the masked weights at zero and the others moved."""


_registry: Registry[Criterion] = Registry("criterion", Criterion)
register = _registry.register
names = _registry.names


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
