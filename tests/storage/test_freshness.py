"""How old stored fields are: in filters, in histograms, and after they were invalidated."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max import Query
from max.connecting import Entity, Field, Many, Ref, Schema
from max.errors import UsageError
from max.model.delivery import AgeHistogram, Delivery, ListingPage
from max.model.entities import FieldOf
from max.model.filters import Filter, Op, Synced
from max.storage.sqlite import SqliteConnection
from tests.contract.places import memory_connection
from tests.sample import writer


class Person(Entity):
    """A person."""

    name: Field[str] = Field()
    age: Field[int | None] = Field()
    score: Field[float | None] = Field()
    boss: Field[Ref[Person] | None] = Field()


class Team(Entity):
    """Lists people."""

    people: Many[Person] = Many()


SCHEMA = Schema([Person, Team], roots=[Team])
IDS, NAMES = "abc", tuple(Person.types())
RED = Team.ref("red")
VALUES: dict[str, Any] = {"name": "x", "age": None, "score": 1.0, "boss": None}
Seen = dict[str, dict[str, float | None]]


def parts(entity: type[Entity]) -> Sequence[tuple[str, ...]]:
    """A person's score comes alone."""
    together = tuple(name for name in entity.types() if name != "score")
    return [together, ("score",)] if entity is Person else [together]


class Place:
    """Tables, and a clock that every step advances."""

    def __init__(self, connection: SqliteConnection) -> None:
        self.connection, self.tables, self.now = connection, writer(SCHEMA, load_groups=parts), 100.0
        self.tables.apply(connection)
        self.tables.write(connection, Delivery([Team("red")], 1.0), dated=False)

    def write(self, people: Sequence[Person], listing: ListingPage | None = None, ago: float = 0.0) -> None:
        """Store a response to a request that began some time ago."""
        self.tables.write(self.connection, Delivery(people, self.now - ago, listing))

    def synced(self) -> Seen:
        """When each field of each person was synced."""
        found: Seen = {}
        for person in self.tables.fetch(self.connection, Query(Person)).items:
            ref = Person.ref(person.id)
            times = self.tables.freshness.synced_at(self.connection, ref, NAMES)
            found[person.id] = dict(zip(NAMES, times, strict=True))
        return found

    def fitting(self, condition: Filter[Any]) -> set[str]:
        """The ids of the people that match a filter."""
        return {one.id for one in self.tables.fetch(self.connection, Query(Person, condition)).items}

    def ages(self) -> dict[str, AgeHistogram]:
        """How old every field of a person is."""
        mapping = self.tables.mapping(Person)
        return self.tables.freshness.ages(self.connection, mapping, NAMES, now=self.now)


@pytest.fixture
def place() -> Iterator[Place]:
    with memory_connection() as connection:
        yield Place(connection)


# -- random histories --------------------------------------------------------------------------

