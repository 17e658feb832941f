import keras
import pytest
from keras import layers

from keras_aeprune._validation import InputError
from keras_aeprune.sparsity import patterns
from keras_aeprune.sparsity.selection import choose


def model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.DepthwiseConv2D(3, name="depth"),
            layers.Flatten(),
            layers.Dense(5, name="out"),
        ]
    )


def names(pattern="unstructured", include=None, exclude=None):
    chosen, skipped = choose(model(), patterns.get(pattern), include, exclude)
    return [weight.layer_path for weight in chosen], skipped


def test_all_kernels_are_chosen_by_default():
    assert names() == (["conv", "depth", "out"], {})


def test_exclude_wins_over_include():
    chosen, skipped = names(include=["conv", "out"], exclude="out")
    assert chosen == ["conv"]
    assert skipped == {"depth/kernel": "not included", "out/kernel": "excluded"}


def test_a_kernel_that_the_pattern_does_not_fit_is_listed_with_the_reason():
    chosen, skipped = names(pattern="2:4")
    assert chosen == ["conv", "out"]
    assert list(skipped) == ["depth/kernel"]
    assert skipped["depth/kernel"]


def test_names_must_be_text_and_fit_something():
    with pytest.raises(InputError, match="include: got 3, allowed"):
        names(include=[3])
    with pytest.raises(
        InputError, match="exclude: got 'con', which fits no layer with weights; there are: conv, depth, out"
    ):
        names(exclude="con")
