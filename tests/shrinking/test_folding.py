"""Alphas: the formula, what training does to them, and the way back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.shrinking.folding import FoldableActivation, alphas, fold, prepare
from keras_aeprune.shrinking.simplifying import activations, replaced
from keras_aeprune.shrinking.tracing import trace

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")


def same(model, other, x=X, atol=1e-6):
    np.testing.assert_allclose(model(x), other(x), rtol=0, atol=atol)


def net():
    return keras.Sequential(
        [
            keras.Input((6,)),
            kl.Dense(5, "relu", name="a"),
            kl.Dense(5, name="b"),
            kl.LeakyReLU(0.3, name="c"),
            kl.Dense(4, "tanh", name="d"),
            kl.Dense(2, "sigmoid", name="e"),
        ]
    )


def test_output_and_penalty_are_those_worked_by_hand():
    layer = FoldableActivation("relu", rate=0.5)
    layer.alpha.assign(0.25)
    np.testing.assert_allclose(layer(np.array([[-4.0, 2.0]])), [[-1.0, 2.0]])  # 0.25 * -4 + 0.75 * 0
    np.testing.assert_allclose(layer.losses, [0.46875])  # 0.5 * (1 - 0.0625)
    layer.alpha.assign(2.0)
    np.testing.assert_allclose(layer.losses, [1.5])  # 0.5 * |1 - 4|


def test_gradient_of_alpha_is_what_the_activation_takes_away():
    layer = FoldableActivation("relu", rate=0.5)
    layer.alpha.assign(0.25)
    x = tf.constant([[-4.0, 2.0, -1.0]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(x)) + layer.losses[0]
    # sum of x - relu(x) = -5; of the penalty 0.5 * -2 * 0.25
    np.testing.assert_allclose(tape.gradient(total, layer.alpha.value), -5.25)


def test_penalty_counts_once_for_a_layer_that_is_used_twice():
    layer, inputs = FoldableActivation("tanh", rate=0.5), keras.Input((6,))
    model = keras.Model(inputs, layer(layer(inputs)))
    assert [float(loss) for loss in model.losses] == [0.5]


def test_a_prepared_model_gives_what_the_given_one_gives():
    model = net()
    before = model.get_weights()
    new = prepare(model)
    same(model, new, atol=0)
    assert type(new) is keras.Sequential
    assert alphas(new) == {"a": 0.0, "c": 0.0, "d": 0.0}  # not the output
    assert activations(model) == {"a": "relu", "b": "linear", "c": "leaky_relu", "d": "tanh", "e": "sigmoid"}
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_folding_alphas_of_one_is_replacing_by_linear():
    model = net()
    prepared = prepare(model)
    for layer in (prepared.get_layer("a").activation, prepared.get_layer("c")):
        layer.alpha.assign(1.0)
    folded = fold(prepared)
    same(folded, replaced(model, {"a": "linear", "c": "linear"}))
    same(folded, prepared)
    assert [layer.name for layer in folded.layers] == ["a", "b", "d", "e"]


def test_alphas_below_the_threshold_give_the_activation_back():
    prepared = prepare(net())
    prepared.get_layer("a").activation.alpha.assign(0.5)
    prepared.get_layer("c").alpha.assign(0.5)
    assert activations(fold(prepared))["a"] == "relu"
    back = fold(prepared).get_layer("c")
    assert type(back) is kl.LeakyReLU and back.negative_slope == 0.3
    assert activations(fold(prepared, 0.5)) == {"a": "linear", "b": "linear", "d": "tanh", "e": "sigmoid"}


def test_nested_autoencoder_keeps_its_halves_and_its_output():
    model = models.dense((6,), 2, hidden_units=(4,), output_activation="sigmoid")
    new = prepare(model)
    assert set(alphas(new)) == {"encoder/hidden_1", "decoder/hidden_1"}
    same(model, new, atol=0)
    np.testing.assert_allclose(new.decoder(new.encoder(X)), model(X), atol=1e-6)
    same(fold(new), model, atol=0)


def test_a_prepared_model_is_saved_loaded_and_traced(tmp_path):
    model = prepare(net())
    model.get_layer("a").activation.alpha.assign(0.4)
    model.get_layer("c").alpha.assign(0.7)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert alphas(loaded) == pytest.approx({"a": 0.4, "c": 0.7, "d": 0.0})
    same(model, loaded)
    assert [group.reason for group in trace(model).groups] == ["", "", "", "output of the model"]


@pytest.mark.parametrize("cell", [kl.GRU, kl.LSTM])
def test_recurrent_layers_are_refused_by_name_and_passed_over(cell):
    model = keras.Sequential(
        [
            keras.Input((5, 6)),
            cell(3, return_sequences=True, name="r"),
            kl.TimeDistributed(kl.Dense(2, "gelu", name="in"), name="steps"),
            kl.Dense(2),
        ]
    )
    new = prepare(model)
    assert alphas(new) == {"steps/in": 0.0}
    same(model, new, np.repeat(X[:, None], 5, 1))
    with pytest.raises(InputError, match="recurrent"):
        prepare(model, "r")


def test_what_cannot_be_folded_is_refused():
    with pytest.raises(InputError, match="is linear"):
        prepare(net(), "b")
    with pytest.raises(InputError, match="allowed: what fits one of: a, b, c, d, e"):
        prepare(net(), "z")
    with pytest.raises(InputError, match="prepared already"):
        prepare(prepare(net()), "a")
    with pytest.raises(InputError, match="rate"):
        prepare(net(), rate=0)
    with pytest.raises(InputError, match=r"without a FoldableActivation"):
        fold(net())
    with pytest.raises(InputError, match="threshold"):
        fold(prepare(net()), 0)
    with pytest.raises(InputError, match="without an activation that can be folded"):
        prepare(keras.Sequential([keras.Input((2,)), kl.Dense(2, "relu")]))


def test_alpha_stays_at_zero_or_above_in_training():
    layer = FoldableActivation("relu")
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x = np.full((8, 1), -1.0, "float32")  # y = -alpha, target 1: the gradient pulls alpha below 0
    model.fit(x, -x, epochs=2, verbose=0)
    assert float(layer.alpha) == 0.0


def test_training_on_digits_folds_activations_and_keeps_the_accuracy():
    sklearn = pytest.importorskip("sklearn.datasets")
    x, y = sklearn.load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((64,)), *(kl.Dense(48, "relu", name=f"h{n}") for n in range(3)), kl.Dense(10, name="out")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x[:1400], y[:1400], epochs=6, batch_size=64, verbose=0)
    dense = np.mean(np.argmax(model(x[1400:]), -1) == y[1400:])
    prepared = prepare(model)
    prepared.fit(x[:1400], y[:1400], epochs=15, batch_size=64, verbose=0)
    found = alphas(prepared)
    folded = fold(prepared)
    straight = [path for path, name in activations(folded).items() if name == "linear"]
    assert straight == [*(path for path, alpha in found.items() if alpha >= 0.9), "out"]
    assert len(straight) > 1
    folded.fit(x[:1400], y[:1400], epochs=2, batch_size=64, verbose=0)
    assert np.mean(np.argmax(folded(x[1400:]), -1) == y[1400:]) > dense - 0.04
