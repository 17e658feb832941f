"""The files compute what the models compute, whatever the kind of model, and the models stay as they were."""

import gzip
import json
import logging
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import keras_aeprune as kap
from keras_aeprune.export.check import ExportedFile
from keras_aeprune.export.precisions import PRECISIONS

GOOD = [
    *(("nested", q) for q in (None, "float16", "dynamic", "int8")),
    *((name, q) for name in ("subclassed", "convolutional", "recurrent", "unrolled") for q in (None, "int8")),
    *(("two_inputs", q) for q in (None, "int8")),
    *((name, None) for name in ("pruned", "nested_reloaded")),
]


def by_hand(path, inputs):
    """Outputs of a file by output name, straight from the interpreter, found by the names of the tensors."""
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    where = {}
    for details in interpreter.get_input_details():
        (name,) = [n for n in inputs if f"_{n}:" in details["name"]]
        where[name] = details["index"]
    rows = []
    for i in range(len(next(iter(inputs.values())))):
        for name, array in inputs.items():
            interpreter.set_tensor(where[name], array[i : i + 1])
        interpreter.invoke()
        rows.append([interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()])
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(("name", "quantize"), GOOD)
def test_file_computes_what_the_model_computes(exported, name, quantize):
    case = exported[name]
    file = case.files[quantize]
    assert isinstance(file, ExportedFile), file
    x = case.data if case.data is not None else np.random.default_rng(0).random((64, 64))
    x = {k: v[:64] for k, v in x.items()} if isinstance(x, dict) else np.float32(x[:64])
    expected = keras.tree.flatten(case.model(x, training=False))
    (input_name,) = kap.export.TFLiteModel(file.path).input_shapes if not isinstance(x, dict) else ("",)
    got = by_hand(file.path, x if isinstance(x, dict) else {input_name: x})
    assert sorted(a.shape for a in got) == sorted(tuple(e.shape) for e in expected)
    worst_max = worst_rms = 0
    for wanted in expected:
        wanted = np.asarray(wanted)
        (found,) = [array for array in got if array.shape == wanted.shape]
        worst_max = max(worst_max, np.abs(found - wanted).max() / np.abs(wanted).max())
        spread = max(wanted.std(), np.abs(wanted).max() / 20)
        worst_rms = max(worst_rms, np.sqrt(((found - wanted) ** 2).mean()) / spread)
    row = PRECISIONS[quantize or "float32"]
    assert worst_rms <= row.rms_limit
    # the reference of the exporter is computed in smaller batches, which moves the last bits
    assert file.max_difference == pytest.approx(worst_max, rel=0.02, abs=1e-6)
    assert file.rms_difference == pytest.approx(worst_rms, rel=0.02, abs=1e-5)
    assert (file.limit, file.rms_limit, file.quantize) == (row.limit, row.rms_limit, row.name)
    assert file.samples_compared == 64


def test_sizes_are_those_of_the_file_and_shrink_with_the_precision(exported):
    files = exported["nested"].files
    for file in files.values():
        content = file.path.read_bytes()
        assert file.bytes == len(content)
        assert gzip.decompress(gzip.compress(content, 9, mtime=0)) == content
        assert file.gzip_bytes == len(gzip.compress(content, 9, mtime=0))
    kernels = 2 * (64 * 32 + 32 * 8)
    assert files[None].bytes >= 4 * kernels > files["float16"].bytes >= 2 * kernels
    assert files["float16"].bytes > files["int8"].bytes > files["dynamic"].bytes >= kernels


def test_int8_file_calculates_in_int8_between_float_inputs_and_outputs(exported):
    interpreter = Interpreter(model_path=str(exported["nested"].files["int8"].path))
    types = [details["dtype"] for details in interpreter.get_tensor_details()]
    assert {d["dtype"] for d in interpreter.get_input_details() + interpreter.get_output_details()} == {np.float32}
    assert types.count(np.float32) == 2
    assert types.count(np.int8) >= 4 + 4  # four kernels, four activations


