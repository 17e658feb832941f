"""Controls of calibration, rewinding, logistic PCA and thresholds: what is counted, and short runs."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_aeprune.calibration.samples import Calibration
from keras_aeprune.models.anomaly import AnomalyDetector
from keras_aeprune.models.dense import dense
from keras_aeprune.models.pca import PCA

ROOT = Path(__file__).parent.parent


@pytest.fixture
def load(monkeypatch):
    """benchmarks.NAME, which is not installed with the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def images():
    return np.random.default_rng(0).random((300, 784), "float32")


def _words(text):
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.mark.parametrize("name", ["calibration_controls", "rewinding", "published_autoencoders"])
def test_without_real_data_the_reason_is_given(load, monkeypatch, name):
    monkeypatch.delenv("KERAS_AEPRUNE_DATA", raising=False)
    script = load(name)
    assert script.show(script.run(False)) == "skipped: KERAS_AEPRUNE_DATA is not set"
    assert name in load("__main__").NAMES


def test_foreign_images_and_plain_noise_know_nothing_of_the_real_ones(load):
    controls, model = load("calibration_controls"), dense((20,), 3, hidden_units=(8,))
    rng = np.random.default_rng(0)
    other = rng.random((50, 20), "float32")
    drawn = {}
    for shift in (0, 5):
        rest = Calibration(rng.random((90, 20), "float32") + shift)
        draws = SimpleNamespace(seed=3, rest=rest)
        for source in controls.SOURCES:
            drawn[source, shift] = controls.samples_of(source, draws, model, other, 40).x
        assert set(map(bytes, drawn["real", shift])) <= set(map(bytes, rest.x))
    for source in controls.SOURCES[1:]:
        np.testing.assert_array_equal(drawn[source, 0], drawn[source, 5])
    assert len(set(map(bytes, drawn["fashion_mnist", 0])) & set(map(bytes, other))) == 40
    noise = drawn[controls.NOISE, 0]
    assert (abs(noise.mean()), noise.std()) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1))
    assert (noise < 0).mean() == pytest.approx(0.5, abs=0.1)


def _synflow(kernels, biases, sparsity, steps):
    """The masks of SynFlow in steps, for dense layers, one after the other in NumPy."""
    masks = [np.ones(k.shape, bool) for k in kernels]
    size = sum(k.size for k in kernels)
    for step in range(1, steps + 1):
        absolute = [np.abs(k) * m for k, m in zip(kernels, masks, strict=True)]
        before = [np.ones(kernels[0].shape[0])]
        for kernel, bias in zip(absolute, biases, strict=True):
            before.append(before[-1] @ kernel + np.abs(bias))
        slope, scores = np.ones(kernels[-1].shape[1]), []
        for kernel, x in zip(absolute[::-1], before[-2::-1], strict=True):
            scores.insert(0, kernel * np.outer(x, slope))
            slope = kernel @ slope
        zeros = int(np.floor((1 - (1 - sparsity) ** (step / steps)) * size + 0.5))
        limit = np.sort(np.concatenate([s.ravel() for s in scores]))[zeros]
        masks = [s >= limit for s in scores]
    return masks


@pytest.mark.parametrize("steps", [1, 6])
def test_synflow_in_steps_keeps_what_slow_numpy_keeps(load, steps):
    model, rng = dense((12,), 4, hidden_units=(8,)), np.random.default_rng(1)
    given = [rng.normal(0, 1, w.shape).astype("float32") for w in model.get_weights()]
    model.set_weights(given)
    found = load("calibration_controls").in_steps(model, steps)
    expected = _synflow(given[::2], given[1::2], 0.9, steps)
    for mask, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, other)
    assert sum(mask.sum() for mask in found) == 26  # of 256 weights
    for value, before in zip(model.get_weights(), given, strict=True):
        np.testing.assert_array_equal(value, before)


