"""The stores that keep the contracts of this folder, and the data that is put into them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from max.core import Engine, SyncMeta
from max.engine import SqliteEngine, SqliteSyncMeta
from max.model.delivery import Delivery, ListingPage, WriteResult
from max.model.entities import Entity, Field, Many, ManyOf, Ref
from max.model.loaders import UnknownLoaders
from max.model.schema import Schema
from max.model.values import Json
from max.storage.sqlite import MEMORY, SqliteConnection, SqliteDatabase

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
    """Which fields arrive together: a person's score comes alone."""
    together = tuple(name for name in entity.types() if name != "score")
    return [together, ("score",)] if entity is Person else [together]


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


@asynccontextmanager
async def sqlite_store(path: str | Path, schema: Schema = SCHEMA) -> AsyncIterator[Store]:
    """The store of this library, in a file or in memory."""
    database = SqliteDatabase(path)
    await database.start()
    try:
        engine = SqliteEngine(database, UnknownLoaders(schema, parts))
        await engine.start()

        async def receive(delivery: Delivery) -> WriteResult:
            return await database.transact(engine.prepare_write(delivery))

        def dump(connection: SqliteConnection) -> list[str]:
            return list(connection.iterdump())

        yield Store(engine, SqliteSyncMeta(database, engine), receive, lambda: database.read(dump))
        await engine.stop()
    finally:
        await database.stop()


def using(path: str | Path, body: Callable[[Store], Awaitable[T]], schema: Schema = SCHEMA) -> T:
    """Run a body on an open store."""

    async def main() -> T:
        async with sqlite_store(path, schema) as store:
            return await body(store)

    return asyncio.run(main())


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store keeps its data: every test of a contract runs on each."""
    return MEMORY if request.param == "memory" else str(tmp_path / "data.db")
