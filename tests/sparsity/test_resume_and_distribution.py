"""Killed and continued, in a loop of one's own, and on several devices: the same masks."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeprune._validation import InputError
from keras_aeprune.schedules import PolynomialDecay, relative
from keras_aeprune.sparsity import Prune, Pruner

TRAIN = textwrap.dedent(
    """
    import os, signal, sys
    import keras, numpy as np
    from keras import layers
    from keras_aeprune.schedules import PolynomialDecay
    from keras_aeprune.sparsity import Prune

    folder, die = sys.argv[1], int(sys.argv[2])
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).random((96, 16), "float32")
    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(12, activation="relu", name="a"), layers.Dense(16, name="b")]
    )
    model.compile("adam", "mse")

    class Die(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations.numpy()) == die:
                os.kill(os.getpid(), signal.SIGKILL)

    backup = keras.callbacks.BackupAndRestore(folder + "/backup")
    prune = Prune(PolynomialDecay(0.0, 0.8, 2, 40, frequency=7), allocation="global")
    model.fit(x, x, batch_size=16, epochs=8, shuffle=False, verbose=0, callbacks=[Die(), prune, backup])
    model.save(folder + "/model.keras")
    """
)


def run(folder, die):
    return subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder), str(die)], capture_output=True, text=True, check=False
    )


def test_killed_in_the_ramp_and_continued_from_a_backup_ends_with_the_same_masks(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    assert run(tmp_path / "whole", -1).returncode == 0
    assert run(tmp_path / "killed", 27).returncode == -9  # in the fifth of eight epochs of six steps
    done = run(tmp_path / "killed", -1)
    assert done.returncode == 0, done.stderr[-2000:]
    whole, killed = (keras.models.load_model(tmp_path / name / "model.keras") for name in ("whole", "killed"))
    for name in "ab":
        one, other = (model.get_layer(name).kernel.numpy() for model in (whole, killed))
        np.testing.assert_array_equal(one == 0, other == 0)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert sum((w.numpy() == 0).sum() for w in whole.trainable_variables if w.name == "kernel") == round(0.8 * 384)


def model():
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [keras.Input((16,)), layers.Dense(12, activation="relu", name="a"), layers.Dense(16, name="b")]
    )
    net.compile("adam", "mse")
    return net


X = np.random.default_rng(0).random((96, 16), "float32")
RAMP = PolynomialDecay(0.0, 0.8, 2, 20, frequency=5)


def test_continued_from_a_checkpoint_ends_with_the_same_masks(tmp_path):
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}
    whole = model()
    whole.fit(X, X, epochs=5, **options, callbacks=[Prune(RAMP)])
    part = model()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    part.fit(X, X, epochs=2, **options, callbacks=[Prune(RAMP, several_fits=True), checkpoint])
    loaded = keras.models.load_model(tmp_path / "2.keras")
    loaded.fit(X, X, epochs=5, initial_epoch=2, **options, callbacks=[Prune(RAMP)])
    for one, other in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one == 0, other == 0)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def loop(net, pruner_first, steps=30, compiled=True):
    """A training loop of one's own; the same batches as `fit` without shuffling."""

    def train_step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(net(x, training=True) - x))
        net.optimizer.apply(tape.gradient(loss, net.trainable_variables), net.trainable_variables)

    step = tf.function(train_step) if compiled else train_step
    pruner = Pruner(net, RAMP) if pruner_first else None
    for n in range(steps):
        step(X[n * 16 % 96 : n * 16 % 96 + 16])
        if pruner is None:
            pruner = Pruner(net, RAMP)
        pruner.step()
    return pruner


@pytest.mark.parametrize("compiled", [True, False])
def test_a_loop_of_ones_own_prunes_as_fit_does(compiled):
    fitted, looped = model(), model()
    fitted.fit(X, X, batch_size=16, epochs=5, shuffle=False, verbose=0, callbacks=[Prune(RAMP)])
    pruner = loop(looped, True, compiled=compiled)
    assert pruner.at_target
    for one, other in zip(fitted.get_weights(), looped.get_weights(), strict=True):
        np.testing.assert_array_equal(one == 0, other == 0)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_step_that_was_traced_too_early_is_refused():
    net = model()
    Prune(0.5)
    warm = tf.function(
        lambda x: net.optimizer.apply([tf.ones_like(v) for v in net.trainable_variables], net.trainable_variables)
    )
    warm(X[:16])
    pruner = Pruner(net, PolynomialDecay(0.5, 0.8, 0, 20))
    warm(X[:16])
    with pytest.raises(InputError, match="a train step that is traced after the Pruner is made"):
        pruner.step()


def test_step_needs_a_schedule_and_relative_ones_a_length():
    with pytest.raises(InputError, match=r"step: got a Pruner without schedule"):
        Pruner(model()).step()
    with pytest.raises(InputError, match="total_steps: got None"):
        Pruner(model(), relative("CosineDecay", 0.5))
    pruner = Pruner(model(), relative("CosineDecay", 0.5), total_steps=10)
    for _ in range(10):
        pruner.step()
    assert pruner.sparsity() == 0.5


DISTRIBUTED = textwrap.dedent(
    """
    import sys
    import tensorflow as tf
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    import keras, numpy as np
    from keras import layers
    from keras_aeprune.schedules import PolynomialDecay
    from keras_aeprune.sparsity import Prune
    x = np.random.default_rng(0).random((96, 16), "float32")

    def train(strategy):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((16,)), layers.Dense(12, activation="relu"), layers.Dense(16)])
            model.compile("adam", "mse")
        prune = Prune(PolynomialDecay(0.0, 0.8, 2, 20, frequency=5), allocation="global")
        model.fit(x, x, batch_size=16, epochs=5, shuffle=False, verbose=0, callbacks=[prune])
        return [w.numpy() for w in model.trainable_variables if w.name == "kernel"]

    one = train(tf.distribute.get_strategy())
    two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    for a, b in zip(one, two):
        np.testing.assert_array_equal(a == 0, b == 0)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert sum((a == 0).sum() for a in two) == round(0.8 * 384)
    print("the same")
    """
)


def test_two_devices_make_the_same_masks_as_one():
    done = subprocess.run([sys.executable, "-c", DISTRIBUTED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "the same", done.stderr[-3000:]
