"""A linear code keeps its best subspace: against an SVD, and where to leave it alone."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune.shrinking.bottleneck import best_subspace, next_of
from keras_aeprune.shrinking.compensation import compensate
from keras_aeprune.shrinking.cutting import cut
from keras_aeprune.shrinking.tracing import trace


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_product_of_both_kernels_is_the_best_of_its_rank(rng):
    x, mix, kernel = rng.normal(size=(300, 5)), rng.normal(size=(5, 4)), rng.normal(size=(4, 7))
    x -= x.mean(axis=0)
    a, c = best_subspace(x, x @ mix, kernel, 2, 1e-12)
    u, s, v = np.linalg.svd(x @ mix @ kernel, full_matrices=False)
    np.testing.assert_allclose(x @ a @ c, (u[:, :2] * s[:2]) @ v[:2], atol=1e-8)
    between = np.cov((x @ a).T)
    assert abs(between[0, 1]) < 1e-8 * between[0, 0]
    assert np.square(x @ a).mean() == pytest.approx(np.square(x @ mix).mean())


def test_more_features_than_rows_is_no_error(rng):
    x, kernel = rng.normal(size=(6, 9)), rng.normal(size=(3, 4))
    code = x @ rng.normal(size=(9, 3))
    a, c = best_subspace(x, code, kernel, 3, 1e-10)
    np.testing.assert_allclose(x @ a @ c, code @ kernel, atol=1e-5)


def halves(activation="linear"):
    """A network whose 6 linear units lie in a space of 3 dimensions."""
    generator = np.random.default_rng(1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            kl.Dense(8, "relu", name="wide"),
            kl.Dense(6, activation, name="code"),
            kl.Dense(9, "relu", name="expand"),
            kl.Dense(5, name="output"),
        ]
    )
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape))
    model.get_layer("code").kernel.assign(generator.normal(size=(8, 3)) @ generator.normal(size=(3, 6)))
    return model


def cut_code(model):
    traced = trace(model)
    group = next(group for group in traced.groups if group.name == "code")
    kept = traced.kept(group.classes[3:])
    return cut(traced, kept), traced, kept


def relative(model, small, x):
    a, b = np.asarray(model(x)), np.asarray(small(x))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def test_a_code_of_low_rank_is_cut_without_loss(rng):
    model = halves()
    x = rng.normal(size=(400, 5)).astype("float32")
    small, traced, kept = cut_code(model)
    assert relative(model, small, x) > 0.1
    found = compensate(model, small, traced, kept, x, ridge=1e-8)
    assert relative(model, small, x) < 1e-3, str(found)


def test_subspace_beats_matching_the_units_that_stay(rng, monkeypatch):
    model = halves()
    model.get_layer("code").kernel.assign(rng.normal(size=(8, 6)))
    x = rng.normal(size=(400, 5)).astype("float32")
    small, traced, kept = cut_code(model)
    compensate(model, small, traced, kept, x)
    free = relative(model, small, x)
    monkeypatch.setattr("keras_aeprune.shrinking.compensation.next_of", lambda traced, kept: {})
    small, traced, kept = cut_code(model)
    compensate(model, small, traced, kept, x)
    assert free < 0.9 * relative(model, small, x)


def test_only_a_linear_layer_with_one_linear_reader_has_a_free_basis():
    def pairs(model):
        _, traced, kept = cut_code(model)
        return [traced.members[number].path for number in next_of(traced, kept)]

    assert pairs(halves()) == ["code"]
    assert pairs(halves("relu")) == []
    sample = keras.Input((5,))
    code = kl.Dense(6, name="code")(kl.Dense(8, "relu")(sample))
    several = keras.Model(sample, kl.Add()([kl.Dense(4, name="one")(code), kl.Dense(4, name="two")(code)]))
    assert pairs(several) == []
    normalized = keras.Model(sample, kl.Dense(4, name="one")(kl.BatchNormalization()(code)))
    assert pairs(normalized) == []


def test_zeros_of_a_pruned_code_stay(rng):
    model = halves()
    code = model.get_layer("code")
    code.kernel.assign(code.kernel * (rng.random((8, 6)) < 0.5))
    x = rng.normal(size=(400, 5)).astype("float32")
    small, traced, kept = cut_code(model)
    zeros = small.get_layer("code").kernel.numpy() == 0
    compensate(model, small, traced, kept, x)
    assert (small.get_layer("code").kernel.numpy()[zeros] == 0).all()
