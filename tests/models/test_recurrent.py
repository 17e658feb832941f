"""Recurrent autoencoders, and unrolled twins of recurrent models of any shape."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import export
from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError, WrongKerasError
from keras_aeprune.models.dense import dense
from keras_aeprune.models.recurrent import recurrent, unrolled


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomized(model):
    """`model` with random biases too, so that no wrong weight goes unnoticed."""
    for number, variable in enumerate(model.weights):
        variable.assign(0.5 * normal(*variable.shape, seed=number))
    return model


def recurrent_layers(model):
    return [layer for _, layer in walk(model) if isinstance(layer, kl.RNN)]


def test_layers_are_mirrored_and_named():
    model = recurrent((20, 3), 8, units=(16, 12), name="own")
    assert [layer.name for layer in model.encoder.layers] == ["sample", "units_1", "units_2", "code"]
    assert [layer.name for layer in model.decoder.layers] == ["code", "repeat", "units_1", "units_2", "output"]
    shapes = [layer.output.shape[1:] for layer in [*model.encoder.layers, *model.decoder.layers]]
    assert shapes == [(20, 3), (20, 16), (12,), (8,), (8,), (20, 8), (20, 12), (20, 16), (20, 3)]
    assert model.encoder.get_layer("code").activation is keras.activations.linear
    assert (model.output_shape, model.name) == ((None, 20, 3), "own")


@pytest.mark.parametrize(
    ("cell", "gates", "biases"), [("lstm", 4, 1), ("gru", 3, 2), ("simple", 1, 1)]
)  # a GRU of Keras has one bias for the input and one for the recurrent part
def test_the_parameters_of_each_cell_by_hand(cell, gates, biases):
    def layer(inputs, units):
        return gates * (inputs * units + units * units + biases * units)

    encoder = layer(2, 5) + (5 * 3 + 3)
    assert recurrent((6, 2), 3, units=(5,), cell=cell).count_params() == encoder + layer(3, 5) + (5 * 2 + 2)
    both_ways = 2 * layer(2, 5) + (10 * 3 + 3) + 2 * layer(3, 5) + (10 * 2 + 2)
    assert recurrent((6, 2), 3, units=(5,), cell=cell, bidirectional=True).count_params() == both_ways


def test_the_outputs_are_those_of_a_numpy_network():
    model = randomized(recurrent((4, 2), 3, units=(5,), cell="simple", output_activation="sigmoid"))
    k1, r1, b1, kc, bc, k2, r2, b2, ko, bo = (np.asarray(v, dtype="float64") for v in model.weights)
    x = normal(7, 4, 2)
    state = np.zeros((7, 5))
    for step in range(4):
        state = np.tanh(x[:, step] @ k1 + state @ r1 + b1)
    code, state, outputs = state @ kc + bc, np.zeros((7, 5)), []
    for _ in range(4):
        state = np.tanh(code @ k2 + state @ r2 + b2)
        outputs.append(1 / (1 + np.exp(-(state @ ko + bo))))
    np.testing.assert_allclose(model(x), np.stack(outputs, axis=1), atol=1e-5)


def test_training_lowers_the_loss():
    keras.utils.set_random_seed(0)
    start = np.random.default_rng(0).random((64, 1, 1)) * 2 * np.pi
    x = np.sin(start + np.arange(8)[:, None] * 0.7).astype("float32")
    model = recurrent((8, 1), 3, units=(16,), cell="gru")
    model.compile(keras.optimizers.Adam(2e-2), "mse")
    losses = model.fit(x, x, epochs=15, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]


def test_a_saved_file_and_its_unrolled_twin_load_in_a_process_without_this_package(tmp_path):
    model = randomized(recurrent((5, 2), 3, units=(4,), bidirectional=True))
    model.save(tmp_path / "m.keras")
    unrolled(model).save(tmp_path / "u.keras")
    x = normal(4, 5, 2)
    np.save(tmp_path / "x.npy", x)
    script = """
        import sys, keras, numpy as np
        x = np.load("x.npy")
        models = [keras.saving.load_model(name) for name in ("m.keras", "u.keras")]
        halves = [m.get_layer("decoder")(m.get_layer("encoder")(x)) for m in models]
        np.save("y.npy", np.stack([*(m(x) for m in models), *halves]))
        sys.exit("keras_aeprune" in sys.modules)
    """
    subprocess.run([sys.executable, "-c", inspect.cleandoc(script)], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), np.stack([model(x)] * 4), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_shape": (20,)}, ("input_shape", "(20,)", "(140, 1)")),
        ({"input_shape": (20, 3, 1)}, ("input_shape", "(20, 3, 1)")),
        ({"input_shape": (None, 3)}, ("input_shape", "None")),
        ({"input_shape": (1, 1), "encoding_dim": 1}, ("input_shape", "2 or more values")),
        ({"encoding_dim": 60}, ("encoding_dim", "60", "<= 59")),
        ({"encoding_dim": 0}, ("encoding_dim", "got 0")),
        ({"encoding_dim": None}, ("encoding_dim", "None")),
        ({"units": ()}, ("units", "()", "1 or more")),
        ({"units": 64}, ("units", "64", "(64, 32)")),
        ({"units": (8, 0)}, ("units", "0")),
        ({"cell": "rnn"}, ("cell", "'rnn'", "lstm, gru, simple")),
        ({"output_activation": "soft"}, ("output_activation", "soft")),
        ({"name": ""}, ("name",)),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(InputError) as error:
        recurrent(**{"input_shape": (20, 3), "encoding_dim": 8, **arguments})
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


class Scaled(kl.Layer):
    """An own layer that is not registered with Keras."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.scale


