"""Which recurrent layers are unrolled before a file is written, and the twin where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
from keras import layers as kl

from keras_aeprune._graph import is_graph
from keras_aeprune._validation import InputError
from keras_aeprune.export.precisions import Precision
from keras_aeprune.export.trace import rolled_layers
from keras_aeprune.models.recurrent import unrolled

MAX_STEPS = 64


def ways(
    models: Sequence[keras.Model], row: Precision, unroll: bool | str, *, both: bool = False
) -> tuple[tuple[bool, ...], str]:
    """Which files to write: (False,) with the loop, (True,) unrolled, or both; and why a loop was kept.

    Args:
        models: what goes into the file.
        row: the precision; those that need data cannot have a loop.
        unroll: "auto" unrolls where the precision needs it, and up to 64 steps; True always, False never.
        both: whether to try both where both are possible.

    Raises:
        InputError: unroll=False for a precision that cannot have a loop.

    Example:
        >>> from keras_aeprune.export.precisions import PRECISIONS
        >>> model = keras.Sequential([keras.Input((99, 2)), kl.GRU(3, name="gru")])
        >>> ways([model], PRECISIONS["int8"], "auto")
        ((True,), '')
        >>> ways([model], PRECISIONS["float32"], "auto")
        ((False,), 'not unrolled: gru: 99 steps, more than 64')
    """
    if not any(rolled_layers(model) for model in models):
        return (False,), ""
    if unroll is False and row.needs_data:
        raise loop_error(models, row)
    if unroll is False:
        return (False,), ""
    if unroll is True or row.needs_data:
        return (True,), ""
    reason = next((reason for model in models if (reason := _obstacle(model))), "")
    if reason:
        return (False,), f"not unrolled: {reason}"
    return ((False, True) if both else (True,)), ""


def twin(model: keras.Model) -> keras.Model:
    """`model`, or where it has a recurrent loop its unrolled twin with the same weights.

    Raises:
        InputError: it cannot be unrolled; see `models.unrolled`.

    Example:
        >>> model = keras.Sequential([keras.Input((3, 2)), kl.GRU(3)])
        >>> twin(model).layers[0].unroll, model.layers[0].unroll
        (True, False)
    """
    return unrolled(model) if rolled_layers(model) else model


def loop_error(models: Sequence[keras.Model], row: Precision) -> InputError:
    """The refusal of a loop at a precision that is calibrated."""
    layers = ", ".join(path for model in models for path in rolled_layers(model)) or "a while loop in the model"
    return InputError(
        f"quantize: got {row.name!r} for a model with a recurrent loop ({layers}), whose calibration crashes "
        "the converter, allowed: None, 'float16', 'dynamic', or unroll='auto', or the same layers built with "
        "unroll=True"
    )


def _obstacle(model: keras.Model) -> str:
    """Why it is not unrolled unasked; "" where it can be."""
    if not rolled_layers(model):
        return ""
    if not is_graph(model):
        return f"{model.name}: subclassed, the order of its layers is not known"
    for layer, steps in _steps(model):
        if isinstance(layer, (kl.ConvLSTM1D, kl.ConvLSTM2D, kl.ConvLSTM3D)):
            return f"{layer.name}: a {type(layer).__name__}"
        if steps is None:
            return f"{layer.name}: unknown number of steps"
        if steps > MAX_STEPS:
            return f"{layer.name}: {steps} steps, more than {MAX_STEPS}"
    return ""


def _steps(model: keras.Model) -> Iterator[tuple[kl.Layer, int | None]]:
    """(layer, steps that it gets) of the recurrent layers and Bidirectional ones, nested models looked into."""
    for layer in model.layers:
        axis, inner = 1, layer
        while isinstance(inner, kl.TimeDistributed):
            axis, inner = axis + 1, inner.layer
        if isinstance(inner, (kl.RNN, kl.Bidirectional)):
            for node in layer._inbound_nodes:
                yield inner, node.input_tensors[0].shape[axis]
        elif isinstance(inner, keras.Model):
            yield from _steps(inner)
