"""Patterns against slow versions that look at one weight, one block or one run at a time."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeprune._layers import Kernel, Weight, weights
from keras_aeprune._validation import InputError
from keras_aeprune.sparsity import patterns
from keras_aeprune.sparsity.masks import count_zeros
from keras_aeprune.sparsity.patterns import NM, Block, Unit, Unstructured

DENSE = Kernel("kernel")
TRANSPOSED = Kernel("kernel", unit_axis=-2, input_axis=-1)
DEPTHWISE = Kernel("kernel", unit_axis=-2, input_axis=None)
NO_AXES = Kernel("kernel", unit_axis=None, input_axis=None)
SHAPES = [
    ((5, 7), DENSE),
    ((8, 12), DENSE),
    ((3, 5, 4), DENSE),
    ((2, 3, 3, 5), DENSE),
    ((3, 3, 4, 2), TRANSPOSED),
]
SHAPES += [((1, 1), DENSE), ((2, 2, 2, 3, 4), DENSE)]
IDS = [f"{'x'.join(map(str, shape))} unit axis {kernel.unit_axis}" for shape, kernel in SHAPES]


def drawn(shape, seed=0, high=9):
    """Whole numbers, so that sums are exact and ties are many."""
    return np.random.default_rng(seed).integers(0, high, shape).astype("float32")


def slow_view(array, kernel):
    """{(row, unit): index into the kernel} of the im2col view, by loops over all weights."""
    places, rows = {}, {}
    axis = kernel.unit_axis % array.ndim
    for index in np.ndindex(array.shape):
        rest = index[:axis] + index[axis + 1 :]
        row = rows.setdefault(rest, len(rows))
        places[row, index[axis]] = index
    return places


def weight(kernel=DENSE, layer=None, shape=(4, 4)):
    return Weight("a/kernel", "a", layer, kernel, np.zeros(shape))


def mask_of(pattern, scores, sparsity, kernel=DENSE):
    return pattern.mask(scores, sparsity, weight(kernel))


def slow_choice(values, zeros):
    """Members kept: highest value first, the earlier one among equals."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return set(order[: len(values) - zeros])


