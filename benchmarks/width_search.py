"""What a search for the width saves: MNIST, widths 16 to 64, against training every width to the end.

Both train dense autoencoders 784-128-64-w-64-128-784 on the same samples for the same number of epochs with one
seed, batches of 128 and Adam, and choose under the same rule. The search screens 10,000 samples first. The losses
of the full curve say whether its answer is right.
"""

from benchmarks._parts import NO_DATA, images, kept, parts, real

WIDTHS = range(16, 65, 4)
FULL, QUICK = (60000, 30), (4000, 6)  # training samples, epochs
HIDDEN = (128, 64)


def _every(x, held, width, epochs):
    """Loss of the best epoch and seconds of one ordinary training."""
    import time

    import keras

    from keras_aeprune import models

    began = time.perf_counter()
    keras.utils.set_random_seed(width)
    model = models.dense((784,), width, hidden_units=HIDDEN)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    history = model.fit(x, x, validation_data=(held, held), batch_size=128, epochs=epochs, verbose=0).history
    return {"loss": min(history["val_loss"]), "seconds": time.perf_counter() - began}


def _search(x, held, epochs):
    import time

    from keras_aeprune.search.width import encoding_width

    began = time.perf_counter()
    settings = {"validation": held, "hidden_units": HIDDEN, "max_epochs": epochs, "seeds": 1, "batch_size": 128}
    result = encoding_width(x, WIDTHS, progress=False, **settings)
    trained = [row["width"] for row in result.trials.rows if row["stage"] == "retrained"]
    return {
        "width": result.encoding_dim,
        "seconds": time.perf_counter() - began,
        "mean_loss": result.mean_loss,
        "retrained": trained,
        "answer": result.answer,
    }


def run(quick):
    from keras_aeprune.search.rules import smallest_good

    if real("mnist") is None:
        return NO_DATA
    samples, epochs = QUICK if quick else FULL
    (x, _), (held, _) = images("mnist")
    x, held = x[:samples], held[: max(500, samples // 6)]
    settings = [samples, epochs]
    with parts("width_search", quick) as folder:
        found = kept(folder, "search", settings, lambda: _search(x, held, epochs))
        every = {w: kept(folder, f"width-{w}", settings, lambda w=w: _every(x, held, w, epochs)) for w in WIDTHS}
    losses = [every[width]["loss"] for width in WIDTHS]
    return {
        **{"samples": samples, "epochs": epochs, "search": found, "losses": losses},
        "width": smallest_good(list(WIDTHS), losses, found["mean_loss"]),
        "seconds": sum(one["seconds"] for one in every.values()),
        "fastest": min(one["seconds"] for one in every.values()),
    }


def _fair(result):
    """The share if nothing else had slowed the long part down."""
    return result["search"]["seconds"] / (len(WIDTHS) * result["fastest"])


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    search = result["search"]
    share = search["seconds"] / result["seconds"]
    retrained = ", ".join(map(str, search["retrained"]))
    return "\n".join(
        [
            f"{result['samples']} samples, {result['epochs']} epochs",
            f"{'':<24}{'width':>6}{'seconds':>9}{'share':>7}",
            f"{'every width to the end':<24}{result['width']:>6}{result['seconds']:>9.0f}{1:>7.2f}",
            f"{'search':<24}{search['width']:>6}{search['seconds']:>9.0f}{share:>7.2f}   again: {retrained}",
            f"against {len(WIDTHS)} times the fastest of these trainings: {_fair(result):.2f}",
            search["answer"],
            "losses of all widths: " + " ".join(f"{loss:.5f}" for loss in result["losses"]),
        ]
    )


def in_short(result):
    """The share of time, and both answers."""
    search, share = result["search"], result["search"]["seconds"] / result["seconds"]
    return (
        f"The narrowest good code for MNIST: width {search['width']} in {share:.2f} of the time in which training "
        f"every width to the end finds {result['width']}."
    )
