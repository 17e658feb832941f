import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune import _tfmot, schedules
from keras_aeprune._validation import InputError
from keras_aeprune.schedules import ConstantSparsity, PolynomialDecay, Timetable, automatic


def test_cubic_values_at_five_points():
    schedule = PolynomialDecay(0.0, 0.9, 0, 400)
    values = [float(schedule(step)[1]) for step in (0, 100, 200, 300, 400)]
    np.testing.assert_allclose(values, [0, 0.520313, 0.7875, 0.885938, 0.9], atol=1e-6)


def test_agrees_with_tfmot_at_every_step():
    arguments = (0.1, 0.8, 30, 230, 3, 20)
    ours, theirs = PolynomialDecay(*arguments), _tfmot.PolynomialDecay(*arguments)
    for step in range(0, 260):
        (due, value), (due_theirs, value_theirs) = ours(step), theirs(step)
        assert bool(due) == bool(due_theirs), step
        assert float(value) == pytest.approx(float(value_theirs), abs=1e-6)


def test_a_ramp_of_no_length_prunes_once_to_the_end():
    due, value = PolynomialDecay(0.0, 0.9, 10, 10)(10)
    assert bool(due)
    assert float(value) == pytest.approx(0.9)
    table = Timetable(_tfmot.PolynomialDecay(0.0, 0.9, 10, 10), 100)  # tfmot's own gives 0 / 0 here
    assert (table.steps.tolist(), table.final, table.final_step) == ([10], 0.9, 10)


@pytest.mark.parametrize("cls", [PolynomialDecay, _tfmot.PolynomialDecay])
def test_the_last_step_is_in_the_timetable_although_the_frequency_misses_it(cls):
    table = Timetable(cls(0.0, 0.5, 3, 99), 200)
    assert table.steps.tolist() == [3, 99]
    assert table.final == 0.5
    assert table.final_step == 99


@pytest.mark.parametrize("schedule", [PolynomialDecay(0.1, 0.9, 5, 50), ConstantSparsity(0.5, 7, 70, 3)])
def test_config_makes_an_equal_schedule(schedule):
    assert type(schedule).from_config(schedule.get_config()) == schedule
    assert schedules.get(schedule.get_config()) == schedule


def test_the_automatic_ramp_ends_inside_every_training():
    for total in (1, 2, 3, 7, 10, 99, 4680):
        schedule = automatic(0.9, total)
        assert 0 <= schedule.begin_step <= schedule.end_step <= total
        assert Timetable(schedule, total).final == 0.9


class Halves(_tfmot.PruningSchedule):
    """A schedule of the user's own: half of what is left at steps 10, 20, 30."""

    def __call__(self, step):
        due = tf.logical_and(tf.equal(tf.math.floormod(step, 10), 0), step > 0)
        return due, 1.0 - 0.5 ** tf.cast(tf.minimum(step // 10, 3), tf.float32)

    def get_config(self):
        return {}


def test_a_schedule_of_the_users_own_is_looked_up_step_by_step():
    table = Timetable(Halves(), 45)
    assert table.steps.tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(table.values, [0.5, 0.75, 0.875, 0.875])
    assert table.final_step == 30
    assert table.latest(9) is None
    assert table.latest(25) == 0.75
    assert table.next_after(30) == 40
    assert table.next_after(40) is None


def test_without_a_known_length_the_timetable_grows_with_the_training():
    table = Timetable(ConstantSparsity(0.5, 9000, frequency=5000))
    assert table.latest(8999) is None
    assert table.latest(20000) == 0.5
    assert table.next_after(20000) == 24000
    assert table.final_step == 9000


def test_a_schedule_that_gives_no_fraction_is_refused():
    class Wrong(Halves):
        def __call__(self, step):
            return tf.equal(step, 5), tf.constant(1.5)

    with pytest.raises(InputError, match=r"got sparsity 1\.5 at step 5"):
        Timetable(Wrong(), 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PolynomialDecay(0, 1.0, 0, 10),
        lambda: PolynomialDecay(-0.1, 0.5, 0, 10),
        lambda: PolynomialDecay(0, 0.5, 10, 9),
        lambda: PolynomialDecay(0, 0.5, -1, 9),
        lambda: PolynomialDecay(0, 0.5, 0, -1),
        lambda: PolynomialDecay(0, 0.5, 0, 9, frequency=0),
        lambda: ConstantSparsity(float("nan"), 0),
        lambda: ConstantSparsity(0.5, 0, frequency=2.5),
        lambda: schedules.get("cubic"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_allowed(make):
    with pytest.raises(InputError, match=r"got .*, allowed: "):
        make()


def test_schedules_are_tfmot_schedules_and_keras_stays_keras_3():
    assert isinstance(automatic(0.5, 10), _tfmot.PruningSchedule)
    assert tf.keras.Model is keras.Model
