"""Autoencoders with published figures, built and trained again with this package, and PCA of the same width.

Errors are means over test images and pixels in [0, 1]: mean squares, or binary crossentropy (BCE) or mean
absolute ones (MAE) where the source has these; "sum" is the sum of squares of an image. "published" is what the
source prints; where it does not say on which images, neither do we. Sources, in the order of the rows: PCA of
MNIST, Kaustic-user/PCA-PPCA-VAE-MNIST-Reconstruction; 784-64-32-k, the curve in stanton119/data-analysis;
784-32-784 and 784-128-64-32, Building autoencoders in Keras, the Keras blog; 1,200 images,
KonstantinosVard/Dimensionality-Reduction; the rows in "sum", Hinton and Salakhutdinov 2006, as quoted by others,
whose deep autoencoder is pretrained layer by layer; 784-128-64-128-784, the docstring of DropNeuron's autoencoder,
sigmoid units, which keeps a fraction of 0.189 of the weights with an L1 penalty alone and 0.195 with their method.
"Prune" is magnitude under one global threshold to the same fraction of 0.189, within 50 epochs in all. Logistic
PCA is here a linear code of 30 numbers with one layer of sigmoids behind it, trained on crossentropy, and the same
two layers trained on squares, which is what the column measures. The deep row is the one of `reconstruction`,
where that has run.
"""

import json

from benchmarks._parts import NO_DATA, RESULTS, decaying_adam, images, kept, parts, real

BATCH = 128
PCA = {2: 0.0557, 4: 0.0479, 8: 0.0374, 16: 0.0269, 32: 0.01683, 64: 0.00905}
CURVE = {10: 0.0218, 20: 0.0192, 30: 0.0179, 50: 0.0164}
KEEP = 0.189
PIXELS, DEEP = 784, "mnist, 784-1000-500-250-30"  # a task of `reconstruction`


def _fitted(x, build, loss, epochs, **fit):
    import keras

    from keras_aeprune import models

    keras.utils.set_random_seed(0)
    model = models.dense((784,), **build)
    model.compile("adam", loss)
    model.fit(x, x, epochs=epochs, batch_size=BATCH, verbose=0, **fit)
    return model


def _error(model, test, loss="mse"):
    model.compile(loss=loss)
    return float(model.evaluate(test, test, batch_size=1000, verbose=0))


def _curve(x, test, quick):
    rows = []
    for width, figure in CURVE.items():
        if quick and width > 10:
            break
        build = {"encoding_dim": width, "hidden_units": [64, 32], "code_activation": "relu"}
        for code in ("relu", "linear"):
            model = _fitted(x, {**build, "code_activation": code}, "mse", 1 if quick else 10)
            rows.append([f"784-64-32-{width}, {code} code, 10 epochs", "mse", _error(model, test), figure, width])
    return rows


def _blog(x, test, quick):
    rows = []
    for name, hidden, figure in (("784-32-784", [], 0.09), ("784-128-64-32-64-128-784", [128, 64], 0.08)):
        build = {"encoding_dim": 32, "hidden_units": hidden, "code_activation": "relu"}
        model = _fitted(x, build, "binary_crossentropy", 1 if quick else 50)
        rows.append([f"{name}, 50 epochs", "bce", _error(model, test, "binary_crossentropy"), figure, None])
        rows.append([f"{name}, the same model", "mse", _error(model, test), None, 32])
    return rows


def _few(quick):
    import numpy as np

    from keras_aeprune import models

    (x, _), (test, _) = images("fashion_mnist")
    x, rows = x[:1200], []
    for width, figure, by_pca in ((10, 0.075, 0.100), (50, 0.073, 0.067)):
        build = {"encoding_dim": width, "hidden_units": [256, 128]}
        model = _fitted(x, build, "mae", 1 if quick else 100)
        rows.append(
            [f"fashion, 1,200 images, 784-256-128-{width}", "mae", _error(model, test, "mae"), figure, None]
        )
        found = models.PCA.fit(x, [width]).reconstruct(test, width)
        rows.append(
            [f"fashion, 1,200 images, PCA-{width}", "mae", float(np.abs(found - test).mean()), by_pca, None]
        )
    return rows


