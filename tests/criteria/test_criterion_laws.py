"""Every criterion on every kind of model: the law holds, the model stays as it was, and pruning with it works."""

import functools
import importlib
import pkgutil
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune import calibration, criteria, models, schedules
from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.criteria import base
from keras_aeprune.criteria.scoring import evidence, measured
from keras_aeprune.sparsity import Prune, Pruner
from keras_aeprune.sparsity.iterative_state import ModelState

for found in pkgutil.iter_modules(criteria.__path__):
    importlib.import_module(f"keras_aeprune.criteria.{found.name}")

KNOWN = base._registry._members
NAMES = sorted(name for name in KNOWN if KNOWN[name].__module__.startswith("keras_aeprune.criteria."))
SAMPLES = 8

# (criterion, model): why it refuses that model; anything else must work.
REFUSALS: dict[tuple[str, str], str] = {}


class Subclassed(keras.Model):
    """One layer that is never used beside those that are, and dropout with a seed of its own."""

    def __init__(self):
        super().__init__()
        self.hidden = kl.Dense(5, activation="relu", name="hidden")
        self.norm = kl.BatchNormalization(name="norm")
        self.drop = kl.Dropout(0.5, seed=3)
        self.back = kl.Dense(4, name="back")

    def call(self, x, training=None):
        return self.back(self.drop(self.norm(self.hidden(x), training=training), training=training))


def sequential():
    stack = [kl.Dense(5, activation="relu"), kl.BatchNormalization(), kl.Dense(4)]
    return keras.Sequential([keras.Input((4,)), *stack])


def branches():
    inputs = keras.Input((4,))
    left, right = kl.Dense(3, activation="tanh", name="left")(inputs), kl.Dense(3, name="right")(inputs)
    both = kl.Concatenate()([kl.Add()([left, right]), right])
    return keras.Model(inputs, kl.Dense(4, name="out")(both))


def autoencoder():
    net = models.dense((4,), 2, hidden_units=(5,))
    net.encoder.layers[1].trainable = False  # one frozen layer
    return net


def subclassed():
    net = Subclassed()
    net(np.zeros((1, 4), "float32"))
    return net


def convolutional():
    stack = [kl.Conv2D(3, 3, padding="same", activation="relu"), kl.DepthwiseConv2D(2, padding="same")]
    stack += [kl.Conv2DTranspose(2, 2, padding="same"), kl.SeparableConv2D(1, 2, padding="same")]
    return keras.Sequential([keras.Input((5, 4, 1)), *stack])


def recurrent():
    return keras.Sequential(
        [keras.Input((3, 2)), kl.LSTM(2, return_sequences=True), kl.TimeDistributed(kl.Dense(2))]
    )


def shared():
    inputs = keras.Input((4,))
    layer = kl.Dense(4, activation="relu", name="shared")
    return keras.Model(inputs, kl.Dense(4, name="out")(layer(layer(inputs))))


def vae():
    return models.variational((4,), 2, hidden_units=(5,))


KINDS = (sequential, branches, autoencoder, subclassed, convolutional, recurrent, shared, vae)
MODELS = {make.__name__: make for make in KINDS}


@functools.cache
def made(kind):
    """A compiled model that has been trained for a step, and data for it; one for all, since making it is slow."""
    keras.utils.set_random_seed(1)
    net = MODELS[kind]()
    net.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    shape = (4,) if kind == "subclassed" else net.input_shape[1:]
    x = np.random.default_rng(2).random((SAMPLES, *shape), "float32")
    net.train_on_batch(x, x)
    return net, x


@pytest.fixture
def lent():
    """Models that a test may change; they are put back afterwards.

    Nothing is traced while they are out: that each criterion works traced on each model is the first law below.
    """
    given = []
    tf.config.run_functions_eagerly(True)

    def lend(kind):
        net, x = made(kind)
        given.append(ModelState(net))
        return net, x

    yield lend
    tf.config.run_functions_eagerly(False)
    for one in given:
        one.restore()


