"""What does nothing goes, and the outputs stay the same; what cannot go is listed with the reason."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_aeprune as kap
from keras_aeprune import models
from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.datasets import load
from keras_aeprune.export.request import request
from keras_aeprune.export.tflite import export
from keras_aeprune.shrinking import tracing
from keras_aeprune.shrinking.constants import proven
from keras_aeprune.shrinking.dead import Dead, find_dead, without_dead
from keras_aeprune.shrinking.tracing import trace
from keras_aeprune.shrinking.units import Flow, Part

RNG = np.random.default_rng(0)


def filled(model, seed=0):
    """The model with weights that are random and not small; variances stay above 0."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        values = random.normal(size=variable.shape) * 0.5
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def chain(shape, *layers, dtype="float32"):
    """A Sequential model of layers, filled."""
    return filled(keras.Sequential([keras.Input(shape, dtype=dtype), *layers]))


def zeroed(layer, index, name="kernel"):
    """Set a part of a weight to zero."""
    variable = getattr(layer, name)
    values = variable.numpy()
    values[index] = 0
    variable.assign(values)


def inputs(model, count=6):
    random = np.random.default_rng(1)
    return [random.normal(size=(count, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]


def outputs(model, x):
    values = keras.tree.flatten(model(x if len(x) > 1 else x[0], training=False))
    return [keras.ops.convert_to_numpy(value) for value in values]


def assert_same(new, model, x=None):
    x = inputs(model) if x is None else x
    for value, expected in zip(outputs(new, x), outputs(model, x), strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def shrunk(model, data=None, **options):
    """What `without_dead` gives, after the law: same outputs, and the given model untouched."""
    before, config = [np.array(value) for value in model.get_weights()], json.dumps(model.get_config())
    new, dead = without_dead(model, data, **options)
    assert_same(new, model, None if data is None else [data])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert json.dumps(model.get_config()) == config
    return new, dead


def rows(dead):
    return [(row.path, row.units, row.why, row.removed, row.exact) for row in dead.rows]


# Dense, by hand


def test_numbers_of_a_dense_layer_worked_by_hand():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(4, "relu", name="a"), kl.Dense(2, name="b")])
    kernel = [[1.0, 0.0, 0.0, 5.0], [2.0, 0.0, 0.0, 6.0]]
    taken = [[1.0, 2.0], [10.0, 20.0], [30.0, 40.0], [0.0, 0.0]]
    model.set_weights([np.array(v) for v in (kernel, [0.5, 3.0, -3.0, 7.0], taken, [0.1, 0.2])])
    new, dead = shrunk(model)
    # unit 1 is relu(3) = 3, unit 2 is relu(-3) = 0, nothing takes unit 3
    assert rows(dead) == [("a", (1, 2), "incoming", True, True), ("a", (3,), "outgoing", True, True)]
    first, second = new.layers
    assert first.kernel.numpy().tolist() == [[1.0], [2.0]]
    assert second.kernel.numpy().tolist() == [[1.0, 2.0]]
    np.testing.assert_allclose(second.bias, [0.1 + 3 * 10, 0.2 + 3 * 20], rtol=1e-6)


def test_units_that_lead_only_to_units_that_go_go_too():
    model = chain((3,), kl.Dense(4, name="a"), kl.Dense(4, name="b"), kl.Dense(2))
    zeroed(model.layers[2], (1, slice(None)))  # nothing takes unit 1 of b
    zeroed(model.layers[1], (2, [0, 2, 3]))  # unit 2 of a leads only to it
    zeroed(model.layers[1], (slice(None), 3))  # unit 3 of b is made of nothing
    zeroed(model.layers[1], (0, [0, 2]))
    zeroed(model.layers[1], (0, 1))
    new, dead = shrunk(model)
    assert rows(dead) == [
        ("a", (0, 2), "outgoing", True, True),
        ("b", (1,), "outgoing", True, True),
        ("b", (3,), "incoming", True, True),
    ]
    assert [layer.units for layer in new.layers] == [2, 2, 2]


def test_constants_are_followed_through_layers_made_of_constants():
    model = chain((3,), kl.Dense(4, "tanh"), kl.Dense(4, "tanh", name="b"), kl.Dense(2))
    zeroed(model.layers[0], (slice(None), 1))
    zeroed(model.layers[1], ([0, 2, 3], 2))  # unit 2 of b takes only unit 1, which is constant
    _, dead = shrunk(model)
    assert rows(dead)[1] == ("b", (2,), "incoming", True, True)


def test_a_layer_without_bias_gets_one():
    model = chain((3,), kl.Dense(4, "sigmoid"), kl.Dense(2, use_bias=False))
    zeroed(model.layers[0], (slice(None), 1))
    new, _ = shrunk(model)
    assert new.layers[1].use_bias
    assert not model.layers[1].use_bias


@pytest.mark.parametrize("seed", range(3))
def test_nothing_dead_means_a_copy_of_the_same_size(seed):
    model = filled(keras.Sequential([keras.Input((3,)), kl.Dense(4, "tanh"), kl.Dense(2)]), seed)
    new, dead = shrunk(model)
    assert not dead.rows
    assert str(dead) == "no dead units"
    assert new is not model
    assert new.count_params() == model.count_params()


# convolutions


def conv(padding, bias):
    model = chain(
        (7, 7, 2),
        kl.Conv2D(4, 3, activation="relu", name="a"),
        kl.Conv2D(3, 3, padding=padding, name="b"),
        kl.GlobalAveragePooling2D(),
    )
    zeroed(model.layers[0], (..., 1))
    values = model.layers[0].bias.numpy()
    values[1] = bias
    model.layers[0].bias.assign(values)
    return model


def test_a_constant_filter_goes_into_the_bias_of_a_convolution_without_padding():
    new, dead = shrunk(conv("valid", 0.7))
    assert rows(dead) == [("a", (1,), "incoming", True, True)]
    assert new.layers[0].filters == 3


def test_a_constant_filter_stays_where_the_border_would_see_it():
    model = conv("same", 0.7)
    new, dead = shrunk(model)
    assert rows(dead) == [("a", (1,), "incoming", False, True)]
    assert "pads with zeros" in dead.rows[0].reason
    assert new.count_params() == model.count_params()


def test_a_filter_that_is_zero_goes_in_front_of_padding_too():
    new, dead = shrunk(conv("same", -0.7))
    assert rows(dead) == [("a", (1,), "incoming", True, True)]
    assert new.layers[0].filters == 3


def test_values_behind_padding_differ_from_position_to_position():
    model = chain((6, 2), kl.Conv1D(4, 3, name="a"), kl.ZeroPadding1D(1), kl.Conv1D(2, 3))
    zeroed(model.layers[0], (..., 2))
    _, dead = shrunk(model)
    assert not dead.rows[0].removed
    assert "differs between positions" in dead.rows[0].reason


def test_a_transposed_convolution_takes_only_zeros():
    for bias, goes in ((0.5, False), (-0.5, True)):
        model = chain((6, 2), kl.Conv1D(4, 3, activation="relu"), kl.Conv1DTranspose(2, 3, strides=2))
        zeroed(model.layers[0], (..., 2))
        model.layers[0].bias.assign(np.full(4, bias))
        assert shrunk(model)[1].rows[0].removed == goes


def test_depthwise_filters_that_are_zero_make_channels_constant():
    model = chain(
        (6, 6, 2),
        kl.Conv2D(4, 3, name="a"),
        kl.DepthwiseConv2D(3),
        kl.Conv2D(2, 1, name="b"),
        kl.SeparableConv2D(3, 2),
    )
    zeroed(model.layers[1], (slice(None), slice(None), 2))
    zeroed(model.layers[2], (..., 1))
    new, dead = shrunk(model)
    assert rows(dead) == [("a", (2,), "incoming", True, True), ("b", (1,), "incoming", True, True)]
    assert new.layers[0].filters == 3


def test_behind_flatten_each_position_has_its_own_value():
    first = kl.Conv2D(3, 3, padding="same", name="a")
    layers = [keras.Input((4, 4, 2)), first, kl.ZeroPadding2D(1), kl.Flatten(), kl.Dense(2)]
    model = filled(keras.Sequential(layers))
    zeroed(model.layers[0], (..., 0))
    new, dead = shrunk(model)
    assert rows(dead) == [("a", (0,), "incoming", True, True)]
    assert new.layers[-1].kernel.shape == (36 * 2, 2)


# what stands between


def test_normalization_and_slopes_between_are_followed():
    model = chain((3,), kl.Dense(5, name="a"), kl.BatchNormalization(), kl.PReLU(), kl.Dense(2))
    zeroed(model.layers[0], (slice(None), 1))
    zeroed(model.layers[1], 3, "gamma")
    new, dead = shrunk(model)
    assert rows(dead) == [("a", (1, 3), "incoming", True, True)]
    assert new.layers[1].gamma.shape == (3)


def test_units_that_are_added_go_when_both_are_constant():
    x = keras.Input((3,))
    a, b = kl.Dense(4, "relu", name="a")(x), kl.Dense(4, name="b")(x)
    model = filled(keras.Model(x, kl.Dense(2)(kl.Add()([a, b]))))
    zeroed(model.get_layer("a"), (slice(None), [1, 2]))
    zeroed(model.get_layer("b"), (slice(None), [2, 3]))
    new, dead = shrunk(model)
    assert rows(dead) == [("a", (2,), "incoming", True, True)]
    assert new.get_layer("b").units == 3


def test_a_gate_of_one_channel_keeps_its_units_alive():
    x = keras.Input((3,))
    gated = kl.Multiply()([kl.Dense(4, name="a")(x), kl.Dense(1)(x)])
    model = filled(keras.Model(x, kl.Dense(2)(gated)))
    zeroed(model.get_layer("a"), (slice(None), 1))
    assert not shrunk(model)[1].rows


def test_tensors_side_by_side_keep_their_own_values():
    x = keras.Input((3,))
    a, b = kl.Dense(3, "tanh", name="a")(x), kl.Dense(2, "sigmoid", name="b")(x)
    model = filled(keras.Model(x, [kl.Dense(2)(kl.Concatenate()([a, b])), kl.Dense(1)(a)]))
    zeroed(model.get_layer("a"), (slice(None), 0))
    zeroed(model.get_layer("b"), (slice(None), 1))
    new, dead = shrunk(model)
    assert rows(dead) == [("a", (0,), "incoming", True, True), ("b", (1,), "incoming", True, True)]
    assert (new.get_layer("a").units, new.get_layer("b").units) == (2, 1)


def test_a_shared_layer_folds_only_what_is_the_same_in_all_its_calls():
    x = keras.Input((3,))
    shared = kl.Dense(2, name="shared")
    a, b = kl.Dense(3, name="a")(x), kl.Dense(3, name="b")(x)
    model = filled(keras.Model(x, [shared(a), shared(b)]))
    for name in "ab":
        zeroed(model.get_layer(name), (slice(None), [0, 1]))
    model.get_layer("a").bias.assign([1.0, 2.0, 3.0])
    model.get_layer("b").bias.assign([1.0, 5.0, 3.0])
    _, dead = shrunk(model)
    assert [(row.units, row.removed) for row in dead.rows] == [((0,), True), ((1,), False)]


# recurrent layers and attention


@pytest.mark.parametrize(
    ("kind", "bias"), [(kl.LSTM, True), (kl.GRU, True), (kl.GRU, False), (kl.SimpleRNN, True)]
)
def test_recurrent_layers_take_constants_into_their_bias(kind, bias):
    model = chain((5, 3), kl.Dense(4, name="a"), kind(3, use_bias=bias, name="r"), kl.Dense(2))
    zeroed(model.layers[0], (slice(None), 1))
    new, dead = shrunk(model)
    assert rows(dead) == [("a", (1,), "incoming", True, True)]
    assert new.get_layer("r").use_bias


def test_both_directions_take_constants_into_their_biases():
    both = kl.Bidirectional(kl.LSTM(3), name="r")
    model = chain((5, 3), kl.Dense(4, name="a"), both, kl.Dense(2))
    zeroed(model.layers[0], (slice(None), 1))
    assert rows(shrunk(model)[1]) == [("a", (1,), "incoming", True, True)]


def test_a_recurrent_unit_goes_where_no_other_unit_needs_it():
    model = chain((5, 3), kl.LSTM(4, name="r"), kl.Dense(2))
    cell, gates = model.layers[0].cell, np.arange(4) * 4
    zeroed(model.layers[1], (1, slice(None)))
    zeroed(cell, (1, [c for c in range(16) if c % 4 != 1]), "recurrent_kernel")  # 1 leads only to itself
    zeroed(cell, (slice(None), gates + 2))
    zeroed(cell, (slice(None), gates + 2), "recurrent_kernel")  # 2 is moved by nothing, but the others take it
    zeroed(cell, (slice(None), gates + 3))
    zeroed(cell, (slice(None), gates + 3), "recurrent_kernel")
    zeroed(cell, 8 + 3, "bias")  # 3 is 0 at every step
    new, dead = shrunk(model)
    assert rows(dead) == [
        ("r", (1,), "outgoing", True, True),
        ("r", (2,), "incoming", False, True),
        ("r", (3,), "incoming", True, True),
    ]
    assert "inside" in dead.rows[1].reason
    assert new.layers[0].units == 2


def test_a_recurrent_unit_that_others_move_is_not_constant():
    model = chain((5, 3), kl.SimpleRNN(4), kl.Dense(2))
    model.layers[0].cell.kernel.assign([[1, 0, 0, 0]] * 3)
    model.layers[0].cell.recurrent_kernel.assign(np.eye(4, k=1) * [[1], [1], [0], [0]])  # 0 moves 1, 1 moves 2
    traced = trace(model)
    assert proven(traced)[id(traced.members[id(model.layers[1])]), 0].tolist() == [False, False, False, True]


def test_attention_takes_constants_into_its_biases():
    x = keras.Input((5, 3))
    a = kl.Dense(4, name="a")(x)
    model = filled(keras.Model(x, kl.Dense(2)(kl.MultiHeadAttention(2, 3)(a, a))))
    zeroed(model.get_layer("a"), (slice(None), 1))
    assert rows(shrunk(model)[1])[0] == ("a", (1,), "incoming", True, True)


def test_masked_steps_make_no_recurrent_unit_constant():
    model = chain((5,), kl.Embedding(9, 3, mask_zero=True), kl.LSTM(3, name="r"), kl.Dense(2), dtype="int32")
    model.layers[1].cell.kernel.assign(np.zeros((3, 12)))
    model.layers[1].cell.recurrent_kernel.assign(np.zeros((3, 12)))
    assert all(row.path != "r" or row.why == "outgoing" for row in find_dead(trace(model)).rows)


# whole models


def by_magnitude(model, sparsity):
    """The model with the smallest weights of each kernel set to zero."""
    for weight in weights(model):
        values = weight.variable.numpy()
        values[np.abs(values) <= np.quantile(np.abs(values), sparsity)] = 0
        weight.variable.assign(values)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.dense((8, 8), 8, hidden_units=(32, 16)),
        lambda: models.stacked((64,), 8, hidden_units=(32, 16), tied=True),
        lambda: models.variational((64,), 6, hidden_units=(32,)),
        lambda: models.convolutional((8, 8, 1), 8, filters=(8, 8), batch_normalization=True),
        lambda: models.recurrent((6, 3), 4, units=(8,)),
    ],
    ids=["dense", "tied", "variational", "convolutional", "recurrent"],
)
def test_both_halves_of_an_autoencoder_shrink(make):
    model = by_magnitude(filled(make()), 0.97)
    new, dead = shrunk(model)
    assert new.count_params() < model.count_params()
    assert dead.removed
    for name in ("encoder", "decoder"):
        assert getattr(new, name).count_params() < getattr(model, name).count_params()
    assert_same(keras.Sequential([new.encoder, new.decoder]), model)