def test_inputs_keep_their_names(exported):
    model = kap.export.TFLiteModel(exported["nested"].files["int8"].path)
    assert model.input_shapes == {"pixels": (1, 64)}
    model = kap.export.TFLiteModel(exported["two_inputs"].files["int8"].path)
    assert model.input_shapes == {"zeta": (1, 6), "alpha": (1, 6)}


def test_int8_inputs_are_calibrated_each_with_its_own_data(exported):
    """zeta spans 50 and alpha 1: swapped, one would be clipped to a fiftieth."""
    interpreter = Interpreter(model_path=str(exported["two_inputs"].files["int8"].path))
    interpreter.allocate_tensors()
    scales = {}
    for operation in interpreter._get_ops_details():
        if operation["op_name"] == "QUANTIZE":
            source, target = operation["inputs"][0], operation["outputs"][0]
            details = {d["index"]: d for d in interpreter.get_tensor_details()}
            scales[details[source]["name"]] = details[target]["quantization"][0]
    zeta = next(value for name, value in scales.items() if "zeta" in name)
    alpha = next(value for name, value in scales.items() if "alpha" in name)
    assert zeta == pytest.approx(50 / 255, rel=0.05)
    assert alpha == pytest.approx(1 / 255, rel=0.05)


def test_same_model_gives_the_same_bytes(exported):
    first, again = exported["nested"].files, exported["nested_again"].files
    assert first["int8"].path.read_bytes() == again["int8"].path.read_bytes()
    reloaded = exported["nested_reloaded"].files[None]
    assert first[None].path.read_bytes() == reloaded.path.read_bytes()


def test_export_leaves_the_model_and_its_training_as_they_were(exported, make_nested):
    """Trained on after the export, the model ends exactly where a twin ends that was never exported."""
    policy, attributes = keras.config.dtype_policy(), []
    models = [exported["nested"].model, make_nested()]
    x = np.random.default_rng(9).random((128, 64), dtype="float32")
    for model in models:
        assert model.compiled
        attributes.append([sorted(vars(layer)) for layer in model._flatten_layers()])
        model.fit(x, x, epochs=1, shuffle=False, verbose=0)
    assert attributes[0] == attributes[1]
    assert keras.config.dtype_policy() is policy
    for mine, twin in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(mine, twin)
    for mine, twin in zip(models[0].optimizer.variables, models[1].optimizer.variables, strict=True):
        np.testing.assert_array_equal(mine, twin)


def test_rolled_recurrent_model_is_unrolled_in_the_file_only(exported):
    files, twin = exported["recurrent"].files, exported["unrolled"].files
    assert all(file.unrolled for file in files.values())
    assert not any(file.unrolled for file in twin.values())
    assert files["int8"].bytes == pytest.approx(twin["int8"].bytes, rel=0.05)  # the names in it differ
    assert not exported["recurrent"].model.get_layer("lstm").unroll


def test_layer_that_is_dead_on_the_calibration_data_is_cut_out_of_the_int8_file(exported):
    file = exported["dead"].files["int8"]
    assert isinstance(file, ExportedFile), file
    assert file.removed_units >= 15 + 15
    assert any("encoder/below: units that are constant on the 100 calibration samples" in n for n in file.notes)
    x = exported["dead"].data
    assert not kap.export.TFLiteModel(file.path).predict(x).any()
    assert not np.asarray(exported["dead"].model(x)).any()


def test_only_good_files_are_left(exported):
    paths = {Path(f.path) for case in exported.values() for f in case.files.values() if hasattr(f, "path")}
    folder = next(iter(paths)).parent
    assert {p for p in folder.iterdir() if p.suffix != ".keras"} == paths


def test_exported_file_is_plain_json(exported):
    file = exported["nested"].files["int8"]
    values = json.loads(json.dumps(file.to_dict()))
    assert values["path"] == str(file.path)
    assert values["route"] == "ExportArchive, batch 1 > SavedModel > TFLiteConverter"
    assert set(values) == set(ExportedFile.__dataclass_fields__)


def test_the_loggers_level_of_a_notebook_brings_no_lines_about_temporary_folders(tmp_path):
    logger, lines = tf.get_logger(), []
    level, handler = logger.level, logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        kap.export.tflite(model, tmp_path / "m.tflite")
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    assert lines == []
