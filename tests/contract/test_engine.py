from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import FieldNotLoaded, InvalidCursor, InvalidEntity, NotFound, UnknownName, UsageError
from max.model.delivery import Delivery
from max.model.entities import REFS, Entity, FieldOf, Ref, values_of
from max.model.filters import AllOf, AnyOf, Compare, Filter, Not, Op
from max.model.mismatches import check_entity
from max.model.query import Query, QueryPage
from max.model.schema import Schema
from max.storage.sqlite import MEMORY
from tests.contract.places import Person, Post, Store, Team, place, using
from tests.strategies import ODDITIES, Thing, filters, iso_forms, moments, records, samples, schemas

__all__ = ["place"]
ADA, BOB, CY = Person.ref("a"), Person.ref("b"), Person.ref("c")
RED = Team.ref("red")
AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


# -- storing --------------------------------------------------------------------------------


def test_storing_some_fields_keeps_the_others(place: str) -> None:
    async def body(store: Store) -> Person:
        await store.engine.store(Person("a", name="Ada", age=36, boss=BOB))
        await store.engine.store(Person("a", age=37))
        return await store.engine.load(ADA)

    assert using(place, body) == Person("a", name="Ada", age=37, boss=BOB)


def test_an_explicit_none_clears_and_nothing_else_does(place: str) -> None:
    async def body(store: Store) -> Person:
        await store.engine.store(Person("a", name="Ada", age=36, boss=BOB))
        await store.engine.store(Person("a", boss=None))
        return await store.engine.load(ADA)

    assert using(place, body) == Person("a", name="Ada", age=36, boss=None)


def test_what_was_never_loaded_is_not_loaded_after_storing_either(place: str) -> None:
    async def body(store: Store) -> Person:
        await store.engine.store(Person("a", age=None))
        return await store.engine.load(ADA)

    ada = using(place, body)
    assert ada.age is None
    with pytest.raises(FieldNotLoaded, match=r"Person\.boss is not loaded"):
        ada.boss  # noqa: B018


def test_storing_counts_what_it_stored_by_entity(place: str) -> None:
    async def body(store: Store) -> object:
        return await store.engine.store(Person("a"), Team("red"), Person("b", name="Bob"))

    assert using(place, body).counts == {"Person": 2, "Team": 1}  # type: ignore[attr-defined]


def test_storing_nothing_is_no_error(place: str) -> None:
    assert using(place, lambda store: store.engine.store()).counts == {}


def test_the_last_of_several_records_of_one_thing_holds(place: str) -> None:
    async def body(store: Store) -> Person:
        await store.engine.store(
            Person("a", name="first"), Person("a", name="second", age=1), Person("a", name="third")
        )
        return await store.engine.load(ADA)

    assert using(place, body) == Person("a", name="third", age=1)


def test_an_entity_of_another_schema_is_refused(place: str) -> None:
    async def body(store: Store) -> None:
        await store.engine.store(Person("a"), Thing("7"))

    with pytest.raises(UnknownName, match="unknown entity 'Thing'"):
        using(place, body)
    assert using(place, lambda store: store.engine.query(Person).all()) == []


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=80)
@given(st.permutations([Person("a", name="x", age=1), Person("a", score=2.5), Person("a", boss=None)]))
def test_partial_records_of_different_fields_merge_in_every_order(some: list[Person]) -> None:
    async def body(store: Store) -> Person:
        for one in some:
            await store.engine.store(one)
        return await store.engine.load(ADA)

    assert using(MEMORY, body) == Person("a", name="x", age=1, score=2.5, boss=None)


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=60)
@given(st.lists(records(Person, st.sampled_from("ab")), max_size=6), st.data())
def test_storing_one_by_one_or_all_at_once_comes_to_the_same(some: list[Person], data: st.DataObject) -> None:
    async def one_by_one(store: Store) -> list[Person]:
        for one in some:
            await store.engine.store(one)
        return await store.engine.query(Person).all()

    async def at_once(store: Store) -> list[Person]:
        await store.engine.store(*some)
        return await store.engine.query(Person).all()

    assert using(MEMORY, at_once) == using(MEMORY, one_by_one)


