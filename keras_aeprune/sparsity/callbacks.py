"""Prune and KeepSparse: the masks' place in `model.fit`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import keras

from keras_aeprune import schedules
from keras_aeprune._layers import is_built
from keras_aeprune._validation import InputError, fraction, one_of
from keras_aeprune.sparsity.pruner import Pruner
from keras_aeprune.sparsity.siblings import put_last
from keras_aeprune.sparsity.table import SparsityNotReached, SparsityTable

__all__ = ["KeepSparse", "Prune"]


class _Configured(keras.callbacks.Callback):
    """A callback whose copy is a fresh one with the same arguments (tuners deep-copy callbacks)."""

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> _Configured:
        return type(self)(**self.get_config())


class Prune(_Configured):
    """Set a growing fraction of the weights to zero during `model.fit`.

    After every batch the stored weights hold exact zeros, so a checkpoint, a validation and the saved file
    see the pruned model. The saved file is a plain Keras file; there is nothing to strip. The masks stay on
    the model after the fit, so later training of it keeps the zeros; `sparsity.release(model)` takes
    them off, and `KeepSparse` does the same for a model loaded from a file.

    `Prune(0.9)` ramps along a cubic schedule (Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878) from a
    tenth to six tenths of the training and fine-tunes in the rest. Where the number of batches is unknown
    (generators), the ramp is counted in epochs until the first epoch has shown it. Zeros that a kernel has
    at the start stay.

    `EarlyStopping` and `ModelCheckpoint(save_best_only=True)` in the same fit only see epochs at the final
    sparsity, wherever they stand in the list: the early, dense epochs cannot win.

    Args:
        schedule: the final sparsity, a fraction 0 <= s < 1; or a schedule, tfmot's included. Its steps count
            optimizer updates from 0 at the start of the fit.
        criterion: which weights go first, a name or instance from `keras_aeprune.criteria`.
        allocation: "uniform" gives every kernel the same fraction; "global" puts one threshold over all.
        include: prune only these: layer names, paths like "encoder/hidden_1" or patterns like "encoder/*".
        exclude: leave these alone, as in `include`.
        on_unsupported: "skip" lists what cannot be pruned in the table; "raise" refuses the model.
        several_fits: the schedule spans several fits with this callback: steps go on counting from one fit
            to the next, and a fit that ends before the schedule does is no error.

    Attributes:
        table: the `SparsityTable` of the last fit: asked, reached, skipped and why.
        step: optimizer updates seen so far.

    Raises:
        InputError: before training, if the schedule cannot end within it, or nothing can be pruned.
        SparsityNotReached: after training, if the target was missed; the weights and `model.history`
            are those of the whole training.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="hidden")])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).random((64, 8), "float32")
        >>> history = model.fit(x, x, epochs=5, verbose=0, callbacks=[Prune(0.75)])
        >>> float((model.layers[0].kernel.numpy() == 0).mean())
        0.75
    """

    def __init__(
        self,
        schedule: float | schedules.PruningSchedule,
        *,
        criterion: Any = "magnitude",
        allocation: str = "uniform",
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        on_unsupported: str = "skip",
        several_fits: bool = False,
    ):
        super().__init__()
        number = isinstance(schedule, (int, float)) and not isinstance(schedule, bool)
        self.schedule = fraction("schedule", schedule) if number else schedules.get(schedule)
        self.criterion = criterion
        self.allocation = allocation
        self.include = include
        self.exclude = exclude
        self.on_unsupported = one_of("on_unsupported", on_unsupported, ("skip", "raise"))
        self.several_fits = several_fits
        self.step = 0
        self.table: SparsityTable | None = None
        self._at_target = False
        self._pruner: Pruner | None = None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = (
            "schedule",
            "criterion",
            "allocation",
            "include",
            "exclude",
            "on_unsupported",
            "several_fits",
        )
        return {name: getattr(self, name) for name in names}

    @property
    def at_target(self) -> bool:
        """Whether the final sparsity of the schedule has been applied."""
        return self._at_target

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        put_last(self)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.model.optimizer is None:
            raise InputError(
                f"model {self.model.name!r}: got a model without optimizer, allowed: a compiled one"
            )
        self._pruner = self._hold() if is_built(self.model) else None  # else: after the first batch
        self._at_target = False
        self._applied: float | None = None
        self._started = False
        if not self.several_fits:
            self.step = 0
        if not (isinstance(self.schedule, float) and self.several_fits and self.step):
            self._timetable = self._plan(self.params.get("steps"))
            self._check()

    def _hold(self) -> Pruner:
        pruner = Pruner(
            self.model,
            criterion=self.criterion,
            allocation=self.allocation,
            include=self.include,
            exclude=self.exclude,
            on_unsupported=self.on_unsupported,
        )
        pruner.retrace()
        return pruner

    def _plan(self, steps_per_epoch: int | None) -> schedules.Timetable | None:
        """The timetable, or None as long as an automatic ramp does not know its length."""
        epochs = self.params["epochs"]
        end = self.step + epochs * steps_per_epoch if steps_per_epoch else None
        self._end = end
        if not isinstance(self.schedule, float):
            return schedules.Timetable(self.schedule, end)
        if end is not None:
            return schedules.Timetable(schedules.automatic(self.schedule, end), end)
        if epochs == 1:
            warnings.warn(
                "Prune: one epoch of unknown length leaves no room for a ramp, so all weights are pruned at "
                "its start; give fit steps_per_epoch, more epochs, or Prune a schedule in steps",
                stacklevel=2,
            )
            return schedules.Timetable(schedules.ConstantSparsity(self.schedule, 0), None)
        return None

    def _check(self) -> None:
        """Refuse, before the first step, a schedule that cannot end within the training."""
        if self._timetable is None or self._end is None or self.several_fits:
            return
        last = self._timetable.final_step
        if last is None or last > self._end:
            if last is None:
                last = f"{getattr(self.schedule, 'begin_step', self._end)} or later"
            raise InputError(
                f"schedule: got one that ends at step {last}, allowed: at most {self._end}, the steps of "
                f"this training ({self.params['epochs']} epochs of {self.params['steps']}); train longer, "
                "end the schedule earlier, or say several_fits=True if it is to span several fits"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._started:
            self._started = True
            steps = self.params.get("steps")
            if epoch and steps and not self.several_fits:  # fit(initial_epoch=...), or a restored backup
                self.step = epoch * steps
            self._apply_due()
        self._epoch_start = self.step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = self._epoch_start + batch + 1
        if self._pruner is None:
            self._pruner = self._hold()
            self._apply_due()
        elif self._next is not None and self.step >= self._next:
            self._apply_due()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._end is None and isinstance(self.schedule, float):
            self._epoch_of_unknown_length(epoch + 1)

    def _epoch_of_unknown_length(self, done: int) -> None:
        """Lay the ramp over the epochs, now that their length is known; and end it by epochs in any case."""
        epochs = self.params["epochs"]
        if self._timetable is None:
            total = epochs * (self.step - self._epoch_start)
            ramp = schedules.automatic(self.schedule, max(total, 1))
            self._timetable = schedules.Timetable(ramp, total)
            self._apply_due()
        if not self._at_target and done >= max(1, math.ceil(0.6 * epochs)):  # later epochs were shorter
            self._apply(self._timetable.final)

    def _apply_due(self) -> None:
        """Bring the masks to what the schedule asks for after `self.step` updates."""
        if self._timetable is None or self._pruner is None:
            self._next = None
            return
        sparsity = self._timetable.latest(self.step)
        if sparsity is not None:
            self._apply(sparsity)
        self._next = self._timetable.next_after(self.step)

    def _apply(self, sparsity: float) -> None:
        if sparsity != self._applied:
            self._pruner.update(sparsity)
            self._applied = sparsity
        final_step = self._timetable.final_step
        self._at_target = sparsity == self._timetable.final and (
            final_step is None or self.step >= final_step or isinstance(self.schedule, float)
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._pruner is None:
            raise InputError("Prune: got a fit without a single batch, allowed: at least one")
        self._pruner.apply()  # for whatever wrote into the weights outside an optimizer step
        reached = self._at_target or self._unbounded()
        if not reached and not self.several_fits:
            self._pruner.ask(self._target())
        self.table = self._pruner.table()
        if self.several_fits:
            return
        missed = [row for row in self.table.pruned if row.missed]
        if not reached or missed:
            raise SparsityNotReached(
                f"asked for sparsity {self._target():.4f}, reached {self.table.sparsity:.4f} after "
                f"{self.step} steps: the training ended before the schedule did. The weights are as trained "
                "and the losses are in model.history; train longer or end the schedule earlier.\n"
                f"{self.table}",
                self.table,
            )

    def _unbounded(self) -> bool:
        """A schedule that says no end has reached whatever it asked for last."""
        return self._timetable is not None and self._timetable.final is None and self._applied is not None

    def _target(self) -> float:
        if isinstance(self.schedule, float):
            return self.schedule
        final = self._timetable.final
        return final if final is not None else self._applied or 0.0


class KeepSparse(_Configured):
    """Train on and keep the zeros that the kernels have now.

    For fine-tuning a sparse model that was loaded from a file: masks are rebuilt from the exact zeros. A
    kernel that is zero throughout is taken as untrained and left free. The masks stay on the model after
    the fit; `sparsity.release(model)` takes them off.

    Args:
        include: hold only these: layer names, paths or patterns, as in `Prune`.
        exclude: leave these free.

    Attributes:
        table: the `SparsityTable` after the fit.

    Raises:
        InputError: before training, if no kernel holds a zero.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, use_bias=False)])
        >>> model.set_weights([np.eye(4)])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).random((32, 4), "float32")
        >>> history = model.fit(x, 2 * x, epochs=2, verbose=0, callbacks=[KeepSparse()])
        >>> int((model.layers[0].kernel.numpy() != 0).sum())
        4
    """

    def __init__(
        self,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
    ):
        super().__init__()
        self.include = include
        self.exclude = exclude
        self.table: SparsityTable | None = None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"include": self.include, "exclude": self.exclude}

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        put_last(self)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._pruner = Pruner(self.model, include=self.include, exclude=self.exclude)
        self._pruner.keep_zeros()
        self._pruner.retrace()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._pruner.apply()
        self.table = self._pruner.table()
