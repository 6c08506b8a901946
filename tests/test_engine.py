from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from max.engine import DatabaseEngine, DatabaseSyncMeta
from max.errors import FieldNotLoaded, SchemaError, StorageError
from max.model.delivery import Delivery, ListingPage
from max.model.entities import Entity, Field, Many
from max.model.loaders import UnknownLoaders
from max.model.query import Query
from max.model.schema import Schema
from max.storage.sqlite import MEMORY, SqliteConnection, SqliteDatabase, transaction
from max.storage.table_writer import TableWriter
from max.storage.tables import Tables
from tests.contract.places import SCHEMA, Person, Post, Store, Team, parts, using
from tests.database_files import reader
from tests.sample import writer

T = TypeVar("T")
RED = Team.ref("red")


def opened(
    path: Path | str, schema: Schema, body: Callable[[SqliteDatabase, DatabaseEngine], Awaitable[T]]
) -> T:
    """Run a body on an engine and its database."""

    async def main() -> T:
        database = SqliteDatabase(path)
        await database.start()
        try:
            engine = DatabaseEngine(database, UnknownLoaders(schema, parts))
            await engine.start()
            return await body(database, engine)
        finally:
            await database.stop()

    return asyncio.run(main())


def made(name: str, annotations: dict[str, str], **body: Any) -> Any:
    """An entity as one version of a connector declares it."""
    fields: dict[str, Any] = {field: Field() for field in annotations}
    return type(name, (Entity,), {**fields, **body, "__annotations__": annotations, "__module__": __name__})


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    held = sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)
    yield held
    held.close()


def apply(connection: SqliteConnection, *entities: type[Entity]) -> TableWriter:
    """Make a database fit a schema, in a transaction."""
    tables = writer(Schema(entities))
    with transaction(connection):
        tables.apply(connection)
    return tables


# -- tables ---------------------------------------------------------------------------------


def test_tables_are_named_for_people_and_begin_with_the_id(connection: SqliteConnection) -> None:
    apply(connection, made("AcmeUser", {"name": "Field[str]", "order": "Field[int | None]"}))
    columns = [row[1:3] for row in connection.execute("PRAGMA table_info(acme_user)")]
    assert columns == [("id", "TEXT"), ("name", "TEXT"), ("order", "INTEGER")]


def test_other_tools_read_the_values_as_one_would_write_them() -> None:
    async def body(database: SqliteDatabase, engine: DatabaseEngine) -> list[Any]:
        text: Any = "2026-01-31T09:30:00.500Z"
        await engine.store(Person("a", name="Ada", active=True, seen=text, extra=[1], boss=Person.ref("b")))
        sql = "SELECT id, name, active, seen, extra, boss, datetime(seen) FROM person"
        return await database.read(lambda c: c.execute(sql).fetchall())

    assert opened(MEMORY, SCHEMA, body) == [
        ("a", "Ada", 1, "2026-01-31T09:30:00.5", "[1]", "b", "2026-01-31 09:30:00")
    ]


def test_an_entity_may_have_more_fields_than_one_number_has_bits() -> None:
    names = [f"f{number}" for number in range(200)]
    wide = made("Wide", dict.fromkeys(names, "Field[int | None]"))

    async def body(_: SqliteDatabase, engine: DatabaseEngine) -> list[Any]:
        await engine.store(wide("1", f0=1, f62=None, f199=3))
        await engine.store(wide("1", f61=61, f150=150))
        found = await engine.query(wide).where(wide.f199.is_loaded() & ~wide.f63.is_loaded()).all()
        return [*found, await engine.load(wide.ref("1"), wide.f150, wide.f100)]

    whole, some = opened(MEMORY, Schema([wide]), body)
    assert whole == wide("1", f0=1, f62=None, f199=3, f61=61, f150=150)
    assert some == wide("1", f150=150)


def test_an_entity_may_have_no_fields_at_all() -> None:
    bare = made("Bare", {})

    async def body(_: SqliteDatabase, engine: DatabaseEngine) -> list[Any]:
        await engine.store(bare("1"), bare("2"), requested_at=5.0)
        return [await engine.load(bare.ref("1")), *await engine.query(bare).all()]

    assert opened(MEMORY, Schema([bare]), body) == [bare("1"), bare("1"), bare("2")]


