"""PQuantML in an environment of its own, made at the first use in the folder for temporary files.

It takes an older TensorFlow than this package. What crosses is JSON and arrays as .npz; `_pquantml_worker.py`
needs neither this package nor its environment.
"""

import getpass
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PEER = "pquant-ml[tensorflow]==0.1.0"
ROOT = Path(__file__).parent.parent


def environment(install=True, folder=None):
    """(the Python that has PQuantML, "") or (None, why there is none)."""
    folder = Path(folder or Path(tempfile.gettempdir()) / f"keras_aeprune-pquantml-{getpass.getuser()}")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"  # written last: a half-made environment is made again
    if ready.exists():
        return python, ""
    if not install:
        return None, "PQuantML is not installed, and a short run installs nothing"
    print(f"installing PQuantML and its TensorFlow into {folder}", flush=True)
    try:
        _call(sys.executable, "-m", "venv", "--clear", str(folder))
        _call(str(python), "-m", "pip", "install", PEER)
        _call(str(python), "-c", "import pquant")
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or ["no reason given"]
        return None, f"PQuantML could not be installed or imported ({said[-1][:200]})"
    ready.touch()
    return python, ""


def _call(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def asked(python, job, arrays=None):
    """What the worker says of a job: {"taken": ...} of the forms, or {"versions": ..., "runs": [...]}.

    Args:
        python: that has PQuantML.
        job: JSON values, see the worker.
        arrays: weights of the dense network, kernel, bias, kernel, ...
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "job.json").write_text(json.dumps(job))
        if arrays is not None:
            np.savez(folder / "dense.npz", *arrays)
        command = [str(python), "-m", "benchmarks._pquantml_worker", str(folder)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"PQuantML: ended with status {done.returncode}: {done.stderr[-2000:]}")
        said = json.loads((folder / "said.json").read_text())
        for run in (run for run in said.get("runs", ()) if "file" in run):
            with np.load(folder / run.pop("file"), allow_pickle=False) as file:
                run["weights"] = [file[name] for name in file.files]
    return said
