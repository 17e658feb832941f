"""Any models and files beside each other: one table and one page."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_aeprune._files import remove_unfinished
from keras_aeprune._progress import Say, silent, to_stderr
from keras_aeprune._validation import InputError, positive_int, shown
from keras_aeprune.export.benchmark import benchmark
from keras_aeprune.export.check import ExportMismatch
from keras_aeprune.export.convert import ConversionError
from keras_aeprune.export.tflite import tflite
from keras_aeprune.report import outcomes
from keras_aeprune.report.inspected import Inspection
from keras_aeprune.report.inspection import SUFFIXES, look
from keras_aeprune.report.markup import write_pair
from keras_aeprune.report.measure import environment, file_sizes
from keras_aeprune.report.pareto import error_against, front
from keras_aeprune.report.samples import reconstructions
from keras_aeprune.report.versus_page import versus_page
from keras_aeprune.report.versus_text import versus_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison", "compare"]

FORMAT = 1
_DRAWN = 5  # models in the picture of reconstructions
_FLOAT = 4  # bytes of a weight before anything was done


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found; `print` shows the tables.

    Args:
        report: what report.json holds.
        inspections: of the models, in their order.
        folder: holds report.json and report.html.

    Example:
        >>> sorted(Comparison({}, (), Path("page")).files)
        ['report.html', 'report.json']
    """

    report: dict[str, Any]
    inspections: tuple[Inspection, ...]
    folder: Path

    @property
    def files(self) -> dict[str, Path]:
        """The two files by name."""
        return {name: self.folder / name for name in ("report.json", "report.html")}

    def __str__(self) -> str:
        return "\n".join([versus_table(self.report), "", *(str(path) for path in self.files.values())])


@dataclass
class _Entry:
    label: str
    source: Path | keras.Model
    found: Inspection
    network: keras.Model | None
    file: Path | None = None  # what LiteRT runs
    note: str = ""


