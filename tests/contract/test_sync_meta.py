from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.engine import DatabaseEngine
from max.errors import StorageError, UnknownName
from max.model.delivery import Delivery, ListingPage
from max.model.entities import FieldOf
from max.model.loaders import UnknownLoaders
from max.storage.database import Cursor, Values
from max.storage.postgres import PostgresConnection
from max.storage.sqlite import MEMORY, SqliteConnection
from tests.contract.places import SCHEMA, Person, Post, Store, Team, database_at, dump, parts, place, using

__all__ = ["place"]
ADA, BOB, RED = Person.ref("a"), Person.ref("b"), Team.ref("red")
FIELDS: list[FieldOf[Person, Any]] = [FieldOf(Person, name) for name in Person.types()]
NAMES = [field.name for field in FIELDS]


async def ages(store: Store, *names: str) -> list[float | None]:
    """When some of Ada's fields were synced."""
    return [await store.meta.synced_at(ADA, FieldOf(Person, name)) for name in names]


def whole(id: str, **values: Any) -> Person:
    """A person with every field but the score, which arrives by itself."""
    rest = dict.fromkeys(["age", "active", "seen", "born", "extra", "boss"])
    return Person(id, **{"name": id, **rest, **values})


# -- what deliveries record ------------------------------------------------------------------


def test_a_row_that_is_not_stored_was_never_synced(place: str) -> None:
    async def body(store: Store) -> object:
        return await ages(store, "name"), await store.meta.is_fully_synced(ADA)

    assert using(place, body) == ([None], False)


