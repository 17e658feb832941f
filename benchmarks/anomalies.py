"""Anomaly detection by reconstruction error: autoencoders beside PCA of each width and the distance to the mean.

ECG5000 has its official split, and models see its normal training beats only. The noise and the epochs of the
first denoising one are chosen on the training split alone: trained on three quarters of its normal beats, judged
by the AUC of the other quarter against its anomalies, mean of two seeds. The tabular sets have no split: a
seeded half of the normal samples is for training, all the rest for the test. AUC and mse of normal test samples
are medians over the seeds, in scaled values (mean 0, deviation 1 for each tabular feature).
"""

import os
import statistics

from benchmarks._parts import NO_DATA, kept, parts, real

SEEDS = (0, 1, 2, 3, 4)
WIDTHS = (0, 1, 2, 4, 8, 16)
ECG = {
    "denoising, tanh, 2 numbers": {
        "kind": "denoising",
        "width": 2,
        "options": {"hidden_units": [32], "activation": "tanh", "output_activation": "linear"},
        "noises": [0.25, 0.5, 1.0],
        "after": [50, 100, 150, 200],
    },
    "denoising, relu, 8 numbers": {
        "kind": "denoising",
        "width": 8,
        "options": {"hidden_units": [64, 16], "noise": 1.0, "output_activation": "linear"},
        "epochs": 200,
    },
    "dense, relu, 2 numbers": {
        "kind": "dense",
        "width": 2,
        "options": {"hidden_units": [32], "output_activation": "linear"},
        "epochs": 200,
    },
    "dense, relu, 8 numbers": {
        "kind": "dense",
        "width": 8,
        "options": {"hidden_units": [32], "output_activation": "linear"},
        "epochs": 200,
    },
}
TABULAR = ("shuttle", "satimage_2", "mammography", "cardio", "annthyroid")
TABLE = {
    "dense": {"kind": "dense", "options": {"output_activation": "linear"}, "epochs": 30},
    "denoising": {"kind": "denoising", "options": {"noise": 0.5, "output_activation": "linear"}, "epochs": 30},
}


