import pytest

from keras_aeprune._registry import Registry
from keras_aeprune._validation import InputError


class Base:
    def get_config(self):
        return dict(vars(self))


def make():
    registry = Registry("thing", Base)

    @registry.register("one")
    class One(Base):
        def __init__(self, size=1):
            self.size = size

    return registry, One


def test_a_member_is_found_by_name_class_config_and_itself():
    registry, one = make()
    assert isinstance(registry.get("one"), one)
    assert isinstance(registry.get(one), one)
    assert registry.get({"class_name": "one", "config": {"size": 3}}).size == 3
    member = one(size=4)
    assert registry.get(member) is member
    assert registry.serialize(member) == {"class_name": "one", "config": {"size": 4}}


@pytest.mark.parametrize("identifier", ["two", 3, None, {"class_name": "two"}])
def test_anything_else_is_refused_with_the_known_names(identifier):
    registry, _ = make()
    with pytest.raises(InputError, match="thing: got .*, allowed: one"):
        registry.get(identifier)


def test_a_name_cannot_be_taken_twice():
    registry, _ = make()
    with pytest.raises(InputError, match="'one' is already registered"):
        registry.register("one")(Base)


def test_an_unregistered_member_cannot_be_serialized():
    registry, _ = make()
    with pytest.raises(InputError, match="is not registered; known: one"):
        registry.serialize(Base())
