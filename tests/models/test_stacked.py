"""Tied weights that stay tied, and training layer by layer."""

import copy
import itertools

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import keras_aeprune as kap
from keras_aeprune._validation import InputError
from keras_aeprune.models import dense, load
from keras_aeprune.models.convolutional import convolutional
from keras_aeprune.models.denoising import denoising
from keras_aeprune.models.sparse import sparse
from keras_aeprune.models.stacked import DenseTranspose, TiedAutoencoder, pretrain, stacked


def digits(count=800):
    return (load_digits().data[:count] / 16).astype("float32")


def tied_model(**arguments):
    """6x2 values > 7 > 5 > 3 > 5 > 7 > 6x2, every weight different."""
    model = stacked((6, 2), 3, hidden_units=(7, 5), tied=True, **arguments)
    rng = np.random.default_rng(0)
    for v in model.weights:
        v.assign(rng.normal(size=v.shape))
    return model


def samples(count=16):
    return np.random.default_rng(1).random((count, 6, 2)).astype("float32")


def assert_tied(model):
    """Changing a kernel of the encoder changes the decoder, layer by layer."""
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")
    for there, back in (("hidden_1", "output"), ("hidden_2", "hidden_2"), ("code", "hidden_1")):
        kernel, mirror = encoder.get_layer(there).kernel, decoder.get_layer(back).kernel
        kernel.assign(kernel + 1.0)
        np.testing.assert_array_equal(np.asarray(kernel), np.asarray(mirror))
    sizes = [12, 7, 5, 3]
    kernels = sum(a * b for a, b in itertools.pairwise(sizes))
    assert model.count_params() == kernels + sum(sizes[1:]) + sum(sizes[:3])
    assert len(model.trainable_variables) == len({id(v) for v in model.trainable_variables}) == 9


def test_the_outputs_are_those_of_a_numpy_network_with_three_kernels():
    model, x = tied_model(), samples()
    w1, b1, w2, b2, w3, b3, c1, c2, c3 = (np.asarray(v) for v in model.weights)
    assert [c1.shape, c2.shape, c3.shape] == [(5,), (7,), (12,)]
    h = np.maximum(np.maximum(x.reshape(-1, 12) @ w1 + b1, 0) @ w2 + b2, 0)
    h = np.maximum((h @ w3 + b3) @ w3.T + c1, 0)
    y = 1 / (1 + np.exp(-(np.maximum(h @ w2.T + c2, 0) @ w1.T + c3)))
    np.testing.assert_allclose(model(x), y.reshape(-1, 6, 2), atol=1e-5)


def test_untied_it_is_the_model_of_dense():
    model = stacked((12,), 3, hidden_units=(7, 5))
    other = dense((12,), 3, hidden_units=(7, 5))
    assert [tuple(v.shape) for v in model.weights] == [tuple(v.shape) for v in other.weights]
    assert type(model) is type(other)


def test_the_gradient_of_a_tied_kernel_is_the_sum_of_both_uses():
    keras.utils.set_random_seed(0)
    tied, x = tied_model(), samples()
    free = stacked((6, 2), 3, hidden_units=(7, 5))
    for layer in (*tied.encoder.layers, *tied.decoder.layers):
        half = free.encoder if layer in tied.encoder.layers else free.decoder
        if isinstance(layer, DenseTranspose):
            half.get_layer(layer.name).set_weights([np.transpose(layer.kernel), layer.bias])
        elif layer.weights:
            half.get_layer(layer.name).set_weights(layer.get_weights())
    np.testing.assert_allclose(tied(x), free(x), atol=1e-6)
    before = np.asarray(free.encoder.get_layer("code").kernel)
    for model in (tied, free):
        model.compile(keras.optimizers.SGD(0.5), "mse")
        model.fit(x, x, batch_size=16, verbose=0)
    changes = [np.asarray(model.encoder.get_layer("code").kernel) - before for model in (tied, free)]
    back = np.transpose(free.decoder.get_layer("hidden_1").kernel) - before
    np.testing.assert_allclose(changes[0], changes[1] + back, atol=1e-6)


