"""The folder of one run: which steps are finished, and whether it is the same run at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_aeprune._files import remove_unfinished, writable_folder, write_json
from keras_aeprune._validation import InputError, shown

try:
    import fcntl
except ImportError:  # Windows: no lock, but every file is still written whole
    fcntl = None  # type: ignore[assignment]  # a module that is not there has no other type

__all__ = ["RunFolder"]

_MANIFEST = "run.json"
_STEPS = "steps"


class RunFolder:
    """A folder that continues where a killed run of the same identity stopped.

    Args:
        path: the folder; made if it is not there.
        identity: plain JSON values that decide the outcome (data fingerprint, settings, version).

    Raises:
        InputError: if the folder cannot be written, holds something else, belongs to a run of another
            identity, or another process is at work in it.

    Example:
        >>> import tempfile
        >>> with RunFolder(tempfile.mkdtemp(), {"seed": 0}) as run:
        ...     run.finish("dense", {"loss": 0.5})
        ...     run.finished("dense"), run.finished("prune")
        ({'loss': 0.5}, None)
    """

    def __init__(self, path: str | Path, identity: dict[str, Any]):
        folder = Path(path)
        known = folder.is_dir() and (folder / _MANIFEST).is_file()
        if folder.is_dir() and not known and any(not f.name.startswith(".") for f in folder.iterdir()):
            raise InputError(
                f"out: got {str(path)!r}, a folder with other files and no {_MANIFEST}, allowed: a new or "
                "empty folder, or the folder of this run"
            )
        self.path = writable_folder("out", path)
        self._lock_file = self._lock()
        identity = json.loads(json.dumps(identity))
        try:
            if known:
                _compare(str(path), _read(self.path / _MANIFEST), identity)
            remove_unfinished(self.path)
            (self.path / _STEPS).mkdir(exist_ok=True)
            remove_unfinished(self.path / _STEPS)
            if not known:
                write_json(self.path / _MANIFEST, identity)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> Any:
        if fcntl is None:
            return None
        file = open(self.path / ".lock", "w")  # noqa: SIM115 - held for as long as the run lasts
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise InputError(
                f"out: got {str(self.path)!r}, where another process is at work, allowed: wait for it, or "
                "another folder"
            ) from None
        return file

    def finished(self, step: str) -> dict[str, Any] | None:
        """What `finish` stored for the step, or None if it is not finished."""
        path = self.path / _STEPS / f"{step}.json"
        return _read(path) if path.is_file() else None

    def finish(self, step: str, record: dict[str, Any]) -> None:
        """Mark a step as finished; its files must be in place before."""
        write_json(self.path / _STEPS / f"{step}.json", record)

    def close(self) -> None:
        """Let other processes in."""
        if self._lock_file is not None:
            (self.path / ".lock").unlink(missing_ok=True)
            self._lock_file.close()
            self._lock_file = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"out: got {str(path)!r}, which cannot be read ({error}), allowed: the folder of a run of this "
            "package; delete it or give another --out"
        ) from None


def _compare(path: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            raise InputError(
                f"out: got {path!r}, the folder of another run ({name} was {shown(there.get(name))} and is "
                f"{shown(here.get(name))} now), allowed: the same arguments as before, or a new folder"
            )
