"""Cut files compute what the whole file computes up to there, and times are the differences of medians."""

import json
from importlib import import_module

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_aeprune._progress import silent
from keras_aeprune._validation import InputError
from keras_aeprune.export.layer_times import Profile, cut, profile

module = import_module("keras_aeprune.export.layer_times")


def write(path, function, *shapes, float16=False):
    specs = [tf.TensorSpec(shape, name=f"x{i}") for i, shape in enumerate(shapes)]
    concrete = tf.function(function, input_signature=specs).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if float16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())
    return path


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    """exp, sin of it, the sum of both: after two operations both results are still needed."""

    def compute(x):
        first = tf.exp(x)
        return first + tf.sin(first)

    return write(tmp_path_factory.mktemp("branches") / "branches.tflite", compute, (1, 5))


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """A small operation, one with a million weights, a small one."""
    weights = tf.constant(np.random.default_rng(0).random((1000, 1000), dtype="float32"))
    path = tmp_path_factory.mktemp("heavy") / "heavy.tflite"
    return write(path, lambda x: tf.exp(tf.sin(x) @ weights), (1, 1000))


def run(content, x):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()]


def test_a_cut_returns_what_the_removed_operations_needed(branches):
    x = np.linspace(-1, 1, 5, dtype="float32")[None]
    first = np.exp(x)
    wanted = [[], [first], [first, np.sin(first)], [first + np.sin(first)]]
    for count, arrays in enumerate(wanted):
        found = run(cut(branches, count), x)
        assert len(found) == len(arrays)
        for array, right in zip(found, arrays, strict=True):
            np.testing.assert_allclose(array, right, rtol=1e-5)


def test_a_cut_leaves_the_file_as_it_was_and_drops_unused_weights(heavy):
    before = heavy.read_bytes()
    assert len(cut(heavy, 1)) < 10_000
    assert len(cut(heavy, 2)) > 4_000_000
    assert heavy.read_bytes() == before


def test_more_operations_than_there_are_cannot_be_kept(branches):
    with pytest.raises(InputError, match="count: got 4, allowed: .*<= 3"):
        cut(branches, 4)


@pytest.fixture
def readings(monkeypatch):
    """Readings that are told in advance: one list of medians per group, the whole file's last."""
    told, asked = [], []

    def interleaved(models, runs, *, warmup, seed):
        asked.append([model.path.name for model in models])
        return np.repeat(np.array(told[len(asked) - 1], float)[:, None], runs, axis=1), [1] * len(models)

    monkeypatch.setattr(module, "interleaved", interleaved)
    return told, asked


def test_times_are_differences_of_medians_and_never_negative(branches, readings):
    """1, 5, 4, 10 us: 5 and 4 become 4.5 twice, so the operations take 3.5, 0 and 5.5 us."""
    told, asked = readings
    told.append([1, 5, 4, 10, 10.2])
    found = profile(branches, runs=5, progress=silent)
    assert asked == [[*(f"branches-{count}.tflite" for count in range(4)), "branches.tflite"]]
    assert [operation.time_us for operation in found.operations] == pytest.approx([3.5, 0, 5.5])
    assert [operation.share for operation in found.operations] == pytest.approx([3.5 / 9, 0, 5.5 / 9])
    assert (found.overhead_us, found.whole_us) == pytest.approx((1, 10.2))
    assert found.sum_us == pytest.approx(10)
    assert [operation.name for operation in found.operations] == ["EXP", "SIN", "ADD"]
    assert {operation.shape for operation in found.operations} == {(1, 5)}


def test_large_files_are_timed_in_groups_that_the_whole_file_ties_together(branches, readings, monkeypatch):
    """The machine is twice as slow during the second group; the times are those at the mean speed."""
    monkeypatch.setattr(module, "_GROUP_BYTES", 2 * len(cut(branches, 3)))
    told, asked = readings
    told.extend([[1, 2, 4], [6, 8, 8]])
    found = profile(branches, runs=5, progress=silent)
    assert [len(names) for names in asked] == [3, 3]
    assert found.whole_us == pytest.approx(6)  # of 4 and 8
    assert [operation.time_us for operation in found.operations] == pytest.approx([1.5, 1.5, 1.5])


