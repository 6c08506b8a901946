"""Deliveries that one transaction stores together leave what each would leave, stored by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.records import ended, running
from bench.tasks import SOURCE, Thing
from max.engine import DatabaseEngine
from max.model.constructors import write_constructor
from max.model.delivery import Delivery, ListingPage, WriteResult, run_writes
from max.model.entities import Entity, values_of
from max.model.loaders import UnknownLoaders
from max.model.mapping import by_column
from max.model.query import Query
from max.storage.database import Connection
from max.storage.quarantine import quarantined
from max.storage.table_writer import TableWriter
from tests.contract.places import (
    SCHEMA,
    Person,
    Post,
    Team,
    memory_connection,
    memory_database,
    parts,
    transaction,
)

for kind in (Post, Person):
    write_constructor(kind)  # as a sync has them written

TEAM, IDS = Team.ref("t"), "abcdefgh"
FIELDS: dict[type[Any], tuple[str, ...]] = {Post: ("title", "team"), Person: ("name", "score")}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from("xyz"),
    "score": st.sampled_from([0.5, 1.5]),
    "title": st.sampled_from("xyz"),
    "team": st.none() | st.just(TEAM),
}


@st.composite
def deliveries(draw: st.DrawFn) -> list[Delivery]:
    """Responses that tasks got for a row or two, requested at different times; many are alike."""
    found = []
    for at in draw(st.lists(st.integers(5, 40), min_size=3, max_size=6, unique=True)):
        entity = draw(st.sampled_from([Post, Post, Person]))
        names = draw(st.sampled_from([FIELDS[entity], FIELDS[entity], FIELDS[entity][:1], ()]))
        ids = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=2, unique=True))
        rows = [entity(id, **{name: draw(VALUES[name]) for name in names}) for id in ids]
        found.append(Delivery(by_column(rows), float(at), received_at=at + 0.5, sync="s"))
    return found


def page(*entities: Entity, at: float, came: float | None = None) -> Delivery:
    """A whole listing of the team's posts."""
    return Delivery(entities, at, ListingPage(TEAM, Team.posts, 0, True, at), received_at=came or at)


ROWS = [
    Delivery([Post("a", title="u", team=None), Post("c", title="u", team=None)], 30.0),
    Delivery([Person(id, score=2.5) for id in "ab"], 20.0),
]
MISSING = [
    page(*(Post(id, title="w", team=TEAM) for id in IDS), at=3.0),
    page(Post("b", title="v", team=TEAM), at=18.0),
]
SLOW = [page(*(Post(id, title="w", team=TEAM) for id in IDS), at=3.0, came=22.0)]
REMOVED = [Delivery([], 15.0, removed=[Post.ref("a")]), Delivery([], 25.0, removed=[Person.ref("c")])]
GONE = [MISSING[0], Delivery([], 4.0, removed=[Post.ref(id) for id in "abcd"])]
RETURNING = [
    Delivery(by_column([Post(id, title="x")]), at, sync="s") for id, at in (("a", 10.0), ("b", 12.0))
]
BEFORE = st.sampled_from(
    [[], ROWS, MISSING, [*MISSING, *ROWS], [*ROWS, *REMOVED], SLOW, SLOW, GONE]
)  # is stored already
LATE = st.integers(5, 40).map(
    lambda at: Delivery([kind(id, **{FIELDS[kind][0]: "l"}) for kind in FIELDS for id in IDS], at - 0.5)
)


Stored = tuple[list[WriteResult], dict[str, Any]]


def stored(
    connection: Any, tables: TableWriter, before: Sequence[Delivery], *some: Sequence[Delivery]
) -> Stored:
    """What storing comes to, which is then undone: the results, the rows and the times of their fields."""
    connection.execute("BEGIN")
    try:
        for one in before:
            tables.write(connection, one)
        results = [result for each in some for result in tables.write_all(connection, each)]
        missing = """
            SELECT _id, missing_since, brought_at
              FROM _max_missing JOIN "_post" ON _row = row WHERE entity = 'Post' ORDER BY 1
        """
        rows: dict[str, Any] = {"missing": connection.execute(missing).fetchall()}
        unsure = "SELECT collection, parent, invalidated_at FROM _max_listing ORDER BY 1, 2"
        rows["listings"] = connection.execute(unsure).fetchall()
        for entity, names in FIELDS.items():
            for row in tables.fetch(connection, Query(entity)).items:
                ages = tables.freshness.synced_at(connection, entity.ref(row.id), names)
                rows[f"{entity.__name__} {row.id}"] = values_of(row), ages
        return results, rows
    finally:
        connection.execute("ROLLBACK")


@contextmanager
def empty_tables() -> Iterator[tuple[Connection, TableWriter]]:
    """Tables of a new database."""
    with memory_connection() as connection:
        tables = TableWriter(SCHEMA, UnknownLoaders(SCHEMA, parts))
        with transaction(connection):
            tables.apply(connection)
        yield connection, tables


@pytest.mark.usefixtures("either")
def test_rows_and_their_ages_are_those_of_deliveries_that_are_stored_one_by_one() -> None:
    with empty_tables() as (connection, tables):

        @settings(max_examples=20)
        @given(BEFORE, deliveries(), LATE)
        @example(GONE, RETURNING, Delivery([], 30.0))
        def check(before: Sequence[Delivery], some: Sequence[Delivery], late: Delivery) -> None:
            expected = stored(connection, tables, before, *([one] for one in some), [late])
            assert stored(connection, tables, before, some, [late]) == expected

        check()


