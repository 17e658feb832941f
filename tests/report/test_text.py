import pytest

from keras_aeprune._validation import InputError
from keras_aeprune.report import headline, notes, table
from keras_aeprune.report.text import best_file, error_text, size_text, time_text


def row(name, error, **more):
    return {"name": name, "label": name.replace("_", " "), "test_mse": error, **more}


ROWS = [
    row("mean", 0.08),
    row("pca", 0.03, numbers=8),
    row("dense", 0.02, parameters=5544, sparsity=0.0),
    row("pruned", 0.021, parameters=5544, sparsity=0.9),
    row("dense_float32", 0.02, bytes=24_000, gzip_bytes=20_000),
    row("pruned_float32", 0.021, bytes=24_000, gzip_bytes=5_000),
    row("pruned_int8", 0.024, bytes=8_000, gzip_bytes=2_500),
]


def without(*names):
    return [one for one in ROWS if one["name"] not in names]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.00 MB"),
        (3.4e6, "3.40 MB"),
    ],
)
def test_sizes_have_units_of_a_thousand(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("time", "text"), [(0.8778, "0.88 us"), (12.34, "12.3 us"), (999.94, "999.9 us"), (999.96, "1.00 ms")]
)
def test_times_have_units(time, text):
    assert time_text(time) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.0, "0.0000"), (0.01625, "0.0163"), (0.00012, "1.20e-04"), (12.5, "12.5000"), (123456.0, "1.23e+05")],
)
def test_errors_keep_at_least_two_digits(error, text):
    assert error_text(error) == text


def test_the_headline_says_size_and_errors_in_words():
    assert headline({"rows": ROWS, "settings": {"encoding_dim": 8}}) == (
        "The pruned int8 file is 8.0 kB (2.5 kB gzipped), 3.0x smaller than the dense float32 file "
        "(gzipped: 8.0x). Its error is 1.20x the dense autoencoder's "
        "and 0.80x that of PCA with the same 8 numbers."
    )


def test_the_headline_does_not_call_another_width_the_same():
    assert "PCA with 8 numbers" in headline({"rows": ROWS, "settings": {"encoding_dim": 4}})


def test_the_headline_leaves_out_what_was_not_measured():
    assert headline({"rows": without("dense", "pca", "dense_float32")}) == (
        "The pruned int8 file is 8.0 kB (2.5 kB gzipped). Its error is 0.0240."
    )
    assert headline({"rows": without("dense_float32", "pruned_float32", "pruned_int8")}).startswith(
        "No file was written. Comparing: pruned. Its error is 1.05x the dense autoencoder's"
    )


def test_a_file_that_became_larger_is_not_called_smaller():
    rows = [row("dense_float32", 0.02, bytes=1000), row("pruned_int8", 0.02, bytes=1500)]
    assert "1.5x as large as the dense float32 file" in headline({"rows": rows, "best": "pruned_int8"})


def test_the_smallest_file_is_the_best_unless_one_is_named():
    assert best_file({"rows": ROWS})["name"] == "pruned_int8"
    assert best_file({"rows": ROWS, "best": "pruned_float32"})["name"] == "pruned_float32"
    with pytest.raises(InputError, match="a row with a file"):
        best_file({"rows": ROWS, "best": "dense"})


def test_an_error_of_zero_divides_nothing():
    rows = [row("dense", 0.0), row("pruned", 0.1)]
    assert "not comparable" in headline({"rows": rows})
    assert "x" not in table(rows)


def test_notes_say_that_zeros_compress_and_do_not_speed_up():
    layers = [{"path": "a", "weights": 10, "asked": 0.9, "reached": 0.9, "pattern": "unstructured", "reason": ""}]
    said = " ".join(notes({"rows": ROWS, "layers": layers}))
    assert "do not make LiteRT faster" in said
    assert "the float32 file packs to 5.0 kB instead of 20.0 kB" in said
    assert "do not make LiteRT faster" not in " ".join(notes({"rows": ROWS}))


def test_notes_do_not_claim_a_gain_that_was_not_measured():
    rows = [row("dense_float32", 0.02, gzip_bytes=5_000), row("pruned_float32", 0.02, gzip_bytes=5_000)]
    layers = [{"path": "a", "weights": 10, "asked": 0.9, "reached": 0.9, "pattern": "unstructured"}]
    assert "instead of" not in " ".join(notes({"rows": rows, "layers": layers}))