def compare(
    models: Any,
    data: Any = None,
    out: str | Path = "report",
    *,
    key: str | None = None,
    scale: str = "none",
    samples: int = 1000,
    runs: int = 200,
    packed: Mapping[str, str | Path] | None = None,
    energy: Mapping[str, float] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Compare models and files by parameters, work, size, time and error; write one table and one page.

    Everything is relative to the first one. Three ratios that papers mix up are given by their own names, with W
    the first model's parameters:

        nnz             W / parameters that are not zero
        stored, sparse  4 W / bytes with zeros left out, values as 32 bits, index included
        stored, coded   4 W / bytes of the packed file, or else after gzip: of a .tflite file, of Keras' weights

    Keras models are timed as float32 .tflite files that are made for it and thrown away.

    Args:
        models: files (.keras, .h5, .hdf5, .tflite), folders (all such files in them) and Keras models; a list,
            or a dict by label. Labels are the names of files and models otherwise.
        data: samples, or (samples, labels); or what `datasets.load` reads, of which the test split is taken.
            None compares no errors. The error is the mean squared error where all models are autoencoders, the
            fraction of wrong answers where there are labels, else the difference from the first model.
        out: folder for report.html and report.json; an earlier comparison there is replaced.
        key: which array of a .npz file.
        scale: "none", "auto", "unit" or "standard" as for `datasets.load`; arrays are used as they are.
        samples: at most how many samples are used, >= 1.
        runs: readings of the time of each file, >= 0; 0 measures no times.
        packed: {label: packed file} for the column "packed".
        energy: {label: number >= 0} for the column "energy proxy".
        seed: of the draw of samples and of the inputs that are timed, >= 0.
        progress: print lines to standard error.

    Returns:
        A `Comparison`: `print(it)`, `it.report`, `it.inspections`, `it.files`.

    Raises:
        InputError: models, data or arguments that cannot be used; `out` is as it was before then.

    Example:
        >>> first = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="first")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = compare([first], np.ones((3, 4)), folder, runs=0, progress=False)
        >>> found.report["rows"][0]["ratios"]["nnz"], sorted(found.files)
        (1.0, ['report.html', 'report.json'])
    """
    positive_int("samples", samples)
    positive_int("runs", runs, minimum=0)
    positive_int("seed", seed, minimum=0)
    folder = _own(Path(out))
    say = to_stderr if progress else silent
    named = _named(models)
    packed = _of_known("packed", packed, named)
    energy = _of_known("energy", energy, named)
    given = None
    if data is not None:
        given = outcomes.read(data, key=key, scale=scale, samples=samples, seed=seed)
    entries = list(_inspected(named, packed, energy, say))
    with tempfile.TemporaryDirectory() as scratch:
        if runs:
            _convert(entries, Path(scratch), None if given is None else given.x[:64], say)
        kind, found, drawn = _errors(entries, given, say)
        latency = _times(entries, runs, seed, say)
        rows = [_row(entry, entries[0], found, latency) for entry in entries]
    _mark_fronts(rows)
    report = {
        "kind": "comparison",
        "format": FORMAT,
        "data": None if given is None else given.describe(),
        "error": None if given is None or kind is None else {"kind": kind, "samples": len(given.x)},
        "rows": rows,
        "models": [entry.found.to_dict() for entry in entries],
        "measured_on_this_machine": {"latency": list(latency.values()), "environment": environment()},
    }
    looks = tuple(replace(entry.found, name=entry.label) for entry in entries)
    page = versus_page(report, looks, _figures(report, given, drawn))
    write_pair(report, page, folder)
    remove_unfinished(folder)
    say(f"compared {len(rows)} models", True)
    return Comparison(report, looks, folder)


def _own(folder: Path) -> Path:
    """The folder, if no report of something else is in it."""
    for name in ("report.json", "report.html"):
        if not (folder / name).exists():
            continue
        try:
            known = json.loads((folder / "report.json").read_text(encoding="utf-8"))["kind"] == "comparison"
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise InputError(
                f"out: got {str(folder)!r}, where {name} is not of a comparison, allowed: a new folder, or "
                "one with an earlier comparison"
            )
    return folder


def _named(models: Any) -> dict[str, Path | keras.Model]:
    """Models by label, folders replaced by the files in them."""
    if isinstance(models, Mapping):
        named = {str(label): Path(one) if isinstance(one, str) else one for label, one in models.items()}
    else:
        given = list(models) if isinstance(models, (list, tuple)) else [models]
        named = {}
        for one in (file for each in given for file in _files(each)):
            name = one.name
            if name in named and isinstance(one, Path):
                name = f"{one.parent.name}/{one.name}"
            number = 2
            while name in named:
                name, number = f"{one.name} ({number})", number + 1
            named[name] = one
    if not named:
        raise InputError("models: got none, allowed: at least one model or file")
    for label, one in named.items():
        if not isinstance(one, (Path, keras.Model)):
            raise InputError(f"models: got {shown(one)} as {label!r}, allowed: Keras models and paths of files")
    return named


def _files(one: Any) -> list[Any]:
    path = Path(one) if isinstance(one, str) else one
    if not isinstance(path, Path) or not path.is_dir():
        if not isinstance(path, (Path, keras.Model)):
            raise InputError(f"models: got {shown(one)}, allowed: Keras models and paths of files")
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"models: got the folder {str(path)!r}, allowed: one with {', '.join(SUFFIXES)} files")
    return found


def _of_known(name: str, given: Mapping[str, Any] | None, named: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(given or {}) - set(named)
    if unknown:
        raise InputError(f"{name}: got {shown(sorted(unknown)[0])}, allowed: the labels {', '.join(named)}")
    return dict(given or {})


def _inspected(
    named: Mapping[str, Any], packed: Mapping[str, Any], energy: Mapping[str, Any], say: Say
) -> Iterator[_Entry]:
    for label, source in named.items():
        say(f"look at {label}", False)
        found, network = look(source)
        if label in packed:
            found = replace(found, packed_bytes=file_sizes(packed[label])["bytes"])
        if label in energy:
            found = replace(found, energy=float(energy[label]))
        file = source if isinstance(source, Path) and source.suffix.lower() == ".tflite" else None
        yield _Entry(label, source, found, network, file)


def _convert(entries: Sequence[_Entry], scratch: Path, x: np.ndarray | None, say: Say) -> None:
    """Make the files on which Keras models are timed."""
    for number, entry in enumerate(entries):
        if entry.network is None:
            continue
        say(f"convert {entry.label} to time it", False)
        path = scratch / f"{number}.tflite"
        shape = entry.network.input_shape if len(entry.network.inputs or []) == 1 else None
        fits = x is not None and isinstance(shape, tuple) and x.shape[1:] == tuple(shape[1:])
        try:
            tflite(entry.network, path, data=x if fits else None)
        except (InputError, ConversionError, ExportMismatch) as error:
            entry.note = f"not timed, as it could not be converted: {' '.join(str(error).split())}"
            continue
        entry.file = path
        entry.note = "timed as a float32 .tflite file"


def _errors(
    entries: Sequence[_Entry], given: outcomes.Samples | None, say: Say
) -> tuple[str | None, dict[str, float], dict[str, np.ndarray]]:
    """The kind of error, each model's, and some outputs to draw."""
    if given is None:
        return None, {}, {}
    outputs = {}
    for entry in entries:
        say(f"run {entry.label} on {len(given.x):,} samples", False)
        outputs[entry.label] = outcomes.runner(entry.label, entry.network or entry.source)(given.x)
    kind, found = outcomes.errors(outputs, given)
    return kind, found, {label: values[:10] for label, values in list(outputs.items())[:_DRAWN]}


