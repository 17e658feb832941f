import keras
import numpy as np
import pytest

from keras_aeprune import datasets, models
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration, UniformNoise, generate, get, source, train_generator
from keras_aeprune.calibration.generator import _noise


def nearest(x, real):
    """Mean distance to the nearest real sample."""
    x, real = x.reshape(len(x), -1), real.reshape(len(real), -1)
    squares = np.square(x).sum(1)[:, None] + np.square(real).sum(1) - 2 * x @ real.T
    return np.sqrt(np.maximum(squares, 0).min(axis=1)).mean()


@pytest.fixture(scope="module")
def digits():
    return get(datasets.load("digits").flat)


@pytest.fixture(scope="module")
def digit_generator(digits):
    return train_generator(digits.x, epochs=20)


def test_generated_digits_have_the_means_and_deviations_of_real_ones(digits, digit_generator):
    x = generate(digit_generator, 1000, real=digits).x
    np.testing.assert_allclose(x.mean(0), digits.x.mean(0), atol=0.08)
    # as a fraction of the real deviations, averaged over pixels: a decoder's means are a little too alike
    assert 0.75 < x.std(0).mean() / digits.x.std(0).mean() < 1.05
    assert np.corrcoef(x.std(0), digits.x.std(0))[0, 1] > 0.95


def test_generated_digits_are_nearer_to_unseen_ones_than_any_noise(digits, digit_generator):
    unseen = datasets.load("digits").flat.x_test
    distance = {"vae": nearest(generate(digit_generator, 300, real=digits).x, unseen)}
    distance["prior"] = nearest(generate(digit_generator, 300).x, unseen)
    for name in ("gaussian_noise", "uniform_noise", "shuffled_pixels"):
        distance[name] = nearest(source(name).draw(300, real=digits).x, unseen)
    assert (
        distance["vae"]
        < distance["prior"]
        < 0.9 * min(distance[name] for name in ("gaussian_noise", "uniform_noise", "shuffled_pixels"))
    )


def test_each_class_has_its_own_gaussian(digits, digit_generator):
    made = generate(digit_generator, 500, real=digits, seed=4)
    real_share, share = (np.bincount(part.y) / len(part) for part in (digits, made))
    np.testing.assert_allclose(share, real_share, atol=0.06)
    centres = np.stack([digits.x[digits.y == label].mean(0) for label in range(10)])
    guessed = np.square(made.x[:, None] - centres).sum(-1).argmin(1)
    assert np.mean(guessed == made.y) > 0.85


def test_classes_occur_exactly_as_often_as_among_the_real_samples():
    model = models.variational((6,), 2)
    real = Calibration(np.zeros((10, 6), "float32"), np.eye(3)[[0] * 5 + [1] * 4 + [2]])
    assert generate(model, 20, real=real).y.sum(axis=0).tolist() == [10, 8, 2]


def test_codes_have_the_moments_of_the_mixture_of_posteriors():
    model = models.variational((6,), 2, hidden_units=(), output_activation="linear")
    keras.utils.set_random_seed(0)
    for weight in model.decoder.trainable_weights:
        weight.assign(np.eye(2, 6) if weight.ndim == 2 else np.zeros(6))  # shows the codes
    x = np.random.default_rng(0).normal(size=(400, 6)).astype("float32")
    means, log_variances = models.posterior(model, x)
    made = generate(model, 40_000, real=Calibration(x)).x[:, :2]
    np.testing.assert_allclose(made.mean(0), means.mean(0), atol=0.05)
    expected = np.cov(means.T, bias=True) + np.diag(np.exp(log_variances).mean(0))
    np.testing.assert_allclose(np.cov(made.T), expected, atol=0.12 * expected.max())


def test_without_real_samples_the_prior_is_drawn_from(digit_generator):
    made = generate(digit_generator, 5, seed=3)
    np.testing.assert_array_equal(made.x, models.sample(digit_generator, 5, seed=3))
    assert made.y is None and made.source == "vae"


def test_the_seed_decides_and_the_global_seed_does_not(digits):
    x = digits.x[:100]

    def drawn(seed, outside):
        keras.utils.set_random_seed(outside)
        return generate(train_generator(x, epochs=1, seed=seed), 4).x

    first = drawn(0, 1)
    np.testing.assert_allclose(drawn(0, 2), first, atol=1e-6)


