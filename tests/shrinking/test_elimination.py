"""Elimination against least squares solved anew for every choice."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune.shrinking.elimination import Consumer, consumers, eliminate
from keras_aeprune.shrinking.planning import plan
from keras_aeprune.shrinking.tracing import trace


def refitted_error(x, weights, gone):
    """The error of x W when the columns `gone` are taken out and the rest is fitted again."""
    wanted = x @ weights
    left = [n for n in range(x.shape[1]) if n not in gone]
    fitted = np.linalg.lstsq(x[:, left], wanted, rcond=None)[0]
    return np.square(wanted - x[:, left] @ fitted).sum() / len(x)


@pytest.fixture
def problem():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 6)) @ random.normal(size=(6, 6))
    return x, random.normal(size=(6, 3))


def test_each_step_costs_what_least_squares_says(problem):
    x, weights = problem
    found = eliminate([Consumer(x.T @ x / len(x), weights, np.arange(6))], np.arange(6), damping=1e-12)
    power = np.square(x @ weights).sum() / len(x)
    order = np.argsort(found)
    for count in range(1, 6):
        np.testing.assert_allclose(
            found[order[count - 1]] * power, refitted_error(x, weights, order[:count]), rtol=1e-5
        )


def test_the_first_to_go_is_the_best_of_all(problem):
    x, weights = problem
    found = eliminate([Consumer(x.T @ x / len(x), weights, np.arange(6))], np.arange(6), damping=1e-12)
    assert int(np.argmin(found)) == int(np.argmin([refitted_error(x, weights, [n]) for n in range(6)]))


def test_columns_of_one_class_go_together(problem):
    x, weights = problem
    classes = np.array([0, 1, 2, 0, 1, 2])
    found = eliminate([Consumer(x.T @ x / len(x), weights, classes)], np.arange(3), damping=1e-12)
    power = np.square(x @ weights).sum() / len(x)
    first = int(np.argmin(found))
    wanted = [refitted_error(x, weights, np.flatnonzero(classes == n)) for n in range(3)]
    assert first == int(np.argmin(wanted))
    np.testing.assert_allclose(found[first] * power, min(wanted), rtol=1e-5)


def test_errors_of_two_layers_are_added(problem):
    x, weights = problem
    other = np.random.default_rng(1).normal(size=(6, 2))
    gram = x.T @ x / len(x)
    both = [Consumer(gram, one, np.arange(6)) for one in (weights, other)]
    found = eliminate(both, np.arange(6), damping=1e-12)
    powers = [np.square(x @ one).sum() / len(x) for one in (weights, other)]
    wanted = [
        sum(refitted_error(x, one, [n]) / power for one, power in zip((weights, other), powers, strict=True))
        for n in range(6)
    ]
    np.testing.assert_allclose(found.min(), min(wanted), rtol=1e-5)


def test_a_unit_that_others_make_up_for_goes_first():
    """Two equal units: magnitude keeps both, since they are large; one of them is not needed."""
    model = keras.Sequential([keras.Input((3,)), kl.Dense(3, use_bias=False, name="a"), kl.Dense(2, name="b")])
    model.layers[0].set_weights([np.array([[2.0, 2.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.5]])])
    x = np.random.default_rng(0).normal(size=(100, 3)).astype("float32")
    assert plan(model, "elimination", keep=0.7, data=x, round_to=1).groups[0].removed in ((), (0,), (1,))
    assert plan(model, "elimination", keep=0.6, data=x, round_to=1).groups[0].removed in ((0,), (1,))
    assert plan(model, "magnitude", keep=0.6, round_to=1).groups[0].removed == (2,)


def test_moments_are_those_of_the_inputs_that_numpy_computes():
    model = keras.Sequential([keras.Input((4,)), kl.Dense(5, "relu", name="a"), kl.Dense(2, name="b")])
    x = np.random.default_rng(0).normal(size=(300, 4)).astype("float32")
    traced = trace(model)
    found = consumers(traced, x)
    kernel, bias = model.layers[0].get_weights()
    hidden = np.maximum(x @ kernel + bias, 0)
    (one,) = {id(c): c for n in traced.groups[0].classes for c in found[int(n)]}.values()
    np.testing.assert_allclose(one.gram, hidden.T @ hidden / 300, rtol=1e-4)


def test_flattened_channels_are_columns_of_one_class():
    model = keras.Sequential([keras.Input((6, 2)), kl.Conv1D(3, 3, name="a"), kl.Flatten(), kl.Dense(2, name="b")])
    traced = trace(model)
    x = np.random.default_rng(0).normal(size=(50, 6, 2)).astype("float32")
    one = consumers(traced, x)[int(traced.groups[0].classes[0])][0]
    assert one.gram.shape == (12, 12)
    assert [list(g) for _, g in itertools.groupby(one.classes)] == [
        [n] for n in traced.groups[0].classes.tolist() * 4
    ]


def test_heads_of_attention_are_ranked_by_magnitude_and_the_plan_says_so():
    entrance = keras.Input((5, 4))
    hidden = kl.Dense(8, name="a")(entrance)
    made = plan(
        keras.Model(entrance, kl.Dense(2)(kl.MultiHeadAttention(4, 2, name="mha")(hidden, hidden))),
        "elimination",
        keep=0.5,
        data=np.random.default_rng(0).normal(size=(20, 5, 4)).astype("float32"),
        round_to=1,
    )
    assert "mha/heads" in made.notes[0]
    assert {g.name: g.kept for g in made.groups} == {"a": 4, "mha": 4, "mha/heads": 2}
