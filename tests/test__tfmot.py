import os

import keras
import tensorflow as tf

from keras_aeprune import _tfmot


def test_the_schedules_are_tfmots_own_and_nothing_was_changed():
    assert _tfmot.PruningSchedule.__module__.startswith("tensorflow_model_optimization")
    assert issubclass(_tfmot.PolynomialDecay, _tfmot.PruningSchedule)
    assert issubclass(_tfmot.ConstantSparsity, _tfmot.PruningSchedule)
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert tf.keras.Model is keras.Model
