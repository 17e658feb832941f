"""How long one invoke of a .tflite file takes on an Android phone that hangs on this computer.

python -m keras_aeprune.export.phone model.tflite --threads 2
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_aeprune import _progress
from keras_aeprune._validation import InputError, positive_int, shown

FOLDER = "/data/local/tmp"  # where adb may write and run files on every phone
BINARY = f"{FOLDER}/benchmark_model"
_ADB_SECONDS = 60
_PUSH_SECONDS = 600
_RUN_SECONDS = 900
_CURES = {
    "unauthorized": "unlock the phone and accept 'Allow USB debugging' for this computer",
    "offline": "unplug the phone, plug it in again and unlock it",
    "no permissions": "let this user reach USB devices (udev rules on Linux), then run 'adb kill-server'",
    "recovery": "start the phone in its normal system",
}


class PhoneError(RuntimeError):
    """The phone was found, and something failed on it.

    `time_on_phone` raises it, with what the phone said; a phone or a file that is not there is an `InputError`.

    Example:
        >>> try:
        ...     times = parse("ERROR: unresolved custom op: FlexErf")
        ... except PhoneError as error:
        ...     print(error)
        benchmark_model printed no times; the end of what it said: ERROR: unresolved custom op: FlexErf
    """


@dataclass(frozen=True)
class PhoneLatency:
    """The time of one invoke on a phone, as its `benchmark_model` printed it.

    Args:
        path: the file.
        serial: of the phone.
        device: its maker and model.
        threads: of the interpreter.
        runs: invokes that were timed, not counting the warm-up.
        mean_us: mean, microseconds.
        min_us: fastest invoke, microseconds.
        max_us: slowest invoke, microseconds.
        std_us: standard deviation, microseconds.
        init_us: loading the file, microseconds.
        first_us: the first invoke, microseconds.
        median_us: median, microseconds; None where an old `benchmark_model` does not print it.

    Example:
        >>> times = {"mean_us": 52.0, "min_us": 48.0, "max_us": 80.0, "std_us": 3.0, "init_us": 900.0}
        >>> PhoneLatency(Path("ae.tflite"), "0123", "Maker Model", 1, 200, first_us=210.0, **times).mean_us
        52.0
    """

    path: Path
    serial: str
    device: str
    threads: int
    runs: int
    mean_us: float
    min_us: float
    max_us: float
    std_us: float
    init_us: float
    first_us: float
    median_us: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        median = "" if self.median_us is None else f"median {self.median_us:g} us, "
        return (
            f"{self.path.name} on {self.device} ({self.serial}): {median}mean {self.mean_us:g} us, "
            f"{self.min_us:g} to {self.max_us:g} us over {self.runs} invokes, threads {self.threads}"
        )


def time_on_phone(
    path: str | Path,
    *,
    serial: str | None = None,
    runs: int = 100,
    threads: int = 1,
    binary: str | Path | None = None,
    progress: _progress.Say = _progress.to_stderr,
) -> PhoneLatency:
    """Time a .tflite file on the Android phone that is connected to this computer.

    Use it before a file is shipped: times of this computer say little about a phone. The file is pushed by
    adb, run by LiteRT's own `benchmark_model`, and what was pushed is removed again. docs/phone.md says where
    `benchmark_model` comes from; nothing is downloaded here.

    Args:
        path: a .tflite file.
        serial: of the phone, as `adb devices` prints it; None for the only one that is connected.
        runs: invokes that are timed, >= 1.
        threads: of the interpreter, >= 1.
        binary: `benchmark_model` for the phone's processor on this computer; None for the one that lies at
            /data/local/tmp/benchmark_model on the phone.
        progress: called with each line to show; `_progress.silent` for none.

    Returns:
        A `PhoneLatency`.

    Raises:
        InputError: if adb, the phone, the file or `benchmark_model` is not there; with what to do.
        PhoneError: if something fails on the phone, for example an operation that it does not know.

    Example:
        >>> time_on_phone("missing.tflite")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        keras_aeprune._validation.InputError: path: got 'missing.tflite', which is no file, allowed: ...
    """
    path = _existing("path", path, "an existing .tflite file")
    runs, threads = positive_int("runs", runs), positive_int("threads", threads)
    local = None if binary is None else _existing("binary", binary, "benchmark_model for the phone's processor")
    adb = shutil.which("adb")
    if adb is None:
        raise InputError(
            "adb: got no such program on PATH, allowed: adb of the Android SDK Platform-Tools (install them with "
            "Android Studio or your system's packages, and put their folder on PATH)"
        )
    serial = _chosen(_devices(adb), serial)
    phone = _Phone(adb, serial)
    device = " ".join(phone.shell("getprop ro.product.manufacturer; getprop ro.product.model").split()) or serial
    if local is None and "yes" not in phone.shell(f"[ -x {BINARY} ] && echo yes || echo no"):
        raise InputError(
            f"binary: got None, and {BINARY} is no program on {device}, allowed: the path of benchmark_model for "
            "the phone's processor on this computer (docs/phone.md says where it comes from)"
        )
    folder = f"{FOLDER}/keras_aeprune-{uuid.uuid4().hex}"
    try:
        phone.shell(f"mkdir {folder}")
        progress(f"{path.name}: to {device}", False)
        phone.push(path, f"{folder}/model.tflite")
        program = BINARY
        if local is not None:
            program = f"{folder}/benchmark_model"
            phone.push(local, program)
            phone.shell(f"chmod 755 {program}")
        progress(f"{path.name}: timing {runs} invokes on {device}", False)
        options = f"--num_threads={threads} --num_runs={runs} --min_secs=0"
        output = phone.shell(f"{program} --graph={folder}/model.tflite {options} 2>&1", seconds=_RUN_SECONDS)
    finally:
        phone.remove(folder)
    numbers = parse(output)
    progress(f"{path.name}: timed on {device}", True)
    return PhoneLatency(path=path, serial=serial, device=device, threads=threads, **numbers)


def parse(output: str) -> dict[str, Any]:
    """The numbers in what `benchmark_model` prints, by the names of `PhoneLatency`.

    Example:
        >>> parse('''count=1 curr=900
        ... count=50 first=420 curr=400 min=390 max=500 avg=410.5 std=9
        ... Inference timings in us: Init: 3100, First inference: 900, Warmup (avg): 900, Inference (avg): 410.5
        ... ''')["mean_us"]
        410.5
    """
    summary = re.search(r"Inference timings in us: Init: (\S+), First inference: (\S+),.*\(avg\): (\S+)", output)
    lines = re.findall(r"\bcount=\d+ .*", output)
    if summary is None or not lines:
        said = " ".join(" ".join(output.split("\n")[-6:]).split())
        raise PhoneError(f"benchmark_model printed no times; the end of what it said: {said[-300:] or 'nothing'}")
    values = dict(item.split("=", 1) for item in lines[-1].split() if "=" in item)
    mean = float(summary[3])  # one invoke alone is printed as "count=1 curr=900"
    return {
        "runs": int(values["count"]),
        "mean_us": mean,
        "min_us": float(values.get("min", mean)),
        "max_us": float(values.get("max", mean)),
        "std_us": float(values.get("std", 0)),
        "init_us": float(summary[1]),
        "first_us": float(summary[2]),
        "median_us": float(values["median"]) if "median" in values else None,
    }


class _Phone:
    """One phone behind adb."""

    def __init__(self, adb: str, serial: str):
        self._command = [adb, "-s", serial]

    def shell(self, line: str, *, seconds: float = _ADB_SECONDS) -> str:
        """What a line of the phone's shell prints; adb of old phones hides its exit status."""
        text = _run([*self._command, "shell", f"{line}\necho status=$?"], seconds)
        printed, mark, status = text.rpartition("status=")
        if not mark or status.strip() != "0":
            said = " ".join((printed if mark else text).split())[-300:]
            raise PhoneError(f"on the phone, {shown(line)} ended with status {status.strip() or '?'}: {said}")
        return printed

    def push(self, source: Path, target: str) -> None:
        _run([*self._command, "push", str(source), target], _PUSH_SECONDS)

    def remove(self, folder: str) -> None:
        """Remove the folder; where that fails while another error is on its way, both are told."""
        try:
            self.shell(f"rm -rf {shlex.quote(folder)}")
        except PhoneError as error:
            under_way = error.__context__
            first = f"{under_way}; and " if isinstance(under_way, PhoneError) else ""
            raise PhoneError(f"{first}{folder} is left on the phone: {error}") from under_way


