"""A model file cut smaller: plans, rounds, targets, a kill, and every refusal."""

import importlib
import json
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune import cli
from keras_aeprune._validation import BudgetError, InputError
from keras_aeprune.pipeline.shrink_file import shrink_file
from keras_aeprune.shrinking.shrink_plan import ShrinkPlan

module = importlib.import_module("keras_aeprune.pipeline.shrink_file")  # the room has a function of that name

RNG = np.random.default_rng(0)
X = (RNG.random((300, 3)) @ RNG.random((3, 8)) / 3).astype("float32")  # three numbers are behind the eight
QUICK = {"epochs": 1, "batch_size": 64, "round_to": 1, "progress": False}
UNITS = {**QUICK, "layers": False}


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(24, activation="relu", name="hidden"),
            layers.Dense(4, name="code"),
            layers.Dense(8, name="out"),
        ]
    )
    model.compile(keras.optimizers.RMSprop(0.01), "mse", metrics=["mae"])
    model.fit(X, X, epochs=8, batch_size=32, verbose=0)
    path = tmp_path_factory.mktemp("models") / "m.keras"
    model.save(path)
    return path


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_cut_keeps_the_fraction_the_metrics_and_the_optimizer(autoencoder, tmp_path):
    made = shrink_file(autoencoder, X, tmp_path / "s.keras", keep=0.5, plan_file=tmp_path / "p.json", **QUICK)
    loaded = keras.models.load_model(tmp_path / "s.keras")
    assert [loaded.get_layer(name).units for name in ("hidden", "code", "out")] == [12, 2, 8]
    assert made.params == (8 * 24 + 24 + 24 * 4 + 4 + 4 * 8 + 8, loaded.count_params())
    assert set(made.before) == set(made.after) == {"loss", "mae"}
    assert isinstance(loaded.optimizer, keras.optimizers.RMSprop)
    again = loaded.evaluate(X, X, verbose=0, return_dict=True)
    assert set(again) == {"loss", "mae"}
    plan = ShrinkPlan.load(tmp_path / "p.json")
    assert plan.apply(keras.models.load_model(autoencoder)).count_params() == loaded.count_params()
    assert left(tmp_path) == ["p.json", "s.keras"]
    for words in ("24 -> 12", "mae", str(tmp_path / "s.keras"), str(tmp_path / "p.json")):
        assert words in str(made)


def test_rounds_stop_at_a_target_and_leave_only_the_file(autoencoder, tmp_path):
    made = shrink_file(autoencoder, X, tmp_path / "new" / "s.keras", target_params=300, **QUICK)
    loaded = keras.models.load_model(tmp_path / "new" / "s.keras")
    assert loaded.count_params() <= 300 < made.params[0]
    assert set(made.after) == {"loss", "mae"}
    assert left(tmp_path / "new") == ["s.keras"]
    assert made.made.stopped == "the target of 300 params is met"


def test_a_dry_run_writes_no_model(autoencoder, tmp_path):
    made = shrink_file(autoencoder, X, tmp_path / "a" / "s.keras", target_params=250, dry_run=True, **QUICK)
    assert made.params[1] <= 250
    assert "nothing was written" in str(made)
    assert left(tmp_path) == []
    made = shrink_file(
        autoencoder, X, tmp_path / "s.keras", keep=0.5, dry_run=True, plan_file=tmp_path / "p.json", **QUICK
    )
    assert "no model was written" in str(made)
    assert left(tmp_path) == ["p.json"]
    assert json.loads((tmp_path / "p.json").read_text())["settings"]["keep"] == 0.5


