"""The packed file's frame: checksum, numbers, sections, limits."""

import hashlib
import lzma
import zlib

import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.compression import container
from keras_aeprune.compression.container import Reader, put_section, put_varint, seal, take_section, unseal


def test_a_file_is_magic_version_kind_body_and_eight_bytes_of_sha256():
    data = seal("keras", b"body")
    assert data[:5] == b"kap\x01\x00" and data[5:9] == b"body"
    assert data[9:] == hashlib.sha256(data[:9]).digest()[:8]


def test_every_cut_and_every_changed_byte_is_refused():
    data = seal("tflite", bytes(range(40)))
    for size in range(len(data)):
        with pytest.raises(InputError):
            unseal(data[:size])
    for place in range(len(data)):
        with pytest.raises(InputError):
            unseal(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_a_later_version_says_so():
    with pytest.raises(InputError, match="format version 2, allowed: 1"):
        unseal(b"kap\x02" + seal("keras", b"")[4:])


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**60])
def test_numbers_come_back(number):
    out = bytearray()
    put_varint(out, number)
    reader = Reader(bytes(out))
    assert reader.varint(container.CLAIMS) == number
    reader.done()


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80" * 30, b"\xff" * 9])
def test_endless_and_large_numbers_are_refused(data):
    with pytest.raises(InputError):
        Reader(data).varint(1000)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"abc" * 500, np.random.default_rng(0).bytes(300)], ids=["empty", "one", "runs", "noise"]
)
def test_sections_come_back_and_cost_at_most_four_bytes(data):
    out = bytearray()
    assert put_section(out, data) == len(out) <= len(data) + 4
    assert take_section(Reader(bytes(out)), len(data)) == data


def test_a_dictionary_that_both_sides_know_makes_a_section_small():
    text = np.random.default_rng(1).bytes(400)
    plain, known = bytearray(), bytearray()
    put_section(plain, text)
    put_section(known, text, text)
    assert len(known) < 20 < 400 < len(plain)
    assert take_section(Reader(bytes(known)), 400, text) == text


def bomb(form, packed, claimed):
    out = bytearray([form])
    put_varint(out, claimed)
    put_varint(out, len(packed))
    return Reader(bytes(out) + packed)


def raw_deflate(data):
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeeze.compress(data) + squeeze.flush()


@pytest.mark.parametrize(
    ("form", "packed"),
    [
        (1, raw_deflate(bytes(10**7))),
        (2, lzma.compress(bytes(10**7), format=lzma.FORMAT_RAW, filters=container._LZMA_FILTERS)),
    ],
)
def test_what_unpacks_to_more_than_it_says_is_refused_without_unpacking_it(form, packed, monkeypatch):
    with pytest.raises(InputError, match="not as long as it says"):
        take_section(bomb(form, packed, 1000), 10**9)
    with pytest.raises(InputError, match="more than 1000"):
        take_section(bomb(form, packed, 10**7), 1000)
    assert take_section(bomb(form, packed, 10**7), 10**7) == bytes(10**7)


@pytest.mark.parametrize("form", [1, 2])
def test_damaged_sections_are_refused(form):
    for seed in range(50):
        with pytest.raises(InputError):
            take_section(bomb(form, np.random.default_rng(seed).bytes(40), 10**5), 10**6)
