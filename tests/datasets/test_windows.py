"""Windows never share a step across splits, match a slow loop, and carry the right labels."""

import json

import numpy as np
import pytest
from raw_rows import refused

from keras_aeprune.datasets import load, stitch, windows

SPLITS = ("train", "validation", "test")


def ramp(steps=200, channels=1, start=0):
    """Step t holds t (plus 1000 a channel), so a window says which steps it has."""
    return (start + np.arange(steps))[:, None] + 1000.0 * np.arange(channels)


def steps_of(data, split):
    """Steps of each window, from the values of the first channel."""
    x = data.scaling.invert(getattr(data, f"x_{split}"))
    return np.round(x[..., 0]).astype(int)


def test_hand_worked_windows():
    data = windows(np.arange(20.0), length=3, hop=2, validation=0.2, test=0.2, scale="none")
    assert data.x_train[..., 0].tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8], [8, 9, 10]]
    assert data.x_validation[..., 0].tolist() == [[12, 13, 14]]
    assert data.x_test[..., 0].tolist() == [[16, 17, 18]]
    assert data.notes == (
        "cut along time into steps: train 12, validation 4, test 4",
        "steps left over at the ends of segments: train 1, validation 1, test 1",
    )


@pytest.mark.parametrize("hop", [1, 3, 10, 14])
@pytest.mark.parametrize("split", ["time", "recording"])
def test_no_step_is_in_two_splits(hop, split):
    recordings = [ramp(150 + 10 * i, start=1000 * i) for i in range(8)]
    data = windows(recordings, length=10, hop=hop, split=split, validation=0.2, test=0.2)
    seen = [set(steps_of(data, part).ravel().tolist()) for part in SPLITS]
    assert all(seen)
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_time_splits_lie_in_the_order_of_time():
    data = windows(ramp(), length=10, hop=1)
    assert steps_of(data, "train").max() < steps_of(data, "validation").min() == 160
    assert steps_of(data, "validation").max() < steps_of(data, "test").min() == 180


def test_windows_equal_a_slow_loop():
    recordings = [np.random.default_rng(i).normal(size=(90 + 7 * i, 3)) for i in range(4)]
    data = windows(recordings, length=8, hop=5, scale="none", validation=0.25, test=0)
    train, validation = [], []
    for series in recordings:
        cut = len(series) - round(0.25 * len(series))
        for bucket, part in ((train, series[:cut]), (validation, series[cut:])):
            for start in range(0, len(part), 5):
                if start + 8 <= len(part):
                    bucket.append(part[start : start + 8])
    np.testing.assert_array_equal(data.x_train, np.float32(train))
    np.testing.assert_array_equal(data.x_validation, np.float32(validation))
    assert data.x_test.shape == (0, 8, 3)


@pytest.mark.parametrize("split", ["time", "recording"])
def test_scaling_sees_training_steps_only_and_each_channel_alone(split):
    x = np.random.default_rng(0).normal([0, 50], [1, 9], (10, 100, 2))
    if split == "time":
        hidden = np.s_[:, 80:]
    else:
        hidden = np.random.default_rng(0).permutation(10)[:2]
    shown = x.copy()
    x[hidden] += 1e5
    training = shown[:, :80] if split == "time" else np.delete(shown, hidden, axis=0)
    data = windows(x, length=10, split=split)
    np.testing.assert_allclose(data.scaling.offset, training.reshape(-1, 2).mean(0))
    np.testing.assert_allclose(data.scaling.divisor, training.reshape(-1, 2).std(0))
    unit = windows(x, length=10, split=split, scale="unit")
    np.testing.assert_allclose(unit.x_train.reshape(-1, 2).min(0), 0, atol=1e-6)
    np.testing.assert_allclose(unit.x_train.reshape(-1, 2).max(0), 1, atol=1e-6)
    assert (unit.scaling.kind, unit.scaling.output_range) == ("unit", "unit")


def test_a_constant_channel_is_not_divided():
    x = ramp(channels=2)
    x[:, 1] = 7
    for scale in ("standard", "unit"):
        data = windows(x, length=10, scale=scale)
        assert data.scaling.divisor[1] == 1
        assert not data.x_train[..., 1].any()
        assert "1 of 2 features are constant" in data.notes[-1]


