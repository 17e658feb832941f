"""Take whole layers out: activations, so that neighbours merge, residual branches, layers that keep the shape."""

from __future__ import annotations

from typing import Any

import keras

from keras_aeprune._validation import keras_model, refuse
from keras_aeprune.shrinking.candidates import Depth, LayerCut
from keras_aeprune.shrinking.rebuild import compile_like

__all__ = ["LayerCut", "mirrored", "paired", "removable", "without"]


def removable(model: keras.Model) -> tuple[LayerCut, ...]:
    """What could be taken out of a model, and what could not and why.

    Use it to see what `without` takes; `rank_layers` says what to take first. Looks at no data.

    Args:
        model: a built Keras model, Sequential, functional, nested, or subclassed if it can be traced.

    Returns:
        One `LayerCut` for each activation, each residual Add of two tensors and each layer with a kernel, in the
        order of the model. A layer may be there twice, with its activation and as a whole.

    Raises:
        InputError: a model that is not built, or a subclassed one that cannot be traced.

    Example:
        >>> hidden = [keras.layers.Dense(8, "relu", name=name) for name in ("a", "b")]
        >>> model = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(2, name="c")])
        >>> for cut in removable(model):
        ...     print(cut)
        a (activation): saves 72 weights
        a (layer): stays, takes (2,) and makes (8,)
        b (activation): saves 72 weights
        b (layer): saves 72 weights
        c (layer): stays, makes the output of the model
    """
    return tuple(candidate.cut for candidate in Depth(keras_model(model)).candidates)


def without(model: keras.Model, cuts: Any, *, merge: bool = True) -> keras.Model:
    """A model without some activations, blocks or layers; weights are copied, or merged.

    Use it with what `rank_layers` puts first, then train the result: this is an approximation, the outputs change.
    Without an activation s the layers x -> s(x W1 + b1) W2 + b2 become x W + b with W = W1 W2 and
    b = b1 W2 + b2 (where that has fewer weights, and the second one is not padded; else they stay two). Ben Dror
    et al. "Layer folding", 2021, https://arxiv.org/abs/2106.09309; Quetu et al. "EASIER", 2024,
    https://arxiv.org/abs/2404.18949.

    Args:
        model: a built Keras model. It is not changed.
        cuts: a path of `removable`, a `LayerCut`, a `LayerRank`, or several of them. A path that names two
            things that can go, an activation and a layer, is refused: give the `LayerCut`.
        merge: whether `merge` is done with all of the result; False keeps layers and BatchNormalization apart.

    Returns:
        A new model, compiled as the given one; Sequential where that is.

    Raises:
        InputError: a path that names nothing, or what cannot go; a model that `removable` refuses.

    Example:
        >>> hidden = keras.layers.Dense(2, "relu", name="hidden")
        >>> model = keras.Sequential([keras.Input((1,)), hidden, keras.layers.Dense(1)])
        >>> import numpy as np
        >>> values = [[[1.0, -1.0]], [0.5, 1.0], [[2.0], [-1.0]], [-1.5]]
        >>> model.set_weights([np.array(value) for value in values])
        >>> [value.tolist() for value in without(model, "hidden").get_weights()]
        [[[3.0]], [-1.5]]
    """
    if not isinstance(merge, bool):
        raise refuse("merge", merge, "True or False")
    depth = Depth(keras_model(model))
    new = depth.without(depth.chosen(cuts), merge=merge)
    compile_like(new, model)
    return new


def mirrored(model: keras.Model, path: str) -> str | None:
    """The layer of equal width on the other side of an autoencoder.

    Use it to keep an autoencoder symmetric. The narrowest layer is the middle. The k-th layer of a width from the
    front belongs to the k-th one of that width from the back; the last layer of the model has no mirror.

    Args:
        model: a built Keras model.
        path: of a layer with a kernel, or of the activation behind one.

    Returns:
        The path of the mirror, of its activation where `path` is one; None where there is none.

    Raises:
        InputError: a path that names no such layer.

    Example:
        >>> from keras_aeprune.models.dense import dense
        >>> ae = dense((20,), 4, hidden_units=(16, 8))
        >>> mirrored(ae, "encoder/hidden_1"), mirrored(ae, "encoder/code")
        ('decoder/hidden_2', None)
    """
    return Depth(keras_model(model)).mirror(path)


def paired(model: keras.Model) -> tuple[tuple[LayerCut, ...], ...]:
    """What can go, each with its mirror on the other side of an autoencoder where that can go too.

    Use it to shrink an autoencoder step by step and keep it symmetric: `without(model, pair)`.

    Args:
        model: a built Keras model.

    Returns:
        Tuples of one or two of `removable`, each in one tuple only, in the order of the model.

    Raises:
        InputError: as for `removable`.

    Example:
        >>> from keras_aeprune.models.dense import dense
        >>> [[cut.path for cut in pair] for pair in paired(dense((20,), 4, hidden_units=(16, 8)))]
        [['encoder/hidden_1', 'decoder/hidden_2'], ['encoder/hidden_2', 'decoder/hidden_1']]
    """
    depth = Depth(keras_model(model))
    able = {(c.cut.path, c.cut.kind): c.cut for c in depth.candidates if not c.cut.reason}
    found: list[tuple[LayerCut, ...]] = []
    while able:
        (path, kind), cut = next(iter(able.items()))
        del able[path, kind]
        mirror = depth.mirror(path, whole=kind == "layer") if kind != "block" and depth.knows(path) else None
        other = None if mirror is None else able.pop((mirror, kind), None)
        found.append((cut,) if other is None else (cut, other))
    return tuple(found)
