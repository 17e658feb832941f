"""compress(): the steps of the main job, each finished once and found again after a kill."""

from __future__ import annotations

import shutil
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import datasets, export, models, report
from keras_aeprune._files import writing
from keras_aeprune._progress import Say, clock, no_retracing_lines, silent, to_stderr
from keras_aeprune._validation import InputError
from keras_aeprune._version import __version__
from keras_aeprune.datasets import Dataset
from keras_aeprune.models.composed import copied
from keras_aeprune.pipeline import settings as _settings
from keras_aeprune.pipeline import shrink_step
from keras_aeprune.pipeline.budgeted import Compressed, compress_to_budget
from keras_aeprune.pipeline.comparison import FORMAT, compare
from keras_aeprune.pipeline.folder import RunFolder
from keras_aeprune.pipeline.plan import Cost, after_training, fit_epochs, peak_memory_mb, wanted_epochs
from keras_aeprune.pipeline.settings import Settings
from keras_aeprune.pipeline.training import build, start, train

__all__ = ["Result", "compress"]

_TRAININGS = {  # phase: (file it starts from, file it writes, what it is called)
    "dense": (None, "dense.keras", "train the dense autoencoder"),
    "prune": ("dense.keras", "steps/ramped.keras", "prune"),
    "finetune": ("steps/ramped.keras", "pruned.keras", "fine-tune, zeros kept"),
}
_ROUNDS = "steps/shrink"
_PRECISIONS = {"float32": None, "int8": "int8"}
_CALIBRATION = 256  # samples that the int8 converter sees


@dataclass(frozen=True)
class Result:
    """What `compress` made.

    Attributes:
        folder: the run's folder.
        report: what report.json holds.
        files: {"report.json", "report.html", "dense.keras", "pruned.keras", "pruned_int8.tflite", ...: path},
            with an error limit "shrunk.keras" and its .tflite files too. The .keras files hold no optimizer and
            are not compiled.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> models.dense((8,), 2).save(folder / "pruned.keras")
        >>> rows = [{"name": "dense", "test_mse": 0.0130}, {"name": "pruned", "test_mse": 0.0156}]
        >>> result = Result(folder, {"rows": rows}, {"pruned.keras": folder / "pruned.keras"})
        >>> errors = {row["name"]: row["test_mse"] for row in result.report["rows"]}
        >>> round(errors["pruned"] / errors["dense"], 2), result.model.encoder.output_shape
        (1.2, (None, 2))
    """

    folder: Path
    report: dict[str, Any]
    files: dict[str, Path]

    @property
    def model(self) -> keras.Model:
        """The pruned autoencoder, loaded from its file and compiled with the error it was trained on."""
        model = models.load(self.files["pruned.keras"])  # the file is for its weights and not compiled
        model.compile("adam", "mse")
        return model

    def __str__(self) -> str:
        """The short table and the paths that the command line prints."""
        latency = self.report["measured_on_this_machine"]["latency"]
        lines = [
            *textwrap.wrap(report.headline(self.report), 100),
            "",
            report.table(self.report["rows"], latency=latency),
            "",
            *(str(self.files[name]) for name in sorted(self.files)),
        ]
        return "\n".join(lines)


