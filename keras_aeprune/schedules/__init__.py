"""When to prune, and how much by then: step -> (prune now?, sparsity).

Every schedule here is a `tfmot.sparsity.keras.PruningSchedule`: it works inside tfmot, and tfmot's own
schedules work in `keras_aeprune.Prune`. Steps are optimizer updates: step t is the state after t updates.
`get` makes one from a name or a configuration, `relative` one in epochs or fractions of the training, and
`plot` shows what will be applied.

tfmot copies and loads wrapped layers by class name. For the schedules that tfmot does not have, do so inside
`tf_keras.utils.custom_object_scope({"CosineDecay": CosineDecay})`.
"""

from keras_aeprune.schedules.base import PruningSchedule, Ramp, Schedule, register
from keras_aeprune.schedules.lookup import get
from keras_aeprune.schedules.plot import plot
from keras_aeprune.schedules.ramps import (
    CosineDecay,
    DenseSparseDense,
    ExponentialDecay,
    IterativeSteps,
    OneCycle,
)
from keras_aeprune.schedules.relative import Relative, automatic, relative
from keras_aeprune.schedules.tfmot_names import ConstantSparsity, PolynomialDecay
from keras_aeprune.schedules.timetable import Timetable

__all__ = [
    "ConstantSparsity",
    "CosineDecay",
    "DenseSparseDense",
    "ExponentialDecay",
    "IterativeSteps",
    "OneCycle",
    "PolynomialDecay",
    "PruningSchedule",
    "Ramp",
    "Relative",
    "Schedule",
    "Timetable",
    "automatic",
    "get",
    "plot",
    "register",
    "relative",
]
