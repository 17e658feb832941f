import numpy as np
import pytest

from keras_aeprune import _tfmot, schedules
from keras_aeprune._validation import InputError
from keras_aeprune.schedules import ConstantSparsity, CosineDecay, PolynomialDecay, base, get, relative

RAMP = {"initial_sparsity": 0.0, "final_sparsity": 0.5, "begin_step": 0, "end_step": 9}


@pytest.mark.parametrize(
    "schedule",
    [PolynomialDecay(0.1, 0.9, 5, 50), _tfmot.PolynomialDecay(0.1, 0.9, 5, 50), relative("OneCycle", 0.9)],
    ids=lambda schedule: type(schedule).__module__,
)
def test_what_is_a_schedule_already_is_given_back(schedule):
    assert get(schedule) is schedule


def test_names_classes_and_configurations_make_equal_schedules():
    expected = CosineDecay(**RAMP)
    assert get("CosineDecay", **RAMP) == get(CosineDecay, **RAMP) == get(expected.get_config()) == expected


def test_the_configuration_of_a_schedule_of_tfmot_makes_ours():
    assert get(_tfmot.ConstantSparsity(0.5, 7, 70, 3).get_config()) == ConstantSparsity(0.5, 7, 70, 3)


def test_a_registered_schedule_of_the_users_own_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(base.registry, "_members", dict(base.registry._members))

    @schedules.register("straight")
    class Straight(schedules.Ramp):
        def sparsity_after(self, done, length):
            return self.initial_sparsity + self.rise * (done / length)

    made = get("straight", **RAMP)
    assert made.get_config() == {"class_name": "straight", "config": {**RAMP, "frequency": 100}}
    assert get(made.get_config()) == made
    found = relative("straight", 0.5, begin=0, end=1, updates=2).resolve(8)
    np.testing.assert_allclose(found(np.arange(9))[1], np.arange(9) / 16)
    with pytest.raises(InputError, match="straight"):
        get("cubic")


@pytest.mark.parametrize(
    ("wrong", "arguments"),
    [
        ("cubic", {}),
        ("Relative", {}),
        ("CosineDecay", {}),
        ("CosineDecay", {**RAMP, "power": 3}),
        (CosineDecay(**RAMP), RAMP),
        (dict, {}),
        (_tfmot.PolynomialDecay, RAMP),
        (None, {}),
        (float("nan"), {}),
        ({}, {}),
        ({"class_name": "CosineDecay"}, {}),
        ({"class_name": "CosineDecay", "config": {}}, {}),
        ({"class_name": "CosineDecay", "config": {1: 2}}, {}),
        ({"class_name": "Relative", "config": {"schedule": "CosineDecay"}}, {}),
        ({"class_name": ["CosineDecay"], "config": {}}, {}),
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(wrong, arguments):
    with pytest.raises(InputError, match=r": got .*, allowed: "):
        get(wrong, **arguments)


def test_a_configuration_without_arguments_is_told_where_one_comes_from():
    with pytest.raises(InputError, match="got {'class_name': 'CosineDecay'}, allowed: .*get_config"):
        get({"class_name": "CosineDecay"})


def test_a_name_without_its_arguments_is_told_which_it_needs():
    with pytest.raises(InputError, match="CosineDecay: .*allowed: initial_sparsity, final_sparsity, begin_step"):
        get("CosineDecay")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="ConstantSparsity, CosineDecay, DenseSparseDense, .*PolynomialDecay"):
        get("cubic")
