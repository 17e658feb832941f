"""Time per epoch of `Prune` against a plain fit; tfmot's wrappers against plain tf_keras in the same run.

784-300-100-32-100-300-784, batch 128, 60,000 samples as in MNIST, masks updated every 100 steps. Each of
the four trainings is a process of its own that waits for its turn, so that epochs are interleaved and
Keras 2 and 3 do not meet. The ratio is of the minima: single pairs are noise.
"""

import sys

from benchmarks._processes import together

UNITS = (300, 100, 32, 100, 300)
FEATURES, SAMPLES, BATCH, EPOCHS, QUICK = 784, 60_000, 128, 12, (1_280, 2)


def _data(samples):
    import numpy as np

    return np.random.default_rng(0).random((samples, FEATURES), "float32")


def autoencoder(keras):
    layers = [keras.layers.Dense(units, activation="relu") for units in UNITS]
    inputs = outputs = keras.Input((FEATURES,))
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, keras.layers.Dense(FEATURES, activation="sigmoid")(outputs))


def _turns(keras):
    """A callback that waits for a line before every epoch and prints the seconds of the epoch before."""
    import time

    class Turns(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            sys.stdin.readline()
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            print(time.perf_counter() - self.began, flush=True)

    return Turns()


def worker(kind, samples, epochs):
    """One training, epoch by epoch on command."""
    x = _data(samples)
    steps = -(-samples // BATCH)
    schedule = {"begin_step": 0, "end_step": steps * epochs - 1, "frequency": 100}
    if kind in ("plain keras 3", "Prune"):
        import keras

        from keras_aeprune import Prune, schedules

        model = autoencoder(keras)
        callbacks = [_turns(keras)]
        if kind == "Prune":
            callbacks.append(Prune(schedules.PolynomialDecay(0.0, 0.9, **schedule)))
    else:
        import tensorflow_model_optimization as tfmot
        import tf_keras as keras

        model = autoencoder(keras)
        callbacks = [_turns(keras)]
        if kind == "tfmot":
            ramp = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.9, **schedule)
            model = tfmot.sparsity.keras.prune_low_magnitude(model, ramp)
            callbacks.append(tfmot.sparsity.keras.UpdatePruningStep())
    model.compile("adam", "mse")
    model.fit(x, x, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=callbacks)


def run(quick):
    samples, epochs = QUICK if quick else (SAMPLES, EPOCHS)
    kinds = ("plain keras 3", "Prune", "plain tf_keras", "tfmot")
    lines = together("benchmarks.overhead", kinds, (samples, epochs), epochs)
    times = {kind: [float(line) for line in values] for kind, values in lines.items()}
    return {"seconds_per_epoch": times, "samples": samples, "batch_size": BATCH}


def show(result):
    times = {kind: values[1:] for kind, values in result["seconds_per_epoch"].items()}  # the first one traces
    lines = [f"{'training':<18}{'min s/epoch':>12}{'median':>9}{'ratio of minima':>17}"]
    for kind, values in times.items():
        base = "plain keras 3" if kind in ("plain keras 3", "Prune") else "plain tf_keras"
        ordered = sorted(values)
        ratio = ordered[0] / min(times[base])
        lines.append(f"{kind:<18}{ordered[0]:>12.3f}{ordered[len(ordered) // 2]:>9.3f}{ratio:>17.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    worker(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
