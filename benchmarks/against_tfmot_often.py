"""The same against tfmot with masks updated every 10 steps, not every 100, in both peers.

How often the masks follow the weights is a choice that tfmot makes expensive: one update of its masks costs
several of ours (see mask_update). The rows are those of `against_tfmot` for tfmot and for allocation="global".
"""

import os
import tempfile
from pathlib import Path

from benchmarks import against_tfmot as base

PARTS = base.PARTS.with_name("against_tfmot_often.parts")
METHODS = (base.PEER, "global")
FULL = {**base.FULL, "frequency": 10}
RUNS = {**base.RUNS, "sparsities": (0.9, 0.97), "methods": METHODS}


def run(quick):
    if not os.environ.get("KERAS_AEPRUNE_DATA"):
        return {"skipped": "KERAS_AEPRUNE_DATA is not set"}
    if not quick:
        return base._run(PARTS, FULL, RUNS)
    with tempfile.TemporaryDirectory() as folder:
        return base._run(Path(folder), base.QUICK, {**base.QUICK_RUNS, "methods": METHODS})


show = base.show
