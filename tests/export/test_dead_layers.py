"""A layer is dead where it turns something into nothing but zeros, and looking changes nothing."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune.export import TFLiteModel, tflite
from keras_aeprune.export.dead import dead_layers

BELOW = keras.initializers.Constant(-50.0)
X = np.ones((4, 3), "float32")


def test_names_the_layer_where_the_signal_ends_not_those_after_it():
    encoder = keras.Sequential(
        [keras.Input((3,)), kl.Dense(5, name="low", bias_initializer=BELOW), kl.ReLU(name="gate")],
        name="encoder",
    )
    x = keras.Input((3,))
    model = keras.Model(x, kl.Dense(2, use_bias=False, name="after")(encoder(x)))
    assert dead_layers(model, [X]) == ["encoder/gate"]


def test_one_sample_on_which_it_fires_is_enough():
    model = keras.Sequential(
        [keras.Input((1,)), kl.Dense(1, "relu", kernel_initializer="ones", name="gate")], name="model"
    )
    low, high = np.full((2, 1), -1.0, "float32"), np.array([[-1.0], [2.0]], "float32")
    assert dead_layers(model, [low, low]) == ["gate"]
    assert dead_layers(model, [low, high, low]) == []


def test_shared_layer_that_fires_in_one_place_is_alive():
    gate = kl.Dense(3, "relu", kernel_initializer="identity", name="gate")
    x = keras.Input((3,))
    model = keras.Model(x, kl.Add()([gate(x), gate(kl.Rescaling(-1.0)(x))]))
    assert dead_layers(model, [X]) == []


def test_layers_inside_other_layers_are_found():
    model = keras.Sequential(
        [
            keras.Input((2, 3)),
            kl.TimeDistributed(kl.Dense(2, "relu", bias_initializer=BELOW, name="in"), name="out"),
        ]
    )
    assert dead_layers(model, [np.ones((4, 2, 3), "float32")]) == ["out/in"]
    recurrent = keras.Sequential([keras.Input((5, 3)), kl.LSTM(4, unroll=True), kl.Dense(2, "relu", name="gate")])
    recurrent.layers[-1].bias.assign([-50.0, -50.0])
    assert dead_layers(recurrent, [np.ones((4, 5, 3), "float32")]) == ["gate"]


def test_the_model_is_as_it_was_even_when_it_fails():
    model = keras.Sequential([keras.Input((3,)), kl.Dense(2, "relu")])
    before = [sorted(vars(layer)) for layer in model._flatten_layers()]
    dead_layers(model, [X])
    assert [sorted(vars(layer)) for layer in model._flatten_layers()] == before
    with pytest.raises(ValueError, match="incompatible"):
        dead_layers(model, [X[:, :2]])
    assert [sorted(vars(layer)) for layer in model._flatten_layers()] == before


def test_a_compiled_sequential_model_that_was_never_called_loses_its_dead_units_too(tmp_path):
    layers = [keras.layers.Dense(6, "relu", name="hidden"), keras.layers.Dense(3, name="out")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    hidden, out = model.layers
    hidden.kernel.assign(hidden.kernel * np.array([1, 0, 1, 1, 0, 1], "float32"))
    out.kernel.assign(out.kernel * np.array([[1], [0], [1], [1], [0], [1]], "float32"))
    loose = tflite(model, tmp_path / "a.tflite")
    compiled = keras.Sequential([keras.Input((4,)), *layers])
    compiled.compile("adam", "mse")
    found = tflite(compiled, tmp_path / "b.tflite")
    assert found.removed_units == loose.removed_units == 2
    assert abs(found.bytes - loose.bytes) <= 16  # names in it, which Keras counts up
    x = np.random.default_rng(0).random((5, 4), "float32")
    assert np.allclose(TFLiteModel(found.path).predict(x), compiled(x), atol=1e-6)
