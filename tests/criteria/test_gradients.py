import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria import base
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.gradients import SNIP, GradientMagnitude, GraSP, Taylor, gradients
from keras_aeprune.models import variational

CRITERIA = [SNIP(), GradientMagnitude(), Taylor(), Taylor("group"), Taylor("gate"), GraSP()]


def show(model, x, y=None, loss="mse", paths=None):
    found = tuple(w for w in weights(model) if w.kernel is not None and (paths is None or w.path in paths))
    return Evidence(model, found, Calibration(np.asarray(x), y), loss)


# The hand-worked net: L_n = .5 (y - t)^2 and L their mean, so z = [[5, 1], [1, 2.5]] and y = [3.5, -3.5].
X, T = np.array([[1, 2], [-1, 1]], "float32"), np.array([[1], [0]], "float32")


def half_square(y_true, y_pred):
    return 0.5 * tf.square(y_pred - y_true)


def worked():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(2, "relu", name="hidden"), kl.Dense(1, name="out")])
    model.set_weights([np.array(v) for v in ([[1, -1], [2, 0.5]], [0, 1], [[1], [-2]], [0.5])])
    return show(model, X, T, half_square)


def test_gradients_snip_and_taylor_of_the_hand_worked_net():
    first, second = gradients(worked())
    np.testing.assert_allclose(first, [[3, -6], [0.75, -1.5]], rtol=1e-6)
    np.testing.assert_allclose(second, [[4.5], [-3.125]], rtol=1e-6)
    first, second = SNIP().measure(worked())
    np.testing.assert_allclose(first, [[3, 6], [1.5, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(second, [[4.5], [6.25]], rtol=1e-6)
    first, second = Taylor().measure(worked())
    np.testing.assert_allclose(first, [[9, 36], [2.25, 0.5625]], rtol=1e-6)
    np.testing.assert_allclose(second, [[20.25], [39.0625]], rtol=1e-6)


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [
        (2, [4.5**2, 6.25**2]),  # one batch: the square of |mean a da|
        (1, [84.25, 165.625]),  # one sample a batch: the mean of (a da)^2, twice the score of Theis
    ],
)
@pytest.mark.parametrize("form", ["group", "gate"])
def test_units_of_the_hand_worked_net_depend_on_the_batch(form, batch_size, expected):
    units = Taylor(form, batch_size=batch_size).measure_units(worked())
    np.testing.assert_allclose(units["hidden"], expected, rtol=1e-6)


def test_the_size_of_gradients_of_single_samples_is_the_root_of_the_fisher_diagonal():
    # F of W1 is [[9.25, 37], [18.625, 74.5]], of W2 [84.25, 41.40625]
    first, second = GradientMagnitude(1, batch_size=1).measure(worked())
    np.testing.assert_allclose(first, np.sqrt([[9.25, 37], [18.625, 74.5]]) * [[1, 1], [2, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(second, np.sqrt([[84.25], [41.40625]]) * [[1], [2]], rtol=1e-6)


def test_exponent_zero_is_the_magnitude_and_one_ranks_weights_as_taylor_does():
    seen = worked()
    for scores, kernel in zip(GradientMagnitude(0).measure(seen), seen.kernels, strict=True):
        np.testing.assert_allclose(scores, np.abs(kernel))
    taylor = Taylor(batch_size=1).measure(seen)
    for scores, squared in zip(GradientMagnitude(1.0, batch_size=1).measure(seen), taylor, strict=True):
        np.testing.assert_allclose(scores**2, squared, rtol=1e-5)


def test_grasp_of_two_weights_by_hand():
    # y = w1 w2 x with w = (1, 2), x = 1, t = 3, L = (w1 w2 - t)^2, r = w1 w2 - t = -1:
    # g = (2 r w2, 2 r w1) = (-4, -2);  H = [[2 w2^2, 4 w1 w2 - 2 t], [same, 2 w1^2]] = [[8, 2], [2, 2]]
    # H g = (-36, -12), so w H g = (-36, -24): w1 goes first, as |g|^2 = 20 grows most without it
    model = keras.Sequential([keras.Input((1,)), kl.Dense(1, use_bias=False), kl.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0]]), np.array([[2.0]])])
    first, second = GraSP().measure(show(model, np.ones((2, 1), "float32"), np.full((2, 1), 3.0, "float32")))
    np.testing.assert_allclose([first[0, 0], second[0, 0]], [-36, -24], rtol=1e-6)


# Architectures, in float64 and small enough for a loop over weights.
class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.two = kl.Dense(3, "tanh"), kl.Dense(4)

    def call(self, x):
        return self.two(self.one(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 4)))
    return model, (4,)


def nested():
    encoder = keras.Sequential([keras.Input((4,)), kl.Dense(3, "tanh"), kl.BatchNormalization()], name="encoder")
    decoder = keras.Sequential([keras.Input((3,)), kl.Dropout(0.5), kl.Dense(4, "sigmoid")], name="decoder")
    return keras.Sequential([keras.Input((4,)), encoder, decoder]), (4,)


def shared():
    x = keras.Input((3,))
    layer = kl.Dense(3, "tanh", name="twice")
    return keras.Model(x, layer(layer(x))), (3,)


def convolution():
    layers = [kl.Conv2D(2, 3, padding="same", activation="tanh"), kl.DepthwiseConv2D(2, depth_multiplier=2)]
    return keras.Sequential([keras.Input((4, 4, 1)), *layers, kl.Conv2DTranspose(1, 2)]), (4, 4, 1)


def recurrent():
    return keras.Sequential([keras.Input((3, 2)), kl.LSTM(2), kl.Dense(2)]), (3, 2)


def bidirectional():
    return keras.Sequential([keras.Input((3, 2)), kl.Bidirectional(kl.GRU(1)), kl.Dense(2)]), (3, 2)


def vae():
    return variational((4,), 2, hidden_units=(3,), output_activation="linear"), (4,)


MODELS = [subclassed, nested, shared, convolution, recurrent, vae]


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def example(make, samples=5):
    keras.utils.set_random_seed(2)
    model, shape = make()
    x = np.random.default_rng(1).normal(size=(samples, *shape))
    y = np.random.default_rng(2).normal(size=(samples, *model(x).shape[1:]))
    return show(model, x, y)


def slow_loss(seen):
    model, x = seen.model, seen.data.x
    loss = float(np.mean(np.square(np.asarray(model(x, training=False)) - seen.data.y)))
    if hasattr(model, "beta"):
        code = model.encoder.get_layer("code")
        mean, log_variance = map(np.asarray, keras.Model(model.encoder.input, code.input)(x))
        kl = np.mean(np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance, axis=1)) / 2
        loss += model.beta * float(kl) / x[0].size
    return loss


