"""Criteria from the squares of single samples' gradients: Fisher information and prediction sensitivity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._graph import is_graph, output_layers
from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError, fraction, one_of, positive_int, shown
from keras_aeprune.criteria.base import Criterion, Evidence, register
from keras_aeprune.criteria.losses import forward
from keras_aeprune.criteria.per_example import PerExample, squared_gradients

__all__ = ["Fisher", "PredictionSensitivity"]

_EXACT_OUTPUTS = 64
_PROBES = 32
_CLASS_LOSSES = ("CategoricalCrossentropy", "SparseCategoricalCrossentropy", "CategoricalFocalCrossentropy")
_BINARY_LOSSES = ("BinaryCrossentropy", "BinaryFocalCrossentropy")


@register("fisher")
class Fisher(Criterion):
    """Expected rise of the loss when a weight is set to zero, from the diagonal empirical Fisher information.

    Use it for trained models, with labels or targets; a few hundred samples rank weights well. With g_n the
    gradient of sample n's loss, exact for each sample (see `per_example.squared_gradients`):

        F_i = 1/N sum_n g_ni^2,    form="saliency": w_i^2 F_i / 2,    form="curvature": F_i

    The saliency is that of optimal brain damage with the empirical Fisher in place of the Hessian; LeCun, Denker
    and Solla 1989, https://papers.nips.cc/paper/250-optimal-brain-damage. Units have a score of their own, with
    the activation a of the unit at each position (and call); Theis et al. 2018, https://arxiv.org/abs/1801.05787:

        1 / (2N) sum_n (sum over positions of a * dL_n/da)^2

    Args:
        form: "saliency" or "curvature"; the curvature alone ignores how large a weight is.
        batch_size: samples at once, >= 1; changes time and memory, not the scores.

    Example:
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> data = Calibration(np.array([[1.0], [1.0]], "float32"), np.array([[0.0], [2.0]], "float32"))
        >>> seen = Evidence(model, tuple(weights(model)), data, "mse")  # two gradients, 2 and -2
        >>> float(Fisher().measure(seen)[0][0, 0]), float(Fisher("curvature").measure(seen)[0][0, 0])
        (2.0, 4.0)
    """

    needs = "gradients"

    def __init__(self, form: str = "saliency", *, batch_size: int = 256):
        self.form = one_of("form", form, ("saliency", "curvature"))
        self.batch_size = positive_int("batch_size", batch_size)

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        curvature = squared_gradients(seen, batch_size=self.batch_size)
        if self.form == "curvature":
            return curvature
        return [np.square(w) * f * np.float32(0.5) for w, f in zip(seen.kernels, curvature, strict=True)]

    def measure_units(self, seen: Evidence) -> dict[str, np.ndarray]:
        """Theis' score of every unit: {layer path: float32 array (units,)}, higher means keep.

        Units are the last axis of the layer's output. A recurrent cell's are those of the layer around it, whose
        positions are the steps that it returns.

        Args:
            seen: model, kernels of the layers that are asked for, data and loss.

        Raises:
            InputError: no data, no loss, or a layer whose outputs cannot be seen, as inside of another's loop.
        """
        found = PerExample(seen, batch_size=self.batch_size).units()
        return {path: values * np.float32(0.5) for path, values in found.items()}


@register("prediction_sensitivity")
class PredictionSensitivity(Criterion):
    """How strongly a weight moves the model's predictions, whatever the labels say.

    Use it where labels are few or wrong, or for a trained model whose loss is near zero, so that gradients of the
    loss vanish. For classes, with P(y | x) of all classes y, not the labelled one alone:

        R_i = sum_n sum_y (d P(y | x_n) / d w_i)^2

    For reconstructions the outputs y_j take the place of the classes, each on the scale of its own error; this
    is N times the diagonal Fisher information of a Gaussian output:

        R_i = sum_n sum_j (d y_j(x_n) / d w_i)^2 / s_j^2

    with s_j^2 the mean squared residual of output j over the samples, not below `floor` times its mean over j
    (outputs that are always right, as black borders, would otherwise outweigh all others; all right: s_j = 1).
    Each sum over y or j costs one backward pass per term, so that for many outputs it is estimated: with random
    signs v_j for each sample, the square of the gradient of sum_j v_j y_j / s_j has the sum as its expectation
    (Hutchinson 1989, https://doi.org/10.1080/03610919008812866).

    Weights that no prediction depends on score 0, as those of the log-variance of a variational autoencoder.

    kind="auto" takes classes for a loss of categorical crossentropy, for binary crossentropy where labels are
    given, and for other losses (or none) where the last activation is softmax; everything else is a
    reconstruction. One loss, one output tensor.

    Args:
        kind: "auto", "classes" or "reconstruction".
        probes: random signs per sample, >= 1; None is exact up to 64 outputs, and takes 32 for more.
        from_logits: whether outputs are logits of classes; None asks the loss.
        floor: least s_j^2, as a fraction of their mean, 0 < floor <= 1.
        seed: of the signs, a whole number >= 0.
        batch_size: samples at once, >= 1.

    Example:
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> data = Calibration(np.array([[1.0, 3.0]], "float32"), np.array([[2.0]], "float32"))
        >>> seen = Evidence(model, tuple(weights(model)), data)  # y = 4, residual 2: (dy/dw)^2 / 4
        >>> PredictionSensitivity().measure(seen)[0].ravel().tolist()
        [0.25, 2.25]
    """

    needs = "gradients"

    def __init__(
        self,
        kind: str = "auto",
        *,
        probes: int | None = None,
        from_logits: bool | None = None,
        floor: float = 0.01,
        seed: int = 0,
        batch_size: int = 256,
    ):
        self.kind = one_of("kind", kind, ("auto", "classes", "reconstruction"))
        self.probes = None if probes is None else positive_int("probes", probes)
        self.from_logits = one_of("from_logits", from_logits, (None, True, False))
        self.floor = fraction("floor", floor, low_open=True, high_open=False)
        self.seed = positive_int("seed", seed, minimum=0)
        self.batch_size = positive_int("batch_size", batch_size)

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        if seen.data is None:
            raise InputError("data: got None, allowed: calibration samples, for predictions")
        loss = _loss(seen)
        classes = self.kind == "classes" or (self.kind == "auto" and _is_classifier(seen, loss))
        outputs = _predictions(seen, self.batch_size)
        if not isinstance(outputs, np.ndarray):
            raise InputError(
                f"model {seen.model.name!r}: got several outputs, allowed: one, for criterion 'sensitivity'"
            )
        logits = getattr(loss, "from_logits", False) if self.from_logits is None else self.from_logits
        if classes:
            binary = type(loss).__name__ in _BINARY_LOSSES or outputs.shape[-1] == 1
            if not logits:
                _check_probabilities(outputs, binary)
            last = keras.ops.sigmoid if binary else keras.ops.softmax
            weights, twice = np.ones(outputs.shape[1:], np.float32), 2.0 if binary else 1.0  # y = 0 moves as y = 1
        else:
            logits, twice = False, 1.0
            weights = 1 / np.sqrt(self._variances(seen, outputs))

        def objective(signs: Any, predicted: Any) -> Any:
            predicted = last(predicted) if logits else predicted
            product = signs * tf.reshape(tf.cast(predicted, tf.float32), (tf.shape(predicted)[0], -1))
            return tf.reduce_sum(product, axis=1)

        gradients = PerExample(seen, objective, batch_size=self.batch_size)
        terms = list(self._signs(weights.ravel()))
        exact = self.probes is None and weights.size <= _EXACT_OUTPUTS
        scale = twice * len(outputs) / (1 if exact else len(terms))
        squares = (gradients.squares(term(len(outputs))) for term in terms)
        total = next(squares)
        for found in squares:
            total = [a + b for a, b in zip(total, found, strict=True)]
        return [(values * np.float32(scale)).astype(np.float32) for values in total]

    def _signs(self, weights: np.ndarray) -> Iterator[Any]:
        """Functions of the number of samples that give what the outputs are multiplied by, (n, outputs)."""
        if self.probes is None and weights.size <= _EXACT_OUTPUTS:
            for j in range(weights.size):
                row = np.zeros_like(weights)
                row[j] = weights[j]
                yield lambda n, row=row: np.tile(row, (n, 1))
            return
        draw = np.random.default_rng(self.seed)
        for _ in range(self.probes or _PROBES):
            yield lambda n: np.where(draw.integers(0, 2, (n, weights.size)), weights, -weights)

    def _variances(self, seen: Evidence, outputs: np.ndarray) -> np.ndarray:
        targets = seen.samples.x if seen.samples.y is None else seen.samples.y
        if np.size(targets) != outputs.size:
            raise InputError(
                f"y: got targets of shape {np.shape(targets)} for outputs of shape {outputs.shape}, allowed: "
                "targets of the outputs' shape, or kind='classes'"
            )
        squared = np.square(outputs.astype(np.float64) - np.reshape(targets, outputs.shape)).mean(axis=0)
        mean = squared.mean()
        return (np.maximum(squared, self.floor * mean) if mean > 0 else np.ones_like(squared)).astype(np.float32)


def _loss(seen: Evidence) -> Any:
    """The loss as an object or function; None where there is none, or one per output."""
    loss = seen.loss
    if loss is None and getattr(seen.model, "_compile_loss", None) is not None:
        loss = seen.model._compile_loss._user_loss
    if isinstance(loss, (list, tuple, dict)) and "class_name" not in loss:
        return None
    found = None if loss is None else keras.losses.get(loss)
    wrapped = {
        "categorical_crossentropy": keras.losses.CategoricalCrossentropy(),
        "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy(),
        "binary_crossentropy": keras.losses.BinaryCrossentropy(),
    }
    return wrapped.get(getattr(found, "__name__", ""), found)


def _is_classifier(seen: Evidence, loss: Any) -> bool:
    name = type(loss).__name__
    if name in _CLASS_LOSSES:
        return True
    if name in _BINARY_LOSSES:
        return seen.samples.y is not None
    return "softmax" in _last_activation(seen.model)


def _last_activation(model: keras.Model) -> str:
    layer: Any = model
    while isinstance(layer, keras.Model):
        below = output_layers(layer) if is_graph(layer) else [child for _, child in walk(layer)]
        if not below:
            break
        layer = below[-1]
    return getattr(getattr(layer, "activation", None), "__name__", type(layer).__name__).lower()


def _predictions(seen: Evidence, size: int) -> Any:
    compiled = tf.function(lambda x: forward(seen.model, x), autograph=False, reduce_retracing=True)
    parts = [compiled(tf.constant(x)) for x, _ in seen.samples.batches(size)]
    if not isinstance(parts[0], tf.Tensor):
        return None
    return np.concatenate([part.numpy() for part in parts]).astype(np.float32)


def _check_probabilities(outputs: np.ndarray, binary: bool) -> None:
    inside = bool(np.all((outputs >= -1e-4) & (outputs <= 1 + 1e-4)))
    if not inside or not (binary or np.allclose(outputs.sum(axis=-1), 1, atol=1e-2)):
        raise InputError(
            f"outputs: got {shown(outputs.reshape(-1, outputs.shape[-1])[0].tolist())}, no probabilities, "
            "allowed: probabilities of classes, or from_logits=True, or kind='reconstruction'"
        )
