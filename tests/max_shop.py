"""A connector for the tests of ``max connector test``; SHOP_FLAW names the mistake that it makes."""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from max.connecting import (
    BadCredentials,
    BearerAuth,
    Connector,
    Credential,
    CredentialProvider,
    Entity,
    Env,
    Field,
    HttpClient,
    HttpResponse,
    Installation,
    Json,
    Limit,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Retry,
    Schema,
    SecretInput,
    Step,
    Store,
    SyncPlan,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamError,
    Watermark,
    operation,
)

FLAW = os.environ.get("SHOP_FLAW", "")
TOKEN = Credential("token")
SIZE = 2  # orders that a page holds
seen: dict[str, Order] = {}  # the flaw "removal": rows that are kept for ever
places: dict[str, str] = {}  # the flaw "memory": cursors that only this process knows


class Shop(Entity):
    """A shop."""

    orders: Many[Order] = Many("everything that was ordered")


class Order(Entity, title="title"):
    """What a customer ordered."""

    title: Field[str] = Field("what it is")
    changed_at: Field[datetime] = Field("when it last changed")


@dataclass(frozen=True)
class ShopConfig:
    """Where the shop is."""

    base_url: str


RETRY = Retry(attempts=1) if FLAW == "swallow" else Retry()


@operation("shop:order:list", limit=Limit("shop", concurrency=4), retry=RETRY)
async def list_orders(client: HttpClient, parameters: dict[str, str]) -> Json:
    return await client.get("/orders", params=parameters)


@Loader.collection(
    Shop.orders,
    brings=[Order.title, Order.changed_at],
    watermark=Watermark(Order.changed_at, overlap=timedelta(0), newest_first=False),
    sweep=timedelta(days=1),
)
async def orders(parent: Ref[Shop], request: PageRequest, env: Env[HttpClient]) -> Page[Order]:
    if FLAW == "empty":
        return Page([])
    if FLAW == "change" and request.since is not None:
        return Page([])
    parameters = {"limit": str(SIZE)}
    if request.cursor:
        parameters["cursor"] = places[request.cursor] if FLAW == "memory" else request.cursor
    if request.since and not request.ids_only:
        parameters["since"] = request.since.isoformat().replace("+00:00", "Z")
    try:
        answer = await env.run(list_orders, parameters)
    except (UpstreamBroken, BadCredentials):
        if FLAW != "swallow":
            raise
        return Page([])
    if FLAW == "hosts":
        with suppress(OSError):
            socket.create_connection(("undeclared.example", 443), timeout=1.0)
    note = f" at {time.monotonic()}" if FLAW == "unchanged" else ""
    rows = [
        Order(row["id"], title=row["title"] + note, changed_at=datetime.fromisoformat(row["changed_at"]))
        for row in answer["items"]
    ]
    if FLAW == "removal":
        seen.update({row.id: row for row in rows})
        rows = list(seen.values()) if request.ids_only and answer["next"] is None else rows
    following = answer["next"]
    if FLAW == "memory" and following:
        places[f"place-{following}"] = following
        following = f"place-{following}"
    return Page(rows, next=following, total=None if FLAW in ("removal", "swallow") else answer["total"])


def misread(response: HttpResponse) -> UpstreamError | None:
    """Takes everything that the service refuses for a change of the service."""
    return None if response.status == 200 else UpstreamChanged("the service has changed")


async def seed(client: HttpClient, store: Store) -> SyncPlan:
    await store.store(Shop("shop"))
    return SyncPlan([Step.for_root(Shop.ref("shop")).load_collection(Shop.orders)])


async def initialise(config: ShopConfig, credentials: CredentialProvider) -> Installation[HttpClient]:
    token = await credentials.get(TOKEN)
    if FLAW == "secrets":
        logging.getLogger("max.shop").info("the token is %s", token.reveal())
    read_error = misread if FLAW == "hasty" else None
    client = HttpClient(config.base_url, credentials, auth=BearerAuth(token), read_error=read_error)
    return Installation(client, stop=client.stop)


connector = Connector(
    name="shop",
    description="Orders of a shop.",
    schema=Schema([Shop, Order], roots=[Shop]),
    loaders=[orders],
    seeder=seed,
    initialise=initialise,
    config=ShopConfig,
    credentials=[TOKEN],
    onboarding=[SecretInput(TOKEN, "The token")],
    operations=[list_orders],
    hosts=["{base_url}"],
)
