"""Dense autoencoders: sizes worked by hand, plain files, refusals, and better than PCA."""

import inspect
import itertools
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.datasets import load as load_data
from keras_aeprune.models import PCA, default_sizes, dense
from keras_aeprune.models.files import load


@pytest.mark.parametrize(
    ("features", "sizes"),
    [
        (2, (1, (4, 2))),
        (3, (2, (8, 4))),
        (9, (4, (32, 16))),
        (30, (4, (64, 32))),
        (64, (8, (128, 64))),
        (140, (16, (128, 64))),
        (640, (32, (128, 64))),
        (784, (32, (128, 64))),
        (3072, (64, (256, 128))),
    ],
)
def test_default_sizes_by_hand(features, sizes):
    assert default_sizes(features) == sizes


def test_the_default_code_is_always_smaller_than_the_data_and_than_the_hidden_layers():
    for features in range(2, 5000):
        width, hidden = default_sizes(features)
        assert 1 <= width < features
        assert list(hidden) == sorted(hidden, reverse=True)
        assert hidden[-1] > width


def test_layers_are_mirrored_named_and_counted():
    model = dense((784,), 32, hidden_units=(128, 64))
    assert [layer.name for layer in model.layers] == ["input", "encoder", "decoder"]
    assert [layer.name for layer in model.encoder.layers] == ["sample", "hidden_1", "hidden_2", "code"]
    assert [layer.name for layer in model.decoder.layers] == ["code", "hidden_1", "hidden_2", "output"]
    assert [layer.units for layer in model.decoder.layers[1:]] == [64, 128, 784]
    sizes = [784, 128, 64, 32, 64, 128, 784]
    by_hand = sum(a * b + b for a, b in itertools.pairwise(sizes))
    assert model.count_params() == by_hand == 222_384
    assert len(model.weights) == len({id(v) for v in model.weights}) == 12


def test_activations_are_where_they_were_asked_for():
    model = dense((9,), 2, hidden_units=(5,), activation="tanh", output_activation="linear", name="own")
    assert model.encoder.get_layer("hidden_1").activation is keras.activations.tanh
    assert model.encoder.get_layer("code").activation is keras.activations.linear
    assert model.decoder.get_layer("output").activation is keras.activations.linear
    assert model.name == "own"


def test_the_model_is_its_decoder_after_its_encoder():
    model = dense((6, 5, 2), 4)
    x = np.random.default_rng(0).random((3, 6, 5, 2), dtype="float32")
    code = model.encoder(x)
    assert code.shape == (3, 4)
    np.testing.assert_allclose(model(x), model.decoder(code), atol=1e-6)
    assert model.output_shape == (None, 6, 5, 2)


def test_the_outputs_are_those_of_a_numpy_network():
    model = dense((6,), 2, hidden_units=(4,))
    for v in model.weights:
        v.assign(np.random.default_rng(len(v.shape)).normal(size=v.shape))
    k1, b1, kc, bc, k2, b2, ko, bo = (np.asarray(v) for v in model.weights)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    code = np.maximum(x @ k1 + b1, 0) @ kc + bc
    output = 1 / (1 + np.exp(-(np.maximum(code @ k2 + b2, 0) @ ko + bo)))
    np.testing.assert_allclose(model(x), output, atol=1e-5)


