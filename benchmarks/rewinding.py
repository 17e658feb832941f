"""Iterative pruning with late rewinding on an autoencoder of MNIST, beside random weights and fine-tuning.

784-256-32-256-784 on 20,000 images, mean squared error of the 10,000 test images; magnitude under one threshold
for all layers. The output is linear: behind a sigmoid, pixels that have lost all their weights do not come down
to black within so few epochs, which hides all else. Each round takes about a fifth of the weights that are left.
"rewound" puts the survivors back to what they were after the first epoch and trains the 8 epochs that the dense
model had after it. "random weights" has the masks of the rewound run, new random weights and 9 epochs.
"fine-tuned" goes through the same rounds from the dense model on, without rewinding. "one-shot" prunes the dense
model in one step; "Prune" has a ramp over the first 0.6 of its 8 epochs. "epochs" is all training after the dense
model's, that which led to the masks included. Kalibhat et al. 2021 (AAAI) find such tickets at a sparsity of 0.99
for autoencoders of CIFAR-10 and CelebA. Here the data and the network are others and far smaller: the question is
the same, the figures cannot be compared.
"""

from itertools import pairwise

from benchmarks._parts import NO_DATA, images, kept, parts, real

FULL = {"samples": 20_000, "test": 10_000, "epochs": 8, "steps": [10, 5, 5], "hidden": [256], "seeds": [0, 1]}
QUICK = {"samples": 600, "test": 200, "epochs": 1, "steps": [1, 1, 1], "hidden": [32], "seeds": [0]}
SPARSITIES = (0.9, 0.97, 0.99)
WIDTH, BATCH, REWIND = 32, 128, 1


def ladder(steps):
    """Sparsities of all rounds: from each target to the next one equal fractions of what is left are taken."""
    found = []
    for (before, after), count in zip(pairwise((0.0, *SPARSITIES)), steps, strict=True):
        ratio = (1 - after) / (1 - before)
        found += [1 - (1 - before) * ratio ** (k / count) for k in range(1, count)] + [after]
    return found


def network(settings, seed):
    import keras

    from keras_aeprune import models

    keras.utils.set_random_seed(seed)
    model = models.dense((784,), WIDTH, hidden_units=settings["hidden"], output_activation="linear")
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    return model


def _kernels(weights):
    return [w for w in weights if w.ndim > 1]


def measured(model, test, epochs):
    """Test error and fraction of zeros of a trained model, with the epochs that led to it."""
    kernels = _kernels(model.get_weights())
    return {
        "mse": float(model.evaluate(test, test, batch_size=1000, verbose=0)),
        "zeros": sum(int((w == 0).sum()) for w in kernels) / sum(w.size for w in kernels),
        "epochs": epochs,
    }