def test_a_pruned_and_trained_autoencoder_is_smaller_with_the_same_outputs():
    x = load("digits").x_train[:512]
    model = models.dense(x.shape[1:], 12, hidden_units=(48,))
    model.compile("adam", "mse")
    model.fit(x, x, epochs=8, batch_size=64, verbose=0, callbacks=[kap.Prune(0.97)])
    new, dead = shrunk(model, x)
    assert new.count_params() < model.count_params()
    assert dead.removed
    assert new.compiled
    np.testing.assert_allclose(new.evaluate(x, x, verbose=0), model.evaluate(x, x, verbose=0), rtol=1e-4)


# constant on data


def sleeping():
    """A model whose units 0 and 2 never fire on small inputs."""
    model = chain((4,), kl.Dense(5, "relu", name="a"), kl.Dense(3))
    values = model.layers[0].bias.numpy()
    values[[0, 2]] = -50
    model.layers[0].bias.assign(values)
    return model


def test_units_that_are_constant_on_the_data_go_only_with_data():
    model, x = sleeping(), RNG.normal(size=(300, 4)).astype("float32")
    assert not find_dead(trace(model)).rows
    new, dead = shrunk(model, x)
    assert rows(dead) == [("a", (0, 2), "constant", True, False)]
    assert new.layers[0].units == 3
    loud = x * 1000
    assert np.abs(outputs(new, [loud])[0] - outputs(model, [loud])[0]).max() > 1