def test_the_error_of_a_time_follows_from_the_spread(branches, monkeypatch):
    """A median of 100 normal readings with deviation 1 has the standard error 0.125; of a difference 0.177."""
    draw = np.random.default_rng(0).normal
    monkeypatch.setattr(
        module, "interleaved", lambda models, runs, **_: (50 + draw(size=(len(models), runs)), [1] * len(models))
    )
    errors = [
        operation.error_us
        for _ in range(20)
        for operation in profile(branches, runs=100, progress=silent).operations
    ]
    assert np.mean(errors) == pytest.approx(0.177, rel=0.1)


def test_the_heavy_operation_has_the_time_and_the_sum_is_that_of_the_whole_file(heavy):
    before = heavy.read_bytes()
    found = profile(heavy, runs=40, threads=1, progress=silent)
    assert [operation.name for operation in found.operations] == ["SIN", "FULLY_CONNECTED", "EXP"]
    assert found.operations[1].share > 0.5
    assert sum(operation.share for operation in found.operations) == pytest.approx(1)
    assert found.sum_us == pytest.approx(found.whole_us, rel=0.3)
    assert heavy.read_bytes() == before


def test_operations_on_weights_alone_are_left_out(tmp_path):
    weights = tf.constant(np.random.default_rng(0).random((64, 32), dtype="float32"))
    path = write(tmp_path / "half.tflite", lambda x: tf.exp(x @ weights), (1, 64), float16=True)
    found = profile(path, runs=2, progress=silent)
    assert [operation.name for operation in found.operations] == ["FULLY_CONNECTED", "EXP"]
    assert found.operations[0].index == 1
    assert run(cut(path, 1), np.zeros((1, 64), "float32")) == []  # the unpacked weights are no result


def test_a_profile_prints_and_comes_back_from_json(branches, readings):
    readings[0].append([1, 5, 7, 11, 11])
    found = profile(branches, runs=5, progress=silent)
    assert Profile.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    lines = [line.split() for line in str(found).splitlines()]
    assert lines[0] == ["operation", "output", "us", "+-", "share"]
    assert lines[1] == ["0", "EXP", "1x5", "4.00", "0.00", "0.400"]
    assert lines[4:6] == [["invoke", "1.00"], ["sum", "11.00"]]
    assert str(found).splitlines()[-1] == "whole file: 11.00 us (threads 1, median of 5 readings)"


def test_progress_is_shown_and_bad_input_refused(branches, readings, tmp_path):
    readings[0].append([1, 1, 1, 1, 1])
    lines = []
    profile(branches, runs=2, progress=lambda text, final: lines.append((text, final)))
    assert lines[-1] == ("branches.tflite: timed 4 cuts", True)
    for options in ({"runs": 0}, {"threads": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            profile(branches, **options)
    with pytest.raises(InputError, match="no file"):
        profile(tmp_path / "missing.tflite")


@pytest.mark.parametrize(
    ("name", "count", "heaviest"),
    [
        ("mlperf_tiny_ad01_int8", 10, "FULLY_CONNECTED"),
        ("mlperf_tiny_kws_float_io", 13, "CONV_2D"),
        ("mlperf_tiny_resnet8_fp32", 16, "CONV_2D"),
        ("mnist_lstm_fp32", 4, "UNIDIRECTIONAL_SEQUENCE_LSTM"),
    ],
)
def test_published_models_can_be_cut_everywhere(real_data, name, count, heaviest):
    found = profile(real_data / "models" / f"{name}.tflite", runs=15, progress=silent)
    assert len(found.operations) == count
    assert max(found.operations, key=lambda operation: operation.time_us).name == heaviest
    assert found.sum_us == pytest.approx(found.whole_us, rel=0.35)
