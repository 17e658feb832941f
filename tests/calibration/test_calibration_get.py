import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeprune import datasets
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import Calibration, get

X = np.arange(120, dtype="float64").reshape(40, 3)
Y = np.repeat(np.arange(4), 10)


class Batches(keras.utils.PyDataset):
    def __init__(self, parts, endless=False):
        super().__init__()
        self.parts, self.endless, self.asked = parts, endless, []

    @property
    def num_batches(self):
        return None if self.endless else len(self.parts)

    def __getitem__(self, place):
        self.asked.append(place)
        return self.parts[place % len(self.parts)]


def counted(batches, seen):
    for batch in batches:
        seen.append(batch)
        yield batch


def test_an_array_comes_back_whole_and_in_order_as_float32():
    found = get(X)
    assert found.x.dtype == np.float32 and found.y is None and found.source == "real"
    np.testing.assert_array_equal(found.x, X)


def test_labels_stay_with_their_samples_and_keep_their_type():
    found = get((X, Y.astype("int16")), samples=12, seed=3)
    assert found.y.dtype == np.int16
    np.testing.assert_array_equal(found.y, Y[(found.x[:, 0] / 3).astype(int)])
    assert np.bincount(found.y).tolist() == [3, 3, 3, 3]
    assert len(np.unique(found.x[:, 0])) == 12