def slow_gradient(seen, variable, index, step=1e-5):
    value, losses = variable.numpy(), []
    for sign in (1, -1):
        moved = value.copy()
        moved[index] += sign * step
        variable.assign(moved)
        losses.append(slow_loss(seen))
    variable.assign(value)
    return (losses[0] - losses[1]) / (2 * step)


def some(shape, count=6):
    flat = np.random.default_rng(3).permutation(int(np.prod(shape)))[:count]
    return [tuple(int(i) for i in np.unravel_index(one, shape)) for one in flat]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", [*MODELS, bidirectional])
def test_gradients_are_finite_differences_of_the_loss(make):
    seen = example(make)
    for weight, found in zip(seen.weights, gradients(seen, batch_size=2), strict=True):
        assert found.dtype == np.float32
        assert found.shape == tuple(weight.variable.shape)
        for index in some(found.shape):
            expected = slow_gradient(seen, weight.variable, index)
            np.testing.assert_allclose(found[index], expected, rtol=1e-4, atol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", MODELS)
def test_grasp_is_the_change_of_the_gradients_along_themselves(make):
    seen = example(make)
    start, first = [w.variable.numpy() for w in seen.weights], gradients(seen)
    moved = []
    for sign in (1e-3, -1e-3):
        for weight, value, slope in zip(seen.weights, start, first, strict=True):
            weight.variable.assign(value + sign * slope)
        moved.append(gradients(seen))
    for weight, value in zip(seen.weights, start, strict=True):
        weight.variable.assign(value)
    for value, up, down, found in zip(start, *moved, GraSP(batch_size=2).measure(seen), strict=True):
        np.testing.assert_allclose(found, value * (up - down) / 2e-3, rtol=2e-2, atol=2e-5)


@pytest.mark.parametrize("make", [nested, convolution])
def test_batches_are_measured_as_if_each_were_all_the_data(make):
    seen = example(make)
    parts = [show(seen.model, seen.data.x[s], seen.data.y[s]) for s in (slice(0, 2), slice(2, 4), slice(4, 5))]
    alone = [gradients(part) for part in parts]
    expected = [
        sum(n * g**2 for n, g in zip((2, 2, 1), slopes, strict=True)) / 5 for slopes in zip(*alone, strict=True)
    ]
    for kernel, mean, found in zip(seen.kernels, expected, Taylor(batch_size=2).measure(seen), strict=True):
        np.testing.assert_allclose(found, kernel**2 * mean, rtol=1e-3, atol=1e-9)


def relu_net():
    layers = [kl.Conv1D(3, 2, activation="relu"), kl.Conv1DTranspose(2, 2, activation="relu"), kl.Flatten()]
    depthwise = kl.DepthwiseConv1D(2, depth_multiplier=2, activation="relu")
    net = [depthwise, *layers, kl.Dense(4, "relu"), kl.Dense(2)]
    return keras.Sequential([keras.Input((6, 2)), *net]), (6, 2)


def test_group_and_gate_are_equal_for_units_with_relu():
    seen = example(relu_net)
    seen.model.set_weights([w + 0.1 for w in seen.model.get_weights()])
    group, gate = (Taylor(form, batch_size=2).measure_units(seen) for form in ("group", "gate"))
    assert list(group) == list(gate)
    assert [scores.shape for scores in group.values()] == [(2,), (3,), (2,), (4,), (2,)]
    for path in group:
        np.testing.assert_allclose(group[path], gate[path], rtol=1e-4, atol=1e-9, err_msg=path)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [kl.LSTM, kl.GRU, kl.SimpleRNN])
