"""Units that go together are found, whatever order they are joined in."""

import numpy as np

from keras_aeprune.shrinking.units import Units


def slow_classes(count, pairs):
    """The lowest unit that each can reach, one step at a time."""
    near = {number: {number} for number in range(count)}
    for a, b in pairs:
        near[a].add(b)
        near[b].add(a)
    found = []
    for start in range(count):
        seen, waiting = {start}, [start]
        while waiting:
            for other in near[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        found.append(min(seen))
    return found


def test_classes_are_what_a_walk_from_unit_to_unit_reaches():
    rng = np.random.default_rng(0)
    for count, joins in ((1, 0), (8, 3), (40, 25), (200, 150), (200, 400)):
        units = Units()
        units.new(count)
        pairs = rng.integers(0, count, (joins, 2))
        for pair in pairs:
            units.join(pair[:1], pair[1:])
        assert units.classes().tolist() == slow_classes(count, pairs.tolist())


def test_a_long_chain_joined_backwards_is_one_class():
    units = Units()
    chain = units.new(3000)
    units.join(chain[:0:-1], chain[-2::-1])
    assert not units.classes().any()


def test_arrays_of_any_shape_are_joined_place_by_place():
    units = Units()
    a, b = units.new(3), units.new(3)
    units.join(np.stack([a, a[::-1]]), np.broadcast_to(b, (2, 3)))
    assert units.classes().tolist() == [0, 1, 0, 0, 1, 0]


def test_the_first_reason_of_a_class_is_the_one_that_is_told():
    units = Units()
    a, b = units.new(2), units.new(2)
    units.keep(b[1:], "first")
    units.keep(a, "second")
    units.keep(None, "nothing to keep")
    units.join(a, b)
    assert units.reasons() == {0: "second", 1: "first"}


def test_many_units_take_no_time():
    units = Units()
    ids = units.new(200_000)
    units.join(ids, np.tile(ids[:50], 4000))
    assert len(np.unique(units.classes())) == 50
