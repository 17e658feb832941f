"""Searches for a width whole: every kind of autoencoder, dense and pruned, in real trials of Keras Tuner."""

import keras
import matplotlib.image
import numpy as np
import pytest

from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.search.width import encoding_width

WIDTHS = [2, 4]
RANDOM = np.random.default_rng(0)


def samples(shape, low, high):
    """Around a pattern and its opposite, so that a few steps beat the mean."""
    pattern = RANDOM.choice([low, high], size=shape)
    sign = RANDOM.integers(0, 2, size=(120, *[1] * len(shape)))
    noise = 0.05 * (high - low) * RANDOM.random((120, *shape))
    return (np.where(sign, pattern, low + high - pattern) * 0.95 + noise).astype("float32")


CASES = {
    "convolutional": (samples((8, 8, 1), 0, 1), {"hidden_units": (4,), "sparsity": 0.5}),
    "recurrent": (samples((4, 3), -1, 1), {"hidden_units": (6,), "max_epochs": 1}),
    "variational": (samples((12,), -1, 1), {"hidden_units": (8,), "sparsity": 0.5, "beta": 0.001}),
}


def search(kind, **changes):
    x, own = CASES[kind]
    quick = {"max_epochs": 2, "factor": 2, "seeds": 1, "learning_rate": 0.02, "batch_size": 12, "progress": False}
    return encoding_width(x, WIDTHS, kind=kind, **{**quick, **own, **changes})


@pytest.mark.parametrize("kind", CASES)
def test_a_kind_is_searched_drawn_and_found_again_without_training(kind, tmp_path, monkeypatch):
    x, own = CASES[kind]
    folder = tmp_path / "search"
    result = search(kind, method="hyperband", directory=folder)  # what "auto" takes, too
    assert (result.method, result.encoding_dim in WIDTHS) == ("hyperband", True)
    assert result.loss < result.mean_loss
    assert result.model.output_shape == (None, *x.shape[1:])
    code = result.model.encoder.output_shape
    assert code == (None, result.encoding_dim)
    rows = result.trials.to_dict()["trials"]
    epochs = sorted(row["epochs"] for row in rows if row["stage"] == "hyperband")
    assert epochs == ([1] if "max_epochs" in own else [1, 1, 2])
    assert all(row["loss"] is not None and row["width"] in WIDTHS for row in rows)

    kernels = [weight.variable.numpy() for weight in weights(result.model) if weight.kernel is not None]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)
    assert zeros == pytest.approx(own.get("sparsity", 0.0), abs=0.02)

    result.plot(tmp_path / "widths.png")
    assert (tmp_path / "widths.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    picture = matplotlib.image.imread(tmp_path / "widths.png")  # decoded: whole, and not of one colour
    assert min(picture.shape[:2]) > 300 and picture.std() > 0.01

    def fit(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(keras.Model, "fit", fit)
    again = search(kind, method="hyperband", directory=folder)
    assert again.to_dict() == result.to_dict()
    for one, other in zip(again.model.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    (folder / "result.json").unlink()  # killed after the last training
    (folder / "hyperband.json").unlink()  # and before its trials were read
    assert search(kind, method="auto", directory=folder).to_dict() == result.to_dict()


@pytest.mark.parametrize("kind", CASES)
def test_the_screen_says_that_it_has_dense_ones_only(kind, tmp_path):
    beyond = ", ".join(name for name in ("kind", "sparsity", "beta") if name == "kind" or name in CASES[kind][1])
    with pytest.raises(InputError, match=f"got 'screen' with {beyond}, allowed: dense .*take method='hyperband'"):
        search(kind, method="screen", directory=tmp_path / "s")
    assert not (tmp_path / "s").exists()