def test_the_gate_of_a_recurrent_unit_scales_its_output_where_it_is_read_and_fed_back(kind):
    def make():
        return keras.Sequential([keras.Input((4, 2)), kind(3, use_bias=kind is not kl.GRU), kl.Dense(2)]), (4, 2)

    seen = example(make)
    (path, found), (_, dense) = Taylor("gate", batch_size=5).measure_units(seen).items()
    assert path.endswith("cell")
    assert dense.shape == (2,)
    back, read = seen.weights[1].variable, seen.weights[2].variable
    values = back.numpy(), read.numpy()
    for unit in range(3):
        losses = []
        for sign in (1, -1):
            for variable, value in zip((back, read), values, strict=True):
                scaled = value.copy()
                scaled[unit] *= 1 + sign * 1e-5
                variable.assign(scaled)
            losses.append(slow_loss(seen))
        back.assign(values[0]), read.assign(values[1])
        # GRU also hands its output on beside the kernels, in z * h: there the gate is not a scaling of rows
        if kind is not kl.GRU:
            np.testing.assert_allclose(found[unit], ((losses[0] - losses[1]) / 2e-5) ** 2, rtol=1e-4)
    assert (found > 0).all()


@pytest.mark.parametrize("form", ["group", "gate"])
def test_weight_scores_of_units_add_up_to_the_unit(form):
    seen = example(lambda: (keras.Sequential([keras.Input((4, 2)), kl.LSTM(3), kl.Dense(2)]), (4, 2)))
    kernel, back, dense = Taylor(form, batch_size=2).measure(seen)
    lstm, out = Taylor(form, batch_size=2).measure_units(seen).values()
    columns = np.concatenate([kernel, back]).reshape(-1, 4, 3)  # four gates of three units
    np.testing.assert_allclose(columns.sum((0, 1)), lstm, rtol=1e-5)
    np.testing.assert_allclose(dense.sum(0), out, rtol=1e-5)
    assert np.unique(kernel[:, 0]).size == 1