class OwnCell(kl.SimpleRNNCell):
    """An own cell that is not registered with Keras."""


def sequential():
    return keras.Sequential(
        [keras.Input((5, 3)), kl.GRU(4, return_sequences=True), kl.Dropout(0.5), Scaled(), kl.LSTM(6), kl.Dense(2)]
    )


def bidirectional():
    x = keras.Input((5, 3))
    y = kl.Bidirectional(kl.LSTM(4, return_sequences=True), merge_mode="sum")(x)
    backward = kl.GRU(3, activation="elu", go_backwards=True)
    return keras.Model(x, kl.Bidirectional(kl.GRU(3), backward_layer=backward)(y))


def masked():
    x = keras.Input((5, 3))
    return keras.Model(x, kl.LSTM(4, return_sequences=True)(kl.Masking()(x)))


def wrapped():
    """A model of models for every window of a series of windows, and cells in an RNN layer."""
    inner = keras.Sequential([keras.Input((5, 3)), kl.GRU(4)], name="window")
    windows = keras.Input((2, 5, 3))
    x = kl.TimeDistributed(inner)(windows)
    x = kl.RNN([kl.LSTMCell(4), OwnCell(3)], return_sequences=True)(x + 0.5)
    return keras.Model(windows, kl.TimeDistributed(kl.Bidirectional(kl.SimpleRNN(2)))(kl.Reshape((2, 3, 1))(x)))


def sharing():
    """One LSTM in both halves, which is called twice in the second one."""
    shared = kl.LSTM(3, return_sequences=True, name="shared")
    a, b = keras.Input((5, 3)), keras.Input((5, 3))
    first, second = keras.Model(a, shared(a), name="first"), keras.Model(b, shared(shared(b)), name="second")
    x = keras.Input((5, 3))
    return keras.Model(x, second(first(x)))


def lambdas():
    x = keras.Input((5, 3))
    return keras.Model(x, kl.LSTM(4, dropout=0.5)(kl.Lambda(lambda value: 2 * value, output_shape=(5, 3))(x)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: recurrent((5, 3), 4, units=(6, 5)),
        lambda: recurrent((5, 3), 4, units=(6,), cell="gru", bidirectional=True),
        lambda: recurrent((5, 3), 4, units=(6,), cell="simple"),
        sequential,
        bidirectional,
        masked,
        wrapped,
        sharing,
        lambdas,
    ],
)
def test_the_twin_is_equal_unrolled_and_has_weights_of_its_own(make):
    model = randomized(make())
    x = normal(4, *model.input_shape[1:])
    x[:2, -2:] = 0  # steps that Masking skips
    twin = unrolled(model)
    expected = np.asarray(model(x))
    np.testing.assert_allclose(twin(x), expected, atol=1e-6)
    assert recurrent_layers(twin) and all(layer.unroll for layer in recurrent_layers(twin))
    assert not any(layer.unroll for layer in recurrent_layers(model))
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    assert not {id(v) for v in model.weights} & {id(v) for v in twin.weights}
    for variable in twin.weights:
        variable.assign(variable * 0 + 0.1)
    np.testing.assert_array_equal(model(x), expected)
    assert np.abs(twin(x) - expected).max() > 1e-3


