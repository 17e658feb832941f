"""Pruning inside trials: every trial of every round is at its target when it is scored and saved."""

import gc

import keras
import keras_tuner as kt
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.search.measures import BAD
from keras_aeprune.search.pruning import Pruning, PruningSpace, with_pruning
from keras_aeprune.search.trial import Rung, run
from keras_aeprune.sparsity import KeepSparse, Prune

X = np.random.default_rng(0).random((96, 12), "float32")
V = np.random.default_rng(1).random((40, 12), "float32")


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """Keras Tuner collects garbage twice a trial; what is there already need not be looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def build_model(hp):
    width = hp.Int("width", 4, 10)
    layers = [keras.Input((12,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(12)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.optimizer.build(model.trainable_variables)  # else `fit` traces its step twice
    return model


def kernels(model):
    return [keras.ops.convert_to_numpy(weight.variable) for weight in weights(model)]


def zeros(model):
    found = kernels(model)
    return sum(int((kernel == 0).sum()) for kernel in found) / sum(kernel.size for kernel in found)


def best_score(model):
    """The validation loss in NumPy."""
    weight, bias, weight_2, bias_2 = model.get_weights()
    code = V @ weight + bias
    code = np.maximum(code, 0) if model.layers[0].activation is keras.activations.relu else code
    return float(np.mean((code @ weight_2 + bias_2 - V) ** 2))


def saved(tuner, trial):
    """The model in a trial's file, without the clean-up of `tuner.load_model`."""
    model = build_model(trial.hyperparameters)
    model.load_weights(tuner._get_checkpoint_fname(trial.trial_id))
    return model


def dense_is_best():
    """Hardly anything is learnt after the first epoch, so what is pruned then stays worse."""
    return keras.callbacks.LearningRateScheduler(lambda epoch: 1e-4 if epoch else 0.05)


@pytest.fixture(scope="module")
def hyperband(tmp_path_factory):
    """Plain Keras Tuner: 3 trials of one epoch, 1 of them promoted to 3, and 2 of 3 epochs."""
    folder = tmp_path_factory.mktemp("hyperband")
    tuner = kt.Hyperband(
        with_pruning(build_model, [0.75, 0.9]),
        "val_loss",
        max_epochs=3,
        seed=3,
        directory=folder,
        project_name="p",
    )
    tuner.search(X, X, epochs=99, validation_data=(V, V), batch_size=16, verbose=0, callbacks=[dense_is_best()])
    return tuner


def trials(tuner):
    return sorted(tuner.oracle.trials.values(), key=lambda trial: trial.trial_id)


def promoted(tuner):
    return [trial for trial in trials(tuner) if "tuner/trial_id" in trial.hyperparameters.values]


def test_every_trial_of_plain_hyperband_is_saved_at_its_target_and_scored_there(hyperband):
    rungs = [trial.hyperparameters.values["tuner/epochs"] for trial in trials(hyperband)]
    assert sorted(rungs) == [1, 1, 1, 3, 3, 3]
    assert len(promoted(hyperband)) == 1
    for trial in trials(hyperband):
        model = saved(hyperband, trial)
        size = sum(kernel.size for kernel in kernels(model))
        assert zeros(model) == pytest.approx(trial.hyperparameters.values["sparsity"], abs=2 / size)
        assert trial.score == pytest.approx(best_score(model), rel=1e-5)
        assert trial.metrics.get_last_value("nonzero") == model.count_params() - round(zeros(model) * size)


def test_a_promoted_trial_keeps_the_zeros_of_its_parent_and_trains_the_rest(hyperband):
    (child,) = promoted(hyperband)
    parent = hyperband.oracle.trials[child.hyperparameters.values["tuner/trial_id"]]
    for old, new in zip(*(kernels(saved(hyperband, one)) for one in (parent, child)), strict=True):
        np.testing.assert_array_equal(old == 0, new == 0)
        assert (old != new).any()


def test_the_best_model_of_plain_hyperband_has_the_zeros_that_were_asked_for(hyperband):
    model = hyperband.get_best_models()[0]
    asked = hyperband.get_best_hyperparameters()[0].values["sparsity"]
    assert zeros(model) == pytest.approx(asked, abs=0.02)


@pytest.mark.parametrize(
    ("rung", "ramp", "expected"),
    [
        (Rung(1), (0.1, 0.6), (0.1, 0.6)),  # a part of the only epoch
        (Rung(2), (0.1, 0.6), (0.2, 1.0)),  # the last epoch is left, though 0.6 of 2 is later
        (Rung(10), (0.1, 0.6), (1.0, 6.0)),
        (Rung(9, 3), (0.0, 0.5), (3.0, 6.0)),  # counted from the rung's own start
        (Rung(5, 4), (0.5, 0.9), (4.5, 4.9)),
        (Rung(2), (0.9, 0.9), (1.0, 1.0)),
    ],
)
def test_the_ramp_lies_within_the_rung_and_leaves_its_last_epoch(rung, ramp, expected):
    assert Pruning(0.5, ramp=ramp).times(rung) == expected


