"""The only import of tensorflow_model_optimization (tfmot), and it leaves no trace.

tfmot writes `TF_USE_LEGACY_KERAS=1` into the environment when it is imported. If nobody has touched
`tf.keras` by then, `tf.keras` turns into Keras 2 for the whole process, and every subprocess inherits the
variable. So `tf.keras` is touched first, and the variable is put back afterwards.
"""

import os

import tensorflow as tf

_VARIABLE = "TF_USE_LEGACY_KERAS"

_before = os.environ.get(_VARIABLE)
_ = tf.keras.layers  # binds tf.keras to the Keras that the process has chosen
try:
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_schedule import (
        ConstantSparsity,
        PolynomialDecay,
        PruningSchedule,
    )
finally:
    if _before is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = _before

__all__ = ["ConstantSparsity", "PolynomialDecay", "PruningSchedule"]
