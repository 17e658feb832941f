"""Prune a trained model in a few rounds, without training it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_aeprune import calibration, criteria
from keras_aeprune._progress import clock, silent, to_stderr
from keras_aeprune._validation import InputError, keras_model
from keras_aeprune.sparsity.iterative import geometric
from keras_aeprune.sparsity.iterative_state import ModelState
from keras_aeprune.sparsity.pruner import Pruner
from keras_aeprune.sparsity.table import SparsityTable

__all__ = ["one_shot"]


def one_shot(
    model: keras.Model,
    sparsity: float,
    data: Any = None,
    *,
    criterion: Any = "woodfisher",
    rounds: int = 5,
    allocation: Any = "global",
    pattern: Any = "unstructured",
    limits: Any = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    loss: Any = None,
    compensate: bool = True,
    progress: bool = True,
) -> SparsityTable:
    """Set weights of a trained model to zero at once, without any training.

    Use it where there is no time or no labelled data to train; some hundreds of samples are enough to measure
    "woodfisher". With training, `Prune` and `iterative` lose less. In round k of `rounds` the fraction

        s_k = 1 - (1 - sparsity)^(k / rounds)

    of the weights is zero. Scores, and an allocation that depends on activations ("entropy"), are measured anew
    in every round, and what is zero stays zero. A criterion with a method `compensated`, such as WoodFisher, moves
    the weights that stay so that the loss rises least; Singh and Alistarh 2020, https://arxiv.org/abs/2004.14340.

    The weights of the model are changed in place. The masks stay on it as after `Prune`, so that later training
    keeps the zeros; `sparsity.release(model)` takes them off. After an error the model is as it was given.

    Args:
        model: a built Keras model, trained.
        sparsity: fraction of weights set to zero, 0 < s < 1.
        data: calibration samples: x of shape (n, ...) for an autoencoder, (x, y), or what else `calibration.get`
            takes; all are used in every round. None for criteria that look at the weights alone.
        criterion: which weights go first, a name or instance from `keras_aeprune.criteria`.
        rounds: whole number >= 1; more take longer and lose less.
        allocation: which kernels share the zeros, as in `Prune`.
        pattern: which weights go together, as in `Prune`.
        limits: fractions of zeros by kernel, as in `Prune`.
        include: prune only these: layer names, paths like "encoder/hidden_1" or patterns like "encoder/*".
        exclude: leave these alone, as in `include`.
        loss: a Keras loss by name, instance or function for criteria that need one; None for the compiled one.
        compensate: False leaves the weights that stay as they are.
        progress: True writes a line per round to standard error.

    Returns:
        The `SparsityTable`: asked, reached, skipped and why.

    Raises:
        InputError: for arguments that do not fit, a criterion that needs data or a loss and has none, or weights
            that overflow.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, use_bias=False, name="a")])
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
        >>> table = one_shot(model, 0.75, x, loss="mse", rounds=3, progress=False)
        >>> table["a/kernel"].reached
        0.75
    """
    steps = geometric(sparsity, rounds)
    given = ModelState(keras_model(model))
    arguments = {
        "criterion": criteria.get(criterion),
        "allocation": allocation,
        "pattern": pattern,
        "limits": limits,
        "include": include,
        "exclude": exclude,
        "loss": loss,
        "data": None if data is None else calibration.get(data),  # read once: a generator is used up by it
    }
    say = to_stderr if progress else silent
    began = time.monotonic()
    try:
        for number, step in enumerate(steps, 1):
            pruner = Pruner(model, **arguments)  # made anew: what is zero now stays zero
            pruner.retrace()
            pruner.final = steps[-1]
            pruner.update(step, compensate=compensate)
            _check_finite(pruner)
            took = clock(time.monotonic() - began)
            text = f"one-shot {model.name}: round {number}/{len(steps)}, sparsity {pruner.sparsity():.4f}, {took}"
            say(text, number == len(steps))
        return pruner.table()
    except BaseException:
        given.restore()
        raise


def _check_finite(pruner: Pruner) -> None:
    for target in pruner.targets:
        if not np.isfinite(keras.ops.convert_to_numpy(target.weight.variable).astype(np.float32)).all():
            raise InputError(
                f"{target.weight.path}: got weights that overflowed when they were moved, allowed: finite ones; "
                "give more samples, more damping, or compensate=False"
            )