def splits(name, seed):
    """(normal training samples, test samples, anomaly?) of a set, scaled on the training samples."""
    import numpy as np

    from keras_aeprune.datasets.scaling import fit

    if name == "ecg5000":
        found = real(name)
        return found["x_train"][found["y_train"] == 1], found["x_test"], found["y_test"] != 1
    found = real("tabular_anomaly")
    x, y = found[f"{name}__x"], found[f"{name}__y"] == 1
    normal = np.random.default_rng(seed).permutation(np.flatnonzero(~y))
    chosen = np.zeros(len(x), bool)
    chosen[normal[: len(normal) // 2]] = True
    scaling, _ = fit(x, np.flatnonzero(chosen), "standard")
    x = scaling.apply(x)
    return x[chosen], x[~chosen], y[~chosen]


def train(name, setting, seed, quick):
    import keras

    from keras_aeprune import models

    x, test, anomaly = splits(name, seed)
    width = setting.get("width") or models.default_sizes(x.shape[1])[0]
    keras.utils.set_random_seed(seed)
    model = getattr(models, setting["kind"])((x.shape[1],), width, **setting["options"])
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.fit(x, x, epochs=1 if quick else setting["epochs"], batch_size=32 if len(x) < 4096 else 128, verbose=0)
    detector = models.AnomalyDetector(model).fit(x)
    return {
        "width": width,
        "auc": detector.auc(test, anomaly),
        "mse": float(detector.scores(test[~anomaly]).mean()),
    }


def choice(setting, quick):
    """The noise and the epochs with the best AUC on the training split, and the AUC of all that were tried."""
    import keras
    import numpy as np

    from keras_aeprune import models

    found = real("ecg5000")
    normal, anomalies = (found["x_train"][(found["y_train"] == 1) == kind] for kind in (True, False))
    order = np.random.default_rng(0).permutation(len(normal))
    held_out, x = normal[order[: len(normal) // 4]], normal[order[len(normal) // 4 :]]
    judged = np.concatenate([held_out, anomalies])
    labels = np.arange(len(judged)) >= len(held_out)
    tried = {}
    for noise in setting["noises"]:
        for seed in (0, 1):
            keras.utils.set_random_seed(seed)
            model = models.denoising((x.shape[1],), setting["width"], noise=noise, **setting["options"])
            model.compile(keras.optimizers.Adam(1e-3), "mse")
            done = 0
            for after in [1] if quick else setting["after"]:
                model.fit(x, x, initial_epoch=done, epochs=after, batch_size=32, verbose=0)
                done = after
                tried.setdefault((noise, after), []).append(models.AnomalyDetector(model).auc(judged, labels))
    means = {key: float(np.mean(values)) for key, values in tried.items()}
    noise, epochs = max(means, key=means.get)
    return {"noise": noise, "epochs": epochs, "tried": [[*key, value] for key, value in means.items()]}


def baselines(name, seed):
    """AUC and mse of PCA at some widths; width 0 is the distance to the mean."""
    from sklearn.metrics import roc_auc_score

    from keras_aeprune import models

    x, test, anomaly = splits(name, seed)
    usual = models.default_sizes(x.shape[1])[0]
    widths = [width for width in sorted({*WIDTHS, usual}) if width < x.shape[1]]
    pca = models.PCA.fit(x, widths)
    errors = {width: pca.errors(test, width) for width in widths}
    return [
        {"width": width, "auc": float(roc_auc_score(anomaly, e)), "mse": float(e[~anomaly].mean())}
        for width, e in errors.items()
    ]


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return NO_DATA
    rows = []
    with parts("anomalies", quick) as folder:
        for name in ("ecg5000", *TABULAR[-1:]) if quick else ("ecg5000", *TABULAR):
            seeds = SEEDS[:1] if quick else SEEDS if name == "ecg5000" else SEEDS[:3]
            for seed in seeds[:1] if name == "ecg5000" else seeds:
                for one in kept(folder, f"{name}-pca-{seed}", WIDTHS, lambda n=name, s=seed: baselines(n, s)):
                    label = f"PCA, {one['width']} numbers" if one["width"] else "distance to the mean"
                    rows.append({"data": name, "method": label, "seed": seed, **one})
            for method, setting in (ECG if name == "ecg5000" else TABLE).items():
                if "noises" in setting:
                    chosen = kept(folder, f"{name}-choice", setting, lambda t=setting: choice(t, quick))
                    options = {**setting["options"], "noise": chosen["noise"]}
                    setting = {**setting, "options": options, "epochs": chosen["epochs"]}
                for seed in seeds:
                    key = f"{name}-{method.replace(', ', '_').replace(' ', '_')}-{seed}"
                    found = kept(folder, key, setting, lambda n=name, t=setting, s=seed: train(n, t, s, quick))
                    rows.append({"data": name, "method": method, "seed": seed, **found})
    return {"rows": rows, "chosen": {key: chosen[key] for key in ("noise", "epochs")}}


def show(result):
    if "skipped" in result:
        return f"skipped, {result['skipped']}"
    groups = {}
    for row in result["rows"]:
        groups.setdefault((row["data"], row["method"]), []).append(row)
    lines = [f"{'data':<14}{'method':<30}{'AUC':>8}{'lowest':>8}{'highest':>8}{'mse normal':>12}{'seeds':>6}"]
    for (data, method), rows in groups.items():
        auc = [row["auc"] for row in rows]
        width = "" if "numbers" in method or "mean" in method else f", {rows[0]['width']} numbers"
        lines.append(
            f"{data:<14}{method + width:<30}{statistics.median(auc):>8.4f}{min(auc):>8.4f}{max(auc):>8.4f}"
            f"{statistics.median(row['mse'] for row in rows):>12.4g}{len(rows):>6}"
        )
    if "chosen" in result:
        noise, epochs = result["chosen"]["noise"], result["chosen"]["epochs"]
        lines.append(f"ecg5000, denoising, tanh: noise {noise} and {epochs} epochs, chosen on the training split")
    return "\n".join(lines)
