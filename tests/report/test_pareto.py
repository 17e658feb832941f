import itertools

import numpy as np
import pytest

from keras_aeprune._plots import svg
from keras_aeprune._validation import InputError
from keras_aeprune.report.pareto import error_against, front


def test_the_front_is_what_no_other_point_beats():
    generator = np.random.default_rng(0)
    for _ in range(50):
        points = [tuple(pair) for pair in generator.integers(0, 6, (8, 2)).tolist()]
        beaten = {
            i
            for i, j in itertools.permutations(range(8), 2)
            if points[j] != points[i] and points[j][0] <= points[i][0] and points[j][1] <= points[i][1]
        }
        assert sorted(front(points)) == sorted(set(range(8)) - beaten)


def rows(*values):
    return [{"label": f"m{i}", "bytes": size, "error": error} for i, (size, error) in enumerate(values)]


def test_beaten_models_are_hollow_and_the_others_lie_on_the_line():
    (axes,) = error_against(rows((100, 3.0), (200, 4.0), (300, 1.0)), "bytes").axes
    line, *marks = axes.lines
    assert line.get_xdata().tolist() == [100, 300]
    assert [mark.get_markerfacecolor() == "none" for mark in marks] == [False, True, False]


def test_models_without_the_number_are_left_out_and_none_is_refused():
    (axes,) = error_against([*rows((100, 3.0)), {"label": "b", "error": 1.0}], "bytes").axes
    assert len(axes.lines) == 2
    with pytest.raises(InputError, match="none with 'error' and 'median_us'"):
        error_against(rows((100, 3.0)), "median_us")
    with pytest.raises(InputError, match="allowed: bytes"):
        error_against(rows((100, 3.0)), "colour")


def test_an_error_of_nothing_can_be_drawn():
    (axes,) = error_against(rows((100, 0.0), (200, 0.5)), "bytes", error="difference").axes
    low, high = axes.get_ylim()
    assert low < 0 < 0.5 < high
    assert axes.get_yscale() == "linear"
    assert "<svg" in svg(error_against(rows((100, 0.0)), "bytes"), "one")
