"""What an iterative run puts back and writes down: the state of a model, and the folder of its rounds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from keras_aeprune._files import fingerprint, remove_unfinished, writable_folder, write_json, writing
from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError, refuse, shown
from keras_aeprune.sparsity.iterative_table import Limit, Round
from keras_aeprune.sparsity.pruner import MaskConstraint

__all__ = ["EpochWeights", "ModelState", "RoundsFolder", "assign", "described", "weights_from"]


class ModelState:
    """All that a training changes in a model, to be put back later.

    Weights, BatchNormalization statistics, random states, the optimizer's variables, and masks.

    Args:
        model: a built Keras model.

    Raises:
        InputError: for an optimizer that its configuration does not rebuild.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="a")])
        >>> state = ModelState(model)
        >>> _ = model.layers[0].kernel.assign([[7.0], [7.0]])
        >>> state.restore()
        >>> bool((model.layers[0].kernel.numpy() == 7).any())
        False
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.values = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]
        variables = [w.variable for w in weights(model) if isinstance(w.variable, keras.Variable)]
        self._constraints = [(v, v.constraint, _mask(v.constraint)) for v in variables]
        optimizer = getattr(model, "optimizer", None)
        self._optimizer = optimizer
        if optimizer is not None:
            self._config, self._built = optimizer.get_config(), optimizer.built
            self._slots = [np.array(keras.ops.convert_to_numpy(v)) for v in optimizer.variables]
            try:
                type(optimizer).from_config(self._config)
            except Exception as error:  # whatever an optimizer of the user's own raises
                raise InputError(
                    f"optimizer: got {type(optimizer).__name__}, which its get_config() does not rebuild "
                    f"({shown(error)}), allowed: one that from_config(get_config()) makes anew"
                ) from error

    def fresh_optimizer(self) -> None:
        """Set the optimizer's variables to those of a new one."""
        optimizer = self._optimizer
        if optimizer is None:
            return
        strategy = getattr(self.model, "distribute_strategy", None)
        with strategy.scope() if strategy is not None else nullcontext():
            new = type(optimizer).from_config(self._config)
            if optimizer.built:
                new.build(optimizer._trainable_variables)
        for variable, value in zip(optimizer.variables, new.variables, strict=True):
            variable.assign(value)

    def free(self) -> None:
        """Put the kernels' constraints back."""
        changed = False
        for variable, constraint, mask in self._constraints:
            if mask is not None:
                constraint.mask.assign(mask)
            changed |= variable.constraint is not constraint
            variable.constraint = constraint
        if changed and getattr(self.model, "train_function", None) is not None:
            self.model.make_train_function(force=True)

    def restore(self) -> None:
        """Put everything back."""
        self.free()
        assign(self.model.variables, self.values)
        self.fresh_optimizer()
        if self._optimizer is not None and self._built:
            assign(self._optimizer.variables, self._slots)


def _mask(constraint: Any) -> np.ndarray | None:
    found = isinstance(constraint, MaskConstraint)
    return np.array(keras.ops.convert_to_numpy(constraint.mask)) if found else None


class EpochWeights(keras.callbacks.Callback):
    """Keeps the weights that a training had after one epoch."""

    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = epoch
        self.values: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch + 1 == self.epoch:
            self.values = self.model.get_weights()


