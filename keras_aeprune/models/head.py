"""An encoder that learnt without labels becomes a classifier: a head on it, trained in two stages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_aeprune import _graph
from keras_aeprune._validation import InputError, fraction, positive_int, refuse
from keras_aeprune.models.composed import copied, entrance_of, layer_at
from keras_aeprune.models.halves import code_of, encoder_of
from keras_aeprune.models.outcome import (
    ACCURACY,
    ERROR,
    Transfer,
    batch_for,
    inputs,
    kind_of,
    loss_of,
    pair,
    predicted,
    score,
    stage,
    train,
    two,
)
from keras_aeprune.models.parts import sizes

_HALVES = ("encoder", "decoder")


def with_head(
    encoder: keras.Layer,
    classes: int = 10,
    *,
    hidden_units: Sequence[int] = (),
    dropout: float = 0.0,
    frozen: bool = True,
    name: str = "classifier",
) -> keras.Model:
    """A classifier softmax(head(encoder(x))) on a copy of an encoder, uncompiled.

    Use it where few samples have labels and many have none: train an autoencoder on all, then give it to
    `with_head` and the labelled ones to `fine_tune`. A code with several axes (feature maps, sequences) is
    flattened, not averaged: where in the picture something was seen is part of the code.

    Args:
        encoder: a built encoder with one input, or a whole autoencoder, whose encoder is taken. It is not
            changed: the classifier has a copy with the same weights, as its layer "encoder".
        classes: number of classes, 2 or more; the labels are 0 to classes - 1.
        hidden_units: units of ReLU layers between code and head, each 1 or more; () for none.
        dropout: fraction of values set to zero before the head in training, 0 <= dropout < 1.
        frozen: whether the encoder's weights stay as they are in `fit`; then its BatchNormalization works with
            the statistics that it learnt, and does not change them. `fine_tune` sets this itself.
        name: name of the model.

    Returns:
        A functional keras.Model with the layers "encoder", "hidden_1", ..., and "head".

    Raises:
        InputError: an encoder with several inputs, one that is not built, a code of unknown size, bad numbers.

    >>> from keras_aeprune.models.dense import dense
    >>> model = with_head(dense((64,), 8), classes=10)
    >>> model.output_shape, [layer.name for layer in model.layers]
    ((None, 10), ['input', 'encoder', 'head'])
    >>> len(model.trainable_weights)
    2
    """
    classes = positive_int("classes", classes, minimum=2)
    hidden = sizes("hidden_units", hidden_units, "(64,), or () for none")
    dropout = fraction("dropout", dropout)
    if not isinstance(name, str) or not name or "/" in name:
        raise refuse("name", name, "a text of 1 or more characters without '/'")
    part = encoder_copy(encoder, "encoder")
    part.trainable = not frozen
    entrance = entrance_of(part)
    x = part(entrance)
    if None in x.shape[1:]:
        raise InputError(
            f"encoder: {encoder.name!r} gives a code of shape {tuple(x.shape)}, allowed: known sizes after the "
            "batch axis; build it with a fixed input shape"
        )
    if len(x.shape) > 2:
        x = keras.layers.Flatten(name="flatten")(x)
    for number, units in enumerate(hidden, start=1):
        x = keras.layers.Dense(units, "relu", kernel_initializer="he_normal", name=f"hidden_{number}")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(entrance, keras.layers.Dense(classes, "softmax", name="head")(x), name=name)


def encoder_copy(model: Any, name: str) -> keras.Model:
    """A copy of the encoder of `model`: a functional model of that name whose one output is the code.

    A model of the user's own class is put into a functional one, because Keras does not save its name.
    """
    part = encoder_part(model)
    if not isinstance(part, keras.Model) or not _graph.is_graph(part) or not part.built or len(part.outputs) > 1:
        part = copied(part)
        entrance = entrance_of(part)
        return keras.Model(entrance, code_of(part(entrance)), name=name)
    return copied(part, name)


def encoder_part(model: Any) -> keras.Layer:
    """The encoder of an autoencoder; what has no decoder beside its encoder is an encoder itself.

    Raises:
        InputError: no Keras model or layer.
    """
    if not isinstance(model, keras.Layer):
        raise refuse("encoder", model, "a keras.Model or layer of Keras 3: an encoder, or a whole autoencoder")
    if not isinstance(model, keras.Model):
        return model
    names = {layer.name for layer in model.layers}
    halves = [half in names or isinstance(getattr(model, half, None), keras.Layer) for half in _HALVES]
    return encoder_of(model) if all(halves) else model


def fine_tune(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: tuple[int, int] = (20, 40),
    learning_rate: tuple[float, float] = (1e-2, 2e-3),
    batch_size: int | None = None,
    seed: int = 0,
    verbose: int = 0,
) -> Transfer:
    """Train a classifier of `with_head` on labelled samples: first the head alone, then everything.

    Use it with few labels. A head with random weights would send large wrong gradients through what the
    encoder learnt, so it is trained first, on codes that are computed once (without dropout and noise of
    the encoder). Then all weights are trained; BatchNormalization in the encoder keeps its statistics and
    its scale, as few samples would spoil them.

    Args:
        model: from `with_head`; any built functional model with a layer "encoder". It is not changed.
        x: samples, shape (n, *input shape), n >= 1.
        y: whole-number labels, shape (n,).
        test: (x, y) that only measures each stage; None leaves the scores out.
        validation: (x, y) that decides which stage is kept; None keeps the last.
        epochs: of the head alone and of everything, 0 or more each; 0 leaves that stage out.
        learning_rate: of Adam in these two stages, > 0.
        batch_size: samples a step, 1 or more; None takes the power of two next to n / 40, from 8 to 128.
        seed: of the order of the samples and of dropout; it seeds Keras, NumPy and Python.
        verbose: of `model.fit`, 0 to 2.

    Returns:
        A `Transfer` with the stages "start", "frozen encoder" and "fine-tuned", and the trained copy of
        `model`, all of whose weights are trainable but BatchNormalization in the encoder. Masks of `Prune`
        do not come along to the copy: train it with `KeepSparse` where zeros must stay.

    Raises:
        InputError: a model without an encoder, samples and labels that do not fit.

    >>> from keras_aeprune.models.dense import dense
    >>> x = np.random.default_rng(0).random((64, 9), dtype="float32")
    >>> y = (x[:, 0] > 0.5).astype(int)
    >>> result = fine_tune(with_head(dense((9,), 4), 2), x, y, test=(x, y), epochs=(1, 1))
    >>> [stage.name for stage in result.stages], result.score_name
    (['start', 'frozen encoder', 'fine-tuned'], 'accuracy')
    """
    encoder_of(model)
    layer_at(model, "encoder")
    first, second = two("epochs", epochs, "epochs")
    rates = two("learning_rate", learning_rate, "rate")
    x, y = pair("x, y", (x, y))
    inputs("x", x, model.input_shape[1:])
    batch_size = batch_for(len(x)) if batch_size is None else positive_int("batch_size", batch_size)
    test = None if test is None else pair("test", test)
    validation = None if validation is None else pair("validation", validation)
    keras.utils.set_random_seed(positive_int("seed", seed, minimum=0, maximum=2**32 - 1))

    began = time.perf_counter()
    model = copied(model)
    encoder, code = layer_at(model, "encoder")
    loss = loss_of(model, y)
    stages, kept = [], []
    scores: list[float] = []

    def reached(name: str, seconds: float) -> None:
        note = ""
        if validation:
            scores.append(score(model, *validation)[1])
            note = f"validation {scores[-1]:.4f}"
        stages.append(stage(name, model, test, seconds=seconds, note=note))
        kept.append(model.get_weights())

    reached("start", time.perf_counter() - began)
    if first:
        # the head alone, on codes that are computed once
        codes = predicted(keras.Model(model.inputs[0], code), x)
        head = keras.Model(code, model.outputs[0])
        settings = {"loss": loss, "batch_size": batch_size, "verbose": verbose}
        reached("frozen encoder", train(head, codes, y, epochs=first, learning_rate=rates[0], **settings))
    encoder.trainable = True
    for layer in encoder._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    if second:
        settings = {"loss": loss, "batch_size": batch_size, "verbose": verbose}
        reached("fine-tuned", train(model, x, y, epochs=second, learning_rate=rates[1], **settings))

    best = len(stages) - 1
    accuracy = kind_of(model, model.output_shape, y) != "values"
    if validation:
        sign = 1 if accuracy else -1
        best = max(range(len(stages)), key=lambda i: (sign * scores[i], i))
        model.set_weights(kept[best])
    return Transfer(model, tuple(stages), ACCURACY if accuracy else ERROR, stages[best].name)
