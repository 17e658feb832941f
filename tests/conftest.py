"""What every test needs: quiet TensorFlow, and the folder of real data where there is one."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with data/ and models/ that KERAS_AEPRUNE_DATA names; the test is skipped without it."""
    folder = os.environ.get("KERAS_AEPRUNE_DATA")
    if not folder:
        pytest.skip("real data and models: KERAS_AEPRUNE_DATA is not set to a folder with data/ and models/")
    path = Path(folder)
    if not (path / "data").is_dir() or not (path / "models").is_dir():
        pytest.fail(f"KERAS_AEPRUNE_DATA={folder} has no data/ and models/")
    return path