def test_the_tie_is_there_after_saving_and_loading(tmp_path):
    model, x = tied_model(name="own"), samples()
    model.compile("adam", "mse")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "m.keras")
    again = load(tmp_path / "m.keras")
    np.testing.assert_allclose(again(x), model(x), atol=1e-6)
    assert again.name == "own" and type(again) is TiedAutoencoder
    assert again.encoder is again.get_layer("encoder") and again.decoder is again.get_layer("decoder")
    logs = [part.fit(x, x, verbose=0, shuffle=False).history["loss"][0] for part in (model, again)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)  # the optimizer's state came along
    assert_tied(again)


@pytest.mark.parametrize(
    "copied",
    [
        lambda model: TiedAutoencoder.from_config(model.get_config()),
        keras.models.clone_model,
        copy.deepcopy,
        lambda model: keras.models.model_from_json(model.to_json()),
        lambda model: keras.models.clone_model(keras.Sequential([keras.Input((6, 2)), model])).layers[0],
    ],
    ids=["from_config", "clone_model", "deepcopy", "json", "inside another model"],
)
def test_the_tie_is_there_in_a_copy_and_does_not_reach_the_original(copied):
    model, x = tied_model(), samples()
    before = np.asarray(model(x))
    again = copied(model)
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(again(x), before, atol=1e-6)
    assert_tied(again)
    np.testing.assert_array_equal(model(x), before)


def test_the_halves_saved_alone_carry_the_kernels(tmp_path):
    model, x = tied_model(), samples()
    for half, inputs in ((model.encoder, x), (model.decoder, np.asarray(model.encoder(x)))):
        half.save(tmp_path / "half.keras")
        again = load(tmp_path / "half.keras")
        np.testing.assert_allclose(again(inputs), half(inputs), atol=1e-6)
        assert [v.shape for v in again.weights] == [v.shape for v in half.weights]
        again.set_weights([w + 1 for w in half.get_weights()])  # their own, not the model's
    np.testing.assert_allclose(model(x), model.decoder(model.encoder(x)), atol=1e-6)


