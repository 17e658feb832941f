"""One file answers to the names of the halves, each like its model, and takes the batch it was made for."""

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.export.check import ExportedFile
from keras_aeprune.export.precisions import PRECISIONS
from keras_aeprune.export.request import request
from keras_aeprune.export.verify import TFLiteModel


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_each_part_computes_what_its_model_computes(featured, quantize):
    case = featured["parts"]
    file = case.files[quantize]
    assert isinstance(file, ExportedFile), file
    assert file.signatures == ("encoder", "decoder")
    x = case.data[:20]
    code = np.asarray(case.model.encoder(x))
    row = PRECISIONS[file.quantize]
    for name, given, expected in (("encoder", x, code), ("decoder", code, np.asarray(case.model.decoder(code)))):
        got = TFLiteModel(file.path, signature=name).predict(given)
        assert np.sqrt(np.mean((got - expected) ** 2)) < row.rms_limit / 4 * expected.std(), name


def test_int8_decoder_is_calibrated_with_codes_of_the_encoder(featured):
    """Codes reach far outside [0, 1), the range of the samples: clipped there they could not be decoded."""
    case = featured["parts"]
    code = np.asarray(case.model.encoder(case.data))
    assert code.min() < -0.5
    got = TFLiteModel(case.files["int8"].path, signature="decoder").predict(code)
    expected = np.asarray(case.model.decoder(code))
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()


def test_parts_of_a_whole_share_its_weights(featured):
    """All three hold the weights of the whole once: less than twice the kernels' bytes."""
    case = featured["three_parts"]
    file = case.files[None]
    kernels = 4 * sum(v.size for v in case.model.get_weights() if v.ndim > 1)
    assert file.signatures == ("autoencoder", "encoder", "decoder")
    assert kernels < file.bytes < 1.5 * kernels
    x = case.data[:5]
    whole = TFLiteModel(file.path, signature="autoencoder").predict(x)
    np.testing.assert_allclose(whole, case.model(x), atol=1e-5)


def test_unknown_signature_lists_the_known_ones(featured):
    with pytest.raises(InputError, match="'code', allowed: None, .*encoder"):
        TFLiteModel(featured["parts"].files[None].path, signature="code")
    model = TFLiteModel(featured["batch"].files[None].path, signature="serving_default")
    assert model.signatures == ("serving_default",)


def test_prepared_part_runs(featured):
    model = TFLiteModel(featured["parts"].files[None].path, signature="decoder")
    (name,) = model.input_shapes
    result = model.prepare({name: np.zeros((1, 6))})()
    np.testing.assert_allclose(
        *(list(result.values())), featured["parts"].model.decoder(np.zeros((1, 6))), atol=1e-5
    )


@pytest.mark.parametrize("quantize", [None, "int8_io", "int16x8"])
def test_file_for_a_batch_takes_any_number_of_samples(featured, quantize):
    case = featured["batch"]
    file = case.files[quantize]
    assert isinstance(file, ExportedFile), file
    model = TFLiteModel(file.path)
    assert (file.batch, model.batch, list(model.input_shapes.values())) == (7, 7, [(7, 48)])
    assert file.route == "ExportArchive, batch 7 > SavedModel > TFLiteConverter"
    row = PRECISIONS[file.quantize]
    for count in (1, 7, 20):
        expected = np.asarray(case.model(case.data[:count]))
        got = model.predict(case.data[:count])
        assert got.shape == expected.shape
        assert np.sqrt(np.mean((got - expected) ** 2)) < row.rms_limit / 4 * expected.std()


def test_int8_io_file_takes_and_gives_int8(featured):
    file, plain = featured["batch"].files["int8_io"], featured["int8"].files["int8"]
    assert {str(t) for t in TFLiteModel(file.path).input_dtypes.values()} == {"int8"}
    assert {str(t) for t in TFLiteModel(plain.path).input_dtypes.values()} == {"float32"}
    x = featured["int8"].data[:14]
    np.testing.assert_allclose(TFLiteModel(file.path).predict(x), TFLiteModel(plain.path).predict(x), atol=0.02)


def test_int16_activations_are_closer_than_int8_ones(featured):
    files = featured["batch"].files
    assert files["int16x8"].rms_difference < featured["int8"].files["int8"].rms_difference
    assert {str(t) for t in TFLiteModel(files["int16x8"].path).input_dtypes.values()} == {"float32"}


def ae():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parts": ("encoder",)}, "no layer named 'encoder'|named 'encoder'"),
        ({"parts": ("code",)}, "'code', allowed: encoder, decoder, autoencoder"),
        ({"parts": "encoder"}, "one or more of encoder"),
        ({"parts": ()}, "one or more of encoder"),
        ({"parts": ("encoder", "encoder")}, "each once"),
        ({"batch": 0}, "a whole number >= 1"),
        ({"batch": 2.0}, "a whole number >= 1"),
        ({"sparse": "yes"}, "'auto', True or False"),
        ({"unroll": 1}, "'auto', True or False"),
        ({"metadata": [1]}, "a dict of JSON values"),
    ],
)
def test_options_that_cannot_be_used_are_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        request(ae(), {None: tmp_path / "a.tflite"}, **options)


def test_model_for_a_fixed_batch_takes_that_batch_only(tmp_path):
    x = keras.Input(batch_shape=(4, 3))
    model = keras.Model(x, keras.layers.Dense(2)(x))
    asked = request(model, {None: tmp_path / "a.tflite"}, np.ones((6, 3)), batch=4)
    (signature,) = asked.signatures
    assert [tuple(batch.shape) for batch in signature.batches()] == [(4, 3), (4, 3)]
    assert signature.outputs()["output_0"].shape == (6, 2)
    with pytest.raises(InputError, match="fixed batch of 4 samples, allowed: 2 or None; pass batch=4"):
        request(model, {None: tmp_path / "a.tflite"}, batch=2)


def test_decoder_of_something_else_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.decoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    with pytest.raises(InputError, match="the decoder .* while the encoder gives"):
        request(model, {None: tmp_path / "a.tflite"}, parts=("decoder",))
    model.encoder = keras.Sequential([keras.Input((4, 1)), keras.layers.Dense(2)])
    with pytest.raises(InputError, match="the encoder .* allowed: the same inputs"):
        request(model, {None: tmp_path / "a.tflite"}, parts=("encoder",))
