"""keras-aeprune: one subcommand per job, no logic of its own.

Exit status: 0 done; 2 input that cannot be used; 1 a limit that cannot be met or a target that was missed.

- `jobs`     compress, prune, shrink, search
- `files`    export, inspect, report, pack, unpack
- `names`    what can be chosen by name
- `options`  what they share
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from keras_aeprune._version import __version__
from keras_aeprune.cli import files, jobs, names
from keras_aeprune.cli.names import known_names
from keras_aeprune.cli.options import Parser

__all__ = ["known_names", "main"]

_COMMANDS = {**jobs.COMMANDS, **files.COMMANDS, **names.COMMANDS}


def _parser() -> Parser:
    parser = Parser(
        prog="keras-aeprune",
        description="Prune autoencoders and other Keras 3 models and export checked .tflite files.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"keras-aeprune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add, _ in _COMMANDS.values():
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `keras-aeprune`; None takes them from the command line.

    Returns:
        The exit status: 0 done, 2 input that cannot be used, 1 a limit or target that was missed, 130 interrupted.

    Example:
        >>> main(["inspect", "missing.keras"])  # as `keras-aeprune inspect missing.keras` in a shell
        2
    """
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _native_lines_aside():
        from keras_aeprune._validation import BudgetError, InputError
        from keras_aeprune.export.check import ExportMismatch
        from keras_aeprune.export.convert import ConversionError
        from keras_aeprune.sparsity import SparsityNotReached

        try:
            print(_COMMANDS[command][1](arguments))
        except InputError as error:
            return _fail(command, error, 2)
        except (BudgetError, ConversionError, ExportMismatch, SparsityNotReached) as error:
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