# -- loading --------------------------------------------------------------------------------


def test_loading_what_is_not_there_says_so(place: str) -> None:
    with pytest.raises(NotFound, match="no Person 'a'"):
        using(place, lambda store: store.engine.load(ADA))


def test_loading_some_fields_leaves_the_others_out(place: str) -> None:
    async def body(store: Store) -> Person:
        await store.engine.store(Person("a", name="Ada", age=36))
        return await store.engine.load(ADA, Person.age, Person.boss)

    assert using(place, body) == Person("a", age=36)


def test_selecting_some_fields_leaves_the_others_out(place: str) -> None:
    async def body(store: Store) -> list[list[Person]]:
        await store.engine.store(Person("a", name="Ada", age=36), Person("b", name="Bob"))
        query = store.engine.query(Person).where(Person.name.contains("a")).order_by(Person.name)
        chosen = [query.select(Person.age), query.select(Person.id), query.select(Person.age, Person.age)]
        return [await one.all() for one in chosen]

    assert using(place, body) == [[Person("a", age=36)], [Person("a")], [Person("a", age=36)]]


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=50)
@given(schemas(), st.data())
def test_p11_what_is_stored_and_queried_back_is_equal_in_value_and_type(
    schema: Schema, data: st.DataObject
) -> None:
    entity = data.draw(st.sampled_from(list(schema.entities.values())))
    record = data.draw(records(entity))

    async def body(store: Store) -> list[Entity]:
        await store.engine.store(record)
        queried = await store.engine.query(entity).all()
        return [await store.engine.load(entity.ref(record.id)), *queried]

    for again in using(MEMORY, body, schema):
        assert again == record
        assert {n: type(v) for n, v in values_of(again).items()} == {
            n: type(v) for n, v in values_of(record).items()
        }


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=30)
@given(schemas())
def test_p9_the_engine_creates_the_tables_of_any_schema_and_of_its_json(schema: Schema) -> None:
    async def body(store: Store) -> list[int]:
        return [await store.engine.query(entity).count() for entity in store.engine.schema.entities.values()]

    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert using(MEMORY, body, schema) == using(MEMORY, body, again) == [0] * len(schema.entities)


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=40)
@given(st.lists(moments, min_size=1, max_size=3), st.sampled_from([0, 1, 2, 4, 5, 6, 7]))
def test_times_as_upstream_writes_them_are_stored_as_the_moments_they_are(
    some: list[datetime], form: int
) -> None:
    people = {str(number): moment for number, moment in enumerate(some)}
    texts: dict[str, Any] = {id: iso_forms(moment)[form] for id, moment in people.items()}

    async def body(store: Store) -> tuple[list[Person], list[str]]:
        await store.engine.store(*(Person(id, seen=text) for id, text in texts.items()))
        query = store.engine.query(Person).order_by(Person.seen)
        equal = [await query.where(Person.seen.eq(moment)).first() for moment in some]
        assert None not in equal
        return await query.all(), sorted(people, key=lambda one: (people[one], one))

    found, expected = using(MEMORY, body)
    assert [person.id for person in found] == expected
    assert {person.id: person.seen for person in found} == people


def test_a_time_comes_back_in_utc_whatever_its_zone_or_form(place: str) -> None:
    east = AT.astimezone(timezone(timedelta(hours=9)))
    text: Any = "2026-01-31T09:30:00.000Z"

    async def body(store: Store) -> list[Person]:
        await store.engine.store(Person("a", seen=AT), Person("b", seen=east), Person("c", seen=text))
        return await store.engine.query(Person).where(Person.seen.eq(east)).all()

    found = using(place, body)
    assert [person.id for person in found] == ["a", "b", "c"]
    assert {(person.seen, person.seen and person.seen.tzinfo) for person in found} == {(AT, UTC)}


