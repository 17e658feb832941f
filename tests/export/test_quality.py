"""The driver: other calibration first, then training under roundings, the best file is kept."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.export.quality import int8_quality, without_outliers
from keras_aeprune.export.verify import TFLiteModel

pytestmark = pytest.mark.usefixtures("in_this_process")


def linear(scales=(1.0, 1.0, 1.0)):
    """(autoencoder, x): a code of three units without error in float; `scales` changes the units' ranges only."""
    rng = np.random.default_rng(0)
    x = (rng.uniform(-1, 1, size=(400, 3)) @ rng.normal(size=(3, 8))).astype("float32")
    base = np.linalg.svd(x.T, full_matrices=False)[0][:, :3]
    keras.utils.set_random_seed(0)
    layers = [kl.Dense(3, use_bias=False, name="code"), kl.Dense(8, use_bias=False, name="out")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.compile("adam", "mse")
    noise = 0.02 * rng.normal(size=base.shape)  # so that the float model is not perfect
    model.set_weights([base * scales, (base + noise).T / np.array(scales)[:, None]])
    return model, x


def mse(path, x):
    return float(np.mean((TFLiteModel(path).predict(x) - x) ** 2))


def test_dropping_one_wild_sample_gives_the_levels_back(tmp_path):
    model, x = linear()
    spoiled = x.copy()
    spoiled[5] *= 200
    path = tmp_path / "small.tflite"
    found = int8_quality(model, path, spoiled, limit=1.0, samples=400, validation=x[100:], progress=False)
    first, second = found.steps
    assert (first.name, second.name) == ("real", "without_outliers")
    assert (first.samples, second.samples) == (400, 399)
    assert second.error < first.error / 20
    assert found.kept == "without_outliers" and found.within_limit and found.model is model
    assert mse(path, x[100:]) == pytest.approx(found.error)
    assert found.float_error == pytest.approx(
        np.mean((model.predict(x[100:], verbose=0) - x[100:]) ** 2), rel=1e-4
    )


def test_fine_tuning_takes_back_half_of_what_int8_costs(tmp_path):
    model, x = linear(scales=(1, 1, 40))
    before = model.get_weights()
    path = tmp_path / "small.tflite"
    found = int8_quality(
        model, path, x, limit=0.0, epochs=40, learning_rate=0.02, calibrations=["real"], progress=False
    )
    assert [step.name for step in found.steps] == ["real", "fine-tuned, real"]
    assert found.kept == "fine-tuned, real" and found.model is not model
    first, second = (step.error - found.float_error for step in found.steps)
    assert second < first / 2
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert [file.name for file in tmp_path.iterdir()] == ["small.tflite"]
    assert json.loads(json.dumps(found.to_dict()))["steps"][1]["name"] == "fine-tuned, real"
    assert "fine-tuned, real" in str(found) and "kept" in str(found)


def test_a_classifier_is_judged_by_its_loss_and_shows_its_metrics(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = (4 * np.eye(3)[y] + rng.normal(size=(300, 3))).astype("float32")
    model = keras.Sequential([keras.Input((3,)), kl.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.set_weights([np.eye(3), np.zeros(3)])
    found = int8_quality(model, tmp_path / "small.tflite", (x, y), limit=0.5, progress=False)
    assert found.measure == "loss" and found.within_limit and len(found.steps) == 1
    assert found.float_error == pytest.approx(model.evaluate(x, y, verbose=0)[0], rel=1e-4)
    got = TFLiteModel(tmp_path / "small.tflite").predict(x).argmax(1)
    assert found.metrics["accuracy"] == pytest.approx(
        ((model.predict(x, verbose=0).argmax(1) == y).mean(), (got == y).mean())
    )


def test_ordinary_samples_are_never_wild():
    for x in (np.random.default_rng(0).normal(size=(500, 4)), np.ones((50, 2)), np.eye(30)):
        assert without_outliers(x)[0].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": -0.1}, "limit: got -0.1"),
        ({"calibrations": []}, "calibrations: got"),
        ({"calibrations": ["best"]}, "calibrations: got 'best', allowed: real, without_outliers, clipped"),
        ({"path": "small.bin"}, "ends in .tflite"),
    ],
)
def test_bad_arguments_are_refused(change, message, tmp_path):
    model, x = linear()
    given = {"path": tmp_path / "small.tflite", **change}
    with pytest.raises(InputError, match=message):
        int8_quality(model, data=x, progress=False, **given)
