"""The command line's main job: seconds and memory on the digits, and a sane report on Fashion-MNIST."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAIT = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6)  # GB: kB on Linux, the largest process
sys.exit(done.returncode)
"""


def job(arguments):
    """Seconds from the command to the report, GB of the largest process, and the report."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "keras_aeprune.cli",
            "compress",
            *arguments,
            "--out",
            f"{folder}/run",
        ]
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", WAIT, *command], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
        report = json.loads((Path(folder) / "run" / "report.json").read_text())
    return {"seconds": seconds, "gigabytes": float(done.stdout), "rows": report["rows"]}


def run(quick):
    result = {"digits": job(["digits", "--epochs", "2"] if quick else ["digits"])}
    data = os.environ.get("KERAS_AEPRUNE_DATA")
    if quick or not data:
        result["fashion_mnist"] = {"skipped": "quick" if quick else "KERAS_AEPRUNE_DATA is not set"}
    else:
        result["fashion_mnist"] = job([str(Path(data) / "data" / "fashion_mnist.npz"), "--encoding-dim", "32"])
    return result


def show(result):
    lines = []
    for name, part in result.items():
        if name == "environment":
            continue
        if "skipped" in part:
            lines.append(f"{name}: skipped, {part['skipped']}")
            continue
        lines.append(f"{name}: {part['seconds']:.1f} s, {part['gigabytes']:.2f} GB")
        for row in part["rows"]:
            size = f"{row['bytes']:>12,} B" if "bytes" in row else ""
            lines.append(f"    {row['label']:<28}{row['test_mse']:>10.5f}{size}")
    return "\n".join(lines)
