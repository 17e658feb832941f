"""`keras-aeprune search`: the answer, the files, and one line for every bad input."""

import json
from pathlib import Path

import numpy as np
import pytest

from keras_aeprune import cli, models
from keras_aeprune._validation import InputError
from keras_aeprune.pipeline.search_files import parse_widths
from keras_aeprune.search import width

RANDOM = np.random.default_rng(0)
X = (RANDOM.normal(size=(300, 3)) @ RANDOM.normal(size=(3, 8))).astype("float32")
QUICK = ["--max-epochs", "60", "--learning-rate", "0.005", "--seeds", "1", "--quiet"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    return tmp_path


def test_search_prints_the_answer_and_writes_result_picture_and_model(folder, capfd):
    command = ["search", "x.npy", "--out", "run", "--widths", "1:6:1", *QUICK]
    assert cli.main(command) == 0
    printed = capfd.readouterr()
    assert printed.out.startswith("encoding_dim 3: smallest whose loss")
    assert printed.out.splitlines()[-3:] == ["run/result.json", "run/widths.png", "run/model.keras"]
    assert printed.err == ""
    record = json.loads(Path("run/result.json").read_text())
    assert record["encoding_dim"] == 3
    assert record["data"]["samples"]["train"] == 240
    assert models.load("run/model.keras").output_shape == (None, 8)
    assert Path("run/widths.png").read_bytes()[:4] == b"\x89PNG"

    before = {path: path.stat().st_mtime_ns for path in (folder / "run" / "search").iterdir()}
    assert cli.main(command) == 0
    assert capfd.readouterr().out == printed.out
    assert {path: path.stat().st_mtime_ns for path in (folder / "run" / "search").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--widths", "4:2:1"], "widths: got '4:2:1', allowed: FIRST:LAST:STEP"),
        (["--widths", "16:64:4"], "1 to 7, less than the 8 values"),
        (["--tolerance", "1.5"], "tolerance: got 1.5"),
        (["--choose", "best"], "choose: got 'best'"),
        (["--method", "screen", "--sparsity", "0.5", "--widths", "2,3"], "got 'screen' with sparsity"),
        (["--kind", "wavelet", "--widths", "2,3"], "kind: got 'wavelet'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words, message, folder, capfd):
    assert cli.main(["search", "x.npy", "--out", "run", *words]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("run").exists()


def test_a_limit_that_cannot_be_met_is_status_1(folder, capfd, monkeypatch):
    monkeypatch.setattr(width, "cost_of", lambda model, limits: {"bytes": 900})
    words = ["--widths", "2,3", "--max-bytes", "100", "--max-epochs", "1", "--seeds", "1", "--quiet"]
    assert cli.main(["search", "x.npy", "--out", "run", *words]) == 1
    assert "no width keeps the limits: the narrowest, 2, takes 900 bytes" in capfd.readouterr().err
    assert not Path("run/result.json").exists()


@pytest.mark.parametrize(
    ("text", "widths"), [("2:8:3", [2, 5, 8]), ("2:8:4", [2, 6]), ("3:5", [3, 4, 5]), ("8", [8]), ("9,3", [9, 3])]
)
def test_widths_from_text(text, widths):
    assert parse_widths(text) == widths


@pytest.mark.parametrize("text", ["", "a", "1:2:0", "8:4:1", "1,,2", "1:2:3:4", "-4:8:4", "1.5"])
def test_other_text_is_refused(text):
    with pytest.raises(InputError, match="16:64:4"):
        parse_widths(text)
