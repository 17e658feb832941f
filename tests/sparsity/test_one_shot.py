"""Pruning without training: against a loop by hand, and what is left on the model."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import criteria
from keras_aeprune._layers import weights
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria import WoodFisher
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.sparsity import Pruner, release, sparsity_table
from keras_aeprune.sparsity.constraints import MaskConstraint
from keras_aeprune.sparsity.one_shot import one_shot

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(96, 6)) @ RNG.normal(size=(6, 12)) / 5).astype("float32")


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(1)
    model = network()
    model.fit(X, X, epochs=30, batch_size=16, verbose=0)
    return model.get_weights()


def network(values=None):
    model = keras.Sequential(
        [keras.Input((12,)), kl.Dense(8, activation="tanh", name="a"), kl.Dense(12, name="b")]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse")
    if values is not None:
        model.set_weights(values)
    return model


def kernels(model):
    return [model.get_layer(name).kernel.numpy() for name in "ab"]


def by_hand(model, sparsity, rounds, compensate):
    """Singh and Alistarh's rounds with one threshold over all kernels."""
    chosen = tuple(weights(model))
    for k in range(1, rounds + 1):
        seen = Evidence(model, chosen, Calibration(X))
        scores = WoodFisher().measure(seen)
        flat = np.concatenate([np.where(w == 0, -1, s).ravel() for w, s in zip(seen.kernels, scores, strict=True)])
        keep = np.ones(flat.size, bool)
        share = 1 - (1 - sparsity) ** (k / rounds)
        keep[np.argsort(flat, kind="stable")[: int(np.floor(share * flat.size + 0.5))]] = False
        masks = [part.reshape(w.shape) for part, w in zip(np.split(keep, [96]), seen.kernels, strict=True)]
        assert all(mask.any() for mask in masks)  # else a weight would be left by the package's rule
        new = (
            WoodFisher().compensated(seen, masks)
            if compensate
            else [w * m for w, m in zip(seen.kernels, masks, strict=True)]
        )
        for weight, kernel in zip(chosen, new, strict=True):
            weight.variable.assign(kernel)


