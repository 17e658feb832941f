"""A merged model has fewer layers and weights, and the outputs of the given one."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.models.composed import Autoencoder
from keras_aeprune.shrinking.merging import merge, mergeable


def filled(model, seed=0):
    """The model with drawn weights, biases and statistics too."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        values = rng.normal(size=variable.shape) * 0.4
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def sequential(shape, *layers):
    return filled(keras.Sequential([keras.Input(shape), *layers]))


def samples(model, n=5):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(n, *(d or 6 for d in t.shape[1:]))).astype("float32") for t in model.inputs]


def difference(model, other):
    """Largest difference of outputs, as a fraction of the largest output."""
    x = samples(model)
    x = x if len(x) > 1 else x[0]
    before, after = (keras.tree.flatten(m(x)) for m in (model, other))
    return max(
        float(np.abs(a - b).max() / np.abs(a).max())
        for a, b in zip(map(np.asarray, before), map(np.asarray, after), strict=True)
    )


def names(model):
    return [layer.name for layer in model.layers if not isinstance(layer, kl.InputLayer)]


def reasons(model, **options):
    return {(pair.path, pair.into): pair.reason for pair in mergeable(model, **options) if pair.reason}


def test_two_dense_layers_are_one_with_the_weights_worked_by_hand():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(2), kl.Dense(1, name="second")])
    values = [[[1.0, -1.0]], [0.5, 1.0], [[2.0], [-1.0]], [-1.5]]
    model.set_weights([np.array(value) for value in values])
    merged = merge(model)
    assert names(merged) == ["second"]
    kernel, bias = merged.get_weights()
    assert kernel.tolist() == [[3.0]] and bias.tolist() == [-1.5]


MERGED = {
    "dense chain": ((5,), [kl.Dense(9), kl.Dense(7), kl.Dense(3, "tanh")], 1),
    "dense over steps": ((4, 5), [kl.Dense(9), kl.Dense(3, use_bias=False)], 1),
    "normalization behind dense": ((5,), [kl.Dense(4), kl.BatchNormalization(), kl.Activation("relu")], 2),
    "normalization behind dense without bias": (
        (5,),
        [kl.Dense(4, use_bias=False), kl.BatchNormalization(scale=False)],
        1,
    ),
    "normalization before dense": ((5,), [kl.BatchNormalization(center=False), kl.Dense(4)], 1),
    "normalization on both sides": ((5,), [kl.BatchNormalization(), kl.Dense(9), kl.BatchNormalization()], 1),
    "normalization behind convolution": ((7, 7, 2), [kl.Conv2D(3, 3, strides=2), kl.BatchNormalization()], 1),
    "normalization behind groups": ((7, 7, 4), [kl.Conv2D(6, 3, groups=2), kl.BatchNormalization()], 1),
    "normalization behind transposed": (
        (5, 5, 2),
        [kl.Conv2DTranspose(3, 3, strides=2, padding="same"), kl.BatchNormalization()],
        1,
    ),
    "normalization behind depthwise": (
        (7, 7, 2),
        [kl.DepthwiseConv2D(3, depth_multiplier=3), kl.BatchNormalization()],
        1,
    ),
    "normalization behind separable": ((9, 3), [kl.SeparableConv1D(4, 3), kl.BatchNormalization()], 1),
    "normalization before valid": ((7, 7, 2), [kl.BatchNormalization(), kl.Conv2D(3, 3)], 1),
    "1x1 before valid": ((7, 7, 2), [kl.Conv2D(8, 1), kl.Conv2D(3, 3, strides=2)], 1),
    "1x1 without bias before same": (
        (7, 7, 2),
        [kl.Conv2D(8, 1, use_bias=False), kl.Conv2D(3, 3, padding="same")],
        1,
    ),
    "1x1 without bias before causal": (
        (7, 2),
        [kl.Conv1D(8, 1, use_bias=False), kl.Conv1D(3, 3, padding="causal", dilation_rate=2)],
        1,
    ),
    "1x1 without bias before transposed": (
        (5, 5, 2),
        [kl.Conv2D(8, 1, use_bias=False), kl.Conv2DTranspose(3, 3, strides=2)],
        1,
    ),
    "1x1 behind same": ((7, 7, 3), [kl.Conv2D(9, 3, strides=2, padding="same"), kl.Conv2D(2, 1)], 1),
    "1x1 behind transposed": (
        (5, 3),
        [kl.Conv1DTranspose(9, 3, strides=2), kl.Conv1D(2, 1, activation="relu")],
        1,
    ),
    "1x1 behind separable": ((7, 7, 3), [kl.SeparableConv2D(9, 3, padding="same"), kl.Conv2D(2, 1)], 1),
    "1x1 chain": ((4, 4, 3), [kl.Conv2D(9, 1), kl.Conv2D(8, 1), kl.Conv2D(2, 1)], 1),
    "dense behind convolution": ((7, 7, 3), [kl.Conv2D(9, 3), kl.Dense(2, "tanh")], 1),
    "dense before convolution": ((7, 7, 3), [kl.Dense(9), kl.Conv2D(2, 3)], 1),
    "dense and normalization in a row": (
        (5,),
        [kl.Dense(9), kl.BatchNormalization(), kl.Activation("linear"), kl.Identity(), kl.Dense(3), kl.ReLU()],
        2,
    ),
}


