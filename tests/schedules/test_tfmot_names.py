import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune import _tfmot
from keras_aeprune.schedules import ConstantSparsity, PolynomialDecay, Timetable, automatic


def test_cubic_values_at_five_points():
    schedule = PolynomialDecay(0.0, 0.9, 0, 400)
    values = [float(schedule(step)[1]) for step in (0, 100, 200, 300, 400)]
    np.testing.assert_allclose(values, [0, 0.520313, 0.7875, 0.885938, 0.9], atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [
        (PolynomialDecay, _tfmot.PolynomialDecay, (0.1, 0.8, 30, 230, 3, 20)),
        (PolynomialDecay, _tfmot.PolynomialDecay, (0.8, 0.1, 0, 200, 0.5, 50)),
        (ConstantSparsity, _tfmot.ConstantSparsity, (0.7, 30, 230, 20)),
        (ConstantSparsity, _tfmot.ConstantSparsity, (0.7, 30, -1, 20)),
    ],
)
def test_agrees_with_tfmot_at_every_step(ours, theirs, arguments):
    mine, other = ours(*arguments), theirs(*arguments)
    for step in range(0, 260):
        (due, value), (due_theirs, value_theirs) = mine(step), other(step)
        assert bool(due) == bool(due_theirs), step
        assert float(value) == pytest.approx(float(value_theirs), abs=1e-6)


def test_configurations_are_those_of_tfmot():
    for ours, theirs in (
        (ConstantSparsity(0.5, 7, 70, 3), _tfmot.ConstantSparsity(0.5, 7, 70, 3)),
        (PolynomialDecay(0.1, 0.5, 7, 70, 2, 3), _tfmot.PolynomialDecay(0.1, 0.5, 7, 70, 2, 3)),
    ):
        assert isinstance(ours, type(theirs))
        assert ours.get_config() == theirs.get_config()
        assert type(ours).from_config(theirs.get_config()) == ours


def test_a_ramp_of_no_length_prunes_once_to_the_end():
    due, value = PolynomialDecay(0.0, 0.9, 10, 10)(10)
    assert bool(due)
    assert float(value) == pytest.approx(0.9)
    table = Timetable(_tfmot.PolynomialDecay(0.0, 0.9, 10, 10), 100)  # tfmot's own gives 0 / 0 here
    assert (table.steps.tolist(), table.final, table.final_step) == ([10], 0.9, 10)


def test_the_last_step_is_applied_although_the_frequency_misses_it_and_not_by_tfmot():
    arguments = (0.0, 0.5, 3, 99)
    assert bool(PolynomialDecay(*arguments)(99)[0])
    assert not bool(_tfmot.PolynomialDecay(*arguments)(99)[0])


def test_schedules_are_tfmot_schedules_and_keras_stays_keras_3():
    assert isinstance(automatic(0.5, 10), _tfmot.PruningSchedule)
    assert tf.keras.Model is keras.Model
