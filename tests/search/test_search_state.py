"""The project folder: whole files after a kill, resuming, the manifest."""

import json
import warnings

import keras_tuner as kt
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune import _files
from keras_aeprune._validation import InputError
from keras_aeprune.search.state import compare_manifest, data_identity, hashed_seed
from keras_aeprune.search.tuner import Hyperband, RandomSearch


class Killed(BaseException):
    """Stands in for SIGKILL: nothing in the code under test catches it."""


class Simulated(Hyperband):
    """Trials return a number that depends on how often they ran; `hurt` is called at the named moments."""

    ran: list
    hurt = staticmethod(lambda moment, trial: None)

    def run_trial(self, trial, *args, **kwargs):
        self.ran.append(trial.trial_id)
        type(self).hurt("running", trial)
        with open(self._get_checkpoint_fname(trial.trial_id), "w") as file:
            file.write(str(len(self.ran)))
        return trial.hyperparameters.get("rate") + len(self.ran)


def rate(hp):
    return hp.Float("rate", 0.0, 0.5)


def simulated(folder, ran, hurt=None, **kwargs):
    kind = type("Simulated", (Simulated,), {"ran": ran, "hurt": staticmethod(hurt or (lambda *_: None))})
    return kind(rate, directory=folder, progress=False, **{"max_epochs": 2, "factor": 2, **kwargs})


def test_a_finished_search_answers_from_disk(tmp_path, capsys):
    ran = []
    first = simulated(tmp_path, ran)
    first.search(np.zeros(3))
    count = len(ran)
    again = simulated(tmp_path, ran)
    again.search(np.zeros(3))
    assert len(ran) == count
    assert again.table().to_dict() == first.table().to_dict()
    assert again.get_best_trials()[0].score == first.get_best_trials()[0].score
    assert capsys.readouterr().out == ""  # Keras Tuner's lines are gone


def _moment(trial):
    return "trial " + trial.status if trial.metrics.metrics else "trial created"


def killed_at(folder, monkeypatch, moment, number):
    """Search until the `number`-th trial, stop dead at `moment`, and go on; the trials that ran, by process."""
    ran = [[], []]
    reached = []

    def hurt(name, trial=None):
        if name == moment and len(ran[0]) == number and not reached:
            reached.append(name)
            raise Killed

    tuner = simulated(folder, ran[0], hurt)
    oracle = tuner.oracle
    update, save_trial, save = oracle.update_trial, oracle._save_trial, oracle.save
    with monkeypatch.context() as patch:
        patch.setattr(oracle, "update_trial", lambda *a, **k: (update(*a, **k), hurt("updated")))
        patch.setattr(oracle, "_save_trial", lambda t: (save_trial(t), hurt(_moment(t))))
        patch.setattr(oracle, "save", lambda: (save(), hurt("saved")))
        with pytest.raises(Killed):
            tuner.search()
    assert reached
    other = simulated(folder, ran[1])
    other.search()
    return ran, other


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    tuner = simulated(tmp_path_factory.mktemp("whole"), [])
    tuner.search()
    return tuner


def first_rates(tuner):
    """What was drawn for first rungs, in order: promotions depend on scores, which depend on the kill."""
    values = [tuner.oracle.trials[name].hyperparameters.values for name in sorted(tuner.oracle.trials)]
    return [v["rate"] for v in values if v["tuner/round"] == 0]


@pytest.mark.parametrize("number", [1, 3])  # the first one, and the first that is promoted
@pytest.mark.parametrize(
    ("moment", "repeated"),
    [
        ("running", 1),
        ("updated", 1),
        ("trial RUNNING", 1),  # its metrics are there, its end is not
        ("trial COMPLETED", 0),
        ("saved", 0),
        ("trial created", 0),
    ],
)
def test_a_killed_search_loses_at_most_the_running_trial(whole, tmp_path, monkeypatch, moment, repeated, number):
    ran, tuner = killed_at(tmp_path, monkeypatch, moment, number)
    assert len(ran[0]) + len(ran[1]) == len(whole.oracle.trials) + repeated
    trials = tuner.oracle.trials
    assert {trial.status for trial in trials.values()} == {"COMPLETED"}
    assert sorted(trials) == sorted(whole.oracle.trials) == sorted(tuner.oracle.end_order)
    assert list(trials) == list(whole.oracle.trials)
    assert first_rates(tuner) == first_rates(whole)


def test_score_and_weights_agree_after_a_kill_between_update_and_end(tmp_path, monkeypatch):
    ran, tuner = killed_at(tmp_path, monkeypatch, "updated", 3)
    again = ran[1][0]
    assert again == ran[0][-1]
    trial = tuner.oracle.trials[again]
    assert trial.score == pytest.approx(trial.hyperparameters.get("rate") + 1)  # of the second run
    assert [obs.value for obs in trial.metrics.get_history("default_objective")] == [[trial.score]]


def test_keras_tuner_keeps_the_score_of_weights_that_are_overwritten(tmp_path):
    oracle = kt.oracles.RandomSearchOracle(kt.Objective("s", "min"), max_trials=1)
    oracle._set_project_dir(tmp_path, "p")
    oracle.hyperparameters.Float("rate", 0.0, 1.0)
    trial = oracle.create_trial("a")
    oracle.update_trial(trial.trial_id, {"s": 1.0})  # killed here
    other = kt.oracles.RandomSearchOracle(kt.Objective("s", "min"), max_trials=1)
    other._set_project_dir(tmp_path, "p")
    other.reload()
    assert other.create_trial("a").metrics.exists("s")