def test_controls_of_calibration_run_in_their_short_form(load, real_data, monkeypatch):
    controls = load("calibration_controls")
    monkeypatch.setattr(controls, "QUICK", {**controls.QUICK, "train": 300, "samples": 32})
    monkeypatch.setattr(controls, "STEPS", 2)
    monkeypatch.setattr(controls, "ALONE", ("synflow", "random"))
    result = json.loads(json.dumps(controls.run(True)))
    rows = {(row["criterion"], row["source"]): row for row in result["rows"]}
    ranks = [rows["gradient_magnitude", source]["overall"] for source in controls.SOURCES]
    assert [len(rank["values"]) for rank in ranks] == [2, 2, 2]
    assert 1 > ranks[0]["mean"] > max(ranks[1]["mean"], ranks[2]["mean"]) > 0
    assert rows["synflow", "no data"]["overall"] is None
    assert rows["random", "no data"]["pruned"]["deviation"] > 0
    assert rows["synflow", "no data"]["pruned"]["deviation"] == 0  # the seed is of the fine-tuning alone
    lines = _words(controls.show(result))
    assert lines[2].startswith("gradient_magnitude real 0.")
    assert lines[-1].startswith("random no data - 0.")
    assert len(lines) == 2 + 3 + 2


def test_rounds_reach_each_target_in_equal_fractions_of_what_is_left(load):
    rewinding = load("rewinding")
    assert rewinding.ladder([1, 1, 1]) == [0.9, 0.97, 0.99]
    np.testing.assert_allclose(rewinding.ladder([2, 1, 2]), [0.683772, 0.9, 0.97, 0.982679, 0.99], atol=1e-6)
    left = 1 - np.array([0, *rewinding.ladder(rewinding.FULL["steps"])])
    assert (1 - left[1:] / left[:-1]).min() > 0.19
    assert (1 - left[1:] / left[:-1]).max() < 0.22


def test_new_random_weights_stand_where_the_ticket_has_any(load):
    rewinding = load("rewinding")
    settings = {"hidden": [6]}
    ticket = [
        w * (np.arange(w.size).reshape(w.shape) % 3 == 0) for w in rewinding.network(settings, 0).get_weights()
    ]
    fresh = rewinding.network(settings, 7).get_weights()
    found = rewinding.drawn_again(ticket, settings, 7).get_weights()
    for value, new, old in zip(found, fresh, ticket, strict=True):
        if value.ndim > 1:
            np.testing.assert_array_equal(value[old != 0], new[old != 0])
            np.testing.assert_array_equal(value == 0, old == 0)


def test_masks_are_the_dense_models_largest_and_a_rewound_weight_is_that_of_the_first_epoch(
    load, images, monkeypatch
):
    rewinding = load("rewinding")
    monkeypatch.setattr(rewinding, "SPARSITIES", (0.9,))
    settings = {"hidden": [6], "steps": [1], "epochs": 1}
    second = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.0, 0.5])  # an epoch is 3 steps: 0, 1 and 2
    model = rewinding.network(settings, 0)
    first = model.get_weights()
    model.compile(keras.optimizers.SGD(second), "mse")
    targets, after = rewinding.rounds(model, images, images[:50], settings, 0, dense_epochs=2, rewind=1)
    dense, ticket = after[0.0], after[0.9]
    assert targets[0.9]["mse"] == pytest.approx(
        np.square(model.predict(images[:50], verbose=0) - images[:50]).mean()
    )
    sizes = np.concatenate([np.abs(w).ravel() for w in dense if w.ndim > 1])
    limit = np.sort(sizes)[-round(0.1 * sizes.size)]
    for value, early, late in zip(ticket, first, dense, strict=True):
        expected = early * (np.abs(late) >= limit) if value.ndim > 1 else early
        np.testing.assert_array_equal(value, expected)
        assert value.ndim == 1 or not np.array_equal(early, late)

    model = rewinding.network(settings, 0)
    model.set_weights(dense)
    model.compile(keras.optimizers.SGD(second), "mse")
    targets, after = rewinding.rounds(model, images, images[:50], settings, 0)
    assert list(targets) == [0.9]
    for value, late in zip(after[0.9], dense, strict=True):
        np.testing.assert_array_equal(value, late * (value != 0))


