"""Configs of Keras 2, mended entry by entry; expected values are written by hand."""

import copy

import keras
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.models.legacy import mend


def layer(kind, **config):
    name = config.setdefault("name", kind.lower())
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": []}


def sequential(*layers):
    return {"class_name": "Sequential", "config": {"name": "s", "layers": list(layers)}}


def only(config):
    return mend(sequential(config))["config"]["layers"][-1]["config"]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN", "ConvLSTM2D"])
def test_time_major_is_dropped_where_it_says_the_default(kind):
    assert "time_major" not in only(layer(kind, units=3, time_major=False))
    with pytest.raises(InputError, match=rf"'{kind.lower()}' \({kind}\) has time_major=True, allowed: False"):
        mend(sequential(layer(kind, units=3, time_major=True)))


@pytest.mark.parametrize("kind", ["DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Conv1DTranspose"])
def test_groups_are_dropped_where_there_is_one(kind):
    assert "groups" not in only(layer(kind, groups=1))
    with pytest.raises(InputError, match="groups=2, allowed: 1"):
        mend(sequential(layer(kind, groups=2)))


def test_groups_of_a_convolution_stay():
    assert only(layer("Conv2D", groups=2))["groups"] == 2


def test_arguments_without_effect_are_dropped():
    config = only(layer("SeparableConv2D", kernel_initializer="zeros", depthwise_initializer="ones"))
    assert config == {"name": "separableconv2d", "depthwise_initializer": "ones"}


def test_a_gru_of_the_time_before_reset_after_has_it_off():
    assert only(layer("GRU", units=3))["reset_after"] is False
    assert only(layer("GRU", units=3, reset_after=True))["reset_after"] is True


def test_hard_sigmoid_is_refused_because_it_is_another_function_in_keras_3():
    assert float(keras.activations.hard_sigmoid(keras.ops.array(1.0))) == pytest.approx(1 / 6 + 0.5)  # was 0.7
    for key in ("activation", "recurrent_activation"):
        with pytest.raises(InputError, match=rf"{key}='hard_sigmoid'.*0\.2 x"):
            mend(sequential(layer("LSTM", units=3, **{key: "hard_sigmoid"})))


def test_a_missing_input_layer_is_inserted():
    first = layer("BatchNormalization", name="bn", batch_input_shape=[None, 32, 20, 3], dtype="float32")
    entrance, bn = mend(sequential(first))["config"]["layers"]
    assert entrance["class_name"] == "InputLayer"
    assert entrance["config"] == {"batch_shape": [None, 32, 20, 3], "dtype": "float32", "name": "bn_input"}
    assert "batch_input_shape" not in bn["config"]
    there = mend(sequential(layer("InputLayer", batch_input_shape=[None, 3]), layer("Dense", units=2)))
    assert [entry["class_name"] for entry in there["config"]["layers"]] == ["InputLayer", "Dense"]
    assert there["config"]["layers"][0]["config"]["batch_input_shape"] == [None, 3]


def test_a_sequential_that_is_a_bare_list_gets_a_name():
    mended = mend({"class_name": "Sequential", "config": [layer("Dense", units=2)]})
    assert mended["config"]["name"] == "sequential"
    assert mended["config"]["layers"][0]["class_name"] == "Dense"


def test_wrapped_layers_get_their_module_and_are_mended_too():
    inner = {"class_name": "LSTM", "config": {"name": "in", "units": 3, "time_major": False}}
    wrapped = only(layer("Bidirectional", layer=inner, backward_layer=inner))
    for key in ("layer", "backward_layer"):
        assert wrapped[key] == {
            "module": "keras.layers",
            "registered_name": None,
            "class_name": "LSTM",
            "config": {"name": "in", "units": 3},
        }
    cells = only(layer("StackedRNNCells", cells=[{"class_name": "GRUCell", "config": {"units": 2}}]))["cells"]
    assert cells[0]["module"] == "keras.layers"
    model = only(layer("TimeDistributed", layer=sequential(layer("Dense", units=2))))["layer"]
    assert (model["module"], model["class_name"]) == ("keras", "Sequential")


