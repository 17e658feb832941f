"""compress with a limit for the error: one more step, its files and rows; nothing of it without the limit."""

import functools
import json
import shutil

import keras
import numpy as np
import pytest

from keras_aeprune import datasets
from keras_aeprune._validation import BudgetError, InputError
from keras_aeprune.export import TFLiteModel
from keras_aeprune.models import PCA
from keras_aeprune.pipeline import compress, plan, shrink_step
from keras_aeprune.pipeline import job as job_module
from keras_aeprune.pipeline.plan import Cost, after_training, fit_epochs, wanted_epochs
from keras_aeprune.pipeline.settings import Settings
from keras_aeprune.report import page
from keras_aeprune.shrinking.iteration import shrink_until
from keras_aeprune.shrinking.rounds import RoundsFolder

RNG = np.random.default_rng(0)
X = (RNG.random((200, 3)) @ RNG.random((3, 12)) / 3).astype("float32")  # three numbers are behind the twelve
GIVEN = {"encoding_dim": 6, "hidden_units": (16,), "epochs": 4, "sparsity": 0.5, "seed": 3, "progress": False}
LIMIT = {**GIVEN, "max_error_increase": 0.5}
NAMES = ["shrunk", "shrunk_float32", "shrunk_int8"]


@pytest.fixture(scope="module", autouse=True)
def only_units():
    """Fewer moves, so that the rounds are quick."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shrink_step, "shrink_until", functools.partial(shrink_until, layers=False))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return compress(X, tmp_path_factory.mktemp("whole") / "run", **LIMIT)


def test_the_shrunk_files_are_there_and_measured_like_the_others(whole):
    x = datasets.load(X, seed=3).flat.x_test
    rows = {row["name"]: row for row in whole.report["rows"]}
    model = keras.models.load_model(whole.files["shrunk.keras"])
    assert rows["shrunk"]["test_mse"] == pytest.approx(np.mean((model.predict(x, verbose=0) - x) ** 2), rel=1e-5)
    assert rows["shrunk"]["parameters"] == model.count_params() < rows["dense"]["parameters"]
    for name in NAMES[1:]:
        path = whole.files[f"{name}.tflite"]
        expected = np.mean((TFLiteModel(path).predict(x) - x) ** 2)
        assert rows[name]["test_mse"] == pytest.approx(expected, rel=1e-5)
        assert rows[name]["bytes"] == path.stat().st_size
    assert {row["name"] for row in whole.report["measured_on_this_machine"]["latency"]} > {"shrunk_int8"}
    assert not [path for path in whole.folder.rglob("*") if path.name.startswith(".")]
    assert not (whole.folder / "steps" / "shrink").exists()


def test_the_rounds_and_the_layers_are_in_the_report_and_on_the_page(whole):
    found = whole.report["shrinking"]
    assert found["max_error_increase"] == 0.5
    assert found["rounds"][0]["params"] == sum(layer["parameters"][0] for layer in found["layers"])
    rows = {row["name"]: row for row in whole.report["rows"]}
    assert sum(layer["parameters"][1] for layer in found["layers"]) == rows["shrunk"]["parameters"]
    held = [one for one in found["rounds"] if one["held"]]
    assert held[-1]["params"] == rows["shrunk"]["parameters"]
    before, after = found["validation_mse"]
    assert after <= 1.5 * before
    html = whole.files["report.html"].read_text()
    assert all(f"round {one['number']}" in html for one in found["rounds"][1:])
    assert "encoder/code" in html


def test_the_headline_is_about_the_shrunk_file_and_pca_of_its_width(whole):
    assert whole.report["best"] == "shrunk_int8"
    lines = str(whole).splitlines()
    assert lines[0].startswith("The shrunk int8 file is ")
    assert max(len(line) for line in lines if "tmp" not in line) <= 100
    width = keras.models.load_model(whole.files["shrunk.keras"]).get_layer("encoder").output_shape[-1]
    data = datasets.load(X, seed=3).flat
    rows = {row["name"]: row for row in whole.report["rows"]}
    pca = rows["pca"] if width == 6 else rows["pca_shrunk"]
    assert pca["test_mse"] == pytest.approx(PCA.fit(data.x_train).mse(data.x_test, width), rel=1e-6)
    assert f"that of PCA with the same {width} numbers" in " ".join(" ".join(lines[:4]).split())


class Killed(BaseException):
    pass


@pytest.fixture
def until_export(monkeypatch):
    """until_export(**arguments): the steps that `compress` went through, killed before the files are written."""

    def run(folder, **arguments):
        step, made = job_module._Job.step, []

        def killed(self, number, name, *given):
            made.append((number, name))
            if name == "export":
                raise Killed
            return step(self, number, name, *given)

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(job_module._Job, "step", killed)
            compress(X, folder, **arguments)
        return made

    return run


def same_weights(one, other):
    found = [keras.models.load_model(path).get_weights() for path in (one, other)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_the_limit_all_is_as_before(whole, finished, until_export, tmp_path):
    assert not [name for name in finished.files if "shrunk" in name]
    assert "shrunk" not in finished.files["report.html"].read_text() + str(finished)
    for words in ((finished.folder / "run.json").read_text(), json.dumps(finished.report)):
        assert "shrink" not in words
        assert "max_error_increase" not in words
    folder = tmp_path / "run"
    assert until_export(folder, **GIVEN) == list(enumerate(["dense", "prune", "finetune", "export"], 1))
    for name in ("dense.keras", "pruned.keras"):
        same_weights(folder / name, whole.folder / name)
    with pytest.raises(InputError, match=r"another run \(max_error_increase was None and is 0.5 now\)"):
        compress(X, folder, **LIMIT)


def test_a_run_killed_within_the_rounds_ends_as_one_that_was_not(whole, until_export, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    for step in ("shrink", "export", "measure"):
        (folder / "steps" / f"{step}.json").unlink()

    finish = RoundsFolder.finish

    def killed_after_a_round(self, rounds, model):
        finish(self, rounds, model)
        if len(rounds) == 2:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RoundsFolder, "finish", killed_after_a_round)
        compress(X, folder, **LIMIT)
    rounds = json.loads((folder / "steps" / "shrink" / "rounds.json").read_text())["rounds"]
    assert len(rounds) == 2
    (folder / "shrunk.keras").unlink()
    made = until_export(folder, **LIMIT)
    assert made == list(enumerate(["dense", "prune", "finetune", "shrink", "export"], 1))
    records = [json.loads((one / "steps" / "shrink.json").read_text()) for one in (folder, whole.folder)]
    assert records[0]["rounds"][:2] == rounds  # with the seconds that they took the first time
    for record in records:
        for one in (record, *record["rounds"]):
            del one["seconds"]
    assert records[0] == records[1]
    assert len(records[0]["rounds"]) > 2
    same_weights(folder / "shrunk.keras", whole.folder / "shrunk.keras")


def test_a_plan_has_one_more_step_and_costs_more():
    plain, more = plan(X, **_asked(GIVEN)), plan(X, **_asked(LIMIT))
    assert "4 export" in str(plain)
    assert "shrink" not in str(plain)
    assert "4 shrink" in str(more)
    assert "while the error is at most 1.5 x the dense one's; the cost assumes 8 rounds" in " ".join(
        str(more).split()
    )
    assert "dense, pruned and shrunk" in " ".join(str(more).split())
    assert max(map(len, str(more).splitlines())) <= 100
    assert more.seconds > plain.seconds + shrink_step.around(0.0)


def _asked(arguments):
    return {name: value for name, value in arguments.items() if name != "progress"}


def test_a_time_limit_shortens_the_rounds_too():
    data = datasets.load(X, seed=3).flat
    settings = Settings.derive(data, epochs=100, max_error_increase=0.05)
    wanted = wanted_epochs(settings)
    assert wanted == {"dense": 100, "prune": 100, "finetune": 50, "shrink": 8 * (3 * 4 + 10) + 50}
    cost = Cost(trace=0.0, epoch=1.0)
    after = after_training(data, settings, cost)
    fitted = fit_epochs(wanted, after + 476 / 2 / 0.9 - after, cost, limit=600, after=after)
    assert fitted == {"dense": 50, "prune": 50, "finetune": 25, "shrink": 113}
    each = shrink_step.fitted_epochs(100, fitted["shrink"])
    assert each == {"epochs": 5, "probe_epochs": 2, "final_epochs": 25}
    assert shrink_step.passes(each) <= fitted["shrink"]
    with pytest.raises(BudgetError, match=r"too short even .* are cuts, export and report"):
        fit_epochs(wanted, 20, cost, limit=60, after=40)


def test_a_time_limit_that_the_rounds_do_not_fit_in_leaves_nothing(tmp_path):
    with pytest.raises(BudgetError, match="max_time: got 30 s, which is too short"):
        compress(X, tmp_path / "run", **LIMIT, max_time=30)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "much", True])
def test_a_limit_outside_its_range_is_refused_before_anything(value, tmp_path):
    with pytest.raises(InputError, match="max_error_increase: got .*, allowed: a fraction >= 0"):
        compress(X, tmp_path / "run", **{**GIVEN, "max_error_increase": value})
    assert not (tmp_path / "run").exists()


def test_layers_that_are_gone_or_new_have_zeros():
    def model(*names):
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(3, name=name) for name in names)])

    rows = shrink_step.changes(model("a", "b"), model("a", "c"))
    assert rows == [
        {"path": "a", "kind": "Dense", "units": [3, 3], "parameters": [15, 15], "macs": [12, 12]},
        {"path": "b", "kind": "Dense", "units": [3, 0], "parameters": [12, 0], "macs": [9, 0]},
        {"path": "c", "kind": "Dense", "units": [0, 3], "parameters": [0, 12], "macs": [0, 9]},
    ]


def test_a_file_beyond_the_limit_is_said_so(whole):
    rows = [dict(row) for row in whole.report["rows"]]
    dense = next(row for row in rows if row["name"] == "dense")["test_mse"]
    for row in rows:
        if row["name"] in NAMES:
            row["test_mse"] = (1.4 if row["name"] != "shrunk_int8" else 1.7) * dense
    text = page({**whole.report, "rows": rows}, {})
    assert "On the test samples the error is beyond that: shrunk int8 1.70&times;." in text
