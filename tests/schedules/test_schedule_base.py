import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.schedules import CosineDecay, PolynomialDecay, Ramp, Schedule, base


class Square(Ramp):
    def sparsity_after(self, done, length):
        return self.initial_sparsity + self.rise * (done / length) ** 2


def test_a_ramp_of_the_users_own_needs_one_method_only():
    schedule = Square(0.2, 0.6, 10, 30, frequency=8)
    due, values = schedule(np.arange(40))
    assert np.flatnonzero(due).tolist() == [10, 18, 26, 30]
    np.testing.assert_allclose(
        values.numpy()[[0, 10, 20, 25, 30, 39]], [0.2, 0.2, 0.3, 0.425, 0.6, 0.6], atol=1e-6
    )
    assert Square.from_config(schedule.get_config()) == schedule


def test_base_classes_are_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Ramp(0.0, 0.5, 0, 9)
    with pytest.raises(TypeError, match="abstract"):
        Schedule()


def test_schedules_of_two_classes_are_not_equal():
    assert CosineDecay(0.0, 0.5, 0, 9) != Square(0.0, 0.5, 0, 9)
    assert PolynomialDecay(0.0, 0.5, 0, 9) != "PolynomialDecay"
    assert len({CosineDecay(0.0, 0.5, 0, 9), CosineDecay(0.0, 0.5, 0, 9), CosineDecay(0.0, 0.5, 0, 8)}) == 2


def test_steps_beyond_the_reach_of_float32_and_int32_keep_their_place():
    far = 2**31 - 5
    values = Square(0.0, 0.5, far, far + 10)(np.arange(far, far + 11))[1].numpy()
    np.testing.assert_allclose(values, 0.5 * np.linspace(0, 1, 11) ** 2, atol=1e-6)


def test_a_sparsity_that_float32_rounds_to_one_is_refused():
    assert base.checked_sparsity("s", 0.9999999) == 0.9999999
    with pytest.raises(InputError, match="s: got 0.99999999, allowed: .*float32"):
        base.checked_sparsity("s", 0.99999999)


def test_a_name_belongs_to_one_class():
    with pytest.raises(InputError, match="'CosineDecay' is already registered"):
        base.register("CosineDecay")(Square)
