"""An int8 file whose error is within a limit: other calibration data first, then training under roundings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import calibration as sources
from keras_aeprune._files import writing
from keras_aeprune._progress import Say, silent, to_stderr
from keras_aeprune._validation import InputError, keras_model, positive_int, refuse
from keras_aeprune.calibration import Calibration
from keras_aeprune.compression.quantize import quantization_aware
from keras_aeprune.criteria.losses import per_example
from keras_aeprune.export.check import ExportedFile, ExportMismatch
from keras_aeprune.export.convert import ConversionError
from keras_aeprune.export.request import checked_path
from keras_aeprune.export.tflite import tflite
from keras_aeprune.export.verify import TFLiteModel

__all__ = ["Int8Quality", "Int8Step", "int8_quality", "without_outliers"]

_WILD = 2.0  # a sample is wild if it goes further than this many times where 95 of 100 samples stay
_OWN = ("real", "without_outliers", "clipped")


@dataclass(frozen=True)
class Int8Step:
    """One file that was tried.

    Args:
        name: how it was calibrated, with "fine-tuned, " before it where the model was trained under roundings.
        samples: how many inputs calibrated it.
        error: of the file on the validation samples; None where there is no file.
        increase: error / error of the float model - 1, a fraction.
        note: what else there is to say, an error of the converter for example.
    """

    name: str
    samples: int
    error: float | None = None
    increase: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Int8Quality:
    """What `int8_quality` tried and kept.

    Args:
        file: what was written, with the differences from the model behind it.
        kept: name of the step that it comes from.
        measure: what the errors are: "mse", or "loss" for the compiled loss.
        float_error: of the float model on the validation samples.
        error: of the file.
        limit: the increase that was allowed, a fraction.
        steps: all files tried, in order.
        metrics: compiled metrics of the float model and of the file, {name: (float, int8)}.
        model: the Keras model behind the file, the given one or a tuned copy.

    Example:
        >>> file = ExportedFile(Path("ae.tflite"), "int8", 900, 700, 0.02, 0.01, 0.5, 0.2, 64)
        >>> steps = (Int8Step("real", 256, 0.0105, 0.05), Int8Step("fine-tuned, real", 256, 0.0101, 0.01))
        >>> found = Int8Quality(file, "fine-tuned, real", "mse", 0.01, 0.0101, 0.02, steps, {}, keras.Sequential())
        >>> found.within_limit, round(found.increase, 4), found.file.path.name
        (True, 0.01, 'ae.tflite')
        >>> print(found)
        float mse 0.01, allowed increase 0.0200
        real, 256 samples: 0.0105 (+0.0500)
        fine-tuned, real, 256 samples: 0.0101 (+0.0100), kept
    """

    file: ExportedFile
    kept: str
    measure: str
    float_error: float
    error: float
    limit: float
    steps: tuple[Int8Step, ...]
    metrics: dict[str, tuple[float, float]]
    model: keras.Model = field(repr=False, compare=False)

    @property
    def increase(self) -> float:
        """error / float_error - 1; infinite where the float model makes no error and the file does."""
        return _increase(self.error, self.float_error)

    @property
    def within_limit(self) -> bool:
        """Whether the increase is within the limit."""
        return self.increase <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the model."""
        own = ("kept", "measure", "float_error", "error", "limit", "increase", "within_limit", "metrics")
        found = {name: getattr(self, name) for name in own}
        return {**found, "file": self.file.to_dict(), "steps": [asdict(step) for step in self.steps]}

    def __str__(self) -> str:
        lines = [f"float {self.measure} {self.float_error:.6g}, allowed increase {self.limit:.4f}"]
        for step in self.steps:
            found = "no file" if step.error is None else f"{step.error:.6g} ({step.increase:+.4f})"
            found += ", kept" if step.name == self.kept else ""
            tried = f"{step.name}, {step.samples} samples: {found}"
            lines.append(f"{tried}; {step.note}" if step.note else tried)
        return "\n".join(lines)


