"""Activations, blocks and layers go; what is left is the model with them replaced by the identity."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.criteria.entropy import layer_entropies
from keras_aeprune.shrinking.depth import LayerCut, mirrored, paired, removable, without
from keras_aeprune.shrinking.depth_ranking import rank_layers
from keras_aeprune.shrinking.merging import merge


def filled(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        values = rng.normal(size=variable.shape) * 0.4
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def samples(shape, n=40, seed=1):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype("float32")


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x))


def relative(a, b):
    return float(np.abs(a - b).max() / np.abs(a).max())


def dense_model():
    return filled(
        keras.Sequential(
            [
                keras.Input((6,)),
                kl.Dense(8, "relu", name="a"),
                kl.Dense(8, "tanh", name="b"),
                kl.Dense(6, "sigmoid", name="c"),
            ]
        )
    )


def residual_model():
    x = keras.Input((6, 6, 3))
    start = kl.Conv2D(4, 3, padding="same", activation="relu", name="start")(x)
    branch = kl.Conv2D(4, 3, padding="same", activation="relu", name="inner")(start)
    branch = kl.BatchNormalization(name="norm")(kl.Conv2D(4, 3, padding="same", name="outer")(branch))
    joined = kl.ReLU(name="join_relu")(kl.Add(name="join")([branch, start]))
    short = kl.Conv2D(5, 1, strides=2, name="short")(joined)
    down = kl.Conv2D(5, 3, strides=2, padding="same", name="down")(joined)
    pooled = kl.GlobalAveragePooling2D()(kl.Add(name="project")([down, short]))
    return filled(keras.Model(x, kl.Dense(3, name="end")(pooled)))


def cuts(model):
    return {(cut.path, cut.kind): cut for cut in removable(model)}


# without


def test_an_activation_that_goes_leaves_the_map_worked_by_hand():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(2, "relu", name="hidden"), kl.Dense(1)])
    values = [[[1.0, -1.0]], [0.5, 1.0], [[2.0], [-1.0]], [-1.5]]
    model.set_weights([np.array(value) for value in values])
    kernel, bias = without(model, "hidden").get_weights()
    assert kernel.tolist() == [[3.0]] and bias.tolist() == [-1.5]


def test_without_an_activation_the_model_is_itself_with_the_identity_there():
    model = dense_model()
    x = samples((6,))
    w1, b1, w2, b2, w3, b3 = model.get_weights()
    wanted = 1 / (1 + np.exp(-(np.tanh((x @ w1 + b1) @ w2 + b2) @ w3 + b3)))
    small = without(model, "a")
    assert [layer.name for layer in small.layers] == ["b", "c"]
    assert relative(wanted, outputs(small, x)) < 1e-5
    assert model.count_params() - small.count_params() == cuts(model)["a", "activation"].saves_params == 72
    apart = without(model, "a", merge=False)
    assert apart.count_params() == model.count_params()
    assert relative(wanted, outputs(apart, x)) < 1e-5


def test_several_activations_go_at_once():
    model = dense_model()
    chosen = [cuts(model)[path, "activation"] for path in ("a", "b")]
    small = without(model, chosen)
    x = samples((6,))
    w1, b1, w2, b2, w3, b3 = model.get_weights()
    wanted = 1 / (1 + np.exp(-(((x @ w1 + b1) @ w2 + b2) @ w3 + b3)))
    assert [layer.name for layer in small.layers] == ["c"]
    assert relative(wanted, outputs(small, x)) < 1e-5


def test_normalization_goes_into_a_layer_whose_activation_goes():
    layers = [kl.Dense(5, name="first"), kl.Dense(4, "relu", name="a"), kl.BatchNormalization()]
    layers += [kl.Activation("tanh"), kl.Dense(9)]
    model = filled(keras.Sequential([keras.Input((6,)), *layers]))
    small = without(model, "a")
    x = samples((6,))
    w1, b1, w2, b2, gamma, beta, mean, variance, w3, b3 = model.get_weights()
    normal = ((x @ w1 + b1) @ w2 + b2 - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    assert len(small.layers) == 3 and small.layers[0].name == "a"
    assert relative(np.tanh(normal) @ w3 + b3, outputs(small, x)) < 1e-5


def test_operations_of_a_subclassed_model_have_paths_that_stay():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = kl.Dense(3, "relu", name="one"), kl.Dense(2, name="two")

        def call(self, x):
            return self.two(x + self.one(x))

    model = Own()
    model(samples((3,)))
    filled(model)
    assert [cut.path for cut in removable(model) if not cut.reason] == ["one", "one", "add"]
    small = without(model, "add")
    x = samples((3,))
    assert relative(outputs(model.two, x), outputs(small, x)) < 1e-6


def test_an_activation_layer_behind_normalization_goes():
    model = filled(models.dense((12,), 3, hidden_units=(9, 7), batch_normalization=True))
    small = without(model, "encoder/hidden_1_activation")
    assert [layer.name for layer in small.encoder.layers][1:] == ["hidden_2", "hidden_2_activation", "code"]
    x = samples((12,))
    by_hand = x
    for layer in model.encoder.layers[1:]:
        by_hand = by_hand if layer.name == "hidden_1_activation" else layer(by_hand)
    wanted = outputs(model.decoder, by_hand)
    assert relative(wanted, outputs(small, x)) < 1e-5
    saved = cuts(model)["encoder/hidden_1_activation", "activation"].saves_params
    assert merge(model).count_params() - small.count_params() == saved > 0


def test_a_layer_of_equal_shapes_is_passed_by_with_what_follows_it():
    model = filled(models.dense((12,), 3, hidden_units=(9, 9), batch_normalization=True))
    small = without(model, "encoder/hidden_2", merge=False)
    left = [layer.name for layer in small.encoder.layers][1:]
    assert left == ["hidden_1", "hidden_1_normalization", "hidden_1_activation", "code", "code_normalization"]
    x = samples((12,))
    by_hand = x
    for layer in model.encoder.layers[1:]:
        by_hand = by_hand if layer.name.startswith("hidden_2") else layer(by_hand)
    assert relative(outputs(model.decoder, by_hand), outputs(small, x)) < 1e-6


def test_a_recurrent_layer_of_equal_shapes_is_passed_by():
    layers = [kl.LSTM(5, return_sequences=True, name=name) for name in ("a", "b")]
    model = filled(keras.Sequential([keras.Input((4, 3)), *layers, kl.Dense(2)]))
    small = without(model, "b")
    x = samples((4, 3))
    assert relative(outputs(model.layers[2], outputs(model.layers[0], x)), outputs(small, x)) < 1e-6


def test_a_residual_block_goes_and_what_it_was_added_to_goes_on():
    model = residual_model()
    small = without(model, "join", merge=False)
    assert {"inner", "outer", "norm", "join"}.isdisjoint(layer.name for layer in small.layers)
    x = samples((6, 6, 3))
    get = model.get_layer
    joined = get("join_relu")(get("start")(x))
    added = get("down")(joined) + get("short")(joined)
    wanted = outputs(get("end"), keras.ops.mean(added, axis=(1, 2)))
    assert relative(wanted, outputs(small, x)) < 1e-5
    saved = merge(model).count_params() - without(model, "join").count_params()
    assert saved == cuts(model)["join", "block"].saves_params == 2 * (9 * 16 + 4)


def test_a_sum_of_tensors_is_a_block_too():
    x = keras.Input((4,))
    model = filled(keras.Model(x, kl.Dense(2, name="end")(x + kl.Dense(4, name="branch")(x))))
    (block,) = [cut for cut in removable(model) if cut.kind == "block"]
    small = without(model, block)
    x = samples((4,))
    assert relative(outputs(model.get_layer("end"), x), outputs(small, x)) < 1e-6
    assert block.saves_params == 20


def test_what_is_made_is_of_the_same_kind_and_the_given_model_is_not_changed():
    model = residual_model()
    model.compile("adam", "mae")
    before = model.get_weights()
    small = without(model, ["join", "start"])
    assert type(small) is type(model) and small.loss == "mae"
    assert type(without(dense_model(), "a")) is keras.Sequential
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.get_layer("start").activation is keras.activations.relu


# removable


def test_what_cannot_go_is_listed_with_the_reason():
    found = cuts(residual_model())
    assert "neither of its inputs" in found["project", "block"].reason
    assert "makes the output of the model" in found["end", "layer"].reason
    assert found["start", "layer"].reason == "takes (6, 6, 3) and makes (6, 6, 4)"
    assert all(cut.saves_params == 0 for cut in found.values() if cut.reason)
    assert found["join", "block"].reason == found["join_relu", "activation"].reason == ""


def test_the_last_activation_and_the_code_stay():
    found = cuts(models.dense((12,), 3, hidden_units=(3,)))
    assert found["decoder/output", "activation"].reason == "makes the output of the model"
    assert found["encoder/code", "layer"].reason == "makes the output of encoder"


def test_what_is_used_twice_stays():
    x, twice = keras.Input((4,)), kl.Dense(4, "relu", name="twice")
    found = cuts(filled(keras.Model(x, kl.Dense(2)(twice(twice(x))))))
    assert "several places" in found["twice", "activation"].reason
    assert "several places" in found["twice", "layer"].reason


def test_a_block_of_more_than_two_tensors_stays():
    x = keras.Input((4,))
    branches = [kl.Dense(4)(x), kl.Dense(4)(x)]
    model = keras.Model(x, kl.Dense(2)(kl.Add(name="add")([x, *branches])))
    assert cuts(model)["add", "block"].reason.startswith("adds 3 tensors")


def test_cuts_that_cannot_be_made_are_refused():
    model = dense_model()
    with pytest.raises(InputError, match="'nothing', allowed: paths of removable\\(model\\): 'a, b'"):
        without(model, "nothing")
    with pytest.raises(
        InputError, match="'c' cannot go \\(as activation: makes the output of the model; as layer"
    ):
        without(model, "c")
    with pytest.raises(InputError, match="'b' can go as activation or layer, allowed: the LayerCut"):
        without(model, "b")
    with pytest.raises(InputError, match="at least one path"):
        without(model, [])
    assert len(without(model, LayerCut("b", "layer", 0)).layers) == 2


# the two sides of an autoencoder


def test_the_mirror_is_the_layer_of_equal_width_from_the_other_side():
    model = models.dense((30,), 4, hidden_units=(16, 16, 8))
    pairs = {f"encoder/hidden_{k}": f"decoder/hidden_{4 - k}" for k in (1, 2, 3)}
    for path, mirror in pairs.items():
        assert mirrored(model, path) == mirror and mirrored(model, mirror) == path
    assert mirrored(model, "encoder/code") is None and mirrored(model, "decoder/output") is None
    smaller = without(model, "encoder/hidden_3")
    assert mirrored(smaller, "encoder/hidden_2") == "decoder/hidden_2"
    assert mirrored(smaller, "decoder/hidden_1") is None
    with pytest.raises(InputError, match="path: got 'code', allowed: a layer with a kernel"):
        mirrored(model, "code")


def test_the_mirror_of_a_convolution_has_as_many_filters():
    model = models.convolutional((28, 28, 1), 32, batch_normalization=True)
    assert mirrored(model, "encoder/filters_1") == "decoder/filters_2"
    assert mirrored(model, "encoder/filters_2_activation") == "decoder/filters_1_activation"


def test_pairs_hold_every_cut_once():
    model = models.dense((30,), 4, hidden_units=(16, 16, 8), batch_normalization=True)
    pairs = paired(model)
    assert sorted(cut.path for pair in pairs for cut in pair) == sorted(
        cut.path for cut in removable(model) if not cut.reason
    )
    layers = [[cut.path for cut in pair] for pair in pairs if pair[0].kind == "layer"]
    assert layers == [["encoder/hidden_2", "decoder/hidden_3"]]
    small = without(model, pairs[0])
    assert [len(half.layers) for half in (small.encoder, small.decoder)] == [6, 6]


# rank_layers


def test_the_error_is_the_mean_squared_difference_without_each():
    model, x = dense_model(), samples((6,))
    found = rank_layers(model, x)
    assert [row.score for row in found] == sorted(row.score for row in found)
    before = outputs(model, x)
    for row in found:
        after = outputs(without(model, row), x)
        assert row.score == pytest.approx(np.mean((before - after) ** 2), rel=1e-4)
    assert str(found).splitlines()[0].split() == ["path", "kind", "saves", "weights", "difference"]


def test_the_error_is_the_rise_of_the_compiled_loss():
    model, x = dense_model(), samples((6,), n=300)
    y = outputs(model, x) + samples((6,), n=300, seed=2)
    model.compile("sgd", "mae")
    (row,) = [row for row in rank_layers(model, (x, y)) if (row.path, row.kind) == ("a", "activation")]
    after = outputs(without(model, "a"), x)
    wanted = np.mean(np.abs(after - y)) - np.mean(np.abs(outputs(model, x) - y))
    assert row.score == pytest.approx(wanted, abs=1e-6)
    squared = next(row for row in rank_layers(model, (x, y), loss="mse") if row.path == "a")
    assert squared.score == pytest.approx(
        np.mean((after - y) ** 2) - np.mean((outputs(model, x) - y) ** 2), abs=1e-6
    )
    assert rank_layers(model, (x, y), loss="difference")[0].score > 0


@pytest.mark.parametrize(
    ("by", "form", "normalization"), [("entropy", "state", True), ("easier", "easier", False)]
)
def test_entropies_are_those_of_the_layers_before(by, form, normalization):
    model = filled(models.dense((12,), 3, hidden_units=(9, 7), batch_normalization=normalization))
    x = samples((12,))
    found = rank_layers(model, x, by=by)
    hidden = [f"{half}/hidden_{k}" for half in ("encoder", "decoder") for k in (1, 2)]
    wanted = {row.path: row.entropy for row in layer_entropies(model, x, form=form, layers=hidden)}
    ending = "_activation" if normalization else ""
    assert {row.path: row.score for row in found} == {p + ending: pytest.approx(h) for p, h in wanted.items()}
    assert [row.score for row in found] == sorted(wanted.values())


def test_what_has_no_entropy_comes_last_with_the_reason():
    found = rank_layers(residual_model(), samples((6, 6, 3)), by="entropy")
    assert found[0].score is not None
    told = {row.path: row.reason for row in found if row.score is None}
    assert told["join"] == "entropy is measured of activations"
    assert told["join_relu"] == "it does not stand behind one layer with a kernel"
    ranks = rank_layers(dense_model(), samples((6,)), by="easier")
    tanh = {row.path: row.reason for row in ranks if row.kind == "activation"}
    assert tanh["a"] == "" and "tanh outputs have no OFF side" in tanh["b"]
    assert "join (block): no score" in str(found)


def test_a_ranking_that_cannot_be_made_is_refused():
    model, x = dense_model(), samples((6,))
    with pytest.raises(InputError, match="by: got 'size', allowed: error, entropy, easier"):
        rank_layers(model, x, by="size")
    with pytest.raises(InputError, match="only by='error' takes a loss"):
        rank_layers(model, x, by="easier", loss="mse")
    with pytest.raises(InputError, match="nothing in its depth can go"):
        rank_layers(keras.Sequential([keras.Input((6,)), kl.Dense(6)]), x)
    classifier = filled(keras.Sequential([keras.Input((6,)), kl.Dense(4, "relu"), kl.Dense(2)]))
    with pytest.raises(InputError, match="x alone of shape \\(40, 6\\).*loss='difference'"):
        rank_layers(classifier, x, loss="mse")


def test_a_rank_is_a_plain_value():
    (first, *_) = rank_layers(dense_model(), samples((6,)))
    assert set(dataclasses.asdict(first)) == {"path", "kind", "score", "saves_params", "reason"}


def test_a_real_autoencoder_without_its_cheapest_layer(real_data):
    model = keras.models.load_model(real_data / "models/mnist_dense_ae_keras3.h5", compile=False)
    with np.load(real_data / "data/mnist.npz", allow_pickle=False) as file:
        x = file["x_test"][:500].reshape(500, -1) / np.float32(255)
    ranks = rank_layers(model, x, loss="mse")
    small = without(model, ranks[0])
    rise = np.mean((outputs(small, x) - x) ** 2) - np.mean((outputs(model, x) - x) ** 2)
    assert rise == pytest.approx(ranks[0].score, rel=1e-3)
    assert ranks[-1].score > 2 * ranks[0].score > 0
    assert model.count_params() - small.count_params() == ranks[0].saves_params
