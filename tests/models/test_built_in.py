"""A linear bottleneck inside a network: exact at full rank, counted by hand, better than a random one."""

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.models.built_in import build_in

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6)).astype("float32")
IMAGES = RNG.random((20, 8, 8, 1), dtype="float32")


def values(part):
    return [keras.ops.convert_to_numpy(v).copy() for v in part.weights]


def seeded(model):
    rng = np.random.default_rng(5)
    for v in model.weights:
        v.assign(rng.normal(size=v.shape) / np.sqrt(max(1, np.prod(v.shape[:-1]))))
    return model


def plain():
    layers = [keras.layers.Dense(12, "relu", name="wide"), keras.layers.Dense(10, "softmax", name="end")]
    return seeded(keras.Sequential([keras.Input((6,)), *layers]))


def convolutional(*between, after="conv"):
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(5, 3, padding="same", activation="relu", name="wide")(x)
    for layer in between:
        y = layer(y)
    if after == "conv":
        y = keras.layers.Conv2D(4, 3, padding="same", strides=2, activation="relu", name="next")(y)
    y = keras.layers.Dense(3, name="end")(keras.layers.Flatten(name="flatten")(y))
    return seeded(keras.Model(x, y))


def branched():
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(5, 3, name="wide")(x)
    left = keras.layers.Conv2D(2, 1, name="left", use_bias=False)(y)
    right = keras.layers.Dense(2, name="right")(y)
    return seeded(keras.Model(x, keras.layers.Add()([left, right])))


FULL = [
    (plain, X, 12, "decoder merged into 'end'"),
    (convolutional, IMAGES, 5, "decoder merged into 'next'"),
    (lambda: convolutional(after="flatten"), IMAGES, 5, "decoder merged into 'end'"),
    (branched, IMAGES, 5, "decoder merged into 'left', 'right'"),
    (lambda: convolutional(keras.layers.MaxPooling2D(name="pool")), IMAGES, 5, "pool (MaxPooling2D) follows"),
    (lambda: convolutional(keras.layers.ReLU(name="act")), IMAGES, 5, "act (ReLU) follows"),
]


@pytest.mark.parametrize(("build", "data", "units", "note"), FULL)
def test_full_rank_changes_no_output_and_nothing_of_the_given_network(build, data, units, note):
    network = build()
    before = values(network)
    result = build_in(network, "wide", units, data)
    np.testing.assert_allclose(result.model(data), network(data), atol=1e-4)
    assert result.stages[1].note.endswith(note)
    assert result.score_name == "mse" and result.stages[0].score == 0 and result.stages[1].score < 1e-8
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network), strict=True))


@pytest.mark.parametrize(("build", "data", "units", "note"), FULL)
def test_a_merged_decoder_gives_what_an_explicit_one_gives(build, data, units, note):
    network = build()
    model = build_in(network, "wide", 2, data).model
    wide = network.get_layer("wide").output
    direction = values(model.get_layer("wide_encoder"))[0].reshape(units, 2)
    y = keras.ops.matmul(wide, direction @ direction.T)
    rest = keras.Model(wide, network.outputs[0])
    expected = rest(keras.Model(network.inputs[0], y)(data))
    np.testing.assert_allclose(model(data), expected, atol=1e-4)
    np.testing.assert_allclose(direction.T @ direction, np.eye(2), atol=1e-5)


def test_parameters_are_those_counted_by_hand():
    result = build_in(plain(), "wide", 4, X)
    assert result.stages[0].parameters == (6 * 12 + 12) + (12 * 10 + 10)
    assert result.stages[1].parameters == (6 * 12 + 12) + 12 * 4 + (4 * 10 + 10)
    kept = build_in(convolutional(keras.layers.ReLU(name="act")), "wide", 2, IMAGES)
    assert kept.stages[1].parameters == kept.stages[0].parameters + 5 * 2 + 2 * 5
    conv = build_in(convolutional(), "wide", 2, IMAGES)
    assert conv.stages[1].parameters == conv.stages[0].parameters - 9 * 5 * 4 + 9 * 2 * 4 + 5 * 2


def test_the_error_falls_with_the_width_and_is_that_of_the_left_out_directions():
    network = plain()
    hidden = keras.Model(network.inputs[0], network.get_layer("wide").output)
    h = keras.ops.convert_to_numpy(hidden(X)).astype("float64")
    singular = np.linalg.svd(h, compute_uv=False)
    scores = []
    for width in (1, 3, 6, 12):
        result = build_in(network, "wide", width, X)
        u = values(result.model.get_layer("wide_encoder"))[0].astype("float64")
        error = np.square(h - h @ u @ u.T).sum()
        assert error == pytest.approx(np.square(singular[width:]).sum(), rel=1e-4, abs=1e-6)
        scores.append(result.stages[1].score)
    assert scores == sorted(scores, reverse=True)


def test_it_is_better_than_random_directions():
    network = plain()
    end = network.get_layer("end")
    hidden = keras.ops.convert_to_numpy(keras.Model(network.inputs[0], network.get_layer("wide").output)(X))
    wanted = keras.ops.convert_to_numpy(network(X))
    error = build_in(network, "wide", 4, X).stages[1].score
    for seed in range(5):
        u = np.linalg.qr(np.random.default_rng(seed).normal(size=(12, 4)))[0].astype("float32")
        assert error < np.mean((keras.ops.convert_to_numpy(end(hidden @ u @ u.T)) - wanted) ** 2)


def test_layers_that_are_used_twice_keep_the_decoder():
    x = keras.Input((6,))
    wide, end = keras.layers.Dense(6, name="wide"), keras.layers.Dense(6, name="end")
    network = seeded(keras.Model(x, end(end(wide(x)))))
    result = build_in(network, "wide", 6, X)
    assert "end is used several times" in result.stages[1].note
    np.testing.assert_allclose(result.model(X), network(X), atol=1e-4)


def test_it_can_be_built_in_twice():
    model = build_in(convolutional(keras.layers.ReLU(name="act")), "wide", 4, IMAGES).model
    again = build_in(model, "wide", 3, IMAGES).model
    assert {"wide_encoder", "wide_encoder_2"} <= {layer.name for layer in again.layers}


def test_labels_and_epochs_tune_it():
    network = plain()
    labels = keras.ops.convert_to_numpy(network(X)).argmax(axis=1)
    arguments = {"labels": labels, "test": (X, labels), "epochs": 4, "learning_rate": 3e-2}
    result = build_in(network, "wide", 2, X, **arguments)
    assert [stage.name for stage in result.stages] == ["network", "built in", "fine-tuned"]
    whole, built, tuned = (stage.score for stage in result.stages)
    assert result.score_name == "accuracy" and whole == 1 and built < tuned


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"at_layer": "end"}, "the output"),
        ({"at_layer": "a/b"}, "at_layer"),
        ({"encoding_dim": 0}, "encoding_dim"),
        ({"encoding_dim": 13}, ">= 1 and <= 12"),
        ({"data": X[:, :2]}, "data"),
        ({"epochs": 2}, "epochs=2 without labels"),
        ({"labels": np.zeros(300, int)}, "epochs=0 with labels"),
        ({"labels": np.zeros(3, int), "epochs": 1}, "labels"),
        ({"epochs": -1}, "epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    given = {"network": plain(), "at_layer": "wide", "encoding_dim": 3, "data": X, **arguments}
    with pytest.raises(InputError, match=words) as error:
        build_in(**given)
    assert "\n" not in str(error.value)
