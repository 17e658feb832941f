"""A stream is `load` batch by batch: the same splits, values and refusals, in bounded memory."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from raw_rows import refused, rows

from keras_aeprune.datasets import load, stream, streams
from keras_aeprune.datasets.rows import ImageRows, Joined, NpyRows


def collected(dataset):
    """All batches of one pass, joined: (inputs, targets)."""
    batches = [tuple(np.asarray(part) for part in batch) for batch in dataset]
    return tuple(np.concatenate(column) for column in zip(*batches, strict=True))


def ordered(x):
    """Rows in an order that only their values decide."""
    flat = x.reshape(len(x), -1)
    return flat[np.lexsort(flat.T)]


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 10 and pools of 4 pieces for rows of 32 bytes, so that little data has many of them."""
    monkeypatch.setattr(streams, "_PIECE_BYTES", 320)
    monkeypatch.setattr(streams, "_POOL_BYTES", 1280)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        *(
            (dtype, scale)
            for dtype in ("uint8", "float16", "float32", "float64")
            for scale in ("unit", "standard")
        ),
        *((dtype, "auto") for dtype in ("uint8", "int16", "bool", ">f4")),
        ("int16", "none"),
    ],
)
def test_a_stream_has_the_splits_and_the_scaled_values_of_load(tmp_path, dtype, scale):
    x = np.random.default_rng(0).random((203, 5))
    x = x > 0.5 if dtype == "bool" else (x * 200).astype(dtype)
    np.save(tmp_path / "a.npy", x)
    arguments = {"seed": 3, "scale": scale, "validation": 0.2, "test": 0.15}
    data, read = load(x, **arguments), stream(tmp_path / "a.npy", batch_size=16, **arguments)
    assert (read.scaling, read.fingerprint, read.sample_shape) == (data.scaling, data.fingerprint, (5,))
    for split in ("train", "validation", "test"):
        inputs, targets = collected(getattr(read, split))
        assert inputs.dtype == np.float32
        np.testing.assert_array_equal(targets, inputs)
        np.testing.assert_array_equal(ordered(inputs), ordered(getattr(data, f"x_{split}")))


def test_values_keep_their_labels_and_the_file_its_order(small_pieces):
    x = rows(300)
    read = stream((x, np.arange(300)), target="label", batch_size=32)
    for split in ("train", "validation", "test"):
        inputs, labels = collected(getattr(read, split))
        np.testing.assert_allclose(read.scaling.invert(inputs), x[labels], atol=1e-3)
        assert sorted(labels.tolist()) == read.rows[split].tolist()
    assert collected(read.test)[1].tolist() == read.rows["test"].tolist()
    text = stream((x, np.array(["a", "b"] * 150)), target="label")
    assert set(collected(text.test)[1].tolist()) == {b"a", b"b"}
    assert text.fingerprint == load((x, np.array(["a", "b"] * 150))).fingerprint


def test_every_pass_has_its_own_order_and_the_seed_repeats_all(small_pieces):
    def passes(seed):
        read = stream((rows(300), np.arange(300)), target="label", batch_size=32, seed=seed)
        return [collected(read.train)[1].tolist() for _ in range(3)], read.rows["train"].tolist()

    first, places = passes(5)
    assert passes(5)[0] == first
    assert len({tuple(order) for order in [*first, places]}) == 4
    assert all(sorted(order) == places for order in first)


def test_one_pool_mixes_distant_parts_of_the_file(small_pieces):
    labels = collected(stream((rows(4000), np.arange(4000)), target="label").train)[1]
    assert np.ptp(labels[:40]) > 400  # one pool: 4 pieces of 10
    assert np.ptp(labels[:8]) > 100  # and those are mixed


def test_the_seed_decides_the_order_also_where_all_rows_are_for_training():
    def order(seed):
        read = stream((rows(), np.arange(100)), target="label", seed=seed, validation=0, test=0)
        return collected(read.train)[1].tolist()

    assert order(1) == order(1) != order(2)


def test_steps_are_the_known_length_and_fit_uses_them():
    read = stream(rows(330), batch_size=32)
    assert read.steps == {"train": 9, "validation": 2, "test": 2}
    assert [int(part.cardinality()) for part in (read.train, read.validation, read.test)] == [9, 2, 2]
    assert [len(x) for x, _ in read.train] == [32] * 8 + [8]
    seen = []
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile("adam", "mse")
    counter = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    history = model.fit(read.train, validation_data=read.validation, epochs=3, verbose=0, callbacks=[counter])
    assert seen == list(range(9)) * 3
    assert np.isfinite(history.history["val_loss"]).all()


def test_fractions_of_zero_leave_a_split_out():
    read = stream(rows(), validation=0, test=0)
    assert (read.validation, read.test, read.steps["test"]) == (None, None, 0)
    described = read.describe()
    assert described["samples"] == {"train": 100, "validation": 0, "test": 0}
    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_shards_are_one_set_in_the_order_of_their_paths(tmp_path):
    x = np.random.default_rng(0).normal(size=(100, 3, 2))
    (tmp_path / "more").mkdir()
    for name, part in (("more/z", x[70:]), ("b", x[20:70]), ("a", x[:20])):
        np.save(tmp_path / f"{name}.npy", part)
    (tmp_path / "notes.txt").write_text("")
    read, data = stream(tmp_path), load(x)
    assert (read.fingerprint, read.scaling) == (data.fingerprint, data.scaling)
    np.testing.assert_array_equal(ordered(collected(read.train)[0]), ordered(data.x_train))
    assert "1 files that are no .npy" in read.notes[0]