@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=IDS)
@pytest.mark.parametrize("size", [(1, 4), (2, 3), (4, 1), (16, 16), (1, 1)], ids=str)
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_blocks_are_those_of_the_im2col_view_with_smaller_ones_at_the_edges(shape, kernel, size, pooling):
    scores = drawn(shape, seed=len(shape))
    places = slow_view(scores, kernel)
    blocks = {}
    for (row, unit), index in sorted(places.items()):
        blocks.setdefault((row // size[0], unit // size[1]), []).append(index)
    pool = np.mean if pooling == "AVG" else np.max
    names = sorted(blocks)
    values = [np.float32(pool([scores[index] for index in blocks[name]])) for name in names]
    kept = slow_choice(values, count_zeros(len(names), 0.6))
    expected = np.zeros(shape, bool)
    for place, name in enumerate(names):
        for index in blocks[name]:
            expected[index] = place in kept
    groups = Block(size, pooling).groups(scores, kernel)
    assert groups.count == len(names)
    np.testing.assert_allclose(groups.scores.ravel(), values, rtol=1e-6)
    np.testing.assert_array_equal(mask_of(Block(size, pooling), scores, 0.6, kernel), expected)


@pytest.mark.parametrize(("shape", "kernel"), SHAPES, ids=IDS)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 4), (4, 4), (1, 1), (5, 20), (3, 17)])
def test_n_of_every_m_weights_along_the_inputs_stay_and_of_a_remainder_at_most_n(shape, kernel, n, m):
    scores = drawn(shape, seed=7, high=4)
    runs = {}
    for (row, unit), index in sorted(slow_view(scores, kernel).items()):
        runs.setdefault((unit, row // m), []).append(index)
    expected = np.zeros(shape, bool)
    for run in runs.values():
        kept = slow_choice([scores[index] for index in run], max(len(run) - n, 0))
        for place, index in enumerate(run):
            expected[index] = place in kept
    mask = mask_of(NM(n, m), scores, 1 - n / m, kernel)
    np.testing.assert_array_equal(mask, expected)
    assert NM(n, m).groups(scores, kernel).free == (~expected).sum() or scores.size == 1


def test_on_the_way_to_n_of_m_the_lowest_of_those_that_will_go_are_zero():
    scores = np.array([[5.0, 1.0], [6.0, 2.0], [7.0, 9.0], [8.0, 8.0]])  # 2:4 drops 5, 6, 1 and 2
    zeroed = [sorted(scores[~mask_of(NM(2, 4), scores, s)].tolist()) for s in (0, 0.125, 0.25, 0.375, 0.5)]
    assert zeroed == [[], [1], [1, 2], [1, 2, 5], [1, 2, 5, 6]]


def test_more_zeros_than_n_of_m_allows_are_refused_to_three_decimals():
    scores = drawn((9, 2))
    assert mask_of(NM(1, 3), scores, 0.667).sum() == 6
    with pytest.raises(InputError, match=r"sparsity: got 0.7, allowed: at most 0.666667, which the pattern"):
        mask_of(NM(1, 3), scores, 0.7)


@pytest.mark.parametrize(
    ("shape", "kernel"), [*SHAPES, ((3, 3, 6, 2), DEPTHWISE), ((5, 4), Kernel("embeddings", -1, None))]
)
def test_whole_units_stay_or_go_by_their_mean_score(shape, kernel):
    scores = drawn(shape, seed=3)
    units = shape[kernel.unit_axis]
    means = [np.take(scores, unit, kernel.unit_axis).mean() for unit in range(units)]
    kept = slow_choice(means, count_zeros(units, 0.5))
    np.testing.assert_allclose(Unit().groups(scores, kernel).scores, means, rtol=1e-6)
    mask = mask_of(Unit(), scores, 0.5, kernel)
    for unit in range(units):
        assert np.all(np.take(mask, unit, kernel.unit_axis) == (unit in kept))


@pytest.mark.parametrize(
    "pattern", [Unstructured(), Block((2, 2)), Block((9, 9)), NM(1, 4), NM(4, 4), Unit()], ids=str
)
class TestLaws:
    def test_nothing_is_zero_at_sparsity_0(self, pattern):
        assert mask_of(pattern, drawn((6, 5)), 0.0).all()

    @pytest.mark.parametrize("shape", [(6, 5), (1, 1), (1, 5), (5, 1), (2, 3, 4)])
    def test_at_least_one_group_stays_however_much_is_asked(self, pattern, shape):
        groups = pattern.groups(np.zeros(shape, "float32"), DENSE)
        mask = mask_of(pattern, np.zeros(shape, "float32"), min(0.9999, groups.most))
        assert groups.free <= groups.count - 1
        assert mask.any()

    def test_a_sparsity_of_1_is_refused(self, pattern):
        with pytest.raises(InputError, match="sparsity: got 1.0"):
            mask_of(pattern, drawn((6, 5)), 1.0)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
    def test_an_empty_kernel_has_an_empty_mask(self, pattern, shape):
        assert mask_of(pattern, np.zeros(shape, "float32"), 0.0).shape == shape
        assert pattern.groups(np.zeros(shape, "float32"), DENSE).free == 0

    def test_equal_scores_are_told_apart_by_position_and_always_the_same_way(self, pattern):
        scores = np.ones((4, 6), "float32")
        one = mask_of(pattern, scores, 0.5 * pattern.groups(scores, DENSE).most)
        np.testing.assert_array_equal(one, mask_of(pattern, scores, 0.5 * pattern.groups(scores, DENSE).most))
        groups = pattern.groups(scores, DENSE)
        if groups.locked is None:
            kept = groups.top(groups.count // 2).ravel()
            assert kept.tolist() == sorted(kept.tolist(), reverse=True)

    def test_scores_and_the_mask_share_no_memory_and_scores_stay_as_they_are(self, pattern):
        scores = drawn((6, 5))
        before = scores.copy()
        mask = mask_of(pattern, scores, 0.5 if pattern.groups(scores, DENSE).most > 0.5 else 0)
        mask[:] = False
        np.testing.assert_array_equal(scores, before)

    def test_scores_that_are_not_finite_are_refused(self, pattern):
        scores = drawn((20, 20))
        scores[2, 3] = np.nan
        with pytest.raises(InputError, match=r"scores: got \d+ NaN or infinite"):
            pattern.groups(scores, DENSE).top(1)

    def test_short_form_and_serialized_form_give_it_back(self, pattern):
        for form in (str(pattern), patterns.serialize(pattern), pattern):
            again = patterns.get(form)
            assert (type(again), again.get_config()) == (type(pattern), pattern.get_config())

    def test_floor_counts_the_groups_that_are_zero_already(self, pattern):
        scores = np.arange(1, 65, dtype="float32").reshape(8, 8)
        for sparsity in (0.0, 0.25, 0.7):
            if sparsity > pattern.groups(scores, DENSE).most:
                continue
            groups = pattern.groups(scores, DENSE)
            zeros = min(count_zeros(groups.count, sparsity), groups.free)
            assert pattern.floor(mask_of(pattern, scores, sparsity), DENSE) == zeros


def test_n_of_m_refuses_scores_that_are_not_finite_before_it_compares_them():
    with pytest.raises(InputError, match="scores: got 1 NaN or infinite"):
        NM(1, 2).groups(np.array([[1.0, np.inf]]), DENSE)


@pytest.mark.parametrize("pattern", [Block((2, 2)), Block((2, 2), "MAX"), Unit()], ids=str)
def test_a_group_with_one_weight_left_is_not_zero_yet(pattern):
    mask = np.zeros((4, 4), bool)
    mask[::2, ::2] = True
    assert pattern.floor(mask, DENSE) == (2 if isinstance(pattern, Unit) else 0)


def test_the_names():
    assert isinstance(patterns.get("unstructured"), Unstructured)
    assert isinstance(patterns.get("unit"), Unit)
    assert patterns.get("3:8").get_config() == {"n": 3, "m": 8}
    assert patterns.get("2x16").get_config() == {"size": [2, 16], "pooling": "AVG"}
    assert patterns.get("2x16 max").pooling == "MAX"
    assert patterns.get(NM).get_config() == {"n": 2, "m": 4}


@pytest.mark.parametrize("wrong", ["blok", "5:4", "0:4", "0x4", "2:0", 3, None, {"class_name": "x"}])
def test_another_name_is_refused(wrong):
    with pytest.raises(InputError, match="got"):
        patterns.get(wrong)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Block(4), "size: got 4, allowed: two whole numbers"),
        (lambda: Block((1, 2, 3)), "size: got"),
        (lambda: Block((1, 0)), "size: got 0, allowed: a whole number >= 1"),
        (lambda: Block((1, 2), "SUM"), "pooling: got 'SUM', allowed: AVG, MAX"),
        (lambda: NM(5, 4), "n: got 5, allowed: a whole number >= 1 and <= 4"),
        (lambda: NM(0, 4), "n: got 0"),
    ],
)
def test_wrong_arguments_are_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_kernels_that_do_not_fit_are_named_with_the_reason():
    net = keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.EinsumDense("abc,cd->abd", (None, 5), name="einsum"),
            layers.DepthwiseConv1D(2, name="depthwise"),
            layers.Conv1D(5, 2, name="conv"),
            layers.LSTM(3, name="lstm"),
            layers.Dense(2, name="dense"),
        ]
    )
    found = {w.path: w for w in weights(net)}
    reasons = {
        name: {path.split("/")[0]: patterns.get(name).reason(w) for path, w in found.items()}
        for name in ("2:4", "unit", "1x4")  # one line per pattern
    }
    assert reasons["1x4"]["einsum"].startswith("pattern 1x4 needs axes")
    assert reasons["2:4"]["einsum"].endswith("this kernel has none of output units")
    assert reasons["2:4"]["depthwise"].endswith("this kernel has none of inputs")
    assert reasons["unit"]["einsum"].endswith("and this kernel has none")
    assert reasons["unit"]["lstm"] == "pattern unit: its 12 columns are gates of 3 units"
    assert [reasons["unit"][name] for name in ("depthwise", "conv", "dense")] == ["", "", ""]
    assert [reasons["2:4"][name] for name in ("conv", "dense", "lstm")] == ["", "", ""]
    with pytest.raises(InputError, match=r"a/kernel \(3, 4, 5\): pattern 2:4 needs axes"):
        NM().groups(np.zeros((3, 4, 5)), NO_AXES, "a/kernel")


