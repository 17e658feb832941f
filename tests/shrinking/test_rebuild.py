"""Another model with the same outputs: its kind, its halves, and what it does not share with the given one."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.shrinking.rebuild import arguments, as_graph, compile_like, rebuild


def copied(model):
    new, made = rebuild(model, lambda layer: None)
    for old, twin in made.pairs:
        if isinstance(old, keras.Layer):
            twin.set_weights(old.get_weights())
    return new


def test_a_copy_is_of_the_same_kind_and_computes_the_same():
    x = np.random.default_rng(0).random((4, 12)).astype("float32")
    given = [
        keras.Sequential([keras.Input((12,)), kl.Dense(3)], name="s"),
        models.dense((12,), 4, hidden_units=(8,)),
        models.variational((12,), 4, hidden_units=(8,)),
        models.stacked((12,), 4, hidden_units=(8,), tied=True),
    ]
    for model in given:
        new = copied(model)
        assert type(new) is type(model) and new.name == model.name
        np.testing.assert_allclose(np.asarray(new(x)), np.asarray(model(x)), rtol=1e-6)
        assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers]
        if hasattr(model, "encoder"):
            assert new.encoder in new.layers and new.decoder in new.layers
    tied = new  # the last one
    assert len(tied.trainable_weights) == len(given[-1].trainable_weights)


def test_nothing_of_the_new_model_lives_on_in_the_given_one():
    x = keras.Input((6,))
    a = kl.Dense(8)(x)
    model = keras.Model(x, kl.Dense(2)(ops.relu(a) + a * 2.0))
    new = weakref.ref(copied(model).layers[1])  # and with it the weights
    keras.backend.clear_session(free_memory=False)
    gc.collect()
    assert new() is None


def test_frozen_layers_stay_frozen():
    inner = keras.Sequential([keras.Input((5, 4)), kl.Dense(4, name="p"), kl.Dense(4, name="q")], name="inner")
    inner.get_layer("p").trainable = False
    each = kl.TimeDistributed(kl.Dense(4), name="each")
    each.layer.trainable = False
    x = keras.Input((5, 4))
    model = keras.Model(x, kl.Dense(2)(each(inner(kl.Dense(4, name="a", trainable=False)(x)))))
    new = copied(model)
    names = [[v.path for v in m.trainable_weights] for m in (model, new)]
    assert names[0] == names[1]
    assert not any("each" in name or "inner/p" in name for name in names[1])


def test_a_normalization_that_was_adapted_keeps_what_it_learnt(law):
    seen = np.random.default_rng(0).normal(3.0, 2.0, (64, 6)).astype("float32")
    layer = kl.Normalization()
    layer.adapt(seen)
    model = keras.Sequential([keras.Input((6,)), layer, kl.Dense(8, name="k"), kl.Dense(2)])
    proof = law(model, random_weights=False, x=seen)
    assert proof.sizes == {"k": 8}


def test_a_lambda_of_ones_own_is_copied():
    x = keras.Input((6,))
    model = keras.Model(x, kl.Lambda(lambda y: y * 3.0)(kl.Dense(2)(x)))
    value = np.ones((1, 6), "float32")
    np.testing.assert_allclose(np.asarray(copied(model)(value)), np.asarray(model(value)))


def test_a_layer_without_a_config_is_refused_with_its_name():
    class Times(keras.layers.Layer):
        def __init__(self, factor, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, x):
            return x * self.factor

        def get_config(self):
            return super().get_config()

    model = keras.Sequential([keras.Input((3,)), kl.Dense(2), Times(2.0, name="mine")])
    with pytest.raises(InputError, match=r"layer 'mine': Times cannot be made again.*get_config"):
        rebuild(model, lambda layer: None)


class Own(keras.Model):
    def __init__(self, call):
        super().__init__(name="own")
        self.dense, self.doing = kl.Dense(2), call

    def call(self, x):
        return self.doing(self, x)


def python_on_numbers(model, x):
    y = model.dense(x)
    return y if float(y[0, 0]) > 0 else -y


def no_layer(model, x):
    return x @ model.dense.kernel


def test_a_model_that_computes_outside_of_layers_is_refused_with_the_reason():
    x = np.ones((1, 3), "float32")
    for doing, words in (
        (python_on_numbers, "cannot be traced"),
        (no_layer, "weights that its call uses without"),
    ):
        own = Own(doing)
        own.dense.build((None, 3))
        own(x)
        with pytest.raises(InputError, match=words) as caught:
            as_graph(own)
        assert "\n" not in str(caught.value)


def test_a_model_that_was_not_called_is_refused():
    for model in (keras.Sequential([kl.Dense(2)]), Own(lambda m, x: m.dense(x))):
        with pytest.raises(InputError, match="allowed"):
            as_graph(model)


def test_a_subclassed_model_shares_its_layers_with_its_graph():
    own = Own(lambda model, x: {"a": model.dense(x["u"]) + 1.0, "b": model.dense(x["v"])})
    x = {name: np.full((1, 3), number, "float32") for number, name in enumerate("uv")}
    expected = own(x)
    graph = as_graph(own)
    assert [id(v) for v in graph.weights] == [id(v) for v in own.weights]
    assert {tensor.name for tensor in graph.inputs} == {"u", "v"}
    for name, value in graph(x).items():
        np.testing.assert_allclose(np.array(value), np.array(expected[name]))


def test_arguments_come_in_the_order_of_the_call():
    layer, x = kl.MultiHeadAttention(2, 2), keras.Input((3,))
    bound = arguments(layer, ("q",), {"key": "k", "value": "v"})
    assert list(bound.arguments) == ["query", "value", "key"]
    assert list(arguments((x + x)._keras_history.operation, (1, 2), {}).arguments.values()) == [1, 2]


def test_the_new_model_is_compiled_as_the_given_one_is():
    model, new = (keras.Sequential([keras.Input((3,)), kl.Dense(2)]) for _ in range(2))
    compile_like(new, model)
    assert not new.compiled
    model.compile(keras.optimizers.SGD(0.25), "mae", metrics=["mse"])
    compile_like(new, model)
    assert new.loss == "mae" and float(new.optimizer.learning_rate) == 0.25
    assert new.optimizer is not model.optimizer
    new.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)


def test_a_loss_without_a_config_is_said():
    model, new = (keras.Sequential([keras.Input((3,)), kl.Dense(2)]) for _ in range(2))
    model.compile("sgd", lambda y, p: ops.mean(ops.abs(y - p)))
    with pytest.warns(UserWarning, match="not compiled"):
        compile_like(new, model)
    assert not new.compiled
