"""A connector of a service that repeats the token wherever it can: in cursors, values and errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from max.connecting import (
    BearerAuth,
    Connector,
    Credential,
    CredentialProvider,
    Entity,
    Env,
    Field,
    HttpClient,
    Input,
    Installation,
    Json,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Retry,
    Schema,
    Step,
    Store,
    SyncPlan,
    operation,
)

TOKEN = Credential("token")


class Leaf(Entity):
    """What is listed."""

    size: Field[int] = Field()


class LeakyRoot(Entity):
    """Lists it in several ways, of which all but the first fail."""

    pages: Many[Leaf] = Many()
    values: Many[Leaf] = Many()
    errors: Many[Leaf] = Many()
    bugs: Many[Leaf] = Many()
    marks: Many[Leaf] = Many()


@dataclass(frozen=True)
class LeakyConfig:
    """Where the service is."""

    base_url: str


@operation("leaky:page:get", retry=Retry(attempts=1))
async def get(http: HttpClient, address: str) -> Json:
    """What is at an address."""
    return await http.get(address)


async def page_at(address: str, env: Env[HttpClient]) -> Page[Leaf]:
    """A page; its next one is at the address that the service gives, with the token in it."""
    data = await env.run(get, address)
    rows = [Leaf(row["id"], size=row["size"]) for row in data["items"]]
    return Page(rows, next=data.get("next"), sync_token=data.get("mark"))


@Loader.collection(LeakyRoot.pages, brings=[Leaf.size])
async def pages(parent: Ref[LeakyRoot], request: PageRequest, env: Env[HttpClient]) -> Page[Leaf]:
    """Three pages."""
    return await page_at(request.cursor or "/pages", env)


@Loader.collection(LeakyRoot.values, brings=[Leaf.size])
async def values(parent: Ref[LeakyRoot], request: PageRequest, env: Env[HttpClient]) -> Page[Leaf]:
    """Values that are no numbers."""
    return await page_at(request.cursor or "/values", env)


@Loader.collection(LeakyRoot.errors, brings=[Leaf.size])
async def errors(parent: Ref[LeakyRoot], request: PageRequest, env: Env[HttpClient]) -> Page[Leaf]:
    """The service refuses."""
    return await page_at("/errors", env)


@Loader.collection(LeakyRoot.bugs, brings=[Leaf.size])
async def bugs(parent: Ref[LeakyRoot], request: PageRequest, env: Env[HttpClient]) -> Page[Leaf]:
    """The connector has a bug."""
    data = await env.run(get, "/bugs")
    if request.cursor is None:
        return Page([], next=data["next"])
    raise ValueError(f"what is {data['next']}")


@Loader.collection(LeakyRoot.marks, brings=[Leaf.size])
async def marks(parent: Ref[LeakyRoot], request: PageRequest, env: Env[HttpClient]) -> Page[Leaf]:
    """Changes since a mark with the token in it."""
    return await page_at(request.sync_token or "/marks", env)


async def seed(http: HttpClient, store: Store) -> SyncPlan:
    """Every listing, side by side."""
    await store.store(LeakyRoot("root"))
    step = Step.for_root(LeakyRoot.ref("root"))
    everything: list[Any] = [getattr(LeakyRoot, name) for name in LeakyRoot.children()]
    return SyncPlan([Step.concurrent([step.load_collection(many) for many in everything])])


async def initialise(config: LeakyConfig, credentials: CredentialProvider) -> Installation[HttpClient]:
    """A client with the token."""
    auth = BearerAuth(await credentials.get(TOKEN))
    http = HttpClient(config.base_url, credentials, auth=auth)
    return Installation(http, stop=http.stop)


connector = Connector(
    name="leaky",
    description="A service that repeats the token.",
    schema=Schema([LeakyRoot, Leaf], roots=[LeakyRoot]),
    loaders=[pages, values, errors, bugs, marks],
    seeder=seed,
    initialise=initialise,
    config=LeakyConfig,
    credentials=[TOKEN],
    hosts=["{base_url}"],
    onboarding=[Input("base_url", "the address")],
    operations=[get],
)
