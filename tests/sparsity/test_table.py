import keras
import numpy as np
import pytest
from keras import layers

from keras_aeprune.sparsity import SparsityRow, SparsityTable, sparsity_table


def rows():
    return (
        SparsityRow("a/kernel", (4, 5), 20, 18, 0.9, "unstructured", ""),
        SparsityRow("b/kernel", (5, 4), 20, 17, 0.9, "unstructured", ""),
        SparsityRow("own", (), 7, 0, None, "", "unknown layer kind Own"),
    )


def test_a_row_knows_whether_its_target_was_missed():
    assert [row.missed for row in rows()] == [False, True, False]
    assert rows()[0].reached == 0.9


def test_the_table_adds_up_over_what_was_pruned():
    assert SparsityTable(rows()).sparsity == 35 / 40


def test_it_prints_aligned_columns_with_reasons_and_a_total():
    lines = str(SparsityTable(rows())).splitlines()
    assert lines[0].split() == ["kernel", "shape", "weights", "zeros", "asked", "reached", "note"]
    assert lines[2].split() == ["a/kernel", "4x5", "20", "18", "0.9000", "0.9000"]
    assert lines[3].split()[-1] == "missed"
    assert lines[4].endswith("unknown layer kind Own")
    assert lines[-1].split() == ["total", "47", "35", "0.7447"]
    assert len({line.index("unstructured") for line in lines if "unstructured" in line}) <= 1


def test_it_is_plain_json_values():
    assert SparsityTable(rows()).to_dict()[0] == {
        "path": "a/kernel",
        "shape": [4, 5],
        "weights": 20,
        "zeros": 18,
        "asked": 0.9,
        "pattern": "unstructured",
        "reason": "",
        "reached": 0.9,
    }


def test_an_unknown_path_lists_the_known_ones():
    with pytest.raises(KeyError, match="there are: a/kernel, b/kernel, own"):
        SparsityTable(rows())["c"]


def test_a_loaded_model_shows_its_zeros_and_nothing_asked(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="a")])
    model.get_layer("a").kernel.assign(np.eye(4, 5))
    model.save(tmp_path / "m.keras")
    row = sparsity_table(keras.models.load_model(tmp_path / "m.keras"))["a/kernel"]
    assert (row.zeros, row.asked, row.weights) == (16, None, 20)
