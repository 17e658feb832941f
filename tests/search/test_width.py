"""The narrowest good width is found, said in words, kept in a folder and found there again."""

import json
import os
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_aeprune import datasets, models
from keras_aeprune._validation import BudgetError, InputError
from keras_aeprune.search import screening as screens
from keras_aeprune.search import width as room
from keras_aeprune.search import width_trainers
from keras_aeprune.search.screening import pca_curve
from keras_aeprune.search.width import encoding_width
from keras_aeprune.search.width_result import Curve, Trials, WidthResult

RANDOM = np.random.default_rng(0)
X = (RANDOM.normal(size=(400, 4)) @ RANDOM.normal(size=(4, 16))).astype("float32")
X += 0.02 * RANDOM.normal(size=X.shape).astype("float32")
QUICK = {"hidden_units": (), "max_epochs": 30, "learning_rate": 0.02, "seeds": 2, "progress": False}
WIDTHS = [2, 3, 4, 5, 7, 9]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("width") / "search"
    return encoding_width(X, WIDTHS, directory=folder, **QUICK), folder


def fake(means, tried, choose="tolerance", monkeypatch=None, **arguments):
    """A search whose losses are given: no training; the widths that were retrained, and the result."""
    trained = []

    def train(self, width, seeds, epochs, heard):
        trained.append(width)
        return [means[width]] * len(seeds), self.build(width)

    def screened(x, widths, *, seeds, epochs, **rest):
        losses = np.array([[tried[width]] * len(seeds) for width in widths])
        return screens.Screen(tuple(widths), losses, len(x), epochs, 0.1)

    monkeypatch.setattr(width_trainers.Dense, "train", train)
    monkeypatch.setattr(room, "screen", screened)
    monkeypatch.setattr(
        room, "pca_curve", lambda x, widths, validation: np.array([1.0, *[0.5] * (len(widths) - 1)])
    )
    return trained, encoding_width(X, list(tried), choose=choose, **{**QUICK, **arguments})


def test_the_dimension_of_linear_data_is_found(found):
    result, _ = found
    assert result.encoding_dim == 4
    assert result.model.encoder.output_shape == (None, 4)
    assert result.method == "screen"


def test_the_model_has_the_loss_that_is_reported(found):
    result, folder = found
    rows = datasets.loading.split_rows(400, 0.1, 0.0, 0)
    held = X[rows["validation"]]
    error = np.square(result.model.predict(held, verbose=0) - held).mean()
    losses = json.loads((folder / "width-4.json").read_text())["losses"]
    assert error == pytest.approx(min(losses), rel=1e-4)
    assert result.loss == pytest.approx(np.mean(losses))
    assert result.model.evaluate(held, held, verbose=0) == pytest.approx(error, rel=1e-4)  # it is compiled
    assert result.mean_loss == pytest.approx(np.square(held - X[rows["train"]].mean(axis=0)).mean(), rel=1e-5)
    assert result.curve.pca.tolist() == pytest.approx(
        pca_curve(X[rows["train"]], WIDTHS, validation=held).tolist()
    )


def test_the_choice_follows_from_the_losses_it_shows(found):
    result, _ = found
    known = {w: loss for w, loss in zip(WIDTHS, result.curve.retrained, strict=True) if np.isfinite(loss)}
    limit = min(known.values()) + 0.05 * (result.mean_loss - min(known.values()))
    assert result.limit == pytest.approx(limit)
    assert known[4] <= limit < known[3]
    assert 9 in known


def test_print_says_the_answer_in_words_and_lists_all_widths(found):
    text = str(found[0])
    assert text.startswith("encoding_dim 4: smallest whose loss 0.0")
    assert f"(predicting the mean: {found[0].mean_loss:.4g})" in text
    [line] = [line for line in text.splitlines() if line.endswith("chosen")]
    assert line.split()[0] == "4"
    assert len([line for line in text.splitlines() if line.strip()[:1].isdigit()]) == len(WIDTHS)


def test_every_training_is_in_the_table(found):
    rows = found[0].trials.to_dict()["trials"]
    assert sum(row["stage"] == "screen" for row in rows) == 2 * len(WIDTHS)
    assert {row["width"] for row in rows if row["stage"] == "retrained"} >= {3, 4, 9}
    assert str(found[0].trials).count("\n") == len(rows) + 1


def test_a_finished_search_answers_from_its_folder(found, monkeypatch):
    result, folder = found
    monkeypatch.setattr(room, "screen", None)
    monkeypatch.setattr(width_trainers.Dense, "train", None)
    again = encoding_width(X, WIDTHS, directory=folder, **QUICK)
    assert str(again) == str(result)
    assert again.to_dict() == result.to_dict()
    assert again.encoding_dim == again.model.encoder.output_shape[1]
    np.testing.assert_array_equal(again.model.predict(X[:5], verbose=0), result.model.predict(X[:5], verbose=0))


