"""Data that cannot become float32 splits is refused in one line that says what is wrong and where."""

import numpy as np
import pytest
from raw_rows import refused, rows

from keras_aeprune.datasets import load


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.where(rows() == 7, np.nan, rows()), ("1 values", "[1, 3]", "NaN")),
        (np.where(rows() > 397, np.inf, rows()), ("2 values", "[99, 2]")),
        (np.where(rows(300_000) == 4 * 299_999 + 1, np.nan, 0), ("1 values", "[299999, 1]")),
        (np.zeros((0, 4)), ("empty", "(0, 4)")),
        (np.zeros((20, 0)), ("empty", "(20, 0)")),
        (rows(9), ("9 samples", "at least 10")),
        (rows(1), ("1 samples", "at least 10")),
        (np.arange(100.0), ("(100,)", "windows")),
        (np.array([["a", "b"]] * 20), ("<U1", "astype")),
        (np.array([[1, None]] * 20), ("object",)),
        (np.ones((20, 3), dtype=complex), ("complex128",)),
        (np.full((20, 3), 7.5), ("7.5", "two different values")),
        (rows() * 1e300, ("float32", "3.4e38")),
        (np.ma.masked_equal(rows(), 3.0), ("masked",)),
        ([[1, 2], [3, 4]], ("list", "np.asarray")),
        (None, ("None",)),
        ((rows(), np.arange(99)), ("(99,)", "100")),
        ((rows(), np.array([None] * 100)), ("object",)),
        ((rows(), np.arange(100), 3), ("tuple of 3", "(x, y)")),
        ("no/such/file.npy", ("nothing is at", "digits")),
    ],
)
def test_bad_data_is_refused_in_one_line(data, words):
    refused(lambda: load(data), *words)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_train": rows(), "x_test": rows(20, 3)}, ("(3,)", "(4,)", "x_test")),
        ({"x_train": rows().astype("uint8"), "x_test": rows() / 400}, ("uint8", "float64")),
        ({"x_train": rows().astype("int16"), "x_test": rows().astype("uint8")}, ("int16", "uint8")),
        ({"x_train": rows(), "x_test": rows() * np.nan}, ("x_test", "NaN")),
        ({"x_train": rows(), "y_test": np.arange(5)}, ("y_test", "without samples")),
        ({"x_train": rows(), "x_test": rows(20), "y_test": np.arange(5)}, ("y_test", "20")),
    ],
)
def test_splits_that_do_not_fit_together_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(lambda: load(tmp_path / "a.npz"), *words)
