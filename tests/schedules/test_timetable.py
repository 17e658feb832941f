import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune import _tfmot
from keras_aeprune._validation import InputError
from keras_aeprune.schedules import (
    ConstantSparsity,
    CosineDecay,
    DenseSparseDense,
    IterativeSteps,
    PolynomialDecay,
    Ramp,
    Timetable,
    relative,
    timetable,
)


class Halves(_tfmot.PruningSchedule):
    """A schedule of the user's own: half of what is left at steps 10, 20, 30."""

    def __call__(self, step):
        due = tf.logical_and(tf.equal(tf.math.floormod(step, 10), 0), step > 0)
        return due, 1.0 - 0.5 ** tf.cast(tf.minimum(step // 10, 3), tf.float32)

    def get_config(self):
        return {}


@pytest.mark.parametrize("cls", [PolynomialDecay, _tfmot.PolynomialDecay])
def test_the_last_step_is_in_the_timetable_although_the_frequency_misses_it(cls):
    table = Timetable(cls(0.0, 0.5, 3, 99), 200)
    assert table.steps.tolist() == [3, 99]
    assert table.final == 0.5
    assert table.final_step == 99


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


@pytest.mark.parametrize("schedule", [Halves(), ConstantSparsity(0.5, 9, frequency=5000)])
def test_a_restart_far_into_a_training_of_unknown_length_finds_what_was_there(schedule, monkeypatch):
    monkeypatch.setattr(timetable, "_CHUNK", 16)
    unbroken = Timetable(schedule)
    told = [(unbroken.latest(step), unbroken.next_after(step)) for step in range(70)]
    restarted = Timetable(schedule)
    assert [(restarted.latest(step), restarted.next_after(step)) for step in range(50, 70)] == told[50:]


def test_steps_looked_up_in_pieces_are_those_looked_up_at_once(monkeypatch):
    schedule = CosineDecay(0.0, 0.9, 5, 95, frequency=7)
    whole = Timetable(schedule)
    monkeypatch.setattr(timetable, "_PIECE", 10)
    pieces = Timetable(schedule)
    np.testing.assert_array_equal(pieces.steps, whole.steps)
    np.testing.assert_array_equal(pieces.values, whole.values)


def test_sparsities_are_given_as_written_and_not_as_float32():
    assert Timetable(DenseSparseDense(0.9, 0, 100)).latest(50) == 0.9
    assert Timetable(PolynomialDecay(0.1, 0.7, 0, 100)).values.tolist() == [0.1, 0.7]
    assert Timetable(IterativeSteps(0.0, 0.7, 0, 9, frequency=1)).final_step == 7


class Counting(Ramp):
    shapes = ()

    def sparsity_after(self, done, length):
        Counting.shapes += (tuple(done.shape),)
        return self.initial_sparsity + self.rise * (done / length)


def test_elementwise_schedules_are_asked_once_for_all_steps():
    assert Timetable(Counting(0.0, 0.5, 0, 5000, frequency=1000)).latest(2500) == pytest.approx(0.2)
    assert Counting.shapes == ((5001,),)


@pytest.mark.parametrize(
    "theirs",
    [_tfmot.PolynomialDecay(0.1, 0.8, 3, 40, 3, 6), _tfmot.ConstantSparsity(0.8, 3, 40, 6)],
    ids=lambda one: type(one).__name__,
)
def test_tfmots_own_are_asked_once_and_say_what_they_say_step_by_step(theirs, monkeypatch):
    steps = np.arange(50)
    due, values = (tensor.numpy() for tensor in timetable._one_by_one(theirs, steps))
    monkeypatch.delattr(timetable, "_one_by_one")
    at_once = timetable.evaluate(theirs, steps)
    np.testing.assert_array_equal(at_once[0], due)
    np.testing.assert_allclose(at_once[1], values, atol=1e-6)


def test_a_subclass_of_tfmots_that_branches_on_the_step_is_looked_up_step_by_step():
    class Late(_tfmot.PolynomialDecay):
        def __call__(self, step):
            return tf.cond(step < 5, lambda: (tf.constant(False), tf.constant(0.0)), lambda: super_call(step))

    def super_call(step):
        return _tfmot.PolynomialDecay.__call__(late, step)

    late = Late(0.0, 0.5, 0, 10, frequency=1)
    assert Timetable(late).steps.tolist() == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("value", [1.5, 1.0, -0.25, float("nan")])
def test_a_schedule_that_gives_no_fraction_is_refused(value):
    class Wrong(Halves):
        end_step = 5
        final_sparsity = 0.5

        def __call__(self, step):
            return tf.equal(step, 5), tf.constant(value)

    with pytest.raises(InputError, match=rf"got sparsity {value} at step 5, allowed: a fraction 0 <= s < 1"):
        Timetable(Wrong(), 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Timetable(relative("CosineDecay", 0.5), 10),
        lambda: Timetable(0.9, 10),
        lambda: Timetable(ConstantSparsity(0.5, 0), -1),
        lambda: Timetable(ConstantSparsity(0.5, 0), float("nan")),
    ],
)
def test_what_cannot_be_looked_up_is_refused(make):
    with pytest.raises(InputError, match=r"got .*, allowed: "):
        make()
