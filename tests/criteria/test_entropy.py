"""Activation entropies: numbers worked by hand, and the traps that the papers' critics name."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import models
from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.entropy import ActivationEntropy, layer_entropies


def evidence(model, x):
    return Evidence(model, tuple(w for w in weights(model) if w.kernel), Calibration(np.asarray(x, "float32")))


def passing(columns, activation=None, then=()):
    """A layer that puts out its inputs, one column per unit."""
    x = np.asarray(columns, "float32").T
    layer = kl.Dense(x.shape[1], activation=activation, name="a")
    model = keras.Sequential([keras.Input((x.shape[1],)), layer, *then])
    layer.set_weights([np.eye(x.shape[1]), np.zeros(x.shape[1])])
    return model, x


def histogram_units(columns, bins):
    return ActivationEntropy(bins=bins).measure_units(evidence(*passing(columns)))["a"]


def state_units(columns, activation="relu"):
    return ActivationEntropy("state").measure_units(evidence(*passing(columns, activation)))["a"]


def test_the_histogram_is_worked_by_hand():
    assert histogram_units([[0, 0, 0, 1, 2, 2, 3, 3]], 4) == pytest.approx([1.320888], abs=1e-6)


def test_state_entropy_is_worked_by_hand():
    columns = [[1, -1, -1, -1], [1, 1, -1, -1], [1, 2, 3, 4], [-1, -2, 0, 0]]
    assert state_units(columns) == pytest.approx([0.811278, 1, 0, 0], abs=1e-6)


def test_a_constant_unit_tells_nothing():
    assert histogram_units([[7] * 5, [1, 2, 3, 4, 5]], 8)[0] == 0
    assert histogram_units([[7] * 5], 8)[0] == 0
    assert state_units([[7] * 5, [1, -2, 3, -4, 5]])[0] == 0


def test_a_near_dead_noisy_unit_does_not_score_high():
    rng = np.random.default_rng(0)
    dead, alive = histogram_units([1e-4 * rng.random(200), rng.random(200)], 16)
    assert dead == 0 and alive > 2


def test_histograms_equal_numpys_over_batches():
    columns = np.random.default_rng(0).normal(size=(3, 700)) * [[1.0], [2.0], [0.3]]
    got = histogram_units(columns, 10)
    ends = columns.astype("float32").min(), columns.astype("float32").max()
    for column, entropy in zip(columns.astype("float32"), got, strict=True):
        p = np.histogram(column, 10, ends)[0] / 700
        assert entropy == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), abs=0.01)


def test_channels_are_averaged_over_positions_first():
    model = keras.Sequential([keras.Input((2, 2, 1)), kl.Conv2D(1, 1, name="a")])
    model.layers[0].set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    x = np.zeros((4, 2, 2, 1))
    x[:2, 0, 0], x[2:, 1, 1] = 4, 4  # all means are 1
    assert ActivationEntropy().measure_units(evidence(model, x))["a"] == [0]
    x[0] *= 2
    by_hand = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert ActivationEntropy().measure_units(evidence(model, x))["a"] == pytest.approx([by_hand])


@pytest.mark.parametrize("follower", [kl.ReLU(), kl.LeakyReLU(0.1), kl.Activation("gelu"), kl.PReLU()])
def test_the_state_is_that_of_the_activations_input_wherever_the_activation_is(follower):
    seen = evidence(*passing([[1, -1, -1, -1], [1, 1, -1, -1]], then=[follower]))
    assert ActivationEntropy("state").measure_units(seen)["a"] == pytest.approx([0.811278, 1], abs=1e-6)


def test_units_whose_state_means_nothing_get_one_bit_and_are_named():
    model = models.dense((4,), 2, hidden_units=(3,))
    x = np.random.default_rng(0).normal(size=(8, 4))
    with pytest.warns(UserWarning, match="no meaning for encoder/code: linear outputs have no OFF side; .*1 bit"):
        units = ActivationEntropy("state").measure_units(evidence(model, x))
    assert (units["encoder/code"] == 1).all()
    z = x.astype("float32") @ model.encoder.layers[1].kernel.numpy()
    p = (z > 0).mean(axis=0)
    by_hand = [0 if q in (0, 1) else -q * np.log2(q) - (1 - q) * np.log2(1 - q) for q in p]
    assert units["encoder/hidden_1"] == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("activation", [None, "sigmoid", "tanh", "softplus"])
def test_state_is_refused_for_a_model_without_a_rectifier(activation):
    with pytest.raises(InputError, match="form: got 'state' for a model without a rectifier .a: .*histogram"):
        state_units([[1, 2]], activation)


def test_no_warning_where_all_layers_switch():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state_units([[1, -1]])


COLUMNS = [[1, 1, -1, -1], [1, 1, 1, 1], [1, -1, -1, -1], [0, 0, 0, 0]]


def test_egp_means_over_units_that_switch_and_easier_over_all():
    model, x = passing(COLUMNS, "relu")
    (row,) = layer_entropies(model, x)
    assert (row.path, row.activation, row.units) == ("a", "relu", 4)
    assert row.entropy == pytest.approx((1 + 0.811278) / 2, abs=1e-6)
    (row,) = layer_entropies(model, x, form="easier")
    assert row.entropy == pytest.approx((1 + 0.811278) / 4, abs=1e-6)  # 0 counts as ON


def test_only_easier_counts_zero_as_on():
    model, x = passing([[0, 0, -1, -1]], "relu")
    assert layer_entropies(model, x)[0].entropy == 0  # never ON
    assert layer_entropies(model, x, form="easier")[0].entropy == pytest.approx(1)


def test_easier_is_a_mean_over_batches():
    model, x = passing(COLUMNS, "relu")
    (row,) = layer_entropies(model, x, form="easier", batch_size=2)  # batches: 0, 0, 1, 0 and 0, 0, 0, 0
    assert row.entropy == pytest.approx(1 / 8)
    assert layer_entropies(model, x, batch_size=2)[0].entropy == pytest.approx((1 + 0.811278) / 2, abs=1e-6)


def test_a_layer_without_a_switching_unit_has_no_entropy():
    model, x = passing([[1, 1], [-1, -1]], "relu")
    assert layer_entropies(model, x)[0].entropy == 0


def test_layers_without_an_off_side_are_refused_by_name():
    model, x = models.dense((4,), 2, hidden_units=(3,)), np.ones((3, 4))
    with pytest.raises(InputError, match=r"encoder/code: linear .* allowed: layers=\['encoder/hidden_1', "):
        layer_entropies(model, x)
    rows = layer_entropies(model, x, layers=["hidden_1", "decoder/hidden*"])
    assert [row.path for row in rows][:1] == ["encoder/hidden_1"]
    assert all("hidden" in row.path for row in rows)
    with pytest.raises(InputError, match="layers: got 'hiden', allowed: what fits one of: encoder/hidden_1"):
        layer_entropies(model, x, layers="hiden")


def test_recurrent_rectifiers_have_a_state_but_not_easiers():
    model = keras.Sequential([keras.Input((3, 2)), kl.SimpleRNN(2, activation="relu", name="r")])
    x = np.random.default_rng(0).normal(size=(4, 3, 2))
    assert 0 <= layer_entropies(model, x)[0].entropy <= 1
    with pytest.raises(InputError, match="cannot be seen"):
        layer_entropies(model, x, form="easier")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: ActivationEntropy("states"), "form"),
        (lambda: ActivationEntropy(bins=1), "bins"),
        (lambda: layer_entropies(*passing([[1]]), form="histogram"), "form"),
    ],
)
def test_bad_arguments_are_refused(make, word):
    with pytest.raises(InputError, match=f"{word}: got .* allowed"):
        make()
