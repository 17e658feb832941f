import io
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_aeprune import datasets
from keras_aeprune._validation import BudgetError, InputError
from keras_aeprune.export import TFLiteModel
from keras_aeprune.pipeline import compress
from keras_aeprune.pipeline import job as job_module

ARGUMENTS = {"epochs": 3, "sparsity": 0.8, "seed": 5, "progress": False}  # as the fixture `finished`


def lasting(report):
    return {name: value for name, value in report.items() if name != "measured_on_this_machine"}


def test_all_files_are_there_and_nothing_unfinished(finished):
    assert all(path.is_file() for path in finished.files.values())
    assert not [path for path in finished.folder.rglob("*") if path.name.startswith(".")]
    assert json.loads(finished.files["report.json"].read_text()) == finished.report


def test_the_rows_compare_everything_on_the_same_test_samples(finished):
    x = datasets.load("digits", seed=5).flat.x_test
    rows = {row["name"]: row for row in finished.report["rows"]}
    assert list(rows) == [
        "mean", "pca", "dense", "pruned", "dense_float32", "dense_int8", "pruned_float32", "pruned_int8",
    ]  # fmt: skip
    for name in ("dense", "pruned"):
        model = keras.models.load_model(finished.files[f"{name}.keras"])
        expected = np.mean((model.predict(x, verbose=0) - x) ** 2)
        assert rows[name]["test_mse"] == pytest.approx(expected, rel=1e-5)
    for name in ("dense_float32", "dense_int8", "pruned_float32", "pruned_int8"):
        path = finished.files[f"{name}.tflite"]
        expected = np.mean((TFLiteModel(path).predict(x) - x) ** 2)
        assert rows[name]["test_mse"] == pytest.approx(expected, rel=1e-5)
        assert rows[name]["bytes"] == path.stat().st_size
    assert rows["dense_float32"]["test_mse"] == pytest.approx(rows["dense"]["test_mse"], rel=1e-3)
    for name in ("dense_int8", "pruned_int8"):
        assert rows[name]["bytes"] < rows["dense_float32"]["bytes"] / 2
    assert rows["pruned_float32"]["bytes"] < rows["dense_float32"]["bytes"] / 2  # its zeros are not stored


def test_the_pruned_model_holds_the_zeros_that_were_asked_for(finished):
    kernels = [w.numpy() for w in finished.model.trainable_variables if w.name == "kernel"]
    zeros, size = sum((k == 0).sum() for k in kernels), sum(k.size for k in kernels)
    assert zeros == np.floor(0.8 * size + 0.5)
    layers = finished.report["layers"]
    assert sum(layer["zeros"] for layer in layers) == zeros
    assert sum(layer["asked"] * layer["weights"] for layer in layers) == pytest.approx(zeros)


def test_keras_files_hold_weights_and_no_optimizer(finished):
    for name in ("dense.keras", "pruned.keras"):
        path = finished.files[name]
        with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
            assert "optimizer" not in weights
            assert not json.loads(archive.read("config.json")).get("compile_config")
        model = keras.models.load_model(path)
        assert not model.compiled
        assert path.stat().st_size < 1.5 * 4 * model.count_params()  # Adam's moments would be twice the weights
    x = datasets.load("digits", seed=5).flat.x_test
    expected = np.mean((finished.model.predict(x, verbose=0) - x) ** 2)
    assert finished.model.evaluate(x, x, verbose=0) == pytest.approx(expected, rel=1e-4)


def test_pca_stands_beside_the_autoencoder(finished):
    from sklearn.decomposition import PCA

    data = datasets.load("digits", seed=5).flat
    width = finished.report["settings"]["encoding_dim"]
    pca = PCA(width).fit(data.x_train)
    expected = np.mean((pca.inverse_transform(pca.transform(data.x_test)) - data.x_test) ** 2)
    row = next(row for row in finished.report["rows"] if row["name"] == "pca")
    assert row["test_mse"] == pytest.approx(expected, rel=1e-4)
    assert width in finished.report["pca_curve"]["widths"]


