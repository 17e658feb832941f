"""keras-aeprune: one subcommand per job, no logic of its own.

Exit status: 0 done; 2 input that cannot be used; 1 a limit that cannot be met or a target that was missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from keras_aeprune._version import __version__

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """Errors in one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", help="which array of a .npz file")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--epochs", type=int, help="passes over the data")
    parser.add_argument("--quiet", action="store_true", help="no progress lines")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="keras-aeprune",
        description="Prune autoencoders and other Keras 3 models and export checked .tflite files.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"keras-aeprune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    compress = commands.add_parser(
        "compress",
        help="data -> autoencoder -> pruned, checked .tflite files and a report",
        description="Train an autoencoder on data, prune it, export checked .tflite files, and report.",
        allow_abbrev=False,
    )
    compress.add_argument(
        "data",
        metavar="DATA",
        help="digits, mnist, fashion_mnist, cifar10, a .npy, .npz or .csv file, or a folder of images",
    )
    compress.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    compress.add_argument("--sparsity", type=float, default=0.9, help="fraction of weights set to zero (0.9)")
    compress.add_argument("--encoding-dim", type=int, help="width of the code (default: from the data)")
    compress.add_argument(
        "--hidden-units", type=_widths, metavar="A,B", help="widths of the encoder's hidden layers"
    )
    compress.add_argument(
        "--max-error-increase",
        type=float,
        metavar="F",
        help="also cut units and layers out, as long as the error grows by at most this fraction",
    )
    compress.add_argument("--max-time", metavar="TIME", help="limit for the whole run: 90, 90s, 5m, 1h")
    compress.add_argument("--dry-run", action="store_true", help="print the plan and its cost, write nothing")
    _add_data_options(compress)

    prune = commands.add_parser(
        "prune",
        help="prune a model of your own: model.keras -> pruned.keras",
        description="Prune a Keras model on data with its compiled loss and save a plain .keras file.",
        allow_abbrev=False,
    )
    prune.add_argument("model", metavar="MODEL", help="a .keras or .h5 file")
    prune.add_argument("--data", required=True, help="as DATA of compress; labels y are used if there")
    prune.add_argument("--out", required=True, metavar="FILE", help="the .keras file to write")
    prune.add_argument("--sparsity", type=float, default=0.9, help="fraction of weights set to zero (0.9)")
    prune.add_argument(
        "--criterion", default="magnitude", metavar="NAME", help="which weights go first (magnitude); see names"
    )
    prune.add_argument(
        "--criterion-samples",
        type=int,
        default=2048,
        metavar="N",
        help="training samples for a criterion or allocation that needs data (2048)",
    )
    prune.add_argument(
        "--allocation", default="global", metavar="NAME", help="global (default), uniform, erk or entropy"
    )
    prune.add_argument("--include", nargs="+", metavar="LAYER", help="prune only these (names or patterns)")
    prune.add_argument("--exclude", nargs="+", metavar="LAYER", help="leave these alone")
    prune.add_argument("--loss", help="for a model saved without one")
    prune.add_argument("--learning-rate", type=float, help="default: the compiled one")
    prune.add_argument("--batch-size", type=int, default=128, help="samples per step (128)")
    prune.add_argument("--scale", default="none", help="none (default), auto, unit or standard")
    _add_data_options(prune)

    shrink = commands.add_parser(
        "shrink",
        help="cut units and layers out of a model of your own: model.keras -> small.keras",
        description="Cut units and layers out of a Keras model, train what is left, save a plain .keras file.",
        allow_abbrev=False,
    )
    shrink.add_argument("model", metavar="MODEL", help="a .keras or .h5 file")
    shrink.add_argument("--data", required=True, help="as DATA of compress; labels y are used if there")
    shrink.add_argument("--out", required=True, metavar="FILE", help="the .keras file to write")
    shrink.add_argument(
        "--max-error-increase", type=float, metavar="F", help="fraction by which the loss may grow (0.05)"
    )
    shrink.add_argument("--keep", type=float, metavar="F", help="one cut: fraction of units that stay everywhere")
    shrink.add_argument("--target-params", type=float, metavar="N", help="numbers in all weights at most")
    shrink.add_argument("--target-macs", type=float, metavar="N", help="multiplications for one sample at most")
    shrink.add_argument("--target-bytes", type=float, metavar="N", help="bytes of float32 weights at most")
    shrink.add_argument(
        "--criterion", default="elimination", metavar="NAME", help="which units go first (elimination); see names"
    )
    shrink.add_argument("--no-layers", dest="layers", action="store_false", help="only units, no whole layers")
    shrink.add_argument("--mirror", action="store_true", help="equal widths in encoder and decoder")
    shrink.add_argument("--round-to", type=int, default=8, metavar="N", help="widths are multiples of this (8)")
    shrink.add_argument("--dry-run", action="store_true", help="print the plan of one cut, write no model")
    shrink.add_argument(
        "--plan", dest="plan_file", metavar="FILE", help="write the plan of one cut (--keep, --dry-run) as JSON"
    )
    shrink.add_argument("--loss", help="for a model saved without one")
    shrink.add_argument("--learning-rate", type=float, help="of Adam (0.001)")
    shrink.add_argument("--batch-size", type=int, default=128, help="samples per step (128)")
    shrink.add_argument("--scale", help="none, auto (as compress), unit or standard (default: none, but checked)")
    _add_data_options(shrink)

    search = commands.add_parser(
        "search",
        help="data -> the narrowest code that is still good, its curve and its model",
        description="Find the narrowest good code of an autoencoder; write the answer, its curve and the model.",
        allow_abbrev=False,
    )
    search.add_argument("data", metavar="DATA", help="as DATA of compress")
    search.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    search.add_argument("--widths", default="16:64:4", help="FIRST:LAST:STEP or A,B,C (16:64:4)")
    search.add_argument(
        "--tolerance", type=float, default=0.05, help="fraction of the way from the best loss to the mean's (0.05)"
    )
    search.add_argument("--choose", default="tolerance", help="tolerance (default), knee, pareto or budget")
    search.add_argument("--method", default="auto", help="auto (default), screen or hyperband")
    search.add_argument("--kind", default="dense", help="dense (default), convolutional, recurrent, ...")
    search.add_argument("--hidden-units", type=_widths, metavar="A,B", help="as for compress")
    search.add_argument("--max-epochs", type=int, default=30, help="passes of one full training (30)")
    search.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam (0.001)")
    search.add_argument("--seeds", type=int, default=3, help="trainings of each candidate (3)")
    search.add_argument("--max-bytes", type=int, metavar="BYTES", help="largest float32 .tflite file")
    search.add_argument("--max-latency", type=float, metavar="MS", help="longest time for one sample")
    search.add_argument("--sparsity", type=float, help="fraction of weights set to zero in each trial")
    search.add_argument("--criterion", metavar="NAME", help="which weights go first; see names")
    search.add_argument(
        "--workers", type=int, metavar="N", help="processes that share the trials of hyperband (default: one)"
    )
    search.add_argument("--key", help="which array of a .npz file")
    search.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    search.add_argument("--quiet", action="store_true", help="no progress lines")

    commands.add_parser(
        "names",
        help="what can be chosen by name: criteria, allocations, schedules, ...",
        description="Print every name that can stand for a criterion, an allocation, a schedule and so on.",
        allow_abbrev=False,
    )
    return parser


