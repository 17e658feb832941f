"""Weight entropy: bins counted by hand, and the best of all possible choices."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.weight_entropy import WeightEntropy


def entropy(counts):
    p = np.array([c for c in counts if c], float)
    p /= p.sum()
    return float(-(p * np.log(p)).sum()) if p.size else 0.0


def test_scores_are_worked_by_hand():
    # bins of [-1, 1]: -1, -0.6 | 0.1, 0.2, 0.3, 1.0 ; r = 1, 2 | 4, 3, 2, 1
    kernel = np.array([-1, -0.6, 0.1, 0.2, 0.3, 1.0, 0.0], "float32")
    scores = WeightEntropy(bins=2).scores(kernel, "k")
    r = np.array([1, 2, 4, 3, 2, 1]) - 0.4999 * np.abs(kernel[:6])
    np.testing.assert_allclose(scores[:6], -np.log(r / 6), rtol=1e-5)
    assert scores[6] == 0 and scores.dtype == np.float32 and scores[:6].min() > 0


def test_what_is_kept_has_the_largest_entropy_that_there_is():
    w = np.array([-0.9, -0.8, -0.2, -0.1, 0.05, 0.1, 0.15, 0.2, 0.7, 1.0], "float32")
    criterion = WeightEntropy(bins=4)
    places = np.minimum(((w - w.min()) / (w.max() - w.min()) * 4).astype(int), 3)
    order = criterion.scores(w, "k").argsort()
    for kept in range(1, len(w)):
        best = max(entropy(np.bincount(places[list(c)])) for c in itertools.combinations(range(len(w)), kept))
        got = entropy(np.bincount(places[order[len(w) - kept :]]))
        assert got == pytest.approx(best), kept


def test_within_a_bin_and_between_equal_bins_small_weights_go_first():
    w = np.array([0.01, 0.02, 0.03, -0.9, -1.0, 1.0, 0.95], "float32")
    scores = WeightEntropy(bins=3).scores(w, "k")
    assert scores.argsort().tolist()[:5] == [0, 1, 3, 6, 2]
    assert scores[1] < scores[3] < scores[6]  # all have r = 2


def test_it_differs_from_magnitude_where_weights_pile_up_far_from_zero():
    w = np.array([1.0] * 8 + [0.1, -0.5], "float32")
    assert WeightEntropy(bins=8).scores(w, "k").argsort()[:7].max() < 8


def test_freedman_diaconis_bins_are_numpys():
    w = np.random.default_rng(0).normal(size=1000)
    places = WeightEntropy(bins="fd")._places(w)
    assert places.max() + 1 == len(np.histogram_bin_edges(w, "fd")) - 1
    assert WeightEntropy(bins="fd")._places(np.array([1.0] * 9 + [2.0])).max() == 0  # no width: one bin
    heavy = np.concatenate([w, [1e9]])
    assert WeightEntropy(bins="fd")._places(heavy).max() < 4096


@pytest.mark.parametrize("bins", [64, "fd"])
@pytest.mark.parametrize("kernel", [np.zeros((2, 3)), np.ones((2, 3)), np.zeros((0, 3)), np.ones((1, 1))])
def test_degenerate_kernels_have_finite_scores(bins, kernel):
    scores = WeightEntropy(bins).scores(kernel.astype("float32"), "k")
    assert scores.shape == kernel.shape and np.isfinite(scores).all()


def units_of(layer, shape):
    model = keras.Sequential([keras.Input(shape), layer])
    seen = Evidence(model, tuple(weights(model)))
    (units,) = WeightEntropy(bins=8).measure_units(seen).values()
    return units, seen


@pytest.mark.parametrize("layer", [kl.Dense(5), kl.Conv2DTranspose(5, 3), kl.DepthwiseConv2D(3)])
def test_the_mean_over_units_is_the_entropy_of_the_layer(layer):
    units, seen = units_of(layer, (4,) if isinstance(layer, kl.Dense) else (6, 6, 4))
    (kernel,) = seen.kernels
    counts = np.histogram(kernel, 8)[0]
    assert len(units) == (4 if isinstance(layer, kl.DepthwiseConv2D) else 5)
    assert units.mean() == pytest.approx(entropy(counts), rel=1e-4)


def test_a_recurrent_unit_has_the_weights_of_all_its_gates_and_both_kernels():
    units, seen = units_of(kl.GRU(3), (4, 2))
    by_hand = []
    for kernel in seen.kernels:
        edges = np.linspace(kernel.min(), kernel.max(), 9)
        counts = np.histogram(kernel, 8)[0]
        place = np.clip(np.searchsorted(edges, kernel, side="right") - 1, 0, 7)
        by_hand.append(-np.log(counts[place] / kernel.size).reshape(-1, 3, 3))  # rows, gates, units
    np.testing.assert_allclose(units, np.concatenate(by_hand).mean(axis=(0, 1)), rtol=1e-4)


def test_units_of_zeros_only_come_first():
    layer = kl.Dense(3, use_bias=False)
    model = keras.Sequential([keras.Input((4,)), layer])
    kernel = np.random.default_rng(0).normal(size=(4, 3))
    kernel[:, 1] = 0
    layer.set_weights([kernel])
    (units,) = WeightEntropy(bins=4).measure_units(Evidence(model, tuple(weights(model)))).values()
    assert units[1] == 0 and units[[0, 2]].min() > 0


@pytest.mark.parametrize("bins", [1, 0, 2.5, "auto", None, True])
def test_other_bins_are_refused(bins):
    with pytest.raises(InputError, match="bins: got .* allowed"):
        WeightEntropy(bins)


@pytest.mark.parametrize("bins", [16, "fd"])
def test_configs_come_back(bins):
    assert WeightEntropy(**WeightEntropy(bins).get_config()).get_config() == {"bins": bins}
