"""Error after pruning, against tfmot: same dense Fashion-MNIST autoencoder, schedule, batches and seeds.

784-300-100-32-100-300-784, Adam at 0.001, mse, batch 128. For each seed one dense training in Keras 3; then both
peers start from its weights and prune and fine-tune for 6 epochs, cubic from 0 to s within the first 4, masks
updated every 100 steps. Rows that name no criterion prune by magnitude. Both read the same batches in the same
order. The test error of every result is computed from its weights by the same lines of NumPy. Each finished
training is a file in results/against_tfmot.parts and is not run again, until all of them have become one result.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks._processes import alone
from benchmarks.overhead import BATCH, FEATURES, autoencoder

PARTS = Path(__file__).parent / "results" / "against_tfmot.parts"
PEER = "tfmot"
SEEN = 2048  # training samples that a criterion looks at
BEST = "gradient_magnitude, global"  # of `all_criteria`
OURS = ("uniform", "global", "erk", BEST)
FULL = {"samples": 60_000, "dense_epochs": 10, "epochs": 6, "ramp_epochs": 4, "frequency": 100}
QUICK = {"samples": 1_280, "dense_epochs": 1, "epochs": 3, "ramp_epochs": 2, "frequency": 5}
RUNS = {"seeds": (0, 1, 2), "sparsities": (0.9, 0.95, 0.97)}
QUICK_RUNS = {"seeds": (0,), "sparsities": (0.9,)}


def part(folder, method, sparsity, seed):
    return Path(folder) / f"{method}-{sparsity}-{seed}.json"


def _images(samples):
    import numpy as np

    with np.load(
        Path(os.environ["KERAS_AEPRUNE_DATA"]) / "data" / "fashion_mnist.npz", allow_pickle=False
    ) as file:
        x, test = (file[name].reshape(-1, FEATURES).astype("float32") / 255 for name in ("x_train", "x_test"))
    return x[:samples], test


def _batches(x, epochs, seed):
    """The batches of all epochs, each epoch in an order that only the seed and its number decide."""
    import numpy as np
    import tensorflow as tf

    rows = tf.constant(x)
    orders = [np.random.default_rng((seed, epoch)).permutation(len(x)) for epoch in range(epochs)]
    data = tf.data.Dataset.from_tensor_slices(orders[0]).batch(BATCH)
    for order in orders[1:]:
        data = data.concatenate(tf.data.Dataset.from_tensor_slices(order).batch(BATCH))
    pick = data.map(lambda chosen: tf.gather(rows, chosen))
    return pick.map(lambda batch: (batch, batch)).prefetch(4)


def _test_error(weights, test):
    """Mean squared error of kernel, bias, kernel, ...: relu between the layers, a sigmoid at the end."""
    import numpy as np

    h = test
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        h = np.maximum(last := h @ kernel + bias, 0)
    return float(np.mean((1 / (1 + np.exp(-last.astype("float64"))) - test) ** 2))


def _dense(folder, settings, seed):
    import keras
    import numpy as np

    from keras_aeprune._files import writing

    x, _ = _images(settings["samples"])
    keras.utils.set_random_seed(seed)
    model = autoencoder(keras)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    epochs, steps = settings["dense_epochs"], -(-len(x) // BATCH)
    model.fit(_batches(x, epochs, 100 + seed), epochs=epochs, steps_per_epoch=steps, verbose=0)
    with writing(folder / f"dense-{seed}.npz") as path:
        np.savez(path, *model.get_weights())


def chosen(method, x):
    """Arguments of `Prune`: "ALLOCATION" for magnitude, or "CRITERION NAME=VALUE ..., ALLOCATION"."""
    from keras_aeprune import criteria

    *found, allocation = method.split(", ")
    name, *config = found[0].split() if found else ("magnitude",)
    config = {key: json.loads(value) for key, value in (pair.split("=") for pair in config)}
    criterion = criteria.get({"class_name": name, "config": config})
    data = x[:SEEN] if criterion.needs_data else None
    return {"criterion": criterion, "allocation": allocation, "data": data}


def _ours(settings, weights, x, data, schedule, method):
    import keras

    from keras_aeprune import Prune, schedules

    model = autoencoder(keras)
    model.set_weights(weights)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    prune = Prune(schedules.PolynomialDecay(**schedule), **chosen(method, x))
    model.fit(data, callbacks=[prune], **settings)
    return model.get_weights()


def _tfmot(settings, weights, _, data, schedule, __):
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    model = autoencoder(keras)
    model.set_weights(weights)
    ramp = tfmot.sparsity.keras.PolynomialDecay(**schedule)
    model = tfmot.sparsity.keras.prune_low_magnitude(model, ramp)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.fit(data, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()], **settings)
    return tfmot.sparsity.keras.strip_pruning(model).get_weights()


def worker(peer, folder, settings, todo):
    """All trainings of one peer that are still to do."""
    import numpy as np

    from keras_aeprune._files import write_json

    if peer == "dense":
        for seed in todo:
            _dense(folder, settings, seed)
        return
    x, test = _images(settings["samples"])
    steps = -(-len(x) // BATCH)
    train = _tfmot if peer == PEER else _ours
    for method, sparsity, seed in todo:
        with np.load(folder / f"dense-{seed}.npz", allow_pickle=False) as file:
            dense = [file[name] for name in file.files]
        schedule = {
            "initial_sparsity": 0.0,
            "final_sparsity": sparsity,
            "begin_step": 0,
            "end_step": settings["ramp_epochs"] * steps,
            "power": 3,
            "frequency": settings["frequency"],
        }
        fit = {"epochs": settings["epochs"], "steps_per_epoch": steps, "verbose": 0}
        began = time.perf_counter()
        weights = train(fit, dense, x, _batches(x, settings["epochs"], seed), schedule, method)
        seconds = time.perf_counter() - began
        kernels = weights[::2]
        result = {
            "method": method,
            "sparsity": sparsity,
            "seed": seed,
            "dense_mse": _test_error(dense, test),
            "test_mse": _test_error(weights, test),
            "zeros": sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels),
            "seconds": seconds,
            "settings": settings,
        }
        write_json(part(folder, method, sparsity, seed), result)
        print(f"{method} {sparsity} seed {seed}: {result['test_mse']:.5f}, {seconds:.0f} s", flush=True)


def _known(path, settings):
    """The result of a training that was finished with the same settings, or None."""
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return found if found["settings"] == settings else None


def _run(folder, settings, runs):
    folder.mkdir(parents=True, exist_ok=True)
    methods = runs.get("methods", (PEER, *OURS))
    wanted = list(itertools.product(methods, runs["sparsities"], runs["seeds"]))
    wanted += itertools.product(runs.get("once", ()), runs["sparsities"], runs["seeds"][:1])
    todo = [key for key in wanted if _known(part(folder, *key), settings) is None]
    seeds = sorted({seed for *_, seed in todo if not (folder / f"dense-{seed}.npz").exists()})
    peers = {
        "dense": seeds,
        PEER: [key for key in todo if key[0] == PEER],
        "keras_aeprune": [key for key in todo if key[0] != PEER],
    }
    for peer, jobs in peers.items():
        if jobs:
            alone("benchmarks.against_tfmot", peer, str(folder), json.dumps(settings), json.dumps(jobs))
    versions = {name: version(name) for name in ("tensorflow-model-optimization", "tf-keras", "keras")}
    return {"runs": [_known(part(folder, *key), settings) for key in wanted], "versions": versions}


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return {"skipped": "KERAS_AEPRUNE_DATA is not set"}
    if not quick:
        return _run(PARTS, FULL, RUNS)
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder), QUICK, QUICK_RUNS)


def show(result):
    if "skipped" in result:
        return f"skipped, {result['skipped']}"
    runs = result["runs"]
    dense = {one["seed"]: one["dense_mse"] for one in runs}
    lines = [
        f"before pruning: test mse {statistics.mean(dense.values()):.5f}, mean of {len(dense)} seeds",
        f"{'zeros':<8}{'method':<46}{'test mse':>10}{'lowest':>10}{'highest':>10}{'ratio':>8}{'reached':>10}",
    ]
    groups = {}
    for one in runs:
        groups.setdefault((one["sparsity"], one["method"]), []).append(one)
    base = {}
    for (sparsity, method), ones in sorted(groups.items(), key=lambda item: item[0][0]):
        errors = [one["test_mse"] for one in ones]
        mean = statistics.mean(errors)
        if method == PEER:
            base[sparsity] = mean
        label = method if method == PEER else f"keras_aeprune, {method}"
        reached = statistics.mean(one["zeros"] for one in ones)
        lines.append(
            f"{sparsity:<8}{label:<46}{mean:>10.5f}{min(errors):>10.5f}{max(errors):>10.5f}"
            f"{mean / base[sparsity]:>8.3f}{reached:>10.5f}"
        )
    return "\n".join(lines)


def in_short(result):
    """The best row against tfmot's, one ratio for each sparsity."""

    def mean(method, sparsity):
        return statistics.mean(
            one["test_mse"] for one in result["runs"] if (one["method"], one["sparsity"]) == (method, sparsity)
        )

    sparsities = sorted({one["sparsity"] for one in result["runs"]})
    less = ", ".join(f"{1 - mean(BEST, s) / mean(PEER, s):.2f} with {s:g} zeros" for s in sparsities)
    return f"Pruned by `{BEST.split(',')[0]}`, the error is lower than tfmot's by a fraction of {less}."


if __name__ == "__main__":
    worker(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
