"""Write checked ONNX files of Keras models, and run ONNX files like `model.predict`."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_aeprune._files import writing
from keras_aeprune._layers import walk
from keras_aeprune._validation import InputError, keras_model, positive_int, refuse
from keras_aeprune.export.check import COMPARED, ExportMismatch, check_flags, finite_outputs
from keras_aeprune.export.convert import ConversionError, shorter
from keras_aeprune.export.inputs import Input, Inputs, inputs_of, samples
from keras_aeprune.export.request import checked_path
from keras_aeprune.export.signatures import SIGNATURE, Signature
from keras_aeprune.export.trace import check_supported, named, portable
from keras_aeprune.export.verify import Difference, difference, filled
from keras_aeprune.models.anomaly import AnomalyDetector

Arrays = Mapping[str, np.ndarray]
WORKER = Path(__file__).with_name("_onnx_worker.py")
LOWEST_OPSET, HIGHEST_OPSET = 13, 18  # 18 is the last one that tf2onnx 1.17 knows
LIMIT, RMS_LIMIT = 2e-4, 3e-5  # those of float32 .tflite files
CHUNK = 64  # samples that a file of open batch gets at a time
_NEEDED = ("tf2onnx", "onnx", "onnxruntime")
_RANDOM = re.compile(r"Random|Multinomial|Rng")
_TYPES = {"float": "float32", "double": "float64"}  # names of ONNX that NumPy does not have


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was run and compared with its model before it got its name.

    Args:
        path: the file.
        opset: version of ONNX's operators that it uses.
        batch: samples that it takes at a time; None for any number.
        bytes: its size.
        gzip_bytes: its size after gzip at level 9, about what a download takes.
        max_difference: largest difference from the Keras model, as a fraction of its largest absolute output.
        rms_difference: root-mean-square difference, as a fraction of the spread of the model's output.
        samples_compared: how many inputs were run through both.
        limit: what `max_difference` may be at most.
        rms_limit: what `rms_difference` may be at most.

    Example:
        >>> OnnxFile(Path("ae.onnx"), 17, None, 900, 700, 1e-6, 2e-7, 64).to_dict()["path"]
        'ae.onnx'
    """

    path: Path
    opset: int
    batch: int | None
    bytes: int
    gzip_bytes: int
    max_difference: float
    rms_difference: float
    samples_compared: int
    limit: float = LIMIT
    rms_limit: float = RMS_LIMIT

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the path as text."""
        return {**asdict(self), "path": str(self.path)}


class OnnxModel:
    """An ONNX file in onnxruntime, on the CPU.

    Use it to compute a file's outputs, for example to measure its error on test data.

    Args:
        path: an .onnx file.
        threads: of onnxruntime within one operation, >= 1.

    Attributes:
        input_shapes: shape by input name with the batch axis; None where the file leaves a size open.
        batch: how many samples the file takes at a time; None for any number.

    Raises:
        InputError: if onnxruntime is not installed, or the file is missing or does not load.

    Example:
        >>> from onnx import TensorProto, helper
        >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
        >>> graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
        >>> proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
        >>> path = Path(tempfile.mkdtemp()) / "double.onnx"
        >>> _ = path.write_bytes(proto.SerializeToString())
        >>> double = OnnxModel(path)
        >>> double.input_shapes, double.predict(np.array([[1, 2, 3], [4, 5, 6]]))[1].tolist()
        ({'x': (None, 3)}, [8.0, 10.0, 12.0])
    """

    def __init__(self, path: str | Path, *, threads: int = 1):
        _check_installed("onnxruntime")
        import onnxruntime

        self.path = Path(path)
        self.threads = positive_int("threads", threads)
        if not self.path.is_file():
            raise InputError(f"path: got {str(path)!r}, which is no file, allowed: an existing .onnx file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4  # what matters comes as an exception
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no base class of their own
            raise InputError(
                f"path: got {str(path)!r}, which onnxruntime {onnxruntime.__version__} does not load "
                f"({shorter(str(error))}), allowed: a whole .onnx file of standard operations"
            ) from error

        items = []
        for item in self._session.get_inputs():
            sizes = tuple(size if isinstance(size, int) else None for size in item.shape)
            kind = item.type.removeprefix("tensor(").removesuffix(")")
            items.append((sizes, Input(item.name, sizes[1:], _TYPES.get(kind, kind))))
        self.input_shapes: dict[str, tuple[int | None, ...]] = {item.name: sizes for sizes, item in items}
        self.batch: int | None = items[0][0][0]
        self._inputs = Inputs(tuple(item for _, item in items), None)

    def predict(self, x: Any, batch: int | None = None) -> np.ndarray | dict[str, np.ndarray]:
        """The outputs for every sample of `x`.

        Args:
            x: finite numbers (n, ...) for a file with one input, else a dict by input name; n >= 1.
            batch: samples at a time, >= 1; None takes 64, or what the file was made for.

        Returns:
            An array (n, ...) for a file with one output, else a dict by output name.

        Raises:
            InputError: if `x` or `batch` does not fit the file.
        """
        size = self.batch or CHUNK if batch is None else positive_int("batch", batch)
        if self.batch not in (None, size):
            raise refuse("batch", batch, f"{self.batch}, which {self.path.name} was made for")
        if x is None:
            raise refuse("x", x, f"arrays {self._inputs}")
        outputs = self._outputs(samples(self._inputs, x, seed=0), size)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _outputs(self, arrays: Arrays, size: int) -> dict[str, np.ndarray]:
        """By name; the last batch of a fixed size is filled up with copies, whose outputs are dropped."""
        size, count, parts = self.batch or size, len(next(iter(arrays.values()))), []
        for i in range(0, count, size):
            part = {name: array[i : i + size] for name, array in arrays.items()}
            parts.append(self._run(_filled(part, size) if self.batch else part))
        names = [item.name for item in self._session.get_outputs()]
        return {name: np.concatenate([part[k] for part in parts])[:count] for k, name in enumerate(names)}

    def _run(self, arrays: Arrays) -> list[np.ndarray]:
        shapes = {name: array.shape for name, array in arrays.items()}
        try:
            found = self._session.run(None, arrays)
        except Exception as error:
            raise InputError(
                f"x: got samples of shape {shapes} that {self.path.name} cannot run on ({shorter(str(error))}), "
                f"allowed: {self.input_shapes}"
            ) from error
        if any(array.shape[:1] != next(iter(shapes.values()))[:1] for array in found):
            raise InputError(
                f"x: got samples of shape {shapes}, for which {self.path.name} returns "
                f"{[array.shape for array in found]}, allowed: files whose outputs have a row for every sample"
            )
        return found


def onnx(
    model: keras.Model | AnomalyDetector,
    path: str | Path,
    *,
    data: Any = None,
    opset: int = 17,
    batch: int | None = None,
    seed: int = 0,
) -> OnnxFile:
    """Write `model` as a float32 .onnx file that was run with onnxruntime and compared with the model first.

    Use it where LiteRT does not run: servers, browsers, TensorRT, OpenVINO. For phones and sensor boards
    `tflite` writes smaller, quantized files. The model is converted by tf2onnx in a process of its own (some
    seconds, most of it the start of TensorFlow). With the model's outputs e and the file's g, it is kept if

        max |g - e| <= 2e-4 * max |e|    and    sqrt(mean (g - e)^2) <= 3e-5 * S

    where S = max(standard deviation of e, max |e| / 20), as for float32 .tflite files. Trained models were
    measured at 7e-6 and 3e-6 or less on inputs from 0 to 1, and at 7e-5 and 8e-6 on spectra in dB.

    Needs the extra "onnx": pip install "keras-aeprune[onnx]". A model that returns a dict of tensors gives a
    file whose outputs have its keys as names; any other one has output_0, output_1, ... An `AnomalyDetector`
    becomes a file from raw samples to "score" and "anomaly" (0 or 1), whose flags must be the detector's where
    the score is farther from the threshold than the largest difference of scores. The model is not changed.

    Args:
        model: a built Keras 3 model that computes in float32, or a fitted `AnomalyDetector`.
        path: ends in .onnx; its folder is made, an existing file is replaced.
        data: inputs (n, *input shape), finite, n >= 1, of which the first 64 are compared. For several inputs
            a dict by input name, or a list. None compares on 64 random samples, uniform in [0, 1).
        opset: version of ONNX's operators, 13 <= opset <= 18. Older readers need lower ones.
        batch: samples at a time, >= 1; None for any number, except where the model was built for a fixed one.
        seed: of the random samples, >= 0.

    Returns:
        What was written, with the differences and the limits.

    Raises:
        InputError: if an argument cannot be used, the model cannot be exported (random numbers at inference,
            state of its own, other types than float32), or a package is missing.
        ConversionError: if the converter refuses the model or crashes, or its file does not run.
        ExportMismatch: if the file computes something else than the model.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> file = onnx(model, Path(tempfile.mkdtemp()) / "model.onnx")
        >>> file.opset, file.batch, file.samples_compared, file.max_difference <= file.limit
        (17, None, 64, True)
    """
    _check_installed(*_NEEDED)
    threshold = None
    if isinstance(model, AnomalyDetector):
        model, threshold = model.as_model(), model.threshold
    keras_model(model)
    opset = positive_int("opset", opset, minimum=LOWEST_OPSET, maximum=HIGHEST_OPSET)
    seed = positive_int("seed", seed, minimum=0)
    if batch is not None:
        batch = positive_int("batch", batch)
    inputs = inputs_of(model, batch or 1)
    batch = batch or inputs.batch
    check_supported(model)
    arrays = {name: array[:COMPARED] for name, array in samples(inputs, data, seed=seed).items()}
    path = checked_path(path, ".onnx")
    with tempfile.TemporaryDirectory(prefix="keras_aeprune_") as folder:
        _trace(model, inputs, batch, Path(folder) / "saved_model")
        expected = finite_outputs(Signature(SIGNATURE, model, inputs, arrays))
        converted = convert(Path(folder), opset)
        found = _compare(model.name, converted, arrays, expected, threshold)
        content = converted.read_bytes()
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return OnnxFile(
        *(path, opset, batch, len(content), len(gzip.compress(content, 9, mtime=0)), found.max, found.rms),
        samples_compared=len(next(iter(arrays.values()))),
    )


def convert(folder: Path, opset: int) -> Path:
    """Run tf2onnx in a process of its own on the SavedModel in `folder`; the file that it wrote, not looked at."""
    request, output, saved = folder / "request.json", folder / "model.onnx", str(folder / "saved_model")
    request.write_text(json.dumps({"saved_model": saved, "output": str(output), "opset": opset}), "utf-8")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    # -P keeps the folder of the script off sys.path, where its neighbours would hide modules of the same name
    command = [sys.executable, "-P", str(WORKER), str(request)]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    message = Path(f"{output}.error")
    if message.exists():
        text = shorter(message.read_text(encoding="utf-8", errors="replace"))
        raise ConversionError(f"onnx: tf2onnx refused the model: {text}")
    status = ended.returncode
    if not output.exists():
        how = f"crashed with signal {-status}" if status < 0 else f"ended with exit status {status}"
        said = shorter(" | ".join(ended.stderr.strip().splitlines()[-4:])) or "nothing on its stderr"
        raise ConversionError(f"onnx: the process of tf2onnx {how} before it wrote a file: {said}")
    return output


def _trace(model: keras.Model, inputs: Inputs, batch: int | None, folder: Path) -> None:
    """Write the model as a SavedModel whose signature has inputs and outputs by name."""
    specs = [tf.TensorSpec((batch, *item.shape), item.dtype, name=item.name) for item in inputs.items]

    def serve(*tensors: Any) -> dict[str, Any]:
        return named(model(inputs.pack(tensors), training=False))

    archive = keras.export.ExportArchive()
    with portable(model):
        try:
            graph = archive.add_endpoint(SIGNATURE, serve, specs).get_concrete_function().graph
        except Exception as error:
            shapes = ", ".join(f"{spec.name} {tuple(spec.shape)}" for spec in specs)
            raise InputError(
                f"model {model.name!r}: calling it on {shapes} failed with {type(error).__name__}: "
                f"{shorter(str(error))}; allowed: a model that takes all its inputs as its first argument, and "
                "any number of samples where batch is None"
            ) from error
        _check_nodes(model, graph.as_graph_def())
        archive.write_out(str(folder), verbose=False)


def _check_nodes(model: keras.Model, graph: Any) -> None:
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    for node in nodes:
        random = _RANDOM.search(node.op)
        if random or node.op.startswith("Assign") or node.op == "ResourceScatterUpdate":
            where = _layer(model, node.name)
            if random:
                got = f"random numbers at inference ({node.op} in {where})"
                cure = "models.for_inference(model) puts the mean in place of Sampling; or make the noise an input"
            else:
                got = f"a model that changes its own variables when it is called ({where})"
                cure = "build it with stateful=False"
            raise InputError(
                f"model {model.name!r}: got {got}, allowed: one whose output depends on its input only; {cure}"
            )


def _layer(model: keras.Model, node: str) -> str:
    """The layer that a node of the graph stands in; Keras may have put a running number behind its name."""
    for part in reversed(node.split("/")):
        names = (part, re.sub(r"_\d+$", "", part))
        paths = [path for path, layer in walk(model) if layer.name in names]
        if paths:
            return f"layer {paths[-1]!r}"
    stateful = [path for path, layer in walk(model) if getattr(layer, "stateful", False)]
    return f"stateful layers {stateful}" if stateful else repr(node)


def _compare(name: str, file: Path, arrays: Arrays, expected: Arrays, threshold: float | None) -> Difference:
    """How far the converted file is from the model, within the limits."""
    try:
        runner = OnnxModel(file)
        got = runner._outputs(arrays, CHUNK)
        if runner.batch is None:  # what was traced for any number must give the same for another number
            alone = runner._outputs({key: array[:1] for key, array in arrays.items()}, CHUNK)
            got = {key: np.concatenate([alone[key], array[1:]]) for key, array in got.items()}
    except InputError as error:
        raise ConversionError(f"onnx: the converted file does not run: {shorter(str(error))}") from error
    count = len(next(iter(arrays.values())))
    if threshold is not None:
        check_flags("onnx", name, expected, got, threshold)
        expected, got = ({"score": values["score"]} for values in (expected, got))
    found = difference(expected, got)
    if not (found.max <= LIMIT and found.rms <= RMS_LIMIT):
        raise ExportMismatch(
            f"onnx: on {count} samples the converted file differs from {name!r} by up to {found.max:.2g} of the "
            f"largest output (limit {LIMIT:g}) and by {found.rms:.2g} of the output's spread in root mean square "
            f"(limit {RMS_LIMIT:g})"
        )
    return found


def _filled(arrays: Arrays, size: int) -> dict[str, np.ndarray]:
    return {name: filled(array, size) for name, array in arrays.items()}


def _check_installed(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"onnx: got a Python without {', '.join(missing)}, allowed: one that has {', '.join(_NEEDED)}; "
            "pip install 'keras-aeprune[onnx]'"
        )
