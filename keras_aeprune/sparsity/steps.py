"""UpdatePruningStep and PruningSummaries: tfmot's callbacks, on Keras 3."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._validation import InputError, shown
from keras_aeprune.sparsity.layers import attached, collect_prunable_layers
from keras_aeprune.sparsity.siblings import put_last
from keras_aeprune.sparsity.wrapping import warn_if_missed

__all__ = ["PruningSummaries", "UpdatePruningStep"]


class UpdatePruningStep(keras.callbacks.Callback):
    """Watches over a model made by `prune_low_magnitude` during `fit`.

    The masks count their steps and renew themselves, with or without this callback. With it, a schedule that
    has not reached its final sparsity at the end is a warning, weights that something else wrote are masked
    again after every epoch, and `EarlyStopping` and `ModelCheckpoint(save_best_only=True)` only judge
    epochs at the final sparsity.

    Example:
        >>> from keras_aeprune.sparsity import prune_low_magnitude
        >>> model = prune_low_magnitude(keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]))
        >>> model.compile("sgd", "mse")
        >>> x = np.ones((8, 4), "float32")
        >>> history = model.fit(x, x, verbose=0, callbacks=[UpdatePruningStep()])
        >>> int((model.layers[0].layer.kernel.numpy() == 0).sum())
        8
    """

    def __init__(self) -> None:
        super().__init__()
        self.prunable_layers: list[Any] = []

    @property
    def at_target(self) -> bool:
        """Whether every kernel has reached its schedule's final sparsity."""
        return all(not held.missed() for held in attached(self.model))

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        put_last(self)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.prunable_layers = collect_prunable_layers(self.model)
        if not attached(self.model):
            warnings.warn(
                f"UpdatePruningStep: nothing in model {self.model.name!r} is pruned; pass it through "
                "prune_low_magnitude first",
                stacklevel=2,
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for held in attached(self.model):
            held.zero()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        for held in attached(self.model):
            held.zero()
        warn_if_missed(self.model)


class PruningSummaries(keras.callbacks.TensorBoard):
    """Writes the sparsity and the threshold of every pruned kernel for TensorBoard, beside Keras' own curves.

    Needs the package tensorboard. Scalars are named "<mask>/sparsity" and "<threshold>/threshold", over optimizer
    updates, in `log_dir`/metrics; once per epoch and once at the end.

    Args:
        log_dir: folder for the event files.
        update_freq: as for `keras.callbacks.TensorBoard`.
        **kwargs: as for `keras.callbacks.TensorBoard`.

    Raises:
        ValueError: if `log_dir` is no text, or empty.

    Example:
        >>> import tempfile
        >>> callback = PruningSummaries(tempfile.mkdtemp())
    """

    def __init__(self, log_dir: str, update_freq: str | int = "epoch", **kwargs: Any):
        if not isinstance(log_dir, str) or not log_dir:
            raise InputError(f"`log_dir` must be a non-empty string. You passed `log_dir`={shown(log_dir)}.")
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)
        if not hasattr(tf.summary, "scalar"):
            raise InputError("PruningSummaries needs the package tensorboard: pip install tensorboard")
        self._metrics_writer = tf.summary.create_file_writer(f"{log_dir}/metrics")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._write()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._write()
        self._metrics_writer.close()
        super().on_train_end(logs)

    def _write(self) -> None:
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        with self._metrics_writer.as_default(step=step):
            for held in attached(self.model):
                zeros = 1.0 - float(np.mean(keras.ops.convert_to_numpy(held.mask)))
                tf.summary.scalar(f"{held.mask.path}/sparsity", zeros)
                threshold = float(keras.ops.convert_to_numpy(held.threshold))
                tf.summary.scalar(f"{held.threshold.path}/threshold", threshold)
            self._metrics_writer.flush()
