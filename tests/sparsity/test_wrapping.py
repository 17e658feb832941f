"""What can be passed to prune_low_magnitude and strip_pruning, and what comes back."""

import json
import warnings

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers as kl
from small_models import batch, dense, half, train, wrappers, zeros

from keras_aeprune import models
from keras_aeprune.sparsity import (
    PruneLowMagnitude,
    collect_prunable_layers,
    prune_low_magnitude,
    prune_scope,
    strip_pruning,
)

ONLY = (
    "`prune_low_magnitude` can only prune an object of the following types: keras.models.Sequential, keras "
    "functional model, keras.layers.Layer, list of keras.layers.Layer. You passed an object of type: {}."
)


class Unknown(kl.Layer):
    """Weights of its own, and no word on which of them can be pruned."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], shape[-1]), initializer="random_normal")

    def call(self, inputs):
        return inputs @ self.matrix


class Two(keras.Model):
    def __init__(self):
        super().__init__(name="two")
        self.first = kl.Dense(5, activation="relu")
        self.second = kl.Dense(4)

    def call(self, inputs):
        return self.second(self.first(inputs))

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls()


def two_branches(names=("left", "right")):
    inputs = [keras.Input((6,)), keras.Input((6,))]
    left, right = (kl.Dense(6, name=name)(tensor) for name, tensor in zip(names, inputs, strict=True))
    return keras.Model(inputs, kl.Add()([left, right]))


def reused():
    inputs, shared = keras.Input((6,)), kl.Dense(6, name="shared")
    return keras.Model(inputs, shared(shared(inputs)))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_one_layer_is_wrapped_as_it_is():
    layer, schedule = kl.Dense(10), half()
    wrapped = prune_low_magnitude(layer, schedule, block_size=(1, 2), block_pooling_type="MAX", name="mine")
    assert wrapped.layer is layer
    assert wrapped.pruning_schedule is schedule
    assert (wrapped.block_size, wrapped.block_pooling_type, wrapped.name) == ((1, 2), "MAX", "mine")


def test_without_a_schedule_half_of_the_weights_go_at_once():
    schedule = prune_low_magnitude(kl.Dense(10)).pruning_schedule
    assert (schedule.target_sparsity, schedule.begin_step) == (0.5, 0)


def test_input_shape_builds_a_first_layer():
    model = keras.Sequential([prune_low_magnitude(kl.Dense(10), half(), input_shape=(6,))])
    assert model.built
    assert [len(layer.pruning_vars) for layer in model.layers] == [1]


def test_a_list_is_wrapped_layer_by_layer_and_wrapped_ones_stay():
    layers = [kl.Dense(10), kl.Dropout(0.4), prune_low_magnitude(kl.Dense(10), half())]
    wrapped = prune_low_magnitude(layers, half())
    assert [layer.layer for layer in wrapped[:2]] == layers[:2]
    assert wrapped[2] is layers[2]


def test_a_sequential_model_without_an_input_stays_unbuilt_and_builds_with_its_first_batch():
    model = keras.Sequential([kl.Dense(8), kl.Dropout(0.1), kl.Dense(6)])
    pruned = prune_low_magnitude(model, half())
    loaded = keras.models.model_from_json(pruned.to_json())
    assert (model.built, pruned.built, loaded.built) == (False, False, False)
    assert kinds(loaded) == kinds(pruned) == ["PruneLowMagnitude", "Dropout", "PruneLowMagnitude"]
    train(loaded, x=batch((8, 6)), y=batch((8, 6)))
    assert zeros(loaded) == [0.5, 0.5]


@pytest.mark.parametrize(("make", "wrapped"), [(dense, 2), (two_branches, 2), (reused, 1)])
def test_built_models_stay_built_and_each_layer_is_wrapped_once(make, wrapped):
    model = make()
    pruned = prune_low_magnitude(model, half())
    with prune_scope():
        loaded = keras.models.model_from_json(pruned.to_json())
    assert model.built and pruned.built and loaded.built
    assert len(wrappers(pruned)) == len(wrappers(loaded)) == wrapped
    assert wrappers(model) == []


def test_sums_of_tensors_a_frozen_sub_model_and_a_layer_of_two_sub_models_are_copied():
    shared, inputs = kl.Dense(6, name="shared"), keras.Input((6,), name="signal")
    left, right = (keras.Model(inputs, shared(inputs) * 2.0 + 1.0, name=name) for name in ("left", "right"))
    frozen = keras.Sequential([keras.Input((6,)), kl.Dense(6)], name="frozen")
    frozen.trainable = False
    model = keras.Model(inputs, frozen(left(inputs) + right(inputs)))
    pruned, x = prune_low_magnitude(model, half()), batch((4, 6))
    np.testing.assert_array_equal(pruned(x), model(x))
    assert pruned.get_layer("left").layers[1] is pruned.get_layer("right").layers[1]
    assert pruned.inputs[0].name == "signal"
    assert not pruned.get_layer("frozen").trainable
    assert (zeros(train(pruned)), len(pruned.trainable_variables)) == ([0.5], 2)
    model.trainable = False
    assert not prune_low_magnitude(model, half()).trainable


def test_a_subclassed_model_inside_a_model_is_copied_with_its_weights_and_pruned():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, Two()(inputs))
    pruned, x = prune_low_magnitude(model, half()), batch((4, 6))
    np.testing.assert_array_equal(pruned(x), model(x))
    assert zeros(train(pruned)) == [0.5, 0.5]
    np.testing.assert_array_equal(strip_pruning(pruned)(x), pruned(x))
    assert np.count_nonzero(model.layers[1].first.kernel) == 30


def test_a_layer_that_cannot_be_made_again_is_refused_by_name():
    class Grows(kl.Dense):
        def build(self, shape):
            super().build(shape)
            self.more = [self.add_weight(shape=(1,)) for _ in range(len(built) + 1)]
            built.append(self)

    built = []
    model = keras.Sequential([keras.Input((6,)), Grows(3, name="grows")])
    with pytest.raises(ValueError, match=r"'grows' \(Grows\): its copy has 4 weights instead of 3"):
        prune_low_magnitude(model, half())


def test_a_reused_layer_counts_each_update_once():
    pruned = train(prune_low_magnitude(reused(), half()), steps=3)
    assert [int(layer.pruning_step.numpy()) for layer in wrappers(pruned)] == [3]


def test_nested_models_are_pruned_inside_and_keep_their_names_and_halves():
    autoencoder = models.dense((6,), 2, hidden_units=(4,))
    pruned = prune_low_magnitude(autoencoder, half())
    assert pruned.encoder is pruned.get_layer("encoder")
    assert pruned.decoder is pruned.get_layer("decoder")
    train(pruned)
    assert zeros(pruned) == [0.5] * 4
    stripped = strip_pruning(pruned)
    assert collect_prunable_layers(stripped) == []
    assert [layer.name for layer in stripped.encoder.layers] == [x.name for x in autoencoder.encoder.layers]
    x = batch((3, 6))
    np.testing.assert_array_equal(stripped.decoder(stripped.encoder(x)), pruned(x))


def test_wrapped_layers_in_a_model_are_not_wrapped_again():
    model = keras.Sequential([keras.Input((6,)), kl.Dense(8), prune_low_magnitude(kl.Dense(6), half())])
    twice = prune_low_magnitude(prune_low_magnitude(model, half()), half())
    assert len(collect_prunable_layers(twice)) == 2
    assert all(isinstance(layer.layer, kl.Dense) for layer in collect_prunable_layers(twice))


def test_a_pruned_copy_gives_the_same_outputs_has_no_optimizer_and_leaves_the_model_alone():
    model = train(dense())
    before = [w.copy() for w in model.get_weights()]
    pruned = prune_low_magnitude(model, half())
    x = batch((5, 6))
    np.testing.assert_array_equal(model.predict(x, verbose=0), pruned.predict(x, verbose=0))
    assert pruned.optimizer is None and not pruned.compiled
    assert model.optimizer is not None and model.compiled
    train(pruned)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert model.layers[0].kernel.constraint is None


def test_a_model_of_an_own_class_stays_of_its_class():
    class Own(keras.Model):
        def train_step(self, data):
            self.updates = getattr(self, "updates", 0) + 1
            return super().train_step(data)

    inputs = keras.Input((6,))
    pruned = train(prune_low_magnitude(Own(inputs, kl.Dense(6)(inputs)), half()))
    assert type(pruned) is Own
    assert (pruned.updates, zeros(pruned)) == (1, [0.5])


def test_a_subclassed_model_gets_masks_on_its_variables_and_is_given_back():
    model, x = Two(), batch((8, 6))
    model(x)
    assert prune_low_magnitude(model, half(target_sparsity=0.75)) is model
    with pytest.warns(UserWarning, match="support"):  # XLA cannot run NumPy, and Keras is told so
        model.compile("sgd", "mse", jit_compile=True)
    model.fit(x, batch((8, 4)), verbose=0)
    kernels = [layer.kernel for layer in (model.first, model.second)]
    assert [np.mean(kernel.numpy() == 0) for kernel in kernels] == pytest.approx([0.75, 0.75], abs=0.02)
    assert strip_pruning(model) is model
    assert all(kernel.constraint is None for kernel in kernels)


def test_layers_of_a_subclassed_model_can_be_wrapped_before_it_is_built():
    model = Two()
    model.first, model.second = prune_low_magnitude(model.first, half()), prune_low_magnitude(model.second, half())
    train(model, x=batch((8, 6)), y=batch((8, 4)))
    assert zeros(model) == [0.5, 0.5]


def test_a_subclassed_model_without_weights_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="call it once on a batch"):
        prune_low_magnitude(Two(), half())


@pytest.mark.parametrize("wrong", [object(), "model", None, kl.Dense, (kl.Dense(2),)])
def test_other_objects_are_refused_in_tfmots_words(wrong):
    with pytest.raises(ValueError, match="can only prune") as refused:
        prune_low_magnitude(wrong, half())
    assert str(refused.value) == ONLY.format(type(wrong).__name__)


def test_keras_2_models_are_refused_with_the_way_out():
    with pytest.raises(TypeError, match="from_tf_keras"):
        prune_low_magnitude(tf_keras.Sequential([tf_keras.layers.Dense(2)]), half())


def test_arguments_of_a_layer_are_refused_for_a_model():
    with pytest.raises(ValueError, match=r"\['input_shape'\]"):
        prune_low_magnitude(dense(), half(), input_shape=(6,))


def test_an_unknown_layer_is_refused_alone_and_in_a_list():
    layer = Unknown()
    layer.build((None, 6))
    with pytest.raises(ValueError, match="PrunableLayer") as refused:
        prune_low_magnitude(layer, half())
    assert "You passed: <class" in str(refused.value)
    with pytest.raises(ValueError, match="supported layer"):
        prune_low_magnitude([kl.Dense(2), layer], half())


def test_an_unknown_layer_in_a_model_is_a_warning_and_the_rest_is_pruned():
    model = keras.Sequential([keras.Input((6,)), kl.Dense(6), Unknown(name="mine"), kl.Dense(6)])
    with pytest.warns(UserWarning, match=r"not pruned: mine \(Unknown\)"):
        pruned = prune_low_magnitude(model, half())
    train(pruned)
    assert kinds(pruned) == ["PruneLowMagnitude", "Unknown", "PruneLowMagnitude"]
    assert zeros(pruned) == [0.5, 0.5]


def test_a_frozen_layer_is_not_pruned_and_stays_frozen():
    model = dense((8, 6))
    model.layers[0].trainable = False
    pruned = train(prune_low_magnitude(model, half()))
    frozen, free = wrappers(pruned)
    assert (frozen.prunable_weights, np.count_nonzero(frozen.layer.kernel)) == ([], 48)
    assert zeros(pruned) == [0.5] and len(free.pruning_vars) == 1
    assert [layer.trainable for layer in strip_pruning(pruned).layers] == [False, True]


def test_the_constraint_of_the_user_holds_too_and_is_back_after_stripping():
    pruned = prune_low_magnitude(dense((6,), kernel_constraint="non_neg"), half())
    train(pruned, optimizer=keras.optimizers.SGD(3.0), y=-10 * np.ones((8, 6), "float32"))
    kernel = wrappers(pruned)[0].layer.kernel.numpy()
    assert kernel.min() == 0 and np.mean(kernel == 0) >= 0.5
    assert type(strip_pruning(pruned).layers[0].kernel.constraint).__name__ == "NonNeg"


@pytest.mark.parametrize("make", [dense, two_branches, reused])
def test_stripping_gives_the_configuration_of_the_model_before(make):
    model = make()
    assert strip_pruning(prune_low_magnitude(model, half())).get_config() == model.get_config()


def test_stripping_gives_equal_outputs_and_zeros_in_weights_of_its_own():
    pruned = train(prune_low_magnitude(dense(), half()), steps=2)
    stripped = strip_pruning(pruned)
    x = batch((5, 6))
    np.testing.assert_array_equal(pruned.predict(x, verbose=0), stripped.predict(x, verbose=0))
    assert [float(np.mean(layer.kernel.numpy() == 0)) for layer in stripped.layers] == [0.5, 0.5]
    assert len(stripped.weights) == 4
    stripped.layers[0].kernel.assign(np.ones((6, 8)))
    assert zeros(pruned) == [0.5, 0.5]


def test_stripping_a_dense_model_copies_it():
    model = dense()
    assert strip_pruning(model) is not model
    assert strip_pruning(model).get_config() == model.get_config()


def test_only_models_are_stripped():
    with pytest.raises(ValueError, match=r"Expected model to be a `keras.Model` instance but got:"):
        strip_pruning(kl.Dense(2))


def test_stripping_before_the_end_of_the_schedule_warns_how_far_it_got():
    pruned = train(prune_low_magnitude(dense((6,)), half(begin_step=5)), steps=2)
    with pytest.warns(UserWarning, match=r"a/kernel is at 0.0000 of 0.5000 after 2 steps"):
        strip_pruning(pruned)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        strip_pruning(train(pruned, steps=3))


def test_the_scope_knows_the_wrapper_by_its_bare_name():
    wrapped = prune_low_magnitude(kl.Dense(3), half())
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(wrapped)))
    with prune_scope():
        assert keras.saving.get_registered_object("PruneLowMagnitude") is PruneLowMagnitude
        assert isinstance(keras.saving.deserialize_keras_object(config), PruneLowMagnitude)