def test_the_same_seed_gives_the_same_report_and_files(finished, tmp_path):
    again = compress("digits", tmp_path / "run", **ARGUMENTS)
    assert lasting(again.report) == lasting(finished.report)
    for name in ("pruned_int8.tflite", "pruned_float32.tflite"):
        assert again.files[name].read_bytes() == finished.files[name].read_bytes()


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_a_run_that_stopped_after_a_step_ends_as_one_that_did_not(finished, tmp_path, kept, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    steps = ["dense", "prune", "finetune", "export", "measure"]
    for step in steps[kept:]:
        (folder / "steps" / f"{step}.json").unlink()
    (folder / ".unfinished-1-pruned.keras").write_text("half")
    made = []
    whole = job_module._Job.step

    def step(self, number, name, title, make):
        return whole(self, number, name, title, lambda heading: made.append(name) or make(heading))

    monkeypatch.setattr(job_module._Job, "step", step)
    result = compress("digits", folder, **ARGUMENTS)
    assert made == steps[kept:]
    assert lasting(result.report) == lasting(finished.report)
    assert not list(folder.glob(".unfinished*"))


def test_a_killed_run_goes_on_with_the_same_command(finished, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "keras_aeprune.cli", "compress", "digits", "--out", str(folder)]
    command += ["--epochs", "3", "--sparsity", "0.8", "--seed", "5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (folder / "steps" / "prune.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "report.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[1/5] train the dense autoencoder: already done" in done.stderr
    assert "[2/5] prune: already done" in done.stderr
    assert "test MSE" in done.stdout
    assert str(folder / "report.html") in done.stdout
    assert lasting(json.loads((folder / "report.json").read_text())) == lasting(finished.report)


def test_the_folder_of_another_run_is_refused_and_left_alone(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    with pytest.raises(InputError, match=r"the folder of another run \(epochs was .* and is .* now\)"):
        compress("digits", finished.folder, **{**ARGUMENTS, "epochs": 4})
    x = np.random.default_rng(0).random((60, 6))
    with pytest.raises(InputError, match="the folder of another run"):
        compress(x, finished.folder, **ARGUMENTS)
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_no_sparsity_asked_is_no_sparsity_given(tmp_path):
    x = np.random.default_rng(0).random((80, 12), "float32")
    result = compress(x, tmp_path / "run", **{**ARGUMENTS, "sparsity": 0.0})
    row = next(row for row in result.report["rows"] if row["name"] == "pruned")
    assert row["sparsity"] == 0


def test_a_time_limit_that_cannot_be_met_leaves_nothing(tmp_path):
    with pytest.raises(BudgetError, match=r"max_time: got 3 s, which is too short .* needed here: about \d+ s"):
        compress("digits", tmp_path / "run", **{**ARGUMENTS, "max_time": 3})
    assert not (tmp_path / "run").exists()


def test_a_time_limit_cuts_the_epochs(tmp_path):
    x = np.random.default_rng(0).random((80, 12), "float32")
    arguments = {**ARGUMENTS, "epochs": 2000, "max_time": 40, "sparsity": 0.5}
    result = compress(x, tmp_path / "run", **arguments)
    assert result.report["settings"]["epochs"]["dense"] < 2000
    layers = result.report["layers"]
    assert sum(layer["zeros"] for layer in layers) == pytest.approx(sum(la["weights"] for la in layers) / 2, abs=1)


def test_standardised_data_are_reconstructed_without_a_sigmoid(tmp_path):
    x = np.random.default_rng(0).normal(5, 3, (90, 10)).astype("float32")
    result = compress(x, tmp_path / "run", **ARGUMENTS)
    assert result.report["settings"]["output_activation"] == "linear"
    assert result.report["data"]["scaling"]["kind"] == "standard"
