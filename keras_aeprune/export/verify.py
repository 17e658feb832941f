"""Run .tflite files like `model.predict`, and measure how far two outputs are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_aeprune._validation import InputError, positive_int, refuse


class TFLiteModel:
    """A .tflite file in the LiteRT interpreter with its default (XNNPACK) delegate.

    Use it to compute a file's outputs, for example to measure its error on test data. State that a file keeps
    between invokes (a fused LSTM does) is reset before every invoke, so samples do not influence each other.

    Args:
        path: a .tflite file.
        threads: of the interpreter, >= 1.
        signature: which one of the file's signatures to run; None runs what the file computes without a name,
            which is its only one, or the first graph of several.

    Attributes:
        signatures: names of the file's signatures.

    Raises:
        InputError: if the file is missing, is no .tflite file or does not load, or has no such signature.

    Example:
        >>> import tempfile, tensorflow as tf
        >>> double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((1, 3), name="x")])
        >>> concrete = [double.get_concrete_function()]
        >>> path = Path(tempfile.mkdtemp()) / "double.tflite"
        >>> _ = path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions(concrete).convert())
        >>> model = TFLiteModel(path)
        >>> model.input_shapes, model.predict(np.array([[1, 2, 3], [4, 5, 6]]))[1].tolist()
        ({'x': (1, 3)}, [8.0, 10.0, 12.0])
    """

    def __init__(self, path: str | Path, *, threads: int = 1, signature: str | None = None):
        self.path = Path(path)
        self.threads = positive_int("threads", threads)
        self.signature = signature
        if not self.path.is_file():
            raise InputError(f"path: got {str(path)!r}, which is no file, allowed: an existing .tflite file")
        try:
            self._load()
        except InputError:
            raise
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"path: got {str(path)!r}, which the interpreter does not load "
                f"({' '.join(str(error).split())}), allowed: a whole .tflite file whose operations LiteRT has"
            ) from error

    def _load(self) -> None:
        self._interpreter = Interpreter(model_path=str(self.path), num_threads=self.threads)
        self._interpreter.allocate_tensors()
        self.signatures = tuple(self._interpreter.get_signature_list())
        if self.signature is not None and self.signature not in self.signatures:
            raise refuse("signature", self.signature, ", ".join(("None", *self.signatures)))
        named = self.signature is not None and len(self.signatures) > 1
        # while a runner lives, the interpreter itself refuses to invoke
        self._runner = self._interpreter.get_signature_runner(self.signature) if named else None
        self._inputs, self._outputs = _signature(self._interpreter, self._runner)
        self._shapes = {name: tuple(int(i) for i in d["shape"]) for name, d in self._inputs.items()}
        operations = {operation["op_name"] for operation in self._interpreter._get_ops_details()}
        self._keeps_resources = "ASSIGN_VARIABLE" in operations

    @property
    def input_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shape by input name with the batch axis; None where the file leaves a size open."""
        return {
            name: tuple(None if i < 0 else int(i) for i in d.get("shape_signature", d["shape"]))
            for name, d in self._inputs.items()
        }

    @property
    def input_dtypes(self) -> dict[str, np.dtype]:
        """NumPy type by input name."""
        return {name: np.dtype(details["dtype"]) for name, details in self._inputs.items()}

    @property
    def batch(self) -> int:
        """How many samples an invoke takes as the file is; 1 where it leaves that open."""
        return max([1, *(int(d["shape"][0]) for d in self._inputs.values() if len(d["shape"]))])

    def predict(self, x: Any, batch: int | None = None) -> np.ndarray | dict[str, np.ndarray]:
        """The outputs for every sample of `x`.

        Real numbers for a quantized input are quantized with the file's own scale and zero point (whole
        numbers are taken as quantized already), and quantized outputs come back as float32.

        Args:
            x: an array (n, ...) for a file with one input, else a dict by input name; n >= 1.
            batch: samples per invoke, >= 1; another one than the file's own needs a file that can be resized.
                None takes the file's own and fills the last batch up with copies of the last sample.

        Returns:
            An array (n, ...) for a file with one output, else a dict by output name.

        Raises:
            InputError: if `x` does not fit the file, or the file does not work with that batch.
        """
        size = self.batch if batch is None else positive_int("batch", batch)
        arrays = self._checked(x)
        count = len(next(iter(arrays.values())))
        parts = []
        for i in range(0, count, size):
            part = {name: array[i : i + size] for name, array in arrays.items()}
            if batch is None:
                part = {name: filled(array, size) for name, array in part.items()}
            parts.append(self._invoke(part))
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}
        wanted = len(parts) * size if batch is None else count
        for name, array in outputs.items():
            if len(array) != wanted:
                raise InputError(f"batch: got {size}, allowed for this file: 1 (output {name!r} ignores it)")
        outputs = {name: array[:count] for name, array in outputs.items()}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def prepare(self, sample: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """Set one sample, by input name with the batch axis; the function returned runs the file once."""
        arrays = self._checked(sample)
        if self._runner is not None:
            runner = self._runner
            return lambda: runner(**arrays)
        for name, array in arrays.items():
            self._interpreter.set_tensor(self._inputs[name]["index"], array)
        return self._interpreter.invoke

    def _checked(self, x: Any) -> dict[str, np.ndarray]:
        shapes = self.input_shapes
        if not isinstance(x, Mapping):
            if len(shapes) != 1:
                raise refuse("x", x, f"a dict of arrays by input name: {shapes}")
            x = {next(iter(shapes)): x}
        if set(x) != set(shapes):
            raise refuse("x", sorted(x), f"arrays for the inputs {', '.join(shapes)}")
        arrays = {name: np.asarray(x[name]) for name in shapes}
        for name, array in arrays.items():
            wanted = shapes[name][1:]
            fits = array.ndim == len(wanted) + 1 and all(
                size is None or size == got for size, got in zip(wanted, array.shape[1:], strict=True)
            )
            if not fits or array.size == 0 or array.dtype.kind not in "fiub":
                raise InputError(
                    f"x for input {name!r}: got {array.dtype} of shape {array.shape}, allowed: numbers of "
                    f"shape (n, {', '.join('any' if i is None else str(i) for i in wanted)}) with n >= 1"
                )
        if len({len(array) for array in arrays.values()}) > 1:
            raise refuse("x", {k: len(v) for k, v in arrays.items()}, "the same number of samples for every input")
        return {name: _quantized(array, self._inputs[name]) for name, array in arrays.items()}

    def _invoke(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._keeps_resources:
            self._load()
        interpreter = self._interpreter
        shapes = {name: array.shape for name, array in arrays.items()}
        try:
            if self._runner is not None:
                interpreter.reset_all_variables()
                results = self._runner(**arrays)
                return {name: _real(results[name], details) for name, details in self._outputs.items()}
            if shapes != self._shapes:
                for name, shape in shapes.items():
                    interpreter.resize_tensor_input(self._inputs[name]["index"], shape)
                interpreter.allocate_tensors()
                self._shapes = shapes
            interpreter.reset_all_variables()
            for name, array in arrays.items():
                interpreter.set_tensor(self._inputs[name]["index"], array)
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            self._load()
            raise InputError(
                f"x: got samples of shape {shapes} that {self.path.name} cannot run on "
                f"({' '.join(str(error).split())}), allowed without resizing: {self.input_shapes}"
            ) from error
        return {
            name: _real(interpreter.get_tensor(details["index"]), details)
            for name, details in self._outputs.items()
        }


def _signature(interpreter: Interpreter, runner: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Details of inputs and outputs by name: those of a runner or the only signature, else names of tensors."""
    if runner is not None:
        return runner.get_input_details(), runner.get_output_details()
    if len(interpreter.get_signature_list()) != 1:
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        return {d["name"]: d for d in inputs}, {d["name"]: d for d in outputs}
    runner = interpreter.get_signature_runner()
    return runner.get_input_details(), runner.get_output_details()


def filled(array: np.ndarray, size: int) -> np.ndarray:
    """`array` with copies of its last sample behind it, `size` samples in all.

    Example:
        >>> filled(np.array([[1], [2]]), 4).ravel().tolist()
        [1, 2, 2, 2]
    """
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing > 0 else array


def _quantized(array: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(details["dtype"])
    scale, zero_point = details["quantization"]
    if scale and dtype.kind in "iu" and array.dtype.kind == "f":
        limits = np.iinfo(dtype)
        return np.clip(np.round(array / scale) + zero_point, limits.min, limits.max).astype(dtype)
    return array.astype(dtype)


def _real(array: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if scale and array.dtype.kind in "iu":
        return ((array.astype(np.float32) - zero_point) * scale).astype(np.float32)
    return array


@dataclass(frozen=True)
class Difference:
    """How far a file is from the model; see `difference`."""

    max: float
    rms: float


def difference(expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> Difference:
    """The largest and the root-mean-square difference, relative to the model's output; the worst output's.

    With e the model's output and g the file's, over all samples and elements,

        max = max |g - e| / L                  with L = max |e|
        rms = sqrt(mean (g - e)^2) / S         with S = max(standard deviation of e, L / 20)

    so 1 - rms^2 is about the share of the output's variance that the file keeps. The floor L / 20 is there
    for models whose output hardly varies, such as untrained ones. L = 1 where the model only returns zeros.

    Args:
        expected: the model's outputs by name.
        got: the file's outputs by name.

    Raises:
        InputError: if names or shapes differ.

    Example:
        >>> difference({"y": np.array([0.0, 4.0])}, {"y": np.array([0.0, 3.0])}).max
        0.25
    """
    if set(expected) != set(got):
        raise refuse("outputs", sorted(got), ", ".join(sorted(expected)))
    worst_max = worst_rms = 0.0
    for name, wanted in expected.items():
        found = got[name]
        if wanted.shape != found.shape:
            raise InputError(f"output {name!r}: got shape {found.shape}, allowed: {wanted.shape}")
        if not np.isfinite(found).all():
            return Difference(float("inf"), float("inf"))
        error = np.asarray(found, np.float64) - np.asarray(wanted, np.float64)
        largest = float(np.abs(wanted).max()) or 1.0
        spread = max(float(np.std(wanted, dtype=np.float64)), largest / 20)
        worst_max = max(worst_max, float(np.abs(error).max()) / largest)
        worst_rms = max(worst_rms, float(np.sqrt(np.mean(error**2))) / spread)
    return Difference(worst_max, worst_rms)
