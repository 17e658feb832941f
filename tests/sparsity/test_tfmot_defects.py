"""What tfmot gets wrong and this package does not; and schedules at tfmot's own points."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from small_models import batch, dense, half, steps, train, values, wrappers, zeros

from keras_aeprune._tfmot import PruningSchedule as TheirSchedule
from keras_aeprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    PruneLowMagnitude,
    PruningSchedule,
    UpdatePruningStep,
    prune_low_magnitude,
)


@pytest.mark.parametrize("make", [ConstantSparsity, PolynomialDecay])
def test_the_two_schedules_are_tfmots_kind(make):
    arguments = (0.5, 0) if make is ConstantSparsity else (0.2, 0.5, 0, 10)
    assert isinstance(make(*arguments), PruningSchedule)
    assert PruningSchedule is TheirSchedule


@pytest.mark.parametrize("make", [lambda *a: ConstantSparsity(0.5, *a), lambda b, e, f: _ramp(b, e, f)])
def test_steps_outside_their_range_are_refused(make):
    for begin, end, frequency in ((-1, 1000, 10), (10, -5, 10), (10, 5, 10), (10, 1000, 0), (10, 1000, -1)):
        with pytest.raises(ValueError, match="allowed"):
            make(begin, end, frequency)
    for begin, end, frequency in ((0, 0, 1), (0, 1, 1), (10, 10, 10), (100, 1000, 1)):
        make(begin, end, frequency)


def _ramp(begin, end, frequency):
    return PolynomialDecay(0.2, 0.8, begin, end, 3, frequency)


@pytest.mark.parametrize("sparsity", [-10.0, -1.0, -0.001, 1.0, 10.0, float("nan")])
def test_sparsities_outside_their_range_are_refused(sparsity):
    for make in (
        lambda s: ConstantSparsity(s, 0),
        lambda s: PolynomialDecay(s, 0.8, 0, 10),
        lambda s: PolynomialDecay(0.2, s, 0, 10),
    ):
        with pytest.raises(ValueError, match="fraction"):
            make(sparsity)


def test_a_ramp_needs_an_end():
    with pytest.raises(ValueError, match="end_step"):
        PolynomialDecay(0.4, 0.8, 10, -1)


@pytest.mark.parametrize(
    "schedule", [ConstantSparsity(0.5, 100, 200, 10), PolynomialDecay(0.2, 0.8, 100, 200, 3, 10)]
)
def test_masks_are_due_from_the_first_to_the_last_step_every_so_many(schedule):
    due = [step for step in range(300) if bool(schedule(tf.Variable(step))[0])]
    assert due == list(range(100, 201, 10))


def test_without_an_end_it_never_ends():
    due, value = ConstantSparsity(0.5, 0, -1, 10)(tf.constant(100_000_000))
    assert bool(due)
    assert float(value) == 0.5


def test_the_cubic_values_by_hand():
    schedule = PolynomialDecay(0.2, 0.8, 100, 110, 3, 2)  # 0.8 - 0.6 * (1 - p) ** 3
    found = [float(schedule(step)[1]) for step in (100, 102, 105, 110)]
    assert found == pytest.approx([0.2, 0.4928, 0.725, 0.8])


def test_a_ramp_that_begins_at_its_end_prunes_and_holds_no_nan():
    model = train(prune_low_magnitude(dense(), PolynomialDecay(0.0, 0.75, 2, 2)), 3)
    assert zeros(model) == [0.75, 0.75]
    assert all(np.isfinite(values(weight)).all() for weight in model.trainable_variables)


def test_the_default_frequency_reaches_the_end_within_99_steps():
    model = train(prune_low_magnitude(dense(), PolynomialDecay(0.0, 0.75, 0, 20)), 20)
    assert PolynomialDecay(0.0, 0.75, 0, 20).frequency == 100
    assert zeros(model) == [0.75, 0.75]


def test_sparsity_follows_the_ramp_step_by_step():
    schedule = PolynomialDecay(0.2, 0.8, 1, 4, 3, 1)
    model, found = prune_low_magnitude(dense((10, 10), 10), schedule), []
    for _ in range(5):
        train(model, x=batch((8, 10)))
        found.append(zeros(model)[0])
    by_hand = [0.8 - 0.6 * (1 - done / 3) ** 3 for done in (0, 1, 2, 3, 3)]
    assert found == pytest.approx(by_hand, abs=0.005 + 1e-6)


def test_ties_lose_exactly_the_asked_number():
    model = keras.Sequential([keras.Input((10,)), kl.Dense(10, kernel_initializer="ones")])
    pruned = train(prune_low_magnitude(model, half(target_sparsity=0.73)), x=np.zeros((4, 10), "float32"))
    assert np.count_nonzero(wrappers(pruned)[0].layer.kernel) == 27


def test_a_depthwise_convolution_is_really_pruned():
    model = keras.Sequential([keras.Input((6, 6, 4)), kl.DepthwiseConv2D(3)])
    assert zeros(train(prune_low_magnitude(model, half()))) == [0.5]


def test_a_missed_target_warns_and_does_not_raise():
    model = prune_low_magnitude(dense(), PolynomialDecay(0.0, 0.9, 0, 50))
    model.compile("sgd", keras.losses.MeanSquaredError(), run_eagerly=True)
    x = batch((8, 6))
    with pytest.warns(UserWarning, match="has not reached its target"):
        history = model.fit(x, x, verbose=0, callbacks=[UpdatePruningStep()])
    assert history.epoch == [0]


def test_a_schedule_without_an_end_and_a_name_trains():
    class Late(TheirSchedule):
        def __call__(self, step):
            return tf.equal(step, 2), tf.constant(0.25)

        def get_config(self):
            return {"class_name": "Late", "config": {}}

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = train(prune_low_magnitude(dense(), Late()), 1)
        assert zeros(model) == [0.0, 0.0]
        assert zeros(train(model, 2)) == [0.25, 0.25]


def test_weights_stay_zero_when_a_layer_is_frozen_later():
    model = train(prune_low_magnitude(dense(), half()))
    model.layers[0].trainable = False
    model.compile("sgd", keras.losses.MeanSquaredError(), run_eagerly=True)
    assert zeros(train(model, 2)) == [0.5, 0.5]
    assert steps(model) == [1, 3]


@pytest.mark.parametrize("criterion", ["magnitude", {"class_name": "magnitude", "config": {"order": 2}}])
def test_a_criterion_is_an_argument_of_its_own(criterion):
    layer = PruneLowMagnitude(kl.Dense(4), half(), criterion=criterion)
    assert layer.get_config()["criterion"]["class_name"] == "magnitude"