@pytest.fixture(scope="module")
def tfmot_pruning():
    """tfmot's own mask update at sparsity 0.5, without a model."""
    importlib.import_module("keras_aeprune._tfmot")  # imports tfmot without changing tf.keras
    module = importlib.import_module("tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl")

    def mask(kernel, block_size=(1, 1), pooling="AVG", m_by_n=None):
        update = module.Pruning(lambda: 0, [], lambda step: (True, 0.5), block_size, pooling, m_by_n)
        return update._maybe_update_block_mask(tf.constant(kernel))[1].numpy() == 1

    return mask


@pytest.mark.parametrize("shape", [(16, 12), (3, 3, 8, 5)])
def test_n_of_m_is_what_tfmot_makes_of_kernels_whose_inputs_divide(tfmot_pruning, shape):
    kernel = np.random.default_rng(5).standard_normal(shape).astype("float32")
    for zeros, m in ((2, 4), (1, 4), (3, 4)):
        ours = mask_of(NM(m - zeros, m), np.abs(kernel), zeros / m)
        np.testing.assert_array_equal(ours, tfmot_pruning(kernel, m_by_n=(zeros, m)))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (2, 3), (8, 6)])
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_blocks_are_what_tfmot_makes_of_kernels_whose_sides_divide(tfmot_pruning, size, pooling):
    kernel = np.random.default_rng(6).standard_normal((16, 12)).astype("float32")
    ours = mask_of(Block(size, pooling), np.abs(kernel), 0.5)
    np.testing.assert_array_equal(ours, tfmot_pruning(kernel, size, pooling))


def test_a_frozen_kernel_keeps_its_own_reason():
    dense = layers.Dense(2, trainable=False)
    assert Unit().reason(weights(keras.Sequential([keras.Input((3,)), dense]))[0]).startswith("frozen")