def test_an_unchanged_row_is_not_written_again() -> None:
    async def body(database: SqliteDatabase, engine: DatabaseEngine) -> list[int]:
        posts = [Post(str(number), title="x", team=RED) for number in range(100)]
        written = []
        for at in (1.0, 2.0):
            page = Delivery(posts, at, ListingPage(RED, Team.posts, 0, True, at))
            before = await database.transact(lambda c: c.total_changes)
            await database.transact(engine.prepare_write(page))
            written.append(await database.transact(lambda c: c.total_changes) - before)
        return written

    first, second = opened(MEMORY, SCHEMA, body)
    assert first >= 200, "rows and links"
    assert second < 110, "only the links remember the new listing"


# -- evolution ------------------------------------------------------------------------------

ONE = made("Thing", {"name": "Field[str]"})
TWO = made("Thing", {"name": "Field[str]", "size": "Field[int | None]"})
OTHER = made("Thing", {"name": "Field[int]"})


def test_starting_twice_changes_nothing(connection: SqliteConnection) -> None:
    apply(connection, TWO)
    before = list(connection.iterdump())
    apply(connection, TWO)
    assert list(connection.iterdump()) == before


def test_a_new_field_adds_a_column_and_is_not_loaded_in_old_rows(connection: SqliteConnection) -> None:
    tables = apply(connection, ONE)
    with transaction(connection):
        tables.write(connection, Delivery([ONE("1", name="x")], 5.0))
    tables = apply(connection, TWO)
    old = tables.load(connection, TWO.ref("1"))
    assert old == TWO("1", name="x")
    with pytest.raises(FieldNotLoaded):
        old.size  # noqa: B018
    assert tables.freshness.synced_at(connection, TWO.ref("1"), ["name", "size"]) == [5.0, None]


def test_a_field_of_another_kind_is_refused_before_anything_changes(connection: SqliteConnection) -> None:
    apply(connection, ONE)
    before = list(connection.iterdump())
    with pytest.raises(SchemaError, match=r"Thing\.name is stored as text, now declared integer") as caught:
        apply(connection, made("Fresh", {}), OTHER)
    assert "nothing was changed" in caught.value.hint
    assert list(connection.iterdump()) == before


def test_a_field_that_went_and_came_back_has_its_values(connection: SqliteConnection) -> None:
    tables = apply(connection, TWO)
    with transaction(connection):
        tables.write(connection, Delivery([TWO("1", name="x", size=3)], 5.0))
    apply(connection, ONE)
    assert apply(connection, TWO).load(connection, TWO.ref("1")) == TWO("1", name="x", size=3)