def test_a_classifier_is_cut_with_its_own_loss_and_labels(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(16, activation="relu", name="a"), layers.Dense(2, name="b")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.save(tmp_path / "m.keras")
    y = (X.sum(axis=1) > np.median(X.sum(axis=1))).astype("int32")
    made = shrink_file(tmp_path / "m.keras", (X, y), tmp_path / "s.keras", keep=0.5, **QUICK)
    loaded = keras.models.load_model(tmp_path / "s.keras")
    assert loaded.get_layer("a").units == 8
    assert set(made.after) == {"loss", "accuracy"}


@pytest.mark.parametrize(("limit", "rise"), [(0.5, 0.5), (None, 0.05)])
def test_activations_become_simpler_first_and_the_limit_counts_for_all(tmp_path, monkeypatch, limit, rise):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, "gelu", name="a", bias_initializer=keras.initializers.Constant(3.0)),  # nearly linear
            layers.Dense(8, name="b"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(X, X, epochs=30, batch_size=32, verbose=0)
    model.save(tmp_path / "m.keras")
    given, own = {}, module.shrink_until
    monkeypatch.setattr(
        module, "shrink_until", lambda small, x, **said: given.update(small=small, **said) or own(small, x, **said)
    )
    options = {**UNITS, "activations": True, "max_error_increase": limit}
    made = shrink_file(tmp_path / "m.keras", X, tmp_path / "s.keras", **options)
    first, simpler = (one.evaluate(*[given["validation"]] * 2, verbose=0) for one in (model, given["small"]))
    assert simpler != first
    assert (1 + given["max_error_increase"]) * simpler == pytest.approx((1 + rise) * first, rel=1e-5)
    [change] = made.activations.changes
    assert (change.path, change.before, change.after) == ("a", "gelu", "relu")
    assert np.isfinite(change.saved)
    assert "gelu" in str(made)
    loaded = keras.models.load_model(tmp_path / "s.keras")
    assert loaded.get_layer("a").activation is keras.activations.relu
    assert made.after["loss"] <= (1 + 2 * rise) * made.before["loss"]  # other samples than the limit's


def test_data_that_are_not_scaled_as_for_the_training_are_refused(autoencoder, tmp_path):
    raw = X * 100 - 300
    with pytest.raises(
        InputError, match=r"data: got values from -\d.* more than the .* of their mean, allowed: .*"
    ):
        shrink_file(autoencoder, raw, tmp_path / "s.keras", keep=0.5, **QUICK)
    assert left(tmp_path) == []
    made = shrink_file(autoencoder, raw, tmp_path / "s.keras", keep=0.5, scale="none", dry_run=True, **QUICK)
    assert made.before["loss"] > 1


REFUSED = {
    "no place": ({}, "s.h5", "out: got '.*s.h5', allowed: a name that ends in .keras"),
    "limit and keep": (
        {"keep": 0.5, "max_error_increase": 0.1},
        "s.keras",
        "keep: got it with max_error_increase",
    ),
    "target and keep": ({"keep": 0.5, "target_macs": 10}, "s.keras", "keep: got it with a target"),
    "two targets": ({"target_params": 9, "target_macs": 9}, "s.keras", "got target_params and target_macs"),
    "dry run": ({"dry_run": True}, "s.keras", "dry_run: got neither keep nor a target"),
    "plan": ({"plan_file": "p.json"}, "s.keras", "plan_file: got it for several rounds"),
    "criterion": (
        {"criterion": "fischer"},
        "s.keras",
        "criterion: got 'fischer', allowed: .*magnitude.*elimination",
    ),
    "keep": ({"keep": 1.5}, "s.keras", "keep: got 1.5"),
    "keep of no layer": ({"keep": {"nowhere": 3}}, "s.keras", "nowhere"),
    "limit": ({"max_error_increase": -1.0}, "s.keras", "max_error_increase: got -1.0"),
    "target": ({"target_params": 0}, "s.keras", "target_params: got 0"),
    "round to": ({"round_to": 0}, "s.keras", "round_to: got 0"),
    "epochs": ({"epochs": -1}, "s.keras", "epochs: got -1"),
    "seed": ({"seed": -1}, "s.keras", "seed: got -1"),
    "loss": ({"loss": "msee"}, "s.keras", "loss: got 'msee'"),
    "learning rate": ({"learning_rate": 0.0}, "s.keras", "learning_rate: got 0.0"),
    "scale": ({"scale": "big"}, "s.keras", "scale: got 'big'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_and_nothing_is_left(name, autoencoder, tmp_path):
    arguments, out, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as refused:
        shrink_file(autoencoder, X, tmp_path / "new" / out, **{**QUICK, **arguments})
    assert "\n" not in str(refused.value)
    assert left(tmp_path) == []


def test_the_model_itself_is_no_place_for_the_result(autoencoder):
    before = autoencoder.read_bytes()
    with pytest.raises(InputError, match="the model itself, allowed: another file"):
        shrink_file(autoencoder, X, autoencoder.parent / ".." / autoencoder.parent.name / "m.keras", **QUICK)
    assert autoencoder.read_bytes() == before


@pytest.mark.parametrize("arguments", [{"dry_run": True}, {"layers": False, "round_to": 64}])
def test_a_target_that_cannot_be_met_is_a_budget_error_and_leaves_nothing(arguments, autoencoder, tmp_path):
    with pytest.raises(BudgetError, match=r"target_params(: got 3, which cannot be met|=3)"):
        shrink_file(autoencoder, X, tmp_path / "s.keras", target_params=3, **{**QUICK, **arguments})
    assert left(tmp_path) == []


def test_the_rounds_of_another_run_are_refused_and_kept(autoencoder, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(module, "compile_like", killed)
    with pytest.raises(Killed):
        shrink_file(autoencoder, X, tmp_path / "s.keras", target_params=300, **UNITS)
    assert left(tmp_path) == ["s.keras.rounds"]
    monkeypatch.undo()
    (tmp_path / ".unfinished-1-s.keras").write_text("half")
    there = left(tmp_path / "s.keras.rounds")
    with pytest.raises(
        InputError, match=r"the folder of another run .*: delete '.*s.keras.rounds', or give another"
    ):
        shrink_file(autoencoder, X, tmp_path / "s.keras", target_params=299, **UNITS)
    assert left(tmp_path / "s.keras.rounds") == there
    shrink_file(autoencoder, X, tmp_path / "s.keras", target_params=300, **UNITS)
    assert left(tmp_path) == ["s.keras"]


def test_the_command_killed_twice_ends_as_one_that_was_not(autoencoder, tmp_path):
    np.save(tmp_path / "x.npy", X)
    out = tmp_path / "s.keras"
    words = ["shrink", str(autoencoder), "--data", str(tmp_path / "x.npy"), "--out", str(out)]
    words += ["--target-params", "110", "--no-layers", "--round-to", "1", "--epochs", "1", "--batch-size", "64"]
    command = [sys.executable, "-m", "keras_aeprune.cli", *words]
    state = tmp_path / "s.keras.rounds" / "rounds.json"
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (state.is_file() and len(json.loads(state.read_text())["rounds"]) > 1):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    errors = first.communicate()[1]
    second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = second.stderr.readline()
    assert "round 1: found in" in line
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert "retracing" not in errors
    assert not out.exists()
    assert cli.main([*words, "--quiet"]) == 0
    assert not state.parent.exists()
    whole = shrink_file(autoencoder, tmp_path / "x.npy", tmp_path / "t.keras", target_params=110, **UNITS)
    assert whole.made.best.number == 3  # one round before the kills, and two after them
    one, other = (keras.models.load_model(path).get_weights() for path in (out, whole.path))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
