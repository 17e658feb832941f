"""Scaling compared with numbers worked by hand and with scikit-learn's scalers."""

import json

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from keras_aeprune._validation import InputError
from keras_aeprune.datasets import Scaling
from keras_aeprune.datasets.scaling import fit, row_chunks, survey


def everything(x):
    return np.arange(len(x))


def test_uint8_divides_by_255_exactly_like_numpy():
    x = np.arange(256, dtype="uint8").reshape(16, 16)
    scaling, notes = fit(x, everything(x), "auto")
    np.testing.assert_array_equal(scaling.apply(x), x.astype("float32") / np.float32(255))
    assert (scaling.kind, scaling.output_range, notes) == ("unit", "unit", ())


def test_small_uint8_values_are_noted_and_not_stretched():
    x = np.arange(160, dtype="uint8").reshape(20, 8) % 17
    scaling, notes = fit(x, everything(x), "auto")
    assert scaling.divisor == 255.0
    assert len(notes) == 1
    assert "largest is 16" in notes[0]


def test_samples_with_several_axes_get_one_range():
    x = np.linspace(-3, 5, 24).reshape(6, 2, 2)
    scaling, _ = fit(x, everything(x), "auto")
    assert (scaling.kind, scaling.offset, scaling.divisor) == ("unit", -3.0, 8.0)
    np.testing.assert_allclose(scaling.apply(x), (x + 3) / 8, rtol=1e-6)


def test_vectors_within_0_and_1_stay_as_they_are():
    x = np.random.default_rng(0).random((20, 3)).astype("float32")
    scaling, _ = fit(x, everything(x), "auto")
    np.testing.assert_array_equal(scaling.apply(x), x)
    assert (scaling.kind, scaling.output_range) == ("none", "unit")


def test_other_vectors_are_standardised_like_scikit_learn():
    x = np.random.default_rng(0).normal(3, [1, 100, 1e-3, 7], (500, 4))
    scaling, notes = fit(x, everything(x), "auto")
    np.testing.assert_allclose(scaling.apply(x), StandardScaler().fit_transform(x), rtol=1e-5, atol=1e-6)
    assert (scaling.kind, scaling.output_range, notes) == ("standard", "real", ())


def test_only_the_given_rows_are_looked_at():
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[::2] += 1000
    rows = np.arange(1, 40, 2)
    scaling, _ = fit(x, rows, "standard")
    np.testing.assert_allclose(scaling.offset, x[1::2].mean(0))
    np.testing.assert_allclose(scaling.divisor, x[1::2].std(0))
    unit, _ = fit(x, rows, "unit")
    assert unit.offset == x[1::2].min()
    assert unit.apply(x).max() > 100  # not clipped


def test_a_constant_feature_is_centred_and_not_divided():
    x = np.random.default_rng(0).normal(size=(30, 3))
    x[:, 1] = 0.1  # its computed standard deviation is about 1e-17, not 0
    scaling, notes = fit(x, everything(x), "standard")
    assert scaling.divisor[1] == 1.0
    assert np.abs(scaling.apply(x)[:, 1]).max() < 1e-7
    assert notes == ("1 of 3 features are constant in the training data; not divided",)


