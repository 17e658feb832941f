"""Prune one step, train, validate, and again: the loop around `fit`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import criteria, schedules
from keras_aeprune._files import fingerprint
from keras_aeprune._validation import InputError, fraction, keras_model, positive_int, refuse, shown
from keras_aeprune.sparsity import allocation as allocations
from keras_aeprune.sparsity import patterns
from keras_aeprune.sparsity.iterative_state import (
    EpochWeights,
    ModelState,
    RoundsFolder,
    Settings,
    assign,
    described,
    weights_from,
)
from keras_aeprune.sparsity.iterative_table import IterativeResult, Round, judged, limits_of, progress_line
from keras_aeprune.sparsity.pruner import Pruner
from keras_aeprune.sparsity.table import SparsityTable, remember, sparsity_table

__all__ = ["IterativeResult", "geometric", "iterative"]

_OWN_OF_FIT = ("x", "y", "sample_weight", "validation_data", "initial_epoch")


def geometric(target: float, rounds: int) -> list[float]:
    """Sparsities that take the same fraction of what is left in every round.

    s_k = 1 - (1 - target)^(k / rounds), as in iterative magnitude pruning (Frankle and Carbin 2019,
    https://arxiv.org/abs/1803.03635).

    Args:
        target: fraction of weights set to zero in the last round, 0 < s < 1.
        rounds: whole number >= 1.

    Example:
        >>> [round(s, 4) for s in geometric(0.875, 3)]
        [0.5, 0.75, 0.875]
    """
    target, rounds = fraction("target", target, low_open=True), positive_int("rounds", rounds)
    return [*(1 - (1 - target) ** (k / rounds) for k in range(1, rounds)), target]


def iterative(
    model: keras.Model,
    data: Any,
    *,
    target: float = 0.9,
    rounds: int = 5,
    sparsities: Sequence[float] | None = None,
    epochs: int = 5,
    dense_epochs: int = 0,
    validation: Any = None,
    limit: Any = None,
    criterion: Any = "magnitude",
    allocation: Any = "uniform",
    pattern: Any = "unstructured",
    pruning: Mapping[str, Any] | None = None,
    rewind: Any = None,
    train: Callable[[keras.Model, int], Any] | None = None,
    directory: str | Path | None = None,
    seed: int = 0,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    progress: bool | Callable[[str], Any] = True,
    **fit: Any,
) -> IterativeResult:
    """Train, prune one step, train on, validate, and repeat until the sparsity or a limit is reached.

    Use it where the sparsity that a model can bear is not known, where every step has to be judged by a metric,
    or to rewind weights; `Prune` is quicker where the sparsity is known. Within a round the masks
    stay as they are, and what is zero once stays zero in all later rounds. The optimizer starts each round
    anew, its learning rate schedule included. The sparsities are by default s_k = 1 - (1 - target)^(k / rounds).

    With `rewind`, the surviving weights go back after each pruning to what they were early in the training, as in
    the lottery ticket experiments (Frankle and Carbin 2019, https://arxiv.org/abs/1803.03635; rewinding to an
    epoch: Frankle et al. 2020, https://arxiv.org/abs/1912.05671).

    The model is changed in place: at the end it has the weights of the last round that held the limits,
    under its masks (`sparsity.release` takes them off). After an error it is as it was given. Keras, NumPy and
    Python are seeded anew for every round.

    Args:
        model: a built and compiled Keras model.
        data: the input x of an autoencoder, (x, y), (x, y, sample weights), or a tf.data.Dataset or
            keras.utils.PyDataset that can be read again and again.
        target: sparsity of the last round, a fraction 0 < s < 1.
        rounds: of pruning and training, 1 or more.
        sparsities: rising fractions 0 < s < 1, one per round; they take the place of `target` and `rounds`.
        epochs: of each round, 1 or more.
        dense_epochs: of the training before the first round; 0 for a model that is trained.
        validation: what each round is judged on, as `data`; None for `data` itself.
        limit: {"error_increase": 0.05} allows a loss of 0.05 times the dense model's loss above it;
            {"accuracy": 0.95} at least, {"mse": 0.01} at most, the direction from the name (see `limits_of`);
            ("hits", ">=", 3) or a list of such tuples where the name does not tell it. None for none. The first
            round that breaks one ends the loop.
        criterion: which weights go first, a name or instance from `keras_aeprune.criteria`; one that needs data
            sees `data` unless `pruning` has others.
        allocation: which kernels share the zeros, as in `Prune`; "entropy" is measured on `data` in every round.
        pattern: which weights go together, as in `Prune`.
        pruning: other arguments of `Pruner`: limits, include, exclude, on_unsupported, ...
        rewind: None; "initial", the weights before the first training; a whole number, the weights after that
            epoch of it, 1 <= k <= dense_epochs; a file for `model.load_weights`; a list of arrays as
            `model.get_weights` gives; or {path of a variable: array} for some of the variables.
        train: called as train(model, round) in place of `model.fit`, with round 0 for the first training if
            dense_epochs > 0. It must update the weights with a Keras optimizer, which applies the masks.
        directory: a folder to which every finished round is written; the same call goes on there after a
            kill. None for none.
        seed: of all random numbers, 0 <= seed < 2^31.
        callbacks: for each `fit`.
        progress: True writes one line per round to standard error; a function is called with it.
        **fit: other arguments of `model.fit`: batch_size, verbose (0 unless given), class_weight, ...

    Returns:
        An `IterativeResult`: `print(result)`, `result.kept.reached`, `result.rounds`.

    Raises:
        InputError: before training, for arguments that do not fit, or a folder of another run.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).random((32, 8), "float32")
        >>> result = iterative(model, x, target=0.75, rounds=2, epochs=1, progress=False)
        >>> [(r.number, r.reached) for r in result.rounds], result.kept.number
        ([(0, 0.0), (1, 0.5), (2, 0.75)], 2)
    """
    if not keras_model(model).compiled:
        raise InputError(f"model {model.name!r}: got a model that is not compiled, allowed: a compiled one")
    given = ModelState(model)
    loop = _Loop(
        model,
        given,
        steps=geometric(target, rounds) if sparsities is None else _rising(sparsities),
        epochs=(positive_int("dense_epochs", dense_epochs, minimum=0), positive_int("epochs", epochs)),
        data=_samples("data", data),
        validation=None if validation is None else _samples("validation", validation),
        limits=limits_of(limit),
        pruning=_pruning(data, criterion, allocation, pattern, pruning),
        rewind=rewind,
        train=train,
        seed=positive_int("seed", seed, minimum=0, maximum=2**31 - 1),
        callbacks=list(callbacks),
        say=_speaker(progress),
        fit=_checked_fit(fit),
    )
    try:
        loop.check()
        return loop.run(directory)
    except BaseException:
        given.restore()
        raise


def _rising(sparsities: Any) -> list[float]:
    steps = [fraction("sparsities", s, low_open=True) for s in sparsities]
    if not steps or any(b <= a for a, b in pairwise(steps)):
        raise refuse("sparsities", sparsities, "one rising fraction 0 < s < 1 per round")
    return steps


def _samples(name: str, data: Any) -> tuple[Any, ...]:
    """(x, y, sample weights), or (dataset,)."""
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        return (data,)
    if isinstance(data, tuple) and len(data) not in (2, 3):
        raise InputError(f"{name}: got a tuple of {len(data)}, allowed: x, (x, y), or (x, y, sample weights)")
    parts = data if isinstance(data, tuple) else (data, data)
    lengths = {len(a) if np.ndim(a) else 0 for a in tf.nest.flatten(parts) if a is not None}
    if len(lengths) != 1 or 0 in lengths:
        raise refuse(
            name, data, "arrays of equal length > 0: x, (x, y), (x, y, sample weights); or a tf.data.Dataset"
        )
    return parts


def _pruning(data: Any, criterion: Any, allocation: Any, pattern: Any, more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "criterion": criteria.get(criterion),
        "allocation": allocations.get(allocation),
        "pattern": patterns.get(pattern),
    }
    if made["criterion"].needs_data or made["allocation"].needs_data:
        made["data"] = data[:2] if isinstance(data, tuple) else data
    return {**made, **dict(more or {})}


def _speaker(progress: Any) -> Callable[[str], Any]:
    if callable(progress):
        return progress
    return (lambda text: print(text, file=sys.stderr, flush=True)) if progress else (lambda text: None)


def _checked_fit(fit: dict[str, Any]) -> dict[str, Any]:
    wrong = [name for name in _OWN_OF_FIT if name in fit]
    if wrong:
        raise InputError(
            f"{wrong[0]}: got {shown(fit[wrong[0]])}, allowed: what `data`, `validation` and `epochs` do not say"
        )
    return {"verbose": 0, **fit}


class _Loop(Settings):
    """One call of `iterative`."""

    def __init__(self, model: keras.Model, given: ModelState, **settings: Any):
        super().__init__(**settings)
        self.model = model
        self.given = given
        self.earlier: list[np.ndarray] | None = None  # what surviving weights are set to

    def check(self) -> None:
        """Refuse what would only fail after the first training."""
        dense_epochs, rewind = self.epochs[0], self.rewind
        number = isinstance(rewind, int) and not isinstance(rewind, bool)
        self.initial = isinstance(rewind, str) and rewind == "initial"
        self.epoch = rewind if number else None
        if (number or self.initial) and not dense_epochs:
            raise refuse("rewind", rewind, "with dense_epochs=0, weights as arrays or a file")
        if number and self.train is not None:
            raise refuse("rewind", rewind, 'with train=, "initial", weights as arrays or a file')
        if number:
            positive_int("rewind", rewind, maximum=dense_epochs)
        elif rewind is not None and not self.initial:
            self.earlier = weights_from(self.model, rewind)
        names = self._evaluate(first=True)
        for limit in self.limits:
            if limit.metric not in (*names, "error_increase"):
                raise refuse("limit", limit.metric, f"error_increase, {', '.join(names)}")
        pruner = Pruner(self.model, **self.pruning)
        pruner.check(schedules.Timetable(schedules.ConstantSparsity(self.steps[-1], 0), 1))
        self.given.restore()

    def run(self, directory: str | Path | None) -> IterativeResult:
        folder = None if directory is None else RoundsFolder(directory, self._identity())
        rounds = folder.rounds() if folder else []
        if folder and rounds:
            kept = self._go_on(folder, rounds)
        else:
            rounds = [self._first()]
            kept = {"value": self._values()}
            if folder:
                earlier = {"earlier": self.earlier} if self.earlier else {}
                folder.finish(rounds, {**kept, **earlier})
            self.say(progress_line(rounds, len(self.steps)))
        while rounds[-1].held and len(rounds) <= len(self.steps):
            entry, masks = self._round(len(rounds), rounds[0].metrics)
            rounds.append(entry)
            if entry.held:
                kept = {"value": self._values(), "mask": masks}
            if folder:
                folder.finish(rounds, kept)
            self.say(progress_line(rounds, len(self.steps)))
        return self._end(rounds, kept)

    def _go_on(self, folder: RoundsFolder, rounds: list[Round]) -> dict[str, list[np.ndarray]]:
        best = max((r.number for r in rounds if r.held), default=0)
        self.earlier = folder.arrays(0).get("earlier")
        kept = folder.arrays(best)
        assign(self.model.variables, kept["value"])
        self.say(f"round {rounds[-1].number}/{len(self.steps)}: found in {folder.path}, going on")
        return kept

    def _first(self) -> Round:
        began, watch = time.monotonic(), None
        if self.initial:
            self.earlier = self.model.get_weights()
        if self.epoch is not None:
            watch = EpochWeights(self.epoch)
        if self.epochs[0]:
            self._train(0, self.epochs[0], [watch] if watch else [])
        if watch is not None:
            self.earlier = watch.values
            if watch.values is None:
                raise refuse("rewind", self.rewind, "an epoch that the first training reaches")
        table = sparsity_table(self.model)
        metrics = self._evaluate()
        entry = Round(0, 0.0, table.sparsity, metrics, time.monotonic() - began, False, table)
        return judged(entry, self.limits, metrics)

    def _round(self, number: int, dense: Mapping[str, float]) -> tuple[Round, list[np.ndarray]]:
        began, sparsity = time.monotonic(), self.steps[number - 1]
        self._seed(number)
        pruner = Pruner(self.model, **self.pruning)  # made anew: what is zero now stays zero
        pruner.final = self.steps[-1]
        pruner.update(sparsity)
        if self.earlier is not None:
            self.model.set_weights(self.earlier)
            pruner.restored()
        self.given.fresh_optimizer()
        pruner.retrace()
        self._train(number, self.epochs[1], [])
        optimizer = self.model.optimizer
        if pruner.restored() and self.train is not None and not getattr(optimizer, "use_ema", False):
            raise InputError(
                f"train: got masked weights that are not zero after round {number}, allowed: a function that "
                "applies gradients with a Keras optimizer in a step that is traced anew in every call"
            )
        metrics, table = self._evaluate(), pruner.table()
        entry = Round(number, sparsity, table.sparsity, metrics, time.monotonic() - began, False, table)
        return judged(entry, self.limits, dense), list(pruner.masks().values())

    def _end(self, rounds: list[Round], kept: dict[str, list[np.ndarray]]) -> IterativeResult:
        best = [r for r in rounds if r.held or not r.number][-1]
        assign(self.model.variables, kept["value"])
        if best.number:
            pruner = Pruner(self.model, **self.pruning)
            pruner.restore(dict(zip(pruner.masks(), kept["mask"], strict=True)))
            pruner.retrace()
            now, then = pruner.table().rows, best.kernels.rows  # the names of another process may differ
            rows = (replace(row, asked=before.asked) for row, before in zip(now, then, strict=True))
            remember(self.model, SparsityTable(tuple(rows)))
        else:
            self.given.free()
            remember(self.model, SparsityTable(()))
        self.given.fresh_optimizer()
        return IterativeResult(self.model, tuple(rounds), best, self.limits, tuple(self.steps))

    def _seed(self, number: int) -> None:
        keras.utils.set_random_seed(self.seed + number)

    def _values(self) -> list[np.ndarray]:
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self.model.variables]

    def _train(self, number: int, epochs: int, more: list[keras.callbacks.Callback]) -> None:
        self._seed(number)
        if self.train is not None:
            self.train(self.model, number)
            return
        checked = self.validation if self.validation is None or len(self.validation) > 1 else self.validation[0]
        self.model.fit(
            **_named(self.data),
            validation_data=checked,
            epochs=epochs,
            callbacks=[*self.callbacks, *more],
            **self.fit,
        )

    def _evaluate(self, *, first: bool = False) -> dict[str, float]:
        """Loss and metrics; with `first` of one batch, to see which there are and whether the data fit."""
        own = self.validation is not None
        parts = self.data if self.validation is None else self.validation
        size, steps = self.fit.get("batch_size"), None
        size = self.fit.get("validation_batch_size", size) if own else size
        if len(parts) == 1:
            size, steps = None, 1 if first else self.fit.get("validation_steps" if own else "steps_per_epoch")
        elif first:
            parts = tf.nest.map_structure(lambda a: None if a is None else a[:32], parts)
        self._seed(0)
        found = self.model.evaluate(**_named(parts), batch_size=size, steps=steps, verbose=0, return_dict=True)
        if "loss" not in found:
            raise InputError(f"model {self.model.name!r}: got no loss, allowed: a model compiled with one")
        return {name: float(value) for name, value in found.items()}

    def _identity(self) -> dict[str, Any]:
        """What decides the outcome; weights too, where they are not about to be trained from scratch."""
        plain = self.rewind is None or self.initial or self.epoch is not None
        model = [[v.name, list(v.shape)] for v in self.model.weights]  # paths hold names that Keras counts up
        return {
            "format": "keras_aeprune iterative 1",
            "model": model,
            "weights": "trained here" if self.epochs[0] else fingerprint(self.model.get_weights()),
            "loss": described(self.model.loss),
            "optimizer": described(self.model.optimizer),
            "data": described(self.data),
            "validation": described(self.validation),
            "sparsities": list(self.steps),
            "epochs": list(self.epochs),
            "limit": [str(limit) for limit in self.limits],
            "pruning": described(self.pruning),
            "rewind": self.rewind if plain else fingerprint(self.earlier or []),
            "train": described(self.train),
            "seed": self.seed,
            "callbacks": [type(callback).__name__ for callback in self.callbacks],
            "fit": {k: v for k, v in described(self.fit).items() if k != "verbose"},
        }


def _named(parts: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("x", "y", "sample_weight"), parts, strict=False))
