"""Of all files that are tried the smallest one that is right is kept, and the table says what became of each."""

import json

import numpy as np
import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.export.candidates import Candidate, Candidates, Tried, codings
from keras_aeprune.export.check import ExportedFile
from keras_aeprune.export.metadata import sparse_tensors
from keras_aeprune.export.precisions import PRECISIONS, precisions
from keras_aeprune.export.verify import TFLiteModel


def test_smallest_keeps_the_smallest_of_all_files_that_are_right(featured):
    file = featured["sparse"].files["smallest"]
    assert isinstance(file, ExportedFile), file
    right = {row.name: row.bytes for row in file.candidates if not row.reason}
    assert set(right) == {"float32", "float32, sparse", "float16", "float16, sparse", "dynamic", "int8", "int16x8"}
    assert file.bytes == min(right.values()) == file.path.stat().st_size
    (kept,) = [row for row in file.candidates if row.kept]
    assert right[kept.name] == file.bytes
    assert (file.quantize, file.coding) == ("float16", "sparse")


def test_all_candidates_of_smallest_take_and_give_float32():
    assert not any(row.quantized_io for row in precisions("smallest"))
    assert {row.name for row in PRECISIONS.values()} - {row.name for row in precisions("smallest")} == {"int8_io"}


def test_sparse_coding_is_kept_where_it_is_smaller(featured):
    """0.9 of 2 * 64 * 128 numbers are zero: dense-coded they take their 4 bytes all the same."""
    file = featured["sparse"].files[None]
    assert (file.coding, sparse_tensors(file.path.read_bytes())) == ("sparse", 2)
    assert file.bytes < 2 * 64 * 128 * 4 / 2
    assert {row.name: row.kept for row in file.candidates} == {"float32": False, "float32, sparse": True}


def test_sparse_coded_file_computes_what_the_dense_coded_one_does(featured):
    """One sample an invoke in the one, seven in the other."""
    x = np.random.default_rng(3).normal(size=(20, 64))
    sparse = TFLiteModel(featured["sparse"].files[None].path).predict(x)
    off = featured["sparse_off"].files[None]
    assert (off.coding, off.candidates, sparse_tensors(off.path.read_bytes())) == ("dense", None, 0)
    np.testing.assert_allclose(sparse, TFLiteModel(off.path).predict(x), atol=1e-5)
    np.testing.assert_allclose(sparse, featured["sparse"].model(np.float32(x)), atol=1e-5)


def test_coding_is_tried_where_it_can_pay_and_refused_where_it_cannot_be_right():
    float32, int8 = PRECISIONS["float32"], PRECISIONS["int8"]
    assert codings(float32, "auto", True) == (False, True)
    assert (
        codings(float32, "auto", False) == codings(float32, False, True) == codings(int8, "auto", True) == (False,)
    )
    assert codings(float32, True, True) == (True,)
    with pytest.raises(InputError, match="no larger kernel has more than 2/3 zeros"):
        codings(float32, True, False)
    for name in ("dynamic", "int8", "int8_io", "int16x8"):
        with pytest.raises(InputError, match=f"quantize='{name}'.*returns garbage"):
            codings(PRECISIONS[name], True, True)


def test_table_shows_the_smallest_first_and_reasons_last():
    rows = (
        Tried("float32", 4000, 3000, 1e-7, 1e-7),
        Tried("int8", reason="it was off"),
        Tried("dynamic", 1000, 900, 0.1, 0.05, kept=True),
    )
    lines = str(Candidates(rows)).splitlines()
    assert [line[3:].split()[0] for line in lines] == ["file", "dynamic", "float32", "int8"]
    assert lines[1].startswith("*") and lines[1].endswith("right")
    assert lines[3].endswith("it was off")
    assert len(json.loads(json.dumps(Candidates(rows).to_dict()))["rows"]) == 3
    assert Candidate(PRECISIONS["float16"], True, True).name == "float16, sparse, unrolled"


def test_exported_file_with_a_table_is_plain_json(featured):
    values = featured["sparse"].files["smallest"].to_dict()
    assert json.loads(json.dumps(values)) == values
    assert len(values["candidates"]["rows"]) == 7
