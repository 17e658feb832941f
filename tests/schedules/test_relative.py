import copy
import dataclasses
import json
import pickle

import keras
import pytest

from keras_aeprune import schedules
from keras_aeprune._validation import InputError
from keras_aeprune.schedules import (
    ConstantSparsity,
    CosineDecay,
    DenseSparseDense,
    PolynomialDecay,
    Ramp,
    Relative,
    Timetable,
    automatic,
    relative,
)

NAMES = (
    "ConstantSparsity",
    "PolynomialDecay",
    "CosineDecay",
    "OneCycle",
    "ExponentialDecay",
    "IterativeSteps",
    "DenseSparseDense",
)
TOTALS = (1, 2, 3, 7, 10, 99, 1000, 4680)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("updates", [1, 3, 64])
def test_every_schedule_ends_inside_every_training_at_its_final_sparsity(name, updates):
    for total in TOTALS:
        for begin, end in ((None, None), (0, 1), (0.3, 1.0), (0.1, 0.9)):
            if name == "DenseSparseDense" and (begin, total) == (0.1, 1):
                end = 1  # no room for a way up and down before
            schedule = relative(name, 0.8, begin=begin, end=end, updates=updates).resolve(total)
            assert type(schedule).__name__ == name
            assert 0 <= schedule.begin_step <= schedule.end_step <= total
            table = Timetable(schedule, total)
            assert table.latest(total) == (0.0 if name == "DenseSparseDense" else 0.8)
            assert len(table.steps) <= updates + 1 + (name == "DenseSparseDense")


@pytest.mark.parametrize(
    ("arguments", "total", "per_epoch", "expected"),
    [
        ({}, 1000, None, (100, 600, 8)),
        ({"begin": 0.25, "end": 0.75}, 1000, None, (250, 750, 8)),
        (
            {"begin": 0.29, "end": 0.57},
            100,
            None,
            (29, 57, 1),
        ),  # 0.29 * 100 and 0.57 * 100 are below in floats
        ({"begin": 0, "end": 0}, 1000, None, (0, 0, 1)),
        ({"begin": 1, "end": 1}, 1000, 10, (1000, 1000, 1)),
        ({"begin": 2, "end": 8, "unit": "epochs"}, 1000, 100, (200, 800, 10)),
        ({"begin": 0.5, "end": 10, "unit": "epochs", "updates": 10}, 1000, 100, (50, 1000, 95)),
        ({"begin": 1e-05, "end": 0.5, "updates": 1}, 999, None, (0, 500, 500)),
    ],
)
def test_begin_end_and_frequency_in_steps(arguments, total, per_epoch, expected):
    schedule = relative(PolynomialDecay, 0.9, **arguments).resolve(total, per_epoch)
    assert (schedule.begin_step, schedule.end_step, schedule.frequency) == expected


def test_the_sparsity_goes_where_the_schedule_has_it():
    assert relative("ConstantSparsity", 0.5).resolve(100) == ConstantSparsity(0.5, 10, 60, 1)
    assert relative(CosineDecay, 0.5).resolve(100) == CosineDecay(0.0, 0.5, 10, 60, frequency=1)
    assert relative("DenseSparseDense", 0.5).resolve(100) == DenseSparseDense(0.5, 10, 60, frequency=1)


def test_other_arguments_reach_the_schedule():
    made = relative("PolynomialDecay", 0.9, initial_sparsity=0.5, power=1).resolve(100)
    assert made == PolynomialDecay(0.5, 0.9, 10, 60, power=1, frequency=1)
    assert relative("IterativeSteps", 0.9, stages=5).resolve(100).stages == 5
    assert relative("OneCycle", 0.9, alpha=20, beta=5).resolve(100).beta == 5


def test_the_automatic_ramp_ends_inside_every_training():
    for total in TOTALS:
        schedule = automatic(0.9, total)
        assert 0 <= schedule.begin_step <= schedule.end_step <= total
        assert Timetable(schedule, total).final == 0.9


