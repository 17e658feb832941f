"""Find the narrowest good code for data, and write the answer, its picture and the model into a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_aeprune import datasets
from keras_aeprune._files import writable_folder, write_json, writing
from keras_aeprune._validation import InputError
from keras_aeprune.search.width import encoding_width
from keras_aeprune.search.width_result import WidthResult

__all__ = ["SearchFiles", "search_files"]


@dataclass(frozen=True)
class SearchFiles:
    """What `search_files` wrote; prints the answer, the table and the paths.

    Attributes:
        result: the `WidthResult`.
        files: {"result.json", "widths.png", "model.keras": path}.

    Example:
        >>> from keras_aeprune.search import Curve, Trials
        >>> curve = Curve.of((4, 8), pca=[0.04, 0.02], tried=[0.0132, 0.013], retrained={4: [0.0131], 8: [0.013]})
        >>> result = WidthResult(4, None, curve, Trials(()), 0.07, 0.016, 0.05, "tolerance", "screen")
        >>> made = SearchFiles(result, {"model.keras": Path("widths/model.keras")})
        >>> made.result.encoding_dim, made.files["model.keras"].name
        (4, 'model.keras')
    """

    result: WidthResult
    files: dict[str, Path]

    def __str__(self) -> str:
        return "\n".join([str(self.result), "", *(str(path) for path in self.files.values())])


def search_files(
    data: Any,
    out: str | Path,
    *,
    widths: str | Sequence[int] = "16:64:4",
    key: str | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> SearchFiles:
    """Find the narrowest good width for data and write result.json, widths.png and model.keras.

    Killed and called again with the same arguments, it goes on; finished, it answers from its files.

    Args:
        data: as for `compress`.
        out: folder for the results; new, empty, or of this same search.
        widths: whole numbers, or text: "16:64:4" is 16, 20, ... up to 64; "8,12,16" are these.
        key: which array of a .npz file.
        seed: of the splits and of everything random.
        progress: print progress lines to standard error.
        **options: as for `search.encoding_width`.

    Returns:
        A `SearchFiles`.

    Raises:
        InputError: for data or arguments that cannot be used.
        BudgetError: if the choice does not keep a limit.

    Example:
        >>> print(search_files("digits", "widths", widths="4:32:4"))   # doctest: +SKIP
    """
    found = parse_widths(widths) if isinstance(widths, str) else widths
    loaded = datasets.load(data, key=key, seed=seed)
    folder = Path(out)
    result = encoding_width(loaded, found, directory=folder / "search", seed=seed, progress=progress, **options)
    writable_folder("out", folder)
    files = {name: folder / name for name in ("result.json", "widths.png", "model.keras")}
    record = {**result.to_dict(), "data": loaded.describe()}
    with writing(files["widths.png"]) as temporary:
        result.plot(temporary)
    with writing(files["model.keras"]) as temporary:
        temporary.write_bytes((folder / "search" / "model.keras").read_bytes())
    write_json(files["result.json"], record)
    return SearchFiles(result, files)


def parse_widths(text: str) -> list[int]:
    """Widths from text.

    >>> parse_widths("16:24:4"), parse_widths("8,12")
    ([16, 20, 24], [8, 12])
    """
    if re.fullmatch(r"\d+(,\d+)*", text):
        return [int(part) for part in text.split(",")]
    if match := re.fullmatch(r"(\d+):(\d+)(?::(\d+))?", text):
        low, high, step = (int(part) if part else 1 for part in match.groups())
        if step >= 1 and low <= high:
            return list(range(low, high + 1, step))
    raise InputError(f"widths: got {text!r}, allowed: FIRST:LAST:STEP like 16:64:4, or whole numbers like 8,12,16")