def test_the_twin_has_the_halves_with_its_own_weights():
    model = randomized(recurrent((5, 2), 3, units=(4,)))
    twin, x = unrolled(model), normal(3, 5, 2)
    assert twin.encoder is twin.get_layer("encoder") and twin.decoder is twin.get_layer("decoder")
    np.testing.assert_allclose(twin.encoder(x), model.encoder(x), atol=1e-6)
    np.testing.assert_allclose(twin.decoder(twin.encoder(x)), model(x), atol=1e-6)
    assert twin.encoder.weights[0] is twin.weights[0]


def test_halves_of_other_names_are_found_by_their_attributes():
    half = keras.Sequential([keras.Input((4, 2)), kl.LSTM(3)], name="first")
    x = keras.Input((4, 2))
    model = keras.Model(x, kl.Dense(2)(half(x)))
    assert not hasattr(unrolled(model), "encoder")
    model.encoder = half
    twin = unrolled(model)
    assert twin.encoder is twin.get_layer("first")
    assert not hasattr(twin, "decoder")


def test_a_compiled_model_with_a_loss_of_its_own_gives_an_uncompiled_twin():
    model = recurrent((4, 2), 3, units=(4,))
    model.compile("adam", lambda true, predicted: keras.ops.mean(keras.ops.abs(true - predicted)))
    model.fit(normal(8, 4, 2), normal(8, 4, 2), epochs=1, verbose=0)
    twin = unrolled(model)
    assert model.compiled and not twin.compiled
    np.testing.assert_allclose(twin(normal(3, 4, 2)), model(normal(3, 4, 2)), atol=1e-6)


def test_a_model_without_recurrent_layers_is_copied():
    model = dense((6,), 2)
    np.testing.assert_array_equal(unrolled(model)(normal(3, 6)), model(normal(3, 6)))


def test_the_twin_becomes_an_int8_file_where_the_rolled_model_is_refused(tmp_path):
    model = recurrent((6, 2), 4, units=(8,), cell="gru")
    data = normal(100, 6, 2)
    with pytest.raises(InputError, match="unroll"):
        export.tflite(model, tmp_path / "rolled.tflite", quantize="int8", data=data, unroll=False)
    file = export.tflite(unrolled(model), tmp_path / "unrolled.tflite", quantize="int8", data=data)
    assert file.samples_compared == 64 and file.rms_difference < 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["unrolled.tflite"]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.lstm = kl.LSTM(3)

    def call(self, x):
        return self.lstm(x)


class Forgetful(kl.Layer):
    """Its config does not hold its argument."""

    def __init__(self, factor, **settings):
        super().__init__(**settings)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return {"name": self.name}


def nested(*layers, shape=(5, 2)):
    half = keras.Sequential([keras.Input(shape), *layers], name="half")
    x = keras.Input(shape)
    return keras.Model(x, half(x), name="whole")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Subclassed, ("'mine'", "Subclassed", "functional and Sequential")),
        (lambda: keras.Sequential([kl.LSTM(2)]), ("Sequential", "built")),
        (lambda: nested(kl.LSTM(2, name="loop"), shape=(None, 2)), ("'half/loop'", "unknown number of steps")),
        (
            lambda: nested(kl.Bidirectional(kl.GRU(2), name="both"), shape=(None, 2)),
            ("'half/both'", "unknown number of steps"),
        ),
        (
            lambda: nested(kl.TimeDistributed(kl.GRU(2), name="each"), shape=(3, None, 2)),
            ("'half/each'", "unknown number of steps"),
        ),
        (
            lambda: keras.Sequential([keras.Input((5, 2), batch_size=1), kl.LSTM(2, stateful=True, name="keeps")]),
            ("'keeps'", "stateful"),
        ),
        (
            lambda: nested(kl.ConvLSTM1D(2, 3, name="images"), shape=(4, 6, 1)),
            ("'half/images'", "ConvLSTM1D", "(steps, features)"),
        ),
        (lambda: nested(Forgetful(2.0), kl.LSTM(2)), ("'whole'", "rebuilt from its config", "factor")),
    ],
)
def test_what_cannot_be_unrolled_is_refused_in_one_line(make, words):
    with pytest.raises(InputError) as error:
        unrolled(make())
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


def test_what_is_no_model_is_refused():
    with pytest.raises(WrongKerasError, match="model"):
        unrolled("model.keras")
