"""Keep the other callbacks of one fit from undoing the pruning.

`EarlyStopping(restore_best_weights=True)` and `ModelCheckpoint(save_best_only=True)` like the early, dense
epochs best. In the list of callbacks that Keras makes for one fit, they are replaced by a stand-in that
passes everything on, except the moments at which they judge a model that is not yet at its target. The
user's own callback objects and list are not changed.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import keras

__all__ = ["put_last"]

_FRAMES = 6  # set_model is called by CallbackList.set_model; a few more for subclasses that call super()


class _AtTargetOnly(keras.callbacks.Callback):
    """Passes every call on to `wrapped`; the judging ones only while `judge()` says so."""

    def __init__(self, wrapped: keras.callbacks.Callback, pruning: Any):
        super().__init__()
        self.wrapped = wrapped
        self.pruning = pruning

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.pruning.at_target:
            self.wrapped.on_epoch_end(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.pruning.at_target:
            self.wrapped.on_train_batch_end(batch, logs)


def _passing(name: str) -> Any:
    def call(self: _AtTargetOnly, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.wrapped, name)(*args, **kwargs)

    call.__name__ = name
    return call


_OWN = ("on_epoch_end", "on_train_batch_end")
for _name in vars(keras.callbacks.Callback):
    if (_name.startswith("on_") and _name not in _OWN) or _name in ("set_params", "set_model"):
        setattr(_AtTargetOnly, _name, _passing(_name))


def _judges(callback: Any) -> bool:
    """Whether a callback keeps, or stops at, the best epoch."""
    if isinstance(callback, (keras.callbacks.EarlyStopping, _AtTargetOnly)):
        return True
    return bool(getattr(callback, "save_best_only", False) or getattr(callback, "restore_best_weights", False))


def _callback_list(member: Any) -> keras.callbacks.CallbackList | None:
    """The list that is calling `member.set_model` right now; None if someone else calls it."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_FRAMES):
        if frame is None:
            return None
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList) and any(c is member for c in owner.callbacks):
            return owner
        frame = frame.f_back
    return None


def put_last(callback: Any) -> None:
    """Move `callback` behind all others of its fit; where it has a target, let judges see only that.

    Last, because then every other callback has finished before a missed target raises, and because the
    others write their files before the next masks are set.
    """
    owner = _callback_list(callback)
    if owner is None:
        return
    others = [other for other in owner.callbacks if other is not callback]
    if hasattr(callback, "at_target"):
        others = [_AtTargetOnly(other, callback) if _judges(other) else other for other in others]
    owner.callbacks = [*others, callback]  # a new list: Keras is iterating over the old one
