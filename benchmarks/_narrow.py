"""Time .tflite files with the interpreter limited to 128-bit SIMD, a rough stand-in for a phone.

The kernels are chosen by what the library cpuinfo found out about the processor. Its findings are changed before
the first file is loaded: from AVX on, everything is said not to be there. They are not exported, so their place is
read from the library's symbol table by `nm`.
"""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

# cpuinfo's list for 64-bit x86 has one byte for each feature; the first ones, up to misaligned SSE, stay
KEPT, LENGTH = 22, 60
SSE3, AVX = 16, 22


def limit():
    """Change what cpuinfo says in this process; the reason where that cannot be done, else ""."""
    import ai_edge_litert

    path = Path(ai_edge_litert.__file__).parent / "libpywrap_litert_common.so"
    if not path.exists():
        return f"{path.name} is not there"
    try:
        listed = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return f"nm failed ({error})"
    places = {line.split()[-1]: int(line.split()[0], 16) for line in listed.splitlines() if len(line.split()) == 3}
    if not {"cpuinfo_initialize", "cpuinfo_isa"} <= places.keys():
        return "the library has no symbols of cpuinfo"
    from ai_edge_litert import interpreter  # noqa: F401 (loads the library)

    base = next(
        int(line.split("-")[0], 16)
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(path.name) and line.split()[2] == "00000000"
    )
    if not ctypes.CFUNCTYPE(ctypes.c_bool)(base + places["cpuinfo_initialize"])():
        return "cpuinfo_initialize failed"
    found = (ctypes.c_uint8 * LENGTH).from_address(base + places["cpuinfo_isa"])
    if any(value > 1 for value in found) or not all(found[SSE3 : SSE3 + 4]) or not found[AVX]:
        return "cpuinfo's list is not as it was known, or the processor has no AVX"
    for place in range(KEPT, LENGTH):
        found[place] = 0
    return ""


def timed(paths):
    """{path: median microseconds} with 128-bit SIMD, or {"skipped": reason}; in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._narrow", *map(str, paths)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"skipped": done.stderr[-300:]}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    reason = limit()
    if reason:
        print(json.dumps({"skipped": reason}))
    else:
        from keras_aeprune import export

        print(json.dumps({str(t.path): t.median_us for t in export.benchmark(*sys.argv[1:], runs=300)}))
