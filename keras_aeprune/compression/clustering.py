"""Weight sharing: a kernel's weights take a few values, which training goes on to move."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._layers import Weight, fits, weights
from keras_aeprune._validation import InputError, keras_model, one_of, positive_int, positive_number, refuse
from keras_aeprune.compression.codebook import kmeans, sharing_rate
from keras_aeprune.compression.distillation import Lines, fed
from keras_aeprune.compression.sharing_table import SharedRow, SharingTable
from keras_aeprune.models.composed import copied
from keras_aeprune.sparsity.siblings import put_last

__all__ = ["Cluster", "ShareConstraint", "cluster", "kmeans", "sharing_rate"]

MAX_BITS = 12
Bits = int | Mapping[str, int]


class ShareConstraint(keras.constraints.Constraint):
    """A variable's constraint that sets each weight to the mean of its cluster, and zeros to zero.

    Keras' optimizers apply it inside the compiled train step, after the update and the constraint the user had;
    like a mask it lives on the variable, and a saved model knows nothing of it.

    Args:
        labels: int array of the weight's shape, the cluster of each weight, -1 for a zero that stays.
        inner: the constraint that was there before, or None.
    """

    def __init__(self, labels: np.ndarray, inner: Any = None):
        flat = labels.ravel()
        places = np.flatnonzero(flat >= 0)
        self.inner = inner
        self.shape, self.size = labels.shape, flat.size
        self.clusters = int(flat.max(initial=-1)) + 1
        self.dense = places.size == flat.size
        self.places = tf.constant(places, tf.int32)
        self.labels = tf.constant(flat[places], tf.int32)
        self.counts = tf.constant(np.maximum(np.bincount(flat[places], minlength=self.clusters), 1), tf.float32)

    def _sums(self, values: Any) -> tf.Tensor:
        flat = tf.reshape(tf.cast(tf.convert_to_tensor(values), tf.float32), [-1])
        flat = flat if self.dense else tf.gather(flat, self.places)
        return tf.math.unsorted_segment_sum(flat, self.labels, self.clusters)

    def _spread(self, by_cluster: tf.Tensor, dtype: Any) -> tf.Tensor:
        shared = tf.gather(tf.cast(by_cluster, dtype), self.labels)
        if not self.dense:
            shared = tf.scatter_nd(self.places[:, None], shared, [self.size])
        return tf.reshape(shared, self.shape)

    def summed(self, gradient: Any) -> tf.Tensor:
        """dL/dC of each weight's cluster, in the weight's place: sum over its weights of dL/dW; 0 for zeros."""
        gradient = tf.convert_to_tensor(gradient)
        return self._spread(self._sums(gradient), gradient.dtype)

    def __call__(self, w: Any) -> tf.Tensor:
        w = tf.convert_to_tensor(w if self.inner is None else self.inner(w))
        return self._spread(self._sums(w) / self.counts, w.dtype)


class _Shared:
    """Shares the weights of one model's kernels, and takes the constraints off again."""

    def __init__(self, model: keras.Model, bits: Bits, init: str):
        self.rows: list[tuple[Weight, SharedRow]] = []
        self.held: list[keras.Variable] = []
        found = weights(keras_model(model))
        asked = _asked(found, bits)
        parts = [self._clustered(weight, number, init) for weight, number in zip(found, asked, strict=True)]
        for variable, shared, labels in filter(None, parts):  # only now: one that is refused leaves all as it was
            variable.assign(keras.ops.cast(shared, variable.dtype))
            variable.constraint = ShareConstraint(labels, variable.constraint)
            self.held.append(variable)
        if not self.held:
            listed = "; ".join(f"{row.path}: {row.reason}" for _, row in self.rows)
            raise InputError(
                f"model {model.name!r}: got nothing to share ({listed or 'no kernels'}), allowed: a model with a "
                "trainable kernel"
            )

    def _clustered(
        self, weight: Weight, bits: int | None, init: str
    ) -> tuple[keras.Variable, np.ndarray, np.ndarray] | None:
        """(variable, its shared values, labels), and a row about it; None for one that is left alone."""
        if weight.variable is None or weight.reason or bits is None:
            size = 0 if weight.variable is None else math.prod(weight.variable.shape)
            self.rows.append(
                (weight, SharedRow(weight.path, size, size, None, 0, None, weight.reason or "no bits"))
            )
            return None
        variable = weight.variable
        values = keras.ops.convert_to_numpy(variable).astype(np.float32)
        codebook, labels = kmeans(values, 2**bits, init=init)
        if not codebook.size:
            row = SharedRow(weight.path, values.size, 0, None, 0, None, "all zero")
            self.rows.append((weight, row))
            return None
        shared = np.where(labels >= 0, codebook[labels], np.float32(0))
        change = float(np.linalg.norm(shared - values) / np.linalg.norm(values))
        nonzero = int(np.count_nonzero(labels >= 0))
        self.rows.append((weight, SharedRow(weight.path, values.size, nonzero, bits, 0, change)))
        return variable, shared, labels

    def table(self) -> SharingTable:
        """Counted in the weights as they are now."""
        rows = []
        for weight, row in self.rows:
            if weight.variable is not None:
                flat = keras.ops.convert_to_numpy(weight.variable).astype(np.float32).ravel()
                nonzero = flat[flat != 0]
                row = replace(row, nonzero=nonzero.size, values=np.unique(nonzero).size)
            rows.append(row)
        return SharingTable(tuple(rows))

    def restore(self) -> None:
        """Project once more, for what wrote into the weights outside an optimizer step."""
        for variable in self.held:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))

    def release(self) -> None:
        """Put back the constraints that were there."""
        _free(self.held)
        self.held = []


