"""Training many widths at once is the same as training each of them in Keras."""

import keras
import numpy as np
import pytest

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.search import screening as room
from keras_aeprune.search.screening import Batch, Screen, grouped, pca_curve, screen

RANDOM = np.random.default_rng(0)
X = (RANDOM.normal(size=(90, 3)) @ RANDOM.normal(size=(3, 10))).astype("float32")
HELD = (RANDOM.normal(size=(31, 3)) @ RANDOM.normal(size=(3, 10))).astype("float32")
UNITS = {"hidden_units": (7, 6), "activation": "relu", "output_activation": "linear"}


def in_keras(width, weights, orders, batch_size, learning_rate, units=UNITS):
    """An ordinary Keras model after the same batches, and its held-out loss."""
    model = models.dense((10,), width, **units)
    model.set_weights(weights)
    model.compile(keras.optimizers.Adam(learning_rate), "mse")
    model.optimizer.build(model.trainable_variables)  # else the step is traced twice
    for order in orders:
        for start in range(0, len(order), batch_size):
            rows = X[order[start : start + batch_size]]
            model.train_on_batch(rows, rows)
    return model, float(np.square(model(HELD).numpy() - HELD).mean())


@pytest.mark.parametrize("units", [UNITS, {**UNITS, "hidden_units": (), "output_activation": "sigmoid"}])
def test_each_row_equals_a_keras_model_trained_alone(units):
    widths, seeds = [2, 5, 3], [4, 9, 4]
    batch = Batch(10, 3, 5, **units)
    batch.see(X, HELD)
    batch.start(widths, seeds)
    first = [batch.weights(row) for row in range(3)]
    losses = batch.fit([1, 2, 3], epochs=2, batch_size=40, learning_rate=0.01)
    for row, width in enumerate(widths):
        generator = np.random.default_rng(np.random.SeedSequence([row + 1, 1]))
        orders = [generator.permutation(90) for _ in range(2)]
        model, loss = in_keras(width, first[row], orders, 40, 0.01, units)
        for ours, theirs in zip(batch.weights(row), model.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)
        assert losses[row] <= loss * (1 + 1e-5)  # the best epoch, which is the last or the one before
        assert not np.allclose(first[row][0], model.get_weights()[0], atol=1e-4)


