"""Finished parts of a benchmark are files, and real data come from KERAS_AEPRUNE_DATA."""

import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
NO_DATA = {"skipped": "KERAS_AEPRUNE_DATA is not set"}


@contextmanager
def parts(name, quick):
    """The folder in which a benchmark keeps its finished parts; one that is thrown away for a quick run."""
    if not quick:
        folder = RESULTS / f"{name}.parts"
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def kept(folder, key, settings, make):
    """What `make()` returned for these settings, from its file where it was finished before."""
    from keras_aeprune._files import write_json

    path = folder / f"{key}.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found["settings"] == json.loads(json.dumps(settings)):
            return found["result"]
    began = time.perf_counter()
    result = make()
    seconds = time.perf_counter() - began
    write_json(path, {"settings": settings, "result": result, "seconds": seconds})
    print(f"{key}: {seconds:.0f} s", flush=True)
    return result


def real(name):
    """The arrays of data/NAME.npz by name, or None where no real data are named."""
    import numpy as np

    folder = os.environ.get("KERAS_AEPRUNE_DATA")
    if not folder:
        return None
    with np.load(Path(folder) / "data" / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def images(name, shape=(784,)):
    """(x_train, y_train), (x_test, y_test) of mnist or fashion_mnist, pixels as float32 in [0, 1]."""
    found = real(name)
    x, test = (found[k].reshape(-1, *shape).astype("float32") / 255 for k in ("x_train", "x_test"))
    return (x, found["y_train"].astype("int64")), (test, found["y_test"].astype("int64"))


def decaying_adam(rate, epochs, samples, batch_size):
    """Adam whose rate falls from `rate` to 0 along a cosine, over the whole training."""
    import keras

    steps = epochs * -(-samples // batch_size)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
