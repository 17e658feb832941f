import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.report import reconstructions

RNG = np.random.default_rng(0)


def pixels(figure):
    """What is drawn in each line of pictures, as RGBA bytes."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def smooth(count, side):
    """Images in which neighbours are alike: a bright spot somewhere."""
    rows, columns = np.mgrid[:side, :side]
    spots = RNG.uniform(0.2 * side, 0.8 * side, (count, 2))
    return np.stack([np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / side) for r, c in spots])


def test_images_stand_side_by_side_with_clear_gaps():
    x = np.array([[[0.0, 1.0] * 4] * 8, [[0.5] * 8] * 8])
    (canvas,) = pixels(reconstructions({"original": x}, (8, 8)))
    assert canvas.shape == (8, 8 + 1 + 8, 4)
    assert canvas[0, :2].tolist() == [[0, 0, 0, 255], [255, 255, 255, 255]]
    assert canvas[:, 8, 3].tolist() == [0] * 8
    assert canvas[3, 9].tolist() == [128, 128, 128, 255]


def test_every_model_gets_a_line_with_its_label_in_the_order_given():
    x = RNG.random((10, 8, 8))
    figure = reconstructions({"original": x, "PCA, 8 numbers": x / 2, "int8 file": x}, (8, 8))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["original", "PCA, 8 numbers", "int8 file"]
    first, second, third = pixels(figure)
    np.testing.assert_array_equal(first, third)
    np.testing.assert_allclose(second[0, 0, :3], np.round(255 * x[0, 0, 0] / 2))


def test_all_lines_share_the_range_of_the_original():
    x = np.full((2, 8, 8), -3.0)
    x[:, 0, 0] = 5.0
    first, second = pixels(reconstructions({"original": x, "dense": np.full((2, 8, 8), 99.0)}, (8, 8)))
    assert first[0, 0].tolist() == [255, 255, 255, 255]
    assert first[1, 1].tolist() == [0, 0, 0, 255]
    assert second[1, 1].tolist() == [255, 255, 255, 255]


def test_values_between_0_and_1_are_not_stretched():
    (canvas,) = pixels(reconstructions({"original": np.full((1, 8, 8), 0.2)}, (8, 8)))
    assert canvas[0, 0].tolist() == [51, 51, 51, 255]


def test_colour_images_keep_their_colours_and_other_channels_show_the_first():
    x = np.zeros((1, 4, 4, 3))
    x[..., 1] = 1.0
    (canvas,) = pixels(reconstructions({"original": x}, (4, 4, 3)))
    assert canvas[0, 0].tolist() == [0, 255, 0, 255]
    figure = reconstructions({"original": np.full((1, 4, 4, 5), 0.4)}, (4, 4, 5))
    assert figure.axes[0].get_title(loc="left") == "original (first of 5 channels)"
    assert pixels(figure)[0][0, 0].tolist() == [102, 102, 102, 255]


def test_large_images_are_averaged_over_blocks():
    x = RNG.random((1, 130, 70))
    (canvas,) = pixels(reconstructions({"original": x}, (130, 70)))
    slow = [[x[0, r : r + 3, c : c + 3].mean() for c in range(0, 70, 3)] for r in range(0, 130, 3)]
    np.testing.assert_array_equal(canvas[..., 0], np.round(255 * np.array(slow)))


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((8, 8), True),
        ((28, 28, 1), True),
        ((32, 20, 3), True),
        ((49, 10), True),
        ((128, 9), False),
        ((140, 1), False),
        ((9, 3), False),
        ((140,), False),
        ((64,), False),
    ],
)
def test_shapes_say_whether_a_sample_is_an_image(shape, image):
    figure = reconstructions({"original": RNG.random((10, *shape))}, shape)
    assert bool(figure.axes[0].images) == image


@pytest.mark.parametrize("side", [8, 16, 28])
def test_flattened_images_are_folded_back(side):
    images = smooth(10, side)
    folded = pixels(reconstructions({"original": images.reshape(10, -1)}, (side * side,)))
    np.testing.assert_array_equal(folded[0], pixels(reconstructions({"original": images}, (side, side)))[0])


def test_flat_reconstructions_go_with_samples_that_are_not_flat():
    x = RNG.random((10, 8, 8))
    first, second = pixels(reconstructions({"original": x, "PCA": x.reshape(10, 64)}, (8, 8)))
    np.testing.assert_array_equal(first, second)


def test_a_slow_wave_of_square_length_is_a_series():
    time = np.arange(256) / 256
    x = np.sin(2 * np.pi * (time + RNG.random((10, 1))))
    assert not reconstructions({"original": x}, (256,)).axes[0].images


def test_real_images_are_folded_and_real_series_are_not(real_data):
    with np.load(real_data / "data" / "fashion_mnist.npz") as data:
        x = data["x_test"][:10].reshape(10, 784) / 255
    assert reconstructions({"original": x}, (784,)).axes[0].images
    with np.load(real_data / "data" / "gearbox_vibration.npz") as data:
        x = data["x"][:10, :1024, 0]
    assert not reconstructions({"original": x}, (1024,)).axes[0].images


def test_series_are_drawn_over_the_original():
    x = RNG.normal(size=(6, 20))
    figure = reconstructions({"original": x, "dense": x / 2, "pruned": x / 3}, (20,))
    assert len(figure.axes) == 2
    lines = figure.axes[1].lines
    assert len(lines) == 2 * 4  # four samples, each with its reconstruction
    np.testing.assert_array_equal(lines[4].get_ydata(), x[2])
    np.testing.assert_array_equal(lines[5].get_ydata(), x[2] / 3)
    np.testing.assert_array_equal(lines[4].get_xdata(), lines[5].get_xdata())
    assert lines[4].get_xdata()[0] > lines[3].get_xdata()[-1]


def test_long_series_are_cut_and_the_picture_says_so():
    figure = reconstructions({"original": RNG.normal(size=(4, 1000, 5))}, (1000, 5))
    assert len(figure.axes[0].lines) == 4 * 3
    assert len(figure.axes[0].lines[0].get_xdata()) == 256
    assert figure.axes[-1].get_xlabel() == "first 256 of 1,000 values, first 3 of 5 channels"


def test_the_number_of_samples_can_be_chosen():
    x = RNG.random((10, 8, 8))
    assert pixels(reconstructions({"original": x}, (8, 8), n=3))[0].shape == (8, 8 + 1 + 8 + 1 + 8, 4)
    assert pixels(reconstructions({"original": x[:2]}, (8, 8)))[0].shape == (8, 17, 4)
    with pytest.raises(InputError, match="at most 10"):
        reconstructions({"original": x}, (8, 8), n=11)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "the original samples"),
        ({"original": np.zeros((3, 8, 8)), "PCA": np.zeros((3, 8, 7))}, "rows.'PCA'.*3, 8, 7"),
        ({"original": np.zeros((0, 8, 8))}, "rows.'original'"),
    ],
)
def test_arrays_that_cannot_be_drawn_are_refused(rows, message):
    with pytest.raises(InputError, match=message):
        reconstructions(rows, (8, 8))
