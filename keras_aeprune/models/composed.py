"""Models put together from others: an autoencoder of any two halves, copies, a changed place in a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_aeprune import _graph
from keras_aeprune._layers import is_built
from keras_aeprune._validation import InputError, keras_model, refuse, shown
from keras_aeprune.models.halves import code_of


@keras.saving.register_keras_serializable("keras_aeprune")
class Autoencoder(keras.Model):
    """An autoencoder decoder(encoder(x)) of any two Keras models or layers, written in the subclassed style.

    Use it where a half is a class of your own with its own `call`; `dense` and the other builders give plain
    functional models, which need nothing of this package to load. The encoder returns the code, or the code
    and what else the decoder needs (skip connections): a list or tuple (code, feature, feature, ...), or a
    dict with the key "code". The decoder receives the same structure as its first argument.

    Args:
        encoder: a keras.Model or layer that takes x, shape (n, ...).
        decoder: a keras.Model or layer that takes what the encoder returns.
        name: name of the model.

    Raises:
        InputError: a half that is no Keras model or layer.

    Files load again where the classes of both halves are registered with
    keras.saving.register_keras_serializable. Two halves that know their input are built at once, others with
    the first batch.

    >>> class Skipping(keras.layers.Layer):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.first, self.second = keras.layers.Dense(6, "relu"), keras.layers.Dense(2)
    ...     def call(self, x):
    ...         feature = self.first(x)
    ...         return self.second(feature), feature
    >>> class Joining(keras.layers.Layer):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.join, self.out = keras.layers.Concatenate(), keras.layers.Dense(9)
    ...     def call(self, parts):
    ...         return self.out(self.join(parts))
    >>> ae = Autoencoder(Skipping(), Joining())
    >>> ae(keras.ops.zeros((1, 9))).shape, ae.encode(keras.ops.zeros((1, 9))).shape
    (TensorShape([1, 9]), TensorShape([1, 2]))
    """

    def __init__(self, encoder: keras.Layer, decoder: keras.Layer, name: str = "autoencoder", **kwargs: Any):
        for argument, half in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(half, keras.Layer):
                raise refuse(argument, half, "a keras.Model or keras.layers.Layer of Keras 3")
        super().__init__(name=name, **kwargs)
        self.encoder, self.decoder = encoder, decoder
        if is_built(encoder) and is_built(decoder):
            shape = _known_shape(encoder)
            if shape is not None:
                self.build(shape)

    def call(self, inputs: Any) -> Any:
        return self.decoder(self.encoder(inputs))

    def encode(self, x: Any) -> Any:
        """The code of `x`: a tensor of shape (n, ...), without the features that go to the decoder too."""
        return code_of(self.encoder(x, training=False))

    def get_config(self) -> dict[str, Any]:
        halves = {"encoder": self.encoder, "decoder": self.decoder}
        serialized = {name: keras.saving.serialize_keras_object(half) for name, half in halves.items()}
        return {**super().get_config(), "name": self.name, **serialized}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Autoencoder:
        config = dict(config)
        for half in ("encoder", "decoder"):
            config[half] = keras.saving.deserialize_keras_object(config[half], custom_objects=custom_objects)
        return cls(**config)


def copied(part: keras.Layer, name: str | None = None) -> keras.Layer:
    """A copy of a built model or layer with weights of its own, equal to those of `part`; not compiled.

    Args:
        part: a built Keras model or layer. It is not changed.
        name: of the copy; None keeps the name.

    Raises:
        InputError: it is not built, or its config does not describe it.

    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> copy = copied(layer, "twin")
    >>> copy.name, copy.kernel is layer.kernel, bool((copy.kernel.numpy() == layer.kernel.numpy()).all())
    ('twin', False, True)
    """
    if not is_built(part) or (isinstance(part, keras.Model) and not part.built):
        raise InputError(
            f"model {part.name!r}: got a model that is not built, allowed: a built one; call it once on a batch"
        )
    try:
        config = keras.saving.serialize_keras_object(part)
        config.pop("compile_config", None)
        if name is not None:
            config["config"]["name"] = name
        known = {type(layer).__name__: type(layer) for layer in part._flatten_layers()}
        own = {key: cls for key, cls in known.items() if not cls.__module__.startswith("keras.")}
        copy = keras.saving.deserialize_keras_object(config, custom_objects=own, safe_mode=False)
    except Exception as error:  # whatever a config of the user's own class meets
        text = shown(" ".join(str(error).split()), 160)
        raise InputError(
            f"model {part.name!r}: {type(part).__name__} cannot be copied from its config ({text}), allowed: "
            "layers of Keras, or own ones whose get_config returns the arguments of their constructor"
        ) from error
    if [tuple(v.shape) for v in copy.weights] != [tuple(v.shape) for v in part.weights]:
        shape = _known_shape(part)
        if shape is not None:
            copy(keras.KerasTensor(shape, dtype=part.compute_dtype))
    if [tuple(v.shape) for v in copy.weights] != [tuple(v.shape) for v in part.weights]:
        raise InputError(
            f"model {part.name!r}: the copy that its config describes has other weights, allowed: a model "
            "whose get_config returns all arguments of its constructor"
        )
    copy.set_weights(part.get_weights())
    return copy


def entrance_of(part: keras.Layer, name: str = "input") -> Any:
    """A new keras.Input like the one input of a built model or layer.

    Raises:
        InputError: it has several inputs, or its input shape is not known.

    >>> entrance_of(keras.Sequential([keras.Input((4, 2)), keras.layers.Flatten()])).shape
    (None, 4, 2)
    """
    shape = _known_shape(part)
    if shape is None:
        raise InputError(
            f"model {part.name!r}: got a model with several inputs, or one that is not built, allowed: a built "
            "model with one input; call it once on a batch"
        )
    graph = isinstance(part, keras.Model) and _graph.is_graph(part)
    return keras.Input(shape[1:], dtype=part.inputs[0].dtype if graph else None, name=name)


def layer_at(network: keras.Model, at_layer: Any) -> tuple[keras.Layer, Any]:
    """A layer at the top level of a functional or Sequential model, and the tensor that it makes there.

    Args:
        network: built, with one input and one output.
        at_layer: the name of a layer, or the layer itself; used once, with one output that another layer takes.

    Raises:
        InputError: another model, no such layer, one below the top level, one that is used several times, the
            input or the output.
    """
    keras_model(network, "network")
    if not _graph.is_graph(network) or not network.built:
        raise InputError(
            f"network: {network.name!r} is {'not built' if _graph.is_graph(network) else 'a subclassed model'}, "
            "allowed: a built functional or Sequential model, whose layers and their order are known"
        )
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        sizes = f"{len(network.inputs)} inputs and {len(network.outputs)} outputs"
        raise InputError(f"network: {network.name!r} has {sizes}, allowed: one input and one output")
    layers = {layer.name: layer for layer in _graph.operations(network) if isinstance(layer, keras.Layer)}
    wanted = at_layer.name if isinstance(at_layer, keras.Layer) else at_layer
    names = [name for name, layer in layers.items() if not isinstance(layer, keras.layers.InputLayer)]
    inner = names[:-1]
    if isinstance(wanted, str) and "/" in wanted and wanted.split("/")[0] in layers:
        outer = wanted.split("/")[0]
        raise InputError(
            f"at_layer: {wanted!r} lies inside the nested model {outer!r}, which may be used in other places "
            f"too, allowed: a layer of the network itself ({', '.join(inner)}); give {outer!r} as the network"
        )
    if wanted not in names or (isinstance(at_layer, keras.Layer) and layers[wanted] is not at_layer):
        raise refuse("at_layer", wanted, f"a layer of {network.name!r}: {', '.join(inner)}")
    layer = layers[wanted]
    made = tensors_of(network, layer)
    if len(made) != 1 or layer in _graph.output_layers(network):
        kind = "the output of the network" if layer in _graph.output_layers(network) else "used several times"
        raise InputError(
            f"at_layer: {wanted!r} is {kind}, allowed: a layer that is used once, has one output, and is "
            f"followed by others: {', '.join(inner)}"
        )
    return layer, made[0]


def rewired(
    network: keras.Model,
    call: Callable[..., Any],
    *,
    copy: Callable[[keras.Layer], keras.Layer] = copied,
    entrance: Any = None,
) -> keras.Model:
    """A copy of a functional or Sequential network in which each layer is called by `call`.

    Layers that the outputs no longer need are left out.

    Args:
        network: built, with one input.
        call: call(copied layer, *args, **kwargs) -> its outputs in the copy.
        copy: makes the copy of one layer; by default its config with its weights.
        entrance: the keras.Input of the copy; None makes one like the network's.
    """
    graph = keras.Model(network.inputs[0], network.outputs[0], name=network.name)
    entrance = entrance_of(network, network.inputs[0].name) if entrance is None else entrance
    return keras.models.clone_model(graph, input_tensors=entrance, clone_function=copy, call_function=call)


def tensors_of(network: keras.Model, layer: Any) -> list[Any]:
    """The tensors of a layer that the outputs of `network` are computed from, each once."""
    found, waiting, seen = {}, list(network.outputs), set()
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        source, node, _ = tensor._keras_history
        if source is layer:
            found[id(tensor)] = tensor
        waiting.extend(source._inbound_nodes[node].input_tensors)
    return list(found.values())


def free_name(name: str, taken: Iterable[str]) -> str:
    """`name`, with a number behind it where it is one of `taken`.

    >>> free_name("encoder", {"encoder", "encoder_2"}), free_name("head", {"encoder"})
    ('encoder_3', 'head')
    """
    taken = set(taken)
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return next(candidate for candidate in (name, *numbered) if candidate not in taken)


def _known_shape(part: keras.Layer) -> tuple[int | None, ...] | None:
    """The shape of the one input, batch axis included, or None."""
    if isinstance(part, keras.Model) and _graph.is_graph(part):
        inputs = part.inputs or []
        return tuple(inputs[0].shape) if len(inputs) == 1 else None
    shapes = getattr(part, "_build_shapes_dict", None) or {}
    shape = next(iter(shapes.values())) if len(shapes) == 1 else None
    if not isinstance(shape, list | tuple) or not all(size is None or isinstance(size, int) for size in shape):
        return None
    return (None, *shape[1:])
