"""The report's numbers: everything compared on the same test samples, PCA beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import models, report
from keras_aeprune.datasets import Dataset
from keras_aeprune.export import TFLiteModel
from keras_aeprune.models import PCA
from keras_aeprune.pipeline.settings import Settings
from keras_aeprune.sparsity import sparsity_table

__all__ = ["FORMAT", "compare"]

FORMAT = 1
_SHOWN = 10  # samples in the picture of reconstructions
_LABELS = {
    "dense": "autoencoder, dense",
    "pruned": "autoencoder, pruned",
    "shrunk": "autoencoder, shrunk",
    "dense_float32": "dense, float32 .tflite",
    "dense_int8": "dense, int8 .tflite",
    "pruned_float32": "pruned, float32 .tflite",
    "pruned_int8": "pruned, int8 .tflite",
    "shrunk_float32": "shrunk, float32 .tflite",
    "shrunk_int8": "shrunk, int8 .tflite",
}


def compare(
    data: Dataset, settings: Settings, folder: Path, records: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The report without what depends on the moment, and the samples for its picture.

    Args:
        data: the loaded data, not flattened.
        settings: of the run.
        folder: holds dense.keras, pruned.keras, shrunk.keras if there is one, and the .tflite files.
        records: what the finished steps stored.

    Returns:
        (report, {label: array (n, features)}).
    """
    flat = data.flat
    x = flat.x_test
    width = settings.encoding_dim
    pca = PCA.fit(flat.x_train)
    names = ("dense", "pruned", "shrunk") if "shrink" in records else ("dense", "pruned")
    trained = {name: models.load(folder / f"{name}.keras") for name in names}
    narrow = _code(trained["shrunk"]) if "shrunk" in trained else width
    outputs: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        name: _predict(model) for name, model in trained.items()
    }
    files = records["export"]["files"]
    outputs |= {name: TFLiteModel(folder / file["path"]).predict for name, file in files.items()}

    rows: list[dict[str, Any]] = [
        {
            "name": "mean",
            "label": "predicting the mean",
            "test_mse": report.mean_error(flat.x_train, x),
        },
        {
            "name": "pca",
            "label": f"PCA, {width} numbers",
            "test_mse": float(pca.mse(x, width)),
            "numbers": width,
            "parameters": (width + 1) * flat.features,
        },
    ]
    if narrow != width:
        rows.append(
            {
                "name": "pca_shrunk",
                "label": f"PCA, {narrow} numbers",
                "test_mse": float(pca.mse(x, narrow)),
                "numbers": narrow,
                "parameters": (narrow + 1) * flat.features,
            }
        )
    for name, label in _LABELS.items():
        if name not in outputs:
            continue
        row = {"name": name, "label": label, "test_mse": report.mse(outputs[name], x)}
        if name in trained:
            counted = report.parameters(trained[name])
            row |= {
                "parameters": counted["parameters"],
                "nonzero": counted["parameters"] - counted["zeros"],
                "sparsity": counted["sparsity"],
            }
        else:
            file = files[name]
            row |= {
                "file": file["path"],
                "bytes": file["bytes"],
                "gzip_bytes": file["gzip_bytes"],
                "max_difference": file["max_difference"],
            }
        if name.startswith("shrunk"):
            row["numbers"] = narrow
        rows.append(row)

    widths = sorted({*_curve_widths(flat.features), width, narrow})
    shown = x[:_SHOWN]
    reconstructed = {
        "original": shown,
        f"PCA, {width}": pca.reconstruct(shown, width),
        "dense": outputs["dense"](shown),
        "pruned": outputs["pruned"](shown),
        "pruned, int8 file": outputs["pruned_int8"](shown),
    }
    if "shrunk" in trained:
        reconstructed["shrunk, int8 file"] = outputs["shrunk_int8"](shown)
    macs = report.macs(trained["dense"])
    made = {
        "format": FORMAT,
        "best": "shrunk_int8" if "shrunk" in trained else "pruned_int8",
        "data": data.describe(),
        "settings": {
            **settings.to_dict(),
            "epochs": {phase: records[phase]["epochs"] for phase in settings.epochs},
            "macs": macs["macs"],
        },
        "rows": rows,
        "layers": _layers(trained["pruned"], records["prune"]["asked"]),
        "history": {phase: records[phase]["history"] for phase in settings.epochs},
        "pca_curve": {"widths": widths, "test_mse": [float(e) for e in pca.curve(x, widths)]},
    }
    if "shrunk" in trained:
        made["shrinking"] = _shrinking(records["shrink"], settings, narrow)
    return made, reconstructed


def _code(model: keras.Model) -> int:
    """How many numbers a sample is kept as: what the encoder gives, or the narrowest layer where it is gone."""
    if hasattr(model, "encoder"):
        return int(model.encoder.output_shape[-1])
    return min(int(layer.output.shape[-1]) for layer in model.layers)


def _shrinking(record: dict[str, Any], settings: Settings, width: int) -> dict[str, Any]:
    """What was cut, without the times it took."""
    rounds = [{key: value for key, value in one.items() if key != "seconds"} for one in record["rounds"]]
    return {
        "max_error_increase": settings.max_error_increase,
        "encoding_dim": width,
        "stopped": record["stopped"],
        "validation_mse": [record["rounds"][0]["error"], record["error"]],
        "epochs": record["epochs"],
        "rounds": rounds,
        "layers": record["layers"],
    }


def _predict(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: model.predict(x, verbose=0, batch_size=1024)


def _curve_widths(features: int) -> set[int]:
    """About 24 widths from 1 up to the number of features, closer together at the narrow end."""
    return {int(w) for w in np.geomspace(1, max(features - 1, 1), 24).round()}


def _layers(model: keras.Model, asked: dict[str, float]) -> list[dict[str, Any]]:
    """The table of the kernels, with what the pruning asked of each of them."""
    rows = sparsity_table(model).to_dict()
    return [
        {**row, "asked": asked.get(row["path"]), "pattern": "unstructured" if row["path"] in asked else ""}
        for row in rows
    ]
