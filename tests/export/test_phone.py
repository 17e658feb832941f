"""Everything that adb may answer, with an adb that is a shell script and a phone that is a folder."""

import json
import os
import runpy
import stat
import sys
from importlib import import_module

import pytest

from keras_aeprune._progress import silent
from keras_aeprune._validation import InputError
from keras_aeprune.export.phone import PhoneError, main, parse, time_on_phone

module = import_module("keras_aeprune.export.phone")

ADB = """#!/bin/sh
root='{root}'
echo "$@" >> "$root/log"
if [ "$1" = devices ]; then cat "$root/devices"; exit "$(cat "$root/status")"; fi
shift 2
case "$1" in
push) cp "$2" "$root$3" ;;
shell) PATH="$root/bin:$PATH" sh -c "$(printf '%s' "$2" | sed "s#/data/local/tmp#$root/data/local/tmp#g")" ;;
esac
"""
GETPROP = """#!/bin/sh
case "$1" in ro.product.manufacturer) echo Maker ;; ro.product.model) echo 'Phone 7' ;; esac
"""
BENCHMARK = """#!/bin/sh
echo "$@" > '{root}/options'
{body}
"""
TIMES = """echo 'INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds'
echo 'INFO: count=37 first=13500 curr=13400 min=13100 max=14000 avg=13450.5 std=180 p5=13100 median=13440 p95=139'
echo 'INFO: count=80 first=1249 curr=1240 min=1238 max=1252 avg=1.24027e+03 std=2.5 p5=1238 median=1239 p95=1247'
echo 'INFO: Inference timings in us: Init: 5579, First inference: 13576, Warmup (avg): 13, Inference (avg): 1240.3'
echo 'INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE'
"""


def program(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Phone:
    """The folder that plays the phone, with what the fake adb says and was asked."""

    def __init__(self, root):
        self.root, self.folder = root, root / "data" / "local" / "tmp"
        self.folder.mkdir(parents=True)
        (root / "bin").mkdir()
        program(root / "bin" / "getprop", GETPROP)
        (root / "status").write_text("0")
        self.connect("SER1\tdevice")

    def connect(self, *lines):
        (self.root / "devices").write_text("\n".join(["List of devices attached", *lines, "", ""]))

    def benchmark(self, path, body=TIMES):
        return program(path, BENCHMARK.format(root=self.root, body=body))

    @property
    def log(self):
        log = self.root / "log"
        return log.read_text() if log.is_file() else ""

    @property
    def left(self):
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def phone(tmp_path, monkeypatch):
    found = Phone(tmp_path / "phone")
    found.benchmark(found.folder / "benchmark_model")
    (tmp_path / "computer").mkdir()
    program(tmp_path / "computer" / "adb", ADB.format(root=found.root))
    monkeypatch.setenv("PATH", f"{tmp_path / 'computer'}{os.pathsep}{os.environ['PATH']}")
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my model's file.tflite"
    path.write_bytes(b"a model")
    return path


def test_a_file_is_timed_and_nothing_is_left_on_the_phone(phone, file):
    lines = []
    found = time_on_phone(file, runs=80, threads=3, progress=lambda text, final: lines.append((text, final)))
    assert (found.serial, found.device, found.threads, found.runs) == ("SER1", "Maker Phone 7", 3, 80)
    assert (found.mean_us, found.median_us, found.min_us, found.max_us) == (1240.3, 1239, 1238, 1252)
    assert (found.std_us, found.init_us, found.first_us) == (2.5, 5579, 13576)
    options = (phone.root / "options").read_text().split()
    assert options[0].endswith("/model.tflite") and options[0].startswith("--graph=")
    assert options[1:] == ["--num_threads=3", "--num_runs=80", "--min_secs=0"]
    assert phone.left == ["benchmark_model"]
    assert lines[-1] == (f"{file.name}: timed on Maker Phone 7", True)
    assert json.loads(json.dumps(found.to_dict()))["path"] == str(file)
    assert "median 1239 us" in str(found) and "threads 3" in str(found)


def test_the_file_that_is_run_is_the_one_that_was_given(phone, file):
    phone.benchmark(phone.folder / "benchmark_model", f"cat ${{1#--graph=}} > {phone.root}/seen\n{TIMES}")
    time_on_phone(file, progress=silent)
    assert (phone.root / "seen").read_bytes() == b"a model"


def test_a_program_of_this_computer_is_pushed_and_removed_again(phone, file, tmp_path):
    (phone.folder / "benchmark_model").unlink()
    local = phone.benchmark(tmp_path / "benchmark_arm64")
    local.chmod(0o644)  # made executable on the phone
    assert time_on_phone(file, binary=local, progress=silent).runs == 80
    assert phone.left == []


@pytest.mark.parametrize(
    ("lines", "serial", "words"),
    [
        ([], None, "got no phone, allowed: .*USB debugging"),
        ([], "SER1", "got no phone"),
        (["SER1\tdevice", "SER2\tdevice"], None, r"several phones, allowed: one of SER1 \(device\), SER2"),
        (["SER1\tunauthorized"], None, "SER1, which is unauthorized, .*Allow USB debugging"),
        (["SER1\toffline"], "SER1", "offline, .*plug it in again"),
        (["SER1\tno permissions (missing udev rules?); see [page]"], None, "no permissions .*udev"),
        (["SER1\tsideload"], None, "SER1, which is sideload"),
        (["SER1\tdevice"], "SER9", r"got 'SER9', allowed: one of SER1 \(device\)"),
    ],
)
def test_a_phone_that_cannot_be_used_is_refused_with_the_cure(phone, file, lines, serial, words):
    phone.connect(*lines)
    with pytest.raises(InputError, match=f"^serial: .*{words}"):
        time_on_phone(file, serial=serial, progress=silent)
    assert "push" not in phone.log


def test_the_phone_that_was_named_is_used(phone, file):
    phone.connect("SER1\tdevice", "SER2\tdevice", "SER3\tunauthorized")
    assert time_on_phone(file, serial="SER2", progress=silent).serial == "SER2"
    asked = [line for line in phone.log.splitlines() if line.startswith("-s")]
    assert asked and all(line.startswith("-s SER2 ") for line in asked)


def test_the_only_ready_phone_is_used_beside_others_that_are_not(phone, file):
    phone.connect("SER1\tunauthorized", "SER2\tdevice")
    assert time_on_phone(file, progress=silent).serial == "SER2"


def test_without_adb_the_message_says_where_it_comes_from(phone, file, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="^adb: got no such program .*Platform-Tools"):
        time_on_phone(file, progress=silent)


def test_an_adb_that_fails_is_quoted(phone, file):
    (phone.root / "status").write_text("1")
    with pytest.raises(PhoneError, match="devices' ended with status 1"):
        time_on_phone(file, progress=silent)


def test_without_the_program_on_the_phone_nothing_is_pushed(phone, file):
    (phone.folder / "benchmark_model").chmod(0o644)
    with pytest.raises(
        InputError, match=r"^binary: got None, and .*benchmark_model is no program on Maker Phone 7"
    ):
        time_on_phone(file, progress=silent)
    assert "push" not in phone.log


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 'ERROR: op not found'; exit 3", "status 3: ERROR: op not found"),
        ("echo 'Segmentation fault' >&2; kill -9 $$", "status 137"),
        ("echo 'ERROR: Failed to initialize'", "printed no times; .*Failed to initialize"),
        ("true", "printed no times; .*nothing"),
    ],
)
def test_what_fails_on_the_phone_is_quoted_and_cleaned_up(phone, file, body, words):
    phone.benchmark(phone.folder / "benchmark_model", body)
    with pytest.raises(PhoneError, match=words):
        time_on_phone(file, progress=silent)
    assert phone.left == ["benchmark_model"]


