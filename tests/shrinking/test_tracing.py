"""What can go, what stays, and the reason that is told."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from keras_aeprune._validation import InputError
from keras_aeprune.shrinking.cutting import cut
from keras_aeprune.shrinking.passing import is_elementwise, passing
from keras_aeprune.shrinking.tracing import register, trace


@keras.saving.register_keras_serializable("test_tracing")
class Half(keras.layers.Layer):
    def call(self, x):
        return x / 2


def between(layer, shape=(5, 4)):
    """A layer between the one whose units could go and one that takes them."""
    x = keras.Input(shape)
    return keras.Model(x, kl.Dense(3, name="last")(layer(kl.Dense(8, name="k")(x))))


def over_steps(x):
    return keras.activations.softmax(x, axis=1)


WHOLE = {
    "layer_normalization": (lambda: kl.LayerNormalization(), "normalizes across its units"),
    "rms": (lambda: kl.RMSNormalization(), "normalizes across its units"),
    "unit": (lambda: kl.UnitNormalization(), "normalizes across its units"),
    "groups": (lambda: kl.GroupNormalization(4), "normalizes across its units"),
    "batch_over_steps": (lambda: kl.BatchNormalization(axis=1), "normalizes another axis"),
    "softmax": (lambda: kl.Softmax(), "mixes its units"),
    "softmax_activation": (lambda: kl.Activation("softmax"), "mixes its units"),
    "lambda": (lambda: kl.Lambda(lambda x: x[..., ::-1]), "kind without a rule"),
    "own": (lambda: Half(), "kind without a rule"),
    "normalization": (lambda: kl.Normalization(mean=[0.5] * 8, variance=[2.0] * 8), "kind without a rule"),
    "rescaling_by_channel": (lambda: kl.Rescaling(list(range(1, 9))), "a scale for each channel"),
    "einsum": (lambda: kl.EinsumDense("abc,cd->abd", (None, 8)), "kind without a rule"),
    "noise_shape": (lambda: kl.Dropout(0.5, noise_shape=(1, 5, 1)), "noise shape"),
    "grouped_convolution": (lambda: kl.Conv1D(8, 3, groups=2), "convolution in groups"),
    "dot": (lambda: lambda x: kl.Dot(axes=2)([x, x]), "kind without a rule"),
    "attention": (lambda: lambda x: kl.Attention()([x, x]), "kind without a rule"),
    "moved_among_steps": (lambda: kl.Reshape((8, 5)), ""),
    "mean_of_units": (lambda: lambda x: x - ops.mean(x, axis=-1, keepdims=True), "kind without a rule"),
    "some_of_them": (lambda: lambda x: x[:, :, :4], "kind without a rule"),
    "times_numbers": (lambda: lambda x: x * np.arange(1.0, 9.0, dtype="float32"), "array of constants"),
    "clip_by_numbers": (lambda: lambda x: ops.clip(x, np.zeros(8), np.ones(8)), "array of constants"),
    "repeated_channel": (lambda: lambda x: x * kl.Dense(1, name="one")(x), ""),
    "model_for_each_step": (lambda: kl.TimeDistributed(keras.Sequential([kl.Dense(8)])), "holds a Sequential"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_understood_is_left_whole_with_the_reason(law, name):
    make, reason = WHOLE[name]
    proof = law(between(make()), save=name not in ("lambda", "clip_by_numbers"))
    reasons = proof.reasons
    assert "output of the model" in reasons["last"]
    if reason:
        assert reason in reasons["k"], reasons
        assert "k" not in proof.sizes


def test_a_channel_that_is_repeated_stays(law):
    proof = law(between(WHOLE["repeated_channel"][0]()))
    assert proof.sizes == {"k": 8}
    assert "repeats its only channel" in proof.reasons["one"]


def test_units_that_are_moved_among_steps_go_together():
    groups = {group.name: group for group in trace(between(kl.Reshape((8, 5)))).groups}
    assert groups["k"].size == 1  # each new channel holds numbers of all of them


def test_softmax_over_the_only_axis_mixes_units():
    x = keras.Input((6,))
    for function in (kl.Softmax(axis=1), kl.Activation(over_steps)):
        groups = trace(keras.Model(x, kl.Dense(2)(function(kl.Dense(8, name="k")(x))))).groups
        assert "mixes its units" in groups[0].reason
    groups = trace(keras.Model(x, kl.Dense(2)(kl.Dense(8, over_steps, name="k")(x)))).groups
    assert "mixes its units" in groups[0].reason


def test_an_activation_with_a_number_for_each_channel_mixes_them_as_it_cannot_be_cut():
    slopes = np.arange(6, dtype="float32")
    x = keras.Input((6,))
    groups = trace(keras.Model(x, kl.Dense(2)(kl.Dense(6, lambda y: y * slopes, name="k")(x)))).groups
    assert "mixes its units" in groups[0].reason


def test_elementwise_is_tried_at_the_rank_of_the_data():
    assert is_elementwise(kl.Softmax(axis=1), rank=2)
    assert not is_elementwise(kl.Softmax(axis=1), rank=1)
    assert not is_elementwise(kl.Softmax(axis=3), rank=3)
    assert not is_elementwise(lambda x: x[..., :3])
    assert is_elementwise(None)


def test_normalizing_over_the_kept_units_can_be_accepted():
    rng = np.random.default_rng(0)
    for layer in (kl.LayerNormalization(), kl.RMSNormalization(), kl.UnitNormalization(), kl.Softmax()):
        model = between(layer)
        for variable in model.weights:
            variable.assign(rng.normal(size=variable.shape))
        traced = trace(model, accept_normalization=True)
        first = traced.groups[0]
        assert (first.name, first.size, first.reason) == ("k", 8, "")
        kept = traced.kept(first.classes[::2])
        small = cut(traced, kept)
        x = rng.normal(size=(3, 5, 4)).astype("float32")
        w, b = (np.array(v)[..., 1::2] for v in model.get_layer("k").weights)
        h = x @ w + b
        numbers = [np.array(v)[1::2] for v in layer.weights]
        if isinstance(layer, kl.LayerNormalization):
            h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + layer.epsilon)
            h = h * numbers[0] + numbers[1]
        elif isinstance(layer, kl.RMSNormalization):
            h = h / np.sqrt((h**2).mean(-1, keepdims=True) + layer.epsilon) * numbers[0]
        elif isinstance(layer, kl.UnitNormalization):
            h = h / np.sqrt((h**2).sum(-1, keepdims=True))
        else:
            h = np.exp(h) / np.exp(h).sum(-1, keepdims=True)
        w, b = (np.array(v) for v in model.get_layer("last").weights)
        np.testing.assert_allclose(np.asarray(small(x)), h @ w[1::2] + b, atol=1e-4)


def test_groups_of_channels_stay_even_where_normalization_is_accepted():
    groups = trace(between(kl.GroupNormalization(4)), accept_normalization=True).groups
    assert "normalizes across" in groups[0].reason


@pytest.mark.parametrize(
    "layer",
    [
        kl.Conv2D(4, 2, data_format="channels_first"),
        kl.Conv2DTranspose(4, 2, data_format="channels_first"),
        kl.DepthwiseConv2D(2, data_format="channels_first"),
        kl.SeparableConv2D(4, 2, data_format="channels_first"),
        kl.MaxPooling2D(data_format="channels_first"),
        kl.ZeroPadding2D(data_format="channels_first"),
        kl.Flatten(data_format="channels_first"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_channels_first_is_left_whole(layer):
    x = keras.Input((6, 6, 6))
    model = keras.Model(x, layer(kl.Conv2D(6, 1, name="k")(x)))
    assert "channels first" in trace(model).groups[0].reason


def test_units_over_an_axis_of_unknown_length_stay(law):
    x = keras.Input((None, 4))
    model = keras.Model(x, kl.Dense(2)(kl.Reshape((-1, 4))(kl.Dense(8, name="k")(x))))
    assert "unknown length" in law(model).reasons["k"]


def test_a_layer_that_is_called_by_itself_and_for_each_step_is_left_whole():
    for first in (True, False):
        x, both = keras.Input((5, 4)), kl.Dense(4, name="both")
        calls = [both, kl.TimeDistributed(both, name="each")]
        y = calls[not first](kl.Dense(4, name="k")(calls[first](x)))
        model = keras.Model(x, kl.Dense(2)(y))
        traced = trace(model)
        assert all(group.reason for group in traced.groups)
        assert {group.name for group in traced.groups} >= {"k"}
        value = np.ones((2, 5, 4), "float32")
        np.testing.assert_allclose(
            np.array(cut(traced, traced.kept([]))(value)), np.asarray(model(value)), rtol=1e-6
        )


def test_a_registered_layer_lets_units_pass(law, monkeypatch):
    monkeypatch.setattr("keras_aeprune.shrinking.tracing._RULES", {**trace.__globals__["_RULES"]})
    register(Half, passing)
    assert law(between(Half())).sizes == {"k": 8}


def test_only_layer_classes_can_be_registered():
    with pytest.raises(InputError, match="layer_class"):
        register(Half(), passing)


def test_a_subclass_of_a_known_layer_is_not_taken_for_it(law):
    class Squared(kl.Dense):
        def call(self, inputs, training=None):
            return super().call(inputs) * super().call(inputs[..., ::-1])

    proof = law(between(Squared(8, name="own")), save=False)
    assert not proof.sizes


def test_groups_are_listed_with_all_who_make_them():
    x = keras.Input((6,))
    a, b = kl.Dense(4, name="a")(x), kl.Dense(4, name="b")(x)
    side_by_side = kl.Concatenate()([kl.Dense(3, name="c")(x), kl.Dense(1, name="d")(x)])
    y = kl.Add()([kl.Add()([a, b]), side_by_side])
    groups = trace(keras.Model(x, kl.Dense(2, name="out")(y))).groups
    assert [(g.name, [name for name, _ in g.makers], g.size) for g in groups] == [
        ("c", ["c", "a", "b"], 3),
        ("d", ["d", "a", "b"], 1),
        ("out", ["out"], 2),
    ]


def test_what_is_both_inside_and_an_output_stays():
    x = keras.Input((6,))
    a = kl.Dense(4, name="a")(x)
    groups = trace(keras.Model(x, [a, kl.Dense(2)(a)])).groups
    assert [group.reason for group in groups] == ["output of the model"] * 2


def test_what_meets_an_input_stays():
    x = keras.Input((6,))
    groups = trace(keras.Model(x, kl.Dense(2)(kl.Add()([x, kl.Dense(6, name="a")(x)])))).groups
    assert groups[0].reason == "input of the model"


def test_a_traced_model_can_be_trained_on():
    model = between(kl.ReLU())
    before = [type(layer) for layer in model.layers], model.count_params()
    trace(model)
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 5, 4)), np.ones((4, 5, 3)), verbose=0)
    assert ([type(layer) for layer in model.layers], model.count_params()) == before
