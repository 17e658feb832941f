"""One model in which sources of calibration samples take turns: scored, pruned, fine-tuned."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune import calibration
from keras_aeprune._validation import InputError
from keras_aeprune.calibration.drawing import classes_of, rows
from keras_aeprune.criteria.base import Criterion
from keras_aeprune.criteria.scoring import evidence, measured
from keras_aeprune.sparsity import Pruner
from keras_aeprune.sparsity.iterative_state import ModelState, assign

__all__ = ["Draws", "Trial", "Wanted", "correlations", "named", "standard_ranks"]


@dataclass(frozen=True)
class Wanted:
    """A source, and the fraction of the samples that it makes; real ones are the rest."""

    source: calibration.Source
    share: float = 1.0

    @property
    def label(self) -> str:
        name = named(calibration.serialize(self.source), self.source)
        return name if self.share == 1 else f"{1 - self.share:.3g} real + {self.share:.3g} {name}"


def named(serialized: Mapping[str, Any], member: Any) -> str:
    """Its name, with the arguments that are not the default ones."""
    usual = {name: p.default for name, p in inspect.signature(type(member)).parameters.items()}
    own = [f"{k}={v}" for k, v in serialized["config"].items() if k not in usual or usual[k] != v]
    return serialized["class_name"] + (f"({', '.join(own)})" if own else "")


class Draws:
    """The samples of one seed; what a source made once is kept for all criteria."""

    def __init__(self, trial: Trial, seed: int):
        real, count = trial.real, trial.samples
        aside = rows(classes_of(real.y), len(real), count, np.random.default_rng([seed, 1]))
        left = np.setdiff1d(np.arange(len(real)), aside)
        both = ((real.x[part], None if real.y is None else real.y[part]) for part in (aside, left))
        self.reference, self.rest = (calibration.Calibration(x, y) for x, y in both)
        self.trial, self.seed = trial, seed
        self.ranks: dict[str, list[np.ndarray]] = {}
        self._made: dict[str, calibration.Calibration] = {}

    def of(self, wanted: Wanted) -> calibration.Calibration:
        name = json.dumps(calibration.serialize(wanted.source), sort_keys=True)
        if name not in self._made:
            options = {"real": self.rest, "model": self.trial.model, "seed": self.seed}
            drawn = wanted.source.draw(self.trial.samples, **options)
            whole = getattr(self.trial.model, "inputs", None) or []
            if len(whole) == 1 and "int" in whole[0].dtype and (drawn.x != np.round(drawn.x)).any():
                raise InputError(
                    f"source {wanted.source!r}: got fractions, allowed: whole numbers, as the model takes"
                )
            self._made[name] = drawn
        made = self._made[name]
        if wanted.share == 1:
            return made
        return calibration.mixed(self.rest, made, wanted.share, samples=self.trial.samples, seed=self.seed)


class Trial:
    """One model in which all sources take turns."""

    def __init__(self, model: Any, real: Any, checked: Any, settings: Any, pruning: Any, fit: Any):
        self.model, self.real, self.pruning, self.fit = model, real, pruning, fit
        self.sparsity, self.samples, self.epochs = (settings[k] for k in ("sparsity", "samples", "epochs"))
        self._data, self._checked = ((d.x, d.x if d.y is None else d.y) for d in (real, checked))
        self.dense = self._loss(0)
        pruner = Pruner(model, **pruning)
        pruner.retrace()  # masks of one kind on all kernels: one train step for all
        self.weights = [target.weight for target in pruner.targets]
        self.start = ModelState(model)

    def scores(self, criterion: Criterion, samples: calibration.Calibration) -> list[np.ndarray]:
        """Of the kernels that are pruned, in the model as it was given."""
        self._dense()
        seen = evidence(criterion, self.model, self.weights, samples, self.pruning.get("loss"))
        return measured(criterion, seen)

    def losses(self, criterion: Any, seed: int) -> dict[str, float]:
        """Validation losses after pruning in one step, and after fine-tuning."""
        self._dense()
        self.start.free()  # masks as at the start: what was zero there stays zero
        Pruner(self.model, criterion=criterion, **self.pruning).update(self.sparsity)
        pruned = self._loss(seed)
        self.start.fresh_optimizer()
        keras.utils.set_random_seed(seed)
        self.model.fit(*self._data, epochs=self.epochs, **self.fit)
        return {"pruned": pruned, "tuned": self._loss(seed)}

    def cell(self, draws: Draws, wanted: Wanted, label: str, criterion: Criterion) -> dict[str, Any]:
        """One source with one criterion and one seed; the reason where it cannot be tried."""
        if label not in draws.ranks:
            draws.ranks[label] = standard_ranks(self.scores(criterion, draws.reference))
        self._dense()
        try:
            samples = draws.of(wanted)
        except InputError as error:
            return {"skip": ("", str(error))}
        began = time.monotonic()
        if self.real.y is not None and samples.y is None and criterion.needs == "gradients":
            return {"skip": (label, f"it makes samples without targets y, and {label} needs them for this model")}
        try:
            found = self.scores(criterion, samples)
        except InputError as error:
            return {"skip": (label, str(error))}
        ranks = correlations(draws.ranks[label], standard_ranks(found))
        losses = self.losses(_Given(found), draws.seed)
        return {**ranks, **losses, "seconds": time.monotonic() - began}

    def control(self, criterion: Criterion, seed: int) -> dict[str, Any]:
        began = time.monotonic()
        return {**self.losses(criterion, seed), "seconds": time.monotonic() - began}

    def _dense(self) -> None:
        assign(self.model.variables, self.start.values)

    def _loss(self, seed: int) -> float:
        keras.utils.set_random_seed(seed)
        size = self.fit.get("batch_size")
        return float(self.model.evaluate(*self._checked, batch_size=size, verbose=0, return_dict=True)["loss"])


class _Given(Criterion):
    """Scores that are known already."""

    def __init__(self, found: list[np.ndarray]):
        self.found = found

    def measure(self, seen: Any) -> list[np.ndarray]:
        return self.found


def standard_ranks(scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Ranks of the scores of each kernel and, last, of all, so that a product of two is their correlation."""
    flat = [array.ravel() for array in scores]
    return [_ranked(values) for values in (*flat, np.concatenate(flat))]


def _ranked(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    found = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal values share the mean of their ranks
    found -= found.mean()
    length = np.linalg.norm(found)
    return found / length if length > 0 else found


def correlations(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> dict[str, float]:
    """Spearman's correlations of what `standard_ranks` gave: the mean over kernels by size, and over all."""
    found = [float(np.clip(a @ b, -1, 1)) for a, b in zip(one, other, strict=True)]
    sizes = [len(ranks) for ranks in one[:-1]]
    return {"by_kernel": float(np.average(found[:-1], weights=sizes)), "overall": found[-1]}
