"""Anomaly detection by reconstruction error: autoencoders beside PCA of each width and the distance to the mean.

ECG5000 has its official split, and models see its normal training beats only. The noise and the epochs of the
first denoising one are chosen on the training split alone: trained on three quarters of its normal beats, judged
by the AUC of the other quarter against its anomalies, mean of two seeds. The tabular sets have no split: a
seeded half of the normal samples is for training, all the rest for the test. AUC and mse of normal test samples
are medians over the seeds, in scaled values (mean 0, deviation 1 for each tabular feature).

Accuracy and F1 are at the threshold that `models.AnomalyDetector.fit` sets when it is given normal samples alone,
the quantile 0.99 of the training samples' errors, for PCA too; no label is used. Of ECG5000 they are also at the
threshold that `fit` finds with labels: the one with the best F1 on the official training split, 292 normal beats
and 208 anomalies. The positive class of F1 is the anomaly: of ECG5000 classes 2 to 5, while class 1 is the normal
beat. A few odd beats among the normal ones put the first threshold too high for a narrow code; a wide one fits its
training samples better than new ones, which puts it too low.
"""

import os
import statistics

from benchmarks._parts import NO_DATA, kept, parts, real

SEEDS = (0, 1, 2, 3, 4)
WIDTHS = (0, 1, 2, 4, 8, 16, 32)
QUANTILE = 0.99  # of the training errors: the threshold that AnomalyDetector.fit takes by itself
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
    detector = models.AnomalyDetector(model)
    return {"width": width, **judged(detector.scores, x, test, anomaly, labelled(name))}


def labelled(name):
    """Samples of both kinds to find a threshold with, none of the test; None where there are none."""
    if name != "ecg5000":
        return None
    found = real(name)
    return found["x_train"], found["y_train"] != 1


def judged(error, x, test, anomaly, both=None):
    """AUC, mse of normal test samples, and what is found at the threshold from normal training samples.

    error: from samples to their errors; x: normal training samples; both: (samples, anomaly?) with labels.
    """
    import numpy as np

    from keras_aeprune.models.ranking import auc, best_threshold

    scores = error(test)
    found = {"auc": auc(scores, anomaly), "mse": float(scores[~anomaly].mean())}
    thresholds = {"": np.quantile(error(x), QUANTILE)}
    if both:
        thresholds[" with labels"] = best_threshold(error(both[0]), both[1])
    for name, at in thresholds.items():
        flagged = scores > at
        found[f"accuracy{name}"] = float((flagged == anomaly).mean())
        found[f"f1{name}"] = 2 * int((flagged & anomaly).sum()) / int(flagged.sum() + anomaly.sum())
    return found


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
    from keras_aeprune import models

    x, test, anomaly = splits(name, seed)
    usual = models.default_sizes(x.shape[1])[0]
    widths = [width for width in sorted({*WIDTHS, usual}) if width < x.shape[1]]
    pca = models.PCA.fit(x, widths)
    both = labelled(name)
    return [
        {"width": width, **judged(lambda v, w=width: pca.errors(v, w), x, test, anomaly, both)} for width in widths
    ]


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return NO_DATA
    rows = []
    with parts("anomalies", quick) as folder:
        for name in ("ecg5000", *TABULAR[-1:]) if quick else ("ecg5000", *TABULAR):
            seeds = SEEDS[:1] if quick else SEEDS if name == "ecg5000" else SEEDS[:3]
            for seed in seeds[:1] if name == "ecg5000" else seeds:
                key, settings = f"{name}-pca-{seed}", [WIDTHS, QUANTILE]
                for one in kept(folder, key, settings, lambda n=name, s=seed: baselines(n, s)):
                    label = f"PCA, {one['width']} numbers" if one["width"] else "distance to the mean"
                    rows.append({"data": name, "method": label, "seed": seed, **one})
            for method, setting in (ECG if name == "ecg5000" else TABLE).items():
                if "noises" in setting:
                    chosen = kept(folder, f"{name}-choice", setting, lambda t=setting: choice(t, quick))
                    options = {**setting["options"], "noise": chosen["noise"]}
                    setting = {**setting, "options": options, "epochs": chosen["epochs"]}
                for seed in seeds:
                    key = f"{name}-{method.replace(', ', '_').replace(' ', '_')}-{seed}"
                    settings = {**setting, "quantile": QUANTILE}
                    found = kept(folder, key, settings, lambda n=name, t=setting, s=seed: train(n, t, s, quick))
                    rows.append({"data": name, "method": method, "seed": seed, **found})
    return {"rows": rows, "chosen": {key: chosen[key] for key in ("noise", "epochs")}}


def show(result):
    if "skipped" in result:
        return f"skipped, {result['skipped']}"
    groups = {}
    for row in result["rows"]:
        groups.setdefault((row["data"], row["method"]), []).append(row)
    columns = ("accuracy", "f1", "accuracy with labels", "f1 with labels")
    lines = [
        f"{'':<78}{'normal samples only':>20}{'with labels':>18}",
        f"{'data':<13}{'method':<29}{'AUC':>8}{'lowest':>8}{'highest':>8}{'mse normal':>12}"
        + f"{'accuracy':>10}{'F1':>8}" * 2
        + f"{'seeds':>6}",
    ]
    for (data, method), rows in groups.items():
        auc = [row["auc"] for row in rows]
        width = "" if "numbers" in method or "mean" in method else f", {rows[0]['width']} numbers"
        mse = statistics.median(row["mse"] for row in rows)
        found = [statistics.median(row[c] for row in rows) if c in rows[0] else None for c in columns]
        cells = "".join(
            f"{'-' if value is None else format(value, '.4f'):>{size}}"
            for value, size in zip(found, (10, 8, 10, 8), strict=True)
        )
        lines.append(
            f"{data:<13}{method + width:<29}{statistics.median(auc):>8.4f}{min(auc):>8.4f}{max(auc):>8.4f}"
            f"{mse:>12.4g}{cells}{len(rows):>6}"
        )
    lines.append(
        "accuracy and F1 at a threshold from normal training samples alone, or from labelled ones; an anomaly"
    )
    lines.append("is the positive class; ecg5000: classes 2 to 5, while class 1 is the normal beat")
    if "chosen" in result:
        noise, epochs = result["chosen"]["noise"], result["chosen"]["epochs"]
        lines.append(f"ecg5000, denoising, tanh: noise {noise} and {epochs} epochs, chosen on the training split")
    return "\n".join(lines)