def small(units=6):
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(units), keras.layers.Dense(12)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def fit_of(model, **arguments):
    def fit(callbacks):
        model.fit(X, X, validation_data=(V, V), verbose=0, callbacks=callbacks, **arguments)
        return {}

    return fit


def test_a_rung_that_goes_on_keeps_the_parents_masks_but_not_its_zero_biases():
    model = small()
    first = Pruning(0.75)
    run(model, fit_of(model, epochs=2), Rung(2), pruning=first)
    before = kernels(model)
    model.layers[0].bias.assign(np.zeros(6))
    child = small()
    child.set_weights(model.get_weights())
    assert isinstance(first.callback(child, Rung(4, 2)), KeepSparse)
    run(child, fit_of(child, epochs=4, initial_epoch=2), Rung(4, 2), pruning=first)
    for old, new in zip(before, kernels(child), strict=True):
        np.testing.assert_array_equal(old == 0, new == 0)
    assert child.layers[0].bias.numpy().any()


def test_a_parent_that_is_denser_than_asked_is_pruned_to_the_target_in_this_rung():
    model = small()
    pruning = Pruning(0.8)
    assert isinstance(pruning.callback(model, Rung(3, 1)), Prune)
    metrics = run(model, fit_of(model, epochs=3, initial_epoch=1), Rung(3, 1), pruning=pruning)
    assert zeros(model) == pytest.approx(0.8, abs=0.02)
    assert metrics["val_loss"] == pytest.approx(best_score(model), rel=1e-5)


def test_data_of_unknown_length_reaches_the_target_in_each_rung():
    model = small()

    def batches():
        for start in range(0, 96, 16):
            yield X[start : start + 16], X[start : start + 16]

    spec = tf.TensorSpec((None, 12))
    data = tf.data.Dataset.from_generator(batches, output_signature=(spec, spec))

    def fit(callbacks):
        model.fit(data, epochs=3, validation_data=(V, V), verbose=0, callbacks=callbacks)
        return {}

    metrics = run(model, fit, Rung(3), pruning=Pruning(0.75))
    assert zeros(model) == pytest.approx(0.75, abs=0.02)
    assert metrics["val_loss"] == pytest.approx(best_score(model), rel=1e-5)


def test_criterion_and_allocation_are_searched_only_where_something_is_pruned():
    space = PruningSpace([0.0, 0.8], ["magnitude", "random"], ["uniform", "global"])
    hp = kt.HyperParameters()
    assert space.declare(hp) == {"sparsity": 0.0}
    assert space.pruning({"sparsity": 0.0}) is None
    hp.values |= {"sparsity": 0.8, "criterion": "magnitude", "allocation": "uniform"}
    values = space.declare(hp)
    assert values == {"sparsity": 0.8, "criterion": "magnitude", "allocation": "uniform"}
    assert space.pruning(values).sparsity == 0.8


class OwnFit(kt.HyperModel):
    """A user's hypermodel whose fit returns what `answer` makes of the model, after training on half."""

    def __init__(self, answer, pass_on=True, rates=None):
        super().__init__()
        self.answer, self.pass_on, self.calls = answer, pass_on, []
        self.rates = keras.callbacks.LearningRateScheduler(rates) if rates else dense_is_best()

    def build(self, hp):
        return build_model(hp)

    def fit(self, hp, model, x, y, callbacks=None, **kwargs):
        self.calls.append(kwargs["epochs"])
        callbacks = [*callbacks, self.rates] if self.pass_on else []
        history = model.fit(x, y, callbacks=callbacks, **kwargs)
        return self.answer(model, history)


def search(hypermodel, folder, objective="val_loss", trials=1, **arguments):
    tuner = kt.RandomSearch(hypermodel, objective, max_trials=trials, seed=0, directory=folder, **arguments)
    tuner.search(X, X, epochs=4, validation_data=(V, V), batch_size=16, verbose=0)
    return tuner


