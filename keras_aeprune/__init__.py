"""Prune Keras 3 models while they train, make them small for real, and export checked TFLite files.

The rooms, each loaded on first use:

- `keras_aeprune.compress`    the whole job, from data to checked .tflite files and a report
- `keras_aeprune.Prune`       the callback that sets weights to zero during `model.fit`
- `keras_aeprune.models`      autoencoders as plain Keras models, what their encoders are for, and PCA
- `keras_aeprune.datasets`    arrays, files, time series and streams to checked float32 splits
- `keras_aeprune.regularizers` penalties on activations, for the loss
- `keras_aeprune.sparsity`    masks, `Prune`, `KeepSparse`, `sparsity_table`
- `keras_aeprune.criteria`    which weights matter
- `keras_aeprune.calibration` representative inputs: real, generated, noise
- `keras_aeprune.compression` shared weights, training for int8, distillation, a packed file
- `keras_aeprune.shrinking`   cut units, layers and activations out for real
- `keras_aeprune.search`      which width, which criterion? found by trying
- `keras_aeprune.schedules`   when, and how fast
- `keras_aeprune.export`      .tflite and .onnx files, compared before they are kept; latency, on phones too
- `keras_aeprune.report`      what is in a file; models beside each other: sizes, errors, latencies, one page
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keras_aeprune._version import __version__

if TYPE_CHECKING:
    from keras_aeprune import (
        calibration,
        compression,
        criteria,
        datasets,
        export,
        models,
        pipeline,
        regularizers,
        report,
        schedules,
        search,
        shrinking,
        sparsity,
    )
    from keras_aeprune.pipeline import compress
    from keras_aeprune.sparsity import KeepSparse, Prune, sparsity_table

_ROOMS = (
    "calibration",
    "compression",
    "criteria",
    "datasets",
    "export",
    "models",
    "pipeline",
    "regularizers",
    "report",
    "schedules",
    "search",
    "shrinking",
    "sparsity",
)
_NAMES = {
    "KeepSparse": "sparsity",
    "Prune": "sparsity",
    "compress": "pipeline",
    "sparsity_table": "sparsity",
}

__all__ = [
    "calibration",
    "compression",
    "criteria",
    "datasets",
    "export",
    "models",
    "pipeline",
    "regularizers",
    "report",
    "schedules",
    "search",
    "shrinking",
    "sparsity",
    "KeepSparse",
    "Prune",
    "__version__",
    "compress",
    "sparsity_table",
]


if not TYPE_CHECKING:  # for a type checker every unknown name would be one of Any

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return import_module(f"keras_aeprune.{name}")
        if name in _NAMES:
            return getattr(import_module(f"keras_aeprune.{_NAMES[name]}"), name)
        raise AttributeError(f"module 'keras_aeprune' has no attribute {name!r}; known: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
