"""One trial without any engine: rungs, the best epoch, losses that are not finite."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.search import trial
from keras_aeprune.search.measures import BAD
from keras_aeprune.search.pruning import Pruning
from keras_aeprune.search.trial import BestEpoch, Goal, Rung, Task, evaluate, paired, run, seed_of
from keras_aeprune.sparsity import SparsityNotReached

_RNG = np.random.default_rng(0)
X = (_RNG.random((96, 3)) @ _RNG.random((3, 12))).astype("float32")  # three dimensions in twelve
V = (_RNG.random((40, 3)) @ _RNG.random((3, 12))).astype("float32")

WHOLE = {"batch_size": 96}


def build(config):
    layers = [keras.Input((12,)), keras.layers.Dense(config["width"], "relu"), keras.layers.Dense(12)]
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.Adam(config.get("rate", 0.01)), "mse", run_eagerly=True
    )  # no tracing: faster here
    return model


def score_of_file(path, config):
    """The validation loss of saved weights, in NumPy."""
    model = build(config)
    model.load_weights(path)
    weight, bias, weight_2, bias_2 = model.get_weights()
    return float(np.mean((np.maximum(V @ weight + bias, 0) @ weight_2 + bias_2 - V) ** 2)), model


def test_successive_halving_by_hand_needs_no_tuner(tmp_path):
    task = Task(build, X, validation=V, fit={"batch_size": 48}, pruning=Pruning(0.5))
    configs = [{"width": 2}, {"width": 5}, {"width": 9}, {"width": 12}]
    alive, done, parents, metrics = configs, 0, {}, {}
    for epochs in (1, 2, 4):
        rung = Rung(epochs, done, last=epochs == 4)
        for config in alive:
            path = tmp_path / f"{config['width']}_{epochs}.weights.h5"
            metrics[config["width"]] = evaluate(task, config, rung, parents.get(config["width"]), path)
            parents[config["width"]] = path
        alive = sorted(alive, key=lambda config: metrics[config["width"]]["val_loss"])[: len(alive) // 2]
        done = epochs
        if len(alive) == 1:
            winner = alive[0]
    expected, model = score_of_file(parents[winner["width"]], winner)
    assert metrics[winner["width"]]["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics[winner["width"]]["params"] == model.count_params()
    assert all((layer.kernel.numpy() == 0).mean() == pytest.approx(0.5, abs=0.05) for layer in model.layers)


def test_the_core_knows_no_engine():
    tree = ast.parse(Path(trial.__file__).read_text())
    names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    assert not [name for name in names if name.startswith("keras_tuner")]


def test_the_same_trial_gives_the_same_numbers_and_a_promoted_one_goes_on(tmp_path):
    task = Task(build, X, validation=V, fit=WHOLE)
    path = tmp_path / "a.weights.h5"
    first = evaluate(task, {"width": 4}, Rung(2), save_to=path)
    assert evaluate(task, {"width": 4}, Rung(2)) == first
    further = evaluate(task, {"width": 4}, Rung(4, 2), path)
    assert further["val_loss"] < first["val_loss"]
    assert further == evaluate(task, {"width": 4}, Rung(4, 2), path)


def rising():
    """A model whose validation loss rises from epoch to epoch: it learns 1 and is judged by 0."""
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)

    def fit(callbacks, epochs=6):
        ones, zeros = np.ones((96, 1)), np.zeros((40, 1))
        fitted = model.fit(
            X, ones, epochs=epochs, validation_data=(V, zeros), batch_size=96, verbose=0, callbacks=callbacks
        )
        fit.history = fitted.history["val_loss"]
        return {}

    return model, fit


def test_the_weights_that_stay_are_those_of_the_best_epoch_and_the_score_is_theirs():
    model, fit = rising()
    metrics = run(model, fit, Rung(6))
    assert fit.history == sorted(fit.history)
    assert metrics["val_loss"] == pytest.approx(fit.history[0])
    weight, bias = model.get_weights()
    assert float(np.mean((V @ weight + bias) ** 2)) == pytest.approx(fit.history[0], rel=1e-5)
    model, fit = rising()
    assert run(model, fit, Rung(6), goal=Goal("val_loss", "max"))["val_loss"] == pytest.approx(fit.history[-1])


def test_epochs_before_the_target_do_not_count_however_good_they_are():
    model, fit = rising()

    class Ramp:
        """At its target from the fourth epoch on."""

        def callback(self, model, rung):
            held = keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: setattr(held, "at_target", epoch > 2)
            )
            return held

    assert run(model, fit, Rung(6), pruning=Ramp())["val_loss"] == pytest.approx(fit.history[3])


def test_an_epoch_that_has_the_goal_beats_all_that_lack_it():
    best = BestEpoch(Goal("val_loss"))
    best.set_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    best.on_train_begin()
    for epoch, logs in enumerate([{"loss": 0.1}, {"loss": 0.3, "val_loss": 9.0}, {"loss": 0.01}]):
        best.on_epoch_end(epoch, logs)
    assert best.logs == {"loss": 0.3, "val_loss": 9.0}


@pytest.mark.parametrize("pruning", [None, Pruning(0.5), Pruning(0.5, ramp=(0.9, 0.95))])
def test_a_loss_that_is_not_finite_becomes_a_large_finite_score_with_a_note(pruning, capsys):
    task = Task(
        build, X, validation=V, fit=WHOLE, pruning=pruning, objective=lambda metrics, values: metrics["val_loss"]
    )
    metrics = evaluate(task, {"width": 3, "rate": float("inf")}, Rung(5))
    assert metrics["val_loss"] == metrics["score"] == BAD
    assert all(np.isfinite(value) for value in metrics.values())
    assert "trial (width 3, rate inf): its loss is not finite" in capsys.readouterr().err


def test_a_goal_that_is_maximised_gets_the_large_number_with_the_other_sign():
    task = Task(build, X, validation=V, fit=WHOLE, goal=Goal("val_loss", "max"))
    assert evaluate(task, {"width": 3, "rate": float("inf")}, Rung(3))["val_loss"] == -BAD


def test_the_score_is_what_the_function_makes_of_metrics_and_values(capsys):
    task = Task(
        build, X, validation=V, fit=WHOLE, objective=lambda metrics, values: metrics["params"] + values["width"]
    )
    metrics = evaluate(task, {"width": 3}, Rung(1))
    assert metrics["score"] == 12 * 3 + 3 + 3 * 12 + 12 + 3
    assert {"loss", "val_loss", "params"} < set(metrics)
    endless = Task(build, X, validation=V, fit=WHOLE, objective=lambda metrics, values: float("-inf"))
    assert evaluate(endless, {"width": 3}, Rung(1))["score"] == BAD
    assert "its score is -inf" in capsys.readouterr().err


def test_a_training_that_ends_before_the_target_is_an_error_and_no_bad_score():
    model = build({"width": 3})

    def fit(callbacks):
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
        )
        model.fit(X, X, epochs=9, verbose=0, callbacks=[*callbacks, stop])

    with pytest.raises(SparsityNotReached):
        run(model, fit, Rung(9), pruning=Pruning(0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rung(2, 2), "epochs: got 2, allowed: a whole number >= 3"),
        (lambda: Rung(2, -1), "initial_epoch: got -1"),
        (lambda: Goal("a", "up"), "direction: got 'up'"),
        (lambda: evaluate(Task(build, X), {"width": 2}, Rung(2, 1)), "checkpoint: got None"),
        (
            lambda: evaluate(Task(build, X), {"width": 2}, Rung(2), "a.weights.h5"),
            "checkpoint: got 'a.weights.h5'",
        ),
        (lambda: run(build({"width": 2}), lambda callbacks: {}, Rung(1)), "pass callbacks= on"),
    ],
)
def test_what_cannot_be_a_trial_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_arrays_without_targets_are_their_own():
    assert paired(X) == (X, X, None)
    for validation in (V, (V,), (V, None)):
        assert paired(X, None, validation)[2] == (V, V)
    assert paired(X, V, (V, X))[1] is V and paired(X, V, (V, X))[2] == (V, X)
    assert paired("a dataset")[:2] == ("a dataset", None)


def test_seeds_are_far_apart_and_know_nothing_of_the_tuners_own_values():
    seeds = [seed_of(seed, {"width": width}, part) for seed in range(10) for width in range(10) for part in (0, 3)]
    assert len(set(seeds)) == len(seeds)
    assert np.min(np.diff(np.sort(seeds))) > 1
    assert seed_of(0, {"width": 2, "tuner/epochs": 3}) == seed_of(0, {"width": 2})
