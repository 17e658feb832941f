"""Choosing a criterion and an allocation by trying them."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

from keras_aeprune import criteria
from keras_aeprune._validation import InputError
from keras_aeprune.search import Candidate, Choice, choose_criterion
from keras_aeprune.sparsity import Pruner, allocation, release

DIGITS = (load_digits().data / 16).astype("float32")
TRAIN, TEST = DIGITS[:1024], DIGITS[1024:]
MAGNITUDE = {"class_name": "magnitude", "config": {"order": 1}}
UNIFORM = {"class_name": "uniform", "config": {}}


def autoencoder():
    keras.utils.set_random_seed(0)
    stack = [layers.Dense(32, "relu", name="code"), layers.Dropout(0.1), layers.Dense(64, name="out")]
    net = keras.Sequential([keras.Input((64,)), *stack])
    net.compile(keras.optimizers.Adam(3e-3), "mse")
    net.optimizer.build(net.trainable_variables)  # else `fit` traces its step twice
    net.fit(TRAIN, TRAIN, epochs=3, batch_size=64, verbose=0)
    return net


def state(net):
    return [v.numpy() for v in (*net.variables, *net.optimizer.variables)]


@pytest.fixture(scope="module")
def net():
    return autoencoder()


@pytest.fixture(scope="module")
def tried(net):
    """A search of four candidates, with the model's state before and after it."""
    before = state(net)
    names = (("magnitude", "random"), ("uniform", "global"))
    choice = choose_criterion(
        net, TRAIN, 0.8, validation=TEST, criteria=names[0], allocations=names[1], seed=1, batch_size=64
    )
    return before, choice, state(net)


def test_the_better_half_gets_twice_the_epochs(tried):
    _, choice, _ = tried
    assert [sorted(c.losses) for c in choice.table] == [[1, 2], [1, 2], [1], [1]]
    first = sorted(c.losses[1] for c in choice.table)
    assert sorted(c.losses[1] for c in choice.table[:2]) == first[:2]
    assert choice.table[0].loss == min(c.losses[2] for c in choice.table[:2])
    assert all(c.sparsity == pytest.approx(0.8, abs=1e-3) for c in choice.table)


def test_random_scores_lose_and_the_best_pair_can_be_given_to_prune(tried):
    choice = tried[1]
    assert type(choice.criterion) is criteria.Magnitude
    assert isinstance(choice.allocation, allocation.Allocation)
    assert {c.criterion["class_name"] for c in choice.table[:2]} == {"magnitude"}


def test_the_given_model_is_untouched(net, tried):
    for one, other in zip(tried[0], tried[2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert release(net) == 0


def test_a_candidate_is_measured_as_pruning_and_fitting_by_hand(net, tried):
    row = next(c for c in tried[1].table if c.criterion == MAGNITUDE and c.allocation["class_name"] == "uniform")
    twin = keras.models.clone_model(net)
    for one, other in zip(twin.variables, net.variables, strict=True):
        one.assign(other)  # weights and random states
    twin.compile(keras.optimizers.Adam(3e-3), "mse")
    Pruner(twin).update(0.8)
    keras.utils.set_random_seed(1)
    twin.fit(TRAIN, TRAIN, epochs=1, batch_size=64, verbose=0)
    assert row.losses[1] == pytest.approx(float(np.mean((twin.predict(TEST, verbose=0) - TEST) ** 2)), rel=1e-3)


def test_the_same_seed_gives_the_same_table(net):
    def found():
        choice = choose_criterion(
            net, TRAIN[:256], 0.8, criteria=("magnitude", "random"), allocations=("erk",), seed=3, batch_size=64
        )
        return [{**c.to_dict(), "seconds": 0} for c in choice.table]

    assert found() == found()


def test_a_candidate_that_cannot_work_is_listed_with_the_reason(net):
    options = {"validation": TEST, "criteria": ["magnitude"], "pruning": {"include": ["code"]}, "batch_size": 256}
    split = [{"code": 0.1}, "uniform"]  # a fixed fraction that rules the total out
    choice = choose_criterion(net, TRAIN[:256], 0.8, allocations=split, **options)
    assert [bool(c.error) for c in choice.table] == [False, True]
    assert choice.table[1].losses == {}
    with pytest.raises(InputError, match="none that can be tried"):
        choose_criterion(net, TRAIN[:256], 0.8, allocations=split[:1], **options)
    assert release(net) == 0


def test_it_prints_a_table_and_is_plain_json_values():
    rows = (
        Candidate(MAGNITUDE, UNIFORM, {1: 0.25, 2: 0.125}, 0.8, 3.25),
        Candidate({"class_name": "random", "config": {"seed": 0}}, UNIFORM, {1: float("nan")}, 0.8, 1.5),
        Candidate(MAGNITUDE, {"class_name": "erk", "config": {}}, {}, error="no room"),
    )
    choice = Choice(rows, 0.8, 0.0625)
    assert str(choice).splitlines() == [
        "validation loss at sparsity 0.8, after epochs; dense: 0.0625",
        "criterion           allocation  1 epoch  2 epochs  seconds",
        "-" * 67,
        "magnitude(order=1)  uniform        0.25     0.125      3.2  chosen",
        "random(seed=0)      uniform         nan         -      1.5",
        "magnitude(order=1)  erk               -         -      0.0  no room",
    ]
    json.dumps(choice.to_dict(), allow_nan=False)
    assert rows[1].loss == np.inf


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((TRAIN, 0.0), {}, "sparsity: got 0.0"),
        ((TRAIN, 0.5), {"epochs": 0}, "epochs: got 0"),
        ((TRAIN, 0.5), {"criteria": ["magic"]}, "criterion: got 'magic'"),
        ((TRAIN, 0.5), {"criteria": []}, "at least one of each"),
        ((TRAIN, 0.5), {"allocations": ["magic"]}, "allocation: got 'magic'"),
        ((TRAIN[:4], 0.5), {}, "5 or more, or validation="),
        (((TRAIN, TRAIN, TRAIN), 0.5), {}, "a tuple of 3"),
        (((TRAIN, TRAIN[:2]), 0.5), {}, "equal length"),
        ((TRAIN, 0.5), {"validation_data": 3}, "validation_data: got 3"),
    ],
)
def test_what_cannot_work_is_refused(net, arguments, options, text):
    with pytest.raises(InputError, match=text) as caught:
        choose_criterion(net, *arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_compiled_is_refused():
    with pytest.raises(InputError, match="not compiled"):
        choose_criterion(keras.Sequential([keras.Input((2,)), layers.Dense(2)]), TRAIN, 0.5)
