"""Which criterion, and which layers share the zeros: tried on a short budget."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import criteria as known
from keras_aeprune._progress import no_retracing_lines
from keras_aeprune._validation import InputError, fraction, keras_model, positive_int, refuse
from keras_aeprune.criteria.base import names
from keras_aeprune.sparsity import Pruner, allocation
from keras_aeprune.sparsity.iterative_state import ModelState

__all__ = ["Candidate", "Choice", "choose_criterion"]

_ALLOCATIONS = ("uniform", "global", "erk")


@dataclass(frozen=True)
class Candidate:
    """One criterion with one allocation.

    Args:
        criterion: its serialized form, `criteria.get` makes it again.
        allocation: its serialized form, `sparsity.allocation.get` makes it again.
        losses: {epochs of training after pruning: validation loss}.
        sparsity: fraction of zeros that was reached over the kernels that are pruned.
        seconds: it took.
        error: why it could not be tried, or "".

    Example:
        >>> candidate = Candidate({"class_name": "magnitude"}, {"class_name": "global"}, {1: 0.09, 4: 0.05})
        >>> candidate.epochs, candidate.loss
        (4, 0.05)
    """

    criterion: Mapping[str, Any]
    allocation: Mapping[str, Any]
    losses: Mapping[int, float]
    sparsity: float = 0.0
    seconds: float = 0.0
    error: str = ""

    @property
    def epochs(self) -> int:
        """Epochs that it was trained for."""
        return max(self.losses, default=0)

    @property
    def loss(self) -> float:
        """Validation loss after these; infinite where it is not finite or could not be tried."""
        last = self.losses[self.epochs] if self.losses else math.inf
        return last if math.isfinite(last) else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a loss that is not finite is written as text."""
        losses = [[epochs, loss if math.isfinite(loss) else str(loss)] for epochs, loss in self.losses.items()]
        own = {name: getattr(self, name) for name in ("sparsity", "seconds", "error")}
        return {"criterion": dict(self.criterion), "allocation": dict(self.allocation), "losses": losses, **own}


@dataclass(frozen=True)
class Choice:
    """The candidates, best first; prints as a table.

    Args:
        table: one `Candidate` each; first those that were trained longest, by their loss.
        sparsity: that was asked for.
        dense_loss: validation loss of the model as it was given.

    Example:
        >>> best = Candidate({"class_name": "magnitude"}, {"class_name": "erk"}, {1: 0.05})
        >>> Choice((best,), 0.9, dense_loss=0.03).criterion
        Magnitude(order=1)
    """

    table: tuple[Candidate, ...]
    sparsity: float
    dense_loss: float

    @property
    def criterion(self) -> known.Criterion:
        """The best one, for `Prune(..., criterion=choice.criterion)`."""
        return known.get(dict(self.table[0].criterion))

    @property
    def allocation(self) -> allocation.Allocation:
        """The best one, for `Prune(..., allocation=choice.allocation)`."""
        return allocation.get(dict(self.table[0].allocation))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [candidate.to_dict() for candidate in self.table]
        return {"sparsity": self.sparsity, "dense_loss": self.dense_loss, "candidates": rows}

    def __str__(self) -> str:
        budgets = sorted({epochs for candidate in self.table for epochs in candidate.losses})
        heads = (f"{n} epoch" + "s" * (n != 1) for n in budgets)
        lines = [("criterion", "allocation", *heads, "seconds", "")]
        for c in self.table:
            losses = (f"{c.losses[n]:.4g}" if n in c.losses else "-" for n in budgets)
            both = (_named(c.criterion), _named(c.allocation))
            lines.append((*both, *losses, f"{c.seconds:.1f}", c.error or ("chosen" if c is self.table[0] else "")))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
        text = []
        for a, b, *more, note in lines:
            cells = [a.ljust(widths[0]), b.ljust(widths[1]), *map(str.rjust, more, widths[2:]), note]
            text.append("  ".join(cells).rstrip())
        title = f"validation loss at sparsity {self.sparsity:g}, after epochs; dense: {self.dense_loss:.4g}"
        return "\n".join([title, text[0], "-" * max(map(len, text)), *text[1:]])

    __repr__ = __str__


