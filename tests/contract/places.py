"""The stores that keep the contracts of this folder, and the data that is put into them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from max.core import Engine, SyncMeta
from max.engine import DatabaseEngine, DatabaseSyncMeta
from max.installations.encryption import new_key
from max.model.delivery import Delivery, ListingPage, WriteResult
from max.model.entities import Entity, Field, Many, ManyOf, Ref
from max.model.loaders import UnknownLoaders
from max.model.schema import Schema
from max.model.values import Json
from max.projects.opening import make_in_database
from max.storage import postgres
from max.storage.database import Connection, quoted
from max.storage.postgres import PostgresConnection, PostgresDatabase, connect
from max.storage.postgres_pool import Pool
from max.storage.sqlite import MEMORY, SqliteConnection, SqliteDatabase
from max.storage.sqlite import transaction as sqlite_transaction
from tests.postgres_server import new_schema, shared_url

T = TypeVar("T")


class Person(Entity):
    """Someone."""

    name: Field[str] = Field()
    age: Field[int | None] = Field()
    score: Field[float | None] = Field()
    active: Field[bool | None] = Field()
    seen: Field[datetime | None] = Field()
    born: Field[date | None] = Field()
    extra: Field[Json] = Field()
    boss: Field[Ref[Person] | None] = Field()


class Post(Entity):
    """What a team publishes."""

    title: Field[str] = Field()
    team: Field[Ref[Team] | None] = Field()


class Team(Entity):
    """A group of people."""

    order: Field[str] = Field("a word of SQL")
    people: Many[Person] = Many("membership is stored")
    posts: Many[Post] = Many(by=lambda: Post.team)


SCHEMA = Schema([Person, Post, Team], roots=[Team])


def parts(entity: type[Entity]) -> Sequence[tuple[str, ...]]:
    """Which fields arrive together: a score comes alone."""
    together = tuple(name for name in entity.types() if name != "score")
    return [together, ("score",)] if "score" in entity.types() else [together]


@dataclass
class Store:
    """What shares one installation's data."""

    engine: Engine
    meta: SyncMeta
    receive: Callable[[Delivery], Awaitable[WriteResult]]
    state: Callable[[], Awaitable[list[str]]]  # all that is durable, as text
    began: float = 0.0  # the latest listing

    async def page(
        self,
        parent: Ref[Any],
        collection: ManyOf[Any, Any],
        *entities: Entity,
        at: float = 100.0,
        number: int = 0,
        last: bool = True,
        delta: bool = False,
        sync_token: str | None = None,
    ) -> WriteResult:
        """Receive one page of a listing."""
        self.began = at if number == 0 else self.began
        listing = ListingPage(parent, collection, number, last, self.began, delta, sync_token)
        return await self.receive(Delivery(entities, at, listing))


class PassingDatabase(PostgresDatabase):
    """A schema that goes when the database is stopped."""

    async def stop(self) -> None:
        """Close it, and drop the schema."""
        await super().stop()
        await asyncio.to_thread(self.delete)


_on_postgres = False


def is_on_postgres() -> bool:
    """Whether the test that runs has its data in Postgres (see ``either``)."""
    return _on_postgres


def memory_database() -> SqliteDatabase | PostgresDatabase:
    """A new database that nothing outlives: in memory, or a schema of its own (see ``either``)."""
    return PassingDatabase(shared_url(), new_schema()) if _on_postgres else SqliteDatabase(MEMORY)


@contextmanager
def lasting_place(file: str | Path) -> Iterator[str | Path]:
    """Where data outlives a process of a test: a file, or a schema for as long as the test runs."""
    if not _on_postgres:
        yield file
        return
    url, schema = shared_url(), new_schema()
    yield f"{url}#{schema}"
    PostgresDatabase(url, schema).delete()


@contextmanager
def lasting_project(folder: Path, on_postgres: bool | None = None) -> Iterator[None]:
    """On Postgres (see ``either``) the folder leads to a new project there, for as long as the test runs."""
    if not (_on_postgres if on_postgres is None else on_postgres):
        yield
        return
    server, schema = shared_url(), new_schema().replace("_", "x")
    make_in_database(folder, f"{server}#{schema}")
    key = os.environ.get("MAX_KEY")
    os.environ["MAX_KEY"] = "env:MAX_TEST_KEYS"
    os.environ.setdefault("MAX_TEST_KEYS", new_key())
    try:
        yield
    finally:
        os.environ.pop("MAX_KEY") if key is None else os.environ.update(MAX_KEY=key)
        drop_project(server, schema)


def drop_project(server: str, schema: str) -> None:
    """Drop the schemas of a project."""
    with PostgresDatabase(server, "public").writer() as connection:
        sql = "SELECT nspname FROM pg_namespace WHERE nspname = ? OR starts_with(nspname, ?)"
        for (name,) in connection.execute(sql, (schema, f"{schema}_")).fetchall():
            connection.execute(f'DROP SCHEMA "{name}" CASCADE')