def test_frozen_layers_are_frozen_on_both_sides():
    model, x = tied_model(), samples()
    model.encoder.trainable = False
    before = [np.asarray(v) for v in model.encoder.weights]
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)
    for old, new in zip(before, model.encoder.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert len(model.trainable_variables) == 3  # the decoder's biases
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    np.testing.assert_allclose(copied(x), model(x), atol=1e-6)


def test_pruning_masks_the_shared_kernel_once_and_both_halves_are_sparse():
    x = digits(256)
    model = stacked((64,), 6, hidden_units=(20,), tied=True)
    model.compile("adam", "mse")
    model.fit(x, x, epochs=3, batch_size=32, verbose=0, callbacks=[kap.Prune(0.75)])
    table = kap.sparsity_table(model)
    assert [row.path for row in table.rows] == ["encoder/hidden_1/kernel", "encoder/code/kernel"]
    assert [row.zeros for row in table.rows] == [960, 90]
    w1, w2 = (np.asarray(model.encoder.get_layer(name).kernel) for name in ("hidden_1", "code"))
    z = np.asarray(model.encoder(x))
    b1, b2 = (np.asarray(model.decoder.get_layer(name).bias) for name in ("hidden_1", "output"))
    y = 1 / (1 + np.exp(-(np.maximum(z @ w2.T + b1, 0) @ w1.T + b2)))
    np.testing.assert_allclose(model.decoder(z), y, atol=1e-5)
    for layer in model.decoder.layers[1:]:
        assert np.mean(np.asarray(layer.kernel) == 0) == 0.75


def test_a_decoder_alone_can_be_pruned_too(tmp_path):
    model = tied_model()
    model.decoder.save(tmp_path / "d.keras")
    paths = [row.path for row in kap.sparsity_table(load(tmp_path / "d.keras")).rows]
    assert paths == ["hidden_1/kernel", "hidden_2/kernel", "output/kernel"]


def test_a_tied_model_is_exported(tmp_path):
    model, x = tied_model(), samples()
    kap.export.tflite(model, tmp_path / "m.tflite", data=x)  # compares the file's outputs with the model's
    assert (tmp_path / "m.tflite").stat().st_size > 0


def test_a_layer_with_the_wrong_kernel_is_not_tied():
    there = keras.layers.Dense(3)
    layer = DenseTranspose(5)
    with pytest.raises(InputError, match="is built"):
        layer.tie(there)
    there.build((None, 4))
    with pytest.raises(InputError, match=r"\(4, 3\), allowed: \(5, 3\)"):
        layer.tie(there)
    for arguments in ({"units": 0}, {"units": 3, "activation": "x"}, {"units": 3, "source": 1}):
        with pytest.raises(InputError, match="allowed"):
            DenseTranspose(**arguments)
    with pytest.raises(InputError, match="tied"):
        stacked((8,), 2, tied=1)


# pretraining


@pytest.mark.parametrize("tied", [False, True])
def test_pretraining_alone_brings_the_error_far_down(tied):
    x = digits(1400)
    train, test = x[:1000], x[1000:]
    keras.utils.set_random_seed(0)
    model = stacked((64,), 8, hidden_units=(48, 24), tied=tied)

    def error():
        return float(np.mean((np.asarray(model(test)) - test) ** 2))

    before = error()
    losses = pretrain(model, train, epochs=6, batch_size=40, learning_rate=3e-3)
    assert [len(stage) for stage in losses] == [6, 6, 6]
    assert all(stage[-1] < 0.6 * stage[0] for stage in losses)
    assert error() < 0.5 * before
    if tied:
        assert model.decoder.get_layer("output").kernel is model.encoder.get_layer("hidden_1").kernel


@pytest.mark.parametrize("tied", [False, True])
def test_a_stage_is_a_shallow_autoencoder_trained_by_itself(tied):
    """The first step of Adam is -rate * g / (|g| + epsilon'), with g from NumPy."""
    x = digits(64)
    model = stacked((64,), 5, hidden_units=(), tied=tied, output_activation="linear")
    w, b, *rest = (np.asarray(v, dtype="float64") for v in model.weights)
    v, c = (w.T, rest[0]) if tied else rest
    z = x @ w + b
    error = 2 * (z @ v + c - x) / x.size
    gradients = [x.T @ (error @ v.T), z.T @ error]
    if tied:
        gradients = [gradients[0] + gradients[1].T]
    pretrain(model, x, epochs=1, batch_size=64, learning_rate=0.01)
    for old, gradient, index in zip((w, v), gradients, (0, 2), strict=False):
        step = -0.01 * gradient / (np.abs(gradient) + 1e-7 / np.sqrt(1 - 0.999))
        np.testing.assert_allclose(np.asarray(model.weights[index]) - old, step, atol=1e-4)


def test_each_stage_sees_what_the_trained_layers_before_it_make():
    """With a learning rate near 0 the weights stay, so each first loss follows from the model as it was."""
    x = digits(50)
    model = stacked((64,), 4, hidden_units=(20, 10))
    before = model.get_weights()
    losses = pretrain(model, x, epochs=1, batch_size=50, learning_rate=1e-12)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-9)
    w1, b1, w2, b2, w3, b3, v3, c3, v2, c2, v1, c1 = before
    h1 = np.maximum(x @ w1 + b1, 0)
    h2 = np.maximum(h1 @ w2 + b2, 0)
    by_hand = [
        np.mean((1 / (1 + np.exp(-(h1 @ v1 + c1))) - x) ** 2),
        np.mean((h2 @ v2 + c2 - h1) ** 2),  # the mirror's relu is left out
        np.mean(((h2 @ w3 + b3) @ v3 + c3 - h2) ** 2),
    ]
    assert [stage[0] for stage in losses] == pytest.approx(by_hand, rel=1e-4)


def test_it_is_deterministic_and_follows_the_seed():
    def weights(seed):
        keras.utils.set_random_seed(seed)
        model = stacked((64,), 4, hidden_units=(), tied=True)
        pretrain(model, digits(64), epochs=2, batch_size=16, noise=0.3)
        return np.concatenate([w.ravel() for w in model.get_weights()])

    first = weights(1)
    np.testing.assert_array_equal(first, weights(1))
    assert not np.array_equal(first, weights(2))


def test_how_the_model_is_compiled_and_its_noise_are_left_alone():
    model, x = denoising((64,), 6, hidden_units=(20,)), digits(64)
    model.compile("adam", "mae")
    model.fit(x, x, verbose=0)
    optimizer, state = model.optimizer, [np.asarray(v) for v in model.optimizer.variables]
    seeds = np.asarray(model.get_layer("corruption").seed_generator.state)
    before = model.get_weights()
    pretrain(model, x, epochs=1)
    assert model.optimizer is optimizer
    for old, new in zip(state, optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model.get_layer("corruption").seed_generator.state, seeds)
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True) if a.ndim == 2)
    model.fit(x, x, verbose=0)


