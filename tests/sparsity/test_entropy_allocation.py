"""EGP's split of the zeros: shares by hand, the allocation's laws, and a whole model."""

import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_aeprune import models
from keras_aeprune._validation import InputError
from keras_aeprune.sparsity import Prune, Pruner, allocation, iterative
from keras_aeprune.sparsity.entropy_allocation import EntropyAllocation, entropy_allocation
from keras_aeprune.sparsity.one_shot import one_shot


def scores(*sizes, seed=0):
    return [np.random.default_rng([seed, n]).random(n) + 0.1 for n in sizes]


def zeros(split, arrays, sparsity, floors=None):
    return [int((~mask).sum()) for mask in split(arrays, sparsity, floors or [0] * len(arrays))]


def by_hand(entropies, arrays, total):
    relevance = np.array([h * a[a > 0].mean() for h, a in zip(entropies, arrays, strict=True)])
    share = np.exp(relevance.sum() / relevance)
    return total * share / share.sum()


def test_the_shares_are_softmax_of_sum_over_own_relevance():
    arrays = [np.full(1000, 1.0), np.full(1000, 2.0), np.full(1000, 1.5)]
    split = EntropyAllocation({"0": 1.0, "1": 0.5, "2": 0.8})  # R = 1, 1, 1.2
    got = zeros(split, arrays, 0.5)
    np.testing.assert_allclose(got, by_hand([1, 0.5, 0.8], arrays, 1500), atol=1)
    assert got[0] == got[1] > got[2] and sum(got) == 1500


def test_zeros_that_are_there_count_neither_for_the_mean_nor_for_the_share():
    a = np.concatenate([np.zeros(400), np.full(600, 2.0)])
    arrays = [a, np.full(1000, 1.0)]
    got = zeros(EntropyAllocation({"0": 0.5, "1": 1.0}), arrays, 0.5, [400, 0])  # R = 1, 1: 300 each
    assert got == [700, 300]


def test_what_does_not_fit_goes_to_the_others():
    arrays = [np.full(10, 1.0), np.full(1000, 1.0), np.full(1000, 1.0)]
    got = zeros(EntropyAllocation({"0": 0.1, "1": 0.5, "2": 0.5}), arrays, 0.5)
    assert got[0] == 9 and abs(got[1] - got[2]) <= 1 and sum(got) == 1005


def test_a_layer_with_hardly_any_entropy_is_emptied_first():
    arrays = scores(100, 100)
    got = zeros(EntropyAllocation({"0": 0.9, "1": 1e-9}), arrays, 0.6)
    assert got == [21, 99]


def test_layers_without_entropy_come_last_by_size():
    arrays = scores(100, 200, 300)
    split = EntropyAllocation({"0": 1.0, "1": 0.0, "2": 0.0})
    assert zeros(split, arrays, 0.1) == [60, 0, 0]
    assert zeros(split, arrays, 0.5) == [99, 80, 121]  # 201 by 2 to 3


