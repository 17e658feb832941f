"""Importance-sampled likelihoods against closed forms, slow NumPy and numerical integration."""

import keras
import numpy as np
import pytest
from scipy.special import logsumexp

from keras_aeprune._validation import InputError
from keras_aeprune.models.dense import dense
from keras_aeprune.models.likelihood import binarise, log_likelihood
from keras_aeprune.models.variational import posterior, variational

X = (np.random.default_rng(0).random((6, 7)) < 0.4).astype("float32")


def small(width=2, seed=1, scale=1.0, **options):
    """A model with random weights, and a posterior wider than the prior, so that few samples are enough."""
    model = variational((7,), width, **{"hidden_units": (5,), "activation": "tanh", **options})
    draw = np.random.default_rng(seed).normal
    for variable in model.trainable_weights:
        variable.assign(scale * draw(size=variable.shape))
    for name, bias in (("mean", 0.1), ("log_variance", 0.4)):
        kernel = 0.1 * draw(size=model.encoder.get_layer(name).kernel.shape)
        model.encoder.get_layer(name).set_weights([kernel, np.full(width, bias)])
    return model


def bernoulli(x, p):
    return np.sum(x * np.log(p) + (1 - x) * np.log(1 - p), axis=-1)


def outputs(model, z):
    return np.asarray(model.decoder(z.astype("float32")), "float64")


def integrated(model, x, width):
    """log of the integral of p(x|z) p(z) over a fine grid of codes."""
    axis = np.arange(-7, 7, 0.002 if width == 1 else 0.04)
    z = np.stack(np.meshgrid(*[axis] * width), axis=-1).reshape(-1, width)
    prior = -0.5 * np.sum(z**2, axis=1) - 0.5 * width * np.log(2 * np.pi) + width * np.log(axis[1] - axis[0])
    p = outputs(model, z)
    return np.array([logsumexp(bernoulli(row, p) + prior) for row in x])


def test_a_decoder_that_ignores_the_code_gives_the_bernoulli_likelihood_exactly():
    model = variational((7,), 2, hidden_units=())
    bias = np.linspace(-3, 3, 7)
    for layer in (model.encoder.get_layer("mean"), model.encoder.get_layer("log_variance")):
        layer.set_weights([np.zeros((7, 2)), np.zeros(2)])  # the posterior is the prior: all weights are 1
    model.decoder.get_layer("output").set_weights([np.zeros((2, 7)), bias])
    estimate = log_likelihood(model, X, samples=3)
    np.testing.assert_allclose(estimate, bernoulli(X, 1 / (1 + np.exp(-bias))), rtol=1e-6)
    assert estimate.dtype == np.float64


@pytest.mark.parametrize("width", [1, 2])
def test_the_estimate_is_the_integral_over_the_code(width):
    model = small(width, scale=0.7)
    exact = integrated(model, X, width)
    np.testing.assert_allclose(log_likelihood(model, X, samples=20_000), exact, atol=0.02)


def test_likelihoods_of_all_data_add_up_to_one():
    model = small()
    everything = ((np.arange(128)[:, None] >> np.arange(7)) & 1).astype("float32")
    assert np.exp(log_likelihood(model, everything, samples=5000)).sum() == pytest.approx(1, abs=0.01)


def test_it_is_the_formula_in_slow_numpy():
    model = small()
    mean, log_variance = posterior(model, X)
    expected = []
    for i, x in enumerate(X):
        eps = np.random.default_rng([4, i]).standard_normal((50, 2), dtype="float32").astype("float64")
        z = mean[i] + np.exp(log_variance[i] / 2) * eps
        prior = np.sum(-(z**2) / 2, axis=1)
        q = np.sum(-(eps**2) / 2 - log_variance[i] / 2, axis=1)
        expected.append(logsumexp(bernoulli(x, outputs(model, z)) + prior - q) - np.log(50))
    np.testing.assert_allclose(log_likelihood(model, X, samples=50, seed=4), expected, atol=1e-4)


def test_the_estimate_does_not_depend_on_the_batch_size_and_follows_the_seed():
    model = small()
    whole = log_likelihood(model, X, samples=30, batch_size=1000)
    for batch_size in (1, 7, 30, 64):
        np.testing.assert_allclose(log_likelihood(model, X, samples=30, batch_size=batch_size), whole, atol=1e-4)
    assert (log_likelihood(model, X, samples=30, seed=1) != whole).all()


def test_more_samples_give_a_higher_mean_and_one_sample_is_the_elbo():
    model = small(scale=0.7)
    x = np.repeat(X, 200, axis=0)
    means = [log_likelihood(model, x, samples=count).mean() for count in (1, 5, 50, 500)]
    assert means == sorted(means)
    mean, log_variance = posterior(model, X)
    kl = 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance, axis=1)
    eps = np.random.default_rng(9).standard_normal((20_000, 1, 2))
    fit = bernoulli(X, outputs(model, (mean + np.exp(log_variance / 2) * eps).reshape(-1, 2)).reshape(-1, 6, 7))
    elbo = fit.mean(axis=0) - kl
    assert means[0] == pytest.approx(elbo.mean(), abs=0.2)
    assert (elbo <= log_likelihood(model, X, samples=5000) + 0.02).all()


