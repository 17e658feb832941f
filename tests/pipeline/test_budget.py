"""Limits in words and units, and which of them a file misses."""

import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.pipeline.budget import Budget, higher_is_better, microseconds, number_of_bytes


def row(size=100, us=10.0, **scores):
    return {"bytes": size, "latency_us": us, "scores": {"loss": 1.0, "accuracy": 0.9, **scores}}


@pytest.mark.parametrize(
    ("text", "size"), [("60KB", 60_000), ("64KiB", 65_536), ("1.5 MB", 1_500_000), ("70", 70), (1e3, 1000)]
)
def test_sizes_are_bytes_with_decimal_and_binary_units(text, size):
    assert number_of_bytes("max_size", text) == size


@pytest.mark.parametrize(("text", "us"), [("50us", 50.0), ("2ms", 2000.0), ("0.5 s", 5e5), (3, 3.0)])
def test_times_are_microseconds(text, us):
    assert microseconds("max_latency", text) == us


@pytest.mark.parametrize(
    "value", ["60 apples", "KB", "1.2.3KB", "-1", 0, -5, float("nan"), float("inf"), True, [1]]
)
def test_what_is_no_size_is_refused_with_what_is(value):
    with pytest.raises(InputError, match="max_size: got .*60KB"):
        number_of_bytes("max_size", value)


@pytest.mark.parametrize(
    "bad", [{"max_error_increase": -0.1}, {"max_error_increase": True}, {"max_drop": 0.1}, {"max_drop": {"a": -1}}]
)
def test_limits_outside_their_range_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Budget.of(**bad)


def test_without_any_limit_the_loss_may_grow_by_a_twentieth():
    assert Budget.of() == Budget(max_error_increase=0.05)
    assert Budget.of(max_size="1KB").max_error_increase is None


def test_each_missed_limit_is_named_with_what_was_reached():
    budget = Budget.of("90", "9us", 0.1, {"accuracy": 0.01, "mae": 0.5})
    given = row(mae=2.0)
    assert budget.missed(row(90, 9.0, loss=1.1, accuracy=0.89, mae=2.5), given) == {}
    missed = budget.missed(row(91, 9.5, loss=1.2, accuracy=0.88, mae=2.6), given)
    assert list(missed) == ["max_size", "max_latency", "max_error_increase", "max_drop accuracy", "max_drop mae"]
    assert missed["max_size"] == "91 bytes of 90"
    assert budget.over(row(180, 9.0)) == {"max_size": 2.0}


def test_a_metric_that_got_better_misses_nothing():
    budget = Budget(max_drop={"accuracy": 0.0, "mae": 0.0})
    assert budget.missed(row(accuracy=0.95, mae=1.0), row(mae=2.0)) == {}


def test_a_loss_that_is_no_number_misses_its_limit():
    budget = Budget(max_error_increase=0.5, max_drop={"accuracy": 0.1})
    assert set(budget.missed(row(loss=float("nan"), accuracy=float("nan")), row())) == {
        "max_error_increase",
        "max_drop accuracy",
    }


def test_a_metric_that_the_model_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(InputError, match="max_drop: got a limit on 'recall'.*loss, accuracy"):
        Budget(max_drop={"recall": 0.1}).check(row()["scores"])


@pytest.mark.parametrize(
    ("name", "higher"),
    [("accuracy", True), ("auc", True), ("f1_score", True), ("r2_score", True), ("mean_absolute_error", False)],
)
def test_which_metrics_grow_when_a_model_gets_better(name, higher):
    assert higher_is_better(name) is higher
