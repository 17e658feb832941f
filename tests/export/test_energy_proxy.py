"""Multiply-accumulates and bytes of a file agree with numbers worked by hand."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune._validation import InputError
from keras_aeprune.export.energy_proxy import energy


def constant(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape).astype("float32"))


def converted(function, *shapes, float16=False, dtype=tf.float32):
    specs = [tf.TensorSpec(shape, dtype, name=f"x{i}") for i, shape in enumerate(shapes)]
    concrete = tf.function(function, input_signature=specs).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if float16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


@pytest.fixture
def measured(tmp_path):
    """The energy of a function of TensorFlow."""

    def measure(function, *shapes, **options):
        path = tmp_path / "file.tflite"
        path.write_bytes(converted(function, *shapes, **options))
        return energy(path)

    return measure


def two_layers(x):
    """4x4 -> convolution 3x3, 2 filters, valid -> 2x2x2 -> dense 3."""
    hidden = tf.nn.relu(tf.nn.conv2d(x, constant(3, 3, 1, 2), 1, "VALID") + constant(2))
    return tf.reshape(hidden, (1, 8)) @ constant(8, 3) + constant(3)


def test_two_layers_agree_with_numbers_worked_by_hand(measured):
    """Convolution: 2 * 2 places * 2 filters * 9 weights; dense: 8 * 3."""
    found = measured(two_layers, (1, 4, 4, 1))
    by_name = {work.name: work for work in found.operations}
    assert (by_name["CONV_2D"].macs, by_name["FULLY_CONNECTED"].macs, found.macs) == (72, 24, 96)
    assert by_name["CONV_2D"].weight_bytes == 4 * (18 + 2)
    assert by_name["CONV_2D"].activation_bytes == 4 * (16 + 8)
    assert by_name["FULLY_CONNECTED"].weight_bytes == 4 * (24 + 3)
    assert by_name["FULLY_CONNECTED"].activation_bytes == 4 * (8 + 3)
    assert by_name["RESHAPE"].weight_bytes == 2 * 4  # the new shape
    assert by_name["RESHAPE"].activation_bytes == 4 * (8 + 8)
    assert found.bytes_moved == 80 + 96 + 108 + 44 + 8 + 64
    assert found.not_counted == ("RESHAPE",)
    assert found.compute_pj == pytest.approx(96 * 4.6)
    assert found.sram_pj == pytest.approx(96 * 4.6 + 400 * 1.25)
    assert found.dram_pj == pytest.approx(96 * 4.6 + 400 * 160)


def test_every_rule_agrees_with_numbers_worked_by_hand(measured):
    depthwise = measured(lambda x: tf.nn.depthwise_conv2d(x, constant(3, 3, 4, 1), [1] * 4, "VALID"), (1, 5, 5, 4))
    assert depthwise.macs == 3 * 3 * 4 * 9
    grouped = measured(lambda x: tf.nn.conv2d(x, constant(1, 1, 2, 6), 1, "VALID"), (1, 5, 5, 4))
    assert grouped.macs == 5 * 5 * 6 * 2
    transposed = measured(
        lambda x: tf.nn.conv2d_transpose(x, constant(3, 3, 2, 4), (1, 8, 8, 2), 2, "SAME"), (1, 4, 4, 4)
    )
    assert transposed.macs == 4 * 4 * 4 * 9 * 2
    product = measured(lambda a, b: tf.matmul(a, b, transpose_a=True), (3, 7, 5), (3, 7, 2))
    assert (product.macs, product.not_counted) == (3 * 5 * 2 * 7, ())
    rows = measured(lambda x: x @ constant(8, 3), (5, 8))
    assert rows.macs == 5 * 8 * 3


def test_a_tensor_used_twice_is_read_once(measured):
    found = measured(lambda x: x * x, (1, 10))
    assert (found.macs, found.bytes_moved) == (0, 2 * 40)


def test_a_look_up_reads_the_rows_asked_for(measured):
    table = constant(1000, 8)
    found = measured(lambda i: tf.gather(table, i), (2,), dtype=tf.int32)
    (gather,) = [work for work in found.operations if work.name == "GATHER"]
    assert gather.weight_bytes <= 2 * 8 * 4 + 4  # and not 32,000; 4 for the axis
    assert gather.activation_bytes == 2 * 8 * 4 + 2 * 4


def test_unpacking_float16_weights_happens_once_at_load(measured):
    found = measured(lambda x: x @ constant(64, 32), (1, 64), float16=True)
    assert [work.name for work in found.operations] == ["FULLY_CONNECTED"]
    assert found.operations[0].index > 0  # the DEQUANTIZE before it is in the file
    assert found.weight_bytes == 64 * 32 * 4
    assert found.float_macs == 64 * 32


def test_a_signature_selects_its_graph(tmp_path):
    module = tf.Module()
    module.encode = tf.function(lambda x: x @ constant(8, 2), input_signature=[tf.TensorSpec((1, 8), name="x")])
    module.decode = tf.function(lambda x: x @ constant(2, 5), input_signature=[tf.TensorSpec((1, 2), name="x")])
    tf.saved_model.save(module, tmp_path / "saved", {"encoder": module.encode, "decoder": module.decode})
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "saved"), signature_keys=["encoder", "decoder"]
    )
    path = tmp_path / "both.tflite"
    path.write_bytes(converter.convert())
    assert energy(path, signature="encoder").macs == 16
    assert energy(path, signature="decoder").macs == 10
    with pytest.raises(InputError, match="signature: got 'code', allowed: .*encoder"):
        energy(path, signature="code")


def test_numbers_are_json_and_the_table_says_proxy(measured):
    found = measured(two_layers, (1, 4, 4, 1))
    values = json.loads(json.dumps(found.to_dict()))
    assert (values["macs"], values["bytes_moved"], values["not_counted"]) == (96, 400, ["RESHAPE"])
    assert not {key for key in values if key.endswith("_pj") and not key.startswith("proxy_")}
    lines = str(found).splitlines()
    assert lines[1].split() == ["0", "CONV_2D", "1x2x2x2", "72", "80", "96"]
    assert "proxy, not a measurement" in lines[-1]


def test_what_is_no_tflite_file_is_refused(tmp_path, measured):
    with pytest.raises(InputError, match="no file"):
        energy(tmp_path / "missing.tflite")
    (tmp_path / "text.tflite").write_text("a text that is no model")
    with pytest.raises(InputError, match="TFL3"):
        energy(tmp_path / "text.tflite")
    whole = converted(two_layers, (1, 4, 4, 1))
    (tmp_path / "cut.tflite").write_bytes(whole[:60])
    with pytest.raises(InputError, match="cannot be read"):
        energy(tmp_path / "cut.tflite")


# Worked from the layers that MLPerf Tiny describes.
AD01 = 640 * 128 + 3 * 128 * 128 + 128 * 8 + 8 * 128 + 3 * 128 * 128 + 128 * 640
KWS = 125 * 64 * 40 + 4 * (125 * 64 * 9 + 125 * 64 * 64) + 64 * 12
RESNET8 = 1024 * 16 * (27 + 2 * 144) + 256 * 32 * (144 + 288 + 16) + 64 * 64 * (288 + 576 + 32) + 640
LSTM = 28 * 4 * 20 * (28 + 20) + 28 * 20 * 10


@pytest.mark.parametrize(
    ("name", "macs", "whole"),
    [
        ("mlperf_tiny_ad01_fp32", AD01, 0),
        ("mlperf_tiny_ad01_int8", AD01, AD01),
        ("mlperf_tiny_kws_int8", KWS, KWS),
        ("mlperf_tiny_resnet8_fp32", RESNET8, 0),
        ("mlperf_tiny_resnet8_int8", RESNET8, RESNET8),
        ("mnist_lstm_fp32", LSTM, 0),
        ("mnist_lstm_int8", LSTM, LSTM),
    ],
)
def test_published_models_agree_with_their_layers(real_data, name, macs, whole):
    found = energy(real_data / "models" / f"{name}.tflite")
    assert (found.macs, found.int8_macs) == (macs, whole)


def test_weights_of_a_published_dense_model_are_read_once(real_data):
    """ad01: the kernels, and one bias per unit; int8 kernels with int32 biases."""
    units = 7 * 128 + 8 + 128 + 640
    assert energy(real_data / "models" / "mlperf_tiny_ad01_fp32.tflite").weight_bytes == 4 * (AD01 + units)
    assert energy(real_data / "models" / "mlperf_tiny_ad01_int8.tflite").weight_bytes == AD01 + 4 * units
