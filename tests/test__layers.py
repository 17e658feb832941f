import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune import _layers
from keras_aeprune._validation import InputError


def paths(model):
    return [weight.path for weight in _layers.weights(model)]


def test_equal_names_in_two_sub_models_have_different_paths():
    def part(name, units):
        inputs = keras.Input((units,))
        return keras.Model(inputs, layers.Dense(9 - units, name="hidden")(inputs), name=name)

    encoder, decoder = part("encoder", 6), part("decoder", 3)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, decoder(encoder(inputs)))
    assert paths(model) == ["encoder/hidden/kernel", "decoder/hidden/kernel"]


def test_equal_names_beside_each_other_are_numbered():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.Dense(3, name="x"), layers.Dense(3, name="x")

        def call(self, inputs):
            return self.b(self.a(inputs))

    model = Two()
    model(np.zeros((1, 2)))
    assert paths(model) == ["x/kernel", "x_2/kernel"]


def test_a_shared_layer_is_listed_once():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    model = keras.Model(inputs, shared(shared(inputs)))
    assert paths(model) == ["shared/kernel"]


# One row per layer kind: (layer, input shape without batch, kernels that must be found).
KINDS = [
    (layers.Dense(3), (4,), 1),
    (layers.EinsumDense("ab,bc->ac", 3), (4,), 1),
    (layers.Conv1D(3, 2), (8, 2), 1),
    (layers.Conv2D(3, 2), (8, 8, 2), 1),
    (layers.Conv3D(3, 2), (4, 4, 4, 2), 1),
    (layers.Conv1DTranspose(3, 2), (8, 2), 1),
    (layers.Conv2DTranspose(3, 2), (8, 8, 2), 1),
    (layers.Conv3DTranspose(3, 2), (4, 4, 4, 2), 1),
    (layers.DepthwiseConv1D(2), (8, 2), 1),
    (layers.DepthwiseConv2D(2), (8, 8, 2), 1),
    (layers.SeparableConv1D(3, 2), (8, 2), 2),
    (layers.SeparableConv2D(3, 2), (8, 8, 2), 2),
    (layers.Embedding(7, 3), (5,), 1),
    (layers.SimpleRNN(3), (5, 2), 2),
    (layers.LSTM(3), (5, 2), 2),
    (layers.GRU(3), (5, 2), 2),
    (layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]), (5, 2), 4),
    (layers.ConvLSTM1D(3, 2), (5, 8, 2), 2),
    (layers.ConvLSTM2D(3, 2), (5, 8, 8, 2), 2),
    (layers.Bidirectional(layers.GRU(3)), (5, 2), 4),
    (layers.TimeDistributed(layers.Dense(3)), (5, 2), 1),
    (layers.BatchNormalization(), (4,), 0),
    (layers.LayerNormalization(), (4,), 0),
    (layers.GroupNormalization(2), (4,), 0),
    (layers.PReLU(), (4,), 0),
    (layers.Dropout(0.5), (4,), 0),
    (layers.Flatten(), (4, 2), 0),
    (layers.SpectralNormalization(layers.Dense(3)), (4,), 1),
]


@pytest.mark.parametrize(("layer", "shape", "count"), KINDS, ids=lambda value: getattr(value, "name", ""))
def test_every_layer_kind_shows_its_kernels(layer, shape, count):
    model = keras.Sequential([keras.Input(shape), layer])
    found = _layers.weights(model)
    assert len(found) == count
    assert all(isinstance(weight.variable, keras.Variable) and not weight.reason for weight in found)
    assert all(len(weight.variable.shape) >= 2 for weight in found)


def test_attention_shows_its_four_projections():
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 4, name="mha")(inputs, inputs))
    assert paths(model) == [f"mha/{part}/kernel" for part in ("query", "key", "value", "attention_output")]


class Gain(layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1], 3))

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.gain)


def test_an_unknown_layer_kind_is_listed_with_the_reason_until_it_is_registered():
    class Unknown(Gain):
        pass

    model = keras.Sequential([keras.Input((4,)), Unknown(name="own")])
    [weight] = _layers.weights(model)
    assert weight.path == "own"
    assert "unknown layer kind Unknown" in weight.reason
    _layers.register(Unknown, "gain")
    assert paths(model) == ["own/gain"]


def test_tfmots_protocol_for_own_layers_is_followed():
    class Prunable(Gain):
        def get_prunable_weights(self):
            return [self.gain]

    model = keras.Sequential([keras.Input((4,)), Prunable(name="own")])
    assert paths(model) == ["own/gain"]


def test_a_subclass_of_a_known_kind_is_that_kind():
    class MyDense(layers.Dense):
        pass

    assert paths(keras.Sequential([keras.Input((4,)), MyDense(3, name="mine")])) == ["mine/kernel"]


def test_frozen_and_quantized_kernels_have_a_reason():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(4, name="b")])
    model.layers[0].trainable = False
    model.layers[1].quantize("int8")
    reasons = {weight.path: weight.reason for weight in _layers.weights(model)}
    assert "frozen" in reasons["a/kernel"]
    assert "quantized" in reasons["b/kernel"]


def test_a_model_without_weights_is_refused():
    with pytest.raises(InputError, match="allowed: a built one"):
        _layers.weights(keras.Sequential([layers.Dense(3)]))


def test_only_layer_classes_can_be_registered():
    with pytest.raises(InputError, match=r"allowed: a keras\.layers\.Layer subclass"):
        _layers.register("Dense", "kernel")


@pytest.mark.parametrize(
    ("path", "fitting"),
    [
        ("encoder/code/kernel", {"code", "encoder", "encoder/*", "*"}),
        ("code/kernel", {"code", "*"}),
        ("kernel", {"kernel", "*"}),
        ("a/b/c/recurrent_kernel", {"*", "a/b", "?/b*", "a/b/c/recurrent_kernel"}),
    ],
)
def test_names_paths_and_patterns_fit_layers_and_whole_paths(path, fitting):
    names = ["code", "encoder", "encoder/*", "cod", "kernel", "*", "a/b", "b/c", "?/b*", "a/b/c/recurrent_kernel"]
    assert {name for name in names if _layers.fits(path, name)} == fitting
