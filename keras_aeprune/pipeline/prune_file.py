"""Prune a model of the user's own, from file to file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from keras_aeprune import calibration, criteria, datasets, models
from keras_aeprune._files import writable_folder, writing
from keras_aeprune._progress import silent, to_stderr
from keras_aeprune._validation import InputError, fraction, positive_int, refuse
from keras_aeprune.pipeline.model_files import compile_for, evaluated, shaped, targets_of
from keras_aeprune.pipeline.progress import EpochProgress
from keras_aeprune.sparsity import Prune, SparsityTable
from keras_aeprune.sparsity import allocation as allocations
from keras_aeprune.sparsity.allocation import Allocation

__all__ = ["PrunedFile", "prune_file"]


@dataclass(frozen=True)
class PrunedFile:
    """What `prune_file` made.

    Attributes:
        path: the pruned .keras file.
        table: zeros asked and reached in every kernel.
        before: the model's loss and metrics on the test split before pruning.
        after: the same afterwards.
        notes: what was done to the data on the way in, and what ranked the weights.

    Example:
        >>> from keras_aeprune.sparsity import SparsityRow
        >>> table = SparsityTable((SparsityRow("a/kernel", (8, 4), 32, 29, 0.9, "unstructured", ""),))
        >>> made = PrunedFile(Path("pruned.keras"), table, {"loss": 0.013}, {"loss": 0.015}, ())
        >>> made.table.rows[0].missed, round(made.after["loss"] / made.before["loss"], 2)
        (False, 1.15)
    """

    path: Path
    table: SparsityTable
    before: dict[str, float]
    after: dict[str, float]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        width = max(len(name) for name in self.before)
        lines = [str(self.table), "", f"{'test':<{width}}  {'before':>10}  {'after':>10}"]
        lines += [
            f"{name:<{width}}  {self.before[name]:>10.5f}  {self.after[name]:>10.5f}" for name in self.before
        ]
        return "\n".join([*lines, *self.notes, "", str(self.path)])


def prune_file(
    model: str | Path,
    data: Any,
    out: str | Path,
    *,
    sparsity: float = 0.9,
    epochs: int = 10,
    batch_size: int = 128,
    criterion: Any = "magnitude",
    criterion_samples: int = 2048,
    allocation: Any = "global",
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    loss: str | None = None,
    learning_rate: float | None = None,
    key: str | None = None,
    scale: str = "none",
    seed: int = 0,
    progress: bool = True,
) -> PrunedFile:
    """Load a model, prune it on data with its compiled loss, and save it as a plain .keras file.

    If the data have labels they are the targets; else, and for a model whose output has its input's shape
    while the labels have not, the inputs are, as for an autoencoder.

    Args:
        model: a .keras or .h5 file that Keras 3 loads.
        data: as for `compress`; used as they are unless `scale` says otherwise.
        out: the .keras file to write.
        sparsity: fraction of kernel weights set to zero, 0 <= s < 1.
        epochs: passes over the data, >= 1; the ramp takes the first six tenths.
        batch_size: samples per optimizer step, >= 1.
        criterion: which weights go first, a name (`keras-aeprune names` lists them) or instance from
            `keras_aeprune.criteria`.
        criterion_samples: at most how many training samples a criterion or allocation that needs data sees, >= 1;
            equally many of each class where there are labels. They are used at each update of the masks.
        allocation: "global", "uniform", "erk" or "entropy"; or what else `Prune` takes.
        include: prune only these layers (names, paths, patterns).
        exclude: leave these layers alone.
        loss: a Keras loss name, for a model that was saved without one; or to replace it.
        learning_rate: > 0; None keeps the compiled one (1e-3 where there is none).
        key: which array of a .npz file.
        scale: "none", "auto", "unit" or "standard", as for `datasets.load`.
        seed: of the split and the order of the data.
        progress: print a line per epoch to standard error.

    Returns:
        A `PrunedFile`; `print(it)` shows the table and the loss before and after.

    Raises:
        InputError: for a file, data or arguments that cannot be used; `out` is not written then.

    Example:
        >>> prune_file("model.keras", "x.npz", "pruned.keras", sparsity=0.8)   # doctest: +SKIP
    """
    fraction("sparsity", sparsity)
    positive_int("epochs", epochs)
    positive_int("batch_size", batch_size)
    positive_int("criterion_samples", criterion_samples)
    ranking, sharing = criteria.get(criterion), _allocation(allocation)
    path = Path(out)
    if path.suffix != ".keras":
        raise InputError(f"out: got {str(out)!r}, allowed: a name that ends in .keras")
    folder = path.parent
    missing = [] if folder.is_dir() else [folder, *(p for p in folder.parents if not p.is_dir())]
    network = models.load(model)
    loaded = datasets.load(data, key=key, seed=seed, scale=scale)
    inputs, notes = shaped(network, loaded)
    targets, more = targets_of(network, loaded, inputs)
    seen, note = None, f"weights ranked by {_name(criterion, ranking)}"
    if ranking.needs_data or sharing.needs_data:
        seen = calibration.get((inputs["train"], loaded.y_train), samples=criterion_samples, seed=seed)
        seen = replace(seen, y=None) if targets is inputs else seen
        note += f", shared out by {_name(allocation, sharing)}" if sharing.needs_data else ""
        note += f", seen on {len(seen)} of {len(inputs['train'])} training samples"
    keras.utils.set_random_seed(seed)
    compile_for(network, loss, learning_rate)
    writable_folder("out", folder)
    try:
        before = evaluated(network, inputs["test"], targets["test"])
        held: dict[str, Any] = {
            "criterion": ranking,
            "allocation": sharing,
            "data": seen,
            "include": include,
            "exclude": exclude,
        }
        prune = Prune(sparsity, **held)
        network.fit(
            inputs["train"],
            targets["train"],
            validation_data=(inputs["validation"], targets["validation"]),
            epochs=epochs,
            batch_size=batch_size,
            verbose=0,
            callbacks=[prune, EpochProgress(to_stderr if progress else silent, f"prune {network.name}")],
        )
        after = evaluated(network, inputs["test"], targets["test"])
        with writing(path) as temporary:
            network.save(temporary)
    except BaseException:
        for made in missing:
            made.rmdir()
        raise
    assert prune.table is not None  # since fit has ended
    return PrunedFile(path, prune.table, before, after, (*loaded.notes, *notes, *more, note))


def _allocation(identifier: Any) -> Allocation:
    """As `allocations.get`, but a name must be enough to split the zeros with."""
    if not isinstance(identifier, str):
        return allocations.get(identifier)
    known = {}
    for name, member in allocations.ALLOCATIONS.items():
        try:
            known[name] = member()
        except (InputError, TypeError):  # one that has to be given something
            continue
    if identifier not in known:
        raise refuse("allocation", identifier, ", ".join(sorted(known)))
    return known[identifier]


def _name(identifier: Any, member: Any) -> str:
    return identifier if isinstance(identifier, str) else repr(member)
