"""distill: train a small model to give what a large one gives, beside what the data say."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune import calibration
from keras_aeprune._progress import clock, silent, to_stderr
from keras_aeprune._validation import (
    InputError,
    fraction,
    keras_model,
    one_of,
    positive_int,
    positive_number,
    refuse,
)

__all__ = ["Lines", "distill", "fed", "outputs_matching", "taught"]

MATCHES = ("auto", "logits", "probabilities", "outputs")
_CATEGORICAL: tuple[str, ...] = ("CategoricalCrossentropy", "SparseCategoricalCrossentropy")
_CATEGORICAL += ("categorical_crossentropy", "sparse_categorical_crossentropy")
_LEAST = 1e-7  # of a probability whose logarithm is taken


class Lines(keras.callbacks.Callback):
    """Says one line for each epoch: its number, the losses, the time that is left."""

    def __init__(self, what: str, progress: bool):
        super().__init__()
        self.what, self.say = what, to_stderr if progress else silent

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs, epochs, passed = logs or {}, self.params["epochs"], time.monotonic() - self._began
        losses = "  ".join(f"{n} {float(logs[n]):.5g}" for n in ("loss", "val_loss") if n in logs)
        left = clock(passed / (epoch + 1) * (epochs - epoch - 1))
        self.say(f"{self.what}: epoch {epoch + 1}/{epochs}  {losses}  {left} left", epoch + 1 == epochs)


def fed(name: str, data: Any, batch_size: int) -> dict[str, Any]:
    """Arguments for `fit`: batches as they are, arrays as x and y, with y = x where there is none."""
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        steps = int(data.cardinality()) if isinstance(data, tf.data.Dataset) else data.num_batches
        if steps is None or steps < 1:
            raise InputError(f"{name}: got endless batches, allowed: a known number; data.take(n) gives n of them")
        return {"x": data, "shuffle": False}
    found = calibration.get(data, balanced=False)
    y = found.x if found.y is None else found.y
    return {"x": found.x, "y": y, "batch_size": batch_size, "shuffle": True}


def _kind(student: keras.Model, match: str) -> str:
    """What the outputs are; "auto" asks the compiled loss."""
    if one_of("match", match, MATCHES) != "auto":
        return match
    loss = getattr(student, "loss", None)
    if isinstance(loss, (list, tuple, dict)):
        raise InputError(
            f"match: got 'auto' for model {student.name!r} with several losses, allowed: {', '.join(MATCHES[1:])}"
        )
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    if name not in _CATEGORICAL:
        return "outputs"
    config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    inner = config.get("fn_kwargs", config)
    return "logits" if inner.get("from_logits", False) else "probabilities"


def outputs_matching(wanted: Any, given: Any) -> Any:
    """Mean squared difference of the teacher's and the student's outputs."""
    kinds = keras.tree.map_structure(lambda _: "mse", given)
    return keras.distillation.FeatureDistillation(loss=kinds).compute_loss(wanted, given)


def _matching(kind: str, temperature: float) -> Any:
    """(teacher's outputs, student's outputs) -> loss."""
    if kind == "outputs":
        return outputs_matching

    def loss(wanted: Any, given: Any) -> Any:
        if kind == "probabilities":  # their logarithms are logits
            wanted, given = (
                keras.tree.map_structure(lambda p: tf.math.log(tf.maximum(p, _LEAST)), outputs)
                for outputs in (wanted, given)
            )
        # An instance: the name "kl_divergence" is a function, to which Keras 3.15 gives the raw logits.
        kinds = keras.tree.map_structure(lambda _: keras.losses.KLDivergence(), given)
        return keras.distillation.LogitsDistillation(temperature, loss=kinds).compute_loss(wanted, given)

    return loss


@contextmanager
def taught(model: keras.Model, teacher: keras.Model, matching: Any, alpha: float) -> Iterator[list[bool]]:
    """The model's training loss with a teacher's share in it; gives a list that is filled once it is used.

    `keras.distillation.Distiller` has the same losses, but drops penalties, loss weights and sample weights,
    freezes the teacher for good, and gives callbacks itself as the model, so that `Prune` would see no kernels of
    the student's by their own paths. So only its losses are used, and the student stays the model that is fitted.
    """
    used: list[bool] = []
    own, takes = model.compute_loss, model._compute_loss_has_training_arg

    def compute_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        loss = own(x, y, y_pred, sample_weight, **({"training": training} if takes else {}))
        if not training:
            return loss
        used.append(True)
        wanted = keras.tree.map_structure(tf.stop_gradient, teacher(x, training=False))
        wanted, given = (
            keras.tree.map_structure(lambda t: tf.cast(t, "float32"), outputs) for outputs in (wanted, y_pred)
        )
        return (1 - alpha) * loss + alpha * tf.cast(matching(wanted, given), loss.dtype)

    before = {name: vars(model)[name] for name in ("compute_loss",) if name in vars(model)}
    vars(model).update(compute_loss=compute_loss, _compute_loss_has_training_arg=True)
    try:
        model.make_train_function(force=True)
        yield used
    finally:
        del vars(model)["compute_loss"]
        vars(model).update(before, _compute_loss_has_training_arg=takes)
        model.make_train_function(force=True)


def _check_teacher(teacher: keras.Model, student: keras.Model, kind: str, first: Any) -> None:
    if teacher is student:
        raise InputError(f"teacher: got the student {student.name!r} itself, allowed: another model")
    if teacher.output_shape != student.output_shape:
        raise InputError(
            f"teacher: got outputs {teacher.output_shape}, allowed: {student.output_shape} as the student's"
        )
    for outputs in keras.tree.flatten(teacher(first, training=False)):
        outputs = keras.ops.convert_to_numpy(outputs).astype(np.float64)
        if not np.isfinite(outputs).all():
            raise InputError("teacher: got outputs that are NaN or infinite, allowed: finite ones")
        sums = np.allclose(outputs.sum(-1), 1, atol=1e-3) and (outputs >= 0).all()
        if kind == "probabilities" and not sums:
            raise InputError(
                "teacher: got outputs that are no probabilities (of each sample >= 0 with sum 1), allowed with "
                "match='probabilities': a softmax at the end; match='logits' takes numbers before a softmax"
            )
        if kind == "logits" and sums and outputs.shape[-1] > 1:
            raise InputError(
                "teacher: got outputs that are probabilities, allowed with match='logits': numbers before a "
                "softmax; match='probabilities' takes those after it, of both models"
            )


def distill(
    student: keras.Model,
    teacher: keras.Model,
    data: Any,
    *,
    alpha: float = 0.5,
    temperature: float = 4.0,
    match: str = "auto",
    epochs: int = 5,
    batch_size: int = 128,
    validation: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    seed: int = 0,
    progress: bool = True,
) -> dict[str, list[float]]:
    """Train a student to give what a teacher gives, beside what the data say; `model.fit` with a teacher.

    Use it to win back what pruning, sharing or cutting costs, the dense model being the teacher: put `Prune`,
    `KeepSparse` or `Cluster` into `callbacks`. The student trains in place with the optimizer, loss and metrics
    that it was compiled with. With its own loss L, the teacher's logits u and the student's z, of classes:

        loss = (1 - alpha) * L + alpha * T^2 * KL(softmax(u / T) || softmax(z / T))

    and where the outputs are no classes, loss = (1 - alpha) * L + alpha * mean((u - z)^2). Penalties are part of
    L. In evaluation the loss is L alone. The second part is one of `keras.distillation`.
    Hinton et al. 2015, https://arxiv.org/abs/1503.02531.

    Args:
        student: a compiled, built Keras model.
        teacher: another one with the same inputs and outputs; it is not changed, nor frozen.
        data: x of shape (n, ...) for an autoencoder, (x, y), and what else `calibration.get` takes, or a
            tf.data.Dataset or PyDataset of batches (x, y).
        alpha: share of the teacher in the loss, a fraction 0 <= a <= 1; at 1 targets do not matter.
        temperature: T > 0; at 1 probabilities as they are, above it small ones count more.
        match: what the outputs of both are: "logits", "probabilities" (after a softmax), "outputs" (any
            numbers, compared by their squared difference), or "auto": by the student's loss, where a categorical
            cross-entropy means classes and all else "outputs".
        epochs: passes over the data, >= 1.
        batch_size: samples of one step, >= 1; batches that come as such keep theirs.
        validation: as `data`; its loss and metrics are in the history. None for none.
        callbacks: Keras callbacks, their model is the student.
        seed: of order and noise, a whole number >= 0; sets Keras' global seed.
        progress: True writes a line for each epoch to standard error.

    Returns:
        {name: a number for each epoch}, as `History.history`.

    Raises:
        InputError: a student that is not compiled or whose train_step calls no `compute_loss`, a teacher with
            outputs of another shape or kind, other values out of range.

    Example:
        >>> layers = [keras.Input((2,)), keras.layers.Dense(3)]
        >>> teacher, student = keras.Sequential(layers), keras.Sequential([*layers[:1], keras.layers.Dense(3)])
        >>> student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x = np.random.default_rng(0).normal(size=(64, 2))
        >>> history = distill(student, teacher, (x, np.zeros(64, int)), alpha=0.9, epochs=2, progress=False)
        >>> history["loss"][1] < history["loss"][0]
        True
    """
    keras_model(student, "student")
    keras_model(teacher, "teacher")
    alpha = fraction("alpha", alpha, high_open=False)
    temperature = positive_number("temperature", temperature)
    epochs, batch_size = positive_int("epochs", epochs), positive_int("batch_size", batch_size)
    seed = positive_int("seed", seed, minimum=0)
    if not isinstance(progress, bool):
        raise refuse("progress", progress, "True or False")
    if not student.compiled or student.optimizer is None:
        raise InputError(
            f"student {student.name!r}: got one that is not compiled, allowed: a compiled one; compile() it"
        )
    kind = _kind(student, match)
    arguments = fed("data", data, batch_size)
    judged: Any = None if validation is None else fed("validation", validation, batch_size)
    if judged is not None:
        judged = (judged["x"], judged["y"]) if "y" in judged else judged["x"]
    _check_teacher(teacher, student, kind, _first(arguments))
    keras.utils.set_random_seed(seed)
    every = [*callbacks, Lines(f"distill {student.name}", progress)]
    with taught(student, teacher, _matching(kind, temperature), alpha) as used:
        run = student.fit(**arguments, epochs=epochs, validation_data=judged, callbacks=every, verbose=0)
    if not used:
        raise InputError(
            f"student {student.name!r}: got a model whose train_step does not call compute_loss, so no teacher "
            "was heard, allowed: one that does"
        )
    return {name: [float(value) for value in values] for name, values in run.history.items()}


def _first(arguments: dict[str, Any]) -> Any:
    """The inputs of some samples."""
    x = arguments["x"]
    if isinstance(x, keras.utils.PyDataset):
        return x[0][0]
    if isinstance(x, tf.data.Dataset):
        batch = next(iter(x))
        return batch[0] if isinstance(batch, tuple) else batch
    return x[: arguments["batch_size"]]