def test_masks_hold_and_frozen_layers_stay():
    x = digits(64)
    model = dense((64,), 6, hidden_units=(20,))
    model.compile("adam", "mse")
    model.fit(x, x, epochs=4, batch_size=16, verbose=0, callbacks=[kap.Prune(0.5)])
    zeros = [np.asarray(v) == 0 for v in model.weights]
    model.encoder.get_layer("code").trainable = False
    frozen = np.asarray(model.encoder.get_layer("code").kernel)
    pretrain(model, x, epochs=2, batch_size=16)
    for old, v in zip(zeros, model.weights, strict=True):
        if len(v.shape) == 2:
            np.testing.assert_array_equal(old, np.asarray(v) == 0)
    np.testing.assert_array_equal(frozen, model.encoder.get_layer("code").kernel)


def test_a_sparse_model_is_pretrained_with_its_penalty():
    x = digits(64)
    model = sparse((64,), 80, rate=1.0)
    code = np.asarray(model.encoder(x))
    losses = pretrain(model, x, epochs=1, batch_size=64, learning_rate=1e-12)
    assert losses[0][0] > np.abs(code).sum(axis=1).mean()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: convolutional((8, 8, 1), 4), ("Conv2D", "encoder", "fit")),
        (lambda: dense((64,), 8, batch_normalization=True), ("BatchNormalization", "Dense, Flatten")),
        (lambda: keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)]), ("encoder",)),
    ],
)
def test_models_without_mirrored_dense_layers_are_refused(make, words):
    model = make()
    x = np.zeros((4, *model.input_shape[1:]), dtype="float32")
    with pytest.raises(InputError) as error:
        pretrain(model, x)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


def halves(encoder, decoder, between=()):
    encoder = keras.Sequential([keras.Input((8,)), *encoder], name="encoder")
    decoder = keras.Sequential([keras.Input((2,)), *decoder], name="decoder")
    return keras.Sequential([keras.Input((8,)), *between, encoder, decoder])


def test_unlike_halves_and_layers_between_them_are_refused_and_sequential_ones_are_trained():
    layer = keras.layers.Dense
    x = np.zeros((4, 8))
    with pytest.raises(InputError, match="mirrors the encoder"):
        pretrain(halves([layer(4), layer(2)], [layer(8)]), x)
    with pytest.raises(InputError, match="mirrors the encoder"):
        pretrain(halves([layer(4), layer(2)], [layer(5), layer(8)]), x)
    with pytest.raises(InputError, match="Rescaling.*noise only"):
        pretrain(halves([layer(2)], [layer(8)], [keras.layers.Rescaling(2.0)]), x)
    losses = pretrain(
        halves([layer(4), layer(2)], [layer(4), layer(8)], [keras.layers.GaussianNoise(0.1)]), x, epochs=1
    )
    assert len(losses) == 2


def test_side_paths_are_refused():
    inputs = keras.Input((8,))
    two = [keras.layers.Dense(4)(inputs) for _ in range(2)]
    encoder = keras.Model(inputs, two, name="encoder")
    code = keras.Input((4,))
    model = keras.Model(inputs, encoder(inputs)[0])
    model.encoder, model.decoder = encoder, keras.Model(code, keras.layers.Dense(8)(code))
    with pytest.raises(InputError, match="one chain"):
        pretrain(model, np.zeros((4, 8)))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"x": np.zeros((4, 63))}, "x: "),
        ({"x": np.zeros((0, 64))}, "x: "),
        ({"x": np.full((4, 64), np.nan)}, "x: got NaN"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"noise": 1.0}, "noise"),
        ({"verbose": "auto"}, "verbose"),
    ],
)
def test_bad_arguments_are_refused(arguments, word):
    with pytest.raises(InputError, match=word):
        pretrain(**{"model": stacked((64,), 8), "x": np.zeros((4, 64)), **arguments})


@pytest.mark.parametrize("stage", ["hidden_1", "code"])
def test_a_loss_that_is_not_finite_is_refused_and_the_model_is_as_it_was(stage):
    model = stacked((64,), 8, hidden_units=(10,))
    kernel = model.encoder.get_layer(stage).kernel
    kernel.assign(np.full(kernel.shape, np.inf))
    before = model.get_weights()
    with pytest.raises(InputError, match=f"learning_rate.*{stage}"):
        pretrain(model, digits(64), epochs=1, batch_size=64)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
