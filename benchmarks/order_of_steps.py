"""In which order to cut, prune and share: error and packed bytes of the same steps one after the other.

A dense autoencoder 784-256-128-32-128-256-784, trained on 20,000 images of Fashion-MNIST. "cut" takes half of the
hidden units by elimination, compensates in closed form and trains; "prune" brings 0.8 zeros under one global
threshold; "share" leaves 32 values a kernel and trains them; each trains for the same number of epochs, and each
keeps what the steps before it did: zeros stay in a cut; shared values are found anew after a step that breaks
them. "taught" has the given model as the teacher of the training after the cut. All are packed with 5 bits, so
that a row that does not end in sharing is clustered without training. "mse" is the test error of what comes out of
the container, "int8" that of the int8 .tflite file of the same model. Medians over the seeds of the given model.
"""

import tempfile
from pathlib import Path

from benchmarks._parts import NO_DATA, images, kept, parts, real

EPOCHS, TRAINED, SAMPLES, SEEDS, ZEROS, BITS = 4, 15, 20000, (0, 1), 0.8, 5
ORDERS = (
    ("cut",),
    ("cut taught",),
    ("prune",),
    ("share",),
    ("cut", "prune", "share"),
    ("cut taught", "prune", "share"),
    ("prune", "cut", "share"),
    ("cut", "share", "prune"),
    ("prune", "share", "cut"),
    ("share", "prune", "cut"),
)


def _given(x, seed, quick):
    import keras

    from benchmarks._parts import decaying_adam
    from keras_aeprune import models

    keras.utils.set_random_seed(seed)
    model = models.dense((784,), encoding_dim=32, hidden_units=[256, 128])
    epochs = 1 if quick else TRAINED
    model.compile(decaying_adam(1e-3, epochs, len(x), 128), "mse")
    model.fit(x, x, epochs=epochs, batch_size=128, verbose=0)
    return model


def _sparse(model):
    return any((w == 0).mean() > 0.1 for w in model.get_weights() if w.ndim > 1)


def _cut(model, x, epochs, teacher):
    from keras_aeprune import shrinking

    plan = shrinking.plan(model, "elimination", keep={"hidden_*": 0.5}, data=x[:1024], round_to=8)
    small = plan.apply(model, data=x[:1024])
    small.compile("adam", "mse")
    shrinking.fine_tune(small, x, epochs=epochs, teacher=teacher, keep_zeros=_sparse(model), progress=False)
    return small


def _pruned(model, x, epochs):
    import keras

    from keras_aeprune import Prune, schedules

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile(keras.optimizers.Adam(1e-3), "mse")
    ramp = schedules.relative("PolynomialDecay", ZEROS, begin=0.0, end=0.6, updates=50)
    copy.fit(x, x, epochs=epochs, batch_size=128, verbose=0, callbacks=[Prune(ramp, allocation="global")])
    return copy


def _shared(model, x, epochs):
    from keras_aeprune import compression

    model.compile("adam", "mse")
    return compression.cluster(model, BITS, data=x, epochs=epochs, learning_rate=2e-4, progress=False)[0]


def _row(order, given, x, test, epochs, folder):
    import numpy as np

    from keras_aeprune import compression, export

    model = given
    for step in order:
        if step == "prune":
            model = _pruned(model, x, epochs)
        elif step == "share":
            model = _shared(model, x, epochs)
        else:
            model = _cut(model, x, epochs, given if step == "cut taught" else None)
    packed = compression.pack(model, folder / "m.kap", bits=BITS)
    out = compression.unpack(folder / "m.kap")
    whole = export.tflite(model, folder / "m.tflite", quantize="int8", data=x[:256])
    kernels = [w for w in model.get_weights() if w.ndim > 1]

    def error(found):
        return float(np.square(found - test).mean())

    return {
        "packed": packed.bytes,
        "mse": error(out.predict(test, batch_size=1000, verbose=0)),
        "float32": error(model.predict(test, batch_size=1000, verbose=0)),
        "int8": error(export.TFLiteModel(whole.path).predict(test)),
        "int8 bytes": whole.bytes,
        "zeros": sum(int((w == 0).sum()) for w in kernels) / sum(w.size for w in kernels),
        "parameters": model.count_params(),
    }


def run(quick):
    if real("fashion_mnist") is None:
        return NO_DATA
    import keras

    from keras_aeprune._files import writing

    (x, _), (test, _) = images("fashion_mnist")
    x, test = (x[:1000], test[:300]) if quick else (x[:SAMPLES], test)
    epochs, settings = 1 if quick else EPOCHS, [EPOCHS, TRAINED, SAMPLES, ZEROS, BITS]
    rows = []
    with parts("order_of_steps", quick) as folder, tempfile.TemporaryDirectory() as scratch:
        for seed in SEEDS[:1] if quick else SEEDS:
            path = folder / f"given-{seed}.keras"
            if not path.exists():
                with writing(path) as temporary:
                    _given(x, seed, quick).save(temporary)
            given = keras.models.load_model(path)
            loss = float(given.evaluate(test, test, batch_size=1000, verbose=0))
            rows.append({"order": [], "seed": seed, "float32": loss})
            for order in ORDERS[4:5] if quick else ORDERS:
                made = kept(
                    folder,
                    f"{seed}-{'-'.join(order).replace(' ', '_')}",
                    settings,
                    lambda o=order, g=given: _row(o, g, x, test, epochs, Path(scratch)),
                )
                rows.append({"order": list(order), "seed": seed, **made})
    return {"rows": rows}


def show(result):
    import statistics

    if "skipped" in result:
        return f"skipped: {result['skipped']}"

    def middle(rows, name):
        return statistics.median(row[name] for row in rows)

    first = middle([row for row in result["rows"] if not row["order"]], "float32")
    seeds = len({row["seed"] for row in result["rows"]})
    lines = [
        f"given model: test mse {first:.5f}; medians of {seeds} seeds, in brackets the lowest and the highest"
    ]
    lines.append(
        f"{'order':<28}{'parameters':>11}{'zeros':>7}{'packed':>9}{'mse':>9}{'':>19}{'x':>7}{'int8':>9}{'bytes':>9}"
    )
    for order in ORDERS:
        rows = [row for row in result["rows"] if tuple(row["order"]) == order]
        if not rows:
            continue
        errors = sorted(row["mse"] for row in rows)
        lines.append(
            f"{', '.join(order):<28}{middle(rows, 'parameters'):>11,.0f}{middle(rows, 'zeros'):>7.2f}"
            f"{middle(rows, 'packed'):>9,.0f}{middle(rows, 'mse'):>9.5f} [{errors[0]:.5f}, {errors[-1]:.5f}]"
            f"{middle(rows, 'mse') / first:>7.3f}{middle(rows, 'int8'):>9.5f}{middle(rows, 'int8 bytes'):>9,.0f}"
        )
    return "\n".join(lines)
