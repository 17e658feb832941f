"""Every criterion on one protocol: test error at 90, 95 and 97% zeros, tfmot and random included.

The network, the schedule, the batches and the seeds are those of `against_tfmot`. Criteria that need data see
2,048 training samples at every update of the masks. Scores that can be compared between layers share one threshold
("global"); scores of units, entropies and random numbers cannot, so that there every kernel gets the same fraction
("uniform"). Rows of one seed have no more for want of time, good ones among them. Rows that stand there too
are taken from `against_tfmot` where that has run with the same settings.
WoodFisher has small blocks, since it is measured at every update.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks import against_tfmot as base
from benchmarks._parts import NO_DATA, RESULTS
from keras_aeprune._files import write_json

PARTS = base.PARTS.with_name("all_criteria.parts")
METHODS = (base.PEER, *base.OURS, "wanda, global")
ONCE = (
    "gradient_magnitude exponent=0.5, global",
    "gradient_magnitude exponent=1, global",
    "gradient_magnitude, uniform",
    "gradient_magnitude, erk",
    "fisher, global",
    "random, uniform",
    "snip, global",
    "taylor, global",
    "synflow, global",
    "grasp, global",
    "prediction_sensitivity, global",
    "wanda, uniform",
    "weight_entropy, uniform",
    "activation_mean, uniform",
    "activation_variance, uniform",
    "apoz, uniform",
    "activation_entropy, uniform",
    "woodfisher block_size=32, global",
)
RUNS = {**base.RUNS, "methods": METHODS, "once": ONCE}
QUICK_RUNS = {**base.QUICK_RUNS, "methods": (base.PEER, "global", base.BEST)}


def _reuse(folder, settings):
    """Trainings that `against_tfmot` has finished with the same settings: the same seeds give the same weights."""
    path = RESULTS / "against_tfmot.json"
    for one in json.loads(path.read_text())["runs"] if path.exists() else ():
        file = base.part(folder, one["method"], one["sparsity"], one["seed"])
        if one["settings"] == settings and not file.exists():
            write_json(file, one)


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return NO_DATA
    if not quick:
        PARTS.mkdir(parents=True, exist_ok=True)
        _reuse(PARTS, base.FULL)
        return base._run(PARTS, base.FULL, RUNS)
    with tempfile.TemporaryDirectory() as folder:
        return base._run(Path(folder), base.QUICK, QUICK_RUNS)


def show(result):
    """Criteria by sparsity, the lowest error at the highest sparsity first; beside it the ratio to tfmot's."""
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    runs = result["runs"]
    sparsities = sorted({one["sparsity"] for one in runs})
    seeds, errors, seconds = {}, {}, {}
    for one in runs:
        errors.setdefault((one["method"], one["sparsity"]), []).append(one["test_mse"])
        seeds.setdefault(one["method"], set()).add(one["seed"])
        seconds.setdefault(one["method"], []).append(one["seconds"])
    peer = {(s, seed): _error(runs, base.PEER, s, seed) for s in sparsities for seed in seeds[base.PEER]}
    dense = statistics.mean({one["seed"]: one["dense_mse"] for one in runs}.values())
    lines = [f"test mse, in brackets its ratio to tfmot's with the same seeds; before pruning {dense:.5f}"]
    lines.append(
        f"{'criterion, allocation':<42}" + "".join(f"{s:>17}" for s in sparsities) + f"{'seeds':>7}{'s':>6}"
    )
    for method in sorted(seeds, key=lambda m: statistics.mean(errors[m, sparsities[-1]])):
        cells = ""
        for s in sparsities:
            mean = statistics.mean(errors[method, s])
            cells += f"{mean:>9.5f} ({mean / statistics.mean(peer[s, seed] for seed in seeds[method]):.3f})"
        name = method if "," in method or method == base.PEER else f"magnitude, {method}"
        lines.append(f"{name:<42}{cells}{len(seeds[method]):>7}{statistics.median(seconds[method]):>6.0f}")
    return "\n".join(lines)


def _error(runs, method, sparsity, seed):
    key = (method, sparsity, seed)
    return next(one["test_mse"] for one in runs if (one["method"], one["sparsity"], one["seed"]) == key)
