"""Sparse autoencoders: the penalty is where it belongs, and codes get sparse."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_aeprune._validation import InputError
from keras_aeprune.models import load
from keras_aeprune.models.sparse import sparse


def digits(count=800):
    return (load_digits().data[:count] / 16).astype("float32")


@pytest.mark.parametrize(("penalty", "activation"), [("l1", "relu"), ("kl", "sigmoid")])
def test_layers_activations_and_widths(penalty, activation):
    model = sparse(
        (4, 4), 50, penalty=penalty, hidden_units=(12, 9), activation="tanh", output_activation="linear"
    )
    assert [layer.name for layer in model.encoder.layers] == ["sample", "flatten", "hidden_1", "hidden_2", "code"]
    assert [layer.name for layer in model.decoder.layers] == ["code", "hidden_1", "hidden_2", "output", "reshape"]
    assert [layer.units for layer in model.encoder.layers[2:]] == [12, 9, 50]
    assert [layer.units for layer in model.decoder.layers[1:4]] == [9, 12, 16]
    assert model.encoder.get_layer("code").activation is getattr(keras.activations, activation)
    assert model.encoder.get_layer("hidden_1").activation is keras.activations.tanh
    assert model.decoder.get_layer("output").activation is keras.activations.linear
    penalized = [layer.name for layer in model.encoder.layers if layer.activity_regularizer is not None]
    assert penalized == ["code"]
    assert model.output_shape == (None, 4, 4)


@pytest.mark.parametrize(
    ("penalty", "formula"),
    [
        ("l1", lambda a: 0.01 * np.abs(a).sum(axis=1).mean()),
        (
            "kl",
            lambda a: 0.01 * sum(0.2 * np.log(0.2 / m) + 0.8 * np.log(0.8 / (1 - m)) for m in a.mean(axis=0)),
        ),
    ],
)
def test_the_loss_is_the_error_plus_the_penalty_and_the_metric_is_the_error(penalty, formula):
    x = digits(40)
    model = sparse((64,), 100, penalty=penalty, rate=0.01, target=0.2)
    model.compile("adam", "mse", metrics=["mse"])
    logs = model.evaluate(x, x, batch_size=40, verbose=0, return_dict=True)
    code, y = np.asarray(model.encoder(x)), np.asarray(model(x))
    error = float(np.mean((x - y) ** 2))
    assert logs["mse"] == pytest.approx(error, rel=1e-4)
    assert logs["loss"] == pytest.approx(error + float(formula(code)), rel=1e-4)


def test_the_l1_penalty_makes_codes_sparse():
    x, silent = digits(), {}
    for rate in (1e-6, 3e-3):
        keras.utils.set_random_seed(0)
        model = sparse((64,), 100, rate=rate)
        model.compile(keras.optimizers.Adam(3e-3), "mse")
        model.fit(x, x, epochs=10, batch_size=64, verbose=0)
        silent[rate] = float(np.mean(np.asarray(model.encoder(x)) == 0))
    assert silent[3e-3] > 0.85 > 0.7 > silent[1e-6]


def test_the_kl_penalty_brings_mean_activations_to_the_target():
    x, distance = digits(), {}
    for rate in (1e-6, 1e-2):
        keras.utils.set_random_seed(0)
        model = sparse((64,), 80, penalty="kl", rate=rate, target=0.1)
        model.compile(keras.optimizers.Adam(1e-2), "mse")
        model.fit(x, x, epochs=10, batch_size=100, verbose=0)
        distance[rate] = float(np.abs(np.asarray(model.encoder(x)).mean(axis=0) - 0.1).mean())
    assert distance[1e-2] < 0.02
    assert distance[1e-6] > 0.1


@pytest.mark.parametrize("penalty", ["l1", "kl"])
def test_a_saved_file_keeps_the_penalty(penalty, tmp_path):
    model = sparse((6,), 9, penalty=penalty, rate=0.5, target=0.3)
    model.compile("adam", "mse")
    x = np.random.default_rng(0).random((16, 6)).astype("float32")
    model.save(tmp_path / "m.keras")
    again = load(tmp_path / "m.keras")
    assert again.evaluate(x, x, verbose=0) == pytest.approx(model.evaluate(x, x, verbose=0), rel=1e-5)
    penalties = [part.get_layer("encoder").get_layer("code").activity_regularizer for part in (model, again)]
    assert type(penalties[0]) is type(penalties[1])
    assert penalties[0].get_config() == penalties[1].get_config()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"penalty": "l2"}, ("penalty", "l1, kl")),
        ({"rate": 0}, ("rate", "> 0")),
        ({"target": 1.0, "penalty": "kl"}, ("target", "< 1")),
        ({"encoding_dim": 0}, ("encoding_dim", ">= 1")),
        ({"input_shape": (None,)}, ("input_shape",)),
        ({"hidden_units": None}, ("hidden_units", "()")),
        ({"activation": "none"}, ("activation", "relu")),
        ({"output_activation": 3}, ("output_activation", "3")),
        ({"name": ""}, ("name",)),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(InputError) as error:
        sparse(**{"input_shape": (64,), "encoding_dim": 70, **arguments})
    text = str(error.value)
    assert "\n" not in text and "allowed" in text
    for word in words:
        assert word in text, text
