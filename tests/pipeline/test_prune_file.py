import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune import calibration, criteria, datasets
from keras_aeprune._validation import InputError
from keras_aeprune.pipeline import prune_file
from keras_aeprune.sparsity.pruner import Pruner

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
            "allocation: got 'all', allowed: entropy, erk, global, uniform$",
        ),
        (
            (model, (X, Y), out),
            {"allocation": "by_layer"},
            "got 'by_layer', allowed: entropy, erk, global, uniform",
        ),
        ((model, (X, Y), out), {"criterion": "best"}, "criterion: got 'best', allowed: .*fisher, .*woodfisher"),
        ((model, (X, Y), out), {"criterion_samples": 0}, "criterion_samples: got 0"),
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


@pytest.fixture
def seen(monkeypatch):
    """What every `Pruner` was given."""
    found, original = [], Pruner.__init__

    def kept(self, *args, **kwargs):
        original(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(Pruner, "__init__", kept)
    return found


@pytest.mark.parametrize("name", ["best", "entropys"])
def test_unknown_names_are_refused_before_anything_is_loaded(tmp_path, name):
    places = (tmp_path / "nowhere.keras", "nowhere.npz", tmp_path / "p.keras")
    with pytest.raises(InputError, match=f"criterion: got '{name}', allowed: .*magnitude"):
        prune_file(*places, criterion=name)
    with pytest.raises(InputError, match=f"allocation: got '{name}', allowed: entropy"):
        prune_file(*places, allocation=name)


def test_a_criterion_sees_as_many_training_samples_of_each_class(tmp_path, seen):
    rare = (np.arange(240) % 8 == 0).astype("int32")
    model = classifier(tmp_path / "m.keras")
    places = (model, (X, rare), tmp_path / "p.keras")
    done = prune_file(*places, criterion="fisher", criterion_samples=20, epochs=2, progress=False)
    [pruner] = seen
    assert np.bincount(pruner.data.y).tolist() == [10, 10]
    assert pruner.data.x.shape == (20, 12)
    assert type(pruner.criterion) is criteria.Fisher
    assert any(line.startswith("weights ranked by fisher, seen on 20 of 1") for line in str(done).splitlines())
    assert done.table.sparsity == pytest.approx(0.9, abs=0.01)


def test_the_draw_is_that_of_the_seed_and_never_from_other_splits(tmp_path, seen):
    model = classifier(tmp_path / "m.keras")
    x = np.arange(240 * 12, dtype="float32").reshape(240, 12) / 2880
    np.savez(tmp_path / "x.npz", x_train=x[:200], y_train=Y[:200], x_test=x[200:], y_test=Y[200:])
    options = {"criterion": "taylor", "criterion_samples": 16, "epochs": 1, "progress": False}
    for seed in (1, 1, 2):
        prune_file(model, tmp_path / "x.npz", tmp_path / "p.keras", seed=seed, **options)
    a, b, c = (pruner.data.x for pruner in seen)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    assert max(a.max(), c.max()) < x[200].min()
    loaded = datasets.load(tmp_path / "x.npz", seed=2, scale="none")
    drawn = calibration.get((loaded.x_train, loaded.y_train), samples=16, seed=2)
    np.testing.assert_array_equal(c, drawn.x)


def test_an_autoencoder_is_ranked_on_its_own_inputs(tmp_path, seen):
    model = autoencoder(tmp_path / "m.keras")
    places = (model, (X, Y), tmp_path / "p.keras")
    done = prune_file(*places, criterion="snip", allocation="uniform", epochs=1, progress=False)
    [pruner] = seen
    assert pruner.data.y is None
    assert pruner.data.x.shape[1:] == (6, 2)
    assert done.notes[-1].startswith("weights ranked by snip, seen on 1")


def test_entropies_are_measured_on_training_samples_and_magnitudes_need_none(tmp_path, seen):
    model = classifier(tmp_path / "m.keras")
    places = (model, (X, Y), tmp_path / "p.keras")
    with pytest.warns(UserWarning, match="no meaning for b: linear"):
        done = prune_file(*places, allocation="entropy", criterion_samples=30, epochs=1, progress=False)
    assert done.notes[-1].startswith("weights ranked by magnitude, shared out by entropy, seen on 30 of ")
    done = prune_file(*places, allocation="erk", epochs=1, progress=False)
    assert done.notes[-1] == "weights ranked by magnitude"
    assert [len(pruner.data or ()) for pruner in seen] == [30, 0]


def test_criteria_of_every_kind_prune_a_file(tmp_path):
    model = autoencoder(tmp_path / "m.keras")
    for name in ("synflow", "wanda", "woodfisher"):
        options = {"criterion": name, "criterion_samples": 8, "epochs": 1, "batch_size": 100, "progress": False}
        done = prune_file(model, X, tmp_path / "p.keras", sparsity=0.5, **options)
        assert done.table.sparsity == pytest.approx(0.5, abs=0.02), name


def test_the_command_line_does_the_same(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=X[:200], y_train=Y[:200], x_test=X[200:], y_test=Y[200:])
    classifier(tmp_path / "m.keras")
    command = "prune m.keras --data x.npz --sparsity 0.75 --out p.keras --epochs 3 --exclude b --quiet"
    command += " --criterion activation_variance --criterion-samples 50 --allocation erk"
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
    assert "weights ranked by activation_variance, seen on 50 of 1" in done.stdout
    kernel = keras.models.load_model(tmp_path / "p.keras").get_layer("a").kernel.numpy()
    assert (kernel == 0).mean() == 0.75