def assign(variables: Iterable[Any], values: Iterable[np.ndarray]) -> None:
    """Set each variable to its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def described(value: Any) -> Any:
    """Plain JSON values that change when the value does: arrays as fingerprints, objects by class and config.

    Example:
        >>> described({"a": (1, float("inf")), "b": keras.constraints.NonNeg()})
        {'a': [1, 'inf'], 'b': {'class_name': 'NonNeg', 'config': {}}}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.number)):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        return fingerprint([np.asarray(value)])
    if isinstance(value, Mapping):
        return {str(key): described(part) for key, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return [described(part) for part in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [described(part) for part in value]
    if hasattr(value, "get_config") and not isinstance(value, type):
        config = {k: v for k, v in value.get_config().items() if k != "name"}  # Keras counts them up
        return {"class_name": type(value).__name__, "config": described(config)}
    return getattr(value, "__name__", type(value).__name__)


def weights_from(model: keras.Model, source: Any) -> list[np.ndarray]:
    """Arrays for `model.set_weights` from a file, a list of arrays, or arrays by a variable's path.

    Raises:
        InputError: for a file that cannot be loaded, and arrays that do not fit.
    """
    now = model.get_weights()
    if isinstance(source, (str, Path)):
        try:
            model.load_weights(source)
            return model.get_weights()
        except Exception as error:  # whatever Keras meets in a file
            text = shown(" ".join(str(error).split()), 160)
            allowed = "a .weights.h5 or .keras file of this model's weights"
            raise InputError(f"rewind: got {str(source)!r} ({text}), allowed: {allowed}") from error
        finally:
            model.set_weights(now)
    if isinstance(source, Mapping):
        places = {v.path: i for i, v in enumerate(model.weights)}
        by_id = {id(v): i for i, v in enumerate(model.weights)}
        places.update({w.path: by_id[id(w.variable)] for w in weights(model) if id(w.variable) in by_id})
        unknown = [name for name in source if name not in places]
        if unknown:
            raise refuse("rewind", unknown[0], f"paths of variables: {', '.join(places)}")
        arrays = dict(enumerate(now)) | {places[name]: np.asarray(array) for name, array in source.items()}
        found = [arrays[i] for i in range(len(now))]
    elif isinstance(source, (list, tuple)):
        found = [np.asarray(array) for array in source]
    else:
        raise refuse("rewind", source, 'None, "initial", an epoch, a file, a list of arrays, or {path: array}')
    if [a.shape for a in found] != [a.shape for a in now]:
        got, wanted = ([tuple(a.shape) for a in arrays] for arrays in (found, now))
        raise InputError(f"rewind: got arrays of shapes {shown(got)}, allowed: {shown(wanted)}")
    return found


@dataclass(kw_only=True)
class Settings:
    """What one call of `iterative` asks for, checked; see there."""

    steps: list[float]
    epochs: tuple[int, int]
    data: tuple[Any, ...]
    validation: tuple[Any, ...] | None
    limits: tuple[Limit, ...]
    pruning: dict[str, Any]
    rewind: Any
    train: Callable[[keras.Model, int], Any] | None
    seed: int
    callbacks: list[keras.callbacks.Callback]
    say: Callable[[str], Any]
    fit: dict[str, Any]


class RoundsFolder:
    """The finished rounds of one run, on disk.

    Args:
        path: a folder; made if it is not there.
        identity: plain JSON values that decide the outcome.

    Raises:
        InputError: if it cannot be written, or holds a run of another identity or other files.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]):
        self.path = writable_folder("directory", path)
        manifest, identity = self.path / "run.json", json.loads(json.dumps(identity))
        remove_unfinished(self.path)
        if not manifest.is_file():
            if any(not file.name.startswith(".") for file in self.path.iterdir()):
                raise refuse("directory", str(path), "a new or empty folder, or that of an iterative run")
            write_json(manifest, identity)
        there = self._read(manifest)
        other = [name for name in sorted({*there, *identity}) if there.get(name) != identity.get(name)]
        if other:
            changed = "; ".join(
                f"{name} was {shown(there.get(name))} and is {shown(identity.get(name))} now" for name in other
            )
            raise InputError(
                f"directory: got {str(path)!r}, the folder of another run ({changed}), allowed: the arguments "
                "as before, or a new folder"
            )

    def rounds(self) -> list[Round]:
        """The rounds that are finished."""
        file = self.path / "rounds.json"
        if not file.is_file():
            return []
        try:
            return [Round.from_dict(entry) for entry in self._read(file)["rounds"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise self._damaged(file, error) from None

    def finish(self, rounds: Sequence[Round], arrays: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Write the last round's arrays, then the table that says they are there."""
        if rounds[-1].held or not rounds[-1].number:
            with writing(self._file(rounds[-1].number)) as temporary, open(temporary, "wb") as file:
                named: dict[str, Any] = {
                    f"{k}:{i}": _plain(a) for k, values in arrays.items() for i, a in enumerate(values)
                }
                np.savez(file, **named)
        write_json(self.path / "rounds.json", {"rounds": [entry.to_dict() for entry in rounds]})

    def arrays(self, number: int) -> dict[str, list[np.ndarray]]:
        """What `finish` was given for a round that held."""
        found: dict[str, list[np.ndarray]] = {}
        try:
            with np.load(self._file(number), allow_pickle=False) as file:
                for key in file.files:  # in the order in which they were written
                    found.setdefault(key.split(":")[0], []).append(file[key])
        except (OSError, EOFError, ValueError, BadZipFile) as error:
            raise self._damaged(self._file(number), error) from None
        return found

    def _file(self, number: int) -> Path:
        return self.path / f"round-{number:03d}.npz"

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(file, error) from None

    def _damaged(self, file: Path, error: Exception) -> InputError:
        return InputError(
            f"directory: got {str(file)!r}, which cannot be read ({shown(str(error))}), allowed: the folder of an "
            "iterative run; remove it to start anew"
        )


def _plain(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind in "fiub" else array.astype(np.float32)  # bfloat16 has no place in .npz
