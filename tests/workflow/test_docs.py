"""The python examples of each page of docs/ run one after the other, each page in a folder of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
NOT_RUN = {
    "benchmarks.md": "tables only",
    "index.md": "a drawing and links",
    "why-not-smaller.md": "nothing to run but what files.md runs",
    "phone.md": "needs a connected phone; its C++ and Kotlin are checked in tests/export",
    "search.md": "its last blocks are for several machines and processors",
    "microcontroller.md": "its Python and C++ are checked in tests/export",
}
RUN = [page for page in PAGES if page not in NOT_RUN]
# all pages in one process: starting TensorFlow takes longer than most of them
RUNNER = """
import json, os, pathlib, sys, traceback
pages, outcomes = json.loads(pathlib.Path("pages.json").read_text()), {}
home = pathlib.Path.cwd()
for page, blocks in pages.items():
    (home / page).mkdir()
    os.chdir(home / page)
    try:
        space = {"__name__": "__main__"}
        for block in blocks:
            exec(compile(block, page, "exec"), space)
        outcomes[page] = ""
    except BaseException:
        outcomes[page] = traceback.format_exc()
    (home / "outcomes.json").write_text(json.dumps(outcomes))
"""


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """{page: "" or what went wrong}."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "pages.json").write_text(json.dumps({page: blocks_of(page) for page in RUN}))
    done = subprocess.run([sys.executable, "-c", RUNNER], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "outcomes.json").read_text())


@pytest.mark.parametrize("page", RUN)
def test_examples_run(page, outcomes):
    assert blocks_of(page)
    assert outcomes[page] == ""


def test_pages_that_are_not_run_are_there():
    assert set(NOT_RUN) <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / link).exists(), link
