"""The records that the benchmarks store, and a connector that lists them from the process itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from max import InstallationInfo, InstallationRuntime, Settings, SyncHandle
from max.connecting import (
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Installation,
    Json,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
)
from max.connector import NoConfig
from max.model.entities import ManyOf, P
from max.storage.database import Database
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import MemoryCredentials
from max.upstream.hosts import Hosts
from max.upstream.operations import AnyOperation

C = TypeVar("C")
SourceRecord = dict[str, Json]
Read = Callable[[int, int], list[SourceRecord]]  # the records from one number up to another

PAGE = 1_000  # records
USUAL = Settings()
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PROSE = "the quick brown fox jumps over the lazy dog and then thinks about it some more.."


class Root(Entity):
    """The parent of every record."""

    records: Many[Item] = Many()


class Owner(Entity):
    """The target of a record's ref; no loader lists it."""


class Item(Entity):
    """Ten fields: text, bool, int, float, two times, a ref, 80 characters of prose."""

    title: Field[str] = Field()
    active: Field[bool] = Field()
    votes: Field[int] = Field()
    score: Field[float] = Field()
    created_at: Field[datetime] = Field()
    updated_at: Field[datetime] = Field()
    owner: Field[Ref[Owner]] = Field()
    prose: Field[str] = Field()
    status: Field[str] = Field()


FIELDS = tuple(Item.types())
BROUGHT = [getattr(Item, name) for name in FIELDS]


def make(start: int, stop: int) -> list[SourceRecord]:
    """Records as an API's JSON gives them."""
    return [
        {
            "id": f"item-{i:08d}",
            "title": f"Item number {i}",
            "active": i % 3 > 0,
            "votes": i * 7 % 1000,
            "score": i * 0.25,
            "created_at": (BEGIN + timedelta(seconds=i)).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "updated_at": (BEGIN + timedelta(seconds=2 * i)).strftime("%Y-%m-%dT%H:%M:%S.125Z"),
            "owner": f"owner-{i % 97}",
            "prose": PROSE,
            "status": "open" if i % 5 else "done",
        }
        for i in range(start, stop)
    ]


def item(data: SourceRecord) -> Item:
    """A record as a connector's author writes it."""
    return Item(
        data["id"],
        title=data["title"],
        active=data["active"],
        votes=data["votes"],
        score=data["score"],
        created_at=data["created_at"],
        updated_at=data["updated_at"],
        owner=Owner.ref(data["owner"]),
        prose=data["prose"],
        status=data["status"],
    )


def listing(read: Read, count: int) -> Connector[NoConfig, Read]:
    """A connector that lists so many records, page by page."""

    @Loader.collection(Root.records, brings=BROUGHT)
    async def list_items(parent: Ref[Root], request: PageRequest, env: Env[Read]) -> Page[Item]:
        start = int(request.cursor or 0)
        end = min(start + PAGE, count)
        return Page([item(data) for data in env.context(start, end)], str(end) if end < count else None)

    return connector([Root, Owner, Item], [list_items], seeding(Root.records), read)


def reading(read: Read, count: int) -> Connector[NoConfig, Read]:
    """The same, whose pages are read by Page.read."""

    @Loader.collection(Root.records, brings=BROUGHT)
    async def list_items(parent: Ref[Root], request: PageRequest, env: Env[Read]) -> Page[Item]:
        start = int(request.cursor or 0)
        end = min(start + PAGE, count)
        return Page.read(Item, env.context(start, end), next=str(end) if end < count else None)

    return connector([Root, Owner, Item], [list_items], seeding(Root.records), read)


def seeding(listed: ManyOf[P, Any]) -> Callable[[object, Store], Awaitable[SyncPlan]]:
    """A seeder of one root and everything that it lists."""

    async def seed(context: object, store: Store) -> SyncPlan:
        await store.store(listed.parent("root"))
        return SyncPlan([Step.for_root(listed.parent.ref("root")).load_collection(listed)])

    return seed


def connector(
    entities: Sequence[type[Entity]],
    loaders: Sequence[Loader[C]],
    seeder: Callable[[C, Store], Awaitable[SyncPlan]],
    context: C,
    *,
    stop: Callable[[], Awaitable[None]] | None = None,
    operations: Sequence[AnyOperation] = (),
) -> Connector[NoConfig, C]:
    """A connector without configuration or credentials; the first entity is the root."""

    async def initialise(config: NoConfig, credentials: CredentialProvider) -> Installation[C]:
        return Installation(context, stop=stop)

    return Connector(
        name="records",
        description="Records for benchmarks.",
        schema=Schema(entities, roots=entities[:1]),
        loaders=loaders,
        seeder=seeder,
        initialise=initialise,
        config=NoConfig,
        operations=operations,
    )


def no_credentials(address: str) -> CredentialProvider:
    """What a service at an address needs that knows no accounts; as a real process, without max.testing."""
    return CredentialProvider(MemoryCredentials(), [], Hosts.of(address))


@asynccontextmanager
async def running(
    source: Connector[NoConfig, C], place: Path | Database, settings: Settings = USUAL
) -> AsyncIterator[InstallationRuntime]:
    """A started runtime of a connector, on a database or a file of its own."""
    info = InstallationInfo("records", "default", "bench", {}, 0.0, settings)
    database = SqliteDatabase(place) if isinstance(place, Path) else place
    runtime = InstallationRuntime(
        info, source, NoConfig(), CredentialProvider(MemoryCredentials(), []), database
    )
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


async def sync(source: Connector[NoConfig, C], place: Path | Database, settings: Settings = USUAL) -> None:
    """Sync through a runtime: tasks, transactions, links, freshness."""
    async with running(source, place, settings) as runtime:
        await ended(await runtime.sync())


async def ended(handle: SyncHandle) -> None:
    """Wait for the end of a sync, which must be a good one."""
    result = await handle.completion()
    assert result.status == "completed", result
