import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration, mixed

REAL = Calibration(np.arange(0.0, 40.0).reshape(20, 2).astype("float32"))
MADE = Calibration(-np.arange(1.0, 31.0).reshape(15, 2).astype("float32"), source="vae")


@pytest.mark.parametrize(
    ("share", "samples", "made", "source"),
    [
        (0.5, 10, 5, "0.5 real + 0.5 vae"),
        (0.3, 9, 3, "0.667 real + 0.333 vae"),  # round(2.7)
        (0.0, 20, 0, "real"),
        (1.0, 15, 15, "vae"),
    ],
)
def test_the_proportion_is_as_asked_and_the_source_says_what_came_out(share, samples, made, source):
    both = mixed(REAL, MADE, share, samples=samples, seed=2)
    assert len(both) == samples and both.source == source and both.y is None
    assert np.count_nonzero(both.x[:, 0] < 0) == made
    assert len(np.unique(both.x[:, 0])) == samples


def test_the_seed_decides_and_kinds_are_shuffled():
    draws = [mixed(REAL, MADE, 0.5, samples=20, seed=seed).x for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert 0 < np.count_nonzero(draws[0][:10, 0] < 0) < 10


def test_labels_stay_with_their_samples_and_are_balanced_in_each_kind():
    real = Calibration(REAL.x, np.array([0] * 16 + [1] * 4))
    made = Calibration(MADE.x, np.array([1] * 12 + [0] * 3), "vae")
    both = mixed(real, made, 0.5, samples=12)
    expected = np.where(both.x[:, 0] >= 32, 1, np.where(both.x[:, 0] >= 0, 0, (both.x[:, 0] > -25).astype(int)))
    np.testing.assert_array_equal(both.y, expected)
    assert np.bincount(both.y[both.x[:, 0] >= 0]).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 50}, r"real: got 20 samples, allowed: 25 or more"),
        ({"samples": 40}, r"generated: got 15 samples, allowed: 20 or more"),
        ({"fraction_generated": 1.5}, r"allowed: a fraction 0 <= fraction_generated <= 1"),
        (
            {"generated": Calibration(np.zeros((9, 3)))},
            r"samples of shape \(3,\)', allowed: \(2,\), like the real",
        ),
        ({"generated": Calibration(MADE.x, np.zeros(15, int))}, r"labels of shape \('n',\), and no labels for"),
        ({"generated": MADE.x}, r"generated: got 'ndarray', allowed: a Calibration"),
    ],
)
def test_what_cannot_be_mixed_is_refused(change, message):
    given = {"real": REAL, "generated": MADE, "fraction_generated": 0.5, "samples": 4, **change}
    with pytest.raises(InputError, match=message):
        mixed(given.pop("real"), given.pop("generated"), given.pop("fraction_generated"), **given)


def test_a_kind_that_is_not_used_need_not_fit():
    real = Calibration(REAL.x, np.arange(20))
    assert mixed(real, MADE, 0.0, samples=3).y.shape == (3,)
