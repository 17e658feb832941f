"""What the converter and the interpreter get wrong without a word does not reach a file of ours.

Elsewhere: the route without weights and files too small for them (test_converter_process), two UpSampling2D +
Conv2D stages and inputs matched by name (test_tflite_files), sampling, state and models quantized by Keras
(test_tflite_refusals).
"""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.export.check import ExportedFile, _why
from keras_aeprune.export.dead import has_dead_slices, without_dead_units
from keras_aeprune.export.precisions import PRECISIONS
from keras_aeprune.export.request import request
from keras_aeprune.export.signatures import signatures_of
from keras_aeprune.export.tflite import tflite
from keras_aeprune.export.verify import TFLiteModel


def one(model, data=None):
    (signature,) = signatures_of(model, None, data, seed=0, batch=1)
    return signature


def test_float16_in_sparse_blocks_gives_nan_and_is_not_kept(featured):
    """1 x 4 blocks in float16 load and return NaN. If the table says "right" here, it was mended."""
    file = featured["blocks"].files["float16"]
    assert isinstance(file, ExportedFile), file
    (row,) = [row for row in file.candidates if row.name == "float16, sparse"]
    assert "differs" in row.reason and "inf" in row.reason
    assert file.coding == "dense"


@pytest.mark.parametrize("quantize", ["dynamic", "int8", "int8_io", "int16x8"])
def test_sparse_coding_with_8_bits_is_refused_before_anything_is_converted(tmp_path, quantize):
    model = keras.Sequential([keras.Input((4,)), kl.Dense(2)])
    with pytest.raises(InputError, match="does not load under the default delegate"):
        tflite(model, tmp_path / "a.tflite", quantize=quantize, data=np.ones((4, 4)), sparse=True)
    assert not list(tmp_path.iterdir())


def test_sparse_coding_without_zeros_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), kl.Dense(2)])
    with pytest.raises(InputError, match="no larger kernel has more than 2/3 zeros"):
        tflite(model, tmp_path / "a.tflite", sparse=True)


def test_loop_at_int8_is_refused_before_the_converter_could_crash(tmp_path):
    model = keras.Sequential([keras.Input((4, 2)), kl.LSTM(3, name="lstm")])
    with pytest.raises(InputError, match=r"recurrent loop \(lstm\).*crashes the converter"):
        tflite(model, tmp_path / "a.tflite", quantize="int8", data=np.ones((4, 4, 2)), unroll=False)
    endless = keras.Sequential([keras.Input((None, 2)), kl.LSTM(3, name="lstm")])
    with pytest.raises(InputError, match="unknown number of steps"):
        tflite(endless, tmp_path / "a.tflite", quantize="int16x8", data=np.ones((4, 4, 2)))


def test_units_that_do_nothing_are_not_in_the_file(featured):
    """Of 32 hidden units 8 are left, so that 16 x 8 + 8 x 16 numbers remain."""
    file = featured["dead_units"].files[None]
    assert isinstance(file, ExportedFile), file
    assert (file.removed_units, file.removed_from) == (24, ("hidden",))
    assert 4 * 2 * 16 * 8 < file.bytes < 4 * 2 * 16 * 32
    model = featured["dead_units"].model
    x = np.random.default_rng(1).normal(size=(9, 16)).astype("float32")
    np.testing.assert_allclose(TFLiteModel(file.path).predict(x), model(x), atol=1e-5)
    assert model.get_layer("hidden").units == 32


def test_quick_look_finds_zeros_on_every_axis_that_holds_units():
    dense = keras.Sequential([keras.Input((4,)), kl.Dense(3), kl.BatchNormalization()])
    kernel, bias = dense.layers[0].get_weights()
    assert not has_dead_slices(dense)
    for place in ((0, slice(None)), (slice(None), 1)):
        changed = kernel.copy()
        changed[place] = 0
        dense.layers[0].set_weights([changed, bias])
        assert has_dead_slices(dense)
    dense.layers[0].set_weights([kernel, bias])
    dense.layers[1].gamma.assign([1, 0, 1])
    assert has_dead_slices(dense)
    convolution = keras.Sequential([keras.Input((4, 4, 2)), kl.Conv2D(3, 3)])
    kernel, bias = convolution.layers[0].get_weights()
    kernel[:, :, :, 2] = 0
    convolution.layers[0].set_weights([kernel, bias])
    assert has_dead_slices(convolution)


def silent(x):
    """hidden gives only zeros where all inputs are below 9, and fires above."""
    model = keras.Sequential([keras.Input((2,)), kl.Dense(3, "relu", name="hidden"), kl.Dense(1, name="last")])
    model.set_weights([np.ones((2, 3)), np.full(3, -18.0), np.ones((3, 1)), np.array([0.5])])
    return model, np.full((4, 2), x)


def test_layer_that_only_fires_elsewhere_is_cut_for_calibrated_precisions_only():
    model, data = silent(1.0)
    signature = one(model, data)
    assert without_dead_units(signature, with_data=False).model is model
    removal = without_dead_units(signature, with_data=True)
    assert removal.on_data and removal.units == 2
    assert "hidden: units that are constant on the 4 calibration samples" in removal.note
    np.testing.assert_allclose(removal.model(np.float32(data)), model(np.float32(data)))


def test_single_units_that_rest_on_the_data_stay():
    """Of a layer that fires, a unit that happens to rest on a hundred samples may fire on the next one."""
    model, data = silent(1.0)
    model.layers[0].bias.assign([-18, -18, 1])
    assert without_dead_units(one(model, data), with_data=True).model is model


def test_model_that_the_tracer_cannot_follow_is_exported_as_it_is_and_says_so():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = kl.Dense(3, kernel_initializer="zeros")

        def call(self, x):
            return self.dense(np.ones((1, 4), "float32") * x.shape[1]) if isinstance(x, str) else self._odd(x)

        def _odd(self, x):
            if type(x).__name__ == "KerasTensor":
                raise TypeError("tensors with values only")
            return self.dense(x)

    own = Own()
    own(np.ones((1, 4), "float32"))
    removal = without_dead_units(one(own, np.ones((2, 4))), with_data=False)
    assert removal.model is own and removal.units == 0
    assert (
        "dead units were not looked for in 'own': " in removal.note and "tensors with values only" in removal.note
    )


def test_bad_int8_file_names_the_layers_that_are_dead_on_the_data():
    model, data = silent(1.0)
    signature = one(model, data)
    assert "; dead on the 4 calibration samples (only zeros come out): hidden; " in _why(
        signature, PRECISIONS["int8"]
    )
    assert _why(signature, PRECISIONS["float32"]) == ""
    assert _why(one(*silent(20.0)), PRECISIONS["int8"]) == ""


def test_several_inputs_keep_names_and_ranges_whatever_the_structure(tmp_path):
    left, right = keras.Input((2,), name="right"), keras.Input((2,), name="left")
    model = keras.Model({"b": left, "a": right}, kl.Subtract()([left, right]))
    data = {"left": np.zeros((3, 2)), "right": np.ones((3, 2))}
    asked = request(model, {None: tmp_path / "a.tflite"}, data)
    np.testing.assert_array_equal(asked.signatures[0].outputs()["output_0"], np.ones((3, 2)))
