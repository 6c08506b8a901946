"""A connector whose service requires OAuth tokens and repeats them in errors; for test_secrets.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from max.connecting import (
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    HttpClient,
    Installation,
    Json,
    Loader,
    Many,
    OAuth,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
    operation,
)

OAUTH = OAuth("guarded", "/token")


class House(Entity):
    """Contains the things."""

    things: Many[Thing] = Many("things that are visible")
    secrets: Many[Thing] = Many("things that are forbidden")


class Thing(Entity):
    """One thing."""

    number: Field[int] = Field()


@dataclass(frozen=True)
class GuardedConfig:
    """The service's address, and the client's id."""

    base_url: str
    client_id: str = "the-client"


@operation("guarded:thing:get")
async def get_thing(http: HttpClient, path: str) -> Json:
    """The service's answer, which contains the token of the request."""
    return await http.get(path)


@Loader.collection(House.things, brings=[Thing.number])
async def list_things(house: Ref[House], request: PageRequest, env: Env[HttpClient]) -> Page[Thing]:
    """Pages of one thing each."""
    page = int(request.cursor or 0)
    said = await env.run(get_thing, f"/thing/{page}")
    return Page([Thing(str(page), number=len(said))], next=str(page + 1) if page < 3 else None)


@Loader.collection(House.secrets, brings=[])
async def list_secrets(house: Ref[House], request: PageRequest, env: Env[HttpClient]) -> Page[Thing]:
    """Always refused."""
    await env.run(get_thing, "/forbidden")
    return Page([])


async def seed(context: Any, store: Store) -> SyncPlan:
    """Everything."""
    house = House("1")
    await store.store(house)
    return SyncPlan(
        [Step.for_root(Ref.of(house)).load_collection(one) for one in (House.things, House.secrets)]
    )


async def initialise(config: GuardedConfig, credentials: CredentialProvider) -> Installation[HttpClient]:
    """A client whose tokens are renewed."""
    tokens = OAUTH.tokens(credentials, config.base_url, client_id=config.client_id)
    http = HttpClient(config.base_url, credentials, auth=tokens)

    async def stop() -> None:
        await http.stop()
        await tokens.stop()

    return Installation(http, stop=stop, renew=tokens.renew)


connector = Connector(
    name="guarded",
    description="Things behind OAuth.",
    schema=Schema([House, Thing], roots=[House]),
    loaders=[list_things, list_secrets],
    seeder=seed,
    initialise=initialise,
    config=GuardedConfig,
    credentials=OAUTH.credentials,
    hosts=["{base_url}"],
    operations=[get_thing, OAUTH.renewal],
)
