"""The file of an anomaly detector answers score and flag, and dicts of outputs keep their names."""

from importlib import import_module

import keras
import numpy as np
import pytest

import keras_aeprune as kap
from keras_aeprune._validation import InputError
from keras_aeprune.datasets.scaling import Scaling
from keras_aeprune.export import ExportedFile, ExportMismatch, TFLiteModel
from keras_aeprune.export.check import check_flags
from keras_aeprune.export.precisions import PRECISIONS
from keras_aeprune.models.anomaly import AnomalyDetector
from keras_aeprune.models.dense import dense
from keras_aeprune.models.ranking import auc

tflite_module = import_module("keras_aeprune.export.tflite")
request_module = import_module("keras_aeprune.export.request")
ALL = (None, "float16", "dynamic", "int8")

pytestmark = pytest.mark.usefixtures("in_this_process")


def waves(count, seed, *, broken=False):
    """Sine waves of one to two periods around 40, or the same with noise on one half."""
    generator = np.random.default_rng(seed)
    time = np.linspace(0, 1, 32)
    speed, phase = generator.uniform(1, 2, (count, 1)), generator.uniform(0, 1, (count, 1))
    x = np.sin(2 * np.pi * (speed * time + phase)) + 0.05 * generator.normal(size=(count, 32))
    if broken:
        x[:, :16] += generator.normal(size=(count, 16))
    return (40 + 5 * x).astype("float32")


@pytest.fixture(scope="module")
def detector():
    x = waves(1000, 0)
    scaling = Scaling("standard", tuple(x.mean(0).tolist()), tuple(x.std(0).tolist()))
    keras.utils.set_random_seed(0)
    model = dense((32,), 6, hidden_units=(64,), output_activation="linear")
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(scaling.apply(x), scaling.apply(x), epochs=25, batch_size=50, verbose=0)
    return AnomalyDetector(model, scaling=scaling, standardize=True).fit(waves(300, 1), quantile=0.95)


@pytest.fixture(scope="module")
def raw():
    """Raw samples, every second one an anomaly, and the labels."""
    x = np.stack([waves(100, 2), waves(100, 3, broken=True)], axis=1).reshape(200, 32)
    return x, np.arange(200) % 2


@pytest.fixture(scope="module")
def files(detector, raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    x = keras.Input((4,), name="x")
    named = keras.Model(
        x, {"twice": keras.layers.Rescaling(2.0)(x), "plus_1": keras.layers.Rescaling(1.0, 1.0)(x)}
    )
    requests = [
        request_module.request(detector, {quantize: folder / f"{quantize}.tflite" for quantize in ALL}, raw[0]),
        request_module.request(named, {None: folder / "named.tflite"}),
    ]
    (*outcomes,), (last,) = tflite_module.export(requests, all_or_none=False)
    return {**dict(zip(ALL, outcomes, strict=True)), "named": last}


@pytest.mark.parametrize("quantize", ALL)
def test_the_file_gives_the_scores_and_flags_of_the_detector(detector, raw, files, quantize):
    file, (x, y) = files[quantize], raw
    assert isinstance(file, ExportedFile), file
    model = TFLiteModel(file.path)
    assert model.input_shapes == {"raw_values": (1, 32)}
    got, expected = model.predict(x), detector.scores(x)
    assert {name: values.shape for name, values in got.items()} == {"score": (200,), "anomaly": (200,)}
    error = np.abs(got["score"] - expected)
    row = PRECISIONS[quantize or "float32"]
    assert np.sqrt(np.mean(error**2)) <= row.rms_limit * expected.std()
    sure = np.abs(expected - detector.threshold) > error.max()
    assert sure.sum() >= 100
    np.testing.assert_array_equal(got["anomaly"], got["score"] > detector.threshold)
    np.testing.assert_array_equal(got["anomaly"][sure], detector.predict(x)[sure])
    assert auc(got["score"], y) == pytest.approx(detector.auc(x, y), abs=0.005)


def test_int8_scores_are_not_a_few_steps(detector, raw, files):
    scores = TFLiteModel(files["int8"].path).predict(raw[0])["score"]
    assert len(np.unique(scores)) > 190
    assert files["int8"].bytes < 0.65 * files[None].bytes


def test_int8_scores_far_above_those_of_the_calibration_do_not_saturate(detector, raw, files):
    broken = waves(20, 5)
    broken[:, 0] += 400
    expected, got = detector.scores(broken), TFLiteModel(files["int8"].path).predict(broken)
    assert expected.min() > 5 * detector.scores(raw[0]).max()
    assert got["anomaly"].all()
    assert got["score"].min() > 10 * detector.threshold


def test_a_detector_without_a_threshold_is_refused(tmp_path):
    with pytest.raises(InputError, match="after fit"):
        kap.export.tflite(AnomalyDetector(dense((9,), 2)), tmp_path / "d.tflite")
    assert not list(tmp_path.iterdir())


def test_flags_that_the_scores_do_not_explain_are_refused(detector, raw):
    x = raw[0]
    scores = detector.scores(x).astype("float32")
    expected = {"score": scores, "anomaly": (scores > detector.threshold).astype("float32")}
    near = int(np.abs(scores - detector.threshold).argmin())
    distance = abs(float(scores[near]) - detector.threshold)
    got = {name: values.copy() for name, values in expected.items()}
    got["anomaly"][near] = 1 - got["anomaly"][near]
    with pytest.raises(ExportMismatch, match="judges 1 of 200 samples otherwise"):
        check_flags("float32", "ae", expected, got, detector.threshold)
    got["score"] = scores + np.float32(2 * distance)
    check_flags("float32", "ae", expected, got, detector.threshold)


def test_a_model_that_returns_a_dict_keeps_its_names(files):
    got = TFLiteModel(files["named"].path).predict(np.array([[1.0, 2, 3, 4]]))
    assert {name: values.tolist() for name, values in got.items()} == {
        "twice": [[2, 4, 6, 8]],
        "plus_1": [[2, 3, 4, 5]],
    }
