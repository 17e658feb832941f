import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.criteria import Magnitude, Random

KERNEL = np.array([[-3.0, 0.5], [0.0, 2.0]], "float32")


def test_magnitude_of_both_orders():
    np.testing.assert_array_equal(Magnitude().scores(KERNEL, "k"), [[3.0, 0.5], [0.0, 2.0]])
    np.testing.assert_array_equal(Magnitude(order=2).scores(KERNEL, "k"), [[9.0, 0.25], [0.0, 4.0]])


def test_magnitude_has_two_orders_only():
    with pytest.raises(InputError, match="order: got 3, allowed: 1, 2"):
        Magnitude(order=3)


def test_random_depends_on_seed_and_path_and_puts_zeros_last():
    base = Random(seed=1).scores(KERNEL, "a")
    assert (base == Random(seed=1).scores(KERNEL, "a")).all()
    assert (base != Random(seed=2).scores(KERNEL, "a"))[KERNEL != 0].all()
    assert (base != Random(seed=1).scores(KERNEL, "b"))[KERNEL != 0].all()
    assert base[1, 0] == -1
    assert base.dtype == np.float32