def rounds(model, x, test, settings, seed, **more):
    """{sparsity: what was measured} and {sparsity: weights} at the targets of one iterative run."""
    import keras
    import numpy as np

    from keras_aeprune import sparsity

    targets, after = {}, {}
    steps = [0.0, *ladder(settings["steps"])]
    done = iter(steps if "rewind" in more else steps[1:])

    class Watch(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            if (reached := next(done)) in (0.0, *SPARSITIES):
                epochs = steps.index(reached) * settings["epochs"]
                targets[reached] = measured(self.model, test, epochs)
                after[reached] = [np.array(w) for w in self.model.get_weights()]

    sparsity.iterative(
        model,
        x,
        sparsities=steps[1:],
        epochs=settings["epochs"],
        validation=test[:32],  # looked at only in `measured`; without it every round reads all of x once more
        allocation="global",
        seed=1000 * seed,
        callbacks=[Watch()],
        progress=False,
        batch_size=BATCH,
        **more,
    )
    return targets, after


def _tickets(x, test, settings, seed, file):
    """The dense model and the rewound run; their weights go into `file`."""
    import numpy as np

    from keras_aeprune._files import writing

    epochs = REWIND + settings["epochs"]
    targets, after = rounds(network(settings, seed), x, test, settings, seed, dense_epochs=epochs, rewind=REWIND)
    flat = {f"{reached} {i:02d}": w for reached, weights in after.items() for i, w in enumerate(weights)}
    with writing(file) as temporary:
        np.savez(temporary, **flat)
    return [[reached, one] for reached, one in targets.items()]


def _weights(file, sparsity):
    import numpy as np

    with np.load(file, allow_pickle=False) as found:
        return [found[name] for name in sorted(found.files) if float(name.split()[0]) == sparsity]


def _fit(model, x, epochs, *callbacks):
    model.fit(x, x, epochs=epochs, batch_size=BATCH, verbose=0, callbacks=list(callbacks))
    return model


def drawn_again(weights, settings, seed):
    """A model with new random weights where `weights` has any, and its zeros."""
    model = network(settings, seed)
    fresh = model.get_weights()
    model.set_weights([a * (b != 0) if a.ndim > 1 else a for a, b in zip(fresh, weights, strict=True)])
    return model


def _dense(settings, seed, file):
    model = network(settings, seed)
    model.set_weights(_weights(file, 0.0))
    return model


def _tuned(x, test, settings, seed, file):
    targets, _ = rounds(_dense(settings, seed, file), x, test, settings, seed)
    return [["fine-tuned", reached, one] for reached, one in targets.items()]


def _others(x, test, settings, seed, file):
    """[method, sparsity, what was measured] of new random weights, one step and one fit."""
    from keras_aeprune import KeepSparse, Prune, schedules, sparsity

    epochs, steps, rows = settings["epochs"], ladder(settings["steps"]), []
    for target in SPARSITIES:
        model = drawn_again(_weights(file, target), settings, 100 + seed)
        spent = (steps.index(target) + 1) * epochs + REWIND + epochs  # the first of them found the masks
        trained = _fit(model, x, REWIND + epochs, KeepSparse())
        rows.append(["random weights", target, measured(trained, test, spent)])
        model = _dense(settings, seed, file)
        sparsity.one_shot(model, target, criterion="magnitude", rounds=1, allocation="global", progress=False)
        rows.append(["one-shot", target, measured(_fit(model, x, epochs), test, epochs)])
        ramp = schedules.relative("PolynomialDecay", target, begin=0.0, end=0.6, updates=50)
        trained = _fit(_dense(settings, seed, file), x, epochs, Prune(ramp, allocation="global"))
        rows.append(["Prune", target, measured(trained, test, epochs)])
    return rows


def run(quick):
    if real("mnist") is None:
        return NO_DATA
    from keras_aeprune import models

    settings = QUICK if quick else FULL
    (x, _), (test, _) = images("mnist")
    x, test = x[: settings["samples"]], test[: settings["test"]]
    rows = []
    with parts("rewinding", quick) as folder:
        for seed in settings["seeds"]:
            file = folder / f"tickets-{seed}.npz"
            if not file.exists():
                (folder / f"rewound-{seed}.json").unlink(missing_ok=True)
            found = kept(
                folder, f"rewound-{seed}", settings, lambda s=seed, f=file: _tickets(x, test, settings, s, f)
            )
            rows += [["rewound" if reached else "dense", reached, one, seed] for reached, one in found]
            for name, make in (("tuned", _tuned), ("others", _others)):
                found = kept(
                    folder,
                    f"{name}-{seed}",
                    settings,
                    lambda m=make, s=seed, f=file: m(x, test, settings, s, f),
                )
                rows += [[*row, seed] for row in found]
    pca = models.PCA.fit(x, [0, WIDTH])
    named = [{"method": m, "sparsity": s, "seed": seed, **one} for m, s, one, seed in rows]
    return {"rows": named, "pca": pca.mse(test, WIDTH), "mean": pca.mse(test, 0), "settings": settings}


def show(result):
    import statistics

    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    rows = {}
    for row in result["rows"]:
        rows.setdefault((row["method"], row["sparsity"]), []).append(row)
    dense = {row["seed"]: row["mse"] for row in rows["dense", 0.0]}
    lines = [
        f"dense mse {statistics.mean(dense.values()):.5f}; PCA-{WIDTH} {result['pca']:.5f}, "
        f"predicting the mean {result['mean']:.5f}; means of {len(dense)} seeds",
        f"{'zeros':<7}{'method':<16}{'test mse':>10}{'lowest':>10}{'highest':>10}{'to dense':>10}"
        f"{'reached':>9}{'epochs':>8}",
    ]
    methods = ("rewound", "random weights", "fine-tuned", "one-shot", "Prune")
    for key in ((method, sparsity) for sparsity in SPARSITIES for method in methods):
        errors = [row["mse"] for row in rows[key]]
        ratio = statistics.mean(row["mse"] / dense[row["seed"]] for row in rows[key])
        lines.append(
            f"{key[1]:<7}{key[0]:<16}{statistics.mean(errors):>10.5f}{min(errors):>10.5f}{max(errors):>10.5f}"
            f"{ratio:>10.3f}{rows[key][0]['zeros']:>9.5f}{rows[key][0]['epochs']:>8}"
        )
    return "\n".join(lines)