def compress(
    data: Any,
    out: str | Path,
    *,
    key: str | None = None,
    sparsity: float | None = None,
    encoding_dim: int | None = None,
    hidden_units: Sequence[int] | None = None,
    epochs: int | None = None,
    max_error_increase: float | None = None,
    seed: int = 0,
    max_time: float | str | None = None,
    progress: bool = True,
    model: str | Path | keras.Model | None = None,
    max_size: int | str | None = None,
    max_latency: float | str | None = None,
    max_drop: Mapping[str, float] | None = None,
    target: str | None = None,
    loss: str | None = None,
    scale: str | None = None,
) -> Result | Compressed:
    """Train an autoencoder on data, prune it, export checked .tflite files, and report.

    Killed and called again with the same arguments, it goes on from the last finished step; finished, it only
    reads the results. The same arguments give the same report on one machine, apart from its part
    "measured_on_this_machine".

    With a `model`, `max_size`, `max_latency`, `max_drop` or `target` it is `compress_to_budget` instead: the
    model, or the narrowest good autoencoder for the data, is quantized and cut until it keeps to the limits.

    Args:
        data: an array of shape (samples, ...), a named set ("digits", "mnist", "fashion_mnist", "cifar10"),
            or a path to a .npy, .npz or .csv file or a folder of images.
        out: the folder for results; new, empty, or of this same run.
        key: which array of a .npz file; None takes x_train and x_test, x, or the only one.
        sparsity: fraction of kernel weights set to zero, 0 <= s < 1; None is 0.9. Not with a budget.
        encoding_dim: width of the code, 1 <= width < numbers per sample; None derives it.
        hidden_units: widths of the encoder's hidden layers, outermost first; None derives them.
        epochs: passes of the dense training; pruning takes as many, fine-tuning half as many; None
            derives it from the number of samples.
        max_error_increase: fraction >= 0; the dense autoencoder is also cut smaller, units and whole layers, in
            rounds, as long as its error on the validation samples has grown by no more than this. None does not.
        seed: of everything random, 0 <= seed < 2**32.
        max_time: limit for the whole run in seconds, or text like "5m"; epochs are cut to fit. With
            `max_error_increase` it assumes 8 rounds: more of them take longer.
        progress: print a line per step to standard error.
        model: a .keras or .h5 file, or a compiled model, to bring into limits.
        max_size: bytes of the .tflite file, or text such as "60KB".
        max_latency: microseconds of one invoke here, or text such as "50us".
        max_drop: {compiled metric: by how much it may get worse}, such as {"accuracy": 0.01}.
        target: "phone" (as without) or "micro", int8 input and output too.
        loss: a Keras loss name, for a model that was saved without one.
        scale: as for `compress_to_budget`.

    Returns:
        A `Result`: `print(result)`, `result.report`, `result.model`, `result.files`; with a budget a `Compressed`,
        which has `model`, `files` and `rows`.

    Raises:
        InputError: for data or arguments that cannot be used; nothing is left behind.
        BudgetError: if `max_time` cannot be met; nothing is left behind. If the budget cannot be kept; the nearest
            that was reached stays in the folder.

    Example:
        >>> result = compress("digits", "run", epochs=40)        # doctest: +SKIP
        >>> print(result)                                        # doctest: +SKIP
    """
    began = time.monotonic()
    budget: dict[str, Any] = {
        "model": model,
        "max_size": max_size,
        "max_latency": max_latency,
        "max_drop": max_drop,
    }
    budget = {**budget, "target": target, "loss": loss, "scale": scale}
    if any(value is not None for value in budget.values()):
        for name, value in {"sparsity": sparsity, "hidden_units": hidden_units, "max_time": max_time}.items():
            if value is not None:
                named = ", ".join(n for n, v in budget.items() if v is not None)
                raise InputError(f"{name}: got {value!r} with {named}, allowed: without a model or a budget")
        more = {"encoding_dim": encoding_dim, "max_error_increase": max_error_increase, "epochs": epochs}
        budget.update(more)
        given = {name: value for name, value in budget.items() if value is not None}
        return compress_to_budget(data, out, key=key, seed=seed, progress=progress, **given)
    limit = _settings.seconds(max_time)
    loaded = datasets.load(data, key=key, seed=seed)
    resolved = Settings.derive(
        loaded,
        sparsity=0.9 if sparsity is None else sparsity,
        encoding_dim=encoding_dim,
        hidden_units=hidden_units,
        epochs=epochs,
        max_error_increase=max_error_increase,
        seed=seed,
    )
    identity = {
        "format": FORMAT,
        "version": __version__,
        "data": loaded.name,
        "fingerprint": loaded.fingerprint,
        **resolved.to_dict(),
    }
    folder = Path(out)
    known = (folder / "run.json").exists()
    cost = None
    if limit is not None and not known:  # refuse before anything is written
        cost = Cost.measure(loaded.flat, resolved)
        after = after_training(loaded, resolved, cost)
        available = limit - (time.monotonic() - began) - after
        fit_epochs(wanted_epochs(resolved), available, cost, limit=limit, after=after)
    with RunFolder(folder, identity) as run, no_retracing_lines():
        job = _Job(loaded, resolved, run, limit, began, cost, to_stderr if progress else silent)
        return job.result()


