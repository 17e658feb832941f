"""What holds a mask on a variable, and what takes it off."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_aeprune._layers import weights
from keras_aeprune._validation import keras_model

__all__ = ["MaskConstraint", "release"]


class MaskConstraint(keras.constraints.Constraint):
    """A variable's constraint that sets masked weights to zero, after the constraint the user had.

    Keras' optimizers apply it inside the compiled train step, right after the update. It lives on the
    variable and not in the layer's configuration, so a saved model knows nothing of it.

    Args:
        mask: boolean variable of the weight's shape, True where the weight is kept.
        inner: the constraint that was there before, or None.

    Example:
        >>> MaskConstraint(tf.constant([True, False]))(tf.constant([3.0, 4.0])).numpy().tolist()
        [3.0, 0.0]
    """

    def __init__(self, mask: Any, inner: Any = None):
        self.mask = mask
        self.inner = inner

    def __call__(self, w: Any) -> Any:
        w = tf.convert_to_tensor(w if self.inner is None else self.inner(w))
        return tf.where(tf.convert_to_tensor(self.mask), w, tf.zeros((), w.dtype))


def release(model: keras.Model) -> int:
    """Take all masks off a model, so that its zeros may train again.

    The weights stay as they are, zeros included; constraints that the user had are put back.

    Args:
        model: a Keras model that was pruned in this process.

    Returns:
        How many kernels were released.

    Example:
        >>> from keras_aeprune.sparsity import Pruner
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
