"""Filters over every kind of field, through refs, lists and collections, against a naive evaluation.

The rows and the filters are drawn; ``fits`` reads a filter as its documentation does, over Python's
own objects.  Every filter also goes through its text.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.core import Engine
from max.errors import UsageError
from max.model.delivery import Delivery
from max.model.entities import Entity, Field, FieldOf, Many, ManyOf, Ref, values_of
from max.model.filter_language import parse
from max.model.filter_text import filter_text
from max.model.filters import AllOf, AnyOf, Compare, Filter, Not, Op, Some
from max.model.query import Query, check_filter
from max.model.schema import Schema
from max.model.values import Json, Kind
from max.storage.sqlite import MEMORY
from tests.contract.places import Store, using


class City(Entity):
    """Where people live; it has a twin."""

    name: Field[str | None] = Field()
    twin: Field[Ref[City] | None] = Field()
    clubs: Many[Club] = Many(by=lambda: Club.city)


class Person(Entity):
    """One of each kind of field."""

    name: Field[str] = Field()
    age: Field[int | None] = Field()
    weight: Field[float | None] = Field()
    active: Field[bool | None] = Field()
    seen: Field[datetime | None] = Field()
    born: Field[date | None] = Field()
    tags: Field[list[str] | None] = Field()
    extra: Field[Json] = Field()
    home: Field[Ref[City] | None] = Field()


class Club(Entity):
    """Its members are stored apart; its events say which club is theirs."""

    title: Field[str] = Field()
    city: Field[Ref[City] | None] = Field()
    members: Many[Person] = Many()
    events: Many[Event] = Many(by=lambda: Event.club)


class Event(Entity):
    """A club's."""

    title: Field[str] = Field()
    club: Field[Ref[Club] | None] = Field()


pytestmark = pytest.mark.usefixtures("either")

T = TypeVar("T")
ENTITIES: list[type[Entity]] = [City, Person, Club, Event]
SCHEMA = Schema(ENTITIES, roots=[City])
AT = datetime(2025, 7, 31, 23, 59, 59, 999_999, tzinfo=UTC)
IDS = st.sampled_from("abc")
WORDS = st.sampled_from(["", "a", "B", "b", "ä", "Ä", "5", "true", "null", "100%", "x y", 'say "hi"', "-7d"])
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: WORDS,
    Kind.INTEGER: st.sampled_from([-1, 0, 5, 2**53 + 1, 2**63 - 1]),
    Kind.REAL: st.sampled_from([-0.5, 0.0, 5.0, 1e300]),
    Kind.BOOLEAN: st.booleans(),
    Kind.DATETIME: st.sampled_from([AT, AT + timedelta(microseconds=1), AT - timedelta(days=31)]),
    Kind.DATE: st.sampled_from([date(2025, 7, 1), date(2025, 7, 31), date(2025, 8, 1)]),
}
SCALARS = st.one_of(st.none(), st.booleans(), st.sampled_from([0, 1, 5, 5.0, 0.5, 10**30]), WORDS)
LISTS = {"tags": st.lists(WORDS, max_size=3), "extra": st.one_of(SCALARS, st.lists(SCALARS | st.just([5])))}


def values(field: FieldOf[Any, Any]) -> st.SearchStrategy[Any]:
    """Values that a field may have, None apart."""
    if field.name == "id":
        return IDS
    if field.type.kind is Kind.REF:
        return IDS.map((field.type.target or City).ref)
    return LISTS[field.name] if field.name in LISTS else VALUES[field.type.kind]


@st.composite
def records(draw: st.DrawFn, entity: type[Entity]) -> list[Any]:
    """Some records of an entity with some of their fields."""
    found = []
    for id in draw(st.sets(IDS)):
        drawn = {
            name: draw(st.one_of(st.none(), value) if holds.optional else value)
            for name, holds in entity.types().items()
            for value in [values(FieldOf(entity, name))]
            if draw(st.booleans())
        }
        found.append(entity(id, **drawn))
    return found


