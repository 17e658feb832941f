"""What a search for a width starts from: checked data, widths and method, and the folder it goes on in."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_aeprune import datasets
from keras_aeprune._files import remove_unfinished, writable_folder, write_json
from keras_aeprune._validation import InputError, one_of, positive_int, refuse, shown
from keras_aeprune.datasets.checks import check_values
from keras_aeprune.datasets.loading import split_rows
from keras_aeprune.search.screening import flat
from keras_aeprune.sparsity.iterative_state import described

BATCHED = ("activation", "output_activation", "batch_size", "learning_rate")  # options that the screen takes
_MANIFEST = "search.json"


@dataclass(frozen=True, eq=False)
class Data:
    """Training and held-out samples, float32, and what was done to them."""

    x: np.ndarray
    validation: np.ndarray
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, x: Any, validation: Any, seed: int) -> Data:
        notes: tuple[str, ...] = ()
        if not isinstance(x, datasets.Dataset) and (isinstance(x, tuple) or not hasattr(x, "__array__")):
            x = datasets.load(x, seed=seed)
            notes = (*x.notes, f"data {x.name!r} as datasets.load scaled it")
        if isinstance(x, datasets.Dataset):
            if validation is None and len(x.x_validation):
                validation = x.x_validation
            x = x.x_train
        x = np.asarray(x)
        check_values("x", x)
        if x.dtype == np.uint8 and x.max(initial=0) > 1:
            raise InputError(
                "x: got uint8 values up to 255, allowed: scaled samples; datasets.load(x) scales them"
            )
        if validation is None:
            if len(x) < 10:
                raise InputError(f"x: got {len(x)} samples, allowed: 10 or more, or validation=")
            rows = split_rows(len(x), 0.1, 0.0, seed)
            x, validation = x[rows["train"]], x[rows["validation"]]
        validation = np.asarray(validation)
        check_values("validation", validation)
        if validation.shape[1:] != x.shape[1:]:
            raise refuse("validation", validation.shape, f"samples of shape {x.shape[1:]}, like x")
        return cls(np.asarray(x, "float32"), np.asarray(validation, "float32"), notes)

    @property
    def features(self) -> int:
        return int(np.prod(self.x.shape[1:]))

    def part(self, samples: int, held: int, seed: int) -> Data:
        """At most so many samples, drawn at random, as vectors."""
        random = np.random.default_rng(np.random.SeedSequence([seed, 2]))
        chosen = [np.sort(random.permutation(len(x))[:n]) for x, n in ((self.x, samples), (self.validation, held))]
        return Data(flat("x", self.x[chosen[0]]), flat("validation", self.validation[chosen[1]]))


def method_for(
    method: str, kind: Any, hidden_units: Any, sparsity: Any, criterion: Any, options: Mapping[str, Any]
) -> str:
    """ "screen" or "hyperband"."""
    one_of("method", method, ("auto", "screen", "hyperband"))
    if method == "hyperband":
        return method
    others = {"kind": kind != "dense", "sparsity": sparsity is not None, "criterion": criterion is not None}
    others["hidden_units"] = isinstance(hidden_units, list) and any(
        isinstance(u, (list, tuple)) for u in hidden_units
    )
    others |= {name: name not in BATCHED or isinstance(value, (list, tuple)) for name, value in options.items()}
    beyond = [name for name, found in others.items() if found]
    if method == "screen" and beyond:
        raise InputError(
            f"method: got 'screen' with {', '.join(beyond)}, allowed: dense autoencoders of which only the width "
            "is searched; take method='hyperband'"
        )
    return "hyperband" if beyond else "screen"


def checked_widths(widths: Any, features: int) -> list[int]:
    """The widths in ascending order, each less than the values in a sample."""
    if isinstance(widths, (str, bytes)) or not isinstance(widths, Iterable):
        raise refuse("widths", widths, "whole numbers, for example range(16, 65, 4)")
    found = [positive_int("widths", width) for width in widths]
    if not found or len(set(found)) < len(found):
        raise refuse("widths", found, "one or more whole numbers, each once")
    if max(found) >= features:
        raise InputError(
            f"widths: got up to {max(found)}, allowed: 1 to {features - 1}, less than the {features} values in a "
            "sample; give widths="
        )
    return sorted(found)


@contextmanager
def search_folder(directory: str | Path | None, settings: dict[str, Any]) -> Iterator[Path]:
    """The folder of this search, or one that is thrown away; refused if it is of another search."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="keras_aeprune_") as thrown_away:
            yield Path(thrown_away)
        return
    path, now = Path(directory), described(settings)
    known = path / _MANIFEST
    if known.is_file():
        before = json.loads(known.read_text(encoding="utf-8"))
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise InputError(
                    f"directory: got {str(directory)!r}, which holds another search ({name} was "
                    f"{shown(before.get(name))} and is {shown(now.get(name))} now), allowed: the same arguments, "
                    "or a new folder"
                )
    elif path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir()):
        raise InputError(
            f"directory: got {str(directory)!r}, a folder with other files, allowed: a new or empty folder, or "
            "that of this search"
        )
    path = writable_folder("directory", path)
    remove_unfinished(path)
    if not known.is_file():
        write_json(known, now)
    yield path
