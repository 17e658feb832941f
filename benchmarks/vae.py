"""Log-likelihood of a variational autoencoder on binarised MNIST, by importance weighting with 5,000 samples.

784-200-200-50-200-200-784, tanh, Adam with a cosine decay to 0. Training images are binarised anew in every
batch, the test images once, by sampling from the pixel intensities with seed 0. Published, trained far longer:
Burda et al. 2016.
"""

import os

from benchmarks._parts import NO_DATA, decaying_adam, images, kept, parts

SETTINGS = {"code": 50, "hidden_units": [200, 200], "rate": 2e-3, "epochs": 80, "batch": 128, "samples": 5000}
PUBLISHED, TARGET, MINUTES = -86.76, -92.0, 15


def batches(x, batch, seed):
    """Shuffled batches, each image binarised anew."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(x).shuffle(len(x), seed=seed).batch(batch)

    def draw(part):
        binary = tf.cast(tf.random.uniform(tf.shape(part), seed=seed) < part, tf.float32)
        return binary, binary

    return data.map(draw, num_parallel_calls=1).prefetch(4)


def train(settings, quick):
    import time

    import keras
    import numpy as np

    from keras_aeprune import models

    (x, _), (test, _) = images("mnist")
    epochs, samples = settings["epochs"], settings["samples"]
    if quick:
        x, test, epochs, samples = x[:512], test[:20], 1, 50
    keras.utils.set_random_seed(0)
    model = models.variational((784,), settings["code"], hidden_units=settings["hidden_units"], activation="tanh")
    model.compile(decaying_adam(settings["rate"], epochs, len(x), settings["batch"]), "binary_crossentropy")
    began = time.perf_counter()
    model.fit(batches(x, settings["batch"], 0), epochs=epochs, shuffle=False, verbose=0)
    seconds = time.perf_counter() - began
    binary = models.binarise(test, seed=0)
    scores = model.evaluate(binary, binary, batch_size=500, verbose=0, return_dict=True)
    began = time.perf_counter()
    estimate = models.log_likelihood(model, binary, samples=samples, seed=0)
    single = models.log_likelihood(model, binary, samples=1, seed=1)
    pca = models.PCA.fit(x, [settings["code"]])
    return {
        "log_likelihood": float(estimate.mean()),
        "standard_error": float(estimate.std() / np.sqrt(len(estimate))),
        "one_sample_bound": float(single.mean()),
        "kl": scores["kl"],
        "images": len(test),
        "test_mse": float(np.mean((model.predict(test, batch_size=500, verbose=0) - test) ** 2)),
        "pca_mse": pca.mse(test, settings["code"]),
        "train_seconds": seconds,
        "estimate_seconds": time.perf_counter() - began,
    }


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return NO_DATA
    with parts("vae", quick) as folder:
        return kept(folder, "vae", SETTINGS, lambda: train(SETTINGS, quick))


def show(result):
    if "skipped" in result:
        return f"skipped, {result['skipped']}"
    rows = (
        ("log-likelihood, nats a digit", f"{result['log_likelihood']:.2f} +- {result['standard_error']:.2f}"),
        ("published, trained far longer", f"{PUBLISHED:.2f}"),
        ("target", f"{TARGET:.2f}"),
        ("evidence lower bound, one sample", f"{result['one_sample_bound']:.2f}"),
        ("KL divergence of the code", f"{result['kl']:.2f}"),
        ("mse from the mean code, grey digits", f"{result['test_mse']:.5f}"),
        ("mse of PCA with as many numbers", f"{result['pca_mse']:.5f}"),
        ("training, minutes", f"{result['train_seconds'] / 60:.1f} (limit {MINUTES})"),
        ("estimate, minutes", f"{result['estimate_seconds'] / 60:.1f}"),
    )
    return "\n".join(f"{name:<38}{value:>18}" for name, value in rows)
