import pytest

from keras_aeprune.pipeline import compress

ARGUMENTS = {"epochs": 3, "sparsity": 0.8, "seed": 5, "progress": False}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """One whole run on the digits."""
    return compress("digits", tmp_path_factory.mktemp("finished") / "run", **ARGUMENTS)
