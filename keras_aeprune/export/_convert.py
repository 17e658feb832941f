"""The process that runs the TFLite converter, so that a crash of the converter costs only this process.

Run as a script by `convert.py` with the path of a JSON file, never imported by the package. The file holds
`{"jobs": [{"saved_model", "output", "signatures", "calibration", "batch", "optimize", "sparse", "types", "ops",
"quantized_io", "keep_float"}, ...]}`. Each job ends with its `output` file, or with `output` + ".error" that
holds one message; a job with neither is the one that crashed.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf


def representative(calibration: dict[str, dict[str, str]], batch: int) -> Callable[[], Iterator[Any]]:
    """A generator function that yields a batch at a time, as a dict by input name.

    With several signatures it yields (name of the signature, dict). The last batch is filled up from the front.
    """
    arrays = {
        name: {key: np.load(path, allow_pickle=False) for key, path in paths.items()}
        for name, paths in calibration.items()
    }

    def samples() -> Iterator[Any]:
        for name, inputs in arrays.items():
            count = len(next(iter(inputs.values())))
            for i in range(0, count, batch):
                rows = np.arange(i, i + batch) % count
                sample = {key: array[rows] for key, array in inputs.items()}
                yield sample if len(arrays) == 1 else (name, sample)

    return samples


def convert(job: dict) -> bytes:
    """The bytes of the TFLite file that `job` describes."""
    converter = tf.lite.TFLiteConverter.from_saved_model(job["saved_model"], signature_keys=job["signatures"])
    converter.optimizations = [
        *([tf.lite.Optimize.DEFAULT] if job["optimize"] else []),
        *([tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if job["sparse"] else []),
    ]
    if job["types"]:
        converter.target_spec.supported_types = [tf.as_dtype(name) for name in job["types"]]
    if job["ops"] and not job["keep_float"]:
        converter.target_spec.supported_ops = [tf.lite.OpsSet[name] for name in job["ops"]]
    if job["calibration"]:
        converter.representative_dataset = representative(job["calibration"], job["batch"])
    if job["quantized_io"]:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    if job["keep_float"]:
        # what tf.lite.experimental.QuantizationDebugger does for operations that stay in float
        from tensorflow.lite.python.convert import mlir_quantize

        converter._experimental_calibrate_only = True
        return mlir_quantize(converter.convert(), denylisted_ops=set(job["keep_float"]))
    return converter.convert()


def main(request: str) -> None:
    """Convert every job of the JSON file `request`, in order."""
    with open(request, encoding="utf-8") as file:
        jobs = json.load(file)["jobs"]
    for job in jobs:
        try:
            name, content = job["output"], convert(job)
        except Exception as error:  # whatever it is, it becomes the message of a ConversionError
            name, content = job["output"] + ".error", f"{type(error).__name__}: {error}".encode()
        with open(name + ".part", "wb") as file:
            file.write(content)
        os.replace(name + ".part", name)


if __name__ == "__main__":
    main(sys.argv[1])
