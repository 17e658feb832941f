"""Write a file: checked .tflite files, their outputs and their latency.

- `tflite`, `tflite_many`   a Keras model to files, compared with the model before they are kept
- `TFLiteModel`             run any .tflite file like `model.predict`
- `benchmark`               how long one invoke takes, several files next to each other
- `PRECISIONS`              the table of what `quantize=` accepts; a new precision is one row there
"""

from keras_aeprune.export.benchmark import Latency, benchmark
from keras_aeprune.export.check import ExportedFile, ExportMismatch
from keras_aeprune.export.convert import ConversionError
from keras_aeprune.export.precisions import PRECISIONS, Precision
from keras_aeprune.export.tflite import tflite, tflite_many
from keras_aeprune.export.verify import TFLiteModel

__all__ = [
    "PRECISIONS",
    "ConversionError",
    "ExportMismatch",
    "ExportedFile",
    "Latency",
    "Precision",
    "TFLiteModel",
    "benchmark",
    "tflite",
    "tflite_many",
]
