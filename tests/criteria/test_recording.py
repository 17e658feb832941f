"""What is recorded of each kernel, against models and loops that do it the slow way."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune import models
from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.recording import stream


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def evidence(model, x):
    return Evidence(model, tuple(w for w in weights(model) if w.kernel), Calibration(x))


def recorded(model, x):
    """{kernel path: what was recorded of one batch}."""
    seen, names = evidence(model, x), {}

    def reduce(record):
        names[record.weight.path] = record.activation
        found = {"inputs": record.inputs, "outputs": record.outputs}
        return found if record.before is None else {**found, "before": record.before}

    found = stream(seen, reduce, batch_size=len(x))
    return {w.path: {**arrays, "activation": names[w.path]} for w, arrays in zip(seen.weights, found, strict=True)}


def close(got, wanted):
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-4, atol=1e-5)


def test_a_dense_layer_is_recorded_before_and_after_its_own_activation():
    model = keras.Sequential([keras.Input((3,)), kl.Dense(4, activation="relu", name="a"), kl.Dense(2, name="b")])
    x = noise(5, 3)
    got = recorded(model, x)
    z = x @ model.layers[0].kernel.numpy()
    close(got["a/kernel"]["inputs"], x)
    close(got["a/kernel"]["before"], z)
    close(got["a/kernel"]["outputs"], np.maximum(z, 0))
    close(got["b/kernel"]["inputs"], np.maximum(z, 0))
    close(got["b/kernel"]["outputs"], model(x))
    assert [got[p]["activation"] for p in ("a/kernel", "b/kernel")] == ["relu", "linear"]


def follow(kind):
    inputs = keras.Input((6, 6, 2))
    norm = kl.BatchNormalization(name="norm")
    y = kl.Dropout(0.5)(norm(kl.Conv2D(3, 3, name="conv")(inputs)))
    end = {"relu": kl.ReLU, "tanh": lambda name: kl.Activation("tanh", name=name), "prelu": kl.PReLU}[kind](
        name="end"
    )
    y = end(y)
    model = keras.Model(inputs, kl.Dense(1, name="out")(kl.Flatten()(y)))
    norm.set_weights([noise(3), noise(3, seed=1), noise(3, seed=2), np.abs(noise(3, seed=3))])
    return model


@pytest.mark.parametrize("kind", ["relu", "tanh", "prelu"])
def test_outputs_are_followed_through_normalization_and_dropout_to_the_activation_layer(kind):
    model, x = follow(kind), noise(4, 6, 6, 2)
    got = recorded(model, x)["conv/kernel"]
    end = model.get_layer("end")
    close(got["before"], keras.Model(model.input, end.input)(x))
    close(got["outputs"], keras.Model(model.input, end.output)(x))
    assert got["activation"] == kind


def test_outputs_that_two_layers_take_or_that_leave_the_model_are_not_followed():
    inputs = keras.Input((3,))
    a = kl.Dense(2, name="a")(inputs)
    b = kl.Dense(2, name="b")(kl.Add()([kl.ReLU()(a), a]))
    model = keras.Model(inputs, [b, kl.ReLU()(b)])
    got, x = recorded(model, noise(4, 3)), noise(4, 3)
    close(got["a/kernel"]["outputs"], x @ model.get_layer("a").kernel.numpy())
    close(got["b/kernel"]["outputs"], model(x)[0])


def test_one_activation_layer_behind_two_layers_counts_for_each_by_itself():
    inputs, shared = keras.Input((3,)), kl.ReLU()
    a, b = kl.Dense(2, name="a"), kl.Dense(2, name="b")
    model = keras.Model(inputs, kl.Add()([shared(a(inputs)), shared(b(inputs))]))
    got, x = recorded(model, noise(4, 3)), noise(4, 3)
    for layer in (a, b):
        close(got[f"{layer.name}/kernel"]["outputs"], np.maximum(x @ layer.kernel.numpy(), 0))


class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.end, self.b = kl.Dense(4, name="a"), kl.ReLU(), kl.Dense(2, name="b")

    def call(self, x):
        assert x.shape[0] is not None
        return self.b(self.end(self.a(x)))


def test_in_subclassed_models_a_layers_own_output_counts():
    model, x = Plain(), noise(5, 3)
    model(x)
    got = recorded(model, x)
    z = x @ model.a.kernel.numpy()
    close(got["a/kernel"]["outputs"], z)
    close(got["b/kernel"]["inputs"], np.maximum(z, 0))


def test_nested_autoencoders_have_their_whole_paths():
    model, x = models.dense((6,), 2, hidden_units=(4,)), noise(5, 6)
    got = recorded(model, x)
    assert set(got) == {w.path for w in weights(model)}
    close(got["encoder/code/kernel"]["outputs"], model.encoder(x))
    last = [path for path in got if path.startswith("decoder/")][-1]
    close(got[last]["outputs"], model(x))


def test_calls_of_a_shared_layer_are_pooled():
    first, second, layer = keras.Input((3,)), keras.Input((3,)), kl.Dense(2, name="a")
    inner = keras.Model([first, second], kl.Concatenate()([layer(first), layer(second)]))
    inputs = keras.Input((3,))
    model = keras.Model(inputs, inner([inputs, kl.Rescaling(-2.0)(inputs)]))
    x = noise(5, 3)

    def ends(record):
        o = record.outputs
        return {"sum": tf.reduce_sum(o, 0), "low": tf.reduce_min(o, 0), "high": tf.reduce_max(o, 0)}

    (got,) = stream(evidence(model, x), ends, batch_size=2)
    both = np.concatenate([x, -2 * x]) @ layer.kernel.numpy()
    close(got["sum"], both.sum(axis=0))
    close(got["low"], both.min(axis=0))
    close(got["high"], both.max(axis=0))


def all_states(layer, x):
    """The states of every step, by a second layer with the same weights."""
    config = {**layer.get_config(), "return_sequences": True, "return_state": False, "name": "again"}
    twin = type(layer).from_config(config)
    twin(x)
    twin.set_weights(layer.get_weights())
    return twin(x).numpy()


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"), [(kl.LSTM, {}), (kl.GRU, {"go_backwards": True}), (kl.SimpleRNN, {"unroll": True})]
)
def test_recurrent_kernels_read_inputs_and_the_states_before_every_step(kind, options, sequences):
    layer, x = kind(3, return_sequences=sequences, name="rnn", **options), noise(2, 4, 2)
    model = keras.Sequential([keras.Input((4, 2)), layer])
    got = recorded(model, x)
    states = all_states(layer, x)
    kernel, recurrent = (got[next(p for p in got if p.endswith(f"/{n}"))] for n in ("kernel", "recurrent_kernel"))
    close(kernel["inputs"], x[:, ::-1] if "go_backwards" in options else x)
    close(kernel["outputs"], states)
    close(recurrent["inputs"], np.concatenate([np.zeros((2, 1, 3)), states[:, :-1]], axis=1))
    close(recurrent["outputs"], states)
    assert layer.return_sequences is sequences


def test_cells_in_a_stack_are_recorded_one_by_one():
    cells, x = [kl.LSTMCell(3, name="one"), kl.GRUCell(2, name="two")], noise(2, 4, 5)
    model = keras.Sequential([keras.Input((4, 5)), kl.RNN(cells, return_sequences=True, name="rnn")])
    got = recorded(model, x)
    first = kl.RNN(cells[0], return_sequences=True)(x)
    path = next(p for p in got if p.endswith("two/kernel"))
    close(got[path]["inputs"], first)
    close(got[path]["outputs"], model(x))
    close(got[path.replace("two", "one")]["outputs"], first)


def test_bidirectional_and_convolutional_recurrent_layers_are_recorded():
    x = noise(2, 3, 4)
    two = keras.Sequential([keras.Input((3, 4)), kl.Bidirectional(kl.GRU(2, return_sequences=True))])
    both = [v["outputs"] for path, v in recorded(two, x).items() if path.endswith("/kernel")]
    close(np.concatenate([both[0], both[1][:, ::-1]], axis=-1), two(x))
    x = noise(2, 3, 5, 5, 1)
    conv = kl.ConvLSTM2D(2, 3, padding="same")
    model = keras.Sequential([keras.Input((3, 5, 5, 1)), conv])
    got = list(recorded(model, x).values())
    assert got[1]["inputs"].shape == (2, 3, 5, 5, 2)
    close(got[0]["outputs"][:, -1], model(x))


@pytest.mark.parametrize("steps", [3, None])
def test_every_step_of_a_time_distributed_layer_is_a_sample(steps):
    layer, x = kl.Dense(2, activation="relu", name="inner"), noise(4, 3, 5)
    model = keras.Sequential([keras.Input((steps, 5)), kl.TimeDistributed(layer, name="steps")])
    (got,) = recorded(model, x).values()
    close(got["outputs"], model(x).numpy().reshape(12, 2))


def test_the_second_kernel_of_a_separable_convolution_reads_what_the_first_puts_out():
    layer, x = kl.SeparableConv2D(3, 3, depth_multiplier=2, name="s"), noise(2, 5, 5, 2)
    model = keras.Sequential([keras.Input((5, 5, 2)), layer])
    got = recorded(model, x)
    middle = keras.ops.depthwise_conv(x, layer.depthwise_kernel)
    close(got["s/depthwise_kernel"]["outputs"], middle)
    close(got["s/pointwise_kernel"]["inputs"], middle)
    close(got["s/pointwise_kernel"]["outputs"], model(x))


def snapshot(model):
    layers = [dict(vars(layer)) for layer in model._flatten_layers()]
    return {
        "values": [keras.ops.convert_to_numpy(v).copy() for v in (*model.variables, *model.optimizer.variables)],
        "trainable": [layer.trainable for layer in model._flatten_layers()],
        "attributes": [{name: id(value) for name, value in held.items()} for held in layers],
        "losses": len(model._losses),
    }


def delicate():
    """A compiled model with all that a forward pass could change."""
    inputs = keras.Input((4, 3), batch_size=2)
    y = kl.LSTM(4, stateful=True, dropout=0.5, return_sequences=True)(inputs)
    y = kl.ReLU()(kl.BatchNormalization()(kl.Dense(4, activity_regularizer="l2")(y)))
    model = keras.Model(inputs, kl.Dense(1, trainable=False)(kl.Dropout(0.5)(y)))
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was_also_after_an_error(fails):
    model, x = delicate(), noise(4, 4, 3)
    model.train_on_batch(x[:2], np.zeros((2, 4, 1)))
    before, function = snapshot(model), model.train_function

    def reduce(record):
        if fails and record.weight.path.endswith("recurrent_kernel"):
            raise RuntimeError("on purpose")
        return {"sum": tf.reduce_sum(record.outputs)}

    seen = evidence(model, x)
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            stream(seen, reduce)
    else:
        stream(seen, reduce)
    after = snapshot(model)
    for a, b in zip(before.pop("values"), after.pop("values"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert after == before
    assert model.train_function is function


def test_losses_and_tensors_that_layers_noted_stay():
    vae, x = models.variational((6,), 2, hidden_units=(4,)), np.abs(noise(5, 6))
    vae(x)
    code = vae.encoder.get_layer("code")
    before = float(code.losses[0]), code.divergence
    recorded(vae, 2 * x)
    assert float(code.losses[0]) == before[0] and code.divergence is before[1]


def test_sampling_and_frozen_and_half_precision_layers_are_recorded():
    vae, x = models.variational((6,), 2, hidden_units=(4,)), np.abs(noise(5, 6))
    vae.encoder.trainable = False
    got = recorded(vae, x)
    close(got["encoder/mean/kernel"]["outputs"], vae.encoder(x))
    half = keras.Sequential([keras.Input((6,)), kl.Dense(3, activation="relu", name="a", dtype="mixed_float16")])
    (found,) = recorded(half, x).values()
    assert found["outputs"].dtype == np.float64  # summed up wide
    np.testing.assert_allclose(found["outputs"], half(x), rtol=1e-2, atol=1e-2)


def test_batches_of_different_sizes_add_up():
    model, x = keras.Sequential([keras.Input((3,)), kl.Dense(2, name="a")]), noise(11, 3)
    seen = evidence(model, x)
    for size in (1, 4, 11, 100):
        (got,) = stream(seen, lambda r: {"sum": tf.reduce_sum(r.outputs, 0)}, batch_size=size)
        close(got["sum"], model(x).numpy().sum(axis=0))


class CellWithLayer(kl.Layer):
    state_size = 2

    def __init__(self):
        super().__init__()
        self.inner = kl.Dense(2, name="inner")

    def build(self, shape):
        self.inner.build((None, shape[-1]))

    def call(self, x, states):
        h = self.inner(x) + states[0]
        return h, [h]


class Unused(Plain):
    def call(self, x):
        return self.b(self.end(self.a(x))) if x.shape[-1] == 4 else self.b(x)


def test_what_cannot_be_recorded_is_refused():
    x, model = noise(4, 3), keras.Sequential([keras.Input((3,)), kl.Dense(2, name="a")])
    with pytest.raises(InputError, match="data: got none"):
        stream(Evidence(model, tuple(weights(model))), dict)
    with pytest.raises(InputError, match=r"samples of shape \(5,\), allowed: \(3,\)"):
        recorded(model, noise(4, 5))
    with pytest.raises(InputError, match="a/kernel: got NaN"):
        recorded(model, np.full((4, 3), np.nan, "float32"))
    with pytest.raises(InputError, match="3 samples .* fixed batch size 2, allowed"):
        recorded(delicate(), noise(3, 4, 3))
    with pytest.raises(InputError, match="inside a loop.*exclude"):
        recorded(keras.Sequential([keras.Input((4, 3)), kl.RNN(CellWithLayer())]), noise(2, 4, 3))
    unused = Unused()
    unused.a.build((None, 3))
    unused(x)
    with pytest.raises(InputError, match="a/kernel: .*does not use"):
        recorded(unused, x)


def test_real_models_are_recorded_whole(real_data):
    x = np.random.default_rng(0).random((32, 32, 32, 3), "float32")
    model = keras.models.load_model(real_data / "models" / "mlperf_tiny_resnet8.h5", compile=False)
    got = recorded(model, x)
    relu = [v for v in got.values() if v["activation"] == "relu"]
    assert len(relu) >= 4
    assert all((v["outputs"] >= 0).all() for v in relu)