# -- what does not fit ----------------------------------------------------------------------

WRONG: Any = st.deferred(
    lambda: st.sampled_from(sorted(Person.types())).flatmap(
        lambda name: st.tuples(st.just(name), samples).filter(
            lambda drawn: Person.types()[drawn[0]].kind not in drawn[1][1]
        )
    )
)


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=120)
@given(WRONG, st.lists(records(Person), max_size=3), st.lists(records(Person), max_size=3))
def test_p10_an_ill_typed_record_is_refused_before_any_row_changes(
    wrong: Any, before: list[Person], after: list[Person]
) -> None:
    name, (value, _) = wrong
    bad = Person("bad", **{name: value})

    async def body(store: Store) -> tuple[list[str], list[str]]:
        await store.engine.store(Person("a", name="Ada"), Team("red"), requested_at=5.0)
        old = await store.state()
        with pytest.raises(InvalidEntity) as caught:
            await store.engine.store(Team("blue"), *before, bad, *after, requested_at=9.0)
        described = [one.describe() for one in caught.value.mismatches]
        assert described == [one.describe() for one in check_entity(bad)]
        assert described[0]["path"] == f"Person:bad.{name}"
        return old, await store.state()

    old, new = using(MEMORY, body)
    assert new == old


@pytest.mark.usefixtures("either")
def test_p10_every_oddity_is_refused_where_it_does_not_fit() -> None:
    oddities = [
        (name, value)
        for name, holds in Person.types().items()
        for value, fits in ODDITIES
        if holds.kind not in fits and not holds.check(value)
    ]

    async def body(store: Store) -> int:
        for name, value in oddities:
            with pytest.raises(InvalidEntity, match=rf"Person:bad\.{name}\S*: expected"):
                await store.engine.store(Person("a"), Person("bad", **{name: value}))
        return await store.engine.query(Person).count()

    assert len(oddities) > 200
    assert using(MEMORY, body) == 0


@pytest.mark.parametrize("id", ["", None, 7, "\ud800"])
def test_p10_an_ill_typed_id_is_refused_before_any_row_changes(place: str, id: Any) -> None:
    async def body(store: Store) -> int:
        with pytest.raises(InvalidEntity, match="a text that is not empty"):
            await store.engine.store(Person("a"), Person(id, name="x"))
        return await store.engine.query(Person).count()

    assert using(place, body) == 0


def test_p12_every_value_that_does_not_fit_is_named(place: str) -> None:
    one: Any = {"name": None, "age": "36"}
    two: Any = {"boss": Team.ref("red"), "seen": datetime(2026, 1, 31)}

    async def body(store: Store) -> list[dict[str, str]]:
        with pytest.raises(InvalidEntity) as caught:
            await store.engine.store(Person("a", **one), Person("fine", name="x"), Person("b", **two))
        return cast("list[dict[str, str]]", caught.value.describe()["data"]["fields"])

    assert using(place, body) == [
        {"path": "Person:a.name", "expected": "text that UTF-8 can encode", "actual": "null"},
        {
            "path": "Person:a.age",
            "expected": "an integer of at most 64 bits, or null",
            "actual": "'36'",
        },
        {
            "path": "Person:b.seen",
            "expected": "a time with its zone (an aware datetime, or its ISO 8601 text), or null",
            "actual": "datetime datetime.datetime(2026, 1, 31, 0, 0)",
        },
        {"path": "Person:b.boss", "expected": "a ref to Person, or null", "actual": "Ref Team:red"},
    ]


# -- conditions -----------------------------------------------------------------------------

