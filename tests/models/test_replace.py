"""The rest of a network behind an encoder: closed form against NumPy, weights kept, bypasses refused."""

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.models import dense
from keras_aeprune.models.replace import replace_front

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6)).astype("float32")


def values(part):
    return [keras.ops.convert_to_numpy(v).copy() for v in part.weights]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def network(activation="tanh"):
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation, name="first"),
            keras.layers.Dense(5, activation, name="cut"),
            keras.layers.Dense(4, "relu", name="after"),
            keras.layers.Dense(3, "softmax", name="end"),
        ],
        name="net",
    )


def encoder(width=3):
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(width, name="code")], name="mine")


def front_of(model, name):
    return keras.Model(model.inputs[0], model.get_layer(name).output)


def ridge(codes, features):
    """Kernel and bias of a regression with 1e-5 of the mean variance as penalty, as an augmented system."""
    codes, features = codes.astype("float64"), features.astype("float64")
    centred = codes - codes.mean(axis=0)
    penalty = np.sqrt(1e-5 * np.square(centred).sum() / centred.shape[1]) * np.eye(centred.shape[1])
    targets = np.concatenate([features - features.mean(axis=0), np.zeros((len(penalty), features.shape[1]))])
    kernel = np.linalg.lstsq(np.concatenate([centred, penalty]), targets, rcond=None)[0]
    return kernel, features.mean(axis=0) - codes.mean(axis=0) @ kernel


def test_the_closed_form_is_the_least_squares_solution():
    net, part = network(), encoder()
    result = replace_front(net, part, "cut", X, epochs=(0, 0))
    codes = keras.ops.convert_to_numpy(part(X))
    features = keras.ops.convert_to_numpy(front_of(net, "cut")(X))
    for got, expected in zip(values(result.model.get_layer("adapter")), ridge(codes, features), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_networks_own_front_in_its_place_changes_nothing():
    net = network()
    result = replace_front(net, front_of(net, "cut"), "cut", X, epochs=(0, 0))
    np.testing.assert_allclose(result.model(X), net(X), atol=1e-3)
    assert [stage.name for stage in result.stages] == ["network", "encoder in front"]
    assert result.score_name == "mse" and result.stages[0].score == 0


def test_parameters_are_counted_by_hand_and_the_rest_keeps_its_weights():
    net, part = network(), encoder()
    before = values(net), values(part)
    result = replace_front(net, part, "cut", X, epochs=(0, 0))
    rest = (5 * 4 + 4) + (4 * 3 + 3)
    assert result.stages[0].parameters == (6 * 8 + 8) + (8 * 5 + 5) + rest
    assert result.stages[1].parameters == (6 * 3 + 3) + (3 * 5 + 5) + rest
    assert [layer.name for layer in result.model.layers] == ["input", "encoder", "adapter", "after", "end"]
    for name in ("after", "end"):
        assert same(values(result.model.get_layer(name)), values(net.get_layer(name)))
    assert same(values(result.model.get_layer("encoder")), before[1])
    assert same(values(net), before[0]) and same(values(part), before[1])


def test_matching_and_tuning_bring_it_nearer_and_leave_the_given_models_alone():
    net, ae = network(), dense((6,), 2, hidden_units=(8,))
    net.get_layer("end").kernel.assign(4 * net.get_layer("end").kernel)
    before = values(net), values(ae)
    labels = keras.ops.convert_to_numpy(net(X)).argmax(axis=1)
    result = replace_front(
        net, ae, "cut", X, labels=labels, test=(X, labels), epochs=(6, 4), learning_rate=(2e-2, 2e-2)
    )
    assert [s.name for s in result.stages] == ["network", "encoder in front", "features matched", "fine-tuned"]
    whole, start, matched, tuned = (stage.score for stage in result.stages)
    assert result.score_name == "accuracy" and whole == 1
    assert start < matched <= 1 and start < tuned
    assert same(values(net), before[0]) and same(values(ae), before[1])


def convolutional():
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="cut")(x)
    y = keras.layers.Flatten(name="flatten")(keras.layers.MaxPooling2D(name="pool")(y))
    return keras.Model(x, keras.layers.Dense(2, name="end")(y))


