"""Imports point one way, and importing the package changes nothing for anybody else."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_aeprune

ROOT = Path(keras_aeprune.__file__).parent

# From the highest room to the lowest; rooms in one line never import each other.
LEVELS = [
    ["cli"],
    ["pipeline"],
    ["search"],
    ["report"],
    ["export"],
    ["shrinking"],
    ["compression"],
    ["sparsity"],
    ["criteria"],
    ["calibration"],
    ["models"],
    ["schedules", "regularizers", "datasets"],
    ["_graph"],
    ["_layers", "_registry", "_tfmot", "_plots"],
    ["_files", "_progress"],
    ["_validation"],
    ["_version"],
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imported_rooms(path):
    """(line, room) of every import of this package in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [node.module]
            if node.module == "keras_aeprune":
                names = [f"keras_aeprune.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "keras_aeprune" and len(parts) > 1:
                yield node.lineno, parts[1]


def test_every_file_stands_in_a_room_of_the_plan():
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert rooms - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room == "__init__":
        return  # the front door names every room, and loads none
    for line, other in imported_rooms(path):
        allowed = other == room or LEVEL[other] > LEVEL[room]
        assert allowed, f"{path}:{line}: {room} imports {other}, which is not below it"


def test_only_one_module_imports_tfmot():
    found = [p.name for p in ROOT.rglob("*.py") if "import tensorflow_model_optimization" in p.read_text()]
    found += [p.name for p in ROOT.rglob("*.py") if "from tensorflow_model_optimization" in p.read_text()]
    assert found == ["_tfmot.py"]


def test_no_file_outgrows_its_room():
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := len(p.read_text().split("\n"))) > 401}
    assert not long


USES = (
    "import keras_aeprune as kap; kap.sparsity, kap.schedules, kap.models, kap.datasets, kap.export; "
    "kap.schedules.PolynomialDecay(0, .5, 0, 9)(3)"
)
ORDERS = [
    ["import keras_aeprune", USES],
    ["import keras", "import keras_aeprune", USES],
    ["import tensorflow as tf; tf.keras.layers", "import keras_aeprune", USES],
    ["import tensorflow", "import keras_aeprune", USES],
    ["import keras_tuner", "import keras_aeprune", USES],
    ["import keras_aeprune", "import keras_tuner", USES],
    ["import keras_aeprune", USES, "import keras_tuner"],
]
CHECK = """
import os, sys
import keras, keras_tuner, tensorflow as tf
changed = {k for k in {*before, *os.environ} if before.get(k) != os.environ.get(k)}
print(*sorted(changed))
assert keras.version().startswith("3.")
assert tf.keras.Model is keras.Model and tf.keras.layers.Dense is keras.layers.Dense
model = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(1)])
tuner = keras_tuner.RandomSearch(lambda hp: model, "loss", directory=sys.argv[1], max_trials=1)
assert isinstance(tuner.hypermodel.build(tuner.oracle.get_space()), keras.Model)
"""


def run_order(order, folder):
    """The environment variables that were changed, after the checks have passed."""
    code = "import os\nbefore = dict(os.environ)\n" + "\n".join(order) + CHECK
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def changed_without_us(tmp_path_factory):
    """TensorFlow and Keras set a few variables of their own."""
    return run_order([], tmp_path_factory.mktemp("tuner"))


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: " > ".join(order).replace(USES, "use it"))
def test_importing_changes_nothing_for_keras_and_keras_tuner(order, tmp_path, changed_without_us):
    assert run_order(order, tmp_path) == changed_without_us


def test_a_user_who_chose_legacy_keras_keeps_it():
    code = (
        "import os, keras_aeprune, keras_aeprune.schedules, tensorflow as tf\n"
        "assert os.environ['TF_USE_LEGACY_KERAS'] == '1'\n"
        "assert tf.keras.Model.__module__.startswith('tf_keras')\n"
    )
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_front_door_loads_no_room():
    code = (
        "import sys, keras_aeprune\n"
        "assert not {'keras', 'tensorflow', 'tensorflow_model_optimization', 'keras_tuner', 'matplotlib', "
        "'sklearn'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