def test_notes_bring_the_bad_news():
    rows = [row("pca", 0.01, numbers=8), *without("pca")]
    layers = [
        {"path": "enc/kernel", "weights": 100, "asked": 0.9, "reached": 0.88, "reason": ""},
        {"path": "fine/kernel", "weights": 100, "asked": 0.9, "reached": 0.895, "reason": ""},
        {"path": "bn", "weights": 4, "asked": None, "reached": 0.0, "reason": "frozen"},
    ]
    said = notes({"rows": rows, "layers": layers, "data": {"notes": ["3 files skipped"]}})
    assert "PCA with as many numbers has the lower error" in said[0]
    assert "Fewer zeros than asked for in: enc/kernel." in said
    assert "Not pruned: bn (frozen)." in said
    assert "3 files skipped" in said


def test_notes_name_the_sample_count_and_the_seed():
    said = notes({"rows": ROWS, "data": {"samples": {"test": 1800}}, "settings": {"seed": 0}})
    assert any("1,800 test samples" in note and "seed 0" in note for note in said)


def test_the_table_is_aligned_and_fits_a_terminal():
    rows = [*ROWS, row("x" * 300, 123456.0, parameters=10**12, sparsity=0.5, bytes=10**9, gzip_bytes=10**9)]
    lines = table(rows, latency=[{"name": "pruned_int8", "median_us": 123.4}]).split("\n")
    assert len(lines) == len(rows) + 1
    assert max(map(len, lines)) <= 100
    ends = lines[0].index("gzip") + 4
    assert [line[:ends].split("  ")[-1].strip() for line in lines[5:8]] == ["20.0 kB", "5.0 kB", "2.5 kB"]
    assert all(len(line[:ends].rstrip()) == ends for line in lines[5:])
    assert lines[7].endswith("123.4 us")
    assert "xxx...  1.23e+05" in lines[8]
    assert "1,000,000,000,000" in lines[8]
    assert "\x1b" not in "".join(lines)


def test_the_table_is_the_one_worked_out_by_hand():
    assert table([*without("mean", "pca", "pruned_float32", "dense_float32")]).split("\n") == [
        "             test MSE  vs dense  parameters  zeros    file    gzip",
        "dense          0.0200     1.00x       5,544  0.000",
        "pruned         0.0210     1.05x       5,544  0.900",
        "pruned int8    0.0240     1.20x                     8.0 kB  2.5 kB",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row"),
        ([{"name": "a", "label": "a"}], "'test_mse'"),
        ([row("a", 1.0), row("a", 2.0)], "'a' twice"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(rows, message):
    with pytest.raises(InputError, match=message):
        table(rows)
    with pytest.raises(InputError, match=message):
        headline({"rows": rows})


SHRUNK = [
    *ROWS,
    row("pca_shrunk", 0.05, numbers=4),
    row("shrunk", 0.021, numbers=4),
    row("shrunk_int8", 0.025, bytes=2_000, numbers=4),
]


def test_a_narrower_code_is_compared_with_pca_of_its_own_width():
    report = {"rows": SHRUNK, "best": "shrunk_int8", "settings": {"encoding_dim": 8}}
    assert headline(report) == (
        "The shrunk int8 file is 2.0 kB, 12.0x smaller than the dense float32 file. Its error is 1.25x the dense "
        "autoencoder's and 0.50x that of PCA with the same 4 numbers."
    )
    assert "PCA with the same 8 numbers" in headline({**report, "best": "pruned_int8"})


def test_the_notes_say_what_became_of_the_limit():
    shrinking = {"max_error_increase": 0.1, "validation_mse": [0.02, 0.021], "stopped": "it is enough"}
    said = " ".join(notes({"rows": SHRUNK, "shrinking": shrinking}))
    assert "at most 1.1x the dense one's; it ended at 1.05x, since it is enough." in said
    assert "On the test samples the error is beyond that: shrunk int8 1.25x." in said
    said = " ".join(notes({"rows": SHRUNK, "shrinking": {**shrinking, "max_error_increase": 0.3}}))
    assert "beyond" not in said
    assert "limit" not in " ".join(notes({"rows": ROWS}))