def choose_criterion(
    model: keras.Model,
    data: Any,
    sparsity: float,
    *,
    validation: Any = None,
    criteria: Iterable[Any] | None = None,
    allocations: Iterable[Any] | None = None,
    epochs: int = 1,
    seed: int = 0,
    pruning: Mapping[str, Any] | None = None,
    **fit: Any,
) -> Choice:
    """Try criteria and allocations on a short budget and take the best: successive halving.

    Use it on a trained model before a long pruning run. Every candidate starts from the given weights with an
    optimizer anew, is pruned in one step and trained for `epochs`; the better half (rounded up) is trained
    on until it has had twice as many, and so on until one is left. Losses are compared on validation data: on
    training data, or after a budget that is far too short, the choice says little. Jamieson and Talwalkar 2016,
    https://arxiv.org/abs/1502.07943.

    The candidates take turns in the model itself, which works for models of every kind; it is given back with its
    weights, masks, statistics and optimizer as they were, also after an error. Keras, NumPy and Python are seeded
    anew before every training.

    Args:
        model: a built and compiled Keras model, trained.
        data: the input x of an autoencoder, or (x, y).
        sparsity: fraction of weights set to zero, 0 < s < 1.
        validation: as `data`; None holds the last fifth of `data` out.
        criteria: names, instances or serialized ones from `keras_aeprune.criteria`; None for all that are known.
        allocations: names, instances, serialized ones or dicts by layer; None for "uniform", "global" and "erk".
        epochs: of the first, shortest budget, 1 or more.
        seed: of all random numbers, 0 <= seed < 2^31.
        pruning: other arguments of `sparsity.Pruner`: pattern, limits, exclude, data, ...
        **fit: other arguments of `model.fit`, such as batch_size.

    Returns:
        A `Choice`: `print(choice)`, `choice.criterion`, `choice.allocation`, `choice.table`.

    Raises:
        InputError: for a model that is not compiled, bad data or numbers, or if no candidate can be tried.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, use_bias=False)])
        >>> model.set_weights([np.eye(4) + 0.01])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).random((40, 4), "float32")
        >>> choice = choose_criterion(model, x, 0.75, criteria=("magnitude", "random"), allocations=["uniform"])
        >>> choice.criterion, [candidate.epochs for candidate in choice.table]
        (Magnitude(order=1), [1, 1])
    """
    if not keras_model(model).compiled:
        raise InputError(f"model {model.name!r}: got a model that is not compiled, allowed: a compiled one")
    fraction("sparsity", sparsity, low_open=True)
    positive_int("epochs", epochs)
    positive_int("seed", seed, minimum=0, maximum=2**31 - 1)
    rows = _candidates(criteria, allocations)
    wrong = sorted({"x", "y", "validation_data", "initial_epoch"} & set(fit))
    if wrong:
        raise refuse(wrong[0], fit[wrong[0]], "what `data`, `validation` and `epochs` do not say")
    samples = _pair("data", data)
    given = ModelState(model)
    try:
        trial = _Trial(model, samples, validation, sparsity, seed, dict(pruning or {}), fit)
        with no_retracing_lines():
            return Choice(trial.halving(rows, epochs), sparsity, trial.dense)
    finally:
        given.restore()


def _candidates(criteria: Any, allocations: Any) -> list[Candidate]:
    found = [known.get(c) for c in (names() if criteria is None else criteria)]
    shared = [allocation.get(a) for a in (_ALLOCATIONS if allocations is None else allocations)]
    rows = [
        Candidate(known.serialize(c), allocation.serialize(a), {}) for c, a in itertools.product(found, shared)
    ]
    if not rows:
        raise refuse("criteria, allocations", (criteria, allocations), "at least one of each")
    texts = [json.dumps([r.criterion, r.allocation], sort_keys=True) for r in rows]
    return [row for i, row in enumerate(rows) if texts[i] not in texts[:i]]