def test_a_killed_search_repeats_only_what_was_not_finished(found, tmp_path, monkeypatch):
    result, _ = found
    train, seen = width_trainers.Dense.train, []

    def killed(self, width, *rest):
        seen.append(width)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return train(self, width, *rest)

    monkeypatch.setattr(width_trainers.Dense, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        encoding_width(X, WIDTHS, directory=tmp_path / "s", **QUICK)
    monkeypatch.setattr(room, "screen", None)  # finished before
    again = encoding_width(X, WIDTHS, directory=tmp_path / "s", **QUICK)
    assert seen.count(9) == 1
    assert again.curve.to_dict() == result.curve.to_dict()
    assert not list((tmp_path / "s").glob(".unfinished*"))


def test_a_folder_of_another_search_is_refused(found, tmp_path):
    _, folder = found
    with pytest.raises(InputError, match="holds another search .tolerance was 0.05 and is 0.1 now"):
        encoding_width(X, WIDTHS, 0.1, directory=folder, **QUICK)
    with pytest.raises(InputError, match="holds another search .data"):
        encoding_width(X[1:], WIDTHS, directory=folder, **QUICK)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(InputError, match="other files"):
        encoding_width(X, WIDTHS, directory=tmp_path, **QUICK)


def test_a_killed_process_leaves_a_folder_that_goes_on_to_the_same_answer(found, tmp_path):
    np.save(tmp_path / "x.npy", X)
    code = (
        "import numpy as np; from keras_aeprune.search.width import encoding_width\n"
        f"encoding_width(np.load({str(tmp_path / 'x.npy')!r}), {WIDTHS}, directory={str(tmp_path / 's')!r}, "
        f"**{QUICK})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ), stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if (tmp_path / "s" / "screen.json").exists():
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert (tmp_path / "s" / "screen.json").exists()
    assert not (tmp_path / "s" / "result.json").exists()
    again = encoding_width(X, WIDTHS, directory=tmp_path / "s", **QUICK)
    assert again.encoding_dim == found[0].encoding_dim
    assert again.curve.mean == pytest.approx(found[0].curve.mean, rel=1e-3)


def test_the_picture_is_written(found, tmp_path):
    picture = found[0].plot(tmp_path / "widths.png")
    assert (tmp_path / "widths.png").stat().st_size > 5000
    texts = [text.get_text() for text in picture.legends[0].get_texts()]
    assert texts[:1] == [f"limit {found[0].limit:.3g}"]
    assert {"PCA", "screen", "retrained"} < set(texts)
    with pytest.raises(InputError, match="png"):
        found[0].plot("widths.txt")


LOSSES = {2: 0.5, 4: 0.2, 6: 0.06, 8: 0.055, 10: 0.01, 12: 0.0}


def test_neighbours_are_trained_until_a_good_width_stands_above_a_bad_one(monkeypatch):
    # limit 0.05; the screen takes 6 for good, in full trainings the first good one is 10
    trained, result = fake(LOSSES, {**LOSSES, 6: 0.04}, monkeypatch=monkeypatch)
    assert (trained, result.encoding_dim) == ([12, 6, 8, 10], 10)


def test_a_screen_that_sees_too_little_is_corrected_downwards(monkeypatch):
    tried = {width: loss + 0.1 * (width < 12) for width, loss in LOSSES.items()}
    trained, result = fake({**LOSSES, 8: 0.05}, tried, monkeypatch=monkeypatch)
    assert (trained, result.encoding_dim) == ([12, 10, 8, 6], 8)


def test_ends_of_the_range_are_remarked(monkeypatch):
    _, result = fake({2: 0.01, 4: 0.0}, {2: 0.01, 4: 0.0}, monkeypatch=monkeypatch)
    assert "the narrowest width is good already; search below 2" in result.notes
    _, result = fake({2: 0.9, 4: 0.6}, {2: 0.9, 4: 0.6}, monkeypatch=monkeypatch)
    assert any("widest width was chosen" in note for note in result.notes)
    assert any("PCA with 4 numbers reconstructs better (0.5)" in note for note in result.notes)


def test_a_width_that_diverges_is_never_chosen(monkeypatch):
    _, result = fake({**LOSSES, 10: float("nan")}, LOSSES, monkeypatch=monkeypatch)
    assert result.encoding_dim == 12
    assert json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("choose", "width"), [("knee", 6), ("pareto", 6)])
def test_other_rules_read_the_whole_curve(choose, width, monkeypatch):
    trained, result = fake(LOSSES, LOSSES, choose, monkeypatch=monkeypatch)
    assert (trained, result.encoding_dim, result.limit) == ([width], width, None)
    assert str(result).startswith(f"encoding_dim {width}: ")


def test_limits_choose_among_the_widths_that_fit(monkeypatch):
    measured = []

    def cost(model, limits):
        measured.append(model.encoder.output_shape[1])
        return {"bytes": 100 * measured[-1]}

    monkeypatch.setattr(room, "cost_of", cost)
    _, result = fake(LOSSES, LOSSES, "budget", monkeypatch=monkeypatch, max_bytes=850)
    assert result.encoding_dim == 8
    assert len(measured) <= 3
    assert " bytes" in str(result)
    with pytest.raises(BudgetError, match="encoding_dim 10 was chosen, and the widest that keeps the limits is 8"):
        fake(LOSSES, LOSSES, monkeypatch=monkeypatch, max_bytes=850)
    with pytest.raises(BudgetError, match="the narrowest, 2, takes 200 bytes"):
        fake(LOSSES, LOSSES, monkeypatch=monkeypatch, max_bytes=150)


def test_the_bytes_are_those_of_the_exported_file():
    model = models.dense((16,), 4, hidden_units=())
    cost = width_trainers.cost_of(model, {"bytes": 1, "latency": 1})
    assert 4 * model.count_params() < cost["bytes"] < 4 * model.count_params() + 4000
    assert 0 < cost["latency"] < 5


def test_hyperband_searches_what_the_screen_cannot(tmp_path):
    arguments = {
        "max_epochs": 2,
        "factor": 2,
        "seeds": 1,
        "sparsity": 0.5,
        "learning_rate": 0.01,
        "batch_size": 16,
    }
    result = encoding_width(X[:120], [2, 6], directory=tmp_path, progress=False, hidden_units=(16,), **arguments)
    assert result.method == "hyperband"
    assert result.encoding_dim in (2, 6)
    kernel = result.model.encoder.get_layer("code").kernel.numpy()
    assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.02)
    rows = result.trials.to_dict()["trials"]
    assert {row["stage"] for row in rows} == {"screen", "hyperband", "retrained"}
    assert all(row["loss"] is not None for row in rows)
    again = encoding_width(X[:120], [2, 6], directory=tmp_path, progress=False, hidden_units=(16,), **arguments)
    assert str(again) == str(result)


