"""Symbols and masks come back, in close to their entropy."""

import math

import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.compression import positions, streams
from keras_aeprune.compression.container import Reader
from keras_aeprune.compression.positions import put_mask, take_mask
from keras_aeprune.compression.streams import entropy, put_symbols, take_symbols

CODERS = ("smallest", "range", "huffman")


def back(stream, *args, take=take_symbols):
    reader = Reader(stream.data)
    found = take(reader, *args)
    reader.done()
    return found


def test_entropy_is_shannons():
    symbols = [0] * 6 + [1] * 3 + [2]
    bits = -sum(math.log2(symbols.count(symbol) / 10) for symbol in symbols)
    assert entropy(np.array([6, 3, 1, 0])) == pytest.approx(bits / 8)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize(("count", "alphabet"), [(0, 5), (1, 1), (3, 2), (40, 7), (3000, 256), (20_000, 33)])
def test_symbols_come_back(coder, count, alphabet):
    symbols = np.minimum(np.random.default_rng(count).geometric(0.3, count) - 1, alphabet - 1)
    assert np.array_equal(back(put_symbols(symbols, alphabet, coder), count, alphabet), symbols)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("shape", ["geometric", "normal", "uniform", "skewed"])
def test_long_streams_take_at_most_three_hundredths_more_than_their_entropy(coder, shape):
    rng = np.random.default_rng(3)
    draw = {
        "geometric": lambda: np.minimum(rng.geometric(0.1, 30_000) - 1, 31),
        "normal": lambda: np.clip(np.rint(rng.normal(128, 20, 30_000)), 0, 255).astype(int),
        "uniform": lambda: rng.integers(0, 32, 30_000),
        "skewed": lambda: (rng.random(100_000) < 0.04).astype(int),
    }[shape]
    symbols = draw()
    _, counts = np.unique(symbols, return_counts=True)
    bound = -(counts * np.log2(counts / counts.sum())).sum() / 8
    stream = put_symbols(symbols, 256, coder)
    assert stream.bound == pytest.approx(bound)
    if (coder, shape) != ("huffman", "skewed"):  # a Huffman code spends a whole bit on each
        assert bound <= stream.bytes <= 1.03 * bound


def test_the_smallest_coder_is_never_larger_than_the_others():
    rng = np.random.default_rng(5)
    for count in (5, 20, 60, 200, 5000):
        symbols = np.minimum(rng.geometric(0.2, count) - 1, 31)
        sizes = {coder: put_symbols(symbols, 32, coder).bytes for coder in CODERS}
        assert sizes["smallest"] == min(sizes.values())


def test_huffman_lengths_are_those_worked_by_hand():
    # 1+2=3, 3+4=7, 7+8=15: depths 3, 3, 2, 1
    assert streams._code_lengths(np.array([8, 1, 0, 2, 4])).tolist() == [1, 3, 0, 3, 2]
    codes, order = streams._codes(np.array([1, 3, 0, 3, 2]))
    assert [format(codes[s], f"0{n}b") for s, n in ((0, 1), (4, 2), (1, 3), (3, 3))] == ["0", "10", "110", "111"]
    assert order.tolist() == [0, 4, 1, 3]


def test_huffman_codes_stay_within_fifteen_bits_for_counts_like_fibonacci():
    counts = np.array([1, 1, *np.cumprod(np.full(28, 1.7)).astype(int) + 1])
    lengths = streams._code_lengths(counts)
    assert lengths.max() <= 15 and np.sum(2.0**-lengths) == 1


