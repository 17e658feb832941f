"""Every bad input is one line that says what was received and what is allowed, with exit status 2."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_aeprune import cli

GOOD = np.random.default_rng(0).random((40, 6), "float32")


def save(path, array):
    np.save(path, array)
    return str(path)


def pickled(folder):
    np.save(folder / "p.npy", np.array([{"a": 1}] * 20, dtype=object), allow_pickle=True)
    return "p.npy"


def holed(value):
    array = GOOD.copy()
    array[3, 2] = value
    return array


def images_of_two_sizes(folder):
    (folder / "images").mkdir()
    for n in range(12):
        Image.fromarray(np.full((8, 8 + n // 11), n * 9, "uint8")).save(folder / "images" / f"{n:02}.png")
    return "images"


def text_file(folder):
    (folder / "a.txt").write_text("hello")
    return "a.txt"


def run_of_another(folder):
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text('{"format": 1, "seed": 99}')
    return "digits"


def file_as_out(folder):
    (folder / "run").write_text("")
    return "digits"


CASES = {
    "NaN": (lambda f: save(f / "x.npy", holed(np.nan)), "", "NaN"),
    "infinite": (lambda f: save(f / "x.npy", holed(np.inf)), "", "infinite"),
    "empty": (lambda f: save(f / "x.npy", GOOD[:0]), "", "allowed"),
    "one row": (lambda f: save(f / "x.npy", GOOD[:1]), "", "allowed"),
    "strings": (lambda f: save(f / "x.npy", np.array([["a", "b"]] * 20)), "", "allowed"),
    "unknown key": (lambda f: (np.savez(f / "x.npz", x=GOOD), "x.npz")[1], "--key y", "got 'y'"),
    "wrong file type": (text_file, "", "allowed"),
    "missing file": (lambda f: "nowhere.npy", "", "nowhere.npy"),
    "unknown name": (lambda f: "digit", "", "digits"),
    "pickled array": (pickled, "", "allowed"),
    "images of two sizes": (images_of_two_sizes, "", "11.png"),
    "width 0": (lambda f: "digits", "--encoding-dim 0", "encoding_dim: got 0"),
    "width of the data": (lambda f: "digits", "--encoding-dim 64", "encoding_dim: got 64"),
    "sparsity 1": (lambda f: "digits", "--sparsity 1", "sparsity: got 1.0"),
    "negative sparsity": (lambda f: "digits", "--sparsity=-0.5", "sparsity: got -0.5"),
    "sparsity no number": (lambda f: "digits", "--sparsity much", "'much'"),
    "epochs 0": (lambda f: "digits", "--epochs 0", "epochs: got 0"),
    "error limit": (lambda f: "digits", "--max-error-increase=-0.5", "max_error_increase: got -0.5"),
    "error limit no number": (lambda f: "digits", "--max-error-increase much", "'much'"),
    "time": (lambda f: "digits", "--max-time soon", "max_time: got 'soon'"),
    "hidden units": (lambda f: "digits", "--hidden-units 3,x", "'3,x'"),
    "run of another run": (run_of_another, "", "the folder of another run"),
    "out is a file": (file_as_out, "", "where nothing can be written"),
    "unknown option": (lambda f: "digits", "--sparsty 0.5", "--sparsty"),
    "abbreviated option": (lambda f: "digits", "--spars 0.5", "--spars"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(name, tmp_path, monkeypatch, capfd):
    make, options, message = CASES[name]
    monkeypatch.chdir(tmp_path)
    data = make(tmp_path)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    try:
        status = cli.main(["compress", data, "--out", "run", *options.split()])
    except SystemExit as exit_:  # argparse
        status = exit_.code
    printed = capfd.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("keras-aeprune")
    assert message in printed.err
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_tf_keras_model_file_is_refused_with_the_way_to_keras_3(tmp_path, monkeypatch, capfd):
    import tf_keras

    monkeypatch.chdir(tmp_path)
    inputs = tf_keras.Input((6,))
    tf_keras.Model(inputs, tf_keras.layers.Dense(6)(inputs)).save("old.keras")
    np.save("x.npy", GOOD)
    capfd.readouterr()
    status = cli.main(["prune", "old.keras", "--data", "x.npy", "--out", "p.keras"])
    error = capfd.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert "from_tf_keras" in error
    assert not Path("p.keras").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--criterion fischer", "criterion: got 'fischer', allowed: activation_entropy, "),
        ("--criterion-samples 0", "criterion_samples: got 0, allowed: a whole number >= 1"),
        ("--allocation by_layer", "allocation: got 'by_layer', allowed: entropy, erk, global, uniform"),
    ],
)
def test_bad_names_are_refused_before_the_model_is_looked_for(option, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["prune", "nowhere.keras", "--data", "nowhere.npz", "--out", "p.keras", *option.split()]
    assert cli.main(words) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capfd):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert cli.main(["compress", "digits", "--out", str(tmp_path / "locked" / "run")]) == 2
    assert "where nothing can be written" in capfd.readouterr().err


def test_a_read_only_file_system_is_refused(capfd):
    assert cli.main(["compress", "digits", "--out", "/proc/run"]) == 2
    assert "where nothing can be written" in capfd.readouterr().err


def test_a_limit_that_cannot_be_met_is_status_1(tmp_path, capfd):
    status = cli.main(["compress", "digits", "--out", str(tmp_path / "run"), "--max-time", "2s"])
    assert status == 1
    assert "max_time: got 2 s, which is too short" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compress", "digits", "--out", "run", "--dry-run", "--epochs", "5"]) == 0
    out = capfd.readouterr().out
    assert "dense autoencoder 64-" in out
    assert "cost" in out
    assert list(tmp_path.iterdir()) == []


def test_a_missed_target_is_status_1(tmp_path, monkeypatch, capfd):
    from keras_aeprune.sparsity import Prune

    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6)])
    model.compile("sgd", "mse")
    model.save("m.keras")
    np.save("x.npy", GOOD)

    def stop(self, batch, logs=None):
        self.model.stop_training = True

    monkeypatch.setattr(Prune, "on_train_batch_end", stop)
    assert cli.main(["prune", "m.keras", "--data", "x.npy", "--out", "p.keras", "--quiet"]) == 1
    assert "asked for sparsity 0.9000, reached" in capfd.readouterr().err
    assert not Path("p.keras").exists()


@pytest.mark.parametrize(
    "words", [["--help"], ["compress", "--help"], ["prune", "--help"], ["shrink", "--help"], ["--version"]]
)
def test_help_needs_no_tensorflow_and_is_quick(words):
    code = (
        "import sys; from keras_aeprune.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_terminal_shows_no_lines_of_tensorflow(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "keras_aeprune.cli",
            "compress",
            "nowhere.npy",
            "--out",
            str(tmp_path / "run"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("", 2, "saved without a loss, allowed: a compiled one, or name the loss (--loss mse"),
        ("--loss mse --data nowhere.npz", 2, "nowhere.npz"),
        ("--loss mse --data x.npy --keep half", 2, "'half'"),
        ("--loss mse --keep 0.5 --target-params 9", 2, "keep: got it with a target"),
        ("--loss mse --criterion fischer", 2, "criterion: got 'fischer'"),
        ("--loss mse --plan p.json", 2, "plan_file: got it for several rounds"),
        ("--loss mse --dry-run", 2, "dry_run: got neither keep nor a target"),
        ("--loss mse --scale none --target-params 3 --dry-run", 1, "target_params=3"),
        ("--loss mse --out x/y.h5", 2, "allowed: a name that ends in .keras"),
    ],
)
def test_what_shrink_cannot_use_is_one_line_and_leaves_nothing(
    options, status, message, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    layers = [keras.layers.Dense(units) for units in (12, 6)]
    keras.Sequential([keras.Input((6,)), *layers]).save("m.keras")
    np.save("x.npy", GOOD)
    capfd.readouterr()
    try:
        found = cli.main(["shrink", "m.keras", "--data", "x.npy", "--out", "new/s.keras", *options.split()])
    except SystemExit as exit_:  # argparse
        found = exit_.code
    printed = capfd.readouterr()
    assert found == status
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert message in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.keras", "x.npy"]


def test_shrink_prints_the_plan_and_writes_it_where_asked(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(32, name="hidden"), keras.layers.Dense(6)])
    model.save("m.keras")
    np.save("x.npy", GOOD)
    words = ["shrink", "m.keras", "--data", "x.npy", "--loss", "mse", "--scale", "none", "--out", "s.keras"]
    assert cli.main([*words, "--keep", "0.5", "--dry-run", "--plan", "plans/p.json"]) == 0
    out = capfd.readouterr().out
    assert "32 -> 16" in out
    assert "no model was written" in out
    assert Path("plans/p.json").is_file()
    assert not Path("s.keras").exists()


def test_names_lists_every_room_with_a_line_for_each_name(capfd):
    assert cli.main(["names"]) == 0
    printed = capfd.readouterr().out
    for room in ("criteria", "allocations", "schedules", "patterns", "regrowth", "calibration"):
        assert f"\n{room}\n" in f"\n{printed}"
    [line] = [line for line in printed.splitlines() if line.startswith("  magnitude ")]
    assert line.split(maxsplit=1)[1].startswith("|w| (order 1)")
    starts = {len(line) - len(line[2:].split(maxsplit=1)[1]) for line in printed.splitlines() if line[:2] == "  "}
    assert len(starts) == 1  # aligned


def test_no_name_means_two_things():
    rooms = cli.known_names()
    found = {}
    for room, names in rooms.items():
        for name, line in names.items():
            assert line, f"{room}: {name} has no description"
            found.setdefault(name.lower(), []).append(room)
    assert {name: rooms for name, rooms in found.items() if len(rooms) > 1} == {}
