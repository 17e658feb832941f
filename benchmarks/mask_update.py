"""One mask update over 10 million weights, against tfmot's own update of the same weights.

Ten kernels of 1000 x 1000 whose sparsity grows step by step from 0.5 to 0.95; before a step the weights that
are kept move a little, as in training. An update ends with exact zeros in the weights: `Pruner.update`, and
tfmot's conditional_mask_update and weight_mask_op of every wrapped layer, called eagerly and in one compiled
function. Each peer is a process of its own that waits for its turn. How long an update takes depends on its step,
so the minimum of each step over all sweeps counts, and their mean is compared with that of tfmot's faster kind.
"""

import json
import statistics
import sys
import time

from benchmarks._processes import together

PEERS = {"keras_aeprune": ("uniform", "global"), "tfmot": ("tfmot, eager", "tfmot, compiled")}
FULL, QUICK = (10, 1000, 3, 8), (3, 100, 2, 2)  # kernels, side, steps, sweeps
FIRST, LAST = 0.5, 0.95


def sparsity(done, steps):
    return FIRST + (LAST - FIRST) * done / steps


def _model(keras, kernels, side):
    import numpy as np

    draw = np.random.default_rng(0)
    layers = [keras.layers.Dense(side, use_bias=False, name=f"hidden_{i}") for i in range(kernels)]
    model = keras.Sequential([keras.Input((side,)), *layers])
    model.set_weights([draw.normal(size=(side, side)).astype("float32") for _ in layers])
    return model


def _ours(kind, kernels, side, steps):
    import keras

    from keras_aeprune.sparsity import Pruner

    model = _model(keras, kernels, side)
    pruner = Pruner(model, allocation=kind)
    return [layer.kernel for layer in model.layers], lambda done: pruner.update(sparsity(done, steps))


def _tfmot(kind, kernels, side, steps):
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    ramp = tfmot.sparsity.keras.PolynomialDecay(FIRST, LAST, 0, steps, power=1, frequency=1)
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


def worker(peer, kernels, side, steps, sweeps):
    """One step of every kind of update on command; a sweep begins with an update to FIRST that is not timed."""
    import numpy as np

    make = _tfmot if peer == "tfmot" else _ours
    kinds = {kind: make(kind, kernels, side, steps) for kind in PEERS[peer]}
    dense = [variable.numpy() for variable in next(iter(kinds.values()))[0]]
    for sweep in range(sweeps):
        for variables, update in kinds.values():
            for variable, w in zip(variables, dense, strict=True):
                variable.assign(w)
            update(0)
        for done in range(1, steps + 1):
            sys.stdin.readline()
            found = {}
            for kind, (variables, update) in kinds.items():
                draw = np.random.default_rng((sweep, done))
                for variable in variables:
                    w = variable.numpy()
                    variable.assign(w + (w != 0) * draw.normal(scale=0.01, size=w.shape).astype("float32"))
                began = time.perf_counter()
                update(done)
                seconds = time.perf_counter() - began
                zeros = sum(int((variable.numpy() == 0).sum()) for variable in variables)
                found[kind] = {"seconds": seconds, "zeros": zeros / (kernels * side**2)}
            print(json.dumps(found), flush=True)


def run(quick):
    kernels, side, steps, sweeps = QUICK if quick else FULL
    lines = together("benchmarks.mask_update", PEERS, (kernels, side, steps, sweeps), steps * sweeps)
    seconds, zeros = {}, {}
    for peer, kinds in PEERS.items():
        turns = [json.loads(line) for line in lines[peer]]
        for kind in kinds:
            seconds[kind] = [[turn[kind]["seconds"] for turn in turns[step::steps]] for step in range(steps)]
            zeros[kind] = [turn[kind]["zeros"] for turn in turns[-steps:]]
    return {"weights": kernels * side**2, "seconds": seconds, "zeros": zeros}


def show(result):
    seconds = result["seconds"]  # by kind, step and sweep
    least = {kind: [min(sweeps) for sweeps in steps] for kind, steps in seconds.items()}
    mean = {kind: statistics.mean(values) for kind, values in least.items()}
    peer = min(value for kind, value in mean.items() if kind.startswith("tfmot"))
    steps = len(next(iter(least.values())))
    heads = "".join(f"{f'to {sparsity(done, steps):.3f}':>10}" for done in range(1, steps + 1))
    lines = [f"{result['weights']:,} weights, minima in seconds", f"{'update':<26}{heads}{'mean':>8}{'ratio':>8}"]
    for kind, values in least.items():
        label = kind if kind.startswith("tfmot") else f"keras_aeprune, {kind}"
        cells = "".join(f"{value:>10.3f}" for value in values)
        lines.append(f"{label:<26}{cells}{mean[kind]:>8.3f}{mean[kind] / peer:>8.3f}")
    reached = ", ".join(f"{kind} {zeros[-1]:.6f}" for kind, zeros in result["zeros"].items())
    return "\n".join([*lines, f"zeros at the end: {reached}"])


if __name__ == "__main__":
    worker(sys.argv[1], *map(int, sys.argv[2:]))
