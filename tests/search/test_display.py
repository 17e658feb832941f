"""One line while the search runs, and a table of its trials."""

import json
import math
import re

import pytest

from keras_aeprune import _progress
from keras_aeprune.search.tuner import Hyperband, RandomSearch


class Screen:
    """A terminal in memory."""

    def __init__(self, tty):
        self.text, self._tty = "", tty

    def isatty(self):
        return self._tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class Simulated(Hyperband):
    def run_trial(self, trial):
        width = trial.hyperparameters.Int("encoding_dim", 4, 64, step=4)
        if width == 8:
            raise ValueError("eight is\nno good")
        return {"score": math.nan if width == 16 else abs(width - 12) + 0.5, "size": width}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a person sees on a terminal, and the tuner."""
    screen, say = Screen(True), _progress._Terminal()
    tuner = Simulated(
        None, ("score", "min"), max_epochs=9, directory=tmp_path_factory.mktemp("seen"), progress=False
    )
    tuner.oracle._display._say = say
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_progress.sys, "stderr", screen)
        tuner.search()
    return screen.text, tuner


def test_one_line_changes_and_says_where_the_search_is(seen):
    text, tuner = seen
    assert text.count("\n") == 1 and text.endswith("\n")
    lines = re.split(r"\r\x1b\[2K", text.rstrip())
    assert len(lines) == len(tuner.oracle.trials) + 1
    late = lines[-3]
    pattern = r"bracket 3/3 rung 3@9 epochs \| trial \d+/\d+ \| best [\d.e+]+ \(encoding_dim \d+\) \| \d+ s left"
    assert re.fullmatch(pattern, late), late
    last = rf"search: {len(tuner.oracle.trials)} trials, 1 failed \| best 0\.5 \(encoding_dim 12\) \| \d+ s"
    assert re.fullmatch(last, lines[-1]), lines[-1]
    assert "tuner/" not in text


def test_the_planned_trials_are_the_ones_that_run(seen):
    text, tuner = seen
    planned = [int(found) for found in re.findall(r"trial \d+/(\d+)", text)]
    assert planned[0] == 23 and set(planned[1:]) == {22} == {tuner.oracle.total()[0]}  # a space of 16 shows itself


def test_a_file_gets_few_whole_lines(tmp_path, monkeypatch):
    screen = Screen(False)
    monkeypatch.setattr(_progress.sys, "stderr", screen)
    tuner = Simulated(None, ("score", "min"), max_epochs=9, directory=tmp_path)
    tuner.oracle._display._say = _progress._Terminal()
    tuner.search()
    assert 1 <= screen.text.count("\n") <= 3 and "\r" not in screen.text


def test_progress_false_says_nothing_at_all(tmp_path, capfd):
    tuner = Simulated(None, ("score", "min"), max_epochs=3, directory=tmp_path, progress=False)
    tuner.search()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_table_has_every_trial_and_no_tuner_names(seen):
    _, tuner = seen
    found = tuner.table()
    assert len(found.rows) == len(tuner.oracle.trials)
    best = found.rows[0]
    assert (best.values, best.epochs, best.score, best.metrics["size"]) == ({"encoding_dim": 12}, 9, 0.5, 12)
    failed = next(row for row in found.rows if row.values["encoding_dim"] == 8)
    assert (failed.status, failed.score, failed.error) == ("FAILED", None, "no good")
    diverged = next(row for row in found.rows if row.values["encoding_dim"] == 16)
    assert (diverged.status, diverged.score, diverged.error) == ("COMPLETED", None, "score was nan")
    assert diverged.metrics == {"size": 16.0}
    promoted = next(row for row in found.rows if row.rung)
    assert promoted.parent in tuner.oracle.trials and promoted.seconds >= 0
    assert not any(name.startswith("tuner/") for row in found.rows for name in row.values)


def test_the_table_prints_aligned_and_is_plain_json(seen):
    _, tuner = seen
    found = tuner.table()
    lines = str(found).splitlines()
    assert lines[0].split() == ["trial", "encoding_dim", "rung", "epochs", "score", "size", "seconds", "status"]
    assert len(lines) == 2 + len(found.rows)
    column = lines[0].index("epochs") + len("epochs")
    assert all(line[column] == " " and line[column - 1].isdigit() for line in lines[2:])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["trials"][0]["values"] == {"encoding_dim": 12}


def test_longest_trained_trials_come_first_and_high_scores_where_high_is_good(tmp_path):
    class Largest(Simulated):
        def run_trial(self, trial):
            return float(trial.hyperparameters.Int("n", 0, 100))

    tuner = Largest(None, ("score", "max"), max_epochs=9, directory=tmp_path, progress=False)
    tuner.search()
    rows = [(row.epochs, row.score) for row in tuner.table().rows]
    assert rows == sorted(rows, reverse=True)


def test_random_search_shows_its_number_of_trials(tmp_path, monkeypatch):
    class Numbers(RandomSearch):
        def run_trial(self, trial):
            return trial.hyperparameters.Float("rate", 0.0, 1.0)

    said = []
    tuner = Numbers(max_trials=3, directory=tmp_path, progress=False)
    tuner.oracle._display._say = lambda text, final: said.append(text)
    tuner.search()
    assert [text.split(" | ")[0] for text in said] == ["trial 1/3", "trial 2/3", "trial 3/3", "search: 3 trials"]