def test_a_row_does_not_depend_on_those_beside_it():
    losses = []
    for widths in ([6, 2], [2]):
        batch = Batch(10, len(widths), widths[0], **UNITS)
        batch.see(X, HELD)
        batch.start(widths, [3] * len(widths))
        losses.append(batch.fit([0], epochs=3, batch_size=16, learning_rate=0.01)[-1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_first_weights_have_the_scale_of_the_width_they_belong_to():
    batch = Batch(200, 2, 100, hidden_units=(150,), activation="relu", output_activation="linear")
    batch.start([100, 25], [1, 1])
    for row, width in enumerate([100, 25]):
        keras.utils.set_random_seed(0)
        theirs = models.dense((200,), width, hidden_units=(150,), output_activation="linear").get_weights()
        for ours, like in zip(batch.weights(row), theirs, strict=True):
            assert ours.shape == like.shape
            assert ours.std() == pytest.approx(like.std(), rel=0.05)
            assert np.abs(ours).max() <= np.abs(like).max() * 1.1


def test_a_batch_starts_anew_as_often_as_asked():
    batch = Batch(10, 1, 4, **UNITS)
    batch.see(X, HELD)
    losses = []
    for width in (4, 2, 4):
        batch.start([width], [7])
        losses.append(batch.fit([7], epochs=2, batch_size=32, learning_rate=0.01)[0])
    assert losses[0] == losses[2] != losses[1]


def test_each_row_keeps_its_own_best_epoch():
    widths = [2, 4, 2, 4, 2, 4]
    batch = Batch(10, 6, 4, **UNITS)
    batch.see(X, HELD)
    batch.start(widths, range(6))
    seen = []
    best = batch.fit(
        range(6), epochs=6, batch_size=8, learning_rate=0.1, keep=True, heard=lambda epoch, best: seen.append(best)
    )
    better = np.diff(seen, axis=0) < 0
    assert len({tuple(row) for row in better.T}) > 1  # they do not improve in the same epochs
    for row, width in enumerate(widths):
        model = models.dense((10,), width, **UNITS)
        model.set_weights(batch.weights(row))
        assert np.square(model(HELD).numpy() - HELD).mean() == pytest.approx(best[row], rel=1e-5)


def test_groups_that_fit_into_memory_give_the_same_curve(monkeypatch):
    settings = {"validation": HELD, "hidden_units": (6,), "epochs": 2, "seeds": 1}
    whole = screen(X, [1, 2, 3, 5], **settings)
    one = 4 * (4 * (10 * 6 + 6 + 6 * 5 + 5 + 5 * 6 + 6 + 6 * 10 + 10) + 3 * 32 * 37)
    monkeypatch.setattr(room, "_GRAPH_BYTES", 2 * one)
    assert grouped([1, 2, 3, 5], 10, (6,), 32) == [[1, 2], [3, 5]]
    assert screen(X, [1, 2, 3, 5], **settings).losses == pytest.approx(whole.losses, rel=1e-5)


def test_a_screen_has_a_loss_for_every_width_and_seed_and_repeats():
    curve = screen(X, [4, 2], validation=HELD, hidden_units=(8,), epochs=3, seeds=[5, 6])
    again = screen(X, [2, 4], validation=HELD, hidden_units=(8,), epochs=3, seeds=[5, 6])
    assert curve.widths == (2, 4)
    assert curve.losses.shape == (2, 2)
    assert (curve.losses == again.losses).all()
    assert len(np.unique(curve.losses)) == 4


def test_a_screen_goes_through_json_also_where_a_training_blew_up():
    curve = Screen((2, 4), np.array([[0.5, np.inf], [0.25, 0.75]]), 90, 3, 1.5)
    again = Screen.from_dict(curve.to_dict())
    assert (again.losses == curve.losses).all()
    assert again.mean.tolist() == [np.inf, 0.5]
    assert again.deviation[1] == pytest.approx(np.sqrt(0.125))


def test_a_training_that_blows_up_is_infinite_and_stops_nobody():
    curve = screen(1e18 * X, [2, 4], validation=1e18 * HELD, hidden_units=(), epochs=1, seeds=1)
    assert np.isfinite(curve.losses).all() or np.isinf(curve.mean).any()
    wild = screen(X, [2], validation=HELD, hidden_units=(), epochs=2, learning_rate=1e30, seeds=1)
    assert np.isinf(wild.mean).all()


def test_pca_is_the_best_linear_autoencoder_of_every_width():
    singular = np.linalg.svd(X.astype("float64") - X.mean(axis=0, dtype="float64"), compute_uv=False)
    expected = [np.square(singular[k:]).sum() / X.size for k in (0, 1, 2, 3)]
    assert pca_curve(X, [0, 1, 2, 3]) == pytest.approx(expected, abs=1e-9)
    mean = X.mean(axis=0)
    assert pca_curve(X, [0], validation=HELD)[0] == pytest.approx(np.square(HELD - mean).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": []}, "one or more"),
        ({"widths": [2, 2]}, "each once"),
        ({"validation": HELD[:, :9]}, "10 values"),
        ({"validation": HELD[:0]}, "1 or more"),
        ({"x": np.full((4, 10), np.nan)}, "NaN"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"seeds": 0}, "seeds"),
        ({"hidden_units": (0,)}, "hidden_units"),
        ({"activation": "nothing"}, "activation"),
    ],
)
def test_bad_input_is_refused_before_training(changes, words):
    arguments = {"x": X, "widths": [2, 3], "validation": HELD, **changes}
    with pytest.raises(InputError, match=words):
        screen(arguments.pop("x"), arguments.pop("widths"), **arguments)
