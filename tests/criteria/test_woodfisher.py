import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria.base import Evidence, get, serialize
from keras_aeprune.criteria.per_example import PerExample
from keras_aeprune.criteria.woodfisher import WoodFisher

X, Y = np.array([[1, 2], [-1, 1]], "float32"), np.array([[1], [0]], "float32")


@pytest.fixture(scope="module")
def worked():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(2, "relu"), kl.Dense(1)])
    model.set_weights([np.array(a) for a in ([[1, -1], [2, 0.5]], [0, 1], [[1], [-2]], [0.5])])
    loss = lambda y, outputs: 0.5 * (outputs - y) ** 2  # noqa: E731
    return Evidence(model, (weights(model)[1],), Calibration(X, Y), loss)


@pytest.fixture(scope="module")
def random():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), kl.Dense(3, "tanh"), kl.Dense(2)])
    draw = np.random.default_rng(0)
    data = Calibration(draw.normal(size=(9, 5)).astype("float32"), draw.normal(size=(9, 2)).astype("float32"))
    return Evidence(model, tuple(weights(model)), data, "mse")


def woodbury(gradients, damping):
    """One update of the inverse per sample, as published."""
    inverse = np.eye(gradients.shape[1]) / damping
    for g in gradients:
        v = inverse @ g
        inverse -= np.outer(v, v) / (len(gradients) + g @ v)
    return inverse


def test_the_worked_example(worked):
    np.testing.assert_allclose(
        np.linalg.inv(WoodFisher(damping=0.1).blocks(worked)[0][0]),
        [[0.01631584, -0.01216133], [-0.01216133, 0.03315745]],
        atol=1e-8,
    )
    np.testing.assert_allclose(
        WoodFisher(damping=0.1).measure(worked)[0].ravel(), [30.645063, 60.318276], rtol=1e-5
    )


def test_the_weight_that_stays_makes_up_for_the_one_that_goes(worked):
    criterion = WoodFisher(damping=0.1)
    for mask, expected in (([[False], [True]], [0, -2 + 0.745370]), ([[True], [False]], [1 - 0.733551, 0])):
        found = criterion.compensated(worked, [np.array(mask)])[0].ravel()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def by_unit(kernels):
    """The incoming weights of the first unit, of the second, ..."""
    return kernels.transpose(0, 2, 1).reshape(len(kernels), -1).astype("float64")


@pytest.mark.parametrize("size", [4, 100])
def test_scores_equal_those_of_one_update_per_sample(random, size):
    gradients = [[], []]
    for index, part in PerExample(random).gradients():
        gradients[index].append(by_unit(part))
    found = WoodFisher(size, damping=1e-3).measure(random)
    for kernel, scores, parts in zip(random.kernels, found, gradients, strict=True):
        g, w = np.concatenate(parts), by_unit(kernel[None])[0]
        for start in range(0, w.size, size):
            block = slice(start, start + size)
            inverse = woodbury(g[:, block], 1e-3)
            np.testing.assert_allclose(
                by_unit(scores[None])[0, block], w[block] ** 2 / (2 * np.diag(inverse)), rtol=1e-4
            )


def test_several_weights_that_go_together_leave_the_least_loss(random):
    criterion = WoodFisher(damping=1e-3)
    draw = np.random.default_rng(1)
    masks = [draw.random(kernel.shape) < 0.5 for kernel in random.kernels]
    fisher = [blocks[0] for blocks in criterion.blocks(random)]
    for w, kept, f, found in zip(random.kernels, masks, fisher, criterion.compensated(random, masks), strict=True):
        assert (found[~kept] == 0).all()
        slope = f @ by_unit((found - w)[None])[0]
        np.testing.assert_allclose(
            slope[by_unit(kept[None])[0] > 0], 0, atol=1e-5 * np.abs(f).max()
        )  # no way down is left


def test_blocks_of_one_are_the_damped_diagonal(random):
    squares = PerExample(random).squares()
    for w, f, found in zip(random.kernels, squares, WoodFisher(1, damping=0.5).measure(random), strict=True):
        np.testing.assert_allclose(found, w**2 * (f + 0.5) / 2, rtol=1e-5)


def test_nothing_moves_where_nothing_goes_and_the_model_is_left_alone(random):
    before = random.model.get_weights()
    found = WoodFisher(4).compensated(random, [np.ones(kernel.shape, bool) for kernel in random.kernels])
    for kernel, same in zip(random.kernels, found, strict=True):
        np.testing.assert_array_equal(kernel, same)
    for old, new in zip(before, random.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_masks_of_other_kernels_are_refused(random):
    with pytest.raises(InputError, match="masks: got shapes"):
        WoodFisher().compensated(random, [np.ones((2, 2), bool)])


def test_the_config_makes_an_equal_criterion():
    member = WoodFisher(7, damping=0.5)
    assert get(serialize(member)).get_config() == {"block_size": 7, "damping": 0.5, "batch_size": 256}
    with pytest.raises(InputError, match="damping: got 0"):
        WoodFisher(damping=0)
