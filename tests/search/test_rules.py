"""The rules that name a width, against numbers worked by hand and a slow search."""

import itertools
import math

import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.search.rules import Hinge, knee, limit, nearest_to_ideal, pareto_widths, smallest_good, within

# data of rank 12 with 2% of noise, 4,000 samples of 64 values: losses of trained autoencoders
WIDTHS = [8, 12, 16, 20, 24, 28, 32]
LOSSES = [0.16, 0.000323, 0.000298, 0.000273, 0.000249, 0.000225, 0.000200]


def test_the_tolerance_is_a_share_of_the_way_to_the_mean():
    assert limit(0.1, 1.1, 0.25) == pytest.approx(0.35)
    assert limit(0.1, 1.1, 0.0) == 0.1


def test_the_dimension_is_found_where_a_share_of_the_best_loss_runs_after_noise():
    assert smallest_good(WIDTHS, LOSSES, mean_loss=1.0, tolerance=0.05) == 12
    assert smallest_good(WIDTHS, LOSSES, mean_loss=1.0, tolerance=0.2) == 8
    share = 1.2 * min(LOSSES)
    assert next(w for w, loss in zip(WIDTHS, LOSSES, strict=True) if loss <= share) == 28


def test_a_loss_on_the_limit_is_good():
    assert smallest_good([1, 2], [0.5, 0.0], mean_loss=1.0, tolerance=0.5) == 1
    assert smallest_good([1, 2], [0.5 + 1e-9, 0.0], mean_loss=1.0, tolerance=0.5) == 2


def test_no_tolerance_takes_the_smallest_of_the_best():
    assert smallest_good([4, 8, 12], [0.3, 0.1, 0.1], mean_loss=1.0, tolerance=0.0) == 8


def test_the_order_of_widths_does_not_matter():
    rows = list(zip([4, 8, 12, 16], [0.5, 0.09, 0.04, 0.01], strict=True))
    found = {smallest_good(*zip(*order, strict=True), mean_loss=1.0) for order in itertools.permutations(rows)}
    assert found == {12}


def test_a_best_from_elsewhere_moves_the_limit():
    assert smallest_good([4, 8], [0.3, 0.1], mean_loss=1.0, tolerance=0.25) == 4
    assert smallest_good([4, 8], [0.3, 0.1], mean_loss=1.0, tolerance=0.25, best=0.0) == 8
    with pytest.raises(InputError, match="none within 0.05; the smallest is 0.1 at width 8"):
        smallest_good([4, 8], [0.3, 0.1], mean_loss=1.0, best=0.0)


def test_a_width_that_failed_is_never_chosen():
    assert smallest_good([4, 8, 12], [math.nan, math.inf, 0.1], mean_loss=1.0) == 12
    with pytest.raises(InputError, match="no finite one"):
        smallest_good([4, 8], [math.nan, math.inf], mean_loss=1.0)


def test_nothing_that_beats_the_mean_is_refused():
    with pytest.raises(InputError, match="train longer"):
        smallest_good([4, 8], [1.2, 1.1], mean_loss=1.0)


@pytest.mark.parametrize(
    ("widths", "losses", "words"),
    [
        ([4, 4], [0.1, 0.2], "each width once"),
        ([4, 8], [0.1], "one for each width"),
        ([], [], "at least one"),
        ([4, 8], [0.1, -0.2], ">= 0"),
        ([0, 8], [0.1, 0.2], ">= 1"),
    ],
)
def test_curves_that_are_none_are_refused(widths, losses, words):
    for rule in (lambda w, v: smallest_good(w, v, mean_loss=1.0), knee, nearest_to_ideal):
        with pytest.raises(InputError, match=words):
            rule(widths, losses)


def test_the_knee_is_farthest_below_the_chord():
    # chord at 4, 8, 12, 16: 1, 2/3, 1/3, 0; below it by 0, 0.467, 0.233, 0
    assert knee([4, 8, 12, 16], [1.0, 0.2, 0.1, 0.0]) == 8
    assert knee([8, 4, 16, 12], [0.2, 1.0, 0.0, 0.1]) == 8