def test_rewinding_runs_in_its_short_form_and_counts_all_epochs(load, real_data, monkeypatch):
    rewinding = load("rewinding")
    monkeypatch.setattr(rewinding, "SPARSITIES", (0.9,))
    monkeypatch.setattr(rewinding, "QUICK", {**rewinding.QUICK, "steps": [2]})
    result = json.loads(json.dumps(rewinding.run(True)))
    rows = {row["method"]: row for row in result["rows"]}
    assert len(rows) == len(result["rows"]) == 1 + 5
    for name, row in rows.items():
        assert row["zeros"] == pytest.approx(0.9 * (name != "dense"), abs=1e-4)
    epochs = {name: row["epochs"] for name, row in rows.items()}
    rest = {"dense": 0, "one-shot": 1, "Prune": 1}
    assert epochs == {"rewound": 2, "fine-tuned": 2, "random weights": 2 + 1 + 1, **rest}
    assert result["pca"] < result["mean"]
    lines = _words(rewinding.show(result))
    assert lines[0].endswith("means of 1 seeds")
    assert len(lines) == 2 + 5


def test_ratios_to_the_dense_model_are_taken_seed_by_seed(load):
    rewinding = load("rewinding")

    def row(method, sparsity, seed, mse):
        one = {"mse": mse, "zeros": sparsity, "epochs": 4, "seed": seed}
        return {"method": method, "sparsity": sparsity, **one}

    methods = ("rewound", "random weights", "fine-tuned", "one-shot", "Prune")
    rows = [row("dense", 0.0, 0, 0.01), row("dense", 0.0, 1, 0.02)]
    rows += [row(m, s, seed, 0.03) for m in methods for s in rewinding.SPARSITIES for seed in (0, 1)]
    lines = _words(rewinding.show({"rows": rows, "pca": 0.017, "mean": 0.067}))
    assert lines[0] == "dense mse 0.01500; PCA-32 0.01700, predicting the mean 0.06700; means of 2 seeds"
    assert lines[2] == "0.9 rewound 0.03000 0.03000 0.03000 2.250 0.90000 4"  # of 3 and 1.5
    assert lines[-1].startswith("0.99 Prune ")


def test_logistic_pca_is_one_linear_code_and_one_layer_of_sigmoids_in_squares_an_image(load, images, monkeypatch):
    published, seen = load("published_autoencoders"), []
    error = published._error
    monkeypatch.setattr(
        published, "_error", lambda model, test: seen.append((model, model.loss)) or error(model, test)
    )
    x, test = images[:200], images[200:]
    rows = published._logistic(x, test, True)
    assert [loss for _, loss in seen] == ["binary_crossentropy", "mse"]
    for (model, _), row in zip(seen, rows, strict=True):
        w, b, v, c = model.get_weights()
        assert (w.shape, v.shape) == ((784, 30), (30, 784))
        rebuilt = 1 / (1 + np.exp(-((test @ w + b) @ v + c)))
        assert row[1:3] == ["sum", pytest.approx(np.square(rebuilt - test).sum(axis=1).mean(), rel=1e-4)]
    assert [row[3] for row in rows] == [8.01, None]


def test_a_sum_of_squares_has_that_of_pca_beside_it_and_the_deep_model_of_another_table(
    load, real_data, monkeypatch, tmp_path
):
    published = load("published_autoencoders")
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    assert published._deep() == []
    runs = [{"task": published.DEEP, "mse": 0.005}, {"task": "another", "mse": 0.1}]
    (tmp_path / "reconstruction.json").write_text(json.dumps({"runs": runs}))
    assert published.DEEP in load("reconstruction").TASKS
    for job in ("_curve", "_blog", "_few", "_dropneuron"):
        monkeypatch.setattr(published, job, lambda *_: [])
    monkeypatch.setattr(published, "_logistic", lambda *_: [["logistic", "sum", 9.0, 8.01, 30]])
    result = published.run(True)
    rows = {row["row"]: row for row in result["rows"]}
    with np.load(real_data / "data" / "mnist.npz", allow_pickle=False) as file:
        x, test = file["x_train"][:2000].reshape(-1, 784) / 255, file["x_test"][:500].reshape(-1, 784) / 255
    away = test - x.mean(0)
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:30]
    squares = np.square(away - away @ axes.T @ axes).sum(axis=1).mean()
    assert rows["logistic"]["pca"] == pytest.approx(squares, rel=1e-3)
    assert rows[published.DEEP]["error"] == pytest.approx(3.92)
    line = _words(published.show(result))[-1]
    assert line.startswith(f"{published.DEEP} sum 3.92000 3.00000 ")