class _Job:
    """One run: its data, settings and folder, and the steps over them."""

    def __init__(
        self,
        data: Dataset,
        settings: Settings,
        run: RunFolder,
        limit: float | None,
        began: float,
        cost: Cost | None,
        say: Say,
    ):
        self.data = data
        self.flat = data.flat
        self.settings = settings
        self.run = run
        self.limit = limit
        self.began = began
        self.cost = cost
        self.say = say
        self.shrinks = settings.max_error_increase is not None
        self.models = ("dense", "pruned", *(["shrunk"] if self.shrinks else []))

    def path(self, name: str) -> Path:
        return self.run.path / name

    def step(self, number: int, name: str, title: str, make: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """The record of a step: read if it is finished, else made and stored."""
        heading = f"[{number}/{6 if self.shrinks else 5}] {title}"
        record = self.run.finished(name)
        if record is not None:
            self.say(f"{heading}: already done", True)
            return record
        began = time.monotonic()
        record = {**make(heading), "seconds": time.monotonic() - began}
        self.run.finish(name, record)
        return record

    def result(self) -> Result:
        records = {
            phase: self.step(number, phase, title, partial(self.train, phase))
            for number, (phase, (_, _, title)) in enumerate(_TRAININGS.items(), 1)
        }
        number = len(records) + 1
        if self.shrinks:
            records["shrink"] = self.step(number, "shrink", "cut units and layers out", self.shrink)
            shutil.rmtree(self.path(_ROUNDS), ignore_errors=True)  # a finished step needs no rounds to go on from
            number += 1
        records["export"] = self.step(number, "export", "export, load back and compare", self.export)
        records["measure"] = self.step(
            number + 1, "measure", "measure and report", lambda heading: self.measure(heading, records)
        )
        names = ["report.json", "report.html", *(f"{model}.keras" for model in self.models)]
        names += [f"{model}_{precision}.tflite" for model in self.models for precision in _PRECISIONS]
        return Result(self.run.path, records["measure"]["report"], {name: self.path(name) for name in names})

    def train(self, phase: str, heading: str) -> dict[str, Any]:
        source, target, _ = _TRAININGS[phase]
        model = build(self.flat, self.settings) if source is None else models.load(self.path(source))
        epochs = self._epochs(phase)
        record = train(model, self.flat, self.settings, phase, epochs=epochs, say=self.say, title=heading)
        self._save(model, target)
        return record

    def _save(self, model: keras.Model, name: str) -> None:
        bare = copied(model)  # not compiled: an optimizer's moments would double or triple the file
        with writing(self.path(name)) as temporary:
            bare.save(temporary)

    def shrink(self, heading: str) -> dict[str, Any]:
        self.say(f"{heading}: starting", False)
        epochs = self.run.finished("shrink_epochs")
        if epochs is None:  # kept, since a continued run has another time left
            dense = self.settings.epochs["dense"]
            epochs = shrink_step.fitted_epochs(dense, self._epochs("shrink"))
            self.run.finish("shrink_epochs", epochs)
        model = models.load(self.path("dense.keras"))
        found = shrink_step.shrink(
            model,
            self.flat,
            self.settings,
            epochs=epochs,
            directory=self.path(_ROUNDS),
            progress=self.say is not silent,
        )
        self._save(found.model, "shrunk.keras")
        return {**found.to_dict(), "epochs": epochs, "layers": shrink_step.changes(model, found.model)}

    def _epochs(self, phase: str) -> int:
        """The epochs of one phase, fewer if a time limit says so."""
        phases = wanted_epochs(self.settings)
        wanted = {name: epochs for name, epochs in phases.items() if not self.run.finished(name)}
        if self.limit is None:
            return wanted[phase]
        spent = sum(record["seconds"] for record in map(self.run.finished, phases) if record)
        passed = max(time.monotonic() - self.began, spent)
        trained = self.run.finished("dense")
        if trained:
            cost = Cost(trace=1.0, epoch=trained["seconds"] / trained["epochs"])
        else:
            cost = self.cost or Cost.measure(self.flat, self.settings)
        after = after_training(self.data, self.settings, cost)
        fitted = fit_epochs(wanted, self.limit - passed - after, cost, limit=self.limit, after=after)
        return fitted[phase]

    def export(self, heading: str) -> dict[str, Any]:
        start(self.settings, "export")
        rows = np.random.default_rng(self.settings.seed).permutation(len(self.flat.x_train))[:_CALIBRATION]
        calibration = self.flat.x_train[rows]
        files = {}
        for name in self.models:
            self.say(f"{heading}: {name}", False)
            paths = {q: self.path(f"{name}_{precision}.tflite") for precision, q in _PRECISIONS.items()}
            written = export.tflite_many(models.load(self.path(f"{name}.keras")), paths, data=calibration)
            for precision, q in _PRECISIONS.items():
                record = written[q].to_dict()
                files[f"{name}_{precision}"] = {**record, "path": paths[q].name}
        self.say(f"{heading}: {len(files)} files, all equal to Keras within their limits", True)
        return {"files": files}

    def measure(self, heading: str, records: dict[str, Any]) -> dict[str, Any]:
        self.say(f"{heading}: errors, sizes, latencies", False)
        files = records["export"]["files"]
        paths = [self.path(files[name]["path"]) for name in files]
        latency = [
            {**value.to_dict(), "path": value.path.name, "name": name}
            for name, value in zip(files, export.benchmark(*paths, seed=self.settings.seed), strict=True)
        ]
        made, reconstructed = compare(self.data, self.settings, self.run.path, records)
        made["measured_on_this_machine"] = {
            "latency": latency,
            "seconds": {name: record["seconds"] for name, record in records.items()},
            "peak_memory_mb": peak_memory_mb(),
            "environment": report.environment(),
        }
        report.write(made, report.figures(made, reconstructed), folder=self.run.path)
        whole = sum(made["measured_on_this_machine"]["seconds"].values())
        self.say(f"{heading}: done, {clock(whole)} of work in all", True)
        return {"report": made}
