"""A model without what only training needs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_aeprune._graph import is_graph
from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError, keras_model
from keras_aeprune.models.denoising import Corruption
from keras_aeprune.models.sampling import Sampling
from keras_aeprune.models.stacked import DenseTranspose

# what passes its inputs on outside of training
_TRAINING_ONLY = (
    Corruption,
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


def for_inference(model: keras.Model) -> keras.Model:
    """An independent copy of a model without what only training needs; it loads without this package.

    Use it before a model is given away or converted. Its outputs are those of model(x, training=False). In
    the copy, models inside the model included,

    - noise and dropout layers and ActivityRegularization are left out,
    - a `Sampling` layer is replaced by its first input, the mean; what computed the variance goes with it,
    - a `DenseTranspose` is a Dense layer with a transposed copy of the kernel, so that tied weights
      are there twice,
    - activity regularizers are taken off all layers.

    The weights are copies: training one model does not change the other. Masks are not copied; zeros are.
    Layer names stay. Other models come back as equal copies.

    Args:
        model: a built functional or Sequential Keras model. It is not changed.

    Returns:
        An uncompiled keras.Model (Sequential where the model is) with the attributes `encoder` and `decoder`
        where the model has such parts.

    Raises:
        InputError: a subclassed model, there or inside, one that is not built, noise that was called with
            training=True, a wrapper of this package around a layer (`strip_pruning` takes it off).

    >>> from keras_aeprune.models.denoising import denoising
    >>> ae = denoising((64,), 8)
    >>> copy = for_inference(ae)
    >>> [layer.name for layer in ae.layers], [layer.name for layer in copy.layers]
    (['input', 'corruption', 'encoder', 'decoder'], ['input', 'encoder', 'decoder'])
    """
    _check(keras_model(model))
    copier = _Copier()
    copy = copier.model(model)
    for old, new in copier.leaves:
        _copy_weights(old, new)
    for name in ("encoder", "decoder"):
        half = copier.made.get(id(_half(model, name)))
        if half is not None:
            setattr(copy, name, half)
    return copy


class _Copier:
    """Copies models layer by layer, each layer once however often it is used."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.leaves: list[tuple[Any, Any]] = []

    def model(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            layers = [self.layer(layer) for layer in model.layers if not isinstance(layer, _TRAINING_ONLY)]
            entrance = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
            # a model of noise only still needs a layer
            return keras.Sequential([entrance, *(layers or [keras.layers.Identity()])], name=model.name)
        # of the plain class: a subclass of functional models may do more when it is made
        plain = keras.Model(model.input, model.output, name=model.name)
        return keras.models.clone_model(plain, clone_function=self.layer, call_function=self.call)

    def layer(self, layer: keras.Layer) -> keras.Layer:
        if id(layer) not in self.made:
            self.made[id(layer)] = self._copy(layer)
        return self.made[id(layer)]

    def _copy(self, layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, (*_TRAINING_ONLY, Sampling)):
            return layer  # `call` does not call it
        if isinstance(layer, keras.Model):
            return self.model(layer)
        if isinstance(layer, DenseTranspose):
            settings = layer.get_config()
            new = keras.layers.Dense(
                layer.units, settings["activation"], name=layer.name, dtype=layer.dtype_policy
            )
        else:
            new = type(layer).from_config(layer.get_config())
        if isinstance(layer, keras.Layer):
            for part in new._flatten_layers():
                part.activity_regularizer = None
                if type(part).__module__.startswith("keras_aeprune."):
                    raise InputError(
                        f"model: layer {layer.name!r} holds a {type(part).__name__}, which does not load without "
                        "this package, allowed: plain layers; take the wrapper off first (strip_pruning for "
                        "PruneLowMagnitude)"
                    )
            self.leaves.append((layer, new))
        return new

    @staticmethod
    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, (*_TRAINING_ONLY, Sampling)):
            return layer(*args, **kwargs)
        if kwargs.get("training"):
            raise InputError(
                f"model: layer {layer.name!r} is called with training=True, so it acts in inference too, allowed: "
                "layers that only act in training; build the model without it"
            )
        inputs = args[0] if args else kwargs["inputs"]
        return inputs[0] if isinstance(layer, Sampling) else inputs


def _copy_weights(old: keras.Layer, new: keras.Layer) -> None:
    values = old.get_weights()
    if isinstance(old, DenseTranspose):
        values = [np.transpose(old.kernel), old.bias]
    new.set_weights(values)


def _half(model: keras.Model, name: str) -> keras.Layer | None:
    half = getattr(model, name, None)
    if isinstance(half, keras.Layer):
        return half
    return next((layer for layer in model.layers if layer.name == name), None)


def _check(model: keras.Model) -> None:
    for path, part in [("", model), *walk(model)]:
        if not isinstance(part, keras.Model):
            continue
        where = f"{part.name!r} in it" if path else f"{part.name!r}"
        if not is_graph(part):
            raise InputError(
                f"model: {where} is of the class {type(part).__name__}, whose call is Python code that cannot be "
                "rewritten, allowed: functional and Sequential models; build it as keras.Model(inputs, outputs)"
            )
        if not part.built or not getattr(part, "inputs", None):
            raise InputError(f"model: {where} has no input shape yet, allowed: a built model; call it on data")