def state(net):
    """Everything about a model that looking at it might change."""
    return {
        "variables": [np.array(v.numpy()) for v in net.variables],
        "optimizer": [np.array(v.numpy()) for v in net.optimizer.variables],
        "trainable": [(layer.name, layer.trainable) for layer in net._flatten_layers()],
        "flags": [v.trainable for v in net.weights],
        "constraints": [v.constraint for v in net.trainable_variables],
        "attributes": [(layer.name, sorted(vars(layer))) for layer in net._flatten_layers()],
        "layers": [id(layer) for layer in net._flatten_layers()],
        "compiled": (net.compiled, net.optimizer, net.loss, net.train_function, net.test_function),
        "losses": len(net.losses),
        "numpy": np.random.get_state()[1].tolist(),
    }


def same(before, after):
    for key, value in before.items():
        if key in ("variables", "optimizer"):
            assert len(value) == len(after[key]), key
            assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(value, after[key], strict=True)), key
        else:
            assert value == after[key], key


def look(name, net, x):
    criterion = base.get(name)
    chosen = [w for w in weights(net) if w.kernel is not None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # layers for which a criterion has no meaning are named
        return measured(criterion, evidence(criterion, net, chosen, calibration.get(x))), chosen


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_a_criterion_keeps_the_law_and_leaves_the_model_as_it_was(name, kind):
    net, x = made(kind)
    before = state(net)
    if (name, kind) in REFUSALS:
        with pytest.raises(InputError, match=REFUSALS[name, kind]):
            look(name, net, x)
        same(before, state(net))
        return
    found, chosen = look(name, net, x)
    same(before, state(net))
    for array, weight in zip(found, chosen, strict=True):
        assert array.dtype == np.float32, weight.path
        assert array.shape == tuple(weight.variable.shape), weight.path
        assert np.isfinite(array).all(), weight.path
    if kind in ("subclassed", "vae"):  # dropout, sampling
        for array, other in zip(found, look(name, net, x)[0], strict=True):
            np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("kind", ["autoencoder", "shared"])
@pytest.mark.parametrize("name", NAMES)
def test_a_criterion_prunes_half_of_a_model_under_one_threshold(name, kind, lent):
    net, x = lent(kind)
    criterion = base.get(name)
    pruner = Pruner(net, criterion=name, data=x if criterion.needs_data else None, allocation="global")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pruner.update(0.5)
    assert pruner.sparsity() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_criterion_prunes_in_a_fit_and_reaches_the_sparsity(name, lent):
    net, x = lent("branches")
    prune = Prune(schedules.ConstantSparsity(0.6, begin_step=1), criterion=name, data=x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        net.fit(x, x, batch_size=4, verbose=0, callbacks=[prune])
    assert prune.table.sparsity == pytest.approx(0.6, abs=0.05)
    assert not any(row.missed for row in prune.table.rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_criterion_comes_back_from_its_config(name):
    member = base.get(name)
    twin = base.get(base.serialize(member))
    assert type(twin) is type(member)
    assert twin.get_config() == member.get_config()
    assert type(member)(**member.get_config()).get_config() == member.get_config()


@pytest.mark.parametrize("name", [n for n in NAMES if base.get(n).needs_data])
def test_a_criterion_says_what_it_needs_and_leaves_the_model_as_it_was_after_an_error(name):
    net, x = made("subclassed")
    before = state(net)
    with pytest.raises(InputError, match=r"data: got None, .*give data=x"):
        Pruner(net, criterion=name)
    criterion = base.get(name)
    wrong = calibration.Calibration(np.ones((3, 7), "float32"))  # 7 features for a model of 4
    chosen = [w for w in weights(net) if w.kernel is not None]
    with pytest.raises(Exception):  # noqa: B017, PT011 whatever Keras or TensorFlow say of the shape
        measured(criterion, evidence(criterion, net, chosen, wrong))
    same(before, state(net))
    assert net.predict(x, verbose=0).shape == x.shape


@pytest.mark.parametrize("name", NAMES)
def test_a_criterion_describes_itself_in_one_line(name):
    line = (KNOWN[name].__doc__ or "").strip().splitlines()[0]
    assert line.endswith((".", ":"))