def test_all_batches_of_the_data_are_looked_at():
    model, x = sleeping(), np.zeros((600, 4), "float32")
    x[:300] = RNG.normal(size=(300, 4))
    kernel = model.layers[0].kernel.numpy()
    kernel[:, 0] = -kernel[:, 2]
    model.layers[0].kernel.assign(kernel)
    x[599] = 1000 * np.sign(kernel[:, 2])  # wakes unit 2
    assert rows(shrunk(model, x)[1]) == [("a", (0,), "constant", True, False)]


def test_tolerance_is_the_range_that_counts_as_constant():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(2, name="a"), kl.Dense(1)])
    model.set_weights([np.array([[0.02, 1.0]]), np.array([4.0, 0.0]), np.ones((2, 1)), np.zeros(1)])
    x = np.array([[-1.0], [1.0]], "float32")  # unit 0 goes from 3.98 to 4.02: 0.04 = 0.01 * 4
    assert not without_dead(model, x, tolerance=0.0099)[1].rows
    new, dead = without_dead(model, x, tolerance=0.0101)
    assert rows(dead) == [("a", (0,), "constant", True, False)]
    np.testing.assert_allclose(new.layers[1].bias, [4.0], rtol=1e-6)


def test_several_inputs_take_their_data_by_name_or_in_order():
    a, b = keras.Input((2,), name="left"), keras.Input((3,), name="right")
    model = filled(
        keras.Model([a, b], kl.Dense(1)(kl.Concatenate()([kl.Dense(3, "relu", name="p")(a), kl.Dense(2)(b)])))
    )
    model.get_layer("p").bias.assign([0.0, -90.0, 0.0])
    x = {"left": RNG.normal(size=(9, 2)), "right": RNG.normal(size=(9, 3))}
    by_name, in_order = find_dead(trace(model), x), find_dead(trace(model), list(x.values()))
    assert rows(by_name) == [("p", (1,), "constant", True, False)] == rows(in_order)
    with pytest.raises(InputError, match="left, right"):
        find_dead(trace(model), x["left"])


