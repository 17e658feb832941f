"""Our schedules in tfmot's own wrappers, on tf_keras, in a process where tf.keras is Keras 2."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, sys, tempfile
import numpy as np, tf_keras, tensorflow_model_optimization as tfmot
from keras_aeprune import schedules

sparsity = tfmot.sparsity.keras
x = np.random.default_rng(0).random((48, 10), "float32")


class See(tf_keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        zeros.append(float(np.mean(layer.layer.kernel.numpy() == 0)))


def the_same(model, schedule):
    found = model.layers[0].pruning_schedule
    return type(found) is type(schedule) and found == schedule


found = {}
for name in sys.argv[1:]:
    ramp = {"begin_step": 2, "end_step": 12, "frequency": 4}
    target = {getattr(schedules, name).target: 0.75}
    first = {"initial_sparsity": 0.0} if "initial_sparsity" in getattr(schedules, name).parameters() else {}
    schedule = schedules.get(name, **first, **target, **ramp)
    layer = sparsity.prune_low_magnitude(tf_keras.layers.Dense(8, input_shape=(10,)), schedule)
    model = tf_keras.Sequential([layer])
    model.compile("sgd", "mse")
    zeros = []
    watching = [sparsity.UpdatePruningStep(), See()]
    model.fit(x, x[:, :8], batch_size=16, epochs=5, verbose=0, callbacks=watching)
    ours = {name: type(schedule), "PruneLowMagnitude": type(layer)}
    with tf_keras.utils.custom_object_scope(ours), tempfile.TemporaryDirectory() as folder:
        cloned = the_same(tf_keras.models.clone_model(model), schedule)
        model.save(folder + "/model.h5")
        loaded = the_same(tf_keras.models.load_model(folder + "/model.h5"), schedule)
    found[name] = {"zeros": zeros, "cloned": cloned, "loaded": loaded}
print(json.dumps(found))
"""

# Fractions of zeros of 80 weights after 3, 6, 9, 12, 15 steps; masks are due at 2, 6, 10, 12 (and half way).
ZEROS = {
    "ConstantSparsity": [0.75, 0.75, 0.75, 0.75, 0.75],
    "PolynomialDecay": [0.0, 0.5875, 0.5875, 0.75, 0.75],  # 0.75 * (1 - 0.6 ** 3) = 0.588
    "CosineDecay": [0.0, 0.2625, 0.2625, 0.75, 0.75],  # 0.75 * (1 - cos(0.4 pi)) / 2 = 0.259, 59.3 are kept
    "OneCycle": [0.0, 0.3, 0.3, 0.75, 0.75],
    "ExponentialDecay": [0.0, 0.425, 0.425, 0.75, 0.75],  # 1 - 0.25 ** 0.4 = 0.426
    "IterativeSteps": [0.0, 0.5, 0.5, 0.75, 0.75],
    "DenseSparseDense": [0.0, 0.675, 0.75, 0.0, 0.0],  # 0.75 * (1 - cos(0.8 pi)) / 2 = 0.678
}


@pytest.fixture(scope="module")
def trained():
    done = subprocess.run(
        [sys.executable, "-c", CODE, *ZEROS],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("name", ZEROS)
def test_tfmots_wrapper_prunes_along_our_schedule(trained, name):
    assert trained[name]["zeros"] == pytest.approx(ZEROS[name], abs=1e-6)


@pytest.mark.parametrize("name", ZEROS)
def test_tfmots_wrapper_is_cloned_and_saved_with_our_schedule(trained, name):
    assert trained[name]["cloned"] and trained[name]["loaded"]
