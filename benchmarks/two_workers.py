"""The same search by one process and by two workers, each with one thread: how much sooner is it done?

Hyperband over the width and the learning rate of a dense autoencoder (64-128-w-128-64) on low-rank data, in fresh
processes, one after the other. Seconds run from the call of `search` or `launch`, after the imports, to its
return; the start-up of the workers is in them, and stated apart: it ends when the last one makes its tuner.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FULL, QUICK = (20000, 9), (400, 2)  # samples, max_epochs
TARGET = 0.65


def build(folder, hp):
    """The model; notes when a process built its first one."""
    import keras
    from keras import layers

    begun = Path(folder) / f"begun-{os.getpid()}"
    if not begun.exists():
        begun.write_text(repr(time.time()))
    width, rate = hp.Int("encoding_dim", 4, 32), hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    sizes = [layers.Dense(128, "relu"), layers.Dense(width), layers.Dense(128, "relu"), layers.Dense(64)]
    model = keras.Sequential([keras.Input((64,)), *sizes])
    model.compile(keras.optimizers.Adam(rate), "mse")
    return model


def search(kind, folder, samples, epochs):
    """Run in a process of its own: print the seconds and the trials."""
    import numpy as np

    from keras_aeprune.search.tuner import Hyperband
    from keras_aeprune.search.workers import launch

    random = np.random.default_rng(0)
    x = (random.normal(size=(samples, 12)) @ random.normal(size=(12, 64))).astype("float32")
    fit = {"validation_data": (x[:1000], x[:1000]), "batch_size": 32, "verbose": 0}
    own = {"max_epochs": epochs, "directory": folder, "progress": False}
    make = functools.partial(Hyperband, functools.partial(build, folder), "val_loss", **own)
    began = time.time()
    if kind == "one":
        tuner = make()
        tuner.search(x, x, **fit)
    else:
        tuner = launch(make, x, x, workers=2, threads=1, **fit)
    seconds = time.time() - began
    processes = {path: float(path.read_text()) - began for path in Path(folder).glob("begun-*")}
    rows = tuner.table().rows
    found = sorted(
        [row.epochs, *dict(sorted(row.values.items())).values()] for row in rows if row.status == "COMPLETED"
    )
    print(json.dumps({"seconds": seconds, "start_up": max(processes.values()), "trials": found}))


def run(quick):
    samples, epochs = QUICK if quick else FULL
    threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1")
    found = {"load_before": os.getloadavg()[0]}
    for kind in ("one", "two"):
        with tempfile.TemporaryDirectory() as folder:
            code = f"from benchmarks.two_workers import search; search({kind!r}, {folder!r}, {samples}, {epochs})"
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, **threads},
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{kind}: ended with status {done.returncode}: {done.stderr[-2000:]}")
        found[kind] = json.loads(done.stdout.splitlines()[-1])
    same = found["one"].pop("trials") == found["two"]["trials"]
    return {**found, "same_trials": same, "trials": len(found["two"].pop("trials"))}


def show(result):
    one, two = result["one"], result["two"]
    ratio = two["seconds"] / one["seconds"]
    return (
        f"{result['trials']} trials, the same ones: {'yes' if result['same_trials'] else 'no'}; "
        f"load of the machine before: {result['load_before']:.1f}\n"
        f"one process  {one['seconds']:7.1f} s\n"
        f"two workers  {two['seconds']:7.1f} s, start-up of them {two['start_up']:.1f} s\n"
        f"ratio        {ratio:7.2f}   (target: at most {TARGET}); without start-up "
        f"{(two['seconds'] - two['start_up']) / one['seconds']:.2f}"
    )