def test_a_feature_map_of_the_same_size_is_adapted_by_one_convolution():
    net, images = convolutional(), RNG.random((20, 8, 8, 1), dtype="float32")
    part = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 2, strides=2)])
    model = replace_front(net, part, "cut", images, epochs=(0, 0)).model
    adapter = model.get_layer("adapter")
    assert isinstance(adapter, keras.layers.Conv2D) and tuple(adapter.kernel.shape) == (1, 1, 3, 4)
    codes = keras.ops.convert_to_numpy(part(images)).reshape(-1, 3)
    features = keras.ops.convert_to_numpy(front_of(net, "cut")(images)).reshape(-1, 4)
    kernel, bias = ridge(codes, features)
    np.testing.assert_allclose(values(adapter)[0][0, 0], kernel, atol=1e-3)
    np.testing.assert_allclose(values(adapter)[1], bias, atol=1e-3)
    assert adapter.activation is keras.activations.relu  # no activation of the network is negative there


def test_another_size_is_adapted_by_a_dense_layer_and_a_reshape():
    net, images = convolutional(), RNG.random((20, 8, 8, 1), dtype="float32")
    part = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 4, strides=4)])
    model = replace_front(net, part, "cut", images, epochs=(0, 0)).model
    names = [layer.name for layer in model.layers]
    assert names == ["input", "encoder", "adapter_flatten", "adapter", "adapter_reshape", "pool", "flatten", "end"]
    assert tuple(model.get_layer("adapter").kernel.shape) == (2 * 2 * 2, 4 * 4 * 4)


def test_nested_models_after_the_cut_come_along():
    x = keras.Input((6,))
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, name="deep")], name="encoder")
    net = keras.Model(x, keras.layers.Dense(2, name="end")(inner(keras.layers.Dense(5, name="cut")(x))))
    result = replace_front(net, encoder(), "cut", X, epochs=(0, 0))
    assert [layer.name for layer in result.model.layers][1:] == ["encoder_2", "adapter", "encoder", "end"]
    assert same(values(result.model.get_layer("encoder")), values(inner))
    with pytest.raises(InputError, match="inside the nested model 'encoder'"):
        replace_front(net, encoder(), "encoder/deep", X)


def test_a_layer_that_others_bypass_is_refused_by_their_names():
    x = keras.Input((6,), name="x")
    a = keras.layers.Dense(5, name="a")(x)
    cut = keras.layers.Dense(5, name="cut")(a)
    joined = keras.layers.Add(name="sum")([cut, a])
    net = keras.Model(x, keras.layers.Dense(2, name="end")(joined))
    with pytest.raises(InputError, match=r"'cut' is bypassed \(sum takes a\)"):
        replace_front(net, encoder(), "cut", X)
    assert replace_front(net, encoder(), "sum", X, epochs=(0, 0)).model.get_layer("end")
    end = keras.layers.Concatenate(name="both")([cut, x])
    with pytest.raises(InputError, match="both takes x"):
        replace_front(keras.Model(x, end), encoder(), "cut", X)


def test_a_layer_that_is_used_on_both_sides_is_refused():
    x = keras.Input((5,))
    shared = keras.layers.Dense(5, name="shared")
    cut = keras.layers.ReLU(name="cut")(shared(x))
    net = keras.Model(x, keras.layers.Dense(2, name="end")(shared(cut)))
    with pytest.raises(InputError, match="'cut' is used before and after itself"):
        replace_front(net, encoder(), "cut", X[:, :5])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"at_layer": "none"}, "at_layer"),
        ({"at_layer": "end"}, "the output of the network"),
        ({"encoder": keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)])}, r"\(7,\), allowed.*\(6,\)"),
        ({"encoder": 3}, "encoder: got 3"),
        ({"data": X[:, :4]}, "data"),
        ({"data": X * np.nan}, "NaN"),
        ({"labels": np.zeros(3, int)}, "labels"),
        ({"epochs": 4}, "epochs"),
        ({"learning_rate": (0, 1)}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    given = {"network": network(), "encoder": encoder(), "at_layer": "cut", "data": X, **arguments}
    with pytest.raises(InputError, match=words) as error:
        replace_front(**given)
    assert "\n" not in str(error.value)
