import gzip
import json
import math
import zlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune._validation import InputError
from keras_aeprune.report import environment, file_sizes, macs, mean_error, mse, parameters, per_sample_mse


def sequential(*stack):
    return keras.Sequential(list(stack))


def test_parameters_are_counted_by_kind_and_only_kernels_have_zeros():
    model = sequential(keras.Input((3,)), layers.Dense(2), layers.BatchNormalization())
    model.layers[0].set_weights([np.array([[0, 1], [2, 0], [0, 3]], "float32"), np.zeros(2, "float32")])
    assert parameters(model) == {
        "parameters": 3 * 2 + 2 + 4 * 2,  # kernel, bias, and gamma, beta, mean, variance
        "trainable": 3 * 2 + 2 + 2 * 2,
        "kernel_weights": 6,
        "zeros": 3,
        "nonzero": 16 - 3,
        "sparsity": 0.5,
    }


def test_a_shared_layer_holds_its_parameters_once():
    inputs = keras.Input((4,))
    shared = layers.Dense(4)
    model = keras.Model(inputs, shared(shared(inputs)))
    assert parameters(model)["parameters"] == 20


def test_a_model_without_kernels_has_sparsity_zero():
    assert parameters(sequential(keras.Input((3,)), layers.ReLU()))["sparsity"] == 0.0


@pytest.mark.parametrize("measure", [parameters, macs])
def test_models_that_cannot_be_measured_are_refused(measure):
    with pytest.raises(InputError, match="a built one"):
        measure(sequential(layers.Dense(2)))
    with pytest.raises(InputError, match=r"a keras\.Model"):
        measure("model.keras")


def test_mse_equals_the_sum_worked_out_one_value_at_a_time():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 3, 2)).astype("float32")
    rebuilt = rng.normal(size=x.shape).astype("float32")
    squares = [(float(a) - float(b)) ** 2 for a, b in zip(x.ravel(), rebuilt.ravel(), strict=True)]
    position = iter(np.split(rebuilt, [2, 4, 6]))
    assert mse(lambda part: next(position), x, batch=2) == pytest.approx(math.fsum(squares) / 42, rel=1e-12)
    by_sample = per_sample_mse(lambda part: rebuilt, x)
    slow = [math.fsum(squares[6 * i : 6 * i + 6]) / 6 for i in range(7)]
    np.testing.assert_allclose(by_sample, slow, rtol=1e-12)
    assert by_sample.dtype == np.float64


def test_errors_are_added_up_in_float64():
    x = np.zeros((4000, 64), "float32")
    error = mse(lambda part: np.full_like(part, 0.1), x)
    assert error == pytest.approx(float(np.float32(0.1)) ** 2, rel=1e-12)


def test_predict_gets_batches_of_the_size_that_was_asked_for():
    seen = []

    def predict(part):
        seen.append(len(part))
        return part

    assert mse(predict, np.ones((7, 2)), batch=3) == 0.0
    assert seen == [3, 3, 1]


def test_errors_of_uint8_samples_do_not_wrap_around():
    assert mse(lambda part: part + 1.0, np.full((2, 2), 255, "uint8")) == 1.0
    assert mse(lambda part: np.zeros_like(part), np.full((2, 2), 255, "uint8")) == 255.0**2


def test_reconstructions_that_cannot_be_compared_are_refused():
    x = np.zeros((5, 4), "float32")
    with pytest.raises(InputError, match="the same shape"):
        mse(lambda part: part[:, :3], x)
    with pytest.raises(InputError, match="sample 3"):
        mse(lambda part: np.where(np.arange(5)[:, None] == 3, np.nan, part), x, batch=5)
    with pytest.raises(InputError, match="sample 4"):
        mse(lambda part: np.full_like(part, np.inf) if len(part) == 1 else part, x, batch=2)
    with pytest.raises(InputError, match="at least one sample"):
        mse(lambda part: part, x[:0])
    with pytest.raises(InputError, match="batch"):
        mse(lambda part: part, x, batch=0)