# a layer that never fires


def never_fires():
    """A model with three layers that never fire: behind Dense, behind a normalization, behind a convolution."""
    x = keras.Input((6, 6, 2))
    y = kl.Dense(8, "relu")(kl.Flatten()(x))
    plain = kl.ReLU()(kl.Dense(5, name="plain")(y))
    normalized = kl.ReLU()(kl.BatchNormalization(name="normal")(kl.Dense(5, name="normalized")(y)))
    filters = kl.Flatten()(kl.Conv2D(4, 3, activation="relu", name="filters")(x))
    model = filled(keras.Model(x, [kl.Dense(3)(z) for z in (plain, normalized, filters)]))
    for name in ("plain", "normalized", "filters"):
        bias = model.get_layer(name).bias
        bias.assign(np.full(bias.shape, -99.0))
    model.get_layer("normal").gamma.assign(np.ones(5))
    return model


def test_a_layer_that_never_fires_no_longer_breaks_an_int8_file(tmp_path):
    model, x = never_fires(), RNG.normal(size=(64, 6, 6, 2)).astype("float32")
    new, dead = shrunk(model, x)
    last = [row for row in dead.rows if "for the shape" in row.reason and row.why == "constant"]
    assert {(row.path, len(row.units)) for row in last} == {("plain", 1), ("normalized", 1), ("filters", 1)}
    for name in ("plain", "normalized", "filters"):
        layer = new.get_layer(name)
        assert layer.kernel.shape[-1] == 1
        assert not layer.kernel.numpy().any()
        assert layer.bias.numpy().tolist() == [1.0]
    asked = [request(one, {"int8": tmp_path / f"{one.name}.tflite"}, x, 0) for one in (model, new)]
    (before,), (after,) = export(asked, all_or_none=False)
    assert before.removed_units > 0  # the exporter does the same to the given model, and says so
    assert any("constant on the 64 calibration samples" in note for note in before.notes)
    assert after.removed_units == 0
    assert after.max_difference <= after.limit


