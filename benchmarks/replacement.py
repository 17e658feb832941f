"""A classifier made smaller by autoencoders: its front replaced by an encoder, and bottlenecks built in.

MNIST, 784-512-256-10. The encoder 784-128-32 comes from a denoising autoencoder that saw no label; it takes the
place of the layers up to the one with 256 units. Built in: linear bottlenecks of 64 numbers behind the 512
units, started from PCA.
"""

import os

from benchmarks._parts import NO_DATA, decaying_adam, images, kept, parts

SETTINGS = {
    "units": [512, 256],
    "epochs": 10,
    "batch": 128,
    "encoder_units": [128],
    "encoder_dim": 32,
    "width": 64,
}


def train(settings, quick):
    import keras

    from keras_aeprune import models

    (x, y), test = images("mnist")
    epochs = settings["epochs"]
    if quick:
        x, y, test, epochs = x[:512], y[:512], (test[0][:256], test[1][:256]), 1
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(units, "relu", name=f"hidden_{number}")
        for number, units in enumerate(settings["units"], start=1)
    ]
    network = keras.Sequential(
        [keras.Input((784,)), *layers, keras.layers.Dense(10, "softmax", name="classes")], name="classifier"
    )
    network.compile(decaying_adam(1e-3, epochs, len(x), 128), "sparse_categorical_crossentropy")
    network.fit(x, y, epochs=epochs, batch_size=settings["batch"], verbose=0)
    ae = models.denoising((784,), settings["encoder_dim"], hidden_units=settings["encoder_units"], noise=0.3)
    ae.compile(decaying_adam(1e-3, 2 * epochs, len(x), 128), "mse")
    ae.fit(x, x, epochs=2 * epochs, batch_size=settings["batch"], verbose=0)
    replaced = models.replace_front(
        network, ae, "hidden_2", x, labels=y, test=test, epochs=(epochs, epochs), batch_size=128
    )
    built_in = models.build_in(
        network, "hidden_1", settings["width"], x, labels=y, test=test, epochs=epochs, batch_size=128
    )
    return {"encoder in front": replaced.to_dict(), "built in": built_in.to_dict()}


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return NO_DATA
    with parts("replacement", quick) as folder:
        return kept(folder, "replacement", SETTINGS, lambda: train(SETTINGS, quick))


def show(result):
    if "skipped" in result:
        return f"skipped, {result['skipped']}"
    lines = [f"{'stage':<40}{'parameters':>12}{'bytes':>12}{'accuracy':>10}"]
    for name in ("encoder in front", "built in"):
        for stage in result[name]["stages"]:
            label = f"{name}: {stage['name']}"
            lines.append(f"{label:<40}{stage['parameters']:>12,}{stage['bytes']:>12,}{stage['score']:>10.4f}")
    return "\n".join(lines)
