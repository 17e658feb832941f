"""How much a unit's activations tell, and how much a layer's ON/OFF states do."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import calibration
from keras_aeprune._layers import fits, weights
from keras_aeprune._validation import InputError, keras_model, one_of, positive_int, refuse
from keras_aeprune.criteria.activations import ActivationCriterion, rows
from keras_aeprune.criteria.base import Evidence, register
from keras_aeprune.criteria.recording import Record, stream

__all__ = ["ActivationEntropy", "LayerEntropy", "layer_entropies", "state_entropies"]

# Activations with an OFF side: their sign is that of what they get.
_RECTIFIERS = {"relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "swish"}
_RECTIFIERS |= {"mish", "hard_silu", "hard_swish", "threshold"}


@register("activation_entropy")
class ActivationEntropy(ActivationCriterion):
    """Entropy of a unit's activations: units that tell little about the input go first.

    Use "histogram" to cut units and filters, "state" behind rectifiers (ReLU and its kin) only.

    "histogram" (Luo and Wu, "An entropy-based pruning method", 2017, https://arxiv.org/abs/1706.05791): a
    convolution's channels are averaged over positions, so that there is one value per sample; others count as
    they are, recurrent ones at every step. All units of a layer share equal bins between the layer's smallest and
    largest value, because with bins of its own a near-dead noisy unit would score high. With p[b] the fraction of
    a unit's values in bin b,

        score = -sum over b of p[b] * log p[b]      in nats, 0 <= score <= log(bins)

    It grows with the number of samples and bins: compare at equal ones. A constant unit gets 0.

    "state" (Liao et al., "EGP", 2023, https://arxiv.org/abs/2308.06619): with p = P(z > 0) over samples and
    positions and z the activation's input,

        score = -p log2 p - (1 - p) log2(1 - p)     in bits, 0 <= score <= 1

    A unit that is always ON gets 0, although it may tell much: try "histogram" beside it. State has no meaning
    for outputs without an OFF side (linear codes, sigmoid, tanh, recurrent layers): their units get 1, the
    largest entropy, so that they are never preferred for removal, and a warning lists them.

    Args:
        form: "histogram" or "state".
        bins: number of bins of the histogram, >= 2; "state" ignores it.

    Raises:
        InputError: for other arguments; when measuring, for "state" in a model without a rectifier.

    Example:
        >>> from keras_aeprune._layers import fits, weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="a")])
        >>> model.set_weights([np.array([[1.0, 0.0]]), np.array([0.0, 2.0])])  # the second is constant
        >>> data = Calibration(np.array([[0, 0, 0, 1, 2, 2, 3, 3]], "float32").T)
        >>> found = ActivationEntropy(bins=4).measure_units(Evidence(model, tuple(weights(model)), data))
        >>> [round(float(h), 4) for h in found["a"]]  # p = 3/8, 1/8, 2/8, 2/8
        [1.3209, 0.0]
    """

    def __init__(self, form: str = "histogram", bins: int = 32):
        self.form = one_of("form", form, ("histogram", "state"))
        self.bins = positive_int("bins", bins, minimum=2)

    def units(self, seen: Evidence) -> list[np.ndarray]:
        if self.form == "histogram":
            return _histograms(seen, self.bins)
        states = state_entropies(seen)
        meaningless = {w.layer_path: reason for w, (_, reason) in zip(seen.weights, states, strict=True) if reason}
        if seen.weights and all(reason for _, reason in states):
            raise InputError(
                f"form: got 'state' for a model without a rectifier ({_listed(meaningless)}), allowed: one "
                "with ReLU or its kin, or form='histogram'"
            )
        if meaningless:
            warnings.warn(
                f"state entropy has no meaning for {_listed(meaningless)}; their units get 1 bit, the largest",
                stacklevel=2,
            )
        return [np.ones_like(h) if reason else h for h, reason in states]


@dataclass(frozen=True)
class LayerEntropy:
    """State entropy of one layer.

    Args:
        path: of the layer, names from the outermost model down.
        activation: name of the activation behind it.
        units: number of output units.
        entropy: in bits, 0 <= H <= 1.
    """

    path: str
    activation: str
    units: int
    entropy: float


def layer_entropies(
    model: keras.Model,
    data: Any,
    *,
    form: str = "state",
    layers: Iterable[str] | str | None = None,
    batch_size: int = 256,
) -> list[LayerEntropy]:
    """Mean ON/OFF entropy of each layer's units, in bits; low means the layer is almost linear.

    Use it to find layers that can be emptied, or whose activation can be left out. With H[j] the entropy of unit
    j as in `ActivationEntropy(form="state")`:

    - "state": state z > 0 over all samples; mean over the units with 0 < p < 1 only, 0 if there are none (Liao
      et al., "EGP", 2023, https://arxiv.org/abs/2308.06619)
    - "easier": state z >= 0; mean over all units, for each batch, then over the batches (Quetu et al., "EASIER",
      2024, https://arxiv.org/abs/2404.18949); it depends on the batch size, small batches give less

    Args:
        model: a built Keras model.
        data: calibration samples, what `calibration.get` takes.
        form: "state" or "easier".
        layers: names, paths or patterns (with *) of the layers to measure; None for all that have kernels.
        batch_size: samples at once, >= 1.

    Returns:
        One `LayerEntropy` per layer, in the order of the model.

    Raises:
        InputError: for layers whose outputs have no OFF side (linear codes, sigmoid, ...), each with the
            reason; for names that fit no layer; for data that does not fit.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="relu", name="a")])
        >>> model.set_weights([np.eye(2), np.zeros(2)])
        >>> x = np.array([[1, 1], [-1, 1], [-1, 1], [-1, 1]], "float32")  # p = 1/4 and 1
        >>> [(row.path, round(row.entropy, 6)) for row in layer_entropies(model, x)]
        [('a', 0.811278)]
        >>> round(layer_entropies(model, x, form="easier")[0].entropy, 6)
        0.405639
    """
    one_of("form", form, ("state", "easier"))
    found = {w.layer_path: w for w in weights(keras_model(model)) if w.kernel is not None}
    names = ["*"] if layers is None else [layers] if isinstance(layers, str) else list(layers)
    chosen = tuple(w for w in found.values() if any(fits(w.path, name) for name in names))
    for name in names:
        if not any(fits(w.path, name) for w in found.values()):
            raise refuse("layers", name, f"what fits one of: {', '.join(found)}")
    seen = Evidence(model, chosen, calibration.get(data))
    measured = _states(seen, positive_int("batch_size", batch_size), easier=form == "easier")
    refused = {w.layer_path: m["reason"] for w, m in zip(chosen, measured, strict=True) if m["reason"]}
    if refused:
        good = [w.layer_path for w in chosen if w.layer_path not in refused]
        raise InputError(
            f"layers: state entropy has no meaning for {_listed(refused)}; allowed: layers={good or 'behind ReLU'}"
        )
    table = []
    for weight, m in zip(chosen, measured, strict=True):
        value = m["easier"] if form == "easier" else mean_of_changing(m["entropy"])
        table.append(LayerEntropy(weight.layer_path, m["activation"], len(m["entropy"]), float(value)))
    return table


def state_entropies(seen: Evidence) -> list[tuple[np.ndarray, str]]:
    """(entropy of each unit's state z > 0 in bits, why that has no meaning or "") per kernel."""
    return [(m["entropy"], m["reason"]) for m in _states(seen, 256)]


def mean_of_changing(entropies: np.ndarray) -> float:
    """EGP's entropy of a layer: the mean over units that are neither always ON nor always OFF; 0 without any.

    Example:
        >>> mean_of_changing(np.array([0.0, 1.0, 0.5]))
        0.75
    """
    some = entropies[entropies > 0]
    return float(some.mean()) if some.size else 0.0


def _states(seen: Evidence, batch_size: int, *, easier: bool = False) -> list[dict[str, Any]]:
    """Per kernel: entropy of each unit, EASIER's mean over units and batches, activation and reason."""
    names: dict[int, set[str]] = {id(weight): set() for weight in seen.weights}
    hidden: set[int] = set()

    def reduce(record: Record) -> dict[str, tf.Tensor]:
        key = id(record.weight)
        names[key].add(record.activation)
        if record.before is None:
            hidden.add(key)
        z = rows(record.outputs if record.before is None else record.before)
        n = tf.cast(tf.shape(z)[0], tf.float32)
        at_least = _bits(tf.reduce_sum(tf.cast(z >= 0, tf.float32), 0) / n)
        on = tf.reduce_sum(tf.cast(z > 0, tf.float32), axis=0)
        return {"on": on, "n": n, "easier": tf.reduce_mean(at_least), "batches": tf.ones(())}

    found = []
    for weight, sums in zip(seen.weights, stream(seen, reduce, batch_size=batch_size), strict=True):
        name = ", ".join(sorted(names[id(weight)]))
        bad = ", ".join(sorted(names[id(weight)] - _RECTIFIERS))
        reason = f"{bad} outputs have no OFF side" if bad else ""
        if not reason and easier and id(weight) in hidden:
            reason = "what its activation gets cannot be seen"
        entropy = _bits(sums["on"] / sums["n"]).numpy().astype(np.float32)
        mean = float(sums["easier"] / sums["batches"])
        found.append({"entropy": entropy, "easier": mean, "activation": name, "reason": reason})
    return found


def _bits(p: Any) -> tf.Tensor:
    """-p log2 p - (1 - p) log2(1 - p), 0 at both ends."""
    p = tf.convert_to_tensor(p)
    nats = tf.math.xlogy(p, p) + tf.math.xlogy(1 - p, 1 - p)
    return tf.abs(nats) / tf.math.log(tf.constant(2, p.dtype))  # the sum is never above 0


def _histograms(seen: Evidence, bins: int) -> list[np.ndarray]:
    """Entropy in nats of each output unit's values, one array per kernel; two passes over the data."""

    def ends(record: Record) -> dict[str, tf.Tensor]:
        z = _values(record)
        return {"low": tf.reduce_min(z), "high": tf.reduce_max(z)}

    ranges = {id(w): r for w, r in zip(seen.weights, stream(seen, ends), strict=True)}

    def counts(record: Record) -> dict[str, tf.Tensor]:
        z, low, high = _values(record), *(ranges[id(record.weight)][end] for end in ("low", "high"))
        units = tf.shape(z)[1]
        wide = float(high - low) or 1.0
        place = tf.cast(tf.floor((z - float(low)) / wide * bins), tf.int32)
        place = tf.clip_by_value(place, 0, bins - 1) + bins * tf.range(units)
        found = tf.math.bincount(tf.reshape(place, [-1]), minlength=units * bins, maxlength=units * bins)
        return {"counts": tf.reshape(found, [units, bins])}

    found = []
    for sums in stream(seen, counts):
        p = sums["counts"] / np.maximum(sums["counts"].sum(axis=1, keepdims=True), 1)
        logs = np.log(p, out=np.zeros_like(p), where=p > 0)
        found.append(np.abs((p * logs).sum(axis=1)).astype(np.float32))
    return found


def _values(record: Record) -> tf.Tensor:
    """What the histogram counts: (values, units)."""
    a = record.outputs
    layer = record.weight.layer
    if hasattr(layer, "kernel_size") and a.shape.rank > 2:
        return tf.reduce_mean(a, axis=list(range(1, a.shape.rank - 1)))
    return rows(a)


def _listed(reasons: dict[str, str]) -> str:
    return "; ".join(f"{path or 'the model'}: {reason}" for path, reason in reasons.items())