# what is said, and what is refused


def test_the_findings_are_json_both_ways():
    dead = find_dead(trace(conv("same", 0.7)))
    assert Dead.from_dict(json.loads(json.dumps(dead.to_dict()))) == dead
    assert "stays: b pads with zeros" in str(dead)
    with pytest.raises(InputError, match=r"Dead\.to_dict"):
        Dead.from_dict({"rows": [{"path": "a"}]})


def test_the_new_model_comes_back_from_its_file(tmp_path):
    new, _ = without_dead(by_magnitude(filled(models.dense((64,), 8)), 0.97))
    new.save(tmp_path / "new.keras")
    assert_same(keras.saving.load_model(tmp_path / "new.keras"), new)


def test_axes_of_unknown_length_are_tried_with_two_lengths():
    model = chain((None, 3), kl.LSTM(4, name="r"), kl.Dense(2))
    cell, gates = model.layers[0].cell, np.arange(4) * 4
    zeroed(cell, (slice(None), gates + 2))
    zeroed(cell, (slice(None), gates + 2), "recurrent_kernel")
    zeroed(cell, (2, [c for c in range(16) if c % 4 != 2]), "recurrent_kernel")
    cell.bias.assign(np.full(16, 0.01) + 9 * (np.arange(16) == 6))  # it forgets little: its state grows with time
    assert not find_dead(trace(model)).rows
    fixed = keras.Sequential([keras.Input((5, 3)), kl.LSTM(4, name="r"), kl.Dense(2)])
    fixed.set_weights(model.get_weights())
    assert rows(find_dead(trace(fixed))) == [("r", (2,), "incoming", True, True)]


