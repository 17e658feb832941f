"""The commands for files, as a person types them: export, inspect, report, pack, unpack."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune import cli
from keras_aeprune.export import OnnxModel, TFLiteModel, read_metadata

X = np.random.default_rng(0).random((120, 12), "float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    keras.utils.set_random_seed(0)
    where = tmp_path_factory.mktemp("files")
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(32, "relu", name="hidden"), layers.Dense(12, name="out")], name="small"
    )
    model.compile("adam", "mse")
    model.fit(X, X, epochs=2, verbose=0)
    kernel = model.get_layer("hidden").kernel
    kernel.assign(kernel * (np.abs(kernel) > 0.2))
    model.save(where / "m.keras")
    np.save(where / "x.npy", X)
    return where


@pytest.fixture(scope="module")
def files(folder):
    """m.tflite, m.onnx and m.kap, made by the commands."""
    words = [
        ["export", "m.keras", "--out", "m.tflite", "--quantize", "int8", "--data", "x.npy", "--labels", "a,b"],
        ["export", "m.keras", "--out", "m.onnx", "--data", "x.npy"],
        ["pack", "m.keras", "--out", "m.kap", "--bits", "exact"],
        ["unpack", "m.kap", "--out", "back.keras"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert [cli.main(line) for line in words] == [0, 0, 0, 0]
    return folder


def test_exported_files_compute_what_the_model_does(files):
    expected = keras.models.load_model(files / "m.keras").predict(X, verbose=0)
    np.testing.assert_allclose(OnnxModel(files / "m.onnx").predict(X), expected, atol=1e-5)
    assert np.abs(TFLiteModel(files / "m.tflite").predict(X) - expected).max() < 0.1
    assert read_metadata(files / "m.tflite")["user"] == {"labels": ["a", "b"]}


def test_an_exactly_packed_model_comes_back_to_the_bit(files):
    before, after = (keras.models.load_model(files / name).get_weights() for name in ("m.keras", "back.keras"))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_inspect_prints_layers_zeros_and_bytes(files, capsys):
    assert cli.main(["inspect", str(files / "m.keras")]) == 0
    told = capsys.readouterr().out
    weights = keras.models.load_model(files / "m.keras").get_weights()
    zeros = sum(int((array == 0).sum()) for array in weights if array.ndim == 2)  # of kernels; biases all count
    counts = [sum(array.size for array in weights), sum(array.size for array in weights) - zeros]
    assert counts[1] < counts[0]
    assert "hidden" in told
    assert f"{counts[0]:,} parameters, {counts[1]:,} of them not zero" in told
    assert cli.main(["inspect", str(files / "m.tflite")]) == 0
    assert "FULLY_CONNECTED" in capsys.readouterr().out


def test_report_writes_a_page_that_needs_nothing_else(files, capsys):
    words = ["report", str(files / "m.keras"), str(files / "m.tflite"), "--data", str(files / "x.npy")]
    assert cli.main([*words, "--out", str(files / "page"), "--runs", "20", "--quiet"]) == 0
    page = (files / "page" / "report.html").read_text()
    assert "m.tflite" in page
    assert 'src="http' not in page
    assert "m.tflite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", "m.keras", "--out", "m.bin"], ".tflite or .onnx"),
        (["export", "m.keras", "--out", "q.tflite", "--quantize", "int8"], "data"),
        (["export", "m.keras", "--out", "q.tflite", "--quantize", "int3"], "int16x8"),
        (["export", "m.keras", "--out", "q.tflite", "--sparse", "maybe"], "sparse"),
        (["export", "m.keras", "--out", "q.onnx", "--quantize", "int8"], "quantize"),
        (["export", "m.tflite", "--out", "q.tflite"], "cannot be converted again"),
        (["export", "none.keras", "--out", "q.tflite"], "none.keras"),
        (["inspect", "x.npy"], "x.npy"),
        (["inspect", "none.tflite"], "none.tflite"),
        (["report", "m.keras", "none.keras", "--runs", "0", "--quiet"], "none.keras"),
        (["pack", "m.keras", "--out", "q.kap", "--bits", "many"], "exact"),
        (["pack", "m.keras", "--out", "q.kap", "--bits", "9"], "bits"),
        (["unpack", "x.npy", "--out", "q.keras"], "pack()"),
        (["unpack", "m.kap", "--out", "q.tflite"], "q.tflite"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_status_2(files, monkeypatch, capfd, words, told):
    monkeypatch.chdir(files)
    there = sorted(path.name for path in files.iterdir())
    assert cli.main(words) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"keras-aeprune {words[0]}: error: ")
    assert told in error
    assert sorted(path.name for path in files.iterdir()) == there
