"""The tables of the model benchmarks count as they say, and finished parts are kept."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def load(monkeypatch):
    """benchmarks.NAME, which is not installed with the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_a_part_is_made_once_for_its_settings_and_again_for_others(load, tmp_path):
    kept = load("_parts").kept
    made = []

    def make():
        made.append(1)
        return {"mse": 0.1}

    for settings in ([1, 2], (1, 2), [1, 3]):
        assert kept(tmp_path, "part", settings, make) == {"mse": 0.1}
    assert len(made) == 2
    assert json.loads((tmp_path / "part.json").read_text())["settings"] == [1, 3]


def test_few_labels_compare_seed_by_seed(load):
    rows = [
        {"labels": 600, "seed": 0, "scratch": 0.80, "frozen": 0.7, "tuned": 0.90},
        {"labels": 600, "seed": 1, "scratch": 0.90, "frozen": 0.8, "tuned": 0.89},
        {"labels": 600, "seed": 2, "scratch": 0.85, "frozen": 0.9, "tuned": 0.88},
    ]
    line = load("few_labels").show({"rows": rows}).splitlines()[1].split()
    assert line == ["600", "0.8500", "0.8000", "0.8900", "+0.0300", "-0.0100", "+0.1000"]


def test_anomaly_rows_are_medians_with_their_range(load):
    rows = [
        {
            "data": "cardio",
            "method": "dense",
            "seed": seed,
            "width": 4,
            "auc": auc,
            "mse": mse,
            "accuracy": a,
            "f1": f1,
        }
        for seed, auc, mse, a, f1 in ((0, 0.9, 0.1, 0.8, 0.6), (1, 0.7, 0.4, 0.5, 0.4), (2, 0.8, 0.2, 0.7, 0.5))
    ]
    line = load("anomalies").show({"rows": rows}).splitlines()[2].split()
    found = ["0.8000", "0.7000", "0.9000", "0.2", "0.7000", "0.5000", "-", "-", "3"]
    assert line == ["cardio", "dense,", "4", "numbers", *found]


def test_tabular_sets_are_scaled_by_normal_training_samples_that_the_test_does_not_hold(load, real_data):
    anomalies = load("anomalies")
    x, test, anomaly = anomalies.splits("cardio", seed=1)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(0)[x.std(0) > 0.5], 1, atol=1e-3)
    with np.load(real_data / "data" / "tabular_anomaly.npz", allow_pickle=False) as file:
        labels = file["cardio__y"]
    assert len(x) == (labels == 0).sum() // 2
    assert anomaly.sum() == (labels == 1).sum()
    assert len(x) + len(test) == len(labels)
    assert not np.array_equal(x[:10], anomalies.splits("cardio", seed=2)[0][:10])


def test_embeddings_of_pixels_stand_once_in_the_table(load):
    rows = [
        {"name": name, "width": width, "accuracy": 0.5, "trustworthiness": 0.9}
        for name, width in (("autoencoder", 2), ("PCA", 2), ("raw data", 784))
    ]
    shown = load("embeddings").show({"rows": rows, "train_samples": 5000, "test_samples": 4000})
    assert [line.split()[-3:] for line in shown.splitlines()[1:4]] == [
        ["2", "0.5000", "0.9000"],
        ["2", "0.5000", "0.9000"],
        ["784", "0.5000", "0.9000"],
    ]
    assert "5000 training and 4000 test digits" in shown


def test_without_real_data_the_reason_is_given(load, monkeypatch):
    monkeypatch.delenv("KERAS_AEPRUNE_DATA", raising=False)
    for name in ("reconstruction", "vae", "anomalies", "embeddings", "few_labels", "replacement"):
        script = load(name)
        assert script.show(script.run(False)) == "skipped, KERAS_AEPRUNE_DATA is not set"


def test_criteria_are_compared_with_tfmot_on_their_own_seeds_and_sorted_by_the_last_column(load):
    errors = {"tfmot": (0.02, 0.04), "wanda, global": (0.01,), "erk": (0.03, 0.05)}
    rows = [
        {"method": m, "sparsity": s, "seed": seed, "test_mse": e * s, "dense_mse": 0.01, "seconds": 9}
        for m, ones in errors.items()
        for seed, e in enumerate(ones)
        for s in (0.5, 1.0)
    ]
    lines = load("all_criteria").show({"runs": rows}).splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["wanda,", "tfmot", "magnitude,"]
    assert "0.01000 (0.500)" in lines[0]  # 0.01 / 0.02 of the same seed, not of both
    assert "0.04000 (1.333)" in lines[2]


def test_cut_models_are_compared_with_the_float32_file_of_the_given_one(load):
    row = {
        "parameters": 10,
        "bytes": 800,
        "us": 20.0,
        "faster": 1.0,
        "narrow faster": 1.0,
        "error": 0.01,
        "widths": ["a 8"],
    }
    rows = {
        "given, float32": row,
        "shrink_until, 0.5 of the params": {
            **row,
            "bytes": 100,
            "us": 2.0,
            "faster": 10.0,
            "narrow faster": 5.0,
            "error": 0.0105,
        },
    }
    lines = load("shrinking").show({"tables": {"dense": rows}}).splitlines()
    assert lines[2].split()[-8:] == ["100", "-", "8.0x", "2.0", "10.0x", "5.0x", "0.01050", "1.050"]
    assert lines[3] == "  shrink_until, 0.5 of the params: a 8"
    assert "asked: 8x smaller and 12x faster at an error of 1.05x" in lines[4]


def test_compensation_takes_back_a_share_of_the_rise(load):
    one = {"cut": 0.5, "compensated": 0.2, "seconds": 1.0}
    cases = {f"{what}, {by}": one for what in ("all", "hidden") for by in ("magnitude", "elimination")}
    row = {"name": "small", "given": 0.1, **cases, "hidden, elimination": {**one, "compensated": 0.1}}
    lines = load("compensation").show({"model0": row, "environment": {}}).splitlines()
    assert [line.split()[-2] for line in lines[1:]] == ["0.75", "0.75", "0.75", "1.00"]


def test_the_width_search_is_also_compared_with_the_fastest_of_the_trainings(load):
    search = {"width": 24, "seconds": 26.0, "retrained": [24], "answer": "24"}
    result = {
        "samples": 1,
        "epochs": 1,
        "search": search,
        "width": 24,
        "seconds": 520.0,
        "fastest": 20.0,
        "losses": [],
    }
    lines = load("width_search").show(result).splitlines()
    assert lines[3].split()[3] == "0.05"
    assert lines[4] == "against 13 times the fastest of these trainings: 0.10"
