"""Exact squares of single samples' gradients, against one plain backward pass over the same samples.

The plain pass is the compiled gradient of the summed loss in the same batches, with respect to the same kernels.
"one by one" is the gradient of each sample by itself, in one compiled function, on the first samples only. Turns
are interleaved and minima count. The largest difference to "one by one" is relative to a kernel's largest square.
"""

import statistics
import time

FULL, QUICK = (2048, 128, 12), (128, 16, 2)  # samples, of these one by one, sweeps
BATCH = 256


def _models(keras):
    kl = keras.layers
    keras.utils.set_random_seed(0)
    dense = [kl.Dense(300, "relu"), kl.Dense(100, "relu"), kl.Dense(10, "softmax")]
    convolutional = [
        kl.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
        kl.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
        kl.Flatten(),
        kl.Dense(10, "softmax"),
    ]
    return {
        "784-300-100-10": keras.Sequential([keras.Input((784,)), *dense]),
        "conv 16-32, dense 10": keras.Sequential([keras.Input((28, 28, 1)), *convolutional]),
    }


def _peers(model, x, y, few):
    """{peer: function that returns squares or gradients}, each with its tracing done."""
    import numpy as np
    import tensorflow as tf

    from keras_aeprune._layers import weights
    from keras_aeprune.calibration import Calibration
    from keras_aeprune.criteria.base import Evidence
    from keras_aeprune.criteria.losses import forward, per_example
    from keras_aeprune.criteria.per_example import PerExample

    loss = per_example(model, "sparse_categorical_crossentropy")
    seen = Evidence(model, tuple(weights(model)), Calibration(x, y), "sparse_categorical_crossentropy")
    variables = [weight.variable.value for weight in seen.weights]

    @tf.function
    def gradient(x, y):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            total = tf.reduce_sum(loss(y, forward(model, x)))
        return tape.gradient(total, variables)

    def summed(size, count, change):
        sums = [0.0] * len(variables)
        for start in range(0, count, size):
            part = slice(start, start + size)
            found = gradient(tf.constant(x[part]), tf.constant(y[part]))
            sums = [total + change(g.numpy()) for total, g in zip(sums, found, strict=True)]
        return [total / count for total in sums]

    exact = PerExample(seen, batch_size=BATCH)
    return {
        "plain backward pass": lambda: summed(BATCH, len(x), lambda g: g),
        "exact squares": exact.squares,
        "one by one": lambda: summed(1, few, np.square),
    }, PerExample(Evidence(model, seen.weights, Calibration(x[:few], y[:few]), seen.loss), batch_size=BATCH)


def run(quick):
    import keras
    import numpy as np

    samples, few, sweeps = QUICK if quick else FULL
    result = {"samples": samples, "seconds": {}, "difference": {}}
    draw = np.random.default_rng(0)
    for name, model in _models(keras).items():
        x = draw.random((samples, *model.input_shape[1:]), "float32")
        peers, same = _peers(model, x, draw.integers(0, 10, samples), few)
        pairs = zip(same.squares(), peers["one by one"](), strict=True)
        result["difference"][name] = max(float(np.abs(a - b).max() / b.max()) for a, b in pairs)
        turns = {peer: [] for peer in peers}
        for call in peers.values():
            call()
        for _ in range(sweeps):
            for peer, call in peers.items():
                began = time.perf_counter()
                call()
                turns[peer].append((time.perf_counter() - began) / (few if peer == "one by one" else samples))
        result["seconds"][name] = turns
    return result


def show(result):
    lines = [f"{result['samples']:,} samples in batches of {BATCH}, microseconds per sample"]
    lines.append(f"{'model':<22}{'':<21}{'minimum':>9}{'median':>9}{'ratio':>9}")
    for name, turns in result["seconds"].items():
        plain = min(turns["plain backward pass"])
        for peer, values in turns.items():
            cells = f"{min(values) * 1e6:>9.2f}{statistics.median(values) * 1e6:>9.2f}{min(values) / plain:>9.2f}"
            lines.append(f"{name:<22}{peer:<21}{cells}")
        lines.append(f"{name:<22}largest relative difference {result['difference'][name]:.1e}")
    return "\n".join(lines)
