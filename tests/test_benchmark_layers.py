"""Layer removal and PQuantML's rows: what goes, what crosses to the peer, and what the tables say."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from keras_aeprune.shrinking.depth import without
from keras_aeprune.shrinking.merging import merge

ROOT = Path(__file__).parent.parent


@pytest.fixture
def load(monkeypatch):
    """benchmarks.NAME, which is not installed with the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def removal(load):
    return load("layer_removal")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((32, 28, 28, 1), "float32")


def _weights(model, seed=1):
    rng = np.random.default_rng(seed)
    values = [rng.normal(0, 0.4, value.shape) for value in model.get_weights()]
    model.set_weights(
        [np.abs(v) + 0.5 if w.name == "moving_variance" else v for v, w in zip(values, model.weights, strict=True)]
    )
    return model


def test_an_activation_of_a_block_that_goes_makes_one_convolution_of_two(removal, images):
    model = _weights(removal.network())
    assert (removal.left(model), removal.convolutions(model)) == (removal.ACTIVATIONS, 10)
    cut = without(model, ["wide12_relu", "down2_relu"], merge=False)
    merged = merge(cut)
    assert (removal.left(merged), removal.convolutions(merged)) == (4, 9)
    expected = cut.predict(images, verbose=0)
    np.testing.assert_allclose(merged.predict(images, verbose=0), expected, atol=1e-4 * np.abs(expected).max())


