"""What several commands share."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

__all__ = ["Parser", "add_data_options", "command", "drop", "names", "widths"]


class Parser(argparse.ArgumentParser):
    """Errors in one line, like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that trains."""
    parser.add_argument("--key", help="which array of a .npz file")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--epochs", type=int, help="passes over the data")
    parser.add_argument("--quiet", action="store_true", help="no progress lines")


def command(commands: Any, name: str, *, help: str, description: str) -> argparse.ArgumentParser:
    """A new subcommand."""
    return commands.add_parser(name, help=help, description=description, allow_abbrev=False)


def widths(text: str) -> list[int]:
    """Whole numbers from "128,64"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: whole numbers like 128,64") from None


def drop(text: str) -> tuple[str, float]:
    """A metric and a number from "accuracy=0.01"."""
    metric, _, value = text.partition("=")
    try:
        return metric, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: METRIC=NUMBER like accuracy=0.01") from None


def names(text: str) -> tuple[str, ...]:
    """Names from "encoder,decoder"."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
