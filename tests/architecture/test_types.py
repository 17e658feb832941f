"""The package and the way a user writes against it are free of type errors."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed; it is in the extra [test]")

ROOT = Path(__file__).parents[2]
# One mistake a line. What a type checker does not see is Any, and no mistake is found in it.
WRONG = """\
import keras_aeprune as kap

kap.Prune(0.9, criterium="magnitude")
kap.compress("digits")
kap.models.dense((8,), 2, hidden_units=3)
kap.export.tflite(None, "a.tflite", data=None).byte
kap.search.encoding_width([[1.0]], range(3), "small")
kap.shrinking.plan(None, round_to="8")
kap.criteria.scores(None)["kernel"].shapes
kap.datasets.load("digits", seed="one")
kap.schedules.PolynomialDecay("0", 0.9, 0, 1)
kap.calibration.get(None, samples="many")
kap.compression.pack(None, 1)
kap.regularizers.ActivityL1("0.1")
kap.report.inspect_file(1)
kap.pipeline.Result.file
kap.sparsity_tables
"""


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    cache = tmp_path_factory.mktemp("mypy")

    def run(*files):
        command = [sys.executable, "-m", "mypy", "--cache-dir", cache, "--no-error-summary", *files]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return run


def test_the_package_and_what_a_user_writes_have_no_type_errors(check):
    done = check("keras_aeprune", "tests/architecture/typed_use.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_use_of_every_room_is_found(check, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(WRONG)
    done = check(file)
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line}
    wanted = {number for number, line in enumerate(WRONG.splitlines(), 1) if line.startswith("kap.")}
    assert found == wanted, done.stdout + done.stderr
