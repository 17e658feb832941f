"""Criteria that look at the gradient of the loss on calibration data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._layers import Weight
from keras_aeprune._validation import InputError, is_real, one_of, positive_int, refuse
from keras_aeprune.criteria.base import Criterion, Evidence, register
from keras_aeprune.criteria.losses import parts, unchanged
from keras_aeprune.criteria.training_loss import training_losses

__all__ = ["GraSP", "GradientMagnitude", "SNIP", "Taylor", "gradients"]


def gradients(seen: Evidence, *, batch_size: int = 256) -> list[np.ndarray]:
    """The gradient of the mean loss over all calibration data, for each kernel.

        g = d/dw 1/N sum_n loss_n

    with the losses of `training_losses`; the model computes as in evaluate. It does not depend on the batch size
    but for rounding. A kernel that the loss does not reach gets zeros. That of a variational autoencoder reaches
    the log-variance too, through the divergence.

    Args:
        seen: model, kernels (frozen ones too), data and loss.
        batch_size: samples at once, >= 1; it costs memory only.

    Returns:
        One float32 array per kernel, of its shape.

    Raises:
        InputError: no data, no loss, or gradients that are not finite.

    Example:
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.layers[0].set_weights([np.array([[3.0]])])
        >>> seen = Evidence(model, tuple(weights(model)), Calibration(np.ones((2, 1), "float32")), "mse")
        >>> gradients(seen)[0].tolist()  # d/dw (w - 1)^2 = 2 * (3 - 1)
        [[4.0]]
    """
    losses = training_losses(seen)

    def added(x: Any, y: Any, rows: tf.Tensor) -> list[tf.Tensor]:
        return _gradient(lambda values: _batch_loss(seen, losses, x, y, rows, values), _values(seen.weights))

    return _over_batches(seen, added, batch_size)


@register("snip")
class SNIP(Criterion):
    """|w g|: how much the loss changes, to first order, when the weight goes, whichever way.

    Use it to prune before or early in training: near a minimum g is close to 0 and says little.

        s = |w * dL/dw|,    L = mean loss over the calibration data

    The paper divides by the sum over all weights, which changes no order and is left out. Lee et al.,
    "SNIP: Single-shot network pruning based on connection sensitivity", 2019, https://arxiv.org/abs/1810.02340.

    Example:
        >>> SNIP().needs
        'gradients'
    """

    needs = "gradients"

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        return [np.abs(w * g) for w, g in zip(seen.kernels, gradients(seen), strict=True)]


@register("gradient_magnitude")
class GradientMagnitude(Criterion):
    """|w| weighted by the size of its gradients: a large weight that the loss also feels stays.

    The first choice for unstructured pruning while training goes on, with one threshold for the whole model
    (allocation="global"): gradients put layers on one scale, which magnitudes are not. It holds at a minimum too,
    where the mean gradient vanishes and the gradients of single batches do not.

        s = |w| * (mean over batches of g_b^2)^(exponent / 2),    g_b = gradient of the batch's mean loss

    The exponent is small, since gradients are noisy and change when other weights go: of 0, 0.25, 0.5 and 1 on an
    autoencoder of Fashion-MNIST 0.25 had the lowest test error, and 1 a higher one than 0 at 90% and 95% zeros.
    Exponent 1 ranks single weights as `Taylor` does, and as GBLM-Pruner does for language models: Das et al.,
    "Beyond size: how gradients shape pruning decisions", 2023, https://arxiv.org/abs/2311.04902.

    Args:
        exponent: of the gradients' size, >= 0; 0 is the magnitude alone.
        batch_size: samples in a batch, >= 1; a smaller one gives more weight to single samples.

    Example:
        >>> GradientMagnitude(exponent=0.5)
        GradientMagnitude(exponent=0.5, batch_size=32)
    """

    needs = "gradients"

    def __init__(self, exponent: float = 0.25, *, batch_size: int = 32):
        if not is_real(exponent) or not 0 <= exponent < math.inf:
            raise refuse("exponent", exponent, "a number >= 0")
        self.exponent = float(exponent)
        self.batch_size = positive_int("batch_size", batch_size)

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        squares = _mean_squares(seen, self.batch_size)
        return [
            np.abs(w) * np.power(square, self.exponent / 2, dtype="float32")
            for w, square in zip(seen.kernels, squares, strict=True)
        ]


@register("taylor")
class Taylor(Criterion):
    """(w g)^2: the squared first-order change of the loss when a weight, or a whole unit, goes.

    Use form="weight" for single weights, "group" or "gate" for cutting neurons and filters. All are means over
    batches b of size `batch_size`, with L_b the batch's mean loss:

        weight: (w dL_b/dw)^2
        group:  (sum over the unit's weights and biases of w dL_b/dw)^2
        gate:   (dL_b/dz)^2 at z = 1, where z multiplies the unit's output a:  dL_b/dz = sum of a dL_b/da

    For units with ReLU or no activation and their own bias, group and gate are equal. In a recurrent layer a unit
    owns its column in every gate, and z multiplies the output at every step, also where it is fed back. Molchanov
    et al., "Importance estimation for neural network pruning", 2019, https://arxiv.org/abs/1906.10771.

    `measure_units` gives unit scores as they are. As weight scores (group, gate) each unit's score is spread
    evenly over the unit's kernel weights, so that their sum is the unit's score.

    Args:
        form: "weight", "group" or "gate".
        batch_size: samples in a batch, >= 1. With 1, scores are means of squares over samples.

    Example:
        >>> Taylor("gate")
        Taylor(form='gate', batch_size=32)
    """

    needs = "gradients"

    def __init__(self, form: str = "weight", *, batch_size: int = 32):
        self.form = one_of("form", form, ("weight", "group", "gate"))
        self.batch_size = positive_int("batch_size", batch_size)

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        if self.form == "weight":
            squares = _mean_squares(seen, self.batch_size)
            return [w * w * square for w, square in zip(seen.kernels, squares, strict=True)]
        apart = [weight.path for weight in seen.weights if not _in_units(weight)]
        if apart:
            raise InputError(
                f"Taylor: got kernels without output units of their own ({', '.join(apart)}), allowed: "
                "form='weight', or exclude them"
            )
        scores, layers = self.measure_units(seen), _layers_with_units(seen)
        return [_spread(weight, layers[weight.layer_path], scores[weight.layer_path]) for weight in seen.weights]

    def measure_units(self, seen: Evidence) -> dict[str, np.ndarray]:
        """Scores of the output units of each layer with a kernel in `seen.weights`.

        Args:
            seen: model, kernels, data and loss; kernels without output units (EinsumDense, the depthwise one
                of a separable convolution) are not looked at.

        Returns:
            {layer path: float32 array of shape (units,)}.

        Raises:
            InputError: for form="weight", which has no scores of units; no data; gradients that are not finite.
        """
        if self.form == "weight":
            raise InputError("Taylor: got form='weight', allowed: 'group' or 'gate' for scores of units")
        layers, losses = _layers_with_units(seen), training_losses(seen)
        owned = [(found, _bias(found[0])) for found in layers.values()]

        def group(x: Any, y: Any, rows: tf.Tensor) -> list[tf.Tensor]:
            flat = [weight for found, bias in owned for weight in (*found, *bias)]
            values = _values(flat)
            slopes = _gradient(lambda v: _batch_loss(seen, losses, x, y, rows, v, flat), values)
            changes = iter([value * slope for value, slope in zip(values, slopes, strict=True)])
            sums = [[_unit_sums(found[0], w, next(changes)) for w in (*found, *bias)] for found, bias in owned]
            return [_square(tf.add_n(one), rows) for one in sums]

        def gate(x: Any, y: Any, rows: tf.Tensor) -> list[tf.Tensor]:
            def total(gates: list[tf.Tensor]) -> tf.Tensor:
                with unchanged(seen.model):
                    for (found, _), values in zip(owned, gates, strict=True):
                        _put_gate(found[0], values)
                    for layer in parts(seen.model):
                        if "use_cudnn" in vars(layer):  # its fused loop would pass by the gated cell
                            vars(layer)["use_cudnn"] = False
                    return _batch_loss(seen, losses, x, y, rows)

            ones = [tf.ones(_units(found[0])) for found, _ in owned]
            return [_square(slope, rows) for slope in _gradient(total, ones)]

        scores = _over_batches(seen, gate if self.form == "gate" else group, self.batch_size, list(layers))
        return dict(zip(layers, scores, strict=True))


@register("grasp")
class GraSP(Criterion):
    """w * (H g): keep the weights whose removal would weaken the flow of gradients.

    Use it before training only, to keep a network trainable at high sparsity.

        s = w * (H g),    g = dL/dw,  H = d2L/dw2,  L = mean loss over all calibration data

    Removing a weight changes |g|^2 by about -2 s: those with the lowest, most negative scores go first, since
    the gradients grow without them. The paper writes -w * (H g) and removes the highest: the same weights. Its
    code divides logits by 200 first; here the loss is as given. Scores have a sign: they rank weights, and their
    sums over units are sums with sign. Wang et al., "Picking winning tickets before training by preserving
    gradient flow", 2020, https://arxiv.org/abs/2002.07376.

    Args:
        batch_size: samples at once, >= 1; it costs memory only, H and g are those of all data.

    Example:
        >>> GraSP()
        GraSP(batch_size=256)
    """

    needs = "gradients"

    def __init__(self, *, batch_size: int = 256):
        self.batch_size = positive_int("batch_size", batch_size)

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        losses = training_losses(seen)
        along = [tf.constant(g) for g in gradients(seen, batch_size=self.batch_size)]

        def added(x: Any, y: Any, rows: tf.Tensor) -> list[tf.Tensor]:
            def slope(values: list[tf.Tensor]) -> tf.Tensor:
                first = _gradient(lambda v: _batch_loss(seen, losses, x, y, rows, v), values)
                return tf.add_n(
                    [tf.reduce_sum(tf.cast(g, "float32") * v) for g, v in zip(first, along, strict=True)]
                )

            return _gradient(slope, _values(seen.weights))

        products = _over_batches(seen, added, self.batch_size)
        return [w * product for w, product in zip(seen.kernels, products, strict=True)]


def _mean_squares(seen: Evidence, batch_size: int) -> list[np.ndarray]:
    """The mean over batches of the squared gradient of the batch's mean loss, for each kernel."""
    losses = training_losses(seen)

    def added(x: Any, y: Any, rows: tf.Tensor) -> list[tf.Tensor]:
        slopes = _gradient(lambda values: _batch_loss(seen, losses, x, y, rows, values), _values(seen.weights))
        return [_square(slope, rows) for slope in slopes]

    return _over_batches(seen, added, batch_size)


def _square(slope: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Square of the batch's mean gradient from its sum, times the batch's samples."""
    return tf.square(tf.cast(slope, "float32")) / tf.reduce_sum(rows)


def _values(weights: Iterable[Weight]) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(weight.variable) for weight in weights]


def _batch_loss(
    seen: Evidence, losses: Callable[..., Any], x: Any, y: Any, rows: Any, values: Any = (), weights: Any = None
) -> tf.Tensor:
    """The summed loss of the rows that count, with tensors in the place of the kernels."""
    variables = [w.variable for w in (seen.weights if weights is None else weights)] if values else []
    each = losses(x, y, zip(variables, values, strict=True))
    return tf.reduce_sum(each * tf.cast(rows, each.dtype))


def _gradient(function: Callable[[list[tf.Tensor]], tf.Tensor], values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Dense gradients of function(values); zeros where it does not depend on a value."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        result = function(values)
    found = tape.gradient(result, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(one) for one in found]


def _over_batches(
    seen: Evidence, added: Callable[..., list[tf.Tensor]], batch_size: int, names: list[str] | None = None
) -> list[np.ndarray]:
    """The sums of what `added(x, y, rows)` gives for each batch, divided by the number of samples.

    The last batch is filled up with rows that do not count (rows = 0), so that one trace serves all.
    """
    if seen.data is None or len(seen.data) == 0:
        raise InputError("data: got no samples, allowed: data=x for an autoencoder, else data=(x, y)")
    size = min(batch_size, len(seen.data))

    @tf.function(autograph=False)
    def step(x: Any, y: Any, rows: tf.Tensor) -> list[tf.Tensor]:
        return [tf.cast(one, "float32") for one in added(x, y, rows)]

    compiled: Callable[..., list[tf.Tensor]] | None = None
    totals: list[tf.Tensor] = []
    for x, y in seen.data.batches(size):
        missing = size - len(keras.tree.flatten(x)[0])
        rows = tf.constant(np.arange(size) < size - missing, "float32")
        x, y = (keras.tree.map_structure(lambda array, n=missing: _filled(array, n), part) for part in (x, y))
        compiled = compiled or step.get_concrete_function(x, y, rows)  # else TensorFlow warns of many tracings
        found = compiled(x, y, rows)
        totals = [total + one for total, one in zip(totals, found, strict=True)] if totals else found
    means = [total.numpy() / np.float32(len(seen.data)) for total in totals]
    for name, mean in zip(names or [weight.path for weight in seen.weights], means, strict=True):
        if not np.isfinite(mean).all():
            raise InputError(
                f"{name}: got gradients that are NaN or infinite, allowed: finite ones; look for NaN in weights "
                "and data, and for data far outside the range that the model was trained on"
            )
    return means


def _filled(array: Any, missing: int) -> tf.Tensor:
    array = np.asarray(array)
    return tf.convert_to_tensor(
        np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array
    )


def _in_units(weight: Weight) -> bool:
    """Whether a kernel is cut along the output units of its layer; a separable layer's first kernel is not."""
    return weight.facts.unit_axis is not None and weight.facts.name != "depthwise_kernel"


def _layers_with_units(seen: Evidence) -> dict[str, list[Weight]]:
    found: dict[str, list[Weight]] = {}
    for weight in seen.weights:
        if _in_units(weight):
            found.setdefault(weight.layer_path, []).append(weight)
    return found


def _units(weight: Weight) -> int:
    """Output units of the layer; recurrent cells hold one column for each unit and gate."""
    if hasattr(weight.layer, "state_size"):
        return int(getattr(weight.layer, "units", None) or weight.layer.filters)
    return int(weight.variable.shape[weight.facts.axis])


def _bias(weight: Weight) -> list[Weight]:
    bias = getattr(weight.layer, "bias", None)
    fits = isinstance(bias, keras.Variable) and math.prod(bias.shape) % _units(weight) == 0
    return [Weight(f"{weight.layer_path}/bias", weight.layer_path, weight.layer, None, bias)] if fits else []


def _unit_sums(kernel: Weight, weight: Weight, array: tf.Tensor) -> tf.Tensor:
    """Sums over what each unit owns in a kernel or bias, shape (units,)."""
    units = _units(kernel)
    if weight.kernel is not None:
        array = keras.ops.moveaxis(array, weight.kernel.unit_axis, -1)
    elif kernel.facts.unit_axis == -2 and array.shape[-1] != units:  # depthwise: several outputs per channel
        return tf.reduce_sum(tf.reshape(array, (units, -1)), axis=1)
    return tf.reduce_sum(tf.reshape(array, (-1, units)), axis=0)


def _put_gate(weight: Weight, gate: tf.Tensor) -> None:
    """Let a layer multiply its output units by `gate`; undone by `unchanged`."""
    layer, call = weight.layer, weight.layer.call
    first = getattr(layer, "data_format", None) == "channels_first"

    def gated(output: tf.Tensor) -> tf.Tensor:
        channels = output.shape[1 if first else -1]
        factor = tf.cast(tf.repeat(gate, channels // gate.shape[0]), output.dtype)
        return output * (tf.reshape(factor, (-1, *[1] * (len(output.shape) - 2))) if first else factor)

    def called(*args: Any, **kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        if not hasattr(layer, "state_size"):
            return gated(output)
        output, states = output  # the first state is the output that is fed back
        if not isinstance(states, (list, tuple)):
            return gated(output), gated(states)
        return gated(output), [gated(states[0]), *states[1:]]

    vars(layer)["call"] = called


def _spread(weight: Weight, layer: list[Weight], scores: np.ndarray) -> np.ndarray:
    """Unit scores as scores of a kernel's weights, so that they add up to the unit's over the layer's kernels."""
    shape, axis = tuple(weight.variable.shape), weight.facts.axis
    share = scores * (len(scores) / sum(math.prod(one.variable.shape) for one in layer))
    along = np.tile(share, shape[axis] // len(share))
    flat = [1] * len(shape)
    flat[axis] = len(along)
    return np.broadcast_to(along.reshape(flat), shape).astype(np.float32)
