"""Readings are interleaved, long enough for the clock, and summed up as stated."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune._validation import InputError
from keras_aeprune.export import benchmark
from keras_aeprune.export.benchmark import Latency, latency_table

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
    assert small.block * small.min_us > 3  # the block was chosen from five readings, on a busy machine slow ones


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a file runs: the first takes 4 us, the second 30 us, then 50 us.

    An invoke of the second right after the first takes 9 us longer, to fetch its weights.
    """
    now, order = [0], []
    real = module.TFLiteModel.prepare

    def prepare(self, sample):
        real(self, sample)
        slow = "large" in self.path.name

        def invoke():
            cold = 9_000 if slow and order[-1:] == ["A"] else 0
            order.append("B" if slow else "A")
            now[0] += 4_000 if not slow else cold + (30_000 if order.count("B") <= 13 else 50_000)

        return invoke

    monkeypatch.setattr(module.TFLiteModel, "prepare", prepare)
    monkeypatch.setattr(module.time, "perf_counter_ns", lambda: now[0])
    return order


def test_rounds_are_interleaved_and_short_invokes_timed_in_blocks(files, clock):
    """After 2 + 5 warm-up invokes each: five A (4 us, 20 us together), one B, five A, one B, ...

    One more invoke before each reading is not counted, so the readings begin with their own weights in the caches.
    """
    small, large = benchmark(*files, runs=6, warmup=2)
    assert "".join(clock) == "A" * 7 + "B" * 7 + ("A" + 5 * "A" + "B" + "B") * 6
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


def test_a_clock_that_stands_still_gives_finite_ratios(files, monkeypatch):
    """A reading is at least one step of the clock: 1 ns over 20,000 invokes."""
    monkeypatch.setattr(module, "READING_NS", 200)
    monkeypatch.setattr(module.time, "perf_counter_ns", lambda: 7)
    first, second = benchmark(*files, runs=2, warmup=0)
    assert (first.ratio, second.ratio) == (1.0, 1.0)
    assert first.median_us == pytest.approx(1e-3 / 200)
    json.dumps(first.to_dict(), allow_nan=False)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Files with "look_up", which adds four numbers, alone and with "product", of 1,000 x 1,000 weights."""
    folder = tmp_path_factory.mktemp("halves")
    model = tf.Module()
    weights = tf.constant(np.random.default_rng(0).random((1000, 1000), dtype="float32"))
    specs = [tf.TensorSpec((1, 4), name="values"), tf.TensorSpec((1,), tf.int32, name="row")]
    model.look = tf.function(lambda values, row: values + tf.cast(row, "float32"), input_signature=specs)
    spec = [tf.TensorSpec((1, 1000), name="x")]
    model.product = tf.function(lambda x: tf.matmul(x, weights), input_signature=spec)
    signatures = {"look_up": model.look, "product": model.product}
    tf.saved_model.save(model, folder / "saved", signatures)
    paths = []
    for names in (["look_up"], ["look_up", "product"]):
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"), signature_keys=names)
        paths.append(folder / f"{len(names)}.tflite")
        paths[-1].write_bytes(converter.convert())
    return paths


def test_several_inputs_whole_numbers_and_any_signature_name_work(halves):
    assert module.TFLiteModel(halves[0]).input_shapes == {"values": (1, 4), "row": (1,)}
    (latency,) = benchmark(halves[0], runs=3)
    assert latency.min_us > 0


def test_the_signature_that_was_named_is_timed(halves):
    """The heavy one is not the default; the light one costs a little more by its name."""
    heavy, light, default = (
        benchmark(halves[1], runs=20, signature=name)[0].median_us for name in ("product", "look_up", None)
    )
    assert heavy > 2 * light
    assert default < light
    assert benchmark(*halves, runs=3, signature="look_up")[1].median_us > 0
    with pytest.raises(InputError, match="signature: got 'product', allowed: None, look_up"):
        benchmark(*halves, signature="product")


def test_several_latencies_print_as_a_table_and_stay_a_list(files):
    latencies = benchmark(*files, runs=3)
    assert isinstance(latencies, list)
    assert str(latencies) == latency_table(latencies)
    assert [line.split()[0] for line in str(latencies).splitlines()] == ["file", "small.tflite", "large.tflite"]
    rows = [
        Latency(Path("a/x.tflite"), 2, 9, 1.234, 1.0, 2.0, 0.5, 1.0),
        Latency(Path("b/x.tflite"), 2, 9, 1234.5, 34.56, 2000.0, 12.0, 1000.4),
    ]
    assert [line.split() for line in latency_table(rows).splitlines()[1:]] == [
        ["a/x.tflite", "2", "9", "1.23", "1.00", "2.00", "0.50", "1.000"],
        ["b/x.tflite", "2", "9", "1234", "34.6", "2000", "12.0", "1000.400"],
    ]
