"""The numbers of a report: errors, sizes, zeros, work per sample, and the machine they were measured on."""

from __future__ import annotations

import gzip
import math
import os
import platform
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError, keras_model, positive_int, shown
from keras_aeprune._version import __version__

__all__ = ["environment", "file_sizes", "macs", "mean_error", "mse", "parameters", "per_sample_mse"]

Predict = Callable[[np.ndarray], np.ndarray]


def parameters(model: keras.Model) -> dict[str, Any]:
    """Count a model's weights and the zeros in its kernels.

    Kernels are the weights that pruning looks at; biases and normalization weights are not pruned and count
    as not zero. sparsity = zeros / kernel_weights.

    Args:
        model: a built Keras model.

    Returns:
        "parameters" (all numbers the model holds), "trainable", "kernel_weights", "zeros" (in kernels),
        "nonzero" (parameters - zeros) and "sparsity" (a fraction, 0 <= sparsity <= 1; 0 without kernels).

    Raises:
        InputError: if the model has no weights yet, or is not a Keras 3 model.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), kl.Dense(2, kernel_initializer="zeros")])
        >>> parameters(model)["parameters"], parameters(model)["sparsity"]
        (8, 1.0)
    """
    _built(model)
    total = sum(_size(variable.shape) for variable in model.weights)
    kernels = _kernels(model)
    size = sum(_size(kernel.shape) for kernel in kernels)
    zeros = sum(int(np.count_nonzero(np.asarray(kernel) == 0)) for kernel in kernels)
    return {
        "parameters": total,
        "trainable": sum(_size(variable.shape) for variable in model.trainable_variables),
        "kernel_weights": size,
        "zeros": zeros,
        "nonzero": total - zeros,
        "sparsity": zeros / size if size else 0.0,
    }


def _kernels(model: keras.Model) -> list[keras.Variable]:
    """What counts as a kernel is what can be pruned, frozen or not."""
    return [weight.variable for weight in weights(model) if weight.kernel is not None]


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(int(side) for side in shape)


def _built(model: Any) -> None:
    keras_model(model)
    if not model.built:
        raise InputError(
            f"model {model.name!r}: got a model without weights, allowed: a built one; call it once on a "
            "batch, or give it an Input"
        )


def mse(predict: Predict, x: np.ndarray, *, batch: int = 1024) -> float:
    """The mean squared error of reconstructing `x`, over all samples and features.

    MSE = sum((predict(x) - x)^2) / (samples * features), added up in float64.

    Args:
        predict: takes samples (b, ...) and returns their reconstructions in the same shape.
        x: samples, shape (n, ...), n >= 1, finite.
        batch: samples per call of `predict`, at least 1.

    Returns:
        The error, >= 0, in squared units of `x`.

    Raises:
        InputError: for no samples, another shape, or values that are not finite.

    Example:
        >>> mse(lambda x: x + 0.5, np.zeros((4, 3), "float32"))
        0.25
    """
    return float(np.mean(per_sample_mse(predict, x, batch=batch)))


def per_sample_mse(predict: Predict, x: np.ndarray, *, batch: int = 1024) -> np.ndarray:
    """The mean squared error of each sample, for example to see which samples are rebuilt badly.

    Args:
        predict: takes samples (b, ...) and returns their reconstructions in the same shape.
        x: samples, shape (n, ...), n >= 1, finite.
        batch: samples per call of `predict`, at least 1.

    Returns:
        float64 array of shape (n,).

    Raises:
        InputError: for no samples, another shape, or values that are not finite.

    Example:
        >>> per_sample_mse(np.zeros_like, np.array([[1.0, 1.0], [3.0, 1.0]])).tolist()
        [1.0, 5.0]
    """
    positive_int("batch", batch)
    x = _samples("x", x)
    errors = np.empty(len(x), np.float64)
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        rebuilt = np.asarray(predict(part))
        if rebuilt.shape != part.shape:
            raise InputError(
                f"predict: got shape {rebuilt.shape} for samples of {part.shape}, allowed: the same shape"
            )
        difference = rebuilt.astype(np.float64) - part
        found = np.square(difference).reshape(len(part), -1).mean(axis=1)
        if not np.isfinite(found).all():
            first = start + int(np.argmin(np.isfinite(found)))
            raise InputError(
                f"predict: got an error that is not finite at sample {first}, allowed: finite samples and "
                "reconstructions; look for NaN in the data or for a training that diverged"
            )
        errors[start : start + len(part)] = found
    return errors