def test_a_database_is_read_without_the_connector(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    async def body(_: SqliteDatabase, engine: DatabaseEngine) -> None:
        await engine.store(Person("a", name="Ada", boss=Person.ref("b")), Team("red"))

    opened(path, SCHEMA, body)
    with reader(path) as connection:
        tables = Tables.stored(connection)
        person = tables.schema.entity("Person")
        (found,) = tables.fetch(connection, Query(person)).items
    assert tables.schema == SCHEMA
    assert repr(found) == "Person('a', name='Ada', boss=Person:b)"


def test_a_stored_record_makes_its_refs_at_the_first_look_and_is_then_as_any_other() -> None:
    post = Post("1", title="x", team=RED)

    async def body(database: SqliteDatabase, engine: DatabaseEngine) -> list[Post]:
        await engine.store(post, Post("2", team=None), Post("3", title="no team is loaded"))
        found = await engine.query(Post).order_by("id").all()
        assert not any(map(gc.is_tracked, gc.get_referents(found[0])[:-1]))  # nothing to follow
        return found

    first, second, third = opened(MEMORY, SCHEMA, body)
    command = [sys.executable, "-c", "import pickle, sys; print(repr(pickle.load(sys.stdin.buffer)))"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for protocol in (2, pickle.HIGHEST_PROTOCOL):  # into a process that has not looked at the class
        data = pickle.dumps(copy.deepcopy(first), protocol)
        elsewhere = subprocess.run(command, input=data, env=paths, stdout=subprocess.PIPE, check=True)
        assert elsewhere.stdout.decode().strip() == repr(post)
    assert (copy.copy(first), pickle.loads(pickle.dumps(first)), repr(first)) == (post, post, repr(post))
    assert first.team == RED
    assert second.team is None
    with pytest.raises(FieldNotLoaded):
        assert third.team


def test_a_database_without_data_says_so(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "data.db", factory=SqliteConnection).close()
    with reader(tmp_path / "data.db") as connection, pytest.raises(StorageError, match="holds no data yet"):
        Tables.stored(connection)


# -- after a sync ---------------------------------------------------------------------------


def test_tidying_indexes_the_refs_by_which_collections_are_read() -> None:
    async def body(database: SqliteDatabase, engine: DatabaseEngine) -> str:
        await engine.store(Post("1", team=RED))
        await engine.tidy(0.0)
        await engine.tidy(0.0)
        sql = "EXPLAIN QUERY PLAN SELECT * FROM post WHERE team = 'red'"
        return str(await database.read(lambda c: c.execute(sql).fetchall()))

    assert "USING INDEX" in opened(MEMORY, SCHEMA, body)


def test_tidying_forgets_no_freshness_that_a_row_still_has() -> None:
    async def body(database: SqliteDatabase, engine: DatabaseEngine) -> list[Any]:
        meta = DatabaseSyncMeta(database, engine)
        for at in range(1, 10):
            await engine.store(Person("a", name="x"), Post("1", title="x", team=None), requested_at=at)
            await engine.tidy(0.0)
        for at in range(10, 30):
            await engine.store(Person("a", name="x"), Post("1", title="x", team=None), requested_at=at)
        await database.transact(engine.prepare_write(Delivery([Team("red", order="x")], 30.0)))
        before = await database.read(lambda c: c.execute("SELECT count(*) FROM _max_load").fetchone()[0])
        await engine.tidy(0.0)
        after = await database.read(lambda c: c.execute("SELECT count(*) FROM _max_load").fetchone()[0])
        dates = [
            await meta.synced_at(Person.ref("a"), Person.name),
            await meta.synced_at(Post.ref("1"), Post.title),
            await meta.synced_at(RED, Team.order),
        ]
        return [after < before, *dates]

    assert opened(MEMORY, SCHEMA, body) == [True, 29.0, 29.0, 30.0]


# -- beside one another ---------------------------------------------------------------------


def test_queries_run_beside_a_writer_and_see_whole_arrivals(tmp_path: Path) -> None:
    pages = [Delivery([Person(f"{page}-{n}", name="x") for n in range(50)], 1.0) for page in range(20)]

    async def body(database: SqliteDatabase, engine: DatabaseEngine) -> list[int]:
        async def counts() -> list[int]:
            seen: list[int] = []
            while not seen or seen[-1] < 1000:
                seen.append(await engine.query(Person).count())
            return seen

        counting = asyncio.ensure_future(counts())
        for page in pages:
            await database.transact(engine.prepare_write(page))
        return await counting

    seen = opened(tmp_path / "data.db", SCHEMA, body)
    assert all(count % 50 == 0 for count in seen)
    assert seen == sorted(seen)


def test_the_event_loop_goes_on_while_the_engine_stores() -> None:
    release = threading.Event()

    async def body(database: SqliteDatabase, engine: DatabaseEngine) -> int:
        held = asyncio.ensure_future(database.transact(lambda _: release.wait(10)))
        storing = asyncio.ensure_future(engine.store(*(Person(str(n), name="x") for n in range(500))))
        ticks = 0
        while ticks < 50:
            await asyncio.sleep(0)
            ticks += 1
        assert not storing.done()
        release.set()
        await asyncio.gather(held, storing)
        return ticks

    assert opened(MEMORY, SCHEMA, body) == 50


def test_a_collection_that_two_entities_inherit_is_each_ones_own() -> None:
    class Group(Entity):
        people: Many[Person] = Many()

    class Crew(Group):
        """Some people."""

    class Squad(Group):
        """Other people."""

    async def body(store: Store) -> list[list[str]]:
        await store.page(Crew.ref("red"), Crew.people, Person("a"))
        crew = await store.engine.load_collection(Crew.ref("red"), Crew.people)
        squad = await store.engine.load_collection(Squad.ref("red"), Squad.people)
        return [[person.id for person in page.items] for page in (crew, squad)]

    assert using(MEMORY, body, Schema([Crew, Squad, Person])) == [["a"], []]
