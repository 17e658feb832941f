"""The process that runs tf2onnx, so that a crash of the converter costs only this process.

Run as a script by `onnx_file.py` with the path of a JSON file, never imported by the package. The file holds
`{"saved_model", "output", "opset"}`. It ends with the `output` file, or with `output` + ".error" that holds one
message; where there is neither, the process has crashed.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

SIGNATURE = "serving_default"


def teach_erfc() -> None:
    """Tell tf2onnx that erfc(x) = 1 - erf(x), which every exact GELU of Keras needs."""
    from tf2onnx import utils
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class _:
        @classmethod
        def version_9(cls, ctx: Any, node: Any, **kwargs: Any) -> None:
            kept = {"shapes": [ctx.get_shape(node.output[0])], "dtypes": [ctx.get_dtype(node.output[0])]}
            one = np.array(1, utils.map_onnx_to_numpy_type(kept["dtypes"][0]))
            one = ctx.make_const(utils.make_name("one"), one)
            erf = ctx.make_node("Erf", [node.input[0]], **kept)
            ctx.remove_node(node.name)
            ctx.make_node("Sub", [one.output[0], erf.output[0]], name=node.name, outputs=node.output, **kept)


def nodes_of(graph: Any) -> Iterator[Any]:
    """All nodes of a graph and of the graphs inside its loops and branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from nodes_of(inner)


def convert(saved_model: str, opset: int) -> bytes:
    """The bytes of the ONNX file of a SavedModel."""
    import onnx
    import tf2onnx

    teach_erfc()
    loaded = tf.saved_model.load(saved_model)  # held, because the signature does not keep its variables alive
    signature = loaded.signatures[SIGNATURE]
    specs = sorted(signature.structured_input_signature[1].values(), key=lambda spec: spec.name)

    def call(*tensors: tf.Tensor) -> Any:
        return signature(**{spec.name: tensor for spec, tensor in zip(specs, tensors, strict=True)})

    traced = tf.function(call, input_signature=specs)
    model, _ = tf2onnx.convert.from_function(traced, input_signature=specs, opset=opset)
    # an operation that tf2onnx does not know stays in the file as it is, and is only logged
    unknown: dict[str, str] = {}
    for node in nodes_of(model.graph):
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            unknown.setdefault(node.op_type, node.name)
    if unknown:
        places = ", ".join(f"{kind} (in {name})" for kind, name in sorted(unknown.items()))
        raise ValueError(f"operations of TensorFlow that have no counterpart in ONNX: {places}")
    model.graph.name = "model"  # instead of the traced function's name, which differs from run to run
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def main(request: str) -> None:
    """Convert what the JSON file `request` describes."""
    with open(request, encoding="utf-8") as file:
        job = json.load(file)
    try:
        name, content = job["output"], convert(job["saved_model"], job["opset"])
    except Exception as error:  # whatever it is, it becomes the message of a ConversionError
        name, content = job["output"] + ".error", f"{type(error).__name__}: {error}".encode()
    with open(name + ".part", "wb") as file:
        file.write(content)
    os.replace(name + ".part", name)


if __name__ == "__main__":
    main(sys.argv[1])