def test_the_automatic_ramp_is_a_tenth_to_six_tenths_in_64_updates():
    for total in range(1, 3000, 7):
        end = round(0.6 * total)
        frequency = -(-(end - total // 10) // 64)
        assert automatic(0.9, total) == PolynomialDecay(0, 0.9, total // 10, end, frequency=max(1, frequency))


@pytest.mark.parametrize(
    "made",
    [
        relative("PolynomialDecay", 0.9),
        relative("IterativeSteps", 0.9, begin=1, end=5, unit="epochs", updates=3, stages=5),
        relative("DenseSparseDense", 0.5, begin=0, end=1),
    ],
    ids=lambda made: made.schedule,
)
def test_it_survives_json_copies_pickle_and_its_own_repr(made):
    config = json.loads(json.dumps(made.get_config(), allow_nan=False))
    assert Relative.from_config(config) == made
    assert schedules.get(config) == made
    assert schedules.get(made) is made
    assert copy.deepcopy(made) == made == pickle.loads(pickle.dumps(made))
    assert eval(repr(made), vars(schedules)) == made
    assert hash(Relative.from_config(config)) == hash(made)
    serialized = keras.saving.serialize_keras_object(made)
    assert keras.saving.deserialize_keras_object(serialized) == made


def test_its_configuration_is_what_it_was_given_with_the_defaults():
    assert relative(PolynomialDecay, 0.9, power=2).get_config() == {
        "class_name": "Relative",
        "config": {
            "schedule": "PolynomialDecay",
            "sparsity": 0.9,
            "begin": 0.1,
            "end": 0.6,
            "unit": "training",
            "updates": 64,
            "initial_sparsity": 0.0,
            "power": 2.0,
        },
    }


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        relative("CosineDecay", 0.9).begin = 0.5


class Unnamed(Ramp):
    def sparsity_after(self, done, length):
        return self.final_sparsity + 0 * (done / length)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("begin", lambda: relative("CosineDecay", 0.9, begin=-0.1)),
        ("begin", lambda: relative("CosineDecay", 0.9, begin=NAN)),
        ("begin", lambda: relative("CosineDecay", 0.9, begin=True)),
        ("begin", lambda: relative("CosineDecay", 0.9, begin=1.1, end=1.2)),
        ("end", lambda: relative("CosineDecay", 0.9, end=1.01)),
        ("end", lambda: relative("CosineDecay", 0.9, end=NAN)),
        ("end", lambda: relative("CosineDecay", 0.9, end=INF)),
        ("end", lambda: relative("CosineDecay", 0.9, begin=0.5, end=0.4)),
        ("end", lambda: relative("CosineDecay", 0.9, begin=0, end="1")),
        ("begin", lambda: relative("CosineDecay", 0.9, unit="epochs")),
        ("begin", lambda: relative("CosineDecay", 0.9, end=3, unit="epochs")),
        ("end", lambda: relative("CosineDecay", 0.9, begin=3, unit="epochs")),
        ("end", lambda: relative("CosineDecay", 0.9, begin=0, end=INF, unit="epochs")),
        ("unit", lambda: relative("CosineDecay", 0.9, unit="steps")),
        ("updates", lambda: relative("CosineDecay", 0.9, updates=0)),
        ("updates", lambda: relative("CosineDecay", 0.9, updates=INF)),
        ("sparsity", lambda: relative("CosineDecay", 1.0)),
        ("sparsity", lambda: relative("CosineDecay", NAN)),
        ("initial_sparsity", lambda: relative("CosineDecay", 0.9, initial_sparsity=NAN)),
        ("power", lambda: relative("PolynomialDecay", 0.9, power=0)),
        ("arguments", lambda: relative("CosineDecay", 0.9, power=3)),
        ("arguments", lambda: relative("CosineDecay", 0.9, begin_step=3)),
        ("arguments", lambda: relative("CosineDecay", 0.9, final_sparsity=0.3)),
        ("schedule", lambda: relative("cubic", 0.9)),
        ("schedule", lambda: relative(Unnamed, 0.9)),
        ("schedule", lambda: relative(schedules.PruningSchedule, 0.9)),
        ("end_step", lambda: relative("DenseSparseDense", 0.9, begin=0.5, end=0.5)),
        ("total_steps", lambda: relative("CosineDecay", 0.9).resolve(0)),
        ("total_steps", lambda: relative("CosineDecay", 0.9).resolve(None)),
        ("total_steps", lambda: automatic(0.9, NAN)),
        ("sparsity", lambda: automatic(1.0, 100)),
        ("steps_per_epoch", lambda: relative("CosineDecay", 0.9, begin=0, end=3, unit="epochs").resolve(90)),
        (
            "steps_per_epoch",
            lambda: relative("CosineDecay", 0.9, begin=0, end=3, unit="epochs").resolve(9, 0),
        ),
    ],
)
def test_what_is_out_of_range_is_refused_with_what_is_allowed(argument, make):
    with pytest.raises(InputError, match=rf"^{argument}: got .*, allowed: "):
        make()


@pytest.mark.parametrize("called", ["Unnamed", "CosineDecay"])
def test_a_schedule_without_a_name_is_told_how_to_get_one_and_not_taken_for_another(called):
    with pytest.raises(InputError, match=r"schedule: got .*, allowed: a class decorated with register\(name\)"):
        relative(type(called, (Unnamed,), {}), 0.9)


def test_epochs_after_the_end_of_the_training_are_refused_and_not_cut():
    made = relative("CosineDecay", 0.9, begin=1, end=12, unit="epochs")
    with pytest.raises(InputError, match=r"end: got 12\.0 epochs of 100 steps, allowed: at most the 1000 steps"):
        made.resolve(1000, 100)
    assert made.resolve(1200, 100).end_step == 1200
