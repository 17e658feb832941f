import math

import numpy as np
import pytest

from keras_aeprune.schedules import (
    CosineDecay,
    DenseSparseDense,
    ExponentialDecay,
    IterativeSteps,
    OneCycle,
    Timetable,
)

FIVE = np.array([0, 100, 200, 300, 400])


def values(schedule, steps=FIVE):
    return schedule(steps)[1].numpy()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (CosineDecay(0.0, 0.9, 0, 400), [0, 0.131802, 0.45, 0.768198, 0.9]),
        (OneCycle(0.0, 0.9, 0, 400), 0.9 * np.array([0.002473, 0.075884, 0.731304, 0.989345, 1])),
        (ExponentialDecay(0.0, 0.9, 0, 400), [0, 0.437659, 0.683772, 0.822172, 0.9]),
        (IterativeSteps(0.0, 0.9, 0, 400), [0, 0.3, 0.6, 0.9, 0.9]),
        (DenseSparseDense(0.9, 0, 400), [0, 0.45, 0.9, 0.45, 0]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_values_at_five_points(schedule, expected):
    np.testing.assert_allclose(values(schedule), expected, atol=1e-6)


def test_an_initial_sparsity_shifts_each_curve_by_its_formula():
    # at a quarter of the way, from 0.2 to 0.8
    assert values(CosineDecay(0.2, 0.8, 0, 400))[1] == pytest.approx(0.2 + 0.6 * 0.1464466, abs=1e-6)
    assert values(OneCycle(0.2, 0.8, 0, 400))[1] == pytest.approx(0.2 + 0.6 * 0.075884, abs=1e-6)
    assert values(ExponentialDecay(0.2, 0.8, 0, 400))[1] == pytest.approx(1 - 0.8 * 0.25**0.25, abs=1e-6)
    assert values(IterativeSteps(0.2, 0.8, 0, 400))[1] == pytest.approx(0.4, abs=1e-6)


def test_one_cycle_is_above_the_initial_sparsity_at_its_first_step():
    assert values(OneCycle(0.0, 0.9, 0, 400))[0] == pytest.approx(0.9 * 0.002473, abs=1e-6)


def test_one_cycle_is_steepest_at_beta_over_alpha_of_the_way():
    curve = values(OneCycle(0.0, 0.9, 0, 1000, alpha=20, beta=5), np.arange(1001))
    assert np.argmax(np.diff(curve)) == pytest.approx(250, abs=1)


def test_one_cycle_takes_very_steep_curves():
    curve = values(OneCycle(0.0, 0.9, 0, 400, alpha=5000, beta=2500), np.arange(401))
    np.testing.assert_allclose(curve[[0, 190, 199]], 0, atol=1e-5)
    np.testing.assert_allclose(curve[[201, 210, 400]], 0.9, atol=1e-5)


def test_each_update_of_the_exponential_ramp_takes_the_same_fraction_of_what_is_left():
    final = 1 - 0.8**5  # five rounds, a fifth of what is left in each
    rounds = values(ExponentialDecay(0.0, final, 0, 500), np.arange(0, 501, 100))
    np.testing.assert_allclose(rounds, 1 - 0.8 ** np.arange(6), atol=1e-6)


@pytest.mark.parametrize(("length", "stages"), [(300, 3), (7, 7), (1000, 7), (10, 3), (49, 49)])
def test_stages_change_right_after_whole_parts_of_the_way(length, stages):
    schedule = IterativeSteps(0.0, 0.9, 5, 5 + length, stages=stages)
    for done, value in enumerate(values(schedule, np.arange(5, 6 + length))):
        stage = next(stage for stage in range(stages + 1) if done * stages <= stage * length)
        assert value == pytest.approx(0.9 * stage / stages, abs=1e-6), done


def test_dense_sparse_dense_reaches_its_sparsity_exactly_although_the_frequency_misses_the_middle():
    table = Timetable(DenseSparseDense(0.9, 10, 41, frequency=7), 50)
    assert table.steps.tolist() == [10, 17, 24, 25, 31, 38, 41]
    assert table.latest(25) == 0.9
    assert table.latest(24) == pytest.approx(0.9 * (1 - math.cos(math.pi * 14 / 15)) / 2, abs=1e-6)
    assert table.latest(31) == pytest.approx(0.9 * (1 - math.cos(math.pi * 10 / 16)) / 2, abs=1e-6)
    assert (table.final, table.final_step) == (0.0, 41)


def test_the_shortest_way_up_and_down_is_two_steps():
    due, found = DenseSparseDense(0.9, 3, 4)(np.arange(6))
    assert due.numpy().tolist() == [False, False, False, True, True, False]
    np.testing.assert_array_equal(found, np.array([0, 0, 0, 0.9, 0, 0], np.float32))


def test_curves_agree_with_a_slow_version_at_every_step():
    steps = np.arange(0, 260)
    for step, cosine, cycle, exponential in zip(
        steps,
        values(CosineDecay(0.1, 0.8, 30, 230), steps),
        values(OneCycle(0.1, 0.8, 30, 230), steps),
        values(ExponentialDecay(0.1, 0.8, 30, 230), steps),
        strict=True,
    ):
        p = min(max((int(step) - 30) / 200, 0), 1)
        assert cosine == pytest.approx(0.1 + 0.7 * math.sin(math.pi * p / 2) ** 2, abs=1e-6)
        logistic = (1 + math.exp(-8)) / (1 + math.exp(6 - 14 * p))
        assert cycle == pytest.approx(0.1 + 0.7 * logistic, abs=1e-6)
        left = math.exp((1 - p) * math.log(0.9) + p * math.log(0.2))  # log-linear density
        assert exponential == pytest.approx(1 - left, abs=1e-6)
