"""Packed weights beside their entropy and beside nncodec: a pruned LeNet-300-100 whose kernels share 32 values.

Trained on MNIST, 0.95 zeros under one global threshold, then shared values that are trained too. "entropy" is
that of positions and values as independent symbols; "streams" what `compression.pack` takes for them, "tables"
the frequencies that a reader needs, "codebooks" the 32 values a kernel, "file" the whole container with graph
and exact biases. nncodec, the library of the ISO standard for coding neural networks, gets the same symbols as
whole numbers: its size is comparable with streams and tables together. It runs in an environment of its own and
is left out where it cannot be installed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._parts import NO_DATA, images, real

BITS, EPOCHS = 5, (8, 12, 2)  # dense, pruning, sharing
PACKAGES = ("numpy<2", "nncodec==2.1.3")


def _trained(quick):
    import keras

    from keras_aeprune import Prune, compression, schedules

    (x, y), test = images("mnist")
    epochs = (1, 2, 1) if quick else EPOCHS
    x, y = (x[:2000], y[:2000]) if quick else (x, y)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(n, a) for n, a in ((300, "relu"), (100, "relu"), (10, "softmax"))]
    model = keras.Sequential([keras.Input((784,)), *layers])
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=epochs[0], verbose=0)
    schedule = schedules.relative("PolynomialDecay", 0.95, begin=0.0, end=0.6, updates=100)
    model.fit(x, y, batch_size=128, epochs=epochs[1], verbose=0, callbacks=[Prune(schedule, allocation="global")])
    shared, _ = compression.cluster(model, BITS, data=(x, y), epochs=epochs[2], learning_rate=1e-4, progress=False)
    shared.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return shared, 100 * (1 - shared.evaluate(*test, batch_size=1000, verbose=0)[1])


def _symbols(model):
    """Each kernel as whole numbers: 0 where it is zero, else by rank, those below zero negative."""
    import numpy as np

    found = {}
    for number, layer in enumerate(model.layers):
        kernel = layer.kernel.numpy()
        values = np.unique(kernel[kernel != 0])
        ranks = np.arange(len(values)) - np.count_nonzero(values < 0)
        ranks = np.where(ranks >= 0, ranks + 1, ranks)
        symbols = np.zeros(kernel.shape, np.int32)
        symbols[kernel != 0] = ranks[np.searchsorted(values, kernel[kernel != 0])]
        found[f"kernel_{number}"] = symbols
    return found


def _python():
    """(interpreter that has nncodec, why there is none)."""
    given = os.environ.get("KERAS_AEPRUNE_NNCODEC_PYTHON")
    if given:
        return given, None
    folder = Path(tempfile.gettempdir()) / "keras_aeprune-nncodec"
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return None, f"nncodec could not be installed: {error}"
    return python, None


def _nncodec(symbols, quick):
    import numpy as np

    if quick:
        return None, "not installed for a quick run"
    python, reason = _python()
    if reason:
        return None, reason
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "symbols.npz"
        np.savez(path, **symbols)
        worker = Path(__file__).with_name("_nncodec_worker.py")
        done = subprocess.run([python, worker, path], capture_output=True, text=True, check=False)
    if done.returncode:
        return None, f"nncodec failed: {done.stderr.strip().splitlines()[-1][:200]}"
    return json.loads(done.stdout.splitlines()[-1])["bytes"], None


def run(quick):
    from keras_aeprune import compression

    if real("mnist") is None:
        return NO_DATA
    model, error = _trained(quick)
    with tempfile.TemporaryDirectory() as folder:
        packed = compression.pack(model, Path(folder) / "lenet.kap", bits=BITS)
    size, reason = _nncodec(_symbols(model), quick)
    kernels = [row for row in packed.rows if row.path.endswith("kernel")]
    rows = [
        {
            "path": row.path,
            "weights": row.weights,
            "nonzeros": row.nonzeros,
            "entropy": row.bound,
            "streams": row.bytes - row.codebook_bytes - row.table_bytes,
            "tables": row.table_bytes,
            "codebook": row.codebook_bytes,
        }
        for row in kernels
    ]
    return {"rows": rows, "file": packed.bytes, "nncodec": size, "nncodec not run": reason, "error": error}


def show(result):
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    lines = [
        f"{'':<18}{'weights':>9}{'non-zero':>10}{'entropy':>10}{'streams':>9}{'more':>8}{'tables':>8}{'codebook':>10}"
    ]
    names = ("weights", "nonzeros", "entropy", "streams", "tables", "codebook")
    whole = {name: sum(row[name] for row in result["rows"]) for name in names}
    for row in [*result["rows"], {"path": "all kernels", **whole}]:
        more = row["streams"] / row["entropy"] - 1
        lines.append(
            f"{row['path']:<18}{row['weights']:>9,}{row['nonzeros']:>10,}{row['entropy']:>10,.0f}{row['streams']:>9,}"
            f"{more:>+8.3f}{row['tables']:>8,}{row['codebook']:>10,}"
        )
    lines.append(f"file: {result['file']:,} bytes; test error {result['error']:.2f} percent")
    if result["nncodec"]:
        ours = whole["streams"] + whole["tables"]
        ratio = result["nncodec"] / ours
        lines.append(
            f"nncodec, the same symbols: {result['nncodec']:,} bytes, {ratio:.3f} x our {ours:,} with tables"
        )
    else:
        lines.append(f"nncodec: {result['nncodec not run']}")
    return "\n".join(lines)
