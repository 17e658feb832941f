"""Autoencoders next to the baselines that each of them must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import InputError, keras_model, positive_int, refuse
from keras_aeprune.models.dense import dense
from keras_aeprune.models.halves import code_of, encoder_of
from keras_aeprune.models.pca import PCA
from keras_aeprune.models.ranking import auc, binary_labels

_BATCH = 512


@dataclass(frozen=True)
class Comparison:
    """Models and baselines on the same test data; made by `compare`.

    Args:
        rows: dicts with the keys name, width (numbers in a code; None where no encoder is found), parameters,
            mse (mean over test samples and values) and auc (0 to 1; None without labels).
    """

    rows: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        columns = {"name": "{}", "width": "{}", "parameters": "{:,}", "mse": "{:.6g}"}
        if any(row["auc"] is not None for row in self.rows):
            columns["auc"] = "{:.4f}"
        return aligned(self.rows, columns)


def compare(
    models: Mapping[str, keras.Model],
    x_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray | None = None,
    *,
    dense_epochs: int = 0,
    seed: int = 0,
) -> Comparison:
    """Test error and, with labels, AUC of each model beside PCA, the mean, and a dense autoencoder.

    Use it before a number is published: an autoencoder that does not beat PCA with as many numbers has learnt
    nothing that needs a network, and for anomalies even the distance to the mean is often hard to beat.

    Args:
        models: {name: autoencoder}, at least one; each gives outputs of its input's shape.
        x_train: shape (n, ...), n >= 2, what the models were trained on (normal samples only for anomalies), as
            they take it; PCA and the mean are fitted on it.
        x_test: shape (m, ...), m >= 1.
        y_test: shape (m,), 1 or True = anomaly, both kinds; None leaves the AUC out.
        dense_epochs: train a `dense` autoencoder of each width for so many epochs, >= 0; 0 trains none. Adam,
            batches of 128, a sigmoid output where the training data lies in [0, 1], else a linear one.
        seed: of that training, >= 0; it sets the random state of Keras, NumPy and Python.

    Returns:
        Rows of the models in their order, then for each of their widths PCA and the dense one, then the mean.

    Raises:
        InputError: an argument cannot be used, or a model's output is not of its input's shape.

    >>> from keras_aeprune.datasets import load
    >>> digits = load("digits").flat
    >>> untrained = dense((64,), 8)
    >>> table = compare({"untrained": untrained}, digits.x_train, digits.x_test)
    >>> [row["name"] for row in table.rows]
    ['untrained', 'PCA, 8 numbers', 'predicting the mean']
    >>> table.rows[1]["mse"] < table.rows[2]["mse"] < table.rows[0]["mse"]
    True
    """
    if not isinstance(models, Mapping) or not models or not all(isinstance(name, str) for name in models):
        raise refuse("models", models, "a dict {name: autoencoder} with at least one entry")
    epochs = positive_int("dense_epochs", dense_epochs, minimum=0)
    seed = positive_int("seed", seed, minimum=0)
    x_train, x_test = _numbers("x_train", x_train, 2), _numbers("x_test", x_test, 1)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise refuse("x_test", x_test.shape, f"samples of shape {x_train.shape[1:]}, like x_train")
    labels = None if y_test is None else binary_labels(y_test, len(x_test))

    def row(name: str, width: int | None, parameters: int, errors: np.ndarray) -> dict[str, Any]:
        area = None if labels is None else auc(errors, labels)
        return {
            "name": name,
            "width": width,
            "parameters": int(parameters),
            "mse": float(errors.mean()),
            "auc": area,
        }

    rows = []
    for name, model in models.items():
        errors = _errors(keras_model(model, f"models[{name!r}]"), x_test)
        rows.append(row(name, _width(model, x_test), model.count_params(), errors))
    features = int(np.prod(x_train.shape[1:]))
    widths = sorted({r["width"] for r in rows if r["width"] is not None and r["width"] < features})
    pca = PCA.fit(x_train, widths)
    for width in widths:
        numbers = f"{width} number{'s' if width > 1 else ''}"
        rows.append(row(f"PCA, {numbers}", width, (width + 1) * features, pca.errors(x_test, width)))
        if epochs:
            trained = _trained(x_train, width, epochs, seed)
            label = f"dense, {numbers}, {epochs} epoch{'s' if epochs > 1 else ''}"
            rows.append(row(label, width, trained.count_params(), _errors(trained, x_test)))
    rows.append(row("predicting the mean", 0, features, pca.errors(x_test, 0)))
    return Comparison(tuple(rows))


def aligned(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A plain text table: names to the left, numbers to the right, "-" where a value is None.

    Args:
        rows: dicts with the columns' keys.
        columns: {key: format of its value}, in their order.

    >>> print(aligned([{"name": "a", "mse": 0.25}, {"name": "bc", "mse": None}], {"name": "{}", "mse": "{:.1f}"}))
    name  mse
    a     0.2
    bc      -
    """
    cells = [list(columns)]
    cells += [["-" if row[k] is None else form.format(row[k]) for k, form in columns.items()] for row in rows]
    sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        numbers = (cell.rjust(size) for cell, size in zip(others, sizes[1:], strict=True))
        lines.append("  ".join([first.ljust(sizes[0]), *numbers]))
    return "\n".join(lines)


def _errors(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Mean squared error of each sample, float64, shape (n,)."""
    parts = []
    for start in range(0, len(x), _BATCH):
        part = x[start : start + _BATCH].astype("float32")
        rebuilt = np.asarray(keras.ops.convert_to_numpy(model(part, training=False)))
        if rebuilt.shape != part.shape:
            raise InputError(
                f"models: {model.name!r} turns samples of shape {part.shape[1:]} into {rebuilt.shape[1:]}, "
                "allowed: an autoencoder, whose output has the shape of its input"
            )
        parts.append(np.square(rebuilt.astype("float64") - part).reshape(len(part), -1).mean(axis=1))
    return np.concatenate(parts)


def _width(model: keras.Model, x: np.ndarray) -> int | None:
    try:
        encoder = encoder_of(model)
    except InputError:
        return None  # shown as "-": a model without named halves has no known code
    return int(np.prod(code_of(encoder(x[:1].astype("float32"), training=False)).shape[1:]))


def _trained(x: np.ndarray, width: int, epochs: int, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    output = "sigmoid" if x.min() >= 0 and x.max() <= 1 else "linear"
    model = dense(x.shape[1:], width, output_activation=output)
    model.compile("adam", "mse")
    model.fit(x, x, epochs=epochs, batch_size=128, verbose=0)
    return model


def _numbers(name: str, value: Any, least: int) -> np.ndarray:
    x = np.asarray(value)
    if x.ndim < 2 or len(x) < least or not x.size or x.dtype.kind not in "biuf" or not np.isfinite(x).all():
        raise refuse(
            name, f"{x.dtype} array of shape {x.shape}", f"finite numbers of shape (n, ...), n >= {least}"
        )
    return x
