"""Which width of the code? The narrowest one that is still good."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import models
from keras_aeprune._files import fingerprint, write_json, writing
from keras_aeprune._progress import Say, clock, no_retracing_lines, silent, to_stderr
from keras_aeprune._validation import BudgetError, InputError, fraction, one_of, positive_int
from keras_aeprune.search import rules
from keras_aeprune.search.screening import Screen, pca_curve, screen
from keras_aeprune.search.state import hashed_seed
from keras_aeprune.search.width_inputs import Data, checked_widths, method_for, search_folder
from keras_aeprune.search.width_result import Curve, Trials, WidthResult
from keras_aeprune.search.width_trainers import (
    UNITS,
    Dense,
    Tuned,
    batchable,
    cost_of,
    hypermodel_of,
    refuse_early,
    searched,
)

__all__ = ["encoding_width"]

SCREENED = 10_000  # training samples that the screen sees at most, drawn at random
HELD = 2_000  # and validation samples
LARGEST = 10_000  # samples for PCA where there are as many features
_SCREEN_SEEDS = 2
_CHOICES = ("tolerance", "knee", "pareto", "budget")


def encoding_width(
    x: Any,
    widths: Sequence[int] = range(16, 65, 4),
    tolerance: float = 0.05,
    *,
    choose: str = "tolerance",
    method: str = "auto",
    kind: Any = "dense",
    hidden_units: Any = None,
    max_epochs: int = 30,
    factor: int = 3,
    seeds: int = 3,
    directory: str | Path | None = None,
    validation: Any = None,
    max_bytes: int | None = None,
    max_latency: float | None = None,
    sparsity: Any = None,
    criterion: Any = None,
    progress: bool = True,
    workers: int | None = None,
    seed: int = 0,
    **options: Any,
) -> WidthResult:
    """The narrowest code that is still good, and the trained autoencoder that has it.

    Use it before anything is pruned: no other size of an autoencoder matters as much. The loss alone would always
    take the widest, so the choice is the smallest width with

        loss <= best + tolerance * (loss of predicting the mean - best)

    where losses are mean squared errors on held-out samples and `best` is the smallest one found. Steps:

    1. PCA's curve, exact, in milliseconds.
    2. "screen": dense autoencoders of all widths trained in one graph, under 2 seeds (see `search.screen`). From
       more than 10,000 samples it sees 10,000 drawn at random. "hyperband": trials of whatever is searched, by
       Keras Tuner's Hyperband, driven by `rules.Hinge` with the best loss of screen or PCA. Li and others 2018,
       https://arxiv.org/abs/1603.06560.
    3. The widest and the candidate are trained again to the end on all samples under new seeds; so are its
       neighbours, one by one, until a good width stands above one that is not. With "hyperband" all widths get
       the other settings of the best trial.

    The other rules read the curve of step 2 as a whole, and only their answer is trained again.

    Args:
        x: scaled samples (n, ...), used as they are, a tenth of them held out; a `datasets.Dataset`; or what
            `datasets.load` takes (then its scaling counts): a path, a named set, (x, y), a tf.data.Dataset.
        widths: 1 or more whole numbers, each 1 or more and less than the values in a sample.
        tolerance: fraction of the way from the best loss to that of the mean, 0 <= t < 1.
        choose: "tolerance"; "knee", where the curve bends most; "pareto", the width nearest to the ideal corner
            of width and loss; "budget", the smallest loss within `max_bytes` and `max_latency`.
        method: "screen", "hyperband", or "auto": the screen for dense ones of which only the width is searched.
        kind: of `models.autoencoder`, or a list of kinds.
        hidden_units: widths of the hidden layers, the same for every width of the code; None takes those of
            `models.default_sizes` for the widest, or the builder's own. A list of tuples is searched.
        max_epochs: passes of one full training, 1 or more.
        factor: by which Hyperband reduces trials from rung to rung, 2 or more.
        seeds: trainings of each candidate in step 3, 1 or more.
        directory: folder to keep results in; the same call goes on there after a kill, and answers from it when
            finished. None keeps nothing.
        validation: held-out samples; None takes those of the Dataset, or a tenth.
        max_bytes: largest float32 .tflite file, in bytes. A chosen width beyond it raises; "pareto" and "budget"
            choose among those that fit. Costs are taken to grow with the width: few widths are measured.
        max_latency: longest time for one sample on this machine, in ms.
        sparsity: fraction of weights set to zero in each trial, 0 <= s < 1, or a list; see
            `search.AutoencoderHyperModel`.
        criterion: which weights go first, or a list.
        progress: whether lines on standard error say where it stands.
        workers: processes that share the trials of "hyperband", see `search.workers.launch`; None for this one.
        seed: of everything random, 0 <= seed < 2**31.
        **options: activation, output_activation, learning_rate (0.001) and batch_size (32 up to 10,000 samples,
            else 128); with "hyperband" all of `search.AutoencoderHyperModel`, where lists are searched.

    Returns:
        A `WidthResult`: `print(result)`, `.encoding_dim`, `.model`, `.curve`, `.trials`, `.plot(path)`.

    Raises:
        InputError: for data or arguments that cannot be used, or a folder of another search.
        BudgetError: if the choice does not keep a limit.

    Example:
        >>> random = np.random.default_rng(0)
        >>> x = (random.normal(size=(300, 3)) @ random.normal(size=(3, 10))).astype("float32")
        >>> settings = {"hidden_units": (), "max_epochs": 40, "learning_rate": 0.02, "seeds": 1}
        >>> encoding_width(x, [1, 2, 3, 4, 5], progress=False, **settings).encoding_dim
        3
    """
    fraction("tolerance", tolerance)
    one_of("choose", choose, _CHOICES)
    for name, value, least in (("max_epochs", max_epochs, 1), ("factor", factor, 2), ("seeds", seeds, 1)):
        positive_int(name, value, minimum=least)
    positive_int("seed", seed, minimum=0, maximum=2**31 - 1)
    if workers is not None:
        positive_int("workers", workers)
    if choose == "budget" and max_bytes is None and max_latency is None:
        raise InputError("choose: got 'budget' without a limit, allowed: with max_bytes= or max_latency=")
    data = Data.of(x, validation, seed)
    found = checked_widths(widths, data.features)
    method = method_for(method, kind, hidden_units, sparsity, criterion, options)
    settings = {
        "format": 1,
        "data": fingerprint((data.x, data.validation)),
        "widths": found,
        **{"tolerance": tolerance, "choose": choose, "method": method, "kind": kind, "hidden_units": hidden_units},
        **{"max_epochs": max_epochs, "factor": factor, "seeds": seeds, "seed": seed},
        **{"max_bytes": max_bytes, "max_latency": max_latency, "sparsity": sparsity, "criterion": criterion},
        "options": options,
    }
    options = {"batch_size": 32 if len(data.x) <= SCREENED else 128, "learning_rate": 1e-3, **options}
    refuse_early(data, found, settings, options)
    with search_folder(directory, settings) as folder:
        if (folder / "result.json").exists():
            values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            return WidthResult.from_dict(values, loaded(folder / "model.keras", values["values"]))
        say = to_stderr if progress else silent
        with no_retracing_lines():
            return _Job(data, found, settings, options, folder, say, workers).result()


class _Job:
    """One search; every finished part of it is a file."""

    def __init__(
        self, data: Data, widths: list, settings: dict, options: dict, folder: Path, say: Say, workers: int | None
    ):
        self.data, self.widths, self.settings, self.options = data, widths, settings, options
        self.folder, self.say, self.workers = folder, say, workers
        self.rows: list[dict[str, Any]] = []
        self.notes = list(data.notes)
        self.costs: dict[int, dict[str, float]] = {}
        seeds, seed = settings["seeds"], settings["seed"]
        self.seeds = [hashed_seed(seed, "retrained", number) for number in range(seeds)]
        self.losses: dict[int, list[float]] = {}
        rows = min(len(data.x), LARGEST if min(data.features, len(data.x)) > LARGEST else len(data.x))
        curve = pca_curve(data.x[:rows], [0, *widths], validation=data.validation)
        self.pca, self.mean_loss = curve[1:], float(curve[0])

    def result(self) -> WidthResult:
        settings, widths = self.settings, self.widths
        batched = batchable(self.settings, self.options)
        trainer: Any = None if batched is None else Dense(self.data, widths[-1], settings["hidden_units"], batched)
        screened = None if trainer is None else self._screen(trainer)
        if screened is not None and settings["method"] == "screen":
            tried, deviation = screened.mean, screened.deviation
        else:
            best = float(self.pca.min() if screened is None else screened.mean.min())
            trainer, tried = self._hyperband(best)
            deviation = np.zeros(len(widths))
        self._measure(trainer)
        chosen, limit = self._decide(trainer, tried)
        curve = Curve.of(widths, pca=self.pca, tried=tried, tried_deviation=deviation, retrained=self.losses)
        self._remark(chosen, limit, curve)
        model = loaded(self._model(chosen), trainer.values)
        result = WidthResult(
            chosen,
            model,
            curve,
            Trials(tuple(self.rows)),
            self.mean_loss,
            limit,
            settings["tolerance"],
            settings["choose"],
            settings["method"],
            tuple(self.notes),
            {name: value for name, value in trainer.values.items() if name != "encoding_dim"},
            self.costs,
        )
        save(model, self.folder / "model.keras")
        write_json(self.folder / "result.json", result.to_dict())
        return result

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returned, from its file where it was finished before."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_json(path, make())
        return json.loads(path.read_text(encoding="utf-8"))

    def _screen(self, trainer: Dense) -> Screen:
        data = self.data.part(SCREENED, HELD, self.settings["seed"])
        if len(data.x) < len(self.data.x):
            self.notes.append(f"the screen saw {len(data.x)} of {len(self.data.x)} samples, drawn at random")

        def make() -> dict[str, Any]:
            units, epochs = {**trainer.units, **trainer.training}, self.settings["max_epochs"]
            seeds = [hashed_seed(self.settings["seed"], "screen", number) for number in range(_SCREEN_SEEDS)]
            found = screen(
                data.x, self.widths, validation=data.validation, epochs=epochs, seeds=seeds, say=self.say, **units
            )
            return found.to_dict()

        found = Screen.from_dict(self._kept("screen", make))
        for width, losses in zip(found.widths, found.losses.tolist(), strict=True):
            for number, loss in enumerate(losses):
                self._row("screen", width, loss, seed=number, epochs=found.epochs)
        return found

    def _hyperband(self, best: float) -> tuple[Tuned, np.ndarray]:
        """Trials of all that is searched; the best one's settings, and the best loss of each width."""
        settings = self.settings
        hinge = rules.Hinge(
            min(best, 0.999 * self.mean_loss), self.mean_loss, settings["tolerance"], self.widths[-1]
        )
        hypermodel = hypermodel_of(self.data, self.widths, settings, self.options, hinge)

        def make() -> dict[str, Any]:
            progress = self.say is not silent
            return searched(self.data, hypermodel, settings, self.folder, progress, self.workers)

        found = self._kept("hyperband", make)
        tried = dict.fromkeys(self.widths, np.nan)
        for trial in found["trials"]:
            values = {name: value for name, value in trial["values"].items() if name != "encoding_dim"}
            width, loss = trial["width"], trial["loss"]
            more = {"epochs": trial["epochs"], "seconds": trial["seconds"], "values": values or None}
            self._row("hyperband", width, loss, **more)
            if loss is not None and trial["last"]:
                tried[width] = np.fmin(tried[width], loss)
        return Tuned(self.data, hypermodel, found["best"]), np.array([tried[width] for width in self.widths])

    def _measure(self, trainer: Any) -> None:
        """Find the widest width that keeps the limits, by halving."""
        limits = {name: self.settings[f"max_{name}"] for name in ("bytes", "latency")}
        limits = {name: most for name, most in limits.items() if most is not None}
        self.fitting = list(self.widths)
        if not limits:
            return

        def fits(place: int) -> bool:
            width = self.widths[place]
            cost = self._kept(f"cost-{width}", lambda: cost_of(trainer.build(width), limits))
            self.costs[width] = cost
            return bool(rules.within({width: cost}, **{f"max_{name}": most for name, most in limits.items()}))

        low, high = 0, len(self.widths)  # those before `low` fit, those from `high` on do not
        while low < high:
            self.say(f"limits: width {self.widths[(low + high) // 2]}", False)
            middle = (low + high) // 2
            low, high = (middle + 1, high) if fits(middle) else (low, middle)
        self.fitting = self.widths[:low]
        if not low:
            cost = ", ".join(f"{value:.4g} {UNITS[name]}" for name, value in self.costs[self.widths[0]].items())
            raise BudgetError(f"no width keeps the limits: the narrowest, {self.widths[0]}, takes {cost}")

    def _decide(self, trainer: Any, tried: np.ndarray) -> tuple[int, float | None]:
        """The width, and the limit of the loss where the tolerance decides."""
        rule, widths = self.settings["choose"], self.widths
        if rule == "tolerance":
            chosen, limit = self._descend(trainer, tried)
        else:
            known = dict(zip(widths, tried, strict=True))
            among, limit = widths if rule == "knee" else self.fitting, None
            losses = [known[width] for width in among]
            named = {"knee": rules.knee, "pareto": rules.nearest_to_ideal, "budget": _least}
            chosen = named[rule](among, losses)
            self._train(trainer, chosen)
        if chosen not in self.fitting:
            widest = self.fitting[-1]
            raise BudgetError(
                f"encoding_dim {chosen} was chosen, and the widest that keeps the limits is {widest}; raise the "
                "limits or the tolerance, or take choose='budget'"
            )
        return chosen, limit

    def _descend(self, trainer: Any, tried: np.ndarray) -> tuple[int, float]:
        """Train the widest, the candidate and its neighbours until a good width stands above one that is not."""
        widths, tolerance = self.widths, self.settings["tolerance"]
        beaten = np.nanmin(tried, initial=math.inf) < self.mean_loss  # a screen of few samples may learn nothing
        if self.settings["method"] == "hyperband":
            candidate = trainer.values["encoding_dim"]
        else:
            candidate = rules.smallest_good(widths, tried, self.mean_loss, tolerance) if beaten else widths[-1]
        means = {width: self._train(trainer, width) for width in dict.fromkeys((widths[-1], candidate))}
        while True:
            chosen = rules.smallest_good(list(means), list(means.values()), self.mean_loss, tolerance)
            place = widths.index(chosen)
            bad = [width for width in means if width < chosen]
            following = widths[widths.index(max(bad)) + 1] if bad else widths[max(place - 1, 0)]
            if following in means:
                break
            means[following] = self._train(trainer, following)
        finite = [mean for mean in means.values() if math.isfinite(mean)]
        return chosen, rules.limit(min(finite), self.mean_loss, tolerance)

    def _train(self, trainer: Any, width: int) -> float:
        """The mean loss of a width after full trainings under the new seeds."""
        epochs, began = self.settings["max_epochs"], time.monotonic()
        title = f"retrain width {width}: {len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"

        def heard(epoch: int, losses: np.ndarray) -> None:
            left = (time.monotonic() - began) * (epochs / max(epoch, 1) - 1)
            self.say(f"{title}, epoch {epoch}/{epochs}  loss {np.mean(losses):.4g}  {clock(left)} left", False)

        def make() -> dict[str, Any]:
            losses, model = trainer.train(width, self.seeds, epochs, heard)
            save(model, self._model(width))
            kept = [loss if math.isfinite(loss) else None for loss in losses]
            return {"losses": kept, "seconds": time.monotonic() - began}

        found = self._kept(f"width-{width}", make)
        losses = [math.inf if loss is None else loss for loss in found["losses"]]
        for number, loss in enumerate(losses):
            seconds = found["seconds"] / len(losses)
            self._row("retrained", width, loss, seed=number, epochs=epochs, seconds=seconds)
        self.losses[width] = losses
        self.say(f"{title}  loss {np.mean(losses):.4g}  {clock(found['seconds'])}", True)
        return float(np.mean(losses))

    def _model(self, width: int) -> Path:
        return self.folder / f"width-{width}.keras"

    def _row(self, stage: str, width: int, loss: float | None, **more: Any) -> None:
        loss = loss if loss is not None and math.isfinite(loss) else None
        row = {"stage": stage, "width": width, "seed": None, "loss": loss, "seconds": None, "values": None}
        self.rows.append({**row, **more})

    def _remark(self, chosen: int, limit: float | None, curve: Curve) -> None:
        """What a reader of the answer should know."""
        widths = self.widths
        if chosen == widths[-1]:
            self.notes.append(
                f"the widest width was chosen; a wider range than up to {chosen} may have a better answer"
            )
        elif chosen == widths[0]:
            self.notes.append(f"the narrowest width is good already; search below {chosen}")
        place = widths.index(chosen)
        if self.pca[place] < curve.mean[place]:
            self.notes.append(
                f"PCA with {chosen} numbers reconstructs better ({self.pca[place]:.4g}); train longer or with "
                "wider hidden layers"
            )
        if limit is not None and abs(curve.mean[place] - limit) < curve.deviation[place]:
            self.notes.append(
                "the loss is within one deviation of the limit: other seeds may move it by one width"
            )


def save(model: keras.Model, path: Path) -> None:
    """Write a model without its optimizer."""
    bare = keras.models.clone_model(model)
    bare.set_weights(model.get_weights())
    with writing(path) as temporary:
        bare.save(temporary)


def loaded(path: Path, values: Mapping[str, Any]) -> keras.Model:
    """The model of a file of `save`, compiled as it was trained."""
    model = models.load(path)
    model.compile(keras.optimizers.Adam(values["learning_rate"]), "mse")
    return model


def _least(widths: Sequence[int], losses: Sequence[float]) -> int:
    """The width of the smallest loss."""
    return int(np.array(widths)[np.nanargmin(losses)])
