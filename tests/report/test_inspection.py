import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune._validation import InputError
from keras_aeprune.report.inspected import Inspection
from keras_aeprune.report.inspection import inspect, inspect_file


def small(name="small"):
    hidden = layers.Dense(5, activation="relu", name="hidden")
    return keras.Sequential([keras.Input((4,)), hidden, layers.Dense(3, name="out")], name=name)


def row(found, path):
    return next(one for one in found.layers if one.path == path)


def test_numbers_of_a_dense_model_by_hand():
    model = small()
    model.layers[0].set_weights([np.eye(4, 5), np.ones(5)])
    found = inspect(model)
    hidden = row(found, "hidden")
    assert (hidden.parameters, hidden.kernel_weights, hidden.zeros, hidden.nonzero) == (25, 20, 16, 9)
    assert (hidden.macs, hidden.units, hidden.output_shape, hidden.dtype) == (20, 5, (None, 5), "float32")
    assert (found.parameters, found.macs, found.zeros) == (43, 35, 16)
    assert found.sparsity == 16 / 35
    assert found.weight_bytes == 43 * 4
    # bitmask of 20 bits and 4 values: 148 bits; 4 gaps: 160 bits; both biases and the other kernel whole
    assert found.sparse_bytes == 19 + 4 * (5 + 15 + 3)


def test_layers_of_many_kinds_count_as_keras_does():
    entrance = keras.Input((6, 8))
    x = layers.LSTM(5, return_sequences=True, name="lstm")(entrance)
    x = layers.Bidirectional(layers.GRU(3), name="both")(x)
    x = layers.Dense(4, name="code")(x)
    model = keras.Model(entrance, layers.BatchNormalization(name="norm")(x))
    found = inspect(model)
    assert found.parameters == model.count_params()
    assert row(found, "lstm").macs == 6 * (8 * 20 + 5 * 20)
    assert row(found, "both").macs == 2 * 6 * (5 * 9 + 3 * 9)
    assert row(found, "norm").macs == 0
    assert [one.path for one in found.layers] == ["lstm", "both", "code", "norm"]
    assert any(hint.startswith("lstm (LSTM) runs as a loop") for hint in found.hints)


def test_nested_models_have_paths_and_a_shared_layer_counts_once():
    shared = layers.Dense(4, name="shared")
    encoder = keras.Sequential([keras.Input((4,)), shared], name="encoder")
    entrance = keras.Input((4,))
    model = keras.Model(entrance, layers.Add(name="sum")([encoder(entrance), shared(entrance)]))
    found = inspect(model)
    assert sum(one.parameters for one in found.layers) == 20 == model.count_params()
    assert found.macs == 2 * 16
    assert "encoder/shared" in [one.path for one in found.layers]


def test_a_subclassed_model_is_listed_and_what_is_not_known_is_said():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = layers.Dense(3, name="first")
            self.free = self.add_weight(shape=(7,), name="free")

        def call(self, x):
            return self.first(x) + x[:, :1]

    model = Own()
    model(np.ones((1, 4), "float32"))
    found = inspect(model)
    assert found.parameters == 22
    assert row(found, "first").macs == 12
    if not found.groups:
        assert any("not known" in hint for hint in found.hints)


def test_dead_units_are_found_by_weights_and_by_data():
    model = small()
    model.layers[0].set_weights([np.ones((4, 5)), np.array([0.0, 0, 0, 0, -99])])
    model.layers[1].set_weights([np.array([[0.0] * 3] + [[1.0] * 3] * 4), np.zeros(3)])
    by_weights, by_data = inspect(model), inspect(model, data=np.random.default_rng(0).random((9, 4)))
    assert (row(by_weights, "hidden").dead, row(by_data, "hidden").dead) == (1, 2)
    assert any("1 units do nothing by the weights (hidden)" in hint for hint in by_weights.hints)
    assert any("2 units do nothing by the data (hidden)" in hint for hint in by_data.hints)


def test_a_layer_that_never_fires_on_the_data_is_named():
    model = small()
    model.layers[0].set_weights([np.ones((4, 5)), np.full(5, -99.0)])
    found = inspect(model, data=np.ones((3, 4)))
    assert any(hint.startswith("hidden never fires on the data") for hint in found.hints)
    assert not any("never fires" in hint for hint in inspect(model).hints)


def test_groups_say_what_can_go_and_why_the_rest_stays():
    groups = {group.name: group for group in inspect(small()).groups}
    assert (groups["hidden"].units, groups["hidden"].reason) == (5, "")
    assert groups["out"].reason == "output of the model"
    assert "can be cut: 5 units in 1 group: hidden (5)" in str(inspect(small()))


def test_json_gives_the_same_back():
    found = inspect(small())
    again = Inspection.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    assert found.to_dict()["totals"]["parameters"] == 43
    with pytest.raises(InputError, match="Inspection.to_dict"):
        Inspection.from_dict({"layers": [{"path": "a"}]})


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_have_bytes_and_say_what_is_only_for_training(tmp_path, suffix):
    model = keras.Sequential([keras.Input((40,)), layers.Dense(30), layers.Dense(40)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    found = inspect_file(path)
    assert (found.name, found.bytes) == (path.name, path.stat().st_size)
    assert found.gzip_bytes < found.bytes
    assert found.format == {".keras": "keras", ".h5": "hdf5"}[suffix]
    assert any("optimizer's state" in hint for hint in found.hints)
    bare = tmp_path / f"bare{suffix}"
    small().save(bare)
    assert not any("optimizer's state" in hint for hint in inspect_file(bare).hints)


@pytest.mark.parametrize("name", ["a.keras", "a.h5", "a.hdf5", "a.tflite"])
def test_files_that_are_no_models_are_refused_in_one_line(tmp_path, name):
    for content in (
        b"",
        b"hello",
        b"PK\x03\x04" + bytes(100),
        b"\x1c\0\0\0TFL3",
        b"\xff\xff\xff\x7fTFL3" + bytes(64),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            inspect_file(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_missing_files_other_types_and_code_are_refused(tmp_path):
    with pytest.raises(InputError, match="ends in .keras"):
        inspect_file(tmp_path / "model.onnx")
    for name in ("no.keras", "no.tflite"):
        with pytest.raises(InputError, match="existing"):
            inspect_file(tmp_path / name)
    model = keras.Sequential([keras.Input((2,)), layers.Lambda(lambda x: x)])
    model.save(tmp_path / "code.keras")
    with pytest.raises(InputError, match="Python code"):
        inspect_file(tmp_path / "code.keras")


def test_data_that_does_not_fit_are_refused():
    for data in (np.ones((3, 5)), np.ones((1, 4)), np.ones(4)):
        with pytest.raises(InputError, match=r"\(n, 4\) with n >= 2"):
            inspect(small(), data=data)


def test_real_files_count_the_same_in_keras_and_in_litert(real_data):
    keras_file = inspect_file(real_data / "models" / "mlperf_tiny_ad01.h5")
    lite_file = inspect_file(real_data / "models" / "mlperf_tiny_ad01_fp32.tflite")
    assert keras_file.macs == lite_file.macs == 264_192
    assert keras_file.kernel_weights == lite_file.kernel_weights
    assert keras_file.parameters == 269_992
    text = str(keras_file)
    assert "can be cut" in text
    assert Inspection.from_dict(keras_file.to_dict()) == keras_file