def test_mean_error_on_the_training_set_is_its_variance():
    x = np.random.default_rng(1).normal(size=(50, 2, 3)).astype("float32")
    assert mean_error(x, x) == pytest.approx(x.astype("float64").var(axis=0).mean(), rel=1e-9)


def test_mean_error_uses_the_mean_of_the_training_samples():
    assert mean_error(np.array([[0.0, 4.0], [2.0, 4.0]]), np.array([[3.0, 4.0]])) == (4.0 + 0.0) / 2
    with pytest.raises(InputError, match="x_test"):
        mean_error(np.zeros((3, 2)), np.zeros((3, 4)))


def test_file_sizes_are_the_files_own_and_of_its_deflated_bytes(tmp_path):
    content = np.random.default_rng(0).choice([0, 0, 0, 1, 2], 40_000).astype("uint8").tobytes()
    (tmp_path / "a.tflite").write_bytes(content)
    (tmp_path / "other name.bin").write_bytes(content)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = len(packer.compress(content) + packer.flush())
    expected = {"bytes": len(content), "gzip_bytes": deflated + 18}  # 10 bytes before, 8 behind
    assert file_sizes(tmp_path / "a.tflite") == expected
    assert file_sizes(str(tmp_path / "other name.bin")) == expected
    assert len(gzip.compress(content, 6)) > expected["gzip_bytes"]


def test_file_sizes_of_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match="an existing file"):
        file_sizes(tmp_path)


def slow_convolution_macs(places, kernel, channels, filters, groups=1):
    """Counts one by one what a convolution multiplies."""
    count = 0
    for _ in np.ndindex(*places):
        for _ in np.ndindex(*kernel):
            count += (channels // groups) * filters
    return count


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Dense(5), (4,), 20),
        (layers.Dense(5), (3, 4), 60),
        (layers.Conv1D(6, 3), (10, 2), slow_convolution_macs((8,), (3,), 2, 6)),
        (layers.Conv2D(6, (3, 2)), (8, 7, 4), slow_convolution_macs((6, 6), (3, 2), 4, 6)),
        (
            layers.Conv2D(6, 3, strides=2, padding="same"),
            (7, 7, 4),
            slow_convolution_macs((4, 4), (3, 3), 4, 6),
        ),
        (layers.Conv2D(6, 3, groups=2), (5, 5, 4), slow_convolution_macs((3, 3), (3, 3), 4, 6, 2)),
        (layers.Conv2D(6, 3, dilation_rate=2), (9, 9, 1), slow_convolution_macs((5, 5), (3, 3), 1, 6)),
        (layers.Conv3D(2, 2), (3, 3, 3, 1), slow_convolution_macs((2, 2, 2), (2, 2, 2), 1, 2)),
        (layers.Conv2DTranspose(6, 3, strides=2), (4, 5, 2), slow_convolution_macs((4, 5), (3, 3), 2, 6)),
        (layers.Conv1DTranspose(6, 3), (4, 2), slow_convolution_macs((4,), (3,), 2, 6)),
        (
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            (5, 5, 4),
            slow_convolution_macs((3, 3), (3, 3), 8, 1),
        ),
        (layers.SeparableConv2D(6, 3), (5, 5, 4), 9 * (9 * 4 + 4 * 6)),
        (layers.Conv2D(6, 3, data_format="channels_first"), (4, 8, 7), 6 * 5 * 9 * 4 * 6),
        (layers.BatchNormalization(), (4,), 0),
        (layers.Embedding(10, 4), (3,), 0),
    ],
)
def test_multiply_accumulates_of_one_layer(layer, shape, expected):
    found = macs(sequential(keras.Input(shape), layer))
    assert found["macs"] == expected
    assert found["not_counted"] == []


