"""Layers and cells of the user's own that say which of their weights can be pruned."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops
from small_models import batch, half, steps, train, values, wrappers, zeros

from keras_aeprune.sparsity import PrunableLayer, PruneLowMagnitude, prune_low_magnitude, strip_pruning


class Plain(kl.Layer):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], self.units), initializer="random_normal")
        self.gain = self.add_weight(shape=(self.units,), initializer="ones")

    def call(self, inputs):
        return ops.matmul(inputs, self.matrix) * self.gain

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests_prunable")
class Says(Plain, PrunableLayer):
    def get_prunable_weights(self):
        return [self.matrix] if self.built else []


@keras.saving.register_keras_serializable("tests_prunable")
class SaysBoth(Plain):
    """Without the base class: the method alone is enough."""

    def get_prunable_weights(self):
        return [self.matrix, self.gain] if self.built else []


@keras.saving.register_keras_serializable("tests_prunable")
class FromTheStart(kl.Layer, PrunableLayer):
    """Weights made in the constructor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.matrix = self.add_weight(shape=(6, 4), initializer="random_normal")

    def call(self, inputs):
        return ops.matmul(inputs, self.matrix)

    def get_prunable_weights(self):
        return [self.matrix]


class Cell(kl.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), initializer="random_normal", name="kernel")
        self.back = self.add_weight(shape=(self.units, self.units), initializer="random_normal", name="back")

    def call(self, inputs, states):
        output = ops.matmul(inputs, self.kernel) + ops.matmul(states[0], self.back)
        return output, [output]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests_prunable")
class SaysCell(Cell, PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel, self.back] if self.built else []


def one(layer, shape=(6,)):
    return keras.Sequential([keras.Input(shape), PruneLowMagnitude(layer, half())])


@pytest.mark.parametrize(("kind", "kernels"), [(Says, 1), (SaysBoth, 2), (FromTheStart, 1)])
def test_the_weights_that_it_names_are_pruned_and_others_are_not(kind, kernels):
    model = train(one(kind()))
    assert zeros(model) == [0.5] * kernels
    if kind is Says:
        assert np.all(values(wrappers(model)[0].layer.gain) != 0)


@pytest.mark.parametrize("kind", [Says, SaysBoth, FromTheStart])
def test_models_with_it_are_saved_and_stripped(kind, tmp_path):
    model = train(prune_low_magnitude(keras.Sequential([keras.Input((6,)), kind()]), half()))
    model.save(tmp_path / "m.keras")
    loaded, x = keras.models.load_model(tmp_path / "m.keras"), batch((3, 6))
    assert (zeros(loaded), steps(loaded)) == (zeros(model), [1])
    np.testing.assert_array_equal(loaded(x), model(x))
    np.testing.assert_array_equal(strip_pruning(loaded)(x), model(x))


def test_its_name_is_part_of_the_wrappers_name():
    assert PruneLowMagnitude(Says()).name.startswith("prune_low_magnitude_says")


def test_a_cell_of_ones_own_is_pruned_alone_and_between_others():
    assert zeros(train(one(kl.RNN(SaysCell(4)), (2, 6)))) == [0.5, 0.5]
    mixed = one(kl.RNN([kl.LSTMCell(4), SaysCell(2)]), (2, 6))
    assert zeros(train(mixed)) == [0.5] * 4


@pytest.mark.parametrize("cells", [lambda: Cell(4), lambda: [kl.LSTMCell(4), Cell(2)]])
def test_a_cell_that_says_nothing_is_refused_when_its_weights_show(cells):
    with pytest.raises(ValueError, match="PrunableLayer"):
        one(kl.RNN(cells()), (2, 6))


def test_a_layer_that_says_nothing_is_refused_when_its_weights_show():
    wrapped = PruneLowMagnitude(Plain())
    with pytest.raises(ValueError, match="get_prunable_weights"):
        keras.Sequential([keras.Input((6,)), wrapped])


def test_the_protocol_has_one_method_that_must_be_written():
    class Nothing(PrunableLayer):
        pass

    with pytest.raises(TypeError, match="get_prunable_weights"):
        Nothing()
