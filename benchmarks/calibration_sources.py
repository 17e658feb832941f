"""Calibration without real samples: rank correlation and loss of an autoencoder at 0.9, by source and criterion.

An autoencoder 784-128-32-128-784 is trained on 20,000 images of MNIST and pruned in one step under one global
threshold by the scores that a criterion has from 1,024 samples of each source, then fine-tuned for an epoch on the
real images. Every source learns from the 18,976 images that the seed does not set aside as the reference for the
ranks; "real" is another draw from these, the ceiling. Losses are the mse of the 10,000 test images. "cut" draws
activations before the last layer, since before the decoder it would be "decoder" itself. The output is linear:
behind a sigmoid the gradients of pixels that are always black vanish, and fisher and gradient_magnitude, which
then cut all that keeps these pixels black, end above the loss of random scores.
"""

from benchmarks._parts import NO_DATA, images, parts, real

CRITERIA = ("fisher", "wanda", "gradient_magnitude")
SPARSITY = 0.9
FULL = {"train": 20_000, "test": 10_000, "epochs": 5, "samples": 1024, "seeds": 5, "generator_epochs": 15}
QUICK = {"train": 600, "test": 200, "epochs": 1, "samples": 64, "seeds": 2, "generator_epochs": 1}
BATCH = 128


def _sources(settings):
    from keras_aeprune import calibration

    vae = calibration.Vae(epochs=settings["generator_epochs"])
    simple = ("gaussian_noise", "uniform_noise", "shuffled_pixels")
    return ("real", (vae, 0.5), vae, "decoder", calibration.Cut("decoder/output"), *simple)


def _trained(path, x, settings):
    """The dense autoencoder, with the weights in `path`, trained first if they are not there."""
    import keras

    from keras_aeprune import models
    from keras_aeprune._files import writing

    keras.utils.set_random_seed(0)
    model = models.dense((784,), 32, hidden_units=(128,), output_activation="linear")
    model.compile("adam", "mse")
    if path.exists():
        model.load_weights(path)
        return model
    model.fit(x, x, epochs=settings["epochs"], batch_size=BATCH, verbose=0)
    with writing(path) as temporary:
        model.save_weights(temporary)
    model.load_weights(path)  # with the same optimizer state whether they were there or not
    return model


def run(quick):
    from keras_aeprune.search.calibration_sources import compare_calibration

    if real("mnist") is None:
        return NO_DATA
    settings = QUICK if quick else FULL
    (x, _), (test, _) = images("mnist")
    x, test = x[: settings["train"]], test[: settings["test"]]
    with parts("calibration_sources", quick) as folder:
        table = compare_calibration(
            _trained(folder / "dense.weights.h5", x, settings),
            x,
            SPARSITY,
            sources=_sources(settings),
            criterion=CRITERIA[2:] if quick else CRITERIA,
            samples=settings["samples"],
            seeds=settings["seeds"],
            validation=test,
            directory=folder / "cells",
            batch_size=BATCH,
        )
    found = table.to_dict()
    left_out = found.pop("skipped")  # a result with that key is none
    return {**found, "left_out": left_out, "settings": settings}


def _spread(found, digits):
    if found is None:
        return "-"
    mean, deviation = float(found["mean"]), float(found["deviation"])
    return f"{mean:.{digits}f} +- {deviation:.{digits}f}"


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    lines = [
        f"mean +- deviation over {result['seeds']} seeds; dense mse {result['dense_loss']:.5f}",
        f"{'criterion':<20}{'source':<22}{'rank':>16}{'mse, pruned':>21}{'mse, fine-tuned':>21}",
    ]
    for row in result["rows"]:
        name = row["source"].replace(f"(epochs={result['settings']['generator_epochs']})", "")
        name = name.replace("(part=decoder/output)", ", last layer")
        lines.append(
            f"{row['criterion']:<20}{name:<22}{_spread(row['overall'], 3):>16}"
            f"{_spread(row['pruned'], 5):>21}{_spread(row['tuned'], 5):>21}"
        )
    lines += [f"skipped: {one['source']}: {one['reason']}" for one in result["left_out"]]
    return "\n".join(lines)