def _run(command: Sequence[str], seconds: float) -> str:
    said_as = shown(" ".join(["adb", *command[1:]]))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise PhoneError(f"{said_as} did not end within {seconds:g} s") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise PhoneError(f"{said_as} ended with status {done.returncode}: {said}")
    return done.stdout.replace("\r\n", "\n")


def _devices(adb: str) -> dict[str, str]:
    """State by serial of every phone that adb sees."""
    lines = _run([adb, "devices"], _ADB_SECONDS).partition("List of devices attached")[2].splitlines()
    pairs = [line.split(None, 1) for line in lines if line.strip()]
    return {serial: (rest[0] if rest else "").strip() for serial, *rest in pairs}


def _chosen(devices: dict[str, str], serial: str | None) -> str:
    """The serial of the phone to use; all others are refused with the cure."""
    if not devices:
        raise InputError(
            "serial: got no phone, allowed: one that is connected by USB, with 'USB debugging' switched on in its "
            "developer options"
        )
    listed = ", ".join(f"{name} ({state})" for name, state in devices.items())
    if serial is None:
        ready = [name for name, state in devices.items() if state == "device"]
        candidates = ready or list(devices)
        if len(candidates) > 1:
            raise InputError(f"serial: got None and several phones, allowed: one of {listed}")
        serial = candidates[0]
    if serial not in devices:
        raise InputError(f"serial: got {shown(serial)}, allowed: one of {listed}")
    state = devices[serial]
    if state != "device":
        cure = next(
            (text for mark, text in _CURES.items() if state.startswith(mark)), "make 'adb devices' say device"
        )
        raise InputError(f"serial: got {serial}, which is {state}, allowed: a phone that is ready; {cure}")
    return serial


def _existing(name: str, path: str | Path, allowed: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{name}: got {str(path)!r}, which is no file, allowed: {allowed}")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 where it worked, 1 where the phone failed, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_aeprune.export.phone", description="Time a .tflite file on the connected phone."
    )
    parser.add_argument("file", help="a .tflite file")
    parser.add_argument("--serial", help="of the phone, as 'adb devices' prints it")
    parser.add_argument("--runs", type=int, default=100, help="invokes that are timed (default 100)")
    parser.add_argument("--threads", type=int, default=1, help="of the interpreter (default 1)")
    parser.add_argument("--binary", help=f"benchmark_model on this computer (default: {BINARY} on the phone)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = vars(parser.parse_args(arguments))
    as_json, file = options.pop("json"), options.pop("file")
    try:
        latency = time_on_phone(file, **options)
    except (InputError, PhoneError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    print(json.dumps(latency.to_dict()) if as_json else latency)
    return 0


if __name__ == "__main__":
    sys.exit(main())
