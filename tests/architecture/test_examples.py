"""Every public name has an example; the doctests run it."""

import inspect
from importlib import import_module

import pytest

import keras_aeprune as kap

ROOMS = [name for name in kap.__all__ if inspect.ismodule(getattr(kap, name))] + ["cli"]


def without_example(room):
    """Public names of this package's own whose description shows no use."""
    for name in room.__all__:
        thing = getattr(room, name)
        module = thing.__name__ if inspect.ismodule(thing) else getattr(thing, "__module__", "")
        if not module.startswith("keras_aeprune"):
            continue  # tfmot's, or a plain value
        if ">>> " not in (thing.__doc__ or ""):
            yield name


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_example(room):
    missing = list(without_example(import_module(f"keras_aeprune.{room}")))
    assert not missing, f"keras_aeprune.{room}: no '>>>' in the description of {', '.join(missing)}"


def test_a_name_without_an_example_is_found():
    class Bare:
        """A line."""

    class Borrowed(kap.sparsity.SparsityRow):
        pass

    for thing in (Bare, Borrowed):
        thing.__module__ = "keras_aeprune.room"
    room = type("room", (), {"__all__": ["Bare", "Borrowed", "numbers"], "Bare": Bare, "numbers": (1, 2)})
    room.Borrowed = Borrowed
    assert list(without_example(room)) == ["Bare", "Borrowed"]
