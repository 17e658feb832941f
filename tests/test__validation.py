import keras
import numpy as np
import pytest

from keras_aeprune._validation import (
    InputError,
    WrongKerasError,
    fraction,
    keras_model,
    one_of,
    positive_int,
    positive_number,
    shown,
)


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan"), float("inf"), "0.5", None, True])
def test_fractions_outside_their_range_are_refused(value):
    with pytest.raises(InputError, match=r"s: got .*, allowed: a fraction 0 <= s < 1"):
        fraction("s", value)


def test_fractions_inside_are_floats():
    assert fraction("s", 0) == 0.0
    assert fraction("s", np.float32(0.5)) == 0.5
    assert fraction("s", 1, high_open=False) == 1.0
    with pytest.raises(InputError, match="0 < s"):
        fraction("s", 0.0, low_open=True)


@pytest.mark.parametrize("value", [0, -1, 2.0, "3", True, None, 11])
def test_whole_numbers_outside_their_range_are_refused(value):
    with pytest.raises(InputError, match=r"n: got .*, allowed: a whole number >= 1 and <= 10"):
        positive_int("n", value, maximum=10)


def test_whole_numbers_of_numpy_are_taken():
    assert positive_int("n", np.int64(3)) == 3


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "1", True])
def test_numbers_that_are_not_positive_are_refused(value):
    with pytest.raises(InputError, match="t: got .*, allowed: a number > 0 of seconds"):
        positive_number("t", value, "of seconds")


def test_one_of_lists_what_is_allowed():
    with pytest.raises(InputError, match="color: got 'blue', allowed: red, green"):
        one_of("color", "blue", ("red", "green"))


def test_long_values_are_cut_to_one_line():
    text = shown("a\nb" * 100)
    assert "\n" not in text
    assert len(text) == 80


def test_a_keras_3_model_passes_and_nothing_else_does():
    import tf_keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert keras_model(model) is model
    with pytest.raises(WrongKerasError, match="a Sequential of tf_keras"):
        keras_model(tf_keras.Sequential())
    with pytest.raises(TypeError, match="got 3, allowed: a keras.Model"):
        keras_model(3)
