"""The rounds of `shrink_until`: what each did, as a table, and their folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune._files import remove_unfinished, writable_folder, write_json, writing
from keras_aeprune._progress import Say, clock
from keras_aeprune._validation import InputError, shown
from keras_aeprune.shrinking.choice import Bounds
from keras_aeprune.shrinking.text import table

__all__ = ["Round", "RoundsFolder", "rounds_table"]

_FORMAT = "keras_aeprune shrink_until 1"
_STATE = "rounds.json"
_WIDEST = 44  # letters of a move in the table


@dataclass(kw_only=True)
class Settings:
    """What one call of `shrink_until` asks for, checked; see there."""

    model: keras.Model
    train: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]
    by: str
    target: float | None
    limit: float
    criterion: Any
    layers: bool
    step: float
    epochs: dict[str, int]
    tuning: dict[str, Any]
    bounds: Bounds
    seed: int
    say: Say


@dataclass(frozen=True)
class Round:
    """One step of making a model smaller.

    Args:
        number: from 0, the model that was given.
        move: what was cut, in words.
        params: numbers in all weights afterwards.
        macs: multiplications with weights for one sample afterwards.
        cut_error: error on the validation samples after the cut and its compensation, before training.
        error: the same after training.
        held: whether the error is within the limit, so that the next round went on from here.
        seconds: it took.

    Example:
        >>> one = Round(1, "widths x0.75", 700, 650, cut_error=0.6, error=0.51, held=True, seconds=12.0)
        >>> one.held and one.error < one.cut_error
        True
    """

    number: int
    move: str
    params: int
    macs: int
    cut_error: float
    error: float
    held: bool
    seconds: float


def rounds_table(rounds: Sequence[Round]) -> str:
    """The rounds as a table; errors also as multiples of the first one's.

    Example:
        >>> print(rounds_table([Round(0, "given", 1000, 900, 0.5, 0.5, True, 0.0),
        ...                     Round(1, "widths x0.75", 700, 650, 0.6, 0.51, True, 12.0)]))
        round  what          parameters  MACs      cut           trained  time
        0      given              1,000   900  0.50000  0.50000 (x1.000)   0 s
        1      widths x0.75         700   650  0.60000  0.51000 (x1.020)  12 s
    """
    first = rounds[0].error or 1.0
    rows = [
        [
            str(r.number),
            _short(r.move) if r.held else f"too much: {_short(r.move)}",
            f"{r.params:,}",
            f"{r.macs:,}",
            f"{r.cut_error:.5f}",
            f"{r.error:.5f} (x{r.error / first:.3f})",
            clock(r.seconds),
        ]
        for r in rounds
    ]
    return "\n".join(table(["round", "what", "parameters", "MACs", "cut", "trained", "time"], rows, left=2))


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


class RoundsFolder:
    """A folder that continues where a killed run of the same identity stopped.

    Args:
        path: the folder; made if it is not there.
        identity: plain JSON values that decide the outcome.

    Raises:
        InputError: if it cannot be written, or holds the rounds of another run.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]):
        self.path = writable_folder("directory", path)
        self._identity = json.loads(json.dumps({"format": _FORMAT, **identity}))
        file = self.path / _STATE
        self._rounds: list[dict[str, Any]] = []
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
                there, self._rounds = found["identity"], found["rounds"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"directory: got {str(path)!r}, whose {_STATE} cannot be read ({error}), allowed: the folder "
                    "of a run of shrink_until, or a new one"
                ) from None
            for name in sorted({*there, *self._identity}):
                if there.get(name) != self._identity.get(name):
                    raise InputError(
                        f"directory: got {str(path)!r}, the folder of another run ({name} was "
                        f"{shown(there.get(name))} and is {shown(self._identity.get(name))} now), allowed: the "
                        "same arguments as before, or a new folder"
                    )
        remove_unfinished(self.path)

    def rounds(self) -> list[Round]:
        """Those that were finished before."""
        return [Round(**one) for one in self._rounds]

    def model(self, number: int) -> keras.Model:
        """The model that a round that held left behind."""
        return keras.models.load_model(self._file(number))

    def finish(self, rounds: Sequence[Round], model: keras.Model | None) -> None:
        """Write the last of `rounds`, and its model if it held; the files are whole or not there."""
        if model is not None:
            with writing(self._file(rounds[-1].number)) as temporary:
                model.save(temporary)
        self._rounds = [asdict(one) for one in rounds]
        write_json(self.path / _STATE, {"identity": self._identity, "rounds": self._rounds})

    def _file(self, number: int) -> Path:
        return self.path / f"round-{number}.keras"
