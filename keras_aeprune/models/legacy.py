"""Model configs written by Keras 2, mended so that Keras 3 understands them.

Keras 3 reads most of them as they are. It refuses arguments that it has dropped, wrapped layers without
a module, and models inside a functional model, whose calls Keras 2 counts from 1 (call 0 being the one
that built the model) and Keras 3 from 0. It also builds a Sequential without an InputLayer with the
wrong shape.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_aeprune._validation import InputError, shown

_MODELS = ("Functional", "Model", "Sequential")
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_UNGROUPED = (
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
)
# argument that Keras 3 does not have: the only value that can be left out without changing the result
_DROPPED: dict[str, dict[str, Any]] = {
    **{kind: {"time_major": False} for kind in _RECURRENT},
    **{kind: {"groups": 1} for kind in _UNGROUPED},
}
# without any effect in Keras 2, unknown to Keras 3
_IDLE = dict.fromkeys(
    ("SeparableConv1D", "SeparableConv2D"), ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
)


def mend(model: dict[str, Any]) -> dict[str, Any]:
    """The config of a Keras 2 model as Keras 3 needs it; a new dict, nothing is built.

    Args:
        model: {"class_name": "Sequential", "Functional" or "Model", "config": ...}, as in an .h5 file's
            model_config or in the JSON of `model.to_json()`.

    Returns:
        The same with plain layer entries that `from_config` of Keras 3 reads.

    Raises:
        InputError: a layer that Keras 3 does not have or that holds Python code, an argument that it
            does not have with another value than the default, a call that passes tensors by keyword.
    """
    kind = model.get("class_name")
    if kind not in _MODELS:
        raise InputError(
            f"model: got the class {shown(kind)}, allowed: {', '.join(_MODELS)}, not a class of your own"
        )
    config = model["config"]
    if isinstance(config, list):  # a Sequential before Keras 2.3
        config = {"name": "sequential", "layers": config}
    config = {key: value for key, value in config.items() if key != "build_input_shape"}
    layers = [_layer(layer) for layer in config["layers"]]
    if kind == "Sequential":
        config["layers"] = [*_missing_input(config["layers"]), *layers]
        return {"class_name": kind, "config": config}
    kinds = {layer["name"]: layer["class_name"] for layer in layers}
    for layer in layers:
        layer["inbound_nodes"] = [_call(layer["name"], node, kinds) for node in layer["inbound_nodes"]]
    config["layers"] = layers
    config["input_layers"] = _single(config["input_layers"])
    config["output_layers"] = _single(_outputs(config["output_layers"], kinds))
    return {"class_name": "Functional", "config": config}


def _layer(layer: dict[str, Any]) -> dict[str, Any]:
    """One entry of a model's layers, without what only the new format has."""
    kind, name = layer["class_name"], layer.get("name") or _name(layer)
    kept: dict[str, Any] = {key: layer[key] for key in ("name", "inbound_nodes") if key in layer}
    if kind in _MODELS:
        return {**kept, **mend(layer)}
    if kind == "Lambda":
        raise InputError(
            f"layer {name!r} (Lambda) holds Python code, which is not run from a file, allowed: layers "
            "of Keras; rebuild the model in Keras 3 and copy the weights"
        )
    registered = keras.saving.get_registered_object(kind)
    if registered is None and not isinstance(getattr(keras.layers, kind, None), type):
        raise InputError(
            f"layer {name!r} is a {kind}, allowed: layers that Keras 3 has or that are registered there; "
            "replace it by such a layer (strip pruning or quantization wrappers first)"
        )
    config = dict(layer["config"])
    if kind != "InputLayer":
        config.pop("batch_input_shape", None)
    for key, harmless in _DROPPED.get(kind, {}).items():
        value = config.pop(key, harmless)
        if value != harmless:
            raise InputError(
                f"layer {name!r} ({kind}) has {key}={value!r}, allowed: {harmless!r}, as Keras 3 has "
                "no such argument"
            )
    for key in _IDLE.get(kind, ()):
        config.pop(key, None)
    for key, value in config.items():
        if key.endswith("activation") and "hard_sigmoid" in str(value):
            raise InputError(
                f"layer {name!r} ({kind}) has {key}='hard_sigmoid', which is clip(0.2 x + 0.5, 0, 1) "
                "in Keras 2 and clip(x / 6 + 0.5, 0, 1) in Keras 3, allowed: functions that are the "
                "same in both; rebuild the model with 'sigmoid' or with "
                "keras.activations.hard_sigmoid and train it again"
            )
    if kind == "GRU":
        config.setdefault("reset_after", False)  # the only kind there was when configs did not say
    for key in ("layer", "backward_layer", "cell"):
        if isinstance(config.get(key), dict):
            config[key] = _wrapped(config[key])
    if "cells" in config:
        config["cells"] = [_wrapped(cell) for cell in config["cells"]]
    policy = config.get("dtype")
    if isinstance(policy, dict) and policy.get("class_name") == "Policy":
        config["dtype"] = policy["config"]["name"]
    return {**kept, "class_name": kind, "config": config}


def _wrapped(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer in the config of another one, which Keras 3 reads only with its module."""
    mended = _layer(layer)
    module = "keras" if mended["class_name"] in _MODELS else "keras.layers"
    return {"module": module, "registered_name": None, **mended}


def _missing_input(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The InputLayer that a Sequential's first layer describes instead of having one before it."""
    first: dict[str, Any] = layers[0] if layers else {"class_name": "InputLayer"}
    if first["class_name"] in ("InputLayer", *_MODELS) or "batch_input_shape" not in first["config"]:
        return []
    config = first["config"]
    dtype = config.get("dtype") if config.get("dtype") in ("float16", "float32", "float64") else "float32"
    entrance = {"batch_shape": config["batch_input_shape"], "dtype": dtype, "name": f"{config['name']}_input"}
    return [{"class_name": "InputLayer", "config": entrance}]


def _call(layer: str, node: Any, kinds: dict[str, str]) -> list[list[Any]]:
    """One call of a layer: [[source, call of the source, output of that call, keyword arguments], ...]."""
    if not isinstance(node, list) or not all(
        isinstance(source, list) and len(source) in (3, 4) for source in node
    ):
        raise InputError(f"layer {layer!r} is called with {shown(node)}, allowed: one tensor or a list of tensors")
    mended = []
    for name, call, output, *keywords in node:
        for key, value in (keywords[0] if keywords else {}).items():
            if isinstance(value, (list, dict)):
                raise InputError(
                    f"layer {layer!r} gets the tensor {key!r} by keyword, allowed: tensors as first "
                    "argument; rebuild the model in Keras 3 and copy the weights"
                )
        mended.append([name, call - (kinds[name] in _MODELS), output, *keywords])
    return mended


def _outputs(outputs: Any, kinds: dict[str, str]) -> Any:
    """References to the model's outputs; Keras 3 still counts the calls of a functional model from 1 here."""
    if isinstance(outputs, dict):
        return {key: _outputs(value, kinds) for key, value in outputs.items()}
    if len(outputs) == 3 and isinstance(outputs[0], str):
        name, call, output = outputs
        return [name, call - (kinds[name] == "Sequential"), output]
    return [_outputs(value, kinds) for value in outputs]


def _single(references: Any) -> Any:
    """One input or output as itself, not as a list of one, as Keras 2 treats it."""
    one = isinstance(references, list) and len(references) == 1 and isinstance(references[0], list)
    return references[0] if one else references


def _name(layer: dict[str, Any]) -> str:
    config = layer.get("config")
    return config.get("name", "without name") if isinstance(config, dict) else "without name"
