"""Rounds of cutting on a trained autoencoder of the digits: limits, budgets, and a run that goes on."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl
from sklearn.datasets import load_digits

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.shrinking import iteration
from keras_aeprune.shrinking.iteration import shrink_until
from keras_aeprune.shrinking.rounds import Round, RoundsFolder

SHORT = {"epochs": 1, "probe_epochs": 0, "final_epochs": 1, "step": 0.4, "progress": False, "batch_size": 256}


@pytest.fixture(scope="module")
def x():
    return (load_digits().data / 16).astype("float32")


@pytest.fixture(scope="module")
def autoencoder(x):
    keras.utils.set_random_seed(0)
    model = models.dense((64,), 16, hidden_units=(48,))
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(x[:1500], x[:1500], epochs=20, batch_size=128, verbose=0)
    return model


@pytest.fixture(scope="module")
def shrunk(autoencoder, x):
    before = autoencoder.get_weights()
    found = shrink_until(autoencoder, x[:1500], validation=x[1500:], max_error_increase=0.2, **SHORT)
    for old, now in zip(before, autoencoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    return found


def test_the_model_is_the_smallest_that_held(shrunk, x):
    held = [r for r in shrunk.rounds if r.held]
    assert shrunk.best.params == min(r.params for r in held) == shrunk.model.count_params()
    assert len(held) > 1
    assert not shrunk.rounds[-1].held
    assert shrunk.stopped == "the error would grow by more than 0.2 of itself"


def test_errors_are_those_of_the_model_on_the_validation_samples(shrunk, autoencoder, x):
    rows = x[1500:]
    first = float(np.square(autoencoder.predict(rows, verbose=0) - rows).mean())
    last = float(np.square(shrunk.model.predict(rows, verbose=0) - rows).mean())
    assert shrunk.rounds[0].error == pytest.approx(first, rel=1e-4)
    assert shrunk.error == pytest.approx(last, rel=1e-4)
    assert shrunk.error <= 1.2 * first


def test_a_move_that_was_too_much_is_not_tried_again(shrunk):
    missed = [(r.move, r.params) for r in shrunk.rounds if not r.held]
    assert missed
    assert len(set(missed)) == len(missed)


def test_the_table_names_every_round_and_the_outcome(shrunk):
    lines = str(shrunk).splitlines()
    assert len([line for line in lines if line[:1].isdigit()]) == len(shrunk.rounds)
    assert lines[-1].startswith(f"parameters {shrunk.rounds[0].params:,} -> {shrunk.best.params:,}")
    assert max(map(len, lines)) <= 125
    assert json.loads(json.dumps(shrunk.to_dict()))["rounds"][0]["move"] == "given"


@pytest.mark.parametrize(("target", "reached"), [("target_params", "params"), ("target_macs", "macs")])
def test_a_target_stops_the_rounds(autoencoder, x, target, reached):
    limit = 6500
    found = shrink_until(autoencoder, x, max_error_increase=None, layers=False, **{target: limit}, **SHORT)
    assert getattr(found.best, reached) <= limit < getattr(found.rounds[-2], reached)
    assert "is met" in found.stopped


def test_bytes_are_four_times_the_parameters():
    assert iteration._target(None, None, 26000) == ("params", 6500)


def test_a_layer_that_does_nothing_goes_first(x):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    hidden = kl.Dense(24, "relu", name="a")(inputs)
    hidden = kl.Dense(24, "relu", kernel_initializer="identity", name="idle")(hidden)
    model = keras.Model(inputs, kl.Dense(64, "sigmoid", name="out")(hidden))
    model.get_layer("idle").trainable = False
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(x, x, epochs=5, batch_size=64, verbose=0)
    settings = {**SHORT, "epochs": 0, "final_epochs": 0, "step": 0.15}
    found = shrink_until(model, x, max_error_increase=0.02, **settings)
    moves = [r.move.split(":")[0] for r in found.rounds if "dead" not in r.move]
    assert moves[:2] == ["given", "layer out"]
    one = next(r for r in found.rounds if "layer out" in r.move)
    assert one.error == pytest.approx(found.rounds[0].error, rel=1e-3)
    assert len([layer for layer in found.model.layers if isinstance(layer, kl.Dense)]) == 2


def test_a_killed_run_goes_on_and_ends_where_a_whole_one_does(autoencoder, x, tmp_path, monkeypatch):
    arguments = {"max_error_increase": None, "target_params": 4500, "layers": False, **SHORT}
    whole = shrink_until(autoencoder, x, **arguments)
    assert len(whole.rounds) > 2
    train, calls = iteration.fine_tune, []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(iteration, "fine_tune", killed)
    with pytest.raises(KeyboardInterrupt):
        shrink_until(autoencoder, x, directory=tmp_path, **arguments)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round-1.keras", "rounds.json"]
    again = shrink_until(autoencoder, x, directory=tmp_path, **arguments)
    assert [(r.move, r.params) for r in again.rounds] == [(r.move, r.params) for r in whole.rounds]
    assert again.error == pytest.approx(whole.error, rel=0.05)


def test_a_finished_run_is_not_trained_again_and_another_one_is_refused(autoencoder, x, tmp_path, monkeypatch):
    arguments = {
        "max_error_increase": None,
        "target_params": 7500,
        "layers": False,
        "directory": tmp_path,
        **SHORT,
    }
    first = shrink_until(autoencoder, x, **arguments)
    monkeypatch.setattr(iteration, "moves", None)
    monkeypatch.setattr(iteration._Loop, "_final", lambda loop, model, error: (model, error))
    again = shrink_until(autoencoder, x, **arguments)
    assert again.rounds == first.rounds
    with pytest.raises(InputError, match="the folder of another run"):
        shrink_until(autoencoder, x, **{**arguments, "seed": 5})


def test_a_folder_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "rounds.json").write_text("{")
    with pytest.raises(InputError, match=r"rounds\.json cannot be read"):
        RoundsFolder(tmp_path, {})


def test_rounds_come_back_from_their_folder(tmp_path):
    one = Round(0, "given", 10, 9, 0.5, 0.5, True, 0.0)
    RoundsFolder(tmp_path, {"seed": 1}).finish([one], None)
    assert RoundsFolder(tmp_path, {"seed": 1}).rounds() == [one]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_error_increase": -1}, "a fraction >= 0"),
        ({"max_error_increase": None}, "got None and no target"),
        ({"target_params": 5, "target_macs": 5}, "one of them"),
        ({"step": 1.0}, "a fraction 0 < step < 1"),
        ({"epochs": -1}, "a whole number >= 0"),
        ({"batch_size": 0}, "a whole number >= 1"),
        ({"learning_rate": 0}, "a number > 0"),
    ],
)
def test_what_cannot_be_used_is_refused(autoencoder, x, arguments, message):
    with pytest.raises(InputError, match=message):
        shrink_until(autoencoder, x, **arguments)


def test_a_model_without_a_loss_is_refused(x):
    with pytest.raises(InputError, match="not compiled"):
        shrink_until(models.dense((64,), 16), x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"data": x[:, :5]}, r"data: got samples of shape \(5,\), allowed: \(64,\)"),
        (lambda x: {"data": x, "validation": x[:, :5]}, r"validation: got samples of shape \(5,\)"),
        (lambda x: {"data": np.where(x > 0.9, np.nan, x)}, "data: got NaN"),
        (lambda x: {"data": x, "criterion": "elimnation"}, "or elimination"),
    ],
)
def test_samples_and_names_that_do_not_fit_are_refused_before_any_work(autoencoder, x, change, message):
    with pytest.raises(InputError, match=message):
        shrink_until(autoencoder, **change(x))


def test_data_of_two_lengths_are_refused(autoencoder, x):
    with pytest.raises(InputError, match="x for an autoencoder"):
        shrink_until(autoencoder, (x, x[:5]))
