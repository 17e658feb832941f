import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.sparsity.masks import count_zeros, keep_top, keep_top_together


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