def test_kernels_without_output_units_are_refused_by_name():
    x = keras.Input((3, 4))
    y = kl.EinsumDense("abc,cd->abd", output_shape=(None, 2), name="mix")(x)
    model = keras.Model(x, kl.SeparableConv1D(2, 2, name="split")(y))
    seen = show(model, np.ones((2, 3, 4), "float32"), np.ones((2, 2, 2), "float32"))
    with pytest.raises(InputError, match=r"\(mix/kernel, split/depthwise_kernel\), allowed: form='weight'"):
        Taylor("group").measure(seen)
    assert list(Taylor("gate").measure_units(seen)) == ["split"]


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
@pytest.mark.parametrize("make", [subclassed, nested, vae])
def test_scores_are_finite_and_the_model_stays_as_it_was(make, criterion):
    seen = example(make)
    model = seen.model
    model.compile("sgd", "mse")
    model.train_on_batch(seen.data.x, seen.data.y)
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)]
    attributes = [dict(vars(layer)) for layer in model._flatten_layers()]
    for weight, scores in zip(seen.weights, criterion.measure(seen), strict=True):
        assert scores.shape == tuple(weight.variable.shape)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()
        assert scores.any(), weight.path
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    for old, layer in zip(attributes, model._flatten_layers(), strict=True):
        assert vars(layer) == old


def test_frozen_kernels_are_measured_too():
    seen = example(convolution)
    free = gradients(seen)
    seen.model.trainable = False
    for a, b in zip(free, gradients(seen), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(layer.trainable for layer in seen.model.layers)


def test_what_the_loss_does_not_reach_gets_zeros_and_embeddings_get_dense_gradients():
    tokens = keras.Input((2,), name="tokens")
    read = kl.Dense(1, name="read")(kl.Flatten()(kl.Embedding(4, 2, name="table")(tokens)))
    model = keras.Model(tokens, [read, kl.Dense(1, name="unread")(read)])
    loss = [keras.losses.MeanSquaredError(), None]
    seen = show(model, np.array([[0, 2], [2, 2]]), np.ones((2, 1), "float32"), loss)
    for criterion in (SNIP(), GraSP(), Taylor("group"), Taylor("gate")):
        found = dict(zip((w.path for w in seen.weights), criterion.measure(seen), strict=True))
        assert not found["unread/kernel"].any()
        assert found["read/kernel"].any()
    table = gradients(seen)[0]
    assert table.shape == (4, 2)
    assert (table != 0).any(axis=1).tolist() == [True, False, True, False]


def test_the_compiled_loss_is_taken_where_none_is_given():
    given = worked()
    model = given.model
    model.compile("sgd", "mse")
    for a, b in zip(
        gradients(Evidence(model, given.weights, given.data)), gradients(show(model, X, T, "mse")), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_missing_data_and_numbers_that_are_not_finite_are_refused(criterion):
    seen = worked()
    with pytest.raises(InputError, match="data: got no samples, allowed: data=x"):
        criterion.measure(Evidence(seen.model, seen.weights, None, "mse"))
    attributes = [dict(vars(layer)) for layer in seen.model._flatten_layers()]
    with pytest.raises(InputError, match="got gradients that are NaN or infinite"):
        criterion.measure(show(seen.model, X, T * np.nan, half_square))
    assert [dict(vars(layer)) for layer in seen.model._flatten_layers()] == attributes


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_criteria_come_back_from_their_config(criterion):
    twin = base.get(base.serialize(criterion))
    assert type(twin) is type(criterion)
    assert twin.get_config() == criterion.get_config()


def test_arguments_out_of_range_are_refused():
    with pytest.raises(InputError, match="form: got 'unit', allowed: weight, group, gate"):
        Taylor("unit")
    with pytest.raises(InputError, match="exponent: got -1, allowed: a number >= 0"):
        GradientMagnitude(-1)
    with pytest.raises(InputError, match="batch_size: got 0"):
        GraSP(batch_size=0)
    with pytest.raises(InputError, match="got form='weight', allowed: 'group' or 'gate'"):
        Taylor().measure_units(worked())


def test_a_quarter_is_the_exponent_unless_one_is_given():
    roots, scores = GradientMagnitude(1).measure(worked()), GradientMagnitude().measure(worked())
    for root, score, kernel in zip(roots, scores, worked().kernels, strict=True):
        size = np.abs(kernel)
        np.testing.assert_allclose(score, size * (root / size) ** 0.25, rtol=1e-6)
