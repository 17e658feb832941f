import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from keras_aeprune.calibration.gaussian import Gaussian, shrinkage


@pytest.mark.parametrize(("count", "width"), [(200, 4), (30, 30), (12, 50), (3, 2)])
def test_the_covariance_is_that_of_ledoit_and_wolf(count, width):
    random = np.random.default_rng(count)
    codes = random.normal(size=(count, width)) @ random.normal(size=(width, width)) + 5
    fitted, other = Gaussian.fit(codes), LedoitWolf().fit(codes)
    covariance = fitted.factor.T @ fitted.factor + fitted.noise**2 * np.eye(width)
    np.testing.assert_allclose(shrinkage(codes - codes.mean(0)), other.shrinkage_, rtol=1e-6)
    np.testing.assert_allclose(covariance, other.covariance_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fitted.mean, other.location_)


def test_draws_have_the_mean_and_the_covariance():
    random = np.random.default_rng(0)
    codes = random.normal(size=(400, 3)) @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.1]]) + 4
    drawn = Gaussian.fit(codes).draw(40_000, random)
    np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.12)


def test_clipped_draws_stay_in_the_range_of_the_codes():
    codes = np.maximum(np.random.default_rng(0).normal(size=(100, 5)), 0)
    fitted = Gaussian.fit(codes)
    assert fitted.draw(500, np.random.default_rng(1)).min() < 0
    drawn = fitted.draw(500, np.random.default_rng(1), clip=True)
    assert drawn.min() == 0 and (drawn <= codes.max(0).astype("float32")).all()


def test_one_code_is_drawn_as_it_is():
    drawn = Gaussian.fit(np.array([[1.0, -2.0]])).draw(3, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, [[1.0, -2.0]] * 3)


def test_many_codes_of_a_sorted_set_are_all_represented():
    codes = np.linspace(0, 1, 10_000)[:, None]
    assert abs(Gaussian.fit(codes).mean[0] - 0.5) < 1e-3