def test_hidden_units_that_are_narrower_than_the_code_are_left_out():
    def hidden(width):
        return [layer.units for layer in dense((784,), width).encoder.layers[1:-1]]

    assert hidden(32) == hidden(64) == [128, 64]
    assert hidden(100) == [128]
    assert hidden(200) == [(784 + 200) // 2]


def test_no_hidden_units_is_the_linear_autoencoder():
    model = dense((9,), 3, hidden_units=())
    assert [tuple(v.shape) for v in model.weights] == [(9, 3), (3,), (3, 9), (9,)]


def test_the_weights_follow_the_seed():
    def first():
        keras.utils.set_random_seed(3)
        return np.asarray(dense((9,), 3).weights[0])

    np.testing.assert_array_equal(first(), first())


def test_a_saved_file_loads_in_a_process_without_this_package(tmp_path):
    model = dense((4, 4), 3, hidden_units=(8,))
    model.compile("adam", "mse")
    x = np.random.default_rng(0).random((64, 4, 4), dtype="float32")
    model.fit(x, x, epochs=1, verbose=0)
    model.save(tmp_path / "m.keras")
    expected = np.stack([model(x), model.decoder(model.encoder(x))])
    np.save(tmp_path / "x.npy", x)
    script = """
        import sys, keras, numpy as np
        model = keras.saving.load_model("m.keras")
        x = np.load("x.npy")
        halves = model.get_layer("decoder")(model.get_layer("encoder")(x))
        np.save("y.npy", np.stack([model(x), halves]))
        sys.exit("keras_aeprune" in sys.modules)
    """
    subprocess.run([sys.executable, "-c", inspect.cleandoc(script)], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)


def test_default_sizes_beat_pca_of_the_same_width_on_digits():
    data = load_data("digits").flat
    width, hidden = default_sizes(data.features)
    keras.utils.set_random_seed(0)
    model = dense(data.sample_shape, width, hidden_units=hidden)
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(data.x_train, data.x_train, epochs=30, batch_size=64, verbose=0)
    error = float(np.mean((data.x_test - model.predict(data.x_test, verbose=0)) ** 2))
    linear = PCA.fit(data.x_train).mse(data.x_test, width)
    assert error < 0.8 * linear


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"encoding_dim": 0}, ("encoding_dim", "got 0", ">= 1 and <= 783")),
        ({"encoding_dim": -3}, ("encoding_dim", "-3")),
        ({"encoding_dim": 784}, ("784", "<= 783")),
        ({"encoding_dim": 900}, ("900", "<= 783")),
        ({"encoding_dim": 2.0}, ("encoding_dim", "2.0")),
        ({"encoding_dim": True}, ("encoding_dim", "True")),
        ({"input_shape": ()}, ("input_shape", "()", "(784,)")),
        ({"input_shape": 784}, ("input_shape", "784", "(784,)")),
        ({"input_shape": (28, 0)}, ("input_shape", "(28, 0)")),
        ({"input_shape": (-1,)}, ("input_shape", "(-1,)")),
        ({"input_shape": (None, 28)}, ("input_shape", "None")),
        ({"input_shape": (1,)}, ("input_shape", "2 or more values")),
        ({"hidden_units": (0,)}, ("hidden_units", "(0,)")),
        ({"hidden_units": (128, -64)}, ("hidden_units", "-64")),
        ({"hidden_units": (12.5,)}, ("hidden_units", "12.5")),
        ({"hidden_units": 128}, ("hidden_units", "128", "(128, 64)")),
        ({"hidden_units": "128"}, ("hidden_units", "'128'")),
        ({"activation": "rellu"}, ("activation", "rellu", "relu, elu")),
        ({"activation": "get"}, ("activation", "'get'")),
        ({"activation": None}, ("activation", "None", "linear")),
        ({"output_activation": "soft"}, ("output_activation", "soft", "sigmoid")),
        ({"name": ""}, ("name",)),
        ({"name": "a/b"}, ("name", "a/b")),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(InputError) as error:
        dense(**{"input_shape": (784,), "encoding_dim": 32, **arguments})
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("features", [1, 0, -5, 2.5, math.nan, "9"])
def test_sizes_for_no_data_are_refused(features):
    with pytest.raises(InputError, match="features"):
        default_sizes(features)


def test_the_anomaly_detector_of_mlperf_tiny_is_one_call(real_data):
    published = load(real_data / "models" / "mlperf_tiny_ad01.h5")
    model = dense(
        (640,),
        8,
        hidden_units=(128,) * 4,
        code_activation="relu",
        output_activation="linear",
        batch_normalization=True,
    )
    assert model.count_params() == published.count_params() == 269_992
    pieces = [layer for half in (model.encoder, model.decoder) for layer in half.layers if layer.weights]
    theirs = [layer for layer in published.layers if layer.weights]
    assert [type(layer) for layer in pieces] == [type(layer) for layer in theirs]
    for ours, other in zip(pieces, theirs, strict=True):
        ours.set_weights(other.get_weights())
    x = np.random.default_rng(0).random((4, 640)).astype("float32")
    with np.load(real_data / "models" / "golden_outputs.npz", allow_pickle=False) as golden:
        expected = golden["mlperf_tiny_ad01.h5"]
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-4)