def test_a_transposed_convolution_multiplies_as_often_as_its_naive_loops():
    rows, columns, channels, filters, kernel, stride = 3, 2, 2, 4, 3, 2
    kernels = np.random.default_rng(0).normal(size=(kernel, kernel, filters, channels))
    image = np.random.default_rng(1).normal(size=(rows, columns, channels))
    out = np.zeros((stride * (rows - 1) + kernel, stride * (columns - 1) + kernel, filters))
    count = 0
    for r, c, i, j, f, k in np.ndindex(rows, columns, kernel, kernel, filters, channels):
        out[stride * r + i, stride * c + j, f] += image[r, c, k] * kernels[i, j, f, k]
        count += 1
    layer = layers.Conv2DTranspose(filters, kernel, strides=stride, use_bias=False)
    model = sequential(keras.Input(image.shape), layer)
    layer.set_weights([kernels])
    np.testing.assert_allclose(model(image[None])[0], out, rtol=1e-4, atol=1e-5)
    assert macs(model)["macs"] == count


def autoencoder():
    inputs = keras.Input((8, 8))
    hidden = layers.Dense(16, name="hidden")(layers.Flatten()(inputs))
    encoder = keras.Model(inputs, layers.Dense(4, name="code")(hidden), name="encoder")
    code = keras.Input((4,))
    hidden = layers.Dense(16, name="hidden")(code)
    decoder = keras.Model(code, layers.Reshape((8, 8))(layers.Dense(64, name="out")(hidden)), name="decoder")
    whole = keras.Input((8, 8))
    return keras.Model(whole, decoder(encoder(whole)))


def test_nested_models_are_counted_by_path():
    assert macs(autoencoder()) == {
        "macs": 2 * (64 * 16 + 16 * 4),
        "by_layer": {
            "encoder/hidden": 64 * 16,
            "encoder/code": 16 * 4,
            "decoder/hidden": 4 * 16,
            "decoder/out": 16 * 64,
        },
        "not_counted": [],
    }


def test_a_layer_or_model_that_is_called_twice_works_twice():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    nested = sequential(keras.Input((4,)), layers.Dense(4, name="deep"))
    model = keras.Model(inputs, nested(nested(shared(shared(inputs)))))
    assert macs(model)["by_layer"] == {"shared": 32, f"{nested.name}/deep": 32}


def test_calls_of_the_same_layer_outside_the_model_do_not_count():
    layer = layers.Dense(4)
    model = sequential(keras.Input((4,)), layer)
    layer(np.zeros((1, 4), "float32"))
    layer(keras.Input((7, 4)))
    assert macs(model)["macs"] == 16


def test_a_subclassed_model_is_counted_from_the_shapes_it_was_built_with():
    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(3, name="first"), sequential(layers.Dense(5, name="in_it"))

        def call(self, inputs):
            return self.second(self.first(inputs))

    model = Both()
    model(np.zeros((1, 2), "float32"))
    assert macs(model)["macs"] == 2 * 3 + 3 * 5


@pytest.mark.parametrize(
    ("layer", "shape", "line"),
    [
        (layers.LSTM(3, name="rnn"), (5, 2), "rnn: no rule for layer kind LSTM"),
        (layers.MultiHeadAttention(1, 2, name="mha"), None, "mha: no rule for layer kind MultiHeadAttention"),
        (
            layers.Conv1D(3, 2, name="conv"),
            (None, 2),
            "conv: the shape of its input is not fixed: (None, None, 2)",
        ),
        (layers.Lambda(lambda x: x * 2, name="own"), (5,), "own: no rule for layer kind Lambda"),
    ],
)
def test_work_that_cannot_be_counted_is_listed(layer, shape, line):
    inputs = keras.Input(shape or (5, 4))
    outputs = layer(inputs, inputs) if shape is None else layer(inputs)
    assert macs(keras.Model(inputs, outputs)) == {"macs": 0, "by_layer": {}, "not_counted": [line]}


def test_operations_that_multiply_two_tensors_are_listed_and_others_are_not():
    inputs = keras.Input((3, 3))
    outputs = keras.ops.matmul(keras.ops.tanh(inputs) + 1.0, inputs)
    assert [line.split(": ")[1] for line in macs(keras.Model(inputs, outputs))["not_counted"]] == [
        "no rule for layer kind Matmul"
    ]


def test_the_environment_is_plain_json_and_names_what_is_installed():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["keras"] == keras.__version__
    assert found["numpy"] == np.__version__
    assert found["cpu"]
    assert 1 <= found["usable_cores"] <= found["logical_cores"]
