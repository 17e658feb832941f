"""Codes of 2, 8 and 32 numbers of MNIST digits: nearest neighbours and trustworthiness, beside PCA and pixels."""

import os

from benchmarks._parts import NO_DATA, decaying_adam, images, kept, parts

SETTINGS = {"hidden_units": [512, 256, 128], "epochs": 30, "batch": 128, "rate": 1e-3}
WIDTHS = (2, 8, 32)


def train(width, settings, quick):
    import keras

    from keras_aeprune import models

    (x, y), (test, labels) = images("mnist")
    epochs = settings["epochs"]
    if quick:
        x, y, test, labels, epochs = x[:512], y[:512], test[:256], labels[:256], 1
    keras.utils.set_random_seed(0)
    model = models.dense((784,), width, hidden_units=settings["hidden_units"])
    model.compile(decaying_adam(settings["rate"], epochs, len(x), settings["batch"]), "mse")
    model.fit(x, x, epochs=epochs, batch_size=settings["batch"], verbose=0)
    quality = models.embedding_quality(model, (x, y), test=(test, labels), samples=5000, seed=0)
    return {
        "rows": list(quality.rows),
        "train_samples": quality.train_samples,
        "test_samples": quality.test_samples,
    }


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return NO_DATA
    result = {"rows": []}
    with parts("embeddings", quick) as folder:
        for width in WIDTHS[:1] if quick else WIDTHS:
            found = kept(folder, str(width), SETTINGS, lambda w=width: train(w, SETTINGS, quick))
            raw = [row for row in found["rows"] if row["width"] == 784]
            result["rows"] += [row for row in found["rows"] if row["width"] != 784]
            result |= {key: found[key] for key in ("train_samples", "test_samples")}
    result["rows"] += raw
    return result


def show(result):
    if "skipped" in result:
        return f"skipped, {result['skipped']}"
    lines = [f"{'codes of':<28}{'numbers':>8}{'5-NN accuracy':>15}{'trustworthiness':>17}"]
    for row in result["rows"]:
        lines.append(f"{row['name']:<28}{row['width']:>8}{row['accuracy']:>15.4f}{row['trustworthiness']:>17.4f}")
    lines.append(f"{result['train_samples']} training and {result['test_samples']} test digits, one seed")
    return "\n".join(lines)
