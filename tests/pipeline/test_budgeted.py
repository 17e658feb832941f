"""Real models brought into real limits: sizes, latencies, metrics; a kill; and limits that cannot be kept."""

import json
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune import cli, compress
from keras_aeprune._validation import InputError
from keras_aeprune.export import TFLiteModel
from keras_aeprune.pipeline import compress_to_budget

RNG = np.random.default_rng(0)
X = RNG.random((500, 12), "float32")
Y = (X[:, :6].sum(axis=1) > X[:, 6:].sum(axis=1)).astype("int64")
QUICK = {"epochs": 2, "batch_size": 64, "progress": False}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(48, "relu", name="first"), layers.Dense(32, "relu", name="second")]
    model = keras.Sequential([keras.Input((12,)), *hidden, layers.Dense(2, "softmax", name="out")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(X, Y, epochs=15, verbose=0)
    folder = tmp_path_factory.mktemp("classifier")
    model.save(folder / "model.keras")
    np.savez(folder / "data.npz", x=X, y=Y)
    return folder


@pytest.fixture(scope="module")
def small(classifier, tmp_path_factory):
    """A classifier within 6 KB."""
    out = tmp_path_factory.mktemp("small") / "run"
    given = {"model": classifier / "model.keras", "max_size": "6KB", "max_drop": {"accuracy": 0.1}}
    return compress_to_budget(classifier / "data.npz", out, **given, **QUICK), given


def test_the_file_keeps_to_the_size_and_holds_the_model_that_is_beside_it(small):
    found, _ = small
    path = found.files["model.tflite"]
    assert path.stat().st_size <= 6000 < found.rows[0]["bytes"]
    assert found.chosen["bytes"] == path.stat().st_size
    assert found.model.count_params() == found.chosen["parameters"] < found.rows[0]["parameters"]
    by_file, by_model = TFLiteModel(path).predict(X), found.model.predict(X, verbose=0)
    assert np.abs(by_file - by_model).max() < 0.1


def test_scores_of_the_table_are_those_of_the_file(small):
    found, _ = small
    assert found.chosen["scores"]["accuracy"] >= found.rows[0]["scores"]["accuracy"] - 0.1
    record = json.loads(found.files["report.json"].read_text())
    assert record["chosen"] == found.chosen["step"]
    assert record["missed"] == {}
    assert [row["step"] for row in record["rows"]][:2] == ["given", "quantize_int8"]


def test_the_same_call_answers_from_its_folder(small, classifier):
    found, given = small
    began = time.monotonic()
    again = compress_to_budget(classifier / "data.npz", found.folder, **given, **QUICK)
    assert again.rows == found.rows
    assert time.monotonic() - began < 5
    with pytest.raises(InputError, match="another run"):
        compress_to_budget(classifier / "data.npz", found.folder, **{**given, "max_size": "5KB"}, **QUICK)


def test_the_table_says_what_each_step_bought(small):
    text = str(small[0])
    assert "the given model, float32" in text
    assert "int8 file" in text
    assert "cut to" in text
    assert f"{small[0].chosen['step']} *" in text


def test_a_limit_that_quantization_keeps_needs_no_cut(classifier, tmp_path):
    found = compress(classifier / "data.npz", tmp_path / "r", model=classifier / "model.keras", max_size="20KB",
                     epochs=2, progress=False)  # fmt: skip
    assert [row["step"] for row in found.rows] == ["given", "quantize_int8"]
    assert found.model.count_params() == found.rows[0]["parameters"]


def test_what_cannot_be_kept_is_an_error_with_the_nearest_that_was_reached(classifier, tmp_path, capfd):
    asked = ["--model", str(classifier / "model.keras"), "--data", str(classifier / "data.npz"), "--quiet"]
    asked += ["--out", str(tmp_path / "run"), "--epochs", "1", "--max-size", "500", "--max-error-increase", "0"]
    assert cli.main(["compress", *asked]) == 1
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "max_size" in told
    assert "nearest.tflite" in told
    assert (tmp_path / "run" / "nearest.tflite").exists()
    assert not (tmp_path / "run" / "model.tflite").exists()


def test_data_alone_get_the_narrowest_good_autoencoder_within_the_size(tmp_path):
    mixed = (RNG.random((1500, 3), "float32") @ RNG.random((3, 16), "float32") / 3).astype("float32")
    found = compress(mixed, tmp_path / "run", max_size="8KB", target="micro", epochs=10, progress=False)
    assert found.files["model.tflite"].stat().st_size <= 8000
    assert any("narrowest good one" in note for note in found.notes)
    kinds = {name: np.dtype(kind) for name, kind in TFLiteModel(found.files["model.tflite"]).input_dtypes.items()}
    assert set(kinds.values()) == {np.dtype("int8")}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"max_size": "tiny"}, "max_size"),
        ({"target": "moon"}, "target"),
        ({"max_drop": {"recall": 0.1}}, "recall"),
        ({"max_size": "6KB", "sparsity": 0.5}, "sparsity"),
        ({"max_size": "6KB", "max_time": "5m"}, "max_time"),
        ({"max_size": "6KB", "encoding_dim": 4}, "encoding_dim"),
    ],
)
def test_what_does_not_fit_is_refused(classifier, tmp_path, bad, told):
    with pytest.raises(InputError, match=told):
        compress(classifier / "data.npz", tmp_path / "run", model=classifier / "model.keras", epochs=1,
                 progress=False, **bad)  # fmt: skip


def test_a_killed_run_goes_on_from_its_last_finished_step(classifier, tmp_path):
    words = ["compress", str(classifier / "data.npz"), "--model", str(classifier / "model.keras"), "--out"]
    words += [str(tmp_path / "run"), "--max-size", "6KB", "--epochs", "2", "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "keras_aeprune.cli", *words], stdout=subprocess.DEVNULL)
    steps = tmp_path / "run" / "steps"
    deadline = time.monotonic() + 120
    while not (steps / "quantize_int8.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = (steps / "given.json").read_bytes()
    assert not (tmp_path / "run" / "model.tflite").exists()
    assert cli.main(words) == 0
    assert (steps / "given.json").read_bytes() == first
    assert (tmp_path / "run" / "model.tflite").stat().st_size <= 6000
