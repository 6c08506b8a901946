"""What the engine was once wrong about, each with the case that showed it."""

from __future__ import annotations

import json
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from max.errors import InvalidCursor, InvalidEntity, StorageError, UsageError
from max.model.entities import Ref
from max.model.filters import AllOf, AnyOf, Filter
from max.storage.sqlite import SqliteConnection
from max.storage.tables import Tables
from tests.contract.places import Person, Store, Team, place, using
from tests.contract.test_engine import ADA, AT, BOB, RED, ask
from tests.contract.test_sync_meta import ages, whole

__all__ = ["place"]


@pytest.mark.parametrize("boss", [BOB.within("elsewhere"), Person.ref(""), Person.ref("\ud800")])
def test_p10_a_ref_that_no_row_could_answer_to_is_refused(place: str, boss: Ref[Person]) -> None:
    async def body(store: Store) -> int:
        with pytest.raises(InvalidEntity, match="expected a ref to Person"):
            await store.engine.store(Person("a", boss=BOB), Person("b", boss=boss))
        return await store.engine.query(Person).count()

    assert using(place, body) == 0


def test_a_cursor_whose_values_were_exchanged_does_no_harm(place: str) -> None:
    async def body(store: Store) -> None:
        await store.engine.store(Person("a", age=1))
        for value in (10**30, [1], {"a": 1}, 1e400):
            text = json.dumps(["Person,age", value, "a"])
            cursor = urlsafe_b64encode(text.encode()).decode()
            with pytest.raises(InvalidCursor):
                await store.engine.query(Person).order_by(Person.age).after(cursor).page()

    using(place, body)
    assert True


def test_a_very_long_text_can_be_asked_for(place: str) -> None:
    people = [Person("a", name="x" * 100_000), Person("b", name="b")]
    assert using(place, lambda store: ask(store, people, Person.name.contains("X" * 60_000))) == {"a"}


def test_contains_in_any_case_means_the_same_from_both_sides(place: str) -> None:
    people = [Person("street", name="Straße"), Person("kelvin", name="7 \u212a")]
    assert using(place, lambda store: ask(store, people, Person.name.contains("STRASSE"))) == {"street"}
    assert using(place, lambda store: ask(store, people, Person.name.contains("7 k"))) == {"kelvin"}


def test_a_time_with_a_decimal_comma_is_stored_as_the_moment_it_is(place: str) -> None:
    text: Any = "2026-01-31T09:30:00,123Z"
    when = AT + timedelta(milliseconds=123)
    assert using(place, lambda store: ask(store, [Person("a", seen=text)], Person.seen.eq(when))) == {"a"}


def test_loading_the_id_alone_gives_the_id(place: str) -> None:
    async def body(store: Store) -> list[Person]:
        await store.engine.store(Person("a", name="Ada", age=36))
        return [await store.engine.load(ADA, Person.id), await store.engine.load(ADA, Person.id, Person.age)]

    assert using(place, body) == [Person("a"), Person("a", age=36)]


def test_loading_a_field_beyond_a_ref_is_refused(place: str) -> None:
    async def body(store: Store) -> None:
        await store.engine.store(Person("a", name="Ada", boss=BOB), Person("b", name="Bob"))
        await store.engine.load(ADA, Person.boss.to(Person.name))

    with pytest.raises(ValueError, match="belongs to another entity"):
        using(place, body)


def test_who_moved_to_another_page_is_as_fresh_as_that_page(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.page(RED, Team.people, whole("a"), at=100.0, last=False)
        await store.page(RED, Team.people, whole("b"), at=101.0, number=1)
        await store.page(RED, Team.people, whole("b"), at=200.0, last=False)
        before = await ages(store, "name")
        await store.page(RED, Team.people, whole("a"), at=201.0, number=1)
        return [*before, *await ages(store, "name")]

    before, after = using(place, body)
    assert before in (None, 100.0), "page one was brought again, without Ada"
    assert after == 201.0


def test_a_database_of_a_newer_max_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    async def body(store: Store) -> None:
        await store.engine.store(Person("a", name="Ada"))

    using(str(path), body)
    with closing(sqlite3.connect(path, isolation_level=None, factory=SqliteConnection)) as connection:
        assert Tables.stored(connection).schema.entities
        connection.execute("INSERT INTO _max_migration VALUES ('engine', 99, 'later')")
        with pytest.raises(StorageError, match="newer than this Max"):
            Tables.stored(connection)


NAME = Person.name
CONDITIONS = [
    NAME.eq("a\0b"),
    NAME.is_in(["a\0b"] * 40_000),
    NAME.contains("\0B"),
    NAME.starts_with("a\0"),
    NAME.gt("a") & NAME.lt("b"),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=repr)
def test_a_text_with_a_nul_is_found_and_nothing_that_merely_begins_alike(
    place: str, condition: Filter[Person]
) -> None:
    async def body(store: Store) -> list[str]:
        await store.engine.store(Person("1", name="a"), Person("2", name="a\0b"))
        return [person.id for person in await store.engine.query(Person).where(condition).all()]

    assert using(place, body) == ["2"]


def test_a_nul_becomes_the_replacement_character(place: str) -> None:
    async def body(store: Store) -> Sequence[Person]:
        await store.engine.store(Person("1", name="a\0b", extra={"k\0": ["\0", "\\u0000"]}))
        return await store.engine.query(Person).all()

    assert using(place, body) == [Person("1", name="a\ufffdb", extra={"k\ufffd": ["\ufffd", "\\u0000"]})]


def test_a_filter_may_have_thousands_of_conditions(place: str) -> None:
    async def body(store: Store) -> tuple[int, int]:
        await store.engine.store(Person("1", name="a"), Person("2", name="b"))
        either = AnyOf((*(NAME.eq(f"x{number}") for number in range(3_000)), NAME.eq("b")))
        neither = AllOf(tuple(NAME.ne(f"x{number}") for number in range(3_000)))
        people = store.engine.query(Person)
        return await people.where(either).count(), await people.where(neither).count()

    assert using(place, body) == (1, 2)


def test_half_a_surrogate_pair_is_refused_in_a_filter(place: str) -> None:
    async def body(store: Store) -> None:
        for build in (NAME.eq, NAME.contains, NAME.starts_with, lambda text: NAME.is_in([text])):
            with pytest.raises(UsageError, match="ud800"):
                await store.engine.query(Person).where(build("\ud800")).all()

    using(place, body)


def test_an_id_with_a_nul_is_refused(place: str) -> None:
    async def body(store: Store) -> None:
        with pytest.raises(InvalidEntity, match="without NUL"):
            await store.engine.store(Person("a\0b"))

    using(place, body)