def test_another_seed_gives_another_generator(digits, no_training):
    kernels = [train_generator(digits.x, seed=seed).get_weights()[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 1e-2


def test_a_saved_generator_draws_the_same_and_trains_no_more(digits, digit_generator, tmp_path, monkeypatch):
    path = tmp_path / "vae.keras"
    digit_generator.save(path)
    expected = generate(digit_generator, 6, real=digits, seed=1)
    monkeypatch.setattr("keras_aeprune.calibration.vae.train_generator", None)
    found = source({"class_name": "vae", "config": {"path": str(path)}}).draw(6, real=digits, seed=1)
    np.testing.assert_allclose(found.x, expected.x, atol=1e-6)
    np.testing.assert_array_equal(found.y, expected.y)


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    hidden = random.normal(size=(400, 2))
    x = hidden @ [[1.0, -1.0, 2.0, 0.0, 1.0], [0.5, 1.0, 0.0, -1.0, 2.0]] + 0.1 * random.normal(size=(400, 5))
    return (x * [1.0, 1000.0, 0.01, 5.0, 1.0] + [0.0, -5000.0, 3.0, -1.0, 0.0]).astype("float32")


def test_a_table_with_negative_values_comes_out_in_its_own_units(table, tmp_path):
    generator = train_generator(table, encoding_dim=2, epochs=30)
    made = generate(generator, 2000, real=Calibration(table)).x
    deviation = table.std(0)
    np.testing.assert_allclose((made.mean(0) - table.mean(0)) / deviation, 0, atol=0.15)
    np.testing.assert_allclose(made.std(0) / deviation, 1, atol=0.3)
    np.testing.assert_allclose(
        np.corrcoef(made.T), np.corrcoef(table.T), atol=0.35
    )  # up to 0.9 apart without the code
    generator.save(tmp_path / "table.keras")
    again = generate(models.load(tmp_path / "table.keras"), 7, real=Calibration(table)).x
    np.testing.assert_allclose(again, generate(generator, 7, real=Calibration(table)).x, rtol=1e-4, atol=1e-3)


def test_the_noise_is_that_of_probabilistic_pca(table):
    eigenvalues = np.linalg.eigvalsh(np.cov(table.T.astype("float64"), bias=True))[::-1]
    assert _noise(table[:, ::2], 1) == pytest.approx(
        np.linalg.eigvalsh(np.cov(table[:, ::2].T.astype("float64"), bias=True))[:2].mean(), rel=1e-4
    )
    floor = 1e-3 * eigenvalues.mean()
    assert _noise(table, 4) == pytest.approx(floor, rel=1e-3)  # the smallest eigenvalue is below it


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr("keras_aeprune.calibration.generator._train", lambda *arguments: None)


def test_beta_follows_from_the_data(digits, no_training):
    grey = train_generator(digits.x[:100], encoding_dim=4, epochs=1)
    assert grey.beta == pytest.approx(2 * _noise(digits.x[:100], 4), rel=1e-5)
    binary = train_generator((digits.x[:100] > 0.5).astype("float32"), encoding_dim=4, epochs=1)
    assert binary.beta == 1.0


def test_a_trained_generator_has_no_optimizer_to_save(digit_generator):
    assert not digit_generator.compiled


@pytest.mark.parametrize(
    ("shape", "kind"), [((28, 28, 1), "convolutional"), ((28, 28, 1), "dense"), ((20, 3), "convolutional")]
)
def test_images_and_sequences_keep_their_shape(shape, kind, no_training):
    x = np.random.default_rng(0).random((24, *shape), dtype="float32") * (1 if len(shape) == 3 else -4)
    generator = train_generator(x, encoding_dim=3, epochs=1, kind=kind)
    made = generate(generator, 5, real=Calibration(x)).x
    assert made.shape == (5, *shape) and np.isfinite(made).all()
    low, high = (0, 1) if len(shape) == 3 else (-np.inf, np.inf)
    assert low <= made.min() and made.max() <= high


def test_real_handwriting_is_beaten_by_no_noise(real_data):
    with np.load(real_data / "data" / "mnist.npz") as file:
        x = file["x_train"][:1000].reshape(-1, 28, 28, 1)
    real = Calibration((x / 255).astype("float32"))
    generator = train_generator(real.x, epochs=3)
    made, noise = generate(generator, 200, real=real), UniformNoise().draw(200, real=real)
    assert nearest(made.x, real.x) < 0.8 * nearest(noise.x, real.x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, r"epochs: got 0"),
        ({"seed": -1}, r"seed: got -1"),
        ({"kind": "lstm"}, r"kind: got 'lstm', allowed: dense, convolutional"),
        ({"encoding_dim": 4}, r"encoding_dim: got 4, allowed: .*<= 3"),
        ({"x": np.zeros((1, 4))}, r"number of samples: got 1"),
        ({"kind": "convolutional"}, r"input_shape: got \(4,\)"),
    ],
)
def test_what_cannot_be_trained_is_refused(change, message):
    given = {"x": np.random.default_rng(0).random((9, 4)), **change}
    with pytest.raises(InputError, match=message):
        train_generator(given.pop("x"), **given)


def test_a_model_without_a_known_code_is_refused():
    with pytest.raises(InputError, match="no Sampling layer"):
        generate(models.dense((8,), 2), 3)
