"""Which of the measured rows is handed out, by rows written by hand."""

import dataclasses

import pytest

from keras_aeprune._progress import silent
from keras_aeprune.pipeline.budget import Budget
from keras_aeprune.pipeline.ladder import Ladder, Task

TASK = Task({}, Budget(), "int8", 8, 1, 32, 1e-3, 0)


def row(step, size, loss):
    return {"step": step, "bytes": size, "latency_us": size / 100, "scores": {"loss": loss}}


def ladder(precision, rows, **budget):
    made = Ladder(None, dataclasses.replace(TASK, precision=precision, budget=Budget(**budget)), None, silent)
    made.rows = rows
    return made


GIVEN, INT8, CUT = row("given", 4000, 1.0), row("quantize_int8", 1000, 1.01), row("cut_1_int8", 600, 1.2)


@pytest.mark.parametrize("precision", ["int8", "int8_io"])
def test_the_given_model_is_not_handed_out_where_a_quantized_one_keeps_the_size_too(precision):
    assert ladder(precision, [GIVEN, INT8, CUT], max_size=5000).best() is INT8


def test_without_a_size_it_is_the_smallest_that_is_good_enough():
    assert ladder("int8", [GIVEN, INT8, CUT], max_error_increase=0.05).best() is INT8
    assert ladder("int8", [GIVEN, INT8, CUT], max_error_increase=0.5).best() is CUT


def test_the_given_model_is_the_last_resort_of_a_phone_and_none_of_a_microcontroller():
    limits = {"max_size": 5000, "max_error_increase": 0.001}
    assert ladder("int8", [GIVEN, INT8, CUT], **limits).best() is GIVEN
    assert ladder("int8_io", [GIVEN, INT8, CUT], **limits).best() is None


@pytest.mark.parametrize("precision", ["int8", "int8_io"])
def test_the_nearest_is_one_that_was_made(precision):
    limits = {"max_size": 500, "max_error_increase": 0.05}
    assert ladder(precision, [GIVEN, INT8, CUT], **limits).nearest() is INT8
    assert ladder(precision, [GIVEN, CUT], **limits).nearest() is CUT
