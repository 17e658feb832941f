"""What can stand in for real calibration samples: sources tried beside each other."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_aeprune import calibration
from keras_aeprune import criteria as known
from keras_aeprune._files import fingerprint, remove_unfinished, writable_folder, write_json
from keras_aeprune._progress import clock, no_retracing_lines, silent, to_stderr
from keras_aeprune._validation import InputError, fraction, keras_model, positive_int, refuse, shown
from keras_aeprune.criteria.base import Criterion
from keras_aeprune.criteria.scoring import evidence
from keras_aeprune.datasets import Dataset
from keras_aeprune.search.calibration_table import NO_DATA, CalibrationRow, CalibrationTable, Spread
from keras_aeprune.search.calibration_trial import Draws, Trial, Wanted, named
from keras_aeprune.sparsity import allocation as allocations
from keras_aeprune.sparsity.iterative_state import ModelState, described

__all__ = ["compare_calibration"]

_MIXTURE = re.compile(r"(\d*\.?\d+) real \+ (\d*\.?\d+) (\w+)")
_DEFAULT_MIXTURE = "0.5 real + 0.5 vae"
_FIELDS = ("by_kernel", "overall", "pruned", "tuned")


def compare_calibration(
    model: keras.Model,
    data: Any,
    sparsity: float,
    *,
    sources: Iterable[Any] | None = None,
    criterion: Any = "fisher",
    samples: int = 1024,
    seeds: int = 5,
    validation: Any = None,
    epochs: int = 1,
    allocation: Any = "global",
    pruning: Mapping[str, Any] | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
    **fit: Any,
) -> CalibrationTable:
    """How well generated calibration samples replace real ones, in scores and in losses.

    Use it on a trained model before its data go away, to know whether pruning from a generator, the model's own
    decoder or noise will do. With each seed, `samples` real samples are set aside as the reference, and every
    source learns from and draws among the others. So "real" is another draw: what it reaches is the ceiling. Each
    criterion scores the weights on the samples of each source, and

        rank = Spearman's correlation of the scores with those from the reference (equal scores share
               their mean rank; scores that are all equal count as 0)

    is taken per kernel (mean weighted by size) and over all weights. Then the weights are pruned in one step by
    these scores and fine-tuned on the real data. Criteria "magnitude" and "random", which see no samples, are
    the controls. A seed decides on the draws, the training of generators and the fine-tuning.

    All take turns in the model itself, as in `choose_criterion`; it is given back as it was, also after an error.

    Args:
        model: a built and compiled Keras model, trained.
        data: real samples: the input x of an autoencoder, (x, y), or what else `calibration.get` takes.
        sparsity: fraction of weights set to zero, 0 < s < 1.
        sources: names or instances of sources from `keras_aeprune.calibration`, mixtures as text,
            "0.75 real + 0.25 vae", or as (source, fraction of the samples that it makes). None for all that
            are known and "0.5 real + 0.5 vae". What this model cannot take is listed with the reason.
        criterion: a name or instance of a criterion that looks at data, or several.
        samples: from each source, >= 1 and at most half of the training data.
        seeds: how many, 2 or more; they are 0, 1, ...
        validation: as `data`; None takes the validation split of a `datasets.Dataset`, and of other data the
            last fifth.
        epochs: of fine-tuning, 1 or more.
        allocation: which kernels share the zeros, as in `Prune`.
        pruning: other arguments of `sparsity.Pruner`: pattern, limits, exclude, loss, ...
        directory: a folder to which every finished measurement is written; the same call goes on there, also with
            more seeds, sources or criteria. None for none.
        progress: whether to write lines to standard error.
        **fit: other arguments of `model.fit`, such as batch_size.

    Returns:
        A `CalibrationTable`: `print(table)`, `table.row("vae")`, `table.plot("sources.png")`.

    Raises:
        InputError: for a model that is not compiled, bad data or numbers, a criterion without data, a folder of
            another comparison, or if no source can be tried.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).random((40, 4), "float32")
        >>> names = ("real", "uniform_noise")
        >>> table = compare_calibration(model, x, 0.5, sources=names, samples=8, seeds=2, progress=False)
        >>> [row.source for row in table.rows]
        ['real', 'uniform_noise', 'no data', 'no data']
    """
    if not keras_model(model).compiled:
        raise InputError(f"model {model.name!r}: got a model that is not compiled, allowed: a compiled one")
    fraction("sparsity", sparsity, low_open=True)
    positive_int("samples", samples)
    positive_int("seeds", seeds, minimum=2)
    positive_int("epochs", epochs)
    wanted, chosen = _sources(sources), _criteria(criterion)
    pruning = {**dict(pruning or {}), "allocation": allocations.get(allocation)}
    for name in sorted({"criterion", "data", "schedule"} & set(pruning)):
        raise refuse(f"pruning[{name!r}]", pruning[name], "arguments that the comparison does not set itself")
    for name in sorted({"x", "y", "validation_data", "initial_epoch"} & set(fit)):
        raise refuse(name, fit[name], "what `data`, `validation` and `epochs` do not say")
    real, checked = _split(model, next(iter(chosen.values())), data, validation, pruning.get("loss"))
    if 2 * samples > len(real):
        allowed = (
            f"at most {len(real) // 2}, half of the {len(real)} to train on, as the reference is another draw"
        )
        raise refuse("samples", samples, allowed)
    fit = {"verbose": 0, **fit}
    settings: dict[str, Any] = {"sparsity": float(sparsity), "samples": samples, "epochs": epochs}
    identity = {
        "format": "keras_aeprune calibration sources 1",
        "model": [[v.name, list(v.shape)] for v in model.weights],  # paths hold names that Keras counts up
        "weights": fingerprint(model.get_weights()),
        "loss": described(model.loss),
        "optimizer": described(model.optimizer),
        "data": fingerprint([real.x, real.y]),
        "validation": fingerprint([checked.x, checked.y]),
        **settings,
        "pruning": described(pruning),
        "fit": {k: v for k, v in described(fit).items() if k != "verbose"},
    }
    cells = _Cells(directory, identity)
    given = ModelState(model)
    try:
        trial = Trial(model, real, checked, settings, pruning, fit)
        with no_retracing_lines():
            found, skipped = _measured(trial, cells, wanted, chosen, seeds, to_stderr if progress else silent)
        shown_as = {**settings, "seeds": seeds, "dense_loss": trial.dense}
        return CalibrationTable(tuple(found), tuple(skipped), **shown_as)
    finally:
        given.restore()


def _sources(sources: Any) -> list[Wanted]:
    if isinstance(sources, str) or (sources is not None and not isinstance(sources, Iterable)):
        raise refuse("sources", sources, "several sources, such as ('real', 'vae', '0.5 real + 0.5 vae'), or None")
    everything = ["real", *(name for name in calibration.names() if name != "real"), _DEFAULT_MIXTURE]
    given = everything if sources is None else list(sources)
    found = [_wanted(one) for one in given]
    if not found:
        raise refuse("sources", sources, "at least one")
    return list({one.label: one for one in found}.values())


def _wanted(one: Any) -> Wanted:
    share: Any = 1.0
    if isinstance(one, str) and (mixture := _MIXTURE.fullmatch(one.strip())):
        share, one = float(mixture[2]), mixture[3]
        if not math.isclose(float(mixture[1]) + share, 1, abs_tol=1e-9):
            raise refuse("sources", mixture[0], "fractions that add up to 1")
    elif isinstance(one, tuple) and len(one) == 2:
        one, share = one
    fraction("fraction that a source makes", share, low_open=True, high_open=False)
    return Wanted(calibration.source(one), float(share))


def _criteria(criterion: Any) -> dict[str, Criterion]:
    given = [criterion] if isinstance(criterion, (str, Mapping, Criterion, type)) else list(criterion)
    found = [known.get(dict(one) if isinstance(one, Mapping) else one) for one in given]
    for one in found:
        if not one.needs_data:
            raise refuse("criterion", one, "criteria that look at data; those that do not are the same everywhere")
    if not found:
        raise refuse("criterion", criterion, "at least one")
    return {named(known.serialize(one), one): one for one in found}


def _split(
    model: keras.Model, criterion: Criterion, data: Any, validation: Any, loss: Any
) -> tuple[calibration.Calibration, calibration.Calibration]:
    """Samples to train on and to validate on; y is None where the inputs are the targets."""
    if validation is None and isinstance(data, Dataset) and len(data.x_validation):
        validation = (data.x_validation, data.y_validation)
    real = evidence(criterion, model, (), calibration.get(data), loss).samples
    if validation is not None:
        return real, evidence(criterion, model, (), calibration.get(validation), loss).samples
    if len(real) < 5:
        raise InputError(f"data: got {len(real)} samples, allowed: 5 or more, or validation=")
    cut = len(real) - len(real) // 5
    first, last = (
        calibration.Calibration(real.x[part], None if real.y is None else real.y[part])
        for part in (slice(cut), slice(cut, None))
    )
    return first, last


def _measured(
    trial: Trial,
    cells: _Cells,
    wanted: Sequence[Wanted],
    chosen: Mapping[str, Criterion],
    seeds: int,
    say: Callable[[str, bool], None],
) -> tuple[list[CalibrationRow], list[tuple[str, str, str]]]:
    """All rows, seed by seed, and what was skipped."""
    pairs = [(label, criterion, one) for label, criterion in chosen.items() for one in wanted]
    controls: dict[str, list[Criterion]] = {
        "magnitude": [known.Magnitude() for _ in range(seeds)],
        "random": [known.Random(seed) for seed in range(seeds)],
    }
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    skipped: dict[tuple[str, str], str] = {}
    times: list[float] = []
    for seed in range(seeds):
        began, fresh = time.monotonic(), False
        draws = Draws(trial, seed)
        for label, criterion, one in pairs:
            if (one.label, "") in skipped or (one.label, label) in skipped:
                continue
            key = {"seed": seed, "share": one.share, "source": calibration.serialize(one.source)}
            key["criterion"] = known.serialize(criterion)
            cell = cells.get(key)
            if cell is None:
                say(f"calibration: seed {seed}, {one.label}, {label}", False)
                cell = trial.cell(draws, one, label, criterion)
                if "skip" in cell:
                    where, reason = cell["skip"]
                    skipped[one.label, where] = reason
                    say(f"calibration: {one.label}{f' with {where}' if where else ''} skipped: {reason}", True)
                    continue
                cells.put(key, cell)
                fresh = True
            found.setdefault((one.label, label), []).append(cell)
        if all((one.label, "") in skipped or (one.label, label) in skipped for label, _, one in pairs):
            (source, where), reason = next(iter(skipped.items()))
            both = f"{source} with {where}" if where else source
            raise InputError(f"sources: got none that can be tried here ({both}: {reason}), allowed: at least one")
        for name, members in controls.items():
            key = {"seed": seed, "criterion": known.serialize(members[seed])}
            cell = cells.get(key)
            if cell is None:
                cell = trial.control(members[seed], seed)
                cells.put(key, cell)
                fresh = True
            found.setdefault((NO_DATA, name), []).append(cell)
        if fresh:
            times.append(time.monotonic() - began)
        took = f"  {clock(times[-1])}" if fresh else "  found"
        left = (
            f", {clock(sum(times) / len(times) * (seeds - seed - 1))} left" if times and seed + 1 < seeds else ""
        )
        say(f"calibration: {seed + 1} of {seeds} seeds{took}{left}", True)
    listed = [(source, where, reason) for (source, where), reason in skipped.items()]
    kept = {k: v for k, v in found.items() if k not in skipped and (k[0], "") not in skipped}
    order = [(one.label, label) for label, _, one in pairs] + [(NO_DATA, name) for name in controls]
    table = [_row(*k, kept[k]) for k in order if k in kept]
    return table, listed


def _row(source: str, criterion: str, cells: Sequence[Mapping[str, Any]]) -> CalibrationRow:
    spreads: dict[str, Any] = {
        k: Spread(tuple(float(c[k]) for c in cells)) if k in cells[0] else None for k in _FIELDS
    }
    return CalibrationRow(source, criterion, **spreads, seconds=sum(c["seconds"] for c in cells) / len(cells))


class _Cells:
    """Finished measurements, each a file of a folder; without one they are forgotten.

    Args:
        path: a folder, made if it is not there; None for none.
        identity: plain JSON values that decide the outcome.
    """

    def __init__(self, path: str | Path | None, identity: Mapping[str, Any]):
        self.path = None if path is None else writable_folder("directory", path)
        if self.path is None:
            return
        manifest, identity = self.path / "run.json", json.loads(json.dumps(identity))
        remove_unfinished(self.path)
        if not manifest.is_file():
            if any(not file.name.startswith(".") for file in self.path.iterdir()):
                raise refuse("directory", str(path), "a new or empty folder, or that of a comparison of sources")
            write_json(manifest, identity)
        there = self._read(manifest)
        other = [name for name in sorted({*there, *identity}) if there.get(name) != identity.get(name)]
        if other:
            changed = "; ".join(
                f"{k} was {shown(there.get(k))} and is {shown(identity.get(k))} now" for k in other
            )
            raise InputError(
                f"directory: got {str(path)!r}, the folder of another comparison ({changed}), allowed: the "
                "arguments as before, or a new folder"
            )

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What `put` was given, or None."""
        file = self._file(key)
        if file is None or not file.is_file():
            return None
        found = self._read(file).get("cell")
        if not isinstance(found, dict) or not {"pruned", "tuned", "seconds"} <= set(found):
            raise self._damaged(file, "no measurement")
        return found

    def put(self, key: Mapping[str, Any], cell: Mapping[str, Any]) -> None:
        if (file := self._file(key)) is not None:
            plain = {k: v if math.isfinite(v) else str(v) for k, v in cell.items()}
            write_json(file, {"key": key, "cell": plain})

    def _file(self, key: Mapping[str, Any]) -> Path | None:
        if self.path is None:
            return None
        text = json.dumps(key, sort_keys=True)
        return self.path / f"seed-{key['seed']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(file, str(error)) from None

    def _damaged(self, file: Path, reason: str) -> InputError:
        return InputError(
            f"directory: got {str(file)!r}, which cannot be read ({shown(reason)}), allowed: the folder of a "
            "comparison of sources; remove it to start anew"
        )
