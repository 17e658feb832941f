"""Embeddings: the codes of an encoder as NumPy arrays, and how good they are next to PCA's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier

from keras_aeprune._validation import InputError, keras_model, positive_int, refuse
from keras_aeprune.models.compare import aligned
from keras_aeprune.models.halves import code_of, encoder_of
from keras_aeprune.models.pca import PCA


def embed(model: keras.Model, x: np.ndarray, *, batch_size: int = 512) -> np.ndarray:
    """The code of each sample as one row of numbers; feature maps are flattened.

    Use it to search, cluster or classify with what an autoencoder has learnt.

    Args:
        model: an autoencoder with an encoder that `encoder_of` finds, or an encoder itself.
        x: shape (n, ...), n >= 1, as the model takes it.
        batch_size: samples that the encoder gets at a time, >= 1.

    Returns:
        float32 array of shape (n, width of the code).

    Raises:
        InputError: `x` does not fit, or the model looks like an autoencoder and its encoder is not to be found.

    >>> from keras_aeprune.models.dense import dense
    >>> embed(dense((8, 8), 3), np.zeros((5, 8, 8))).shape
    (5, 3)
    """
    encoder, size = _encoder(model), positive_int("batch_size", batch_size)
    x = np.asarray(x)
    if x.ndim < 2 or not x.size or x.dtype.kind not in "biuf":
        raise refuse("x", f"{x.dtype} array of shape {x.shape}", "numbers of shape (n, ...) with n >= 1")
    wanted = getattr(encoder, "input_shape", None)
    if isinstance(wanted, tuple) and wanted and not isinstance(wanted[0], tuple):
        fits = len(wanted) == x.ndim and all(a in (None, b) for a, b in zip(wanted[1:], x.shape[1:], strict=True))
        if not fits:
            raise refuse("x", x.shape, f"samples of shape {wanted[1:]}, the input of {encoder.name!r}")
    codes = []
    for start in range(0, len(x), size):
        part = x[start : start + size].astype("float32")
        code = keras.ops.convert_to_numpy(code_of(encoder(part, training=False)))
        codes.append(np.asarray(code, dtype="float32").reshape(len(part), -1))
    return np.concatenate(codes)


def _encoder(model: keras.Model) -> keras.Model:
    try:
        return encoder_of(keras_model(model))
    except InputError as error:
        shapes = [getattr(model, name, None) for name in ("input_shape", "output_shape")]
        if shapes[0] is None or shapes[0] == shapes[1]:
            raise InputError(
                f"model: {model.name!r} gives outputs of its input's shape and has no part named 'encoder', "
                "allowed: an encoder itself, or an autoencoder with model.encoder set to that part"
            ) from error
        return model


@dataclass(frozen=True)
class EmbeddingQuality:
    """How well codes keep labels and neighbourhoods; made by `embedding_quality`.

    Args:
        rows: one dict for the model, for PCA of the same width and for the raw data, with the keys name, width,
            accuracy (fraction of the test samples whose label the nearest training codes vote for, 0 to 1) and
            trustworthiness (fraction-like, 0 to 1: near in the code is near in the data).
        neighbours: how many nearest codes count.
        train_samples: training samples that were used.
        test_samples: test samples that were used.
    """

    rows: tuple[dict[str, Any], ...]
    neighbours: int
    train_samples: int
    test_samples: int

    def __str__(self) -> str:
        columns = {"name": "{}", "width": "{}", "accuracy": "{:.4f}", "trustworthiness": "{:.4f}"}
        return (
            f"{self.neighbours} nearest neighbours, {self.train_samples} training and {self.test_samples} test "
            f"samples\n{aligned(self.rows, columns)}"
        )


def embedding_quality(
    model: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    *,
    test: tuple[np.ndarray, np.ndarray],
    neighbours: int = 5,
    samples: int = 2000,
    seed: int = 0,
) -> EmbeddingQuality:
    """Compare a model's codes with PCA of the same width and with the data itself, on labelled data.

    Use it to see whether an encoder is worth it: codes that PCA equals need no network. Two measures for each:
    the accuracy of k nearest neighbours (fitted on training codes, judged on test codes) and the
    trustworthiness (Venna and Kaski 2001; scikit-learn's) of the test codes, which falls where samples that are
    far apart in the data become neighbours in the code. Trustworthiness takes n^2 memory, so at most `samples`
    of each part are drawn, the same for every row; PCA is fitted on all of `train`.

    Args:
        model: an autoencoder or an encoder, as in `embed`.
        train: (x, y), x of shape (n, ...) as the model takes it, y one label a sample, shape (n,).
        test: (x, y) of the same kind, of samples that the model was not trained on.
        neighbours: nearest codes that count, 1 <= k < half of the test samples used.
        samples: largest number of training and of test samples that are used, >= 4.
        seed: of the draw, >= 0.

    Returns:
        Rows "model", "PCA, k numbers" (where k is at most the number of features) and "raw data".

    Raises:
        InputError: the data or a number cannot be used.

    >>> from keras_aeprune.datasets import load
    >>> from keras_aeprune.models.dense import dense
    >>> data = load("digits")
    >>> parts = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
    >>> quality = embedding_quality(dense((8, 8), 2), **parts)
    >>> [row["name"] for row in quality.rows], quality.rows[2]["accuracy"] > 0.95
    (['model', 'PCA, 2 numbers', 'raw data'], True)
    """
    neighbours = positive_int("neighbours", neighbours)
    most, seed = positive_int("samples", samples, minimum=4), positive_int("seed", seed, minimum=0)
    (x_train, y_train), (x_test, y_test) = _labelled("train", train), _labelled("test", test)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise refuse("test", x_test.shape, f"samples of shape {x_train.shape[1:]}, like train")
    generator = np.random.default_rng(seed)
    rows_train, rows_test = (_drawn(generator, len(x), most) for x in (x_train, x_test))
    if not (neighbours <= len(rows_train) and neighbours < len(rows_test) / 2):
        raise refuse(
            "neighbours",
            neighbours,
            f"at most {len(rows_train)} (training samples), and fewer than half of {len(rows_test)} test samples",
        )
    flat_train, flat_test = (x.reshape(len(x), -1) for x in (x_train[rows_train], x_test[rows_test]))
    codes = embed(model, x_train[rows_train]), embed(model, x_test[rows_test])
    width = codes[0].shape[1]
    candidates = [("model", width, *codes)]
    if width <= flat_train.shape[1]:
        pca = PCA.fit(x_train, [width])
        linear = [(flat - pca.mean) @ pca.directions for flat in (flat_train, flat_test)]
        candidates.append((f"PCA, {width} numbers", width, *linear))
    candidates.append(("raw data", flat_train.shape[1], flat_train, flat_test))
    rows = []
    for name, numbers, known, new in candidates:
        judge = KNeighborsClassifier(neighbours).fit(known, y_train[rows_train])
        near = trustworthiness(flat_test, new, n_neighbors=neighbours)
        accuracy = float(judge.score(new, y_test[rows_test]))
        rows.append({"name": name, "width": numbers, "accuracy": accuracy, "trustworthiness": float(near)})
    return EmbeddingQuality(tuple(rows), neighbours, len(rows_train), len(rows_test))


def _labelled(name: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise refuse(name, value, "(x, y): samples, and one label for each")
    x, y = (np.asarray(part) for part in value)
    if x.ndim < 2 or not x.size or x.dtype.kind not in "biuf" or not np.isfinite(x).all():
        raise refuse(name, f"x: {x.dtype} of shape {x.shape}", "finite numbers of shape (n, ...) with n >= 1")
    if y.shape != (len(x),):
        raise refuse(name, f"y of shape {y.shape}", f"one label for each of the {len(x)} samples")
    return x, y


def _drawn(generator: np.random.Generator, count: int, most: int | None) -> np.ndarray:
    return np.sort(generator.permutation(count)[:most])
