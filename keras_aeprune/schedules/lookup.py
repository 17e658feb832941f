"""A schedule from its name, its configuration, its class or itself."""

from __future__ import annotations

from typing import Any

from keras_aeprune._validation import InputError, refuse, shown
from keras_aeprune.schedules.base import PruningSchedule, make, registry
from keras_aeprune.schedules.relative import Relative

__all__ = ["get"]


def get(schedule: Any, **arguments: Any) -> PruningSchedule | Relative:
    """A schedule from whatever describes one.

    Args:
        schedule: a schedule (tfmot's own and a `Relative` included), the dict that its `get_config` returned,
            or a name or class, to be called with the arguments.
        **arguments: the constructor's, for a name or class.

    Returns:
        The schedule; the one that was given is returned as it is.

    Raises:
        InputError: for anything else, or arguments that do not fit.

    Example:
        >>> get("CosineDecay", initial_sparsity=0.0, final_sparsity=0.5, begin_step=0, end_step=9)
        CosineDecay(initial_sparsity=0.0, final_sparsity=0.5, begin_step=0, end_step=9, frequency=100)
        >>> get(get(_)) == _
        True
    """
    if isinstance(schedule, (str, type)):
        return make(registry.find(schedule), arguments)
    if arguments:
        raise refuse("arguments", sorted(arguments), "arguments with a name or a class only")
    if isinstance(schedule, (PruningSchedule, Relative)):
        return schedule
    if isinstance(schedule, dict):
        config = schedule.get("config")
        if not isinstance(config, dict):
            raise refuse("schedule", schedule, "a dict with class_name and config, as get_config() returns it")
        if schedule.get("class_name") == "Relative":
            return make(Relative, config)
        return make(registry.find(schedule.get("class_name")), config)
    raise InputError(
        f"schedule: got {shown(schedule)}, allowed: a tfmot or keras_aeprune PruningSchedule, a Relative, "
        f"the get_config() of one, or one of {', '.join(registry.names())} with its arguments"
    )
