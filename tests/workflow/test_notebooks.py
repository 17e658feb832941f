"""Every notebook runs in its short form, and what is stored in it is clean."""

import base64
import copy
import linecache
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # notebooks/ is not installed with the package
import notebooks  # noqa: E402

MACHINE = re.compile(r"(?<!\w)/(tmp|work|root|home|usr|opt)\b")
LONGEST_CELL = 25
LARGEST_FILE = 400_000  # bytes

every = pytest.mark.parametrize("name", notebooks.NAMES)


def execute(name, values):
    """Run the code cells one after the other in one namespace; a traceback shows the cell's lines."""
    namespace = {"__name__": "notebook"}
    for index, source in enumerate(notebooks.sources(notebooks.read(name), values), 1):
        place = f"<{name}, code cell {index}>"
        linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
        exec(compile(source, place, "exec"), namespace)
    return namespace


@pytest.fixture
def own_folder(monkeypatch, tmp_path):
    """An empty working directory; environment and figures are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@every
def test_the_short_form_runs(name, own_folder):
    notebook = notebooks.read(name)
    if reason := notebooks.missing_data(notebook):
        pytest.skip(reason)
    values = notebooks.quick(notebook)
    namespace = execute(name, values)
    assert {key: namespace[key] for key in values} == values


def outputs(notebook):
    return [output for cell in notebooks.code_cells(notebook) for output in cell["outputs"]]


def joined(value):
    return value if isinstance(value, str) else "".join(value)


def shown_text(notebook):
    """All that the outputs show as letters."""
    for output in outputs(notebook):
        yield joined(output.get("text", ""))
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield joined(value)


@every
def test_it_was_executed_from_top_to_bottom_without_an_error(name):
    notebook = notebooks.read(name)
    counts = [cell["execution_count"] for cell in notebooks.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), f"python -m notebooks {name}"
    assert not [output for output in outputs(notebook) if output["output_type"] == "error"]


@every
def test_it_shows_a_picture(name):
    pictures = [
        joined(o["data"]["image/png"]) for o in outputs(notebooks.read(name)) if "image/png" in o.get("data", {})
    ]
    assert pictures
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


@every
def test_its_outputs_hold_no_warnings_and_nothing_of_a_machine(name):
    notebook = notebooks.read(name)
    assert not [o["text"] for o in outputs(notebook) if o.get("name") == "stderr"]
    for text in shown_text(notebook):
        assert "Warning" not in text, text
        assert not MACHINE.search(text), text
    for cell in notebook["cells"]:
        assert not MACHINE.search(notebooks.text(cell)), notebooks.text(cell)


@every
def test_file_and_cells_are_small(name):
    assert (notebooks.FOLDER / f"{name}.ipynb").stat().st_size <= LARGEST_FILE
    for cell in notebooks.code_cells(notebooks.read(name)):
        assert len(notebooks.text(cell).splitlines()) <= LONGEST_CELL, notebooks.text(cell)


@every
def test_it_begins_with_a_title_and_what_is_learnt(name):
    first = notebooks.read(name)["cells"][0]
    assert first["cell_type"] == "markdown"
    title, _, paragraph = notebooks.text(first).partition("\n")
    assert re.match(r"# \w", title)
    assert len(paragraph.split()) >= 15


@every
def test_cells_are_plain_python(name):
    for cell in notebooks.code_cells(notebooks.read(name)):
        compile(notebooks.text(cell), name, "exec")  # no magics, no shell lines


def test_the_table_of_the_readme_names_every_notebook():
    table = (notebooks.FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\(([^)]+)\.ipynb\)", table) == list(notebooks.NAMES)


BOOK = {
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": "# Title"},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["EPOCHS = 20\n", "N = 10_000"]},
        {"cell_type": "code", "metadata": {}, "source": "print(EPOCHS, N)"},
    ],
    "metadata": {"keras_aeprune": {"quick": {"EPOCHS": 1}, "data": ["ecg5000"]}},
}


def changed(quick=None, parameters=None, tags=None):
    book = copy.deepcopy(BOOK)
    if quick is not None:
        book["metadata"]["keras_aeprune"]["quick"] = quick
    if parameters is not None:
        book["cells"][1]["source"] = parameters
    if tags is not None:
        book["cells"][1]["metadata"]["tags"] = tags
    return book


def test_the_short_form_stands_behind_the_parameters():
    assert notebooks.parameters(BOOK) == {"EPOCHS": 20, "N": 10_000}
    first, second = notebooks.sources(BOOK, notebooks.quick(BOOK))
    assert first == "EPOCHS = 20\nN = 10_000\nEPOCHS = 1"
    assert second == "print(EPOCHS, N)"


@pytest.mark.parametrize(
    ("book", "says"),
    [
        (changed(quick={"EPOCH": 1}), "'EPOCH', not one of the parameters: EPOCHS, N"),
        (changed(tags=[]), 'must have the tag "parameters"'),
        (changed(parameters="import os\nEPOCHS = 1"), "got 'import os', allowed: NAME = value"),
        (changed(parameters="EPOCHS = int(3)"), "allowed: a literal value"),
        ({**BOOK, "metadata": {}}, "the metadata must have"),
    ],
)
def test_a_short_form_that_cannot_work_is_refused(book, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        notebooks.quick(book)


def test_missing_data_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_AEPRUNE_DATA", raising=False)
    assert "ecg5000: KERAS_AEPRUNE_DATA is not set" in notebooks.missing_data(BOOK)
    monkeypatch.setenv("KERAS_AEPRUNE_DATA", str(tmp_path))
    assert "needs ecg5000, which" in notebooks.missing_data(BOOK)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ecg5000.npz").touch()
    assert notebooks.missing_data(BOOK) == ""
    monkeypatch.delenv("KERAS_AEPRUNE_DATA")
    assert notebooks.missing_data({"metadata": {"keras_aeprune": {"quick": {}, "data": []}}}) == ""
