"""Scores worked by hand, and a table and plain values of a transfer."""

import json

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.models.composed import Autoencoder
from keras_aeprune.models.outcome import (
    Stage,
    Transfer,
    batch_for,
    inputs,
    last_activation,
    loss_of,
    pair,
    score,
    stage,
    train,
    two,
)


def passing(*layers, shape=(2,)):
    return keras.Sequential([keras.Input(shape), *layers])


LOGITS = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 5.0], [4.0, 1.0]], "float32")


@pytest.mark.parametrize("last", [keras.layers.Activation("softmax"), keras.layers.Activation("linear")])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_labels_are_scored_by_the_largest_output(last, shape):
    y = np.array([1, 0, 0, 0]).reshape(shape)  # the third is wrong
    assert score(passing(last), LOGITS, y) == ("accuracy", 0.75)


def test_one_label_for_each_step_of_a_sequence():
    x = np.stack([LOGITS[:2], LOGITS[2:]])
    assert score(passing(keras.layers.Softmax(), shape=(2, 2)), x, np.array([[1, 0], [1, 1]])) == (
        "accuracy",
        0.75,
    )


def test_one_sigmoid_is_scored_at_a_half():
    x = np.array([[-1.0], [2.0], [3.0], [-4.0]], "float32")
    model = passing(keras.layers.Activation("sigmoid"), shape=(1,))
    for y in ([0, 1, 1, 1], [[0], [1], [1], [1]], [False, True, True, True]):
        assert score(model, x, np.array(y)) == ("accuracy", 0.75)


def test_anything_else_is_scored_by_the_squared_error():
    model = passing(keras.layers.Activation("linear"))
    name, value = score(model, LOGITS, LOGITS + np.array([[1.0, 3.0]]))
    assert name == "mse" and value == pytest.approx((1 + 9) / 2)
    one = passing(keras.layers.Activation("linear"), shape=(1,))
    assert score(one, np.ones((2, 1)), np.array([[1], [3]])) == ("mse", 2.0)


def test_large_inputs_are_scored_in_chunks():
    x = np.random.default_rng(0).random((1300, 2), dtype="float32")
    model = passing(keras.layers.Activation("linear"))
    assert score(model, x, 2 * x)[1] == pytest.approx(float(np.mean(x.astype("float64") ** 2)), rel=1e-6)


@pytest.mark.parametrize(
    "y", [np.array([0, 2, 0, 0]), np.array([-1, 0, 0, 0]), np.zeros((4, 3)), np.zeros(3), "abcd"]
)
def test_targets_that_do_not_fit_are_refused(y):
    with pytest.raises(InputError, match="allowed"):
        score(passing(keras.layers.Softmax()), LOGITS, y)


def test_the_last_activation_is_found_through_models_and_reshapes():
    inner = passing(keras.layers.Dense(4, "sigmoid"), keras.layers.Reshape((2, 2)))
    assert last_activation(passing(inner, keras.layers.Flatten())) == "sigmoid"
    assert last_activation(passing(keras.layers.Softmax())) == "softmax"
    assert last_activation(passing(keras.layers.Dense(3))) == "linear"
    assert last_activation(Autoencoder(passing(keras.layers.Dense(2)), keras.layers.Dense(2, "tanh"))) == "tanh"


def test_the_loss_fits_output_and_labels():
    labels = np.array([0, 1])
    probabilities, logits = (
        loss_of(passing(keras.layers.Activation(name)), labels) for name in ("softmax", "linear")
    )
    x = LOGITS[:2]
    by_hand = float(np.mean(np.log(np.exp(x).sum(axis=1)) - x[[0, 1], labels]))
    softmax = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    assert float(logits(labels, x)) == pytest.approx(by_hand, rel=1e-5)
    assert float(probabilities(labels, softmax)) == pytest.approx(by_hand, rel=1e-5)
    assert loss_of(passing(keras.layers.Dense(1, "sigmoid")), labels).name == "binary_crossentropy"
    assert loss_of(passing(keras.layers.ReLU()), x).name == "mean_squared_error"


def test_a_stage_counts_all_weights_as_float32():
    model = passing(keras.layers.Dense(3), keras.layers.BatchNormalization())
    model.trainable = False
    reached = stage("start", model, None)
    assert (reached.parameters, reached.bytes, reached.score) == (2 * 3 + 3 + 4 * 3, 84, None)


STAGES = (Stage("start", 1000, 4000, 0.5, 0.0), Stage("longer name", 20, 80, None, 12.34, "a note"))


def test_the_table_is_aligned_and_says_what_was_kept():
    lines = str(Transfer(None, STAGES, "mse", "start")).split("\n")
    assert lines[0] == "stage        parameters  bytes     mse  seconds"
    assert lines[1] == "start             1,000  4,000  0.5000      0.0  kept"
    assert lines[2] == "longer name          20     80       -     12.3  a note"
    assert lines[3] == "before -> after: parameters 1,000 -> 1,000 (1.00x), mse 0.5000 -> 0.5000"
    assert "kept; a note" in str(Transfer(None, STAGES, "mse"))


def test_plain_values_survive_json():
    result = Transfer(object(), STAGES, "accuracy")
    values = json.loads(json.dumps(result.to_dict()))
    assert values["kept"] == "longer name" and values["score_name"] == "accuracy"
    assert values["stages"][0] == {
        "name": "start", "parameters": 1000, "bytes": 4000, "score": 0.5, "seconds": 0.0, "note": "",
    }  # fmt: skip


def test_training_lowers_the_loss_and_leaves_no_moments_behind():
    model = passing(keras.layers.Dense(2))
    before = score(model, LOGITS, LOGITS)[1]
    loss = keras.losses.MeanSquaredError()
    assert train(model, LOGITS, LOGITS, loss=loss, epochs=20, learning_rate=0.1, batch_size=None) > 0
    assert score(model, LOGITS, LOGITS)[1] < before
    assert not model.optimizer.built


def test_small_sets_get_small_batches():
    assert [batch_for(n) for n in (1, 320, 640, 2560, 10**6)] == [8, 8, 16, 64, 128]


@pytest.mark.parametrize("value", [None, "ab", (LOGITS,), (LOGITS, np.zeros(3)), (LOGITS, 1.0)])
def test_what_is_no_pair_of_one_length_is_refused(value):
    with pytest.raises(InputError, match="test"):
        pair("test", value)


def test_samples_are_checked():
    assert inputs("data", LOGITS, (None,)).shape == (4, 2)
    for bad in (np.zeros((0, 2)), np.zeros(3), np.full((2, 2), np.nan), np.array([["a"]])):
        with pytest.raises(InputError, match="data"):
            inputs("data", bad)
    with pytest.raises(InputError, match=r"\(4, 2\), allowed: 'samples of shape \(3,\)'|samples of shape"):
        inputs("data", LOGITS, (3,))


@pytest.mark.parametrize("value", [3, (1,), (1, 2, 3), "12", (1, -1), (1.5, 2)])
def test_two_epochs_are_wanted(value):
    with pytest.raises(InputError, match="epochs"):
        two("epochs", value, "epochs")
