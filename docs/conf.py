"""The site: `python -m sphinx -W --keep-going -b html docs site`, with the package and its extra `docs` installed.

The pages are the Markdown files here, which read as well without Sphinx: tables of contents and the reference are
added while it reads them. The reference in api/ holds the docstrings of all names in the `__all__` of each room.
Docstrings are plain text with single backticks around code, not reStructuredText; `plain` turns it into that.
"""

import os
import re
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from docutils import nodes
from docutils.statemachine import StringList
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.project import Project
from sphinx.util.docutils import SphinxDirective

import keras_aeprune

project = "keras_aeprune"
author = "The keras_aeprune authors"
release = version = keras_aeprune.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "site"]
default_role = "py:obj"  # what is in backticks in a docstring is a link where the reference has that name
smartquotes = False

myst_heading_anchors = 3

autodoc_inherit_docstrings = False  # hooks of Keras classes are explained by Keras
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"keras_aeprune {release}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_static_path = []

CONTENTS = {
    "Rooms": [
        *("models", "datasets", "searching", "schedules", "regularizers", "calibration", "criteria", "sparsity"),
        *("shrinking", "compression", "export", "report", "pipeline"),
    ],
    "Guides": ["files", "why-not-smaller", "phone", "microcontroller", "onnx", "from-tfmot", "extend"],
    "Look up": ["benchmarks", "api/index"],
}
ROOMS = [*(name for name in keras_aeprune.__all__ if isinstance(getattr(keras_aeprune, name), ModuleType)), "cli"]

_SECTIONS = ("Args:", "Attributes:", "Example:", "Examples:", "Raises:", "Returns:", "Yields:")
_COLON = "\ue000"
_NAME = re.compile(r"\.?[A-Za-z_][\w.]*(\(\))?")
_CODE = re.compile(r"(``.+?``|`[^`]+`)")


def plain(lines: list[str]) -> list[str]:
    """A docstring of this package as reStructuredText that looks the same.

    Names in backticks stay, other code in backticks becomes a literal, `*`, `|` and `_` at the end of a word are
    characters like all others, and an indented paragraph is a formula, shown as it stands.
    """
    out: list[str] = []
    lines = _tables(lines)
    formula = example = False
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        before = next((text for text in reversed(lines[:number]) if text.strip()), "")
        free = bool(before) and not before.startswith((" ", "- ")) and before.rstrip() not in _SECTIONS
        if line.strip() and indent == 0:
            formula = False
        elif line.strip() and number and not lines[number - 1].strip() and indent >= 4 and free:
            formula = True
            out += [".. code-block:: text", ""]
        example = line.lstrip().startswith((">>>", "...")) or (example and bool(line.strip()))
        out.append(line if formula or example else _escaped(line))
    return out


def _tables(lines: list[str]) -> list[str]:
    """Markdown tables as the literal text that they are, one paragraph each."""
    out: list[str] = []
    for line in lines:
        out.append(f"    {line}" if line.startswith("| ") or line.startswith("|-") else line)
    return out


def _escaped(line: str) -> str:
    """One line outside formulas and examples."""
    parts = _CODE.split(line)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r"(\*|\||_(?!\w))", r"\\\1", part)
        else:
            code = part.strip("`")
            close = "\\ " if re.match(r"\w", parts[i + 1]) else ""
            single = _NAME.fullmatch(code) and not code.startswith(".")
            parts[i] = (part if single else f"``{code}``") + close
    return "".join(parts)


def _docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon, which takes what stands before a colon for a property's type.

    Classes of other packages keep their first paragraph only.
    """
    if not (getattr(thing, "__module__", None) or "keras_aeprune").startswith("keras_aeprune"):
        end = lines.index("") if "" in lines else len(lines)
        lines[:] = lines[:end]
    lines[:] = plain(lines)
    if what == "property":
        lines[:] = [line.replace(":", _COLON) for line in lines]


def _colons(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """After napoleon."""
    lines[:] = [line.replace(_COLON, ":") for line in lines]


class Room(SphinxDirective):
    """The docstring of a room and all names in its `__all__`; modules among them with all of theirs.

    A name that comes from another room is explained there.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The reference of the room that the argument names."""
        room = import_module(self.arguments[0])
        lines = _reference(room)
        for name in room.__all__:
            if isinstance(module := getattr(room, name), ModuleType):
                title = f"{room.__name__}.{name}"
                lines += [title, "-" * len(title), "", *_reference(module)]
        return self.parse_text_to_nodes(StringList(lines, self.env.docname), allow_section_headings=True)


def _reference(module: ModuleType) -> list[str]:
    """What autodoc is asked for; it leaves out plain values, and would explain a name twice."""
    here = module.__name__
    things = {name: getattr(module, name) for name in module.__all__}
    elsewhere = {name: home for name, thing in things.items() if (home := _home(name, thing, here))}
    lines = [f".. automodule:: {here}", "   :members:"]
    lines += [f"   :exclude-members: {', '.join(elsewhere)}"] * bool(elsewhere) + [""]
    for name, thing in things.items():
        if name in elsewhere:
            lines += [f".. py:class:: {name}", "", f"   The same as :py:obj:`{elsewhere[name]}.{name}`.", ""]
        elif isinstance(thing, (Mapping, tuple, list)):
            lines += [f".. py:data:: {name}", "", f"   In it: {', '.join(f'``{key}``' for key in thing)}.", ""]
    return lines


def _home(name: str, thing: Any, here: str) -> str | None:
    """The other room that the thing comes from; None where it is at home here."""
    if isinstance(thing, ModuleType):
        return None
    for other in (f"keras_aeprune.{room}" for room in ROOMS):
        if other == here:
            return None
        if getattr(import_module(other), name, None) is thing:
            return other
    return None


def _added(app: Sphinx, page: str, source: list[str]) -> None:
    """What a page has only on the site."""
    if page == "index":
        for caption, pages in CONTENTS.items():
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
    elif page == "api/index":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"
    elif page.startswith("api/"):
        source[0] += f"\n```{{eval-rst}}\n.. room:: keras_aeprune.{page.removeprefix('api/')}\n```\n"


def _free_the_name_search() -> None:
    """search.md becomes searching.html: Sphinx writes its own search.html, for words on the site."""
    docname = Project.path2doc

    def renamed(self: Project, path: str | os.PathLike[str]) -> str | None:
        return "searching" if (name := docname(self, path)) == "search" else name

    Project.path2doc = renamed


def setup(app: Sphinx) -> None:
    """What Sphinx calls; drawings in Mermaid are shown as text."""
    _free_the_name_search()
    app.add_directive("room", Room)
    app.connect("source-read", _added)
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # napoleon: 500
    app.connect("autodoc-process-docstring", _colons, priority=600)
    app.add_lexer("mermaid", TextLexer)
