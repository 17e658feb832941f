"""Models stand beside PCA, the mean and a dense autoencoder, with numbers worked out otherwise."""

import keras
import numpy as np
import pytest
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.metrics import roc_auc_score

from keras_aeprune._validation import InputError
from keras_aeprune.datasets import load
from keras_aeprune.models.compare import aligned, compare
from keras_aeprune.models.dense import dense
from keras_aeprune.models.pca import PCA

DIGITS = load("digits").flat
X, Z = DIGITS.x_train, DIGITS.x_test
EIGHT = DIGITS.y_test == 8


def small(width=2):
    keras.utils.set_random_seed(0)
    return dense((64,), width, hidden_units=(16,))


def test_errors_of_pca_are_those_of_scikit_learn_and_their_mean_is_the_mse():
    pca = PCA.fit(DIGITS.x_train)
    for width in (0, 1, 8, 64):
        errors = pca.errors(Z, width)
        assert errors.shape == (180,) and errors.dtype == "float64"
        assert errors.mean() == pytest.approx(pca.mse(Z, width), rel=1e-9, abs=1e-12)
    other = SklearnPCA(8, svd_solver="full").fit(X.astype("float64"))
    by_hand = ((Z - other.inverse_transform(other.transform(Z))) ** 2).mean(axis=1)
    np.testing.assert_allclose(pca.errors(Z, 8), by_hand, rtol=1e-6)
    np.testing.assert_allclose(pca.errors(Z, 0), ((Z - X.mean(0, dtype="float64")) ** 2).mean(axis=1), rtol=1e-6)
    with pytest.raises(InputError, match="1 sample or more"):
        pca.errors(Z[:0], 1)


def test_every_row_has_the_numbers_worked_out_otherwise():
    models = {"two": small(2), "five": small(5)}
    table = compare(models, X, Z, EIGHT)
    names = ["two", "five", "PCA, 2 numbers", "PCA, 5 numbers", "predicting the mean"]
    assert [row["name"] for row in table.rows] == names
    pca = PCA.fit(X)
    errors = {
        **{name: ((np.asarray(model(Z)) - Z) ** 2).mean(axis=1) for name, model in models.items()},
        **{"PCA, 2 numbers": pca.errors(Z, 2), "PCA, 5 numbers": pca.errors(Z, 5)},
        "predicting the mean": ((Z - X.mean(axis=0)) ** 2).mean(axis=1),
    }
    for row in table.rows:
        assert row["mse"] == pytest.approx(errors[row["name"]].mean(), rel=1e-5)
        assert row["auc"] == pytest.approx(roc_auc_score(EIGHT, errors[row["name"]]), abs=1e-3)
    assert [row["width"] for row in table.rows] == [2, 5, 2, 5, 0]
    parameters = [row["parameters"] for row in table.rows]
    assert parameters == [2210, 2210 + 3 * 33, 3 * 64, 6 * 64, 64]  # a number more: 16 weights, 16, and a bias


def test_a_dense_autoencoder_of_the_same_width_is_trained_beside():
    table = compare({"mine": small()}, X, Z, dense_epochs=3, seed=4)
    names = [row["name"] for row in table.rows]
    assert names == ["mine", "PCA, 2 numbers", "dense, 2 numbers, 3 epochs", "predicting the mean"]
    keras.utils.set_random_seed(4)
    other = dense((64,), 2)
    other.compile("adam", "mse")
    other.fit(X, X, epochs=3, batch_size=128, verbose=0)
    assert table.rows[2]["mse"] == pytest.approx(other.evaluate(Z, Z, verbose=0), rel=1e-3)


def test_data_outside_0_to_1_gets_a_linear_output():
    x = 3 * X - 1
    rows = compare({"mine": small()}, x, 3 * Z - 1, dense_epochs=8).rows
    assert rows[2]["mse"] < rows[3]["mse"]  # a sigmoid cannot reach -1 and 2


def test_a_model_without_a_known_code_has_no_width():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(3), keras.layers.Dense(64)])
    table = compare({"nameless": model}, X, Z)
    assert [(row["name"], row["width"]) for row in table.rows] == [("nameless", None), ("predicting the mean", 0)]
    assert str(table).splitlines()[1].split()[:3] == ["nameless", "-", "451"]


def test_the_table_is_aligned_and_has_no_area_without_labels():
    text = str(compare({"mine": small()}, X, Z))
    assert "auc" not in text and "2,210" in text
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "auc" in str(compare({"mine": small()}, X, Z, EIGHT)).splitlines()[0]
    rows = [{"name": "a", "n": 1000}, {"name": "long", "n": None}]
    assert aligned(rows, {"name": "{}", "n": "{:,}"}) == "name      n\na     1,000\nlong      -"


REFUSED = [
    (lambda: compare({}, X, Z), ("models", "at least one")),
    (lambda: compare([small()], X, Z), ("models", "dict")),
    (lambda: compare({"a": "m.keras"}, X, Z), ("models['a']", "m.keras")),
    (lambda: compare({"a": small().encoder}, X, Z), ("(64,)", "(2,)")),
    (lambda: compare({"a": small()}, X, Z[:, :9]), ("x_test", "(180, 9)", "(64,)")),
    (lambda: compare({"a": small()}, X[:1], Z), ("x_train", "n >= 2")),
    (lambda: compare({"a": small()}, X, Z * np.nan), ("x_test", "finite")),
    (lambda: compare({"a": small()}, X, Z, DIGITS.y_test), ("y", "0 or 1")),
    (lambda: compare({"a": small()}, X, Z, dense_epochs=-1), ("dense_epochs", "-1")),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)
