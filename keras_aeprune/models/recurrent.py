"""Recurrent autoencoders for series, and the unrolled twin of any recurrent model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import layers as kl

from keras_aeprune._graph import is_graph
from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError, keras_model, one_of, positive_int, shown
from keras_aeprune.models.files import one_line
from keras_aeprune.models.parts import activation_name, assemble, sample_shape, sizes

_CELLS = {"lstm": kl.LSTM, "gru": kl.GRU, "simple": kl.SimpleRNN}
_CONV_LSTM = (kl.ConvLSTM1D, kl.ConvLSTM2D, kl.ConvLSTM3D)


def recurrent(
    input_shape: Sequence[int],
    encoding_dim: int,
    *,
    units: Sequence[int] = (64,),
    cell: str = "lstm",
    bidirectional: bool = False,
    output_activation: str = "linear",
    name: str = "autoencoder",
) -> keras.Model:
    """A recurrent autoencoder decoder(encoder(x)) for windows of a series, uncompiled.

    Use it where the order of the steps carries the meaning, such as heartbeats or accelerometer windows. The
    encoder reads the window step by step and makes one code of it; the decoder gets that code at every step.
    Both are nested plain Keras functional models, so a saved file loads anywhere. Export `unrolled(model)`:
    it is faster, and int8 needs it.

    Args:
        input_shape: (steps, features) of one sample, each 1 or more.
        encoding_dim: width of the code, from 1 to steps * features - 1; the layer "code" is linear.
        units: units of the encoder's recurrent layers from the input on, 1 layer or more, each 1 or more;
            the decoder mirrors them.
        cell: "lstm", "gru" or "simple" (one tanh layer that sees its own last output).
        bidirectional: whether each layer reads both ways, with `units` for each direction.
        output_activation: Keras name of the last layer's activation, which acts on every step: "linear", or
            "sigmoid" for data in [0, 1]; `output_for` chooses.
        name: name of the model.

    Returns:
        A keras.Model with the attributes `encoder` and `decoder`, which share its weights. The recurrent
        layers are named units_1, units_2, ... in each half, the code layer "code", the last one "output".

    Raises:
        InputError: a shape that is not (steps, features), a code that is not smaller than the sample, units
            that are no positive whole numbers, an unknown cell or activation.

    >>> ae = recurrent((20, 3), 8, units=(16,), cell="gru")
    >>> ae.encoder.output_shape, ae.output_shape, ae.count_params()
    ((None, 8), (None, 20, 3), 2443)
    """
    shape = sample_shape(input_shape, axes=(2,), example="(140, 1), steps and features")
    steps, features = shape
    if steps * features < 2:
        raise InputError(
            f"input_shape: got {shown(input_shape)}, allowed: a shape of 2 or more values (one cannot be made "
            "shorter)"
        )
    encoding_dim = positive_int("encoding_dim", encoding_dim, maximum=steps * features - 1)
    units = sizes("units", units, "(64,) or (64, 32)", minimum=1)
    one_of("cell", cell, _CELLS)
    activation_name("output_activation", output_activation)

    def layer(number: int, width: int, return_sequences: bool) -> keras.Layer:
        made = _CELLS[cell](
            width, return_sequences=return_sequences, name=cell if bidirectional else f"units_{number}"
        )
        return kl.Bidirectional(made, name=f"units_{number}") if bidirectional else made

    sample = keras.Input(shape, name="sample")
    x = sample
    for number, width in enumerate(units, start=1):
        x = layer(number, width, return_sequences=number < len(units))(x)
    encoder = keras.Model(sample, kl.Dense(encoding_dim, name="code")(x), name="encoder")

    entrance = keras.Input((encoding_dim,), name="code")
    x = kl.RepeatVector(steps, name="repeat")(entrance)
    for number, width in enumerate(units[::-1], start=1):
        x = layer(number, width, return_sequences=True)(x)
    x = kl.Dense(features, output_activation, name="output")(x)
    return assemble(encoder, keras.Model(entrance, x, name="decoder"), name)


def unrolled(model: keras.Model) -> keras.Model:
    """An equal twin of `model` whose recurrent layers run without a loop, one copy of the step after another.

    Use it before `export.tflite`: such a file runs about 3 times as fast in LiteRT and can be int8, while the
    loop of a rolled layer takes float32, float16 and "dynamic" only. The file is larger, as each step is
    in it, and converting takes longer the more steps there are.

    Recurrent layers are found in nested models and in wrappers (Bidirectional, TimeDistributed) too. Without
    any, the twin is a plain copy.

    Args:
        model: a built functional or Sequential model with a known number of steps. It is not changed.

    Returns:
        An uncompiled model with the same layers, names and outputs, and weights of its own; with the
        attributes `encoder` and `decoder` where `model` has layers of those names or such attributes.

    Raises:
        InputError: a subclassed or unbuilt model, stateful layers, ConvLSTM layers, an unknown number of
            steps, a layer that cannot be rebuilt from its config.

    >>> ae = recurrent((6, 2), 4, units=(8,))
    >>> twin = unrolled(ae)
    >>> ae.encoder.get_layer("units_1").unroll, twin.encoder.get_layer("units_1").unroll
    (False, True)
    >>> x = keras.random.normal((3, 6, 2))
    >>> bool(keras.ops.max(keras.ops.abs(ae(x) - twin(x))) < 1e-6)
    True
    """
    keras_model(model)
    if not is_graph(model) or not model.built:
        raise InputError(
            f"model: {model.name!r} is of the class {type(model).__name__} and its layers' order is not known, "
            "allowed: built functional and Sequential models; set unroll=True in its recurrent layers and "
            "copy the weights with set_weights"
        )
    _check_layers(model)
    for path, steps_known in _recurrent_in(model, ""):
        if not steps_known:
            raise InputError(
                f"model: layer {path!r} gets an unknown number of steps, allowed: a fixed one; build the model "
                "with keras.Input((steps, features)) and copy the weights with set_weights"
            )
    twin = _rebuilt(model)
    for _, layer in walk(twin):
        if isinstance(layer, kl.RNN):
            layer.unroll = True
    _copy_weights(model, twin)
    for half in ("encoder", "decoder"):
        found: Any = getattr(model, half, None)
        name = next((layer.name for layer in model.layers if layer is found), half)
        for layer in twin.layers:
            if layer.name == name:
                setattr(twin, half, layer)
    return twin


def _check_layers(model: keras.Model) -> None:
    for path, layer in walk(model):
        if isinstance(layer, _CONV_LSTM):
            raise InputError(
                f"model: layer {path!r} is a {type(layer).__name__}, whose steps are images or series, allowed: "
                "recurrent layers over (steps, features); build it with unroll=True and copy the weights with "
                "set_weights"
            )
        if isinstance(layer, kl.RNN) and layer.stateful:
            raise InputError(
                f"model: layer {path!r} is stateful, so its output depends on earlier calls, allowed: "
                "stateful=False; build it so and copy the weights with set_weights"
            )


def _recurrent_in(model: keras.Model, prefix: str) -> Iterator[tuple[str, bool]]:
    """(path, whether the number of steps is known) of the recurrent layers, wrappers looked into."""
    for layer in model.layers:
        path, steps_axis, inner = prefix + layer.name, 1, layer
        while isinstance(inner, kl.TimeDistributed):
            steps_axis, inner = steps_axis + 1, inner.layer
        if is_graph(inner):
            yield from _recurrent_in(inner, f"{path}/")
        elif isinstance(inner, (kl.RNN, kl.Bidirectional)):
            shapes = [node.input_tensors[0].shape for node in layer._inbound_nodes]
            yield path, all(shape[steps_axis] is not None for shape in shapes)


def _rebuilt(model: keras.Model) -> keras.Model:
    """`model` from its config, with new weights and uncompiled."""
    sequential = isinstance(model, keras.Sequential)
    described = {
        "module": "keras.src.models.sequential" if sequential else "keras.src.models.functional",
        "class_name": "Sequential" if sequential else "Functional",
        "config": model.get_config(),
        "registered_name": None,
    }
    # own layers need not be registered, and the code in Lambda layers is the caller's own: nothing is read
    # from a file here
    kinds = {type(layer) for _, layer in walk(model)}
    own = {kind.__name__: kind for kind in kinds if not kind.__module__.startswith("keras.")}
    try:
        return keras.saving.deserialize_keras_object(described, custom_objects=own, safe_mode=False)
    except Exception as error:  # whatever a layer raises when it is made from its config
        raise InputError(
            f"model: {model.name!r} cannot be rebuilt from its config ({one_line(error)}), allowed: layers "
            "whose get_config holds all their arguments"
        ) from error


def _copy_weights(old: keras.Model, new: keras.Model) -> None:
    """Layer by layer, as a layer that two nested models share is two layers in a rebuilt model."""
    for source in old.layers:
        target = new.get_layer(source.name)
        if is_graph(source):
            _copy_weights(source, target)
        else:
            target.set_weights(source.get_weights())
