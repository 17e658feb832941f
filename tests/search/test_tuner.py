"""Real trainings of tiny models: weights, seeds, promotions, memory, TensorBoard, workers."""

import gc
import json
import os
import subprocess
import sys
import textwrap

import keras
import keras_tuner as kt
import numpy as np
import pytest
from keras import layers

from keras_aeprune._validation import InputError, WrongKerasError
from keras_aeprune.search import checkpoints, memory
from keras_aeprune.search.tuner import BayesianOptimization, Hyperband, RandomSearch

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
FIT = {"validation_data": (X[:16], X[:16]), "batch_size": 32}


def build(hp):
    code = layers.Dense(hp.Int("encoding_dim", 1, 6), "relu")
    model = keras.Sequential([keras.Input((6,)), code, layers.Dropout(0.1), layers.Dense(6)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.trainable_variables)  # else `fit` traces its step twice
    return model


def hyperband(folder, hypermodel=build, **kwargs):
    own = {"max_epochs": 2, "factor": 2, "seed": 3, "progress": False, **kwargs}
    return Hyperband(hypermodel, "val_loss", directory=folder, **own)


class Watched(kt.HyperModel):
    """Notes with which weights promoted trials begin: {parent: (hp, weights)}."""

    def __init__(self):
        super().__init__()
        self.begun = {}

    def build(self, hp):
        return build(hp)

    def fit(self, hp, model, *args, **kwargs):
        if "tuner/trial_id" in hp.values:
            self.begun[hp.values["tuner/trial_id"]] = (hp, [np.array(w) for w in model.weights])
        return model.fit(*args, verbose=0, **kwargs)


class Watching(Hyperband):
    """Keeps every weight file: {trial: bytes}."""

    def run_trial(self, trial, *args, **kwargs):
        found = super().run_trial(trial, *args, **kwargs)
        with open(self._get_checkpoint_fname(trial.trial_id), "rb") as file:
            self.saved = {**getattr(self, "saved", {}), trial.trial_id: file.read()}
        return found


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A whole search, and how many gradients it left in the registry."""
    own = {"max_epochs": 2, "factor": 2, "seed": 3, "keep": 2, "progress": False}
    tuner = Watching(Watched(), "val_loss", directory=tmp_path_factory.mktemp("searched"), **own)
    registered = len(memory.gradient_registry())
    tuner.search(X, X, **FIT)
    return tuner, len(memory.gradient_registry()) - registered


def weight_files(tuner):
    folder = checkpoints.Path(tuner.project_dir)
    return {path.parent.name.removeprefix("trial_"): path for path in folder.glob("*/" + checkpoints.FILE)}


def test_it_is_a_keras_tuner_tuner_and_runs_promotions(searched):
    tuner, _ = searched
    assert isinstance(tuner, kt.Hyperband)
    assert issubclass(RandomSearch, kt.RandomSearch) and issubclass(BayesianOptimization, kt.BayesianOptimization)
    trials = tuner.oracle.trials.values()
    assert {trial.status for trial in trials} == {"COMPLETED"}
    assert any("tuner/trial_id" in trial.hyperparameters.values for trial in trials)


def test_the_saved_weights_have_the_score_of_the_trial(searched):
    tuner, _ = searched
    for trial, model in zip(tuner.get_best_trials(2), tuner.get_best_models(2), strict=True):
        assert model.evaluate(X[:16], X[:16], verbose=0) == pytest.approx(trial.score, rel=1e-5)


def test_beaten_trials_have_no_weights_left(searched):
    tuner, _ = searched
    assert set(weight_files(tuner)) == {trial.trial_id for trial in tuner.get_best_trials(2)}
    beaten = tuner.get_best_trials(3)[2]
    with pytest.raises(InputError, match="keep="):
        tuner.load_model(beaten)


def test_files_hold_weights_and_no_moments(tmp_path, searched):
    tuner, _ = searched
    model = tuner.get_best_models()[0]
    model.fit(X, X, verbose=0)
    step = int(model.optimizer.iterations)
    path = tmp_path / "own.weights.h5"
    checkpoints.save_weights(model, path)
    model.save_weights(tmp_path / "all.weights.h5")
    assert b"optimizer" in (tmp_path / "all.weights.h5").read_bytes()
    assert b"optimizer" not in path.read_bytes()
    other = build(tuner.get_best_hyperparameters()[0])
    other.load_weights(path)  # plain Keras reads it
    kernels = [layer.get_weights() for layer in model.layers]
    for one, two in zip(kernels, [layer.get_weights() for layer in other.layers], strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
    checkpoints.load_weights(model, path)
    assert int(model.optimizer.iterations) == step and "optimizer" in vars(model)


def test_weight_files_are_refused_under_other_names_and_before_building(tmp_path):
    with pytest.raises(InputError, match=r"\.weights\.h5"):
        checkpoints.save_weights(build(kt.HyperParameters()), tmp_path / "a.h5")
    with pytest.raises(InputError, match="not built"):
        checkpoints.save_weights(keras.Sequential([layers.Dense(2)]), tmp_path / "a.weights.h5")
    assert not list(tmp_path.iterdir())


def test_a_promoted_trial_begins_with_the_best_epoch_of_its_parent(tmp_path, searched):
    tuner, _ = searched
    assert tuner.hypermodel.begun
    for parent, (hp, weights) in tuner.hypermodel.begun.items():
        (tmp_path / "p.weights.h5").write_bytes(tuner.saved[parent])
        model = build(hp)
        model.load_weights(tmp_path / "p.weights.h5")
        for one, two in zip(model.weights, weights, strict=True):
            np.testing.assert_array_equal(one, two)
        loss = model.evaluate(X[:16], X[:16], verbose=0)
        assert loss == pytest.approx(tuner.oracle.trials[parent].score, rel=1e-5)


def test_the_best_epoch_is_written_and_the_model_keeps_its_last(tmp_path):
    model = build(kt.HyperParameters())
    path = tmp_path / "best.weights.h5"
    saver = checkpoints.SaveBestWeights(kt.Objective("val_loss", "min"), path)
    saver.set_model(model)
    for epoch, loss in enumerate([np.nan, 0.2, 0.1, 0.3, np.inf]):
        for variable in model.weights:
            variable.assign(np.full(variable.shape, epoch))
        saver.on_epoch_end(epoch, {"val_loss": loss})
    assert not path.exists()  # once, at the end
    saver.write()
    assert {float(value) for variable in model.weights for value in np.ravel(variable)} == {4.0}
    checkpoints.load_weights(model, path)
    assert {float(value) for variable in model.weights for value in np.ravel(variable)} == {2.0}


def test_a_worker_deletes_nothing(tmp_path, monkeypatch):
    pytest.importorskip("grpc")
    kept = tmp_path / "search" / "trial_0000" / "trial.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    own = {"TUNER_ID": "worker0", "ORACLE_IP": "127.0.0.1", "ORACLE_PORT": "9"}
    for name, value in own.items():
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    tuner = hyperband(tmp_path, overwrite=True)
    assert kept.exists()
    with pytest.raises(InputError, match="chief"):
        tuner.table()


def test_a_repeated_search_gives_the_same_scores_and_another_seed_others(tmp_path):
    def scores(seed, name):
        tuner = RandomSearch(
            build, "val_loss", directory=tmp_path, project_name=name, max_trials=1, seed=seed, progress=False
        )
        tuner.search(X, X, epochs=1, **FIT)
        return {row.values["encoding_dim"]: row.score for row in tuner.table().rows}

    np.random.seed(1)
    one = scores(1, "a")
    np.random.seed(2)
    keras.utils.set_random_seed(99)
    assert scores(1, "b") == one
    assert not set(scores(2, "c").values()) & set(one.values())


def test_a_hypermodel_may_return_a_number_or_a_dict(tmp_path):
    class Model(kt.HyperModel):
        def __init__(self, result):
            super().__init__()
            self.result = result

        def build(self, hp):
            return build(hp)

        def fit(self, hp, model, *args, **kwargs):
            model.fit(*args, verbose=0, **kwargs)
            return self.result(model)

    cases = {"number": lambda model: 0.25, "dict": lambda model: {"own": 0.25, "size": model.count_params()}}
    for name, result in cases.items():
        tuner = RandomSearch(
            Model(result), ("own", "min"), directory=tmp_path, project_name=name, max_trials=1, progress=False
        )
        tuner.search(X, X, epochs=2, **FIT)
        row = tuner.table().rows[0]
        assert row.score == 0.25 and (name == "number" or row.metrics["size"] > 0)
        tuner.get_best_models()  # the last epoch's weights are there


def test_two_executions_are_independent_and_the_better_one_is_kept(tmp_path):
    tuner = RandomSearch(
        build, "val_loss", directory=tmp_path, max_trials=1, executions_per_trial=2, progress=False
    )
    histories = []
    run = tuner.run_trial
    tuner.run_trial = lambda *args, **kwargs: histories.extend(found := run(*args, **kwargs)) or found
    tuner.search(X, X, epochs=2, **FIT)
    best = [min(history.history["val_loss"]) for history in histories]
    assert best[0] != best[1]
    loss = tuner.get_best_models()[0].evaluate(X[:16], X[:16], verbose=0)
    assert loss == pytest.approx(min(best), rel=1e-5)
    assert tuner.get_best_trials()[0].score == pytest.approx(np.mean(best))


def test_custom_gradients_of_a_trial_are_dropped_and_the_heap_is_unfrozen(searched):
    assert searched[1] == 0
    assert gc.get_freeze_count() == 0
    model = build(kt.HyperParameters())
    before = len(memory.gradient_registry())
    model.fit(X, X, verbose=0)
    assert len(memory.gradient_registry()) > before  # what plain Keras leaves behind


def test_no_tensorboard_is_needed_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.plugins.hparams.api", None)  # an import of it fails
    monkeypatch.setitem(sys.modules, "tensorboard.plugins.hparams", None)
    tuner = RandomSearch(build, "val_loss", directory=tmp_path, max_trials=1, progress=False)
    tuner.search(X, X, epochs=1, **FIT)
    assert tuner.get_best_trials()[0].status == "COMPLETED"
    with pytest.raises(InputError, match=r"keras-aeprune\[tensorboard\]"):
        hyperband(tmp_path, project_name="board", tensorboard=tmp_path / "logs")


def test_tensorboard_gets_a_folder_for_every_trial(tmp_path):
    pytest.importorskip("tensorboard")
    tuner = RandomSearch(
        build, "val_loss", directory=tmp_path, max_trials=1, progress=False, tensorboard=tmp_path / "logs"
    )
    tuner.search(X, X, epochs=1, **FIT)
    assert tuner.table().rows[0].error == ""
    events = list((tmp_path / "logs").rglob("*tfevents*"))
    assert events and any(b"encoding_dim" in event.read_bytes() for event in events)


def test_a_model_of_keras_2_is_refused_with_the_way_out(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")

    def old(hp):
        return tf_keras.Sequential([tf_keras.layers.Dense(hp.Int("n", 1, 4), input_shape=(6,))])

    tuner = hyperband(tmp_path, old)
    with pytest.raises(WrongKerasError, match="from_tf_keras"):
        tuner.search(X, X, **FIT)


def test_arguments_are_refused_at_the_door(tmp_path):
    for wrong in (
        {"max_epochs": 0},
        {"factor": 1},
        {"hyperband_iterations": None},
        {"seed": None},
        {"max_failures": 0},
        {"keep": 0},
        {"max_consecutive_failed_trials": 3},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            hyperband(tmp_path, **wrong)
    with pytest.raises(InputError, match="hypermodel"):
        hyperband(tmp_path, None)
    with pytest.raises(InputError, match="direction"):
        Hyperband(build, "val_r2_score", directory=tmp_path)
    with pytest.raises(InputError, match="directory"):
        RandomSearch(build, "val_loss")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="directory"):
        hyperband(tmp_path / "file")


WORKER = """
    import os, sys, time, types
    from keras_tuner.src.distribute import oracle_chief
    oracle_chief.time = types.SimpleNamespace(sleep=lambda s, sleep=time.sleep: sleep(min(s, 0.2)))
    from keras_aeprune.search.tuner import Hyperband

    class Simulated(Hyperband):
        def run_trial(self, trial):
            return float(trial.hyperparameters.Int("n", 0, 5))

    tuner = Simulated(directory=sys.argv[1], max_epochs=3, progress=False, overwrite=True)
    tuner.search()
    if "chief" in os.environ["KERASTUNER_TUNER_ID"]:
        print(len(tuner.table().rows), tuner.get_best_hyperparameters()[0].get("n"))
"""


def test_chief_and_worker_share_a_search_and_only_the_chief_deletes(tmp_path):
    pytest.importorskip("grpc")
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (tmp_path / "worker.py").write_text(textwrap.dedent(WORKER))
    running = {}
    for name in ("chief", "worker0"):
        own = {"KERASTUNER_TUNER_ID": name, "KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
        running[name] = subprocess.Popen(
            [sys.executable, str(tmp_path / "worker.py"), str(tmp_path)],
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        outputs = {name: process.communicate(timeout=300) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    assert [process.returncode for process in running.values()] == [0, 0], outputs
    trials, best = outputs["chief"][0].split()[-2:]
    assert int(trials) == 6 and best == "0"
    assert json.loads((tmp_path / "search" / "manifest.json").read_text())["settings"]["max_epochs"] == 3