def test_data_of_every_kind_are_taken(monkeypatch):
    monkeypatch.setattr(room, "SCREENED", 50)
    data = datasets.load(X)
    quick = {**QUICK, "max_epochs": 5, "seeds": 1}
    flat = encoding_width(data, [2, 4], 0.9, **quick)
    assert any("the screen saw 50 of 320 samples" in note for note in flat.notes)
    square = encoding_width(X.reshape(400, 4, 4), [2, 4], 0.9, validation=X[:40].reshape(40, 4, 4), **quick)
    assert square.model.output_shape == (None, 4, 4)
    read = encoding_width((X, np.arange(400)), [2, 4], 0.9, **quick)
    assert any("scaled it" in note for note in read.notes)
    assert read.loss == pytest.approx(flat.loss, rel=1e-5)  # the same splits and scaling


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": range(16, 65, 4)}, "1 to 15, less than the 16 values"),
        ({"widths": []}, "one or more"),
        ({"widths": "16"}, "whole numbers"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"choose": "best"}, "tolerance, knee, pareto, budget"),
        ({"choose": "budget"}, "with max_bytes= or max_latency="),
        ({"method": "random"}, "auto, screen, hyperband"),
        ({"method": "screen", "sparsity": 0.5}, "got 'screen' with sparsity"),
        ({"method": "screen", "learning_rate": [0.1, 0.2]}, "got 'screen' with learning_rate"),
        ({"kind": "nothing"}, "kind"),
        ({"activation": "nothing"}, "activation"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"hidden_units": (0,)}, "hidden_units"),
        ({"nothing": 1}, "nothing"),
        ({"seeds": 0}, "seeds"),
        ({"workers": 0}, "workers"),
        ({"x": X[:5]}, "10 or more"),
        ({"x": (255 * np.abs(X)).astype("uint8")}, "scales them"),
        ({"x": np.where(X > 2, np.nan, X)}, "NaN"),
        ({"validation": X[:, :3]}, "like x"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(changes, words, tmp_path):
    arguments = {"x": X, "widths": [2, 4], "progress": False, **changes}
    with pytest.raises(InputError, match=words):
        encoding_width(directory=tmp_path / "s", **arguments)
    assert not (tmp_path / "s").exists()


def test_a_result_goes_through_json():
    curve = Curve.of((2, 4), pca=[0.3, 0.2], tried=[0.3, np.nan], retrained={4: [0.1, 0.2]})
    trials = Trials(({"stage": "screen", "width": 2, "seed": 0, "epochs": 1, "loss": None},))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    result = WidthResult(
        4, model, curve, trials, 1.0, 0.2, 0.05, "tolerance", "screen", ("a",), {"b": 1}, {4: {"bytes": 7}}
    )
    again = WidthResult.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)), model)
    assert str(again) == str(result)
    assert again.curve.mean.tolist() == [0.3, pytest.approx(0.15)]
    assert again.costs == {4: {"bytes": 7}}
