import re
import subprocess
import sys

import matplotlib
import pytest

from keras_aeprune import _plots
from keras_aeprune._validation import InputError


@_plots.styled
def drawn():
    made, (axes,) = _plots.figure(height=2.0)
    axes.plot([1, 2, 4], [3.0, 1.0, 2.0], "o-", color=_plots.colour("dense"), label="a")
    axes.set(xlabel="numbers", ylabel="test MSE", title="dense")
    axes.grid()
    made.legend(loc="outside upper left")
    return made


def boxes(texts):
    canvas = texts[0].figure.canvas
    canvas.draw()
    return [text.get_window_extent(canvas.get_renderer()) for text in texts]


def overlapping(one, other):
    wide, high = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
    return wide > 0.01 and high > 0.01  # pixels


FRESH = """
import sys
from keras_aeprune import _plots
assert "matplotlib" not in sys.modules, "imported too early"
import matplotlib
before = {key: dict.__getitem__(matplotlib.rcParams, key) for key in dict.keys(matplotlib.rcParams)}
figure = _plots.styled(_plots.figure)()[0]
text = _plots.svg(figure, "a")
assert text.startswith("<svg")
after = {key: dict.__getitem__(matplotlib.rcParams, key) for key in dict.keys(matplotlib.rcParams)}
assert before == after, {key: after[key] for key in after if after[key] != before[key]}
assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
print("the same")
"""


def test_drawing_leaves_pyplot_and_the_backend_alone_in_a_fresh_process():
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "the same", done.stderr


def test_a_session_s_own_style_changes_no_picture_and_is_kept():
    plain = _plots.svg(drawn(), "a")
    own = {
        "font.size": 30,
        "axes.grid": True,
        "lines.linewidth": 9,
        "svg.fonttype": "path",
        "text.color": "red",
    }
    with matplotlib.rc_context(own):
        before = dict(matplotlib.rcParams)
        assert _plots.svg(drawn(), "a") == plain
        assert dict(matplotlib.rcParams) == before


def test_settings_come_back_after_an_error():
    before = dict(matplotlib.rcParams)
    with pytest.raises(ZeroDivisionError):
        _plots.styled(lambda: 1 / 0)()
    assert dict(matplotlib.rcParams) == before


def test_the_same_figure_is_the_same_text_without_a_date_or_a_fixed_size():
    text = _plots.svg(drawn(), "a")
    assert text == _plots.svg(drawn(), "a")
    assert "metadata" not in text
    head = text[: text.index(">")]
    assert "viewBox" in head
    assert " width=" not in head
    assert " height=" not in head


def test_letters_stay_letters():
    assert ">test MSE</text>" in _plots.svg(drawn(), "a")


def test_a_dollar_sign_in_a_name_is_no_formula():
    made = _plots.styled(_plots.figure)()[0]
    _plots.styled(made.axes[0].set_title)("costs $5 _ a$ \\frac")
    assert ">costs $5 _ a$ \\frac</text>" in _plots.svg(made, "a")


def test_ids_are_the_picture_s_own_and_every_reference_is_met():
    first, second = _plots.svg(drawn(), "a"), _plots.svg(drawn(), "b")
    ids = re.findall(r'\sid="([^"]+)"', first)
    assert len(ids) == len(set(ids))
    assert all(one.startswith("a-") for one in ids)
    assert not set(ids) & set(re.findall(r'\sid="([^"]+)"', second))
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', first)
    assert used
    assert {one or other for one, other in used} <= set(ids)


def test_colours_that_are_not_data_can_be_turned_around():
    text = _plots.svg(drawn(), "a")
    assert "var(--ink, #1f2937)" in text
    assert not re.search(r"(?<!, )#1f2937", text)
    assert _plots.colour("dense") in text


@pytest.mark.parametrize("name", ["", "1a", "a b", 'a"', "a<"])
def test_names_that_cannot_be_ids_are_refused(name):
    with pytest.raises(InputError, match="name"):
        _plots.svg(drawn(), name)