def test_auto_treats_steps_like_vectors():
    def chosen(x):
        scaling = windows(x, length=10, scale="auto").scaling
        return scaling.kind, scaling.divisor

    assert chosen(ramp().astype("uint8")) == ("unit", 255.0)
    assert chosen(ramp() / 200) == ("none", 1.0)
    assert chosen(ramp())[0] == "standard"


def test_flat_windows_come_back_through_their_scaling():
    x = np.random.default_rng(0).normal([0, 50], [1, 9], (200, 2))
    data = windows(x, length=10)
    flat = data.flat
    np.testing.assert_array_equal(
        flat.scaling.invert(flat.x_test).reshape(data.x_test.shape), data.scaling.invert(data.x_test)
    )
    one = windows(ramp(), length=10)
    assert isinstance(one.scaling.offset, float)
    assert one.flat.scaling == one.scaling


def test_labels_of_steps_by_every_rule():
    marks = np.zeros(40, dtype="uint8")
    marks[[5, 7, 12, 13, 14, 31]] = 1

    def train(rule):
        return windows(ramp(40), length=4, labels=marks, label=rule, validation=0.1, test=0.2).y_train.tolist()

    assert train("any") == [0, 1, 0, 1, 0, 0, 0]
    assert train("last") == [0, 1, 0, 0, 0, 0, 0]
    assert train("majority") == [0, 0, 0, 1, 0, 0, 0]
    data = windows(ramp(40), length=4, labels=marks, validation=0.1, test=0.2)
    assert (data.y_validation.tolist(), data.y_test.tolist(), data.y_test.dtype) == ([1], [0, 0], "uint8")


def test_equally_frequent_classes_give_the_smallest_and_text_works():
    kinds = np.array(["walk", "run"] * 10 + ["stand"] * 20)
    data = windows(ramp(40), length=4, labels=kinds, label="majority", validation=0, test=0)
    assert data.y_train.tolist() == ["run"] * 5 + ["stand"] * 5
    refused(lambda: windows(ramp(40), length=4, labels=kinds), "'any'", "majority")
    refused(lambda: windows(ramp(40), length=4, labels=np.arange(40)), "0 and 1 only")


def test_labels_of_recordings_and_of_their_steps():
    x = np.stack([ramp(100, start=1000 * i) for i in range(6)])
    kind = np.array([3, 1, 4, 1, 5, 9])
    data = windows(x, length=10, labels=kind, label="last", split="recording", validation=0.2, test=0.2)
    for part in SPLITS:
        own = steps_of(data, part)[:, 0] // 1000
        assert getattr(data, f"y_{part}").tolist() == kind[own].tolist()
    by_step = [np.full(100, value) for value in kind]
    for labels, series in ((by_step, list(x)), (np.stack(by_step), x), (kind.tolist(), x)):
        again = windows(
            series, length=10, labels=labels, label="last", split="recording", validation=0.2, test=0.2
        )
        assert again.y_test.tolist() == data.y_test.tolist()


def test_every_kind_of_source_gives_the_same_windows(tmp_path):
    x = np.random.default_rng(0).normal(size=(120, 2))
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", first=x, marks=np.arange(120) > 60)
    np.savetxt(tmp_path / "c.csv", x, delimiter=",", header="a,b", comments="", fmt="%.18e")
    expected = windows(x, length=6).x_train
    for source in (tmp_path / "a.npy", str(tmp_path / "c.csv"), x[None], [x]):
        np.testing.assert_array_equal(windows(source, length=6).x_train, expected)
    data = windows(tmp_path / "b.npz", key="first", labels="marks", length=6)
    np.testing.assert_array_equal(data.x_train, expected)
    assert data.y_train.tolist() == [0] * 10 + [1] * 6
    assert data.fingerprint != windows(tmp_path / "b.npz", key="first", length=6).fingerprint
    assert windows(x, length=6).fingerprint == windows(tmp_path / "a.npy", length=9).fingerprint


def test_describe_is_plain_json():
    described = windows(ramp(channels=2), length=10).describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described