@pytest.mark.parametrize(("rounds", "compensate"), [(1, True), (3, True), (2, False)])
def test_rounds_are_measured_anew_and_the_weights_that_stay_move(trained, rounds, compensate):
    model, expected = network(trained), network(trained)
    table = one_shot(model, 0.6, X, rounds=rounds, compensate=compensate, progress=False)
    by_hand(expected, 0.6, rounds, compensate)
    for found, wanted in zip(kernels(model), kernels(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found == 0, wanted == 0)
    moved = any((k[k != 0] != old[k != 0]).any() for k, old in zip(kernels(model), trained[::2], strict=True))
    assert moved == compensate
    assert table.sparsity == pytest.approx(0.6, abs=0.003)
    assert not any(row.missed for row in table.rows)
    assert str(sparsity_table(model)) == str(table)


def test_moving_weights_in_rounds_loses_less_than_cutting_them(trained):
    losses = {}
    for name, options in {
        "magnitude": {"criterion": "magnitude"},
        "scores": {"rounds": 1, "compensate": False},
        "once": {"rounds": 1},
        "rounds": {"rounds": 5},
    }.items():
        model = network(trained)
        one_shot(model, 0.6, X, progress=False, **options)
        losses[name] = model.evaluate(X, X, verbose=0)
    assert losses["rounds"] < losses["scores"]
    assert losses["once"] < losses["scores"]
    assert losses["rounds"] < losses["magnitude"]


def test_later_training_keeps_the_zeros_until_they_are_released(trained):
    model = network(trained)
    model.fit(X, X, epochs=1, verbose=0)  # a train step that was traced before
    one_shot(model, 0.8, X, rounds=2, progress=False)
    before = [kernel == 0 for kernel in kernels(model)]
    model.fit(X, X, epochs=2, verbose=0)
    for zero, kernel in zip(before, kernels(model), strict=True):
        np.testing.assert_array_equal(kernel == 0, zero)
    assert release(model) == 2
    model.fit(X, X, epochs=2, verbose=0)
    assert all(kernel.all() for kernel in kernels(model))


def test_zeros_stay_and_a_second_call_goes_on_from_them(trained):
    model = network(trained)
    one_shot(model, 0.5, X, progress=False)
    before = [kernel == 0 for kernel in kernels(model)]
    table = one_shot(model, 0.8, X, progress=False)
    assert table.sparsity == pytest.approx(0.8, abs=0.003)
    assert all(not kernel[zero].any() for kernel, zero in zip(kernels(model), before, strict=True))


def test_criteria_that_need_no_data_and_patterns_and_choices_of_layers_work(trained):
    model = network(trained)
    table = one_shot(model, 0.5, criterion="magnitude", pattern="2:4", allocation="uniform", progress=False)
    assert [row.reached for row in table.rows] == [0.5, 0.5]
    model = network(trained)
    table = one_shot(model, 0.5, X, exclude="b", limits={"a": (0, 0.6)}, rounds=2, progress=False)
    assert kernels(model)[1].all()
    assert table["b/kernel"].reason == "excluded"
    expected = Pruner(other := network(trained), allocation="global")
    expected.update(0.9)
    one_shot(model := network(trained), 0.9, criterion="magnitude", rounds=4, progress=False)
    for found, wanted in zip(kernels(model), kernels(other), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_generator_of_batches_is_read_once(trained):
    model, twin = network(trained), network(trained)
    one_shot(model, 0.6, (X[i : i + 32] for i in range(0, 96, 32)), rounds=3, progress=False)
    one_shot(twin, 0.6, X, rounds=3, progress=False)
    for found, wanted in zip(kernels(model), kernels(twin), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_each_round_says_a_line_on_standard_error(trained, capfd):
    one_shot(network(trained), 0.75, criterion="magnitude", rounds=2)
    said = capfd.readouterr()
    assert said.out == ""
    assert "round 2/2, sparsity 0.7500" in said.err
    one_shot(network(trained), 0.75, criterion="magnitude", rounds=2, progress=False)
    assert capfd.readouterr().err == ""


class _Breaks(criteria.Criterion):
    """Scores by magnitude; fails in the second round, or moves weights to infinity, or takes 1.5 off them."""

    needs = "weights"

    def __init__(self, how):
        self.how, self.calls = how, 0

    def measure(self, seen):
        self.calls += 1
        if self.how == "error" and self.calls == 2:
            raise KeyboardInterrupt
        return [np.abs(kernel) for kernel in seen.kernels]

    def compensated(self, seen, masks):
        return [
            np.where(mask, np.inf if self.how == "inf" else k - 1.5, 0)
            for k, mask in zip(seen.kernels, masks, strict=True)
        ]


@pytest.mark.parametrize(("how", "rounds", "error"), [("error", 3, KeyboardInterrupt), ("inf", 1, InputError)])
def test_after_an_error_the_model_is_as_it_was_given(trained, how, rounds, error):
    model = network(trained)
    with pytest.raises(error, match="overflowed" if how == "inf" else None):
        one_shot(model, 0.8, criterion=_Breaks(how), rounds=rounds, progress=False)
    for found, wanted in zip(model.get_weights(), trained, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert all(weight.variable.constraint is None for weight in weights(model))


def test_a_constraint_of_the_users_own_holds_for_weights_that_moved():
    stack = [kl.Dense(4, kernel_constraint="non_neg", kernel_initializer="random_uniform", name="a")]
    model = keras.Sequential([keras.Input((12,)), *stack])
    kernel = model.get_layer("a").kernel
    kernel.assign(np.linspace(0.1, 2, 48).reshape(12, 4))
    one_shot(model, 0.5, criterion=_Breaks("less"), rounds=1, progress=False)
    expected = np.linspace(0.1, 2, 48) - 1.5  # the upper half moved, and what fell below 0 is 0
    np.testing.assert_allclose(kernel.numpy().ravel(), np.maximum(expected, 0), atol=1e-6)
    assert isinstance(kernel.constraint, MaskConstraint)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 0.0}, "target: got 0.0"),
        ({"sparsity": 1.0}, "got 1.0"),
        ({"rounds": 0}, "rounds: got 0"),
        ({"criterion": "best"}, "criterion: got 'best', allowed: .*woodfisher"),
        ({"allocation": "all"}, "allocation: got 'all', allowed: .*entropy"),
        ({"data": None}, "data: got None, allowed: calibration samples"),
        ({"include": "c"}, "include: got 'c', which fits no layer"),
        ({"limits": {"a": (0, 0.1)}}, "sparsity: got 0.36.* allowed by the limits"),
    ],
)
def test_what_does_not_fit_is_refused(trained, arguments, message):
    options = {"sparsity": 0.9, "data": X, **arguments}
    if "limits" in arguments:
        options |= {"include": "a"}
    model = network(trained)
    with pytest.raises(InputError, match=message):
        one_shot(model, options.pop("sparsity"), options.pop("data"), progress=False, **options)
    for found, wanted in zip(model.get_weights(), trained, strict=True):
        np.testing.assert_array_equal(found, wanted)
