import pytest

from keras_aeprune.schedules import ConstantSparsity, DenseSparseDense, PolynomialDecay, Timetable
from keras_aeprune.sparsity.stepper import Stepper


class Recorder:
    def __init__(self):
        self.calls = []

    def update(self, sparsity):
        self.calls.append(sparsity)

    def exchange(self, step, total):
        self.calls.append(("exchange", step, total))


class EveryTwo:
    def due(self, before, now, total):
        return now // 2 > before // 2


def test_updates_come_when_they_are_due_and_only_if_something_changes():
    pruner = Recorder()
    steps = Stepper(pruner, Timetable(ConstantSparsity(0.5, 2, frequency=3), 20))
    for step in range(12):
        steps.move_to(step)
    assert pruner.calls == [0.5]


@pytest.mark.parametrize("jump", [1, 3, 7])
def test_steps_that_are_passed_over_count(jump):
    pruner = Recorder()
    steps = Stepper(pruner, Timetable(PolynomialDecay(0.0, 0.5, 0, 10, power=1, frequency=5), 20))
    for step in range(0, 22, jump):
        steps.move_to(step)
    assert pruner.calls[0] == 0.0
    assert pruner.calls[-1] == 0.5
    assert steps.at_target


def test_the_target_of_a_schedule_that_comes_back_is_its_end():
    steps = Stepper(Recorder(), Timetable(DenseSparseDense(0.5, 0, 8, frequency=2), 20))
    seen = []
    for step in range(10):
        steps.move_to(step)
        seen.append(steps.at_target)
    assert seen == [False] * 8 + [True] * 2


def test_exchanges_begin_at_the_target():
    pruner = Recorder()
    steps = Stepper(pruner, Timetable(ConstantSparsity(0.5, 3), 20), 20, regrowth=EveryTwo())
    for step in range(8):
        steps.move_to(step)
    assert pruner.calls == [0.5, ("exchange", 4, 20), ("exchange", 6, 20)]


def test_resuming_applies_nothing_that_was_applied_before():
    pruner = Recorder()
    steps = Stepper(pruner, Timetable(PolynomialDecay(0.0, 0.5, 0, 10, power=1, frequency=5), 20))
    steps.resume(7)
    steps.move_to(8)
    assert pruner.calls == []
    steps.move_to(10)
    assert pruner.calls == [0.5]
