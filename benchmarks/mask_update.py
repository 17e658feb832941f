"""One mask update over 10 million weights, against tfmot's own update of the same weights.

Ten kernels of 1000 x 1000, sparsity growing from round to round; between the rounds the weights that are kept
move a little, as in training. An update ends with exact zeros in the weights: `Pruner.update`, and tfmot's
conditional_mask_update and weight_mask_op of every wrapped layer, called eagerly and in one compiled function.
Each kind is a process of its own that waits for its turn. Minima are compared; tfmot counts with its faster kind.
"""

import json
import statistics
import sys
import time

from benchmarks._processes import together

KINDS = ("uniform", "global", "tfmot, eager", "tfmot, compiled")
FULL, QUICK = (10, 1000, 11), (3, 100, 3)  # kernels, side, rounds
FIRST, LAST = 0.5, 0.95


def sparsity(done, rounds):
    return FIRST + (LAST - FIRST) * done / rounds


def _model(keras, kernels, side):
    import numpy as np

    draw = np.random.default_rng(0)
    layers = [keras.layers.Dense(side, use_bias=False, name=f"hidden_{i}") for i in range(kernels)]
    model = keras.Sequential([keras.Input((side,)), *layers])
    model.set_weights([draw.normal(size=(side, side)).astype("float32") for _ in layers])
    return model


def _ours(kind, kernels, side, rounds):
    import keras

    from keras_aeprune.sparsity import Pruner

    model = _model(keras, kernels, side)
    pruner = Pruner(model, allocation=kind)
    return [layer.kernel for layer in model.layers], lambda done: pruner.update(sparsity(done, rounds))


def _tfmot(kind, kernels, side, rounds):
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    ramp = tfmot.sparsity.keras.PolynomialDecay(FIRST, LAST, 0, rounds, power=1, frequency=1)
    model = tfmot.sparsity.keras.prune_low_magnitude(_model(keras, kernels, side), ramp)

    def both():
        for layer in model.layers:
            layer.pruning_obj.conditional_mask_update()
            layer.pruning_obj.weight_mask_op()

    update = tf.function(both) if kind == "tfmot, compiled" else both

    def step(done):
        for layer in model.layers:
            layer.pruning_step.assign(done)
        update()

    return [layer.layer.kernel for layer in model.layers], step


def worker(kind, kernels, side, rounds):
    """Update on command; the first one, to FIRST, traces and is not timed."""
    import numpy as np

    variables, step = (_tfmot if kind.startswith("tfmot") else _ours)(kind, kernels, side, rounds)
    draw = np.random.default_rng(1)
    step(0)
    for done in range(1, rounds + 1):
        sys.stdin.readline()
        for variable in variables:
            w = variable.numpy()
            variable.assign(w + (w != 0) * draw.normal(scale=0.01, size=w.shape).astype("float32"))
        began = time.perf_counter()
        step(done)
        seconds = time.perf_counter() - began
        zeros = sum(int((variable.numpy() == 0).sum()) for variable in variables) / (kernels * side**2)
        line = {"seconds": seconds, "zeros": zeros}
        print(json.dumps(line), flush=True)


def run(quick):
    kernels, side, rounds = QUICK if quick else FULL
    lines = together("benchmarks.mask_update", KINDS, (kernels, side, rounds), rounds)
    found = {kind: [json.loads(line) for line in values] for kind, values in lines.items()}
    return {
        "weights": kernels * side**2,
        "seconds": {kind: [one["seconds"] for one in values] for kind, values in found.items()},
        "zeros": {kind: [one["zeros"] for one in values] for kind, values in found.items()},
    }


def show(result):
    seconds = result["seconds"]
    peer = min(min(values) for kind, values in seconds.items() if kind.startswith("tfmot"))
    lines = [
        f"{result['weights']:,} weights",
        f"{'update':<26}{'min s':>8}{'median':>9}{'ratio':>8}{'last zeros':>12}",
    ]
    for kind, values in seconds.items():
        label = kind if kind.startswith("tfmot") else f"keras_aeprune, {kind}"
        least, middle = min(values), statistics.median(values)
        reached = result["zeros"][kind][-1]
        lines.append(f"{label:<26}{least:>8.3f}{middle:>9.3f}{least / peer:>8.3f}{reached:>12.5f}")
    return "\n".join(lines)


if __name__ == "__main__":
    worker(sys.argv[1], *map(int, sys.argv[2:]))
