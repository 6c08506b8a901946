"""Wire: any result or error as JSON data, and back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max import errors
from max.errors import InvalidAnswers, MaxError, Mismatch, ProtocolError, UnknownName
from max.model.entities import Entity, Field, Many, Ref, Scope
from max.model.schema import Schema
from max.model.struct import Struct
from max.model.tagged_json import is_data
from max.model.text_search import Marked
from max.model.values import InvalidValue
from max.serve import wire
from max.serve.wire import HOMES, Wire
from tests.serve.alike import same
from tests.strategies import fitting, schemas


class Owner(Entity):
    """A person."""

    name: Field[str] = Field()
    boxes: Many[Box] = Many()


class Box(Entity):
    """A box, which someone owns."""

    label: Field[str | None] = Field()
    owner: Field[Ref[Owner] | None] = Field()


SCHEMA = Schema([Owner, Box], roots=[Owner])


def crossed(value: Any) -> Any:
    """A value as it comes out at the other side, whose classes are its own."""
    ours, theirs = Wire(), Wire()
    line = json.dumps(ours.encode_whole(value), allow_nan=False)
    line.encode("ascii")
    return theirs.decode_whole(json.loads(line))


# -- P18: any value, any error --------------------------------------------------------------

any_text = st.text(max_size=8) | st.text(st.characters(categories=["Cs", "Cc", "Lu"]), max_size=4)
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
odd = st.sampled_from(
    [float("nan"), float("inf"), -0.0, 10**1300, "\ud83d\ude00", "\ud83d", "a\0b", {"$ref": "no ref"}, {1: 2}]
)
plain = st.one_of(
    odd,
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**5000), 10**5000),
    st.floats(),
    any_text,
    st.binary(max_size=8),
    st.datetimes(timezones=st.none() | st.just(UTC) | zones),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.builds(Ref, st.sampled_from([Owner, Box]), any_text, st.builds(Scope, st.none() | any_text)),
    st.sampled_from([Owner, Box, Box.owner, Box.owner.to(Owner.name), Owner.boxes]),
    st.builds(lambda t: Owner(t, name=t), any_text),
    st.builds(lambda t: Box(t, owner=Ref(Owner, t)), any_text),
    st.builds(InvalidValue, any_text, any_text, any_text),
    st.builds(Marked, any_text, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2)),
)
keys = st.none() | st.booleans() | st.integers() | any_text | st.tuples(any_text, st.integers())
anything = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["$ref", "$dict", "$x"]) | keys, inner, max_size=3),
        st.dictionaries(any_text, inner, max_size=3).map(MappingProxyType),
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(anything)
def test_p18_any_value_crosses_unchanged_in_value_and_type(value: Any) -> None:
    assert same(value, crossed(value))


@given(schemas(), st.data())
def test_p18_records_of_any_schema_cross_with_what_is_not_loaded_still_not_loaded(
    schema: Schema, data: st.DataObject
) -> None:
    entity = data.draw(st.sampled_from(list(schema.entities.values())))
    types = entity.types()
    loaded = data.draw(st.sets(st.sampled_from(sorted(types)))) if types else set()
    record = entity(data.draw(st.text(min_size=1)), **{n: data.draw(fitting(types[n])) for n in loaded})
    found = crossed([record, entity])
    assert same([record, entity], found)


KINDS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, MaxError)]


@given(st.sampled_from(KINDS), any_text, any_text, st.dictionaries(any_text, anything, max_size=3), st.data())
def test_p18_any_error_crosses_with_its_class_code_facts_and_attributes(
    kind: type[MaxError], message: str, hint: str, facts: dict[str, Any], data: st.DataObject
) -> None:
    error = kind.__new__(kind, message)
    own = data.draw(st.dictionaries(st.text("abc", min_size=1), anything, max_size=2))
    vars(error).update({"message": message, "hint": hint, "data": facts, **own})
    found = crossed(error)
    assert isinstance(found, kind)
    assert same(error, found)


# -- what is certain of single things -------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        -float("inf"),
        -0.0,
        2**70,
        10**4400,
        "\ud83d\ude00",
        "a\0b",
        {"$ref": "no ref"},
        {"$dict": 1},
        {1: 2, (1, "x"): None},
        (),
        b"\x00\xff",
        frozenset({1, "a"}),
        {3, 1, 2},
        Decimal("1.10"),
        date(1, 1, 1),
        time(1, 2, 3),
        datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
        timedelta(days=-1, microseconds=7),
        Scope("acme:default"),
        Ref(Box, "1").within("acme:default"),
        UnknownName("field", "titel", ["title"]),
        InvalidAnswers("these do not fit", [Mismatch("users", "an integer", "x", secret=True)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_with_a_pitfall_crosses(value: Any) -> None:
    assert same(value, crossed(value))


def test_refs_to_one_entity_are_equal_to_it_at_the_other_side() -> None:
    box, owner = crossed([Box("1", owner=Owner.ref("7")), Owner("7", name="Ada")])
    assert box.owner == Ref.of(owner)
    assert type(owner) is box.owner.entity


def test_a_schema_that_crossed_once_is_known_by_its_digest() -> None:
    ours, theirs = Wire(), Wire()
    schema = Schema.from_json(SCHEMA.to_json())
    made: dict[str, Any] = dict(schema.entities)
    first = ours.encode_whole(made["Box"]("1", label="a"))
    box = theirs.decode_whole(first)
    later = ours.encode(made["Owner"]("7", name="Ada"))
    owner = theirs.decode(later.data, later.schemas)
    assert (owner.id, owner.name) == ("7", "Ada")
    assert type(box) is theirs.schemas.schema(later.schemas[0]).entities["Box"]


def test_entities_of_two_schemas_in_one_answer_keep_their_own() -> None:
    one, two = (Schema.from_json({**SCHEMA.to_json(), "connector": name}) for name in ("a", "b"))
    refs = [one.entities["Box"].ref("1"), two.entities["Box"].ref("1")]
    found = crossed(refs)
    assert same(refs, found)
    assert found[0].entity is not found[1].entity


def test_an_error_of_a_connectors_own_class_comes_as_the_class_of_its_code() -> None:
    class Full(errors.QuotaExceeded):
        pass

    found = crossed(Full("no more today", retry_after=60.0))
    assert (type(found), found.retry_after, found.message) == (errors.QuotaExceeded, 60.0, "no more today")


def test_an_error_with_an_unknown_code_is_a_max_error_that_keeps_it() -> None:
    data = {"code": "weather.rain", "message": "wet", "hint": "wait", "data": {"mm": 7}}
    found = Wire().decode({"$error": data})
    assert type(found) is MaxError
    assert found.describe() == data


class Stranger(Struct):
    """A class that is in no table."""

    size: int


@pytest.mark.parametrize(
    "value", [Stranger(1), object(), sys, print, Path("x")], ids=lambda one: type(one).__name__
)
def test_a_value_of_a_class_that_is_in_no_table_is_refused_where_it_is_made(value: Any) -> None:
    with pytest.raises(TypeError, match="may not cross"):
        Wire().encode(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(TypeError, match="nested too deep"):
        Wire().encode(circle)


@pytest.mark.parametrize(
    "data",
    [
        {"$Path": "/etc/passwd"},
        {"$os.system": "true"},
        {"$__class__": []},
        {"$SyncRun": {"id": "x"}},
        {"$SyncRun": 7},
        {"$Status": "sunny"},
        {"$datetime": "yesterday"},
        {"$entity": "Box", "values": {}},
        {"$ref": "Box", "id": "1", "scope": None, "of": 3},
        {"$bytes": 7},
        {"$tuple": 7},
        {"$dict": [1]},
        {"$error": {"code": "usage"}},
        {"$error": []},
    ],
    ids=repr,
)
def test_what_this_version_cannot_read_is_an_error_in_words(data: Any) -> None:
    with pytest.raises(ProtocolError) as raised:
        Wire().decode(data)
    assert "the answer" in raised.value.message


# -- the table ------------------------------------------------------------------------------


def classes() -> Iterator[tuple[str, type]]:
    for name, module in HOMES.items():
        yield name, getattr(import_module(f"max.{module}"), name)


def test_every_class_of_the_table_is_an_enumeration_or_consists_of_fields() -> None:
    wrong = [name for name, kind in classes() if not (issubclass(kind, Enum) or is_data(kind))]
    assert wrong == []


def test_the_table_names_each_class_where_it_is_defined() -> None:
    wrong = [name for name, kind in classes() if kind.__module__ != f"max.{HOMES[name]}"]
    assert wrong == []


def test_what_a_class_of_the_table_holds_is_in_it_too() -> None:
    known = wire.classes()
    held = set[Any]()
    for kind in [one for one in known.values() if is_data(one)]:
        for hint in get_type_hints(kind, localns={**known, "Entity": Entity}).values():
            held |= {*parts(hint)}
    crossing = {one for one in held if isinstance(one, type) and (is_data(one) or issubclass(one, Enum))}
    assert crossing - {*known.values(), StrEnum} == set()  # a schema that is stored has no class of choices


def parts(hint: Any) -> Iterator[Any]:
    """The classes in an annotation."""
    yield get_origin(hint) or hint
    for inside in get_args(hint):
        yield from parts(inside)