def test_standard_on_images_works_pixel_by_pixel():
    x = np.random.default_rng(0).normal(size=(50, 4, 3)) * np.arange(1, 13).reshape(4, 3)
    scaling, _ = fit(x, everything(x), "standard")
    np.testing.assert_allclose(scaling.apply(x).std(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        scaling.apply(x).reshape(50, 12), scaling.apply(x.reshape(50, 12))
    )  # one scaling serves both shapes


def test_a_large_mean_loses_no_digits():
    x = (np.random.default_rng(0).normal(size=(200, 2)) + 1e9).astype("float64")
    scaling, _ = fit(x, everything(x), "standard")
    np.testing.assert_allclose(scaling.apply(x), (x - x.mean(0)) / x.std(0), atol=1e-6)


def test_numbers_for_channels_serve_windows_of_any_length():
    scaling = Scaling("standard", offset=(1.0, 20.0), divisor=(2.0, 10.0))
    x = np.array([[[1, 20], [3, 40], [5, 0]]] * 2)
    expected = [[[0, 0], [1, 2], [2, -2]]] * 2
    assert scaling.apply(x).tolist() == expected
    assert scaling.apply(x[:, :1]).tolist() == [window[:1] for window in expected]
    np.testing.assert_array_equal(scaling.invert(scaling.apply(x)), x)
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling
    flat = scaling.flattened((3, 2))
    np.testing.assert_array_equal(flat.apply(x.reshape(2, 6)), scaling.apply(x).reshape(2, 6))
    assert flat.flattened((3, 2)) == flat


def test_as_many_numbers_as_values_belong_to_the_flattened_sample():
    offset = tuple(range(6))
    scaling = Scaling("standard", offset=offset, divisor=(1.0,) * 6)
    np.testing.assert_array_equal(scaling.apply(np.zeros((1, 3, 2))).ravel(), -np.arange(6.0))
    np.testing.assert_array_equal(scaling.apply(np.zeros((1, 4, 6)))[0, 2], -np.arange(6.0))


def test_a_size_that_fits_neither_says_which_sizes_do():
    scaling = Scaling("standard", (1.0, 2.0), (1.0, 1.0))
    with pytest.raises(InputError, match="allowed: 2 values in a sample, or 2 on its last axis"):
        scaling.apply(np.zeros((5, 2, 3)))
    with pytest.raises(InputError, match="2 values"):
        scaling.apply(np.zeros(2))  # two samples of one value, not two channels


def test_one_range_for_each_feature_where_asked():
    x = np.array([[0, -10], [4, 10], [9, 99]], dtype="float64")
    scaling, notes = fit(x, np.array([1, 0]), "unit", each=True)
    assert (scaling.offset, scaling.divisor, scaling.output_range, notes) == ((0, -10), (4, 20), "unit", ())
    assert fit(x, np.array([1, 0]), "unit")[0].divisor == 20.0


def test_a_survey_shows_every_piece_once_and_gives_the_same_fit():
    x = np.random.default_rng(0).normal(size=(300_000, 3))
    chosen, seen = np.random.default_rng(1).permutation(300_000)[:1000], []
    found = survey(x, chosen, "standard", lambda place, part: seen.append((place.start, len(part))))
    assert len(seen) > 1
    assert [start for start, _ in seen] == np.cumsum([0, *(count for _, count in seen)])[:-1].tolist()
    scaling, _ = fit(x, chosen, "standard", seen=found)
    np.testing.assert_allclose(scaling.offset, x[chosen].mean(0))
    assert scaling == fit(x, chosen, "standard")[0]


@pytest.mark.parametrize("mode", ["auto", "unit", "standard", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64", "bool"])
def test_invert_brings_raw_values_back(mode, dtype):
    x = np.random.default_rng(0).random((30, 4))
    x = x > 0.5 if dtype == "bool" else (x * 200).astype(dtype)
    scaling, _ = fit(x, everything(x), mode)
    scaled = scaling.apply(x)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaling.invert(scaled), x.astype("float64"), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("mode", ["unit", "standard", "none"])
def test_a_scaling_survives_json(mode):
    x = np.random.default_rng(0).normal(size=(30, 4))
    scaling, _ = fit(x, everything(x), mode)
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


def test_chunks_cover_every_row_once_in_order():
    x = np.arange(3 * 700_000).reshape(-1, 3)
    rows = np.random.default_rng(0).permutation(len(x))
    parts = list(row_chunks(x, rows))
    assert len(parts) > 2
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), x[rows])
    assert [place.stop for place, _ in parts][-1] == len(x)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Scaling("unit", divisor=0.0), "divisor"),
        (lambda: Scaling("unit", offset=float("nan")), "offset"),
        (lambda: Scaling("unit", offset="a"), "offset"),
        (lambda: Scaling("pixels"), "unit, standard, none"),
        (lambda: Scaling("standard", (1.0, 2.0), (1.0,)), "same length"),
        (lambda: Scaling.from_dict({"kind": "unit"}), "divisor, kind, offset, output_range"),
        (lambda: Scaling("standard", (1.0, 2.0), (1.0, 1.0)).apply(np.ones((4, 3))), "2 values"),
        (lambda: fit(np.ones((10, 2)), np.arange(10), "minmax"), "auto, unit, standard, none"),
        (lambda: fit(np.ones((10, 2)), np.arange(10), "unit"), "two different values"),
    ],
)
def test_what_cannot_be_a_scaling_is_refused_in_one_line(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
