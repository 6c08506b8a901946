"""The records that the benchmarks store, and a connector whose source is in the process."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from max import (
    Connector,
    CredentialProvider,
    Engine,
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
    SyncPlan,
)

PAGE = 1_000  # records
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PROSE = "the quick brown fox jumps over the lazy dog and then thinks about it some more.."


class Root(Entity):
    """What lists every record."""

    records: Many[Item] = Many()


class Owner(Entity):
    """Whom a record points at; nobody lists them."""


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


@dataclass(frozen=True)
class Size:
    """How many records the source has."""

    records: int


def make(count: int) -> list[dict[str, Json]]:
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
        for i in range(count)
    ]


def item(data: dict[str, Json]) -> Item:
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


def connector(records: list[dict[str, Json]]) -> Connector[Size, list[dict[str, Json]]]:
    """A connector that lists the records from memory."""

    @Loader.collection(Root.records, brings=[getattr(Item, name) for name in FIELDS])
    async def list_items(
        parent: Ref[Root], request: PageRequest, env: Env[list[dict[str, Json]]]
    ) -> Page[Item]:
        start = int(request.cursor or 0)
        end = start + PAGE
        items = [item(data) for data in env.context[start:end]]
        return Page(items, next=str(end) if end < len(env.context) else None)

    async def seed(context: list[dict[str, Json]], engine: Engine) -> SyncPlan:
        await engine.store(Root("root"))
        return SyncPlan([Step.for_root(Root.ref("root")).load_collection(Root.records)])

    async def initialise(
        config: Size, credentials: CredentialProvider
    ) -> Installation[list[dict[str, Json]]]:
        return Installation(records[: config.records])

    return Connector(
        name="records",
        description="Records in memory.",
        schema=Schema([Root, Owner, Item], roots=[Root]),
        loaders=[list_items],
        seeder=seed,
        initialise=initialise,
        config=Size,
    )
