"""Models of tf_keras, rebuilt: same outputs, same names, or one line that says why not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune._validation import InputError
from keras_aeprune.models import convert as convert_module
from keras_aeprune.models import from_tf_keras, load

tf_keras = pytest.importorskip("tf_keras")
K = tf_keras.layers


def sequential(*layers):
    return tf_keras.Sequential(list(layers))


def images():
    return sequential(
        K.Input((8, 8, 3)),
        K.DepthwiseConv2D(3),
        K.SeparableConv2D(4, 3),
        K.BatchNormalization(),
        K.LeakyReLU(0.1),
        K.Conv2DTranspose(2, 3),
        K.MaxPooling2D(),
        K.UpSampling2D(interpolation="bilinear"),
        K.Dropout(0.3),
        K.GlobalAveragePooling2D(),
        K.Dense(3, "softmax"),
    )


def series():
    return sequential(
        K.Input((None, 6)),
        K.TimeDistributed(K.Dense(3)),
        K.Bidirectional(K.LSTM(4, return_sequences=True)),
        K.GRU(3, return_sequences=True),
        K.GRU(3, reset_after=False, return_sequences=True),
        K.RNN([K.LSTMCell(4), K.GRUCell(3)]),
    )


def windows():
    return sequential(
        K.Conv1D(4, 3, input_shape=(12, 3)), K.SeparableConv1D(3, 3), K.Conv1DTranspose(2, 3), K.Flatten()
    )


def without_input_layer():
    model = sequential(K.BatchNormalization(input_shape=(5,)), K.Dense(4, "gelu", kernel_regularizer="l2"))
    model.layers[0].trainable = False
    return model


def tokens():
    return sequential(K.Input((5,), dtype="int32"), K.Embedding(10, 4, mask_zero=True), K.LSTM(3))


def halves():
    x = K.Input((8,))
    encoder = tf_keras.Model(x, K.Dense(3)(K.BatchNormalization()(K.Dense(5, "relu")(x))), name="encoder")
    return encoder, tf_keras.Sequential([K.Input((3,)), K.Dense(8)], name="decoder")


def nested():
    encoder, decoder = halves()
    x = K.Input((8,))
    return tf_keras.Model(x, decoder(encoder(x)))


def nested_frozen():
    encoder, decoder = halves()
    encoder.trainable = False
    x = K.Input((8,))
    return tf_keras.Model(x, decoder(encoder(x)))


def nested_reused():
    encoder, decoder = halves()
    x, y = K.Input((8,)), K.Input((8,))
    return tf_keras.Model([x, y], [encoder(decoder(encoder(x))), K.Multiply()([encoder(x), encoder(y)])])


def models_in_a_row():
    model = sequential(*halves())
    model(np.zeros((1, 8), "float32"))
    return model


def shared_dict():
    b, a, shared = K.Input((6,), name="b"), K.Input((4,), name="a"), K.Dense(4)
    wide = K.Dense(4)(b)
    outputs = {"sum": K.Add()([shared(a), shared(wide)]), "both": K.Concatenate()([a, wide])}
    return tf_keras.Model({"b": b, "a": a}, outputs)


ZOO = (
    images,
    series,
    windows,
    without_input_layer,
    tokens,
    nested,
    nested_frozen,
    nested_reused,
    models_in_a_row,
    shared_dict,
)


def randomised(model):
    """`model` with every weight, moving averages too, away from its first value."""
    rng = np.random.default_rng(0)
    model.set_weights([np.abs(rng.normal(size=v.shape)) * 0.3 + 0.05 for v in model.weights])
    return model


def inputs_of(model, seed=7):
    """Other inputs than those that the conversion itself compares."""
    rng = np.random.default_rng(seed)

    def one(tensor):
        shape = [3, *(11 if size is None else size for size in tensor.shape[1:])]
        whole = tensor.dtype == tf.int32
        return rng.integers(0, 9, shape).astype("int32") if whole else rng.normal(size=shape).astype("float32")

    return tf.nest.map_structure(one, model.input)


def assert_equal_outputs(old, new):
    x = inputs_of(old)
    before, after = tf.nest.flatten(old(x, training=False)), tf.nest.flatten(new(x, training=False))
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


@pytest.mark.parametrize("build", ZOO)
def test_rebuilt_models_give_the_same_outputs(build):
    old = randomised(build())
    weights = [np.array(v) for v in old.get_weights()]
    new = from_tf_keras(old)
    assert isinstance(new, keras.Model)
    assert_equal_outputs(old, new)
    assert [layer.name for layer in new.layers] == [layer.name for layer in old.layers]
    assert new.count_params() == old.count_params()
    assert len(new.trainable_variables) == len(old.trainable_weights)
    assert not new.compiled
    for before, after in zip(weights, old.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("build", ZOO)
def test_hdf5_files_of_tf_keras_load(build, tmp_path):
    old = randomised(build())
    with pytest.warns(UserWarning, match="HDF5"):
        old.save(tmp_path / "m.h5", include_optimizer=False)
    before = (tmp_path / "m.h5").read_bytes()
    assert_equal_outputs(old, load(tmp_path / "m.h5"))
    assert (tmp_path / "m.h5").read_bytes() == before


def test_an_archive_of_tf_keras_is_refused_and_its_model_converts(tmp_path):
    old = randomised(nested())
    old.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"tf_keras \(Keras 2.*from_tf_keras"):
        load(tmp_path / "m.keras")
    new = from_tf_keras(tf_keras.models.load_model(tmp_path / "m.keras"))
    new.save(tmp_path / "new.keras")
    assert_equal_outputs(old, load(tmp_path / "new.keras"))


def test_mixed_precision_is_kept():
    policy = tf_keras.mixed_precision.Policy("mixed_float16")
    old = sequential(K.Input((6,)), K.Dense(4, dtype=policy), K.Dense(2, dtype="float32"))
    new = from_tf_keras(old)
    assert [layer.compute_dtype for layer in new.layers] == ["float16", "float32"]


def test_the_two_kerases_stay_what_they_are():
    from_tf_keras(nested())
    assert tf.keras.Model is keras.Model
    assert not issubclass(tf_keras.Model, keras.Model)


def test_a_different_output_is_refused(monkeypatch):
    old = randomised(nested())
    monkeypatch.setattr(convert_module, "_copy_weights", lambda old, new: None)
    with pytest.raises(InputError, match=r"output 0 of .* differs by .*, allowed: "):
        from_tf_keras(old)


def test_weights_that_are_not_finite_are_not_equal():
    old = sequential(K.Input((3,)), K.Dense(2))
    old.set_weights([np.full((3, 2), np.nan), np.zeros(2)])
    with pytest.raises(InputError, match="differs by nan"):
        from_tf_keras(old)


def subclassed():
    class Own(tf_keras.Model):
        def call(self, x):
            return x

    return Own()


def own_layer():
    class Mine(K.Layer):
        pass

    return sequential(K.Input((3,)), Mine(name="mine"))


def own_function():
    def own(x):
        return x * 2

    return sequential(K.Input((3,)), K.Dense(2, activation=own))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (subclassed, ("Own", "Python code", "set_weights")),
        (own_layer, ("'mine'", "Mine", "set_weights")),
        (own_function, ("own", "rebuild")),
        (lambda: sequential(K.Dense(3)), ("no input shape", "input_shape")),
        (lambda: sequential(K.Input((3,)), K.Lambda(lambda x: x, name="code")), ("'code'", "Python code")),
        (lambda: sequential(K.Input((4, 4, 1)), K.LocallyConnected2D(1, 2)), ("LocallyConnected2D",)),
        (lambda: tf_keras.Model(x := K.Input((3,)), x * 2), ("TFOpLambda",)),
        (
            lambda: sequential(K.Input((5, 3), batch_size=2), K.LSTM(2, stateful=True, name="l")),
            ("'l'", "stateful"),
        ),
        (lambda: sequential(K.Input((5, 3)), K.LSTM(2, time_major=True)), ("time_major=True",)),
        (lambda: sequential(K.Input((3, 6, 6, 1)), K.ConvLSTM2D(2, 3)), ("hard_sigmoid",)),
        (lambda: keras.Sequential([keras.Input((3,))]), ("Keras 3", "as it is")),
        (lambda: "m.h5", ("'m.h5'", "tf_keras")),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_in_one_line(build, words):
    model = build()
    with pytest.raises(InputError) as error:
        from_tf_keras(model)
    text = str(error.value)
    assert "\n" not in text
    assert "allowed" in text
    for word in words:
        assert word in text, text


def test_a_real_saved_model_gives_its_published_outputs(real_data):
    name = "mlperf_tiny_kws_savedmodel"
    new = from_tf_keras(tf_keras.models.load_model(real_data / "models" / name))
    x = np.random.default_rng(0).random((4, 49, 10, 1)).astype("float32")
    with np.load(real_data / "models" / "golden_outputs.npz", allow_pickle=False) as golden:
        np.testing.assert_allclose(new(x, training=False), golden[name], atol=1e-5)
