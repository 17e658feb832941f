"""Reconstruction of test images by known autoencoders, beside PCA of the same width and published figures.

All error figures are means over test images and pixels in [0, 1]. Adam with a cosine decay to 0, no
pretraining. The denoiser sees training images with new noise in every batch and is judged on the test images
with noise of standard deviation 0.2, limited to [0, 1], against the clean ones.
"""

import os
import statistics

from benchmarks._parts import NO_DATA, decaying_adam, images, kept, parts

NOISE = 0.2
TASKS = {
    "mnist, 784-1000-500-250-30": {
        "data": "mnist",
        "build": {"encoding_dim": 30, "hidden_units": [1000, 500, 250]},
        "rate": 1e-3,
        "epochs": 40,
        "batch": 128,
        "seeds": [0],
        "published": 0.0038,
        "target": 0.0050,
    },
    "fashion_mnist, 784-64-784": {
        "data": "fashion_mnist",
        "build": {"encoding_dim": 64, "hidden_units": []},
        "rate": 3e-3,
        "epochs": 40,
        "batch": 128,
        "seeds": [0, 1, 2],
        "published": 0.0088,
        "target": 0.0085,
    },
    "fashion_mnist, denoiser, dense 784-392-784": {
        "data": "fashion_mnist",
        "noise": NOISE,
        "build": {"base": "dense", "encoding_dim": 392, "hidden_units": []},
        "rate": 1e-3,
        "epochs": 20,
        "batch": 128,
        "seeds": [0],
    },
    "fashion_mnist, denoiser, convolutional, code 7x7x8": {
        "data": "fashion_mnist",
        "noise": NOISE,
        "build": {"base": "convolutional", "filters": [32, 8]},
        "rate": 4e-3,
        "epochs": 20,
        "batch": 64,
        "seeds": [0],
        "published": 0.0068,
        "target": 0.0066,
    },
}


def train(task, seed, quick):
    """Test error of the autoencoder, of PCA of its width and of the mean, on what the task asks for."""
    import time

    import keras
    import numpy as np

    from keras_aeprune import models

    noise, build = task.get("noise"), task["build"]
    shape = (28, 28, 1) if build.get("base") == "convolutional" else (784,)
    (x, _), (clean, _) = images(task["data"], shape)
    epochs = task["epochs"]
    if quick:
        x, clean, epochs = x[:512], clean[:256], 1
    test = models.corrupt(clean, "gaussian", amount=noise, clip=(0, 1), seed=0) if noise else clean
    keras.utils.set_random_seed(seed)
    if noise:
        model = models.denoising(shape, noise=noise, clip=(0, 1), **build)
    else:
        model = models.dense(shape, **build)
    model.compile(decaying_adam(task["rate"], epochs, len(x), task["batch"]), "mse")
    began = time.perf_counter()
    model.fit(x, x, epochs=epochs, batch_size=task["batch"], verbose=0)
    seconds = time.perf_counter() - began
    width = int(np.prod(model.encoder.output_shape[1:]))
    pca = models.PCA.fit(x, [0, width])
    flat = pca.reconstruct(test, width)
    return {
        "width": width,
        "parameters": model.count_params(),
        "mse": float(np.mean((model.predict(test, batch_size=500, verbose=0) - clean) ** 2)),
        "pca_mse": float(np.mean((flat.reshape(clean.shape) - clean) ** 2)),
        "mean_mse": pca.mse(clean, 0),
        "input_mse": float(np.mean((test - clean) ** 2)),
        "seconds": seconds,
    }


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return NO_DATA
    runs = []
    with parts("reconstruction", quick) as folder:
        for number, (name, task) in enumerate(TASKS.items()):
            for seed in task["seeds"][:1] if quick else task["seeds"]:
                found = kept(folder, f"{number}-{seed}", task, lambda t=task, s=seed: train(t, s, quick))
                known = {key: task[key] for key in ("published", "target") if key in task}
                runs.append({"task": name, "seed": seed, **known, **found})
    return {"runs": runs}


def show(result):
    if "skipped" in result:
        return f"skipped, {result['skipped']}"
    groups = {}
    for one in result["runs"]:
        groups.setdefault(one["task"], []).append(one)
    lines = [
        f"{'task':<52}{'code':>5}{'mse':>10}{'seeds':>6}{'PCA':>9}{'published':>10}{'target':>8}{'seconds':>8}"
    ]
    for task, runs in groups.items():
        one = runs[0]
        mse = statistics.median(run["mse"] for run in runs)
        known = [f"{one[key]:.4f}" if key in one else "-" for key in ("published", "target")]
        lines.append(
            f"{task:<52}{one['width']:>5}{mse:>10.5f}{len(runs):>6}{one['pca_mse']:>9.5f}{known[0]:>10}{known[1]:>8}"
            f"{statistics.median(run['seconds'] for run in runs):>8.0f}"
        )
    noisy = [run["input_mse"] for run in result["runs"] if run["input_mse"]]
    if noisy:
        lines.append(f"error of the noisy images themselves: {noisy[0]:.5f}; medians over the seeds")
    return "\n".join(lines)
