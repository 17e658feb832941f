"""Get, serialize and deserialize for every room whose members are chosen by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from keras_aeprune._validation import InputError, shown


class Configured(Protocol):
    """What is made from its configuration: `type(member)(**member.get_config())` equals it."""

    def get_config(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=Configured)
C = TypeVar("C", bound=type[Any])


class Registry(Generic[T]):
    """Members of one room by name.

    Args:
        kind: what a member is called in messages, for example "criterion".
        base: the class that every member derives from.
    """

    def __init__(self, kind: str, base: type[T]):
        self.kind = kind
        self.base = base
        self._members: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator that makes a member known under `name`.

        Example:
            >>> tables = Registry("table", dict)
            >>> @tables.register("empty")
            ... class Empty(dict):
            ...     pass
            >>> tables.names(), tables.get("empty")
            (['empty'], {})
        """

        def add(cls: C) -> C:
            if name in self._members and self._members[name] is not cls:
                raise InputError(f"{self.kind} {name!r} is already registered by {self._members[name]}")
            self._members[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """The known names, sorted.

        Example:
            >>> from keras_aeprune import criteria
            >>> criteria.names()[:3]
            ['activation_entropy', 'activation_mean', 'activation_variance']
        """
        return sorted(self._members)

    def get(self, identifier: Any) -> T:
        """A member from its name, its config (a dict with class_name and config), its class or itself."""
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, type) and issubclass(identifier, self.base):
            return identifier()
        if isinstance(identifier, str) and identifier in self._members:
            return self._members[identifier]()
        if isinstance(identifier, dict):
            return self.deserialize(identifier)
        raise InputError(
            f"{self.kind}: got {shown(identifier)}, allowed: {', '.join(self.names())}, or an instance of "
            f"{self.base.__name__} (own ones: subclass it and decorate it with register(name))"
        )

    def serialize(self, member: T) -> dict[str, Any]:
        """Plain JSON values from which `deserialize` makes an equal member."""
        for name, cls in self._members.items():
            if type(member) is cls:
                return {"class_name": name, "config": member.get_config()}
        raise InputError(f"{self.kind}: {shown(member)} is not registered; known: {', '.join(self.names())}")

    def deserialize(self, config: dict[str, Any]) -> T:
        """The member that `serialize` described."""
        name = config.get("class_name")
        if name not in self._members:
            raise InputError(f"{self.kind}: got {shown(name)}, allowed: {', '.join(self.names())}")
        return self._members[name](**config.get("config", {}))