def test_anomalies_are_judged_at_a_threshold_from_normal_training_samples_or_from_labels(load):
    seen = np.arange(101.0)  # 99 is its quantile 0.99
    scores = np.array([99.0, 99.5, 1.0, 2.0, 98.0, 100.0, 120.0, 130.0])
    anomaly = np.array([0, 0, 0, 0, 1, 1, 1, 1], bool)
    both = np.array([1.0, 100.0, 60.0, 140.0]), np.array([0, 0, 1, 1], bool)  # best between 1 and 60
    found = load("anomalies").judged(lambda x: x, seen, scores, anomaly, both)
    assert found["auc"] == (2 + 4 + 4 + 4) / 16
    assert found["mse"] == np.mean([99, 99.5, 1, 2])
    assert (found["accuracy"], found["f1"]) == (6 / 8, 2 * 3 / (2 * 3 + 1 + 1))
    assert (found["accuracy with labels"], found["f1 with labels"]) == (6 / 8, 2 * 4 / (2 * 4 + 2))
    assert "f1 with labels" not in load("anomalies").judged(lambda x: x, seen, scores, anomaly)


def test_both_thresholds_are_those_of_the_packages_detector(load):
    rng, anomalies = np.random.default_rng(0), load("anomalies")
    x, test = rng.normal(0, 1, (200, 9)), rng.normal(0, 1, (60, 9)) * np.repeat([1, 3], 30)[:, None]
    both = rng.normal(0, 1, (40, 9)) * np.repeat([1, 3], 20)[:, None], np.repeat([False, True], 20)
    model, labels = dense((9,), 2, output_activation="linear"), np.repeat([False, True], 30)
    found = anomalies.judged(AnomalyDetector(model).scores, x, test, labels, both)
    for name, fitted in (("", (x,)), (" with labels", both)):
        report = AnomalyDetector(model).fit(*fitted).evaluate(test, labels)
        assert (found[f"accuracy{name}"], found[f"f1{name}"]) == (report.accuracy, report.f1)
        assert 0 < report.accuracy < 1


def test_anomalies_run_in_their_short_form_with_pca_of_all_widths_of_the_beats(load, real_data, monkeypatch):
    anomalies = load("anomalies")
    setting = {"kind": "denoising", "width": 2, "options": {}, "noises": [0.5], "after": [1]}
    monkeypatch.setattr(anomalies, "ECG", {"denoising, 2 numbers": setting})
    monkeypatch.setattr(anomalies, "TABULAR", ())
    result = json.loads(json.dumps(anomalies.run(True)))
    rows = {row["method"]: row for row in result["rows"]}
    with np.load(real_data / "data" / "ecg5000.npz", allow_pickle=False) as file:
        x, test, labels = file["x_train"][file["y_train"] == 1], file["x_test"], file["y_test"]
    pca = PCA.fit(x, [2, 4, 8, 16, 32])
    for width in (2, 4, 8, 16, 32):
        flagged = pca.errors(test, width) > np.quantile(pca.errors(x, width), 0.99)
        row = rows[f"PCA, {width} numbers"]
        hits, missed = (flagged & (labels > 1)).sum(), (~flagged & (labels > 1)).sum()
        alarms = (flagged & (labels == 1)).sum()
        assert row["f1"] == pytest.approx(hits / (hits + (missed + alarms) / 2))
        assert row["accuracy"] == pytest.approx(1 - (missed + alarms) / len(labels))
    beats, kinds = anomalies.labelled("ecg5000")
    assert (len(beats), kinds.sum()) == (500, 208)
    assert rows["PCA, 2 numbers"]["f1 with labels"] > rows["PCA, 2 numbers"]["f1"] + 0.01
    assert len(rows) == 7 + 1
    lines = _words(anomalies.show(result))
    assert lines[1] == "data method AUC lowest highest mse normal accuracy F1 accuracy F1 seeds"
    assert max(len(line) for line in anomalies.show(result).splitlines()) <= 120