def _found(variable: Any) -> tuple[Any, ShareConstraint | None]:
    """(the constraint around a variable's sharing, None at the outside; the sharing itself, None without one)."""
    around, one = None, getattr(variable, "constraint", None)
    while one is not None and not isinstance(one, ShareConstraint):  # a mask may have come around it
        around, one = one, getattr(one, "inner", None)
    return around, one


def _free(variables: Iterable[keras.Variable]) -> bool:
    """Take sharing off variables and leave their other constraints; whether there was any."""
    any_shared = False
    for variable in variables:
        around, share = _found(variable)
        while share is not None:
            any_shared = True
            if around is None:
                variable.constraint = share.inner
            else:
                around.inner = share.inner
            around, share = _found(variable)
    return any_shared


def _asked(found: list[Weight], bits: Bits) -> list[int | None]:
    """Bits for each kernel; in a dict the first name or pattern that fits decides."""
    if not isinstance(bits, Mapping):
        return [positive_int("bits", bits, maximum=MAX_BITS)] * len(found)
    if not bits:
        raise refuse("bits", bits, "a number, or {layer name, path or pattern: number} with at least one")
    for name, number in bits.items():
        positive_int(f"bits[{name!r}]", number, maximum=MAX_BITS)
        if not isinstance(name, str) or not any(fits(weight.path, name) for weight in found):
            layers = ", ".join(dict.fromkeys(weight.layer_path for weight in found))
            raise InputError(f"bits: got {name!r}, which fits no layer with weights; there are: {layers}")
    return [next((n for name, n in bits.items() if fits(weight.path, name)), None) for weight in found]


