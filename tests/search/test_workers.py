"""Searches in several real processes: the same trials, nobody left behind, whoever is killed."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from keras_tuner.src.engine.trial import Trial

from keras_aeprune._validation import InputError
from keras_aeprune.search import workers
from keras_aeprune.search.tuner import Hyperband
from keras_aeprune.search.width import encoding_width
from keras_aeprune.search.workers import launch

pytest.importorskip("grpc")

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
LAUNCHER = """
import functools, sys
sys.path.insert(0, {tests!r})
import test_workers as t
t.launch(functools.partial(t.Slow, directory=sys.argv[1], max_epochs=2, factor=2, progress=False), workers=2)
"""


def build(hp):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(hp.Int("units", 1, 30)), keras.layers.Dense(6)]
    )
    model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1, sampling="log")), "mse")
    return model


class Killed(Hyperband):
    """One worker, the first to come so far, is killed in the middle of a trial."""

    def run_trial(self, trial, *args, **kwargs):
        found = super().run_trial(trial, *args, **kwargs)
        if trial.trial_id == "0002":
            with contextlib.suppress(FileExistsError), open(Path(self.project_dir).parent / "killed", "x"):
                os.kill(os.getpid(), signal.SIGKILL)
        return found


class Slow(Hyperband):
    """Trials without training, which leave their process's number."""

    def run_trial(self, trial):
        (Path(self.project_dir).parent / f"pid-{os.getpid()}").touch()
        time.sleep(0.4)
        return float(trial.hyperparameters.Int("n", 0, 50))


class Failing(Hyperband):
    def run_trial(self, trial):
        raise ValueError(f"no trial can work here, not with {trial.hyperparameters.Int('n', 0, 50)}")


class Poisoned(Hyperband):
    """Kills whoever runs it, each time."""

    def run_trial(self, trial):
        trial.hyperparameters.Int("n", 0, 50)
        sys.stderr.write("out of something\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def broken(**kwargs):
    """A tuner that can be made in the launcher only."""
    if "KERASTUNER_TUNER_ID" in os.environ:
        raise LookupError("no such camera")
    return Slow(**kwargs)


def making(kind, folder, *args, **kwargs):
    own = {"directory": folder, "max_epochs": 2, "factor": 2, "seed": 3, "progress": False, **kwargs}
    return functools.partial(kind, *args, **own)


def trials(tuner):
    """What was tried, how long, and with which result."""
    rows = [(dict(sorted(row.values.items())), row) for row in tuner.table().rows]
    return sorted((*values.values(), row.epochs, row.score, row.status) for values, row in rows)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_a_killed_worker_loses_no_trial_and_the_trials_are_those_of_one_process(tmp_path):
    fit = {"validation_data": (X[:16], X[:16]), "verbose": 0}
    tuner = launch(making(Killed, tmp_path, build, "val_loss"), X, X, workers=2, threads=1, **fit)
    assert (tmp_path / "killed").exists()

    one = Hyperband(build, "val_loss", directory=tmp_path / "one", max_epochs=2, factor=2, seed=3, progress=False)
    one.search(X, X, **fit)
    found, expected = trials(tuner), trials(one)
    assert [row[:3] for row in found] == [row[:3] for row in expected]  # rate, units, epochs: to the last digit
    assert [row[3] for row in found] == pytest.approx([row[3] for row in expected], rel=1e-4)
    assert {row[4] for row in found} == {"COMPLETED"}
    assert {tuple(row.values) for row in tuner.table().rows} == {("units", "rate")}  # columns in the usual order
    assert np.isfinite(tuner.get_best_models()[0].evaluate(X, X, verbose=0))
    left = {path.name for path in Path(tuner.project_dir).iterdir() if not path.name.startswith("trial_")}
    assert left == {"manifest.json", "oracle.json", "tuner0.json", *(f"worker{n}{s}" for n in "01" for s in ENDS)}
    assert not list(Path(tuner.project_dir).rglob(".unfinished-*"))

    began = time.monotonic()  # finished: no process is started for it, whoever asks
    again = launch(making(Killed, tmp_path, build, "val_loss"), X, X, workers=3, **fit)
    assert trials(again) == found and time.monotonic() - began < 3
    with pytest.raises(InputError, match="data"):
        launch(making(Killed, tmp_path, build, "val_loss"), X + 1, X, **fit)


ENDS = (".json", ".log")


def test_workers_end_with_a_killed_launcher_and_the_next_one_goes_on(tmp_path):
    code = LAUNCHER.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)

    def pids():
        return [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]

    try:
        assert until(lambda: len(pids()) == 2 or process.poll() is not None, 240), "no workers"
    finally:
        process.kill()
    _, errors = process.communicate()
    assert len(pids()) == 2, errors.decode()[-2000:]
    assert until(lambda: not any(map(alive, pids())), 5)

    begun = len(list((tmp_path / "search").glob("trial_*")))
    tuner = Slow(directory=tmp_path, max_epochs=2, factor=2, progress=False)  # another number of processes: one
    assert 2 <= len(tuner.oracle.trials) <= begun
    tuner.search()
    assert [row[-1] for row in trials(tuner)] == ["COMPLETED"] * tuner.oracle.total()[0]