@pytest.mark.usefixtures("either")
def test_rows_that_overlap_with_a_page_of_a_listing_are_compared_with_it() -> None:
    with empty_tables() as (connection, tables):
        rows = [by_column([Post(id, title="x", team=TEAM)]) for id in "ab"]
        some = [
            Delivery(one, at, received_at=at + 1.0, sync="s")
            for one, at in zip(rows, (10.0, 12.0), strict=True)
        ]
        _, found = stored(connection, tables, SLOW, some)
        assert found["listings"] == [("Team.posts", "t", 13.0)]


async def on_a_store(body: Any) -> None:
    """Run something on an open database with its engine."""
    database = memory_database()
    await database.start()
    try:
        engine = DatabaseEngine(database, UnknownLoaders(SCHEMA, parts))
        await engine.start()
        await body(database, engine)
    finally:
        await database.stop()


@pytest.mark.usefixtures("either")
def test_a_row_that_is_invalid_is_kept_aside_with_its_own_time_and_the_others_are_stored() -> None:
    wrong: Any = 3
    bad = Delivery(by_column([Person("b", name=wrong)]), 20.0)
    some = [
        Delivery(by_column([Person("a", name="x")]), 10.0),
        bad,
        Delivery(by_column([Person("c", name="z")]), 30.0),
    ]

    async def body(database: Any, engine: DatabaseEngine) -> None:
        writes = [engine.prepare_write(one) for one in some]
        results = await database.transact(lambda connection: run_writes(connection, writes))
        assert [one.quarantined for one in results] == [0, 1, 0]
        assert [one.name for one in await engine.query(Person).order_by(Person.name).all()] == ["x", "z"]
        (kept,) = await database.read(quarantined)
        assert (kept.id, kept.at) == ("b", 20.0)
        again = [engine.prepare_write(Delivery(by_column([Person(id, name="y")]), 40.0)) for id in "bc"]
        await database.transact(lambda connection: run_writes(connection, again))
        assert await database.read(quarantined) == []

    asyncio.run(on_a_store(body))


@pytest.mark.usefixtures("either")
def test_a_value_that_was_requested_later_stays_whether_it_came_before_or_with_the_others() -> None:
    def posts(at: float, title: str, *ids: str) -> list[Delivery]:
        return [Delivery(by_column([Post(id, title=title, team=None)]), at) for id in ids]

    async def body(database: Any, engine: DatabaseEngine) -> None:
        together = [*posts(32, "w", "d"), *posts(40, "y", "c")]
        for some in (posts(30, "new", "a"), posts(10, "x", "a", "b"), together, posts(35, "z", "c")):
            writes = [engine.prepare_write(one) for one in some]
            await database.transact(lambda connection, writes=writes: run_writes(connection, writes))
        assert [one.title for one in await engine.query(Post).order_by(Post.title).all()] == [
            "new",
            "w",
            "x",
            "y",
        ]

    asyncio.run(on_a_store(body))


@pytest.mark.usefixtures("either")
def test_each_row_has_a_change_of_when_the_last_of_them_came() -> None:
    some = [
        Delivery(by_column([Person(id, name="x")]), 10.0, received_at=at)
        for id, at in zip("abc", (30, 32, 31), strict=True)
    ]

    async def body(database: Any, engine: DatabaseEngine) -> None:
        writes = [engine.prepare_write(one) for one in some]
        await database.transact(lambda connection: run_writes(connection, writes))
        changes = [one async for one in engine.changes(since="beginning")]
        assert sorted((one.id, one.kind, one.at) for one in changes) == [(id, "created", 32) for id in "abc"]

    asyncio.run(on_a_store(body))


@pytest.mark.usefixtures("either")
def test_the_statements_for_many_deliveries_are_few() -> None:
    def statements(number: int) -> int:
        some = [
            Delivery(by_column([Post(str(n), title="x", team=None)]), float(n)) for n in range(1, number + 1)
        ]
        run: list[str] = []

        def work(connection: Connection) -> None:
            counting = Counting(connection, run)
            run_writes(counting, [engines[0].prepare_write(one) for one in some])

        async def body(database: Any, engine: DatabaseEngine) -> None:
            engines[:] = [engine]
            await database.transact(work)

        engines: list[DatabaseEngine] = []
        asyncio.run(on_a_store(body))
        return len(run)

    assert statements(40) == statements(2) < 12


class Counting:
    """A connection that notes the statements for which it waits."""

    def __init__(self, connection: Any, run: list[str]) -> None:
        self._connection, self._run = connection, run

    def __getattr__(self, name: str) -> Any:
        if name in ("execute", "executemany", "execute_each", "insert"):
            self._run.append(name)
        return getattr(self._connection, name)


def test_what_the_tasks_of_a_sync_bring_is_stored_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each: list[Delivery] = []
    write = TableWriter.write

    def writes(self: TableWriter, connection: Connection, one: Delivery, **how: Any) -> WriteResult:
        each.append(one)
        return write(self, connection, one, **how)

    monkeypatch.setattr(TableWriter, "write", writes)

    async def main() -> int:
        async with running(SOURCE, tmp_path / "data.db") as runtime:
            await runtime.engine.store(*(Thing(f"t{number}") for number in range(50)))
            each.clear()
            await ended(await runtime.sync())
            return len(await runtime.engine.query(Thing).all())

    assert asyncio.run(main()) == 50
    assert len(each) < 10