def test_the_activations_of_the_lowest_score_go_and_the_lot_is_the_same_for_a_seed(removal, images):
    model, job = _weights(removal.network()), SimpleNamespace(seen=(images, np.zeros(len(images), int)))
    norm = model.get_layer("wide21_norm")
    norm.beta.assign(np.full(norm.beta.shape, 90.0))  # always ON: an entropy of 0
    first, second = removal.chosen(model, job, "easier", 2, None)
    assert (first.path, first.score) == ("wide21_relu", 0)
    assert 0 < second.score < 1
    lots = [removal.chosen(model, job, None, 2, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert lots[0] == lots[1] != lots[2]
    assert len({cut.path for cut in lots[0]}) == 2
    assert {cut.kind for lot in lots for cut in lot} == {"activation"}


def test_an_emptied_kernel_and_an_activation_that_is_always_on_go_with_no_change_on_the_images(removal, images):
    model = _weights(removal.network())
    empty, norm = model.get_layer("wide11"), model.get_layer("wide22_norm")
    empty.kernel.assign(np.zeros(empty.kernel.shape))
    norm.beta.assign(np.full(norm.beta.shape, 90.0))
    small = removal.without_idle(model, images)
    assert removal.left(small) == removal.ACTIVATIONS - 2
    assert small.count_params() < merge(model).count_params()
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(small.predict(images, verbose=0), expected, atol=1e-4 * np.abs(expected).max())


def test_zeros_are_counted_in_the_blocks_wide_kernels_only(removal):
    model = _weights(removal.network())
    for name in ("down1", "narrow11"):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.zeros(kernel.shape))
    assert removal.zeros_of(model) == 0
    kernel = model.get_layer("wide11").kernel  # 3 x 3 x 6 x 12 of 2 x 648 + 2 x 2,592
    kernel.assign(np.zeros(kernel.shape))
    assert removal.zeros_of(model) == pytest.approx(0.1)


def _row(method, seed, accuracy, **more):
    row = {"method": method, "seed": seed, "step": 0, "removed": 1, "accuracy": accuracy, "convolutions": 9}
    return {**row, **({"bytes": 1000, "us": 5.0} if seed == 0 else {}), **more}


def test_accuracies_are_medians_and_changes_are_taken_seed_by_seed(removal):
    given = [_row("given", seed, 0.8 + seed / 100, removed=0) for seed in (0, 1, 2)]
    given[0]["float32"] = {"bytes": 4000, "us": 20.0}
    random = [_row("random", seed, a) for seed, a in enumerate((0.79, 0.70, 0.83))]
    zeros = [_row("entropy pruning", s, 0.5, removed=s, zeros=0.6 + s / 100) for s in (0, 1, 2)]
    result = {"rows": given + random + zeros, "activations": 6}
    lines = [" ".join(line.split()) for line in removal.show(result).splitlines()]
    assert lines[1] == "given, float32 0 0.8100 0.8000 0.8200 +0.0000 9 4,000 20.0"
    assert lines[2] == "given 0 0.8100 0.8000 0.8200 +0.0000 9 1,000 5.0"
    assert lines[3] == "random 1 0.7900 0.7000 0.8300 -0.0100 9 1,000 5.0"  # -0.01, -0.11, +0.01
    assert lines[4].startswith("entropy pruning, 0.61 zeros 0-2 0.5000 ")


def test_without_real_data_both_say_so(removal, load, monkeypatch):
    monkeypatch.delenv("KERAS_AEPRUNE_DATA", raising=False)
    for script in (removal, load("pquantml")):
        result = script.run(True)
        assert script.show(result) == "skipped: KERAS_AEPRUNE_DATA is not set"


def test_an_environment_is_made_once_and_a_failure_is_a_reason_that_is_tried_again(load, monkeypatch, tmp_path):
    peer, called = load("_pquantml"), []

    def call(*command):
        called.append(command)
        if "install" in command and len(called) < 4:
            raise subprocess.CalledProcessError(1, command, stderr="looking\nERROR: no such package\n")

    monkeypatch.setattr(peer, "_call", call)
    reason = "PQuantML is not installed, and a short run installs nothing"
    assert peer.environment(install=False, folder=tmp_path) == (None, reason)
    assert called == []
    reason = "PQuantML could not be installed or imported (ERROR: no such package)"
    assert peer.environment(folder=tmp_path) == (None, reason)
    python, reason = peer.environment(folder=tmp_path)
    assert (python.parent.parent, reason, len(called)) == (tmp_path, "", 5)
    assert called[-1][-1] == "import pquant"
    assert peer.environment(install=False, folder=tmp_path) == (python, "")
    assert len(called) == 5


def test_weights_cross_to_the_worker_and_come_back_and_a_dead_worker_is_an_error(load, monkeypatch):
    peer, status = load("_pquantml"), [0]

    def run(command, **options):
        folder = Path(command[-1])
        assert (command[:3], options["cwd"]) == (["python-of-it", "-m", "benchmarks._pquantml_worker"], ROOT)
        with np.load(folder / "dense.npz", allow_pickle=False) as file:
            np.savez(folder / "0.npz", *[2 * file[name] for name in file.files])
        runs = [{"method": "pdp", "file": "0.npz"}, {"method": "wanda", "error": "TypeError: no"}]
        assert json.loads((folder / "job.json").read_text()) == {"seed": 3}
        (folder / "said.json").write_text(json.dumps({"runs": runs}))
        return SimpleNamespace(returncode=status[0], stderr="no memory")

    monkeypatch.setattr(peer.subprocess, "run", run)
    given = [np.ones((2, 3)), np.arange(3.0)]
    first, second = peer.asked("python-of-it", {"seed": 3}, given)["runs"]
    for value, half in zip(first["weights"], given, strict=True):
        np.testing.assert_array_equal(value, 2 * half)
    assert second == {"method": "wanda", "error": "TypeError: no"}
    status[0] = 3
    with pytest.raises(RuntimeError, match="status 3: no memory"):
        peer.asked("python-of-it", {"seed": 3}, given)


@pytest.fixture
def worker(load, monkeypatch):
    """The worker's module with a stand-in for PQuantML."""

    def config():
        parts = ("pruning_parameters", "quantization_parameters", "training_parameters")
        return SimpleNamespace(**{part: SimpleNamespace() for part in parts})

    names = ("pquant", "pquant.core", "pquant.core.keras", "pquant.core.keras.train")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["pquant"].pdp_config = sys.modules["pquant"].wanda_config = config
    sys.modules[names[-1]].PQuantCallback = None
    monkeypatch.delitem(sys.modules, "benchmarks._pquantml_worker", raising=False)
    yield load("_pquantml_worker")
    sys.modules.pop("benchmarks._pquantml_worker", None)


def test_the_peer_gets_the_same_epochs_and_sparsity_and_no_quantization(worker):
    pdp = worker.config_of("pdp", 0.9, 4, 6)
    assert pdp.pruning_parameters == SimpleNamespace(sparsity=0.9, epsilon=0.25)
    assert pdp.quantization_parameters.enable_quantization is False
    training = pdp.training_parameters
    assert (training.pretraining_epochs, training.epochs, training.fine_tuning_epochs) == (0, 4, 2)
    for method, budget in (("wanda", True), ("wanda, by layer", False)):
        assert worker.config_of(method, 0.9, 4, 6).pruning_parameters.calculate_pruning_budget is budget


def test_the_line_of_an_error_that_says_what_is_wrong_is_kept(worker):
    text = (
        "Exception encountered when calling Cond.call().\n\n\x1b[1mno int\x1b[0m\n\nArguments received by Cond:\n"
    )
    assert worker._shortly(TypeError(text)) == "no int"
    assert worker._shortly(ValueError("")) == ""


def test_errors_and_zeros_of_a_training_are_counted_from_its_weights(load):
    pquantml = load("pquantml")
    dense = [np.eye(2), np.zeros(2), np.eye(2), np.zeros(2)]
    after = [np.diag([1.0, 0.0]), np.zeros(2), np.ones((2, 2)), np.zeros(2)]
    row = pquantml._row("x", 0, dense, after, np.zeros((1, 2), "float32"), {"seconds": 1.0})
    assert (row["zeros"], row["layers"]) == (3 / 8, [0.75, 0.0])
    assert row["test_mse"] == 0.25  # sigmoid of 0


def _trained(method, seed, error):
    layers = {"zeros": 0.9, "layers": [0.85 + seed / 100, 0.95]}
    return {"method": method, "seed": seed, "dense_mse": 0.01, "test_mse": error, "cpu seconds": 7.0, **layers}


def test_the_table_has_medians_failures_and_what_was_left_out_or_why_the_peer_is_missing(load):
    rows = [_trained("keras_aeprune, global", seed, e) for seed, e in enumerate((0.013, 0.012, 0.017))]
    rows.append({"method": "PQuantML, wanda", "seed": 0, "error": "TypeError: no int"})
    form = {"replaced": 1, "left": ["Dense"], "outputs": 1.5, "with sigmoid": 0.0, "error": ""}
    result = {
        "sparsity": 0.9,
        "rows": rows,
        "missing": "",
        "versions": {"keras": "3"},
        "taken": {"Sequential": form},
    }
    lines = [" ".join(line.split()) for line in load("pquantml").show(result).splitlines()]
    assert lines[2] == "keras_aeprune, global 0.01300 0.01200 0.01700 0.90000 0.850 to 0.950 7"
    assert lines[3] == "PQuantML, wanda fails, TypeError: no int"
    assert lines[5] == "Sequential 1 Dense 1.50 0.00 runs"
    lines = load("pquantml").show({**result, "missing": "no network"}).splitlines()
    assert lines[-1] == "PQuantML: skipped, no network"
