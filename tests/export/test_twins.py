"""Recurrent layers are unrolled where the precision needs it or it pays, and a loop that stays is explained."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.export.check import ExportedFile
from keras_aeprune.export.precisions import PRECISIONS
from keras_aeprune.export.twins import twin, ways
from keras_aeprune.export.verify import TFLiteModel

FLOAT, INT8 = PRECISIONS["float32"], PRECISIONS["int8"]


def model(*layers, shape=(4, 2)):
    return keras.Sequential([keras.Input(shape), *layers])


def operations(path):
    return {operation["op_name"] for operation in Interpreter(model_path=str(path))._get_ops_details()}


def test_loops_in_nested_models_and_both_directions_are_gone_from_the_file(featured):
    for quantize in (None, "int8"):
        file = featured["unrolled"].files[quantize]
        assert isinstance(file, ExportedFile), file
        assert file.unrolled and not file.notes
        assert "WHILE" not in operations(file.path)
    rolled = featured["rolled"].files[None]
    assert "WHILE" in operations(rolled.path) and not rolled.unrolled
    assert "WHILE" in operations(featured["many_steps"].files[None].path)


def test_unrolled_and_rolled_file_compute_the_same(featured):
    case = featured["unrolled"]
    x = case.data[:20]
    expected = np.asarray(case.model(x))
    rolled = featured["rolled"].files[None].path
    np.testing.assert_allclose(TFLiteModel(case.files[None].path).predict(x), expected, atol=1e-6)
    np.testing.assert_allclose(TFLiteModel(rolled).predict(x), expected, atol=1e-6)


def test_many_steps_keep_their_loop_and_the_file_says_so(featured):
    file = featured["many_steps"].files[None]
    assert not file.unrolled
    assert file.notes == ("not unrolled: both: 65 steps, more than 64",)


@pytest.mark.parametrize("kind", [kl.LSTM, kl.GRU, kl.SimpleRNN])
def test_twin_is_equal_and_the_model_stays_as_it_was(kind):
    wrapped = kl.Bidirectional(kind(3, return_sequences=True, name="inner"), name="both")
    given = model(model(wrapped, kind(5, name="last")), kl.Dense(2))
    copy = twin(given)
    x = np.random.default_rng(0).normal(size=(6, 4, 2)).astype("float32")
    np.testing.assert_allclose(copy(x), given(x), atol=1e-6)
    assert not any(layer.unroll for layer in given._flatten_layers() if isinstance(layer, kl.RNN))
    assert all(layer.unroll for layer in copy._flatten_layers() if isinstance(layer, kl.RNN))


def test_model_without_a_loop_is_itself():
    for given in (model(kl.Dense(2)), model(kl.GRU(3, unroll=True))):
        assert twin(given) is given
        assert ways([given], INT8, "auto") == ways([given], FLOAT, True) == ((False,), "")


def test_what_is_asked_decides():
    short = model(kl.GRU(3, name="gru"))
    assert (
        ways([short], FLOAT, "auto") == ways([short], INT8, "auto") == ways([short], FLOAT, True) == ((True,), "")
    )
    assert ways([short], FLOAT, False) == ((False,), "")
    assert ways([short], FLOAT, "auto", both=True) == ((False, True), "")
    with pytest.raises(InputError, match=r"recurrent loop \(gru\).*unroll='auto'"):
        ways([short], INT8, False)


def test_reason_why_a_loop_stays():
    open_ended = model(kl.GRU(3, name="gru"), shape=(None, 2))
    assert ways([open_ended], FLOAT, "auto") == ((False,), "not unrolled: gru: unknown number of steps")
    images = model(kl.ConvLSTM1D(2, 3, name="images"), shape=(4, 8, 1))
    assert ways([images], FLOAT, "auto") == ((False,), "not unrolled: images: a ConvLSTM1D")
    inside = model(kl.TimeDistributed(kl.GRU(3, name="gru")), shape=(3, 65, 2))
    assert "65 steps" in ways([inside], FLOAT, "auto")[1]

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.gru = kl.GRU(2)

        def call(self, x):
            return self.gru(x)

    own = Own()
    own(np.ones((1, 3, 2), "float32"))
    assert ways([own], FLOAT, "auto") == (
        (False,),
        "not unrolled: own: subclassed, the order of its layers is not known",
    )


def test_unknown_number_of_steps_is_refused_with_the_cure():
    with pytest.raises(
        InputError, match=r"'gru' gets an unknown number of steps.*keras.Input\(\(steps, features\)\)"
    ):
        twin(model(kl.GRU(3, name="gru"), shape=(None, 2)))
