"""The benchmarks run in their short form and count as their tables say.

`main_job --quick` is left out because tests/pipeline runs the same job, `against_tfmot --quick` because it needs
real data and takes half a minute for a sixth training of what tests/sparsity trains; its parts are tested here.
"""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SETTINGS = {"samples": 8, "dense_epochs": 1, "epochs": 1, "ramp_epochs": 1, "frequency": 1}


@pytest.fixture
def load(monkeypatch):
    """benchmarks.NAME, which is not installed with the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def _training(method, sparsity, seed, error, zeros=0.9):
    return {
        "method": method,
        "sparsity": sparsity,
        "seed": seed,
        "dense_mse": 0.01 + seed / 1000,
        "test_mse": error,
        "zeros": zeros,
        "seconds": 1.0,
        "settings": SETTINGS,
    }


def test_short_runs_print_their_tables_and_write_nothing():
    results = ROOT / "benchmarks" / "results"
    before = {path: path.read_bytes() for path in results.glob("*.json")}
    names = ("import_time", "mask_update", "overhead")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *names, "--quick"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("== ")] == [
        f"== {name}" for name in names
    ]
    rows = {line[:26].strip(): line[26:].split() for line in done.stdout.splitlines()}
    for row in ("keras and Prune", "keras_aeprune, uniform", "tfmot, eager", "tfmot, compiled"):
        assert float(rows[row][0]) >= 0
    everywhere = "uniform 0.950000, global 0.950000, tfmot, eager 0.950000, tfmot, compiled 0.950000"
    assert f"zeros at the end: {everywhere}" in done.stdout
    assert "Prune " in done.stdout
    assert {path: path.read_bytes() for path in results.glob("*.json")} == before


def test_an_unknown_name_is_refused_with_the_known_ones():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "speed"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'speed'" in done.stderr
    assert "mask_update" in done.stderr
    assert "against_tfmot" in done.stderr


def test_the_ratio_of_errors_is_of_the_means_over_seeds_at_the_same_sparsity(load):
    runs = [
        _training("tfmot", 0.9, 0, 0.03),
        _training("tfmot", 0.9, 1, 0.05),
        _training("tfmot", 0.97, 0, 0.1),
        _training("global", 0.9, 0, 0.02),
        _training("global", 0.9, 1, 0.01),
        _training("global", 0.97, 0, 0.08, zeros=0.97),
    ]
    lines = load("against_tfmot").show({"runs": runs}).splitlines()
    assert "0.01050, mean of 2 seeds" in lines[0]
    assert lines[3].split() == [
        "0.9",
        "keras_aeprune,",
        "global",
        "0.01500",
        "0.01000",
        "0.02000",
        "0.375",
        "0.90000",
    ]
    assert lines[5].split()[-2:] == ["0.800", "0.97000"]


def test_the_ratio_of_times_is_of_each_steps_minima_and_to_the_faster_kind_of_tfmot(load):
    seconds = {
        "uniform": [[0.4, 0.2], [0.1, 0.5]],
        "tfmot, eager": [[1.0, 2.0], [3.0, 4.0]],
        "tfmot, compiled": [[0.5, 3.0], [0.7, 0.9]],
    }
    result = {"weights": 10, "seconds": seconds, "zeros": {kind: [0.5, 0.9] for kind in seconds}}
    lines = load("mask_update").show(result).splitlines()
    assert lines[1].split() == ["update", "to", "0.725", "to", "0.950", "mean", "ratio"]
    assert lines[2].split()[2:] == ["0.200", "0.100", "0.150", "0.250"]
    assert lines[3].split()[2:] == ["1.000", "3.000", "2.000", "3.333"]
    assert lines[4].split()[2:] == ["0.500", "0.700", "0.600", "1.000"]


def test_finished_trainings_are_not_run_again(load, tmp_path, monkeypatch):
    against = load("against_tfmot")
    asked = []

    def alone(module, peer, folder, settings, todo):
        asked.append((peer, json.loads(todo)))
        for job in json.loads(todo):
            if peer == "dense":
                (tmp_path / f"dense-{job}.npz").touch()
            else:
                against.part(folder, *job).write_text(json.dumps(_training(*job, error=0.02)))

    monkeypatch.setattr(against, "alone", alone)
    runs = {"seeds": (0, 1), "sparsities": (0.9,)}
    first = against._run(tmp_path, SETTINGS, runs)
    assert [peer for peer, _ in asked] == ["dense", "tfmot", "keras_aeprune"]
    assert asked[1][1] == [["tfmot", 0.9, 0], ["tfmot", 0.9, 1]]
    assert len(first["runs"]) == 2 * (1 + len(against.OURS))

    asked.clear()
    against.part(tmp_path, "global", 0.9, 1).unlink()
    assert against._run(tmp_path, SETTINGS, runs) == first
    assert asked == [("keras_aeprune", [["global", 0.9, 1]])]

    asked.clear()
    other = _training("tfmot", 0.9, 0, 0.5) | {"settings": {**SETTINGS, "epochs": 7}}
    against.part(tmp_path, "tfmot", 0.9, 0).write_text(json.dumps(other))
    assert against._run(tmp_path, SETTINGS, runs) == first
    assert asked == [("tfmot", [["tfmot", 0.9, 0]])]


def test_both_peers_read_every_image_once_an_epoch_in_an_order_that_the_seed_decides(load):
    batches = load("against_tfmot")._batches
    x = np.arange(300, dtype="float32")[:, None]

    def orders(seed):
        rows = np.concatenate([batch.numpy().ravel() for batch, target in batches(x, 2, seed)])
        return rows[:300], rows[300:]

    (first, second), again, other = orders(3), orders(3), orders(4)
    np.testing.assert_array_equal(np.sort(first), x.ravel())
    np.testing.assert_array_equal(np.sort(second), x.ravel())
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate([first, second]))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other[0])


def test_the_test_error_is_what_keras_computes(load):
    import keras

    model = load("overhead").autoencoder(keras)
    model.compile("adam", "mse")
    x = np.random.default_rng(0).random((32, 784), "float32")
    ours = load("against_tfmot")._test_error(model.get_weights(), x)
    assert ours == pytest.approx(model.evaluate(x, x, verbose=0), rel=1e-5)


def test_without_real_data_the_reason_is_shown_and_nothing_is_kept(load, tmp_path, monkeypatch, capsys):
    main = load("__main__")
    monkeypatch.delenv("KERAS_AEPRUNE_DATA", raising=False)
    monkeypatch.setattr(main, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "against_tfmot"])
    assert main.main() == 0
    assert "skipped, KERAS_AEPRUNE_DATA is not set" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_result_replaces_the_parts_that_it_is_made_of(load, tmp_path, monkeypatch, capsys):
    main, script = load("__main__"), load("against_tfmot")
    parts = tmp_path / "against_tfmot.parts"
    parts.mkdir()
    (parts / "before.json").write_text(json.dumps({"seconds": 5000.0}))  # of a run that was killed
    monkeypatch.setattr(main, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "run", lambda quick: {"runs": [_training("tfmot", 0.9, 0, 0.03)]})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "against_tfmot"])
    assert main.main() == 0
    assert "0.03000" in capsys.readouterr().out
    kept = json.loads((tmp_path / "against_tfmot.json").read_text())
    assert kept["runs"][0]["test_mse"] == 0.03
    assert "tensorflow" in kept["environment"]
    assert kept["took"] == pytest.approx(5000, abs=60)
    assert not parts.exists()


def test_the_tables_in_the_documents_are_those_of_the_results(load):
    for path, text in load("__main__").pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m benchmarks --readme"


def test_errors_that_the_documents_quote_stand_in_a_table(load):
    tables = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    quoted = {
        (page.name, n) for page in pages for n in re.findall(r"\b0\.\d{5}\b", page.read_text(encoding="utf-8"))
    }
    assert len(quoted) > 50
    assert sorted(one for one in quoted if one[1] not in tables) == []


def test_a_worker_that_dies_is_reported_with_its_last_words(load):
    with pytest.raises(
        RuntimeError, match="(?s)no_such_file: ended with status [12]: .*(No such file|can.t open)"
    ):
        load("_processes").together("json.tool", ("no_such_file",), (), 1)
