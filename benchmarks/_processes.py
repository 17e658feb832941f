"""Peers in processes of their own, since Keras 2 and 3 do not meet in one."""

import subprocess
import sys
import tempfile


def together(module, kinds, arguments, rounds):
    """The lines that workers print, one per kind and round, taken in turns: {kind: [line, ...]}.

    A worker is `python -m MODULE KIND *ARGUMENTS`. It prints one line for every line that it reads, and the
    next worker only hears of its turn then, so that a busy moment of the machine hits all of them.
    """
    workers, errors, lines = {}, {}, {kind: [] for kind in kinds}
    try:
        for kind in kinds:
            errors[kind] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed below, with all the others)
            workers[kind] = subprocess.Popen(
                [sys.executable, "-m", module, kind, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors[kind],
                text=True,
            )
        for _ in range(rounds):
            for kind, process in workers.items():
                lines[kind].append(_turn(kind, process, errors[kind]))
        for process in workers.values():
            process.communicate()
    finally:
        for kind, file in errors.items():
            if kind in workers and workers[kind].poll() is None:
                workers[kind].kill()
                workers[kind].wait()
            file.close()
    return lines


def _turn(kind, process, errors):
    try:
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        process.wait()
        errors.seek(0)
        raise RuntimeError(f"{kind}: ended with status {process.returncode}: {errors.read()[-2000:]}")
    return line


def alone(module, *arguments):
    """Run `python -m MODULE *ARGUMENTS` to its end."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]}: ended with status {done.returncode}: {done.stderr[-2000:]}")
