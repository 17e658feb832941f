"""MLPerf Tiny's anomaly autoencoder (640-128x4-8-128x4-640, as published): cut, in int8, and packed.

The only data at hand are 196 frames of one recording of a normal toy car: the first 130 calibrate int8 and the
cut's compensation in closed form, the last 66 are held out. Nothing is trained: on one recording normalization
learns that recording, and errors on the rest of it grow to three times. Errors are those of the .tflite files
on them: mean squared error in dB^2, and root mean square difference from the given model's output as a fraction
of its spread. Times are of one thread, in turns with the given float32 file; "packed" is the file after
`compression.pack`, without loss for int8, with 32 shared values a kernel for float32. The published int8 file,
whose weights are not those of the published .h5, is measured beside them. What a cut does to the detection of
anomalies cannot be said from one normal recording.
"""

import os
import tempfile
from pathlib import Path

from benchmarks._parts import NO_DATA, real

KEEP = (0.75, 0.5, 0.25)


def _frames():
    import numpy as np

    rows = real("toycar_logmel")["x"]
    x = np.stack([rows[i : i + 5].ravel() for i in range(len(rows) - 4)])
    return x[:130], x[130:]


def _cut(model, x, keep):
    from keras_aeprune import shrinking

    return shrinking.plan(model, "elimination", keep=keep, data=x, round_to=8).apply(model, data=x)


def _row(path, x, wanted, folder, bits=None):
    import numpy as np

    from keras_aeprune import compression, export

    found = export.TFLiteModel(path).predict(x)
    packed = compression.pack(path, folder / f"{path.stem}.kap", bits=bits)
    return {
        "bytes": path.stat().st_size,
        "packed": packed.bytes,
        "mse": float(np.square(found - x).mean()),
        "difference": float(np.sqrt(np.square(found - wanted).mean()) / wanted.std()),
        "file": str(path),
    }


def run(quick):
    import keras

    from keras_aeprune import export, models

    if real("toycar_logmel") is None:
        return NO_DATA
    source = Path(os.environ["KERAS_AEPRUNE_DATA"]) / "models"
    x, held_out = _frames()
    keras.utils.set_random_seed(0)
    given = models.load(source / "mlperf_tiny_ad01.h5")
    wanted = given.predict(held_out, verbose=0)
    rows = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)

        def add(name, model, label):
            files = {None: folder / f"{label}.tflite", "int8": folder / f"{label}_int8.tflite"}
            export.tflite_many(model, files, data=x)
            macs = export.energy(files[None]).macs
            for quantize, path in files.items():
                row = _row(path, held_out, wanted, folder, bits=5 if quantize is None else None)
                rows[f"{name}, {quantize or 'float32'}"] = {
                    **row,
                    "parameters": model.count_params(),
                    "macs": macs,
                }

        add("given", given, "given")
        published = _row(source / "mlperf_tiny_ad01_int8.tflite", held_out, wanted, folder)
        rows["published int8 file"] = {**published, "parameters": given.count_params(), "macs": None}
        for keep in KEEP[1:2] if quick else KEEP:
            add(f"{keep:g} of the units", _cut(given, x, keep), f"cut{keep:g}")
        paths = [row["file"] for row in rows.values()]
        times = export.benchmark(*paths, runs=20 if quick else 400)
    for row, time in zip(rows.values(), times, strict=True):
        row.update(us=time.median_us, faster=1 / time.ratio, file=Path(row["file"]).name)
    return {"rows": rows, "predicting the mean": float(((held_out - x.mean(axis=0)) ** 2).mean())}


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    head = (
        f"{'':<28}{'parameters':>11}{'bytes':>11}{'packed':>10}{'us':>8}{'faster':>8}{'mse':>8}{'difference':>12}"
    )
    lines = [head]
    for name, row in result["rows"].items():
        lines.append(
            f"{name:<28}{row['parameters']:>11,}{row['bytes']:>11,}{row['packed']:>10,}{row['us']:>8.1f}"
            f"{row['faster']:>7.1f}x{row['mse']:>8.3f}{row['difference']:>12.4f}"
        )
    lines.append(f"predicting the mean of the calibration frames: mse {result['predicting the mean']:.3f}")
    return "\n".join(lines)
