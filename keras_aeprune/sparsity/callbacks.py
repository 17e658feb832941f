"""Prune and KeepSparse: the masks' place in `model.fit`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras

from keras_aeprune import schedules
from keras_aeprune._layers import is_built
from keras_aeprune._validation import InputError, fraction, one_of
from keras_aeprune.sparsity.pruner import Pruner
from keras_aeprune.sparsity.siblings import put_last
from keras_aeprune.sparsity.state import load_state, save_state
from keras_aeprune.sparsity.stepper import Stepper
from keras_aeprune.sparsity.table import SparsityNotReached, SparsityTable
from keras_aeprune.sparsity.threshold import Threshold, ThresholdSteps, ThresholdTimes

__all__ = ["KeepSparse", "Prune"]

_ENGINE: tuple[str, ...] = ("criterion", "allocation", "pattern", "limits", "include", "exclude", "on_unsupported")
_ENGINE += ("regrowth", "data", "loss")


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
        schedule: the final sparsity, a fraction 0 <= s < 1; a schedule, tfmot's included, whose steps count
            optimizer updates from 0 at the start of the fit; or `schedules.relative(...)`, in epochs or fractions
            of the training; or a `sparsity.Threshold`, which prunes what scores too little.
        criterion: which weights go first, a name or instance from `keras_aeprune.criteria`; weights that are
            masked already always stay last.
        allocation: "uniform" gives every kernel the same fraction, "global" puts one threshold over all, "erk"
            prunes large kernels more, "entropy" empties first what hardly ever switches (EGP), measured anew on
            `data` at each update of the masks; or a dict of fractions by layer.
        pattern: "unstructured", "2:4" (2 of every 4 weights stay), "unit" (whole neurons and filters), or an
            instance such as `sparsity.patterns.Block((1, 4))`.
        limits: {layer name, path or pattern: (low, high)}, fractions of a kernel's zeros; or one fraction, the
            most that the first and the last kernel get.
        include: prune only these: layer names, paths like "encoder/hidden_1" or patterns like "encoder/*".
        exclude: leave these alone, as in `include`.
        on_unsupported: "skip" lists what cannot be pruned in the table; "raise" refuses the model.
        regrowth: lets weights grow again while as many others go, once the final sparsity is reached: "set",
            or `sparsity.regrowth.SET(...)`, `sparsity.regrowth.RigL(data)`.
        state: a .npz file for masks and step, written after every epoch and read when a fit goes on at a later
            epoch; needed with `regrowth`, where zeros do not tell which weights are masked.
        several_fits: the schedule spans several fits with this callback: steps go on counting from one fit
            to the next, and a fit that ends before the schedule does is no error.
        data: calibration samples for a criterion or allocation that looks at more than weights: x of shape
            (n, ...) for an autoencoder, (x, y), or what else `calibration.get` takes. All of them are used at
            every update of the masks, so some thousands are enough.
        loss: a Keras loss by name, instance or function for such a criterion; None for the compiled one.

    Attributes:
        table: the `SparsityTable` of the last fit: asked, reached, skipped and why.
        step: optimizer updates seen so far.

    Raises:
        InputError: before training, if the schedule cannot end within it, nothing can be pruned, or the
            criterion cannot be measured: no data, no loss, a loss of NaN.
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
        schedule: float | schedules.PruningSchedule | schedules.Relative | Threshold,
        *,
        criterion: Any = "magnitude",
        allocation: Any = "uniform",
        pattern: Any = "unstructured",
        limits: Any = None,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        on_unsupported: str = "skip",
        regrowth: Any = None,
        state: str | Path | None = None,
        several_fits: bool = False,
        data: Any = None,
        loss: Any = None,
    ):
        super().__init__()
        self.schedule: float | schedules.PruningSchedule | schedules.Relative | Threshold
        if isinstance(schedule, (int, float)) and not isinstance(schedule, bool):
            self.schedule = fraction("schedule", schedule)
        else:
            self.schedule = schedule if isinstance(schedule, Threshold) else schedules.get(schedule)
        self.criterion = criterion
        self.allocation = allocation
        self.pattern = pattern
        self.limits = limits
        self.include = include
        self.exclude = exclude
        self.on_unsupported = one_of("on_unsupported", on_unsupported, ("skip", "raise"))
        self.regrowth = regrowth
        self.state = state
        self.several_fits = several_fits
        self.data = data
        self.loss = loss
        self.step = 0
        self.table: SparsityTable | None = None
        self._pruner: Pruner | None = None
        self._stepper: Stepper | ThresholdSteps | None = None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = ("schedule", "state", "several_fits")
        return {name: getattr(self, name) for name in (*own, *_ENGINE)}

    @property
    def at_target(self) -> bool:
        """Whether the final sparsity of the schedule has been applied."""
        return self._stepper is not None and self._stepper.at_target

    @property
    def _relative(self) -> schedules.Relative | None:
        """The schedule if it waits for the length of the training."""
        if isinstance(self.schedule, float):
            return schedules.relative("PolynomialDecay", self.schedule)
        return self.schedule if isinstance(self.schedule, schedules.Relative) else None

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        put_last(self)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.model.optimizer is None:
            raise InputError(f"model {self.model.name!r}: got a model without optimizer, allowed: a compiled one")
        if not self.several_fits:
            self.step = 0
        old = self._stepper if self.several_fits and self.step else None
        self._pruner = self._stepper = None
        self._started = False
        timetable = old.timetable if old is not None and self._relative else self._plan(self.params.get("steps"))
        if is_built(self.model):  # else: after the first batch
            self._hold()
        self._timetable = timetable
        if timetable is not None:
            self._check(timetable)
            self._follow(timetable)

    def _hold(self) -> None:
        self._pruner = Pruner(self.model, **{name: getattr(self, name) for name in _ENGINE})
        self._pruner.retrace()

    def _follow(self, timetable: schedules.Timetable | ThresholdTimes) -> Stepper | ThresholdSteps | None:
        """Go by this timetable from now on."""
        self._timetable = timetable
        if self._pruner is not None:
            self._stepper = self._pruner.stepper(timetable, self._end)
        return self._stepper

    def _plan(self, steps_per_epoch: int | None) -> schedules.Timetable | ThresholdTimes | None:
        """The timetable, or None as long as a relative schedule does not know its length."""
        epochs = self.params["epochs"]
        end = self.step + epochs * steps_per_epoch if steps_per_epoch else None
        self._end = end
        relative = self._relative
        if relative is None:
            if isinstance(self.schedule, Threshold):
                return ThresholdTimes(self.schedule)
            return schedules.Timetable(self.schedule, end)
        if end is not None:
            return schedules.Timetable(relative.resolve(end, steps_per_epoch), end)
        if epochs == 1:
            warnings.warn(
                "Prune: one epoch of unknown length leaves no room for a ramp, so all weights are pruned at "
                "its start; give fit steps_per_epoch, more epochs, or Prune a schedule in steps",
                stacklevel=2,
            )
            return schedules.Timetable(schedules.ConstantSparsity(relative.sparsity, 0), None)
        return None

    def _check(self, timetable: schedules.Timetable | ThresholdTimes) -> None:
        """Refuse, before the first step, a schedule that cannot end within the training."""
        if self._end is None or self.several_fits:
            return
        last = timetable.final_step
        if last is None or last > self._end:
            end = f"{getattr(self.schedule, 'begin_step', self._end)} or later" if last is None else f"{last}"
            raise InputError(
                f"schedule: got one that ends at step {end}, allowed: at most {self._end}, the steps of this "
                f"training ({self.params['epochs']} epochs of {self.params['steps']}); train longer, end the "
                "schedule earlier, or say several_fits=True if it is to span several fits"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._started:
            self._started = True
            if epoch:
                self._go_on(epoch)
            if self._stepper is not None:
                if self.step:
                    self._stepper.step = self.step  # exchanges of weights before this fit are past
                self._stepper.move_to(self.step)
        self._epoch_start = self.step

    def _go_on(self, epoch: int) -> None:
        """A fit that starts at a later epoch: fit(initial_epoch=...), or a restored backup."""
        steps = self.params.get("steps")
        if steps and not self.several_fits:
            self.step = epoch * steps
        if self._pruner is None:  # a subclassed model without weights yet
            if self.regrowth is not None:
                raise InputError(
                    f"model {self.model.name!r}: got a model without weights for a fit that goes on at epoch "
                    f"{epoch}, allowed: with regrowth, a built one; call it once on a batch"
                )
            return
        self._pruner.keep_growing()  # what is zero now is a moment of the schedule and no floor under it
        saved = load_state(self.state) if self.state is not None else None
        if saved is not None and saved[1] == epoch:
            self._pruner.restore(saved[0])
            self.step = saved[2]
            if self._stepper is not None:
                self._stepper.resume(self.step)
        elif self.regrowth is not None:
            raise InputError(
                f"state: got {'no file' if self.state is None else str(self.state)!r} for a fit that goes on at "
                f"epoch {epoch}, allowed: with regrowth, the file that the epochs before it wrote (Prune(..., "
                "state=path)): zeros do not tell which weights are masked"
            )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = self._epoch_start + batch + 1
        if self._pruner is None:
            self._hold()
            if self._timetable is not None:
                self._follow(self._timetable)
        if self._stepper is not None:
            self._stepper.move_to(self.step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        relative = self._relative
        if self._end is None and relative is not None:
            self._epoch_of_unknown_length(relative, epoch + 1)
        if self.state is not None and self._pruner is not None:
            save_state(self.state, self._pruner.masks(), epoch=epoch + 1, step=self.step)

    def _epoch_of_unknown_length(self, relative: schedules.Relative, done: int) -> None:
        """Lay the ramp over the epochs, now that their length is known; and end it by epochs in any case."""
        epochs, stepper = self.params["epochs"], self._stepper
        if stepper is None:
            length = max(self.step - self._epoch_start, 1)
            total = epochs * length
            stepper = self._follow(schedules.Timetable(relative.resolve(total, length), total))
            if stepper is not None:
                stepper.move_to(self.step)
        end = relative.end * (epochs if relative.unit == "training" else 1)
        late = done >= max(1, math.ceil(end))  # later epochs were shorter
        if late and not self.at_target and isinstance(stepper, Stepper):
            stepper.to_the_end()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._pruner is None:
            raise InputError("Prune: got a fit without a single batch, allowed: at least one")
        self._pruner.restored()  # for whatever wrote into the weights outside an optimizer step
        reached = self.at_target or self._unbounded()
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
        stepper = self._stepper
        return stepper is not None and stepper.timetable.final is None and stepper.applied is not None

    def _target(self) -> float:
        relative, timetable = self._relative, self._timetable
        if relative is not None:
            return relative.sparsity
        final = None if timetable is None else timetable.final
        return final if final is not None else (self._stepper and self._stepper.applied) or 0.0


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
        self._pruner.restored()
        self.table = self._pruner.table()
