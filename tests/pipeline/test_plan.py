import keras
import numpy as np
import pytest

from keras_aeprune import datasets
from keras_aeprune._validation import BudgetError, InputError
from keras_aeprune.pipeline import plan
from keras_aeprune.pipeline.plan import Cost, count_parameters, fit_epochs, peak_memory_mb
from keras_aeprune.pipeline.settings import Settings
from keras_aeprune.pipeline.training import build

X = np.random.default_rng(0).random((300, 12), "float32")


def test_parameters_are_counted_as_keras_counts_them():
    data = datasets.load(X).flat
    settings = Settings.derive(data)
    assert count_parameters(12, settings) == build(data, settings).count_params()


def test_epochs_are_cut_in_proportion_to_the_time_that_is_there():
    cost = Cost(trace=0.0, epoch=2.0)
    wanted = {"dense": 100, "prune": 100, "finetune": 50}
    assert fit_epochs(wanted, 10_000, cost, limit=10_000, after=0) == wanted
    fitted = fit_epochs(wanted, 250, cost, limit=250, after=0)
    assert fitted == {"dense": 45, "prune": 45, "finetune": 22}
    assert cost.training(fitted) <= 250


def test_too_little_time_says_how_much_is_needed():
    with pytest.raises(BudgetError, match=r"got 30 s, .* needed here: about 39 s, of which 20 s are export"):
        fit_epochs({"dense": 9, "prune": 9, "finetune": 9}, 10, Cost(1.0, 3.5), limit=30, after=20)


def test_a_plan_trains_for_a_moment_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = plan(X, sparsity=0.75, epochs=6)
    assert made.seconds > made.cost.training(made.settings.epochs)
    text = str(made)
    assert "240 to train, 30 to validate, 30 to test, 12 numbers each" in text
    assert "cubic ramp to 75% zeros" in text
    assert f"{made.parameters:,} parameters" in text
    assert list(tmp_path.iterdir()) == []


def test_a_plan_takes_the_time_limit_as_the_run_does():
    assert plan(X, epochs=5000, max_time="1m").settings.epochs["dense"] < 5000
    assert plan(X, epochs=3, max_time="1h").settings.epochs["dense"] == 3
    with pytest.raises(InputError, match="max_time: got 'soon'"):
        plan(X, max_time="soon")


def test_a_plan_refuses_what_the_run_would_refuse():
    with pytest.raises(InputError, match="encoding_dim: got 12"):
        plan(X, encoding_dim=12)


def test_the_probe_leaves_the_global_seed_of_the_run_alone():
    data = datasets.load(X).flat
    settings = Settings.derive(data)
    before = build(data, settings).get_weights()
    Cost.measure(data, settings)
    after = build(data, settings).get_weights()
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_peak_memory_is_that_of_a_process_with_keras():
    assert keras and 100 < peak_memory_mb() < 100_000
