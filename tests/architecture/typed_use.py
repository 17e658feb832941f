"""The public names as a user's type checker sees them; read by mypy in test_types.py and never run."""

from collections.abc import Mapping
from pathlib import Path
from typing import assert_type

import keras
import numpy as np

import keras_aeprune as kap
from keras_aeprune.export import ExportedFile
from keras_aeprune.pipeline import Compressed, Result
from keras_aeprune.search import WidthResult
from keras_aeprune.shrinking import ShrinkPlan
from keras_aeprune.sparsity import SparsityTable


def train_and_prune(x: np.ndarray) -> keras.Model:
    autoencoder = kap.models.dense((64,), encoding_dim=8, hidden_units=(32, 16))
    prune = assert_type(kap.Prune(0.9, criterion="magnitude"), kap.Prune)
    autoencoder.fit(x, x, callbacks=[prune, kap.KeepSparse()])
    assert_type(prune.table, SparsityTable | None)
    assert_type(prune.at_target, bool)
    assert_type(kap.sparsity_table(autoencoder), SparsityTable)
    kap.Prune(kap.schedules.PolynomialDecay(0.0, 0.9, begin_step=0, end_step=100))
    return autoencoder


def score_and_shrink(model: keras.Model, x: np.ndarray) -> None:
    scores = kap.criteria.scores(model, "fisher", data=x)
    assert_type(scores, dict[str, np.ndarray])
    plan = kap.shrinking.plan(model, "magnitude", keep=0.5, data=x)
    assert_type(plan, ShrinkPlan)
    kap.shrinking.fine_tune(plan.apply(model), x, epochs=1)


def export(model: keras.Model, folder: Path, x: np.ndarray) -> None:
    file = kap.export.tflite(model, folder / "model.tflite", quantize="int8", data=x)
    assert_type(file, ExportedFile)
    assert_type(file.bytes, int)
    assert_type(file.path, Path)


def search(x: np.ndarray) -> keras.Model:
    found = kap.search.encoding_width(x, range(4, 17, 4), 0.05, directory="search")
    assert_type(found, WidthResult)
    assert_type(found.encoding_dim, int)
    return found.model


def whole_job(x: np.ndarray) -> Mapping[str, Path]:
    result = kap.compress(x, "run", epochs=5)
    assert_type(result, Result | Compressed)
    loaded = kap.datasets.load("digits")
    assert_type(loaded.x_train, np.ndarray)
    assert_type(kap.__version__, str)
    return result.files
