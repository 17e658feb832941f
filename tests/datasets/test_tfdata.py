"""tf.data in and out keeps every sample, its label and the stated rule of what is a batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from raw_rows import refused, rows

from keras_aeprune.datasets import load, tfdata

DATA = tf.data.Dataset


def collected(dataset):
    batches = [tuple(np.asarray(part) for part in batch) for batch in dataset]
    return tuple(np.concatenate(column) for column in zip(*batches, strict=True))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_comes_out_whole_with_its_labels(split):
    data = load((rows(), np.arange(100)))
    x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
    inputs, labels = collected(data.as_tf(split, target="label", batch_size=7, shuffle=False))
    np.testing.assert_array_equal(inputs, x)
    assert labels.tolist() == y.tolist()
    inputs, labels = collected(data.as_tf(split, target="label", batch_size=7, shuffle=True))
    assert sorted(labels.tolist()) == sorted(y.tolist())
    np.testing.assert_allclose(data.scaling.invert(inputs)[:, 0], labels * 4, atol=1e-4)
    inputs, targets = collected(data.as_tf(split))
    np.testing.assert_array_equal(inputs, targets)


def test_only_training_is_shuffled_by_default_anew_in_every_pass():
    data = load((rows(), np.arange(100)))
    for split, mixed in (("train", True), ("validation", False), ("test", False)):
        dataset = data.as_tf(split, target="label")
        orders = [collected(dataset)[1].tolist() for _ in range(2)]
        assert (orders[0] != orders[1]) is mixed
        again = collected(data.as_tf(split, target="label"))[1].tolist()
        assert again == orders[0]
    other = collected(data.as_tf(target="label", seed=1))[1].tolist()
    assert other != collected(data.as_tf(target="label"))[1].tolist()


def test_fit_takes_what_comes_out():
    data = load(rows())
    assert len(data.as_tf(batch_size=32)) == 3
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse")
    model.fit(data.as_tf(batch_size=32), validation_data=data.as_tf("validation"), epochs=2, verbose=0)
    assert model.evaluate(data.as_tf("test"), verbose=0) == pytest.approx(
        model.evaluate(data.x_test, data.x_test, verbose=0), rel=1e-5
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load(rows()).as_tf("all"), ("train, validation, test",)),
        (lambda: load(rows()).as_tf(target="label"), ("without labels",)),
        (lambda: load(rows()).as_tf(target="x"), ("input, label",)),
        (lambda: load(rows(), test=0).as_tf("test"), ("without samples",)),
        (lambda: load(rows()).as_tf(batch_size=0), ("batch_size",)),
        (lambda: load(rows()).as_tf(shuffle=1), ("shuffle",)),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, words):
    refused(call, *words)


def in_batches():
    return (rows()[start : start + 30] for start in range(0, 100, 30))


@pytest.mark.parametrize(
    "dataset",
    [
        DATA.from_tensor_slices(rows()),
        DATA.from_tensor_slices(rows()).batch(30),
        DATA.from_tensor_slices(rows()).batch(30).prefetch(2),
        DATA.from_tensor_slices(rows()).batch(20, drop_remainder=True).unbatch(),
        DATA.from_tensor_slices(rows()).batch(20, drop_remainder=True).rebatch(30),
        DATA.from_generator(in_batches, output_signature=tf.TensorSpec((None, 4), tf.float64)),
    ],
    ids=["samples", "batches", "prefetched", "unbatched", "rebatched", "generator of batches"],
)
def test_batched_or_not_the_same_samples_come_in(dataset):
    read, data = load(dataset), load(rows())
    assert read.fingerprint == data.fingerprint
    np.testing.assert_array_equal(read.x_train, data.x_train)
    assert read.name == "tf.data"


def test_labels_come_in_as_numbers_or_text():
    words = np.array(["ä", "b"] * 50)
    for labels in (np.arange(100), words):
        for batch in (False, True):
            dataset = DATA.from_tensor_slices((rows(), labels))
            read = load(dataset.batch(32) if batch else dataset)
            assert read.y_test.tolist() == load((rows(), labels)).y_test.tolist()


def test_batches_that_could_be_samples_are_noted():
    dataset = DATA.from_generator(in_batches, output_signature=tf.TensorSpec((None, 4), tf.float64))
    assert "read as batches" in load(dataset).notes[0]
    assert load(DATA.from_tensor_slices(rows()).batch(9)).notes == ()


def test_what_is_endless_ambiguous_or_shapeless_is_refused():
    samples = DATA.from_tensor_slices(rows())
    refused(lambda: load(samples.repeat()), "without end", "take(n)")
    refused(lambda: load(samples.batch(20, drop_remainder=True)), "(20, 4)", "unbatch()")
    refused(lambda: load(samples.batch(20, drop_remainder=True).prefetch(1)), "drop_remainder")
    refused(lambda: load(samples.map(lambda x: {"x": x})), "x or (x, y)")
    refused(lambda: load(samples.map(lambda x: (x, x, x))), "x or (x, y)")
    pictures = DATA.from_generator(lambda: [np.zeros((2, 3, 1))], output_signature=tf.TensorSpec((None, None, 1)))
    refused(lambda: load(pictures), "ensure_shape")
    refused(lambda: load(samples.take(0)), "without elements")
    refused(lambda: load(samples.take(5)), "5 samples")
    refused(lambda: load(samples, key="x"), "key")


def test_too_much_is_refused_while_it_is_read(monkeypatch):
    monkeypatch.setattr(tfdata, "LIMIT_BYTES", 2000)
    refused(lambda: load(DATA.from_tensor_slices(rows()).batch(10)), "more than", "datasets.stream")


def test_what_goes_out_comes_in():
    data = load((rows(), np.arange(100)), scale="none", validation=0, test=0)
    read = load(data.as_tf(shuffle=False, target="label"), scale="none", validation=0, test=0)
    again = np.random.default_rng(0).permutation(100)  # load splits once more
    np.testing.assert_array_equal(read.x_train, data.x_train[again])
    np.testing.assert_array_equal(read.y_train, data.y_train[again])
