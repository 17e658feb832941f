"""What is in a notebook: its parameters, its short form, the data it needs. Plain JSON; no Jupyter needed."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("[0-9]*.ipynb")))
KEY = "keras_aeprune"  # of this project's part in a notebook's metadata


def read(name: str) -> dict[str, Any]:
    """The notebook NAME.ipynb as plain JSON values."""
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def text(cell: dict[str, Any]) -> str:
    """The source of a cell, which nbformat stores as a string or as a list of lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The code cells in their order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def parameters(notebook: dict[str, Any]) -> dict[str, Any]:
    """{name: value} of the cell tagged "parameters".

    Raises:
        ValueError: if the first code cell is not tagged so, or holds more than plain assignments.
    """
    cells = code_cells(notebook)
    if not cells or "parameters" not in cells[0]["metadata"].get("tags", ()):
        raise ValueError('the first code cell must have the tag "parameters"')
    found = {}
    for line in ast.parse(text(cells[0])).body:
        plain = isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)
        if not plain:
            raise ValueError(f"the parameters: got {ast.unparse(line)!r}, allowed: NAME = value")
        try:
            found[line.targets[0].id] = ast.literal_eval(line.value)
        except ValueError:
            raise ValueError(f"the parameters: got {ast.unparse(line)!r}, allowed: a literal value") from None
    return found


def quick(notebook: dict[str, Any]) -> dict[str, Any]:
    """{name: value} of the short form, each of them a parameter.

    Raises:
        ValueError: if the metadata lack the short form or name what the parameters do not assign.
    """
    known = parameters(notebook)
    values = notebook["metadata"].get(KEY, {}).get("quick")
    if not isinstance(values, dict):
        raise ValueError(f'the metadata must have {{"{KEY}": {{"quick": {{NAME: value}}, "data": []}}}}')
    for name in values:
        if name not in known:
            raise ValueError(f"quick: got {name!r}, not one of the parameters: {', '.join(known)}")
    return values


def missing_data(notebook: dict[str, Any]) -> str:
    """Why this notebook cannot run here, in words; "" if it can."""
    needs = notebook["metadata"].get(KEY, {}).get("data", [])
    folder = os.environ.get("KERAS_AEPRUNE_DATA")
    if needs and not folder:
        return f"needs {', '.join(needs)}: KERAS_AEPRUNE_DATA is not set to a folder with data/"
    absent = [name for name in needs if not (Path(folder) / "data" / f"{name}.npz").is_file()]
    return f"needs {', '.join(absent)}, which KERAS_AEPRUNE_DATA does not have in data/" if absent else ""


def sources(notebook: dict[str, Any], values: dict[str, Any] | None = None) -> Iterator[str]:
    """The text of each code cell, with `values` assigned behind the parameters."""
    for index, cell in enumerate(code_cells(notebook)):
        lines = [f"{name} = {value!r}" for name, value in (values or {}).items()] if index == 0 else []
        yield "\n".join([text(cell), *lines])