def test_a_huffman_stream_longer_than_a_block_comes_back(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK", 1024)
    monkeypatch.setattr(positions, "BLOCK", 1024)
    symbols = np.minimum(np.random.default_rng(0).geometric(0.2, 5000) - 1, 31)
    stream = put_symbols(symbols, 32, "huffman")
    assert stream.name == "huffman" and np.array_equal(back(stream, 5000, 32), symbols)


RNG = np.random.default_rng(7)
MASKS = {
    "none": np.zeros((6, 5), bool),
    "all": np.ones((6, 5), bool),
    "one": np.arange(30).reshape(6, 5) == 29,
    "random": RNG.random((100, 60)) < 0.1,
    "rows": RNG.random((200, 60)) < RNG.random((200, 1)) ** 5,
    "columns": RNG.random((60, 200)) < RNG.random((1, 200)) ** 5,
    "both": RNG.random((300, 200)) < RNG.random((300, 1)) ** 4 * RNG.random((1, 200)) ** 4,
    "far apart": np.arange(10_000).reshape(100, 100) % 3001 == 3000,
    "diagonal": np.eye(90, dtype=bool),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_come_back(name, monkeypatch):
    mask = MASKS[name]
    assert np.array_equal(back(put_mask(mask), *mask.shape, take=take_mask), mask)
    monkeypatch.setattr(streams, "BLOCK", 500)
    monkeypatch.setattr(positions, "BLOCK", 500)  # more than one block of rows
    assert np.array_equal(back(put_mask(mask), *mask.shape, take=take_mask), mask)


@pytest.mark.parametrize("form", [4, 5])
@pytest.mark.parametrize("name", MASKS)
def test_gaps_come_back(name, form):
    mask = MASKS[name]
    stream = positions._put_gaps(mask, form, "smallest")
    assert np.array_equal(back(stream, *mask.shape, take=take_mask), mask)


def test_gaps_are_those_worked_by_hand():
    mask = np.zeros((1, 80), bool)
    mask[0, [0, 3, 66]] = True  # gaps 0, 2 and 62 = 2 * 31 + 0
    stream = positions._put_gaps(mask, 4, "smallest")
    reader = Reader(stream.data)
    assert [reader.byte(), reader.varint(80), reader.varint(80)] == [4, 3, 5]
    assert take_symbols(reader, 5, 32).tolist() == [0, 2, 31, 31, 0]


def test_the_way_that_fits_the_zeros_is_taken():
    names = {name: put_mask(MASKS[name]).name for name in ("rows", "columns", "both", "diagonal")}
    assert names == {
        "rows": "bitmask by row",
        "columns": "bitmask by column",
        "both": "bitmask by row and column",
        "diagonal": "gaps",
    }


def test_a_random_mask_takes_its_entropy():
    mask = RNG.random((784, 300)) < 0.05
    share = mask.mean()
    bound = -mask.size * (share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 8
    assert bound <= put_mask(mask).bytes <= 1.005 * bound


@pytest.mark.parametrize("name", ["random", "rows", "both", "diagonal"])
def test_damaged_masks_are_refused_or_have_the_shape(name):
    data, mask = put_mask(MASKS[name]).data, MASKS[name]
    refused = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        changed = bytearray(data)
        changed[rng.integers(min(len(data), 30))] = rng.integers(256)
        try:
            assert take_mask(Reader(bytes(changed)), *mask.shape).shape == mask.shape
        except InputError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("coder", ["range", "huffman"])
def test_damaged_symbols_are_refused_or_in_the_alphabet(coder):
    symbols = np.minimum(np.random.default_rng(0).geometric(0.2, 500) - 1, 31)
    data = put_symbols(symbols, 32, coder).data
    for place in range(len(data)):
        for value in (0, 255, data[place] ^ 1):
            changed = data[:place] + bytes([value]) + data[place + 1 :]
            try:
                found = take_symbols(Reader(changed), 500, 32)
                assert found.shape == (500,) and found.min() >= 0 and found.max() < 32
            except InputError:
                continue


def test_a_missing_library_is_named_with_the_cure(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    with pytest.raises(InputError, match=r"pip install .keras-aeprune\[pack\]"):
        put_symbols(np.arange(100) % 7, 32)


def test_streams_without_their_tables_are_within_three_hundredths_of_the_entropy():
    generator = np.random.default_rng(0)
    symbols = np.clip(np.abs(generator.normal(0, 6, 9000)).astype(int), 0, 31)
    for coder in ("range", "smallest"):
        stream = put_symbols(symbols, 32, coder)
        assert 0 < stream.tables < 40
        assert stream.bound <= stream.bytes - stream.tables <= 1.03 * stream.bound + 4
    mask = generator.random((300, 200)) < np.linspace(0, 0.3, 300)[:, None]
    stream = put_mask(mask)
    assert 0 < stream.tables < 300
    assert stream.bytes - stream.tables <= 1.03 * stream.bound + 8
