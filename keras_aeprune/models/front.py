"""One front door for all kinds of autoencoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_aeprune._validation import InputError, one_of, refuse, shown
from keras_aeprune.datasets import Dataset
from keras_aeprune.models.convolutional import convolutional
from keras_aeprune.models.denoising import denoising
from keras_aeprune.models.dense import default_sizes, dense
from keras_aeprune.models.output import Output, output_for
from keras_aeprune.models.recurrent import recurrent
from keras_aeprune.models.sparse import sparse
from keras_aeprune.models.stacked import stacked
from keras_aeprune.models.variational import variational

KINDS: dict[str, Callable[..., keras.Model]] = {
    "dense": dense,
    "convolutional": convolutional,
    "recurrent": recurrent,
    "variational": variational,
    "denoising": denoising,
    "sparse": sparse,
    "stacked": stacked,
}


def autoencoder(
    kind: str,
    data: Any,
    encoding_dim: int | None = None,
    *,
    loss: str = "auto",
    optimizer: Any = "adam",
    verbose: bool = True,
    **options: Any,
) -> keras.Model:
    """An autoencoder of any kind that fits the data, compiled and ready for `fit(x, x)`.

    Use it where the data are at hand; the builders of the same names take a shape instead. The shape of a
    sample, the output activation and the loss come from the data (see `output_for`), and one printed line
    says what was chosen and why. A variational autoencoder with a sigmoid output gets
    "binary_crossentropy", the likelihood that its KL divergence is weighed against.

    Args:
        kind: "dense", "convolutional", "recurrent", "variational", "denoising", "sparse" or "stacked".
        data: the scaled training samples, shape (n, ...), or a `datasets.Dataset`, of which the training
            split counts. The model is not trained here.
        encoding_dim: width of the code; None takes `default_sizes` of the values in a sample. For
            "convolutional", and for "denoising" with base="convolutional", None means that the code is the
            last feature map.
        loss: "auto", "mse", "huber" or "binary_crossentropy".
        optimizer: for `compile`, a name or a Keras optimizer.
        verbose: whether the choice is printed.
        **options: for the builder, for example hidden_units, filters, units, beta, noise, penalty or tied; an
            `output_activation` there wins over the choice.

    Returns:
        A compiled keras.Model with the attributes `encoder` and `decoder`.

    Raises:
        InputError: an unknown kind or option, data or arguments that the builder or `output_for` refuses.

    >>> x = np.random.default_rng(0).random((50, 8, 8), "float32")
    >>> ae = autoencoder("dense", x, 4, hidden_units=(16,))
    dense autoencoder, 64 values -> 4 -> 64; output activation sigmoid, loss mse: all values lie in [0, 1]
    >>> ae.output_shape
    (None, 8, 8)
    """
    one_of("kind", kind, KINDS)
    output, shape = output_for(data, loss=loss), _shape(data)
    if kind == "variational" and loss == "auto" and output.activation == "sigmoid":
        reason = f"{output.reason}; the likelihood that the KL divergence is weighed against"
        output = Output(output.activation, "binary_crossentropy", reason)
    features = int(np.prod(shape))
    if encoding_dim is None and not _feature_map_code(kind, options):
        encoding_dim = default_sizes(features)[0]
    activation = options.pop("output_activation", None)
    if activation is not None and activation != output.activation:
        output = Output(activation, output.loss, f"{output.reason}; the activation was asked for")
    try:
        model = KINDS[kind](shape, encoding_dim, output_activation=output.activation, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"options: {str(error).split('() ')[-1]}; see models.{kind}") from error
    model.compile(optimizer, output.loss)
    if verbose:
        code = int(np.prod(model.encoder.output_shape[1:]))
        print(f"{kind} autoencoder, {features} values -> {code} -> {features}; {output}")
    return model


def _feature_map_code(kind: str, options: Mapping[str, Any]) -> bool:
    return kind == "convolutional" or (kind == "denoising" and options.get("base") == "convolutional")


def _shape(data: Any) -> tuple[int, ...]:
    x = data.x_train if isinstance(data, Dataset) else data
    shape = tuple(int(size) for size in np.shape(x)[1:])
    if not shape:
        raise refuse("data", shown(np.shape(x)), "samples of shape (n, ...), n first")
    return shape
