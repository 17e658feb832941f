"""Autoencoders as a search space: what is fixed, what is searched, and what a trial is worth."""

import gc
import json

import keras
import keras_tuner as kt
import numpy as np
import pytest

from keras_aeprune import datasets
from keras_aeprune._validation import InputError
from keras_aeprune.search.hypermodel import AutoencoderHyperModel
from keras_aeprune.search.measures import BAD, pareto
from keras_aeprune.search.space import Axis
from keras_aeprune.search.trial import Rung, evaluate

_RNG = np.random.default_rng(0)
X = _RNG.random((64, 8), "float32")
V = _RNG.random((32, 8), "float32")


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """Keras Tuner collects garbage twice a trial; what is there already need not be looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def small(**arguments):
    return AutoencoderHyperModel(
        (8,), **{"encoding_dim": [2, 4], "hidden_units": (6,), "batch_size": 32, **arguments}
    )


def hyperparameters(**values):
    hp = kt.HyperParameters()
    hp.values = values
    return hp


def search(tuner, **arguments):
    tuner.search(X, validation_data=V, verbose=0, **arguments)
    return sorted(tuner.oracle.trials.values(), key=lambda trial: trial.trial_id)


def last(trial):
    return {name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics}


def test_plain_hyperband_searches_and_prunes(tmp_path):
    hypermodel = small(sparsity=[0.5, 0.75], measures=("val_loss", "nonzero"), seed=1)
    tuner = kt.Hyperband(hypermodel, hypermodel.objective, max_epochs=2, directory=tmp_path)
    trials = search(tuner)
    assert {trial.status for trial in trials} == {"COMPLETED"}
    for trial in trials[-2:]:
        values = trial.hyperparameters.values
        model = hypermodel.model(hypermodel.values(trial.hyperparameters))
        model.load_weights(tuner._get_checkpoint_fname(trial.trial_id))
        kernels = [weight.numpy() for weight in model.trainable_weights if weight.name == "kernel"]
        zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
        size = sum(kernel.size for kernel in kernels)
        assert zeros / size == pytest.approx(values["sparsity"], abs=0.04)
        assert last(trial)["nonzero"] == model.count_params() - zeros
        assert trial.score == pytest.approx(float(np.mean((model.predict(V, verbose=0) - V) ** 2)), rel=1e-5)


def test_infeasible_trials_of_another_tuner_neither_fail_nor_win(tmp_path, capsys):
    # 2 fits, 4 has too many parameters, 8 is no autoencoder of 8 values
    hypermodel = small(encoding_dim=[2, 4, 8], max_params=150, measures=("params", "nonzero"))
    tuner = kt.BayesianOptimization(hypermodel, hypermodel.objective, max_trials=3, seed=0, directory=tmp_path)
    trials = search(tuner, epochs=1)
    scores = {trial.hyperparameters.values["encoding_dim"]: trial.score for trial in trials}
    assert scores[2] < 10 and scores[4] == scores[8] == BAD
    assert {trial.status for trial in trials} == {"COMPLETED"}
    assert tuner.get_best_models()[0].encoder.output_shape == (None, 2)
    assert pareto(trials, (("val_loss", "min"), ("params", "min"))) == [t for t in trials if t.score < BAD]
    notes = capsys.readouterr().err
    assert "parameters, more than max_params 150" in notes and "encoding_dim: got 8" in notes


def test_widths_per_layer_exist_up_to_the_depth_only():
    hypermodel = AutoencoderHyperModel((20,), encoding_dim=3, depth=(1, 3, 1), units=[8, 16])
    hp = hyperparameters(depth=2)
    values = hypermodel.values(hp)
    assert values["units_2"] == 8 and "units_3" not in values and "units_3" not in hp.values
    conditions = {one.name: [c.values for c in one.conditions] for one in hp.space}
    assert conditions == {"depth": [], "units_1": [], "units_2": [[2, 3]], "units_3": [[3]]}
    model = hypermodel.model({**values, "units_1": 16, "units_2": 8})
    assert [layer.units for layer in model.encoder.layers[1:]] == [16, 8, 3]


@pytest.mark.parametrize(
    ("arguments", "values", "layers"),
    [
        ({"hidden_units": [(6,), (7, 5)]}, {"hidden_units": "7-5"}, {"hidden_1": 7, "hidden_2": 5, "code": 2}),
        ({"kind": "variational", "beta": 0.1, "depth": 1, "units": 5}, {}, {"hidden_1": 5, "mean": 2}),
        ({"kind": "denoising", "noise": [0.1, 0.5], "depth": 1, "units": 5}, {"noise": 0.5}, {"hidden_1": 5}),
        ({"kind": "sparse", "rate": [0.1]}, {}, {"code": 2}),
        ({"kind": "stacked", "tied": [True, False]}, {"tied": True}, {"code": 2}),
    ],
)
def test_values_reach_the_builder_of_each_kind(arguments, values, layers):
    hypermodel = AutoencoderHyperModel((8,), encoding_dim=2, **arguments)
    model = hypermodel.build(hyperparameters(**values))
    found = {layer.name: layer.units for layer in model.encoder.layers if hasattr(layer, "units")}
    assert {name: found[name] for name in layers} == layers
    if "noise" in values:
        assert model.get_layer("corruption").amount == 0.5


def test_filters_and_recurrent_units_take_the_place_of_hidden_units():
    model = AutoencoderHyperModel((8, 8, 1), kind="convolutional", encoding_dim=4, depth=2, units=[3]).build(
        kt.HyperParameters()
    )
    assert [layer.filters for layer in model.encoder.layers if hasattr(layer, "filters")] == [3, 3]
    model = AutoencoderHyperModel((8, 2), kind="recurrent", encoding_dim=4, hidden_units=(5,), cell="gru").build(
        kt.HyperParameters()
    )
    assert next(layer.units for layer in model.encoder.layers if hasattr(layer, "units")) == 5


def test_an_option_that_only_one_kind_takes_depends_on_the_kind():
    hypermodel = AutoencoderHyperModel((8,), kind=["dense", "denoising"], encoding_dim=2, noise=[0.1, 0.2])
    hp = hyperparameters(kind="dense")
    assert "noise" not in hypermodel.values(hp) and "noise" not in hp.values
    assert hypermodel.values(hyperparameters(kind="denoising"))["noise"] == 0.1
    assert hypermodel.model(hypermodel.values(hp)).name == "autoencoder"


def test_shape_output_and_loss_follow_from_data(tmp_path):
    data = datasets.load("digits", validation=0.2).flat
    hypermodel = AutoencoderHyperModel(data, encoding_dim=8, hidden_units=(16,), batch_size=256)
    hp = kt.HyperParameters()
    model = hypermodel.build(hp)
    assert model.output_shape == (None, 64) and model.decoder.layers[-1].activation is keras.activations.sigmoid
    metrics = hypermodel.fit(hp, model, data, epochs=1, verbose=0)
    loss = float(np.mean((model.predict(data.x_validation, verbose=0) - data.x_validation) ** 2))
    assert metrics["val_loss"] == pytest.approx(loss, rel=1e-5)
    wide = AutoencoderHyperModel(5 * X, encoding_dim=2).build(hp)
    assert wide.decoder.layers[-1].activation is keras.activations.linear
    assert AutoencoderHyperModel(X, kind="variational", encoding_dim=2).build(hp).loss == "binary_crossentropy"


def test_a_function_of_metrics_and_values_is_the_objective(tmp_path):
    hypermodel = small(
        encoding_dim=4,
        learning_rate=[0.01, 0.02],
        objective=lambda m, values: m["val_loss"] + values["encoding_dim"],
    )
    assert (hypermodel.objective.name, hypermodel.objective.direction) == ("score", "min")
    tuner = kt.RandomSearch(hypermodel, hypermodel.objective, max_trials=1, directory=tmp_path)
    (trial,) = search(tuner, epochs=1)
    assert trial.score == pytest.approx(last(trial)["val_loss"] + 4)
    assert set(last(trial)) == {"loss", "val_loss", "params", "score"}


def test_a_search_without_validation_data_ends_at_once(tmp_path):
    tuner = kt.RandomSearch(small(), "val_loss", max_trials=5, directory=tmp_path)
    with pytest.raises(InputError, match="validation_data: got none"):
        tuner.search(X, epochs=1, verbose=0)
    assert len(tuner.oracle.trials) == 1


def test_with_a_seed_the_same_values_give_the_same_trial():
    hypermodel, hp, results, first = small(seed=0), kt.HyperParameters(), [], []
    for _ in range(2):
        model = hypermodel.build(hp)
        first.append(model.get_weights()[0])
        results.append(hypermodel.fit(hp, model, X, epochs=1, validation_data=V, verbose=0))
    assert results[0] == results[1]
    assert int(model.optimizer.iterations.numpy()) == 2  # batches of 32
    assert (small(seed=1).build(hp).get_weights()[0] != first[0]).any()


def test_the_same_trials_run_without_a_tuner(tmp_path):
    hypermodel = small(sparsity=[0.0, 0.5], seed=0)
    values = hypermodel.values(hyperparameters(sparsity=0.5))
    path = tmp_path / "a.weights.h5"
    metrics = evaluate(hypermodel.task(X, V), values, Rung(2), save_to=path)
    model = hypermodel.model(values)
    model.load_weights(path)
    assert (model.encoder.get_layer("code").kernel.numpy() == 0).mean() == 0.5
    assert metrics["val_loss"] == pytest.approx(float(np.mean((model.predict(V, verbose=0) - V) ** 2)), rel=1e-5)
    with pytest.raises(InputError, match="not feasible"):
        evaluate(small(max_params=1).task(X, V), values, Rung(2))


def test_the_configuration_is_plain_and_tells_two_searches_apart():
    arguments = [
        {},
        {"encoding_dim": (2, 4, 2)},
        {"kind": "stacked"},
        {"sparsity": 0.5},
        {"sparsity": 0.5, "pruning": {"data": X}},
        {"sparsity": 0.5, "pruning": {"data": V}},
        {"objective": ("val_loss", "max")},
        {"measures": ("params", "nonzero")},
        {"learning_rate": (1e-4, 1e-2)},
        {"max_params": 99},
        {"seed": 3},
        {"code_activation": "relu"},
    ]
    texts = [json.dumps(small(**one).get_config(), sort_keys=True) for one in arguments]
    assert len(set(texts)) == len(texts)
    assert texts == [json.dumps(small(**one).get_config(), sort_keys=True) for one in arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "magic"}, "kind: got 'magic'"),
        ({"encoding_dim": (4, 2, 1)}, "encoding_dim: got .4, 2, 1."),
        ({"encoding_dim": [9, 12]}, "encoding_dim: got 9, allowed: codes that are smaller than a sample of 8"),
        ({"encoding_dim": 0}, "encoding_dim: got 0"),
        ({"depth": 2}, "hidden_units: got .6,., allowed: None with depth="),
        ({"units": 2}, "units: got 2, allowed: None without depth="),
        ({"learning_rate": 0}, "learning_rate: got 0"),
        ({"learning_rate": (1e-2, 1e-4)}, "learning_rate: got .0.01, 0.0001."),
        ({"noise": 0.1}, "noise: got an option that kind dense does not take, allowed: activation"),
        ({"objective": "val_mae"}, "objective: got 'val_mae'"),
        ({"objective": "tflite_bytes"}, "measure_on: got 'last', allowed: 'every'"),
        ({"measures": ("bytes",)}, "measures: got 'bytes'"),
        ({"max_params": 0}, "max_params: got 0"),
        ({"sparsity": 1.5}, "sparsity: got 1.5"),
        ({"criterion": []}, "criterion: got .., allowed: one value, or a list"),
        ({"pruning": {"magic": 1}, "sparsity": 0.5}, "pruning: got .'magic'."),
    ],
)
def test_arguments_that_mean_nothing_are_refused_before_the_search(arguments, message):
    with pytest.raises(InputError, match=message):
        small(**arguments)


def test_an_argument_that_no_search_can_mend_is_an_error_and_no_bad_score():
    with pytest.raises(InputError, match="activation"):
        small(encoding_dim=2, activation="magic").build(kt.HyperParameters())


@pytest.mark.parametrize(
    ("value", "ranges", "plain", "searched"),
    [
        (range(16, 65, 4), (), 16, True),
        ((16, 65, 4), (3,), 16, True),
        (range(5, 6), (), 5, False),
        ((128, 64), (), "128-64", False),
        ([(128, 64), ()], (), "128-64", True),
        ((0.001, 0.1), (2,), 0.001, True),
        (True, (), True, False),
        (["a"], (), "a", False),
    ],
)
def test_an_axis_is_fixed_or_searched_by_what_is_written(value, ranges, plain, searched):
    axis, hp = Axis("a", value, ranges=ranges), kt.HyperParameters()
    assert axis.declare(hp) == plain and axis.searched == searched == bool(hp.space)
    if value == (16, 65, 4):
        assert hp.space[0].max_value == 64
    json.dumps(axis.described())
