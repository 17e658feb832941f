"""Autoencoders for Fashion-MNIST cut to a budget, as int8 files, beside small ones from scratch.

The dense model 784-512-256-64-256-512-784 is trained for 30 epochs, a convolutional one (28x28x1, filters 32 and
64, code 64) for 15 on 20,000 images, with a cosine rate. Each is then made smaller by `shrink_until`, and by one
cut of the same fraction of every layer to the same number of parameters by the size of their weights (the common
practice), with the same last training; beside them stands the architecture that `shrink_until` chose, trained
from scratch. The last training after a cut has the epochs and the rate of the first one; the one from scratch has
the epochs of both together. All are int8 files, timed in turns with the float32 file of the given model, one
thread; "128-bit" is how many times faster they are with SIMD of that width only, as phones have it. Errors are
means over the test images and pixels, of the .tflite file itself.
"""

import tempfile
from pathlib import Path

from benchmarks._parts import NO_DATA, decaying_adam, images, kept, parts

EPOCHS = {"dense": 30, "convolutional": 15}
SAMPLES = {"dense": 60000, "convolutional": 20000}
BATCH, RATE = 128, 1e-3
MODELS = {
    "dense": {"shape": [784], "build": {"encoding_dim": 64, "hidden_units": [512, 256]}},
    "convolutional": {"shape": [28, 28, 1], "build": {"encoding_dim": 64, "filters": [32, 64]}},
}
TARGETS = {  # fraction of the parameters (dense) or multiplications (convolutional) that stay at most
    "dense": {"params": [0.44, 0.28]},
    "convolutional": {"params": [0.4], "macs": [0.25]},
}
ASKED = {  # (error at most, times smaller at least, times faster at least), as multiples of the float32 file
    "dense": [(1.05, 8, 12), (1.15, 12, 18)],
    "convolutional": [(1.05, 8, 4)],
}


def _data(name, quick):
    (x, _), (test, _) = images("fashion_mnist", tuple(MODELS[name]["shape"]))
    return (x[:1000], test[:300]) if quick else (x[: SAMPLES[name]], test)


def _compiled(model, epochs, samples):
    model.compile(decaying_adam(RATE, max(epochs, 1), samples, BATCH), "mse")
    return model


def _trained(name, folder, quick):
    """The file of the given model, trained once."""
    import keras

    from keras_aeprune import models
    from keras_aeprune._files import writing

    path = folder / f"{name}.keras"
    if not path.exists():
        task = MODELS[name]
        x, _ = _data(name, quick)
        keras.utils.set_random_seed(0)
        build = models.dense if name == "dense" else models.convolutional
        epochs = 1 if quick else EPOCHS[name]
        model = _compiled(build(tuple(task["shape"]), **task["build"]), epochs, len(x))
        model.fit(x, x, epochs=epochs, batch_size=BATCH, verbose=0)
        with writing(path) as temporary:
            model.save(temporary)
    return keras.models.load_model(path)


def _file(model, x, path, quantize="int8"):
    from keras_aeprune import export

    return export.tflite(model, path, quantize=quantize, data=x[:500] if quantize else None)


def _row(model, x, test, folder, name, quantize="int8"):
    """Size and error of a model as a .tflite file, and the file for the timing."""
    import numpy as np

    from keras_aeprune import export

    file = _file(model, x, folder / f"{name}.tflite", quantize)
    found = export.TFLiteModel(file.path).predict(test)
    return {
        "parameters": model.count_params(),
        "bytes": file.bytes,
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


def _rows(name, folder, files, quick):
    """{row: its figures}; the files lie in `files`."""
    import keras

    x, test = _data(name, quick)
    model = _trained(name, folder, quick)
    epochs = EPOCHS[name]
    settings = [epochs, BATCH, RATE]
    found = {}
    for precision, quantize in (("float32", None), ("int8", "int8")):
        key = f"{name}-given-{precision}"
        found[f"given, {precision}"] = kept(
            folder, key, settings, lambda k=key, q=quantize: _row(model, x, test, files, k, q)
        )
    for by, shares in TARGETS[name].items():
        for share in shares:
            made = folder / f"{name}-{share}.keras"

            def shrunk(made=made, by=by, share=share):
                result = _ours(model, x, (by, share), epochs, quick)
                result.model.save(made)
                row = _row(result.model, x, test, files, f"{name}-{share}-ours")
                return {**row, "rounds": result.to_dict()["rounds"], "seconds": result.seconds}

            ours = kept(folder, f"{name}-{share}-ours", [*settings, by, share], shrunk)
            found[f"shrink_until, {share:g} of the {by}"] = ours
            limit = ours["parameters"]
            found[f"one cut by L1 norms, {share:g}"] = kept(
                folder,
                f"{name}-{share}-l1",
                [*settings, limit],
                lambda share=share, limit=limit: _row(
                    _common(model, x, limit, epochs, quick), x, test, files, f"{name}-{share}-l1"
                ),
            )
            found[f"from scratch, {share:g}"] = kept(
                folder,
                f"{name}-{share}-scratch",
                [*settings, limit],
                lambda share=share, made=made: _row(
                    _scratch(keras.models.load_model(made), x, epochs, quick),
                    x,
                    test,
                    files,
                    f"{name}-{share}-scratch",
                ),
            )
    return found


def _timed(rows, files):
    from benchmarks import _narrow
    from keras_aeprune import export

    paths = [files / row["file"] for row in rows.values()]
    narrow = _narrow.timed(paths)
    if "skipped" in narrow:
        print(f"no 128-bit figures: {narrow['skipped']}", flush=True)
    times = export.benchmark(*paths, runs=400)
    found = {}
    for (key, row), path, t in zip(rows.items(), paths, times, strict=True):
        found[key] = {**row, "us": t.median_us, "faster": 1 / t.ratio, "narrow us": narrow.get(str(path))}
    return found


def run(quick):
    from benchmarks._parts import real

    if real("fashion_mnist") is None:
        return NO_DATA
    result = {"tables": {}}
    with parts("shrinking", quick) as folder, tempfile.TemporaryDirectory() as thrown:
        files = Path(thrown) if quick else folder
        for name in MODELS:
            if quick and name != "dense":
                continue
            result["tables"][name] = _timed(_rows(name, folder, files, quick), files)
    return result


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    lines = []
    for name, rows in result["tables"].items():
        first = rows["given, float32"]
        head = f"{name:<34}{'parameters':>11}{'bytes':>11}{'smaller':>9}{'us':>8}{'faster':>8}{'128-bit':>9}"
        head += f"{'mse':>9}{'x':>7}"
        lines += ["", head] if lines else [head]
        for key, row in rows.items():
            smaller, worse = first["bytes"] / row["bytes"], row["error"] / first["error"]
            narrow = f"{first['narrow us'] / row['narrow us']:.1f}x" if row["narrow us"] else "-"
            lines.append(
                f"{key:<34}{row['parameters']:>11,}{row['bytes']:>11,}{smaller:>8.1f}x{row['us']:>8.1f}"
                f"{row['faster']:>7.1f}x{narrow:>9}{row['error']:>9.5f}{worse:>7.3f}"
            )
        for key, row in rows.items():
            if key.startswith("shrink_until"):
                lines.append(f"  {key}: {', '.join(row['widths'])}")
        for limit, smaller, faster in ASKED[name]:
            lines.append(f"  asked: {smaller}x smaller and {faster}x faster at an error of {limit:.2f}x")
    return "\n".join(lines)
