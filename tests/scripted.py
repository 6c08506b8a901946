"""A connector over the scripted upstream, through the real HTTP client, into a real file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from max import InstallationInfo, InstallationRuntime, SyncResult, testing
from max.connecting import (
    BearerAuth,
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    HttpClient,
    Installation,
    Json,
    Limit,
    Loader,
    Many,
    Operation,
    Page,
    PageRequest,
    Ref,
    Schema,
    Secret,
    Step,
    Store,
    SyncPlan,
)
from max.connector import AnyConnector
from max.model.entities import ManyOf
from max.storage.sqlite import SqliteDatabase
from max.testing import FakeClock, ScriptedUpstream, credentials_for
from max.upstream.credentials import MemoryCredentials
from tests.sample import SampleConfig

PAGES, SIZE = 5, 4  # pages of a listing, items on a page
SECRET = "old-pass"  # the first bearer


class Thing(Entity):
    """What the upstream lists."""

    title: Field[str] = Field()


class Label(Entity):
    """Is listed beside, always correctly."""

    title: Field[str] = Field()


class ScriptedRoot(Entity):
    """Lists both."""

    things: Many[Thing] = Many()
    labels: Many[Label] = Many()


@dataclass(frozen=True)
class ScriptedConfig:
    """Where the upstream is, and whether pages have a total."""

    url: str
    totals: bool = True


def client(url: str, token: str) -> HttpClient:
    """A client with a bearer."""
    return HttpClient(url, credentials_for(url), auth=BearerAuth(Secret(token)), timeout=60.0)


class Api:
    """Clients of the upstream, the newest last; each bearer has its own client."""

    def __init__(self, config: ScriptedConfig) -> None:
        self.totals = config.totals
        self._url = config.url
        self._clients = [client(config.url, SECRET)]

    async def stop(self) -> None:
        """Close all clients, after every request has ended."""
        for client in self._clients:
            await client.stop()

    async def get(self, address: str) -> Json:
        """One page."""
        return await self._clients[-1].get(address)

    async def renew(self) -> None:
        """Get a new bearer."""
        answer = (await self._clients[-1].request("POST", "/token")).json()
        self._clients.append(client(self._url, answer["token"]))


async def fetch(api: Api, address: str) -> Json:
    """One page of a listing."""
    return await api.get(address)


get = Operation("scripted:page:get", fetch, limit=Limit("scripted", concurrency=4), deadline=7.0)


async def list_page(kind: type[Any], path: str, request: PageRequest, env: Env[Api]) -> Page[Any]:
    """One page of either listing."""
    address = path if request.cursor is None else f"{path}?cursor={request.cursor}"
    data = await env.run(get, address)
    items = [kind(one["id"], title=one["title"]) for one in data["items"]]
    return Page(items, next=data["next"], total=data["total"] if env.context.totals else None)


@Loader.collection(ScriptedRoot.things, brings=[Thing.title])
async def list_things(parent: Ref[ScriptedRoot], request: PageRequest, env: Env[Api]) -> Page[Thing]:
    """A page of things."""
    return await list_page(Thing, "/things", request, env)


@Loader.collection(ScriptedRoot.labels, brings=[Label.title])
async def list_labels(parent: Ref[ScriptedRoot], request: PageRequest, env: Env[Api]) -> Page[Label]:
    """A page of labels."""
    return await list_page(Label, "/labels", request, env)


async def seed(api: Api, store: Store) -> SyncPlan:
    """A plan of both listings, side by side."""
    root = ScriptedRoot("root")
    await store.store(root)
    step = Step.for_root(Ref.of(root))
    both = [step.load_collection(ScriptedRoot.things), step.load_collection(ScriptedRoot.labels)]
    return SyncPlan([Step.concurrent(both)])


async def initialise(config: ScriptedConfig, credentials: CredentialProvider) -> Installation[Api]:
    """A client of the upstream."""
    api = Api(config)
    return Installation(api, stop=api.stop, renew=api.renew)


connector: Connector[ScriptedConfig, Api] = Connector(
    name="scripted",
    description="An upstream with scripted faults.",
    schema=Schema([ScriptedRoot, Thing, Label], roots=[ScriptedRoot]),
    loaders=[list_things, list_labels],
    seeder=seed,
    initialise=initialise,
    config=ScriptedConfig,
    operations=[get],
    hosts=["{url}"],
)


def records(kind: str, many: int = PAGES * SIZE) -> list[Json]:
    """Records of a kind in the order of the listing."""
    return [{"id": f"{kind}-{n:05}", "title": f"{kind} number {n}"} for n in range(many)]


def upstream(things: Sequence[Json] | None = None) -> ScriptedUpstream:
    """Two listings of five pages each."""
    listings = {"/things": records("thing") if things is None else things, "/labels": records("label")}
    return ScriptedUpstream(listings, page_size=SIZE, token=SECRET)


def runtime(url: str, path: Path, clock: FakeClock, *, totals: bool = True) -> InstallationRuntime:
    """The runtime of the installation, not started yet."""
    info = InstallationInfo("scripted", "default", "scripted-1", {}, 0.0)
    provider = CredentialProvider(MemoryCredentials(), [])
    return InstallationRuntime(
        info, connector, ScriptedConfig(url, totals), provider, SqliteDatabase(path), clock=clock
    )


async def sync(url: str, path: Path, clock: FakeClock, *, totals: bool = True) -> SyncResult:
    """One sync, in a runtime of its own."""
    async with testing.runtime(connector, ScriptedConfig(url, totals), database=path, clock=clock) as one:
        return await (await one.sync()).completion()


def synced(connector: AnyConnector, path: Path, collection: ManyOf[Any, Any]) -> tuple[SyncResult, list[str]]:
    """One sync of a sample connector in virtual time, and the ids that its root then lists."""

    async def main() -> tuple[SyncResult, list[str]]:
        async with testing.runtime(connector, SampleConfig(), database=path) as one:
            result = await (await one.sync()).completion()
            page = await one.engine.load_collection(Ref(collection.parent, "root"), collection)
            return result, sorted(item.id for item in page.items)

    return FakeClock().run(main())


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the file, and which parent lists which child."""
    links = """
        SELECT collection, parent, coalesce(t._id, l._id) FROM _max_membership
          JOIN _max_listing ON id = listing
          LEFT JOIN _scripted_thing t ON t._row = child AND collection = 'ScriptedRoot.things'
          LEFT JOIN _scripted_label l ON l._row = child AND collection = 'ScriptedRoot.labels'
         ORDER BY 1, 2, 3
    """
    connection = sqlite3.connect(path)
    try:
        sql = "SELECT _id, title, _removed_at FROM _scripted_{} ORDER BY _id"
        found = {name: connection.execute(sql.format(name)).fetchall() for name in ("thing", "label")}
        return {**found, "links": connection.execute(links).fetchall()}
    finally:
        connection.close()
