"""Regressions behind an activation, against a search over all slopes and a slow gradient descent."""

import keras
import numpy as np
import pytest

from keras_aeprune.shrinking.curved import curve_of, refined
from keras_aeprune.shrinking.regression import fit_linear, solver

NAMES = ("relu", "sigmoid", "tanh")


def curve(name):
    return curve_of(keras.layers.Dense(1, name))


def test_activations_that_are_not_known_have_no_curve():
    for layer in (keras.layers.Dense(1), keras.layers.Dense(1, "gelu"), keras.layers.Flatten()):
        assert curve_of(layer) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_those_of_the_activation(name):
    z = np.linspace(-20, 20, 81)
    assert np.allclose(curve(name).value(z), np.asarray(keras.activations.get(name)(z)), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_is_the_best_of_all_slopes(name):
    x = np.random.default_rng(1).normal(size=(200, 1))
    wanted = 2 * x + np.where(x < 0, 5 * x, 0) * (name == "relu") - np.minimum(x, 1) * (name != "relu")
    value, none = curve(name).value, np.zeros((1, 1))
    plain = fit_linear(x.T @ x, x.T @ wanted, none, 1e-9)
    found, _ = refined(curve(name), x, wanted, (none, None), (plain, None), 1e-9)
    slopes = np.linspace(-1, 8, 9001)
    errors = np.square(value(wanted) - value(x * slopes)).sum(axis=0)
    assert abs(found[0, 0] - slopes[errors.argmin()]) < 0.05
    assert np.square(value(wanted) - value(x @ found)).sum() <= errors.min() * 1.01 + 1e-9
    assert abs(plain[0, 0] - slopes[errors.argmin()]) > 0.05  # else it would show nothing


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rows", "ridge"), [(300, 0.1), (12, 30.0)])
def test_outputs_come_nearer_than_by_the_plain_regression(name, rows, ridge):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(rows, 20))
    steep = x @ rng.normal(size=(20, 8))
    wanted = (
        steep * np.abs(steep) / 10
    )  # far from 0 it matters little to the outputs, and much to the plain regression
    kernel, bias = rng.normal(size=(20, 8)) / 5, np.zeros(8)
    missing = wanted - x @ kernel
    centre, offset = x.mean(axis=0), missing.mean(axis=0)
    change = solver(x - centre, ridge)(missing - offset)
    first = (kernel + change, offset - centre @ change)
    found, shift = refined(curve(name), x, wanted, (kernel, bias), first, ridge)
    value = curve(name).value

    def error(matrix, constant):
        return np.square(value(wanted) - value(x @ matrix + constant)).sum()

    assert error(found, shift) < error(*first) < error(kernel, bias)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
def test_the_solver_is_the_regression_whichever_side_is_longer(shape):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape), rng.normal(size=(shape[0], 3))
    slow = fit_linear(x.T @ x, x.T @ y, np.zeros((shape[1], 3)), 0.3)
    assert np.allclose(solver(x, 0.3)(y), slow, atol=1e-12)


def test_inputs_that_are_all_zero_leave_the_first_weights():
    first = (np.ones((3, 2)), np.ones(2))
    found = refined(curve("relu"), np.zeros((9, 3)), np.ones((9, 2)), (first[0], np.zeros(2)), first, 1e-3)
    assert found is first
