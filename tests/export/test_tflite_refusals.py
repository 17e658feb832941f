"""What cannot be exported is refused before the converter starts, in one line that says what to do."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_aeprune as kap
from keras_aeprune._validation import InputError, WrongKerasError
from keras_aeprune.export import convert
from keras_aeprune.export.inputs import inputs_of, samples


@pytest.fixture(autouse=True)
def no_converter(monkeypatch):
    def started(*args, **kwargs):
        raise AssertionError("the converter was started")

    monkeypatch.setattr(convert.subprocess, "run", started)


def refused(call, *words, error=InputError):
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


def model(*layers, shape=(4,)):
    return keras.Sequential([keras.Input(shape, name="x"), *layers])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


class Noise(kl.Layer):
    def __init__(self, seed, **options):
        super().__init__(**options)
        self.seed = seed

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


@pytest.mark.parametrize("seed", [3, "generator"])
def test_sampling_at_inference(path, seed):
    seed = keras.random.SeedGenerator(1) if seed == "generator" else seed
    sampling = model(kl.Dense(4), Noise(seed, name="sampling"))
    refused(lambda: kap.export.tflite(sampling, path), "keras.random", "sampling", "use the mean")


def test_layers_that_only_draw_in_training_are_not_refused(path):
    dropped = model(kl.Dense(4), kl.Dropout(0.5), kl.GaussianNoise(0.1))
    with pytest.raises(AssertionError, match="the converter was started"):
        kap.export.tflite(dropped, path)


def test_stateful_recurrent_layer(path):
    x = keras.Input(batch_shape=(1, 5, 2))
    stateful = keras.Model(x, kl.LSTM(3, stateful=True, name="memory")(x))
    refused(lambda: kap.export.tflite(stateful, path), "stateful layers: memory", "stateful=False")


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
def test_model_quantized_by_keras(path, mode):
    quantized = model(kl.Dense(4, name="hidden"))
    quantized.quantize(mode)
    refused(lambda: kap.export.tflite(quantized, path), "'hidden'", f"by Keras to {mode}", "quantize='int8'")


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_model_that_does_not_compute_in_float32(path, dtype):
    mixed = model(kl.Dense(4, dtype=dtype, name="half"))
    wanted = dtype.removeprefix("mixed_")
    refused(lambda: kap.export.tflite(mixed, path), "'half'", f"computes in {wanted}", "set_weights")


def test_model_that_is_not_built(path):
    refused(lambda: kap.export.tflite(keras.Sequential([kl.Dense(4)]), path), "not built", "call it once")

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = kl.Dense(2)

        def call(self, x):
            return self.dense(x)

    refused(lambda: kap.export.tflite(Own(), path), "'own'", "not built")


def test_subclassed_model_with_two_arguments(path):
    class Two(keras.Model):
        def __init__(self):
            super().__init__(name="two")
            self.dense = kl.Dense(2)

        def call(self, left, right):
            return self.dense(left) + self.dense(right)

    two = Two()
    two(np.ones((1, 3), "float32"), np.ones((1, 3), "float32"))
    refused(lambda: kap.export.tflite(two, path), "'two'", "TypeError", "right", "first argument")


def test_fixed_batch_of_several_samples(path):
    x = keras.Input(batch_shape=(8, 3))
    refused(lambda: kap.export.tflite(keras.Model(x, kl.Dense(2)(x)), path), "fixed batch of 8", "1 or None")


def test_another_thing_than_a_model(path):
    refused(lambda: kap.export.tflite("model.keras", path), "model.keras", error=WrongKerasError)


@pytest.mark.parametrize("name", ["model.onnx", "model", 7])
def test_path_without_the_suffix(tmp_path, name):
    place = tmp_path / name if isinstance(name, str) else name
    refused(lambda: kap.export.tflite(model(kl.Dense(2)), place), "ends in .tflite")


def test_path_that_is_a_folder_or_below_a_file(tmp_path):
    (tmp_path / "folder.tflite").mkdir()
    refused(lambda: kap.export.tflite(model(kl.Dense(2)), tmp_path / "folder.tflite"), "a folder of that name")
    (tmp_path / "file").write_text("")
    refused(
        lambda: kap.export.tflite(model(kl.Dense(2)), tmp_path / "file" / "a.tflite"),
        "nothing can be written",
    )


def test_two_precisions_for_one_path(tmp_path):
    paths = {None: tmp_path / "a.tflite", "float16": tmp_path / "x" / ".." / "a.tflite"}
    refused(lambda: kap.export.tflite_many(model(kl.Dense(2)), paths), "a different path")
    refused(lambda: kap.export.tflite_many(model(kl.Dense(2)), {}), "at least one entry")


def test_unknown_precision_lists_the_known_ones(path):
    refused(
        lambda: kap.export.tflite(model(kl.Dense(2)), path, quantize="int4"),
        "'int4'",
        "None, float32, float16, dynamic",
    )


def test_precision_that_is_no_name(path):
    refused(lambda: kap.export.tflite(model(kl.Dense(2)), path, quantize=["int8"]), "['int8']")


def test_unknown_way_to_fail(path):
    refused(lambda: kap.export.tflite_many(model(kl.Dense(2)), {None: path}, on_failure="ignore"), "raise, return")


X = np.zeros((5, 4), "float32")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, ["got None", "quantize='int8'", "x (n, 4)", "100 or more"]),
        (X[0], ["shape (4,)", "(n, 4)"]),
        (X[:0], ["shape (0, 4)", "n >= 1"]),
        (X.reshape(5, 2, 2), ["shape (5, 2, 2)"]),
        (np.where(np.arange(20).reshape(5, 4) == 6, np.nan, X), ["1 values that are NaN", "at (1, 2)"]),
        (np.full((5, 4), 1e300), ["20 values", "infinite as float32"]),
        (np.full((5, 4), "a"), ["type <U1", "numbers"]),
        ([X, X], ["shape (2, 5, 4)", "(n, 4)"]),
        ({"y": X}, ["['y']", "x (n, 4)"]),
        ([[1.0, 2.0], [1.0]], ["which is no array", "(n, 4)"]),
    ],
)
def test_calibration_data_that_does_not_fit(path, data, words):
    refused(lambda: kap.export.tflite(model(kl.Dense(2)), path, quantize="int8", data=data), *words)


def test_inputs_of_different_length():
    x, y = keras.Input((2,), name="x"), keras.Input((3,), name="y")
    both = inputs_of(keras.Model({"x": x, "y": y}, kl.Concatenate()([x, y])))
    refused(lambda: samples(both, {"x": np.ones((3, 2)), "y": np.ones((4, 3))}, seed=0), "the same number")


def test_open_sizes_and_whole_numbers_need_data():
    sequence = inputs_of(model(kl.LSTM(2), shape=(None, 3)))
    refused(lambda: samples(sequence, None, seed=0), "got None", "(n, any, 3)")
    assert samples(sequence, np.ones((2, 7, 3)), seed=0)["x"].shape == (2, 7, 3)
    tokens = keras.Input((4,), dtype="int32", name="tokens")
    embedded = inputs_of(keras.Model(tokens, kl.Embedding(9, 2)(tokens)))
    refused(lambda: samples(embedded, None, seed=0), "int32")
    refused(lambda: samples(embedded, np.full((2, 4), 0.5), seed=0), "whole numbers")
    assert samples(embedded, np.ones((2, 4)), seed=0)["tokens"].dtype == np.int32


def test_input_has_the_name_that_a_saved_model_keeps():
    unnamed = keras.Input((4,))
    (item,) = inputs_of(keras.Model(unnamed, kl.Dense(2)(unnamed))).items
    assert item.name == unnamed._keras_history.operation.name
    assert item.name.startswith("input_layer")


def test_names_that_tensorflow_would_change_are_changed_here():
    named = [keras.Input((2,), name=name) for name in ("a.b", "a-b", "1st")]
    items = inputs_of(keras.Model(named, kl.Concatenate()(named))).items
    assert [item.name for item in items] == ["a_b", "a_b_", "input_1st"]


def test_random_samples_follow_the_seed():
    inputs = inputs_of(model(kl.Dense(2)))
    first, same, other = (samples(inputs, None, seed=seed)["x"] for seed in (1, 1, 2))
    assert first.shape == (64, 4)
    assert first.dtype == np.float32
    assert 0 <= first.min() < first.max() < 1
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_cudnn_is_off_while_the_model_is_traced_and_back_afterwards(path, monkeypatch):
    lstm = kl.LSTM(2)
    recurrent = model(lstm, shape=(3, 2))
    seen = []
    call = kl.LSTM.call
    monkeypatch.setattr(kl.LSTM, "call", lambda self, *a, **k: seen.append(self.use_cudnn) or call(self, *a, **k))
    with pytest.raises(AssertionError, match="the converter was started"):
        kap.export.tflite(recurrent, path)
    assert seen
    assert not any(seen)
    assert lstm.use_cudnn == "auto"