def test_a_push_that_fails_is_quoted_and_cleaned_up(phone, file, tmp_path):
    text = ADB.format(root=phone.root).replace('cp "$2" "$root$3"', "echo 'No space left on device' >&2; exit 1")
    program(tmp_path / "computer" / "adb", text)
    with pytest.raises(PhoneError, match="status 1: No space left on device"):
        time_on_phone(file, progress=silent)
    assert phone.left == ["benchmark_model"]


def test_a_phone_that_hangs_is_given_up_and_cleaned_up(phone, file, monkeypatch):
    phone.benchmark(phone.folder / "benchmark_model", "exec sleep 3 >/dev/null 2>&1")
    monkeypatch.setattr(module, "_RUN_SECONDS", 0.3)
    with pytest.raises(PhoneError, match="did not end within 0.3 s"):
        time_on_phone(file, progress=silent)
    assert phone.left == ["benchmark_model"]


def test_what_cannot_be_removed_is_told_beside_the_first_error(phone, file):
    program(phone.root / "bin" / "rm", "#!/bin/sh\necho 'Read-only file system'; exit 1\n")
    with pytest.raises(PhoneError, match=r"^/data/local/tmp/keras_aeprune-\w+ is left on the phone: .*Read-only"):
        time_on_phone(file, progress=silent)
    phone.benchmark(phone.folder / "benchmark_model", "echo 'op not found'; exit 3")
    with pytest.raises(PhoneError, match="op not found; and .* is left on the phone: .*Read-only"):
        time_on_phone(file, progress=silent)


def test_output_of_an_old_program_and_windows_line_ends_are_read():
    old = (
        "count=1 curr=3512391\r\n\r\ncount=50 first=2990275 curr=2913402 min=2727568 max=3189954 "
        "avg=2.95034e+06 std=109798\r\n\r\nInference timings in us: Init: 17187, First inference: 3512391, "
        "Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06\r\n"
    )
    found = parse(old)
    assert (found["runs"], found["mean_us"], found["std_us"]) == (50, 2950340, 109798)
    assert found["median_us"] is None
    one = (
        "count=1 curr=900\n"
        "Inference timings in us: Init: 1, First inference: 2, Warmup (avg): 3, Inference (avg): 900"
    )
    assert (parse(one)["min_us"], parse(one)["max_us"], parse(one)["std_us"]) == (900, 900, 0)


@pytest.mark.parametrize(("options", "words"), [({"runs": 0}, "runs"), ({"threads": 0}, "threads")])
def test_numbers_outside_their_range_are_refused_before_the_phone_is_asked(phone, file, options, words):
    with pytest.raises(InputError, match=words):
        time_on_phone(file, **options)
    assert phone.log == ""


def test_files_that_are_not_there_are_refused(phone, file, tmp_path):
    with pytest.raises(InputError, match="^path: .*no file"):
        time_on_phone(tmp_path / "missing.tflite")
    with pytest.raises(InputError, match="^binary: .*no file"):
        time_on_phone(file, binary=tmp_path / "missing")


def test_the_command_line_says_how_it_ended(phone, file, capsys):
    assert main([str(file), "--json", "--runs", "80"]) == 0
    assert json.loads(capsys.readouterr().out)["median_us"] == 1239
    assert main([str(file), "--serial", "SER9"]) == 2
    assert "error: serial: got 'SER9'" in capsys.readouterr().err
    phone.benchmark(phone.folder / "benchmark_model", "exit 3")
    assert main([str(file)]) == 1


def test_it_runs_as_a_module(phone, file, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["phone", str(file)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(module.__file__, run_name="__main__")
    assert ended.value.code == 0
    assert "Maker Phone 7" in capsys.readouterr().out
