"""Variational autoencoders: the loss is the ELBO, its parts are logged, and they live as plain Keras models do."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import keras_aeprune as kap
from keras_aeprune._validation import InputError
from keras_aeprune.export.request import request
from keras_aeprune.export.tflite import export
from keras_aeprune.models.dense import dense
from keras_aeprune.models.halves import decoder_of, encoder_of
from keras_aeprune.models.sampling import divergence, sampling_of
from keras_aeprune.models.variational import VariationalAutoencoder, posterior, sample, variational

SMALL = {"input_shape": (6,), "encoding_dim": 2, "hidden_units": (5,)}


def data(n=50, shape=(6,)):
    return np.random.default_rng(0).random((n, *shape), dtype="float32")


def compiled(loss="binary_crossentropy", **changes):
    keras.utils.set_random_seed(1)
    settings = {key: changes.pop(key, value) for key, value in SMALL.items()}
    model = variational(**settings, beta=changes.pop("beta", 2.0))
    model.compile(changes.pop("optimizer", "adam"), loss, **changes)
    return model


def parts(model, x):
    """(reconstruction, kl) by NumPy: mean cross entropy at the mean code, and nats a sample."""
    mean, log_variance = posterior(model, x)
    p = np.asarray(model.decoder(mean), "float64")
    cross_entropy = -np.mean(x * np.log(p) + (1 - x) * np.log(1 - p))
    kl = 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance, axis=1)
    return cross_entropy, kl.mean()


def test_layers_are_named_and_the_code_is_the_mean():
    model = variational((8, 8), 3, hidden_units=(16,))
    names = ["sample", "flatten", "hidden_1", "mean", "log_variance", "code"]
    assert [layer.name for layer in model.encoder.layers] == names
    assert [layer.name for layer in model.decoder.layers] == ["code", "hidden_1", "output", "reshape"]
    x = data(4, (8, 8))
    np.testing.assert_allclose(model.encoder(x), posterior(model, x)[0], atol=1e-6)
    np.testing.assert_allclose(model(x), model.decoder(model.encoder(x)), atol=1e-6)
    assert encoder_of(model) is model.encoder and decoder_of(model) is model.decoder


def test_a_hidden_layer_and_two_moments_are_counted_by_hand():
    model = variational(**SMALL)
    trainable = (6 * 5 + 5) + 2 * (5 * 2 + 2) + (2 * 5 + 5) + (5 * 6 + 6)
    assert sum(np.size(v) for v in model.get_weights()) == trainable + 1
    assert [w.name for w in model.non_trainable_weights] == ["weight"]


def test_evaluate_gives_the_loss_and_both_parts_with_a_smaller_last_batch():
    model, x = compiled(), data(50)
    logs = model.evaluate(x, x, batch_size=16, verbose=0, return_dict=True)
    cross_entropy, kl = parts(model, x)
    assert logs["kl"] == pytest.approx(kl, rel=1e-5)
    assert logs["reconstruction"] == pytest.approx(cross_entropy, rel=1e-5)
    assert logs["loss"] == pytest.approx(cross_entropy + 2 * kl / 6, rel=1e-5)


def test_features_times_the_loss_is_the_negative_elbo():
    model, x = compiled(beta=1.0), data(20)
    cross_entropy, kl = parts(model, x)
    assert 6 * model.evaluate(x, x, verbose=0, return_dict=True)["loss"] == pytest.approx(
        6 * cross_entropy + kl, rel=1e-5
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"jit_compile": True},
        {"steps_per_execution": 3},
        {"run_eagerly": True},
        {"optimizer": keras.optimizers.AdamW(1e-3, gradient_accumulation_steps=2)},
        {"metrics": ["mae"]},
    ],
    ids=lambda options: " ".join(options),
)
def test_fit_logs_both_parts_and_they_add_up(settings):
    # XLA compiles once more for a smaller last batch
    model, x = compiled(**settings), data(32 if "jit_compile" in settings else 50)
    history = model.fit(x, x, batch_size=16, validation_data=(x, x), verbose=0).history
    names = {"loss", "kl", "reconstruction"} | ({"mae"} if "metrics" in settings else set())
    assert set(history) == names | {f"val_{name}" for name in names}
    for prefix in ("", "val_"):
        total = np.array(history[f"{prefix}reconstruction"]) + 2 / 6 * np.array(history[f"{prefix}kl"])
        np.testing.assert_allclose(history[f"{prefix}loss"], total, rtol=1e-5)
    cross_entropy, kl = parts(model, x)
    assert history["val_kl"][-1] == pytest.approx(kl, rel=1e-4)
    assert history["val_reconstruction"][-1] == pytest.approx(cross_entropy, rel=1e-4)
    assert model.steps_per_execution == settings.get("steps_per_execution", 1)


def test_codes_are_noisy_in_training_only():
    model = variational(**SMALL)
    x = data(4)
    assert (np.asarray(model(x, training=True)) != np.asarray(model(x, training=True))).all()
    np.testing.assert_array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))


def test_beta_set_between_epochs_takes_effect_in_the_compiled_step():
    model, x = compiled(optimizer=keras.optimizers.SGD(0.0)), data(32)
    warm_up = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(model, "beta", epoch * 3.0)
    )
    history = model.fit(x, x, epochs=3, callbacks=[warm_up], verbose=0).history
    np.testing.assert_allclose(np.array(history["kl"]), history["kl"][0])  # nothing is learnt at rate 0
    added = np.subtract(history["loss"], history["reconstruction"])
    np.testing.assert_allclose(added, np.array([0, 3, 6]) * np.array(history["kl"]) / 6, atol=1e-6)
    assert model.beta == 6.0


def test_the_loss_of_a_model_that_was_not_called_yet_is_the_compiled_one():
    model, x = compiled("mse"), data(4)
    assert float(model.compute_loss(x, x, 0 * x)) == pytest.approx(np.mean(x**2), rel=1e-5)


def test_free_nats_change_the_loss_and_not_the_log():
    x = data()
    model = variational(**SMALL, free_nats=4.0)
    model.compile("adam", "mse")
    logs = model.evaluate(x, x, batch_size=50, verbose=0, return_dict=True)
    assert logs["kl"] < 8
    assert logs["loss"] - logs["reconstruction"] == pytest.approx(8 / 6, rel=1e-4)


def test_saving_and_loading_keeps_weights_halves_beta_logs_and_the_optimizer(tmp_path):
    model, x = compiled(metrics=["mae"]), data()
    model.fit(x, x, epochs=1, verbose=0)
    model.beta = 0.25
    expected = model.evaluate(x, x, verbose=0, return_dict=True)
    model.save(tmp_path / "m.keras")
    loaded = kap.models.load(tmp_path / "m.keras")
    assert type(loaded) is VariationalAutoencoder
    assert loaded.beta == 0.25
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(loaded.decoder(loaded.encoder(x)), model.decoder(model.encoder(x)))
    assert loaded.evaluate(x, x, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-6)
    assert set(loaded.fit(x, x, epochs=1, verbose=0).history) == {"loss", "kl", "reconstruction", "mae"}


def test_a_clone_has_its_own_weights_and_the_same_logs():
    model, x = compiled(), data()
    clone = keras.models.clone_model(model)
    assert type(clone) is VariationalAutoencoder
    assert not {id(v) for v in model.weights} & {id(v) for v in clone.weights}
    clone.set_weights(model.get_weights())
    expected = model.evaluate(x, x, verbose=0, return_dict=True)
    assert clone.evaluate(x, x, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-6)
    assert sampling_of(clone) is not sampling_of(model)


def test_mixed_precision_trains_to_finite_numbers():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, x = compiled(), data()
        history = model.fit(x, x, epochs=1, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite([history["loss"], history["kl"], history["reconstruction"]]).all()


def test_convolutional_ones_have_the_same_ends():
    model = variational((9, 10, 1), 3, base="convolutional", filters=(4, 6), kernel_size=5)
    assert [layer.name for layer in model.encoder.layers][-3:] == ["mean", "log_variance", "code"]
    assert model.encoder.output_shape == (None, 3) and model.output_shape == (None, 9, 10, 1)
    assert model.encoder.get_layer("filters_2").kernel.shape == (5, 5, 4, 6)
    assert sampling_of(model).features == 90
    model.compile("adam", "binary_crossentropy")
    x = data(12, (9, 10, 1))
    history = model.fit(x, x, epochs=1, verbose=0).history
    assert history["loss"][0] == pytest.approx(history["reconstruction"][0] + history["kl"][0] / 90, rel=1e-5)


def test_batch_normalization_stands_before_the_moments_and_not_behind_them():
    model = variational(**SMALL, batch_normalization=True)
    names = [layer.name for layer in model.encoder.layers]
    assert names[-3:] == ["mean", "log_variance", "code"]
    assert [name for name in names if "normalization" in name] == ["hidden_1_normalization"]


def test_samples_follow_the_seed_and_come_from_the_prior():
    model = variational((2, 3), 2, hidden_units=(), output_activation="linear")
    model.decoder.get_layer("output").set_weights([np.eye(2, 6), np.zeros(6)])  # the code itself, then zeros
    x = sample(model, 5000)
    assert x.shape == (5000, 2, 3)
    np.testing.assert_array_equal(x, sample(model, 5000, seed=0))
    assert (sample(model, 5000, seed=1)[:, 0, :2] != x[:, 0, :2]).all()
    codes = x.reshape(5000, 6)[:, :2]
    np.testing.assert_allclose(codes.mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose(np.cov(codes.T), np.eye(2), atol=0.1)


def test_posterior_is_what_the_layers_give_in_numpy():
    model, x = variational(**SMALL), data(7)
    hidden, mean, log_variance = (model.encoder.get_layer(n) for n in ("hidden_1", "mean", "log_variance"))
    log_variance.set_weights([np.full((5, 2), 0.1), np.array([0.3, -99.0])])
    h = np.maximum(x @ np.asarray(hidden.kernel) + np.asarray(hidden.bias), 0)
    means, log_variances = posterior(model, x, batch_size=3)
    np.testing.assert_allclose(means, h @ np.asarray(mean.kernel), atol=1e-6)
    np.testing.assert_allclose(log_variances[:, 0], 0.3 + 0.1 * h.sum(axis=1), atol=1e-6)
    np.testing.assert_array_equal(log_variances[:, 1], -20)


def test_whole_encoder_and_decoder_export_to_checked_files(tmp_path):
    model, x = compiled(), data()
    model.fit(x, x, epochs=1, verbose=0)
    parts = {model: x, model.encoder: x, model.decoder: np.asarray(model.encoder(x))}
    asked = [request(part, {None: tmp_path / f"{part.name}.tflite"}, inputs, 0) for part, inputs in parts.items()]
    for (file,) in export(asked, all_or_none=True):  # as tflite() does, with one start of the converter
        assert file.max_difference <= file.limit and file.path.exists()


def test_pruning_reaches_its_sparsity_in_fit():
    model, x = compiled(hidden_units=(32,)), data(320)
    schedule = kap.schedules.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=8, frequency=1)
    model.fit(x, x, batch_size=32, epochs=1, callbacks=[kap.Prune(schedule)], verbose=0)
    for name in ("hidden_1", "mean", "log_variance"):
        kernel = np.asarray(model.encoder.get_layer(name).kernel)
        assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.02)


def test_digits_are_learnt_and_the_code_carries_something():
    x = (load_digits().data / 16).astype("float32")
    keras.utils.set_random_seed(0)
    model = variational((64,), 4, hidden_units=(64,))
    model.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy")
    history = model.fit(x, x, epochs=6, batch_size=64, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    nats = np.asarray(divergence(*posterior(model, x))).mean(axis=0)
    assert nats.sum() > 1
    assert history["kl"][-1] == pytest.approx(nats.sum(), rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"base": "recurrent"}, "base: got 'recurrent', allowed: dense, convolutional"),
        ({"base": ["dense"]}, "base: got"),
        ({"beta": -1}, "-1, allowed: a number >= 0"),
        ({"free_nats": -1}, "free_nats: got -1"),
        ({"encoding_dim": None}, "encoding_dim: got None"),
        ({"encoding_dim": 0}, "encoding_dim: got 0"),
        ({"encoding_dim": 6}, "encoding_dim"),
        ({"input_shape": 6}, "input_shape: got 6"),
        ({"hidden_units": (0,)}, "hidden_units"),
        (
            {"filters": (3,)},
            "filters: got \\(3,\\), allowed: for base='dense' only hidden_units, activation, batch",
        ),
        ({"code_activation": "relu"}, "code_activation: got 'relu', allowed: for base='dense' only"),
        ({"output_activation": "soft"}, "output_activation: got 'soft'"),
        ({"name": "a/b"}, "name: got 'a/b'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    with pytest.raises(InputError, match=words) as error:
        variational(**{**SMALL, **arguments})
    assert "\n" not in str(error.value)


def test_models_and_data_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match="no Sampling layer"):
        sample(dense((6,), 2), 3)
    with pytest.raises(InputError, match="no Sampling layer"):
        posterior(dense((6,), 2), data())
    model = variational(**SMALL)
    with pytest.raises(InputError, match="n: got 0"):
        sample(model, 0)
    with pytest.raises(InputError, match="allowed: numbers of shape \\(n, 6\\), n >= 1"):
        posterior(model, data(5, (7,)))
    with pytest.raises(InputError, match="n >= 1"):
        posterior(model, data(0))
    with pytest.raises(InputError, match="NaN"):
        posterior(model, np.full((2, 6), np.nan))
