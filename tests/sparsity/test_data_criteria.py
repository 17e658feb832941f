"""Criteria that look at more than weights, where masks are made."""

import copy

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune._validation import InputError
from keras_aeprune.criteria import base
from keras_aeprune.criteria.base import Criterion, register
from keras_aeprune.sparsity import ConstantSparsity, Prune, Pruner, patterns, prune_low_magnitude, sensitivity_map
from keras_aeprune.sparsity.ranking import masked_last
from keras_aeprune.sparsity.sensitivity import _evaluator

X = np.random.default_rng(0).random((32, 6), "float32")


class ByInput(Criterion):
    """|w| times the mean of the first layer's input; zeros score highest, which a criterion may."""

    needs = "activations"
    calls = 0

    def measure(self, seen):
        type(self).calls += 1
        self.last = seen
        size = np.abs(seen.data.x).mean()
        return [np.where(k == 0, 1e6, np.abs(k) * size).astype("float32") for k in seen.kernels]

    def get_config(self):
        return {}


@pytest.fixture(autouse=True)
def by_input():
    before = dict(base._registry._members)
    register("by_input")(ByInput)
    ByInput.calls = 0
    yield
    base._registry._members.clear()
    base._registry._members.update(before)


def model(seed=3):
    keras.utils.set_random_seed(seed)
    net = keras.Sequential([keras.Input((6,)), kl.Dense(8, name="a"), kl.Dense(6, name="b")])
    net.compile("sgd", "mse", run_eagerly=True)
    return net


def zeros(net):
    return {w.path: int((w.numpy() == 0).sum()) for w in net.trainable_variables if w.name == "kernel"}


def test_prune_passes_data_and_loss_on_and_reaches_the_sparsity():
    net, criterion = model(), ByInput()
    prune = Prune(0.5, criterion=criterion, data=X[:20], loss="mae")
    net.fit(X, X, epochs=3, batch_size=16, verbose=0, callbacks=[prune])
    assert prune.table.sparsity == 0.5
    assert criterion.last.model is net
    assert (len(criterion.last.data), criterion.last.loss) == (20, "mae")


def test_data_are_part_of_the_configuration_and_a_copy_shares_nothing_else():
    prune = Prune(0.5, criterion="by_input", data=X, loss="mae")
    assert prune.get_config()["data"] is X
    assert copy.deepcopy(prune).get_config()["loss"] == "mae"


def test_a_criterion_without_its_data_is_refused_before_the_first_step():
    net = model()
    before = [w.numpy() for w in net.trainable_variables]
    with pytest.raises(InputError, match=r"data: got None, .*give data=x"):
        net.fit(X, X, verbose=0, callbacks=[Prune(0.5, criterion="by_input")])
    assert all((w.numpy() == b).all() for w, b in zip(net.trainable_variables, before, strict=True))


def test_scores_of_nan_are_refused_before_the_first_step_although_the_ramp_begins_later():
    class Broken(ByInput):
        def measure(self, seen):
            return [k * np.nan for k in seen.kernels]

    net = model()
    steps, late = [], ConstantSparsity(0.5, begin_step=5)
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    with pytest.raises(InputError, match="NaN or infinite values of 48 for a/kernel"):
        net.fit(X, X, epochs=9, verbose=0, callbacks=[Prune(late, criterion=Broken(), data=X), watch])
    assert not steps


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("pattern", ["unstructured", "unit", "1x2"])
def test_masked_weights_stay_last_while_the_schedule_goes_on(allocation, pattern):
    net = model()
    pruner = Pruner(net, criterion="by_input", data=X, allocation=allocation, pattern=pattern)
    before = None
    for sparsity in (0.25, 0.5, 0.75):
        pruner.update(sparsity)
        masks = pruner.masks()
        assert pruner.sparsity() == pytest.approx(sparsity, abs=0.1)
        if before is not None:
            assert all((masks[path] <= before[path]).all() for path in masks)
        before = masks


