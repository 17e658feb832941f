"""Every kind of source is read as it is stored, and every broken one is refused in one line."""

import keras
import numpy as np
import pytest
from PIL import Image
from raw_rows import refused

from keras_aeprune.datasets.readers import read_named, read_path

X = np.arange(40, dtype="float32").reshape(10, 4)


def save_images(folder, count=10, size=(6, 4), mode="L"):
    """`size` is (width, height); image i is filled with the value i."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new(mode, size, i if mode == "L" else (i,) * len(mode)).save(folder / f"{i:03}.png")


def test_npy_comes_back_as_stored(tmp_path):
    np.save(tmp_path / "a.npy", X.astype("int16"))
    raw = read_path(tmp_path / "a.npy", None)
    np.testing.assert_array_equal(raw.x, X)
    assert (raw.x.dtype, raw.name) == ("int16", "a")


def test_large_npy_is_mapped_and_not_read_into_memory(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((1000, 300)))
    assert isinstance(read_path(tmp_path / "a.npy", None).x, np.memmap)


def test_npz_layouts(tmp_path):
    def npz(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return tmp_path / "a.npz"

    raw = read_path(npz(x_train=X, x_test=X + 1, y_train=X[:, 0], y_test=X[:, 1], other=X), None)
    np.testing.assert_array_equal(raw.x_test, X + 1)
    np.testing.assert_array_equal(raw.y_test, X[:, 1])
    raw = read_path(npz(x=X, y=X[:, 0], load=X), None)
    assert raw.x_test is None
    np.testing.assert_array_equal(raw.y, X[:, 0])
    np.testing.assert_array_equal(read_path(npz(anything=X), None).x, X)
    raw = read_path(npz(a=X, b=X * 2), "b")
    np.testing.assert_array_equal(raw.x, X * 2)
    assert raw.name == "a:b"
    refused(lambda: read_path(npz(a=X, b=X), None), "a, b", "key=")
    refused(lambda: read_path(npz(a=X, b=X), "c"), "'c'", "a, b")


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}] * 10, dtype=object), allow_pickle=True)
    np.save(tmp_path / "b.npy", np.array([["text" * 99] * 99] * 99, dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([[1], "a"], dtype=object))
    refused(lambda: read_path(tmp_path / "a.npy", None), "a.npy", "pickle")
    refused(lambda: read_path(tmp_path / "b.npy", None), "b.npy", "pickle")
    refused(lambda: read_path(tmp_path / "a.npz", None), "a.npz", "pickle")


def test_broken_files_are_refused(tmp_path):
    np.save(tmp_path / "cut.npy", X)
    np.savez(tmp_path / "cut.npz", x=np.random.default_rng(0).random((50, 50)))
    for name in ("cut.npy", "cut.npz"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "large.npy", np.ones((1000, 300)))
    (tmp_path / "large.npy").write_bytes((tmp_path / "large.npy").read_bytes()[:-100])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "latin.csv").write_bytes(b"\xe9\xff,1\n1,2\n")
    for name in ("cut.npy", "cut.npz", "large.npy", "empty.npy", "text.npz", "latin.csv"):
        refused(lambda name=name: read_path(tmp_path / name, None), name, "could not be read")


def test_damage_inside_an_archive_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((100, 100)))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[5000:5100] = bytes(100)
    (tmp_path / "a.npz").write_bytes(content)
    refused(lambda: read_path(tmp_path / "a.npz", None), "a.npz", "'x'")


def test_a_file_with_the_wrong_suffix_says_how_to_rename_it(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.savez(file, x=X)
    with open(tmp_path / "b.npz", "wb") as file:
        np.save(file, X)
    refused(lambda: read_path(tmp_path / "a.npy", None), "a.npz")
    refused(lambda: read_path(tmp_path / "b.npz", None), "b.npy")


def test_missing_and_unknown_files(tmp_path):
    (tmp_path / "a.xlsx").write_text("")
    (tmp_path / "b").write_text("")
    refused(lambda: read_path(tmp_path / "a.npy", None), "nothing is at", ".npz", "digits")
    refused(lambda: read_path(tmp_path / "a.xlsx", None), ".xlsx", ".csv")
    refused(lambda: read_path(tmp_path / "b", None), "without suffix", ".csv")
    np.save(tmp_path / "c.npy", X)
    refused(lambda: read_path(tmp_path / "c.npy", "x"), "key", "only with a .npz file")


@pytest.mark.parametrize("header", ["", "a,b,c\n", '\n"first, one",b,c\n', "\ufeffa,b,c\n", '"two\nlines",b,c\n'])
def test_csv_with_and_without_header(tmp_path, header):
    (tmp_path / "a.csv").write_text(header + "1,2.5,-3\n\n1e3, 5 ,6\n", encoding="utf-8")
    raw = read_path(tmp_path / "a.csv", None)
    np.testing.assert_array_equal(raw.x, [[1, 2.5, -3], [1000, 5, 6]])
    assert len(raw.notes) == bool(header)
    assert not header or "header line" in raw.notes[0]


def test_a_byte_order_mark_is_no_header(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n", encoding="utf-8-sig")
    raw = read_path(tmp_path / "a.csv", None)
    assert raw.x.tolist() == [[1, 2], [3, 4]]
    assert raw.notes == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3,x\n", ("line 3, column 2", "'x'")),
        ("1,2\n\n\n3,\n", ("line 4, column 2", "''")),
        ("1,b\n1,2\n", ("line 1, column 2", "'b'")),
        ("a,b\nc,d\n1,2\n", ("line 2, column 1", "'c'")),
        ("1,2\nnan,3\n", ("line 2, column 1", "'nan'")),
        ("1,2\n3,1e999\n", ("line 2, column 2", "'1e999'")),
        ("1;2\n3;4\n", ("'3;4'", "comma")),
        ("1,2\n3,4,5\n", ("line 2", "3 cells", "2")),
        ("1,2\n1_0,2\n", ("a.csv",)),
    ],
)
def test_a_bad_csv_cell_is_named(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    refused(lambda: read_path(tmp_path / "a.csv", None), *words)


def test_images_are_read_in_order_of_their_paths(tmp_path):
    save_images(tmp_path / "set" / "b", 2)
    save_images(tmp_path / "set" / "a", 3)
    Image.new("L", (6, 4), 9).save(tmp_path / "set" / "z.BMP")
    (tmp_path / "set" / "notes.txt").write_text("")
    (tmp_path / "set" / "a" / "more.json").write_text("")
    raw = read_path(tmp_path / "set", None)
    assert raw.x.shape == (6, 4, 6)  # height before width
    assert raw.x.dtype == np.uint8
    assert raw.x[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 9]
    assert raw.notes == ("2 files that are no images were left out, first more.json",)
    assert raw.name == "set"


def test_colour_images_keep_their_channels(tmp_path):
    save_images(tmp_path, 3, mode="RGB")
    assert read_path(tmp_path, None).x.shape == (3, 4, 6, 3)


def test_images_that_differ_are_both_named(tmp_path):
    save_images(tmp_path / "size")
    Image.new("L", (7, 4)).save(tmp_path / "size" / "004.png")
    refused(lambda: read_path(tmp_path / "size", None), "000.png (6x4 L)", "004.png (7x4 L)")
    save_images(tmp_path / "mode")
    Image.new("RGB", (6, 4)).save(tmp_path / "mode" / "007.png")
    refused(lambda: read_path(tmp_path / "mode", None), "000.png (6x4 L)", "007.png (6x4 RGB)")


def test_images_that_cannot_be_used_are_named(tmp_path):
    save_images(tmp_path / "cut", size=(60, 60))
    noise = np.random.default_rng(0).integers(0, 255, (60, 60), dtype="uint8")
    Image.fromarray(noise).save(tmp_path / "cut" / "005.png")
    whole = (tmp_path / "cut" / "005.png").read_bytes()
    (tmp_path / "cut" / "005.png").write_bytes(whole[: len(whole) // 2])
    refused(lambda: read_path(tmp_path / "cut", None), "005.png", "could not be read")
    save_images(tmp_path / "text", 3)
    (tmp_path / "text" / "001.png").write_text("no image")
    refused(lambda: read_path(tmp_path / "text", None), "001.png", "could not be read")
    (tmp_path / "palette").mkdir()
    Image.new("P", (6, 4)).save(tmp_path / "palette" / "p.png")
    refused(lambda: read_path(tmp_path / "palette", None), "p.png", "'P'", "RGB")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.gif").write_text("")
    refused(lambda: read_path(tmp_path / "none", None), "no image among 1 files", ".png")


def test_digits_need_no_download():
    raw = read_named("digits")
    assert raw.x.shape == (1797, 8, 8)
    assert (raw.x.min(), raw.x.max(), len(raw.y)) == (0, 16, 1797)


def test_a_named_set_keeps_its_own_test_split(monkeypatch):
    x = np.arange(20 * 4, dtype="uint8").reshape(20, 2, 2)
    answer = (x, np.arange(20)[:, None]), (x[:5] + 1, np.arange(5)[:, None])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: answer)
    raw = read_named("cifar10")
    np.testing.assert_array_equal(raw.x_test, x[:5] + 1)
    assert raw.y.tolist() == list(range(20))


def test_a_failed_download_says_which_set_why_and_what_to_give_instead(monkeypatch):
    def fail():
        raise Exception("URL fetch failure on https://example.org/mnist.npz:\n None -- no route to host")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    refused(lambda: read_named("mnist"), "'mnist'", "no route to host", "mnist.npz", "'digits'")