NAMES = [
    "",
    "a",
    "A",
    "ab",
    "Ä",
    "ä",
    "ẞ",
    "ss",
    "100%",
    "100 not",
    "a_b",
    "axb",
    "\\",
    "日本",
    "'\"",
    "a\0b",
]
POOL: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(NAMES),
    "age": st.sampled_from([None, -1, 0, 1, 2**53 + 1, 2**63 - 1]),
    "score": st.sampled_from([None, -0.5, 0.0, 1.0, 1, 2**53, 1e300]),
    "active": st.sampled_from([None, True, False]),
    "seen": st.sampled_from([None, AT, AT + timedelta(microseconds=5), AT + timedelta(seconds=1)]),
    "born": st.sampled_from([None, date(1999, 12, 31), date(2000, 1, 1)]),
    "boss": st.sampled_from([None, ADA, BOB, Person.ref("unknown")]),
}
PEOPLE = st.lists(
    st.builds(
        lambda key, values: Person(key, **values),
        st.sampled_from("abcdefg"),
        st.fixed_dictionaries({}, optional=POOL),
    ),
    max_size=7,
    unique_by=lambda person: person.id,
)
CONDITIONS = filters(Person, {**POOL, "id": st.sampled_from(["a", "b", "z"])})
COMPARE: dict[Op, Callable[[Any, Any], bool]] = {
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
    Op.CONTAINS: lambda value, text: text.casefold() in value.casefold(),
    Op.STARTS_WITH: lambda value, text: value.startswith(text),
}