@pytest.mark.parametrize("name", MERGED)
def test_neighbours_become_one_layer_with_the_same_outputs(name):
    shape, layers, left = MERGED[name]
    model = sequential(shape, *(type(layer).from_config(layer.get_config()) for layer in layers))
    merged = merge(model)
    assert type(merged) is keras.Sequential
    assert len(merged.layers) == left and merged.count_params() < model.count_params()
    assert difference(model, merged) < 1e-5
    saved = sum(pair.saves_params for pair in mergeable(model))
    assert model.count_params() - merged.count_params() == saved


KEPT = {
    "relu between": ((5,), [kl.Dense(9, "relu"), kl.Dense(3)], None),
    "narrow middle": ((9,), [kl.Dense(2), kl.Dense(9)], "one layer would have 43 weights more"),
    "1x1 with bias before same": ((7, 7, 2), [kl.Conv2D(8, 1), kl.Conv2D(3, 3, padding="same")], "padding"),
    "normalization before same": (
        (7, 7, 2),
        [kl.BatchNormalization(), kl.Conv2D(3, 3, padding="same")],
        "padding",
    ),
    "normalization before transposed": ((5, 2), [kl.BatchNormalization(), kl.Conv1DTranspose(3, 3)], "padding"),
    "two windows": ((9, 2), [kl.Conv1D(8, 3), kl.Conv1D(3, 3)], "both have windows"),
    "strided 1x1 before a window": ((9, 2), [kl.Conv1D(8, 1, strides=2), kl.Conv1D(3, 3)], "both have windows"),
    "window before a strided 1x1": ((9, 2), [kl.Conv1D(8, 3), kl.Conv1D(3, 1, strides=2)], "both have windows"),
    "depthwise before 1x1": ((9, 2), [kl.DepthwiseConv1D(3), kl.Conv1D(3, 1)], "does not mix channels"),
    "1x1 before groups": ((9, 2), [kl.Conv1D(8, 1), kl.Conv1D(4, 3, groups=2)], "does not mix all channels"),
    "groups before 1x1": ((9, 4), [kl.Conv1D(8, 3, groups=2), kl.Conv1D(4, 1)], "in groups"),
    "other axis": ((4, 5), [kl.Dense(4), kl.BatchNormalization(axis=1)], "different axes"),
    "penalty between": ((5,), [kl.Dense(9, activity_regularizer="l1"), kl.Dense(2)], "penalty"),
    "other precision": ((5,), [kl.Dense(9, dtype="float64"), kl.Dense(2)], "different precisions"),
    "layer norm": ((5,), [kl.Dense(9), kl.LayerNormalization()], None),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_merged_exactly_stays_with_a_reason(name):
    shape, layers, reason = KEPT[name]
    model = sequential(shape, *(type(layer).from_config(layer.get_config()) for layer in layers))
    merged = merge(model)
    assert names(merged) == names(model)
    assert difference(model, merged) == 0
    found = list(reasons(model).values())
    assert found == [] if reason is None else reason in found[0]


def test_a_narrow_middle_is_merged_when_asked_for():
    model = sequential((9,), kl.Dense(2), kl.Dense(9))
    merged = merge(model, only_smaller=False)
    assert len(merged.layers) == 1 and merged.count_params() == 90
    assert difference(model, merged) < 1e-5


def test_a_chain_is_merged_down_to_its_narrowest_middle():
    model = sequential((20,), kl.Dense(15), kl.Dense(3), kl.Dense(15), kl.Dense(20))
    merged = merge(model)
    assert [layer.units for layer in merged.layers] == [3, 20]
    assert difference(model, merged) < 1e-5


def test_the_pair_that_saves_most_is_merged_first():
    model = sequential((10,), *(kl.Dense(units, use_bias=False) for units in (4, 6, 10)))
    merged = merge(model)  # the first two would save 4 of 64 weights, and leave 10 x 6 and 6 x 10, so 10 x 10
    assert merged.count_params() == 80 and difference(model, merged) < 1e-5


def test_the_name_and_activation_of_the_second_stay():
    model = sequential((7, 7, 3), kl.Conv2D(9, 3, name="wide"), kl.Conv2D(2, 1, activation="tanh", name="narrow"))
    (layer,) = merge(model).layers
    assert layer.name == "narrow" and layer.kernel_size == (3, 3) and layer.filters == 2
    assert layer.activation is keras.activations.tanh


def test_what_others_take_too_stays():
    x = keras.Input((4,))
    first = kl.Dense(8, name="first")(x)
    model = filled(keras.Model(x, [kl.Dense(2, name="second")(first), kl.ReLU()(first)]))
    assert reasons(model) == {("first", "second"): "others take what lies between them"}
    assert merge(model).count_params() == model.count_params()


def test_what_is_an_output_stays():
    x = keras.Input((4,))
    first = kl.Dense(8, name="first")(x)
    model = filled(keras.Model(x, [first, kl.Dense(2, name="second")(first)]))
    assert names(merge(model)) == ["first", "second"]


def test_a_layer_that_is_used_twice_stays():
    x, twice = keras.Input((4,)), kl.Dense(4, name="twice")
    model = filled(keras.Model(x, kl.Dense(2, name="end")(twice(twice(x)))))
    assert "several places" in reasons(model)["twice", "end"]
    assert difference(model, merge(model)) == 0


def test_tied_weights_stay():
    model = models.stacked((12,), 3, hidden_units=(8,), tied=True, activation="linear")
    merged = merge(filled(model))
    assert difference(model, merged) < 1e-6
    assert "shares weights" in reasons(model)["encoder/hidden_1", "encoder/code"]


def test_normalization_that_is_called_as_in_training_stays():
    x = keras.Input((4,))
    model = filled(keras.Model(x, kl.BatchNormalization(name="bn")(kl.Dense(3, name="d")(x), training=True)))
    assert "as in training" in reasons(model)["d", "bn"]
    assert names(merge(model)) == ["d", "bn"]


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_an_autoencoder_keeps_its_halves_and_its_code(activation):
    model = models.dense((20,), 4, hidden_units=(16, 8), activation=activation, batch_normalization=True)
    merged = merge(filled(model))
    assert difference(model, merged) < 1e-5
    assert names(merged) == ["encoder", "decoder"]
    assert merged.encoder is merged.get_layer("encoder") and merged.decoder.output_shape == (None, 20)
    assert merged.encoder.output_shape == (None, 4)
    assert difference(model.encoder, merged.encoder) < 1e-5
    kinds = [type(layer) for half in (merged.encoder, merged.decoder) for layer in half.layers]
    assert kl.BatchNormalization not in kinds
    assert kinds.count(kl.Dense) == (6 if activation == "relu" else 2)


def test_a_convolutional_autoencoder_loses_its_normalization():
    model = filled(models.convolutional((12, 12, 1), 5, filters=(4, 6), batch_normalization=True))
    merged = merge(model)
    assert difference(model, merged) < 1e-5
    kinds = {type(layer) for half in (merged.encoder, merged.decoder) for layer in half.layers}
    assert kl.BatchNormalization not in kinds


def test_a_subclassed_autoencoder_keeps_its_halves():
    halves = [sequential((6,), kl.Dense(9), kl.Dense(2)), sequential((2,), kl.Dense(9), kl.Dense(6))]
    model = Autoencoder(*halves)
    merged = merge(model)
    assert difference(keras.Sequential(halves), merged) < 1e-5
    assert type(merged.encoder) is keras.Sequential and len(merged.encoder.layers) == 1


def test_a_code_in_the_middle_of_one_graph_stays_where_the_model_has_an_encoder():
    x = keras.Input((9,))
    code = kl.Dense(4, name="code")(x)
    model = filled(keras.Model(x, kl.Dense(3, name="output")(code)))
    assert names(merge(model)) == ["output"]
    model.encoder = keras.Model(x, code)
    assert names(merge(model)) == ["code", "output"]
    assert reasons(model) == {("code", "output"): "the first one makes the code of the model's encoder"}


def test_a_sequential_autoencoder_keeps_its_halves():
    halves = [sequential((6,), kl.Dense(9), kl.Dense(2)), sequential((2,), kl.Dense(9), kl.Dense(6))]
    model = keras.Sequential([keras.Input((6,)), *halves])
    model.encoder = halves[0]
    merged = merge(model)
    assert type(merged) is keras.Sequential and merged.encoder is merged.layers[0]
    assert difference(halves[0], merged.encoder) < 1e-5


def test_a_model_of_what_does_nothing_keeps_a_layer():
    x = keras.Input((4,))
    model = keras.Model(x, kl.Identity(name="same")(x))
    assert names(merge(model)) == ["same"]
    assert len(merge(keras.Sequential([keras.Input((4,)), kl.Identity(), kl.Identity()])).layers) == 1


def test_the_given_model_is_not_changed_and_its_settings_go_on():
    model = sequential((5,), kl.Dense(9), kl.Dense(3, "relu", name="end", kernel_regularizer="l2"))
    model.get_layer("end").trainable = False
    model.compile("sgd", "mae")
    before, config = model.get_weights(), model.get_config()
    merged = merge(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.get_config() == config
    (layer,) = merged.layers
    assert layer.kernel_regularizer is not None and not layer.trainable
    assert layer.activation is keras.activations.relu
    assert merged.loss == "mae" and merged.optimizer is not model.optimizer


def test_other_arguments_are_refused():
    with pytest.raises(InputError, match="only_smaller: got 1, allowed: True or False"):
        merge(keras.Sequential([keras.Input((2,)), kl.Dense(1)]), only_smaller=1)
    with pytest.raises(InputError, match="not built"):
        merge(keras.Sequential([kl.Dense(1)]))


REAL = {
    "fer2013_mini_xception.hdf5": (46, 32),
    "mlperf_tiny_resnet8.h5": (30, 23),
    "mlperf_tiny_ad01.h5": (29, 20),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_model_loses_its_normalization(name, real_data):
    model = keras.models.load_model(real_data / "models" / name, compile=False)
    merged = merge(model)
    assert (len(model.layers), len(merged.layers)) == REAL[name]
    assert not any(isinstance(layer, kl.BatchNormalization) for layer in merged.layers)
    assert difference(model, merged) < 1e-5
