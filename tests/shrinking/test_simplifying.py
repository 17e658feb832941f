"""Which activations there are, others in their place, and the plan that measures first."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.shrinking.activation_plan import ActivationPlan
from keras_aeprune.shrinking.simplifying import activations, relu_states, replaced, simplify

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")


def same(model, other, x=X, atol=1e-6):
    for one, two in zip(keras.tree.flatten(model(x)), keras.tree.flatten(other(x)), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=atol)


def planned(model, data=X, **options):
    return simplify(model, data, loss="mse", progress=False, **options)


def relu_net(bias):
    """relu of x + bias with units one below the other, then a sum."""
    model = keras.Sequential([keras.Input((1,)), kl.Dense(len(bias), "relu", name="a"), kl.Dense(1, name="b")])
    model.set_weights([np.ones((1, len(bias))), np.array(bias), np.ones((len(bias), 1)), np.zeros(1)])
    return model


def test_all_kinds_of_layers_are_named():
    keras.backend.clear_session()  # operations without a name are numbered through the whole process
    inputs = keras.Input((6, 4))
    x = kl.Conv1D(4, 3, activation="gelu", name="conv")(inputs)
    x = kl.Activation("silu", name="act")(x)
    x = kl.ReLU(6, name="six")(x)
    x = kl.ReLU(negative_slope=0.1, name="slope")(x)
    x = kl.ReLU(3, name="three")(x)
    x = kl.PReLU(name="prelu")(x)
    x = kl.ELU(name="elu")(x)
    x = kl.TimeDistributed(kl.Dense(4, "tanh", name="in"), name="steps")(x)
    x = kl.MultiHeadAttention(2, 2, name="mha")(x, x)
    x = kl.Bidirectional(kl.LSTM(2, return_sequences=True, name="l"), name="two")(x)
    x = kl.SimpleRNN(2, name="rnn")(x)
    x = kl.Softmax(name="soft")(kl.Dense(3, lambda z: z * 2, name="own")(x))
    assert activations(keras.Model(inputs, x)) == {
        "conv": "gelu",
        "act": "silu",
        "six": "relu6",
        "slope": "leaky_relu",
        "three": "relu(max_value=3, negative_slope=0.0, threshold=0.0)",
        "prelu": "prelu",
        "elu": "elu",
        "mha/softmax": "softmax (fixed: inside of mha)",
        "steps/in": "tanh",
        "two/forward_l": "tanh, sigmoid (fixed: recurrent)",
        "two/backward_l": "tanh, sigmoid (fixed: recurrent)",
        "rnn": "tanh (fixed: recurrent)",
        "own": "<lambda>",
        "soft": "softmax",
    }


def test_replacing_keeps_kind_weights_and_compilation_and_leaves_the_given_model_alone():
    model = keras.Sequential([keras.Input((6,)), kl.Dense(5, "gelu", name="a"), kl.ELU(name="b"), kl.Dense(2)])
    model.compile(keras.optimizers.SGD(0.5), "mae", metrics=["mse"])
    outputs = np.array(model(X))
    new = replaced(model, {"a": "tanh", "b": "linear"})
    assert type(new) is keras.Sequential and [layer.name for layer in new.layers] == ["a", model.layers[2].name]
    w, b, v, c = model.get_weights()
    np.testing.assert_allclose(new(X), np.tanh(X @ w + b) @ v + c, atol=1e-5)
    assert new.loss == "mae" and float(new.optimizer.learning_rate) == 0.5
    new.fit(X, X[:, :2], verbose=0)
    np.testing.assert_array_equal(model(X), outputs)
    assert list(activations(model).values()) == ["gelu", "elu", "linear"]


def test_replacing_reaches_into_nested_models_and_wrappers():
    model = models.dense((6,), 2, hidden_units=(4,), output_activation="sigmoid")
    new = replaced(model, {"encoder": "tanh", "decoder/out*": "linear"})
    assert {p: n for p, n in activations(new).items() if "hidden" in p} == {
        "encoder/hidden_1": "tanh",
        "decoder/hidden_1": "relu",
    }
    np.testing.assert_allclose(new.decoder(new.encoder(X)), new(X), atol=1e-6)
    for old, weights in zip(model.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_array_equal(old, weights)
    steps = keras.Sequential(
        [keras.Input((3, 6)), kl.TimeDistributed(kl.Dense(2, "relu", name="in"), name="t"),
         kl.TimeDistributed(kl.ReLU(name="in"), name="u")]
    )  # fmt: skip
    new, x = replaced(steps, {"t": "elu", "u": "linear"}), X[:63].reshape(21, 3, 6)
    assert activations(new) == {"t/in": "elu"}
    z = x @ steps.layers[0].layer.kernel.numpy()
    np.testing.assert_allclose(new(x), np.where(z > 0, z, np.expm1(z)), atol=1e-5)


def test_layers_that_compute_nothing_leave_functional_graphs_too():
    inputs = keras.Input((6,))
    shared = kl.ReLU(name="shared")
    x = kl.PReLU(name="prelu")(shared(kl.Dense(6, name="a")(inputs)))
    one, two = kl.Activation("relu", name="one")(shared(x)), kl.Add(name="two")([x, inputs])
    model = keras.Model(inputs, [one, two])
    model.compile("sgd", {"one": "mse", "two": "mae"})
    new = replaced(model, {"shared": "linear", "prelu": "linear", "one": "linear"})
    z = np.array(model.get_layer("a")(X))
    same(new, lambda x: [z, z + X], atol=1e-6)
    assert not {"shared", "prelu"} & {layer.name for layer in new.layers}
    assert new.output_names == ["one", "two"]
    new.fit(X, {"one": X, "two": X}, verbose=0)


def test_a_leaky_layer_keeps_its_slope_where_the_name_is_the_same():
    model = keras.Sequential([keras.Input((6,)), kl.LeakyReLU(0.45, name="a"), kl.Dense(2, name="b")])
    assert replaced(model, {"*": "leaky_relu"}).get_layer("a").negative_slope == pytest.approx(0.45)


def test_a_subclassed_model_becomes_a_functional_one():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = kl.Dense(4, "silu", name="a"), kl.Dense(6, name="b")

        def call(self, x):
            return self.b(self.a(x)) + x

    own = Own()
    own(X)
    w, b, v, c = own.get_weights()
    np.testing.assert_allclose(replaced(own, {"a": "relu"})(X), np.maximum(X @ w + b, 0) @ v + c + X, atol=1e-5)
    assert len(planned(own, rules=("silu->relu",), max_error_increase=9).changes) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"c": "relu"}, "what fits one of: a, b$"),
        ({"a": "rely"}, "the name of a Keras activation: .*gelu, .*tanh"),
        ({"a": "glu"}, "the name of a Keras activation"),
        ({"r": "relu"}, "r is fixed: recurrent"),
        (["a"], "a dict"),
        ({3: "relu"}, "what fits one of"),
    ],
)
def test_unknown_layers_and_names_are_refused_with_the_list(names, message):
    model = keras.Sequential([keras.Input((5, 6)), kl.Dense(2, name="a"), kl.GRU(2, name="r"), kl.ReLU(name="b")])
    with pytest.raises(InputError, match=message):
        replaced(model, names)


def test_states_are_the_shares_of_samples_and_positions():
    inputs = keras.Input((5, 6))
    act = kl.ReLU(name="act")
    x = kl.Conv1D(4, 2, activation="relu", name="conv")(inputs)
    x = kl.TimeDistributed(kl.Dense(3, "gelu", name="in"), name="steps")(x)
    model = keras.Model(inputs, kl.Dense(2)(act(kl.BatchNormalization(name="bn")(act(x)))))
    data = np.random.default_rng(1).normal(size=(300, 5, 6)).astype("float32")
    found = relu_states(model, data)
    get = model.get_layer
    conv = get("conv")
    z = np.array(keras.ops.conv(data, conv.kernel, 1, "valid")) + conv.bias.numpy()
    np.testing.assert_allclose(found["conv"].on, (z > 0).mean((0, 1)))
    inner = get("steps").layer
    z = np.maximum(z, 0) @ inner.kernel.numpy() + inner.bias.numpy()
    np.testing.assert_allclose(found["steps/in"].on, (z > 0).mean((0, 1)))
    first = np.array(keras.activations.gelu(z))
    second = np.array(get("bn")(np.maximum(first, 0)))
    np.testing.assert_allclose(found["act"].on, ((first > 0).mean((0, 1)) + (second > 0).mean((0, 1))) / 2)
    assert callable(get("conv").activation) and get("conv").activation.__name__ == "relu"


def test_units_are_sorted_into_always_on_always_off_and_mixed():
    found = relu_states(relu_net([9.0, -9.0, 0.0, -0.5]), np.array([[-1.0], [1.0], [2.0], [3.0]]))["a"]
    assert found.on.tolist() == [1.0, 0.0, 0.75, 0.75]
    assert [part.tolist() for part in (found.always_on, found.always_off, found.mixed)] == [[0], [1], [2, 3]]


def test_relu_becomes_linear_where_live_units_are_on_and_dead_ones_are_silenced():
    model, x = relu_net([9.0, -9.0, 8.0]), np.array([[-1.0], [1.0], [2.0]], "float32")
    plan = planned(model, x, max_error_increase=0)
    (change,) = plan.changes
    assert (change.before, change.after, change.off, change.difference) == ("relu", "linear", (1,), 0.0)
    new = plan.apply(model)
    same(model, new, x)
    np.testing.assert_allclose(new(np.array([[-50.0]])), [[-83.0]])  # -50 + 9 - 50 + 8, the dead unit adds nothing
    plan = planned(relu_net([9.0, 0.0]), x)
    assert not plan.changes and plan.refused[0].why == "1 units always ON, 0 always OFF, 1 mixed"


def test_convolutions_are_silenced_along_their_filters():
    for layer in (kl.Conv2D(4, 3, activation="relu"), kl.Conv2DTranspose(4, 3, activation="relu")):
        model = keras.Sequential([keras.Input((5, 5, 2)), layer, kl.Flatten(), kl.Dense(3)])
        layer.bias.assign([50.0, -50.0, 50.0, -50.0])
        x = np.random.default_rng(0).normal(size=(8, 5, 5, 2)).astype("float32")
        plan = planned(model, (x, np.zeros((8, 3))), max_error_increase=1e-6)
        assert [change.off for change in plan.changes] == [(1, 3)]
        same(model, plan.apply(model), x, atol=1e-4)


def test_errors_of_a_plan_are_those_of_the_changed_models():
    keras.utils.set_random_seed(3)
    model = models.dense((6,), 3, hidden_units=(8, 5), activation="gelu", output_activation="linear")
    plan = planned(model, max_error_increase=5.0)
    assert [change.why.startswith("relu is fused") for change in plan.changes] == [True] * 4
    given, now = np.array(model(X)), model
    for change in plan.changes:
        before = np.mean(np.square(now(X) - X))
        now = replaced(now, {change.path: change.after})
        assert (change.loss_before, change.loss_after) == pytest.approx(
            (before, np.mean(np.square(now(X) - X))), rel=1e-4
        )
        assert change.difference == pytest.approx(np.mean(np.square(now(X) - given)), rel=1e-4)
    same(plan.apply(model), now)


def test_changes_above_the_limit_are_refused_with_the_figure_and_less_harmful_ones_come_first():
    model = relu_net([0.0, 0.0])
    x = np.array([[-2.0], [1.0], [2.0]], "float32")
    y = np.maximum(x, 0) * 2 + 1  # loss 1; with a linear: mean of 25, 1, 1 is 9; with b relu as well: 1
    plan = planned(model, (x, y), names={"a": "linear", "b": "relu"}, max_error_increase=0)
    assert [(c.path, c.loss_before, c.loss_after) for c in plan.changes] == [("b", 1.0, 1.0), ("a", 1.0, 1.0)]
    plan = planned(model, (x, y), names={"a": "linear"}, max_error_increase=7.9)
    assert not plan.changes and (plan.refused[0].loss_before, plan.refused[0].loss_after) == (1.0, 9.0)
    assert plan.refused[0].why == "named; loss above the limit of 8.9"
    assert len(planned(model, (x, y), names={"a": "linear"}, max_error_increase=8).changes) == 1


def test_outputs_and_leaky_layers_after_transposed_convolutions_are_kept():
    inputs = keras.Input((4, 4, 2))
    x = kl.LeakyReLU(name="first")(kl.Conv2D(2, 3, name="conv")(inputs))
    x = kl.BatchNormalization()(kl.Conv2DTranspose(2, 3, name="up")(x))
    x = kl.LeakyReLU(name="second")(x)
    x = kl.LeakyReLU(name="third")(x)
    x = kl.Conv2DTranspose(2, 3, padding="same", activation="leaky_relu", name="fourth")(x)
    model = keras.Model(inputs, kl.Conv2D(2, 1, activation="softplus", name="end")(x))
    data = np.random.default_rng(0).normal(size=(8, 4, 4, 2)).astype("float32")
    plan = planned(model, data, max_error_increase=99)
    assert sorted(change.path for change in plan.changes) == ["first", "third"]
    reasons = {change.path: change.why for change in plan.refused}
    assert set(reasons) == {"second", "fourth", "end"}
    assert "Conv2DTranspose" in reasons["second"] and "output" in reasons["end"]
    plan = planned(model, data, names={"second": "relu", "end": "sigmoid"}, rules=(), max_error_increase=99)
    assert {change.path for change in plan.changes} == {"second", "end"} and not plan.refused


def test_a_plan_survives_json_and_is_refused_for_another_model():
    model = relu_net([9.0, -9.0])
    plan = planned(
        model, np.ones((4, 1), "float32"), names={"b": "tanh"}, latency=lambda m: 5.0, max_error_increase=9
    )
    again = ActivationPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan and "relu" in str(plan) and str(plan) == str(again)
    with pytest.raises(InputError, match="model, b: got 'tanh', allowed: linear"):
        plan.apply(plan.apply(model)) if plan.changes[0].path == "b" else again.apply(
            replaced(model, {"b": "tanh"})
        )
    with pytest.raises(InputError, match="what ActivationPlan.to_dict gave"):
        ActivationPlan.from_dict({"format": 0})


def test_the_time_saved_is_told_where_it_is_measured():
    model = keras.Sequential(
        [keras.Input((6,)), kl.Dense(6, "gelu", name="a"), kl.Dense(6, "silu", name="b"), kl.Dense(6, name="c")]
    )
    cost = {"gelu": 7.0, "silu": 4.0, "relu": 1.0, "linear": 0.5}
    plan = planned(model, max_error_increase=99, latency=lambda m: sum(map(cost.get, activations(m).values())))
    assert {change.before: change.saved for change in plan.changes} == {"gelu": 6.0, "silu": 3.0}
    with pytest.raises(InputError, match="latency"):
        planned(model, max_error_increase=99, latency=lambda m: -1.0)


def test_the_compiled_loss_counts_and_the_model_is_left_as_it_was():
    model = models.dense((6,), 3, hidden_units=(8,), activation="silu", output_activation="linear")
    with pytest.raises(InputError, match="loss"):
        simplify(model, X, progress=False)
    model.compile("adam", "mae")
    before = [np.array(w) for w in model.get_weights()]
    plan = simplify(model, X, max_error_increase=9, progress=False)
    assert plan.settings["loss"] == pytest.approx(np.mean(np.abs(model(X) - X)), rel=1e-5)
    assert plan.settings["loss_after"] == pytest.approx(plan.apply(model).evaluate(X, X, verbose=0), rel=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert set(activations(model).values()) == {"silu", "linear"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": "gelu->relu"}, "a list of rules"),
        ({"rules": ("gelu",)}, "of the form"),
        ({"rules": ("nothing->relu",)}, "of the form"),
        ({"rules": ("gelu->nothing",)}, "the name of a Keras activation"),
        ({"max_error_increase": -0.1}, "max_error_increase"),
        ({"names": {"z": "relu"}}, "what fits one of"),
        ({"data": np.ones((3, 5))}, "data"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    model = keras.Sequential([keras.Input((6,)), kl.Dense(6, "gelu", name="a"), kl.Dense(6, name="b")])
    with pytest.raises(InputError, match=message):
        planned(model, **options)


def test_a_real_network_is_planned_in_seconds(real_data):
    model = keras.models.load_model(real_data / "models" / "gesture_mlp.keras", compile=False)
    x = np.random.default_rng(0).normal(size=(64, *model.input_shape[1:])).astype("float32")
    plan = planned(model, (x, np.array(model(x))), names={"*": "relu"}, max_error_increase=0)
    same(model, plan.apply(model), x, atol=1e-5)