def test_an_error_in_every_trial_ends_the_search_with_the_reason(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)first 3 trials all failed.*ValueError: no trial can work here"):
        launch(making(Failing, tmp_path, max_failures=3), workers=1)


def test_a_worker_that_cannot_start_ends_the_search_with_its_last_lines(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)worker\d ended with exit status 1;.*LookupError: no such camera"):
        launch(making(broken, tmp_path), workers=1)
    assert not (tmp_path / "search" / "workers.npz").exists()


def test_a_worker_that_is_killed_too_often_ends_the_search(tmp_path):
    message = r"(?s)worker0 was killed by SIGKILL, for the 1. time \(restarts=0\).*out of something"
    with pytest.raises(RuntimeError, match=message):
        launch(making(Poisoned, tmp_path), workers=1, restarts=0)


def test_encoding_width_with_workers_answers_as_one_process(tmp_path):
    random = np.random.default_rng(1)
    x = (random.normal(size=(200, 3)) @ random.normal(size=(3, 8))).astype("float32")
    own = {"hidden_units": (), "max_epochs": 2, "factor": 2, "learning_rate": 0.02, "seeds": 1, "progress": False}
    own["method"] = "hyperband"
    one = encoding_width(x, [2, 3], directory=tmp_path / "one", **own)
    two = encoding_width(x, [2, 3], directory=tmp_path / "two", workers=1, **own)
    assert (tmp_path / "two" / "hyperband" / "worker0.log").exists()
    assert [(row["width"], row["epochs"]) for row in two.trials.rows] == [
        (row["width"], row["epochs"]) for row in one.trials.rows
    ]
    assert two.encoding_dim == one.encoding_dim
    assert two.curve.mean == pytest.approx(one.curve.mean, rel=1e-3, nan_ok=True)
    with pytest.raises(InputError, match="workers: got 0"):
        encoding_width(x, [1, 2], workers=0, **own)


def test_the_chief_of_several_machines_ends_soon_after_the_last_worker(tmp_path, monkeypatch):
    client = pytest.importorskip("keras_tuner.src.distribute.oracle_client")
    tuner = Slow(directory=tmp_path, max_epochs=1, factor=2, progress=False)
    with workers._serving(tuner.oracle) as (port, _):
        pass  # a port that is free
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(port))
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker0")
    chief = threading.Thread(target=workers.hand_out, args=(tuner.oracle,), daemon=True)
    chief.start()
    asking = client.OracleClient(tuner.oracle)
    trial = asking.create_trial("worker0")
    asking.update_trial(trial.trial_id, {"default_objective": 1.0})
    assert chief.is_alive()
    asking.end_trial(Trial(trial.hyperparameters, trial.trial_id, "COMPLETED"))
    assert asking.create_trial("worker0").status == "STOPPED"
    chief.join(5)
    assert not chief.is_alive()


def test_what_cannot_be_sent_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="cannot be sent to a worker.*top level of a file"):
        launch(lambda: Slow(directory=tmp_path))
    for wrong in ({"workers": 0}, {"threads": 0}, {"restarts": -1}, {"workers": 1.5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            launch(making(Slow, tmp_path), **wrong)
    with pytest.raises(InputError, match="make_tuner"):
        launch(functools.partial(dict))
    assert not list(tmp_path.iterdir())


def test_a_worker_does_not_launch_workers(tmp_path, monkeypatch):
    for name in ("TUNER_ID", "ORACLE_IP", "ORACLE_PORT"):
        monkeypatch.setenv(f"KERASTUNER_{name}", "1")
    with pytest.raises(InputError, match="__main__"):
        launch(making(Slow, tmp_path))


def test_arrays_travel_in_the_file_and_come_back_equal(tmp_path):
    shared = np.arange(1000.0)
    half = np.ones((600,), keras.ops.convert_to_numpy(keras.ops.ones(1, "bfloat16")).dtype)
    job = {"a": [shared, shared[::2]], "b": (shared, np.arange(3), half, "text")}
    payload, arrays = workers._packed(job)
    assert len(arrays) == 2 and len(payload) < 3000
    np.savez(tmp_path / "a.npz", **arrays)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        back = workers._Unpickler(workers.io.BytesIO(payload), dict(found)).load()
    assert back["a"][0] is back["b"][0]
    assert np.array_equal(back["a"][1], shared[::2]) and np.array_equal(back["b"][1], np.arange(3))
    assert back["b"][2].dtype == half.dtype and back["b"][3] == "text"
