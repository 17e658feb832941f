import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.criteria.losses import forward, per_example, unchanged
from keras_aeprune.models import variational

RNG = np.random.default_rng(0)
PRED = RNG.uniform(0.1, 0.9, (5, 3, 2)).astype("float32")
TRUE = RNG.integers(0, 2, (5, 3, 2)).astype("float32")


def plain(loss=None, **compiled):
    model = keras.Sequential([keras.Input((2,)), kl.Dense(2)])
    if loss is not None or compiled:
        model.compile("sgd", loss, **compiled)
    return model


def one_by_one(loss, true, pred):
    """The loss that Keras gives for batches of one example."""
    return [float(loss(true[n : n + 1], pred[n : n + 1])) for n in range(len(true))]


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", None])
@pytest.mark.parametrize(
    "kind", [keras.losses.MeanSquaredError, keras.losses.Huber, keras.losses.BinaryCrossentropy]
)
def test_each_example_has_the_loss_of_a_batch_of_its_own_whatever_the_reduction(kind, reduction):
    loss = kind(reduction=reduction)
    found = per_example(plain(), loss)(tf.constant(TRUE), tf.constant(PRED))
    np.testing.assert_allclose(found, one_by_one(kind(), TRUE, PRED), rtol=1e-6)
    assert loss.reduction == reduction


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "binary_crossentropy", "MeanSquaredError"])
def test_names_mean_what_compile_takes_them_for(name):
    model = plain(name)
    x, y = RNG.uniform(size=(2, 6, 2)).astype("float32")
    found = per_example(model)(tf.constant(y), model(x))
    assert found.shape == (6,)
    np.testing.assert_allclose(np.mean(found), model.evaluate(x, y, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", "crossentropy"])
def test_class_numbers_and_one_hot_labels_give_the_same_loss(name):
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5]], "float32")
    sparse = per_example(plain(), name)(tf.constant([1, 0]), tf.constant(probabilities))
    hot = per_example(plain(), "categorical_crossentropy")(tf.eye(2)[::-1], tf.constant(probabilities))
    np.testing.assert_allclose(sparse, np.log([4 / 3, 2]), rtol=1e-6)
    np.testing.assert_allclose(hot, sparse, rtol=1e-6)


def test_a_function_may_return_one_number_per_example_or_more():
    def absolute(y_true, y_pred):
        return abs(y_true - y_pred)

    expected = np.abs(TRUE - PRED).mean((1, 2))
    np.testing.assert_allclose(per_example(plain(), absolute)(TRUE, PRED), expected, rtol=1e-6)
    np.testing.assert_allclose(
        per_example(plain(), lambda t, p: tf.reduce_mean(abs(t - p), (1, 2)))(TRUE, PRED), expected, rtol=1e-6
    )


def test_targets_without_the_last_axis_are_not_spread_over_the_batch():
    true, pred = np.array([1.0, 2.0], "float32"), np.array([[0.0], [4.0]], "float32")
    found = per_example(plain(), lambda t, p: tf.square(t - p))(tf.constant(true), tf.constant(pred))
    assert found.numpy().tolist() == [1.0, 4.0]


@pytest.mark.parametrize("axes", [None, 0], ids=["to one number", "over the examples"])
def test_a_loss_that_is_already_reduced_is_refused(axes):
    def reduced(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_true - y_pred), axes)

    with pytest.raises(InputError, match="got 'reduced', which returns shape .*allowed: one loss per example"):
        per_example(plain(), reduced)(tf.constant(TRUE), tf.constant(PRED))


def test_without_any_loss_it_says_what_to_give():
    with pytest.raises(InputError, match="compiled without one, allowed: a compiled model, or loss="):
        per_example(plain())
    with pytest.raises(InputError, match="loss: got 'mean_sq', allowed: a Keras name"):
        per_example(plain(), "mean_sq")


def two_outputs(kind):
    x = keras.Input((2,))
    a, b = kl.Dense(2, name="a")(x), kl.Dense(3, name="b")(x)
    return keras.Model(x, {"a": a, "b": b} if kind is dict else [a, b])


