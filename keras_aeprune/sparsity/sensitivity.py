"""How much each kernel's zeros cost the model, measured one by one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import _plots, calibration, criteria
from keras_aeprune._files import fingerprint, write_json
from keras_aeprune._layers import Weight, weights
from keras_aeprune._plots import INK, MUTED, colour, styled
from keras_aeprune._validation import InputError, fraction, keras_model, refuse, shown
from keras_aeprune.criteria.scoring import evidence, measured
from keras_aeprune.sparsity.masks import count_zeros, keep_top
from keras_aeprune.sparsity.ranking import masked_last

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SensitivityMap", "SensitivityRow", "sensitivity_map"]

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
_BATCH = 256
_FORMAT = "keras_aeprune sensitivity 1"


@dataclass(frozen=True)
class SensitivityRow:
    """One kernel.

    Args:
        path: names from the outermost model down, "encoder/hidden_1/kernel".
        shape: of the kernel.
        losses: {sparsity of this kernel alone: the model's loss}.
    """

    path: str
    shape: tuple[int, ...]
    losses: Mapping[float, float]


@dataclass(frozen=True)
class SensitivityMap:
    """The model's loss with one kernel pruned at a time; prints as a table.

    Args:
        loss: what was measured, "mse" or "compiled loss".
        dense_loss: with all kernels as they are.
        criterion: class name and config of the criterion that chose the weights.
        rows: one per kernel.
        skipped: {path: reason} of what was not measured.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a")])
        >>> found = sensitivity_map(model, np.eye(4, dtype="float32"), sparsities=(0.5,))
        >>> found.loss, list(found["a/kernel"].losses)
        ('mse', [0.5])
    """

    loss: str
    dense_loss: float
    criterion: Mapping[str, Any]
    rows: tuple[SensitivityRow, ...]
    skipped: Mapping[str, str]

    def __getitem__(self, path: str) -> SensitivityRow:
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(f"{path!r} is not in the map; there are: {', '.join(row.path for row in self.rows)}")

    def errors(self) -> dict[str, dict[float, float]]:
        """{path: {sparsity: loss minus the dense loss}}, as `Sensitivity` takes it."""
        return {r.path: {s: loss - self.dense_loss for s, loss in r.losses.items()} for r in self.rows}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` makes an equal map of them."""
        kernels = [
            {"path": r.path, "shape": list(r.shape), "losses": [[s, r.losses[s]] for s in sorted(r.losses)]}
            for r in self.rows
        ]
        return {
            "loss": self.loss,
            "dense_loss": self.dense_loss,
            "criterion": dict(self.criterion),
            "kernels": kernels,
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SensitivityMap:
        """The map that `to_dict` described, or that `sensitivity_map` wrote into a file."""
        rows = tuple(
            SensitivityRow(k["path"], tuple(k["shape"]), {float(s): float(e) for s, e in k["losses"]})
            for k in values["kernels"]
        )
        plain = {name: values[name] for name in ("loss", "dense_loss", "criterion", "skipped")}
        return cls(rows=rows, **plain)

    @property
    def sparsities(self) -> list[float]:
        """All sparsities at which a kernel was measured, ascending."""
        return sorted({s for row in self.rows for s in row.losses})

    def __str__(self) -> str:
        lines = [("kernel", "weights", *(f"{s:g}" for s in self.sparsities))]
        for row in self.rows:
            cells = (f"{row.losses[s]:.4g}" if s in row.losses else "-" for s in self.sparsities)
            lines.append((row.path, f"{int(np.prod(row.shape)):,}", *cells))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = ["  ".join([a.ljust(widths[0]), *map(str.rjust, more, widths[1:])]) for a, *more in lines]
        title = f"{self.loss} with one kernel pruned at a time; with none: {self.dense_loss:.4g}"
        skipped = [f"{path}: skipped, {reason}" for path, reason in self.skipped.items()]
        return "\n".join([title, text[0], "-" * len(text[0]), *text[1:], *skipped])

    __repr__ = __str__

    @styled
    def plot(self) -> Figure:
        """A field per kernel and sparsity with the loss in it, the darker the more was lost.

        The colour follows log(1 + increase / dense loss), from none to the largest one.

        Raises:
            InputError: for a map without kernels.
        """
        if not self.rows:
            raise InputError("map: got no kernels, allowed: at least one")
        columns = self.sparsities
        made, (axes,) = _plots.figure(height=0.46 * len(self.rows) + 0.9)
        rise = max(max(e.values(), default=0.0) for e in self.errors().values())
        scale = abs(self.dense_loss) or rise / 10 or 1.0
        darkest = math.log1p(max(rise, scale) / scale)
        for place, row in enumerate(self.rows):
            label = f"{row.path}  ({' x '.join(map(str, row.shape))})"
            label = label if len(label) < 58 else f"{label[:27]}...{label[-28:]}"
            axes.text(0, place - 0.06, label, va="bottom", fontsize=8.5)
            for column, loss in ((columns.index(s), loss) for s, loss in row.losses.items()):
                lost = math.log1p(max(loss - self.dense_loss, 0) / scale) / darkest
                axes.barh(
                    place + 0.2,
                    0.96,
                    0.44,
                    column,
                    color=colour("pruned"),
                    alpha=0.06 + 0.74 * lost,
                    linewidth=0,
                )
                text = f"{loss:.3g}"
                axes.text(column + 0.48, place + 0.2, text, ha="center", va="center", fontsize=8, color=INK)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(self.rows) - 0.5, -0.5)
        axes.set_yticks([])
        axes.set_xticks([i + 0.48 for i in range(len(columns))], [f"{s:g}" for s in columns])
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.set_xlabel("fraction of zeros in this kernel alone")
        axes.set_title(f"{self.loss} (dense: {self.dense_loss:.3g})", loc="left", color=MUTED)
        return made


def sensitivity_map(
    model: keras.Model,
    data: Any,
    *,
    sparsities: Sequence[float] = SPARSITIES,
    criterion: Any = "magnitude",
    loss: Any = None,
    path: str | Path | None = None,
    progress: Callable[[str, bool], None] | None = None,
) -> SensitivityMap:
    """The model's loss with each kernel alone at each sparsity.

    Use it to see which layers can be pruned hard, and as the input of `Sensitivity`. Each measurement is one
    pass over the data, so a few thousand samples are a good choice. Weight penalties (regularizers) are left
    out of the loss, since zeros would lower them; losses that layers add are not.

    Args:
        model: a built Keras model; its weights are put back after every measurement.
        data: the input x, an array or a structure of arrays, for a model that reproduces it; or the tuple
            (x, y).
        sparsities: fractions of a kernel's weights set to zero, each 0 < s < 1.
        criterion: which weights go first, a name or instance from `keras_aeprune.criteria`; one that looks at
            more than weights is shown the same data and loss.
        loss: a Keras loss by name, instance or function; None for the compiled one, or, in a model that is
            not compiled and whose output has the input's shape, "mse".
        path: JSON file that is written after every measurement; measurements that it holds are not repeated.
            None for no file.
        progress: called with a line of text and whether it is the last one; None writes to standard error
            if that is a terminal.

    Returns:
        A `SensitivityMap`: `print(map)`, `map["encoder/code/kernel"].losses`, `map.plot()`.

    Raises:
        InputError: for data that does not fit, a model without a loss, a loss that is NaN or infinite, or a
            file that belongs to another model, data, loss or criterion.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, use_bias=False, name="a")])
        >>> model.set_weights([np.diag([1.0, 2.0, 3.0, 4.0])])
        >>> x = np.ones((8, 4), "float32")
        >>> found = sensitivity_map(model, x, sparsities=(0.75, 0.875))  # 12 of 16 are zero as it is
        >>> found.dense_loss, found["a/kernel"].losses
        (3.5, {0.75: 3.5, 0.875: 3.75})
    """
    keras_model(model)
    levels = sorted({fraction("sparsities", s, low_open=True) for s in sparsities})
    if not levels:
        raise refuse("sparsities", sparsities, "at least one fraction 0 < s < 1")
    chosen = criteria.get(criterion)
    found = weights(model)
    evaluate, name = _evaluator(model, data, loss)
    identity: dict[str, Any] = {
        "format": _FORMAT,
        "model": fingerprint(keras.ops.convert_to_numpy(w) for w in model.weights),
        "data": fingerprint(np.asarray(part) for part in tf.nest.flatten(data)),
        "loss": name,
        "criterion": {"class_name": type(chosen).__name__, "config": chosen.get_config()},
    }
    known = _read(path, identity)
    say = _to_terminal if progress is None else progress
    dense = _finite(evaluate(), "the model as it is")
    if known is not None and not math.isclose(known.dense_loss, dense, rel_tol=1e-4, abs_tol=1e-9):
        raise InputError(f"path: {str(path)!r} is of a model with loss {known.dense_loss:g}, not {dense:g}")
    dense = dense if known is None else known.dense_loss
    before = {} if known is None else {row.path: dict(row.losses) for row in known.rows}
    losses = {w.path: before.get(w.path, {}) for w in found if _can(w)}
    skipped = {w.path: w.reason or "empty" for w in found if not _can(w)}
    shapes = {w.path: tuple(map(int, w.variable.shape)) for w in found if _can(w)}

    def result() -> SensitivityMap:
        rows = (SensitivityRow(p, shapes[p], dict(sorted(v.items()))) for p, v in losses.items())
        return SensitivityMap(name, dense, identity["criterion"], tuple(rows), skipped)

    due = [(w, s) for w in found if _can(w) for s in levels if s not in losses[w.path]]
    chosen_loss = "mse" if loss is None and name != "compiled loss" else loss
    scores = _scores(model, [w for w in found if _can(w)], chosen, data, chosen_loss) if due else {}
    for number, (weight, s) in enumerate(due, 1):
        losses[weight.path][s] = _finite(
            _pruned(weight, s, scores[weight.path], evaluate), f"{weight.path} at {s:g}"
        )
        if path is not None:
            write_json(path, {**result().to_dict(), **identity})
        say(f"sensitivity: {number}/{len(due)}  {weight.path} at {s:g}", number == len(due))
    return result()


def _can(weight: Weight) -> bool:
    return not weight.reason and weight.kernel is not None and int(np.prod(weight.variable.shape)) > 0


def _scores(
    model: keras.Model, chosen: list[Weight], criterion: Any, data: Any, loss: Any
) -> dict[str, np.ndarray]:
    """The scores of all kernels as they are, once: every measurement puts its kernel back."""
    seen = evidence(criterion, model, chosen, calibration.get(data) if criterion.needs_data else None, loss)
    kept = [kernel != 0 for kernel in seen.kernels]
    found = masked_last(criterion, measured(criterion, seen), kept)
    return {weight.path: array for weight, array in zip(chosen, found, strict=True)}


def _pruned(weight: Weight, s: float, scores: np.ndarray, evaluate: Callable[[], float]) -> float:
    """The loss with one kernel at one sparsity; the kernel is put back whatever happens."""
    kernel = np.array(keras.ops.convert_to_numpy(weight.variable))
    mask = keep_top(scores, kernel.size - count_zeros(kernel.size, s))
    try:
        weight.variable.assign(np.where(mask, kernel, kernel.dtype.type(0)))
        return evaluate()
    finally:
        weight.variable.assign(kernel)


@dataclass(frozen=True)
class _Evaluator:
    """The mean of a compiled function over all batches."""

    function: Callable[..., tf.Tensor]
    batches: list[tuple[Any, Any]]
    sizes: list[int]

    def __call__(self) -> float:
        losses = [float(self.function(*batch)) for batch in self.batches]
        return float(np.dot(losses, self.sizes) / sum(self.sizes))


def _evaluator(model: keras.Model, data: Any, loss: Any) -> tuple[_Evaluator, str]:
    """One compiled function over all batches, and the name of its loss."""
    pair = isinstance(data, tuple)
    if pair and len(data) != 2:
        raise InputError(f"data: got a tuple of {len(data)}, allowed: x, or (x, y)")
    x, y = data if pair else (data, data)
    arrays = [np.asarray(part) for part in tf.nest.flatten((x, y))]
    counts = {len(array) if array.ndim else 0 for array in arrays}
    if len(counts) != 1 or min(counts) == 0 or any(array.dtype == object for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InputError(f"data: got arrays of shapes {shapes}, allowed: x, or (x, y), of equal length > 0")
    count = counts.pop()
    same = not pair and len(arrays) == 2 and _shape(model.output_shape) == arrays[0].shape[1:]
    compiled = loss is None and model.compiled and getattr(model, "loss", None) is not None
    if loss is None and not compiled and not same:
        raise InputError(
            f"model {model.name!r}: got a model that is not compiled with a loss, allowed: a compiled one, "
            "an output of the input's shape (then mse), or loss="
        )
    if not pair and not same:
        raise InputError(f"data: got x alone for outputs {shown(model.output_shape)}, allowed: (x, y)")
    chosen = "mse" if loss is None and not compiled else loss
    measure = None if compiled else keras.losses.get(chosen)

    @tf.function
    def batch_loss(x: Any, y: Any) -> tf.Tensor:
        predicted = model(x, training=False)
        if measure is not None:
            return tf.reduce_mean(tf.cast(measure(y, predicted), tf.float32))
        value = tf.cast(model.compute_loss(x=x, y=y, y_pred=predicted, training=False), tf.float32)
        penalties = [v.regularizer(v) for v in model.trainable_variables if v.regularizer is not None]
        return value - tf.add_n([tf.cast(p, tf.float32) for p in penalties]) if penalties else value

    def cut(start: int) -> tuple[Any, Any]:
        rows = slice(start, start + _BATCH)
        return tf.nest.map_structure(lambda part: tf.constant(np.asarray(part)[rows]), (x, y))

    batches = [cut(start) for start in range(0, count, _BATCH)]
    sizes = [min(_BATCH, count - start) for start in range(0, count, _BATCH)]

    return _Evaluator(batch_loss, batches, sizes), "compiled loss" if compiled else _name(chosen)


def _shape(shape: Any) -> tuple[Any, ...] | None:
    return tuple(shape[1:]) if isinstance(shape, tuple) and not isinstance(shape[0], (tuple, list)) else None


def _name(loss: Any) -> str:
    name = getattr(loss, "name", getattr(loss, "__name__", type(loss).__name__))
    return loss if isinstance(loss, str) else name


def _finite(loss: float, where: str) -> float:
    if not math.isfinite(loss):
        raise InputError(f"{where}: got a loss of {loss}, allowed: a finite one (did the training diverge?)")
    return loss


def _read(path: str | Path | None, identity: Mapping[str, Any]) -> SensitivityMap | None:
    """What a file holds, if it is there and belongs to the same measurement."""
    if path is None or not Path(path).exists():
        return None
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        found = SensitivityMap.from_dict(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"path: got {str(path)!r}, allowed: a file of sensitivity_map ({error})") from None
    other = [key for key in identity if values.get(key) != identity[key]]
    if other:
        raise InputError(
            f"path: got {str(path)!r}, measured with another {', '.join(other)}, allowed: its own file; "
            "choose another path, or remove the file to measure anew"
        )
    return found


def _to_terminal(text: str, final: bool) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text}" + "\n" * final)
        sys.stderr.flush()
