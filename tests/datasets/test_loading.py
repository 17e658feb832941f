"""Splits are disjoint, complete and repeatable; scaling sees training samples only; bad data is refused."""

import json
import tracemalloc

import numpy as np
import pytest
from raw_rows import refused, rows

from keras_aeprune.datasets import load


def origin(dataset, split):
    """Positions in the source of the samples of one split."""
    x = dataset.scaling.invert(getattr(dataset, f"x_{split}"))
    return np.round(x[:, 0] / x.shape[1]).astype(int).tolist()


@pytest.mark.parametrize("scale", ["standard", "unit", "none"])
def test_splits_are_disjoint_and_complete(scale):
    data = load(rows(), scale=scale, validation=0.2, test=0.1)
    parts = [origin(data, split) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [70, 20, 10]
    assert sorted(row for part in parts for row in part) == list(range(100))


def test_the_seed_decides_the_splits():
    assert origin(load(rows(), seed=3), "test") == origin(load(rows(), seed=3), "test")
    assert origin(load(rows(), seed=3), "test") != origin(load(rows(), seed=4), "test")
    order = np.random.default_rng(3).permutation(100)
    assert origin(load(rows(), seed=3), "test") == order[:10].tolist()


def test_labels_stay_with_their_samples():
    data = load((rows(), np.arange(100)))
    for split in ("train", "validation", "test"):
        assert origin(data, split) == getattr(data, f"y_{split}").tolist()


def test_scaling_sees_the_training_split_only():
    x = rows()
    x[np.random.default_rng(0).permutation(100)[:20]] += 1e6  # all of validation and test
    data = load(x)
    np.testing.assert_allclose(data.x_train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std(0), 1, rtol=1e-5)
    assert data.x_test.min() > 1000


def test_an_own_test_split_is_kept(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=rows(50), x_test=rows(8) + 0.5, y_test=np.arange(8))
    data = load(tmp_path / "a.npz", test=0.5)
    np.testing.assert_allclose(data.scaling.invert(data.x_test), rows(8) + 0.5, atol=1e-4)
    assert (len(data.x_train), len(data.x_validation)) == (45, 5)
    assert data.y_train is None
    assert data.y_test.tolist() == list(range(8))
    assert "source's own, 8 samples" in data.notes[-1]


def test_digits_give_the_published_sizes():
    data = load("digits")
    sizes = data.describe()["samples"]
    assert sizes == {"train": 1437, "validation": 180, "test": 180}
    assert (data.sample_shape, data.features, data.scaling.divisor) == ((8, 8), 64, 16.0)
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)


def test_flat_shares_the_values():
    data = load("digits")
    flat = data.flat
    assert flat.sample_shape == (64,)
    assert np.shares_memory(flat.x_train, data.x_train)
    np.testing.assert_array_equal(flat.x_test[3], data.x_test[3].ravel())
    assert flat.scaling == data.scaling


def test_flat_keeps_the_map_of_every_pixel():
    x = np.random.default_rng(0).normal(size=(50, 4, 3)) * np.arange(1, 13).reshape(4, 3)
    data = load(x, scale="standard")
    assert data.flat.scaling == data.scaling
    np.testing.assert_allclose(
        data.flat.scaling.invert(data.flat.x_test).reshape(-1, 4, 3), x[_test_rows(50)], rtol=1e-4
    )


def _test_rows(count):
    return np.random.default_rng(0).permutation(count)[: count // 10]


def test_describe_is_plain_json():
    described = load(rows()).describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["sample_shape"] == [4]
    assert described["features"] == 4


def test_the_fingerprint_tells_values_types_and_shapes_apart_and_nothing_else():
    x = rows()
    base = load(x).fingerprint
    assert len(base) == 64
    changed = x.copy()
    changed[50, 2] += 1
    same_bytes = x.view("int64"), x.reshape(100, 2, 2)
    others = [load(o).fingerprint for o in (changed, *same_bytes, (x, x[:, 0]))]
    assert len({base, *others}) == 5
    same = [
        load(x, seed=5, scale="none", test=0.3),
        load(np.asfortranarray(x)),
        load(np.repeat(x, 2, axis=1)[:, ::2]),
    ]
    assert {data.fingerprint for data in same} == {base}


def test_the_same_values_from_every_source_are_the_same_data(tmp_path):
    np.save(tmp_path / "a.npy", rows())
    np.savez(tmp_path / "b.npz", rows())
    np.savetxt(tmp_path / "c.csv", rows(), delimiter=",", header="a,b,c,d", comments="")
    prints = {load(source).fingerprint for source in (rows(), *sorted(tmp_path.iterdir()))}
    assert len(prints) == 1


def test_a_path_wins_over_a_named_set_and_a_note_says_so(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    assert load("digits").features == 64
    (tmp_path / "digits").mkdir()
    refused(lambda: load("digits"), "no image", "named set 'digits'")
    for i in range(10):
        Image.new("L", (3, 2), i * 20).save(tmp_path / "digits" / f"{i}.png")
    data = load("digits")
    assert data.features == 6
    assert "the named set of that name was not used" in data.notes[0]


def test_fractions_of_zero_leave_a_split_empty():
    data = load(rows(), validation=0, test=0)
    assert (len(data.x_train), data.x_validation.shape, data.x_test.shape) == (100, (0, 4), (0, 4))


def test_small_fractions_give_at_least_one_sample():
    data = load(rows(), validation=0.001, test=0.001)
    assert (len(data.x_validation), len(data.x_test)) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"validation": 0.6, "test": 0.4}, ("0.6 and 0.4", "leaves 0")),
        ({"validation": 1.0}, ("0 <= validation < 1",)),
        ({"test": -0.1}, ("0 <= test < 1",)),
        ({"seed": -1}, ("seed",)),
        ({"seed": 1.5}, ("seed",)),
        ({"scale": "minmax"}, ("auto, unit, standard, none",)),
        ({"key": "x"}, ("key", "only with a .npz file")),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words):
    refused(lambda: load(rows(), **arguments), *words)


def test_a_key_for_a_named_set_is_refused():
    refused(lambda: load("digits", key="x"), "only with a .npz file")


def test_the_callers_array_is_not_changed():
    x = rows().astype("float32")
    before = x.copy()
    load(x).x_train[:] = 0
    np.testing.assert_array_equal(x, before)


def test_memory_stays_near_the_size_of_the_result():
    x = np.random.default_rng(0).integers(0, 255, (20_000, 28, 28), dtype="uint8")
    tracemalloc.start()
    data = load(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = data.x_train.nbytes + data.x_validation.nbytes + data.x_test.nbytes
    assert peak < 1.35 * result


def test_real_sets_load_with_their_own_splits(real_data):
    mnist = load(real_data / "data" / "mnist.npz")
    assert mnist.describe()["samples"] == {"train": 54000, "validation": 6000, "test": 10000}
    assert mnist.scaling.divisor == 255.0
    everything = np.concatenate([mnist.x_train, mnist.x_validation])
    assert everything.mean() == pytest.approx(0.1307, abs=1e-4)
    assert everything.std() == pytest.approx(0.3081, abs=1e-4)
    counts = np.bincount(np.concatenate([mnist.y_train, mnist.y_validation]))
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    shuttle = load(real_data / "data" / "tabular_anomaly.npz", key="shuttle__x")
    assert (shuttle.features, shuttle.scaling.kind, shuttle.scaling.output_range) == (9, "standard", "real")
    refused(lambda: load(real_data / "data" / "tabular_anomaly.npz"), "shuttle__x", "key=")
