"""Make a model smaller round by round, as long as its error stays within a limit."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune._files import fingerprint
from keras_aeprune._progress import clock, no_retracing_lines, silent, to_stderr
from keras_aeprune._validation import InputError, keras_model, positive_int, positive_number, refuse
from keras_aeprune.shrinking.choice import Bounds
from keras_aeprune.shrinking.dead import without_dead
from keras_aeprune.shrinking.inputs import check_samples
from keras_aeprune.shrinking.moves import Move, costs_of, moves
from keras_aeprune.shrinking.planning import known_criterion
from keras_aeprune.shrinking.rebuild import build_optimizer
from keras_aeprune.shrinking.rounds import Round, RoundsFolder, Settings, rounds_table
from keras_aeprune.shrinking.tuning import fine_tune

__all__ = ["Shrunk", "shrink_until"]

_HALVINGS = 2  # how often a step that was too large is halved
_TRIED = 3  # moves of a round that are trained for a moment, after all were compensated
_CALIBRATION = 2048


@dataclass(frozen=True)
class Shrunk:
    """What `shrink_until` found; print it for the table of rounds.

    Args:
        model: the smallest one within the limit, compiled.
        rounds, stopped: all rounds, the first is the given model; why there are no more.
        error: of `model` on the validation samples, after the last training.
        seconds: it took in this process.

    Example:
        >>> rounds = Round(0, "given", 76, 64, 0.9, 0.9, True, 0), Round(1, "widths", 42, 32, 1.0, 0.9, True, 3)
        >>> Shrunk(keras.Sequential(), rounds, "the target of 50 params is met", error=0.9).best.params
        42
    """

    model: keras.Model
    rounds: tuple[Round, ...]
    stopped: str
    error: float
    seconds: float = 0.0

    @property
    def best(self) -> Round:
        """The round that `model` comes from."""
        return [r for r in self.rounds if r.held][-1]

    def to_dict(self) -> dict[str, Any]:
        """Rounds and outcome as plain JSON values."""
        rounds = [asdict(one) for one in self.rounds]
        return {"rounds": rounds, "stopped": self.stopped, "error": self.error, "seconds": self.seconds}

    def __str__(self) -> str:
        first, best = self.rounds[0], self.best
        lines = [
            rounds_table(self.rounds),
            f"stopped: {self.stopped}",
            f"parameters {first.params:,} -> {best.params:,} (x{best.params / first.params:.2f}), MACs "
            f"{first.macs:,} -> {best.macs:,}, error {first.error:.5f} -> {self.error:.5f} "
            f"(x{self.error / first.error:.3f})",
        ]
        return "\n".join(lines)


def shrink_until(
    model: keras.Model,
    data: Any,
    *,
    max_error_increase: float | None = 0.05,
    target_params: float | None = None,
    target_macs: float | None = None,
    target_bytes: float | None = None,
    validation: Any = None,
    criterion: Any = "elimination",
    layers: bool = True,
    step: float = 0.25,
    epochs: int = 3,
    probe_epochs: int = 1,
    final_epochs: int = 10,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    distill: float = 0.0,
    round_to: int = 8,
    minimum: Any = 1,
    mirror: bool = False,
    directory: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Shrunk:
    """Cut, compensate and train in rounds, until a budget is met or the error grows too much.

    Dead units go first. Then each round looks at all moves: every group narrower by the same fraction, the
    lowest scores wherever they are, and each hidden layer (with its mirror in the other half) out. All are
    compensated in closed form; the best few are trained for `probe_epochs`, and the one that pays least for what
    it saves, by log(error after / error before) / log(cost before / cost after), is trained for `epochs`. Where
    the error then is beyond the limit, the round is tried again with half the step, twice at most; the smallest
    model that held is trained for `final_epochs`.

    Args:
        model: a built and compiled Keras model; it is not changed.
        data: training samples: x for an autoencoder, (x, y) otherwise; arrays.
        max_error_increase: fraction by which the validation loss may grow, >= 0; None for no limit, with a target.
        target_params: stop at so many numbers in all weights, > 0.
        target_macs: stop at so many multiplications for one sample, > 0.
        target_bytes: stop at so many bytes of weights as float32, > 0.
        validation: held-out samples like `data`; None holds a tenth of the data back.
        criterion: what ranks units, as for `plan`.
        layers: whether whole layers may go.
        step: fraction of the cost that a round takes off, 0 < step < 1.
        epochs: passes of training in each round, >= 0.
        probe_epochs: passes for each of the moves that are compared, >= 0.
        final_epochs: passes for the model that is returned, >= 0; the rate falls along a cosine.
        learning_rate: of Adam at the start of each training, > 0.
        batch_size: samples per step, >= 1.
        distill: weight of the given model's outputs as targets, 0 <= distill <= 1, as for `fine_tune`.
        round_to: kept widths are rounded up to a multiple of it, >= 1.
        minimum: units that stay at least, as for `plan`.
        mirror: as for `plan`.
        directory: where each round is kept, so that a killed run goes on; None keeps nothing.
        seed: of everything random, >= 0.
        progress: print a line per round to standard error.

    Returns:
        A `Shrunk`; `.model` is the smaller model.

    Raises:
        InputError: for arguments, a model or a directory that cannot be used.

    Example:
        >>> result = shrink_until(autoencoder, x, max_error_increase=0.05)   # doctest: +SKIP
        >>> print(result)   # doctest: +SKIP
    """
    began = time.monotonic()
    keras_model(model)
    if not model.compiled:
        raise InputError(
            f"model {model.name!r}: got one that is not compiled, allowed: a compiled one; its loss counts"
        )
    limit = max_error_increase
    if limit is not None and not (isinstance(limit, (int, float)) and 0 <= limit < math.inf):
        raise refuse("max_error_increase", limit, "a fraction >= 0, or None with a target")
    by, target = _target(target_params, target_macs, target_bytes)
    if limit is None and target is None:
        raise InputError("max_error_increase: got None and no target, allowed: a limit, a target, or both")
    if not 0 < step < 1:
        raise refuse("step", step, "a fraction 0 < step < 1")
    for name, value in (("epochs", epochs), ("probe_epochs", probe_epochs), ("final_epochs", final_epochs)):
        positive_int(name, value, minimum=0)
    known_criterion(criterion)
    train, held_out = _split(data, validation, seed)
    for name, (x, y) in {"data": train, "validation": held_out}.items():
        check_samples(model, x, name)
        for part in (x, y):
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                raise InputError(f"{name}: got NaN or infinite values, allowed: finite numbers; drop or fill them")
    loop = _Loop(
        model=model,
        train=train,
        validation=held_out,
        by=by,
        target=target,
        limit=math.inf if limit is None else float(limit),
        criterion=criterion,
        layers=layers,
        step=step,
        epochs={"round": epochs, "probe": probe_epochs, "final": final_epochs},
        tuning={
            "learning_rate": positive_number("learning_rate", learning_rate),
            "batch_size": positive_int("batch_size", batch_size),
            "distill": distill,
        },
        bounds=Bounds(round_to, minimum, None, mirror),
        seed=positive_int("seed", seed, minimum=0),
        say=to_stderr if progress else silent,
    )
    folder = None
    if directory is not None:
        identity = {
            "weights": fingerprint(model.get_weights()),
            "data": fingerprint([*train, *held_out]),
            "settings": [str(v) for v in (by, target, limit, criterion, layers, step, epochs, probe_epochs)],
            "training": [str(v) for v in (final_epochs, learning_rate, batch_size, distill, seed)],
            "widths": [str(v) for v in (round_to, minimum, mirror)],
        }
        folder = RoundsFolder(directory, identity)
    with no_retracing_lines():
        return loop.run(folder, began)


def _target(params: Any, macs: Any, size: Any) -> tuple[str, float | None]:
    given = {"target_params": params, "target_macs": macs, "target_bytes": size}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise InputError(f"got {' and '.join(named)}, allowed: one of them")
    if not named:
        return "params", None
    value = positive_number(named[0], given[named[0]])
    return ("macs", value) if named[0] == "target_macs" else ("params", value / (4 if size is not None else 1))


def _split(data: Any, validation: Any, seed: int) -> tuple[tuple, tuple]:
    parts = tuple(np.asarray(part) for part in data) if isinstance(data, tuple) else (np.asarray(data),) * 2
    if len(parts) != 2 or len(parts[0]) != len(parts[1]) or len(parts[0]) < 2:
        raise refuse("data", data, "x for an autoencoder, or (x, y); 2 samples or more")
    if validation is not None:
        held = validation if isinstance(validation, tuple) else (validation,) * 2
        return parts, tuple(np.asarray(part) for part in held)
    order = np.random.default_rng(seed).permutation(len(parts[0]))
    count = max(1, len(order) // 10)
    return tuple(part[order[count:]] for part in parts), tuple(part[order[:count]] for part in parts)


class _Loop(Settings):
    """One call of `shrink_until`."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        order = np.random.default_rng(self.seed).permutation(len(self.train[0]))[:_CALIBRATION]
        same = self.train[0] is self.train[1]
        self.calibration = self.train[0][order] if same else tuple(part[order] for part in self.train)

    def run(self, folder: RoundsFolder | None, began: float) -> Shrunk:
        rounds = folder.rounds() if folder else []
        if folder and rounds:
            number = [r for r in rounds if r.held][-1].number
            model = folder.model(number) if number else self.model
            self._compile(model)
            self.say(f"round {rounds[-1].number}: found in {folder.path}, going on", True)
        else:
            model, rounds = self.model, [self._first()]
            if folder:
                folder.finish(rounds, None)
        step = self.step
        for later in rounds[1:]:
            step = self._step(step, later)
        stopped = self._why(rounds, step)
        while not stopped:
            entry, small = self._round(rounds, model, step)
            if small is None:  # a smaller step may have moves that were not refused
                step /= 2
                stopped = (
                    "nothing more can be cut within the bounds" if rounds[-1].held else self._why(rounds, step)
                )
                continue
            rounds.append(entry)
            if entry.held:
                model = small
            if folder:
                folder.finish(rounds, small if entry.held else None)
            self._tell(rounds)
            step = self._step(step, entry)
            stopped = self._why(rounds, step)
        error = [r for r in rounds if r.held][-1].error
        if model is not self.model and self.epochs["final"]:
            model, error = self._final(model, error)
        return Shrunk(model, tuple(rounds), stopped, error, time.monotonic() - began)

    def _step(self, step: float, entry: Round) -> float:
        return step if entry.held else step / 2

    def _why(self, rounds: list[Round], step: float) -> str:
        best = [r for r in rounds if r.held][-1]
        if self.target is not None and getattr(best, self.by) <= self.target:
            return f"the target of {self.target:,.0f} {self.by} is met"
        if step < self.step / 2**_HALVINGS:
            return f"the error would grow by more than {self.limit:g} of itself"
        return ""

    def _first(self) -> Round:
        error = self._error(self.model)
        if not math.isfinite(error) or error <= 0:
            raise InputError(
                f"model {self.model.name!r}: its loss on the validation samples is {error}, allowed: > 0"
            )
        costs = costs_of(self.model)
        self.say(f"round 0: {costs['params']:,} parameters, error {error:.5f}", True)
        return Round(0, "given", costs["params"], costs["macs"], error, error, True, 0.0)

    def _round(self, rounds: list[Round], model: keras.Model, step: float) -> tuple[Any, Any]:
        began, number = time.monotonic(), len(rounds)
        before = [r for r in rounds if r.held][-1]
        keras.utils.set_random_seed(self.seed + number)
        small, dead = (None, None) if number > 1 else without_dead(model, self.calibration)
        if small is not None and dead is not None and dead.removed:
            cost = costs_of(small)
            move = Move(f"{dead.removed} dead units out", cost["params"], cost["macs"], lambda: small)
            self._compile(small)
            chosen, trained, cut_error = move, small, self._error(small)
        else:
            refused = {
                (r.move, r.params) for r in rounds[before.number + 1 :]
            }  # what a smaller step does not change
            chosen, trained, cut_error = self._chosen(model, before, step, number, refused)
            if chosen is None:
                return None, None
        self._train(trained, "round", f"round {number}")
        error = self._error(trained)
        held = math.isfinite(error) and error <= (1 + self.limit) * rounds[0].error
        text, seconds = chosen.text, time.monotonic() - began
        return Round(number, text, chosen.params, chosen.macs, cut_error, error, held, seconds), trained

    def _chosen(
        self, model: keras.Model, before: Round, step: float, number: int, refused: set[tuple[str, int]]
    ) -> tuple[Any, Any, float]:
        cost = getattr(before, self.by)
        target = max((1 - step) * cost, self.target or 0)
        found = moves(
            model,
            self.calibration,
            by=self.by,
            target=target,
            criterion=self.criterion,
            loss=None,
            bounds=self.bounds,
            layers=self.layers,
        )
        tried, found = [], [move for move in found if (move.text, move.params) not in refused]
        for n, move in enumerate(found):
            self.say(f"round {number}: {n + 1} of {len(found)} moves compensated: {move.text}", False)
            small = move.make()
            self._compile(small)
            cut_error = self._error(small)
            if math.isfinite(cut_error):
                tried.append((self._price(cut_error, before, getattr(move, self.by)), move, small, cut_error))
        tried.sort(key=lambda one: one[0])
        if not tried:
            return None, None, math.nan
        if len(tried) > 1 and self.epochs["probe"]:
            best = []
            for _, move, small, cut_error in tried[:_TRIED]:
                self._train(small, "probe", f"round {number}, trying {move.text}")
                price = self._price(self._error(small), before, getattr(move, self.by))
                best.append((price, move, small, cut_error))
            tried = sorted(best, key=lambda one: one[0])
        return tried[0][1:]

    def _price(self, error: float, before: Round, cost: int) -> float:
        """What a move pays in error for what it saves in cost, both as logarithms of ratios."""
        if not math.isfinite(error):
            return math.inf
        worth = max(cost, self.target or 0)  # what is saved beyond the target is worth nothing
        saved = math.log(getattr(before, self.by) / worth)
        rise = math.log(max(error, 1e-300) / before.error)
        return rise / saved if rise > 0 else rise * saved

    def _train(self, model: keras.Model, phase: str, title: str) -> None:
        if not self.epochs[phase]:
            return
        self.say(f"{title}: training", False)
        fine_tune(
            model,
            self.train,
            epochs=self.epochs[phase],
            validation=self.validation,
            teacher=self.model if self.tuning["distill"] else None,
            seed=self.seed,
            progress=False,
            **self.tuning,
        )

    def _final(self, model: keras.Model, error: float) -> tuple[keras.Model, float]:
        """Train for longer; what was there stays where that does not help."""
        kept = model.get_weights()
        self._train(model, "final", "last training")
        now = self._error(model)
        if not now < error:
            model.set_weights(kept)
            now = error
        self.say(f"last training: error {now:.5f}", True)
        return model, now

    def _compile(self, model: keras.Model) -> None:
        """With the given model's loss and an optimizer of its own."""
        model.compile(keras.optimizers.Adam(self.tuning["learning_rate"]), self.model.loss)
        build_optimizer(model)

    def _error(self, model: keras.Model) -> float:
        found = model.evaluate(*self.validation, batch_size=1024, verbose=0, return_dict=True)
        return float(found["loss"])

    def _tell(self, rounds: list[Round]) -> None:
        one, first = rounds[-1], rounds[0]
        said = "" if one.held else ", too much: the model before stays"
        self.say(
            f"round {one.number}: {one.move}; {one.params:,} parameters (x{one.params / first.params:.2f}), error "
            f"{one.error:.5f} (x{one.error / first.error:.3f}){said}; {clock(one.seconds)}",
            True,
        )
