"""Fine-tune a model under the roundings of a full-integer file, so that post-training int8 loses less."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import calibration as samples
from keras_aeprune._layers import walk, weights
from keras_aeprune._progress import Say, silent, to_stderr
from keras_aeprune._validation import InputError, keras_model, one_of, positive_int, positive_number
from keras_aeprune.compression.fake_quant import FakeQuantized
from keras_aeprune.criteria.losses import per_example
from keras_aeprune.sparsity.callbacks import KeepSparse
from keras_aeprune.sparsity.constraints import release

__all__ = ["quantization_aware", "rounded_loss"]

_LEAST = 0.01  # the learning rate ends at this fraction of where it began


def quantization_aware(
    model: keras.Model,
    data: Any,
    *,
    epochs: int = 5,
    learning_rate: float = 1e-4,
    calibration: Any = None,
    validation: Any = None,
    batch_size: int = 64,
    loss: Any = None,
    on_unsupported: str = "warn",
    seed: int = 0,
    progress: bool = True,
) -> keras.Model:
    """A copy of a model that was fine-tuned under int8 roundings; export it with quantize="int8".

    Use it where `export.tflite(model, path, quantize="int8", data=...)` costs more error than is good. While the
    copy trains, its layers compute with what the file will compute with: kernels rounded to int8 with one scale
    per output unit, the input and every layer's output rounded to 256 levels between the smallest and the
    largest value on the calibration data; gradients pass the roundings as if they were not there (Bengio et al.
    2013, https://arxiv.org/abs/1308.3432; Jacob et al. 2018, https://arxiv.org/abs/1712.05877). A layer and
    the BatchNormalization and ReLU behind it are one operation of the file and rounded once.
    BatchNormalization keeps its moving statistics. The ranges are measured as the converter does it, on the
    float weights, before training and after every epoch, and fixed between. The copy ends with the weights of the
    epoch whose rounded loss was lowest, those before training included. Weights that are zero stay zero.

    Args:
        model: a built functional or Sequential model with one input. It is not changed.
        data: training samples: x for an autoencoder, (x, y) otherwise, or what `calibration.get` takes.
        epochs: over the data, >= 1.
        learning_rate: of Adam, > 0; it falls along a cosine to 1/100. About a tenth of the rate of the training
            before.
        calibration: inputs that set the ranges, those that int8 is exported with; None takes all of `data`.
        validation: samples on which the best epoch is chosen; None takes all of `data`.
        batch_size: samples a step, >= 1.
        loss: a Keras loss by name, instance or function; None for the compiled one.
        on_unsupported: what happens with layers that this package cannot round, LSTM for example; they train in
            float. "warn" names them in a warning, "raise" refuses the model, "skip" is for callers who have
            looked at `quantized_layers`.
        seed: of the order of the samples, >= 0.
        progress: True writes a line for each epoch to standard error.

    Returns:
        A plain Keras model of the same architecture, compiled with `loss`, a new Adam and no metrics.

    Raises:
        InputError: arguments that do not fit, a model without a known order of layers, no loss, a loss that is
            not finite.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 4))
        >>> tuned = quantization_aware(model, x, epochs=2, progress=False)
        >>> rounded_loss(tuned, x) <= rounded_loss(model, x)
        True
    """
    epochs, batch_size = positive_int("epochs", epochs), positive_int("batch_size", batch_size)
    learning_rate = positive_number("learning_rate", learning_rate)
    one_of("on_unsupported", on_unsupported, ("warn", "raise", "skip"))
    seed = positive_int("seed", seed, minimum=0)
    seen = samples.get(data)
    ranges = seen if calibration is None else samples.get(calibration)
    judges = seen if validation is None else samples.get(validation)
    copy, loss = _copy(keras_model(model), loss)
    fake = FakeQuantized(copy)
    _report(fake, on_unsupported)
    keras.utils.set_random_seed(seed)
    steps = epochs * math.ceil(len(seen) / batch_size)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=_LEAST)
    copy.compile(keras.optimizers.Adam(rate), **loss)
    fake.observe(ranges.x)
    best = _Best(fake, ranges.x, judges, batch_size, to_stderr if progress else silent)
    targets = seen.x if seen.y is None else seen.y
    sparse = any((np.asarray(one.variable) == 0).any() for one in weights(copy) if one.kernel is not None)
    with fake.rounded():
        best.judge(0)
        # shuffled by fit itself, from the seed
        copy.fit(
            seen.x,
            targets,
            batch_size=batch_size,
            epochs=epochs,
            verbose=0,
            callbacks=[*([KeepSparse()] if sparse else []), best],
        )
    release(copy)
    copy.set_weights(best.weights)
    copy.compile(keras.optimizers.Adam(learning_rate), **loss)  # and forget what was traced with roundings
    return copy


def rounded_loss(
    model: keras.Model, data: Any, *, calibration: Any = None, loss: Any = None, keep_float: tuple[str, ...] = ()
) -> float:
    """The loss of a model as its int8 file would have it, estimated without writing one.

    Args:
        model: a built functional or Sequential model with one input. It is not changed.
        data: samples to judge on, x or (x, y), or what `calibration.get` takes.
        calibration: inputs that set the ranges; None takes `data`.
        loss: as in `quantization_aware`.
        keep_float: paths of layers that are not rounded.

    Returns:
        The mean loss of the samples, without regularization.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> model.compile("sgd", "mse")
        >>> rounded_loss(model, np.array([[0.0], [0.4], [255.0]])) > 0
        True
    """
    judges = samples.get(data)
    fake = FakeQuantized(keras_model(model), keep_float)
    fake.observe((judges if calibration is None else samples.get(calibration)).x)
    with fake.rounded():
        return _mean_loss(_loss_function(model, loss), judges, 256)


def _loss_function(model: keras.Model, loss: Any) -> Callable[[Any, Any], Any]:
    losses = per_example(model, loss)
    return tf.function(lambda x, y: tf.reduce_sum(losses(y, model(x, training=False))), reduce_retracing=True)


def _mean_loss(function: Callable[[Any, Any], Any], judges: samples.Calibration, size: int) -> float:
    total = sum(float(function(tf.constant(x), tf.constant(y))) for x, y in judges.batches(size))
    return total / len(judges)


def _copy(model: keras.Model, loss: Any) -> tuple[keras.Model, dict[str, Any]]:
    """A model of the same architecture and weights, and what to compile it with."""
    given = {"loss": loss}
    if loss is None:
        per_example(model)  # refuses a model without a loss
        given = {"loss": model.loss, "loss_weights": model._compile_loss._user_loss_weights}
    FakeQuantized(model)  # refuses what cannot be cloned
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    made = dict(walk(copy))  # may hold more: an InputLayer that two models share is copied twice
    for path, old in walk(model):
        made[path].trainable = old.trainable
    parts = {layer.name: layer for layer in copy.layers}
    for name in ("encoder", "decoder"):
        half = getattr(model, name, None)
        if isinstance(half, keras.Layer) and half.name in parts and not hasattr(copy, name):
            setattr(copy, name, parts[half.name])
    return copy, given


def _report(fake: FakeQuantized, on_unsupported: str) -> None:
    names = ", ".join(f"{layer.path} ({layer.kind})" for layer in fake.left_float)
    if names and on_unsupported == "raise":
        raise InputError(
            f"model {fake.model.name!r}: got layers that quantization-aware training cannot round: {names}, "
            "allowed: a model without; on_unsupported='warn' trains them in float"
        )
    if names and on_unsupported == "warn":
        warnings.warn(f"quantization_aware: trained in float, though int8 rounds there: {names}", stacklevel=3)


class _Best(keras.callbacks.Callback):
    """Measures the ranges and the rounded loss after every epoch and keeps the best weights."""

    def __init__(self, fake: FakeQuantized, x: np.ndarray, judges: samples.Calibration, size: int, say: Say):
        super().__init__()
        self._fake, self._x, self._judges, self._size, self._say = fake, x, judges, max(size, 256), say
        self._function = _loss_function(fake.model, None)
        self.weights: list[np.ndarray] = []
        self.lowest = math.inf

    def judge(self, epoch: int) -> None:
        """Keep the weights if their loss under rounding is the lowest."""
        found = _mean_loss(self._function, self._judges, self._size)
        if not math.isfinite(found):
            raise InputError(
                f"model {self._fake.model.name!r}: its rounded loss after {epoch} epochs is {found}, allowed: a "
                "finite one; lower learning_rate"
            )
        if found < self.lowest:
            self.lowest, self.weights = found, self._fake.model.get_weights()
        self._say(f"int8 fine-tuning, epoch {epoch}: rounded loss {found:.6g}, lowest {self.lowest:.6g}", False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._fake.observe(self._x)
        self.judge(epoch + 1)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._say(f"int8 fine-tuning: rounded loss {self.lowest:.6g}", True)
