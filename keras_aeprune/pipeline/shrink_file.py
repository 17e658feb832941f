"""Cut a model of the user's own smaller, from file to file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune import datasets, models
from keras_aeprune._files import writable_folder, writing
from keras_aeprune._progress import silent, to_stderr
from keras_aeprune._validation import InputError, positive_int
from keras_aeprune.pipeline.model_files import compile_for, evaluated, shaped, targets_of
from keras_aeprune.shrinking.compensation import compensate
from keras_aeprune.shrinking.iteration import shrink_until
from keras_aeprune.shrinking.planning import plan
from keras_aeprune.shrinking.shrink_plan import ShrinkPlan
from keras_aeprune.shrinking.tracing import trace
from keras_aeprune.shrinking.tuning import fine_tune

__all__ = ["ShrunkFile", "shrink_file"]

_CALIBRATION = 2048


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
    """

    path: Path | None
    made: Any
    params: tuple[int, int]
    before: dict[str, float]
    after: dict[str, float]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [str(self.made)]
        if self.after:
            width = max(len(name) for name in self.before)
            lines += ["", f"{'test':<{width}}  {'before':>10}  {'after':>10}"]
            lines += [f"{n:<{width}}  {self.before[n]:>10.5f}  {self.after[n]:>10.5f}" for n in self.after]
        lines += self.notes
        lines += ["", str(self.path)] if self.path else ["nothing was written: a dry run"]
        return "\n".join(lines)


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
    round_to: int = 8,
    mirror: bool = False,
    epochs: int = 10,
    batch_size: int = 128,
    loss: str | None = None,
    learning_rate: float | None = None,
    key: str | None = None,
    scale: str = "none",
    seed: int = 0,
    dry_run: bool = False,
    progress: bool = True,
) -> ShrunkFile:
    """Load a model, cut units and layers out of it, train what is left, and save a plain .keras file.

    With `keep` there is one cut: plan, cut, compensate in closed form, train. Otherwise it goes in rounds, as
    `shrinking.shrink_until` does, until the error has grown by `max_error_increase` or a target is met; killed and
    called again with the same arguments, it goes on from the last finished round.

    Args:
        model: a .keras or .h5 file that Keras 3 loads.
        data: as for `compress`; used as they are unless `scale` says otherwise.
        out: the .keras file to write.
        keep: fraction of the units of each group that stay, 0 < keep <= 1, or a dict, as for `shrinking.plan`.
        max_error_increase: fraction by which the loss on the validation split may grow, >= 0; None is 0.05
            where nothing else is given, and no limit with a target.
        target_params: numbers in all weights at most.
        target_macs: multiplications with weights for one sample at most.
        target_bytes: bytes of the weights as float32 at most.
        criterion: what ranks units, as for `shrinking.plan`.
        layers: whether whole layers may go, in rounds.
        round_to: kept widths are rounded up to a multiple of it, >= 1.
        mirror: whether groups of about one size, as far from the input as from the output, keep the same width.
        epochs: passes over the data after the cut, or after the last round, >= 0.
        batch_size: samples per optimizer step, >= 1.
        loss: a Keras loss name, for a model that was saved without one; or to replace it.
        learning_rate: > 0; None takes 1e-3.
        key: which array of a .npz file.
        scale: as for `datasets.load`.
        seed: of the split and everything random.
        dry_run: only plan one cut, with `keep` or a target; nothing is written.
        progress: print progress lines to standard error.

    Returns:
        A `ShrunkFile`; `print(it)` shows the plan or the rounds, and the loss before and after.

    Raises:
        InputError: for a file, data or arguments that cannot be used; `out` is not written then.
        BudgetError: if a plan cannot meet its target.

    Example:
        >>> shrink_file("model.keras", "x.npz", "small.keras", max_error_increase=0.05)   # doctest: +SKIP
    """
    positive_int("epochs", epochs, minimum=0)
    positive_int("batch_size", batch_size)
    path = Path(out)
    if path.suffix != ".keras":
        raise InputError(f"out: got {str(out)!r}, allowed: a name that ends in .keras")
    targets = {"target_params": target_params, "target_macs": target_macs, "target_bytes": target_bytes}
    if keep is not None and max_error_increase is not None:
        raise InputError("keep: got it with max_error_increase, allowed: one of them")
    if dry_run and keep is None and not any(targets.values()):
        raise InputError(
            "dry_run: got neither keep nor a target, allowed: with one of them; an error limit needs trials"
        )
    network = models.load(model)
    loaded = datasets.load(data, key=key, seed=seed, scale=scale)
    inputs, notes = shaped(network, loaded)
    wanted, more = targets_of(network, loaded, inputs)
    keras.utils.set_random_seed(seed)
    compile_for(network, loss, learning_rate)
    before = evaluated(network, inputs["test"], wanted["test"])
    said = (*loaded.notes, *notes, *more)
    samples = {name: x if wanted[name] is x else (x, wanted[name]) for name, x in inputs.items()}
    rate = 1e-3 if learning_rate is None else learning_rate
    widths = {"criterion": criterion, "round_to": round_to, "mirror": mirror}
    if keep is not None or dry_run:
        seen = _drawn(samples["train"], seed)
        made = plan(network, keep=keep, data=seen, scope="layer", **targets, **widths)
        if dry_run:
            return ShrunkFile(None, made, made.params, before, {}, said)
        writable_folder("out", path.parent)
        training = {"epochs": epochs, "batch_size": batch_size, "learning_rate": rate, "seed": seed}
        small = _cut_once(network, made, seen, samples, training, progress)
    else:
        writable_folder("out", path.parent)
        limit = max_error_increase
        if limit is None and not any(targets.values()):
            limit = 0.05
        rounds = path.with_name(f"{path.name}.rounds")
        made = shrink_until(
            network,
            samples["train"],
            validation=samples["validation"],
            max_error_increase=limit,
            layers=layers,
            final_epochs=epochs,
            learning_rate=rate,
            batch_size=batch_size,
            directory=rounds,
            seed=seed,
            progress=progress,
            **targets,
            **widths,
        )
        small = made.model
    after = evaluated(small, inputs["test"], wanted["test"])
    with writing(path) as temporary:
        small.save(temporary)
    if keep is None:
        shutil.rmtree(rounds)
    return ShrunkFile(path, made, (network.count_params(), small.count_params()), before, after, said)


def _cut_once(
    network: keras.Model,
    made: ShrinkPlan,
    seen: Any,
    samples: Mapping[str, Any],
    training: Mapping[str, Any],
    progress: bool,
) -> keras.Model:
    say = to_stderr if progress else silent
    traced = trace(network)
    small = made.apply(network)
    found = compensate(network, small, traced, made.kept(traced), seen)
    say(f"cut and compensated: relative error of the outputs {found.before:.4f} -> {found.after:.4f}", True)
    small.compile(keras.optimizers.Adam(training["learning_rate"]), network.loss, metrics=None)
    if training["epochs"]:
        fine_tune(small, samples["train"], validation=samples["validation"], progress=progress, **training)
    return small


def _drawn(samples: Any, seed: int) -> Any:
    """Calibration samples from the training split."""
    parts = samples if isinstance(samples, tuple) else (samples,)
    order = np.random.default_rng(seed).permutation(len(parts[0]))[:_CALIBRATION]
    found = tuple(part[order] for part in parts)
    return found if isinstance(samples, tuple) else found[0]