def test_a_tie_at_zero_goes_to_the_weight_that_still_works():
    kernel = [np.array([0.0, 0.0, 0.3], np.float32)]  # as of a dead unit: all gradients are 0
    masks = [np.array([False, True, True])]
    [ranked] = masked_last(ByInput(), kernel, masks)
    assert ranked[0] < ranked[1] == 0


@pytest.mark.parametrize("shift", [0.0, 1.0, -5.0, 1e-12, -1e12])
def test_masked_weights_rank_below_all_kernels_and_below_means_over_blocks(shift):
    rng = np.random.default_rng(0)
    scores = [np.float32(rng.random((6, 64)) * 10.0**-e + shift) for e in (0, 6)]
    scores[1][:] = scores[1][0, 0]
    masks = [np.repeat(rng.random((6, 16)) < 0.5, 4, axis=1) for _ in scores]
    ranked = masked_last(None, scores, masks)
    for array, before, mask in zip(ranked, scores, masks, strict=True):
        assert array[~mask].max() < min(s[m].min() for s, m in zip(scores, masks, strict=True))
        np.testing.assert_array_equal(array[mask], before[mask])
        assert array.dtype == np.float32
        pooled = array.reshape(6, 16, 4).mean(axis=2)
        kept = mask[:, ::4]
        assert pooled[~kept].max() < pooled[kept].min()


def test_criteria_that_see_to_zeros_themselves_cost_no_copy():
    from keras_aeprune.criteria import Magnitude, Random

    scores, masks = [np.ones(3, np.float32)], [np.array([True, False, True])]
    assert masked_last(Magnitude(), scores, masks) is scores
    assert masked_last(Random(), scores, masks) is scores
    assert masked_last(None, scores, [np.ones(3, bool)]) is scores


@pytest.mark.parametrize("name", ["magnitude", "random"])
def test_weight_criteria_make_the_masks_that_their_scores_say(name):
    net = model()
    pruner = Pruner(net, criterion=name)
    expected = {}
    for target in pruner.targets:
        scores = pruner.criterion.scores(target.weight.variable.numpy(), target.weight.path)
        expected[target.weight.path] = patterns.get("unstructured").mask(scores, 0.6, target.weight)
    pruner.update(0.6)
    for path, mask in pruner.masks().items():
        np.testing.assert_array_equal(mask, expected[path])


def test_data_of_a_criterion_that_needs_none_are_not_read():
    assert Pruner(model(), data=object()).data is None


def test_layers_that_prune_themselves_take_criteria_of_one_kernel_only():
    net = model()
    with pytest.raises(
        InputError, match=r"criterion: got ByInput\(\), .*Prune\(schedule, criterion=\.\.\., data="
    ):
        prune_low_magnitude(net, criterion="by_input")
    with pytest.raises(InputError, match="criterion: got ByInput"):
        prune_low_magnitude(kl.Dense(3), criterion=ByInput())


def test_sensitivity_map_measures_the_criterion_once_on_the_same_data():
    net, criterion = model(), ByInput()
    found = sensitivity_map(net, X, criterion=criterion, sparsities=(0.5, 0.75), loss="mae")
    assert ByInput.calls == 1
    assert criterion.last.loss == "mae"
    np.testing.assert_array_equal(criterion.last.data.x, X)
    assert {row.path for row in found.rows} == {"a/kernel", "b/kernel"}
    plain = sensitivity_map(net, X, sparsities=(0.5, 0.75), loss="mae")
    assert found["a/kernel"].losses == plain["a/kernel"].losses  # the same order of weights


def test_sensitivity_map_of_a_sparse_model_takes_its_zeros_first():
    net = model()
    kernel = net.get_layer("a").kernel
    mask = np.zeros(kernel.shape, bool)
    mask.flat[::2] = True
    kernel.assign(np.where(mask, kernel.numpy(), 0))
    found = sensitivity_map(net, X, criterion=ByInput(), sparsities=(0.5,), loss="mse")
    evaluate, _ = _evaluator(net, X, "mse")
    assert found["a/kernel"].losses[0.5] == pytest.approx(evaluate())
