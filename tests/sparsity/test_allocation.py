import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.sparsity import allocation

SCORES = [np.arange(1, 11, dtype="float32").reshape(2, 5), np.arange(101, 111, dtype="float32")]


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.85])
def test_uniform_gives_each_kernel_its_share(sparsity):
    masks = allocation.uniform(SCORES, sparsity, [0, 0])
    zeros = int(np.floor(sparsity * 10 + 0.5))
    for scores, mask in zip(SCORES, masks, strict=True):
        np.testing.assert_array_equal(mask.ravel(), np.arange(10) >= zeros)
        assert mask.shape == scores.shape


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.85])
def test_global_total_is_exact_to_one_weight(sparsity):
    masks = allocation.global_(SCORES, sparsity, [0, 0])
    assert sum((~mask).sum() for mask in masks) == int(np.floor(sparsity * 20 + 0.5))


def test_global_takes_the_low_scores_wherever_they_are():
    small, large = allocation.global_(SCORES, 0.4, [0, 0])
    assert (~small).sum() == 8
    assert large.all()


@pytest.mark.parametrize("allocate", [allocation.uniform, allocation.global_])
def test_zeros_that_were_there_stay(allocate):
    masks = allocate(SCORES, 0.1, [6, 3])
    assert sum((~mask).sum() for mask in masks) == 9


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="allocation: got 'erk2', allowed: global, uniform"):
        allocation.get("erk2")