@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.3, 0.77, 0.99, 0.999])
@pytest.mark.parametrize("seed", range(4))
def test_the_total_is_exact_whatever_the_entropies(sparsity, seed):
    rng = np.random.default_rng(seed)
    arrays = scores(*rng.integers(2, 200, 5), seed=seed)
    values = rng.choice([0.0, 1e-12, 0.3, 1.0], 5)
    floors = [int(rng.integers(0, len(a) // 2 + 1)) for a in arrays]
    got = zeros(EntropyAllocation({str(i): h for i, h in enumerate(values)}), arrays, sparsity, floors)
    sizes = np.array([len(a) for a in arrays])
    wanted = np.clip(np.floor(sparsity * sizes.sum() + 0.5), sum(floors), (sizes - 1).sum())
    assert sum(got) == wanted
    assert (np.array(got) >= floors).all() and (np.array(got) < sizes).all()


def test_a_kernels_own_path_counts_before_its_layers_and_patterns():
    split = EntropyAllocation(
        {"hidden": 0.1, "encoder/*": 0.2, "encoder/hidden": 0.3, "encoder/hidden/kernel": 0.4}
    )
    paths = [
        "encoder/hidden/kernel",
        "encoder/hidden/other",
        "encoder/code/kernel",
        "decoder/hidden/kernel",
        "x/k",
    ]
    assert [split._entropy(path) for path in paths] == [0.4, 0.3, 0.2, 0.1, None]


def relu_model():
    model = keras.Sequential(
        [keras.Input((2,)), kl.Dense(2, activation="relu", name="a"), kl.Dense(2, name="b"), kl.ReLU()]
    )
    model.set_weights([np.eye(2), np.zeros(2), np.eye(2), np.array([-2.0, 0.5])])
    return model


def test_entropies_are_measured_per_kernel():
    x = np.array([[1, 1], [-1, 1], [-1, 1], [3, 1]], "float32")
    found = entropy_allocation(relu_model(), x)
    # a: p = 1/2 and 1; b reads relu(x): p = P(x > 2) = 1/4 and 1
    assert found.entropies == pytest.approx({"a/kernel": 1.0, "b/kernel": 0.811278}, abs=1e-6)


def test_layers_whose_state_means_nothing_get_one_bit_and_are_named():
    model = models.dense((6,), 2, hidden_units=(4,))
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    with pytest.warns(UserWarning, match="no meaning for encoder/code: linear .* they get 1 bit"):
        found = entropy_allocation(model, x)
    assert found.entropies["encoder/code/kernel"] == 1
    pruner = Pruner(model, allocation=found)
    pruner.update(0.5)
    assert pruner.sparsity() == pytest.approx(0.5, abs=1 / 60)


def test_a_model_without_a_rectifier_is_refused():
    model = keras.Sequential([keras.Input((2,)), kl.Dense(2, activation="tanh", name="a")])
    with pytest.raises(InputError, match="a: tanh outputs have no OFF side.*'uniform'"):
        entropy_allocation(model, np.ones((3, 2)))


def test_it_comes_back_from_its_config():
    split = EntropyAllocation({"a": 0.25, "b": 1})
    again = allocation.get(json.loads(json.dumps(allocation.serialize(split))))
    assert type(again) is EntropyAllocation and again.get_config() == split.get_config()


@pytest.mark.parametrize("entropies", [{}, {"a": -0.1}, {"a": 1.5}, {"a": "1"}, {"a": float("nan")}, 3])
def test_other_values_are_refused(entropies):
    with pytest.raises(InputError, match="entropies.*: got .* allowed: "):
        EntropyAllocation(entropies)


def test_missing_kernels_and_negative_scores_are_refused():
    with pytest.raises(InputError, match=r"an entry for every kernel; missing: \['1'\]"):
        zeros(EntropyAllocation({"0": 1.0}), scores(5, 5), 0.5)
    with pytest.raises(InputError, match="0: got negative scores.*magnitude"):
        zeros(EntropyAllocation({"0": 1.0}), [np.array([-1.0, 2.0])], 0.5)


X = np.random.default_rng(5).normal(size=(64, 6)).astype("float32")


def two_layers():
    keras.utils.set_random_seed(6)
    stack = [kl.Dense(8, activation="relu", name=name) for name in ("a", "b")]
    model = keras.Sequential([keras.Input((6,)), *stack, kl.Dense(6, activation="relu", name="c")])
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    return model


def hardly_switching(model):
    """Set the biases of layer b so that each of its units is ON for one sample only."""
    layer = model.get_layer("b")
    inputs = model.get_layer("a")(X)
    z = np.sort(np.asarray(inputs @ layer.kernel), axis=0)
    layer.bias.assign(-(z[-1] + z[-2]) / 2)


def new_zeros(before, after, name):
    [a], [b] = ([row.zeros for row in table.rows if row.path == f"{name}/kernel"] for table in (before, after))
    return b - a


def test_a_layer_that_hardly_switches_any_more_gets_more_of_the_next_round():
    tables = {}
    for still in (False, True):
        model = two_layers()

        def train(model, number, still=still):
            if still and number == 1:
                hardly_switching(model)

        tables[still] = iterative(
            model, X, sparsities=[0.2, 0.4], epochs=1, allocation="entropy", train=train, progress=False
        )
    first, last = ([r.kernels for r in tables[still].rounds[1:]] for still in (False, True))
    assert first[0].to_dict() == last[0].to_dict()
    assert new_zeros(*last, "b") > new_zeros(*first, "b") + 5
    assert tables[True].kept.reached == pytest.approx(0.4, abs=0.01)


def test_entropies_that_are_given_are_not_measured_again():
    model = two_layers()
    given = EntropyAllocation({"a": 1.0, "b": 0.5, "c": 0.9})
    assert given.measured(model, X) is given
    pruner = Pruner(model, allocation=given, data=X)
    pruner.update(0.2)
    hardly_switching(model)
    pruner.update(0.4)
    other = Pruner(two_layers(), allocation=given)
    other.update(0.2)
    other.update(0.4)
    assert pruner.table().to_dict() == other.table().to_dict()


def test_prune_measures_at_each_update_of_the_masks(monkeypatch):
    seen, original = [], EntropyAllocation.measured

    def measured(self, model, data, chosen):
        found = original(self, model, data, chosen)
        seen.append((found.entropies, len(data)))
        return found

    monkeypatch.setattr(EntropyAllocation, "measured", measured)
    model = two_layers()
    prune = Prune(0.5, allocation="entropy", data=X)
    model.fit(X, X, batch_size=16, epochs=2, verbose=0, callbacks=[prune])
    assert prune.table.sparsity == pytest.approx(0.5, abs=0.01)
    assert len({str(entropies) for entropies, _ in seen}) > 2
    assert {count for _, count in seen} == {64}
    assert seen[0][0] == entropy_allocation(two_layers(), X).entropies
    assert seen[-1][0].keys() == {"a/kernel", "b/kernel", "c/kernel"}


def test_one_shot_measures_entropies_in_every_round():
    one, many = two_layers(), two_layers()
    table = one_shot(one, 0.6, X, criterion="magnitude", rounds=1, allocation="entropy", progress=False)
    again = one_shot(many, 0.6, X, criterion="magnitude", rounds=4, allocation="entropy", progress=False)
    assert table.sparsity == pytest.approx(0.6, abs=0.01) == again.sparsity
    assert [row.zeros for row in table.rows] != [row.zeros for row in again.rows]
    # the first of four rounds, and the second on what it left, by hand
    check = two_layers()
    for sparsity in 1 - 0.4 ** (np.arange(1, 5) / 4):
        split = entropy_allocation(check, X)
        Pruner(check, allocation=split).update(float(sparsity))
    for a, b in zip(check.get_weights(), many.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_that_are_not_pruned_need_no_entropy():
    model = models.dense((6,), 2, hidden_units=(4,))
    pruner = Pruner(model, allocation="entropy", data=X, include="hidden_1")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # the linear code would be named in one
        pruner.update(0.5)
    assert pruner.sparsity() == pytest.approx(0.5, abs=0.02)


def test_what_a_warning_said_is_not_said_at_every_update():
    model = models.dense((6,), 2, hidden_units=(4,))
    pruner = Pruner(model, allocation="entropy", data=X)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for sparsity in (0.1, 0.2, 0.3):
            pruner.update(sparsity)
    [text] = [str(one.message) for one in told if "no meaning" in str(one.message)]
    assert "encoder/code: linear" in text


def test_without_data_nothing_can_be_split():
    with pytest.raises(InputError, match=r"data: got None, .* allocation EntropyAllocation\(entropies=None\)"):
        Pruner(two_layers(), allocation="entropy")
    with pytest.raises(InputError, match="got no entropies, allowed: .*data=x"):
        zeros(allocation.get("entropy"), scores(5, 5), 0.5)
