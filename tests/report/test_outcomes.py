"""What models are compared on, and which error fits them."""

import keras
import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.report.outcomes import Samples, errors, read, runner

X = np.random.default_rng(0).random((6, 4))


def given(data, **options):
    return read(data, **{"key": None, "scale": "none", "samples": 100, "seed": 0, **options})


def test_arrays_are_used_as_they_are_and_files_by_their_test_split(tmp_path):
    y = np.arange(6)
    found = given((X, y))
    assert found.x is X and found.y is y and found.notes == ()
    assert found.describe() == {"name": "array", "samples": 6, "sample_shape": [4], "notes": []}
    many = np.tile(X, (4, 1))
    np.savez(tmp_path / "d.npz", x_train=many + 1, x_test=X, y_train=np.tile(y, 4), y_test=y + 1)
    found = given(tmp_path / "d.npz")
    np.testing.assert_allclose(found.x, X, rtol=1e-6)
    np.testing.assert_array_equal(np.ravel(found.y), y + 1)
    assert found.notes[0] == "samples are from the test split, 6 samples"


def test_a_draw_takes_samples_and_labels_together_in_their_order():
    found = given((X, np.arange(6)), samples=3, seed=2)
    assert len(found.y) == 3 and (np.diff(found.y) > 0).all()
    np.testing.assert_array_equal(found.x, X[found.y])
    assert found.notes == ("3 of 6 samples, drawn with seed 2",)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (X, {"key": "x"}, "key: got 'x' with an array"),
        (X, {"scale": "unit"}, "scale: got 'unit', allowed: none"),
        (X[0], {}, r"shape \(4,\)"),
        (X[:0], {}, r"shape \(0, 4\)"),
        (X.astype(str), {}, "finite numbers"),
        (np.full((2, 2), np.inf), {}, "finite numbers"),
        ((X, np.zeros(5)), {}, "5 labels for 6 samples"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(data, options, message):
    with pytest.raises(InputError, match=message):
        given(data, **options)


def test_samples_take_the_shape_of_the_models_input_and_outputs_are_flat():
    model = keras.Sequential([keras.Input((2, 2)), keras.layers.Rescaling(2.0)])
    np.testing.assert_allclose(runner("m", model)(X), 2 * X, rtol=1e-6)
    with pytest.raises(InputError, match=r"got samples of shape \(3,\), allowed for m: \(2, 2\)"):
        runner("m", model)(X[:, :3])
    open_size = keras.Sequential([keras.Input((None, 2)), keras.layers.Rescaling(2.0)])
    with pytest.raises(InputError, match=r"got samples of shape \(4,\)"):
        runner("m", open_size)(X)
    first, second = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(InputError, match="m: got a model with 2 known inputs"):
        runner("m", keras.Model([first, second], keras.layers.Add()([first, second])))


def test_several_outputs_stand_beside_each_other():
    x = keras.Input((4,))
    model = keras.Model(x, [keras.layers.Rescaling(2.0)(x), keras.layers.Rescaling(3.0)(x)])
    np.testing.assert_allclose(runner("m", model)(X), np.hstack([2 * X, 3 * X]), rtol=1e-6)


def test_the_error_is_the_one_that_fits_all_models():
    y, right = np.array([0, 1, 2, 0, 1, 2]), np.eye(3)[[0, 1, 2, 0, 1, 2]]
    samples, labelled = Samples("s", X), Samples("s", X, y)
    assert errors({"a": X, "b": X + 0.5}, samples) == ("mse", {"a": 0.0, "b": pytest.approx(0.25)})
    wrong = right[[0, 1, 2, 0, 2, 1]]
    assert errors({"a": right, "b": wrong}, labelled) == ("wrong", {"a": 0.0, "b": pytest.approx(1 / 3)})
    kind, found = errors({"a": right, "b": right + 0.1}, samples)
    assert kind == "difference"
    assert found == {"a": 0.0, "b": pytest.approx(0.1 / right.std())}
    for labels in (
        y[:, None] * np.ones((1, 2), int),
        y.astype(float),
        y - 1,
        y + 1,
    ):  # no classes of three outputs
        assert errors({"a": right, "b": wrong}, Samples("s", X, labels))[0] == "difference"


def test_outputs_that_are_not_finite_or_of_two_shapes_are_refused():
    with pytest.raises(InputError, match="b: got outputs that are not finite"):
        errors({"a": X, "b": X * np.nan}, Samples("s", X))
    with pytest.raises(InputError, match=r"b: got outputs of shape \(2,\), allowed: \(3,\) as of a"):
        errors({"a": X[:, :3], "b": X[:, :2]}, Samples("s", X))
