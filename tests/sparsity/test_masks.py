import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.sparsity.masks import count_zeros, keep_top, keep_top_together, lower_hull, share, whole


def slow_keep_top(scores, keep):
    """Sort by score, highest first, earlier position first among equals; keep the first `keep`."""
    flat = np.ravel(scores)
    order = sorted(range(flat.size), key=lambda i: (-flat[i], i))
    mask = np.zeros(flat.size, bool)
    mask[order[: max(keep, 0)]] = True
    return mask.reshape(np.shape(scores))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [-1, 0, 1, 7, 23, 24, 25])
def test_keeps_the_highest_scores_and_breaks_ties_by_position(seed, keep):
    scores = np.random.default_rng(seed).integers(0, 5, (4, 6)).astype("float32")  # many ties
    np.testing.assert_array_equal(keep_top(scores, keep), slow_keep_top(scores, keep))


def test_equal_scores_do_not_keep_everything():
    assert keep_top(np.ones((10, 10), "float32"), 30).sum() == 30


@pytest.mark.parametrize(
    ("size", "sparsity", "zeros"),
    [
        (10, 0.0, 0),
        (10, 0.25, 3),
        (10, 0.9, 9),
        (10, 0.96, 9),
        (10, 1.0, 10),
        (1, 0.99, 0),
        (0, 0.5, 0),
        (3, 0.5, 2),
    ],
)
def test_zeros_are_counted_by_the_stated_formula_and_one_weight_stays(size, sparsity, zeros):
    assert count_zeros(size, sparsity) == zeros


def test_empty_kernels_have_empty_masks():
    assert keep_top(np.zeros((0, 3)), 0).shape == (0, 3)
    assert [mask.shape for mask in keep_top_together([np.zeros((0, 3)), np.ones(2)], 1)] == [(0, 3), (2,)]


@pytest.mark.parametrize("seed", range(5))
def test_one_threshold_over_several_kernels_equals_sorting_them_together(seed):
    rng = np.random.default_rng(seed)
    scores = [rng.random((5, 4)).astype("float32"), rng.random((3, 2)).astype("float32")]
    masks = keep_top_together(scores, 13)
    protected = [np.where(s == s.max(), np.inf, s).ravel() for s in scores]
    expected = slow_keep_top(np.concatenate(protected), 13)
    np.testing.assert_array_equal(np.concatenate([m.ravel() for m in masks]), expected)


