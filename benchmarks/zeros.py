"""What zeros, halved layers, whole-number weights and widths do to the size and the speed of a .tflite file.

Untrained layers, since neither bytes nor times depend on what was learnt: zeros are the smallest weights of each
kernel, whole ones, or blocks of 1x4. "sparse" is the file in which zeros are stored sparsely. The first table is
of dense 784-1024-1024-784, and of 784-512-512-784 in the row "half of the units"; "zipped" is the file after gzip.
The second has one hidden layer between 784 inputs and outputs, for widths that are and are not multiples of 8; the
third an LSTM of 32 units over 16 steps of 8 numbers, rolled and unrolled. Times are medians of one invoke, one
thread, the files of one table in turns; "128-bit" is how many times faster they are with SIMD of that width only,
as phones have it. Files that cannot be made say so in the words of the exporter.
"""

import gzip
import tempfile
from pathlib import Path

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
WIDTHS = (296, 300, 304, 100, 104, 128)


def _chain(shape, *layers):
    import keras

    return keras.Sequential([keras.Input(shape), *layers])


def _dense(width, zeros=0.0, block=1):
    """The network with the smallest weights of every kernel, or blocks of them along the inputs, set to zero."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    sizes = ((width, "relu"), (width, "relu"), (784, None))
    model = _chain((784,), *(keras.layers.Dense(n, act, bias_initializer="uniform") for n, act in sizes))
    for layer in model.layers:
        kernel = layer.kernel.numpy()
        size = np.abs(kernel).reshape(kernel.shape[0] // block, block, -1).sum(axis=1)
        keep = size >= np.quantile(size, zeros)
        layer.kernel.assign(kernel * np.repeat(keep, block, axis=0))
    return model


def _recurrent():
    import keras

    keras.utils.set_random_seed(0)
    return _chain((16, 8), keras.layers.LSTM(32), keras.layers.Dense(8))


def _one_hidden(width):
    import keras

    keras.utils.set_random_seed(0)
    return _chain((784,), keras.layers.Dense(width, "relu"), keras.layers.Dense(784))


def _tables(quick):
    """{table: {row: (model, options of the export)}}; the first row is what the others are compared with."""
    width = 64 if quick else 1024
    given, none = _dense(width), {"sparse": False}
    sizes = {"float32": (given, {}), "float16": (given, {"quantize": "float16"})}
    sizes["dynamic (int8 weights)"] = (given, {"quantize": "dynamic"})
    sizes["int8"] = (given, {"quantize": "int8"})
    sizes["half of the units"] = (_dense(width // 2), {})
    sizes["half of the units, int8"] = (_dense(width // 2), {"quantize": "int8"})
    if quick:
        return {"sizes": {name: sizes[name] for name in ("float32", "int8")}}
    for share in SPARSITIES:
        zeros, blocks = _dense(width, share), _dense(width, share, block=4)
        sizes[f"{share:g} zeros"] = (zeros, none)
        sizes[f"{share:g} zeros, sparse"] = (zeros, {"sparse": True})
        sizes[f"{share:g} zeros, int8"] = (zeros, {"quantize": "int8"})
        sizes[f"{share:g} in blocks 1x4, sparse"] = (blocks, {"sparse": True})
    widths = {
        f"{width} units{label}": (_one_hidden(width), {"quantize": quantize})
        for quantize, label in ((None, ""), ("int8", ", int8"))
        for width in WIDTHS
    }
    loop = {
        "rolled": (_recurrent(), {"unroll": False}),
        "unrolled": (_recurrent(), {"unroll": True}),
        "unrolled, int8": (_recurrent(), {"unroll": True, "quantize": "int8"}),
    }
    return {"sizes": sizes, "widths": widths, "recurrent": loop}


def run(quick):
    import numpy as np

    from benchmarks import _narrow
    from keras_aeprune import export
    from keras_aeprune._validation import InputError

    rng, found = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as folder:
        for table, models in _tables(quick).items():
            rows, paths = {}, {}
            for number, (name, (model, options)) in enumerate(models.items()):
                path = Path(folder) / f"{table}-{number}.tflite"
                data = rng.random((64, *model.input_shape[1:]), "float32")
                try:
                    file = export.tflite(model, path, data=data, **options)
                except (InputError, export.ConversionError, export.ExportMismatch) as error:
                    rows[name] = {"refused": str(error)}
                    continue
                paths[name] = path
                rows[name] = {"bytes": file.bytes, "zipped": len(gzip.compress(path.read_bytes(), 9))}
                print(f"{table}, {name}: {file.bytes:,} bytes", flush=True)
            narrow = {} if quick else _narrow.timed(list(paths.values()))
            if "skipped" in narrow:
                print(f"no 128-bit figures: {narrow['skipped']}", flush=True)
            times = export.benchmark(*paths.values(), runs=5 if quick else 200)
            first = narrow.get(str(next(iter(paths.values()))))
            for (name, path), time in zip(paths.items(), times, strict=True):
                one = narrow.get(str(path))
                slim = first / one if one else None
                rows[name] |= {"us": time.median_us, "faster": 1 / time.ratio, "narrow faster": slim}
            found[table] = [{"row": name, **row} for name, row in rows.items()]
    return {"tables": found}


def show(result):
    blocks = []
    for table in ("sizes", "widths", "recurrent"):
        rows = result["tables"].get(table)
        if rows is None:
            continue  # a quick run
        first = rows[0]
        lines = [
            f"{table:<28}{'bytes':>11}{'smaller':>9}{'zipped':>11}{'smaller':>9}{'us':>8}{'faster':>8}{'128-bit':>9}"
        ]
        for row in rows:
            name = row["row"]
            if "refused" in row:
                lines.append(f"{name:<28}  refused: {row['refused'][:90]}")
                continue
            slim = "-" if row["narrow faster"] is None else f"{row['narrow faster']:.2f}x"
            lines.append(
                f"{name:<28}{row['bytes']:>11,}{first['bytes'] / row['bytes']:>8.1f}x{row['zipped']:>11,}"
                f"{first['bytes'] / row['zipped']:>8.1f}x{row['us']:>8.1f}{row['faster']:>7.2f}x{slim:>9}"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