def int8_quality(
    model: keras.Model,
    path: str | Path,
    data: Any,
    *,
    limit: float = 0.02,
    epochs: int = 5,
    learning_rate: float = 1e-4,
    calibrations: Sequence[Any] = ("real", "without_outliers"),
    samples: int = 256,
    validation: Any = None,
    seed: int = 0,
    progress: bool = True,
) -> Int8Quality:
    """Write the int8 file of a model whose task error grows least, and stop as soon as it is within a limit.

    Use it in the place of `tflite(..., quantize="int8")` where quality matters. It exports with each calibration
    in turn; where none is within the limit it fine-tunes a copy under roundings (`quantization_aware`), with the
    ranges of the best calibration so far, and exports that. The best file is kept, also where none is within the
    limit: look at `within_limit`. The error is the mean squared error for an autoencoder, the compiled loss
    otherwise, both measured on the file's own outputs.

    One wild sample among the calibration data widens the ranges of all layers and leaves few of the 256 levels to
    the others; "without_outliers" and "clipped" are against that.

    Args:
        model: a built Keras model with one input and one output, compiled if data has targets. It is not changed.
        path: ends in .tflite; an existing file is replaced.
        data: training samples: x for an autoencoder, (x, y) otherwise, or what `calibration.get` takes.
        limit: fraction by which the error may grow, >= 0.
        epochs: of fine-tuning, >= 0; 0 does without.
        learning_rate: of fine-tuning, > 0.
        calibrations: what to calibrate with, in this order: "real" takes samples of `data`;
            "without_outliers" drops the wild ones of them and "clipped" clips their values to the range of the
            others (see `without_outliers`), both are left out where there are none; a name or an instance from
            the room `calibration`, "vae" for example, makes samples from them; an array is taken as it is.
        samples: of each calibration, >= 1.
        validation: samples that judge, as `data`; None takes up to 1024 of `data`.
        seed: of the draws and of fine-tuning, >= 0.
        progress: True writes a line for each step to standard error.

    Returns:
        An `Int8Quality`.

    Raises:
        InputError: arguments that do not fit, or a model that int8 cannot hold.
        ConversionError: if not one file could be made.
        ExportMismatch: if not one file computes what the model computes.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu")])
        >>> x = np.random.default_rng(0).random((256, 8), "float32")
        >>> target = Path(tempfile.mkdtemp()) / "small.tflite"
        >>> found = int8_quality(model, target, x, limit=1.0, progress=False)
        >>> found.kept, found.within_limit, target.is_file()
        ('real', True, True)
    """
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 <= limit < np.inf:
        raise refuse("limit", limit, "a fraction >= 0")
    epochs, seed = positive_int("epochs", epochs, minimum=0), positive_int("seed", seed, minimum=0)
    if not isinstance(calibrations, (list, tuple)) or not calibrations:
        raise refuse("calibrations", calibrations, "a list of names, sources or arrays, at least one")
    path = checked_path(path)
    seen = sources.get(data)
    judges = sources.get(data, samples=1024, seed=seed) if validation is None else sources.get(validation)
    drawn = sources.get(seen, samples=positive_int("samples", samples), seed=seed)
    task = _Task(keras_model(model), judges)
    with tempfile.TemporaryDirectory(prefix="keras_aeprune_") as name:
        tried = _Tries(task, Path(name), float(limit), to_stderr if progress else silent)
        for choice in calibrations:
            if tried.done:
                break
            chosen = _chosen(choice, drawn, model, seed)
            if chosen is not None:
                tried.add(*chosen, model)
        if epochs and not tried.done and tried.best is not None:
            label, x = tried.calibration
            tuned = quantization_aware(
                model,
                seen,
                epochs=epochs,
                learning_rate=learning_rate,
                calibration=x,
                loss=None if task.measure == "loss" else "mse",
                seed=seed,
                progress=progress,
            )
            tried.add(f"fine-tuned, {label}", x, tuned)
        if tried.best is None:
            raise tried.failure or ConversionError("no file was tried")
        with writing(path) as temporary:
            temporary.write_bytes(tried.best.path.read_bytes())
        metrics = task.metrics(_outputs(tried.best.path, judges.x))
        return Int8Quality(
            replace(tried.best, path=path),
            tried.kept,
            task.measure,
            task.float_error,
            tried.error,
            float(limit),
            tuple(tried.steps),
            metrics,
            tried.model,
        )