@pytest.mark.parametrize(
    ("series", "arguments", "words"),
    [
        (ramp(60), {"length": 10}, ("10", "train 48, validation 6, test 6", "validation, test", "fractions")),
        (ramp(60), {"length": 10, "test": 0}, ("validation 6, test 0",)),
        (ramp(15), {"length": 10, "test": 0, "validation": 0}, ("2 windows for training", "train 15")),
        (ramp(60), {"length": 5, "split": "recording"}, ("1 recordings", "leaves 0")),
        (np.where(ramp() == 7, np.nan, ramp()), {"length": 5}, ("1 values", "NaN", "[7, 0]")),
        ([ramp(), np.where(ramp() == 7, np.inf, ramp())], {"length": 5}, ("series[1]", "[7, 0]")),
        ([ramp(), ramp(channels=2)], {"length": 5}, ("recording 1", "(200, 2)")),
        ([], {"length": 5}, ("empty list",)),
        (np.ones(100), {"length": 5}, ("all values are 1.0",)),
        (np.ones((3, 4, 5, 6)), {"length": 5}, ("(3, 4, 5, 6)", "(steps, channels)")),
        ((ramp(), ramp()), {"length": 5}, ("tuple", "labels=")),
        (ramp(), {"length": 0}, ("length",)),
        (ramp(), {"length": 5, "hop": 0}, ("hop",)),
        (ramp(), {"length": 5, "split": "random"}, ("time, recording",)),
        (ramp(), {"length": 5, "labels": np.arange(7)}, ("(7,)", "200", "1 recordings")),
        (ramp(), {"length": 5, "labels": [np.zeros(3), np.zeros(4)]}, ("[(3,), (4,)]",)),
        (ramp(), {"length": 5, "labels": "y"}, ("without a file",)),
        (ramp(), {"length": 5, "key": "x"}, ("without a file",)),
        ("no/file.npy", {"length": 5}, ("nothing is at",)),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(series, arguments, words):
    refused(lambda: windows(series, **arguments), *words)


def test_stitch_brings_the_series_back():
    series = np.random.default_rng(0).normal(size=(60, 2))
    view = np.lib.stride_tricks.sliding_window_view(series, 12, axis=0).transpose(0, 2, 1)
    for hop in (1, 4, 12):
        np.testing.assert_allclose(stitch(view[::hop], hop), series, atol=1e-12)
    assert stitch(np.array([[0.0, 2, 4], [6, 8, 10]]), 2).tolist() == [0, 2, 5, 8, 10]
    refused(lambda: stitch(view, 13), "hop", "<= 12")
    refused(lambda: stitch(view[:0], 1), "(0, 12, 2)")


def test_machine_temperature_for_anomalies(real_data):
    name = "machine_temperature_system_failure"
    data = windows(
        real_data / "data" / "nab.npz", key=f"{name}__x", labels=f"{name}__y", length=288, hop=12, test=0.3
    )
    with np.load(real_data / "data" / "nab.npz") as archive:
        x, y = archive[f"{name}__x"], archive[f"{name}__y"]
    cut = len(x) - round(0.3 * len(x))
    expected = np.lib.stride_tricks.sliding_window_view(x[cut:], 288)[::12]
    np.testing.assert_allclose(data.scaling.invert(data.x_test)[..., 0], expected, rtol=1e-5)
    assert data.y_test.tolist() == [y[cut + i * 12 :][:288].max() for i in range(len(expected))]
    assert abs(data.x_train[::24].mean()) < 0.1


def test_gearbox_recordings_stay_whole(real_data):
    with np.load(real_data / "data" / "gearbox_vibration.npz") as archive:
        x, fault = archive["x"], archive["fault"]
    data = windows(x, length=128, labels=fault, split="recording", validation=0.2, test=0.2)
    assert data.x_train.shape == (12 * 80, 128, 4)
    assert data.x_test.shape == (4 * 80, 128, 4)
    drawn = np.random.default_rng(0).permutation(20)[:4]
    assert np.bincount(data.y_test, minlength=2)[1] == 80 * fault[drawn].sum()
    np.testing.assert_allclose(data.x_train.reshape(-1, 4).std(0), 1, rtol=1e-4)


def test_accelerometer_windows_keep_their_activity(real_data):
    data = windows(
        real_data / "data" / "har_accel.npz", length=26, hop=13, label="majority", split="recording", scale="unit"
    )
    assert data.sample_shape == (26, 3)
    assert len(data.x_train) == len(data.y_train) == 75 * (92 - 2 * 9)
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    running = data.scaling.invert(data.x_train[data.y_train == 2]).std()
    assert running > 2 * data.scaling.invert(data.x_train[data.y_train == 0]).std(axis=1).mean()


def test_load_points_to_windows():
    refused(lambda: load(np.arange(100.0)), "datasets.windows")
