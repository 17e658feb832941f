"""The steps that bring a model into its budget: quantize, cut, train for the quantization, each measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_aeprune import export, models
from keras_aeprune._files import writing
from keras_aeprune._progress import Say
from keras_aeprune._validation import InputError, shown
from keras_aeprune.compression.quantize import quantization_aware
from keras_aeprune.pipeline.budget import Budget, increase_left
from keras_aeprune.pipeline.folder import RunFolder
from keras_aeprune.pipeline.model_files import evaluated
from keras_aeprune.shrinking.iteration import shrink_until
from keras_aeprune.shrinking.moves import costs_of
from keras_aeprune.shrinking.rebuild import compile_like

__all__ = ["Ladder", "Task"]

_CUTS = 6  # times that a model is cut towards a size or a latency
_MARGIN = 0.97  # of the parameters that the size leaves room for
_STEP = 0.7  # of the parameters that stay at most where only a metric says when to stop
_STEP_DOWN = 0.35  # of the cost that one round of cutting takes off
_CALIBRATION = 256


@dataclass(frozen=True)
class Task:
    """What does not change from step to step.

    Args:
        samples: {"train", "validation", "test": (x, y)}.
        budget: the limits.
        precision: of the files, as for `export.tflite`.
        round_to: kept widths are multiples of it.
        epochs: of the last training after a cut.
        batch_size: samples per optimizer step.
        learning_rate: of Adam.
        seed: of everything random.
        progress: whether lines go to standard error.
    """

    samples: Mapping[str, tuple[np.ndarray, np.ndarray]]
    budget: Budget
    precision: str
    round_to: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    progress: bool = False

    @property
    def training(self) -> Any:
        """Inputs alone where they are the targets too."""
        return self.data("train")

    def data(self, split: str) -> Any:
        """The samples of a split as trainings take them."""
        x, y = self.samples[split]
        return x if y is x else (x, y)

    @property
    def calibration(self) -> np.ndarray:
        """Training samples for the converter."""
        x = self.samples["train"][0]
        return x[np.random.default_rng(self.seed).permutation(len(x))[:_CALIBRATION]]


class Ladder:
    """Rows of what was reached, from the given model down; each is made once and found again after a kill.

    Args:
        network: the given model, compiled; it is not changed.
        task: data, limits and trainings.
        run: the folder.
        say: where progress goes.
    """

    def __init__(self, network: keras.Model, task: Task, run: RunFolder, say: Say):
        self.network, self.task, self.run, self.say = network, task, run, say
        self.rows: list[dict[str, Any]] = []

    @property
    def given(self) -> dict[str, Any]:
        """The row of the given model as a float32 file."""
        return self.rows[0]

    def good(self, row: Mapping[str, Any]) -> bool:
        """Whether a row keeps to the whole budget."""
        return not self.task.budget.missed(row, self.given)

    def best(self) -> dict[str, Any] | None:
        """The row to hand out: the best scores within a size or latency, else the smallest file.

        The float32 file is the last resort, and none at all where the device takes whole numbers only.
        """
        kept = [row for row in self.rows[1:] if self.good(row)]
        if not kept and self.task.precision != "int8_io" and self.good(self.given):
            return self.given
        if self.task.budget.has_cost:
            return min(kept, key=lambda row: row["scores"]["loss"], default=None)
        return min(kept, key=lambda row: row["bytes"], default=None)

    def nearest(self) -> dict[str, Any]:
        """The row behind the given one that misses least: the fewest limits of quality, then the least excess."""
        budget = self.task.budget

        def distance(row: dict[str, Any]) -> tuple[int, float]:
            return len(budget.worse(row, self.given)), max(budget.over(row).values(), default=1.0)

        return min(self.rows[1:], key=distance)

    def climb(self) -> None:
        """All steps, until the budget is kept or nothing more can be bought."""
        self._row("given", None, "the given model, float32", lambda: self.network)
        self.task.budget.check(self.given["scores"])
        row = self._quantized("given", "quantize", f"{self.task.precision} file", lambda: self.network)
        parent = "given"
        for number in range(1, _CUTS + 1):
            if self.task.budget.has_cost and self.good(row):
                return
            target = self._target(row, parent)
            if target is None:
                return
            name = f"cut_{number}"
            before = self._model(parent)
            row = self._quantized(name, name, f"cut to {_text(target)}", partial(self._cut, before, target, name))
            smaller = row["parameters"] < before.count_params()
            open_end = not self.task.budget.has_cost and not self.task.budget.max_drop
            if not smaller or open_end or self.task.budget.worse(row, self.given):
                return
            parent = name

    # steps

    def _target(self, row: Mapping[str, Any], parent: str) -> dict[str, float] | None:
        """What the next cut aims at; {} where only the error says when to stop, None where it is at an end."""
        budget = self.task.budget
        if budget.worse(row, self.given) and not budget.over(row):
            return None
        params = row["parameters"]
        over = budget.over(row)
        if "max_size" in over:
            return {"target_params": max(1.0, _MARGIN * params / over["max_size"])}
        if "max_latency" in over:
            return {"target_macs": max(1.0, _MARGIN * row["macs"] / over["max_latency"])}
        if budget.max_drop:
            return {"target_params": _STEP * params}
        return None if budget.has_cost else {}

    def _cut(self, model: keras.Model, target: dict[str, Any], name: str) -> keras.Model:
        task, budget = self.task, self.task.budget
        limit = budget.max_error_increase
        if limit is not None:  # of the given model's loss; what is left of it for this cut
            now = evaluated(model, *task.samples["validation"])["loss"]
            first = evaluated(self.network, *task.samples["validation"])["loss"]
            limit = increase_left(limit, first, now)
        found = shrink_until(
            model,
            task.training,
            validation=task.data("validation"),
            max_error_increase=limit,
            **target,
            step=_STEP_DOWN,
            epochs=max(1, task.epochs // 5),
            probe_epochs=max(1, task.epochs // 15),
            final_epochs=task.epochs,
            learning_rate=task.learning_rate,
            batch_size=task.batch_size,
            round_to=task.round_to,
            directory=self.run.path / "steps" / f"{name}.rounds",
            seed=task.seed,
            progress=task.progress,
        )
        compile_like(found.model, self.network)
        return found.model

    def _quantized(self, name: str, label: str, bought: str, make: Callable[[], keras.Model]) -> dict[str, Any]:
        """The row of a model as a quantized file; trained for it where the quantization costs too much."""
        row = self._row(f"{label}_{self.task.precision}", name, bought, make)
        budget = self.task.budget
        if not budget.worse(row, self.given):
            return row
        float_row = {**row, "scores": row["float_scores"]}
        if budget.worse(float_row, self.given):
            return row
        tuned = self._row(
            f"{label}_aware",
            f"{name}_aware",
            "trained for the quantization",
            lambda: self._aware(self._model(name)),
        )
        return row if budget.worse(tuned, self.given) else tuned

    def _aware(self, model: keras.Model) -> keras.Model:
        task = self.task
        found = quantization_aware(
            model,
            task.training,
            epochs=max(1, task.epochs // 2),
            learning_rate=task.learning_rate / 5,
            batch_size=task.batch_size,
            seed=task.seed,
            progress=False,
        )
        tuned = getattr(found, "model", found)
        compile_like(tuned, self.network)
        return tuned

    def _row(self, step: str, saved: str | None, bought: str, make: Callable[[], keras.Model]) -> dict[str, Any]:
        """One measured file: read if it is finished, else made. `saved` names the model's own file."""
        record = self.run.finished(step)
        if record is None:
            self.say(f"{step}: {bought}", False)
            model = make()
            if saved is not None and not (self.run.path / f"steps/{saved}.keras").exists():
                with writing(self.run.path / f"steps/{saved}.keras") as temporary:
                    model.save(temporary)
            record = self._measured(step, saved, bought, model)
            self.run.finish(step, record)
        self.rows.append(record)
        reached = f"{record['bytes']:,} bytes, {record['latency_us']:.1f} us, loss {record['scores']['loss']:.6g}"
        self.say(f"{step}: {reached}", True)
        return record

    def _measured(self, step: str, saved: str | None, bought: str, model: keras.Model) -> dict[str, Any]:
        task = self.task
        precision = None if saved is None else task.precision
        path = self.run.path / "steps" / f"{step}.tflite"
        try:
            file = export.tflite(model, path, quantize=precision, data=task.calibration, seed=task.seed)
        except (export.ConversionError, export.ExportMismatch) as error:
            if precision != "int8":
                raise
            bought = f"{bought}; int8 was not possible ({shown(str(error), 100)}): weights only"
            file = export.tflite(model, path, quantize="dynamic", data=task.calibration, seed=task.seed)
        first = self.run.path / "steps" / "given.tflite"
        times = export.benchmark(first, path, seed=task.seed)
        runner, judge = export.TFLiteModel(path), _judge(self.network)
        costs = costs_of(model)
        return {
            "step": step,
            "bought": bought,
            "model": saved,
            "file": path.name,
            "parameters": model.count_params(),
            "nonzero": int(sum(np.count_nonzero(w) for w in model.get_weights())),
            "macs": int(costs["macs"]),
            "bytes": file.bytes,
            "gzip_bytes": file.gzip_bytes,
            "latency_us": times[1].median_us,
            "latency_ratio": times[1].ratio,
            "scores": evaluated(judge, *_outputs(runner, task.samples["validation"])),
            "test_scores": evaluated(judge, *_outputs(runner, task.samples["test"])),
            "float_scores": evaluated(model, *task.samples["validation"]),
        }

    def _model(self, name: str) -> keras.Model:
        if name == "given":
            return self.network
        found = models.load(self.run.path / "steps" / f"{name}.keras")
        if not found.compiled:
            compile_like(found, self.network)
        return found


def _judge(network: keras.Model) -> keras.Model:
    """Loss and metrics of the given model on outputs that are there already."""
    if len(network.outputs) != 1:
        raise InputError(
            f"model {network.name!r}: got one with {len(network.outputs)} outputs, allowed: one output"
        )
    entrance = keras.Input(network.output_shape[1:])
    judge = keras.Model(entrance, keras.layers.Identity()(entrance))
    compile_like(judge, network)
    return judge


def _outputs(runner: export.TFLiteModel, samples: tuple[np.ndarray, np.ndarray]) -> tuple[Any, np.ndarray]:
    x, y = samples
    return runner.predict(x), y


def _text(target: Mapping[str, float]) -> str:
    names = {"target_params": "parameters", "target_macs": "MACs"}
    if not target:
        return "what the error allows"
    return " and ".join(f"{value:,.0f} {names[name]}" for name, value in target.items())
