"""What the shrinking benchmarks share: the rows of one autoencoder for Fashion-MNIST, and their table.

Run as a module it is the worker of tfmot, which needs tf_keras: python -m benchmarks._shrinking FOLDER.
"""

import gzip
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks._parts import NO_DATA, decaying_adam, images, kept, parts

BATCH, RATE = 128, 1e-3
ZEROS = 0.8  # what tfmot sets to zero, as in its own guides
KINDS = ("given, float32", "given, int8", "tfmot", "shrink_until", "torch-pruning", "one cut", "from scratch")


@dataclass(frozen=True)
class Task:
    """One autoencoder: how it is built and trained, and what is made of it."""

    name: str
    shape: tuple
    build: dict
    epochs: int
    samples: int
    targets: dict  # {"params" or "macs": fractions that stay at most}
    peers: tuple  # those fractions of the parameters for which torch-pruning is run
    asked: tuple  # (error at most, times smaller, times faster at least), as multiples of the float32 file


def _data(task, quick):
    (x, _), (test, _) = images("fashion_mnist", task.shape)
    return (x[:1000], test[:300]) if quick else (x[: task.samples], test)


def _compiled(model, epochs, samples):
    model.compile(decaying_adam(RATE, max(epochs, 1), samples, BATCH), "mse")
    return model


def _trained(task, folder, quick):
    """The file of the given model, trained once."""
    import keras

    from keras_aeprune import models
    from keras_aeprune._files import writing

    path = folder / f"{task.name}.keras"
    if not path.exists():
        x, _ = _data(task, quick)
        keras.utils.set_random_seed(0)
        epochs = 1 if quick else task.epochs
        model = _compiled(getattr(models, task.name)(task.shape, **task.build), epochs, len(x))
        model.fit(x, x, epochs=epochs, batch_size=BATCH, verbose=0)
        with writing(path) as temporary:
            model.save(temporary)
    return keras.models.load_model(path)


def _row(model, x, test, folder, name, quantize="int8"):
    """Size and error of a model as a .tflite file, and the file for the timing."""
    import numpy as np

    from keras_aeprune import export

    file = export.tflite(model, folder / f"{name}.tflite", quantize=quantize, data=x[:500] if quantize else None)
    found = export.TFLiteModel(file.path).predict(test)
    return {
        "parameters": model.count_params(),
        "bytes": file.bytes,
        "zipped": len(gzip.compress(file.path.read_bytes(), 9)),
        "error": float(np.square(found - test).mean()),
        "float error": float(model.evaluate(test, test, batch_size=1000, verbose=0)),
        "file": file.path.name,
        "widths": _widths(model),
    }


def _widths(model):
    from keras_aeprune.shrinking.tracing import trace

    return [
        f"{member.path.split('/')[-1]} {len(ids)}"
        for member in trace(model).members.values()
        for ids in member.made.values()
    ]


def _ours(model, x, target, epochs, quick):
    from keras_aeprune.shrinking.iteration import shrink_until

    name, share = target
    total = model.count_params() if name == "params" else None
    if total is None:
        from keras_aeprune.shrinking.moves import costs_of

        total = costs_of(model)["macs"]
    return shrink_until(
        model,
        x,
        max_error_increase=None,
        **{f"target_{name}": share * total},
        step=0.3,
        epochs=0 if quick else 3,
        probe_epochs=0 if quick else 1,
        final_epochs=1 if quick else epochs,
        learning_rate=RATE,
        batch_size=BATCH,
        progress=True,
    )


def _common(model, x, limit, epochs, quick):
    """One cut of the same fraction everywhere by L1 norms, to no more than `limit` parameters; then training."""
    from keras_aeprune import criteria
    from keras_aeprune.shrinking.planning import plan

    small = plan(model, criteria.Magnitude(order=1), target_params=limit, round_to=8).apply(model)
    epochs = 1 if quick else epochs
    _compiled(small, epochs, len(x)).fit(x, x, epochs=epochs, batch_size=BATCH, verbose=0)
    return small


def _scratch(small, x, epochs, quick):
    """The architecture of a cut model with new weights, trained as long as both trainings of the cut one."""
    import keras

    keras.utils.set_random_seed(1)
    fresh = keras.models.clone_model(small)
    epochs = 1 if quick else 2 * epochs
    _compiled(fresh, epochs, len(x)).fit(x, x, epochs=epochs, batch_size=BATCH, verbose=0)
    return fresh


