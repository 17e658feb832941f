"""The command that lists what can be chosen by name."""

from __future__ import annotations

from typing import Any

from keras_aeprune._registry import Registry
from keras_aeprune.cli.options import command

__all__ = ["COMMANDS", "known_names"]


def add_names(commands: Any) -> None:
    """Options of `names`."""
    command(
        commands,
        "names",
        help="what can be chosen by name: criteria, allocations, schedules, ...",
        description="Print every name that can stand for a criterion, an allocation, a schedule and so on.",
    )


def run_names(arguments: dict[str, Any]) -> str:
    """Run `names`."""
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

    Example:
        >>> found = known_names()
        >>> "magnitude" in found["criteria"], list(found["regrowth"]), list(found["calibration"])[:2]
        (True, ['rigl', 'set'], ['cut', 'decoder'])
    """
    from keras_aeprune import calibration, schedules
    from keras_aeprune.criteria import base as criteria
    from keras_aeprune.sparsity import allocation, patterns, regrowth

    registries: dict[str, Registry[Any]] = {
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


COMMANDS = {"names": (add_names, run_names)}
