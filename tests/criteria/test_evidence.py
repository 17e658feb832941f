"""What criteria are shown of calibration data: the model's shape, and the targets that an autoencoder has."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import calibration, datasets
from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.criteria.base import get
from keras_aeprune.criteria.scoring import evidence, scores
from keras_aeprune.sparsity import Pruner

X = np.random.default_rng(0).random((12, 4), "float32")
CLASSES = np.arange(12) % 4


def chain(*layers, shape=(4,), loss="mse"):
    model = keras.Sequential([keras.Input(shape), *layers])
    model.compile("sgd", loss)
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.code, self.out = kl.Dense(2), kl.Dense(4)

    def call(self, x):
        return self.out(self.code(x))


def subclassed():
    model = Subclassed()
    model(X[:1])
    model.compile("sgd", "mse")
    return model


def seen_targets(model, data, loss=None, criterion="fisher"):
    return evidence(get(criterion), model, weights(model), calibration.get(data), loss).data.y


@pytest.mark.parametrize("make", [lambda: chain(kl.Dense(2), kl.Dense(4)), subclassed])
def test_labels_are_no_targets_of_an_autoencoder(make):
    model = make()
    labelled, plain = (scores(model, "fisher", data) for data in ((X, CLASSES), X))
    for path, expected in plain.items():
        np.testing.assert_array_equal(labelled[path], expected)
        assert expected.max() > 0


def test_a_dataset_with_labels_prunes_an_autoencoder_like_its_inputs_alone():
    data = datasets.load("digits").flat
    masks = []
    for given in (data, data.x_train):
        keras.utils.set_random_seed(0)
        pruner = Pruner(chain(kl.Dense(4), kl.Dense(64), shape=(64,)), criterion="gradient_magnitude", data=given)
        pruner.update(0.5)
        masks.append(list(pruner.masks().values()))
    for one, other in zip(*masks, strict=True):
        np.testing.assert_array_equal(one, other)


def test_targets_of_the_outputs_shape_stay_targets():
    clean = X + 1
    assert seen_targets(chain(kl.Dense(4)), (X, clean)) is not None
    one = chain(kl.Dense(1), shape=(1,))
    assert seen_targets(one, (X[:, :1], X[:, 1])).shape == (12,)  # Keras takes (n,) for (n, 1)


@pytest.mark.parametrize(
    ("compiled", "loss"),
    [
        ("sparse_categorical_crossentropy", None),
        (keras.losses.SparseCategoricalCrossentropy(), None),
        ("mse", "crossentropy"),
        ("mse", keras.losses.sparse_categorical_crossentropy),
    ],
)
def test_a_classifier_of_as_many_classes_as_inputs_keeps_its_labels(compiled, loss):
    model = chain(kl.Dense(4, activation="softmax"), loss=compiled)
    np.testing.assert_array_equal(seen_targets(model, (X, CLASSES), loss), CLASSES)


def test_labels_of_a_model_with_another_output_are_its_targets():
    model = chain(kl.Dense(7), loss="sparse_categorical_crossentropy")
    np.testing.assert_array_equal(seen_targets(model, (X, CLASSES)), CLASSES)


@pytest.mark.parametrize("criterion", ["fisher", "wanda", "gradient_magnitude", "activation_entropy"])
@pytest.mark.parametrize("shape", [(5,), (2, 2), (4, 1, 1)])
def test_samples_of_a_wrong_shape_are_refused_with_both_shapes(criterion, shape):
    model = chain(kl.Dense(4))
    with pytest.raises(InputError) as caught:
        scores(model, criterion, np.ones((6, *shape)))
    text = str(caught.value)
    assert f"got samples of shape {shape}, allowed: (4,), the input of model" in text
    assert "\n" not in text


def test_a_pruner_refuses_them_before_the_training():
    with pytest.raises(InputError, match=r"data: got samples of shape \(5,\), allowed: \(4,\)"):
        Pruner(chain(kl.Dense(4)), criterion="wanda", data=np.ones((6, 5)))


def test_a_subclassed_model_refuses_them_too():
    with pytest.raises(
        InputError, match=r"data: got samples of shape \(5,\), which model .* does not take"
    ) as caught:
        scores(subclassed(), "fisher", np.ones((6, 5)))
    assert "\n" not in str(caught.value)


def test_a_model_with_several_inputs_says_what_it_has_and_what_to_do():
    inputs = [keras.Input((4,)), keras.Input((3,))]
    model = keras.Model(inputs, kl.Dense(2)(kl.Concatenate()(inputs)))
    model.compile("sgd", "mse")
    with pytest.raises(InputError, match=r"shape \(4,\), allowed: .* inputs \(4,\), \(3,\) .*'magnitude'"):
        scores(model, "fisher", X)
    assert len(scores(model, "magnitude", X)) == 1  # looks at no data


def test_open_sizes_and_a_last_axis_of_one_fit_as_in_keras():
    model = chain(kl.Conv2D(1, 3, padding="same"), shape=(None, None, 1))
    for data in (np.ones((3, 6, 5, 1)), np.ones((3, 6, 5))):
        assert evidence(get("fisher"), model, weights(model), calibration.get(data)).data.x.shape == data.shape
