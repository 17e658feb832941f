import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.criteria.base import Criterion, Evidence
from keras_aeprune.criteria.scoring import evidence, measured, scores, single_kernel, unit_scores


class Fixed(Criterion):
    """Gives what it is told to."""

    def __init__(self, found=None):
        self.found = found

    def measure(self, seen):
        return self.found


class Hungry(Fixed):
    needs = "gradients"


class Units(Fixed):
    def measure_units(self, seen):
        return {w.layer_path: np.arange(w.variable.shape[-1]) for w in seen.weights}


def nested():
    encoder = keras.Sequential([keras.Input((3,)), kl.Dense(2, name="code")], name="encoder")
    decoder = keras.Sequential([keras.Input((2,)), kl.Dense(3, name="out")], name="decoder")
    inputs = keras.Input((3,))
    return keras.Model(inputs, decoder(encoder(inputs)))


def with_kernel(kernel, layer, inputs):
    model = keras.Sequential([keras.Input(inputs), layer])
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    model.weights[0].assign(kernel)
    return model


def test_scores_go_by_the_whole_path_and_have_the_kernels_shape():
    model = nested()
    found = scores(model)
    assert {path: array.shape for path, array in found.items()} == {
        "encoder/code/kernel": (3, 2),
        "decoder/out/kernel": (2, 3),
    }
    np.testing.assert_array_equal(found["encoder/code/kernel"], np.abs(model.get_layer("encoder").weights[0]))


def test_include_takes_names_paths_and_patterns_and_refuses_what_fits_nothing():
    model = nested()
    for name in ("code", "encoder/code", "enc*", ["code"]):
        assert list(scores(model, include=name)) == ["encoder/code/kernel"]
    with pytest.raises(InputError, match=r"include: got 'hidden', allowed: .*encoder/code/kernel"):
        scores(model, include="hidden")


def test_frozen_kernels_are_scored_and_unknown_layers_are_named():
    class Own(kl.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 2))

        def call(self, x):
            return x @ self.w

    model = keras.Sequential([keras.Input((3,)), kl.Dense(2, name="a"), Own(name="own")])
    model.get_layer("a").trainable = False
    with pytest.warns(UserWarning, match="layers without scores: own: unknown layer kind Own"):
        assert list(scores(model)) == ["a/kernel"]
    with pytest.raises(InputError, match="include: got 'own', .*unknown layer kind Own"):
        scores(model, include="own")


def test_a_criterion_that_needs_data_says_so_and_one_with_data_sees_them():
    model, x = nested(), np.ones((5, 3), "float32")
    with pytest.raises(InputError, match=r"data: got None, .*Hungry.*gradients; give data=x"):
        scores(model, Hungry())
    seen_by = []

    class Looking(Hungry):
        def measure(self, seen):
            seen_by.append(seen)
            return [np.zeros(w.variable.shape) for w in seen.weights]

    scores(model, Looking(), x, loss="mae", samples=4, include="code")
    [seen] = seen_by
    assert (len(seen.data), seen.loss, [w.path for w in seen.weights]) == (4, "mae", ["encoder/code/kernel"])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.ones((3, 2)), "got array"),
        ([np.ones((3, 2))], "got 1 arrays, allowed: a list of 2"),
        ([np.ones((2, 3)), np.ones((2, 3))], r"got scores of shape \(2, 3\) for encoder/code/kernel, .*\(3, 2\)"),
        ([np.ones((3, 2)), "text"], "got 'text' for decoder/out/kernel, allowed: numbers"),
        (
            [np.ones((3, 2)), np.array([[0, np.nan, 0], [0, 0, np.inf]])],
            "got 2 NaN or infinite values of 6 for decoder/out/kernel .*the criterion itself",
        ),
    ],
)
def test_scores_that_break_the_law_are_refused_with_the_kernel(found, message):
    with pytest.raises(InputError, match=message):
        scores(nested(), Fixed(found))


def test_a_nan_says_where_it_comes_from():
    model = nested()
    nan = [np.full(w.variable.shape, np.nan) for w in weights(model)]
    with pytest.raises(InputError, match="its gradients overflowed"):
        scores(model, Hungry(nan), np.ones((2, 3)))
    model.get_layer("decoder").weights[0].assign(np.full((2, 3), np.nan))
    with pytest.raises(InputError, match=r"decoder/out/kernel.*did the training diverge"):
        scores(model, include="out")