class Cluster(keras.callbacks.Callback):
    """Let the weights of each kernel share 2**bits values during `model.fit`, and train these values.

    At the start of the fit every kernel's non-zero weights are clustered (`kmeans`) and set to their cluster's
    value; zeros stay zero. From then on labels are fixed and only values move: after every optimizer step each
    weight is set to the mean of its cluster, inside the compiled step, so a checkpoint, a validation and the saved
    file see shared weights. Give it a pruned, trained model. After the fit the constraints that were there before
    are back, masks included; a later fit without this callback tears the values apart, one with it finds them.
    A fit that was interrupted leaves values shared: the next fit with a `Cluster` begins by undoing that, and
    `release()` does it at once.

    With the gradient dL/dC_k = sum over the weights i of cluster k of dL/dW_i, as in Han et al. 2016,
    https://arxiv.org/abs/1510.00149, and n_k weights in the cluster:

        gradient="sum":   the optimizer gets dL/dC_k for every weight of the cluster
        gradient="mean":  it gets dL/dW_i, and the mean of the updated weights is the new C_k

    For SGD with rate r the first is the paper's step, C_k - r dL/dC_k, and the second is C_k - (r / n_k) dL/dC_k:
    the same direction, with a rate that large clusters do not blow up. Optimizers that divide by the gradient's
    size, like Adam, make the first take a step of about the learning rate for each value, whatever n_k is; the
    second is the mean of n_k such steps, mostly a smaller one.

    Args:
        bits: 1 to 12, or {layer name, path or pattern: bits}, where the first that fits decides and kernels that
            fit none are left alone and listed.
        init: start of `kmeans`, "linear" or "density".
        gradient: "mean" or "sum".

    Attributes:
        table: a `SharingTable` after the fit.

    Raises:
        InputError: before training, for a model without a kernel to share, a pattern that fits no layer.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="hidden")])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).random((64, 8), "float32")
        >>> sharing = Cluster(bits=2)
        >>> history = model.fit(x, x, epochs=2, verbose=0, callbacks=[sharing])
        >>> np.unique(model.layers[0].kernel.numpy()).size, sharing.table.rows[0].values
        (4, 4)
    """

    def __init__(self, bits: Bits = 5, *, init: str = "linear", gradient: str = "mean"):
        super().__init__()
        for number in bits.values() if isinstance(bits, Mapping) else (bits,):
            positive_int("bits", number, maximum=MAX_BITS)
        self.bits = dict(bits) if isinstance(bits, Mapping) else bits
        self.init = one_of("init", init, ("linear", "density"))
        self.gradient = one_of("gradient", gradient, ("mean", "sum"))
        self.table: SharingTable | None = None
        self._shared: _Shared | None = None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"bits": self.bits, "init": self.init, "gradient": self.gradient}

    def __deepcopy__(self, memo: dict[int, Any]) -> Cluster:
        return type(self)(**self.get_config())

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        put_last(self)
        self.release()  # what an interrupted fit left: all models are set before any callback begins

    def release(self) -> None:
        """Let the model's weights go their own ways again, after a fit that was interrupted.

        Example:
            >>> sharing = Cluster(bits=2)
            >>> sharing.release()   # no fit yet, nothing to do
        """
        self._shared = None
        if self.model is None:
            return
        left = _free(self.model.variables)
        optimizer = getattr(self.model, "optimizer", None)
        left |= optimizer is not None and vars(optimizer).pop("apply", None) is not None
        if left and getattr(self.model, "train_function", None) is not None:
            self.model.make_train_function(force=True)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.model.optimizer is None:
            raise InputError(f"model {self.model.name!r}: got a model without optimizer, allowed: a compiled one")
        self._shared = _Shared(self.model, self.bits, self.init)
        if self.gradient == "sum":
            _sum_gradients(self.model.optimizer)
        if getattr(self.model, "train_function", None) is not None:
            self.model.make_train_function(force=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        shared = cast(_Shared, self._shared)  # since the training began
        shared.restore()
        self.table = shared.table()
        shared.release()
        vars(self.model.optimizer).pop("apply", None)
        self.model.make_train_function(force=True)


def _sum_gradients(optimizer: Any) -> None:
    """Give this optimizer each cluster's summed gradient in the place of its weights' gradients."""
    own = type(optimizer).apply

    def apply(grads: Any, trainable_variables: Any = None) -> Any:
        variables = optimizer._trainable_variables if trainable_variables is None else trainable_variables
        shares = [_found(variable)[1] for variable in variables]
        grads = [
            grad if grad is None or share is None else share.summed(grad)
            for grad, share in zip(grads, shares, strict=True)
        ]
        return own(optimizer, grads, trainable_variables)

    vars(optimizer)["apply"] = apply


def cluster(
    model: keras.Model,
    bits: Bits = 5,
    *,
    data: Any = None,
    epochs: int = 3,
    learning_rate: float = 1e-4,
    gradient: str = "mean",
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> tuple[keras.Model, SharingTable]:
    """A copy of a model whose kernels share 2**bits values each, trained on where there are data.

    Use it after pruning and before packing: shared values need few bits each. Without data the values are those
    of `kmeans`; with data they are trained by Adam under the model's compiled loss, with `Cluster`, whose
    docstring has formula and paper.

    Args:
        model: a built Keras model, with data a compiled one; it is not changed.
        bits: 1 to 12, or {layer name, path or pattern: bits}, as `Cluster` takes them.
        data: x of shape (n, ...) for an autoencoder, (x, y), what else `calibration.get` takes, or a
            tf.data.Dataset or PyDataset of batches (x, y); None for no training.
        epochs: passes over the data, >= 1.
        learning_rate: of Adam at the start, > 0; it falls to 0 along a cosine.
        gradient: "mean" or "sum", as in `Cluster`.
        batch_size: samples of one step, >= 1; batches that come as such keep theirs.
        seed: of order and noise, a whole number >= 0; sets Keras' global seed.
        progress: True writes a line for each epoch to standard error.

    Returns:
        (copy, `SharingTable`); the copy is compiled if there were data.

    Raises:
        InputError: for a model without a kernel to share, one that is not compiled, values out of range.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="hidden")])
        >>> small, table = cluster(model, bits=3)
        >>> table.rows[0].values, np.unique(model.layers[0].kernel.numpy()).size
        (8, 64)
    """
    keras_model(model)
    epochs, batch_size = positive_int("epochs", epochs), positive_int("batch_size", batch_size)
    learning_rate = positive_number("learning_rate", learning_rate)
    one_of("gradient", gradient, ("mean", "sum"))
    seed = positive_int("seed", seed, minimum=0)
    if data is None:
        copy = copied(model)
        shared = _Shared(copy, bits, "linear")
        table = shared.table()
        shared.release()
        return copy, table
    if not model.compiled:
        raise InputError(
            f"model {model.name!r}: got one that is not compiled, allowed with data: a compiled one; compile() it"
        )
    arguments = fed("data", data, batch_size)
    steps = -(-len(arguments["x"]) // (batch_size if "y" in arguments else 1))
    keras.utils.set_random_seed(seed)
    copy = copied(model)
    rates = keras.optimizers.schedules.CosineDecay(learning_rate, steps * epochs)
    copy.compile(keras.optimizers.Adam(rates), model.loss)
    sharing = Cluster(bits, gradient=gradient)
    copy.fit(**arguments, epochs=epochs, verbose=0, callbacks=[sharing, Lines(f"cluster {model.name}", progress)])
    return copy, cast(SharingTable, sharing.table)
