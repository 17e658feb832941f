import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.report import (
    error_against_width,
    figures,
    loss_curves,
    size_against_error,
    zeros_per_layer,
)

ROWS = [
    {"name": "mean", "label": "predicting the mean", "test_mse": 0.07},
    {"name": "pca", "label": "PCA, 8 numbers", "test_mse": 0.024, "numbers": 8},
    {"name": "dense", "label": "autoencoder, dense", "test_mse": 0.016},
    {"name": "pruned", "label": "autoencoder, pruned", "test_mse": 0.021},
    {
        "name": "dense_float32",
        "label": "dense, float32 .tflite",
        "test_mse": 0.016,
        "bytes": 26320,
        "gzip_bytes": 22180,
    },
    {
        "name": "pruned_float32",
        "label": "pruned, float32 .tflite",
        "test_mse": 0.0213,
        "bytes": 26320,
        "gzip_bytes": 7491,
    },
    {
        "name": "dense_int8",
        "label": "dense, int8 .tflite",
        "test_mse": 0.0161,
        "bytes": 15144,
        "gzip_bytes": 12000,
    },
    {
        "name": "pruned_int8",
        "label": "pruned, int8 .tflite",
        "test_mse": 0.0214,
        "bytes": 15144,
        "gzip_bytes": 5529,
    },
]
LAYERS = [
    {
        "path": "encoder/hidden/kernel",
        "shape": [64, 32],
        "weights": 2048,
        "asked": 0.9,
        "reached": 0.9,
        "reason": "",
    },
    {"path": "encoder/code/kernel", "weights": 128, "asked": 0.9, "reached": 0.7, "reason": ""},
    {"path": "bn/gamma", "weights": 32, "asked": None, "reached": 0.25, "reason": "frozen"},
]
HISTORY = {
    "dense": {"loss": [0.5, 0.3, 0.2], "val_loss": [0.6, 0.4, 0.3]},
    "prune": {"loss": [0.4, 0.25], "val_loss": [0.5, 0.35], "sparsity": [0.5, 0.9]},
    "finetune": {"loss": [0.22], "val_loss": [0.32]},
}


def boxes(texts):
    canvas = texts[0].figure.canvas
    canvas.draw()
    return [text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()]


def touch(one, other):
    wide, high = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
    return wide > 0.01 and high > 0.01  # pixels


def assert_apart(texts):
    places = boxes(texts)
    for index, one in enumerate(places):
        assert not any(touch(one, other) for other in places[:index])


def test_bars_are_as_long_as_what_was_reached_and_marks_stand_at_what_was_asked():
    (axes,) = zeros_per_layer(LAYERS).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths[0::2] == [1, 1, 1]  # the whole, behind each bar
    assert widths[1::2] == [0.9, 0.7, 0.25]
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.9, 0.9], [0.9, 0.9]]
    assert axes.get_xlim() == (0, 1)
    texts = [text.get_text() for text in axes.texts]
    assert texts[:4] == ["encoder/hidden/kernel  (64 x 32)", "0.900", "encoder/code/kernel  (128)", "0.700"]
    assert "grey: nothing was asked" in axes.get_xlabel()


def test_kernels_stand_from_top_to_bottom_in_order():
    (axes,) = zeros_per_layer(LAYERS).axes
    places = boxes(axes.texts)
    assert places[0].y0 > places[2].y1 > places[2].y0 > places[4].y1


def test_long_paths_are_shortened_and_do_not_run_into_the_numbers():
    layer = {
        "path": "a_long_model_name/" * 5 + "kernel",
        "shape": [3, 3, 256, 512],
        "weights": 9,
        "asked": 0.5,
        "reached": 0.5,
    }
    (axes,) = zeros_per_layer([layer]).axes
    assert "...el_name/kernel  (3 x 3 x 256 x 512)" in axes.texts[0].get_text()
    assert_apart(axes.texts)


def test_losses_of_all_phases_follow_each_other():
    left, _ = loss_curves(HISTORY).axes
    training, validation = left.lines[:2]
    np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(training.get_ydata(), [0.5, 0.3, 0.2, 0.4, 0.25, 0.22])
    np.testing.assert_array_equal(validation.get_ydata(), [0.6, 0.4, 0.3, 0.5, 0.35, 0.32])
    assert left.get_yscale() == "log"
    assert [line.get_xdata()[0] for line in left.lines[2:]] == [3.5, 5.5]
    assert [text.get_text() for text in left.texts] == ["dense", "prune", "fine-tune"]


def test_phases_are_drawn_in_the_order_in_which_they_ran_also_from_a_sorted_file():
    left, _ = loss_curves({phase: HISTORY[phase] for phase in sorted(HISTORY)}).axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [0.5, 0.3, 0.2, 0.4, 0.25, 0.22])
    assert [text.get_text() for text in left.texts] == ["dense", "prune", "fine-tune"]


def test_zeros_start_at_none_and_stay_where_pruning_left_them():
    _, right = loss_curves(HISTORY).axes
    np.testing.assert_array_equal(right.lines[0].get_ydata(), [0, 0, 0, 0.5, 0.9, 0.9])
    assert right.get_ylim() == (0, 1)


