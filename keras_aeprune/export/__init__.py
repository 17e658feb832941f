"""Write a file: checked .tflite and .onnx files, what they compute, and how long they take.

- `tflite`, `tflite_many`     a Keras model to files, compared with the model before they are kept
- `TFLiteModel`, `read_metadata`   run any .tflite file like `model.predict`; what is written in it
- `PRECISIONS`                the table of what `quantize=` accepts; a new precision is one row there
- `onnx`, `OnnxModel`         the same for .onnx files
- `benchmark`, `profile`      how long one invoke takes, several files next to each other; operation by operation
- `latency`                   the same of a model that is not a file yet
- `energy`                    multiplications and bytes moved, as a proxy for energy
- `time_on_phone`             the same on a connected phone
- `micro_source`, `c_array`, `arena_hint`   C++ for a microcontroller
- `layer_errors`, `sensitivity`, `int8_quality`   what int8 costs, where, and how to get it back
"""

from keras_aeprune.export.benchmark import Latencies, Latency, benchmark, latency_table
from keras_aeprune.export.candidates import Candidates, Tried
from keras_aeprune.export.check import ExportedFile, ExportMismatch
from keras_aeprune.export.convert import ConversionError
from keras_aeprune.export.energy_proxy import Energy, energy
from keras_aeprune.export.int8_errors import LayerErrors, layer_errors, sensitivity
from keras_aeprune.export.layer_times import OperationTime, Profile, profile
from keras_aeprune.export.metadata import read_metadata
from keras_aeprune.export.microcontroller import arena_hint, c_array, micro_source
from keras_aeprune.export.model_time import latency
from keras_aeprune.export.onnx_file import OnnxFile, OnnxModel, onnx
from keras_aeprune.export.phone import PhoneError, PhoneLatency, time_on_phone
from keras_aeprune.export.precisions import PRECISIONS, Precision
from keras_aeprune.export.quality import Int8Quality, int8_quality
from keras_aeprune.export.tflite import tflite, tflite_many
from keras_aeprune.export.verify import TFLiteModel

__all__ = [
    "PRECISIONS",
    "Candidates",
    "ConversionError",
    "Energy",
    "ExportMismatch",
    "ExportedFile",
    "Int8Quality",
    "Latencies",
    "Latency",
    "LayerErrors",
    "OnnxFile",
    "OnnxModel",
    "OperationTime",
    "PhoneError",
    "PhoneLatency",
    "Precision",
    "Profile",
    "TFLiteModel",
    "Tried",
    "arena_hint",
    "benchmark",
    "c_array",
    "energy",
    "int8_quality",
    "latency",
    "latency_table",
    "layer_errors",
    "micro_source",
    "onnx",
    "profile",
    "read_metadata",
    "sensitivity",
    "tflite",
    "tflite_many",
    "time_on_phone",
]
