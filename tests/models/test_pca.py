"""PCA against scikit-learn's, against hand-worked numbers and against published values."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA as SklearnPCA

from keras_aeprune._validation import InputError
from keras_aeprune.models import PCA

DIGITS = (load_digits().images / 16).astype("float32")


def test_a_cross_by_hand():
    pca = PCA.fit(np.array([[3.0, 1], [-3, 1], [0, 2], [0, 0]]))
    np.testing.assert_allclose(pca.mean, [0, 1])
    np.testing.assert_allclose(pca.variances, [4.5, 0.5])
    np.testing.assert_allclose(np.abs(pca.directions), np.eye(2), atol=1e-12)
    point = np.array([[1.0, 4.0]])
    np.testing.assert_allclose(pca.curve(point, [0, 1, 2]), [(1 + 9) / 2, 9 / 2, 0], atol=1e-12)
    np.testing.assert_allclose(pca.reconstruct(point, 1), [[1, 1]], atol=1e-6)
    assert pca.explained(1) == pytest.approx(0.9)


@pytest.mark.parametrize(("train", "test"), [(1500, 297), (40, 200)])
def test_errors_are_those_of_scikit_learn(train, test):
    flat = DIGITS.reshape(-1, 64).astype("float64")
    pca = PCA.fit(DIGITS[:train])
    widths = [1, 2, 8, 30, 39]
    curve = pca.curve(DIGITS[-test:], widths)
    for width, error in zip(widths, curve, strict=True):
        other = SklearnPCA(width, svd_solver="full").fit(flat[:train])
        rebuilt = other.inverse_transform(other.transform(flat[-test:]))
        expected = np.mean((flat[-test:] - rebuilt) ** 2)
        assert error == pytest.approx(expected, rel=1e-6)
        assert pca.mse(DIGITS[-test:], width) == error
        np.testing.assert_allclose(pca.reconstruct(DIGITS[-test:], width).reshape(test, 64), rebuilt, atol=1e-5)
        assert pca.explained(width) == pytest.approx(other.explained_variance_ratio_.sum(), rel=1e-6)


@pytest.mark.parametrize("train", [1797, 40])
def test_the_training_error_is_the_sum_of_the_variances_left_out(train):
    pca = PCA.fit(DIGITS[:train])
    widths = range(39)
    expected = [pca.variances[k:].sum() / 64 for k in widths]
    np.testing.assert_allclose(pca.curve(DIGITS[:train], widths), expected, rtol=1e-9, atol=1e-15)


def test_width_0_predicts_the_mean_and_full_width_loses_nothing():
    pca = PCA.fit(DIGITS[:1000])
    test = DIGITS[1000:]
    by_hand = np.mean((test - DIGITS[:1000].mean(0, dtype="float64")) ** 2)
    assert pca.mse(test, 0) == pytest.approx(by_hand, rel=1e-6)
    assert pca.mse(test, 64) == pytest.approx(0, abs=1e-12)
    assert (pca.explained(0), pca.explained(64)) == (0.0, pytest.approx(1.0))


def test_both_ways_to_decompose_agree():
    wide = np.random.default_rng(0).normal(size=(30, 40)) * np.linspace(1, 5, 40)
    tall = wide[:, :20]
    by_covariance = PCA.fit(tall)
    by_samples = PCA.fit(np.hstack([tall, np.zeros((30, 20))]))  # 30 samples of 40 features, half of them 0
    np.testing.assert_allclose(by_samples.variances[:20], by_covariance.variances, rtol=1e-10)
    np.testing.assert_allclose(by_samples.directions[:20], by_covariance.directions, atol=1e-8)


def test_widths_beyond_the_rank_add_nothing():
    pca = PCA.fit(DIGITS[:20])
    assert pca.directions.shape == (64, 19)
    assert pca.mse(DIGITS[20:], 64) == pca.mse(DIGITS[20:], 19) > 0
    assert pca.mse(DIGITS[:20], 19) == pytest.approx(0, abs=1e-12)


def test_given_widths_keep_only_their_directions_and_are_the_default_curve():
    pca = PCA.fit(DIGITS, [4, 2])
    assert pca.directions.shape == (64, 4)
    np.testing.assert_array_equal(pca.curve(DIGITS), PCA.fit(DIGITS).curve(DIGITS, [4, 2]))
    with pytest.raises(InputError, match="at most 4"):
        pca.mse(DIGITS, 5)
    assert len(PCA.fit(DIGITS).curve(DIGITS)) == 64


def test_the_same_data_gives_the_same_numbers():
    first, second = PCA.fit(DIGITS), PCA.fit(DIGITS.copy())
    np.testing.assert_array_equal(first.directions, second.directions)
    largest = np.abs(first.directions).argmax(axis=0)
    assert (first.directions[largest, np.arange(64)] > 0).all()


def test_reconstructions_keep_the_shape_of_the_samples():
    rebuilt = PCA.fit(DIGITS).reconstruct(DIGITS[:7], 5)
    assert rebuilt.shape == (7, 8, 8)
    assert rebuilt.dtype == np.float32


def test_constant_data_is_explained():
    pca = PCA.fit(np.ones((10, 3)))
    assert pca.explained(1) == 1.0
    assert pca.mse(np.ones((4, 3)), 1) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PCA.fit(np.ones(5)), "(samples, ...)"),
        (lambda: PCA.fit(np.ones((1, 5))), "2 samples"),
        (lambda: PCA.fit(np.ones((5, 0))), "(samples, ...)"),
        (lambda: PCA.fit(np.array([["a"]] * 5)), "numbers"),
        (lambda: PCA.fit(np.full((5, 2), np.nan)), "NaN"),
        (lambda: PCA.fit(np.broadcast_to(np.float32(0), (10_001, 10_001))), "x[:5000]"),
        (lambda: PCA.fit(DIGITS, 8), "range(4, 33, 4)"),
        (lambda: PCA.fit(DIGITS, [65]), "<= 64"),
        (lambda: PCA.fit(DIGITS).mse(DIGITS, 65), "<= 64"),
        (lambda: PCA.fit(DIGITS).mse(DIGITS, -1), ">= 0"),
        (lambda: PCA.fit(DIGITS).explained(2.5), "2.5"),
        (lambda: PCA.fit(DIGITS).reconstruct(DIGITS[:, :4], 3), "64 values"),
        (lambda: PCA.fit(DIGITS).curve(DIGITS[:0], [3]), "1 sample"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_published_errors_on_mnist_and_fashion_mnist(real_data):
    def fitted(name):
        with np.load(real_data / "data" / f"{name}.npz", allow_pickle=False) as arrays:
            train, test = (arrays[key] / np.float32(255) for key in ("x_train", "x_test"))
        return PCA.fit(train, [2, 8, 32, 64]), test

    pca, test = fitted("mnist")
    np.testing.assert_allclose(pca.curve(test), [0.0557, 0.0374, 0.0168, 0.0090], rtol=0.01)
    pca, test = fitted("fashion_mnist")
    assert pca.mse(test, 32) == pytest.approx(0.0152, rel=0.01)
