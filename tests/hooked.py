"""A service in this process that sends hooks, and its connector."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from max.connecting import (
    Connector,
    Credential,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Hook,
    HookChanges,
    Installation,
    Loader,
    Many,
    NoConfig,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
    UpstreamMissing,
    Webhook,
)
from max.core import InstallationInfo
from max.runtime import InstallationRuntime
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import MemoryCredentials

SECRET = Credential("webhook_secret", required=False)
KEY = "a-secret-of-hooks"
NOW = 1_790_000_000.0
INFO = InstallationInfo("board", "default", "ab12cd34", {}, 0.0)


class Card(Entity):
    """A card."""

    title: Field[str] = Field()
    note: Field[str] = Field()


class Board(Entity):
    """Lists the cards."""

    cards: Many[Card] = Many()


@dataclass
class Service:
    """What the service has, and what was asked of it."""

    cards: dict[str, tuple[str, str]] = field(default_factory=lambda: {"1": ("one", "a"), "2": ("two", "b")})
    asked: list[str] = field(default_factory=list)
    before: Callable[[str], Any] | None = None  # runs before each request is answered

    async def ask(self, what: str) -> None:
        """Note a request."""
        self.asked.append(what)
        if self.before is not None:
            await self.before(what)


@Loader.collection(Board.cards, brings=[Card.title])
async def list_cards(parent: Ref[Board], request: PageRequest, env: Env[Service]) -> Page[Card]:
    """Every card, on one page."""
    await env.context.ask("list")
    return Page([Card(id, title=title) for id, (title, _) in env.context.cards.items()])


@Loader.entity(Card.note)
async def get_note(ref: Ref[Card], env: Env[Service]) -> Card:
    """The note of a card."""
    await env.context.ask(f"note {ref.id}")
    if ref.id not in env.context.cards:
        raise UpstreamMissing(f"there is no card {ref.id}")
    return Card(ref.id, note=env.context.cards[ref.id][1])


async def seed(context: Service, store: Store) -> SyncPlan:
    """One board."""
    await store.store(Board("b"))
    each = Step.for_all(Card).load_fields(Card.note)
    return SyncPlan([Step.for_root(Board.ref("b")).load_collection(Board.cards), each])


def changes(hook: Hook) -> HookChanges:
    """What a hook of this service says."""
    said = hook.payload
    if said.get("gone"):
        return HookChanges(removed=[Card.ref(said["gone"])])
    if said.get("note"):
        return HookChanges([Step.for_one(Card.ref(said["note"])).load_fields(Card.note)])
    if said.get("board"):
        return HookChanges([Step.for_one(Board.ref(said["board"])).load_collection(Board.cards)])
    return HookChanges()


WEBHOOK = Webhook(
    secret=SECRET,
    signature="X-Board-Signature",
    prefix="sha256=",
    delivery="X-Board-Delivery",
    sent_at="sent",
    changes=changes,
)


def board(service: Service, **parts: Any) -> Connector[NoConfig, Service]:
    """The connector of a service."""

    async def initialise(config: NoConfig, credentials: CredentialProvider) -> Installation[Service]:
        return Installation(service)

    given: dict[str, Any] = {
        "schema": Schema([Board, Card], roots=[Board]),
        "loaders": [list_cards, get_note],
        "credentials": [SECRET],
        "webhook": WEBHOOK,
        **parts,
    }
    return Connector(
        name="board", description="", seeder=seed, initialise=initialise, config=NoConfig, **given
    )


NUMBERS = count(1)


def signed(
    payload: object, *, id: str | None = None, key: str = KEY, sent: float | None = NOW
) -> tuple[dict[str, str], bytes]:
    """The headers and the body of a hook."""
    if isinstance(payload, dict) and sent is not None:
        payload = {**payload, "sent": int(sent * 1_000)}
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    headers = {
        "X-Board-Signature": WEBHOOK.sign(key, body),
        "X-Board-Delivery": id or f"delivery-{next(NUMBERS)}",
    }
    return headers, body


def runtime(
    service: Service,
    path: Path | str = ":memory:",
    *,
    clock: Callable[[], float] = lambda: NOW,
    key: str | None = KEY,
    **parts: Any,
) -> InstallationRuntime:
    """A runtime of a service."""
    connector = board(service, **parts)
    store = MemoryCredentials({} if key is None else {"webhook_secret": key})
    credentials = CredentialProvider(store, connector.credentials)
    return InstallationRuntime(INFO, connector, NoConfig(), credentials, SqliteDatabase(path), clock=clock)
