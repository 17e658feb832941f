"""What the README says is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def text():
    return README.read_text(encoding="utf-8")


def test_the_python_examples_run_one_after_the_other(text, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 3
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "pruned.keras").is_file()
    assert (tmp_path / "pruned_int8.tflite").is_file()
    assert "encoder/code/kernel" in done.stdout


def test_the_commands_it_names_exist(text):
    for command in set(re.findall(r"^keras-aeprune (\w+)", text, flags=re.MULTILINE)):
        code = f"from keras_aeprune.cli import main; main([{command!r}, '--help'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_its_files_and_rooms_are_there(text):
    import keras_aeprune

    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / link).exists(), link
    for room in re.findall(r"`keras_aeprune\.(\w+)`", text):
        assert hasattr(keras_aeprune, room), room
