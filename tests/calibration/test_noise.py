import numpy as np
import pytest

from keras_aeprune.calibration import Calibration, GaussianNoise, ShuffledPixels, UniformNoise, get


@pytest.fixture
def real():
    random = np.random.default_rng(0)
    x = random.gamma(2.0, size=(300, 3)) * [1.0, 50.0, -0.01]
    x[:, 2] += x[:, 1] / 1e5
    return get(x)


def test_gaussian_noise_has_the_features_means_and_deviations_and_stays_in_their_range(real):
    x = GaussianNoise().draw(20_000, real=real).x
    expected = np.clip(
        np.random.default_rng(7).normal(real.x.mean(0), real.x.std(0), (20_000, 3)), real.x.min(0), real.x.max(0)
    )
    np.testing.assert_allclose(x.mean(0), expected.mean(0), rtol=0.03)
    np.testing.assert_allclose(x.std(0), expected.std(0), rtol=0.03)
    assert (x >= real.x.min(0)).all() and (x <= real.x.max(0)).all()


def test_gaussian_noise_is_independent_between_features(real):
    correlation = np.corrcoef(GaussianNoise().draw(20_000, real=real).x.T)
    np.testing.assert_allclose(correlation, np.eye(3), atol=0.03)


def test_uniform_noise_fills_the_range_of_each_feature_or_of_all(real):
    x = UniformNoise().draw(5000, real=real).x
    low, high = real.x.min(0), real.x.max(0)
    np.testing.assert_allclose((x.mean(0) - low) / (high - low), 0.5, atol=0.02)
    assert (x >= low).all() and (x <= high).all()
    x = UniformNoise("all").draw(5000, real=real).x
    np.testing.assert_allclose(x.mean(0), (real.x.min() + real.x.max()) / 2, rtol=0.05)


@pytest.mark.parametrize("n", [300, 600])
def test_shuffling_features_keeps_each_features_values_exactly_and_breaks_what_belongs_together(real, n):
    real = Calibration(np.repeat(real.x[:, :1], 2, axis=1))
    x = ShuffledPixels().draw(n, real=real).x
    expected = np.sort(np.tile(real.x, (n // 300, 1)), axis=0)
    np.testing.assert_array_equal(np.sort(x, axis=0), expected)
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.2  # 1 in the real samples


def test_shuffling_within_a_sample_moves_whole_pixels_of_images():
    images = np.arange(5 * 4 * 4 * 3, dtype="float32").reshape(5, 4, 4, 3)
    x = ShuffledPixels("sample").draw(5, real=Calibration(images)).x
    pixels = {tuple(pixel) for pixel in images.reshape(-1, 3)}
    assert {tuple(pixel) for pixel in x.reshape(-1, 3)} == pixels
    by_sample = {frozenset(sample.ravel()) for sample in images}
    assert {frozenset(sample.ravel()) for sample in x} == by_sample
    assert not any((sample == images).all(axis=(1, 2, 3)).any() for sample in x)


def test_shuffling_within_a_sample_moves_single_values_of_series():
    series = np.arange(24, dtype="float32").reshape(2, 6, 2)
    x = ShuffledPixels("sample").draw(40, real=Calibration(series)).x
    assert {frozenset(sample.ravel()) for sample in x} == {frozenset(sample.ravel()) for sample in series}
    assert any(abs(a - b) != 1 for sample in x for a, b in sample)
