"""All widths at once: dense autoencoders that differ only in the width of their code, trained in one graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._progress import Say, clock, silent
from keras_aeprune._validation import InputError, positive_int, positive_number, refuse
from keras_aeprune.models.parts import activation_name, first_weights, sizes
from keras_aeprune.models.pca import PCA

__all__ = ["Batch", "Screen", "pca_curve", "screen"]

_GRAPH_BYTES = 2**30  # weights, moments, gradients and activations of the models that are trained together
_BLOCK_BYTES = 2**26  # outputs held at a time when the held-out error is measured
_TAIL = 0.022750131948179195  # probability of a normal value beyond 2, where Keras cuts He's draws off
_CUT = 0.8796256610342398  # standard deviation of what is left
_ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7}  # those of keras.optimizers.Adam


def pca_curve(x: np.ndarray, widths: Sequence[int], *, validation: np.ndarray | None = None) -> np.ndarray:
    """PCA's mean squared error for every width, from one eigendecomposition.

    Use it beside every search for a width: it is exact, takes milliseconds, and brackets the answer.

        error(k) = mean over samples and features of ((x - m)(I - V V'))^2,  V the first k directions

    Args:
        x: training data, shape (n, ...), 2 samples or more.
        widths: 0 <= k <= values in a sample each; 0 is the loss of predicting the mean.
        validation: samples on which the error is measured; None takes `x`.

    Returns:
        float64 array, one error per value for each width, in their order.

    Raises:
        InputError: what `models.PCA` refuses.

    Example:
        >>> pca_curve(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]]), [0, 1, 2]).round(6).tolist()
        [2.5, 0.25, 0.0]
    """
    widths = list(widths)
    return PCA.fit(x, widths).curve(x if validation is None else validation, widths)


@dataclass(frozen=True, eq=False)
class Screen:
    """The held-out loss of every width; made by `screen`.

    Args:
        widths: ascending.
        losses: shape (widths, seeds), mean squared error of each training's best epoch.
        samples: training samples that were used.
        epochs: passes over them.
        seconds: it took.

    Example:
        >>> print(Screen((4, 8), np.array([[0.2, 0.4], [0.1, 0.1]]), 100, 5, 1.0))
        width    loss    +-
            4  0.3000  0.14
            8  0.1000     0
    """

    widths: tuple[int, ...]
    losses: np.ndarray
    samples: int
    epochs: int
    seconds: float

    @property
    def mean(self) -> np.ndarray:
        """Mean loss over the seeds, shape (widths,); infinite where one of them is not finite."""
        mean = self.losses.mean(axis=1)
        return np.where(np.isfinite(mean), mean, np.inf)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation over the seeds (n - 1), shape (widths,); 0 for one seed."""
        if self.losses.shape[1] < 2:
            return np.zeros(len(self.widths))
        return np.nan_to_num(self.losses, posinf=0.0).std(axis=1, ddof=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a loss that is not finite is written as None."""
        losses = [[value if np.isfinite(value) else None for value in row] for row in self.losses.tolist()]
        own = {name: getattr(self, name) for name in ("samples", "epochs", "seconds")}
        return {"widths": list(self.widths), "losses": losses, **own}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Screen:
        """What `to_dict` wrote."""
        losses = np.array([[np.inf if v is None else v for v in row] for row in values["losses"]])
        return cls(tuple(values["widths"]), losses, values["samples"], values["epochs"], values["seconds"])

    def __str__(self) -> str:
        lines = [("width", "loss", "+-")]
        rows = zip(self.widths, self.mean, self.deviation, strict=True)
        lines += [(str(w), f"{mean:.4f}", f"{deviation:.2g}") for w, mean, deviation in rows]
        wide = [max(len(line[i]) for line in lines) for i in range(3)]
        return "\n".join("  ".join(map(str.rjust, line, wide)) for line in lines)

    __repr__ = __str__


def screen(
    x: np.ndarray,
    widths: Sequence[int],
    *,
    validation: np.ndarray,
    hidden_units: Sequence[int] = (64,),
    activation: str = "relu",
    output_activation: str = "linear",
    epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    seeds: Sequence[int] | int = 2,
    say: Say = silent,
) -> Screen:
    """Train a dense autoencoder of every width, all in one graph, and measure each on held-out data.

    Use it for the whole curve of loss against width in about the time of a few ordinary trainings. The
    kernels of K widths are one array of shape (K, inputs, outputs), and a mask leaves each its first units
    of the code. Every row is trained exactly as `models.dense` would be in Keras with the loss "mse" and
    Adam from the same first weights on the same batches. Widths of one seed share first weights and batches,
    which takes noise out of their differences.

    Memory grows with K: at most 1 GiB of weights, moments, gradients and activations is held at once;
    widths beyond that are trained in further groups, one after another, with the same result.

    Args:
        x: training samples, float32, shape (n, ...), scaled.
        widths: whole numbers >= 1, each once.
        validation: held-out samples of the same shape; after each epoch the loss is measured on them, and
            that of the best epoch counts.
        hidden_units: units of the encoder's hidden layers, each 1 or more; the decoder mirrors them.
        activation: Keras name of the hidden layers' activation.
        output_activation: Keras name of the last layer's activation, "sigmoid" for data in [0, 1].
        epochs: passes over `x`, 1 or more.
        batch_size: samples a step, 1 or more; the last one of an epoch may be smaller.
        learning_rate: Adam's, above 0.
        seeds: how many trainings, or their seeds; each has its own first weights and orders.
        say: called with progress lines and whether each is the last of its kind.

    Returns:
        A `Screen`: `print(screen)`, `.mean`, `.deviation`, `.losses`.

    Raises:
        InputError: for data or numbers that cannot be used.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(200, 2)) @ np.random.default_rng(1).normal(size=(2, 8))
        >>> x = x.astype("float32")
        >>> curve = screen(x[:150], [1, 2, 3], validation=x[150:], hidden_units=(), epochs=60, learning_rate=0.02)
        >>> bool(curve.mean[0] > 10 * curve.mean[1])
        True
    """
    x, validation = flat("x", x), flat("validation", validation)
    if x.shape[1] != validation.shape[1]:
        raise refuse("validation", validation.shape, f"samples of {x.shape[1]} values, like x")
    widths = sorted(positive_int("widths", width) for width in widths)
    if not widths or len(set(widths)) < len(widths):
        raise refuse("widths", widths, "one or more whole numbers >= 1, each once")
    found = range(positive_int("seeds", seeds)) if isinstance(seeds, int) else seeds
    found = [positive_int("seeds", seed, minimum=0) for seed in found]
    began, losses = time.monotonic(), []
    units: dict[str, Any] = {"hidden_units": hidden_units, "activation": activation}
    units["output_activation"] = output_activation
    training: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    groups = grouped(widths, x.shape[1], hidden_units, batch_size)
    turns, done = len(groups) * len(found), 0

    def heard(epoch: int, best: np.ndarray) -> None:
        passed, share = time.monotonic() - began, (done + epoch / epochs) / turns
        left = clock(passed / share - passed)
        where = f"{len(widths)} widths, training {done + 1}/{turns}, epoch {epoch}/{epochs}"
        say(f"screen: {where}  {left} left", False)

    for group in groups:
        batch = Batch(x.shape[1], len(group), group[-1], **units)
        batch.see(x, validation)
        rows = []
        for seed in found:
            batch.start(group, [seed] * len(group))
            rows.append(batch.fit([seed], **training, heard=heard))
            done += 1
        losses.append(np.transpose(rows))
    seconds = time.monotonic() - began
    say(f"screen: {len(widths)} widths, {len(found)} seeds, {epochs} epochs  {clock(seconds)}", True)
    return Screen(tuple(widths), np.concatenate(losses), len(x), epochs, seconds)


def grouped(widths: Sequence[int], features: int, hidden_units: Sequence[int], batch_size: int) -> list[list[int]]:
    """The widths in groups of which each fits into 1 GiB when it is trained at once."""
    layers = [features, *hidden_units, max(widths), *hidden_units[::-1], features]
    weights = sum(a * b + b for a, b in pairwise(layers))
    one = 4 * (4 * weights + 3 * batch_size * sum(layers))
    most = max(1, _GRAPH_BYTES // one)
    parts = np.array_split(np.array(widths), -(-len(widths) // most))
    return [[int(width) for width in part] for part in parts]


class Batch:
    """K dense autoencoders with codes of at most `widest` units, trained together in one graph.

    One training: `see` the data, `start` the rows, `fit`, and take `weights(row)` for
    `models.dense(...).set_weights`. The graph is traced once and serves every `start`.

    Args:
        features: values in one sample.
        rows: number of models, K.
        widest: largest width.
        hidden_units: of the encoder; the decoder mirrors them.
        activation: of the hidden layers.
        output_activation: of the last layer.
    """

    def __init__(
        self,
        features: int,
        rows: int,
        widest: int,
        *,
        hidden_units: Sequence[int],
        activation: str,
        output_activation: str,
    ):
        hidden = list(sizes("hidden_units", hidden_units, "(128, 64), or () for none"))
        self.sizes = [features, *hidden, widest, *hidden[::-1], features]
        self.code = len(hidden)  # position of the code's layer
        names = [activation_name("activation", activation)] * len(self.sizes[1:])
        names[self.code], names[-1] = "linear", activation_name("output_activation", output_activation)
        self.names = names
        self.widths: list[int] = [widest] * rows
        shapes = [s for a, b in pairwise(self.sizes) for s in ((a, b), (b,))]
        self.variables = [tf.Variable(tf.zeros((rows, *shape))) for shape in shapes]
        self.moments = [[tf.Variable(tf.zeros((rows, *shape))) for shape in shapes] for _ in range(2)]
        self.mask = tf.Variable(tf.ones((rows, 1, widest)))
        self.step, self.rate = tf.Variable(0.0), tf.Variable(0.0)
        samples, orders = tf.TensorSpec((None, features)), tf.TensorSpec((None, None), tf.int64)
        size = tf.TensorSpec((), tf.int32)
        self._epoch = tf.function(self._train).get_concrete_function(samples, orders, size)
        self._errors = tf.function(self._measure).get_concrete_function(samples)

    def see(self, x: np.ndarray, validation: np.ndarray) -> None:
        """Hold the data for `fit`; both of shape (n, features), float32."""
        self.x, self.validation = tf.constant(x), tf.constant(validation)

    def start(self, widths: Sequence[int], seeds: Sequence[int]) -> None:
        """Give each row its width and first weights, those of a Keras layer of that width."""
        self.widths = list(widths)
        draws = {seed: self._draws(seed) for seed in dict.fromkeys(seeds)}
        for layer in range(len(self.names)):
            kernels = [draws[seed][layer] * self._scale(layer, w) for w, seed in zip(widths, seeds, strict=True)]
            self.variables[2 * layer].assign(np.stack(kernels))
            self.variables[2 * layer + 1].assign(tf.zeros_like(self.variables[2 * layer + 1]))
        for moment in (*self.moments[0], *self.moments[1]):
            moment.assign(tf.zeros_like(moment))
        self.mask.assign((np.arange(self.sizes[self.code + 1]) < np.array(widths)[:, None])[:, None])
        self.step.assign(0.0)

    def fit(
        self,
        seeds: Sequence[int],
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        heard: Callable[[int, np.ndarray], None] | None = None,
        keep: bool = False,
    ) -> np.ndarray:
        """Train all rows and return each one's smallest held-out loss.

        Args:
            seeds: of the orders of the samples: one for each row, or one for all.
            epochs: passes, 1 or more.
            batch_size: samples a step.
            learning_rate: Adam's.
            heard: called after each epoch with its number and the best losses.
            keep: whether each row ends with the weights of its best epoch.

        Returns:
            float64 array of shape (rows,).
        """
        epochs, batch_size = positive_int("epochs", epochs), positive_int("batch_size", batch_size)
        self.rate.assign(positive_number("learning_rate", learning_rate))
        generators = [np.random.default_rng(np.random.SeedSequence([seed, 1])) for seed in seeds]
        best, kept = np.full(len(self.widths), np.inf), None
        for epoch in range(1, epochs + 1):
            orders = np.stack([generator.permutation(len(self.x)) for generator in generators])
            self._epoch(self.x, tf.constant(orders), tf.constant(batch_size))
            errors = self._errors(self.validation).numpy()
            better = errors < best  # false for NaN
            best = np.where(better, errors, best)
            if keep and better.any():
                now = [variable.numpy() for variable in self.variables]
                kept = now if kept is None else kept
                for old, new in zip(kept, now, strict=True):
                    old[better] = new[better]
            if heard is not None:
                heard(epoch, best)
        for variable, values in zip(self.variables, kept or (), strict=False):
            variable.assign(values)
        return best

    def weights(self, row: int) -> list[np.ndarray]:
        """The weights of one row as `models.dense` of its width has them, in its order."""
        found = [variable[row].numpy() for variable in self.variables]
        width, code = self.widths[row], 2 * self.code
        found[code], found[code + 1] = found[code][:, :width], found[code + 1][:width]
        found[code + 2] = found[code + 2][:width]
        return found

    def _draws(self, seed: int) -> list[np.ndarray]:
        """First weights of unit scale; a narrower code has the first ones of a wider one."""
        found = []
        for layer, (name, inputs, outputs) in enumerate(zip(self.names, self.sizes, self.sizes[1:], strict=False)):
            generator = np.random.default_rng(np.random.SeedSequence([seed, 0, layer]))
            shape = (outputs, inputs) if layer == self.code else (inputs, outputs)  # units of the code first
            draws = generator.uniform(-1, 1, shape)
            if first_weights(name) == "he_normal":
                draws = tf.math.ndtri(0.5 + draws * (0.5 - _TAIL)).numpy()
            found.append(draws.T if layer == self.code else draws)
        return found

    def _scale(self, layer: int, width: int) -> float:
        """The scale of first weights by He or Glorot, for a code of `width` units."""
        inputs, outputs = self.sizes[layer : layer + 2]
        inputs = width if layer == self.code + 1 else inputs
        outputs = width if layer == self.code else outputs
        if first_weights(self.names[layer]) == "he_normal":
            return np.sqrt(2 / inputs) / _CUT
        return np.sqrt(6 / (inputs + outputs))

    def _output(self, x: tf.Tensor) -> tf.Tensor:
        for layer, name in enumerate(self.names):
            x = tf.matmul(x, self.variables[2 * layer]) + self.variables[2 * layer + 1][:, tf.newaxis]
            x = keras.activations.get(name)(x)
            if layer == self.code:
                x *= self.mask
        return x

    def _train(self, samples: tf.Tensor, orders: tf.Tensor, batch_size: tf.Tensor) -> None:
        first, second = (tf.constant(_ADAM[name]) for name in ("beta1", "beta2"))
        for start in tf.range(0, tf.shape(orders)[1], batch_size):
            x = tf.gather(samples, orders[:, start : start + batch_size])
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.reduce_mean(tf.square(self._output(x) - x), axis=[1, 2]))
            gradients = tape.gradient(loss, self.variables)
            step = self.step.assign_add(1.0)
            for variable, m, v, gradient in zip(self.variables, *self.moments, gradients, strict=True):
                tf.raw_ops.ResourceApplyAdam(
                    var=variable.handle,
                    m=m.handle,
                    v=v.handle,
                    beta1_power=first**step,
                    beta2_power=second**step,
                    lr=self.rate,
                    grad=gradient,
                    **_ADAM,
                )

    def _measure(self, samples: tf.Tensor) -> tf.Tensor:
        count, features = tf.shape(samples)[0], samples.shape[1]
        total = tf.zeros(len(self.widths), tf.float64)
        block = max(1, _BLOCK_BYTES // (4 * features * len(self.widths)))
        for start in tf.range(0, count, block):
            x = samples[tf.newaxis, start : start + block]
            squares = tf.reduce_sum(tf.square(self._output(x) - x), axis=2)
            total += tf.reduce_sum(tf.cast(squares, tf.float64), axis=1)
        return total / (tf.cast(count, tf.float64) * features)


def flat(name: str, x: Any) -> np.ndarray:
    """`x` as float32 of shape (n, values), finite, with one sample or more."""
    x = np.asarray(x)
    if x.ndim < 2 or 0 in x.shape or x.dtype.kind not in "biuf":
        raise refuse(name, f"{x.dtype} array of shape {x.shape}", "numbers of shape (samples, ...), 1 or more")
    x = np.ascontiguousarray(x.reshape(len(x), -1), "float32")
    if not np.isfinite(x).all():
        raise InputError(f"{name}: got NaN or infinite values, allowed: finite numbers; drop or fill them")
    return x
