"""Two replicas give the masks of one device; in a process of its own, where the CPU is split into two devices."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, sys, tempfile
import keras, numpy as np, tensorflow as tf
from keras_aeprune.sparsity import PolynomialDecay, UpdatePruningStep, collect_prunable_layers, prune_low_magnitude
from keras_aeprune.sparsity import strip_pruning

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")


class Sub(keras.Model):
    def __init__(self):
        super().__init__()
        self.only = keras.layers.Dense(6)

    def call(self, inputs):
        return self.only(inputs)


def trained(strategy, subclassed):
    keras.utils.set_random_seed(1)
    ramp = PolynomialDecay(0.25, 0.75, 1, 5, frequency=2)
    with strategy.scope():
        if subclassed:
            model = Sub()
            model(x[:1])
        else:
            layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(6)]
            model = keras.Sequential([keras.Input((6,)), *layers])
        model = prune_low_magnitude(model, ramp)
        model.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    model.fit(x, x, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[UpdatePruningStep()])
    return model, [kernel.numpy().tolist() for kernel in model.trainable_variables if len(kernel.shape) == 2]


found = {}
for subclassed in (False, True):
    name = "subclassed" if subclassed else "wrapped"
    one, one_kernels = trained(tf.distribute.OneDeviceStrategy("/cpu:0"), subclassed)
    reduction = tf.distribute.ReductionToOneDevice()
    mirrored = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"], cross_device_ops=reduction)
    two, two_kernels = trained(mirrored, subclassed)
    found[name] = {"one": one_kernels, "two": two_kernels}
    found[name]["steps"] = [int(layer.pruning_step.numpy()) for layer in collect_prunable_layers(two)]
    found[name]["optimizer"] = int(two.optimizer.iterations.numpy())
    if not subclassed:
        copies = [tf.nest.flatten(v.value.values) for layer in two.layers for v in layer._held[0][1:]]
        found["copies_agree"] = all(np.array_equal(a.numpy(), b.numpy()) for a, b in copies)
        with tempfile.TemporaryDirectory() as folder:
            two.save(folder + "/m.keras")
            loaded = keras.models.load_model(folder + "/m.keras")
            found["loaded"] = [layer.layer.kernel.numpy().tolist() for layer in loaded.layers]
        found["stripped"] = [layer.kernel.numpy().tolist() for layer in strip_pruning(two).layers]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def trained():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def zero(kernels):
    return [[[weight == 0 for weight in row] for row in kernel] for kernel in kernels]


def fractions(kernels):
    flat = [[weight for row in kernel for weight in row] for kernel in kernels]
    return [sum(weight == 0 for weight in kernel) / len(kernel) for kernel in flat]


@pytest.mark.parametrize("kind", ["wrapped", "subclassed"])
def test_two_replicas_set_the_weights_of_one_device_to_zero(trained, kind):
    assert zero(trained[kind]["one"]) == zero(trained[kind]["two"])
    assert set(fractions(trained[kind]["two"])) == {0.75}


@pytest.mark.parametrize("kind", ["wrapped", "subclassed"])
def test_two_replicas_count_each_update_once(trained, kind):
    assert trained[kind]["optimizer"] == 8
    assert set(trained[kind]["steps"]) <= {8}
    for one, two in zip(trained[kind]["one"], trained[kind]["two"], strict=True):
        for left, right in zip(one, two, strict=True):
            assert left == pytest.approx(right, abs=1e-5)


def test_all_replicas_hold_the_same_masks_thresholds_and_steps(trained):
    assert trained["copies_agree"]


def test_a_model_of_two_replicas_is_saved_and_stripped(trained):
    assert trained["loaded"] == trained["stripped"] == trained["wrapped"]["two"]
