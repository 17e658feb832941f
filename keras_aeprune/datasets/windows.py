"""Windows over time series, split so that no step is in two splits, and back again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_aeprune._files import fingerprint
from keras_aeprune._validation import InputError, fraction, one_of, positive_int
from keras_aeprune.datasets.checks import Seen, check_values
from keras_aeprune.datasets.loading import Dataset, as_array, part_size, split_rows
from keras_aeprune.datasets.readers import read_path
from keras_aeprune.datasets.rows import Joined
from keras_aeprune.datasets.scaling import MODES, Scaling, fit, row_chunks, survey
from keras_aeprune.datasets.window_labels import label_windows, steps_or_recordings

SPLITS = ("train", "validation", "test")

Segments = Mapping[str, Sequence[tuple[int, int]]]  # (start, stop) in steps, by split


def windows(
    series: Any,
    *,
    length: int,
    hop: int | None = None,
    key: str | None = None,
    labels: Any = None,
    label: str = "any",
    split: str = "time",
    validation: float = 0.1,
    test: float = 0.1,
    scale: str = "standard",
    seed: int = 0,
) -> Dataset:
    """Cut time series into windows of equal length, split and scaled without a leak.

    Use it for sensor data: overlapping windows that are split at random put the same steps into training and
    test, and the test error then says nothing. Here the steps are split first, and every window lies inside
    one split. Window i of a segment holds its steps i * hop ... i * hop + length - 1; what is left at the end
    of a segment is not used (a note says how much). Windows are in the order of time.

    Args:
        series: array (steps,), (steps, channels) or (recordings, steps, channels); a list of arrays, one for
            each recording, of equal channels and type and any number of steps; or the path of a .npy,
            .npz or .csv (one step a line) with such an array.
        length: steps in a window, 1 or more.
        hop: steps from the start of a window to that of the next, 1 or more; None takes `length` (no
            overlap).
        key: name of the array in a .npz, as for `load`.
        labels: one for each step (0 and 1, or classes) in the shape of the series without channels; or one
            for each recording; or the name of such an array in the .npz. None takes y where a .npz has it.
        label: how labels of steps become that of a window. "any": 1 where any step has 1 (only 0 and 1).
            "last": that of its last step. "majority": the most frequent, the smallest of equally frequent.
        split: "time" cuts each recording into train | validation | test along time, by
            round(fraction * steps), at least 1. "recording" draws whole recordings by `seed`.
        validation: fraction of the steps or recordings for validation, 0 <= f < 1; 0 leaves it empty.
        test: fraction for the test, 0 <= f < 1; 0 leaves it empty.
        scale: fitted on the steps of the training segments only, one offset and divisor for each channel
            (plain numbers for a single channel). "standard": mean and standard deviation. "unit": each
            channel's range becomes 0 to 1 (uint8: 255 becomes 1). "none": as they are. "auto": uint8 as
            "unit", as they are where all values lie in [0, 1], else "standard".
        seed: of the drawing of recordings, a whole number >= 0.

    Returns:
        A Dataset with x of shape (windows, length, channels); `fingerprint` is that of the series.

    Raises:
        InputError: NaN or infinite values, recordings that differ in channels or type, labels that do not
            fit, a split without a whole window, or fewer than 2 windows for training.

    >>> data = windows(np.arange(100.0), length=10, hop=5)
    >>> data.x_train.shape, data.x_validation.shape, data.x_test.shape
    ((15, 10, 1), (1, 10, 1), (1, 10, 1))
    """
    length = positive_int("length", length)
    hop = length if hop is None else positive_int("hop", hop)
    positive_int("seed", seed, minimum=0)
    one_of("split", split, ("time", "recording"))
    one_of("scale", scale, MODES)
    one_of("label", label, ("any", "last", "majority"))
    validation, test = fraction("validation", validation), fraction("test", test)
    name, source, labels = _read(series, key, labels)
    recordings = _recordings(source)
    steps = Joined(recordings, [f"recording {i}" for i in range(len(recordings))])
    by_step = None if labels is None else steps_or_recordings(labels, source, [len(r) for r in recordings])

    segments = _segments(steps, split, validation, test, seed)
    starts = {part: _starts(segments[part], length, hop) for part in SPLITS}
    _refuse_short(segments, starts, length, split, {"validation": validation, "test": test})
    training = np.concatenate([np.arange(start, stop) for start, stop in segments["train"]])
    seen = Seen("series", steps.dtype)
    found = survey(steps, training, scale, seen.look)
    seen.refuse_constant()
    scaling, notes = fit(steps, training, scale, each=True, seen=found)
    offset, divisor = scaling.offset, scaling.divisor
    if steps.shape[1] == 1 and isinstance(offset, tuple) and isinstance(divisor, tuple):
        scaling = Scaling(scaling.kind, offset[0], divisor[0], scaling.output_range)

    x = {part: _cut(steps, segments[part], scaling, length, hop) for part in SPLITS}
    y = {part: label_windows(by_step, starts[part], length, label) for part in SPLITS}
    arrays = [source] if isinstance(source, np.ndarray) else source
    return Dataset(
        name=name,
        x_train=x["train"],
        x_validation=x["validation"],
        x_test=x["test"],
        y_train=y["train"],
        y_validation=y["validation"],
        y_test=y["test"],
        scaling=scaling,
        fingerprint=fingerprint([*arrays, *([] if labels is None else _listed(labels))]),
        notes=_notes(segments, starts, length, hop, split) + notes,
    )


def stitch(windows: np.ndarray, hop: int) -> np.ndarray:
    """Put the windows of one segment together again; where they overlap, the mean is taken.

    Use it to see reconstructions as one series, for example `stitch(model.predict(data.x_test), hop)`.

    Args:
        windows: array (n, length) or (n, length, channels) in the order of time.
        hop: steps from window to window, 1 <= hop <= length.

    Returns:
        float array of (n - 1) * hop + length steps, with channels if the windows have them.

    Raises:
        InputError: no windows, or a hop that leaves steps without a value.

    >>> stitch(np.array([[1.0, 2.0], [4.0, 3.0]]), hop=1)
    array([1., 3., 3.])
    """
    values = as_array("windows", windows)
    if values.ndim < 2 or 0 in values.shape:
        raise InputError(
            f"windows: got the shape {values.shape}, allowed: (n, length) or (n, length, channels), n >= 1"
        )
    count, length = values.shape[:2]
    hop = positive_int("hop", hop, maximum=length)
    total = np.zeros(((count - 1) * hop + length, *values.shape[2:]))
    times = np.zeros((len(total), *[1] * (values.ndim - 2)))
    for offset in range(length):
        places = slice(offset, offset + (count - 1) * hop + 1, hop)
        total[places] += values[:, offset]
        times[places] += 1
    return (total / times).astype(np.result_type(values.dtype, "float32"))


def _read(
    series: Any, key: str | None, labels: Any
) -> tuple[str, np.ndarray | list[np.ndarray], np.ndarray | list[np.ndarray] | None]:
    """(name, array or list of arrays, labels)"""
    if isinstance(series, (str, Path)):
        path = Path(series)
        if path.is_dir():
            raise InputError(
                f"series: got the folder {str(path)!r}, allowed: a .npy, .npz or .csv; read images with load"
            )
        raw = read_path(path, key)
        if raw.x_test is not None:
            raise InputError(
                f"series: {path.name} has a test split of its own, allowed: one array; name it with key="
            )
        if isinstance(labels, str):
            labels = read_path(path, labels).x
        return raw.name, raw.x, raw.y if labels is None else _listed_or_array(labels)
    if key is not None or isinstance(labels, str):
        raise InputError(
            "key and labels: got names without a file, allowed: names of arrays of a .npz; leave them out"
        )
    if isinstance(series, tuple):
        raise InputError("series: got a tuple, allowed: a list of arrays for recordings; labels go in labels=")
    if isinstance(series, list):
        if not series:
            raise InputError("series: got an empty list, allowed: at least one array")
        series = [as_array(f"series[{index}]", value) for index, value in enumerate(series)]
    else:
        series = as_array("series", series)
    return "array", series, None if labels is None else _listed_or_array(labels)


def _listed_or_array(labels: Any) -> np.ndarray | list[np.ndarray]:
    if isinstance(labels, list) and any(np.ndim(part) for part in labels):
        return [as_array(f"labels[{index}]", part) for index, part in enumerate(labels)]
    return np.asarray(labels) if isinstance(labels, list) else as_array("labels", labels)


def _listed(labels: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
    return labels if isinstance(labels, list) else [labels]


def _recordings(source: np.ndarray | list[np.ndarray]) -> Sequence[np.ndarray]:
    """Recordings as (steps, channels), checked."""
    if isinstance(source, list):
        named = [(f"series[{index}]", part) for index, part in enumerate(source)]
    elif source.ndim == 3:
        check_values("series", source)
        return list(source)
    else:
        named = [("series", source)]
    recordings = []
    for name, part in named:
        if part.ndim not in (1, 2):
            raise InputError(
                f"{name}: got the shape {part.shape}, allowed: (steps,) or (steps, channels); several recordings "
                "as one array (recordings, steps, channels) or as a list"
            )
        recordings.append(part[:, None] if part.ndim == 1 else part)
        check_values(name, recordings[-1])
    return recordings


def _segments(steps: Joined, split: str, validation: float, test: float, seed: int) -> Segments:
    """(start, stop) of the segments of each split, counted through all recordings one after the other."""
    bounds = list(zip(steps.starts.tolist(), steps.ends.tolist(), strict=True))
    if split == "recording":
        drawn = split_rows(len(bounds), validation, test, seed, noun="recordings", least=1)
        return {part: [bounds[i] for i in np.sort(drawn[part])] for part in SPLITS}
    segments: dict[str, list[tuple[int, int]]] = {part: [] for part in SPLITS}
    for start, stop in bounds:
        test_from = stop - part_size(test, stop - start)
        validation_from = test_from - part_size(validation, stop - start)
        edges = max(start, validation_from), max(start, test_from)
        for part, ends in zip(SPLITS, ((start, edges[0]), edges, (edges[1], stop)), strict=True):
            segments[part].append(ends)
    return segments


def _starts(segments: Sequence[tuple[int, int]], length: int, hop: int) -> np.ndarray:
    """First step of every window."""
    found = [np.arange(start, stop - length + 1, hop) for start, stop in segments]
    return np.concatenate([*found, np.empty(0, dtype=int)]).astype(int)


def _refuse_short(
    segments: Segments,
    starts: Mapping[str, np.ndarray],
    length: int,
    split: str,
    fractions: Mapping[str, float],
) -> None:
    wanted = {"train": 2, **{part: int(value > 0) for part, value in fractions.items()}}
    short = [part for part in SPLITS if len(starts[part]) < wanted[part]]
    if not short:
        return
    longest = {part: max((stop - start for start, stop in segments[part]), default=0) for part in SPLITS}
    where = ", ".join(f"{part} {longest[part]}" for part in SPLITS)
    other = "recording" if split == "time" else "time"
    raise InputError(
        f"length: got {length}, too few windows for {', '.join(short)} (steps of the longest segments: {where}), "
        "allowed: 2 windows for training and 1 in each other split; take a shorter length, change the fractions "
        f"(0 leaves a split empty), or try split={other!r}"
    )


def _cut(
    steps: Joined, segments: Sequence[tuple[int, int]], scaling: Scaling, length: int, hop: int
) -> np.ndarray:
    counts = [max(0, (stop - start - length) // hop + 1) for start, stop in segments]
    out = np.empty((sum(counts), length, steps.shape[1]), dtype="float32")
    filled = 0
    for (start, stop), count in zip(segments, counts, strict=True):
        if not count:
            continue
        view = np.lib.stride_tricks.sliding_window_view(steps[start:stop], length, axis=0)[::hop]
        for place, part in row_chunks(view.transpose(0, 2, 1)):
            out[filled + place.start : filled + place.stop] = scaling.apply(part)
        filled += count
    return out


def _notes(
    segments: Segments, starts: Mapping[str, np.ndarray], length: int, hop: int, split: str
) -> tuple[str, ...]:
    left = {}
    for part in SPLITS:
        counts = [(stop - start, max(0, (stop - start - length) // hop + 1)) for start, stop in segments[part]]
        left[part] = sum(size - ((count - 1) * hop + length if count else 0) for size, count in counts)
    if split == "time":
        sizes = {part: sum(stop - start for start, stop in segments[part]) for part in SPLITS}
        cut = "cut along time into steps: "
    else:
        sizes, cut = {part: len(segments[part]) for part in SPLITS}, "recordings: "
    notes = [
        cut + ", ".join(f"{part} {sizes[part]}" for part in SPLITS),
        "steps left over at the ends of segments: " + ", ".join(f"{part} {left[part]}" for part in SPLITS),
    ]
    if hop > length:
        notes.append(f"{hop - length} steps between one window and the next are not used")
    return tuple(notes)