def test_mixed_precision_policies_become_names():
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    assert only(layer("Dense", units=2, dtype=policy))["dtype"] == "mixed_float16"


def nested(kind):
    """input -> inner model -> the same again -> dense; calls are counted as Keras 2 counts them."""
    inner = sequential(layer("Dense", units=2))["config"] if kind == "Sequential" else None
    inner = inner or {
        "name": "inner",
        "layers": [layer("InputLayer", name="i", batch_input_shape=[None, 2])],
        "input_layers": [["i", 0, 0]],
        "output_layers": [["i", 0, 0]],
    }
    model = {"class_name": kind, "name": "inner", "config": inner}
    layers = [
        layer("InputLayer", name="x", batch_input_shape=[None, 2]),
        {**model, "inbound_nodes": [[["x", 0, 0, {}]], [["inner", 1, 0, {}]]]},
        {**layer("Dense", units=2), "inbound_nodes": [[["inner", 2, 0, {}]]]},
    ]
    outputs = [["dense", 0, 0], ["inner", 2, 0]]
    config = {"name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": outputs}
    return {"class_name": "Model", "config": config}


@pytest.mark.parametrize(("kind", "output_call"), [("Functional", 2), ("Model", 2), ("Sequential", 1)])
def test_calls_of_inner_models_are_counted_from_0(kind, output_call):
    given = nested(kind)
    before = copy.deepcopy(given)
    mended = mend(given)
    assert given == before
    assert mended["class_name"] == "Functional"
    _, inner, dense = mended["config"]["layers"]
    assert inner["inbound_nodes"] == [[["x", 0, 0, {}]], [["inner", 0, 0, {}]]]
    assert dense["inbound_nodes"] == [[["inner", 1, 0, {}]]]
    assert mended["config"]["output_layers"] == [["dense", 0, 0], ["inner", output_call, 0]]
    assert mended["config"]["input_layers"] == ["x", 0, 0]  # one input is a tensor, not a list of one


@pytest.mark.parametrize("kind", ["Functional", "Sequential"])
def test_keras_3_builds_what_was_mended(kind):
    model = keras.Model.from_config(mend(nested(kind))["config"])
    assert [output.shape for output in model.outputs] == [(None, 2), (None, 2)]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"class_name": "Mine", "config": {}}, ("'Mine'", "Sequential")),
        (sequential(layer("Lambda", function="...")), ("'lambda'", "Python code")),
        (sequential(layer("LocallyConnected2D")), ("LocallyConnected2D", "Keras 3 has")),
        (sequential(layer("PruneLowMagnitude")), ("PruneLowMagnitude", "strip pruning")),
        (sequential(layer("TimeDistributed", layer=layer("Lambda", name="deep"))), ("'deep'", "Python code")),
    ],
)
def test_what_keras_3_cannot_have_is_refused_in_one_line(config, words):
    with pytest.raises(InputError) as error:
        mend(config)
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ([["x", 0, 0, {"value": ["x", 0, 0]}]], ("'dense'", "'value' by keyword")),
        ({"a": ["x", 0, 0, {}]}, ("'dense'", "one tensor or a list")),
    ],
)
def test_calls_that_keras_3_would_misread_are_refused(node, words):
    config = nested("Functional")
    config["config"]["layers"][2]["inbound_nodes"] = [node]
    with pytest.raises(InputError) as error:
        mend(config)
    for word in words:
        assert word in str(error.value)


def test_a_registered_layer_passes():
    @keras.saving.register_keras_serializable("legacy_test")
    class Mine(keras.layers.Layer):
        pass

    assert only(layer("legacy_test>Mine", size=3)) == {"name": "legacy_test>mine", "size": 3}