class World:
    """Every record by entity and id, and who is a member of which club."""

    def __init__(self, records: Sequence[Entity], members: set[tuple[str, str]]) -> None:
        self.records = {(type(one), one.id): one for one in records}
        self.members = {pair for pair in members if (Club, pair[0]) in self.records}

    def all(self, entity: type[Entity]) -> list[Entity]:
        return [one for (kind, _), one in self.records.items() if kind is entity]

    def follow(self, record: Entity | None, refs: Sequence[FieldOf[Any, Any]]) -> Entity | None:
        for field in refs:
            ref = values_of(record).get(field.name) if record else None
            record = self.records.get((ref.entity, ref.id)) if ref else None
        return record

    def is_empty(self, record: Entity | None, refs: Sequence[FieldOf[Any, Any]]) -> bool:
        """Whether upstream says that one of the refs is empty: then a field behind it is."""
        for field in refs:
            if record is None or field.name not in values_of(record):
                return False
            if values_of(record)[field.name] is None:
                return True
            record = self.follow(record, [field])
        return False

    def children(self, many: ManyOf[Any, Any], parent: str) -> list[Entity]:
        if many.name == "members":
            return [one for one in self.all(Person) if (parent, one.id) in self.members]
        back = {"clubs": "city", "events": "club"}[many.name]
        refs = [(one, values_of(one).get(back)) for one in self.all(many.child)]
        return [one for one, ref in refs if ref and ref.id == parent]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    found = [one for entity in ENTITIES for one in draw(records(entity))]
    return World(found, draw(st.sets(st.tuples(IDS, IDS), max_size=4)))


COMPARE: dict[Op, Callable[[Any, Any], bool]] = {
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
    Op.CONTAINS: lambda value, text: text.casefold() in value.casefold(),
    Op.STARTS_WITH: lambda value, text: value.startswith(text),
}


def same(one: Any, other: Any) -> bool:
    """Equality of JSON: true is not 1."""
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def fits(record: Entity | None, condition: Filter[Any], world: World) -> bool:
    """The naive reading of a filter: every condition is true or false."""
    if isinstance(condition, Not):
        return not fits(record, condition.part, world)
    if isinstance(condition, AllOf):
        return all(fits(record, part, world) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any(fits(record, part, world) for part in condition.parts)
    if isinstance(condition, Some):
        parent = world.follow(record, condition.path)
        children = world.children(condition.many, parent.id) if parent else []
        return any(fits(child, condition.part, world) for child in children)
    assert isinstance(condition, Compare)
    owner = world.follow(record, condition.path[:-1])
    name, wanted = condition.path[-1].name, condition.value
    if owner is not None and name in values_of(owner):
        value = values_of(owner)[name]
    elif world.is_empty(record, condition.path[:-1]):
        value = None
    else:
        return False
    if condition.op is Op.HAS:
        return isinstance(value, list) and any(same(item, wanted) for item in value)
    if condition.op is Op.IS_LOADED:
        return True
    if condition.op is Op.IN:
        return any(same(value, one) for one in wanted)
    if condition.op in (Op.EQ, Op.NE):
        return same(value, wanted) is (condition.op is Op.EQ)
    return value is not None and COMPARE[condition.op](value, wanted)


# -- drawn filters ----------------------------------------------------------------------------


@st.composite
def conditions(draw: st.DrawFn, entity: type[Entity], depth: int = 0) -> Filter[Any]:
    """One condition on an entity, perhaps through refs, of a list or of a collection."""
    refs: tuple[FieldOf[Any, Any], ...] = ()
    owner = entity
    while len(refs) < 3 and draw(st.integers(0, 2)) == 0:
        ways = [name for name, holds in owner.types().items() if holds.target]
        if not ways:
            break
        step: FieldOf[Any, Any] = FieldOf(entity, draw(st.sampled_from(ways)), refs[-1] if refs else None)
        refs, owner = (*refs, step), step.type.target or City
    if owner.children() and depth < 2 and draw(st.booleans()):
        many: ManyOf[Any, Any] = ManyOf(owner, draw(st.sampled_from(list(owner.children()))))
        return Some(refs, many, draw(filters(many.child, depth + 1)))
    name = draw(st.sampled_from(["id", *owner.types()]))
    field: FieldOf[Any, Any] = FieldOf(entity, name, refs[-1] if refs else None)
    return draw(comparisons(field))


@st.composite
def comparisons(draw: st.DrawFn, field: FieldOf[Any, Any]) -> Filter[Any]:
    path, value, kind = field.path, values(field), field.type.kind
    ops = [Op.EQ, Op.NE, Op.IN, Op.IS_LOADED]
    if kind is Kind.JSON:
        ops = [Op.EQ, Op.NE, Op.HAS, Op.HAS, Op.IS_LOADED]
    elif kind not in (Kind.BOOLEAN, Kind.REF):
        ops += [Op.LT, Op.LE, Op.GT, Op.GE]
    if kind is Kind.TEXT:
        ops += [Op.CONTAINS, Op.STARTS_WITH]
    op = draw(st.sampled_from(ops))
    if op is Op.IS_LOADED:
        return Compare(path, op)
    if op is Op.HAS:
        return Compare(path, op, draw(WORDS if field.type.shape == "list[str]" else SCALARS))
    if op is Op.IN:
        return Compare(path, op, tuple(draw(st.lists(st.none() | value, min_size=1, max_size=3))))
    return Compare(path, op, draw(st.none() | value if op in (Op.EQ, Op.NE) else value))


def filters(entity: type[Entity], depth: int = 0) -> st.SearchStrategy[Filter[Any]]:
    """Any combination of conditions on an entity."""
    return st.recursive(
        conditions(entity, depth),
        lambda inner: (
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: AllOf(tuple(parts)))
            | st.lists(inner, min_size=2, max_size=3).map(lambda parts: AnyOf(tuple(parts)))
            | inner.map(Not)
        ),
        max_leaves=3,
    )


