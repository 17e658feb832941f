import matplotlib
import numpy as np
import pytest
from PIL import Image

from keras_aeprune import _tfmot, schedules
from keras_aeprune._validation import InputError
from keras_aeprune.schedules import (
    ConstantSparsity,
    CosineDecay,
    DenseSparseDense,
    IterativeSteps,
    PolynomialDecay,
    relative,
)

CUBIC = PolynomialDecay(0.0, 0.9, 0, 250, frequency=100)


def applied(figure, name):
    return next(line for line in figure.axes[0].lines if line.get_label() == name)


def dots(figure):
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    return [tuple(line.get_xydata()[0].tolist()) for line in marks]


def test_the_thick_line_is_what_is_applied_and_the_thin_one_the_formula():
    figure = schedules.plot(CUBIC, 300)
    line = applied(figure, "PolynomialDecay")
    assert line.get_drawstyle() == "steps-post"
    assert line.get_xdata().tolist() == [0, 0, 100, 200, 250, 300]
    np.testing.assert_allclose(line.get_ydata(), [0, 0, 0.7056, 0.8928, 0.9, 0.9], atol=1e-6)
    thin = next(one for one in figure.axes[0].lines if len(one.get_xdata()) > 100)
    x = np.asarray(thin.get_xdata())
    np.testing.assert_allclose(thin.get_ydata(), 0.9 - 0.9 * (1 - x / 250) ** 3, atol=1e-6)
    assert thin.get_linewidth() < line.get_linewidth()


def test_the_last_step_and_the_end_of_the_training_are_marked():
    figure = schedules.plot(CUBIC, 300)
    assert dots(figure) == [(250, 0.9)]
    assert figure.axes[0].lines[-1].get_xdata() == [300, 300]
    assert "end of training" in figure.axes[0].get_xlabel()
    assert "end of training" not in schedules.plot(CUBIC).axes[0].get_xlabel()


def test_schedules_that_end_together_keep_a_ring_each():
    together = {"a": CUBIC, "b": CosineDecay(0.0, 0.9, 50, 250), "c": DenseSparseDense(0.5, 0, 250)}
    figure = schedules.plot(together)
    assert sorted(dots(figure)) == [(250, 0), (250, 0.9), (250, 0.9)]
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    outer, inner, _ = marks
    assert outer.get_markersize() > inner.get_markersize()
    assert outer.get_zorder() < inner.get_zorder()


def test_several_schedules_have_a_legend_and_colours_of_their_own():
    members = {
        "constant": ConstantSparsity(0.5, 10),
        "cubic": CUBIC.get_config(),
        "tfmot": _tfmot.PolynomialDecay(0.0, 0.8, 0, 200),
        "relative": relative("OneCycle", 0.9),
        **{f"iterative {stages}": IterativeSteps(0, 0.9, 0, 250, stages=stages) for stages in range(2, 6)},
    }
    figure = schedules.plot(members, 300)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(members)
    looks = {(line.get_color(), str(line.get_linestyle())) for line in map(applied_in(figure), members)}
    assert len(looks) >= 7
    assert applied(figure, "relative").get_xdata()[1] == 30


def applied_in(figure):
    return lambda name: applied(figure, name)


def test_a_schedule_that_does_not_fit_into_the_training_is_drawn_to_its_end():
    figure = schedules.plot(CUBIC, 100)
    assert figure.axes[0].get_xlim()[1] > 250
    assert figure.axes[0].lines[-1].get_xdata() == [100, 100]


def test_a_schedule_that_never_prunes_in_the_training_is_a_line_at_zero():
    line = applied(schedules.plot(ConstantSparsity(0.5, 500), 100), "ConstantSparsity")
    assert not any(line.get_ydata())


def test_nothing_is_cut_off_at_the_edges_of_the_picture():
    names = ["ConstantSparsity", "PolynomialDecay", "CosineDecay", "OneCycle", "ExponentialDecay"]
    figure = schedules.plot(dict.fromkeys(names, CUBIC), 300)
    figure.canvas.draw()
    renderer, frame = figure.canvas.get_renderer(), figure.bbox
    axes = figure.axes[0]
    for artist in (axes.xaxis.label, axes.yaxis.label, *figure.legends):
        box = artist.get_window_extent(renderer)
        assert box.x0 >= frame.x0 and box.x1 <= frame.x1, artist
        assert box.y0 >= frame.y0 and box.y1 <= frame.y1, artist


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_file_is_written_whole_and_opaque(tmp_path, suffix):
    path = tmp_path / f"ramp.{suffix}"
    schedules.plot(CUBIC, path=path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix == "png":
        assert Image.open(path).convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("total_steps", lambda: schedules.plot(ConstantSparsity(0.5, 10))),
        ("total_steps", lambda: schedules.plot(relative("CosineDecay", 0.5))),
        ("total_steps", lambda: schedules.plot(CUBIC, 0)),
        ("total_steps", lambda: schedules.plot(CUBIC, float("nan"))),
        ("schedule", lambda: schedules.plot({})),
        ("schedule", lambda: schedules.plot({1: CUBIC})),
        ("schedule", lambda: schedules.plot(0.9, 100)),
        ("path", lambda: schedules.plot(CUBIC, path="ramp.xyz")),
        ("path", lambda: schedules.plot(CUBIC, path="ramp")),
        ("path", lambda: schedules.plot(CUBIC, path="no/such/folder/ramp.png")),
        (
            "schedule",
            lambda: schedules.plot(relative("CosineDecay", 0.5, begin=0, end=3, unit="epochs"), 100),
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(argument, make):
    with pytest.raises(InputError, match=rf"^{argument}: got .*, allowed: "):
        make()


def test_a_session_s_own_style_changes_no_picture_and_is_kept():
    own = {"font.size": 30.0, "lines.linewidth": 9.0}
    with matplotlib.rc_context(own):
        line = applied(schedules.plot(CUBIC), "PolynomialDecay")
        assert {key: matplotlib.rcParams[key] for key in own} == own
    assert line.get_linewidth() == applied(schedules.plot(CUBIC), "PolynomialDecay").get_linewidth() < 2
