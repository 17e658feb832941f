"""Detectors against hand-worked scores, slow searches, scikit-learn and the ECG5000 figures for PCA."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from keras_aeprune._validation import InputError
from keras_aeprune.datasets.scaling import Scaling
from keras_aeprune.models.anomaly import AnomalyDetector
from keras_aeprune.models.dense import dense
from keras_aeprune.models.files import load as load_model
from keras_aeprune.models.pca import PCA
from keras_aeprune.models.ranking import auc, best_threshold, partial_auc

SCALING = Scaling("standard", (10.0, -5.0, 300.0, 0.0), (2.0, 0.5, 40.0, 1.0))
ZERO = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(0.0)], name="zero")


def random_model(width=4):
    keras.utils.set_random_seed(1)
    return dense((width,), 2, hidden_units=(8,), output_activation="linear")


def raw_data(count=200, seed=0):
    return (np.random.default_rng(seed).normal(size=(count, 4)) * SCALING.divisor + SCALING.offset).astype(
        "float32"
    )


@pytest.mark.parametrize(("error", "score"), [("mse", 12.5), ("mae", 3.5), ("max", 4.0)])
def test_scores_by_hand(error, score):
    # the model answers 0, so the difference is the sample itself
    detector = AnomalyDetector(ZERO, error=error)
    scores = detector.scores(np.array([[3.0, -4.0], [0.0, 0.0]]))
    assert scores.dtype == "float64"
    np.testing.assert_allclose(scores, [score, 0.0])


@pytest.mark.parametrize(("error", "score"), [("mse", (4 + 9) / 2), ("mae", 2.5), ("max", 3.0)])
def test_standardized_scores_by_hand(error, score):
    normal = np.array([[1.0, 10.0], [-1.0, -10.0]])  # root-mean-square errors 1 and 10
    detector = AnomalyDetector(ZERO, error=error, standardize=True).fit(normal)
    np.testing.assert_allclose(detector.scores(np.array([[2.0, 30.0]])), [score])


def test_usual_errors_come_from_the_normal_samples_only():
    x = np.array([[1.0, 10.0], [-1.0, -10.0], [50.0, 50.0]])
    detector = AnomalyDetector(ZERO, standardize=True).fit(x, [0, 0, 1])
    np.testing.assert_allclose(detector.scores(x[:2]), [1.0, 1.0])


def test_a_feature_that_normal_data_reconstructs_exactly_counts_with_a_floor():
    detector = AnomalyDetector(ZERO, error="max", standardize=True).fit(np.array([[0.0, 2.0], [0.0, -2.0]]))
    # usual errors 0 and 2, mean 1, floor 0.001
    np.testing.assert_allclose(detector.scores(np.array([[0.5, 2.0]])), [500.0])


def test_raw_values_are_scaled_first_and_batches_do_not_matter():
    model, x = random_model(), raw_data()
    detector = AnomalyDetector(model, scaling=SCALING)
    seen = SCALING.apply(x)
    by_hand = ((np.asarray(model(seen), "float64") - seen) ** 2).mean(axis=1)
    np.testing.assert_allclose(detector.scores(x), by_hand, rtol=1e-6)
    np.testing.assert_allclose(detector.scores(x, batch_size=7), by_hand, rtol=1e-6)


def test_the_quantile_of_normal_scores_is_the_threshold():
    x = np.arange(1.0, 102.0)[:, None] * [[1.0, 0.0]]  # max error 1 to 101
    detector = AnomalyDetector(ZERO, error="max").fit(x, quantile=0.9)
    assert detector.threshold == pytest.approx(91.0)
    assert detector.predict(x).sum() == 10
    assert detector.predict(x).dtype == bool
    assert AnomalyDetector(ZERO).fit(x, quantile=1.0).predict(x).sum() == 0


def slow_threshold(scores, y):
    levels = np.unique(scores)
    candidates = [*(levels[1:] + levels[:-1]) / 2, levels[0] / 2]
    best = max(f1_score(y, scores > t) for t in candidates)
    return max(t for t in candidates if f1_score(y, scores > t) >= best - 1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_threshold_and_areas_are_those_of_slow_searches_and_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    y = generator.random(60) < generator.uniform(0.1, 0.9)
    y[:2] = False, True
    scores = np.round(generator.normal(size=60) + 1.5 * y, 1 if seed % 2 else 9) + 5  # odd seeds: many ties
    assert best_threshold(scores, y) == pytest.approx(slow_threshold(scores, y), abs=1e-12)
    assert auc(scores, y) == pytest.approx(roc_auc_score(y, scores), abs=1e-12)
    for limit in (0.05, 0.1, 0.5, 1.0):
        expected = roc_auc_score(y, scores, max_fpr=limit)
        assert partial_auc(scores, y, max_fpr=limit) == pytest.approx(expected, abs=1e-12)


def test_equal_f_scores_take_the_threshold_that_flags_least():
    # above 3: 1 of 2 found, no alarm, F = 2/3; above 0.5: all, 2 alarms, F = 2/3
    assert best_threshold(np.array([1.0, 2.0, 1.5, 4.0]), np.array([1, 0, 0, 1])) == 3.0


def test_one_score_for_all_flags_all():
    assert best_threshold(np.zeros(3), np.array([0, 1, 1])) < 0
    assert best_threshold(np.full(3, 4.0), np.array([0, 1, 1])) == 2.0


def test_a_report_has_the_numbers_of_scikit_learn():
    x = np.random.default_rng(0).normal(size=(300, 2))
    y = np.arange(300) % 3 == 0
    x[y] *= 2
    detector = AnomalyDetector(ZERO).fit(x, y)
    report, scores, flags = detector.evaluate(x, y), detector.scores(x), detector.predict(x)
    assert report.auc == detector.auc(x, y) == pytest.approx(roc_auc_score(y, scores))
    assert report.partial_auc == pytest.approx(roc_auc_score(y, scores, max_fpr=0.1))
    assert report.precision == pytest.approx(precision_score(y, flags))
    assert report.recall == pytest.approx(recall_score(y, flags))
    assert report.f1 == pytest.approx(f1_score(y, flags))
    assert report.accuracy == pytest.approx((flags == y).mean())
    assert (report.threshold, report.samples, report.anomalies) == (detector.threshold, 300, 100)
    assert "100 anomalies in 300 samples" in str(report) and f"{report.auc:.4f}" in str(report)
    assert set(report.to_dict()) >= {"auc", "partial_auc", "threshold"}


KINDS = [(error, standardize) for error in ("mse", "mae", "max") for standardize in (False, True)]


@pytest.mark.parametrize(("error", "standardize"), KINDS)
def test_the_plain_model_gives_scores_and_flags(error, standardize):
    detector = AnomalyDetector(random_model(), scaling=SCALING, error=error, standardize=standardize)
    x = raw_data()
    detector.fit(raw_data(seed=1), quantile=0.8)
    outputs = detector.as_model().predict(x, verbose=0)
    np.testing.assert_allclose(outputs["score"], detector.scores(x), rtol=1e-5)
    sure = np.abs(detector.scores(x) / detector.threshold - 1) > 1e-5
    np.testing.assert_array_equal(outputs["anomaly"][sure], detector.predict(x)[sure])
    assert outputs["anomaly"].dtype == "float32" and 0 < outputs["anomaly"].mean() < 1


def test_a_saved_detector_is_the_same_and_runs_without_this_package(tmp_path):
    detector = AnomalyDetector(random_model(), scaling=SCALING, error="mae", standardize=True)
    x = raw_data()
    detector.fit(x, quantile=0.8).save(tmp_path / "new" / "d.keras")
    again = AnomalyDetector.load(tmp_path / "new" / "d.keras")
    np.testing.assert_array_equal(again.scores(x), detector.scores(x))
    assert again.threshold == detector.threshold
    assert (again.scaling, again.error, again.standardize) == (SCALING, "mae", True)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["d.keras"]
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, keras, numpy as np\n"
        "out = keras.saving.load_model('new/d.keras')(np.load('x.npy'))\n"
        "np.save('y.npy', np.stack([out['score'], out['anomaly']]))\n"
        "sys.exit('keras_aeprune' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    score, flag = np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(score, detector.scores(x), rtol=1e-5)
    assert (flag == detector.predict(x)).mean() > 0.99


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = keras.layers.Dense(3, "relu"), keras.layers.Dense(4)

    def call(self, x, training=None):
        return self.last(self.first(x))


def test_every_kind_of_model_is_taken_saved_and_loaded(tmp_path):
    sequential = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Dense(4)])
    subclassed = Subclassed()
    subclassed(np.zeros((1, 4), "float32"))
    random_model().save(tmp_path / "m.keras")
    images = dense((4, 4, 1), 2)
    for number, model in enumerate([sequential, subclassed, load_model(tmp_path / "m.keras"), images]):
        x = np.random.default_rng(number).random((20, *(images.input_shape[1:] if model is images else (4,))))
        detector = AnomalyDetector(model).fit(x, quantile=0.5)
        path = tmp_path / f"{number}.keras"
        detector.save(path)
        np.testing.assert_allclose(AnomalyDetector.load(path).scores(x), detector.scores(x), rtol=1e-6)
        np.testing.assert_allclose(load_model(path)(x)["score"], detector.scores(x), rtol=1e-5)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    detector = AnomalyDetector(ZERO).fit(np.ones((3, 2)))
    detector.save(tmp_path / "d.keras")
    before = (tmp_path / "d.keras").read_bytes()
    monkeypatch.setattr(detector, "as_model", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detector.save(tmp_path / "d.keras")
    assert [file.name for file in tmp_path.iterdir()] == ["d.keras"]
    assert (tmp_path / "d.keras").read_bytes() == before


def test_pca_on_ecg5000_reaches_the_known_areas(real_data):
    with np.load(real_data / "data" / "ecg5000.npz", allow_pickle=False) as file:
        normal = file["x_train"][file["y_train"] == 1]
        x, y = file["x_test"], file["y_test"] != 1
    pca = PCA.fit(normal, range(33))
    areas = {width: auc(pca.errors(x, width), y) for width in (0, 2, 32)}
    assert areas[0] == pytest.approx(0.978, abs=0.002)
    assert areas[2] == pytest.approx(0.993, abs=0.002)
    assert areas[32] < areas[2]


def nan_model():
    model = random_model()
    model.weights[0].assign(model.weights[0] * np.nan)
    return model


X = np.ones((6, 2))
REFUSED = [
    (lambda: AnomalyDetector("m.keras"), ("autoencoder", "m.keras")),
    (lambda: AnomalyDetector(random_model().encoder), ("autoencoder", "(4,)", "(2,)")),
    (lambda: AnomalyDetector(ZERO, error="rmse"), ("error", "rmse", "mse, mae, max")),
    (lambda: AnomalyDetector(ZERO, standardize="yes"), ("standardize",)),
    (lambda: AnomalyDetector(ZERO, scaling=2.0), ("scaling", "2.0")),
    (lambda: AnomalyDetector(ZERO, scaling=SCALING), ("(2,)",)),
    (lambda: AnomalyDetector(ZERO).predict(X), ("after fit",)),
    (lambda: AnomalyDetector(ZERO).as_model(), ("after fit",)),
    (lambda: AnomalyDetector(ZERO).save("d.keras"), ("after fit",)),
    (lambda: AnomalyDetector(ZERO, standardize=True).scores(X), ("after fit",)),
    (lambda: AnomalyDetector(ZERO, standardize=True).fit(0 * X), ("exact", "standardize=False")),
    (lambda: AnomalyDetector(ZERO).fit(X, quantile=0), ("quantile", "0 < quantile <= 1")),
    (lambda: AnomalyDetector(ZERO).fit(X, [0] * 6), ("y", "one of each kind")),
    (lambda: AnomalyDetector(ZERO).fit(X, [0, 1, 2, 0, 0, 0]), ("y", "[0, 1, 2]")),
    (lambda: AnomalyDetector(ZERO).fit(X, [0, 1]), ("y", "(2,)", "6 samples")),
    (lambda: AnomalyDetector(ZERO).scores(np.ones((3, 5))), ("(3, 5)", "(n, 2)")),
    (lambda: AnomalyDetector(ZERO).scores(np.ones((0, 2))), ("(0, 2)", "n >= 1")),
    (lambda: AnomalyDetector(ZERO).scores(np.array([[1, np.nan]])), ("NaN",)),
    (lambda: AnomalyDetector(ZERO).scores(X, batch_size=0), ("batch_size", "0")),
    (lambda: AnomalyDetector(nan_model()).scores(np.ones((2, 4))), ("NaN", "weights")),
    (lambda: AnomalyDetector(ZERO).fit(X).save("d.h5"), ("path", "d.h5", ".keras")),
    (lambda: AnomalyDetector.load("nothing.keras"), ("nothing.keras",)),
    (lambda: partial_auc([1.0, 2.0], [0, 1], max_fpr=0), ("max_fpr",)),
    (lambda: auc([1.0, np.nan], [0, 1]), ("scores",)),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_a_plain_keras_file_is_no_detector(tmp_path):
    random_model().save(tmp_path / "m.keras")
    with pytest.raises(InputError, match="without anomaly_detector.json"):
        AnomalyDetector.load(tmp_path / "m.keras")