def run(body: Callable[[Store], Awaitable[T]]) -> T:
    """What a body gives on an empty store."""
    return using(MEMORY, body, SCHEMA)


async def stored(store: Store, world: World) -> None:
    """Put a world into a store."""
    await store.engine.store(*world.records.values())
    for club in world.all(Club):
        members = [Person(one.id) for one in world.children(Club.members, club.id)]
        await store.page(Ref.of(club), Club.members, *members)


async def found(engine: Engine, condition: Filter[Any], entity: type[Entity]) -> set[str]:
    return {one.id for one in await engine.query(entity).where(condition).all()}


def nesting(condition: Filter[Any]) -> int:
    parts = getattr(condition, "parts", [getattr(condition, "part", None)])
    return 0 if parts == [None] else 1 + max(map(nesting, parts))


@settings(deadline=None, max_examples=150)
@given(worlds(), st.sampled_from(ENTITIES).flatmap(lambda one: st.tuples(st.just(one), filters(one))))
def test_a_filter_of_any_kind_finds_what_it_means(
    world: World, asked: tuple[type[Entity], Filter[Any]]
) -> None:
    entity, condition = asked
    if nesting(condition) > 7:
        return

    async def body(store: Store) -> tuple[set[str], set[str], int]:
        await stored(store, world)
        count = await store.engine.query(entity).where(condition).count()
        return (
            await found(store.engine, condition, entity),
            await found(store.engine, ~condition, entity),
            count,
        )

    those, others, count = run(body)
    everything = {one.id for one in world.all(entity)}
    assert those == {one.id for one in world.all(entity) if fits(one, condition, world)}
    assert others == everything - those, "NOT is the exact complement"
    assert count == len(those)
    check_filter(entity, condition)
    assert parse(filter_text(condition), entity, now=None) == condition


# -- collections ------------------------------------------------------------------------------

ADA, BOB = Person.ref("ada"), Person.ref("bob")


async def two_clubs(store: Store) -> Engine:
    """Ada is a member of both clubs, Bob of one; one of them has an event."""
    await store.engine.store(City("c", name="Oslo"), Person("ada", name="Ada"), Person("bob", name="Bob"))
    await store.engine.store(Club("x", title="X", city=City.ref("c")), Club("y", title="Y", city=None))
    await store.engine.store(Event("e", title="Fair", club=Club.ref("x")))
    await store.page(Club.ref("x"), Club.members, Person("ada"), Person("bob"))
    await store.page(Club.ref("y"), Club.members, Person("ada"))
    return store.engine


@pytest.mark.parametrize(
    ("entity", "text", "expected"),
    [
        (Club, "members HAS ada", {"x", "y"}),
        (Club, "members HAS bob", {"x"}),
        (Club, "members HAS (id IS NOT NULL)", {"x", "y"}),
        (Club, "members HAS zed", set()),
        (Club, "members.name HAS Bob", {"x"}),
        (Club, "NOT members.name HAS Bob", {"y"}),
        (Club, "members HAS (name ~= A AND NOT name = Bob)", {"x", "y"}),
        (Club, "events HAS e", {"x"}),
        (Club, "events.title HAS Fair", {"x"}),
        (City, "clubs.members HAS bob", {"c"}),
        (City, "clubs.title HAS Y", set()),
        (Event, "club.members.name HAS Bob", {"e"}),
        (Event, "club.city.clubs.events HAS e", {"e"}),
        (Club, "city.clubs HAS x", {"x"}),
    ],
)
def test_has_goes_through_collections_of_both_kinds(
    entity: type[Entity], text: str, expected: set[str]
) -> None:
    async def body(store: Store) -> set[str]:
        engine = await two_clubs(store)
        return {one.id for one in await engine.query(entity).where(text).all()}

    assert run(body) == expected


