"""Policies: which layers are wrapped, and which models are refused in tfmot's words."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from small_models import half, train, wrappers, zeros

from keras_aeprune._validation import InputError
from keras_aeprune.sparsity import (
    PruneForLatencyOnXNNPack,
    PruneLowMagnitude,
    PruningPolicy,
    collect_prunable_layers,
    prune_low_magnitude,
)

NO_START = (
    "Could not find `Conv2D 3x3` layer with stride 2x2, `input filters == 3` and `VALID` padding and preceding "
    "`ZeroPadding2D` with `padding == 1` in all input branches of the model"
)
NO_STOP = "Could not find a `GlobalAveragePooling2D` layer in all output branches"
BETWEEN = "Layer {} is not supported for the PruneForLatencyOnXNNPack pruning policy"


def start(tensor, filters=4, padded=True, **changed):
    tensor = kl.ZeroPadding2D(1)(tensor) if padded else tensor
    return kl.Conv2D(filters, **{"kernel_size": 3, "strides": 2, "padding": "valid", **changed})(tensor)


def built(middle, begin=start, end=None, channels=3):
    inputs = keras.Input((8, 8, channels))
    end = kl.GlobalAveragePooling2D() if end is None else end
    return keras.Model(inputs, end(middle(begin(inputs))))


def point(filters=4, **kwargs):
    return kl.Conv2D(filters, 1, **kwargs)


def prune(model):
    return prune_low_magnitude(model, half(), pruning_policy=PruneForLatencyOnXNNPack())


def refused(model):
    with pytest.raises(InputError) as error:
        prune(model)
    return str(error.value)


@pytest.mark.parametrize(
    "begin",
    [
        lambda x: start(x, padded=False, padding="same"),
        lambda x: start(x, padded=False),
        lambda x: start(x, padding="same"),
        lambda x: start(x, strides=1),
        lambda x: start(x, kernel_size=5),
        lambda x: kl.Conv2D(4, 3, strides=2)(kl.ZeroPadding2D(2)(x)),
        lambda x: kl.Conv2D(4, 3, strides=2)(kl.ZeroPadding2D(((0, 1), (0, 1)))(x)),
    ],
)
def test_a_model_without_the_first_convolution_is_refused(begin):
    assert refused(built(point(), begin)) == NO_START


def test_a_first_convolution_over_one_channel_is_refused():
    assert refused(built(point(), channels=1)) == NO_START


def test_every_input_needs_its_first_convolution():
    one, other = keras.Input((8, 8, 3)), keras.Input((4, 4, 4))
    joined = kl.Add()([point()(start(one)), point()(other)])
    assert refused(keras.Model([one, other], kl.GlobalAveragePooling2D()(joined))) == NO_START


def test_a_model_without_the_pooling_at_its_end_is_refused():
    assert refused(built(point(), end=kl.AveragePooling2D(2))) == NO_STOP


def test_every_output_needs_the_pooling():
    inputs = keras.Input((8, 8, 3))
    x = start(inputs)
    model = keras.Model(inputs, [kl.GlobalAveragePooling2D()(x), kl.AveragePooling2D(2)(x)])
    assert refused(model) == NO_STOP


@pytest.mark.parametrize(
    "layer",
    [
        kl.MaxPooling2D(2),
        kl.Conv2D(4, 3),
        point(strides=2),
        kl.Conv2D(4, 1, groups=2),
        kl.DepthwiseConv2D(3, padding="valid"),
        kl.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        kl.DepthwiseConv2D(7, padding="same"),
        kl.DepthwiseConv2D(3, padding="same", dilation_rate=2),
        kl.Activation("tanh"),
        kl.UpSampling2D(interpolation="nearest"),
        kl.BatchNormalization(axis=1),
        kl.Dense(4),
    ],
    ids=lambda layer: layer.name,
)
def test_a_layer_that_does_not_run_sparse_between_them_is_refused_by_name(layer):
    assert refused(built(layer)) == BETWEEN.format(type(layer).__name__)


@pytest.mark.parametrize(
    "layer",
    [
        kl.DepthwiseConv2D(3, padding="same"),
        kl.DepthwiseConv2D(5, padding="same"),
        kl.BatchNormalization(),
        kl.ReLU(6.0),
        kl.LeakyReLU(),
        kl.ELU(),
        kl.Dropout(0.1),
        kl.Activation("relu"),
        kl.Activation("sigmoid"),
        kl.UpSampling2D(interpolation="bilinear"),
        point(activation="relu"),
    ],
    ids=lambda layer: layer.name,
)
def test_layers_that_run_sparse_are_let_through(layer):
    assert len(wrappers(prune(built(layer)))) == isinstance(layer, kl.Conv2D)


@pytest.mark.parametrize(("size", "padding", "strides"), [(3, 1, 1), (3, 1, 2), (5, 2, 2)])
def test_a_depthwise_convolution_behind_the_fitting_padding_is_let_through(size, padding, strides):
    inputs = keras.Input((16, 16, 3))
    x = kl.ZeroPadding2D(padding)(start(inputs))
    x = point()(kl.DepthwiseConv2D(size, strides=strides)(x))
    assert len(wrappers(prune(keras.Model(inputs, kl.GlobalAveragePooling2D()(x))))) == 1


def test_a_sequential_model_is_refused_until_it_is_built():
    def stack():
        return [
            kl.ZeroPadding2D(1),
            kl.Conv2D(4, 3, strides=2),
            kl.DepthwiseConv2D(3, padding="same"),
            point(8),
            kl.GlobalAveragePooling2D(),
        ]

    assert refused(keras.Sequential(stack())) == "Unbuilt models are not supported currently."
    pruned = prune(keras.Sequential([keras.Input((8, 8, 3)), *stack()]))
    assert [type(layer.layer).__name__ for layer in wrappers(pruned)] == ["Conv2D"]
    assert zeros(train(pruned)) == [0.5]


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.only = point()

        def call(self, inputs):
            return self.only(inputs)

    model = Own()
    model.build((None, 4, 4, 3))
    assert refused(model) == "Subclassed models are not supported currently."


def test_models_inside_the_model_are_pruned_too():
    inner = keras.Sequential([keras.Input((4, 4, 4)), point(8), point(4)], name="inner")
    assert len(collect_prunable_layers(prune(built(inner)))) == 2


def test_what_does_not_run_sparse_in_a_model_inside_is_refused():
    inner = keras.Sequential([keras.Input((4, 4, 4)), kl.MaxPooling2D(2), point(4)], name="inner")
    assert refused(built(inner)) == BETWEEN.format("MaxPooling2D")


def test_a_reused_convolution_is_wrapped_once():
    shared = point()
    assert len(wrappers(prune(built(lambda x: shared(shared(x)))))) == 1


def test_a_model_without_a_fitting_layer_is_let_through_unchanged():
    model = built(lambda x: kl.Activation("relu")(kl.DepthwiseConv2D(3, padding="same")(x)))
    assert wrappers(prune(model)) == []


def test_a_clone_is_pruned_like_its_model():
    assert len(wrappers(prune(keras.models.clone_model(built(point()))))) == 1


def test_sums_differences_and_products_of_tensors_are_let_through():
    def middle(x):
        residual = point()(x)
        return kl.Identity()(((x + residual) - residual) * residual)

    assert len(wrappers(prune(built(middle)))) == 1


def test_pruning_twice_wraps_once():
    assert len(wrappers(prune(prune(built(point()))))) == 1


def two_inputs():
    first, second = keras.Input((16, 16, 3)), keras.Input((16, 16, 3))
    left = start(first, 8)
    left = kl.Add()([kl.DepthwiseConv2D(3, padding="same")(left), point(8, name="p1")(left)])
    right = kl.DepthwiseConv2D(3, strides=2)(kl.ZeroPadding2D(1)(start(second, 4)))
    gate = point(6, name="p2")(kl.GlobalAveragePooling2D(keepdims=True)(right))
    wide = kl.UpSampling2D(interpolation="bilinear")(point(6, name="p3")(right))
    right = point(8, name="p4")(kl.Multiply()([kl.Activation("sigmoid")(gate), wide]))
    pooled = kl.GlobalAveragePooling2D(keepdims=True)(kl.Add()([left, right]))
    return keras.Model([first, second], [point(7, name="p5")(pooled), point(3, name="p6")(pooled)])


def test_branches_with_gates_and_two_heads_are_pruned_in_every_pointwise_convolution():
    names = [layer.layer.name for layer in wrappers(prune(two_inputs()))]
    assert sorted(names) == ["p1", "p2", "p3", "p4", "p5", "p6"]


def test_a_policy_of_ones_own_chooses_the_layers():
    class OnlyLast(PruningPolicy):
        def allow_pruning(self, layer):
            return layer.name == "last"

        def ensure_model_supports_pruning(self, model):
            if len(model.layers) < 2:
                raise ValueError("too short")

    model = keras.Sequential([keras.Input((6,)), kl.Dense(6), kl.Dense(6, name="last")])
    pruned = prune_low_magnitude(model, half(), pruning_policy=OnlyLast())
    assert [isinstance(layer, PruneLowMagnitude) for layer in pruned.layers] == [False, True]
    with pytest.raises(ValueError, match="too short"):
        prune_low_magnitude(keras.Sequential([keras.Input((6,)), kl.Dense(6)]), half(), pruning_policy=OnlyLast())


def test_a_policy_must_answer_both_questions():
    with pytest.raises(TypeError, match="abstract"):
        PruningPolicy()


def test_a_policy_of_ones_own_chooses_in_subclassed_models_too():
    class Last(PruningPolicy):
        def allow_pruning(self, layer):
            return layer.name == "last"

        def ensure_model_supports_pruning(self, model):
            pass

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = kl.Dense(6), kl.Dense(6, name="last")

        def call(self, inputs):
            return self.last(self.first(inputs))

    model = Own()
    model(np.zeros((1, 6)))
    prune_low_magnitude(model, half(), pruning_policy=Last())
    assert [layer.kernel.constraint is None for layer in (model.first, model.last)] == [True, False]
