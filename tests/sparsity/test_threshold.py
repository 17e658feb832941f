import itertools
import json

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.sparsity import Prune, Pruner, prune_low_magnitude, sparsity_table
from keras_aeprune.sparsity.threshold import Threshold, ThresholdSteps, ThresholdTimes

X = np.random.default_rng(0).random((32, 4), "float32")
KERNEL = np.array([[0.1, -0.2, 0.3, -0.4], [0.5, -0.6, 0.7, -0.8], [0.01, 0.02, 0.03, 0.04], [1, 2, 3, 4]])


def model(**kernels):
    """Dense layers a, b, ... of width 4, frozen in effect by a learning rate of 0."""
    kernels = kernels or {"a": KERNEL}
    net = keras.Sequential([keras.Input((4,)), *[kl.Dense(4, use_bias=False, name=name) for name in kernels]])
    net.set_weights(list(kernels.values()))
    net.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    return net


def fit(net, schedule, epochs=4, **options):
    prune = Prune(schedule, **options)
    net.fit(X, X, epochs=epochs, batch_size=16, verbose=0, callbacks=[prune])
    return prune


def kept(net, name="a"):
    return net.get_layer(name).kernel.numpy() != 0


def test_what_scores_below_the_threshold_goes_and_the_table_says_how_much_that_was():
    net = model(a=KERNEL, b=10 * KERNEL)
    prune = fit(net, Threshold(0.5))
    np.testing.assert_array_equal(kept(net), np.abs(np.float32(KERNEL)) >= np.float32(0.5))
    assert prune.table["a/kernel"].reached == 8 / 16
    assert prune.table["b/kernel"].reached == 4 / 16
    assert prune.table.sparsity == 12 / 32
    assert sparsity_table(net)["a/kernel"].asked == 0.5
    json.dumps(prune.table.to_dict())


def test_relative_takes_the_deviation_of_the_scores_with_masked_ones_as_0():
    deviation = np.abs(KERNEL).std()
    net = model()
    fit(net, Threshold(0.5, relative="std", frequency=1000))
    np.testing.assert_array_equal(kept(net), np.abs(KERNEL) >= 0.5 * deviation)
    scores, left = np.array([1.0, 5.0, 9.0, 100.0]), np.array([True, True, True, False])  # std 3.56 of 1, 5, 9, 0
    assert Threshold(1.0, relative="std").mask(scores, left).tolist() == [False, True, True, False]
    assert Threshold(1.45, relative="std").mask(scores, left).tolist() == [False, False, True, False]


def test_relative_applied_again_and_again_stays_below_the_root_mean_square():
    scores = np.abs(np.random.default_rng(0).standard_t(2, 4000))
    left = np.ones(4000, bool)
    for _ in range(50):
        left = Threshold(1.0, relative="std").mask(scores, left)
    assert left.sum() >= (scores >= np.sqrt(np.mean(scores**2))).sum()


def test_nothing_grows_back_while_the_weights_move():
    net = model()
    net.optimizer.learning_rate = 0.5
    masks = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: masks.append(kept(net)))
    prune = Prune(Threshold(0.3, frequency=1))
    net.fit(X, X, epochs=6, batch_size=8, verbose=0, callbacks=[prune, watch])
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(masks))
    assert masks[-1].sum() < masks[0].sum()


def test_every_kernel_keeps_its_best_weight_and_the_table_says_so():
    net = model(a=KERNEL, b=KERNEL / 100)
    prune = fit(net, Threshold(2.5))
    assert prune.table["a/kernel"].zeros == 14
    assert prune.table["b/kernel"].zeros == 15
    assert kept(net, "b")[3, 3]
    assert prune.table["b/kernel"].reason == "one weight stays; the threshold is above the others"
    assert prune.table["a/kernel"].reason == ""
    assert "one weight stays" in str(prune.table)


def test_a_kernel_of_zeros_is_untrained_and_left_alone():
    net = model(a=KERNEL, b=0 * KERNEL)
    pruner = Pruner(net, Threshold(0.5))
    assert pruner.masks()["b/kernel"].all()
    assert not pruner.masks()["a/kernel"].all()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Threshold(1.0), [0, 100]),
        (Threshold(1.0, begin_step=2, frequency=60), [2, 62]),
        (Threshold(1.0, begin_step=3, frequency=50), [3, 53, 103]),
        (Threshold(1.0, begin_step=3, end_step=60, frequency=50), [3, 53, 60]),
        (Threshold(1.0, begin_step=7, end_step=7), [7]),
        (Threshold(1.0, begin_step=120), [120]),
    ],
)
def test_it_is_due_at_begin_plus_multiples_of_the_frequency_and_at_the_end(rule, expected):
    times = ThresholdTimes(rule)
    assert [s for s in range(121) if times.due(s, s)] == expected
    slow = [(a, b) for a in range(0, 121, 7) for b in range(a, 121, 5) if any(a <= e <= b for e in expected)]
    found = [(a, b) for a in range(0, 121, 7) for b in range(a, 121, 5) if times.due(a, b)]
    assert found == slow