def _dropneuron(x, test, quick):
    import keras

    from keras_aeprune import Prune, schedules

    epochs, rows = 1 if quick else 50, []
    build = {"encoding_dim": 64, "hidden_units": [128], "activation": "sigmoid", "code_activation": "sigmoid"}
    model = _fitted(x, build, "mse", epochs)
    rows.append(["784-128-64-128-784, all weights", "mse", _error(model, test), None, 64])
    ramp = schedules.relative("PolynomialDecay", 1 - KEEP, begin=0.2, end=0.6, updates=100)
    model = _fitted(x, build, "mse", epochs, callbacks=[Prune(ramp, allocation="global")])
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    left = sum(int((w != 0).sum()) for w in kernels) / sum(w.size for w in kernels)
    rows.append(
        [f"784-128-64-128-784, Prune, {left:.3f} of the weights", "mse", _error(model, test), 0.01151, None]
    )
    keras.backend.clear_session()
    return rows


def _logistic(x, test, quick):
    import keras

    from keras_aeprune import models

    epochs, rows = 1 if quick else 50, []
    for name, loss, figure in (
        ("logistic PCA-30", "binary_crossentropy", 8.01),
        ("the same layers, trained on squares", "mse", None),
    ):
        keras.utils.set_random_seed(0)
        model = models.dense((PIXELS,), 30, hidden_units=())
        model.compile(decaying_adam(3e-3, epochs, len(x), BATCH), loss)
        model.fit(x, x, epochs=epochs, batch_size=BATCH, verbose=0)
        rows.append([f"{name}, {epochs} epochs", "sum", PIXELS * _error(model, test), figure, 30])
    return rows


def _deep():
    """The autoencoder that the 30 numbers were published with, from another table; nothing before it has run."""
    path = RESULTS / "reconstruction.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else ()
    return [[DEEP, "sum", PIXELS * run["mse"], 3.00, 30] for run in runs if run["task"] == DEEP]


def run(quick):
    if real("mnist") is None:
        return NO_DATA
    from keras_aeprune import models

    (x, _), (test, _) = images("mnist")
    x, test = (x[:2000], test[:500]) if quick else (x, test)
    pca = models.PCA.fit(x, sorted({*PCA, *CURVE}))
    floors = {width: pca.mse(test, width) for width in sorted({*PCA, *CURVE})}
    rows = [[f"mnist, PCA-{width}", "mse", floors[width], figure, None] for width, figure in PCA.items()]
    with parts("published_autoencoders", quick) as folder:
        jobs = {
            "curve": lambda: _curve(x, test, quick),
            "blog": lambda: _blog(x, test, quick),
            "few": lambda: _few(quick),
            "logistic": lambda: _logistic(x, test, quick),
            "dropneuron": lambda: _dropneuron(x, test, quick),
        }
        for name, make in jobs.items():
            rows += kept(folder, name, [BATCH, KEEP], make)
            rows += _deep() if name == "logistic" else []
    found = []
    for name, unit, error, figure, width in rows:
        pca = width and floors[width] * (PIXELS if unit == "sum" else 1)
        found.append({"row": name, "in": unit, "error": error, "published": figure, "pca": pca})
    return {"rows": found}


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    lines = [f"{'test error':<52}{'in':>5}{'here':>10}{'published':>11}{'PCA here':>10}"]
    for row in result["rows"]:
        published = "-" if row["published"] is None else f"{row['published']:.5f}"
        pca = "-" if row["pca"] is None else f"{row['pca']:.5f}"
        lines.append(f"{row['row']:<52}{row['in']:>5}{row['error']:>10.5f}{published:>11}{pca:>10}")
    return "\n".join(lines)
