"""What is tried next: brackets that run to their end, seeds, failures, objectives; no training."""

import collections
import math
import threading

import keras_tuner as kt
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.search.brackets import hyperband_plan
from keras_aeprune.search.oracle import combinations, known_objective
from keras_aeprune.search.tuner import BayesianOptimization, Hyperband, RandomSearch


def width(hp):
    return hp.Int("encoding_dim", 16, 64, step=4)


def simulated(folder, score, base=Hyperband, **kwargs):
    """A tuner whose trials return `score(hp)` and train nothing."""

    class Simulated(base):
        def run_trial(self, trial, *args, **kwargs):
            return score(trial.hyperparameters)

    return Simulated(directory=folder, progress=False, **{"seed": 1, **kwargs})


def searched(*args, **kwargs):
    tuner = simulated(*args, **kwargs)
    tuner.search()
    return tuner


def rungs(oracle):
    """{(bracket, rung, epochs): trials}."""
    values = [trial.hyperparameters.values for trial in oracle.trials.values()]
    return collections.Counter((v["tuner/bracket"], v["tuner/round"], v["tuner/epochs"]) for v in values)


def test_a_small_space_is_searched_to_the_end_where_keras_tuner_stops_at_two_epochs(tmp_path):
    class Plain(kt.Hyperband):
        def run_trial(self, trial, **kwargs):
            return 1 / width(trial.hyperparameters)

    plain = Plain(width, max_epochs=30, directory=tmp_path, project_name="plain", seed=1)
    plain.search(verbose=0)
    assert max(key[2] for key in rungs(plain.oracle)) == 2

    ours = searched(tmp_path, lambda hp: 1 / width(hp), max_epochs=30)
    assert rungs(ours.oracle) == {(3, 0, 2): 13, (3, 1, 4): 12, (3, 2, 10): 4, (3, 3, 30): 2}
    assert ours.get_best_hyperparameters()[0].get("encoding_dim") == 64
    assert len(ours.oracle.trials) == hyperband_plan(30, 3, values=13).trials


def test_an_endless_space_runs_the_whole_plan(tmp_path):
    tuner = searched(tmp_path, lambda hp: hp.Float("rate", 0.0, 1.0), max_epochs=9, hyperband_iterations=2)
    expected = collections.Counter()
    for rung in hyperband_plan(9, 3, iterations=2).rungs:
        expected[rung.bracket, rung.rung, rung.epochs] += rung.trials
    assert rungs(tuner.oracle) == expected
    assert tuner.oracle.total() == (46, 150)


@pytest.mark.parametrize(
    ("epochs", "factor", "trials", "total", "configurations", "first"),
    [
        (9, 3, 23, 75, 17, "9@1 3@3 1@9"),
        (10, 3, 30, 120, 22, "12@2 4@4 2@10"),
        (27, 3, 70, 375, 49, "27@1 9@3 3@9 1@27"),
        (30, 3, 90, 576, 62, "34@2 12@4 4@10 2@30"),
        (50, 3, 90, 922, 62, None),
        (81, 3, 211, 1767, 143, None),
        (100, 3, 254, 2672, 172, None),
        (64, 4, 129, 944, 98, None),
    ],
)
def test_the_plan_has_the_numbers_worked_by_hand(epochs, factor, trials, total, configurations, first):
    plan = hyperband_plan(epochs, factor)
    assert (plan.trials, plan.epochs, plan.configurations) == (trials, total, configurations)
    rows = [rung for rung in plan.rungs if rung.bracket == plan.rungs[0].bracket]
    assert first in (None, " ".join(f"{rung.trials}@{rung.epochs}" for rung in rows))
    assert str(plan).endswith(f"{trials} trials of {configurations} configurations, {total} epochs")
    assert len(plan.to_dict()["rungs"]) == len(plan.rungs)


