"""The front door builds every kind from data, compiled, and says what it chose."""

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.datasets import load, windows
from keras_aeprune.models.front import KINDS, autoencoder

RNG = np.random.default_rng(0)
PIXELS = RNG.random((40, 8, 8, 1), dtype="float32")
WAVES = RNG.normal(size=(40, 12, 2)).astype("float32")
OPTIONS = {
    "dense": {"hidden_units": (16,)},
    "convolutional": {"filters": (4,)},
    "recurrent": {"units": (6,)},
    "variational": {"hidden_units": (16,)},
    "denoising": {"hidden_units": (16,), "noise": 0.1},
    "sparse": {"rate": 1e-3},
    "stacked": {"hidden_units": (16,), "tied": True},
}


def test_every_kind_has_options_to_be_tested_with():
    assert OPTIONS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_compiled_with_halves_and_trains_on_its_own_data(kind):
    x = WAVES if kind == "recurrent" else PIXELS
    ae = autoencoder(kind, x, 4, verbose=False, **OPTIONS[kind])
    assert ae.output_shape[1:] == x.shape[1:]
    assert ae.encoder.output_shape == (None, 4)
    assert ae.decoder.input_shape == (None, 4)
    first, second = ae.fit(x, x, epochs=2, verbose=0).history["loss"]
    assert np.isfinite([first, second]).all()


def test_the_choice_is_printed_in_one_line_and_only_then(capsys):
    autoencoder("dense", WAVES, 4)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert "24 values -> 4 -> 24" in line
    assert "output activation linear, loss mse" in line
    autoencoder("dense", WAVES, 4, verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("kind", "x", "loss", "activation"),
    [
        ("dense", PIXELS, "mse", "sigmoid"),
        ("dense", np.round(PIXELS), "binary_crossentropy", "sigmoid"),
        ("variational", PIXELS, "binary_crossentropy", "sigmoid"),
        ("variational", WAVES, "mse", "linear"),
    ],
)
def test_output_and_loss_follow_the_data(kind, x, loss, activation):
    ae = autoencoder(kind, x, 3, verbose=False)
    assert ae.loss == loss
    output = next(layer for layer in ae.decoder.layers if layer.name == "output")
    assert output.activation is keras.activations.get(activation)


def test_an_activation_that_was_asked_for_wins_and_the_line_says_so(capsys):
    ae = autoencoder("dense", PIXELS, 4, output_activation="linear", loss="huber")
    assert ae.decoder.get_layer("output").activation is keras.activations.linear
    assert ae.loss == "huber"
    assert "the activation was asked for" in capsys.readouterr().out


def test_widths_that_were_not_given_come_from_the_data():
    assert autoencoder("dense", PIXELS, verbose=False).encoder.output_shape == (None, 8)
    assert autoencoder("convolutional", PIXELS, filters=(8, 4), verbose=False).encoder.output_shape == (
        None,
        2,
        2,
        4,
    )
    conv = autoencoder("denoising", PIXELS, base="convolutional", filters=(3,), clip=(0, 1), verbose=False)
    assert conv.encoder.output_shape == (None, 4, 4, 3)


def test_data_sets_and_windows_are_taken_as_they_are():
    digits, waves = load("digits"), windows(WAVES, length=6, split="recording")
    assert autoencoder("convolutional", waves, 4, verbose=False).input_shape == (None, 6, 2)
    assert autoencoder("dense", digits, 4, verbose=False).output_shape == (None, 8, 8)


def test_unknown_kinds_options_and_data_are_refused_with_what_is_allowed():
    with pytest.raises(InputError, match="kind: got 'transformer', allowed: dense, convolutional, recurrent"):
        autoencoder("transformer", PIXELS)
    with pytest.raises(InputError, match="options: .*'hidden'; see models.dense"):
        autoencoder("dense", PIXELS, 4, hidden=3)
    with pytest.raises(InputError, match=r"data: .*samples of shape \(n, ...\)"):
        autoencoder("dense", np.zeros(5))
    with pytest.raises(InputError, match="loss: got 'binary_crossentropy'"):
        autoencoder("dense", WAVES, loss="binary_crossentropy")
