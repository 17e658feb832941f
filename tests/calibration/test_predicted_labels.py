import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune import models
from keras_aeprune.calibration.labels import predicted_labels

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")


def network(units, activation=None, loss=None):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(units, activation)])
    if loss is not None:
        model.compile("sgd", loss)
    return model


def test_the_largest_output_is_the_class():
    model = network(3, "softmax")
    np.testing.assert_array_equal(predicted_labels(model, X), model(X).numpy().argmax(1))


def test_one_sigmoid_gives_zeros_and_ones():
    model = network(1, "sigmoid")
    found = predicted_labels(model, X)
    np.testing.assert_array_equal(found, model(X).numpy()[:, 0] > 0.5)
    assert 0 < found.sum() < 40


def test_one_linear_output_counts_as_a_logit_where_the_labels_are_binary():
    model = network(1)
    np.testing.assert_array_equal(predicted_labels(model, X, np.array([0, 1])), model(X).numpy()[:, 0] > 0)
    assert predicted_labels(model, X) is None


def test_logits_are_recognized_by_the_real_labels_or_by_the_loss():
    model = network(3)
    expected = model(X).numpy().argmax(1)
    assert predicted_labels(model, X) is None
    np.testing.assert_array_equal(predicted_labels(model, X, np.array([0, 2])), expected)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    np.testing.assert_array_equal(predicted_labels(model, X), expected)


@pytest.mark.parametrize(
    ("loss", "y", "shape"),
    [
        ("categorical_crossentropy", None, (40, 3)),
        (keras.losses.CategoricalCrossentropy(), None, (40, 3)),
        ("sparse_categorical_crossentropy", None, (40,)),
        (None, np.eye(3)[[0, 1]], (40, 3)),
        (None, np.array([[0], [1]]), (40, 1)),
        (None, np.array([0, 1]), (40,)),
    ],
)
def test_labels_are_of_the_kind_that_the_real_ones_or_the_loss_are(loss, y, shape):
    model = network(3, "softmax", loss)
    found = predicted_labels(model, X, y)
    assert found.shape == shape
    classes = found.argmax(1) if shape == (40, 3) else found.reshape(-1)
    np.testing.assert_array_equal(classes, model(X).numpy().argmax(1))


@pytest.mark.parametrize(
    "model",
    [
        lambda: None,
        lambda: network(4),  # an autoencoder, labels or not
        lambda: network(2, "linear", "mse"),
        lambda: models.dense((4,), 2),
        lambda: models.variational((4,), 2),
    ],
)
def test_other_models_give_no_labels(model):
    assert predicted_labels(model(), X, None) is None
    if model() is None or model().output_shape == (None, 4):
        assert predicted_labels(model(), X, np.array([0, 1, 2])) is None


def test_a_classifier_with_as_many_classes_as_inputs_is_one():
    model = network(4, "softmax")
    assert predicted_labels(model, X, np.array([0, 1])).shape == (40,)


def test_several_outputs_give_no_labels():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(3, "softmax")(inputs), layers.Dense(4)(inputs)])
    assert predicted_labels(model, X) is None
