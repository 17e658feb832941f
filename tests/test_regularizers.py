"""Penalties on activations and weights: numbers worked by hand, any batch size, any version of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune import regularizers
from keras_aeprune._validation import InputError
from keras_aeprune.regularizers import (
    ActivationEntropy,
    ActivityKL,
    ActivityL1,
    HoyerSquare,
    WeightEntropy,
    WeightPenalty,
)


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


@pytest.mark.parametrize("regularizer", [ActivityL1(0.3), ActivityKL(0.3, 0.1), ActivationEntropy(0.3)])
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


@pytest.mark.parametrize(
    "regularizer",
    [
        ActivityL1(0.25),
        ActivityKL(0.5, target=0.125),
        ActivationEntropy(0.5, minimize=False, bins=4),
        WeightPenalty(0.5, 0.25, p=0.75),
        WeightEntropy(0.5, maximize=False, bins=4),
        HoyerSquare(0.25),
    ],
)
def test_configs_come_back(regularizer):
    config = keras.saving.serialize_keras_object(regularizer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(regularizer)
    assert again.get_config() == regularizer.get_config()
    assert type(regularizer)(**regularizer.get_config()).get_config() == regularizer.get_config()


def test_the_gradient_pulls_towards_the_target():
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
        (lambda: ActivationEntropy(0), "rate"),
        (lambda: ActivationEntropy(1.0, minimize=1), "minimize"),
        (lambda: ActivationEntropy(1.0, bins=1), "bins"),
        (lambda: WeightEntropy(-1.0), "rate"),
        (lambda: WeightEntropy(1.0, "yes"), "maximize"),
        (lambda: WeightEntropy(1.0, bins=2.5), "bins"),
        (lambda: HoyerSquare(0.0), "rate"),
        (lambda: WeightPenalty(), "l1"),
        (lambda: WeightPenalty(l1=-1.0), "l1"),
        (lambda: WeightPenalty(lp=float("nan")), "lp"),
        (lambda: WeightPenalty(lp=1.0, p=0), "p"),
        (lambda: WeightPenalty(lp=1.0, p=2.5), "p"),
    ],
)
def test_bad_numbers_are_refused(make, word):
    with pytest.raises(InputError, match=f"{word}: got .* allowed"):
        make()


def slope(function, values):
    variable = tf.Variable(np.asarray(values, "float32"))
    with tf.GradientTape() as tape:
        value = function(variable)
    return float(value), tape.gradient(value, variable).numpy()


def slow_entropy(values, centres):
    """Each value shared by the two centres around it, one by one."""
    h = np.zeros(len(centres))
    for v in values:
        k = min(int(np.searchsorted(centres, v, side="right")) - 1, len(centres) - 2)
        share = (v - centres[k]) / (centres[k + 1] - centres[k])
        h[k] += 1 - share
        h[k + 1] += share
    p = h[h > 0] / h.sum()
    return float(-(p * np.log(p)).sum())


def test_the_weight_penalty_is_worked_by_hand():
    w = [3.0, -4.0, 0.0]
    assert slope(WeightPenalty(l1=0.1), w)[0] == pytest.approx(0.7)
    assert slope(WeightPenalty(lp=0.1, p=2), w)[0] == pytest.approx(2.5, rel=1e-5)
    root = 0.1 * (np.sqrt(3) + 2 - 2 * np.sqrt(1e-3))  # two weights far from 0, each sqrt(0.001) lower
    assert slope(WeightPenalty(lp=0.1, p=0.5), w)[0] == pytest.approx(root, rel=1e-4)
    assert slope(WeightPenalty(l1=0.1, lp=0.1, p=0.5), w)[0] == pytest.approx(0.7 + root, rel=1e-4)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0, 1.5, 2.0])
def test_the_slope_of_the_weight_penalty_is_bounded_and_zero_at_zero(p):
    w = np.concatenate([[0.0], np.geomspace(1e-8, 10, 60)])
    _, gradient = slope(WeightPenalty(lp=1.0, p=p), w)
    assert gradient[0] == 0 and (gradient[1:] > 0).all()
    assert gradient[w < 0.5].max() <= p * 1e-3 ** (p - 1) + 1  # the second term for p > 1
    assert gradient[-1] == pytest.approx(p * 10 ** (p - 1), rel=1e-4)


def test_hoyer_square_and_its_slope_are_worked_by_hand():
    # (1 + 2 + 5)^2 / (1 + 4 + 25) = 64 / 30; slope 2 * 8 / 30 * (sign - w * 8 / 30), 0 for a weight of 30 / 8
    value, gradient = slope(HoyerSquare(0.3), [1.0, -2.0, 5.0, 0.0])
    assert value == pytest.approx(0.64)
    np.testing.assert_allclose(gradient, 0.3 * 16 / 30 * np.array([22 / 30, -14 / 30, -10 / 30, 0]), rtol=1e-5)
    assert slope(HoyerSquare(1.0), [-3.0, 0.0])[0] == 1  # from one weight to all of them
    assert slope(HoyerSquare(1.0), np.full(7, 0.5))[0] == pytest.approx(7)


def test_hoyer_square_knows_no_scale_and_a_kernel_of_zeros_costs_nothing():
    w = np.random.default_rng(0).normal(size=(10, 10))
    assert slope(HoyerSquare(1.0), 1e-3 * w)[0] == pytest.approx(slope(HoyerSquare(1.0), w)[0], rel=1e-5)
    value, gradient = slope(HoyerSquare(1.0), np.zeros((2, 2)))
    assert value == 0 and not gradient.any()


def test_soft_histograms_equal_a_slow_one():
    w = np.random.default_rng(0).normal(size=200).astype("float32")
    centres = np.linspace(-np.abs(w).max(), np.abs(w).max(), 9)
    assert slope(WeightEntropy(2.0, bins=9), w)[0] == pytest.approx(-2 * slow_entropy(w, centres), rel=1e-4)
    a = w.reshape(50, 2, 2)
    centres = np.linspace(w.min(), w.max(), 5)
    slow = np.mean([slow_entropy(column, centres) for column in a.reshape(-1, 2).T])
    assert float(ActivationEntropy(1.0, bins=5).penalty(a)) == pytest.approx(slow, rel=1e-4)


def test_the_slope_of_the_entropy_is_the_difference_of_logs():
    # centres -1, 0, 1; 0.25 is shared 3 to 1: h = [1, 0.75, 1.25] / 3; slope of H: log(h[1] / h[2]) / (3 * 1)
    _, gradient = slope(WeightEntropy(1.0, maximize=False, bins=3), [-1.0, 0.25, 1.0])
    assert gradient[1] == pytest.approx(np.log(0.75 / 1.25) / 3, rel=1e-5)


def test_weight_entropy_knows_no_scale_and_no_masked_weights():
    w = np.random.default_rng(0).normal(size=100)
    one = slope(WeightEntropy(1.0), w)[0]
    assert slope(WeightEntropy(1.0), 100 * w)[0] == pytest.approx(one, rel=1e-5)
    value, gradient = slope(WeightEntropy(1.0), np.concatenate([w, np.zeros(500)]))
    assert value == pytest.approx(one, rel=1e-5) and not gradient[100:].any()


@pytest.mark.parametrize("values", [np.zeros(4), np.full(4, 7.0), np.full(4, 1e-30), [3.0], [5.0, 5.000001]])
def test_equal_values_have_no_entropy_and_finite_slopes(values):
    value, gradient = slope(WeightEntropy(1.0), values)
    assert value == pytest.approx(0, abs=1e-4) and np.isfinite(gradient).all()
    value, gradient = slope(lambda a: ActivationEntropy(1.0).penalty(a[:, None]), values)
    assert value == 0 and not gradient.any()  # a dead layer is not torn apart


def descend(function, values, rate, steps=40):
    variable = tf.Variable(np.asarray(values, "float32"))
    for _ in range(steps):
        with tf.GradientTape() as tape:
            value = function(variable)
        variable.assign_sub(rate * tape.gradient(value, variable))
    return variable


@pytest.mark.parametrize("maximize", [True, False])
def test_gradient_descent_moves_the_entropy_of_weights_in_its_direction(maximize):
    w = np.random.default_rng(0).normal(size=200) ** 3
    moved = descend(WeightEntropy(1.0, maximize, bins=8), w, 10).numpy()
    before, after = (slow_entropy(v, np.abs(v).max() * np.linspace(-1, 1.00001, 8)) for v in (w, moved))
    assert after > before + 0.1 if maximize else after < before - 0.1


@pytest.mark.parametrize("minimize", [True, False])
def test_gradient_descent_moves_the_entropy_of_activations_in_its_direction(minimize):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(128, 6)).astype("float32"), rng.normal(size=(6, 3))

    def activations(kernel):
        return tf.nn.relu(x @ tf.cast(kernel, "float32"))

    def measured(kernel):
        a = activations(kernel).numpy()
        return np.mean([slow_entropy(column, np.linspace(0, a.max() + 1e-5, 8)) for column in a.T])

    regularizer = ActivationEntropy(1.0, minimize, bins=8)
    before, after = measured(w), measured(descend(lambda kernel: regularizer.penalty(activations(kernel)), w, 0.5))
    assert after < before - 0.1 if minimize else after > before + 0.1


def test_they_train_in_any_layer_and_come_back_with_the_model(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6, 2)),
            keras.layers.Conv1D(3, 2, kernel_regularizer=WeightPenalty(0.01, 0.01)),
            keras.layers.LSTM(3, recurrent_regularizer=WeightEntropy(0.01)),
            keras.layers.Dense(
                2, kernel_regularizer=HoyerSquare(0.01), activity_regularizer=ActivationEntropy(0.01)
            ),
        ]
    )
    model.compile("adam", "mse")
    x, y = np.ones((8, 6, 2), "float32"), np.zeros((8, 2), "float32")
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))