@pytest.mark.parametrize(
    ("data", "tolerance", "told"),
    [
        (None, -0.1, "tolerance: got -0.1"),
        (None, True, "tolerance: got True"),
        (np.zeros((1, 4)), 0.0, "2 or more"),
        (np.zeros((8, 3)), 0.0, r"samples of shape \(3,\)"),
    ],
)
def test_bad_arguments_are_refused(data, tolerance, told):
    with pytest.raises(InputError, match=told):
        without_dead(sleeping(), data, tolerance=tolerance)


def test_models_whose_answers_depend_on_earlier_calls_are_refused_with_data():
    model = keras.Sequential([keras.Input((5, 3), batch_size=2), kl.LSTM(4, stateful=True), kl.Dense(2)])
    with pytest.raises(InputError, match="keeps a state"):
        find_dead(trace(model), np.zeros((2, 5, 3)))
    assert not find_dead(trace(model)).rows


def test_a_trace_that_accepts_normalization_is_refused():
    with pytest.raises(InputError, match="accept_normalization"):
        find_dead(trace(sleeping(), accept_normalization=True))


class Squares(kl.Layer):
    """Mixes units in a way that a constant cannot be taken out of: x^2 W."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2))

    def call(self, x):
        return keras.ops.matmul(x**2, self.kernel)


def test_own_kinds_of_layers_keep_what_they_take(monkeypatch):
    def told(says):
        def rule(tracer, layer, flows, shapes):
            def note(member):
                out = tracer.units.new(2)
                tracer.units.keep(out, "own")
                member.mixed, member.outputs = (0,), [out]
                member.parts = [Part(layer.kernel, (flows[0].ids, out), 0, 1)] if says else []

            member = tracer.member(layer, [flows[0].ids], note)
            return [Flow(shapes[0], member.outputs[0])]

        return rule

    model = chain((3,), kl.Dense(4, name="a"), Squares(name="own"))
    zeroed(model.layers[0], (slice(None), 1))
    monkeypatch.setitem(tracing._RULES, Squares, told(True))
    dead = shrunk(model)[1]
    assert rows(dead) == [("a", (1,), "incoming", False, True)]
    assert "not known what it does with a constant" in dead.rows[0].reason
    monkeypatch.setitem(tracing._RULES, Squares, told(False))
    assert not shrunk(model)[1].removed


def test_what_depends_on_the_input_is_never_called_constant():
    """Against a slow search: a channel that is said to be constant does not move on any of many inputs."""
    model = by_magnitude(filled(models.dense((16,), 4, hidden_units=(12, 8))), 0.9)
    traced = trace(model)
    flags = {
        traced_member.path: proven(traced)[id(traced_member), 0]
        for traced_member in dict.fromkeys(traced.members.values())
        if traced_member.mixed
    }
    x = RNG.normal(size=(500, 16)).astype("float32") * 10
    for half in (model.encoder, model.decoder):
        for layer in half.layers:
            if isinstance(layer, kl.Dense):
                path = f"{half.name}/{layer.name}"
                values = np.array(x)
                moving = np.ptp(values, axis=0) > 1e-5
                assert not (moving & flags[path]).any()
            x = np.array(layer(x)) if not isinstance(layer, kl.InputLayer) else x
