import numpy as np
import pytest

from keras_aeprune import datasets
from keras_aeprune._progress import silent
from keras_aeprune.models import PCA
from keras_aeprune.pipeline.settings import Settings
from keras_aeprune.pipeline.training import build, train

X = np.random.default_rng(0).random((120, 10), "float32")


def run(phases, sparsity=0.7, x=X, epochs=3):
    data = datasets.load(x).flat
    settings = Settings.derive(data, sparsity=sparsity, epochs=epochs)
    model = build(data, settings)
    options = {"epochs": epochs, "say": silent, "title": ""}
    return model, {phase: train(model, data, settings, phase, **options) for phase in phases}


def zeros(model):
    kernels = [w.numpy() for w in model.trainable_variables if w.name == "kernel"]
    return sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)


def test_pruning_reaches_the_target_and_fine_tuning_keeps_it():
    model, records = run(["dense", "prune", "finetune"])
    assert zeros(model) == pytest.approx(0.7, abs=1e-3)
    assert "sparsity" not in records["dense"]["history"]
    assert records["prune"]["history"]["sparsity"][-1] == pytest.approx(0.7, abs=1e-3)
    assert set(records["finetune"]["history"]["sparsity"]) == {records["prune"]["history"]["sparsity"][-1]}
    assert all(len(record["history"]["val_loss"]) == 3 for record in records.values())


def test_a_phase_depends_on_its_seed_and_not_on_what_was_trained_before():
    one, _ = run(["dense"])
    run(["prune"])
    other, _ = run(["dense"])
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loss_that_is_no_number_stops_the_run(monkeypatch):
    from keras_aeprune.pipeline import training

    monkeypatch.setattr(training, "_LEARNING_RATE", 1e30)
    with pytest.raises(FloatingPointError, match="the loss became (nan|inf) in epoch .* of the dense training"):
        run(["dense"], x=10 * X - 5)  # a linear output, which can overflow


def test_fashion_mnist_in_32_numbers_beats_pca(real_data):
    with np.load(real_data / "data" / "fashion_mnist.npz") as file:
        x = file["x_train"][:9000].reshape(-1, 784)
    model, _ = run(["dense"], x=x, epochs=12)
    data = datasets.load(x).flat
    assert model.encoder.output_shape == (None, 32)
    error = np.mean((model.predict(data.x_test, verbose=0) - data.x_test) ** 2)
    assert error < PCA.fit(data.x_train).mse(data.x_test, 32)