def database_at(place: str | Path) -> SqliteDatabase | PostgresDatabase:
    """The database of a place: a file, one in memory, or ``postgresql://…#schema``."""
    if place == MEMORY:
        return memory_database()
    url, _, schema = str(place).partition("#")
    return PostgresDatabase(url, schema) if schema else SqliteDatabase(place)


def dump(connection: Connection) -> list[str]:
    """All that a database holds, as text."""
    if isinstance(connection, SqliteConnection):
        return list(connection.iterdump())
    names = sorted(one.name for one in connection.dialect.objects(connection) if one.kind == "table")
    rows = {name: f"SELECT CAST(t AS text) FROM {quoted(name)} AS t ORDER BY 1" for name in names}
    return [f"{name} {row}" for name, sql in rows.items() for (row,) in connection.execute(sql)]


@asynccontextmanager
async def store_at(place: str | Path, schema: Schema = SCHEMA) -> AsyncIterator[Store]:
    """The store of this library."""
    database = database_at(place)
    await database.start()
    try:
        engine = DatabaseEngine(database, UnknownLoaders(schema, parts))
        await engine.start()

        async def receive(delivery: Delivery) -> WriteResult:
            return await database.transact(engine.prepare_write(delivery))

        yield Store(engine, DatabaseSyncMeta(database, engine), receive, lambda: database.read(dump))
        await engine.stop()
    finally:
        await database.stop()


def using(place: str | Path, body: Callable[[Store], Awaitable[T]], schema: Schema = SCHEMA) -> T:
    """Run a body on an open store."""

    async def main() -> T:
        async with store_at(place, schema) as store:
            return await body(store)

    return asyncio.run(main())


@contextmanager
def memory_connection() -> Iterator[Any]:
    """A connection to a new database, outside of transactions; it is gone afterwards (see ``either``)."""
    if not _on_postgres:
        with closing(sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)) as connection:
            yield connection
        return
    with postgres_connection() as made:
        yield made


@contextmanager
def postgres_connection() -> Iterator[PostgresConnection]:
    """The same to a new schema of Postgres."""
    database = PostgresDatabase(shared_url(), new_schema())
    with database.writer():
        pass
    made = PostgresConnection(connect(database.url, database.label))
    try:
        made.execute(f"SET search_path TO {database.schema}")
        yield made
    finally:
        made.raw.close()
        database.delete()


@contextmanager
def transaction(connection: Any) -> Iterator[None]:
    """All of it or nothing, on a connection outside of transactions."""
    if isinstance(connection, SqliteConnection):
        with sqlite_transaction(connection):
            yield
        return
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def columns_of(connection: Any, table: str) -> set[Any]:
    """The columns of a table with what the database says of them."""
    if isinstance(connection, SqliteConnection):
        return {row[1:] for row in connection.execute(f'PRAGMA table_info("{table}")')}
    sql = """
        SELECT CAST(a.attname AS text), format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attcollation
          FROM pg_attribute AS a WHERE a.attrelid = to_regclass(quote_ident(?))
           AND a.attnum > 0 AND NOT a.attisdropped
    """
    return set(connection.execute(sql, (table,)))


POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


@pytest.fixture(params=["file", "memory", POSTGRES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store keeps its data: every test of a contract runs on each."""
    if request.param != "postgres":
        yield MEMORY if request.param == "memory" else str(tmp_path / "data.db")
        return
    with postgres_place() as found:
        yield found


@contextmanager
def postgres_place() -> Iterator[str]:
    """A schema of the test's own on the server."""
    url, schema = shared_url(), new_schema()
    with sharing_connections():
        yield f"{url}#{schema}"
        PostgresDatabase(url, schema).delete()


BOTH = ("sqlite", POSTGRES)


class LastingPool(Pool):
    """Connections that a test leaves to the next: for a new one the server reads its whole catalogue."""

    def close(self) -> None:
        """Keep them."""


pools: dict[str, Pool] = {}  # of this process, by URL


def lasting_pool(url: str) -> Pool:
    """The pool of a URL."""
    return pools.setdefault(url, LastingPool(lambda: connect(url, url)))


@contextmanager
def sharing_connections() -> Iterator[None]:
    """In the block databases that have no pool share one with the blocks before."""
    original = postgres.pool_of
    postgres.pool_of = lasting_pool
    try:
        yield
    finally:
        postgres.pool_of = original


@pytest.fixture
def either(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test has in memory is in Postgres the second time; conftest gives it ``BOTH`` parameters."""
    global _on_postgres
    with ExitStack() as during:
        _on_postgres = getattr(request, "param", "sqlite") == "postgres"
        if _on_postgres:
            shared_url()
            during.enter_context(sharing_connections())
        yield
        _on_postgres = False
