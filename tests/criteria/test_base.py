import numpy as np
import pytest

from keras_aeprune import criteria
from keras_aeprune._validation import InputError
from keras_aeprune.criteria.base import _registry

NAMES = sorted(_registry.names())


@pytest.mark.parametrize("name", ["magnitude", "random", "weight_entropy"])
def test_criteria_of_weights_alone_score_in_the_kernels_shape_with_finite_numbers(name):
    kernel = np.random.default_rng(0).normal(size=(3, 2, 5)).astype("float32")
    scores = criteria.get(name).scores(kernel, "layer/kernel")
    assert scores.shape == kernel.shape
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_criterion_comes_back_from_its_config(name):
    member = criteria.get(name)
    twin = _registry.deserialize(_registry.serialize(member))
    assert type(twin) is type(member)
    assert twin.get_config() == member.get_config()


def test_an_unknown_name_says_which_there_are_and_how_to_add_one():
    with pytest.raises(InputError, match=r"criterion: got 'fisherr', allowed: .*magnitude, .*random, .*register"):
        criteria.get("fisherr")
