"""A little training after a cut, which goes back when it breaks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import calibration
from keras_aeprune._progress import Say, clock, silent, to_stderr
from keras_aeprune._validation import InputError, fraction, keras_model, one_of, positive_int, positive_number
from keras_aeprune.compression.distillation import outputs_matching, taught
from keras_aeprune.datasets import Dataset
from keras_aeprune.sparsity import KeepSparse

__all__ = ["GuardedAdam", "Tuned", "fine_tune"]

_WINDOW = 64  # gradient norms whose median is the measure
_EXPLODED = 100.0  # times that median
_LOOKS = 16  # train steps between two looks at what the compiled step has found
_ROLLBACKS = 3
_SCHEDULES = {
    "cosine": lambda t: (1 + np.cos(np.pi * t)) / 2,
    "linear": lambda t: 1 - t,
    "constant": lambda t: 1.0,
}


@dataclass(frozen=True)
class Tuned:
    """What `fine_tune` did; `str` gives it in words, `to_dict` plain values.

    Args:
        history: losses and metrics of each epoch.
        monitored: "val_loss" or "loss", what the best epoch is chosen by.
        before: its value at the start; None without validation data.
        best: its smallest value; None where no epoch was finite.
        best_epoch: from 1; 0 where the start was best, whose weights the model then has.
        rollbacks: what broke, when, and the learning rate from then on.
        gave_up: whether training ended early because it broke three times.
        seconds: it took.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        >>> model.compile("adam", "mse")
        >>> tuned = fine_tune(model, np.ones((64, 4), "float32"), epochs=1, progress=False)
        >>> tuned.monitored, tuned.best_epoch, tuned.gave_up, tuned.best == tuned.history["loss"][0]
        ('loss', 1, False, True)
    """

    history: dict[str, list[float]]
    monitored: str
    before: float | None
    best: float | None
    best_epoch: int
    rollbacks: tuple[str, ...]
    gave_up: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        losses = " -> ".join(f"{value:.5g}" for value in (self.before, self.best) if value is not None)
        epochs = len(next(iter(self.history.values()), []))
        where = f"in epoch {self.best_epoch} of {epochs}, {clock(self.seconds)}"
        lines = [f"{self.monitored} {losses or 'never finite'} {where}"]
        return "\n".join([*lines, *self.rollbacks, *["gave up"] * self.gave_up])


@keras.saving.register_keras_serializable("keras_aeprune")
class GuardedAdam(keras.optimizers.Adam):
    """Adam that takes no step by a gradient that is not finite, or has exploded, nor any after it.

    The look at the gradient is part of the compiled train step; nothing waits for it. Exploded is a norm of more
    than 100 times the median of the last 64, and of more than `global_clipnorm` (1 without).
    """

    def __init__(self, learning_rate: Any = 1e-3, **kwargs: Any):
        super().__init__(learning_rate, **kwargs)
        self.norms = tf.Variable(tf.zeros(_WINDOW), trainable=False)
        self.seen = tf.Variable(0, trainable=False)
        self.refused = tf.Variable(-1.0, trainable=False)  # the norm that was; below 0 none

    def apply(self, grads: list[Any], trainable_variables: list[keras.Variable] | None = None) -> None:
        norm = tf.cast(tf.linalg.global_norm([g for g in grads if g is not None]), "float32")
        count = tf.minimum(self.seen, _WINDOW)
        ordered = tf.sort(tf.where(tf.range(_WINDOW) < count, self.norms, np.inf))
        median = ordered[tf.maximum(count - 1, 0) // 2]  # infinite before the first step
        limit = tf.maximum(_EXPLODED * median, self.global_clipnorm or 1.0)
        fine = tf.math.is_finite(norm) & (norm <= limit)
        first = ~fine & (self.refused < 0)
        norm_shown = tf.where(tf.math.is_finite(norm), norm, np.inf)
        self.refused.assign(tf.where(first, norm_shown, self.refused))
        fine &= self.refused < 0
        place = self.seen % _WINDOW
        self.norms.scatter_nd_update([[place]], [tf.where(fine, norm, self.norms[place])])
        self.seen.assign_add(tf.cast(fine, tf.int32))
        super().apply([None if g is None else _where(fine, g) for g in grads], trainable_variables)

    def begin_anew(self) -> None:
        """Forget moments, norms and steps."""
        for variable in (*(v.value for v in self.variables), self.seen):
            variable.assign(tf.zeros_like(variable))
        self.refused.assign(-1.0)


def _where(fine: tf.Tensor, gradient: Any) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(_where(fine, gradient.values), gradient.indices, gradient.dense_shape)
    return tf.where(fine, gradient, tf.zeros_like(gradient))


class _Guard(keras.callbacks.Callback):
    """Sets the learning rate, and goes back to the best weights when training breaks and at its end."""

    def __init__(
        self, optimizer: GuardedAdam, rates: Any, monitored: str, before: float | None, taught: Any, say: Say
    ):
        super().__init__()
        self.optimizer, self.rates, self.monitored, self.taught, self.say = (
            optimizer,
            rates,
            monitored,
            taught,
            say,
        )
        self.best, self.best_epoch = before, 0
        self.rollbacks: list[str] = []
        self.gave_up, self._steps, self._scale = False, 0, 1.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._good, self._began, self._epoch = self.model.get_weights(), time.monotonic(), 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch, self._steps = epoch + 1, epoch * (self.params["steps"] or 0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.optimizer.learning_rate = self._scale * self.rates(self._steps + batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.taught == []:
            raise InputError(
                f"teacher: got one for model {self.model.name!r} whose train_step does not call compute_loss, "
                "allowed: one that does; leave the teacher out"
            )
        if (batch + 1) % _LOOKS == 0:
            self._broken(logs or {})

    def _broken(self, logs: dict[str, Any]) -> bool:
        refused = float(self.optimizer.refused)
        losses = [float(logs[name]) for name in ("loss", "val_loss") if name in logs]
        if refused < 0 and np.isfinite(losses).all():
            return False
        what = f"gradient norm {refused:.3g}" if refused >= 0 else f"loss {losses[-1]}"
        self.optimizer.begin_anew()
        self.model.set_weights(self._good)
        self.model.reset_metrics()
        self._scale /= 2
        back = f"back to the weights of epoch {self.best_epoch}, learning rate x {self._scale:g}"
        text = f"{what} in epoch {self._epoch}: {back}"
        self.rollbacks.append(text)
        self.say(f"fine-tune {self.model.name}: {text}", True)
        if len(self.rollbacks) >= _ROLLBACKS:
            self.gave_up = self.model.stop_training = True
        return True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        if not self._broken(logs):
            value = float(logs[self.monitored])
            if self.best is None or value < self.best:
                self.best, self.best_epoch, self._good = value, epoch + 1, self.model.get_weights()
        epochs, passed = self.params["epochs"], time.monotonic() - self._began
        losses = "  ".join(f"{name} {float(logs[name]):.5g}" for name in ("loss", "val_loss") if name in logs)
        left = clock(passed / (epoch + 1) * (epochs - epoch - 1))
        text = f"fine-tune {self.model.name}: epoch {epoch + 1}/{epochs}  {losses}  {left} left"
        self.say(text, epoch + 1 == epochs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.model.set_weights(self._good)


@contextmanager
def _optimized(model: keras.Model, optimizer: GuardedAdam) -> Iterator[None]:
    """Another optimizer for a while."""
    before = model.optimizer
    scaled = isinstance(before, keras.optimizers.LossScaleOptimizer)
    model.optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
    if model.built:
        model.optimizer.build(model.trainable_variables)  # else the first step is traced twice
    try:
        model.make_train_function(force=True)
        yield
    finally:
        model.optimizer = before
        model.make_train_function(force=True)


def _fed(name: str, data: Any, model: keras.Model, batch_size: int) -> tuple[dict[str, Any], int]:
    """Arguments for `fit` and `evaluate`, and how many batches there are."""
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        tensors = isinstance(data, tf.data.Dataset)
        steps = int(data.cardinality()) if tensors else data.num_batches
        if steps is None or steps < 1:
            raise InputError(f"{name}: got endless batches, allowed: a known number; data.take(n) gives n of them")
        return {"x": data}, steps
    found = calibration.get(data, balanced=False)
    same = found.y is None or (
        isinstance(data, Dataset) and tuple(model.output_shape) == (None, *found.x.shape[1:])
    )
    target = found.x if same else found.y
    return {"x": found.x, "y": target, "batch_size": batch_size}, -(-len(found) // batch_size)


def fine_tune(
    model: keras.Model,
    data: Any,
    *,
    epochs: int = 5,
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    batch_size: int = 128,
    validation: Any = None,
    teacher: keras.Model | None = None,
    distill: float = 0.5,
    clip: float | None = 1.0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    seed: int = 0,
    keep_zeros: bool = False,
    progress: bool = True,
) -> Tuned:
    """Train a cut model a little, in place; it ends with the best weights that it had.

    Use it after `compensate` to win back what a cut has cost. It trains with Adam and the compiled loss; the
    optimizer that the model was compiled with is put back at the end, untouched. With a teacher, the large model,
    the loss of training is

        (1 - distill) * loss + distill * mean((teacher's outputs - outputs)^2)

    Where a loss or gradient is not finite, or a gradient's norm is more than 100 times the median of the last 64
    and above `clip`, the step is not taken, the model goes back to its best weights so far, and the learning rate
    is halved; after the third time training ends. Hinton et al. 2015, https://arxiv.org/abs/1503.02531.

    Args:
        model: a compiled Keras model.
        data: x of shape (n, ...) for an autoencoder, (x, y), and what else `calibration.get` takes, or a
            tf.data.Dataset or PyDataset of batches (x, y).
        epochs: passes over the data, >= 1.
        learning_rate: at the start, > 0.
        schedule: "cosine" or "linear", down to 0 at the end, or "constant".
        batch_size: samples of one step, >= 1; batches that come as such keep theirs.
        validation: as `data`; the best weights are those with the smallest loss on it, the first ones included.
            None judges by the loss of training.
        teacher: a model with the same inputs and outputs; it is not changed.
        distill: share of the teacher in the loss, a fraction 0 <= d <= 1.
        clip: largest norm of a gradient, > 0; larger ones are scaled down to it. None leaves them.
        callbacks: more Keras callbacks.
        seed: of order and noise, a whole number >= 0; sets Keras' global seed.
        keep_zeros: whether weights that are zero stay zero, by `sparsity.KeepSparse`.
        progress: True writes a line for each epoch to standard error.

    Returns:
        A `Tuned`: history, the best epoch, and what broke.

    Raises:
        InputError: arguments that do not fit, a model that is not compiled, a teacher with other outputs.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="zeros")])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 2))
        >>> tuned = fine_tune(model, x, epochs=2, validation=x, progress=False)
        >>> tuned.best < tuned.before, tuned.best_epoch, type(model.optimizer).__name__
        (True, 2, 'SGD')
    """
    began = time.monotonic()
    epochs, batch_size = positive_int("epochs", epochs), positive_int("batch_size", batch_size)
    learning_rate = positive_number("learning_rate", learning_rate)
    one_of("schedule", schedule, _SCHEDULES)
    distill = fraction("distill", distill, high_open=False)
    clip = None if clip is None else positive_number("clip", clip)
    if not keras_model(model).compiled or model.optimizer is None:
        raise InputError(
            f"model {model.name!r}: got one that is not compiled, allowed: a compiled one; compile() it"
        )
    if teacher is not None and keras_model(teacher, "teacher").output_shape != model.output_shape:
        raise InputError(
            f"teacher: got outputs {teacher.output_shape}, allowed: {model.output_shape} as the model's"
        )
    keras.utils.set_random_seed(positive_int("seed", seed, minimum=0))
    fed, steps = _fed("data", data, model, batch_size)
    optimizer = GuardedAdam(learning_rate, global_clipnorm=clip)
    before = judged = None
    if validation is not None:
        found, _ = _fed("validation", validation, model, batch_size)
        judged = (found["x"], found["y"]) if "y" in found else found["x"]
        before = float(model.evaluate(**found, verbose=0, return_dict=True)["loss"])
    say = to_stderr if progress else silent
    lesson = nullcontext() if teacher is None else taught(model, teacher, outputs_matching, distill)
    with lesson as used, _optimized(model, optimizer):
        guard = _Guard(
            optimizer,
            lambda step: learning_rate * _SCHEDULES[schedule](min(step / (steps * epochs), 1)),
            "loss" if judged is None else "val_loss",
            before,
            used,
            say,
        )
        every = [*callbacks, *([KeepSparse()] if keep_zeros else []), guard]
        own = {
            "shuffle": "y" in fed,
            "callbacks": every,
            "verbose": 0,
        }  # batches that come as such have their order
        run = model.fit(**fed, epochs=epochs, validation_data=judged, **own)
    history = {name: [float(value) for value in values] for name, values in run.history.items()}
    rollbacks, seconds = tuple(guard.rollbacks), time.monotonic() - began
    return Tuned(history, guard.monitored, before, guard.best, guard.best_epoch, rollbacks, guard.gave_up, seconds)
