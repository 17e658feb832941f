import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune._validation import InputError
from keras_aeprune.pipeline import prune_file

RNG = np.random.default_rng(0)
X = RNG.random((240, 6, 2), "float32")
Y = (X.sum((1, 2)) > 6).astype("int32")


def classifier(path, compiled=True):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(16, activation="relu", name="a"), layers.Dense(2, name="b")]
    )
    if compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
    model.save(path)
    return path


def autoencoder(path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 2)), layers.Dense(8, activation="relu", name="a"), layers.Dense(2)])
    model.compile("adam", "mse")
    model.save(path)
    return path


def test_a_classifier_is_pruned_with_its_own_loss_and_the_datas_labels(tmp_path):
    np.savez(tmp_path / "x.npz", x=X, y=Y)
    model = classifier(tmp_path / "m.keras")
    done = prune_file(
        model,
        tmp_path / "x.npz",
        tmp_path / "p.keras",
        sparsity=0.5,
        allocation="uniform",
        epochs=4,
        progress=False,
    )
    loaded = keras.models.load_model(tmp_path / "p.keras")
    assert [(loaded.get_layer(n).kernel.numpy() == 0).mean() for n in "ab"] == [0.5, 0.5]
    assert set(done.before) == set(done.after) == {"loss", "accuracy"}
    assert isinstance(loaded.optimizer, keras.optimizers.SGD)
    assert any("reshaped" in note for note in done.notes)
    assert "a/kernel" in str(done)
    assert str(tmp_path / "p.keras") in str(done)


def test_an_autoencoder_reconstructs_its_inputs_although_there_are_labels(tmp_path):
    np.savez(tmp_path / "x.npz", x=X, y=Y)
    done = prune_file(
        autoencoder(tmp_path / "m.keras"), tmp_path / "x.npz", tmp_path / "p.keras", epochs=2, progress=False
    )
    assert done.table.sparsity == pytest.approx(0.9, abs=0.03)
    assert any("labels were not used" in note for note in done.notes)


def test_a_model_without_a_loss_needs_one_named(tmp_path):
    model = classifier(tmp_path / "m.keras", compiled=False)
    with pytest.raises(InputError, match="saved without a loss, allowed: a compiled one, or name the loss"):
        prune_file(model, (X, Y), tmp_path / "p.keras", progress=False)
    with pytest.raises(InputError, match="loss: got 'msee', allowed: the name of a Keras loss"):
        prune_file(model, (X, Y), tmp_path / "p.keras", loss="msee", progress=False)
    prune_file(
        model,
        (X, Y),
        tmp_path / "p.keras",
        loss="sparse_categorical_crossentropy",
        learning_rate=1e-3,
        epochs=2,
        progress=False,
    )


def test_what_does_not_fit_is_refused_and_nothing_is_left(tmp_path):
    model = classifier(tmp_path / "m.keras")
    out = tmp_path / "new" / "p.keras"
    cases = [
        ((model, RNG.random((50, 5)), out), {}, r"got samples of shape \(5,\), allowed: \(12,\)"),
        ((model, X, out), {}, r"without labels, but model .* maps \(12,\) to \(2,\)"),
        ((model, (X, Y), tmp_path / "p.h5"), {}, "allowed: a name that ends in .keras"),
        ((model, (X, Y), out), {"include": ["c"]}, "include: got 'c', which fits no layer"),
        ((model, (X, Y), out), {"sparsity": 1.0}, "sparsity: got 1.0"),
        ((model, (X, Y), out), {"epochs": 0}, "epochs: got 0"),
        (
            (model, (X, Y), out),
            {"allocation": "all"},
            "allocation: got 'all', allowed: by_layer, entropy, erk, global",
        ),
        ((model, (X, Y), out), {"learning_rate": 0.0}, "learning_rate: got 0.0"),
        ((tmp_path / "none.keras", (X, Y), out), {}, "none.keras"),
    ]
    for places, arguments, message in cases:
        with pytest.raises(InputError, match=message):
            prune_file(*places, progress=False, **{"epochs": 1, **arguments})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.keras"]


def test_labels_that_the_loss_does_not_take_are_refused(tmp_path):
    model = classifier(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"got targets of shape \(\) .* sparse_categorical_crossentropy"):
        prune_file(model, (X, Y), tmp_path / "p.keras", loss="categorical_crossentropy", progress=False)
    assert not (tmp_path / "p.keras").exists()


def test_several_inputs_are_refused(tmp_path):
    a, b = keras.Input((2,)), keras.Input((3,))
    model = keras.Model([a, b], layers.Dense(1)(layers.Concatenate()([a, b])))
    model.compile("sgd", "mse")
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match="got one with several inputs"):
        prune_file(tmp_path / "m.keras", X, tmp_path / "p.keras", progress=False)


def test_the_command_line_does_the_same(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=X[:200], y_train=Y[:200], x_test=X[200:], y_test=Y[200:])
    classifier(tmp_path / "m.keras")
    command = "prune m.keras --data x.npz --sparsity 0.75 --out p.keras --epochs 3 --exclude b --quiet"
    done = subprocess.run(
        [sys.executable, "-m", "keras_aeprune.cli", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "excluded" in done.stdout
    kernel = keras.models.load_model(tmp_path / "p.keras").get_layer("a").kernel.numpy()
    assert (kernel == 0).mean() == 0.75
