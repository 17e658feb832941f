"""Penalties on activations: numbers worked by hand, any batch size, any version of Keras."""

import keras
import numpy as np
import pytest

from keras_aeprune import regularizers
from keras_aeprune._validation import InputError
from keras_aeprune.regularizers import ActivityKL, ActivityL1


def share_of_the_loss(regularizer, activations):
    layer = keras.layers.Activation("linear", activity_regularizer=regularizer)
    layer(np.asarray(activations, dtype="float32"))
    (loss,) = layer.losses
    return float(loss)


def test_l1_is_the_mean_over_samples_of_the_sum_over_units():
    # sums 3 and 7, mean 5, times 0.1
    assert share_of_the_loss(ActivityL1(0.1), [[1.0, -2.0], [0.0, 7.0]]) == pytest.approx(0.5)


def test_kl_is_worked_by_hand():
    # means 0.5 and 0.2, target 0.2: 0.2 log(0.4) + 0.8 log(1.6) + 0
    by_hand = 2.0 * (0.2 * np.log(0.4) + 0.8 * np.log(1.6))
    assert share_of_the_loss(ActivityKL(2.0, target=0.2), [[0.9, 0.1], [0.1, 0.3]]) == pytest.approx(
        by_hand, rel=1e-5
    )


def test_kl_is_zero_at_its_target_and_finite_at_the_ends():
    assert share_of_the_loss(ActivityKL(1.0, target=0.25), np.full((8, 3), 0.25)) == pytest.approx(0.0, abs=1e-6)
    # a dead unit: 0.5 log(0.5 / 1e-6) + 0.5 log(0.5 / (1 - 1e-6))
    dead = 0.5 * np.log(0.5 / 1e-6) + 0.5 * np.log(0.5)
    assert share_of_the_loss(ActivityKL(1.0, target=0.5), np.zeros((4, 1))) == pytest.approx(dead, rel=1e-3)
    assert share_of_the_loss(ActivityKL(1.0, target=0.5), np.ones((4, 1))) == pytest.approx(dead, rel=1e-2)


@pytest.mark.parametrize("regularizer", [ActivityL1(0.3), ActivityKL(0.3, 0.1)])
@pytest.mark.parametrize("divides", [True, False], ids=["Keras divides by n", "Keras does not"])
def test_the_penalty_does_not_depend_on_the_batch_size_nor_on_keras(regularizer, divides, monkeypatch):
    class Layer(keras.layers.Layer):
        def call(self, x):
            value = regularizer(x)
            self.add_loss(value / x.shape[0] if divides else value)
            return x

    monkeypatch.setattr(regularizers, "_keras_divides_by_the_batch_size", lambda: divides)
    few = np.random.default_rng(0).random((4, 3)).astype("float32")
    losses = []
    for x in (few, np.tile(few, (16, 1))):
        layer = Layer()
        layer(x)
        losses.append(float(layer.losses[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(float(regularizer.penalty(few)), rel=1e-5)


def test_it_is_found_out_rightly_whether_keras_divides():
    layer = keras.layers.Activation("linear", activity_regularizer=keras.regularizers.L1(1.0))
    layer(np.ones((5, 2), dtype="float32"))
    assert regularizers._keras_divides_by_the_batch_size() == (float(layer.losses[0]) == 2.0)


def test_units_of_several_axes_are_summed():
    x = np.random.default_rng(0).random((6, 3, 2)).astype("float32")
    assert share_of_the_loss(ActivityL1(1.0), x) == pytest.approx(
        float(np.abs(x).sum(axis=(1, 2)).mean()), rel=1e-5
    )
    mean = x.mean(axis=0)
    slow = sum(0.3 * np.log(0.3 / m) + 0.7 * np.log(0.7 / (1 - m)) for m in mean.ravel())
    assert share_of_the_loss(ActivityKL(1.0, 0.3), x) == pytest.approx(slow, rel=1e-4)


def test_half_precision_activations_are_summed_in_float32():
    x = np.ones((512, 300), dtype="float16")
    assert float(ActivityL1(1.0).penalty(x)) == 300.0  # the sum of all is beyond float16


@pytest.mark.parametrize("regularizer", [ActivityL1(0.25), ActivityKL(0.5, target=0.125)])
def test_configs_come_back(regularizer):
    config = keras.saving.serialize_keras_object(regularizer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(regularizer)
    assert again.get_config() == regularizer.get_config()
    assert type(regularizer)(**regularizer.get_config()).get_config() == regularizer.get_config()


def test_the_gradient_pulls_towards_the_target():
    import tensorflow as tf

    x = tf.Variable([[0.2, 0.02], [0.2, 0.02]])
    with tf.GradientTape() as tape:
        loss = ActivityKL(1.0, target=0.1).penalty(x)
    gradient = tape.gradient(loss, x).numpy()
    assert (gradient[:, 0] > 0).all() and (gradient[:, 1] < 0).all()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: ActivityL1(0), "rate"),
        (lambda: ActivityL1("1"), "rate"),
        (lambda: ActivityKL(-1.0), "rate"),
        (lambda: ActivityKL(1.0, target=0.0), "target"),
        (lambda: ActivityKL(1.0, target=1.0), "target"),
    ],
)
def test_bad_numbers_are_refused(make, word):
    with pytest.raises(InputError, match=f"{word}: got .* allowed"):
        make()
