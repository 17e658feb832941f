"""Few labels on MNIST: the encoder of a denoising autoencoder with a head, beside the same network from scratch.

The autoencoder 784-512-256-64 learns from all 60,000 images without labels, with 70% of the pixels of each
set to 0. Then a part of the labels is drawn. The network from scratch has the same layers, labels, batches and
number of epochs (those of both stages of the encoder's network together), and Adam at the same rate.
"""

import os
import statistics

from benchmarks._parts import NO_DATA, decaying_adam, images, kept, parts

ENCODER = {"hidden_units": [512, 256], "encoding_dim": 64, "noise": 0.7, "epochs": 20, "batch": 128, "rate": 2e-3}
LABELS = {
    600: {"epochs": [20, 60], "batch": 32},
    6_000: {"epochs": [10, 30], "batch": 64},
    60_000: {"epochs": [2, 10], "batch": 128},
}
RATE = 1e-3
SEEDS = (0, 1, 2)


def untrained(settings):
    from keras_aeprune import models

    return models.denoising(
        (784,),
        settings["encoding_dim"],
        hidden_units=settings["hidden_units"],
        corruption="masking",
        noise=settings["noise"],
    )


def encoder(path, settings, quick):
    """The trained autoencoder in `path`, trained first if it is not there."""
    import time

    import keras

    from keras_aeprune import models
    from keras_aeprune._files import writing

    keras.utils.set_random_seed(0)
    model = untrained(settings)
    (x, _), _ = images("mnist")
    epochs = 1 if quick else settings["epochs"]
    x = x[:512] if quick else x
    model.compile(decaying_adam(settings["rate"], epochs, len(x), settings["batch"]), "mse")
    began = time.perf_counter()
    model.fit(x, x, epochs=epochs, batch_size=settings["batch"], verbose=0)
    with writing(path) as temporary:
        models.for_inference(model).save(temporary)
    return {"seconds": time.perf_counter() - began}


def train(path, count, seed, settings, quick):
    """Test accuracies with so many labels: from scratch, and of each stage with the encoder."""
    import keras
    import numpy as np

    from keras_aeprune import models

    (x, y), test = images("mnist")
    chosen = np.random.default_rng(seed).permutation(len(x))[:count]
    first, second = settings["epochs"]
    if quick:
        test, first, second = (test[0][:500], test[1][:500]), 1, 1
    same = {"test": test, "batch_size": settings["batch"], "learning_rate": (RATE, RATE), "seed": seed}
    keras.utils.set_random_seed(seed)
    network = models.with_head(untrained(ENCODER), 10, frozen=False)
    scratch = models.fine_tune(network, x[chosen], y[chosen], epochs=(0, first + second), **same)
    classifier = models.with_head(models.load(path), 10)
    tuned = models.fine_tune(classifier, x[chosen], y[chosen], epochs=(first, second), **same)
    found = {stage.name: stage.score for stage in tuned.stages}
    return {
        "scratch": scratch.final.score,
        "frozen": found["frozen encoder"],
        "tuned": found["fine-tuned"],
        "parameters": scratch.final.parameters,
        "seconds": sum(stage.seconds for stage in (*scratch.stages, *tuned.stages)),
    }


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return NO_DATA
    rows = []
    with parts("few_labels", quick) as folder:
        path = folder / "encoder.keras"
        if not path.exists():
            (folder / "encoder.json").unlink(missing_ok=True)
        kept(folder, "encoder", ENCODER, lambda: encoder(path, ENCODER, quick))
        for count, settings in list(LABELS.items())[: 1 if quick else None]:
            for seed in SEEDS[:1] if quick else SEEDS:
                found = kept(
                    folder,
                    f"{count}-{seed}",
                    [ENCODER, settings, RATE],
                    lambda c=count, s=seed, t=settings: train(path, c, s, t, quick),
                )
                rows.append({"labels": count, "seed": seed, **found})
    return {"rows": rows}


def show(result):
    if "skipped" in result:
        return f"skipped, {result['skipped']}"
    groups = {}
    for row in result["rows"]:
        groups.setdefault(row["labels"], []).append(row)
    lines = [f"{'labels':>8}{'scratch':>10}{'frozen':>10}{'fine-tuned':>12}{'gain':>9}{'lowest':>9}{'highest':>9}"]
    for labels, rows in groups.items():
        middle = {key: statistics.median(row[key] for row in rows) for key in ("scratch", "frozen", "tuned")}
        gains = [row["tuned"] - row["scratch"] for row in rows]
        lines.append(
            f"{labels:>8,}{middle['scratch']:>10.4f}{middle['frozen']:>10.4f}{middle['tuned']:>12.4f}"
            f"{statistics.median(gains):>+9.4f}{min(gains):>+9.4f}{max(gains):>+9.4f}"
        )
    lines.append(
        f"test accuracy, medians over {len(rows)} seeds; gain of the fine-tuned over scratch, seed by seed"
    )
    return "\n".join(lines)
