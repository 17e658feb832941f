"""The files that the exporter writes, packed: every byte comes back, whatever else than weights is in them."""

import keras
import numpy as np
import pytest

from keras_aeprune.compression.codec import pack, unpack
from keras_aeprune.export.metadata import read_metadata
from keras_aeprune.export.tflite import tflite_many
from keras_aeprune.export.verify import TFLiteModel
from keras_aeprune.models.dense import dense

X = np.random.default_rng(0).random((64, 48), dtype=np.float32)
LABELS = {"labels": ["cat", "dög"] * 20}
PARTS = ("encoder", "decoder")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of an autoencoder with its halves as signatures, and a record in a buffer of its own."""
    keras.utils.set_random_seed(0)
    model = dense((48,), 6, hidden_units=(40,))
    for kernel in (weight for weight in model.trainable_weights if weight.name == "kernel"):
        values = kernel.numpy()
        kernel.assign(np.where(np.abs(values) < np.quantile(np.abs(values), 0.8), 0, values))
    folder = tmp_path_factory.mktemp("files")
    paths = {name: folder / f"{name}.tflite" for name in ("float32", "int8")}
    tflite_many(model, paths, data=X, parts=PARTS, metadata=LABELS, sparse=False)
    return paths


def outputs(path):
    return [
        TFLiteModel(path, signature=name).predict(x) for name, x in zip(PARTS, (X, X[:, :6].copy()), strict=True)
    ]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_with_two_signatures_and_a_record_comes_back_byte_for_byte(files, precision, tmp_path):
    file = files[precision]
    packed = pack(file, tmp_path / "m.kap", bits=None)
    back = unpack(tmp_path / "m.kap", tmp_path / "o.tflite")
    assert back.read_bytes() == file.read_bytes() == packed.model
    assert packed.bytes < file.stat().st_size / 2
    assert read_metadata(back)["user"] == LABELS


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_sharing_keeps_signatures_and_record_and_leaves_integers_alone(files, precision, tmp_path):
    file = files[precision]
    packed = pack(file, tmp_path / "m.kap", bits=6)
    back = unpack(tmp_path / "m.kap", tmp_path / "o.tflite")
    assert (back.read_bytes() == file.read_bytes()) == (precision == "int8")
    assert packed.model == back.read_bytes() and back.stat().st_size == file.stat().st_size
    assert read_metadata(back) == read_metadata(file)
    for given, wanted in zip(outputs(back), outputs(file), strict=True):
        assert np.abs(given - wanted).max() < 0.1 * np.abs(wanted).max()