def test_images_are_those_of_load(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 4, 6, 3), dtype="uint8")
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{index:03}.png")
    read, data = stream(tmp_path, batch_size=8), load(tmp_path)
    assert (read.fingerprint, read.scaling, read.name) == (data.fingerprint, data.scaling, data.name)
    np.testing.assert_array_equal(ordered(collected(read.train)[0]), ordered(data.x_train))
    first, second = (collected(read.train)[0] for _ in range(2))
    assert not np.array_equal(first, second)


def test_rows_of_files_are_indexed_like_arrays(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (60, 3, 4), dtype="uint8")
    np.save(tmp_path / "a.npy", x)
    for index in range(60):
        Image.fromarray(x[index]).save(tmp_path / f"{index:02}.png")
    parts = Joined([x[:7], NpyRows(tmp_path / "a.npy"), x[:2]], ["a", "b", "c"])
    joined = np.concatenate([x[:7], x, x[:2]])
    images = ImageRows(tmp_path, sorted(tmp_path.glob("*.png")))
    places = np.random.default_rng(1).permutation(60)
    for source, array in ((parts, joined), (NpyRows(tmp_path / "a.npy"), x), (images, x)):
        assert (len(source), source.shape, source.dtype) == (len(array), array.shape, array.dtype)
        for index in (places, slice(3, 9), slice(10, 20), slice(0, 60), slice(5, 5), slice(50, 99)):
            np.testing.assert_array_equal(source[index], array[index])


@pytest.mark.parametrize(
    "data",
    [
        np.where(rows() == 7, np.nan, rows()),
        np.where(rows(300_000) == 4 * 299_999 + 1, np.nan, 0),
        np.full((20, 3), 7.5),
        rows() * 1e300,
        rows(9),
        np.arange(100.0),
        np.ones((20, 3), dtype=complex),
        np.zeros((0, 4)),
    ],
    ids=["nan", "late nan", "constant", "too large", "few", "one axis", "complex", "empty"],
)
def test_bad_values_are_refused_as_load_refuses_them(tmp_path, data):
    np.save(tmp_path / "a.npy", data)
    messages = []
    for read in (load, stream):
        with pytest.raises(ValueError, match="allowed") as error:
            read(tmp_path / "a.npy")
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"validation": 0.6, "test": 0.4}, ("0.6 and 0.4", "leaves 0")),
        ({"batch_size": 0}, ("batch_size",)),
        ({"scale": "minmax"}, ("auto, unit, standard, none",)),
        ({"target": "label"}, ("without labels",)),
        ({"target": "y"}, ("input, label",)),
        ({"seed": -1}, ("seed",)),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    refused(lambda: stream(rows(), **arguments), *words)


def test_bad_sources_are_refused_in_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", rows())
    refused(lambda: stream(tmp_path / "a.npz"), "a.npz", "datasets.load", "np.save")
    refused(lambda: stream(tmp_path / "none.npy"), "nothing is at")
    refused(lambda: stream((rows(), np.arange(99))), "(99,)", "100")
    refused(lambda: stream((rows(),)), "tuple of 1")
    refused(lambda: stream([1, 2]), "list")
    folder = tmp_path / "shards"
    folder.mkdir()
    np.save(folder / "a.npy", rows())
    np.save(folder / "b.npy", rows(10, 3))
    refused(lambda: stream(folder), "a.npy", "b.npy", "(10, 3)")
    np.save(folder / "b.npy", rows().astype("float32"))
    refused(lambda: stream(folder), "float64", "float32")
    Image.new("L", (4, 4)).save(folder / "c.png")
    refused(lambda: stream(folder), "2 .npy files and 1 images")


def test_a_file_that_changes_under_the_stream_is_not_read_on(tmp_path):
    np.save(tmp_path / "a.npy", rows())
    source = NpyRows(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", rows(50))
    refused(lambda: source[:3], "a.npy changed", "(50, 4)")
    (tmp_path / "a.npy").unlink()
    refused(lambda: source[:3], "could not be read")


GROWTH = """
import resource, sys
import numpy as np, tensorflow as tf
from keras_aeprune.datasets import stream
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
warm = stream(np.arange(4000, dtype="uint8").reshape(1000, 4))
for batch in warm.train: pass
before = peak()
read = stream(sys.argv[1])
fitted = peak()
for index, batch in enumerate(read.train):
    if index == 300: break
print(before, fitted - before, peak() - before)
"""


def test_memory_stays_bounded_for_a_file_of_200_megabytes(tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "uint8", (256_000, 784))  # a sparse file
    x[::1000] = np.arange(784, dtype="uint8")
    del x
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path / "a.npy")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    before, fitted, grown = map(float, done.stdout.split())
    assert fitted < 50, "the first pass keeps what it has read"
    assert grown < 100, (before, fitted, grown)


def test_the_package_room_loads_without_tensorflow():
    code = "import sys, keras_aeprune.datasets\nassert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mnist_streams_as_it_loads(tmp_path, real_data):
    with np.load(real_data / "data" / "mnist.npz") as archive:
        x = archive["x_train"]
    np.save(tmp_path / "mnist.npy", x)
    read = stream(tmp_path / "mnist.npy")
    assert read.steps == {"train": 375, "validation": 47, "test": 47}
    total = sum(float(np.asarray(batch).sum(dtype="float64")) for batch, _ in read.train)
    expected = x[read.rows["train"]].sum(dtype="float64") / 255
    assert total == pytest.approx(expected, rel=1e-5)
