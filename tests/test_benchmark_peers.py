"""torch-pruning's and tfmot's rows: what crosses over is the same network, and a peer that is missing is said.

torch is not among the packages of the tests: a slow network in NumPy, by torch's own conventions, stands for it.
"""

import importlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.models.convolutional import convolutional
from keras_aeprune.models.dense import dense

ROOT = Path(__file__).parent.parent
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "linear": lambda x: x,
}


@pytest.fixture
def load(monkeypatch):
    """benchmarks.NAME, which is not installed with the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def peer(load):
    return load("_torch_pruning")


def _padded(x, pad):
    left, right, top, bottom = pad
    if min(pad) < 0:
        return x[:, :, -top : x.shape[2] + bottom, -left : x.shape[3] + right]
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _convolved(x, weight, stride):
    kernel = weight.shape[2:]
    rows, columns = ((n - k) // stride + 1 for n, k in zip(x.shape[2:], kernel, strict=True))
    found = np.zeros((len(x), len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            seen = x[:, :, i * stride : i * stride + kernel[0], j * stride : j * stride + kernel[1]]
            found[:, :, i, j] = np.einsum("ncab,ocab->no", seen, weight)
    return found


def _spread_out(x, weight, stride):
    """A transposed convolution: every input value adds a multiple of the kernel to the output."""
    kernel = weight.shape[2:]
    size = ((n - 1) * stride + k for n, k in zip(x.shape[2:], kernel, strict=True))
    found = np.zeros((len(x), weight.shape[1], *size))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            found[:, :, i * stride : i * stride + kernel[0], j * stride : j * stride + kernel[1]] += np.einsum(
                "nc,coab->noab", x[:, :, i, j], weight
            )
    return found


def _slow(steps, arrays, x):
    """The network as _torch_worker.Net computes it."""
    x = np.moveaxis(x, -1, 1).astype("float64")
    for step, weight, bias in zip(steps, arrays[::2], arrays[1::2], strict=True):
        role = step["role"]
        if role == "linear":
            x = x @ weight.T + bias
        elif role in ("conv", "flattened"):
            x = _convolved(_padded(x, step["pad"]), weight, step["stride"]) + bias[:, None, None]
        else:
            x = _padded(_spread_out(x, weight, step["stride"]), step["pad"])
            x = x + (bias if role == "spread" else bias[:, None, None])
        x = ACTIVATIONS[step["activation"]](x)
    return np.moveaxis(x, 1, -1)


def _with_biases(model):
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.3, value.shape) for value in model.get_weights()])
    return model


MODELS = {
    "dense": lambda: dense((12,), encoding_dim=3, hidden_units=(8, 5)),
    "kernel 3": lambda: convolutional((8, 12, 2), encoding_dim=5, filters=(3, 4)),
    "kernel 4": lambda: convolutional((8, 12, 1), encoding_dim=5, filters=(3, 4), kernel_size=4),
    "kernel 5": lambda: convolutional((8, 8, 1), encoding_dim=4, filters=(3, 4, 2), kernel_size=5),
    "maps only": lambda: convolutional((8, 8, 1), filters=(3, 1)),
}


def _crossed(peer, model):
    """Layers, steps and arrays of a model on the way to torch."""
    layers = peer.described(model)
    steps = peer.steps_of(layers, model.input_shape[1:])
    values = model.get_weights()
    pairs = zip(steps, values[::2], values[1::2], strict=True)
    return layers, steps, [array for step, *pair in pairs for array in peer.to_torch(step, *pair)]


@pytest.mark.parametrize("name", list(MODELS))
def test_what_goes_to_torch_computes_what_keras_computes_and_comes_back_the_same(peer, name):
    model = _with_biases(MODELS[name]())
    layers, steps, arrays = _crossed(peer, model)
    x = np.random.default_rng(1).random((3, *model.input_shape[1:]), "float32")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(_slow(steps, arrays, x), expected, atol=1e-5)
    back = peer.returned(layers, steps, arrays, model.input_shape[1:])
    for value, given in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, given)
    np.testing.assert_allclose(back.predict(x, verbose=0), expected, atol=1e-6)


def test_units_and_whole_channels_of_the_map_that_torch_took_out_are_gone_in_keras(peer):
    model = _with_biases(convolutional((8, 12, 2), encoding_dim=5, filters=(3, 4)))
    layers, steps, arrays = _crossed(peer, model)
    # widths 3 4 | code 5 | map 4 | 4 3 | output 2 become 2 3 | 4 | 2 | 1 2 | 2
    kept = [[0, 2], [0, 1, 3], [0, 1, 2, 4], [1, 3], [2], [0, 1], [0, 1]]
    before = [0, 1]
    for number, (step, after) in enumerate(zip(steps, kept, strict=True)):
        weight, bias = arrays[2 * number : 2 * number + 2]
        into, out = (0, 1) if step["role"] in ("spread", "transposed") else (1, 0)
        arrays[2 * number] = weight.take(before, into).take(after, out)
        arrays[2 * number + 1] = bias[after]
        before = after
    small = peer.returned(layers, steps, arrays, model.input_shape[1:])
    assert [layer.output.shape[-1] for layer in small.layers] == [2, 3, 18, 4, 12, 2, 1, 2, 2]
    x = np.random.default_rng(1).random((3, 8, 12, 2), "float32")
    np.testing.assert_allclose(small.predict(x, verbose=0), _slow(steps, arrays, x), atol=1e-5)


def test_padding_is_uneven_where_the_stride_leaves_an_odd_number(peer):
    assert peer.same_padding(28, 3, 2) == (0, 1)
    assert peer.same_padding(7, 3, 2) == (1, 1)
    assert peer.same_padding(5, 3, 1) == (1, 1)
    assert peer.same_padding(8, 4, 1) == (1, 2)
    assert peer.same_padding(8, 1, 2) == (0, 0)


def test_convolutions_are_cut_by_one_route(peer):
    routes = {name: peer.routes_for(_crossed(peer, MODELS[name]())[1]) for name in ("dense", "kernel 3")}
    assert routes == {"dense": ["group norm", "taylor", "magnitude"], "kernel 3": ["taylor"]}


def test_a_network_that_torch_would_compute_otherwise_is_refused(peer):
    pooled = convolutional((8, 8, 1), encoding_dim=4, filters=(3,), downsampling="pooled")
    with pytest.raises(InputError, match="'pool_1' of the kind MaxPooling2D, allowed: a chain of Dense"):
        peer.described(pooled)
    valid = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, name="here")])
    with pytest.raises(InputError, match=r"'here' .* allowed: padding 'same'"):
        peer.steps_of(peer.described(valid), (8, 8, 1))


def _worker(peer, monkeypatch, spoilt=0.0, status=0):
    """A worker that gives back what it got."""
    jobs = []

    def run(command, **_):
        folder = Path(command[-1])
        job = json.loads((folder / "job.json").read_text())
        arrays, (probe, _) = peer._arrays(folder / "weights.npz"), peer._arrays(folder / "probe.npz")
        np.savez(folder / "cut.npz", *arrays)
        np.savez(
            folder / "outputs.npz", np.moveaxis(_slow(job["steps"], arrays, probe_last(probe)), -1, 1) + spoilt
        )
        (folder / "said.json").write_text(json.dumps({"route": "taylor"}))
        jobs.append((command, job, np.load(folder / "images.npy", allow_pickle=False)))
        return SimpleNamespace(returncode=status, stderr="no memory")

    def probe_last(probe):
        return np.moveaxis(probe, 1, -1)

    monkeypatch.setattr(peer.subprocess, "run", run)
    return jobs


SETTINGS = {"epochs": 4, "batch_size": 16, "rate": 0.01, "quick": False, "python": "python-of-torch"}


def test_the_worker_gets_the_images_with_channels_first_and_the_same_last_training(peer, monkeypatch):
    jobs = _worker(peer, monkeypatch)
    model = _with_biases(convolutional((4, 6, 2), encoding_dim=3, filters=(2,)))
    x = np.random.default_rng(1).random((5, 4, 6, 2), "float32")
    small, said = peer.cut(model, x, model.count_params(), **SETTINGS)
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    assert said == {"route": "taylor"}
    ((command, job, images),) = jobs
    assert command[:2] == ["python-of-torch", str(ROOT / "benchmarks" / "_torch_worker.py")]
    np.testing.assert_array_equal(images[2, 1, 3, 5], x[2, 3, 5, 1])
    assert (job["epochs"], job["batch size"], job["rate"], job["limit"]) == (4, 16, 0.01, model.count_params())


def test_outputs_that_differ_too_many_parameters_and_a_dead_worker_are_errors(peer, monkeypatch):
    model = _with_biases(dense((6,), encoding_dim=2, hidden_units=(4,)))
    x = np.random.default_rng(1).random((5, 6), "float32")
    _worker(peer, monkeypatch, spoilt=1e-3)
    with pytest.raises(RuntimeError, match=r"outputs 1\.0e-03 apart"):
        peer.cut(model, x, 1000, **SETTINGS)
    _worker(peer, monkeypatch)
    with pytest.raises(RuntimeError, match=f"{model.count_params()} parameters"):
        peer.cut(model, x, 10, **SETTINGS)
    _worker(peer, monkeypatch, status=3)
    with pytest.raises(RuntimeError, match="status 3: no memory"):
        peer.cut(model, x, 1000, **SETTINGS)


def test_an_environment_that_cannot_be_made_is_a_reason_and_is_tried_again(peer, monkeypatch, tmp_path):
    called = []

    def call(*command):
        called.append(command)
        if "install" in command:
            raise subprocess.CalledProcessError(1, command, stderr="looking\nERROR: no such package\n")
        return ""

    monkeypatch.setattr(peer, "_call", call)
    folder = tmp_path / "torch"
    folder.mkdir()
    for _ in range(2):
        python, reason = peer.environment(folder=folder)
        assert python is None
        assert reason == "torch-pruning could not be installed (ERROR: no such package)"
    assert sum("venv" in command for command in called) == 2


def test_an_environment_is_made_once_and_never_by_a_short_run(peer, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(peer, "_call", lambda *command: called.append(command) or "")
    assert peer.environment(install=False, folder=tmp_path) == (
        None,
        "torch-pruning is not installed, and a short run installs nothing",
    )
    assert called == []
    python, reason = peer.environment(folder=tmp_path)
    assert python.parent.parent == tmp_path
    assert reason == ""
    assert any("torch-pruning==1.6.1" in command for command in called)
    called.clear()
    assert peer.environment(folder=tmp_path) == (python, "")
    assert called == []


@pytest.mark.parametrize(
    ("listed", "wanted"),
    [
        ("torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0+cpu, 2.12.0+cpu\n", "torch==2.13.0+cpu"),
        ("torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0\n", "torch"),
    ],
)
def test_the_newest_build_for_the_cpu_is_taken_where_there_is_one(peer, monkeypatch, listed, wanted):
    monkeypatch.setattr(peer, "_call", lambda *command: listed)
    assert peer._torch("python") == wanted


def _figures(**more):
    return {"parameters": 100, "bytes": 1000, "zipped": 900, "error": 0.02, "file": "x", "widths": ["a 8"], **more}


@pytest.fixture
def rows(load, monkeypatch, tmp_path):
    """(the shared script with all trainings replaced, limits given to torch-pruning, a call for the rows).

    Targets are 0.5, 0.4 and 0.34 of the parameters and 0.25 of the multiplications; torch-pruning is asked for
    0.5, 0.4 and 0.25 of the parameters.
    """
    script, task = load("_shrinking"), load("shrinking_convolutional").TASK
    targets = {"params": (0.5, 0.4, 0.34), "macs": (0.25,)}
    task = replace(task, targets=targets, peers=(0.5, 0.4, 0.25))
    asked = []
    model = SimpleNamespace(save=lambda path: None, get_weights=lambda: [np.array([[0.0, 1], [0, 0]])])
    result = SimpleNamespace(model=model, seconds=1.0, to_dict=lambda: {"rounds": []})
    monkeypatch.setattr(script, "_data", lambda task, quick: (np.zeros(4), np.zeros(2)))
    monkeypatch.setattr(script, "_trained", lambda *a: model)
    monkeypatch.setattr(script, "_ours", lambda *a: result)
    for name in ("_zeros", "_common", "_scratch"):
        monkeypatch.setattr(script, name, lambda *a: model)
    monkeypatch.setattr(script, "_row", lambda m, x, test, folder, name, *q: _figures(file=f"{name}.tflite"))
    monkeypatch.setattr(keras.models, "load_model", lambda path: model)
    monkeypatch.setattr(script, "_peer", lambda m, x, limit, *a: asked.append(limit) or script.said)
    script.said = (model, {"route": "taylor"})
    yield script, asked, lambda: script._rows(task, tmp_path, tmp_path, False)
    del script.said


def test_a_peer_has_a_row_for_each_number_of_parameters_it_is_asked_for_and_no_more_of_them_than_ours(rows):
    _, asked, measure = rows
    found = measure()
    assert asked == [100, 100]  # torch-pruning takes no limit in multiplications
    assert [key for key in found if key.startswith("torch")] == ["torch-pruning, 0.5", "torch-pruning, 0.4"]
    assert found["torch-pruning, 0.4"]["route"] == "taylor"
    for share in (0.5, 0.4, 0.34, 0.25):
        assert {f"one cut by L1 norms, {share}", f"from scratch, {share}"} < set(found)
    assert "shrink_until, 0.25 of the macs" in found
    assert found["tfmot, 0.8 zeros"]["zeros"] == 0.75
    assert measure() == found
    assert len(asked) == 2, "finished parts were measured again"


def test_a_peer_that_is_missing_is_a_row_with_the_reason_that_is_tried_again(rows, capsys):
    script, asked, measure = rows
    script.said = (None, {"skipped": "no network"})
    found = measure()
    assert found["torch-pruning, 0.4"] == {"skipped": "no network"}
    assert "torch-pruning, 0.4: skipped, no network" in capsys.readouterr().out
    measure()
    assert len(asked) == 4
    assert "parameters" in found["from scratch, 0.4"]


def test_missing_rows_are_not_timed_and_stand_in_the_table_with_their_reason(load, monkeypatch):
    from keras_aeprune import export

    script = load("_shrinking")
    rows = {
        "from scratch, 0.25": _figures(),
        "from scratch, 0.4": _figures(),
        "given, float32": _figures(bytes=8000, error=0.01),
        "given, int8": _figures(),
        "shrink_until, 0.25 of the macs": _figures(bytes=500),
        "shrink_until, 0.4 of the params": _figures(),
        "tfmot, 0.8 zeros": _figures(zipped=300),
        "torch-pruning, 0.25": _figures(route="taylor", widths=["code 16"]),
        "torch-pruning, 0.4": {"skipped": "no network"},
    }
    del rows["given, int8"]["zipped"]  # as in results from before it was measured
    monkeypatch.setattr(load("_narrow"), "timed", lambda paths: {"skipped": "no such processor"})
    timing = SimpleNamespace(median_us=5.0, ratio=0.5)
    monkeypatch.setattr(export, "benchmark", lambda *paths, runs: [timing] * len(paths))
    timed = script._timed(rows, Path("files"))
    assert list(timed) == list(rows)
    assert "us" not in timed["torch-pruning, 0.4"]
    task = load("shrinking_convolutional").TASK
    lines = script.show({"tables": {"convolutional": timed}}, task).splitlines()
    assert [line[:33].strip() for line in lines[1:10]] == [
        "given, float32",
        "given, int8",
        "tfmot, 0.8 zeros",
        "shrink_until, 0.4 of the params",
        "torch-pruning, 0.4",
        "from scratch, 0.4",
        "shrink_until, 0.25 of the macs",
        "torch-pruning, 0.25",
        "from scratch, 0.25",
    ]
    assert lines[2].split()[-8:] == ["1,000", "-", "8.0x", "5.0", "2.0x", "-", "0.02000", "2.000"]
    assert lines[3].split()[-7:-5] == ["300", "8.0x"]
    assert lines[5].split()[2:] == ["skipped:", "no", "network"]
    assert lines[7].split()[-6] == "16.0x"
    assert "  torch-pruning, 0.25 (taylor): code 16" in lines
    assert lines[-1] == "  asked: 8x smaller and 4x faster at an error of 1.05x"


@pytest.mark.parametrize("name", ["shrinking", "shrinking_convolutional"])
def test_results_on_file_are_shown_one_model_each(load, name):
    script = load(name)
    result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert list(result["tables"]) == [script.TASK.name]
    lines = script.show(result).splitlines()
    assert lines[0].split()[0] == script.TASK.name
    assert sum(line.startswith("shrink_until") for line in lines) >= 2


def test_without_real_data_the_reason_is_given(load, monkeypatch):
    monkeypatch.delenv("KERAS_AEPRUNE_DATA", raising=False)
    script = load("shrinking_convolutional")
    assert script.show(script.run(True)) == "skipped: KERAS_AEPRUNE_DATA is not set"


def test_tfmot_sets_the_asked_fraction_to_zero_in_a_copy(load, monkeypatch):
    script = load("_shrinking")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    model = _with_biases(convolutional((8, 8, 1), encoding_dim=10, filters=(5, 10)))
    given = model.get_weights()
    x = np.random.default_rng(0).random((128 * 6, 8, 8, 1), "float32")
    pruned = script._zeros(model, x, 1, False)
    assert script._zeros_in(pruned) == pytest.approx(script.ZEROS, abs=0.01)
    assert script._zeros_in(model) == 0
    assert [value.shape for value in pruned.get_weights()] == [value.shape for value in given]
    for value, before in zip(model.get_weights(), given, strict=True):
        np.testing.assert_array_equal(value, before)
    # a layer's largest weights are still near their places, so nothing was swapped on the way
    kernel, before = pruned.get_weights()[4].ravel(), given[4].ravel()
    assert np.corrcoef(kernel[kernel != 0], before[kernel != 0])[0, 1] > 0.9
