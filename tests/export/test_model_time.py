"""The time of a model that is not a file yet."""

import keras
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.export import benchmark, latency, tflite


def test_a_much_larger_model_takes_longer_and_about_as_long_as_its_file(tmp_path):
    small, large = (keras.Sequential([keras.Input((n,)), keras.layers.Dense(n)]) for n in (16, 1024))
    by_file = benchmark(tflite(large, tmp_path / "m.tflite").path, runs=50)[0].median_us
    found = latency(large, runs=50)
    assert by_file / 10 < found < 10 * by_file
    assert latency(small, runs=50) < found


def test_int8_without_data_is_refused():
    with pytest.raises(InputError, match="data"):
        latency(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), quantize="int8")
