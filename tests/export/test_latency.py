"""Readings are interleaved, long enough for the clock, and summed up as stated."""

import json
from importlib import import_module

import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune._validation import InputError
from keras_aeprune.export import benchmark

module = import_module("keras_aeprune.export.benchmark")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small file and one that multiplies by 1,000 x 1,000 weights."""
    folder = tmp_path_factory.mktemp("latency")
    weights = tf.constant(np.random.default_rng(0).random((1000, 1000), dtype="float32"))
    functions = {"small": lambda x: 2 * x, "large": lambda x: tf.matmul(x, weights)}
    for name, function in functions.items():
        spec = tf.TensorSpec((1, 1000), name="x")
        concrete = tf.function(function, input_signature=[spec]).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
        (folder / f"{name}.tflite").write_bytes(converter.convert())
    return folder / "small.tflite", folder / "large.tflite"


def test_more_work_takes_longer_and_the_first_file_is_the_measure(files):
    small, large = benchmark(*files, runs=30, threads=2)
    assert (small.path, large.path) == files
    assert (small.ratio, small.runs, small.threads) == (1.0, 30, 2)
    assert large.ratio == pytest.approx(large.median_us / small.median_us)
    assert large.ratio > 5
    for latency in (small, large):
        assert latency.min_us <= latency.p10_us <= latency.median_us <= latency.p90_us
        assert json.loads(json.dumps(latency.to_dict()))["path"] == str(latency.path)
    assert small.block > 1
    assert small.block * small.min_us > 10


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a file runs: the first takes 4 us, the second 30 us, then 50 us."""
    now, order = [0], []
    real = module.TFLiteModel.prepare

    def prepare(self, sample):
        real(self, sample)
        slow = "large" in self.path.name

        def invoke():
            order.append("B" if slow else "A")
            now[0] += 4_000 if not slow else 30_000 if order.count("B") <= 10 else 50_000

        return invoke

    monkeypatch.setattr(module.TFLiteModel, "prepare", prepare)
    monkeypatch.setattr(module.time, "perf_counter_ns", lambda: now[0])
    return order


def test_rounds_are_interleaved_and_short_invokes_timed_in_blocks(files, clock):
    """After 2 + 5 warm-up invokes each: five A (4 us, 20 us together), one B, five A, one B, ..."""
    small, large = benchmark(*files, runs=6, warmup=2)
    assert "".join(clock) == "A" * 7 + "B" * 7 + "AAAAAB" * 6
    assert (small.block, large.block) == (5, 1)
    assert (small.median_us, small.min_us, small.p90_us) == (4.0, 4.0, 4.0)
    assert large.min_us == 30.0
    assert large.median_us == 40.0  # 30 30 30 50 50 50
    assert large.p90_us == 50.0
    assert large.ratio == 10.0


def test_same_file_against_itself_is_about_equal(files):
    first, second = benchmark(files[1], files[1], runs=60)
    assert first.ratio == 1.0
    assert 0.5 < second.ratio < 2


@pytest.mark.parametrize(
    ("options", "words"),
    [({"runs": 0}, "runs"), ({"threads": 0}, "threads"), ({"warmup": -1}, "warmup"), ({"seed": -1}, "seed")],
)
def test_numbers_outside_their_range_are_refused(files, options, words):
    with pytest.raises(InputError, match=words):
        benchmark(*files, **options)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="got none"):
        benchmark()
    with pytest.raises(InputError, match="no file"):
        benchmark(tmp_path / "missing.tflite")
