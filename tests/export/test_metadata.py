"""A file carries a JSON record that only `read_metadata` sees, and a damaged one is refused, whatever is in it."""

import contextlib
import json
import struct

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import keras_aeprune
from keras_aeprune._validation import InputError
from keras_aeprune.datasets.scaling import Scaling
from keras_aeprune.export.metadata import ENTRY, checked, labelled, of_detector, read_metadata
from keras_aeprune.export.request import request
from keras_aeprune.models.anomaly import AnomalyDetector
from keras_aeprune.models.dense import dense


@pytest.fixture(scope="module")
def plain():
    """The bytes of a file by the converter alone: y = x * 3 x 2 kernel."""
    kernel = tf.constant(np.arange(6, dtype="float32").reshape(3, 2))
    product = tf.function(lambda x: x @ kernel, input_signature=[tf.TensorSpec((1, 3), name="x")])
    return tf.lite.TFLiteConverter.from_concrete_functions([product.get_concrete_function()]).convert()


def run(content):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.array([[1, 2, 3]], "float32"))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tolist()


def test_record_comes_back_and_the_file_computes_as_before(plain, tmp_path):
    values = {"labels": ["Käse", "b"], "nested": {"a": [1, 2.5, None, True]}}
    (tmp_path / "a.tflite").write_bytes(labelled(plain, values))
    assert read_metadata(tmp_path / "a.tflite") == values
    assert run(labelled(plain, values)) == run(plain) == [[16.0, 22.0]]
    names = [entry.name for entry in schema.ModelT.InitFromObj(schema.Model.GetRootAs(plain, 0)).metadata]
    again = schema.ModelT.InitFromObj(schema.Model.GetRootAs(labelled(plain, values), 0)).metadata
    assert [entry.name for entry in again] == [*names, ENTRY.encode()]  # those of the converter stay


def test_same_record_gives_the_same_bytes_and_a_new_one_replaces_it(plain, tmp_path):
    first = labelled(plain, {"a": 1, "b": 2})
    assert first == labelled(plain, {"b": 2, "a": 1})
    (tmp_path / "a.tflite").write_bytes(labelled(first, {"c": 3}))
    assert read_metadata(tmp_path / "a.tflite") == {"c": 3}


def test_file_without_a_record_gives_nothing(plain, tmp_path):
    (tmp_path / "a.tflite").write_bytes(plain)
    assert read_metadata(tmp_path / "a.tflite") == {}


def test_exported_file_knows_how_it_was_made(featured):
    record = read_metadata(featured["parts"].files["int8"].path)
    assert record == {
        "package": "keras_aeprune",
        "version": keras_aeprune.__version__,
        "precision": "int8",
        "coding": "dense",
        "batch": 1,
        "unrolled": False,
        "removed_units": 0,
        "user": {"labels": ["low", "high"]},
    }
    assert read_metadata(featured["sparse"].files[None].path)["coding"] == "sparse"
    assert read_metadata(featured["batch"].files[None].path)["batch"] == 7
    assert read_metadata(featured["unrolled"].files[None].path)["unrolled"]
    assert read_metadata(featured["dead_units"].files[None].path)["removed_units"] == 24


def test_detector_records_its_threshold_and_scaling(tmp_path):
    scaling = Scaling("standard", offset=2.0, divisor=4.0)
    x = np.random.default_rng(0).normal(2, 4, (50, 6))
    detector = AnomalyDetector(dense((6,), 2), scaling=scaling, error="mae").fit(x)
    asked = request(detector, {None: tmp_path / "a.tflite"}, x)
    assert asked.metadata == {"detector": of_detector(detector)}
    record = json.loads(json.dumps(asked.metadata))["detector"]
    assert record["threshold"] == detector.threshold
    assert Scaling.from_dict(record["scaling"]) == scaling
    assert (record["error"], record["standardize"]) == ("mae", False)


@pytest.mark.parametrize("quantize", ["int8_io", "int16x8"])
def test_detector_with_quantized_scores_or_in_parts_is_refused(tmp_path, quantize):
    x = np.random.default_rng(0).random((50, 6))
    detector = AnomalyDetector(dense((6,), 2)).fit(x)
    with pytest.raises(InputError, match=f"'{quantize}' for an anomaly detector, allowed: .*'int8'"):
        request(detector, {quantize: tmp_path / "a.tflite"}, x)
    with pytest.raises(InputError, match="export detector.autoencoder in parts"):
        request(detector, {None: tmp_path / "a.tflite"}, x, parts=("encoder",))


def test_metadata_of_the_user_becomes_plain_json():
    given = {"scaling": Scaling("unit", divisor=255.0), "sizes": np.arange(3), "mean": np.float32(0.5)}
    values = checked(given)
    assert json.loads(json.dumps(values)) == values
    assert values["scaling"]["divisor"] == 255.0 and values["sizes"] == [0, 1, 2]
    assert checked(None) == {}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"a": float("nan")}, r"metadata\['a'\]: got nan"),
        ({"a": {"b": {1, 2}}}, r"metadata\['a'\]\['b'\]: got {1, 2}"),
        ({1: "a"}, "key in metadata: got 1, allowed: text"),
        ({"a": b"bytes"}, "got b'bytes'"),
        (["a"], "None or a dict"),
    ],
)
def test_metadata_that_json_cannot_hold_is_refused(metadata, words):
    with pytest.raises(InputError, match=words):
        checked(metadata)


def test_metadata_that_holds_itself_is_refused():
    endless = {}
    endless["a"] = endless
    with pytest.raises(InputError, match="does not hold itself"):
        checked(endless)


def with_text(plain, text):
    """A file whose record is this text, JSON or not."""
    marker = "x" * len(text)
    content = labelled(plain, {"m": marker})
    old = json.dumps({"m": marker}, separators=(",", ":")).encode()
    assert content.count(old) == 1
    return content.replace(old, text.ljust(len(old)))


@pytest.mark.parametrize("text", [b"{", b"[1, 2]", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b""])
def test_record_that_is_no_json_dict_is_refused(plain, tmp_path, text):
    path = tmp_path / "a.tflite"
    path.write_bytes(with_text(plain, text))
    with pytest.raises(InputError, match="whose record 'keras_aeprune' cannot be read"):
        read_metadata(path)


@pytest.mark.parametrize("keep", [8, 20, 0.3, 0.9])
def test_cut_file_never_escapes_as_another_error(plain, tmp_path, keep):
    content = labelled(plain, {"a": 1})
    path = tmp_path / "a.tflite"
    path.write_bytes(content[: keep if keep > 1 else int(keep * len(content))])
    with contextlib.suppress(InputError):
        assert read_metadata(path) in ({}, {"a": 1})


def test_numbers_changed_anywhere_never_hang_or_escape(plain, tmp_path):
    """Every 4 bytes in turn become a huge and a random number."""
    content, path = labelled(plain, {"a": 1}), tmp_path / "a.tflite"
    generator = np.random.default_rng(0)
    for i in range(0, len(content) - 4, 4):
        for value in (0xFFFFFFFF, int(generator.integers(2**32))):
            path.write_bytes(content[:i] + struct.pack("<I", value) + content[i + 4 :])
            with contextlib.suppress(InputError):
                assert isinstance(read_metadata(path), dict)


def test_what_is_no_tflite_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("something else")
    with pytest.raises(InputError, match="no .tflite file"):
        read_metadata(tmp_path / "a.txt")
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="which is no file"):
            read_metadata(path)
    with pytest.raises(InputError, match="an existing .tflite file"):
        read_metadata(7)
