"""Where an int8 file loses: differences at every operation, and the layers behind them."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.export.int8_errors import layer_errors, sensitivity
from keras_aeprune.export.tflite import tflite_many
from keras_aeprune.export.verify import TFLiteModel

pytestmark = pytest.mark.usefixtures("in_this_process")


def uneven():
    """Encoder and decoder; the code's units have ranges 30 times apart, so int8 leaves one of them few levels."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8,), name="pixels")
    hidden = kl.Dense(6, activation="relu", name="hidden")(pixels)
    encoder = keras.Model(pixels, kl.Dense(2, name="code")(hidden), name="encoder")
    code = keras.Input((2,))
    decoder = keras.Model(code, kl.Dense(8, activation="sigmoid", name="out")(code), name="decoder")
    scales = np.array([1, 30], "float32")
    inner, outer = encoder.get_layer("code"), decoder.get_layer("out")
    inner.kernel.assign(inner.kernel * scales)
    outer.kernel.assign(3 * outer.kernel / scales[:, None])
    x = keras.Input((8,), name="x")
    return keras.Model(x, decoder(encoder(x)), name="ae")


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).random((200, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("layer_errors")
    paths = {None: folder / "whole.tflite", "int8": folder / "small.tflite"}
    tflite_many(uneven(), paths, data=data)
    return paths


@pytest.fixture(scope="module")
def found(files, data):
    return layer_errors(uneven(), files["int8"], data=data)


def test_every_operation_has_its_layer(found):
    named = [(row.layer, row.operation) for row in found.operations]
    assert named == [
        ("encoder/hidden", "FULLY_CONNECTED"),
        ("encoder/code", "FULLY_CONNECTED"),
        ("decoder/out", "FULLY_CONNECTED"),
        ("decoder/out", "LOGISTIC"),
    ]
    assert not found.unmatched and found.samples == 64


def test_the_error_at_the_end_is_that_of_the_files_outputs(found, files, data):
    whole, small = (TFLiteModel(path).predict(data[:64]) for path in files.values())
    last = found.operations[-1]
    spread = max(whole.std(), np.abs(whole).max() / 20)
    assert last.rms == pytest.approx(np.sqrt(np.mean((small - whole) ** 2)) / spread, rel=0.05)
    assert last.largest == pytest.approx(np.abs(small - whole).max() / np.abs(whole).max(), rel=0.2)
    assert last.step == pytest.approx(1 / 256 / spread, rel=1e-4)


def test_a_layer_before_the_bad_one_is_off_by_rounding_only(found):
    hidden = found.operations[0]
    assert 0.2 * hidden.step < hidden.rms < hidden.step


def on_levels(x, values):
    """x on the 256 levels from the smallest to the largest of the values, 0 among them."""
    low, high = min(values.min(), 0), max(values.max(), 0)
    step = (high - low) / 255
    zero = np.round(-low / step)
    return step * (np.clip(np.round(x / step) + zero, 0, 255) - zero)


def by_hand(model, data, floating=""):
    """The outputs of the int8 file in plain NumPy, with one layer left in float."""
    layers = {path: model.get_layer(path.split("/")[0]).get_layer(path.split("/")[1]) for path in PATHS}
    exact, rounded = data, on_levels(data, data)
    for path, layer in layers.items():
        kernel = np.asarray(layer.kernel)
        scale = np.abs(kernel).max(axis=0) / 127
        function = {"relu": lambda z: np.maximum(z, 0)}.get(layer.activation.__name__, lambda z: z)
        exact = function(exact @ kernel)
        if path == floating:
            rounded = function(rounded @ kernel)
        else:
            rounded = on_levels(function(rounded @ (np.round(kernel / scale) * scale)), exact)
    final = 1 / (1 + np.exp(-rounded))
    return final if floating == path else np.minimum(np.round(256 * final), 255) / 256


PATHS = ("encoder/hidden", "encoder/code", "decoder/out")


def test_what_each_layer_brings_back_is_what_numpy_says(found, data):
    """The kernel behind the code is worse than the code: the small unit's weights, 30 times larger, set its step.

    The other unit's weights are a few steps large then, and what rounding changes in them is multiplied by values
    30 times larger. The code itself comes second.
    """
    model = uneven()
    expected = np.asarray(model(data[:64]))
    whole = np.mean((by_hand(model, data)[:64] - expected) ** 2)
    left = {path: np.mean((by_hand(model, data, path)[:64] - expected) ** 2) for path in PATHS}
    assert {row.layer: row.brings_back for row in found.sensitivity} == {
        path: pytest.approx(1 - left[path] / whole, abs=0.02) for path in PATHS
    }
    assert [row.layer for row in found.sensitivity] == ["decoder/out", "encoder/code", "encoder/hidden"]
    again = sensitivity(uneven(), data, samples=64, progress=False)
    assert [row.layer for row in again] == [row.layer for row in found.sensitivity]


def test_the_report_prints_the_worst_first_and_is_json(found):
    worst = found.by_harm[0]
    assert worst.rms == max(row.rms for row in found.operations)
    assert str(found).splitlines()[1].startswith(worst.layer)
    assert "brings back" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["operations"][0]["layer"] == "encoder/hidden"


def test_files_that_do_not_fit_are_refused(files, data, tmp_path):
    with pytest.raises(InputError, match="None to make one"):
        layer_errors(uneven(), tmp_path / "none.tflite", data=data)
    with pytest.raises(InputError, match="exported with quantize='int8'"):
        layer_errors(uneven(), files[None], data=data, sensitive=False)
    (tmp_path / "text.tflite").write_text("a text that is no model")
    with pytest.raises(InputError, match="TFL3"):
        layer_errors(uneven(), tmp_path / "text.tflite", data=data)
