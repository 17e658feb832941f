"""Copies for inference: the same outputs, plain layers, weights of their own."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_aeprune as kap
from keras_aeprune._validation import InputError
from keras_aeprune.models import dense
from keras_aeprune.models.convolutional import convolutional
from keras_aeprune.models.denoising import Corruption, denoising
from keras_aeprune.models.inference import for_inference
from keras_aeprune.models.recurrent import recurrent
from keras_aeprune.models.sparse import sparse
from keras_aeprune.models.stacked import stacked
from keras_aeprune.models.variational import variational

BUILDERS = {
    "dense": lambda: dense((8, 8, 1), 4, batch_normalization=True),
    "convolutional": lambda: convolutional((8, 8, 1), 4, filters=(4, 8)),
    "recurrent": lambda: recurrent((8, 3), 4),
    "denoising": lambda: denoising((8, 8, 1), 4, corruption="masking"),
    "denoising convolutional": lambda: denoising((8, 8, 1), 4, base="convolutional", filters=(4,)),
    "sparse": lambda: sparse((8, 8, 1), 80, penalty="kl"),
    "sparse l1": lambda: sparse((8, 8, 1), 80, hidden_units=(20,)),
    "stacked": lambda: stacked((8, 8, 1), 4),
    "tied": lambda: stacked((8, 8, 1), 4, hidden_units=(20, 10), tied=True),
    "variational": lambda: variational((8, 8, 1), 4),
}


def filled(model):
    """The model with weights that differ from their initial values, biases too."""
    rng = np.random.default_rng(0)
    for v in model.weights:
        v.assign(np.abs(rng.normal(size=v.shape)) if "variance" in v.path else 0.2 * rng.normal(size=v.shape))
    return model


def samples(model, count=5):
    return np.random.default_rng(1).random((count, *model.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("kind", BUILDERS)
def test_outputs_are_equal_and_the_weights_are_copies(kind):
    model = filled(BUILDERS[kind]())
    x = samples(model)
    before = np.asarray(model(x, training=False))
    copy = for_inference(model)
    np.testing.assert_allclose(copy(x), before, atol=1e-6)
    np.testing.assert_allclose(copy.decoder(copy.encoder(x)), before, atol=1e-6)
    np.testing.assert_allclose(copy.encoder(x), model.encoder(x), atol=1e-6)
    assert [layer.name for layer in copy.layers] == ["input", "encoder", "decoder"]
    assert copy.name == model.name and type(copy) is type(dense((4,), 2))
    assert copy.encoder is copy.get_layer("encoder") and copy.decoder is copy.get_layer("decoder")
    assert not copy.losses
    for v in copy.weights:
        v.assign(v + 1)
    np.testing.assert_array_equal(model(x, training=False), before)
    assert not any(type(part).__module__.startswith("keras_aeprune") for part in copy._flatten_layers())


@pytest.mark.parametrize("kind", ["denoising", "sparse", "tied", "variational"])
def test_training_mode_adds_no_noise(kind):
    model = filled(BUILDERS[kind]())
    x = samples(model)
    np.testing.assert_allclose(for_inference(model)(x, training=True), model(x, training=False), atol=1e-6)


def test_files_load_in_a_process_without_this_package(tmp_path):
    kinds = ["denoising", "sparse", "sparse l1", "tied", "variational"]
    for number, kind in enumerate(kinds):
        model = filled(BUILDERS[kind]())
        for_inference(model).save(tmp_path / f"{number}.keras")
        np.save(tmp_path / f"{number}.npy", model(samples(model), training=False))
    np.save(tmp_path / "x.npy", samples(model))
    script = f"""
        import sys, keras, numpy as np
        for number in range({len(kinds)}):
            model = keras.saving.load_model(f"{{number}}.keras")
            np.testing.assert_allclose(model(np.load("x.npy")), np.load(f"{{number}}.npy"), atol=1e-6)
        sys.exit("keras_aeprune" in sys.modules)
    """
    subprocess.run([sys.executable, "-c", inspect.cleandoc(script)], cwd=tmp_path, check=True)


def test_what_computes_the_variance_is_left_out():
    model = BUILDERS["variational"]()
    names = [layer.name for layer in for_inference(model).encoder.layers]
    assert "mean" in names
    assert not {"log_variance", "code"} & set(names)


def test_a_tied_kernel_is_there_twice_and_transposed():
    model = filled(BUILDERS["tied"]())
    copy = for_inference(model)
    there, back = copy.encoder.get_layer("code").kernel, copy.decoder.get_layer("hidden_1").kernel
    np.testing.assert_array_equal(np.transpose(there), back)
    assert type(copy.decoder.get_layer("hidden_1")) is keras.layers.Dense
    there.assign(there + 1)
    assert not np.array_equal(np.transpose(there), back)


def test_a_loaded_model_has_its_halves_too(tmp_path):
    model = filled(BUILDERS["denoising"]())
    model.save(tmp_path / "m.keras")
    copy = for_inference(kap.models.load(tmp_path / "m.keras"))
    x = samples(model)
    np.testing.assert_allclose(copy.decoder(copy.encoder(x)), model(x), atol=1e-6)


def test_the_model_stays_as_it_is_and_trains_on():
    model = BUILDERS["sparse"]()
    x = samples(model)
    model.compile("adam", "mse")
    model.fit(x, x, verbose=0)
    loss = model.evaluate(x, x, verbose=0)
    copy = for_inference(model)
    assert not copy.compiled
    assert model.encoder.get_layer("code").activity_regularizer is not None
    assert model.evaluate(x, x, verbose=0) == loss
    model.fit(x, x, verbose=0)


def test_other_models_are_copied_layer_by_layer():
    shared = keras.layers.Dense(4, "relu", name="shared")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dropout(0.5)], name="inner")
    both = keras.layers.Concatenate()([shared(a), shared(b), inner(a), inner(b) * 2.0])
    out = keras.layers.Bidirectional(keras.layers.LSTM(3))(keras.layers.Reshape((4, 4))(both))
    model = filled(keras.Model({"a": a, "b": b}, [out, keras.layers.GaussianNoise(0.5)(both)]))
    rng = np.random.default_rng(0)
    x = {name: rng.random((5, 4)).astype("float32") for name in "ab"}
    copy = for_inference(model)
    for old, new in zip(model(x), copy(x, training=True), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)
    assert copy.count_params() == model.count_params()
    assert [type(layer) for layer in copy.get_layer("inner").layers] == [keras.layers.Dense]
    assert not hasattr(copy, "encoder")


def test_sequential_models_stay_sequential():
    layers = [keras.layers.Dense(4, activity_regularizer="l2"), Corruption("gaussian", 1.0), keras.layers.Dense(2)]
    model = filled(keras.Sequential([keras.Input((3,)), *layers], name="own"))
    copy = for_inference(model)
    assert type(copy) is keras.Sequential and copy.name == "own" and len(copy.layers) == 2
    x = samples(model)
    np.testing.assert_allclose(copy(x, training=True), model(x), atol=1e-6)
    assert not copy.losses
    noise = keras.Sequential([keras.Input((3,)), Corruption()])
    np.testing.assert_array_equal(for_inference(noise)(x, training=True), x)


def test_zeros_of_a_pruned_model_are_kept():
    model = BUILDERS["tied"]()
    x = samples(model, 32)
    model.compile("adam", "mse")
    model.fit(x, x, epochs=4, batch_size=8, verbose=0, callbacks=[kap.Prune(0.5)])
    rows = kap.sparsity_table(for_inference(model)).rows
    assert len(rows) == 6
    assert all(row.reached == 0.5 for row in rows)


def test_models_that_cannot_be_rewritten_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    wrapped = keras.Sequential([keras.Input((4, 3)), keras.layers.TimeDistributed(Corruption())])
    always = keras.Input((3,))
    with pytest.raises(InputError, match="Own.*Python code"):
        for_inference(Own())
    with pytest.raises(InputError, match="Own.*Python code"):
        for_inference(keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), Own()]))
    with pytest.raises(InputError, match="no input shape"):
        for_inference(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(InputError, match="Corruption"):
        for_inference(wrapped)
    with pytest.raises(InputError, match="training=True"):
        for_inference(keras.Model(always, keras.layers.Dropout(0.5)(always, training=True)))
    with pytest.raises(InputError, match="keras.Model"):
        for_inference("model.keras")
