"""Prune a model of the user's own, from file to file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import calibration, criteria, datasets, models
from keras_aeprune._files import writable_folder, writing
from keras_aeprune._progress import silent, to_stderr
from keras_aeprune._validation import InputError, fraction, positive_int, positive_number, refuse, shown
from keras_aeprune.datasets import Dataset
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
    inputs, notes = _shaped(network, loaded)
    targets, more = _targets(network, loaded, inputs)
    seen, note = None, f"weights ranked by {_name(criterion, ranking)}"
    if ranking.needs_data or sharing.needs_data:
        seen = calibration.get((inputs["train"], loaded.y_train), samples=criterion_samples, seed=seed)
        seen = replace(seen, y=None) if targets is inputs else seen
        note += f", shared out by {_name(allocation, sharing)}" if sharing.needs_data else ""
        note += f", seen on {len(seen)} of {len(inputs['train'])} training samples"
    keras.utils.set_random_seed(seed)
    _compile(network, loss, learning_rate)
    writable_folder("out", folder)
    try:
        before = _evaluate(network, inputs["test"], targets["test"])
        held = {"criterion": ranking, "allocation": sharing, "data": seen, "include": include, "exclude": exclude}
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
        after = _evaluate(network, inputs["test"], targets["test"])
        with writing(path) as temporary:
            network.save(temporary)
    except BaseException:
        for made in missing:
            made.rmdir()
        raise
    return PrunedFile(path, prune.table, before, after, (*loaded.notes, *notes, *more, note))


def _shaped(model: keras.Model, data: Dataset) -> tuple[dict[str, np.ndarray], list[str]]:
    """The splits in the shape that the model takes."""
    shapes = model.input_shape
    if not isinstance(shapes, tuple) or (shapes and isinstance(shapes[0], (tuple, list))):
        raise InputError(f"model {model.name!r}: got one with several inputs {shapes}, allowed: a single input")
    wanted = tuple(shapes[1:])
    splits = {name: getattr(data, f"x_{name}") for name in ("train", "validation", "test")}
    given = data.sample_shape
    if len(given) == len(wanted) and all(w in (None, g) for w, g in zip(wanted, given, strict=True)):
        return splits, []
    if None in wanted or int(np.prod(wanted)) != data.features:
        raise InputError(
            f"data: got samples of shape {given}, allowed: {wanted}, the input of {model.name!r}, or as "
            "many numbers in another shape"
        )
    note = f"samples of shape {given} were reshaped to the model's input {wanted}"
    return {name: x.reshape(len(x), *wanted) for name, x in splits.items()}, [note]


def _targets(
    model: keras.Model, data: Dataset, inputs: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    output, wanted = tuple(model.output_shape[1:]), inputs["train"].shape[1:]
    if data.y_train is not None:
        if output == wanted and data.y_train.shape[1:] != output:
            return inputs, ["an autoencoder: its inputs are its targets, the labels were not used"]
        return {name: getattr(data, f"y_{name}") for name in inputs}, []
    if output != wanted:
        raise InputError(
            f"data: got inputs without labels, but model {model.name!r} maps {wanted} to {output}, allowed: "
            "a .npz with y or y_train, or an autoencoder, whose output has its input's shape"
        )
    return inputs, []


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


def _compile(model: keras.Model, loss: str | None, learning_rate: float | None) -> None:
    if learning_rate is not None:
        positive_number("learning_rate", learning_rate)
    if not model.compiled and loss is None:
        raise InputError(
            f"model {model.name!r}: got one saved without a loss, allowed: a compiled one, or name "
            "the loss (--loss mse, --loss sparse_categorical_crossentropy, ...)"
        )
    if loss is not None:
        try:
            keras.losses.get(loss)
        except ValueError:
            raise InputError(f"loss: got {loss!r}, allowed: the name of a Keras loss such as mse") from None
        model.compile(keras.optimizers.Adam(learning_rate or 1e-3), loss)
    elif learning_rate is not None:
        model.optimizer.learning_rate = learning_rate


def _evaluate(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    try:
        values = model.evaluate(x, y, verbose=0, return_dict=True)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise InputError(
            f"data: got targets of shape {y.shape[1:]} ({y.dtype}), which the loss of model {model.name!r} with "
            f"output {tuple(model.output_shape[1:])} does not take ({shown(str(error), 160)}), allowed: targets "
            "that fit, or another --loss (whole-number labels go with sparse_categorical_crossentropy)"
        ) from None
    return {name: float(value) for name, value in values.items()}