def without_outliers(x: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Which samples are not wild, and the range of those.

    With e_i the largest distance of a value of sample i from the median of all values, a sample is wild if e_i is
    more than 2 times the 95% quantile of e. Of 20 samples or fewer none is.

    Args:
        x: shape (n, ...).

    Returns:
        (kept, low, high): booleans of shape (n,), the smallest and the largest value of the samples kept.

    Example:
        >>> x = np.linspace(-1, 1, 200).reshape(100, 2)
        >>> x[7, 0] = 50
        >>> kept, low, high = without_outliers(x)
        >>> int((~kept).sum()), bool(kept[7]), low, high
        (1, False, -1.0, 1.0)
    """
    flat = np.asarray(x, "float64").reshape(len(x), -1)
    extremes = np.abs(flat - np.median(flat)).max(axis=1)
    kept = extremes <= _WILD * np.quantile(extremes, 0.95) if len(flat) > 20 else np.ones(len(flat), bool)
    return kept, float(flat[kept].min()), float(flat[kept].max())


def _chosen(choice: Any, drawn: Calibration, model: keras.Model, seed: int) -> tuple[str, np.ndarray] | None:
    """(name, inputs) of one calibration; None where it would be the same as "real"."""
    if hasattr(choice, "__array__"):
        return "given", np.asarray(choice, "float32")
    if isinstance(choice, str) and choice in _OWN:
        kept, low, high = without_outliers(drawn.x)
        if choice == "real":
            return choice, drawn.x
        if kept.all():
            return None
        return choice, drawn.x[kept] if choice == "without_outliers" else np.clip(drawn.x, low, high)
    if isinstance(choice, str) and choice not in sources.names():
        raise refuse("calibrations", choice, ", ".join(dict.fromkeys([*_OWN, *sources.names()])))
    made = sources.source(choice).draw(len(drawn), real=drawn, model=model, seed=seed)
    return made.source, made.x


def _increase(error: float, before: float) -> float:
    if before > 0:
        return error / before - 1
    return 0.0 if error <= 0 else float("inf")


def _outputs(path: Path, x: np.ndarray) -> np.ndarray:
    """What a file with one output makes of samples."""
    found = TFLiteModel(path).predict(x)
    return next(iter(found.values())) if isinstance(found, dict) else found


class _Task:
    """How good outputs are at the task of a model."""

    def __init__(self, model: keras.Model, judges: Calibration):
        self._model, self._judges = model, judges
        self.measure = "mse" if judges.y is None else "loss"
        self._losses: Callable[[Any, Any], Any] | None = None if judges.y is None else per_example(model)
        self._float = model.predict(judges.x, batch_size=256, verbose=0)
        if not isinstance(self._float, np.ndarray):
            raise InputError(f"model {model.name!r}: got several outputs, allowed: a model with one")
        self.float_error = self.error(self._float)
        if not np.isfinite(self.float_error):
            raise InputError(f"model {model.name!r}: its error on the data is {self.float_error}, allowed: finite")

    def error(self, outputs: np.ndarray) -> float:
        """Mean error of outputs for the samples that judge; lower is better."""
        if self._losses is None:
            return float(np.mean((outputs.astype("float64") - self._judges.x) ** 2))
        return float(tf.reduce_mean(self._losses(tf.constant(self._judges.y), tf.constant(outputs))))

    def metrics(self, outputs: np.ndarray) -> dict[str, tuple[float, float]]:
        """Compiled metrics of the float model and of `outputs`."""
        metrics = getattr(self._model, "_compile_metrics", None)
        if self._judges.y is None or metrics is None:
            return {}
        both = []
        for values in (self._float, outputs):
            fresh = keras.models.clone_model(self._model)._compile_metrics
            fresh.update_state(tf.constant(self._judges.y), tf.constant(values))
            both.append({name: float(value) for name, value in fresh.result().items()})
        return {name: (both[0][name], both[1][name]) for name in both[0]}


class _Tries:
    """Files tried so far, and the best."""

    def __init__(self, task: _Task, folder: Path, limit: float, say: Say):
        self._task, self._folder, self._limit, self._say = task, folder, limit, say
        self.steps: list[Int8Step] = []
        self.best: ExportedFile | None = None
        self.error = float("inf")
        self.failure: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether the best file is within the limit."""
        return self.best is not None and _increase(self.error, self._task.float_error) <= self._limit

    def add(self, name: str, x: np.ndarray, model: keras.Model) -> None:
        """Export one file and measure it."""
        try:
            file = tflite(model, self._folder / f"{len(self.steps)}.tflite", quantize="int8", data=x)
        except (ConversionError, ExportMismatch) as error:
            self.failure = error
            self.steps.append(Int8Step(name, len(x), note=str(error)))
            self._say(f"int8, {name}: no file; {error}", True)
            return
        found = self._task.error(_outputs(file.path, self._task._judges.x))
        increase = _increase(found, self._task.float_error)
        self.steps.append(Int8Step(name, len(x), found, increase))
        self._say(f"int8, {name}: {self._task.measure} {found:.6g}, increase {increase:+.4f}", True)
        if self.best is None or found < self.error:
            self.best, self.kept, self.error, self.model, self.calibration = file, name, found, model, (name, x)