def test_finite_scores_whose_sum_overflows_are_fine():
    model = nested()
    big = [np.full(w.variable.shape, 3e38, np.float32) for w in weights(model)]
    assert scores(model, Fixed(big))["decoder/out/kernel"].max() == np.float32(3e38)


def test_float64_and_lists_come_out_as_float32():
    model = nested()
    seen = Evidence(model, tuple(weights(model)))
    found = measured(Fixed([np.ones((3, 2)).tolist(), np.ones((2, 3), "float64")]), seen)
    assert {array.dtype for array in found} == {np.dtype("float32")}


def test_kernels_that_the_caller_holds_are_not_read_again():
    model = nested()
    mine = [np.full(w.variable.shape, 7, np.float32) for w in weights(model)]
    seen = evidence(Fixed(), model, weights(model), kernels=mine)
    assert all(a is b for a, b in zip(seen.kernels, mine, strict=True))


@pytest.mark.parametrize(
    ("reduction", "expected"), [("l2", [5, 2]), ("l1", [7, 2]), ("mean", [3.5, 1]), ("max", [4, 2])]
)
def test_units_of_a_dense_layer_by_hand(reduction, expected):
    model = with_kernel([[3.0, 0.0], [-4.0, 2.0]], kl.Dense(2, name="a"), (2,))
    np.testing.assert_allclose(unit_scores(model, reduction=reduction)["a"], expected)


def test_units_follow_the_unit_axis_of_each_layer_kind():
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            kl.Conv2D(3, 2, name="conv"),
            kl.DepthwiseConv2D(2, name="depth"),
            kl.SeparableConv2D(5, 2, name="separable"),
            kl.Conv2DTranspose(4, 2, name="up"),
        ]
    )
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    found = unit_scores(model, reduction="l1")
    w = {layer.name: layer for layer in model.layers}
    np.testing.assert_allclose(found["conv"], np.abs(w["conv"].kernel).sum((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["depth"], np.abs(w["depth"].kernel).sum((0, 1, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["up"], np.abs(w["up"].kernel).sum((0, 1, 3)), rtol=1e-5)
    np.testing.assert_allclose(
        found["separable"], np.abs(w["separable"].pointwise_kernel).sum((0, 1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize(("cell", "gates"), [(kl.LSTM, 4), (kl.GRU, 3), (kl.SimpleRNN, 1)])
def test_a_recurrent_unit_has_the_columns_of_all_its_gates_in_both_kernels(cell, gates):
    units = 3
    model = keras.Sequential([keras.Input((4, 2)), cell(units, name="r")])
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    [found] = unit_scores(model, reduction="mean").values()
    inner = model.layers[0].cell
    kernels = [np.abs(np.asarray(k)) for k in (inner.kernel, inner.recurrent_kernel)]
    for unit in range(units):
        own = [k[:, gate * units + unit] for k in kernels for gate in range(gates)]
        assert found[unit] == pytest.approx(np.concatenate(own).mean(), rel=1e-5)


def test_native_unit_scores_are_used_unless_a_reduction_is_asked_for():
    model = with_kernel([[3.0, 0.0], [4.0, 2.0]], kl.Dense(2, name="a"), (2,))
    own = Units([[[1.0, 1.0], [1.0, 0.0]]])
    np.testing.assert_array_equal(unit_scores(model, own)["a"], [0, 1])
    np.testing.assert_array_equal(unit_scores(model, own, reduction="l1")["a"], [2, 1])
    with pytest.raises(InputError, match="reduction: got 'l3', allowed: l2, l1, mean, max"):
        unit_scores(model, reduction="l3")


def test_a_kernel_without_units_is_left_out_of_unit_scores():
    model = keras.Sequential(
        [keras.Input((4, 3)), kl.EinsumDense("abc,cd->abd", (None, 2)), kl.Dense(2, name="d")]
    )
    assert list(unit_scores(model)) == ["d"]


def test_layers_of_one_kernel_take_criteria_of_one_kernel_only():
    assert single_kernel("random").seed == 0
    for whole in (Hungry(), Fixed()):
        with pytest.raises(InputError, match=r"looks at a whole model, allowed: .*keras_aeprune\.Prune"):
            single_kernel(whole)
