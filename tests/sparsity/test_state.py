import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.sparsity.state import load_state, save_state


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4, 5), (0, 3), (8,)])
def test_masks_come_back(tmp_path, shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    save_state(tmp_path / "new" / "s.npz", {"a/b/kernel": mask}, epoch=3, step=77)
    masks, epoch, step = load_state(tmp_path / "new" / "s.npz")
    np.testing.assert_array_equal(masks["a/b/kernel"], mask)
    assert masks["a/b/kernel"].dtype == bool
    assert (epoch, step) == (3, 77)


def test_no_file_is_no_state(tmp_path):
    assert load_state(tmp_path / "s.npz") is None


@pytest.mark.parametrize("content", [b"", b"PK", b"hello"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(InputError, match="state: got .*which cannot be read"):
        load_state(tmp_path / "s.npz")


def test_arrays_of_something_else_are_refused(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.ones(3))
    with pytest.raises(InputError, match="a file that Prune wrote"):
        load_state(tmp_path / "s.npz")
