"""The halves are found by attribute or by layer name, and share the model's weights."""

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError, WrongKerasError
from keras_aeprune.models import decoder_of, dense, encoder_of
from keras_aeprune.models.halves import code_of


def test_halves_of_a_loaded_model_are_its_layers(tmp_path):
    dense((9,), 3).save(tmp_path / "m.keras")
    model = keras.saving.load_model(tmp_path / "m.keras")
    assert not hasattr(model, "encoder")
    assert encoder_of(model) is model.get_layer("encoder")
    x = np.random.default_rng(0).random((5, 9), dtype="float32")
    np.testing.assert_allclose(decoder_of(model)(encoder_of(model)(x)), model(x), atol=1e-6)


def test_attributes_of_a_subclassed_model_are_found():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = keras.layers.Dense(2, name="first")
            self.decoder = keras.layers.Dense(4, name="second")

        def call(self, x):
            return self.decoder(self.encoder(x))

    model = Own()
    assert encoder_of(model) is model.encoder
    assert decoder_of(model) is model.decoder


def test_a_model_without_halves_is_refused_with_what_was_looked_for():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="only")], name="mine")
    with pytest.raises(InputError, match=r"'mine' has no attribute and no layer named 'encoder' \(layers: only\)"):
        encoder_of(model)
    with pytest.raises(InputError, match="'decoder'"):
        decoder_of(model)


def test_what_is_no_keras_model_is_refused():
    with pytest.raises(WrongKerasError, match="allowed"):
        encoder_of("model.keras")


def test_the_code_is_found_in_whatever_an_encoder_returns():
    code, feature = np.ones((2, 3)), np.zeros((2, 5))
    for output in (code, [code, feature], (code,), {"feature": feature, "code": code}):
        assert code_of(output) is code


@pytest.mark.parametrize("output", [[], (), {}, {"z": np.ones(2)}, None, [[np.ones(2)]], [None], {"code": {}}])
def test_an_output_without_a_code_is_refused_in_one_line(output):
    with pytest.raises(InputError, match="encoder output: .*allowed") as error:
        code_of(output)
    assert "\n" not in str(error.value)