def test_a_thing_has_one_colour_and_different_things_have_different_ones():
    names = ["mean", "pca", "dense", "pruned", "pruned_int8", "dense_int8"]
    assert len({_plots.colour(name) for name in names}) == len(names)
    assert _plots.colour("pca") == _plots.colour("PCA, 8 numbers")
    assert _plots.colour("dense_float32") == _plots.colour("autoencoder, dense")
    assert re.fullmatch("#[0-9a-f]{6}", _plots.colour("something else"))
    assert _plots.colour("something else") not in map(_plots.colour, names)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0.011, 0.13, 7, [0.02, 0.03, 0.05, 0.1]),
        (0.011, 1.3, 7, [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]),
        (0.9e-5, 1.1, 7, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (0.9e-9, 1.1, 4, [1e-9, 1e-6, 1e-3, 1.0]),
        (0.38, 0.62, 7, [0.4, 0.45, 0.5, 0.55, 0.6]),
        (0.101, 0.108, 7, [0.102, 0.104, 0.106, 0.108]),
    ],
)
def test_log_axes_have_a_few_round_numbers(low, high, most, expected):
    _, (axes,) = _plots.figure()
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    _plots.log_ticks(axes.yaxis, str, most=most)
    assert list(axes.get_yticks()) == pytest.approx(expected)
    assert len(axes.get_yticks(minor=True)) == 0
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(tick) for tick in axes.get_yticks()]


def crowded():
    _, (axes,) = _plots.figure(height=3.0)
    points = [(1.0, 1.0), (1.1, 1.0), (1.0, 1.15), (1.1, 1.15), (9.9, 9.8)]
    for x, y in points:
        axes.plot(x, y, "o", markersize=6)
    axes.axhline(1.4)
    axes.set(xlim=(0, 10), ylim=(0, 10))
    return axes, points


def test_labels_of_near_points_cover_neither_each_other_nor_marks_nor_lines():
    axes, points = crowded()
    notes = _plots.place_labels(axes, points, ["first label", "second", "third label", "fourth", "at the edge"])
    places = boxes(notes)
    for index, one in enumerate(places):
        assert not any(overlapping(one, other) for other in places[:index])
    centres = axes.transData.transform([*points, (5, 1.4)])
    line = centres[-1][1]
    assert not any(box.contains(*centre) for box in places for centre in centres[:-1])
    assert not any(box.y0 < line < box.y1 for box in places)


def test_labels_stay_inside_the_axes():
    axes, points = crowded()
    frame = axes.get_window_extent()
    places = boxes(_plots.place_labels(axes, points, ["a long label " + str(index) for index in range(5)]))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in places)
    assert all(frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in places)


def test_a_label_with_room_stands_right_beside_its_point():
    _, (axes,) = _plots.figure(height=3.0)
    axes.set(xlim=(0, 10), ylim=(0, 10))
    axes.plot(3, 5, "o")
    (note,) = _plots.place_labels(axes, [(3, 5)], ["alone"])
    (box,) = boxes([note])
    x, y = axes.transData.transform((3, 5))
    assert 0 < box.x0 - x < 12
    assert box.y0 < y < box.y1


def test_a_label_keeps_away_from_the_marks_of_others():
    _, (axes,) = _plots.figure(height=3.0)
    axes.set(xlim=(0, 10), ylim=(0, 10))
    points = [(9.9, 5.0), (9.9, 6.5)]
    for point in points:
        axes.plot(*point, "o")
    axes.plot([8, 9.5], [5, 5])
    axes.plot([8, 9.5], [6.5, 6.5])
    low, high = boxes(_plots.place_labels(axes, points, ["the lower one", "the upper one"]))
    assert low.y1 < axes.transData.transform(points[0])[1]
    assert high.y0 > axes.transData.transform(points[1])[1]


def test_every_point_needs_one_text():
    with pytest.raises(InputError, match="one text per point"):
        _plots.place_labels(crowded()[0], [(1, 1)], [])


def test_labels_side_by_side_are_raised_until_they_are_free():
    _, (axes,) = _plots.figure()
    texts = {"prune": 0.0, "fine-tune": 0.5, "a phase": 0.52, "mean": 0.54}
    style = {"xycoords": "axes fraction", "xytext": (0, 3), "textcoords": "offset points"}
    labels = [axes.annotate(text, (x, 0.5), **style) for text, x in texts.items()]
    _plots.stack(labels)
    places = boxes(labels)
    assert labels[0].get_position() == labels[3].get_position() == (0, 3)
    point = axes.figure.dpi / 72
    assert places[2].y0 - places[3].y1 == pytest.approx(point)
    assert places[1].y0 - places[2].y1 == pytest.approx(point)


def test_a_figure_shows_itself_as_a_picture_in_a_notebook():
    made = _plots.styled(_plots.figure)()[0]
    assert made._repr_png_().startswith(b"\x89PNG\r\n")
