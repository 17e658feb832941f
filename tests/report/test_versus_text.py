"""The words of a comparison, from rows alone."""

import pytest

from keras_aeprune.report.versus_text import columns, versus_headline, versus_notes, versus_table


def row(label, **more):
    held = {"label": label, "format": "keras", "parameters": 1234, "nonzero": 1000, "sparsity": 0.19}
    return {**held, "ratios": {"nnz": 1.234}, "note": "", **more}


def report(*rows, kind="mse"):
    error = kind and {"kind": kind, "samples": 180}
    return {"rows": list(rows), "error": error, "data": {"notes": ["scaled to 0..1"]}}


@pytest.mark.parametrize(
    ("second", "kind", "said"),
    [
        ({"bytes": 2000, "error": 0.03}, "mse", "b: 4.0x smaller, MSE 1.50x that of a."),
        ({"bytes": 16000, "median_us": 5.0}, "mse", "b: 2.0x larger, 2.0x faster than a."),
        ({"median_us": 30.0, "error": 0.01}, "wrong", "b: 3.0x slower, wrong answers 0.50x that of a."),
        ({"bytes": 8000, "error": 0.03}, "difference", "b: 1.0x smaller than a."),
        ({"error": 0.03}, None, "b: nothing to compare with a."),
    ],
)
def test_the_headline_of_two_models(second, kind, said):
    first = row("a", bytes=8000, median_us=10.0, error=0.02)
    assert versus_headline(report(first, row("b", **second), kind=kind)) == said


def test_the_headline_of_one_and_of_many():
    rows = [row("a", bytes=8000, error=0.02), row("b", bytes=2000, median_us=4.0), row("c", error=0.01)]
    assert versus_headline(report(rows[0])) == "a: 1,234 parameters, 8.0 kB."
    said = versus_headline(report(*rows))
    assert said.startswith("3 models compared: smallest b (2.0 kB), fastest b (")
    assert said.endswith("lowest error c (0.0100).")
    assert "lowest" not in versus_headline(report(*rows, kind="difference"))
    assert versus_headline(report(*(row(name) for name in "abc"))).endswith("compared: nothing was measured.")


def test_columns_that_no_row_fills_are_left_out():
    rows = report(row("a", error=0.02), row("b", energy=12.5))
    assert list(columns(rows)) == ["MSE", "vs first", "parameters", "not zero", "energy proxy"]
    assert list(columns(report(row("a", error=0.1), row("b", error=0.2), kind="difference")))[:2] == [
        "difference",
        "parameters",
    ]
    shown = columns(rows)
    assert [cell(rows["rows"][1]) for cell in shown.values()] == ["", "", "1,234", "1,000", "12.5"]


def test_notes_say_what_the_numbers_are_and_are_not():
    said = versus_notes(report(row("a", note="timed as a float32 .tflite file")))
    assert said[0].startswith("Error: mean squared error") and said[0].endswith("over 180 samples.")
    assert said[1] == "Data: scaled to 0..1."
    assert said[-1] == "a: timed as a float32 .tflite file."
    text = " ".join(said)
    assert not any(words in text for words in ("Zeros spread", "medians", "state of the optimizer"))
    said = versus_notes(report(row("a", sparsity=0.3, median_us=1.0), row("b", format="tflite"), kind=None))
    assert said[0].startswith("No data were given")
    for words in ("Zeros spread over a layer", "Times are medians", "state of the optimizer"):
        assert sum(words in line for line in said) == 1


def test_long_labels_are_cut_in_the_table():
    lines = versus_table(report(row("a" * 50), row("b"))).splitlines()
    assert sum(line.startswith("a" * 31 + "... ") for line in lines) == 2  # sizes, and ratios
