"""python -m notebooks [NAME ...]: run notebooks and store what they show.

Each runs in a kernel of its own, in an empty folder, and is written back whole or not at all. NAME is a file's
name or its beginning, such as 01. Real data are found through the environment variable KERAS_AEPRUNE_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import notebooks
from keras_aeprune._files import writing

# C++ libraries write their log lines past Python; they stay on the terminal and out of the notebook.
KERNEL_ARGUMENTS = ["--IPKernelApp.capture_fd_output=False", "--HistoryManager.enabled=False"]
SECONDS_PER_CELL = 1200


def main() -> int:
    """Run the notebooks that are named; 0 if all of them ran to their end."""
    parser = argparse.ArgumentParser(prog="python -m notebooks", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(notebooks.NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="short form, nothing written: does it work at all")
    arguments = parser.parse_args()
    chosen = []
    for name in arguments.names or notebooks.NAMES:
        found = [known for known in notebooks.NAMES if known.startswith(name.removesuffix(".ipynb"))]
        if len(found) != 1:
            parser.error(f"{name!r} means {len(found)} notebooks; there are: {', '.join(notebooks.NAMES)}")
        chosen += found
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    done = [run(name, quick=arguments.quick) for name in chosen]
    return 0 if all(done) else 1


def run(name: str, *, quick: bool = False) -> bool:
    """Execute one notebook and say how it went; what it showed is written into its file unless `quick`."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    print(f"{name}: ", end="", flush=True)
    path = notebooks.FOLDER / f"{name}.ipynb"
    book = nbformat.read(path, as_version=4)
    short = notebooks.quick(book)  # checked in the full form as well
    if reason := notebooks.missing_data(book):
        print(f"not run, {reason}")
        return False
    if quick:
        for cell, source in zip(notebooks.code_cells(book), notebooks.sources(book, short), strict=True):
            cell["source"] = source
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "work").mkdir()
        client = NotebookClient(
            book,
            timeout=SECONDS_PER_CELL,
            kernel_name="python3",
            coalesce_streams=True,
            config=Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"}),  # no open port
            startup_timeout=180,
            extra_arguments=KERNEL_ARGUMENTS,
            record_timing=False,
            resources={"metadata": {"path": f"{folder}/work"}},
        )
        try:
            client.execute()
        except CellExecutionError as error:
            print(f"failed, nothing written\n{error}")
            return False
    seconds = f"{time.monotonic() - start:.0f} s"
    if quick:
        print(f"{seconds}, short form, nothing written")
        return True
    with writing(path) as temporary:
        temporary.write_text(_as_text(book), encoding="utf-8")
    print(f"{seconds}, {path.stat().st_size / 1000:.0f} kB")
    return True


def _as_text(book) -> str:
    """The notebook as a file's text: pictures that stay readable on a dark page, nothing of this machine."""
    import nbformat

    for cell in notebooks.code_cells(book):
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                output["metadata"]["image/png"] = {"needs_background": "light"}
                output["data"].pop("text/plain", None)
    book["metadata"]["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book["metadata"]["language_info"] = {"name": "python"}
    return nbformat.writes(book) + "\n"


if __name__ == "__main__":
    sys.exit(main())