def test_steps_that_are_passed_over_count_and_a_restart_repeats_nothing():
    class Recorder:
        def __init__(self):
            self.cuts = 0

        def cut(self, threshold):
            self.cuts += 1

    steps = ThresholdSteps(Recorder(), ThresholdTimes(Threshold(1.0, frequency=10)))
    steps.move_to(5)
    assert steps.pruner.cuts == 1
    steps.move_to(25)
    assert steps.pruner.cuts == 2
    again = ThresholdSteps(Recorder(), ThresholdTimes(Threshold(1.0, frequency=10)))
    again.resume(20)
    again.move_to(20)
    assert again.pruner.cuts == 0


def test_callbacks_that_keep_the_best_epoch_wait_for_the_last_application():
    net = model()
    seen = []
    prune = Prune(Threshold(0.5, begin_step=3, end_step=5, frequency=1))
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((prune.step, prune.at_target))
    )
    net.fit(X, X, epochs=4, batch_size=16, verbose=0, callbacks=[prune, watch])
    assert seen == [(2, False), (4, False), (6, True), (8, True)]


def test_it_counts_on_over_several_fits_and_in_a_loop_of_ones_own():
    net = model()
    prune = Prune(Threshold(0.5, begin_step=3), several_fits=True)
    for expected in (0, 8):
        net.fit(X, X, epochs=1, batch_size=16, verbose=0, callbacks=[prune])
        assert (~kept(net)).sum() == expected
    other = model()
    pruner = Pruner(other, Threshold(0.5, begin_step=2))
    for expected in (0, 8):
        pruner.step()
        assert (~kept(other)).sum() == expected
    assert pruner.at_target


def test_a_model_without_weights_yet_is_cut_after_its_first_batch():
    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = kl.Dense(4, kernel_initializer=keras.initializers.Constant(KERNEL), name="a")

        def call(self, x):
            return self.a(x)

    net = Lazy()
    net.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    assert fit(net, Threshold(0.5)).table.sparsity == 0.5


@pytest.mark.parametrize(
    "options", [{"pattern": "2:4"}, {"allocation": "global"}, {"limits": 0.5}, {"regrowth": "set"}], ids=str
)
def test_what_fixes_numbers_of_weights_is_refused_before_training(options):
    net = model()
    with pytest.raises(InputError, match=r"schedule: got Threshold\(.* allowed with a threshold: 'uniform'"):
        fit(net, Threshold(0.5), **options)
    np.testing.assert_array_equal(net.get_layer("a").kernel, np.float32(KERNEL))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Threshold(0.5, end_step=9), "ends at step 9, allowed: at most 8"),
        (Threshold(0.5, begin_step=9), "ends at step 9, allowed: at most 8"),
    ],
)
def test_one_that_does_not_fit_into_the_training_is_refused(rule, message):
    with pytest.raises(InputError, match=message):
        fit(model(), rule)


def test_layers_that_prune_themselves_do_not_take_it():
    with pytest.raises(InputError, match="schedule: got Threshold"):
        prune_low_magnitude(model(), Threshold(0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": np.nan}, "threshold: got nan"),
        ({"threshold": "0.5"}, "threshold: got '0.5'"),
        ({"threshold": 0, "relative": "std"}, "threshold: got 0, allowed: a number > 0"),
        ({"threshold": 1, "relative": "mean"}, "relative: got 'mean', allowed: None, std"),
        ({"threshold": 1, "begin_step": -1}, "begin_step: got -1"),
        ({"threshold": 1, "begin_step": 5, "end_step": 4}, "end_step: got 4, allowed: a whole number >= 5"),
        ({"threshold": 1, "frequency": 0}, "frequency: got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Threshold(**arguments)


def test_it_comes_back_from_its_config():
    rule = Threshold(0.5, begin_step=1, end_step=7, frequency=2, relative="std")
    assert Threshold.from_config(json.loads(json.dumps(rule.get_config()))) == rule
    assert repr(Threshold(0.5)) != repr(rule)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rule)) == rule
