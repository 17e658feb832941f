"""The site builds without a warning, and every public name is in its reference."""

import html
import inspect
import os
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sphinx.util.inventory import InventoryFile

import keras_aeprune

DOCS = Path(__file__).parents[2] / "docs"
ROOMS = [name for name in keras_aeprune.__all__ if inspect.ismodule(getattr(keras_aeprune, name))]
PAGES = [*DOCS.glob("*.md"), *DOCS.glob("api/*.md")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages, without real data at hand."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", f"{out}/trees"]
    done = subprocess.run(
        [*command, DOCS, out / "html"],
        env={name: value for name, value in os.environ.items() if name != "KERAS_AEPRUNE_DATA"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "html"


@pytest.fixture(scope="module")
def documented(site):
    """{whole name: the page that explains it}."""
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    found = {}
    for kind in (kind for kind in inventory.data if kind.startswith("py:")):
        found |= {name: item.uri.partition("#")[0] for name, item in inventory.data[kind].items()}
    return found


@pytest.fixture(scope="module")
def plain():
    """What turns a docstring into reStructuredText."""
    return runpy.run_path(str(DOCS / "conf.py"))["plain"]


@pytest.mark.parametrize("room", [*ROOMS, "cli"])
def test_every_public_name_of_a_room_is_in_the_reference(documented, room):
    whole = f"keras_aeprune.{room}"
    missing = [name for name in import_module(whole).__all__ if f"{whole}.{name}" not in documented]
    assert not missing
    assert documented[whole] == f"api/{room}.html"


@pytest.mark.parametrize("module", ["search.rules", "sparsity.allocation", "sparsity.patterns"])
def test_modules_that_are_public_names_have_their_own_names_there(documented, module):
    whole = f"keras_aeprune.{module}"
    assert {f"{whole}.{name}" for name in import_module(whole).__all__} <= set(documented)


def test_the_page_about_the_search_for_a_width_is_not_the_search_on_the_site(site):
    assert "narrowest code that is still good" in (site / "searching.html").read_text(encoding="utf-8")
    assert "searchtools.js" in (site / "search.html").read_text(encoding="utf-8")


def test_formulas_and_tables_of_docstrings_look_as_they_were_written(site):
    pages = [(site / "api" / f"{room}.html").read_text(encoding="utf-8") for room in ("criteria", "export")]
    words = html.unescape(re.sub(r"<[^>]+>", "", "".join(pages)))
    assert "max |g - e| <= limit * max |e|" in words
    assert '| "float16" | weights stored in float16' in words
    assert "|w g|: how much the loss changes" in words


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_a_page_and_a_reference_and_the_index_leads_to_both(room):
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert f"]({room}.md)" in index
    assert (DOCS / f"{room}.md").is_file()
    assert f"]({room}.md)" in (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert f"(../{room}.md)" in (DOCS / "api" / f"{room}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_pages_read_well_without_sphinx_and_their_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^(```|:::)\{|^\(.+\)=$|\{\w+\}`", text, flags=re.MULTILINE), "markup of Sphinx only"
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


def test_the_drawing_is_well_formed_and_needs_nothing_from_elsewhere():
    text = (DOCS / "images" / "idea.svg").read_text(encoding="utf-8")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
    assert tags <= {"svg", "title", "desc", "style", "rect", "path", "circle", "text"}
    assert "prefers-color-scheme: dark" in text
    for outside in ("url(", "@import", "@font-face", "href"):
        assert outside not in text


def test_characters_in_docstrings_are_no_markup(plain):
    assert plain(["|w g| and a * b_ of `Prune`s, `plan.apply(model, x)`, `.model`"]) == [
        r"\|w g\| and a \* b\_ of `Prune`\ s, ``plan.apply(model, x)``, ``.model``"
    ]


def test_an_indented_paragraph_of_a_docstring_is_a_formula(plain):
    assert plain(["The loss is", "", "    a * |b|", "    c_", "", "with *c*.", "", "Args:", "    x: |y|."]) == [
        *(
            "The loss is",
            "",
            ".. code-block:: text",
            "",
            "    a * |b|",
            "    c_",
            "",
            r"with \*c\*.",
            "",
            "Args:",
            r"    x: \|y\|.",
        )
    ]


def test_examples_in_docstrings_stay_as_they_are(plain):
    lines = ["Example:", "    >>> f(**options)  # `a`", "    {'a_': 1}", "", "Then a_ follows."]
    assert plain(lines) == [*lines[:4], r"Then a\_ follows."]