def test_a_row_stored_without_a_time_is_not_synced(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.engine.store(whole("a"))
        return await ages(store, "name")

    assert using(place, body) == [None]


def test_a_delivery_dates_the_fields_it_brought_and_no_others(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.receive(Delivery([Person("a", name="Ada", age=36)], 100.0))
        await store.receive(Delivery([Person("a", age=36)], 200.0))
        return await ages(store, "name", "age", "score")

    assert using(place, body) == [100.0, 200.0, None]


def test_storing_with_a_time_dates_the_fields(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.engine.store(whole("a"), requested_at=100.0)
        await store.engine.store(Person("a", score=1.0), requested_at=200.0)
        return await ages(store, "name", "boss", "score")

    assert using(place, body) == [100.0, 100.0, 200.0]


def test_a_page_without_changes_still_makes_its_rows_fresh(place: str) -> None:
    async def body(store: Store) -> list[list[float | None]]:
        await store.page(RED, Team.people, whole("a"), at=100.0)
        first = await ages(store, "name", "score")
        await store.page(RED, Team.people, whole("a"), at=200.0)
        return [first, await ages(store, "name", "score")]

    assert using(place, body) == [[100.0, None], [200.0, None]]


def test_a_row_that_left_a_listing_is_no_fresher(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.page(RED, Team.people, whole("a"), whole("b"), at=100.0)
        await store.page(RED, Team.people, whole("b"), at=200.0)
        (left,) = await ages(store, "name")
        assert await store.meta.synced_at(BOB, Person.name) == 200.0
        return [left]

    assert using(place, body)[0] in (None, 100.0)


def test_rows_of_one_page_may_have_different_fields(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.page(RED, Team.people, whole("a"), Person("b", name="Bob"), at=100.0)
        bobs = [await store.meta.synced_at(BOB, field) for field in (Person.name, Person.age)]
        return [*await ages(store, "name", "age"), *bobs]

    assert using(place, body) == [100.0, 100.0, 100.0, None]


def test_rows_that_come_along_are_dated_too(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.page(RED, Team.posts, Post("1", title="x", team=RED), whole("a"), at=100.0)
        return [*await ages(store, "name"), await store.meta.synced_at(Post.ref("1"), Post.title)]

    assert using(place, body) == [100.0, 100.0]


def test_a_row_that_came_along_once_is_no_fresher_when_the_page_comes_without_it(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.page(RED, Team.posts, Post("1", title="x", team=RED), whole("a"), at=100.0)
        await store.page(RED, Team.posts, Post("1", title="x", team=RED), whole("b"), at=200.0)
        return [*await ages(store, "name"), await store.meta.synced_at(BOB, Person.name)]

    assert using(place, body) == [100.0, 200.0]


@pytest.mark.usefixtures("either")
@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(NAMES), min_size=1), st.sampled_from("ab")), min_size=1, max_size=6
    ),
    st.booleans(),
)
def test_every_field_is_as_fresh_as_the_last_delivery_that_brought_it(
    brought: list[tuple[set[str], str]], listed: bool
) -> None:
    latest: dict[tuple[str, str], float] = {}

    async def body(store: Store) -> dict[tuple[str, str], float | None]:
        for step, (names, id) in enumerate(brought, 1):
            record = Person(
                id, **{name: getattr(whole(id, score=1.0), name) for name in NAMES if name in names}
            )
            listing = ListingPage(RED, Team.people, step - 1, False, 100.0) if listed else None
            await store.receive(Delivery([record], 100.0 * step, listing))
            latest.update({(id, name): 100.0 * step for name in names})
        return {
            (id, field.name): await store.meta.synced_at(Person.ref(id), field)
            for id in "ab"
            for field in FIELDS
        }

    found = using(MEMORY, body)
    assert {key: at for key, at in found.items() if at is not None} == latest


# -- asking ---------------------------------------------------------------------------------


def test_stale_fields_are_those_not_synced_since(place: str) -> None:
    async def body(store: Store) -> list[list[FieldOf[Person, Any]]]:
        await store.receive(Delivery([whole("a")], 100.0))
        await store.receive(Delivery([Person("a", score=1.0)], 200.0))
        wanted: list[FieldOf[Person, Any]] = [Person.name, Person.score]
        return [await store.meta.stale(ADA, wanted, before=at) for at in (100.0, 100.5, 201.0)]

    assert using(place, body) == [[], [Person.name], [Person.name, Person.score]]


def test_no_fields_are_stale_when_none_are_asked_for(place: str) -> None:
    assert using(place, lambda store: store.meta.stale(ADA, [], before=1e12)) == []


def test_an_entity_is_fully_synced_when_every_field_is(place: str) -> None:
    async def body(store: Store) -> list[bool]:
        await store.receive(Delivery([whole("a"), Team("red", order="x")], 100.0))
        first = await store.meta.is_fully_synced(ADA)
        await store.receive(Delivery([Person("a", score=None)], 200.0))
        return [first, await store.meta.is_fully_synced(ADA), await store.meta.is_fully_synced(RED)]

    assert using(place, body) == [False, True, True]


def test_an_unknown_field_is_named_in_the_error(place: str) -> None:
    async def body(store: Store) -> None:
        await store.meta.stale_ids(Person, ["nme"], before=1.0)

    with pytest.raises(UnknownName, match="unknown field 'nme' in Person"):
        using(place, body)


# -- recording and forgetting ---------------------------------------------------------------


def test_record_dates_rows_that_are_stored(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.engine.store(whole("a"), whole("b"))
        await store.meta.record([ADA], ["name", "age"], at=100.0)
        assert await store.meta.synced_at(BOB, Person.name) is None
        return await ages(store, "name", "age", "boss")

    assert using(place, body) == [100.0, 100.0, None]


def test_an_older_record_does_not_hide_a_newer_delivery(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.receive(Delivery([whole("a")], 200.0))
        await store.meta.record([ADA], ["name"], at=100.0)
        first = await ages(store, "name")
        await store.meta.record([ADA], ["name"], at=300.0)
        return [*first, *await ages(store, "name")]

    assert using(place, body) == [200.0, 300.0]


def test_of_several_records_the_latest_request_wins_in_any_order(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.engine.store(whole("a"))
        for at in (300.0, 200.0):
            await store.meta.record([ADA], ["name", "age"], at=at)
        await store.meta.invalidate([ADA], ["age"], at=250.0)
        return await ages(store, "name", "age")

    assert using(place, body) == [300.0, 300.0]


def test_an_invalidated_field_is_stale_and_keeps_its_value(place: str) -> None:
    async def body(store: Store) -> list[Any]:
        await store.receive(Delivery([whole("a", age=36), whole("b")], 100.0))
        await store.meta.invalidate([ADA], ["age"], at=150.0)
        ada = await store.engine.load(ADA)
        bob = await store.meta.synced_at(BOB, Person.age)
        return [*await ages(store, "age", "name"), ada.age, bob]

    assert using(place, body) == [None, 100.0, 36, 100.0]


def test_a_delivery_after_an_invalidation_is_fresh(place: str) -> None:
    async def body(store: Store) -> list[float | None]:
        await store.receive(Delivery([whole("a")], 100.0))
        await store.meta.invalidate([ADA], ["age"], at=150.0)
        await store.receive(Delivery([whole("a")], 200.0))
        fresh = await ages(store, "age")
        await store.meta.invalidate([ADA], ["age"], at=150.0)
        return [*fresh, *await ages(store, "age")]

    assert using(place, body) == [200.0, 200.0], "only what was requested at or before that time is stale"


# -- work lists -----------------------------------------------------------------------------


async def stale_ids(
    store: Store, *fields: str, before: float = 150.0, limit: int = 2, **more: Any
) -> list[str]:
    """Every stale id, page by page."""
    found: list[str] = []
    while True:
        after = found[-1] if found else ""
        page = await store.meta.stale_ids(Person, fields, before=before, after=after, limit=limit, **more)
        found += page
        if len(page) < limit:
            return found


def test_stale_ids_come_in_order_page_by_page(place: str) -> None:
    async def body(store: Store) -> list[list[str]]:
        await store.receive(Delivery([whole(id) for id in "edcba"], 100.0))
        await store.receive(Delivery([whole("c")], 200.0))
        await store.meta.invalidate([Person.ref("c")], ["age"], at=300.0)
        names, both = await stale_ids(store, "name"), await stale_ids(store, "name", "age")
        return [names, both, await stale_ids(store, "name", before=100.0), await stale_ids(store, "score")]

    assert using(place, body) == [list("abde"), list("abcde"), [], list("abcde")]


def test_without_fields_every_id_is_stale(place: str) -> None:
    async def body(store: Store) -> list[list[str]]:
        await store.receive(Delivery([whole(id) for id in "cab"], 1e9))
        return [await stale_ids(store), await stale_ids(store, limit=1)]

    assert using(place, body) == [list("abc"), list("abc")]


def test_stale_ids_can_be_filtered_and_leave_out_removed_rows(place: str) -> None:
    async def body(store: Store) -> list[str]:
        await store.receive(Delivery([whole(id, age=ord(id)) for id in "abcde"], 100.0))
        await store.receive(Delivery((), 101.0, removed=[Person.ref("d")]))
        return await stale_ids(store, "name", matching=Person.age.gt(ord("b")) & ~Person.name.eq("x"))

    assert using(place, body) == ["c", "e"]


# -- marks ----------------------------------------------------------------------------------


def test_a_bookmark_moves_only_with_the_last_page(place: str) -> None:
    async def body(store: Store) -> list[str | None]:
        marks = [(await store.meta.listing_state(RED, Team.people)).bookmark]
        for number, last in ((0, False), (1, False), (2, True)):
            await store.page(RED, Team.people, Person(str(number)), number=number, last=last, sync_token="m1")
            marks.append((await store.meta.listing_state(RED, Team.people)).bookmark)
        await store.page(RED, Team.people, Person("9"), last=False, delta=True, sync_token="m2")
        marks.append((await store.meta.listing_state(RED, Team.people)).bookmark)
        await store.page(RED, Team.people, number=1, delta=True, sync_token="m2")
        return [*marks, (await store.meta.listing_state(RED, Team.people)).bookmark]

    assert using(place, body) == [None, None, None, "m1", "m1", "m2"]


def test_a_bookmark_belongs_to_one_collection_of_one_parent(place: str) -> None:
    async def body(store: Store) -> list[str | None]:
        await store.page(RED, Team.people, sync_token="m1")
        others = (
            (await store.meta.listing_state(Team.ref("blue"), Team.people)).bookmark,
            (await store.meta.listing_state(RED, Team.posts)).bookmark,
        )
        return [(await store.meta.listing_state(RED, Team.people)).bookmark, *others]

    assert using(place, body) == ["m1", None, None]


def test_data_freshness_and_bookmarks_outlive_the_process(tmp_path: Any) -> None:
    path = tmp_path / "data.db"

    async def before(store: Store) -> None:
        await store.page(RED, Team.people, whole("a"), at=100.0, sync_token="m1")

    async def after(store: Store) -> list[Any]:
        page = await store.engine.load_collection(RED, Team.people)
        return [
            *page.items,
            *await ages(store, "name"),
            (await store.meta.listing_state(RED, Team.people)).bookmark,
        ]

    using(path, before)
    assert using(path, after) == [whole("a"), 100.0, "m1"]


# -- faults ---------------------------------------------------------------------------------

ARRIVAL = Delivery(
    [whole("a", name="new"), Person("b", name="Bob"), whole("d", score=1.0), Team("red", order="first")],
    200.0,
    ListingPage(RED, Team.people, 0, True, 200.0, bookmark="m2"),
    removed=[Person.ref("c")],
)


class Failing(PostgresConnection):
    """A connection whose nth statement fails."""

    def __init__(self, raw: Any, count: int) -> None:
        super().__init__(raw)
        self.asked, self._count = 0, count

    def execute(self, sql: str, values: Values = (), /) -> Cursor:
        """Run a statement, or one that cannot be run."""
        self.asked += 1
        return super().execute("SELECT 1 / 0" if self.asked == self._count else sql, values)

    def executemany(self, sql: str, rows: Iterable[Values], /) -> Cursor:
        """Run a statement for each row, or one that cannot be run."""
        self.asked += 1
        return self.execute("SELECT 1 / 0") if self.asked == self._count else super().executemany(sql, rows)


def failing_at(count: int, work: Any) -> Any:
    """The work, with the nth action of SQLite, or the nth statement of another database, refused."""
    asked = 0

    def refuse(*_: object) -> int:
        nonlocal asked
        asked += 1
        return sqlite3.SQLITE_DENY if asked == count else sqlite3.SQLITE_OK

    def inside(connection: SqliteConnection | PostgresConnection) -> None:
        nonlocal asked
        if isinstance(connection, PostgresConnection):
            failing = Failing(connection.raw, count)
            work(failing)
            if failing.asked >= count:
                raise AssertionError("a refused statement went unnoticed")
            return
        connection.set_authorizer(refuse)
        try:
            work(connection)
        finally:
            connection.set_authorizer(None)
        if asked >= count:
            raise AssertionError("a refused request went unnoticed")

    return inside


def test_a_delivery_that_fails_anywhere_leaves_the_old_state(place: str) -> None:
    async def body() -> int:
        database = database_at(place)
        await database.start()
        engine = DatabaseEngine(database, UnknownLoaders(SCHEMA, parts))
        await engine.start()
        first = Delivery(
            [whole(id) for id in "abc"], 100.0, ListingPage(RED, Team.people, 0, True, 100.0, bookmark="m1")
        )
        await database.transact(engine.prepare_write(first))

        old, count = await database.read(dump), 0
        while await database.read(dump) == old:
            count += 1
            try:
                await database.transact(failing_at(count, engine.prepare_write(ARRIVAL)))
            except StorageError:
                assert await database.read(dump) == old
        await database.stop()
        return count

    assert asyncio.run(body()) > 20
