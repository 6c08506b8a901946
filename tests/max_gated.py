"""A connector that needs an address and a token; for tests of which token is sent to which address."""

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
    Installation,
    Json,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Schema,
    SecretInput,
    Step,
    Store,
    SyncPlan,
    operation,
)

TOKEN = Credential("token")


class Gate(Entity):
    """Leads to the things."""

    things: Many[Item] = Many("what is behind it")


class Item(Entity):
    """One thing."""

    name: Field[str] = Field("what it is called")


@dataclass(frozen=True)
class GatedConfig:
    """The service's address, and a value that changes nothing."""

    url: str
    size: int = 1


@operation("gated:item:list")
async def get_items(http: HttpClient, size: int) -> Json:
    """All of them."""
    return await http.get("/things")


@Loader.collection(Gate.things, brings=[Item.name])
async def list_items(gate: Ref[Gate], request: PageRequest, env: Env[Any]) -> Page[Item]:
    """One page."""
    return Page([Item(str(one), name=str(one)) for one in await env.run(get_items, 1)])


async def seed(context: Any, store: Store) -> SyncPlan:
    """Everything."""
    gate = Gate("1")
    await store.store(gate)
    return SyncPlan([Step.for_root(Ref.of(gate)).load_collection(Gate.things)])


async def initialise(config: GatedConfig, credentials: CredentialProvider) -> Installation[HttpClient]:
    """A client with the token."""
    http = HttpClient(config.url, credentials, auth=BearerAuth(await credentials.get(TOKEN)))
    return Installation(http, stop=http.stop)


connector = Connector(
    name="gated",
    description="Things behind a token.",
    schema=Schema([Gate, Item], roots=[Gate]),
    loaders=[list_items],
    seeder=seed,
    initialise=initialise,
    config=GatedConfig,
    credentials=[TOKEN],
    onboarding=[SecretInput(TOKEN, "Token")],
    hosts=["{url}"],
    operations=[get_items],
)