def fits(person: Person | None, condition: Filter[Any] | None, everybody: dict[str, Person]) -> bool:
    """The naive reading of a filter: every condition is true or false."""
    if isinstance(condition, Not):
        return not fits(person, condition.part, everybody)
    if isinstance(condition, AllOf):
        return all(fits(person, part, everybody) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any(fits(person, part, everybody) for part in condition.parts)
    if not isinstance(condition, Compare):
        return condition is None
    *through, field = condition.path
    known: Mapping[str, Any] = values_of(person) if person else {}
    for ref in through:
        if ref.name in known and known[ref.name] is None:
            known = {one.name: None for one in (*through, field)}  # behind an empty ref all is empty
        else:
            boss = known.get(ref.name)
            known = values_of(everybody[boss.id]) if boss and boss.id in everybody else {}
    many = isinstance(condition.value, tuple)
    wanted = tuple(map(stored, condition.value)) if many else stored(condition.value)
    return field.name in known and holds(condition.op, stored(known[field.name]), wanted)


def stored(value: Any) -> Any:
    """A value as it comes back: NUL is stored as another character."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def holds(op: Op, value: Any, wanted: Any) -> bool:
    """Whether a loaded value fits a comparison."""
    if op is Op.IS_LOADED:
        return True
    if op is Op.EQ:
        return bool(value == wanted)
    if op is Op.NE:
        return bool(value != wanted)
    if op is Op.IN:
        return value in wanted
    return value is not None and COMPARE[op](value, wanted)


async def ask(store: Store, people: list[Person], *conditions: Filter[Person]) -> set[str]:
    """The ids of who fits."""
    await store.engine.store(*people)
    return {person.id for person in await store.engine.query(Person).where(*conditions).all()}


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=250)
@given(PEOPLE, CONDITIONS)
def test_a_query_finds_exactly_what_its_filter_means(people: list[Person], condition: Filter[Person]) -> None:
    everybody = {person.id: person for person in people}

    async def body(store: Store) -> tuple[set[str], set[str], int]:
        found = await ask(store, people, condition)
        return (
            found,
            await ask(store, [], ~condition),
            await store.engine.query(Person).where(condition).count(),
        )

    found, others, count = using(MEMORY, body)
    assert found == {id for id, person in everybody.items() if fits(person, condition, everybody)}
    assert others == everybody.keys() - found, "NOT is the exact complement"
    assert count == len(found)


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=80)
@given(
    PEOPLE,
    st.sampled_from(["name", "age", "boss"]),
    st.sampled_from([Op.EQ, Op.NE, Op.IS_LOADED]),
    st.booleans(),
    st.integers(1, REFS),
)
def test_a_filter_goes_through_refs(people: list[Person], name: str, op: Op, empty: bool, refs: int) -> None:
    everybody = {person.id: person for person in people}
    path = field_at(f"{'boss.' * refs}{name}").path
    wanted = {"name": "a", "age": 1, "boss": ADA}[name] if op is not Op.IS_LOADED and not empty else None
    condition: Filter[Person] = Compare(path, op, wanted)

    async def body(store: Store) -> tuple[set[str], set[str]]:
        return await ask(store, people, condition), await ask(store, [], ~condition)

    found, others = using(MEMORY, body)
    assert found == {id for id, person in everybody.items() if fits(person, condition, everybody)}
    assert others == everybody.keys() - found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("100%", {"percent"}),
        ("a_b", {"line"}),
        ("ä", {"umlaut"}),
        ("Ä", {"umlaut"}),
        ("straße", {"street"}),
        ("NOT", {"not"}),
        ("", {"percent", "not", "line", "cross", "umlaut", "street"}),
    ],
)
def test_contains_takes_its_text_literally_in_any_case(place: str, text: str, found: set[str]) -> None:
    people = {
        "percent": "at 100% now",
        "not": "100 not",
        "line": "a_b",
        "cross": "axb",
        "umlaut": "BÄR",
        "street": "Straße",
    }
    stored = [Person(id, name=name) for id, name in people.items()]
    assert using(place, lambda store: ask(store, stored, Person.name.contains(text))) == found


def test_an_id_that_looks_like_a_number_stays_a_text(place: str) -> None:
    people = [Person("007", name="007"), Person("7", name="7")]
    assert using(place, lambda store: ask(store, people, Person.name.eq("007"))) == {"007"}
    assert using(place, lambda store: ask(store, people, Person.id.eq("007"))) == {"007"}


def test_a_list_without_values_holds_nothing(place: str) -> None:
    people = [Person("a", name="Ada", age=None)]
    assert using(place, lambda store: ask(store, people, Person.age.is_in([]))) == set()
    assert using(place, lambda store: ask(store, people, ~Person.age.is_in([]))) == {"a"}


def test_a_very_long_list_can_be_asked_for(place: str) -> None:
    people = [Person("a", name="a"), Person("b", name="b")]
    many = [*map(str, range(40_000)), "b"]
    assert using(place, lambda store: ask(store, people, Person.name.is_in(many))) == {"b"}


@pytest.mark.parametrize("value", ["36", 2**70, True, 1.5])
def test_a_value_that_the_field_cannot_hold_is_a_usage_error(place: str, value: Any) -> None:
    for condition in (Person.age.eq(value), Person.age.is_in([value]), Person.age.gt(value)):
        with pytest.raises(UsageError, match=r"Person\.age"):
            using(place, lambda store, condition=condition: ask(store, [], condition))  # type: ignore[misc]


def test_a_removed_entity_is_not_seen_through_a_ref(place: str) -> None:
    async def body(store: Store) -> set[str]:
        await store.engine.store(
            Person("a", boss=BOB), Person("b", name="Bob", boss=CY), Person("c", name="Cy", boss=CY)
        )
        await store.receive(Delivery((), 9.0, removed=[BOB]))
        seen = Person.boss.to(Person.name).eq("Bob") | Person.boss.to(Person.boss).to(Person.name).eq("Cy")
        return await ask(store, [], seen)

    assert using(place, body) == {"c"}


def test_conditions_and_orders_may_follow_a_limited_number_of_different_refs(place: str) -> None:
    paths = [f"{'boss.' * 8}age", *(f"{'boss.' * n}name" for n in range(1, 9))]
    many = " OR ".join(f"_age({path}) > 1d" for path in paths)

    async def body(store: Store) -> list[Person]:
        await store.engine.store(Person("a", boss=ADA, name="x", age=1), requested_at=1.0)
        query = store.engine.query(Person).where(many).order_by(",".join(paths))
        return await query.select("age").all()

    assert using(place, body) == [Person("a", age=1)]


# -- order and pages ------------------------------------------------------------------------

ORDERS = st.lists(
    st.tuples(
        st.sampled_from(["id", *sorted(POOL), "boss.name", "boss.age", "boss.boss.name"]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda term: term[0],
)


def field_at(path: str) -> FieldOf[Person, Any]:
    """``boss.name`` as a handle."""
    *through, name = path.split(".")
    field: FieldOf[Person, Any] = FieldOf(Person, name)
    for _ in through:
        field = Person.boss.to(field)
    return field


def sorted_ids(people: list[Person], order: list[tuple[str, bool, bool]]) -> list[str]:
    """The naive order: empty values last or first; the id settles ties."""
    everybody = {person.id: person for person in people}

    def value(person: Person, path: str) -> Any:
        *through, name = path.split(".")
        for ref in through:
            boss = values_of(person).get(ref)
            person = everybody.get(boss.id, Person("?")) if boss else Person("?")
        found = values_of(person).get(name)
        return found.id if isinstance(found, Ref) else None if person.id == "?" else stored(found)

    found = sorted(people, key=lambda person: person.id)
    for path, descending, nulls_first in reversed(order):
        keys = {p.id: (value(p, path) is not None, value(p, path)) for p in found}
        empty = [p for p in found if not keys[p.id][0]]
        rest = sorted([p for p in found if keys[p.id][0]], key=lambda p: keys[p.id][1], reverse=descending)
        found = [*empty, *rest] if nulls_first else [*rest, *empty]
    return [person.id for person in found]


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=150)
@given(PEOPLE, ORDERS, st.integers(1, 4))
def test_paging_under_any_order_gives_every_row_once(
    people: list[Person], order: list[tuple[str, bool, bool]], size: int
) -> None:
    query = Query(Person)
    for path, descending, nulls_first in order:
        query = query.order_by(field_at(path), descending=descending, nulls_first=nulls_first)

    async def body(store: Store) -> tuple[list[str], list[int]]:
        await store.engine.store(*people)
        pages: list[QueryPage[Person]] = [await store.engine.fetch(query.limit(size))]
        while pages[-1].cursor is not None and len(pages) <= len(people):
            pages.append(await store.engine.fetch(query.limit(size).after(pages[-1].cursor)))
        return [person.id for page in pages for person in page.items], [len(page.items) for page in pages]

    found, sizes = using(MEMORY, body)
    assert found == sorted_ids(people, order)
    assert all(length == size for length in sizes[:-1])
    assert sizes == [0] or all(sizes), "a page that says there is more is right"


def test_rows_that_come_and_go_between_pages_do_not_disturb_the_others(place: str) -> None:
    async def body(store: Store) -> list[str]:
        await store.engine.store(*(Person(id, age=1) for id in "bdf"))
        query = store.engine.query(Person).order_by(Person.age).limit(2)
        first = await query.page()
        await store.engine.store(Person("a", age=1), Person("e", age=1))
        await store.receive(Delivery((), 9.0, removed=[Person.ref("d")]))
        second = await query.after(first.cursor).page()
        return [person.id for page in (first, second) for person in page.items]

    assert using(place, body) == ["b", "d", "e", "f"]


def test_text_names_conditions_order_and_fields_and_ages_count_from_the_engines_clock(place: str) -> None:
    async def body(store: Store) -> list[Person]:
        people = [Person(id, age=n, name="x") for n, id in enumerate("abc")]
        await store.engine.store(*people, requested_at=5.0)
        old = store.engine.query(Person).where("age > 0", "_age(name) > 1d")
        return await old.order_by("-age").select("age").all()

    assert using(place, body) == [Person("c", age=2), Person("b", age=1)]


def test_a_cursor_is_refused_by_another_order_or_entity(place: str) -> None:
    async def body(store: Store) -> None:
        await store.engine.store(Person("a", age=1), Person("b", age=2), Team("red"))
        by_age = store.engine.query(Person).order_by(Person.age)
        cursor = (await by_age.limit(1).page()).cursor
        assert cursor is not None
        others: list[Any] = [
            store.engine.query(Person),
            store.engine.query(Person).order_by(Person.age, descending=True),
            store.engine.query(Person).order_by(Person.age, nulls_first=True),
            store.engine.query(Person).order_by(Person.name),
            by_age.order_by(Person.name),
            store.engine.query(Team),
        ]
        for other in others:
            with pytest.raises(InvalidCursor, match="cannot be used here"):
                await other.after(cursor).page()

    using(place, body)
    assert InvalidCursor.exit_status == 2


@pytest.mark.parametrize(
    "cursor", ["", "x", "AAAA", "é", "bnVsbA", "W10", "WyJQZXJzb24iXQ", "=", "\ud800", "a" * 5000]
)
def test_a_damaged_cursor_is_refused(place: str, cursor: str) -> None:
    async def body(store: Store) -> str:
        await store.engine.store(Person("a"))
        with pytest.raises(InvalidCursor) as caught:
            await store.engine.query(Person).after(cursor).page()
        with pytest.raises(InvalidCursor):
            await store.engine.load_collection(RED, Team.people, after=cursor)
        return caught.value.hint

    assert "cursor of the previous page" in using(place, body)


def test_a_limit_of_nothing_gives_nothing(place: str) -> None:
    async def body(store: Store) -> tuple[list[Person], QueryPage[Person], int]:
        await store.engine.store(Person("a"))
        query = store.engine.query(Person).limit(0)
        return await query.all(), await query.page(), await query.count()

    found, page, count = using(place, body)
    assert (found, list(page.items), count) == ([], [], 1)


def test_a_query_can_be_walked_through_page_by_page(place: str) -> None:
    async def body(store: Store) -> tuple[list[str], list[str], Person | None, Person | None]:
        await store.engine.store(*(Person(f"{number:05}", age=number) for number in range(2500)))
        query = store.engine.query(Person).order_by(Person.age, descending=True)
        walked = [person.id async for person in query]
        some = [person.id async for person in query.limit(1200)]
        assert walked == [person.id for person in await query.all()]
        return walked, some, await query.first(), await query.where(Person.age.lt(0)).first()

    walked, some, first, none = using(place, body)
    assert walked == [f"{number:05}" for number in reversed(range(2500))]
    assert some == walked[:1200]
    assert first is not None
    assert (first.id, none) == ("02499", None)


# -- collections ----------------------------------------------------------------------------


async def members(store: Store, limit: int | None = None) -> list[str]:
    """The ids of a team's people, over all pages."""
    page = await store.engine.load_collection(RED, Team.people, limit=limit)
    found = [person.id for person in page.items]
    while page.cursor is not None:
        page = await store.engine.load_collection(RED, Team.people, limit=limit, after=page.cursor)
        assert page.items
        found += [person.id for person in page.items]
    return found


def test_a_collection_that_was_never_listed_is_empty(place: str) -> None:
    assert using(place, members) == []
    page = using(place, lambda store: store.engine.load_collection(RED, Team.posts))
    assert (list(page.items), page.cursor) == ([], None)


def test_membership_is_stored_beside_the_children(place: str) -> None:
    async def body(store: Store) -> tuple[list[str], list[str]]:
        await store.engine.store(Person("z", name="of no team"))
        await store.page(RED, Team.people, Person("b", name="Bob"), Person("a"), last=False)
        await store.page(RED, Team.people, Person("z"), number=1)
        await store.page(Team.ref("blue"), Team.people, Person("a"), Person("c"))
        return sorted(await members(store)), await members(store, limit=1)

    everybody, one_by_one = using(place, body)
    assert everybody == ["a", "b", "z"]
    assert sorted(one_by_one) == everybody


def test_an_inverse_needs_no_stored_membership(place: str) -> None:
    async def body(store: Store) -> list[str]:
        blue = Team.ref("blue")
        await store.engine.store(Post("1", team=RED), Post("2", team=blue), Post("3"), Post("4", team=RED))
        await store.engine.store(Post("1", team=blue), Post("5", team=RED))
        page = await store.engine.load_collection(RED, Team.posts, limit=1)
        rest = await store.engine.load_collection(RED, Team.posts, after=page.cursor)
        return [post.id for post in [*page.items, *rest.items]]

    assert using(place, body) == ["4", "5"]


def test_a_complete_listing_replaces_the_one_before(place: str) -> None:
    async def body(store: Store) -> list[list[str]]:
        await store.page(RED, Team.people, *(Person(id) for id in "abc"))
        await store.page(RED, Team.people, Person("c"), Person("d"), last=False)
        before = await members(store)
        await store.page(RED, Team.people, Person("e"), number=1)
        return [sorted(before), sorted(await members(store))]

    assert using(place, body) == [["a", "b", "c", "d"], ["c", "d", "e"]]


def test_a_listing_that_was_interrupted_and_begun_again_loses_no_row(place: str) -> None:
    async def body(store: Store) -> list[str]:
        await store.page(RED, Team.people, *(Person(id) for id in "abc"))
        await store.page(RED, Team.people, Person("a"), last=False)
        await store.page(RED, Team.people, Person("b"), last=False)
        await store.page(RED, Team.people, Person("a"), number=1)
        return sorted(await members(store))

    assert using(place, body) == ["a", "b"]


def test_a_listing_of_changes_leaves_out_what_is_still_there(place: str) -> None:
    async def body(store: Store) -> list[str]:
        await store.page(RED, Team.people, *(Person(id) for id in "abc"))
        await store.page(RED, Team.people, Person("d"), delta=True)
        await store.page(RED, Team.people, delta=True)
        return sorted(await members(store))

    assert using(place, body) == ["a", "b", "c", "d"]


def test_a_page_stores_who_came_along_without_making_them_members(place: str) -> None:
    async def body(store: Store) -> tuple[list[str], set[str]]:
        await store.page(RED, Team.people, Person("a"), Team("blue"), Post("1", title="x"))
        return await members(store), {team.id for team in await store.engine.query(Team).all()}

    assert using(place, body) == (["a"], {"blue"})


# -- removal --------------------------------------------------------------------------------


def test_what_was_removed_is_hidden_everywhere(place: str) -> None:
    async def body(store: Store) -> list[Any]:
        await store.page(RED, Team.people, Person("a", name="Ada"), Person("b"))
        stored = await store.receive(Delivery((), 109.0, removed=[ADA, Person.ref("never")]))
        with pytest.raises(NotFound):
            await store.engine.load(ADA)
        again = await store.receive(Delivery((), 10.0, removed=[ADA]))
        count = await store.engine.query(Person).count()
        found = await store.engine.query(Person).all()
        return [stored.removed, again.removed, count, [one.id for one in found], await members(store)]

    assert using(place, body) == [1, 0, 1, ["b"], ["b"]]


def test_what_was_removed_comes_back_when_upstream_brings_it_back(place: str) -> None:
    async def body(store: Store) -> tuple[Person, list[str]]:
        await store.page(RED, Team.people, Person("a", name="Ada", age=36))
        await store.receive(Delivery((), 9.0, removed=[ADA]))
        await store.page(RED, Team.people, Person("a", name="Ada"))
        return await store.engine.load(ADA), await members(store)

    assert using(place, body) == (Person("a", name="Ada", age=36), ["a"])


def test_removal_and_rows_of_one_arrival_are_stored_together(place: str) -> None:
    async def body(store: Store) -> set[str]:
        await store.engine.store(Person("a"), Person("b"))
        await store.receive(Delivery([Person("c"), Team("red")], 9.0, removed=[ADA]))
        return {person.id for person in await store.engine.query(Person).all()}

    assert using(place, body) == {"b", "c"}
