import numpy as np
import pytest

from keras_aeprune.calibration.drawing import classes_of, quotas, rows


def slow_quotas(counts, total):
    """Deal one sample to each class in turn until they are used up; the last, partial round is left out."""
    given = np.zeros_like(counts)
    while True:
        takers = given < counts
        if not takers.any() or given.sum() + takers.sum() > total:
            return given, takers
        given = given + takers


@pytest.mark.parametrize("seed", range(20))
def test_quotas_are_those_of_dealing_one_sample_to_each_class_in_turn(seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 30, 7)
    total = int(random.integers(0, counts.sum() + 1))
    found = quotas(counts, total, random)
    rounds, takers = slow_quotas(counts, total)
    assert found.sum() == total
    assert ((found - rounds >= 0) & (found - rounds <= takers)).all()


def test_the_remainder_goes_to_other_classes_with_another_seed():
    found = {tuple(quotas(np.array([5, 5, 5]), 4, np.random.default_rng(seed))) for seed in range(30)}
    assert found == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}


def test_rows_are_drawn_once_each_and_as_many_of_every_class():
    classes = np.array([0] * 50 + [1] * 3 + [2] * 47)
    chosen = rows(classes, 100, 43, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 43
    assert np.bincount(classes[chosen]).tolist() == [20, 3, 20]


def test_every_row_is_equally_likely_within_its_class():
    classes = np.array([0, 0, 0, 1])
    hits = np.zeros(4)
    for seed in range(600):
        hits[rows(classes, 4, 2, np.random.default_rng(seed))] += 1
    np.testing.assert_allclose(hits / 600, [1 / 3, 1 / 3, 1 / 3, 1], atol=0.07)


def test_drawn_rows_are_not_sorted_by_class():
    classes = np.repeat([0, 1], 500)
    chosen = rows(classes, 1000, 400, np.random.default_rng(0))
    assert 80 < np.count_nonzero(classes[chosen[:200]]) < 120


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array([3, 1]), [3, 1]),
        (np.array([[3], [1]], "uint8"), [3, 1]),
        (np.array(["cat", "dog"]), ["cat", "dog"]),
        (np.array([True, False]), [True, False]),
        (np.array([[0, 1, 0], [1, 0, 0]], "float32"), [1, 0]),
        (np.array([[1, 1, 0], [1, 0, 0]]), None),
        (np.array([0.5, 1.0]), None),
        (np.zeros((2, 4)), None),
        (None, None),
    ],
)
def test_what_counts_as_classes(y, classes):
    found = classes_of(y)
    assert (None if found is None else found.tolist()) == classes