SUBSETS = st.sets(st.sampled_from(NAMES), min_size=1)
WHO = st.sets(st.sampled_from(IDS), min_size=1)
BOSSES = st.dictionaries(st.sampled_from(IDS), st.sampled_from([*IDS, "missing", None]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("alone"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("late"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("page"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("refs"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("where"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("whole"), WHO, SUBSETS, BOSSES),
        st.tuples(st.just("gone"), WHO, SUBSETS, BOSSES),
    ),
    max_size=7,
)
Step = tuple[str, set[str], set[str], dict[str, str | None]]


def people(who: set[str], names: set[str], bosses: dict[str, str | None]) -> list[Person]:
    made = []
    for id in sorted(who):
        boss = bosses.get(id)
        values = VALUES | {"boss": None if boss is None else Person.ref(boss)}
        made.append(Person(id, **{name: values[name] for name in sorted(names)}))
    return made


def take(place: Place, step: Step) -> None:
    """Do one step, at a time of its own."""
    kind, who, names, bosses = step
    place.now += 10.0
    tables, connection, at = place.tables, place.connection, place.now
    if kind in ("alone", "late"):
        place.write(people(who, names, bosses), ago=15.0 if kind == "late" else 0.0)
    elif kind == "page":
        place.write(people(who, names, bosses), ListingPage(RED, Team.people, 0, last=True, began_at=at))
    elif kind == "refs":
        refs = [Person.ref(id) for id in sorted(who)]
        tables.record(connection, refs, sorted(names), synced_at=None, recorded_at=at)
    elif kind == "where":
        query = Query(Person, Person.id.is_in(who) & Person.name.synced_since(at - 25.0))
        tables.invalidate(connection, query, sorted(names), at=at)
    elif kind == "whole":
        tables.invalidate(connection, Query(Person), sorted(names), at=at)
    else:
        delivery = Delivery([], at, removed=[Person.ref(id) for id in sorted(who)])
        tables.write(connection, delivery)


COMPARED: dict[Op, Callable[[float, float], bool]] = {
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
}


def known(at: float | None) -> float:
    return -float("inf") if at is None else at


@pytest.mark.usefixtures("either")
@given(STEPS, st.sampled_from(NAMES), st.sampled_from(list(COMPARED)), st.integers(9, 18))
@settings(deadline=None, max_examples=150)
def test_age_filters_agree_with_the_sync_time_of_each_field(
    steps: list[Step], name: str, op: Op, moment: int
) -> None:
    with memory_connection() as connection:
        place = Place(connection)
        for step in steps:
            take(place, step)
        at, field = moment * 10.0, FieldOf[Person, Any](Person, name)
        expected = {id for id, seen in place.synced().items() if COMPARED[op](known(seen[name]), at)}
        assert place.fitting(Synced(field.path, op, at)) == expected
        assert place.fitting(~Synced(field.path, op, at)) == place.synced().keys() - expected


@pytest.mark.usefixtures("either")
@given(STEPS, st.sampled_from(NAMES), st.sampled_from(list(COMPARED)), st.integers(9, 18))
@settings(deadline=None, max_examples=100)
def test_an_age_through_a_ref_is_that_of_the_target_row(
    steps: list[Step], name: str, op: Op, moment: int
) -> None:
    with memory_connection() as connection:
        place = Place(connection)
        for step in steps:
            take(place, step)
        seen, at = place.synced(), moment * 10.0
        stored = {
            one.id: one._values.get("boss") for one in place.tables.fetch(connection, Query(Person)).items
        }
        expected = {
            id
            for id, boss in stored.items()
            if boss is not None and COMPARED[op](known(seen.get(boss.id, VALUES | {name: None})[name]), at)
        }
        path = Person.boss.to(FieldOf[Person, Any](Person, name)).path
        assert place.fitting(Synced(path, op, at)) == expected
        twice = Person.boss.to(Person.boss).to(FieldOf[Person, Any](Person, name)).path
        there = {id for id, boss in stored.items() if boss is not None and boss.id in expected}
        assert place.fitting(Synced(twice, op, at)) == there


@pytest.mark.usefixtures("either")
@given(STEPS)
@settings(deadline=None, max_examples=150)
def test_ages_count_every_row_once_at_its_age(steps: list[Step]) -> None:
    with memory_connection() as connection:
        place = Place(connection)
        for step in steps:
            take(place, step)
        place.now += 3.5
        seen, found = place.synced(), place.ages()
        for name in NAMES:
            times = [times[name] for times in seen.values()]
            expected = Counter(float(int(place.now - at)) for at in times if at is not None)
            assert found[name].ages == sorted(expected.items())
            assert found[name].never == times.count(None)
            assert sum(rows for _, rows in found[name].ages) + found[name].never == len(seen)


@pytest.mark.usefixtures("either")
@given(STEPS, SUBSETS, st.none() | WHO, st.booleans())
@settings(deadline=None, max_examples=150)
def test_invalidated_fields_are_stale_until_fetched_and_no_others_are(
    steps: list[Step], names: set[str], who: set[str] | None, again: bool
) -> None:
    with memory_connection() as connection:
        place = Place(connection)
        for step in steps:
            take(place, step)
        before = place.synced()
        chosen = None if who is None else Person.id.is_in(who)
        count = place.tables.invalidate(connection, Query(Person, chosen), sorted(names), at=place.now)
        hit = before.keys() if who is None else before.keys() & who
        assert count == len(hit)
        expected = {
            id: {name: None if id in hit and name in names else at for name, at in times.items()}
            for id, times in before.items()
        }
        assert place.synced() == expected
        if again and before:
            place.now += 10.0
            place.write(people(set(before), names, {}))
            assert place.synced() == {
                id: times | dict.fromkeys(names, place.now) for id, times in expected.items()
            }


# -- filters -----------------------------------------------------------------------------------


def test_synced_since_and_before_filter_by_age(place: Place) -> None:
    place.write([Person("a", name="Ada"), Person("b", age=1)])
    place.now += 50.0
    place.write([Person("c", name="Cy", boss=Person.ref("a")), Person("d", boss=Person.ref("zz"))])
    assert place.fitting(Person.name.synced_before(120.0)) == {"a", "b", "d"}
    assert place.fitting(Person.name.synced_since(100.0)) == {"a", "c"}
    assert place.fitting(Person.boss.to(Person.name).synced_before(120.0)) == {"c", "d"}
    assert place.fitting(Person.boss.to(Person.name).synced_since(120.0)) == set()


def test_an_id_has_no_age(place: Place) -> None:
    with pytest.raises(UsageError, match="id has no age"):
        place.fitting(Person.id.synced_before(1.0))
