"""What a trial weighs, and who is beaten by nobody."""

from pathlib import Path
from types import SimpleNamespace

import keras
import keras_tuner as kt
import numpy as np
import pytest

from keras_aeprune import export
from keras_aeprune._validation import InputError
from keras_aeprune.search import measures
from keras_aeprune.search.measures import BAD, Measuring, measure, pareto


def model_with_zeros():
    layers = [keras.Input((6,)), keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(6)]
    model = keras.Sequential(layers)
    kernel = np.ones((6, 4), "float32")
    kernel[:, 1:] = 0
    model.layers[0].set_weights([kernel, np.zeros(4)])
    return model


def test_parameters_and_nonzero_weights_are_those_counted_by_hand():
    # 6*4 + 4, 4 * 4 of BatchNormalization, 4*6 + 6; 18 zeros in the first kernel, zero biases count as weights
    assert measure(model_with_zeros(), ("nonzero", "params")) == {"nonzero": 56.0, "params": 74.0}


def test_bytes_are_those_of_the_file_that_export_writes_and_latency_is_measured(monkeypatch):
    model = model_with_zeros()
    x = np.random.default_rng(0).random((32, 6), "float32")
    real_one, written = export.tflite, []

    def watched(*args, **kwargs):
        file = real_one(*args, **kwargs)
        written.append((kwargs["quantize"], Path(file.path).stat().st_size))
        return file

    monkeypatch.setattr(measures.export, "tflite", watched)
    found = measure(model, quantize="int8", data=x, runs=20)
    assert list(found) == ["params", "nonzero", "tflite_bytes", "latency_us"]
    assert written == [("int8", found["tflite_bytes"])]
    assert 0 < found["latency_us"] < 1e5


def test_no_file_is_written_before_the_last_rung_unless_asked(monkeypatch):
    written = []
    file = SimpleNamespace(bytes=100, path="a.tflite")
    monkeypatch.setattr(measures.export, "tflite", lambda *args, **kwargs: written.append(kwargs) or file)
    model, x = model_with_zeros(), np.ones((300, 6), "float32")
    names = ("params", "tflite_bytes")
    assert Measuring(names).of(model, last=False, data=x) == {"params": 74.0}
    assert not written
    assert Measuring(names, quantize="int8").of(model, last=True, data=x) == {"params": 74.0, "tflite_bytes": 100}
    assert written[0]["quantize"] == "int8" and len(written[0]["data"]) == 256
    assert Measuring(names, "every").of(model, last=False)["tflite_bytes"] == 100


def test_a_file_that_cannot_be_written_counts_as_bad_and_is_told(monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise export.ConversionError("no such operation")

    monkeypatch.setattr(measures.export, "tflite", fails)
    found = Measuring(("tflite_bytes", "params")).of(model_with_zeros(), last=True)
    assert found == {"tflite_bytes": BAD, "params": 74.0}
    assert "no such operation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure(model_with_zeros(), ("size",)), "names: got 'size'"),
        (
            lambda: measure(model_with_zeros(), quantize="dynamic"),
            "quantize: got 'dynamic', allowed: float32, int8",
        ),
        (lambda: Measuring("params"), "measures: got 'params', allowed: a tuple"),
        (lambda: Measuring(on="first"), "measure_on: got 'first'"),
        (lambda: pareto([], ()), "objectives: got none"),
        (lambda: pareto([], [("a", "up")]), "direction: got 'up'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def slow_front(rows, objectives):
    """Two loops over rows and one over objectives."""
    signs = {name: 1 if direction == "min" else -1 for name, direction in objectives}

    def numbers(row):
        return [signs[name] * row.get(name, np.nan) for name in signs]

    usable = [row for row in rows if all(np.isfinite(v) and abs(v) < BAD for v in numbers(row))]
    front = []
    for row in usable:
        beaten = False
        for other in usable:
            pairs = list(zip(numbers(other), numbers(row), strict=True))
            beaten |= all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
        if not beaten:
            front.append(row)
    return front


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("blocks", [1, 1 << 22])
def test_the_front_is_that_of_a_slow_double_loop_with_ties_and_gaps(axes, blocks, monkeypatch):
    monkeypatch.setattr(measures, "_BLOCK", blocks)
    generator = np.random.default_rng(axes)
    objectives = [("a", "min"), ("b", "max"), ("c", "min")][:axes]
    for size in (1, 7, 40):
        rows = [{name: float(generator.integers(0, 6)) for name in "abc"} for _ in range(size)]
        for row, value in zip(rows[5:], (np.nan, np.inf, BAD, -np.inf), strict=False):
            row["a"] = value
        if size > 20:
            del rows[20]["a"]
        found = pareto(rows, objectives)
        expected = slow_front(rows, objectives)
        assert {id(row) for row in found} == {id(row) for row in expected}
        assert [row["a"] for row in found] == sorted(row["a"] for row in expected)


def test_rows_that_are_the_same_stay_together_and_none_is_left_of_only_bad_ones():
    rows = [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 3}]
    assert pareto(rows, ("a", "b")) == rows[:2]
    assert pareto([{"a": np.nan}, {"b": 1}], ("a",)) == []
    assert pareto([], ("a",)) == []


def test_trials_of_keras_tuner_and_its_objectives_are_understood():
    trials = []
    for loss, size in ((0.1, 50), (0.2, 20), (0.3, 30)):
        trial = kt.engine.trial.Trial(kt.HyperParameters())
        trial.metrics.update("val_loss", loss)
        trial.metrics.update("tflite_bytes", size)
        trials.append(trial)
    trials.append(kt.engine.trial.Trial(kt.HyperParameters()))  # failed: it has no numbers
    assert pareto(trials) == trials[:2]
    assert pareto(trials, [kt.Objective("tflite_bytes", "max")]) == trials[:1]
