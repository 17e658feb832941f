"""Every schedule against every law: a new schedule is one row of MEMBERS."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune import _tfmot, schedules
from keras_aeprune._validation import InputError
from keras_aeprune.schedules import Timetable

MEMBERS = {
    "ConstantSparsity": {"target_sparsity": 0.9},
    "PolynomialDecay": {"initial_sparsity": 0.1, "final_sparsity": 0.9, "power": 2.5},
    "CosineDecay": {"initial_sparsity": 0.1, "final_sparsity": 0.9},
    "OneCycle": {"initial_sparsity": 0.1, "final_sparsity": 0.9, "alpha": 10.0, "beta": 3.0},
    "ExponentialDecay": {"initial_sparsity": 0.1, "final_sparsity": 0.9},
    "IterativeSteps": {"initial_sparsity": 0.1, "final_sparsity": 0.9, "stages": 7},
    "DenseSparseDense": {"sparsity": 0.9},
}
FINAL = {name: 0.0 if name == "DenseSparseDense" else 0.9 for name in MEMBERS}
RAMPS = [name for name, arguments in MEMBERS.items() if "initial_sparsity" in arguments]
STEPS = np.arange(0, 120)

every = pytest.mark.parametrize("name", MEMBERS)


def make(name, begin_step=13, end_step=100, frequency=10, **other):
    arguments = {**MEMBERS[name], **other}
    return getattr(schedules, name)(begin_step=begin_step, end_step=end_step, frequency=frequency, **arguments)


def scalars(schedule, steps=STEPS):
    """Each step in a call of its own."""
    found = [schedule(int(step)) for step in steps]
    return np.array([bool(due) for due, _ in found]), np.array([float(value) for _, value in found])


def test_the_table_has_every_schedule():
    known = {name for name in schedules.__all__ if isinstance(getattr(schedules, name), type)}
    assert {name for name in known if issubclass(getattr(schedules, name), schedules.Schedule)} == {
        *MEMBERS,
        "Ramp",
        "Schedule",
    }


@every
def test_it_is_a_schedule_of_tfmot(name):
    assert isinstance(make(name), _tfmot.PruningSchedule)


@every
@pytest.mark.parametrize("level", [0.0, 0.3, 0.9999999])
def test_every_value_is_a_fraction_below_one(name, level):
    extremes = {key: level for key in MEMBERS[name] if "sparsity" in key and not key.startswith("initial")}
    for schedule in (make(name), make(name, **extremes)):
        values = schedule(STEPS)[1].numpy()
        assert values.dtype == np.float32
        assert ((values >= 0) & (values < 1)).all()


@every
def test_a_vector_of_steps_gives_what_single_steps_give(name):
    due, values = make(name)(STEPS.reshape(2, 60))
    assert due.shape == values.shape == (2, 60)
    due_scalar, values_scalar = scalars(make(name))
    np.testing.assert_array_equal(due.numpy().ravel(), due_scalar)
    np.testing.assert_array_equal(values.numpy().ravel(), values_scalar.astype(np.float32))


@every
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_it_works_in_a_tf_function(name, compiled, dtype):
    schedule = make(name)
    traced = tf.function(schedule.__call__, jit_compile=compiled)
    due, values = traced(tf.constant(STEPS, dtype))
    np.testing.assert_array_equal(due, schedule(STEPS)[0])
    np.testing.assert_allclose(values, schedule(STEPS)[1], atol=1e-6)


@every
def test_masks_are_due_every_frequency_steps_and_at_the_last(name):
    due, _ = scalars(make(name))
    expected = {13, 23, 33, 43, 53, 63, 73, 83, 93, 100}
    if name == "DenseSparseDense":
        expected.add(56)  # the middle of 13 and 100, rounded down
    assert set(STEPS[due]) == expected


@every
def test_the_last_step_is_exactly_the_final_sparsity_and_stays_it(name):
    values = make(name)(STEPS)[1].numpy()
    assert (values[100:] == np.float32(FINAL[name])).all()
    table = Timetable(make(name), 119)
    assert table.final == FINAL[name]
    assert table.steps[-1] == 100
    assert table.latest(119) == FINAL[name]


@every
def test_the_configuration_is_plain_and_makes_an_equal_schedule(name):
    schedule = make(name)
    config = json.loads(json.dumps(schedule.get_config(), allow_nan=False))
    assert config == {
        "class_name": name,
        "config": {**MEMBERS[name], "begin_step": 13, "end_step": 100, "frequency": 10},
    }
    assert type(schedule).from_config(config) == schedule
    assert type(schedule).from_config(config["config"]) == schedule
    assert schedules.get(config) == schedule
    assert hash(schedules.get(config)) == hash(schedule)
    assert eval(repr(schedule), vars(schedules)) == schedule
    assert make(name, frequency=11) != schedule


@every
def test_numpy_arguments_become_plain_ones(name):
    numpy_like = {key: np.float64(value) for key, value in MEMBERS[name].items() if key != "stages"}
    schedule = make(name, np.int64(13), np.int32(100), np.int64(10), **numpy_like)
    assert schedule == make(name)
    json.dumps(schedule.get_config())


@every
def test_keras_serializes_and_deserializes_it(name):
    config = keras.saving.serialize_keras_object(make(name))
    assert keras.saving.deserialize_keras_object(config) == make(name)


@every
def test_begin_at_the_end_prunes_once_to_the_end_or_is_refused(name):
    if name == "DenseSparseDense":
        with pytest.raises(InputError, match=r"end_step: got 20, allowed: a whole number > begin_step 20"):
            make(name, 20, 20)
        return
    due, values = scalars(make(name, 20, 20))
    assert STEPS[due].tolist() == [20]
    assert values[20] == np.float32(FINAL[name])
    assert np.isfinite(values).all()


@every
def test_a_frequency_longer_than_the_training_leaves_the_first_and_the_last_step(name):
    due, _ = scalars(make(name, frequency=10_000))
    assert set(STEPS[due]) == {13, 100} | ({56} if name == "DenseSparseDense" else set())
    assert Timetable(make(name, frequency=10_000), 119).final == FINAL[name]


@every
def test_from_any_step_on_a_restarted_training_is_told_the_same(name):
    table = Timetable(make(name), 119)
    unbroken = [table.latest(step) for step in STEPS]
    assert [Timetable(make(name), 119).latest(step) for step in STEPS] == unbroken
    assert [Timetable(make(name)).latest(step) for step in STEPS] == unbroken  # length not known


@pytest.mark.parametrize("name", RAMPS)
def test_a_ramp_never_turns_back(name):
    rising = make(name, 0, 119)(STEPS)[1].numpy()
    assert (np.diff(rising) >= 0).all()
    falling = make(name, 0, 119, initial_sparsity=0.9, final_sparsity=0.1)(STEPS)[1].numpy()
    assert (np.diff(falling) <= 0).all()
    assert falling[-1] == np.float32(0.1)


WRONG = {
    "begin_step": (-1, 1.0, True, None, float("nan")),
    "end_step": (12, -1, 100.0, True, None, float("nan")),
    "frequency": (0, -1, 2.5, True, None, float("nan")),
    "sparsity": (-0.1, 1.0, 1.5, float("nan"), float("inf"), True, "0.9", None, 0.99999999),
    "power": (0, -1, float("nan"), float("inf"), "3"),
    "alpha": (0, float("nan"), float("inf")),
    "beta": (-0.1, 10.5, float("nan"), "6"),
    "stages": (0, 1.5, float("nan")),
}


@every
def test_arguments_outside_their_range_are_refused_with_what_is_allowed(name):
    for argument in [*MEMBERS[name], "begin_step", "end_step", "frequency"]:
        for wrong in WRONG["sparsity" if "sparsity" in argument else argument]:
            if name == "ConstantSparsity" and argument == "end_step" and wrong == -1:
                continue  # the end of the training
            with pytest.raises(InputError, match=rf"^{argument}: got .*, allowed: "):
                make(name, **{argument: wrong})


@every
def test_steps_that_are_not_whole_are_refused(name):
    with pytest.raises(InputError, match="step: got values of type float32, allowed: whole numbers"):
        make(name)(float("nan"))