def test_extreme_logits_stay_finite():
    model = small(hidden_units=())
    model.decoder.get_layer("output").set_weights([np.zeros((2, 7)), np.full(7, 200.0)])
    estimate = log_likelihood(model, np.array([[1, 1, 1, 1, 1, 1, 0], [1] * 7]), samples=5000)
    # -log(1 + e^200) for the one zero; sigmoid(200) is exactly 1 in float32
    np.testing.assert_allclose(estimate, [-200, 0], atol=0.5)


def test_a_sigmoid_of_its_own_and_clipped_outputs_give_what_logits_give():
    model = small()
    expected = log_likelihood(model, X, samples=40)
    sigmoid = model.decoder
    entrance = keras.Input((2,), name="code")
    hidden = sigmoid.get_layer("hidden_1")(entrance)
    linear = keras.layers.Dense(7, name="logits")
    values = linear(hidden)
    linear.set_weights(sigmoid.get_layer("output").get_weights())
    for last in (keras.layers.Activation("sigmoid"), keras.layers.Rescaling(1.0)):
        after = last(values) if isinstance(last, keras.layers.Activation) else last(keras.ops.sigmoid(values))
        decoder = keras.Model(entrance, after, name="decoder")
        x = keras.Input((7,))
        other = keras.Model(x, decoder(model.encoder(x)))
        np.testing.assert_allclose(log_likelihood(other, X, samples=40), expected, atol=1e-3)


def test_convolutional_decoders_with_a_crop_and_reshaped_ones_work():
    x = (np.random.default_rng(0).random((3, 5, 6, 1)) < 0.5).astype("float32")
    model = variational((5, 6, 1), 2, base="convolutional", filters=(3,))
    flat = variational((5, 6, 1), 2, hidden_units=(4,))
    for one in (model, flat):
        mean, log_variance = posterior(one, x)
        eps = np.random.default_rng([0, 1]).standard_normal((20, 2), dtype="float32")
        z = mean[1] + np.exp(log_variance[1] / 2) * eps
        p = outputs(one, z).reshape(20, -1)
        ratio = np.sum(eps**2 + log_variance[1] - z**2, axis=1) / 2
        expected = logsumexp(bernoulli(x[1].ravel(), p) + ratio) - np.log(20)
        assert log_likelihood(one, x, samples=20)[1] == pytest.approx(expected, abs=1e-3)


def test_layers_behind_the_sigmoid_that_move_values_are_kept():
    x = (np.random.default_rng(0).random((3, 2, 3)) < 0.5).astype("float32")
    encoder = variational((2, 3), 2, hidden_units=()).encoder
    entrance = keras.Input((2,))
    values = keras.layers.Dense(9, "sigmoid", kernel_initializer="random_normal")(entrance)
    values = keras.layers.Cropping1D((1, 0))(keras.layers.Permute((2, 1))(keras.layers.Reshape((3, 3))(values)))
    estimates = []
    for last in (keras.layers.Reshape((2, 3)), keras.layers.Rescaling(1.0)):  # by logits, by the outputs
        decoder = keras.Model(entrance, last(values), name="decoder")
        whole = keras.Input((2, 3))
        estimates.append(log_likelihood(keras.Model(whole, decoder(encoder(whole))), x, samples=9))
    np.testing.assert_allclose(*estimates, atol=1e-4)


def test_the_model_is_not_changed():
    model = small()
    before = model.get_weights()
    config = model.get_config()
    log_likelihood(model, X, samples=3)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.get_config() == config


def test_progress_is_shown_only_when_asked(capsys):
    model = small()
    log_likelihood(model, X, samples=3)
    assert "6/6" not in capsys.readouterr().out
    log_likelihood(model, X, samples=3, progress=True)
    assert "6/6" in capsys.readouterr().out


def test_binarise_draws_with_the_probability_of_each_value():
    grey = np.tile([0.0, 0.2, 0.9, 1.0], (20_000, 1))
    drawn = binarise(grey, seed=2)
    assert drawn.dtype == np.float32 and set(np.unique(drawn)) == {0, 1}
    np.testing.assert_allclose(drawn.mean(axis=0), grey[0], atol=0.015)
    assert (drawn[:, 0] == 0).all() and (drawn[:, 3] == 1).all()
    np.testing.assert_array_equal(drawn, binarise(grey, seed=2))
    assert (drawn != binarise(grey, seed=3)).any()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[0, 255]], "from 0 to 255, allowed: 0 <= v <= 1"),
        ([[-0.1]], "-0.1"),
        ([[np.nan]], "nan"),
        (["a"], "x: got .<U1 array"),
    ],
)
def test_what_is_no_probability_is_not_binarised(x, words):
    with pytest.raises(InputError, match=words):
        binarise(np.array(x))


def test_data_and_models_that_cannot_be_used_are_refused():
    model = small()
    grey = X.copy()
    grey[2, 3] = 0.25
    with pytest.raises(InputError, match="1 of 42 values .* such as 0.25, .* binarise"):
        log_likelihood(model, grey)
    with pytest.raises(InputError, match="shape \\(n, 7\\)"):
        log_likelihood(model, X[:, :3])
    with pytest.raises(InputError, match="no Sampling layer"):
        log_likelihood(dense((7,), 2), X)
    with pytest.raises(InputError, match="output_activation='sigmoid'"):
        log_likelihood(small(output_activation="linear"), X)
    for arguments in ({"samples": 0}, {"batch_size": 0}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            log_likelihood(model, X, **arguments)
