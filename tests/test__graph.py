import keras
import pytest
from keras import layers as kl

from keras_aeprune._graph import consumers, input_layers, is_graph, operations, output_layers, producers


@pytest.fixture(scope="module")
def diamond():
    inputs = keras.Input((4,), name="in")
    shared = kl.Dense(4, name="shared")
    left, right = kl.ReLU(name="left")(shared(inputs)), kl.ReLU(name="right")(shared(inputs))
    outputs = kl.Add(name="sum")([left, right])
    kl.Dense(2, name="elsewhere")(left)  # of another model
    shared(keras.Input((4,), name="other"))
    return keras.Model(inputs, [outputs, left])


def names(layers):
    return [layer.name for layer in layers]


def test_neighbours_are_those_inside_the_model_each_once(diamond):
    assert names(producers(diamond, diamond.get_layer("sum"))) == ["left", "right"]
    assert names(producers(diamond, diamond.get_layer("shared"))) == ["in"]
    assert sorted(names(consumers(diamond, diamond.get_layer("shared")))) == ["left", "right"]
    assert names(consumers(diamond, diamond.get_layer("left"))) == ["sum"]


def test_ends_and_all_operations(diamond):
    assert names(input_layers(diamond)) == ["in"]
    assert names(output_layers(diamond)) == ["sum", "left"]
    assert sorted(names(operations(diamond))) == ["in", "left", "right", "shared", "sum"]


def test_a_sequential_model_is_a_chain():
    model = keras.Sequential([keras.Input((4,)), kl.Dense(3, name="a"), kl.Dense(2, name="b")])
    assert names(consumers(model, model.layers[0])) == ["b"]
    assert names(producers(model, model.layers[1])) == ["a"]
    assert names(output_layers(model)) == ["b"]


def test_a_layer_inside_two_models_has_neighbours_in_each():
    layer, after = kl.Dense(4, name="a"), kl.Dense(4, name="b")
    one = keras.Sequential([keras.Input((4,)), layer])
    two = keras.Sequential([keras.Input((4,)), layer, after])
    assert consumers(one, layer) == []
    assert consumers(two, layer) == [after]


def test_subclassed_models_are_no_graphs_and_own_functional_ones_are():
    class Own(keras.Model):
        pass

    class OwnFunctional(keras.Model):  # Keras changes a class that it makes functional
        pass

    inputs = keras.Input((4,))
    assert is_graph(OwnFunctional(inputs, kl.Dense(2)(inputs)))
    assert is_graph(keras.Sequential([kl.Dense(2)]))
    assert not is_graph(Own())
    assert not is_graph(kl.Dense(2))