def test_the_seed_decides_the_draw():
    draws = [get((X, Y), samples=9, seed=seed).x for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_without_balance_a_rare_class_is_drawn_as_often_as_it_is_there():
    y = np.array([0] * 380 + [1] * 20)
    x = np.zeros((400, 1))
    assert np.bincount(get((x, y), samples=40).y).tolist() == [20, 20]
    assert np.bincount(get((x, y), samples=40, balanced=False).y)[1] < 8


def test_more_samples_than_there_are_gives_all_in_order():
    np.testing.assert_array_equal(get((X, Y), samples=99).x, X)


@pytest.mark.parametrize("pair", [(X, X), (X, X.copy())], ids=["same object", "equal values"])
def test_an_autoencoders_pair_has_no_labels(pair):
    assert get(pair).y is None
    assert get(iter([pair])).y is None
    assert get(tf.data.Dataset.from_tensor_slices(pair).batch(8), samples=5).y is None


def test_targets_that_differ_in_one_value_are_targets():
    other = X.copy()
    other[-1, -1] += 1
    np.testing.assert_array_equal(get((X, other)).y, other)


def test_the_training_split_of_a_dataset_is_taken():
    data = datasets.load("digits")
    found = get(data, samples=50)
    assert found.x.shape == (50, 8, 8) and np.bincount(found.y).tolist() == [5] * 10
    training = {row.tobytes() for row in data.x_train}
    assert all(row.tobytes() in training for row in found.x)


def test_a_stream_gives_its_training_batches(tmp_path):
    np.save(tmp_path / "x.npy", X.astype("float32"))
    found = get(datasets.stream(tmp_path / "x.npy", batch_size=4), samples=6)
    assert found.x.shape == (6, 3) and found.y is None


@pytest.mark.parametrize("batched", [True, False])
def test_tf_data_gives_the_same_as_arrays(batched):
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    data = data.batch(7) if batched else data
    found = get(data)
    np.testing.assert_array_equal(found.x, X)
    np.testing.assert_array_equal(found.y, Y)
    drawn = get(data.repeat(), samples=8)  # reads 4 * 8 samples or a little more, with 2 of the last class
    assert drawn.x.shape == (8, 3)
    assert np.bincount(drawn.y).tolist() == [2, 2, 2, 2]


def test_endless_data_needs_a_number():
    with pytest.raises(InputError, match=r"samples: got None for a tf.data.Dataset without end, allowed: .*take"):
        get(tf.data.Dataset.from_tensor_slices(X).repeat())
    with pytest.raises(InputError, match=r"samples: got None for an endless PyDataset"):
        get(Batches([X], endless=True))


def test_an_endless_generator_is_stopped_by_its_size(monkeypatch):
    monkeypatch.setattr("keras_aeprune.calibration.reading.LIMIT_BYTES", 5000)
    with pytest.raises(InputError, match=r"give samples= where the data is large or has no end"):
        get(itertools.repeat(X))


@pytest.mark.parametrize(
    ("labels", "balanced", "batches"), [(None, True, 3), (Y[:4], True, 10), (Y[:4], False, 3), (X[:4], True, 3)]
)
def test_no_more_batches_are_read_than_needed(labels, balanced, batches):
    seen = []
    batch = X[:4] if labels is None else (X[:4], labels)
    found = get(counted(itertools.repeat(batch), seen), samples=10, balanced=balanced)
    assert len(found) == 10
    assert len(seen) == batches


def test_a_finite_generator_is_read_to_its_end():
    found = get((X[start : start + 16], Y[start : start + 16]) for start in range(0, 40, 16))
    np.testing.assert_array_equal(found.x, X)
    np.testing.assert_array_equal(found.y, Y)


def test_a_pydataset_is_read_in_drawn_order_and_only_as_far_as_needed():
    data = Batches([X[start : start + 4] for start in range(0, 40, 4)])
    found = get(data, samples=8, seed=1)
    assert len(data.asked) == 2 and data.asked != [0, 1]
    assert set(found.x[:, 0] // 12) == set(data.asked)
    data.asked.clear()
    np.testing.assert_array_equal(get(data).x, X)


def test_an_endless_pydataset_is_read_from_the_start():
    data = Batches([(X, Y)], endless=True)
    assert get(data, samples=4).y.tolist() != [] and data.asked == [0]


def test_calibration_passes_through_and_can_be_drawn_from():
    whole = Calibration(X.astype("float32"), Y, "vae")
    assert get(whole) is whole
    part = get(whole, samples=4)
    assert part.source == "vae" and sorted(part.y) == [0, 1, 2, 3]


def test_only_drawn_rows_of_a_file_in_memory_are_read(tmp_path):
    np.save(tmp_path / "x.npy", np.where(np.arange(40)[:, None] < 39, X, np.nan))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.isfinite(get(mapped, samples=3, seed=0).x).all()


BAD = {
    "NaN": (np.array([[1.0], [np.nan]]), r"sample 1 of those drawn\), allowed: finite numbers; drop or fill"),
    "too large": (np.array([[1e300]]), r"larger values than float32 holds"),
    "no samples": (np.zeros((0, 3)), r"shape \(0, 3\)', allowed: numbers of shape \(n, \.\.\.\), n >= 1"),
    "one sample": (np.zeros(3), r"x\[None\] for a single sample"),
    "texts": (np.array([["a"]]), r"allowed: numbers"),
    "list": ([[1.0, 2.0]], r"of type list', allowed: .*np.asarray makes an array"),
    "name": ("digits", r"datasets.load reads files and named sets"),
    "dict": ({"a": X}, r"models with several inputs are not supported"),
    "number": (3, r"data: got '3 of type int', allowed: an array"),
    "weights": ((X, Y, Y), r"a tuple of 3', allowed: \(x, y\), or one array; sample weights are not used"),
    "lengths": ((X, Y[:5]), r"40 samples, int64 labels of shape \(5,\)', allowed: one label or target"),
    "targets": ((X, np.where(Y > 2, np.inf, 0.5)), r"infinite targets y"),
    "masked": (np.ma.masked_less(X, 5), r"masked values', allowed: an array without"),
    "used up": (iter([]), r"no batches', allowed: one or more; an iterator that was used before"),
    "single rows": (iter(X), r"a batch with x of shape \(3,\)', allowed: batches"),
    "weights in batches": (iter([(X, Y, Y)]), r"batches of 3 parts"),
    "shapes": (iter([X, X[:, :2]]), r"samples of shapes \(2,\), \(3,\)', allowed: samples of one shape"),
    "some targets": (iter([(X, Y), X]), r"different kinds of targets"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_in_one_line(name):
    data, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        get(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"samples": 2.5}, {"seed": -1}, {"balanced": "yes"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        get(X, **wrong)