@pytest.mark.parametrize("own_numbers", [False, True])
def test_a_fit_of_ones_own_is_called_and_only_its_epochs_at_the_target_count(own_numbers, tmp_path):
    own = OwnFit(lambda m, h: {"val_loss": min(h.history["val_loss"]), "own": 7.0} if own_numbers else h)
    tuner = search(with_pruning(own, 0.9, ramp=(0.5, 0.7)), tmp_path)
    (trial,) = trials(tuner)
    assert own.calls == [4]
    assert zeros(saved(tuner, trial)) == pytest.approx(0.9, abs=0.02)
    assert trial.score == pytest.approx(best_score(saved(tuner, trial)), rel=1e-5)
    assert trial.metrics.exists("own") == own_numbers


def test_an_objective_that_only_the_own_fit_knows_is_that_of_the_saved_weights(tmp_path):
    worst_at_last = lambda epoch: 2.0 if epoch == 3 else 0.02  # noqa: E731
    own = OwnFit(lambda m, h: {"mine": float(np.abs(m.predict(V, verbose=0) - V).max())}, rates=worst_at_last)
    tuner = search(with_pruning(own, 0.9), tmp_path, kt.Objective("mine", "min"))
    model = saved(tuner, trials(tuner)[0])
    (trial,) = trials(tuner)
    assert trial.score == pytest.approx(float(np.abs(model.predict(V, verbose=0) - V).max()), rel=1e-5)
    assert zeros(model) == pytest.approx(0.9, abs=0.02)


def test_a_fit_that_drops_the_callbacks_is_refused():
    hp = kt.HyperParameters()
    hypermodel = with_pruning(OwnFit(lambda m, h: h, pass_on=False), 0.5)
    model = hypermodel.build(hp)
    with pytest.raises(InputError, match="pass callbacks= on to model.fit"):
        hypermodel.fit(hp, model, X, X, epochs=1, verbose=0)


def test_several_objectives_and_none_at_all_work_as_in_keras_tuner(tmp_path):
    objectives = ["val_loss", kt.Objective("nonzero", "min")]
    (trial,) = trials(search(with_pruning(build_model, 0.5), tmp_path / "a", objectives))
    value = trial.metrics.get_last_value
    assert trial.score == pytest.approx(value("val_loss") + value("nonzero"))
    (trial,) = trials(search(with_pruning(build_model, 0.5), tmp_path / "b", None))
    assert trial.score == trial.metrics.get_last_value("val_loss")


def test_of_several_executions_the_best_ones_weights_are_saved(tmp_path):
    hypermodel = with_pruning(build_model, 0.5)
    scores, fit = [], hypermodel.fit

    def first_is_best(hp, model, *args, **kwargs):
        if scores:
            model.optimizer.learning_rate = 0.0
        scores.append(fit(hp, model, *args, **kwargs))
        return scores[-1]

    hypermodel.fit = first_is_best
    tuner = search(hypermodel, tmp_path, executions_per_trial=2)
    found = [metrics["val_loss"] for metrics in scores]
    assert len(found) == 2 and found[0] < found[1]
    assert best_score(saved(tuner, trials(tuner)[0])) == pytest.approx(min(found), rel=1e-5)
    assert trials(tuner)[0].score == pytest.approx(np.mean(found))


def test_trials_that_diverge_get_a_finite_score_and_do_not_end_the_search(tmp_path, capsys):
    def wild(hp):
        model = build_model(hp)
        model.compile(keras.optimizers.SGD(1e30), "mse")
        return model

    tuner = search(with_pruning(wild, 0.5), tmp_path, trials=4)
    assert [(trial.status, trial.score) for trial in trials(tuner)] == [("COMPLETED", BAD)] * 4
    assert "its loss is not finite" in capsys.readouterr().err


def test_early_stopping_of_the_search_does_not_end_a_trial_before_its_target(tmp_path):
    tuner = kt.RandomSearch(with_pruning(build_model, 0.9), "val_loss", max_trials=1, directory=tmp_path)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=0, restore_best_weights=True)
    tuner.search(X, X, epochs=6, validation_data=(V, V), batch_size=16, verbose=0, callbacks=[stop])
    model = saved(tuner, trials(tuner)[0])
    assert zeros(model) == pytest.approx(0.9, abs=0.02)
    assert trials(tuner)[0].score == pytest.approx(best_score(model), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity: got 1.0"),
        ({"sparsity": []}, "sparsity: got"),
        ({"criterion": "magic"}, "criterion: got 'magic'"),
        ({"allocation": "magic"}, "allocation: got 'magic'"),
        ({"ramp": (0.6, 0.1)}, "ramp: got"),
        ({"schedule": "Magic"}, "schedule: got 'Magic'"),
        ({"patern": "2:4"}, "pruning: got .'patern'."),
        ({"measures": ("size",)}, "measures: got 'size'"),
    ],
)
def test_arguments_are_refused_before_the_search(arguments, message):
    with pytest.raises(InputError, match=message):
        with_pruning(build_model, **arguments)