def test_a_child_that_was_removed_or_left_is_no_longer_had() -> None:
    async def body(store: Store) -> list[set[str]]:
        engine = await two_clubs(store)
        asked = [Club.members.has(Person.id.eq("ada")), Club.members.has(Person.name.eq("Bob"))]
        await store.page(Club.ref("y"), Club.members, at=200.0)
        left = [await found(engine, one, Club) for one in asked]
        await store.receive(Delivery((), 300.0, removed=[BOB, Event.ref("e")]))
        asked.append(Club.events.has(Event.title.eq("Fair")))
        return [*left, *[await found(engine, one, Club) for one in asked]]

    assert run(body) == [{"x"}, {"x"}, {"x"}, set(), set()]


def test_ages_may_be_asked_of_children() -> None:
    async def body(store: Store) -> set[str]:
        engine = await two_clubs(store)
        await engine.store(Person("bob", name="Bob"), requested_at=1_000.0)
        return await found(engine, Club.members.has(Person.name.synced_since(1_000.0)), Club)

    assert run(body) == {"x"}


@pytest.mark.parametrize(
    ("entity", "condition", "error", "words"),
    [
        (City, Club.members.has(Person.name.eq("x")), TypeError, "Club.members is not a collection of City"),
        (Club, Some((), Club.members, Club.title.eq("x")), TypeError, "Club.title is not a field of Person"),
        (Club, Club.members.has(Compare(Person.age.path, Op.EQ, "x")), UsageError, "Person.age holds"),
        (Person, Compare(Person.tags.path, Op.HAS, 5), UsageError, "Person.tags holds"),
        (Person, Compare(Person.name.path, Op.HAS, "x"), UsageError, "Person.name holds"),
        (Person, Compare(Person.extra.path, Op.HAS, [1]), UsageError, "Person.extra holds"),
    ],
)
def test_a_membership_that_cannot_be_meant_is_refused_at_once(
    entity: type[Entity], condition: Filter[Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Query(entity).where(condition)


EXTRAS: dict[str, Json] = {
    "true": [True],
    "one": [1],
    "float": [1.0],
    "text": ["1"],
    "null": [None],
    "nested": [[1], {"a": 1}],
    "huge": [10**30],
    "hugest": [1, 10**400],
    "beyond": [2**63, 0.5],
    "next": ["a", 2**63 + 1],
    "below": [-(2**63) - 1],
    "lowest": [-(2**63)],
    "wide": [2.0**63, 2.0**53],
    "empty": [],
    "scalar": 1,
    "object": {"a": 1},
    "nothing": None,
}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (True, {"true"}),
        (1, {"one", "float", "hugest"}),
        (1.0, {"one", "float", "hugest"}),
        ("1", {"text"}),
        (None, {"null"}),
        (10**30, {"huge"}),
        (10**30 + 1, set()),
        (10**400, {"hugest"}),
        (2**63, {"beyond", "wide"}),
        (2.0**63, {"beyond", "wide"}),
        (2**63 + 1, {"next"}),
        (2**63 + 3, set()),
        (2**53, {"wide"}),
        (-(2**63), {"lowest"}),
        (-(2.0**63), {"lowest"}),
        (-(2**63) - 1, {"below"}),
        (0.5, {"beyond"}),
        (False, set()),
        ("a", {"next"}),
        (str(10**30), set()),
    ],
    ids=lambda one: None if isinstance(one, set) else f"{one!r:.30}",
)
def test_an_item_of_a_list_has_its_own_type_and_only_a_list_has_items(item: Json, expected: set[str]) -> None:
    async def body(store: Store) -> set[str]:
        await store.engine.store(*(Person(id, extra=value) for id, value in EXTRAS.items()))
        return await found(store.engine, Compare(Person.extra.path, Op.HAS, item), Person)

    assert run(body) == expected
