import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_aeprune._validation import InputError
from keras_aeprune.report.inspection import inspect_file
from keras_aeprune.report.tflite_rows import inspect_tflite


def converted(path, function, *shapes, optimize=False):
    specs = [tf.TensorSpec(shape, name=f"x{i}") for i, shape in enumerate(shapes)]
    concrete = tf.function(function, input_signature=specs).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if optimize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())
    return path


def kernel(*shape, zeros=0):
    values = np.random.default_rng(0).uniform(1, 2, shape).astype("float32")
    values.ravel()[:zeros] = 0
    return values


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """6 -> 8 -> 3; the first three units of the second kernel's rows are zero in 10 places."""
    first, second = kernel(6, 8), kernel(8, 3)
    first[:, 2] = 0
    second[0] = 0
    path = tmp_path_factory.mktemp("dense") / "dense.tflite"
    return converted(path, lambda x: tf.nn.relu(x @ first + np.ones(8, "float32")) @ second, (1, 6))


def test_numbers_of_a_dense_file_by_hand(dense):
    found = inspect_tflite(dense)
    first, second = [row for row in found.layers if row.kind == "FULLY_CONNECTED"]
    assert (first.parameters, first.kernel_weights, first.zeros, first.macs) == (56, 48, 6, 48)
    assert (first.units, first.dead, first.output_shape, first.dtype) == (8, 1, (1, 8), "float32")
    assert (second.kernel_weights, second.zeros, second.macs, second.dead) == (24, 3, 24, 0)
    assert found.weight_bytes == 4 * found.parameters
    assert any("all weights of 1 of its 8 units are zero" in hint for hint in inspect_file(dense).hints)


def test_convolutions_count_by_their_rules(tmp_path):
    ordinary, depthwise, back = kernel(3, 3, 2, 5), kernel(3, 3, 5, 1), kernel(2, 2, 4, 5)

    def net(x):
        x = tf.nn.conv2d(x, ordinary, 2, "SAME")
        x = tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], "SAME")
        return tf.nn.conv2d_transpose(x, back, (1, 8, 8, 4), 2, "SAME")

    found = inspect_tflite(converted(tmp_path / "conv.tflite", net, (1, 8, 8, 2)))
    macs = {row.kind: row.macs for row in found.layers if row.macs}
    assert macs == {
        "CONV_2D": 4 * 4 * 5 * 9 * 2,
        "DEPTHWISE_CONV_2D": 4 * 4 * 5 * 9,
        "TRANSPOSE_CONV": 4 * 4 * 5 * 2 * 2 * 4,
    }
    assert found.kernel_weights == ordinary.size + depthwise.size + back.size


def test_a_loop_counts_as_often_as_it_runs(tmp_path):
    weights = kernel(4, 4)

    def net(x):
        return tf.while_loop(lambda i, y: i < 7, lambda i, y: (i + 1, tf.tanh(y @ weights)), [0, x])[1]

    found = inspect_tflite(converted(tmp_path / "loop.tflite", net, (1, 4)))
    assert found.macs == 7 * 16
    assert found.parameters == 16
    assert "runs 7 times" in next(row.note for row in found.layers if row.kind == "FULLY_CONNECTED")
    assert any("is a loop" in hint for hint in inspect_file(tmp_path / "loop.tflite").hints)


def test_float16_weights_belong_to_the_operation_that_uses_them(tmp_path):
    weights = kernel(40, 30, zeros=100)
    path = converted(tmp_path / "half.tflite", lambda x: x @ weights, (1, 40), optimize=True)
    (row,) = [one for one in inspect_tflite(path).layers if one.kind == "FULLY_CONNECTED"]
    assert (row.dtype, row.parameters, row.zeros, row.weight_bytes) == ("float16", 1200, 100, 2400)


def test_shapes_and_indices_are_no_parameters(tmp_path):
    path = converted(
        tmp_path / "shape.tflite", lambda x: tf.transpose(tf.reshape(x, (1, 3, 4)), (0, 2, 1)), (1, 12)
    )
    assert inspect_tflite(path).parameters == 0


def test_no_damage_ends_in_another_error(dense, tmp_path):
    content = dense.read_bytes()
    generator = np.random.default_rng(0)
    damaged = [content[:size] for size in range(8, len(content), 97)]
    for _ in range(300):
        changed = bytearray(content)
        for place in generator.integers(8, len(content), 3):
            changed[place] = generator.integers(256)
        damaged.append(bytes(changed))
    path, said = tmp_path / "damaged.tflite", []
    for one in damaged:
        path.write_bytes(one)
        try:
            inspect_tflite(path).to_dict()
        except InputError as error:
            said.append(str(error))
    assert len(said) > 20
    assert not any("\n" in text for text in said)


def test_names_in_a_file_cannot_move_the_cursor(dense, tmp_path):
    content = dense.read_bytes()
    name = inspect_tflite(dense).layers[-1].path.split(" ", 1)[1].encode()
    path = tmp_path / "bad.tflite"
    path.write_bytes(content.replace(name, b"\x1b[2J" + b"x" * (len(name) - 4)))
    text = str(inspect_tflite(path))
    assert "\x1b" not in text
    assert "?[2J" in text


def test_zeros_of_a_real_int8_file_are_those_that_the_interpreter_holds(real_data):
    path = real_data / "models" / "mlperf_tiny_vww96_int8.tflite"
    interpreter = Interpreter(str(path), experimental_preserve_all_tensors=True)
    zeros = size = 0
    for detail in interpreter.get_tensor_details():
        if (
            detail["dtype"] is np.int8
            and "conv" in detail["name"].lower() + "conv"
            and len(detail["shape"]) in (2, 4)
        ):
            try:
                values = interpreter.get_tensor(detail["index"])
            except ValueError:  # not a constant
                continue
            points = np.unique(detail["quantization_parameters"]["zero_points"])
            assert points.tolist() == [0]
            zeros, size = zeros + int(np.sum(values == 0)), size + values.size
    found = inspect_tflite(path)
    assert (found.zeros, found.kernel_weights) == (zeros, size)


def test_a_fused_lstm_counts_every_step(real_data):
    found = inspect_tflite(real_data / "models" / "mnist_lstm_int8.tflite")
    assert found.macs == 28 * 4 * (28 * 20 + 20 * 20) + 560 * 10
    assert found.kernel_weights == 4 * (28 * 20 + 20 * 20) + 560 * 10


def test_data_for_a_tflite_file_are_refused(dense):
    with pytest.raises(InputError, match="only with Keras files"):
        inspect_file(dense, data=np.ones((2, 6)))