def test_a_kernel_of_small_scores_keeps_its_best_weight():
    masks = keep_top_together([np.array([5.0, 6.0, 7.0]), np.array([0.1, 0.3, 0.2])], 2)
    assert [mask.tolist() for mask in masks] == [[False, False, True], [False, True, False]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = np.ones(6)
    scores[2] = bad
    with pytest.raises(InputError, match="got 1 NaN or infinite"):
        keep_top(scores, 3)
    with pytest.raises(InputError, match="got 1 NaN or infinite"):
        keep_top_together([scores], 3)


def slow_together(scores, budget, low, high, cost):
    """One list of all scores, lowest first, later ones first among equals; drop while that comes nearer."""
    dropped = [set() for _ in scores]
    ranked = [sorted(range(len(s)), key=lambda i, s=s: (s[i], -i)) for s in scores]
    for kernel, order in enumerate(ranked):
        dropped[kernel] |= set(order[: low[kernel]])
    spent = sum(len(gone) * price for gone, price in zip(dropped, cost, strict=True))
    everything = [(s[i], -kernel, -i) for kernel, s in enumerate(scores) for i in range(len(s))]
    for _, kernel, i in sorted(everything):
        kernel, i = -kernel, -i
        if i in dropped[kernel] or i not in ranked[kernel][: high[kernel]]:
            continue
        if spent + cost[kernel] / 2 > budget:
            break
        dropped[kernel].add(i)
        spent += cost[kernel]
    return [np.array([i not in gone for i in range(len(s))]) for s, gone in zip(scores, dropped, strict=True)]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("costs", [(1, 1, 1), (4, 4, 4), (2.5, 1, 7)], ids=str)
def test_bounds_and_costs_equal_dropping_one_score_after_the_other(seed, costs):
    rng = np.random.default_rng(seed)
    scores = [rng.integers(0, 6, rng.integers(1, 9)).astype("float32") for _ in costs]
    low, high = [], []
    for array in scores:
        ends = sorted(rng.integers(0, array.size, 2))
        low.append(int(ends[0]))
        high.append(int(ends[1]))
    size = sum(array.size * cost for array, cost in zip(scores, costs, strict=True))
    budget = float(np.round(rng.uniform(0, size), 2))
    masks = keep_top_together(scores, size - budget, low=low, high=high, cost=costs)
    for ours, slow in zip(masks, slow_together(scores, budget, low, high, costs), strict=True):
        np.testing.assert_array_equal(ours, slow)


def test_locked_scores_stay_though_they_are_the_lowest():
    locked = [np.array([True, False, False]), None]
    masks = keep_top_together([np.array([0.0, 1.0, 2.0]), np.array([5.0, 6.0])], 2, locked=locked)
    assert [mask.tolist() for mask in masks] == [[True, False, False], [False, True]]
    assert keep_top(np.array([0.0, 1.0, 2.0]), 2, locked=locked[0]).tolist() == [True, False, True]


def test_the_scores_are_not_changed():
    scores = [np.array([5, 4, 3]), np.array([1, 2])]
    keep_top_together(scores, 2, low=[1, 0], high=[2, 1])
    assert [array.tolist() for array in scores] == [[5, 4, 3], [1, 2]]


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_proportional_within_their_bounds_and_meet_the_total(seed):
    rng = np.random.default_rng(seed)
    rates = rng.integers(1, 9, 5).astype(float)
    low = rng.uniform(0, 5, 5)
    high = low + rng.uniform(0, 20, 5)
    total = rng.uniform(low.sum(), high.sum())
    shares = share(rates, low, high, total)
    assert shares.sum() == pytest.approx(total)
    assert np.all(shares >= low - 1e-9) and np.all(shares <= high + 1e-9)
    inside = (shares > low + 1e-9) & (shares < high - 1e-9)
    factors = (shares / rates)[inside]
    np.testing.assert_allclose(factors, factors[:1].repeat(len(factors)), rtol=1e-6)
    for at_end, sign in ((np.isclose(shares, low), 1), (np.isclose(shares, high), -1)):
        if inside.any():
            assert np.all(sign * ((shares / rates)[at_end & ~inside] - factors[0]) >= -1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_whole_numbers_meet_the_total_and_stay_next_to_their_shares(seed):
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0, 30, 6)
    total = float(round(shares.sum()))
    counts = whole(shares * total / shares.sum(), np.ones(6), (np.zeros(6, int), np.full(6, 40)), total)
    assert counts.sum() == total
    assert np.abs(counts - shares * total / shares.sum()).max() < 1


def test_whole_numbers_of_unequal_things_meet_the_total_to_half_a_thing():
    costs = np.array([10.0, 3.0])
    counts = whole(np.array([1.4, 2.6]), costs, (np.zeros(2, int), np.array([5, 5])), 21.8)
    assert counts.tolist() == [1, 4]
    assert abs(costs @ counts - 21.8) <= 1.5


@pytest.mark.parametrize("seed", range(10))
def test_the_hull_is_the_largest_convex_line_below_the_points(seed):
    rng = np.random.default_rng(seed)
    x = np.arange(8.0)
    y = rng.integers(0, 9, 8).astype(float)
    hull = np.array(lower_hull(list(zip(x, y, strict=True))))
    at = np.interp(x, hull[:, 0], hull[:, 1])
    assert np.all(at <= y + 1e-12)
    assert np.all(np.diff(at, 2) >= -1e-12)
    for i in range(8):  # the lowest chord over a place is the hull there
        chords = [np.interp(x[i], [x[a], x[b]], [y[a], y[b]]) for a in range(i + 1) for b in range(i, 8)]
        assert min(chords) == pytest.approx(at[i])
