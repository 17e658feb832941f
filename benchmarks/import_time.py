"""What `import keras_aeprune` adds to `import keras` on the TensorFlow backend."""

import statistics
import subprocess
import sys

ROUNDS = 7
CODES = {
    "keras": "import keras",
    "keras and keras_aeprune": "import keras, keras_aeprune",
    "keras and Prune": "import keras; from keras_aeprune import Prune",
}
TIMED = "import time; began = time.perf_counter()\n{}\nprint(time.perf_counter() - began)"


def seconds(code):
    done = subprocess.run([sys.executable, "-c", TIMED.format(code)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def run(quick):
    times = {name: [] for name in CODES}
    for _ in range(1 if quick else ROUNDS):  # interleaved, so that a busy moment hits all
        for name, code in CODES.items():
            times[name].append(seconds(code))
    return {"seconds": times}


def show(result):
    lines = [f"{'import of':<26}{'min s':>8}{'median s':>10}{'added by min':>14}"]
    base = min(result["seconds"]["keras"])
    for name, values in result["seconds"].items():
        lines.append(f"{name:<26}{min(values):>8.2f}{statistics.median(values):>10.2f}{min(values) - base:>14.3f}")
    return "\n".join(lines)