def mean_error(x_train: np.ndarray, x_test: np.ndarray) -> float:
    """The error of always predicting the mean of the training samples: what doing nothing costs.

    Args:
        x_train: samples, shape (n, ...), n >= 1, finite.
        x_test: samples of the same shape apart from their number, finite.

    Returns:
        The mean squared error over all test samples and features, >= 0.

    Raises:
        InputError: for no samples, shapes that differ, or values that are not finite.

    Example:
        >>> mean_error(np.array([[0.0], [2.0]]), np.array([[2.0]]))
        1.0
    """
    x_train, x_test = _samples("x_train", x_train), _samples("x_test", x_test)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise InputError(
            f"x_test: got samples of shape {x_test.shape[1:]}, allowed: {x_train.shape[1:]} as in x_train"
        )
    mean = x_train.mean(axis=0, dtype=np.float64)
    return mse(lambda part: np.broadcast_to(mean, part.shape), x_test)


def _samples(name: str, x: Any) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim < 1 or x.size == 0 or x.dtype.kind not in "fiub":
        raise InputError(f"{name}: got shape {x.shape} of {x.dtype}, allowed: at least one sample of numbers")
    return x


def file_sizes(path: str | Path) -> dict[str, int]:
    """The size of a file as it is, and packed.

    Args:
        path: an existing file.

    Returns:
        "bytes", and "gzip_bytes": its size after gzip at level 9 with no name and no time inside, about what
        a compressed download of it weighs.

    Raises:
        InputError: if there is no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(bytes(1000)), file.flush()
        ...     file_sizes(file.name)["bytes"]
        1000
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"path: got {shown(str(path))}, allowed: an existing file")
    data = path.read_bytes()
    return {"bytes": len(data), "gzip_bytes": len(gzip.compress(data, 9, mtime=0))}


def macs(model: keras.Model) -> dict[str, Any]:
    """Count the multiply-accumulates for one sample in Dense and convolution layers, nested ones included.

    Dense: inputs * units per position. Convolution: output positions * kernel size * input channels of its
    group * filters. Transposed convolution: the same with input positions (what `padding="same"` cuts away is
    counted). Depthwise: output positions * kernel size * output channels. Zeros in the kernels count as work,
    because runtimes multiply by them too. A layer that is called twice counts twice in a Sequential or
    functional model and once in a subclassed one, whose calls cannot be seen.

    Args:
        model: a built Keras model.

    Returns:
        "macs" (int), "by_layer" ({path: int}), and "not_counted": one line "path: reason" for every layer
        that does work this function has no rule for. Where it is not empty, "macs" is too low.

    Raises:
        InputError: if the model has no weights yet, or is not a Keras 3 model.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), kl.Dense(4, name="a"), kl.Dense(2, name="b")])
        >>> macs(model)
        {'macs': 40, 'by_layer': {'a': 32, 'b': 8}, 'not_counted': []}
    """
    _built(model)
    by_layer: dict[str, int] = {}
    not_counted: dict[str, None] = {}  # a dict keeps the order and each line once
    for path, layer, shape in calls(model, ""):
        kind = type(layer).__name__
        work, reason = None, f"no rule for layer kind {kind}"
        if type(layer) in _WORK:
            if shape is not None and None not in shape[1:]:
                work = _WORK[type(layer)](layer, shape)
            reason = f"the shape of its input is not fixed: {shape}"
        elif _does_nothing(layer):
            continue
        if work is None:
            not_counted[f"{path}: {reason}"] = None
        else:
            by_layer[path] = by_layer.get(path, 0) + work
    return {"macs": sum(by_layer.values()), "by_layer": by_layer, "not_counted": list(not_counted)}


def calls(model: keras.Model, prefix: str) -> Iterator[tuple[str, Any, tuple | None]]:
    """(path, layer, shape of its first input) for every call of a layer that is not a model itself."""
    functional = getattr(model, "_functional", None) or model
    if hasattr(functional, "_nodes_by_depth"):
        depths = sorted(functional._nodes_by_depth, reverse=True)
        nodes = [node for depth in depths for node in functional._nodes_by_depth[depth]]
        pairs = [(node.operation, node.input_tensors) for node in nodes if not node.is_input]
        children = [(operation, tuple(inputs[0].shape) if inputs else None) for operation, inputs in pairs]
    else:
        children = [(layer, _shape_at_build(layer)) for layer in model.layers]
    for layer, shape in children:
        path = f"{prefix}/{layer.name}" if prefix else layer.name
        if isinstance(layer, keras.Model):
            yield from calls(layer, path)
        else:
            yield path, layer, shape


def _shape_at_build(layer: Any) -> tuple | None:
    shape = (layer.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, (tuple, list)) or not all(side is None or isinstance(side, int) for side in shape):
        return None
    return tuple(shape)


def _positions(layer: Any, shape: tuple) -> int:
    """How many places of the image or series there are in `shape`."""
    return _size(shape[1:-1] if layer.data_format == "channels_last" else shape[2:])


def _channels(layer: Any, shape: tuple) -> int:
    return shape[-1] if layer.data_format == "channels_last" else shape[1]


def _dense(layer: Any, shape: tuple) -> int:
    return _size(shape[1:]) * layer.units


def _convolution(layer: Any, shape: tuple) -> int:
    places = _positions(layer, layer.compute_output_shape(shape))
    return places * _size(layer.kernel_size) * (_channels(layer, shape) // layer.groups) * layer.filters


def _transposed(layer: Any, shape: tuple) -> int:
    return _positions(layer, shape) * _size(layer.kernel_size) * _channels(layer, shape) * layer.filters


def _depthwise(layer: Any, shape: tuple) -> int:
    places = _positions(layer, layer.compute_output_shape(shape))
    return places * _size(layer.kernel_size) * _channels(layer, shape) * layer.depth_multiplier


def _separable(layer: Any, shape: tuple) -> int:
    places = _positions(layer, layer.compute_output_shape(shape))
    between = _channels(layer, shape) * layer.depth_multiplier
    return places * between * (_size(layer.kernel_size) + layer.filters)


_WORK: dict[type, Callable[[Any, tuple], int]] = {
    kl.Dense: _dense,
    **dict.fromkeys((kl.Conv1D, kl.Conv2D, kl.Conv3D), _convolution),
    **dict.fromkeys((kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose), _transposed),
    **dict.fromkeys((kl.DepthwiseConv1D, kl.DepthwiseConv2D), _depthwise),
    **dict.fromkeys((kl.SeparableConv1D, kl.SeparableConv2D), _separable),
}
_NO_WORK: tuple[type, ...] = (kl.Embedding, kl.BatchNormalization)  # a look-up; folded into its neighbour
# They multiply without holding weights: layers, and operations of keras.ops by their class names.
_HIDDEN_WORK: tuple[type, ...] = (kl.Dot, kl.Attention, kl.AdditiveAttention, kl.Lambda)
_HIDDEN_OPERATIONS = {"Matmul", "Dot", "Einsum", "Tensordot", "Inner", "Outer", "Vdot", "DotProductAttention"}
_HIDDEN_OPERATIONS |= {
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "SeparableConv",
    "FFT",
    "FFT2",
    "RFFT",
    "STFT",
}


def _does_nothing(layer: Any) -> bool:
    """Whether a layer multiplies nothing by weights: Keras' own layers without kernels, and look-ups."""
    if isinstance(layer, _NO_WORK):
        return True
    if isinstance(layer, _HIDDEN_WORK) or type(layer).__name__ in _HIDDEN_OPERATIONS:
        return False
    if not type(layer).__module__.startswith("keras."):
        return False
    if not isinstance(layer, kl.Layer):  # an operation of keras.ops, which holds no weights
        return True
    return all(len(variable.shape) < 2 for variable in layer.weights)


def environment() -> dict[str, Any]:
    """The versions and the processor that a measurement was made with; it differs between machines.

    Returns:
        Versions of "python", "tensorflow", "keras", "numpy", "ai_edge_litert" and "keras_aeprune"; "system";
        "cpu"; "logical_cores" (of the machine) and "usable_cores" (by this process); "gpus" (names);
        "intra_op_threads" and "inter_op_threads" (0: TensorFlow decides).

    Example:
        >>> environment()["logical_cores"] >= 1
        True
    """
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "ai_edge_litert": metadata.version("ai-edge-litert"),
        "keras_aeprune": __version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "logical_cores": os.cpu_count() or 1,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
    }


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.is_file() else ():
        if line.lower().startswith(("model name", "hardware")):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine() or "unknown"