def test_a_training_without_pruning_has_no_second_axis_and_phases_without_epochs_are_left_out():
    figure = loss_curves({"dense": {"loss": [0.5, 0.3]}, "finetune": {"loss": []}, "prune": {}})
    assert len(figure.axes) == 1
    assert len(figure.axes[0].lines) == 1


@pytest.mark.parametrize(("dense", "other"), [(100, 20), (300, 3), (1, 1)])
def test_names_of_phases_do_not_overlap(dense, other):
    history = {
        "dense": {"loss": [0.2] * dense},
        "prune": {"loss": [0.3] * other},
        "finetune": {"loss": [0.1] * other},
    }
    assert_apart(loss_curves(history).axes[0].texts)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({}, "at least one epoch"),
        ({"dense": {"loss": []}}, "at least one epoch"),
        ({"dense": {"val_loss": [0.1]}}, "1 values for 0 epochs"),
        ({"dense": {"loss": [0.1, 0.2], "val_loss": [0.1]}}, "'val_loss'.*1 values for 2 epochs"),
        ({"dense": {"loss": [0.1], "sparsity": [0.1, 0.2]}}, "'sparsity'.*2 values for 1 epochs"),
        ({"dense": {"loss": [0.1, 0.0]}}, "above 0"),
        ({"dense": {"loss": [float("nan")]}}, "above 0"),
    ],
)
def test_histories_that_cannot_be_drawn_are_refused(history, message):
    with pytest.raises(InputError, match=message):
        loss_curves(history)


def test_files_stand_at_their_size_and_error_with_their_packed_size_hollow():
    (axes,) = size_against_error(ROWS).axes
    assert axes.get_xscale() == "log"
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    full = {(line.get_xdata()[0], line.get_ydata()[0]) for line in marks if line.get_markerfacecolor() != "none"}
    hollow = {(line.get_xdata()[0], line.get_ydata()[0]) for line in marks if line.get_markerfacecolor() == "none"}
    assert full == {(row["bytes"], row["test_mse"]) for row in ROWS if "bytes" in row}
    assert hollow == {(row["gzip_bytes"], row["test_mse"]) for row in ROWS if "bytes" in row}


def test_lines_show_pca_and_the_mean():
    (axes,) = size_against_error(ROWS).axes
    levels = [line for line in axes.lines if line.get_marker() != "o"]
    assert [line.get_ydata()[0] for line in levels] == [0.07, 0.024]
    assert {"PCA, 8 numbers", "predicting the mean"} <= {text.get_text() for text in axes.texts}


def test_no_label_of_a_file_covers_another_text():
    (axes,) = size_against_error(ROWS).axes
    names = {text.get_text() for text in axes.texts}
    assert {"dense, float32", "pruned, float32", "dense, int8", "pruned, int8"} <= names
    assert_apart([text for text in axes.texts if text.get_text()])


def test_sizes_on_the_axis_have_units():
    (axes,) = size_against_error(ROWS).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5 kB", "10 kB", "20 kB", "30 kB"]


def test_one_file_without_errors_above_zero_can_be_drawn():
    row = {"name": "pruned_int8", "label": "int8", "test_mse": 0.0, "bytes": 500}
    assert size_against_error([row]).axes[0].get_yscale() == "linear"


def test_rows_without_a_file_are_refused():
    with pytest.raises(InputError, match="at least one file"):
        size_against_error(ROWS[:4])


def test_the_curve_is_pca_and_the_autoencoders_stand_at_the_same_width():
    curve = {"widths": [1, 8, 16], "test_mse": [0.06, 0.024, 0.01]}
    (axes,) = error_against_width(curve, ROWS).axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 0.06], [8, 0.024], [16, 0.01]])
    assert axes.get_xscale() == "log"
    marks = [tuple(line.get_xydata()[0]) for line in axes.lines[1:] if line.get_marker() == "o"]
    assert (8, 0.016) in marks
    assert (8, 0.021) in marks
    assert_apart(axes.texts)


@pytest.mark.parametrize("curve", [{"widths": [], "test_mse": []}, {"widths": [1, 2], "test_mse": [0.1]}])
def test_curves_that_cannot_be_drawn_are_refused(curve):
    with pytest.raises(InputError, match="curve"):
        error_against_width(curve, [])


def test_only_what_was_measured_is_drawn():
    report = {
        "rows": ROWS,
        "data": {"sample_shape": [8, 8]},
        "history": HISTORY,
        "layers": LAYERS,
        "pca_curve": {"widths": [1, 2], "test_mse": [0.2, 0.1]},
    }
    names = ["reconstructions", "size_against_error", "error_against_width", "loss_curves", "zeros_per_layer"]
    assert list(figures(report, {"original": np.zeros((3, 8, 8))})) == names
    assert list(figures(report)) == names[1:]
    assert figures({"rows": ROWS[:4], "history": {"dense": {}}, "layers": []}) == {}


def test_what_was_cut_is_a_square_at_its_own_width():
    rows = [
        {"name": "pca", "label": "PCA", "test_mse": 0.03, "numbers": 8},
        {"name": "dense", "label": "dense", "test_mse": 0.02},
        {"name": "shrunk", "label": "shrunk", "test_mse": 0.021, "numbers": 4},
    ]
    (axes,) = error_against_width({"widths": [1, 8, 16], "test_mse": [0.06, 0.03, 0.01]}, rows).axes
    marks = {line.get_marker(): line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1}
    assert marks == {"o": 8, "s": 4}
