"""LeNet-300-100 and LeNet-5 on MNIST: pruned, weights shared, packed; beside the published rows.

A dense network is trained with dropout; it is the teacher too. A copy of it is pruned in `distill`, with
`Prune` under one global threshold; for LeNet-300-100 a Hoyer-square penalty (sum |w|)^2 / sum w^2 of each
kernel draws small weights to zero as long as the sparsity grows. `Cluster` then lets each kernel share few
values, and the result is packed into one file. Errors are those on the 10,000 test images at the end of the
recipe, of the model that the packed file gives back; no epoch and no seed is chosen. The settings were chosen
with the last 10,000 training images held out; here all 60,000 are trained on, as they are, without shifts or
other augmentation.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks._parts import NO_DATA, images, kept, parts, real

SEEDS = (0, 1, 2)
# ratio: dense weights by non-zero ones; bits: of a shared value; rates fall to 0 along cosines.
SMALL = {"ratio": 30, "epochs": 40, "rate": 4e-3, "batch": 256, "ramp": 0.6, "hoyer": 2e-4, "share": 4}
RECIPES = {
    "300-100, small": {"net": "300-100", "seeds": 3, "dense": 25, "bits": 8, **SMALL},
    "300-100, sparse": {"net": "300-100", "seeds": 3, "dense": 25, "bits": 8, **SMALL, "ratio": 70},
    "LeNet-5": {
        **{"net": "LeNet-5", "seeds": 1, "dense": 10, "bits": 6, "ratio": 25, "epochs": 16, "rate": 1e-3},
        **{"batch": 128, "ramp": 0.5, "hoyer": 0.0, "share": 2},
    },
}
QUICK = {"seeds": 1, "dense": 1, "epochs": 3, "share": 1, "ratio": 4}
TEACHER = {"alpha": 0.7, "temperature": 2.0}  # its share in the loss, and the temperature
TARGETS = {"300-100, small": (16000, 0, 1.6), "300-100, sparse": (None, 60, 1.9), "LeNet-5": (30000, 0, 0.8)}
# net, method, non-zero ratio, bytes of the file with its codes, error; None where the source gives none.
PUBLISHED = (
    ("300-100", "Han 2015, magnitude", 12, None, 1.59),
    ("300-100", "Deep Compression 2016", 12, 27000, 1.58),
    ("300-100", "dynamic network surgery 2016", 56, None, 1.99),
    ("300-100", "soft weight sharing 2017", 23, 16700, 1.94),
    ("300-100", "sparse variational dropout 2017", 68, None, 1.92),
    ("300-100", "RigL+ 375-62-51, float32 and a bitmask", None, 16113, 1.57),
    ("LeNet-5", "Han 2015, magnitude", 12, None, 0.77),
    ("LeNet-5", "Deep Compression 2016", 12, 44000, 0.74),
    ("LeNet-5", "dynamic network surgery 2016", 108, None, 0.91),
    ("LeNet-5", "soft weight sharing 2017", 200, 10600, 0.97),
    ("LeNet-5", "sparse variational dropout 2017", 280, None, 0.75),
)


def _network(net, dropout):
    """The network with logits at its end; dropout > 0 is that of its dense layers, 0.4 of it on the inputs."""
    import keras

    kl = keras.layers
    if net == "300-100":
        layers = [keras.Input((784,)), *_dropping(0.4 * dropout)]
        layers += [kl.Dense(300, "relu", name="ip1"), *_dropping(dropout)]
        layers += [kl.Dense(100, "relu", name="ip2"), *_dropping(0.6 * dropout), kl.Dense(10, name="ip3")]
        return keras.Sequential(layers)
    layers = [keras.Input((28, 28, 1)), kl.Conv2D(20, 5, name="conv1"), kl.MaxPooling2D()]
    layers += [kl.Conv2D(50, 5, name="conv2"), kl.MaxPooling2D(), kl.Flatten(), *_dropping(dropout)]
    layers += [kl.Dense(500, "relu", name="ip1"), *_dropping(dropout), kl.Dense(10, name="ip2")]
    return keras.Sequential(layers)


def _dropping(fraction):
    import keras

    return [keras.layers.Dropout(fraction)] if fraction else []


def _compile(model, rate, epochs, samples, batch):
    import keras

    from benchmarks._parts import decaying_adam

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(decaying_adam(rate, epochs, samples, batch), loss, steps_per_execution=10)


def _error(model, data):
    """In percent of the images."""
    return 100 * float((model.predict(data[0], batch_size=1000, verbose=0).argmax(1) != data[1]).mean())


def _dense(net, epochs, data, seed):
    import keras

    keras.utils.set_random_seed(seed)
    model = _network(net, 0.3 if net == "300-100" else 0.4)
    rate = 1e-3 if net == "300-100" else 1.5e-3
    _compile(model, rate, epochs, len(data[0]), 128)
    model.fit(*data, batch_size=128, epochs=epochs, verbose=0)
    return model


def _pruned(teacher, recipe, data, seed):
    import keras

    from keras_aeprune import Prune, schedules
    from keras_aeprune.compression.distillation import distill
    from keras_aeprune.regularizers import HoyerSquare

    model = _network(recipe["net"], 0)
    model.set_weights(teacher.get_weights())
    on = keras.Variable(1.0, trainable=False)
    if recipe["hoyer"]:
        penalty = HoyerSquare(recipe["hoyer"])
        for layer in model.layers:
            if hasattr(layer, "kernel"):
                layer.kernel.regularizer = lambda w: on * penalty(w)
    epochs = recipe["epochs"]
    end = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: on.assign(float(epoch + 1 < recipe["ramp"] * epochs))
    )
    schedule = schedules.relative(
        "PolynomialDecay", 1 - 1 / recipe["ratio"], begin=0.0, end=recipe["ramp"], updates=200
    )
    _compile(model, recipe["rate"], epochs, len(data[0]), recipe["batch"])
    options = {"epochs": epochs, "batch_size": recipe["batch"], "seed": seed + 100, "progress": False, **TEACHER}
    distill(model, teacher, data, callbacks=[Prune(schedule, allocation="global"), end], **options)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.regularizer = None
    return model


def _share(model, teacher, recipe, data, seed):
    from keras_aeprune.compression.clustering import Cluster
    from keras_aeprune.compression.distillation import distill

    _compile(model, 1e-3, recipe["share"], len(data[0]), recipe["batch"])
    options = {"batch_size": recipe["batch"], "seed": seed + 200, "progress": False, **TEACHER}
    distill(
        model,
        teacher,
        data,
        epochs=recipe["share"],
        callbacks=[Cluster(recipe["bits"], gradient="sum")],
        **options,
    )


def _packed(model, bits):
    """(bytes of the packed file, the model that it gives back)."""
    from keras_aeprune.compression.codec import pack, unpack

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lenet.packed"
        pack(model, path, bits=bits, bias_bits=16)
        return path.stat().st_size, unpack(path)


def _result(recipe, data, test, seed):
    import numpy as np

    teacher = _dense(recipe["net"], recipe["dense"], data, seed)
    model = _pruned(teacher, recipe, data, seed)
    pruned = _error(model, test)
    _share(model, teacher, recipe, data, seed)
    size, back = _packed(model, recipe["bits"])
    kernels = [layer.kernel.numpy() for layer in back.layers if hasattr(layer, "kernel")]
    left = [int(np.count_nonzero(kernel)) for kernel in kernels]
    return {
        "dense": _error(teacher, test),
        "pruned": pruned,
        "shared": _error(model, test),
        "error": _error(back, test),
        "nonzero": left,
        "ratio": sum(kernel.size for kernel in kernels) / sum(left),
        "bytes": size,
    }


def run(quick):
    if real("mnist") is None:
        return NO_DATA
    rows = []
    with parts("lenet", quick) as folder:
        for name, recipe in RECIPES.items():
            recipe = {**recipe, **(QUICK if quick else {})}
            data, test = images("mnist", (784,) if recipe["net"] == "300-100" else (28, 28, 1))
            data = tuple(values[:2000] if quick else values for values in data)
            for seed in SEEDS[: recipe["seeds"]]:
                settings = {**recipe, **TEACHER, "samples": len(data[0]), "seed": seed}
                key = f"{name.replace(', ', '-')}-{seed}"
                found = kept(folder, key, settings, lambda r=recipe, s=seed, d=data, t=test: _result(r, d, t, s))
                rows.append({"recipe": name, **settings, **found})
    return {"rows": rows}


def _line(name, ratio, size, *errors):
    ratio = "-" if ratio is None else f"{ratio:.1f}x"
    size = "-" if size is None else f"{size:,}"
    return f"{name:<42}{ratio:>9}{size:>10}" + "".join(f"{'' if e is None else f'{e:.2f}':>9}" for e in errors)


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    lines = ["test error in percent, at the end; ours is the median of its seeds"]
    lines.append(f"{'':<42}{'non-zero':>9}{'bytes':>10}{'error':>9}{'dense':>9}{'pruned':>9}")
    for net in ("300-100", "LeNet-5"):
        lines.append(f"{'LeNet-' if net == '300-100' else ''}{net}")
        for other, method, ratio, size, error in PUBLISHED:
            if other == net:
                lines.append(_line(f"  {method}", ratio, size, error))
        for name in RECIPES:
            rows = [row for row in result["rows"] if row["recipe"] == name and row["net"] == net]
            if not rows:
                continue
            middle = {
                key: statistics.median(row[key] for row in rows)
                for key in ("ratio", "bytes", "error", "dense", "pruned")
            }
            head = f"  ours, {name} ({len(rows)} seeds)"
            lines.append(_line(head, *(middle[key] for key in ("ratio", "bytes", "error", "dense", "pruned"))))
            errors = ", ".join(f"{row['error']:.2f}" for row in rows)
            lines.append(f"    errors {errors}; {_judged(name, middle)}")
    return "\n".join(lines)


def in_short(result):
    """Bytes and error of the recipe that is to be small, beside Deep Compression's."""
    net, name = "300-100", "300-100, small"
    rows = [row for row in result["rows"] if row["recipe"] == name]
    size, error = (statistics.median(row[key] for row in rows) for key in ("bytes", "error"))
    peer = next(row for row in PUBLISHED if row[0] == net and row[1].startswith("Deep Compression"))
    return (
        f"LeNet-{net} on MNIST, pruned and packed: {size / 1000:.1f} KB at a test error of {error:.2f} percent; "
        f"{peer[1]} has {peer[3] / 1000:.0f} KB at {peer[4]:.2f}."
    )


def _judged(name, middle):
    """Whether the figures that were set beforehand are met."""
    size, ratio, error = TARGETS[name]
    asked = f"at most {size:,} bytes" if size else f"at least {ratio}x"
    met = middle["error"] <= error and middle["ratio"] >= ratio and (size is None or middle["bytes"] <= size)
    return f"asked: {asked} at {error:.1f}: {'met' if met else 'missed'}"
