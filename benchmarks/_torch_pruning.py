"""The row of torch-pruning: a Keras chain goes over to torch, is cut and trained there, and comes back.

torch lives in an environment of its own, made at the first use in the folder for temporary files. What crosses is
a list of steps as JSON and arrays as .npz, in torch's layout; `_torch_worker.py` reads them without this package.
In a network for images every step is a convolution: a Dense layer behind Flatten has a kernel of the whole feature
map, one before Reshape is a transposed convolution of that size whose bias has a value for each position. These
are the same numbers, and torch-pruning then cuts whole channels of the map.
"""

import getpass
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

WORKER = Path(__file__).with_name("_torch_worker.py")
TOLERANCE = 1e-5  # of outputs in [0, 1]
ROUNDS, ROUND_EPOCHS = 5, 3  # cuts on the way to the budget, and the training behind each but the last
PEER = "torch-pruning==1.6.1"
ROUTES = ("group norm", "taylor", "magnitude")
SETTINGS = {  # what a twin in either Keras is built from
    "Dense": ("units", "activation"),
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "activation"),
    "Conv2DTranspose": ("filters", "kernel_size", "strides", "padding", "activation"),
    "Flatten": (),
    "Reshape": ("target_shape",),
}


def described(model):
    """[(class name, settings), ...] of a chain of layers, nested models flattened."""
    from keras_aeprune._validation import InputError

    found = []
    for layer in model.layers:
        kind = type(layer).__name__
        if hasattr(layer, "layers"):
            found += described(layer)
        elif kind in SETTINGS:
            config = layer.get_config()
            found.append((kind, {"name": layer.name, **{key: config[key] for key in SETTINGS[kind]}}))
        elif kind != "InputLayer":
            raise InputError(
                f"model: got the layer {layer.name!r} of the kind {kind}, allowed: a chain of "
                f"{', '.join(SETTINGS)}"
            )
    return found


def built(keras, layers, shape):
    """A chain of described layers in Keras 3 or tf_keras. Names get a number: both halves use the same ones."""
    chain = [keras.Input(tuple(shape))]
    for number, (kind, settings) in enumerate(layers, start=1):
        chain.append(getattr(keras.layers, kind)(**{**settings, "name": f"{number}_{settings['name']}"}))
    return keras.Sequential(chain)