def test_state_is_written_beside_and_renamed(tmp_path, monkeypatch):
    tuner = simulated(tmp_path, [])
    tuner.search()
    folder = _files.Path(tuner.project_dir)
    before = {path: path.read_text() for path in folder.rglob("*.json")}
    assert {path.name for path in before} == {"oracle.json", "trial.json", "tuner0.json", "manifest.json"}

    def dies(*args):
        raise Killed

    monkeypatch.setattr(_files.os, "replace", dies)
    tuner.oracle._seed_state += 1
    for trial in tuner.oracle.trials.values():
        trial.best_step += 1
        with pytest.raises(Killed):
            tuner.oracle._save_trial(trial)
    with pytest.raises(Killed):
        tuner.oracle.save()
    assert {path: path.read_text() for path in folder.rglob("*.json")} == before


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    tuner = simulated(tmp_path, [])
    tuner.search()
    left = _files.Path(tuner.project_dir) / "trial_0000" / f"{_files.PREFIX}1-checkpoint.weights.h5"
    left.write_bytes(b"half")
    simulated(tmp_path, [])
    assert not left.exists()


def test_another_search_in_the_folder_is_refused_line_by_line(tmp_path):
    simulated(tmp_path, []).search()
    with pytest.raises(InputError, match="overwrite=True") as caught:
        simulated(tmp_path, [], max_epochs=8, seed=5)
    assert "settings.max_epochs: was 2, is 8" in str(caught.value)
    assert "settings.seed: was 0, is 5" in str(caught.value)
    with pytest.raises(InputError, match="settings.objective"):
        simulated(tmp_path, [], objective="val_loss")

    class Other(Simulated):
        pass

    with pytest.raises(InputError, match=r"space\.rate\.max_value: was 0\.5, is 0\.75"):
        Other(lambda hp: hp.Float("rate", 0.0, 0.75), directory=tmp_path, max_epochs=2, factor=2, progress=False)
    fresh = simulated(tmp_path, [], max_epochs=8, overwrite=True)
    assert not fresh.oracle.trials


def test_other_data_are_refused(tmp_path):
    ran = []
    simulated(tmp_path, ran).search(np.zeros((4, 2)), epochs=3)
    count = len(ran)
    with pytest.raises(InputError, match=r"data\.argument 1: was 'float64\[4, 2\]"):
        simulated(tmp_path, ran).search(np.ones((4, 2)), epochs=3)
    simulated(tmp_path, ran).search(np.zeros((4, 2)), epochs=3, verbose=0)
    assert len(ran) == count


def test_the_hypermodels_own_identity_counts(tmp_path):
    class Model(kt.HyperModel):
        def __init__(self, depth):
            super().__init__()
            self.depth = depth

        def build(self, hp):
            return rate(hp)

        def get_config(self):
            return {"depth": self.depth}

    Hyperband(Model(1), directory=tmp_path, progress=False)
    Hyperband(Model(1), directory=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"hypermodel\.depth: was 1, is 2"):
        Hyperband(Model(2), directory=tmp_path, progress=False)


def test_another_version_only_warns(tmp_path):
    compare_manifest(tmp_path, {"versions": {"keras": "3.0"}, "settings": {}})
    with pytest.warns(UserWarning, match=r"keras: was '3\.0', is '3\.1'"):
        compare_manifest(tmp_path, {"versions": {"keras": "3.1"}, "settings": {}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_manifest(tmp_path, {"versions": {"keras": "3.0"}, "settings": {}})


def test_a_project_of_plain_keras_tuner_is_refused(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "oracle.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json"):
        simulated(tmp_path, [])


def test_a_random_search_goes_on_with_more_trials(tmp_path):
    class Numbers(RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            return trial.hyperparameters.get("rate")

    for trials in (3, 5):
        tuner = Numbers(rate, directory=tmp_path, max_trials=trials, progress=False)
        tuner.search()
        assert len(tuner.oracle.trials) == trials


def test_data_are_known_again_by_what_they_hold():
    x = np.arange(12.0).reshape(6, 2)

    def of(*args, **kwargs):
        return json.dumps(data_identity(args, kwargs))

    data = tf.data.Dataset.from_tensor_slices(x).batch(2)
    assert of(x, x) == of(x.copy(), x) != of(x, x + 1)
    assert of(x, validation_data=(x, x)) != of(x, validation_data=(x, x[:3]))
    assert of(tf.constant(x)) == of(x)
    assert of(x, batch_size=3) != of(x, batch_size=4)
    assert of(x, verbose=0) == of(x, verbose=1)
    assert of(data) == of(tf.data.Dataset.from_tensor_slices(x).batch(2))
    assert of(data) != of(tf.data.Dataset.from_tensor_slices(x + 1).batch(2))
    assert of(data) != of(tf.data.Dataset.from_tensor_slices(x).batch(3))
    assert of(data.shuffle(3)) == of(data.shuffle(3))  # its first batch is another each time
    generator = (row for row in x)
    assert of(generator) == of(row for row in x + 1) and next(generator) is not None  # not looked into


def test_seeds_are_hashed():
    seeds = {hashed_seed(seed, draw) for seed in range(40) for draw in range(40)}
    assert len(seeds) == 1600 and all(0 <= seed < 2**31 for seed in seeds)