def _times(entries: Sequence[_Entry], runs: int, seed: int, say: Say) -> dict[str, dict[str, Any]]:
    timed = [entry for entry in entries if entry.file is not None]
    if not runs or not timed:
        return {}
    say(f"time {len(timed)} files against each other", False)
    measured = benchmark(*(entry.file for entry in timed if entry.file is not None), runs=runs, seed=seed)
    found = {}
    for entry, latency in zip(timed, measured, strict=True):
        found[entry.label] = {**latency.to_dict(), "name": entry.label}
        found[entry.label].pop("path")
    return found


def _row(entry: _Entry, first: _Entry, found: Mapping[str, float], latency: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table; what was not measured is left out."""
    look_at = entry.found
    row: dict[str, Any] = {"label": entry.label, "format": look_at.format, **look_at.totals}
    if look_at.bytes is not None:
        row |= {"bytes": look_at.bytes, "gzip_bytes": look_at.gzip_bytes}
    elif entry.file is not None:
        row |= file_sizes(entry.file)
        entry.note += ", which its size is of"
    if look_at.packed_bytes is not None:
        row["packed_bytes"] = look_at.packed_bytes
    if look_at.energy is not None:
        row["energy"] = look_at.energy
    if entry.label in found:
        row["error"] = found[entry.label]
    if entry.label in latency:
        row["median_us"] = latency[entry.label]["median_us"]
    if entry.network is not None:
        row["weights_gzip_bytes"] = _gzipped(entry.network)
    row["ratios"] = _ratios(row, first.found.parameters)
    row["note"] = entry.note
    return row


def _gzipped(model: keras.Model) -> int:
    """Bytes of all weights after gzip: a Keras file may hold more than the weights."""
    packer, size = zlib.compressobj(9, zlib.DEFLATED, 31), 0
    for variable in {id(one): one for one in model.weights}.values():
        size += len(packer.compress(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes()))
    return size + len(packer.flush())


def _ratios(row: Mapping[str, Any], weights: int) -> dict[str, Any]:
    """The three ratios; one that divides by nothing is left out."""
    kinds = {"packed": "packed_bytes", "gzip of the weights": "weights_gzip_bytes", "gzip": "gzip_bytes"}
    coded_by = next((kind for kind, name in kinds.items() if row.get(name)), "")
    parts = {
        "nnz": (weights, row["nonzero"]),
        "stored_sparse": (_FLOAT * weights, row["sparse_bytes"]),
        "stored_coded": (_FLOAT * weights, row.get(kinds.get(coded_by, ""))),
    }
    found: dict[str, Any] = {name: over / under for name, (over, under) in parts.items() if under}
    return {**found, "coded_by": coded_by} if coded_by else found


def _mark_fronts(rows: Sequence[dict[str, Any]]) -> None:
    """Note at each row by which cost no other is both cheaper and better."""
    for row in rows:
        row["front"] = []
    for cost in ("bytes", "median_us"):
        held = [row for row in rows if "error" in row and row.get(cost)]
        for index in front([(row[cost], row["error"]) for row in held]):
            held[index]["front"].append(cost)


def _figures(
    report: Mapping[str, Any], given: outcomes.Samples | None, drawn: Mapping[str, np.ndarray]
) -> dict[str, Figure]:
    made: dict[str, Figure] = {}
    if given is None:
        return made
    rows, error = report["rows"], outcomes.ERRORS[report["error"]["kind"]][0]
    if report["error"]["kind"] == "mse":
        count = min(len(values) for values in drawn.values())
        made["reconstructions"] = reconstructions({"original": given.x[:count], **drawn}, given.x.shape[1:])
    for name, cost in (("error_against_size", "bytes"), ("error_against_time", "median_us")):
        if any(row.get(cost) for row in rows):
            made[name] = error_against(rows, cost, error=error)
    return made