def same_padding(size, kernel, stride):
    """Zeros (before, after) that Keras' "same" puts around one axis; torch knows equal numbers only."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def steps_of(layers, shape):
    """[{role, stride, pad, map, activation}, ...] for the layers that have weights.

    `pad` is (left, right, top, bottom), negative where a transposed convolution makes too much.
    """
    from keras_aeprune._validation import InputError

    steps, size, entering = [], tuple(shape[:-1]), None
    for place, (kind, settings) in enumerate(layers):
        if kind == "Flatten":
            entering, size = size, (1, 1)
        if kind in ("Flatten", "Reshape"):
            continue
        step = {"stride": 1, "pad": [0, 0, 0, 0], "map": [1, 1], "activation": settings["activation"]}
        if kind == "Dense":
            following = layers[place + 1] if place + 1 < len(layers) else (None, {})
            if following[0] == "Reshape":
                size = tuple(following[1]["target_shape"][:-1])
                step.update(role="spread", map=list(size))
            elif len(shape) == 1:
                step.update(role="linear")
            else:
                step.update(role="flattened", map=list(entering or (1, 1)))
            entering = None
        else:
            (stride, other), kernel = settings["strides"], settings["kernel_size"]
            if settings["padding"] != "same" or stride != other or min(kernel) < stride:
                raise InputError(
                    f"model: got the layer {settings['name']!r} with {settings}, allowed: padding 'same', one "
                    "stride for both axes and kernels that are no smaller"
                )
            if kind == "Conv2D":
                around = [same_padding(n, k, stride) for n, k in zip(size, kernel, strict=True)]
                size = tuple(-(-n // stride) for n in size)
                step["role"] = "conv"
            else:
                size = tuple(n * stride for n in size)
                around = [same_padding(n, k, stride) for n, k in zip(size, kernel, strict=True)]
                around = [(-before, -after) for before, after in around]
                step["role"] = "transposed"
            step.update(stride=stride, pad=[*around[1], *around[0]])
        steps.append(step)
    return steps


def routes_for(steps):
    """The routes that are run: one for convolutions, where group norm fails and torch is slow on a processor."""
    transposed = any(step["role"] in ("transposed", "spread") for step in steps)
    return ["taylor"] if transposed else list(ROUTES)


def to_torch(step, kernel, bias):
    """The arrays of a Keras layer as torch keeps them."""
    role, (height, width) = step["role"], step["map"]
    if role == "linear":
        return kernel.T, bias
    if role == "flattened":
        return kernel.reshape(height, width, -1, kernel.shape[-1]).transpose(3, 2, 0, 1), bias
    if role == "spread":
        kernel = kernel.reshape(len(kernel), height, width, -1).transpose(0, 3, 1, 2)
        return kernel, bias.reshape(height, width, -1).transpose(2, 0, 1)
    return kernel.transpose(3, 2, 0, 1), bias


def from_torch(step, weight, bias):
    """The inverse of `to_torch`."""
    role = step["role"]
    if role == "linear":
        return weight.T, bias
    if role == "flattened":
        return weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)), bias
    if role == "spread":
        return weight.transpose(0, 2, 3, 1).reshape(len(weight), -1), bias.transpose(1, 2, 0).ravel()
    return weight.transpose(2, 3, 1, 0), bias


def returned(layers, steps, arrays, shape):
    """The Keras 3 model of the widths that came back, with its weights."""
    import keras

    narrow, weights, channels = [], [], None
    ahead = iter(zip(steps, arrays[::2], arrays[1::2], strict=True))
    for kind, settings in layers:
        settings = dict(settings)
        if kind == "Reshape":
            settings["target_shape"] = (*settings["target_shape"][:-1], channels)
        elif kind != "Flatten":
            step, weight, bias = next(ahead)
            channels = len(bias)  # of the map as well: there a bias is channels x height x width
            weights += from_torch(step, weight, bias)
            settings["units" if kind == "Dense" else "filters"] = bias.size
        narrow.append((kind, settings))
    model = built(keras, narrow, shape)
    model.set_weights(weights)
    model.compile(loss="mse")
    return model


def environment(install=True, folder=None):
    """(the Python that has torch and torch-pruning, "") or (None, why there is none)."""
    folder = Path(folder or Path(tempfile.gettempdir()) / f"keras_aeprune-torch-{getpass.getuser()}")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"  # written last: a half-made environment is made again
    if ready.exists():
        return python, ""
    if not install:
        return None, "torch-pruning is not installed, and a short run installs nothing"
    print(f"installing torch and torch-pruning into {folder}", flush=True)
    try:
        _call(sys.executable, "-m", "venv", "--clear", str(folder))
        _call(str(python), "-m", "pip", "install", _torch(str(python)), PEER, "numpy")
        _call(str(python), "-c", "import torch_pruning")
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return None, f"torch-pruning could not be installed ({said[-1][:200]})"
    ready.touch()
    return python, ""


def _call(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _torch(python):
    """The newest build of torch without a GPU's libraries, where pip sees one; else the default."""
    try:
        listed = _call(python, "-m", "pip", "index", "versions", "torch")
    except (OSError, subprocess.CalledProcessError):
        return "torch"
    words = listed.replace(",", " ").split()
    return next((f"torch=={word}" for word in words if word.endswith("+cpu")), "torch")


def cut(model, x, limit, *, epochs, batch_size, rate, quick, python):
    """(Keras model, what the worker says) after torch-pruning's cut to at most `limit` parameters and training.

    Each of its routes is taken, and the one with the lowest loss on the training images comes back.
    """
    import numpy as np

    shape = model.input_shape[1:]
    layers = described(model)
    steps = steps_of(layers, shape)
    values = model.get_weights()
    arrays = [
        array
        for step, kernel, bias in zip(steps, values[::2], values[1::2], strict=True)
        for array in to_torch(step, kernel, bias)
    ]
    job = {
        "steps": steps,
        "limit": int(limit),
        "rounds": 2 if quick else ROUNDS,
        "round epochs": 1 if quick else ROUND_EPOCHS,
        "epochs": epochs,
        "batch size": batch_size,
        "rate": rate,
        "routes": routes_for(steps),
        "threads": os.cpu_count(),  # as TensorFlow takes
        "tolerance": TOLERANCE,
    }
    probe = x[:64]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "job.json").write_text(json.dumps(job))
        np.savez(folder / "weights.npz", *arrays)
        np.savez(folder / "probe.npz", _first(probe), _first(model.predict(probe, verbose=0)))
        np.save(folder / "images.npy", _first(x))
        done = subprocess.run([str(python), str(WORKER), str(folder)], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"torch-pruning: ended with status {done.returncode}: {done.stderr[-2000:]}")
        said = json.loads((folder / "said.json").read_text())
        back, (expected,) = _arrays(folder / "cut.npz"), _arrays(folder / "outputs.npz")
    small = returned(layers, steps, back, shape)
    apart = float(np.abs(_first(small.predict(probe, verbose=0)) - expected).max())
    if apart > TOLERANCE or small.count_params() > limit:
        raise RuntimeError(
            f"torch-pruning: outputs {apart:.1e} apart after the way back, {small.count_params()} parameters"
        )
    return small, said


def _first(x):
    """Samples with the channels first; flat ones stay."""
    import numpy as np

    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def _arrays(path):
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{number}"] for number in range(len(file.files))]