def test_the_plan_refuses_what_makes_no_sense():
    for wrong in ({"max_epochs": 0}, {"factor": 1}, {"iterations": 0}, {"values": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            hyperband_plan(**wrong)


def test_failed_trials_take_no_promotion_away(tmp_path):
    count = iter(range(1000))

    def score(hp):
        hp.Float("rate", 0.0, 1.0)
        if next(count) % 2:
            raise ValueError("every second one")
        return hp.get("rate")

    tuner = searched(tmp_path, score, max_epochs=9, factor=3)
    found = rungs(tuner.oracle)
    assert found[2, 0, 1] == 9 and found[2, 1, 3] == 3 and found[2, 2, 9] == 1
    assert found[0, 0, 9] == 3
    good = [trial for trial in tuner.oracle.trials.values() if trial.status == "COMPLETED"]
    assert 0 < len(good) < len(tuner.oracle.trials)


def test_the_best_are_promoted(tmp_path):
    tuner = searched(tmp_path, lambda hp: hp.Float("rate", 0.0, 1.0), max_epochs=9)
    trials = [trial.hyperparameters.values for trial in tuner.oracle.trials.values()]
    first = sorted(v["rate"] for v in trials if (v["tuner/bracket"], v["tuner/round"]) == (2, 0))
    second = sorted(v["rate"] for v in trials if (v["tuner/bracket"], v["tuner/round"]) == (2, 1))
    assert second == first[:3]


def test_three_failures_in_a_row_do_not_end_the_search(tmp_path):
    count = iter(range(100))

    def score(hp):
        found = width(hp)
        if next(count) < 4:
            raise ValueError("at first")
        return found

    tuner = searched(tmp_path, score, RandomSearch, max_trials=8)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["FAILED"] * 4 + ["COMPLETED"] * 4


def test_the_search_ends_with_the_last_traceback_when_the_first_trials_all_fail(tmp_path):
    def score(hp):
        raise ValueError(f"no good width {width(hp)}")

    with pytest.raises(RuntimeError, match=r"first 5 trials all failed(.|\n)*ValueError: no good width"):
        searched(tmp_path, score, max_failures=5)
    short = simulated(tmp_path, score, project_name="short", max_epochs=2)
    with pytest.raises(RuntimeError, match="all 2 trials failed"):
        short.search()
    with pytest.raises(InputError, match="no trial can win: 2 failed"):
        short.get_best_trials()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_score_that_is_not_finite_never_wins_and_is_no_failure(tmp_path, bad, direction):
    def score(hp):
        return bad if width(hp) >= 32 else float(width(hp))

    tuner = searched(tmp_path, score, max_epochs=9, objective=("score", direction))
    statuses = {trial.status for trial in tuner.oracle.trials.values()}
    best = tuner.get_best_hyperparameters(3)
    assert statuses == {"COMPLETED"} and all(hp.get("encoding_dim") < 32 for hp in best)
    rows = [row for row in tuner.table().rows if row.values["encoding_dim"] >= 32]
    assert rows and all(row.score is None and "score was" in row.error for row in rows)
    assert max(row.epochs for row in rows if row.bracket == 2) == 1  # none of them was promoted


def test_nan_is_cured_by_a_retry_with_another_seed(tmp_path):
    seen = []

    def score(hp):
        width(hp)
        seen.append(np.random.rand())
        return math.nan if len(seen) == 1 else 0.5

    space = kt.HyperParameters()
    width(space)  # known before the first run: both runs have the same values
    own = {"max_trials": 1, "max_retries_per_trial": 2, "hyperparameters": space}
    tuner = searched(tmp_path, score, RandomSearch, **own)
    assert len(seen) == 2 and seen[0] != seen[1]
    trial = tuner.get_best_trials()[0]
    assert trial.score == 0.5 and trial.message is None
    assert trial.metrics.get_history("default_objective")[0].value == [0.5]


def test_only_trials_of_last_rungs_are_answers(tmp_path):
    tuner = searched(tmp_path, lambda hp: hp.Float("rate", 0.0, 1.0) + hp.get("tuner/epochs"), max_epochs=9)
    best = tuner.get_best_trials(1000)
    assert len(best) == 1 + 2 + 3 < len(tuner.oracle.trials)
    assert {trial.hyperparameters.get("tuner/epochs") for trial in best} == {9}
    assert [trial.score for trial in best] == sorted(trial.score for trial in best)


def test_before_a_search_there_is_no_answer(tmp_path):
    tuner = Hyperband(lambda hp: width(hp), "val_loss", directory=tmp_path, progress=False)
    with pytest.raises(InputError, match="call search"):
        tuner.get_best_hyperparameters()


def test_a_name_without_a_sure_direction_is_refused():
    for name in ("val_r2_score", "val_f1_score", "val_cosine_similarity", "score", 3):
        with pytest.raises(InputError, match="objective"):
            known_objective(name)
    with pytest.raises(InputError, match="min, max"):
        known_objective(("score", "up"))
    assert kt.engine.metrics_tracking.infer_metric_direction("val_r2_score") == "min"  # why
    given = kt.Objective("val_r2_score", "max")
    assert known_objective(given) is given
    assert known_objective("val_accuracy").direction == "max"
    both = known_objective(["val_loss", ("size", "max")])
    assert both.name_to_direction == {"val_loss": "min", "size": "max"}


def draws(tuner):
    return [
        (trial.hyperparameters.get("a"), trial.hyperparameters.get("b")) for trial in tuner.oracle.trials.values()
    ]


def test_neighbouring_seeds_share_no_stream(tmp_path):
    def score(hp):
        return hp.Float("a", 0.0, 1.0) + hp.Float("b", 0.0, 1.0)

    def run(seed, name):
        return draws(searched(tmp_path, score, RandomSearch, max_trials=6, seed=seed, project_name=name))

    one = run(1, "one")
    assert run(1, "same") == one
    assert run(0, "zero") == run(0, "zero again")  # which Keras Tuner takes for "no seed"
    numbers = {value for pair in one[1:] for value in pair}
    for seed in (0, 2, 3):
        other = run(seed, f"other{seed}")
        assert not numbers & {value for pair in other[1:] for value in pair}

    class Plain(kt.RandomSearch):
        def run_trial(self, trial, **kwargs):
            return score(trial.hyperparameters)

    plain = []
    for seed in (1, 3):
        tuner = Plain(max_trials=6, seed=seed, directory=tmp_path, project_name=f"plain{seed}")
        tuner.search(verbose=0)
        plain.append(draws(tuner))
    assert plain[0][2:] == plain[1][1:-1]  # Keras Tuner: the same stream, shifted


def test_a_small_space_is_drawn_without_a_gap(tmp_path):
    tuner = searched(tmp_path, lambda hp: float(width(hp)), RandomSearch, max_trials=50)
    assert sorted(trial.hyperparameters.get("encoding_dim") for trial in tuner.oracle.trials.values()) == list(
        range(16, 65, 4)
    )


def test_combinations_count_only_active_values():
    hp = kt.HyperParameters()
    hp.Boolean("deep")
    with hp.conditional_scope("deep", [True]):
        hp.Choice("hidden", [8, 16, 32])
    hp.Fixed("kind", "dense")
    assert len(combinations(hp.space)) == 4
    assert combinations(hp.space, limit=3) is None
    hp.Float("rate", 0.1, 1.0)
    assert combinations(hp.space) is None
    hp = kt.HyperParameters()
    hp.Int("n", 1, 8, sampling="log")
    assert [values["n"] for values in combinations(hp.space)] == list(range(1, 9))


def test_bayesian_optimization_repeats_nothing_and_survives_nan(tmp_path):
    def score(hp):
        n = hp.Int("n", 0, 4)
        return math.nan if n == 1 else float((n - 3) ** 2)

    tuner = searched(tmp_path, score, BayesianOptimization, max_trials=8, num_initial_points=3)
    assert sorted(trial.hyperparameters.get("n") for trial in tuner.oracle.trials.values()) == list(range(5))
    assert tuner.get_best_hyperparameters()[0].get("n") == 3


def test_an_error_inside_the_oracle_leaves_no_lock(tmp_path):
    tuner = searched(tmp_path, lambda hp: float(width(hp)), RandomSearch, max_trials=1)
    with pytest.raises(KeyError):
        tuner.oracle.update_trial("no such trial", {"default_objective": 1.0})
    answered = threading.Thread(target=tuner.oracle.create_trial, args=("other",), daemon=True)
    answered.start()
    answered.join(5)
    assert not answered.is_alive()


def test_two_workers_share_a_search_and_wait_for_each_other(tmp_path):
    tuner = Hyperband(lambda hp: None, "val_loss", directory=tmp_path, max_epochs=3, progress=False, seed=1)
    oracle = tuner.oracle
    oracle.hyperparameters.Int("n", 0, 2)
    one, two, three = (oracle.create_trial(name) for name in "abc")
    assert {t.status for t in (one, two, three)} == {"RUNNING"}
    assert oracle.create_trial("d").status == "IDLE"  # no new values, and nothing to promote yet
    for score, trial in enumerate((one, two, three)):
        oracle.update_trial(trial.trial_id, {"val_loss": score})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    promoted = oracle.create_trial("d")
    assert promoted.hyperparameters.get("tuner/trial_id") == one.trial_id
    assert promoted.hyperparameters.get("tuner/epochs") == 3