def _pair(name: str, data: Any) -> tuple[Any, Any]:
    if isinstance(data, tuple) and len(data) != 2:
        raise InputError(f"{name}: got a tuple of {len(data)}, allowed: x, or (x, y)")
    pair = data if isinstance(data, tuple) else (data, data)
    lengths = {len(a) if np.ndim(a) else 0 for a in tf.nest.flatten(pair)}
    if len(lengths) != 1 or 0 in lengths:
        raise refuse(name, data, "arrays of equal length > 0: x, or (x, y)")
    return pair


class _Trial:
    """One model in which the candidates take turns."""

    def __init__(self, model: Any, data: Any, validation: Any, sparsity: float, seed: int, pruning: Any, fit: Any):
        self.model, self.sparsity, self.seed, self.pruning = model, sparsity, seed, pruning
        self.fit = {"verbose": 0, **fit}
        if validation is None:
            count = len(tf.nest.flatten(data)[0])
            if count < 5:
                raise InputError(f"data: got {count} samples, allowed: 5 or more, or validation=")
            cut = count - count // 5
            self.data = tf.nest.map_structure(lambda a: a[:cut], data)
            self.validation = tf.nest.map_structure(lambda a: a[cut:], data)
        else:
            self.data, self.validation = data, _pair("validation", validation)
        self.states: dict[int, ModelState] = {}
        self.dense = self._loss()
        Pruner(
            model, **self.pruning
        ).retrace()  # masks of one kind on all kernels: one train step for all candidates
        self.start = ModelState(model)

    def halving(self, rows: list[Candidate], epochs: int) -> tuple[Candidate, ...]:
        alive, budget = list(range(len(rows))), epochs
        while True:
            for i in alive:
                rows[i] = self._run(i, rows[i], budget)
            alive = sorted((i for i in alive if not rows[i].error), key=lambda i: (rows[i].loss, i))
            alive = alive[: (len(alive) + 1) // 2]
            self.states = {i: self.states[i] for i in alive}
            if len(alive) < 2:
                break
            budget *= 2
        if not alive:
            raise InputError(f"criteria: got none that can be tried here ({rows[0].error}), allowed: at least one")
        order = sorted(range(len(rows)), key=lambda i: (bool(rows[i].error), -rows[i].epochs, rows[i].loss, i))
        return tuple(rows[i] for i in order)

    def _run(self, index: int, row: Candidate, budget: int) -> Candidate:
        """Train one candidate on until it has had `budget` epochs."""
        began = time.monotonic()
        keras.utils.set_random_seed(self.seed + row.epochs)
        if index in self.states:
            self.states[index].restore()
            pruner = None
        else:
            self.start.restore()
            try:
                pruner = self._pruned(row)
            except InputError as error:
                return replace(row, error=str(error))
        self.model.fit(*self.data, epochs=budget, initial_epoch=row.epochs, **self.fit)
        sparsity = row.sparsity if pruner is None else pruner.sparsity()
        self.states[index] = ModelState(self.model)
        losses = {**row.losses, budget: self._loss()}
        return replace(row, losses=losses, sparsity=sparsity, seconds=row.seconds + time.monotonic() - began)

    def _pruned(self, row: Candidate) -> Pruner:
        criterion, shared = known.get(dict(row.criterion)), allocation.get(dict(row.allocation))
        more = {"data": self.data, **self.pruning} if criterion.needs_data or shared.needs_data else self.pruning
        pruner = Pruner(self.model, criterion=criterion, allocation=shared, **more)
        pruner.update(self.sparsity)
        self.start.fresh_optimizer()
        return pruner

    def _loss(self) -> float:
        keras.utils.set_random_seed(self.seed)
        size = self.fit.get("batch_size")
        return float(self.model.evaluate(*self.validation, batch_size=size, verbose=0, return_dict=True)["loss"])


def _named(member: Mapping[str, Any]) -> str:
    config = ", ".join(f"{k}={v}" for k, v in member["config"].items())
    return member["class_name"] + (f"({config})" if config and len(config) < 40 else "")