@pytest.mark.parametrize(
    ("kind", "loss", "weights"),
    [
        (list, "mse", None),
        (list, ["mse", "mae"], [1.0, 0.25]),
        (list, {"a": "mse", "b": "mae"}, {"a": 2.0, "b": 0.5}),
        (dict, {"a": "mse", "b": "mae"}, {"a": 2.0, "b": 0.5}),
        (list, [None, "mae"], None),
    ],
)
def test_several_outputs_add_up_with_the_compiled_weights(kind, loss, weights):
    model = two_outputs(kind)
    model.compile("sgd", loss, loss_weights=weights)
    x, a, b = (RNG.normal(size=(4, n)).astype("float32") for n in (2, 2, 3))
    y = {"a": a, "b": b} if kind is dict else [a, b]
    found = per_example(model)(y, model(x))
    assert found.shape == (4,)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(np.mean(found), expected, rtol=1e-5)


def test_targets_that_do_not_fit_the_outputs_are_refused():
    model = two_outputs(list)
    with pytest.raises(InputError, match="y: got 1 array for 2 outputs, allowed: .* a, b"):
        per_example(model, "mse")(np.zeros((4, 2)), model(np.zeros((4, 2))))
    with pytest.raises(InputError, match=r"loss: got an entry for \['c'\], allowed: a, b"):
        per_example(model, {"c": "mse"})([TRUE, TRUE], model(np.zeros((4, 2))))


def test_regularization_is_not_part_of_the_loss():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(2, kernel_regularizer=keras.regularizers.L2(100.0))])
    model.compile("sgd", "mse")
    x = np.ones((3, 2), "float32")
    found = per_example(model)(x, model(x))
    np.testing.assert_allclose(found, np.square(x - model(x)).mean(1), rtol=1e-5)


def test_masked_steps_do_not_count():
    x = RNG.normal(size=(2, 4, 1)).astype("float32")
    x[0, 1:] = 0  # one step left
    model = keras.Sequential([keras.Input((4, 1)), kl.Masking(), kl.SimpleRNN(1, return_sequences=True)])
    pred = model(x)
    errors = np.square(x - pred)[..., 0]
    np.testing.assert_allclose(per_example(model, "mse")(x, pred), [errors[0, 0], errors[1].mean()], rtol=1e-5)


class Noisy(keras.Model):
    """Draws noise and moves statistics even when it is asked not to."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.out = kl.BatchNormalization(), kl.Dropout(0.5, seed=3), kl.Dense(2)

    def call(self, x):
        return self.out(self.drop(self.norm(x, training=True), training=True))


def state(model):
    return [variable.numpy() for variable in model.variables]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [Noisy, lambda: variational((4,), 2, hidden_units=(3,))])
def test_a_forward_pass_leaves_variables_and_attributes_alone(make, training):
    model, x = make(), RNG.normal(size=(8, 4)).astype("float32")
    model(x)
    before, losses = state(model), len(model.losses)
    attributes = [dict(vars(layer)) for layer in model._flatten_layers()]
    tf.function(lambda inputs: forward(model, inputs, training))(x)
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert len(model.losses) == losses
    for old, layer in zip(attributes, model._flatten_layers(), strict=True):
        assert vars(layer) == old


def test_a_forward_pass_computes_what_evaluate_does():
    model = variational((4,), 2, hidden_units=(3,))
    x = RNG.uniform(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(forward(model, x), model.predict(x, verbose=0), rtol=1e-5)
    drawn = [np.asarray(forward(model, x, training=True)) for _ in range(1)]
    assert np.abs(drawn[0] - model.predict(x, verbose=0)).max() > 1e-4


def test_a_model_that_computes_in_float16_runs_in_the_precision_of_its_weights():
    model = keras.Sequential([keras.Input((64,)), kl.Dense(1, dtype="mixed_float16", use_bias=False)])
    x = RNG.uniform(size=(2, 64)).astype("float32")
    exact = x.astype("float64") @ model.layers[0].kernel.numpy().astype("float64")
    np.testing.assert_allclose(forward(model, x), exact, rtol=1e-5)
    assert model.layers[0].compute_dtype == "float16"


def test_attributes_come_back_after_an_error():
    layer = kl.Dense(1, activation="tanh")
    model = keras.Sequential([keras.Input((2,)), layer])
    with pytest.raises(RuntimeError), unchanged(model):
        layer.activation, layer.extra = None, 1
        raise RuntimeError
    assert layer.activation is keras.activations.tanh
    assert not hasattr(layer, "extra")