def _widths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: whole numbers like 128,64") from None


def _compress(arguments: dict[str, Any]) -> Any:
    from keras_aeprune import pipeline

    quiet, dry_run = arguments.pop("quiet"), arguments.pop("dry_run")
    if dry_run:
        arguments.pop("out")
        return pipeline.plan(arguments.pop("data"), **arguments)
    return pipeline.compress(arguments.pop("data"), arguments.pop("out"), progress=not quiet, **arguments)


def _prune(arguments: dict[str, Any]) -> Any:
    from keras_aeprune import pipeline

    quiet = arguments.pop("quiet")
    if arguments["epochs"] is None:
        arguments.pop("epochs")
    places = [arguments.pop(name) for name in ("model", "data", "out")]
    return pipeline.prune_file(*places, progress=not quiet, **arguments)


def _shrink(arguments: dict[str, Any]) -> Any:
    from keras_aeprune.pipeline.shrink_file import shrink_file

    quiet = arguments.pop("quiet")
    if arguments["epochs"] is None:
        arguments.pop("epochs")
    places = [arguments.pop(name) for name in ("model", "data", "out")]
    return shrink_file(*places, progress=not quiet, **arguments)


def _search(arguments: dict[str, Any]) -> Any:
    from keras_aeprune.pipeline.search_files import search_files

    quiet = arguments.pop("quiet")
    return search_files(arguments.pop("data"), arguments.pop("out"), progress=not quiet, **arguments)


def _names(arguments: dict[str, Any]) -> str:
    rooms = known_names()
    width = max(len(name) for members in rooms.values() for name in members)
    blocks = [
        "\n".join([room, *(f"  {name:<{width}}  {line}".rstrip() for name, line in members.items())])
        for room, members in rooms.items()
    ]
    return "\n\n".join(blocks)


def known_names() -> dict[str, dict[str, str]]:
    """What can be chosen by name.

    Returns:
        {room: {name: its description in one line}}, the names sorted.
    """
    from keras_aeprune import calibration, schedules
    from keras_aeprune.criteria import base as criteria
    from keras_aeprune.sparsity import allocation, patterns, regrowth

    registries = {
        "criteria": criteria._registry,
        "allocations": allocation._registry,
        "schedules": schedules.base.registry,
        "patterns": patterns._registry,
        "regrowth": regrowth._registry,
    }
    rooms = {room: {n: _line(held._members[n]) for n in held.names()} for room, held in registries.items()}
    rooms["calibration"] = {n: _line(type(calibration.source(n))) for n in calibration.names()}
    return rooms


def _line(member: type) -> str:
    """The first line of a class's description."""
    lines = (member.__doc__ or "").strip().splitlines()
    return lines[0].strip() if lines else ""


_COMMANDS = {"compress": _compress, "prune": _prune, "shrink": _shrink, "search": _search, "names": _names}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `keras-aeprune`; None takes them from the command line.

    Returns:
        The exit status.
    """
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _native_lines_aside():
        from keras_aeprune._validation import BudgetError, InputError
        from keras_aeprune.sparsity import SparsityNotReached

        try:
            print(_COMMANDS[command](arguments))
        except InputError as error:
            return _fail(command, error, 2)
        except (BudgetError, SparsityNotReached) as error:
            return _fail(command, error, 1)
        except KeyboardInterrupt:
            return _fail(command, "interrupted; the same command goes on from the last finished step", 130)
    return 0


@contextmanager
def _native_lines_aside() -> Iterator[None]:
    """Keep what TensorFlow's C++ code says about the processor off the terminal; show it after a failure.

    Python's own standard error goes where it always went.
    """
    sys.stderr.flush()
    python_stderr, before = sys.stderr, os.dup(2)
    with tempfile.TemporaryFile() as kept, os.fdopen(os.dup(2), "w", buffering=1) as shown:
        sys.stderr = shown
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(before, kept.read())
            raise
        finally:
            sys.stderr = python_stderr
            os.dup2(before, 2)
            os.close(before)


def _fail(command: str, error: object, status: int) -> int:
    print(f"keras-aeprune {command}: error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
