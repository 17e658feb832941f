"""TensorFlow warns of "excessive tracings" where work on model after model compiles a function each time."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune import criteria, shrinking
from keras_aeprune.shrinking.compensation import compensate
from keras_aeprune.shrinking.cutting import cut
from keras_aeprune.shrinking.tracing import trace

TIMES = 7  # TensorFlow's limit is five
X = np.random.default_rng(0).random((48, 6), "float32")


@pytest.fixture
def heard(monkeypatch):
    """What TensorFlow's logger says."""
    records, handler = [], logging.Handler(logging.WARNING)
    monkeypatch.setattr(handler, "emit", lambda record: records.append(record.getMessage()))
    logger = tf.get_logger()
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def network():
    keras.utils.set_random_seed(0)
    layers = [kl.Dense(8, "relu", name="a"), kl.Dense(8, "relu", name="b"), kl.Dense(6, name="c")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile("adam", "mse")
    return model


def compensated():
    model = network()
    traced = trace(model)
    kept = traced.kept([traced.groups[0].classes[1]])
    compensate(model, cut(traced, kept), traced, kept, X)


@pytest.mark.parametrize("name", ["gradient_magnitude", "fisher", "wanda"])
def test_scoring_model_after_model_makes_no_warning(heard, name):
    for _ in range(TIMES):
        criteria.scores(network(), criteria.get(name), X)
    assert heard == []


def test_compensating_model_after_model_makes_no_warning(heard):
    for _ in range(TIMES):
        compensated()
    assert heard == []


def test_a_shrinking_of_many_rounds_makes_no_warning(heard):
    model = network()
    shrinking.shrink_until(model, X, target_params=40, max_error_increase=None, step=0.15, epochs=1)
    assert heard == []