def test_the_knee_does_not_depend_on_the_unit_of_the_loss():
    losses = np.array([1.0, 0.55, 0.2, 0.12, 0.1, 0.07])
    assert knee(range(1, 7), losses) == knee(range(1, 7), 1e-7 * losses) == 3


@pytest.mark.parametrize("losses", [[1.0, 0.75, 0.5, 0.25], [1.0, 0.9, 0.7, 0.1], [0.1, 0.1, 0.1, 0.1]])
def test_a_curve_that_does_not_bend_has_no_knee(losses):
    with pytest.raises(InputError, match="without a knee"):
        knee([1, 2, 3, 4], losses)


def test_two_widths_have_no_knee():
    with pytest.raises(InputError, match="3 or more"):
        knee([1, 2, 3], [1.0, math.nan, 0.1])


def test_the_front_equals_a_slow_comparison_of_all_pairs():
    random = np.random.default_rng(0)
    for _ in range(50):
        widths = random.permutation(12) + 1
        losses = random.integers(0, 5, 12) / 4
        rows = list(zip(widths.tolist(), losses.tolist(), strict=True))
        beaten = {b for a, b in itertools.permutations(rows, 2) if a[0] <= b[0] and a[1] <= b[1] and a != b}
        assert pareto_widths(widths, losses) == sorted(w for w, loss in rows if (w, loss) not in beaten)


def test_the_point_of_the_front_nearest_to_the_ideal():
    # front (4, 1), (8, .2), (16, .1); scaled (0, 1), (1/3, 1/9), (1, 0)
    assert nearest_to_ideal([4, 8, 12, 16], [1.0, 0.2, 0.3, 0.1]) == 8
    assert nearest_to_ideal([4], [0.3]) == 4


def test_limits_keep_the_widths_that_fit():
    costs = {
        8: {"bytes": 900, "latency": 2.0},
        16: {"bytes": 1000, "latency": 3.0},
        24: {"bytes": 1100, "latency": 1},
    }
    assert within(costs) == [8, 16, 24]
    assert within(costs, max_bytes=1000) == [8, 16]
    assert within(costs, max_bytes=1000, max_latency=2.5) == [8]
    with pytest.raises(InputError, match="no 'latency' for width 8"):
        within({8: {"bytes": 900}}, max_latency=1)


def test_the_hinge_is_width_when_good_and_distance_when_not():
    hinge = Hinge(best=0.1, mean=2.1, tolerance=0.05, widest=64)  # limit 0.2
    assert hinge(0.2, 16) == 0.25
    assert hinge(0.05, 64) == 1.0
    assert hinge(2.0, 4) == pytest.approx(2.0)
    assert hinge(0.2 * (1 + 1e-9), 4) > 1.0


def test_every_good_width_beats_every_bad_one_and_every_finite_loss_beats_none():
    hinge = Hinge(0.0, 1.0, 0.05, 32)
    scores = [hinge(0.05, 4), hinge(0.01, 32), hinge(0.06, 4), hinge(1e300, 4), hinge(math.nan, 4)]
    assert scores == sorted(scores)
    assert hinge(math.inf, 4) == hinge(math.nan, 4)


@pytest.mark.parametrize("best", [0.0, 1e-300, 0.5])
@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_the_hinge_is_finite_for_every_loss(best, tolerance):
    hinge = Hinge(best, 1.0, tolerance, 8)
    for loss in (0.0, 5e-324, 1e-30, 1.0, 1.7e308, math.inf, math.nan):
        assert math.isfinite(hinge(loss, 8))


def test_the_hinge_comes_back_from_its_config():
    hinge = Hinge(0.1, 1.0, 0.1, 16)
    assert Hinge(**hinge.get_config())(0.7, 8) == hinge(0.7, 8)
