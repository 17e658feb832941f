"""What a run would do and cost, found out by training for a moment and not by guessing."""

from __future__ import annotations

import resource
import sys
import textwrap
import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune import datasets
from keras_aeprune._progress import clock
from keras_aeprune._validation import BudgetError
from keras_aeprune.datasets import Dataset
from keras_aeprune.pipeline import shrink_step
from keras_aeprune.pipeline.settings import Settings, seconds
from keras_aeprune.pipeline.training import build
from keras_aeprune.report.text import size_text

__all__ = ["Cost", "Plan", "after_training", "fit_epochs", "peak_memory_mb", "plan", "wanted_epochs"]

_PROBE_STEPS = 60
# Loading, four conversions in processes of their own, running and timing the files, pictures, page: measured
# on two cores with the digits (64 features) and Fashion-MNIST (784 features).
_AFTER_TRAINING = {"seconds": 22.0, "seconds_per_test_value": 1.2e-6}
_ONCE = {"epochs": 1, "probe_epochs": 1, "final_epochs": 1}
_FEWEST = {"dense": 1, "prune": 2, "finetune": 1, "shrink": shrink_step.passes(_ONCE)}


@dataclass(frozen=True)
class Cost:
    """What a probe measured: seconds to trace a training, and seconds of one epoch with its validation."""

    trace: float
    epoch: float

    @classmethod
    def measure(cls, data: Dataset, settings: Settings) -> Cost:
        """Train a throw-away model for a few steps; leaves nothing behind."""
        model = build(data, settings)
        model.compile("adam", "mse")
        batch = settings.batch_size
        steps = -(-len(data.x_train) // batch)
        probed = min(steps, _PROBE_STEPS)
        x = data.x_train[: probed * batch]
        share = probed / steps
        held_out = data.x_validation[: max(1, round(share * len(data.x_validation)))]
        times = []
        for _ in range(3):
            began = time.monotonic()
            model.fit(x, x, validation_data=(held_out, held_out), batch_size=batch, epochs=1, verbose=0)
            times.append(time.monotonic() - began)
        epoch = min(times[1:])
        return cls(trace=max(times[0] - epoch, 0.0), epoch=epoch / share)

    def training(self, epochs: dict[str, int]) -> float:
        """Seconds of all phases."""
        return self.trace * len(epochs) + self.epoch * sum(epochs.values())


def wanted_epochs(settings: Settings) -> dict[str, int]:
    """Passes over the data of each phase; with an error limit those of "shrink" as far as they can be known."""
    if settings.max_error_increase is None:
        return dict(settings.epochs)
    return {**settings.epochs, "shrink": shrink_step.passes(shrink_step.epochs_of(settings.epochs["dense"]))}


def after_training(data: Dataset, settings: Settings | None = None, cost: Cost | None = None) -> float:
    """Seconds of everything that is no pass over the data, about.

    Args:
        data: of the run.
        settings: with an error limit, for two more files and the cuts.
        cost: for the cuts; None where they are done.
    """
    found = _AFTER_TRAINING["seconds"] + _AFTER_TRAINING["seconds_per_test_value"] * data.x_test.size
    if settings is None or settings.max_error_increase is None:
        return found
    return 1.5 * found + (shrink_step.around(cost.trace) if cost else 0.0)


def fit_epochs(
    epochs: dict[str, int], available: float, cost: Cost, *, limit: float, after: float
) -> dict[str, int]:
    """Fewer epochs, in proportion, so that the phases in `epochs` end within `available` seconds.

    Args:
        epochs: wanted passes per phase that is still to come.
        available: seconds left for them.
        cost: what one epoch takes.
        limit: the whole limit in seconds, for the message.
        after: seconds kept for what is no pass over the data, for the message.

    Raises:
        BudgetError: if even the fewest epochs do not fit.

    Example:
        >>> fit_epochs({"dense": 20, "prune": 10}, 22.0, Cost(1.0, 1.0), limit=60, after=30)
        {'dense': 11, 'prune': 5}
    """
    room = 0.9 * available - cost.trace * len(epochs)  # a tenth for a machine that is busier than the probe
    share = min(1.0, room / (cost.epoch * sum(epochs.values())))
    fitted = {phase: int(share * wanted) for phase, wanted in epochs.items()}
    if any(fitted[phase] < min(_FEWEST[phase], epochs[phase]) for phase in fitted):
        fewest = {phase: min(_FEWEST[phase], wanted) for phase, wanted in epochs.items()}
        needed = limit - available + cost.training(fewest) / 0.9
        others = "cuts, export and report" if "shrink" in epochs else "export and report"
        raise BudgetError(
            f"max_time: got {limit:.0f} s, which is too short even for the fewest epochs ({fewest}); needed "
            f"here: about {needed:.0f} s, of which {after:.0f} s are {others}"
        )
    return fitted


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MB (1 MB = 1,000,000 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


@dataclass(frozen=True)
class Plan:
    """What `compress` would do with the same arguments, and its cost on this machine.

    Attributes:
        data: counts, shapes and scaling.
        settings: everything that decides the outcome.
        parameters: of the autoencoder.
        cost: measured seconds.
        seconds: the whole run, about.
        memory_mb: of the whole run, about.
        bytes: of the files it will write, about: {"float32": ..., "int8": ...}.

    Example:
        >>> data = datasets.load(np.random.default_rng(0).random((100, 8)))
        >>> settings, cost = Settings.derive(data, epochs=20), Cost(trace=1.0, epoch=0.05)
        >>> made = Plan(data.describe(), settings, 636, cost, 28.0, 500.0, {"float32": 6544, "int8": 8636})
        >>> print(str(made).splitlines()[1])
        model       dense autoencoder 8-16-8-4-8-16-8, 636 parameters
    """

    data: dict[str, Any]
    settings: Settings
    parameters: int
    cost: Cost
    seconds: float
    memory_mb: float
    bytes: dict[str, int]

    def __str__(self) -> str:
        s, samples = self.settings, self.data["samples"]
        mirrored = [*s.hidden_units, s.encoding_dim, *s.hidden_units[::-1]]
        features = self.data["features"]
        widths = "-".join(map(str, [features, *mirrored, features]))
        epochs = s.epochs
        about = [
            ("data", f"{self.data['name']}: {samples['train']:,} to train, {samples['validation']:,} to "
                     f"validate, {samples['test']:,} to test, {features:,} numbers each"),
            ("model", f"dense autoencoder {widths}, {self.parameters:,} parameters"),
        ]  # fmt: skip
        lines = [
            ("train", f"{epochs['dense']} epochs of {-(-samples['train'] // s.batch_size):,} steps"),
            ("prune", f"{epochs['prune']} epochs, cubic ramp to {s.sparsity:.0%} zeros, {s.allocation}"),
            ("fine-tune", f"{epochs['finetune']} epochs, zeros kept"),
        ]  # fmt: skip
        made = "dense and pruned"
        if s.max_error_increase is not None:
            each = shrink_step.epochs_of(epochs["dense"])["epochs"]
            limit = f"while the error is at most {1 + s.max_error_increase:.4g} x the dense one's"
            rounds = f"rounds of {each} epochs {limit}; the cost assumes {shrink_step.ROUNDS} rounds"
            lines.append(("shrink", rounds))
            made = "dense, pruned and shrunk"
        lines += [
            ("export", f"float32 .tflite, about {size_text(self.bytes['float32'])}; int8, about "
                       f"{size_text(self.bytes['int8'])}; {made}; each loaded back and compared"),
            ("report", "report.json, report.html"),
        ]  # fmt: skip
        lines = [
            *about,
            *((f"{number} {name}", text) for number, (name, text) in enumerate(lines, 1)),
            ("cost", f"about {clock(self.seconds)} ({1000 * self.cost.epoch:.0f} ms an epoch, measured), "
                     f"about {self.memory_mb / 1000:.1f} GB of memory"),
        ]  # fmt: skip
        return "\n".join(_entry(name, text) for name, text in lines)


def _entry(name: str, text: str) -> str:
    """A name and a text that goes on below itself after 100 columns."""
    return textwrap.fill(text, 100, initial_indent=f"{name:<12}", subsequent_indent=" " * 12)


def plan(
    data: Any,
    *,
    key: str | None = None,
    max_time: float | str | None = None,
    seed: int = 0,
    **settings: Any,
) -> Plan:
    """What `compress` would do and cost; trains for about two seconds and writes nothing.

    Args:
        data: as for `compress`.
        key: as for `compress`.
        max_time: as for `compress`.
        seed: as for `compress`.
        **settings: sparsity, encoding_dim, hidden_units, epochs, max_error_increase, as for `compress`.

    Returns:
        A `Plan` that prints as a short list.

    Raises:
        InputError: for data or settings that `compress` would refuse.
        BudgetError: if the time limit cannot be met.

    Example:
        >>> x = np.random.default_rng(0).random((100, 8))
        >>> made = plan(x, sparsity=0.8, encoding_dim=2, hidden_units=(4,), epochs=10)
        >>> made.settings.epochs, made.parameters
        ({'dense': 10, 'prune': 10, 'finetune': 5}, 98)
    """
    limit = seconds(max_time)
    loaded = datasets.load(data, key=key, seed=seed).flat
    resolved = Settings.derive(loaded, seed=seed, **settings)
    cost = Cost.measure(loaded, resolved)
    after, epochs = after_training(loaded, resolved, cost), wanted_epochs(resolved)
    if limit is not None:
        epochs = fit_epochs(epochs, limit - after, cost, limit=limit, after=after)
        fitted = {phase: epochs[phase] for phase in resolved.epochs}
        resolved = Settings(**{**vars(resolved), "epochs": fitted})
    parameters = count_parameters(loaded.features, resolved)
    keras.backend.clear_session()
    return Plan(
        data=loaded.describe(),
        settings=resolved,
        parameters=parameters,
        cost=cost,
        seconds=cost.training(epochs) + after,
        memory_mb=peak_memory_mb() + 16 * parameters / 1e6,
        bytes={"float32": 4 * parameters + 4000, "int8": parameters + 8000},
    )


def count_parameters(features: int, settings: Settings) -> int:
    """Weights and biases of the mirrored dense autoencoder.

    >>> s = Settings(0.9, 32, (128, 64), {}, 1, 0, "sigmoid", "global")
    >>> count_parameters(784, s)
    222384
    """
    widths = [features, *settings.hidden_units, settings.encoding_dim]
    pairs = np.array([widths[:-1], widths[1:]])
    kernels = 2 * int((pairs[0] * pairs[1]).sum())
    return kernels + int(sum(widths[1:])) + int(sum(widths[:-1]))
