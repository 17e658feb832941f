"""What every test needs: quiet TensorFlow, the same weights and names every time, the folder of real data."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Weights and automatic names that do not depend on the tests that ran before, in fixtures too.

    `keras.utils.clear_session`, the public way to new names, throws compiled kernels away.
    """
    import keras
    from keras.src.backend.common import global_state

    keras.utils.set_random_seed(0)
    global_state.set_global_attribute("object_name_uids", None)


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
