"""Error after pruning, against PQuantML: same dense autoencoder, batches and seeds; and which layers it takes.

784-300-100-32-100-300-784 on 10,000 images of Fashion-MNIST, Adam at 0.001, mse, batch 128. For each seed one
dense training; then both peers start from its weights and prune to 0.9 zeros in 6 epochs, of which the first 4
are the ramp. `Prune` is cubic with new masks every 20 steps; PQuantML prunes with pdp, whose sparsity grows by a
quarter in each of these epochs, and with its Wanda, which prunes once after 50 batches, as it comes and without
its budget for the whole network; its quantization is off. It lives in an environment of its own, with an older
TensorFlow. It leaves out activations other than relu and tanh, so the last sigmoid is put back around its
network. The test error of every result is computed from its weights by the same lines of NumPy. Processor
seconds are those of `fit` with its tracing.

The second table: small networks of two layers with weights in several forms, and what PQuantML replaces in them.
"""

import statistics

from benchmarks._parts import NO_DATA, kept, parts, real

SPARSITY = 0.9
FULL = {"samples": 10_000, "dense_epochs": 10, "epochs": 6, "ramp_epochs": 4, "frequency": 20}
QUICK = {"samples": 640, "dense_epochs": 1, "epochs": 3, "ramp_epochs": 2, "frequency": 2}
SEEDS = (0, 1, 2)
OURS = ("uniform", "global")
METHODS = ("pdp", "wanda", "wanda, by layer")


def _dense(folder, settings, seed):
    """The weights of the dense network, trained once."""
    import numpy as np

    from benchmarks.against_tfmot import _dense

    path = folder / f"dense-{seed}.npz"
    if not path.exists():
        _dense(folder, settings, seed)
    with np.load(path, allow_pickle=False) as file:
        return [file[name] for name in file.files]


def _ours(settings, seed, weights, allocation):
    """(weights, seconds) of one training with `Prune`."""
    import time

    import keras

    from benchmarks.against_tfmot import _batches, _images
    from benchmarks.overhead import BATCH, autoencoder
    from keras_aeprune import Prune, schedules

    x, _ = _images(settings["samples"])
    steps = -(-len(x) // BATCH)
    ramp = {"begin_step": 0, "end_step": settings["ramp_epochs"] * steps, "frequency": settings["frequency"]}
    model = autoencoder(keras)
    model.set_weights(weights)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    prune = Prune(schedules.PolynomialDecay(0.0, SPARSITY, **ramp), allocation=allocation)
    data = _batches(x, settings["epochs"], seed)
    wall, processor = time.perf_counter(), time.process_time()
    model.fit(data, epochs=settings["epochs"], steps_per_epoch=steps, callbacks=[prune], verbose=0)
    seconds = {"seconds": time.perf_counter() - wall, "cpu seconds": time.process_time() - processor}
    return model.get_weights(), seconds


def _row(method, seed, dense, after, test, seconds):
    """The figures of one training."""
    from benchmarks.against_tfmot import _test_error

    kernels = after[::2]
    zeros = [int((kernel == 0).sum()) for kernel in kernels]
    return {
        "method": method,
        "seed": seed,
        "dense_mse": _test_error(dense, test),
        "test_mse": _test_error(after, test),
        "zeros": sum(zeros) / sum(kernel.size for kernel in kernels),
        "layers": [count / kernel.size for count, kernel in zip(zeros, kernels, strict=True)],
        **seconds,
    }


def _theirs(settings, seed, weights, test, python):
    from benchmarks import _pquantml

    job = {"methods": METHODS, "sparsity": SPARSITY, "seed": seed, "samples": settings["samples"]}
    job |= {"epochs": settings["epochs"], "ramp": settings["ramp_epochs"]}
    said = _pquantml.asked(python, job, weights)
    rows = []
    for run in said["runs"]:
        name = f"PQuantML, {run['method']}"
        if "error" in run:
            rows.append({"method": name, "seed": seed, "error": run["error"]})
            continue
        seconds = {key: run[key] for key in ("seconds", "cpu seconds")}
        rows.append(_row(name, seed, weights, run["weights"], test, seconds))
    return rows


def run(quick):
    from benchmarks import _pquantml

    if real("fashion_mnist") is None:
        return NO_DATA
    from benchmarks.against_tfmot import _images

    python, reason = _pquantml.environment(install=not quick)
    settings, rows, result = QUICK if quick else FULL, [], {}
    test = _images(1)[1]
    with parts("pquantml", quick) as folder:
        for seed in SEEDS[: 1 if quick else None]:
            weights = _dense(folder, settings, seed)
            for allocation in OURS:

                def ours(seed=seed, weights=weights, allocation=allocation):
                    after, seconds = _ours(settings, seed, weights, allocation)
                    return _row(f"keras_aeprune, {allocation}", seed, weights, after, test, seconds)

                rows.append(kept(folder, f"{allocation}-{seed}", [settings, SPARSITY], ours))
            if python:

                def theirs(seed=seed, weights=weights):
                    return _theirs(settings, seed, weights, test, python)

                rows += kept(folder, f"pquantml-{seed}", [settings, SPARSITY, METHODS, _pquantml.PEER], theirs)
        if python:
            result = kept(folder, "taken", [_pquantml.PEER], lambda: _pquantml.asked(python, {}))
    return {"settings": settings, "sparsity": SPARSITY, "rows": rows, **result, "missing": reason}


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    rows, missing = result["rows"], [row for row in result["rows"] if "error" in row]
    dense = {row["seed"]: row["dense_mse"] for row in rows if "error" not in row}
    before = statistics.median(dense.values())
    lines = [f"{result['sparsity']} zeros asked; test mse before it {before:.5f}, median of {len(dense)} seeds"]
    heads = f"{'method':<27}{'test mse':>10}{'lowest':>10}{'highest':>10}{'reached':>10}"
    lines.append(f"{heads}{'layer by layer':>18}{'cpu s':>8}")
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and row not in missing]
        if not own:
            error = next(row["error"] for row in missing if row["method"] == method)
            lines.append(f"{method:<27}  fails, {error}")
            continue
        errors = [row["test_mse"] for row in own]
        layers = [zeros for row in own for zeros in row["layers"]]
        spread = f"{min(layers):.3f} to {max(layers):.3f}"
        lines.append(
            f"{method:<27}{statistics.median(errors):>10.5f}{min(errors):>10.5f}{max(errors):>10.5f}"
            f"{statistics.median(row['zeros'] for row in own):>10.5f}{spread:>18}"
            f"{statistics.median(row['cpu seconds'] for row in own):>8.0f}"
        )
    if result["missing"]:
        return "\n".join([*lines, f"PQuantML: skipped, {result['missing']}"])
    heads = f"{'form of the network':<27}{'replaced':>9}  {'left as they are':<23}"
    lines.append(f"{heads}{'outputs move':>13}{'with sigmoid':>14}  training")
    for form, row in result["taken"].items():
        left = ", ".join(row["left"]) or "-"
        moved = f"{row['outputs']:>13.2f}{row['with sigmoid']:>14.2f}"
        lines.append(f"{form:<27}{row['replaced']:>9}  {left:<23}{moved}  {row['error'] or 'runs'}")
    lines.append(", ".join(f"{name} {number}" for name, number in result["versions"].items()))
    return "\n".join(lines)
