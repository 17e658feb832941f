"""Noise while training only, by its definitions; and autoencoders that remove it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.models.denoising import Corruption, corrupt, denoising


def by_layer(x, kind, amount, clip):
    return np.asarray(Corruption(kind, amount, clip=clip, seed=1)(x, training=True))


def by_numpy(x, kind, amount, clip):
    return corrupt(x, kind, amount=amount, clip=clip, seed=1)


BOTH = pytest.mark.parametrize("spoil", [by_layer, by_numpy])


@BOTH
def test_gaussian_noise_has_the_standard_deviation_asked_for(spoil):
    x = np.full((300, 400), 3.0, dtype="float32")
    noise = spoil(x, "gaussian", 0.5, None) - x
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(0.5, rel=0.01)
    assert np.mean(np.abs(noise) < 0.5) == pytest.approx(0.6827, abs=0.01)  # of a normal distribution


@BOTH
def test_gaussian_noise_is_limited_by_clip(spoil):
    x = np.full((100, 100), 0.5, dtype="float32")
    y = spoil(x, "gaussian", 1.0, (0, 1))
    assert y.min() == 0.0 and y.max() == 1.0
    assert np.mean(y == 0.0) == pytest.approx(0.3085, abs=0.02)  # the normal distribution below -0.5


@BOTH
def test_masking_sets_a_fraction_to_zero_and_leaves_the_others_as_they_are(spoil):
    x = np.random.default_rng(0).uniform(1, 2, (200, 300)).astype("float32")
    y = spoil(x, "masking", 0.3, None)
    assert np.mean(y == 0) == pytest.approx(0.3, abs=0.01)
    np.testing.assert_array_equal(y[y != 0], x[y != 0])


@BOTH
@pytest.mark.parametrize("clip", [None, (-2, 5)])
def test_salt_and_pepper_sets_half_of_a_fraction_to_each_end(spoil, clip):
    x = np.full((200, 300), 0.25, dtype="float32")
    y = spoil(x, "salt_and_pepper", 0.4, clip)
    low, high = clip or (0, 1)
    for value, fraction in ((low, 0.2), (high, 0.2), (0.25, 0.6)):
        assert np.mean(y == value) == pytest.approx(fraction, abs=0.01)


@BOTH
@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt_and_pepper"])
def test_nothing_happens_at_amount_0_and_shape_and_dtype_stay(spoil, kind):
    for dtype in ("float32", "float64"):
        x = np.random.default_rng(0).random((4, 5, 2)).astype(dtype)
        assert np.allclose(spoil(x, kind, 0, None), x)
        assert by_numpy(x, kind, 0.2, None).dtype == x.dtype
        assert spoil(x, kind, 0.2, None).shape == x.shape


@BOTH
def test_everything_is_replaced_at_fraction_1(spoil):
    x = np.full((20, 20), 0.5, dtype="float32")
    assert (spoil(x, "masking", 1, None) == 0).all()
    assert set(np.unique(spoil(x, "salt_and_pepper", 1, None))) == {0.0, 1.0}


@BOTH
def test_the_same_seed_spoils_alike_and_the_input_is_not_written_to(spoil):
    x = np.ones((10, 10), dtype="float32")
    np.testing.assert_array_equal(spoil(x, "gaussian", 1, None), spoil(x, "gaussian", 1, None))
    assert (x == 1).all()
    assert not np.array_equal(corrupt(x, seed=1), corrupt(x, seed=2))


def test_the_layer_makes_new_noise_for_every_batch():
    layer = Corruption("gaussian", 1.0, seed=0)
    x = np.zeros((4, 4), dtype="float32")
    assert not np.array_equal(layer(x, training=True), layer(x, training=True))


def test_half_precision_masks_the_right_fraction():
    layer = Corruption("masking", 0.3, seed=0, dtype="float16")
    y = np.asarray(layer(np.ones((200, 300), dtype="float16"), training=True))
    assert y.dtype == np.float16
    assert np.mean(y == 0, dtype="float64") == pytest.approx(0.3, abs=0.01)


def test_the_layer_comes_back_from_its_config():
    layer = Corruption("salt_and_pepper", 0.1, clip=(-1, 2), seed=5, name="noise")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    own = {"kind": "salt_and_pepper", "amount": 0.1, "clip": [-1.0, 2.0], "seed": 5}
    assert own.items() <= layer.get_config().items()
    x = np.zeros((9, 9), dtype="float32")
    np.testing.assert_array_equal(layer(x, training=True), again(x, training=True))


def test_an_inference_trace_holds_no_random_state_and_no_noise():
    model = denoising((8,), 2, noise=0.5)
    x = np.random.default_rng(0).random((6, 8)).astype("float32")
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec((None, 8)))
    captured = {id(v) for v in traced.graph.variables}
    assert len(captured) == len(model.trainable_variables)
    assert not any("random" in op.type.lower() for op in traced.graph.get_operations())
    clean = np.asarray(model.decoder(model.encoder(x)))
    for found in (model(x), model.predict(x, verbose=0), traced(tf.constant(x))):
        np.testing.assert_allclose(np.asarray(found), clean, atol=1e-6)
    model.compile("sgd", "mse")
    assert model.evaluate(x, x, verbose=0) == pytest.approx(float(np.mean((clean - x) ** 2)), rel=1e-4)
    assert not np.allclose(model(x, training=True), clean, atol=1e-3)


@pytest.mark.parametrize("base", ["dense", "convolutional"])
def test_the_halves_are_those_of_the_base_and_a_saved_file_keeps_the_noise(base, tmp_path):
    options = {"filters": (4, 8)} if base == "convolutional" else {"hidden_units": (16,)}
    model = denoising((8, 8, 1), 6, base=base, corruption="masking", noise=0.25, name="own", **options)
    assert [layer.name for layer in model.layers] == ["input", "corruption", "encoder", "decoder"]
    assert model.encoder.output_shape == (None, 6) and model.output_shape == (None, 8, 8, 1)
    x = np.random.default_rng(0).random((5, 8, 8, 1)).astype("float32")
    model.compile("adam", "mse")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "m.keras")
    again = models.load(tmp_path / "m.keras")
    assert again.name == "own"
    assert again.get_layer("corruption").get_config() == model.get_layer("corruption").get_config()
    np.testing.assert_allclose(again(x), model(x), atol=1e-6)
    assert not np.allclose(again(x, training=True), model(x))


def test_a_missing_code_width_is_the_default_of_dense():
    assert denoising((64,)).encoder.output_shape == (None, models.default_sizes(64)[0])


def test_training_with_noise_restores_spoilt_data_better_than_training_without():
    from sklearn.datasets import load_digits

    x = (load_digits().data / 16).astype("float32")
    train, test = x[:1400], x[1400:]
    spoilt = corrupt(test, "masking", amount=0.4, seed=1)
    errors = {}
    for noise in (0.0, 0.4):
        keras.utils.set_random_seed(0)
        model = denoising((64,), 16, hidden_units=(64,), noise=noise, corruption="masking")
        model.compile(keras.optimizers.Adam(3e-3), "mse")
        model.fit(train, train, epochs=15, batch_size=64, verbose=0)
        errors[noise] = float(np.mean((model.predict(spoilt, verbose=0) - test) ** 2))
    assert errors[0.4] < 0.8 * errors[0.0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Corruption("pink"), ("kind", "gaussian, masking, salt_and_pepper")),
        (lambda: Corruption("gaussian", -0.1), ("amount", ">= 0")),
        (lambda: Corruption("gaussian", np.nan), ("amount", ">= 0")),
        (lambda: Corruption("masking", 1.5), ("amount", "<= 1")),
        (lambda: Corruption("masking", 0.1, clip=(0, 1)), ("clip", "None for masking")),
        (lambda: Corruption(clip=(1, 0)), ("clip", "low < high")),
        (lambda: Corruption(clip=3), ("clip", "(low, high)")),
        (lambda: Corruption(clip=(1, 2, 3)), ("clip", "(low, high)")),
        (lambda: Corruption(seed=-1), ("seed", ">= 0")),
        (lambda: corrupt(np.arange(5)), ("x", "int64", "floating")),
        (lambda: corrupt(np.ones(3), seed=0.5), ("seed", "0.5")),
        (lambda: denoising((64,), 8, base="deep"), ("base", "dense, convolutional")),
        (lambda: denoising((64,), 8, noise=2, corruption="masking"), ("noise", "<= 1")),
        (lambda: denoising((64,), 8, corruption="none"), ("corruption", "'none'")),
        (lambda: denoising((64,), 8, filters=(3,)), ("options", "filters", "hidden_units")),
        (lambda: denoising((64,), 64), ("encoding_dim", "<= 63")),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, words):
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and "allowed" in text
    for word in words:
        assert word in text, text
