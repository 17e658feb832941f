"""Codes are those of the encoder, and a linear encoder equal to PCA is judged like PCA."""

import keras
import numpy as np
import pytest
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier

from keras_aeprune._validation import InputError
from keras_aeprune.datasets import load
from keras_aeprune.models.dense import dense
from keras_aeprune.models.embed import embed, embedding_quality
from keras_aeprune.models.embedding_plot import plot_embedding
from keras_aeprune.models.pca import PCA

DIGITS = load("digits").flat
TRAIN, TEST = (DIGITS.x_train, DIGITS.y_train), (DIGITS.x_test, DIGITS.y_test)


def linear_model(width):
    """The dense autoencoder with PCA's weights."""
    pca = PCA.fit(DIGITS.x_train, [width])
    model = dense((64,), width, hidden_units=(), output_activation="linear")
    model.set_weights([pca.directions, -pca.mean @ pca.directions, pca.directions.T, pca.mean])
    return model


def test_codes_are_those_of_the_encoder_in_any_batches():
    model, x = dense((64,), 3), DIGITS.x_test
    expected = model.encoder(x)
    np.testing.assert_allclose(embed(model, x), expected, atol=1e-6)
    np.testing.assert_allclose(embed(model, x, batch_size=7), expected, atol=1e-6)
    np.testing.assert_allclose(embed(model.encoder, x), expected, atol=1e-6)


def test_feature_maps_are_flattened():
    encoder = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 3, strides=2)], name="encoder")
    x = DIGITS.x_test[:5].reshape(-1, 8, 8, 1)
    np.testing.assert_allclose(embed(encoder, x), np.reshape(encoder(x), (5, 27)), atol=1e-6)


def test_of_an_encoder_with_several_outputs_the_code_is_taken():
    x = keras.Input((64,))
    code = keras.layers.Dense(2)(x)
    encoder = keras.Model(x, [code, keras.layers.Dense(5)(x)])
    np.testing.assert_allclose(embed(encoder, DIGITS.x_test), encoder(DIGITS.x_test)[0], atol=1e-6)


def test_a_linear_encoder_is_as_good_as_pca():
    model_row, pca_row, _ = embedding_quality(linear_model(4), TRAIN, test=TEST).rows
    assert (model_row["name"], pca_row["name"]) == ("model", "PCA, 4 numbers")
    assert model_row["accuracy"] == pytest.approx(pca_row["accuracy"], abs=0.006)  # one sample
    assert model_row["trustworthiness"] == pytest.approx(pca_row["trustworthiness"], abs=1e-4)


def test_the_numbers_are_those_of_scikit_learn():
    quality = embedding_quality(linear_model(4), TRAIN, test=TEST, neighbours=3)
    _, pca_row, raw_row = quality.rows
    other = SklearnPCA(4, svd_solver="full").fit(DIGITS.x_train.astype("float64"))
    known, new = other.transform(DIGITS.x_train), other.transform(DIGITS.x_test)
    judge = KNeighborsClassifier(3).fit(known, DIGITS.y_train)
    assert pca_row["accuracy"] == pytest.approx(np.mean(judge.predict(new) == DIGITS.y_test), abs=0.006)
    near = trustworthiness(DIGITS.x_test, new, n_neighbors=3)
    assert pca_row["trustworthiness"] == pytest.approx(near, abs=1e-4)
    assert raw_row["trustworthiness"] > 0.999 and raw_row["width"] == 64
    assert (quality.train_samples, quality.test_samples) == (1437, 180)
    lines = str(quality).splitlines()
    assert lines[0] == "3 nearest neighbours, 1437 training and 180 test samples"
    assert len(lines) == 5 and lines[3].startswith("PCA, 4 numbers") and f"{pca_row['accuracy']:.4f}" in lines[3]


def test_the_draw_is_bounded_and_follows_the_seed():
    def rows(seed):
        return embedding_quality(linear_model(2), TRAIN, test=TEST, samples=60, seed=seed)

    assert rows(1).rows == rows(1).rows != rows(2).rows
    assert (rows(1).train_samples, rows(1).test_samples) == (60, 60)


def test_the_picture_has_every_point_in_both_panels(tmp_path):
    model = linear_model(2)
    picture = plot_embedding(model, DIGITS.x_test, y=DIGITS.y_test, path=tmp_path / "e.png")
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    for axes in picture.axes:
        drawn = np.concatenate([marks.get_offsets() for marks in axes.collections])
        assert len(drawn) == 180 and len(axes.collections) == 10
    zeros = embed(model, DIGITS.x_test)[DIGITS.y_test == 0]
    np.testing.assert_allclose(picture.axes[0].collections[0].get_offsets(), zeros, atol=1e-5)


def test_a_wide_code_is_drawn_along_its_own_directions():
    wide = linear_model(8)
    above, below = plot_embedding(wide, DIGITS.x_train, y=DIGITS.y_train, samples=50).axes
    for marks, others in zip(above.collections, below.collections, strict=True):
        # the first two of eight principal directions are those of all, up to their sign
        np.testing.assert_allclose(np.abs(marks.get_offsets()), np.abs(others.get_offsets()), atol=1e-4)
    assert above.get_xlabel() == "code, direction 1"


def nameless():
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(2), keras.layers.Dense(64)])


REFUSED = [
    (lambda: embed(nameless(), DIGITS.x_test), ("encoder", "model.encoder")),
    (lambda: embed(dense((64,), 2), np.zeros((3, 9))), ("(3, 9)", "(64,)")),
    (lambda: embed(dense((64,), 2), np.zeros((0, 64))), ("n >= 1",)),
    (lambda: embed(dense((64,), 2), DIGITS.x_test, batch_size=0), ("batch_size",)),
    (lambda: embedding_quality(linear_model(2), DIGITS.x_train, test=TEST), ("train", "(x, y)")),
    (lambda: embedding_quality(linear_model(2), TRAIN, test=(DIGITS.x_test, [1, 2])), ("test", "180 samples")),
    (lambda: embedding_quality(linear_model(2), TRAIN, test=TEST, neighbours=90), ("neighbours", "90", "half")),
    (lambda: embedding_quality(linear_model(2), TRAIN, test=TEST, samples=1), ("samples", "1")),
    (lambda: plot_embedding(linear_model(2), DIGITS.x_test, y=np.arange(180)), ("180 different", "at most 10")),
    (lambda: plot_embedding(linear_model(1), DIGITS.x_test, y=DIGITS.y_test), ("1 number", "2 or more")),
    (lambda: plot_embedding(linear_model(2), DIGITS.x_test, y=DIGITS.y_test, path="e.gif"), ("path", ".png")),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)
