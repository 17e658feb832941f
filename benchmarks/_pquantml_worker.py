"""Prunes with PQuantML, where that is: python -m benchmarks._pquantml_worker FOLDER.

FOLDER has job.json, and dense.npz for a training; said.json and the weights of each run are written beside them.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pquant
from pquant.core.keras.train import PQuantCallback

from benchmarks.against_tfmot import _batches, _images
from benchmarks.overhead import BATCH, FEATURES, autoencoder

kl = keras.layers


def config_of(method, sparsity, ramp, epochs):
    """A method with its own defaults; pruning without quantization, in the epochs of the ramp and behind them.

    "wanda, by layer" is without the budget that it otherwise shares out among the layers.
    """
    name, _, by_layer = method.partition(", ")
    config = getattr(pquant, f"{name}_config")()
    config.quantization_parameters.enable_quantization = False
    config.pruning_parameters.sparsity = sparsity
    if name == "pdp":
        config.pruning_parameters.epsilon = 1 / ramp  # of the sparsity, more in each epoch
    else:
        config.pruning_parameters.t_start_collecting_batch = 0  # counted in epochs
        config.pruning_parameters.t_delta = 50  # batches that it looks at
        config.pruning_parameters.calculate_pruning_budget = not by_layer
    training = config.training_parameters
    training.pretraining_epochs, training.epochs, training.fine_tuning_epochs = 0, ramp, epochs - ramp
    training.rounds, training.rewind = 1, "never"
    return config


def with_sigmoid(model):
    """add_compression_layers leaves out activations but relu and tanh: the last one is put back."""
    return keras.Model(model.inputs, kl.Activation("sigmoid", name="last")(model.outputs[0]))


def trained(job, method, weights, x):
    """(weights, wall and processor seconds, zeros by layer) of one pruning."""
    model = autoencoder(keras)
    model.set_weights(weights)
    config = config_of(method, job["sparsity"], job["ramp"], job["epochs"])
    model = with_sigmoid(pquant.add_compression_layers(model, config, (1, FEATURES)))
    given = [layer for layer in model.layers if type(layer).__name__ == "PQDense"]
    found = [np.asarray(value) for layer in given for value in (layer._kernel, layer._bias)]
    if len(found) != len(weights) or any((a != b).any() for a, b in zip(found, weights, strict=True)):
        raise SystemExit("PQuantML's layers do not start with the dense network's weights")
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    callback = PQuantCallback(config, log_ebops=False, log_keep_ratio=False)
    data, steps = _batches(x, job["epochs"], job["seed"]), -(-len(x) // BATCH)
    keras.utils.set_random_seed(job["seed"])
    wall, processor = time.perf_counter(), time.process_time()
    model.fit(data, epochs=callback.total_epochs, steps_per_epoch=steps, callbacks=[callback], verbose=0)
    seconds = {"seconds": time.perf_counter() - wall, "cpu seconds": time.process_time() - processor}
    return [np.asarray(value) for layer in given for value in (layer._kernel, layer._bias)], seconds


def forms():
    """The same network of two dense layers in three forms."""

    def chain(*layers):
        return keras.Sequential([keras.Input((FEATURES,)), *layers])

    def dense(units, activation):
        return kl.Dense(units, activation)

    entrance = keras.Input((FEATURES,))
    yield "functional", keras.Model(entrance, dense(FEATURES, "sigmoid")(dense(32, "relu")(entrance)))
    yield "Sequential", chain(dense(32, "relu"), dense(FEATURES, "sigmoid"))
    code = keras.Input((32,))
    halves = chain(dense(32, "relu")), keras.Model(code, dense(FEATURES, "sigmoid")(code))
    yield "encoder and decoder", keras.Model(entrance, halves[1](halves[0](entrance)))
    steps = keras.Input((28, 28))
    yield "LSTM", keras.Model(steps, dense(FEATURES, "sigmoid")(kl.LSTM(32)(steps)))


def taken():
    """For each form which layers are replaced, what the outputs change by, and whether a training starts."""
    found = {}
    for name, model in forms():
        x = np.random.default_rng(0).random((64, *model.input_shape[1:]), "float32")
        before = model.predict(x, verbose=0)
        config = config_of("pdp", 0.9, 1, 2)
        new = pquant.add_compression_layers(model, config, (1, *x.shape[1:]))
        layers = [layer for layer in new.layers if layer.weights]
        row = {
            "replaced": sum(type(layer).__name__.startswith("PQ") for layer in layers),
            "left": [type(layer).__name__ for layer in layers if not type(layer).__name__.startswith("PQ")],
            "outputs": float(np.abs(new.predict(x, verbose=0) - before).max()),
            "with sigmoid": float(np.abs(with_sigmoid(new).predict(x, verbose=0) - before).max()),
            "error": "",
        }
        try:
            new.compile("adam", "mse")
            new.fit(x, before, epochs=2, verbose=0, callbacks=[PQuantCallback(config, log_ebops=False)])
        except Exception as error:  # whatever it is, it goes into the table
            row["error"] = type(error).__name__
        found[name] = row
    return found


def _shortly(error):
    """The line of a message that says what is wrong, without what Keras writes around it."""
    plain = str(error).replace("\x1b[1m", "").replace("\x1b[0m", "")
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    around = ("Exception encountered", "Arguments received", "\u2022")
    return next((line for line in lines if not line.startswith(around)), plain)[:150]


def main(folder):
    job = json.loads((folder / "job.json").read_text())
    said = {"versions": {name: version(name) for name in ("pquant-ml", "keras", "tensorflow")}}
    if "methods" in job:
        with np.load(folder / "dense.npz", allow_pickle=False) as file:
            weights = [file[name] for name in file.files]
        x, said["runs"] = _images(job["samples"])[0], []
        for number, method in enumerate(job["methods"]):
            try:
                after, seconds = trained(job, method, weights, x)
            except Exception as error:  # whatever it is, it goes into the table
                said["runs"].append({"method": method, "error": f"{type(error).__name__}: {_shortly(error)}"})
                continue
            np.savez(folder / f"{number}.npz", *after)
            said["runs"].append({"method": method, "file": f"{number}.npz", **seconds})
    else:
        said["taken"] = taken()
    (folder / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