def _peer(model, x, limit, epochs, quick):
    """torch-pruning's cut to at most `limit` parameters, what it said, and why it was not run."""
    from benchmarks import _torch_pruning

    python, reason = _torch_pruning.environment(install=not quick)
    if reason:
        return None, {"skipped": reason}
    epochs = 1 if quick else epochs
    return _torch_pruning.cut(
        model, x, limit, epochs=epochs, batch_size=BATCH, rate=RATE, quick=quick, python=python
    )


def _zeros(model, x, epochs, quick):
    """A copy of a model whose weights tfmot pruned in tf_keras, in a process of its own."""
    import keras
    import numpy as np

    from benchmarks._processes import alone
    from benchmarks._torch_pruning import described

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        job = {"layers": described(model), "shape": model.input_shape[1:], "epochs": 1 if quick else epochs}
        (folder / "job.json").write_text(json.dumps(job))
        np.savez(folder / "given.npz", *model.get_weights())
        np.save(folder / "images.npy", x)
        alone("benchmarks._shrinking", str(folder))
        pruned = keras.models.clone_model(model)
        pruned.set_weights(_weights(folder / "pruned.npz"))
    pruned.compile(loss="mse")
    return pruned


def _weights(path):
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{number}"] for number in range(len(file.files))]


def worker(folder):
    """tfmot's pruning with the training that all rows have behind the cut."""
    import numpy as np
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    from benchmarks._torch_pruning import built

    job, x = json.loads((folder / "job.json").read_text()), np.load(folder / "images.npy", allow_pickle=False)
    model = built(keras, job["layers"], job["shape"])
    model.set_weights(_weights(folder / "given.npz"))
    keras.utils.set_random_seed(0)
    steps = job["epochs"] * -(-len(x) // BATCH)
    every = min(100, max(steps // 3, 1))
    end = max(2 * steps // 3 // every, 1) * every  # else its last update comes before the end of the ramp
    ramp = tfmot.sparsity.keras.PolynomialDecay(0.0, ZEROS, 0, end, frequency=every)
    model = tfmot.sparsity.keras.prune_low_magnitude(model, ramp)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)), "mse")
    step = tfmot.sparsity.keras.UpdatePruningStep()
    model.fit(x, x, epochs=job["epochs"], batch_size=BATCH, verbose=0, callbacks=[step])
    np.savez(folder / "pruned.npz", *tfmot.sparsity.keras.strip_pruning(model).get_weights())


def _zeros_in(model):
    """Fraction of the kernels' weights that are zero."""
    kernels = [value for value in model.get_weights() if value.ndim > 1]
    return sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)


def _rows(task, folder, files, quick):
    """{row: its figures}; the files lie in `files`."""
    import keras

    x, test = _data(task, quick)
    model = _trained(task, folder, quick)
    settings, found = [task.epochs, BATCH, RATE], {}

    def row(small, name, **more):
        return {**_row(small, x, test, files, f"{task.name}-{name}"), **more}

    def add(title, name, more, make):
        found[title] = kept(folder, f"{task.name}-{name}", [*settings, *more], make)
        return found[title]

    for precision, quantize in (("float32", None), ("int8", "int8")):
        name = f"given-{precision}"
        add(
            f"given, {precision}",
            name,
            [],
            lambda n=name, q=quantize: _row(model, x, test, files, f"{task.name}-{n}", q),
        )

    def zeros():
        pruned = _zeros(model, x, task.epochs, quick)
        return row(pruned, "zeros", zeros=_zeros_in(pruned))

    add(f"tfmot, {ZEROS:g} zeros", "zeros", [ZEROS], zeros)
    for by, share in ((by, share) for by, shares in task.targets.items() for share in shares):
        made = folder / f"{task.name}-{share}.keras"

        def ours(by=by, share=share, made=made):
            result = _ours(model, x, (by, share), task.epochs, quick)
            result.model.save(made)
            rounds = result.to_dict()["rounds"]
            return row(result.model, f"{share}-ours", rounds=rounds, seconds=result.seconds)

        limit = add(f"shrink_until, {share:g} of the {by}", f"{share}-ours", [by, share], ours)["parameters"]

        def peer(share=share, limit=limit):
            small, said = _peer(model, x, limit, task.epochs, quick)
            return said if small is None else row(small, f"{share}-torch", **said)

        def l1(share=share, limit=limit):
            return row(_common(model, x, limit, task.epochs, quick), f"{share}-l1")

        def scratch(share=share, made=made):
            return row(_scratch(keras.models.load_model(made), x, task.epochs, quick), f"{share}-scratch")

        title = f"torch-pruning, {share:g}"
        if by == "params" and share in task.peers and "skipped" in add(title, f"{share}-torch", [limit], peer):
            (folder / f"{task.name}-{share}-torch.json").unlink()  # the next run tries again
            print(f"{title}: skipped, {found[title]['skipped']}", flush=True)
        add(f"one cut by L1 norms, {share:g}", f"{share}-l1", [limit], l1)
        add(f"from scratch, {share:g}", f"{share}-scratch", [limit], scratch)
    return found


