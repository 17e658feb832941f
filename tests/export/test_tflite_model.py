"""TFLiteModel predicts like the model, sample by sample, and keeps no memory between samples."""

import os

import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune._validation import InputError
from keras_aeprune.export import TFLiteModel
from keras_aeprune.export.verify import difference


def write(path, function, *specs):
    concrete = tf.function(function, input_signature=specs).get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


@pytest.fixture(scope="module")
def affine(tmp_path_factory):
    """y = 2 x + 1 on rows of three."""
    return write(
        tmp_path_factory.mktemp("files") / "affine.tflite",
        lambda x: 2 * x + 1,
        tf.TensorSpec((1, 3), name="x"),
    )


def test_predicts_every_sample(affine):
    x = np.arange(15.0).reshape(5, 3)
    for batch in (1, 2, 5, 9):
        np.testing.assert_array_equal(TFLiteModel(affine).predict(x, batch=batch), 2 * x + 1)
    model = TFLiteModel(affine, threads=2)
    np.testing.assert_array_equal(model.predict(x, batch=3), model.predict(x))
    assert model.predict(x).dtype == np.float32


def test_describes_its_inputs(affine):
    model = TFLiteModel(affine)
    assert model.input_shapes == {"x": (1, 3)}
    assert model.input_dtypes == {"x": np.dtype("float32")}


def test_several_inputs_and_outputs_go_by_name(exported):
    model = TFLiteModel(exported["two_inputs"].files[None].path)
    x = {name: array[:3] for name, array in exported["two_inputs"].data.items()}
    outputs = model.predict(x)
    assert {name: array.shape for name, array in outputs.items()} == {"output_0": (3, 4), "output_1": (3, 5)}
    kernel, _ = exported["two_inputs"].model.layers[-2].get_weights()
    np.testing.assert_allclose(outputs["output_0"], (3 * x["zeta"] - x["alpha"]) @ kernel, rtol=1e-4, atol=1e-4)


def test_resource_state_does_not_reach_the_next_sample(tmp_path):
    """The file adds each sample to a variable; every sample must find it at zero."""

    class Sum(tf.Module):
        def __init__(self):
            self.total = tf.Variable(tf.zeros((1, 2)))

        @tf.function(input_signature=[tf.TensorSpec((1, 2), tf.float32, name="x")])
        def __call__(self, x):
            self.total.assign_add(x)
            return self.total + 0.0

    module = Sum()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.__call__.get_concrete_function()], module)
    converter.experimental_enable_resource_variables = True
    path = tmp_path / "sum.tflite"
    path.write_bytes(converter.convert())
    x = np.array([[1, 2], [3, 4], [5, 6]], "float32")
    np.testing.assert_array_equal(TFLiteModel(path).predict(x), x)


def test_state_of_a_fused_lstm_does_not_reach_the_next_sample(tmp_path):
    import tf_keras

    lstm = tf_keras.Sequential([tf_keras.layers.Input((4, 2), batch_size=1), tf_keras.layers.LSTM(3)])
    path = tmp_path / "lstm.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(lstm).convert())
    x = np.random.default_rng(0).random((1, 4, 2), dtype="float32").repeat(3, axis=0)
    got = TFLiteModel(path).predict(x)
    np.testing.assert_allclose(got, lstm(x[:1]).numpy().repeat(3, axis=0), atol=1e-6)


def test_float_data_for_quantized_inputs_uses_the_scale_of_the_file(tmp_path, affine):
    def rounded(x):
        return tf.quantization.fake_quant_with_min_max_args(2 * x, 0.0, 255.0)

    concrete = tf.function(rounded, input_signature=[tf.TensorSpec((1, 2), name="x")]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([np.array([[0, 127.5]], "float32")] for _ in range(4))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path = tmp_path / "int8.tflite"
    path.write_bytes(converter.convert())
    model = TFLiteModel(path)
    assert model.input_dtypes["x"] == np.int8
    np.testing.assert_allclose(model.predict(np.array([[10.0, 100.0]])), [[20, 200]], atol=1)
    # scale 0.5 and zero point -128: 10.0 is stored as -108
    np.testing.assert_allclose(model.predict(np.array([[-108, 72]], "int8")), [[20, 200]], atol=1)


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_cut_file_is_refused(affine, tmp_path, keep):
    content = affine.read_bytes()
    keep = int(len(content) * keep) if isinstance(keep, float) else keep
    (tmp_path / "cut.tflite").write_bytes(content[:keep])
    with pytest.raises(InputError, match=r"does not load \(.*allowed: a whole .tflite file"):
        TFLiteModel(tmp_path / "cut.tflite")


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path / "missing.tflite", tmp_path):
        with pytest.raises(InputError, match="which is no file"):
            TFLiteModel(path)
    (tmp_path / "random.tflite").write_bytes(os.urandom(1000))
    with pytest.raises(InputError, match="does not load"):
        TFLiteModel(tmp_path / "random.tflite")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ones((2, 4)), r"shape \(2, 4\), allowed: numbers of shape \(n, 3\)"),
        (np.ones((0, 3)), "n >= 1"),
        (np.full((2, 3), "a"), "<U1"),
        ({"y": np.ones((2, 3))}, "arrays for the inputs x"),
    ],
)
def test_samples_that_do_not_fit_are_refused(affine, x, words):
    with pytest.raises(InputError, match=words):
        TFLiteModel(affine).predict(x)


def test_batch_that_the_file_does_not_take_is_refused_and_one_still_works(tmp_path):
    """The reshape to (1, 6) is written into the file."""
    path = write(tmp_path / "flat.tflite", lambda x: tf.reshape(x, (1, 6)), tf.TensorSpec((1, 2, 3), name="x"))
    model, x = TFLiteModel(path), np.arange(24.0).reshape(4, 2, 3)
    with pytest.raises(InputError, match=r"\(2, 2, 3\).*without resizing: .*\(1, 2, 3\)"):
        model.predict(x, batch=2)
    np.testing.assert_array_equal(model.predict(x), x.reshape(4, 6))


def test_difference_is_relative_to_largest_output_and_spread():
    """Errors 0, 1, 0, 1 on outputs 0, 2, 4, -10: largest 10, mean square 0.5, variance 30 - 1."""
    found = difference({"y": np.array([0, 2, 4, -10.0])}, {"y": np.array([0, 3, 4, -9.0])})
    assert found.max == pytest.approx(0.1)
    assert found.rms == pytest.approx((0.5 / 29) ** 0.5)


def test_difference_has_a_floor_where_the_output_hardly_varies():
    found = difference({"y": np.full(4, 10.0)}, {"y": np.full(4, 10.1)})
    assert found.max == pytest.approx(0.01)
    assert found.rms == pytest.approx(0.1 / 0.5)
    zeros = difference({"y": np.zeros(4)}, {"y": np.full(4, 0.02)})
    assert (zeros.max, zeros.rms) == pytest.approx((0.02, 0.4))


def test_difference_counts_the_worst_output_and_never_passes_nan():
    good, bad = np.array([1.0, -1.0]), np.array([1.0, 0.0])
    assert difference({"a": good, "b": good}, {"a": good, "b": bad}).max == 1
    assert difference({"a": good}, {"a": np.array([1.0, np.nan])}).max == float("inf")
    with pytest.raises(InputError, match="shape"):
        difference({"a": good}, {"a": good[:1]})
    with pytest.raises(InputError, match="outputs"):
        difference({"a": good}, {"b": good})
