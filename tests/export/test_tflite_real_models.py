"""Trained models that other people published: exported files stay within the limits on real inputs."""

from importlib import import_module

import keras
import numpy as np
import pytest

from keras_aeprune.export import ExportedFile, TFLiteModel

tflite_module = import_module("keras_aeprune.export.tflite")
request_module = import_module("keras_aeprune.export.request")

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def digits(real_data):
    data = np.load(real_data / "data" / "mnist.npz")
    return data["x_test"][:1000], data["y_test"][:1000]


@pytest.fixture(scope="module")
def files(real_data, digits, tmp_path_factory):
    """Dense, convolutional (two UpSampling2D stages) and anomaly-detection autoencoders, a residual net."""
    folder = tmp_path_factory.mktemp("real")
    x = np.float32(digits[0][:64] / 255)
    frames = np.load(real_data / "data" / "toycar_logmel.npz")["x"]
    pictures = np.load(real_data / "data" / "cifar10_small.npz")["x_train"][:32]
    wanted = {
        "mnist_dense_ae_keras3.h5": (x.reshape(64, 784), (None, "float16", "dynamic", "int8")),
        "mnist_conv_ae.h5": (x[..., None], (None, "int8")),
        "mlperf_tiny_ad01.h5": (np.stack([frames[i : i + 5].ravel() for i in range(64)]), (None, "int8")),
        "mlperf_tiny_resnet8.h5": (np.float32(pictures), ("float16", "int8")),
    }
    requests = []
    for name, (data, precisions) in wanted.items():
        model = keras.models.load_model(real_data / "models" / name, compile=False)
        paths = {quantize: folder / f"{name}_{quantize}.tflite" for quantize in precisions}
        requests.append(request_module.request(model, paths, data))
    outcomes = tflite_module.export(requests, all_or_none=False)
    return {
        name: dict(zip(precisions, outcome, strict=True))
        for (name, (_, precisions)), outcome in zip(wanted.items(), outcomes, strict=True)
    }


def test_every_precision_of_every_model_passes(files):
    for name, by_precision in files.items():
        for quantize, file in by_precision.items():
            assert isinstance(file, ExportedFile), (name, quantize, file)
            # the limits are at least twice what is measured, so that they do not cut off good files
            assert file.rms_difference < file.rms_limit / 2, (name, quantize, file.rms_difference)
            assert file.max_difference < file.limit / 2, (name, quantize, file.max_difference)


def test_int8_reconstructs_digits_nearly_as_well_as_float32(files, digits):
    x = np.float32(digits[0][128:256, ..., None] / 255)
    errors = {
        q: np.mean((TFLiteModel(file.path).predict(x) - x) ** 2) for q, file in files["mnist_conv_ae.h5"].items()
    }
    assert errors[None] == pytest.approx(0.0012, rel=0.2)  # published with the model
    assert errors["int8"] < 1.2 * errors[None]


def test_published_lstm_files_classify_because_their_state_is_reset(real_data, digits):
    x, y = np.float32(digits[0][:300] / 255), digits[1][:300]
    for name in ("mnist_lstm_fp32", "mnist_lstm_int8"):
        outputs = TFLiteModel(real_data / "models" / f"{name}.tflite").predict(x)
        assert np.mean(outputs.argmax(-1) == y) > 0.95, name