def _timed(rows, files):
    """All rows with their times, in turns with the first one's file; a row that was timed before keeps its own."""
    from benchmarks import _narrow
    from keras_aeprune import export

    first = next(iter(rows))
    measured = {k: row for k, row in rows.items() if "skipped" not in row and (k == first or "us" not in row)}
    paths = [files / row["file"] for row in measured.values()]
    narrow = _narrow.timed(paths)
    if "skipped" in narrow:
        print(f"no 128-bit figures: {narrow['skipped']}", flush=True)
    times = export.benchmark(*paths, runs=400)
    wide = narrow.get(str(paths[0]))
    found = dict(rows)
    for (key, row), path, t in zip(measured.items(), paths, times, strict=True):
        one = narrow.get(str(path))
        slim = wide / one if one else None
        found[key] = {**row, "us": t.median_us, "faster": 1 / t.ratio, "narrow faster": slim}
    return found


def run(task, name, quick):
    """The result of the benchmark `name`: all rows of one task."""
    from benchmarks._parts import real

    if real("fashion_mnist") is None:
        return NO_DATA
    with parts(name, quick) as folder, tempfile.TemporaryDirectory() as thrown:
        files = Path(thrown) if quick else folder
        return {"tables": {task.name: _timed(_rows(task, folder, files, quick), files)}}


def _place(key):
    """Given ones first, then by the share that stays, the largest first."""
    number = re.search(r", (0\.\d+)", key)
    kind = next(place for place, start in enumerate(KINDS) if key.startswith(start))
    return (0, 0.0, kind) if kind < 3 else (1, -float(number.group(1)), kind)


def show(result, task):
    """The table of one task."""
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    rows = result["tables"][task.name]
    first, order = rows["given, float32"], sorted(rows, key=_place)
    head = f"{task.name:<33}{'parameters':>11}{'bytes':>11}{'zipped':>11}{'smaller':>9}{'us':>8}{'faster':>8}"
    lines = [head + f"{'128-bit':>9}{'mse':>9}{'x':>7}"]
    for key in order:
        row = rows[key]
        if "skipped" in row:
            lines.append(f"{key:<33}  skipped: {row['skipped']}")
            continue
        smaller, worse = first["bytes"] / row["bytes"], row["error"] / first["error"]
        narrow = "-" if row["narrow faster"] is None else f"{row['narrow faster']:.1f}x"
        zipped = f"{row['zipped']:,}" if "zipped" in row else "-"
        lines.append(
            f"{key:<33}{row['parameters']:>11,}{row['bytes']:>11,}{zipped:>11}{smaller:>8.1f}x{row['us']:>8.1f}"
            f"{row['faster']:>7.1f}x{narrow:>9}{row['error']:>9.5f}{worse:>7.3f}"
        )
    for key in order:
        if key.startswith(("shrink_until", "torch-pruning")) and "skipped" not in rows[key]:
            route = f" ({rows[key]['route']})" if "route" in rows[key] else ""
            lines.append(f"  {key}{route}: {', '.join(rows[key]['widths'])}")
    for limit, smaller, faster in task.asked:
        lines.append(f"  asked: {smaller}x smaller and {faster}x faster at an error of {limit:.2f}x")
    return "\n".join(lines)


def in_short(result, task):
    """The best of our rows that keeps to the first limit asked, and tfmot's."""
    rows = result["tables"][task.name]
    first = rows["given, float32"]

    def said(row):
        smaller, worse = first["bytes"] / row["bytes"], row["error"] / first["error"]
        return f"{smaller:.1f}x smaller, {row['faster']:.1f}x faster, {worse:.2f}x the error of float32"

    ours = [row for key, row in rows.items() if key.startswith("shrink_until")]
    kept = [row for row in ours if row["error"] <= task.asked[0][0] * first["error"]]
    best = min(kept or ours, key=lambda row: row["bytes"] if kept else row["error"])
    peer = "".join(f". With tfmot's zeros: {said(row)}" for key, row in rows.items() if key.startswith("tfmot"))
    return f"A {task.name} autoencoder, cut by `shrink_until`, as int8: {said(best)}{peer}."


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
