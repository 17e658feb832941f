"""The python examples of each page of docs/ run one after the other, in a folder of their own."""

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


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_RUN])
def test_examples_run(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_pages_that_are_not_run_are_there():
    assert set(NOT_RUN) <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / link).exists(), link
