"""What a trial of a search costs beyond its training: seconds and memory, with plain Keras Tuner and with ours.

An autoencoder 64-64-w-64-64 on 1800 random rows, 2 epochs a trial, every tuner in a process of its own. Seconds
beyond fit are the time of a whole trial less that of building the model and of `model.fit`; those of the processor
mean little else on a busy machine. Memory is the growth of the resident set after the first fifth of the trials.
"""

import contextlib
import json
import sys
import tempfile
import time

TUNERS = (
    "keras_tuner.Hyperband",
    "keras_aeprune.Hyperband",
    "keras_tuner.RandomSearch",
    "keras_aeprune.RandomSearch",
)
FULL, QUICK = 100, 10
ROWS, EPOCHS = 1800, 2


def _tuner(name, model, folder, trials):
    import keras_tuner

    from keras_aeprune.search import tuner as ours

    house, kind = name.split(".")
    own = {} if house == "keras_tuner" else {"progress": False}
    if kind == "RandomSearch":
        own["max_trials"] = trials
    else:
        own |= {"max_epochs": EPOCHS, "factor": 2, "hyperband_iterations": trials}
    place = {"keras_tuner": keras_tuner, "keras_aeprune": ours}[house]
    return getattr(place, kind)(model, "val_loss", directory=folder, seed=1, **own)


def _now():
    """Seconds on the wall and of the processor."""
    import numpy as np

    return np.array([time.perf_counter(), time.process_time()])


def _resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def worker(name, trials):
    import keras
    import keras_tuner
    import numpy as np
    from keras import layers

    x = np.random.default_rng(0).normal(size=(ROWS, 64)).astype("float32")
    inside, resident, ends = [], [], []

    class Enough(Exception):
        pass

    class Model(keras_tuner.HyperModel):
        def build(self, hp):
            began = _now()
            widths = (64, hp.Int("encoding_dim", 4, 1000), 64)
            model = keras.Sequential(
                [keras.Input((64,)), *(layers.Dense(w, "relu") for w in widths), layers.Dense(64)]
            )
            model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-4, 1e-2, sampling="log")), "mse")
            inside.append(_now() - began)
            return model

        def fit(self, hp, model, *args, **kwargs):
            began = _now()
            result = model.fit(*args, **{**kwargs, "verbose": 0, "epochs": EPOCHS, "initial_epoch": 0})
            inside.append(_now() - began)
            return result

    with tempfile.TemporaryDirectory() as folder:
        tuner = _tuner(name, Model(), folder, trials)
        end = tuner.on_trial_end

        def on_trial_end(trial):
            end(trial)
            resident.append(_resident())
            ends.append((_now(), sum(inside)))
            if len(ends) == trials:
                raise Enough

        tuner.on_trial_end = on_trial_end
        with contextlib.suppress(Enough):
            tuner.search(x, x, validation_data=(x[:200], x[:200]), batch_size=32, verbose=0)
    first = max(1, len(ends) // 5)
    count = len(ends) - first
    whole, fit = ((ends[-1][i] - ends[first - 1][i]) / count for i in (0, 1))
    beyond = whole - fit
    found = {"trials": len(ends), "seconds": whole[0], "beyond fit": beyond[0], "processor": beyond[1]}
    print(json.dumps({**found, "MiB": (resident[-1] - resident[first - 1]) / count}))


def run(quick):
    import subprocess

    found = {}
    for name in TUNERS:
        command = [sys.executable, "-m", "benchmarks.trial_cost", name, str(QUICK if quick else FULL)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name}: ended with status {done.returncode}: {done.stderr[-2000:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found[name]['seconds']:.2f} s a trial", flush=True)
    return found


def show(result):
    lines = [f"{'a trial':<28}{'seconds':>9}{'beyond fit':>12}{'processor':>11}{'MiB kept':>10}{'trials':>8}"]
    for name in TUNERS:
        row = result[name]
        seconds = f"{row['seconds']:>9.3f}{row['beyond fit']:>12.3f}{row['processor']:>11.3f}"
        lines.append(f"{name:<28}{seconds}{row['MiB']:>10.2f}{row['trials']:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    worker(sys.argv[1], int(sys.argv[2]))
