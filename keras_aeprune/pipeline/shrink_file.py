"""Cut a model of the user's own smaller, from file to file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import datasets, models
from keras_aeprune._files import PREFIX, writable_folder, writing
from keras_aeprune._progress import no_retracing_lines, silent, to_stderr
from keras_aeprune._validation import BudgetError, InputError, positive_int
from keras_aeprune.export.model_time import latency
from keras_aeprune.pipeline.budget import increase_left
from keras_aeprune.pipeline.model_files import compile_for, evaluated, shaped, targets_of
from keras_aeprune.shrinking.activation_plan import ActivationPlan
from keras_aeprune.shrinking.compensation import compensate
from keras_aeprune.shrinking.iteration import Shrunk, shrink_until
from keras_aeprune.shrinking.planning import known_criterion, plan
from keras_aeprune.shrinking.rebuild import compile_like
from keras_aeprune.shrinking.shrink_plan import ShrinkPlan
from keras_aeprune.shrinking.simplifying import simplify
from keras_aeprune.shrinking.tracing import trace
from keras_aeprune.shrinking.tuning import fine_tune

__all__ = ["ShrunkFile", "shrink_file"]

_CALIBRATION = 2048
_INCREASE = 0.05  # of the loss, where nothing else is asked for


@dataclass(frozen=True)
class ShrunkFile:
    """What `shrink_file` made.

    Attributes:
        path: the smaller .keras file; None after a dry run.
        made: the `ShrinkPlan` of one cut, or the `Shrunk` of several rounds.
        params: numbers in all weights, before and after.
        before: the model's loss and metrics on the test split.
        after: the same of the smaller model; {} after a dry run.
        notes: what was done to the data on the way in.
        plan_path: the plan as JSON; None where it was not asked for.
        activations: which became simpler and what that cost and saved; None where it was not asked for.

    Example:
        >>> model = models.dense((8,), 2, hidden_units=(16,))
        >>> cut = plan(model, keep=0.5)
        >>> made = ShrunkFile(None, cut, cut.params, {"loss": 0.013}, {}, ())
        >>> made.params, made.made.removed, str(made).splitlines()[-1]
        ((362, 186), 16, 'nothing was written: a dry run')
    """

    path: Path | None
    made: Any
    params: tuple[int, int]
    before: dict[str, float]
    after: dict[str, float]
    notes: tuple[str, ...]
    plan_path: Path | None = None
    activations: ActivationPlan | None = None

    def __str__(self) -> str:
        lines = [str(self.made)] if self.activations is None else [str(self.activations), "", str(self.made)]
        if self.after:
            width = max(len(name) for name in self.before)
            lines += ["", f"{'test':<{width}}  {'before':>10}  {'after':>10}"]
            lines += [f"{n:<{width}}  {self.before[n]:>10.5f}  {self.after[n]:>10.5f}" for n in self.after]
        lines += self.notes
        written = [str(path) for path in (self.plan_path, self.path) if path]
        if not self.path:
            written.append("no model was written: a dry run" if written else "nothing was written: a dry run")
        return "\n".join([*lines, "", *written])


def shrink_file(
    model: str | Path,
    data: Any,
    out: str | Path,
    *,
    keep: float | Mapping[str, Any] | None = None,
    max_error_increase: float | None = None,
    target_params: float | None = None,
    target_macs: float | None = None,
    target_bytes: float | None = None,
    criterion: Any = "elimination",
    layers: bool = True,
    activations: bool = False,
    round_to: int = 8,
    mirror: bool = False,
    epochs: int = 10,
    batch_size: int = 128,
    loss: str | None = None,
    learning_rate: float | None = None,
    key: str | None = None,
    scale: str | None = None,
    seed: int = 0,
    dry_run: bool = False,
    plan_file: str | Path | None = None,
    progress: bool = True,
) -> ShrunkFile:
    """Load a model, cut units and layers out of it, train what is left, and save a plain .keras file.

    With `keep` there is one cut: plan, cut, compensate in closed form, train. Otherwise it goes in rounds, as
    `shrinking.shrink_until` does, until the error has grown by `max_error_increase` or a target is met; killed and
    called again with the same arguments, it goes on from the last finished round, kept in the folder
    `out`.rounds until the file is written.

    Args:
        model: a .keras or .h5 file that Keras 3 loads.
        data: as for `compress`; used as they are unless `scale` says otherwise.
        out: the .keras file to write, another one than `model`.
        keep: fraction of the units of each group that stay, 0 < keep <= 1, or a dict, as for `shrinking.plan`.
        max_error_increase: fraction by which the loss on the validation split may grow, >= 0; None is 0.05
            where nothing else is given, and no limit with a target.
        target_params: numbers in all weights at most. Without `max_error_increase` a target has to be met.
        target_macs: multiplications with weights for one sample at most.
        target_bytes: bytes of the weights as float32 at most.
        criterion: what ranks units, as for `shrinking.plan`.
        layers: whether whole layers may go, in rounds.
        activations: whether activations become simpler first, by the rules of `shrinking.simplify`, as far as the
            loss grows by no more than `max_error_increase` (0.05 where that is None); each change is timed.
        round_to: kept widths are rounded up to a multiple of it, >= 1.
        mirror: whether groups of about one size, as far from the input as from the output, keep the same width.
        epochs: passes over the data after the cut, or after the last round, >= 0.
        batch_size: samples per optimizer step, >= 1.
        loss: a Keras loss name, for a model that was saved without one; or to replace it.
        learning_rate: > 0; None takes 1e-3.
        key: which array of a .npz file.
        scale: as for `datasets.load`: "auto" is what `compress` does, "none" takes the data as they are. None does
            too, but refuses data on which an autoencoder is worse than the mean of the data.
        seed: of the split and everything random, 0 <= seed < 2**31.
        dry_run: only plan one cut, with `keep` or a target; no model is written.
        plan_file: where to write the plan of one cut as JSON, for `ShrinkPlan.load`; with `keep` or `dry_run`.
        progress: print progress lines to standard error.

    Returns:
        A `ShrunkFile`; `print(it)` shows the plan or the rounds, and the loss before and after.

    Raises:
        InputError: for a file, data or arguments that cannot be used; nothing is left behind then.
        BudgetError: if a target cannot be met; nothing is left behind then.

    Example:
        >>> shrink_file("model.keras", "x.npz", "small.keras", max_error_increase=0.05)   # doctest: +SKIP
    """
    positive_int("epochs", epochs, minimum=0)
    positive_int("batch_size", batch_size)
    positive_int("seed", seed, minimum=0, maximum=2**31 - 1)
    known_criterion(criterion)
    path = Path(out)
    if path.suffix != ".keras":
        raise InputError(f"out: got {str(out)!r}, allowed: a name that ends in .keras")
    if path.resolve() == Path(model).resolve():
        raise InputError(f"out: got {str(out)!r}, the model itself, allowed: another file")
    targets: dict[str, Any] = {
        "target_params": target_params,
        "target_macs": target_macs,
        "target_bytes": target_bytes,
    }
    targeted = any(value is not None for value in targets.values())
    if keep is not None and max_error_increase is not None:
        raise InputError("keep: got it with max_error_increase, allowed: one of them")
    if keep is not None and targeted:
        raise InputError("keep: got it with a target, allowed: one of them")
    if dry_run and keep is None and not targeted:
        raise InputError(
            "dry_run: got neither keep nor a target, allowed: with one of them; an error limit needs trials"
        )
    if plan_file is not None and keep is None and not dry_run:
        raise InputError(
            "plan_file: got it for several rounds, allowed: with keep or dry_run, which make one plan"
        )
    network = models.load(model)
    loaded = datasets.load(data, key=key, seed=seed, scale="none" if scale is None else scale)
    inputs, notes = shaped(network, loaded)
    wanted, more = targets_of(network, loaded, inputs)
    keras.utils.set_random_seed(seed)
    compile_for(network, loss, learning_rate)
    before = evaluated(network, inputs["test"], wanted["test"])
    if scale is None and wanted is inputs:
        _scaled_for(network, inputs)
    said = (*loaded.notes, *notes, *more)
    samples = {name: x if wanted is inputs else (x, wanted[name]) for name, x in inputs.items()}
    widths: dict[str, Any] = {"criterion": criterion, "round_to": round_to, "mirror": mirror}
    training: dict[str, Any] = {
        "batch_size": batch_size,
        "learning_rate": 1e-3 if learning_rate is None else learning_rate,
        "seed": seed,
        "progress": progress,
    }
    rounds = path.with_name(f"{path.name}.rounds")
    seen = _drawn(samples["train"], seed)
    with _nothing_left(path, rounds, plan_file), no_retracing_lines():
        simpler = None
        if activations:
            given, rise = network, _INCREASE if max_error_increase is None else max_error_increase
            simpler = simplify(given, seen, max_error_increase=rise, latency=latency, progress=progress)
            network = simpler.apply(given)
            if keep is None and not (targeted and max_error_increase is None):  # one limit for both steps
                first, now = (
                    evaluated(one, inputs["validation"], wanted["validation"])["loss"] for one in (given, network)
                )
                max_error_increase = increase_left(rise, first, now)
        made: ShrinkPlan | Shrunk
        if keep is not None or dry_run:
            made = plan(network, keep=keep, data=seen, scope="layer", **targets, **widths)
            plan_path = None if plan_file is None else Path(plan_file)
            if plan_path is not None:
                writable_folder("plan_file", plan_path.parent)
                made.save(plan_path)
            if dry_run:
                return ShrunkFile(None, made, made.params, before, {}, said, plan_path, simpler)
            writable_folder("out", path.parent)
            small = _cut_once(network, made, seen, samples, epochs, training)
        else:
            plan_path = None
            writable_folder("out", path.parent)
            limit = max_error_increase
            if limit is None and not targeted:
                limit = _INCREASE
            made = shrink_until(
                network,
                samples["train"],
                validation=samples["validation"],
                max_error_increase=limit,
                layers=layers,
                final_epochs=epochs,
                directory=rounds,
                **training,
                **targets,
                **widths,
            )
            if limit is None:
                _met(made, targets, rounds)
            small = made.model
        compile_like(small, network)  # its metrics too, and its optimizer
        after = evaluated(small, inputs["test"], wanted["test"])
        with writing(path) as temporary:
            small.save(temporary)
    _remove(rounds)
    params = (network.count_params(), small.count_params())
    return ShrunkFile(path, made, params, before, after, said, plan_path, simpler)


def _scaled_for(network: keras.Model, inputs: Mapping[str, np.ndarray]) -> None:
    """Refuse data that an autoencoder cannot have been trained on."""
    x = inputs["test"]
    found = network.predict(x, verbose=0, batch_size=1024)
    error = float(np.mean(np.square(found - x, dtype=np.float64)))
    constant = float(np.mean(np.square(x - inputs["train"].mean(axis=0), dtype=np.float64)))
    if error > constant:
        raise InputError(
            f"data: got values from {x.min():g} to {x.max():g}, on which the mean squared error of model "
            f"{network.name!r} is {error:.4g}, more than the {constant:.4g} of their mean, allowed: data scaled "
            "as for its training (--scale auto does what compress does), or --scale none to take them as they are"
        )


def _met(made: Shrunk, targets: Mapping[str, float | None], rounds: Path) -> None:
    """Refuse a result that does not meet the target that it was all about."""
    [(name, value)] = [(name, value) for name, value in targets.items() if value is not None]
    best = made.best
    reached = {"target_params": best.params, "target_macs": best.macs, "target_bytes": 4 * best.params}[name]
    if reached > value:
        _remove(rounds)
        raise BudgetError(
            f"{name}: got {value:,.0f}, which cannot be met: {reached:,} were reached in round {best.number}, "
            f"then {made.stopped}; allowed: more, or narrower layers (a smaller --round-to)"
        )


@contextmanager
def _nothing_left(path: Path, rounds: Path, plan_file: str | Path | None) -> Iterator[None]:
    """After input that is refused remove what was made; after a kill before, what it left half-written.

    Rounds that were there before stay: another run may want to go on from them.
    """
    known = rounds.exists()
    folders = [path.parent, *([Path(plan_file).parent] if plan_file is not None else [])]
    missing = {p for folder in folders for p in (folder, *folder.parents) if not p.is_dir()}
    for left in path.parent.glob(f"{PREFIX}*-{path.name}"):
        left.unlink(missing_ok=True)
    try:
        yield
    except (InputError, BudgetError) as error:
        if not known:
            _remove(rounds)
        for made in sorted(missing, key=lambda p: len(p.parts), reverse=True):
            if made.is_dir() and not any(made.iterdir()):
                made.rmdir()
        if known and str(error).startswith("directory: "):
            raise InputError(f"{error}: delete {str(rounds)!r}, or give another out") from None
        raise


def _remove(rounds: Path) -> None:
    """The list of rounds first: a folder without it is one to begin anew in."""
    if rounds.is_dir():
        (rounds / "rounds.json").unlink(missing_ok=True)
        shutil.rmtree(rounds)


def _cut_once(
    network: keras.Model,
    made: ShrinkPlan,
    seen: Any,
    samples: Mapping[str, Any],
    epochs: int,
    training: Mapping[str, Any],
) -> keras.Model:
    say = to_stderr if training["progress"] else silent
    traced = trace(network)
    small = made.apply(network)
    found = compensate(network, small, traced, made.kept(traced), seen)
    say(f"cut and compensated: relative error of the outputs {found.before:.4f} -> {found.after:.4f}", True)
    small.compile(keras.optimizers.Adam(training["learning_rate"]), network.loss, metrics=None)
    if epochs:
        fine_tune(small, samples["train"], epochs=epochs, validation=samples["validation"], **training)
    return small


def _drawn(samples: Any, seed: int) -> Any:
    """Calibration samples from the training split."""
    parts = samples if isinstance(samples, tuple) else (samples,)
    order = np.random.default_rng(seed).permutation(len(parts[0]))[:_CALIBRATION]
    found = tuple(part[order] for part in parts)
    return found if isinstance(samples, tuple) else found[0]
