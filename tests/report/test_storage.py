import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.report.storage import sparse_bytes


def slow(weights):
    """Bits of the three ways, gap by gap."""
    gaps, run = [], 0
    for weight in weights:
        if weight:
            gaps.append(run)
            run = 0
        else:
            run += 1
    entries = 0
    for gap in gaps:
        while gap > 255:
            entries, gap = entries + 1, gap - 256
        entries += 1
    return {"dense": 32 * len(weights), "bitmask": len(weights) + 32 * len(gaps), "gaps": 40 * entries}


def test_each_way_wins_where_it_should():
    generator = np.random.default_rng(0)
    winners = set()
    for kept in (1.0, 0.9, 0.5, 0.2, 0.05, 0.001):
        weights = generator.random(4000) < kept
        bits = slow(weights)
        winners.add(min(bits, key=bits.get))
        assert sparse_bytes(weights) == -(-min(bits.values()) // 8)
    assert winners == {"dense", "bitmask", "gaps"}


@pytest.mark.parametrize(("zeros", "entries"), [(255, 1), (256, 2), (511, 2), (512, 3)])
def test_a_gap_of_more_than_255_zeros_needs_fillers(zeros, entries):
    weights = np.zeros(100_000)
    weights[zeros] = 1.0
    assert sparse_bytes(weights) == 5 * entries


def test_nothing_costs_nothing():
    assert sparse_bytes(np.zeros((3, 4))) == 0
    assert sparse_bytes(np.zeros(0)) == 0


def test_words_are_refused():
    with pytest.raises(InputError, match="allowed: numbers"):
        sparse_bytes(np.array(["a"]))
