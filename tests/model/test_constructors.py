"""Constructors that are written for an entity: they mean what the inherited one means."""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.errors import FieldNotLoaded
from max.model.constructors import write_constructor
from max.model.entities import Entity, Field, Many, Ref, values_of
from max.model.mismatches import check_entity
from max.model.values import Json


class Person(Entity):
    name: Field[str] = Field()


class Note(Entity):
    text: Field[str | None] = Field()
    self: Field[Ref[Person] | None] = Field()  # these are names for which a constructor has uses
    entity: Field[Ref[Person] | None] = Field()
    type: Field[str] = Field()
    writer: Field[Ref[Person] | None] = Field()
    data: Field[Json] = Field()


class Written(Note):
    parts: Many[Person] = Many()


write_constructor(Written)
VALUES: list[object] = [
    None,
    "a",
    1,
    [],
    Person.ref("1"),
    Ref(Person, cast("str", 1)),
    Ref(Note, "1"),
    Person("1"),
]
VALUES += [Person.ref("1").within("other"), "1", ...]
NAMES = ["text", "self", "entity", "type", "writer", "data", "parts", "other"]
GIVEN = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, st.sampled_from(VALUES)))


def outcome(entity: type[Entity], id: Any, given: dict[str, Any]) -> list[Any]:
    """Everything that can be seen of what a constructor makes of some values, or its refusal."""
    try:
        made = entity(id, **given)
    except TypeError as error:
        return [str(error).replace("Written", "Note").partition(";")[0]]
    values = values_of(made)
    wrong = [(one.expected, one.actual) for one in check_entity(made)]
    copies = [values_of(copy.deepcopy(entity(id, **given))), values_of(pickle.loads(pickle.dumps(made)))]
    assert made == entity(id, **given) == copy.copy(made)
    return [dict(values), list(values), repr(made).replace("Written", "Note"), wrong, *map(repr, copies)]


@given(st.sampled_from(["1", "", 1, None]), GIVEN)
def test_p13_a_written_constructor_makes_and_refuses_what_the_inherited_one_does(
    id: Any, given: dict[str, Any]
) -> None:
    given = {name: given[name] for name in NAMES if name in given}
    assert outcome(Written, id, given) == outcome(Note, id, given)


def test_what_was_not_given_is_not_loaded_and_a_ref_is_a_ref() -> None:
    note = Written("1", writer=Person.ref("ada"))
    assert note._kept is None  # it was written
    assert note.writer == Person.ref("ada")
    assert (note.id, note.to_dict()) == ("1", {"id": "1", "writer": "ada"})
    with pytest.raises(FieldNotLoaded):
        _ = note.text


def test_a_subclass_has_its_own_fields_with_and_without_a_constructor_of_its_own() -> None:
    class Longer(Written):
        more: Field[int] = Field()

    given: dict[str, Any] = {"text": "a", "more": 1, "writer": Person.ref("1")}
    inherited, early = values_of(Longer("1", **given)), Longer("1", text="a", writer=None)
    write_constructor(Longer)
    assert early == Longer("1", text="a", writer=None)
    made = Longer("1", **given)
    assert made._given is not None
    assert values_of(made) == inherited == {**given, "id": "1"}


def test_a_constructor_of_the_author_and_a_field_that_is_no_parameter_are_left_alone() -> None:
    class Own(Note):
        def __init__(self, id: str) -> None:
            super().__init__(id, text="own")

    class Kept(Own):
        """It inherits the author's."""

    declared = {"from": Field(), "__annotations__": {"from": "Field[str]"}}
    keyword: type[Entity] = type("Keyword", (Entity,), declared)
    for entity in (Own, Kept, keyword):
        before = entity.__init__
        write_constructor(entity)
        assert entity.__init__ is before
    assert Kept("1").text == "own"
    assert values_of(keyword("1", **{"from": "a"})) == {"from": "a", "id": "1"}
