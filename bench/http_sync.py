"""A first sync over HTTP on the loopback, against the same client and executemany by hand.

Once with one listing, whose pages come one after the other, and once with as many listings at a time as
both have connections.  By hand, too, each page is one durable transaction, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from max.connecting import (
    Entity,
    Env,
    HttpClient,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Step,
    Store,
    SyncPlan,
)

from . import by_hand
from .http_server import serving
from .measure import Measured, Row, part, report, tell_peak
from .records import BROUGHT, Item, Owner, Root, connector, item, no_credentials, seeding, sync

RECORDS, PAGE = 50_000, 100
ROUNDS = 5
CAP = 32  # requests at a time, each for a list of its own
LATENCY = 0.02  # seconds a page, where several are requested at a time
PAGES = RECORDS // PAGE // CAP  # of each list


class Shelf(Entity):
    """One of the parents, whose pages are listed one after the other."""

    records: Many[Item] = Many()


def run() -> None:
    """Processor time and memory of both, each in a process of its own."""
    with serving(RECORDS, PAGE) as address, serving(RECORDS, PAGE, LATENCY) as slow:
        rows = [
            *compared("50,000 records in 500 pages", "max", "by_hand", address, "≤ 1.6", "≤ 45 MB"),
            *compared(f"{CAP} requests at a time", "max_side_by_side", "side_by_side", slow, "≤ 1.30"),
        ]
    report("http_sync", rows)


def compared(what: str, max: str, by_hand: str, address: str, must: str, at_most: str = "") -> list[Row]:
    """Processor time and memory of two parts, which run in turn."""
    ours: list[Measured] = []
    reference: list[Measured] = []
    for _ in range(ROUNDS):
        reference.append(part("bench.http_sync", by_hand, address))
        ours.append(part("bench.http_sync", max, address))
    middle = statistics.median
    cpu, wall = middle(one.cpu for one in ours), middle(one.wall for one in ours)
    ratio, by_clock = cpu / middle(one.cpu for one in reference), wall / middle(one.wall for one in reference)
    peak, memory = (sorted(one.peak for one in some)[-1] for some in (ours, reference))
    return [
        Row(what, f"{cpu:.2f} s CPU", ratio, "by hand", must, by_clock),
        Row(f"{what}: peak memory", f"{peak / 1024:.0f} MB", peak / memory, "by hand", at_most),
    ]


def with_max(address: str) -> None:
    """The sync, with the client that connectors use."""

    @Loader.collection(Root.records, brings=BROUGHT)
    async def list_items(parent: Ref[Root], request: PageRequest, env: Env[HttpClient]) -> Page[Item]:
        answer = await env.context.get(f"/{request.cursor or 0}")
        following = answer["next"]
        return Page([item(data) for data in answer["data"]], None if following is None else str(following))

    client = HttpClient(address, no_credentials(address))
    source = connector([Root, Owner, Item], [list_items], seeding(Root.records), client, stop=client.stop)
    asyncio.run(sync(source, Path("max.db")))


def with_max_side_by_side(address: str) -> None:
    """The sync of many listings; page N of the service belongs to list N modulo their number."""

    @Loader.collection(Shelf.records, brings=BROUGHT)
    async def list_items(parent: Ref[Shelf], request: PageRequest, env: Env[HttpClient]) -> Page[Item]:
        number = int(request.cursor or 0)
        answer = await env.context.get(f"/{number * CAP + int(parent.id)}")
        following = str(number + 1) if number + 1 < PAGES else None
        return Page([item(data) for data in answer["data"]], following)

    async def seed(context: object, store: Store) -> SyncPlan:
        await store.store(*(Shelf(str(number)) for number in range(CAP)))
        return SyncPlan([Step.for_all(Shelf).load_collection(Shelf.records)])

    client = HttpClient(address, no_credentials(address))
    source = connector([Shelf, Owner, Item], [list_items], seed, client, stop=client.stop)
    asyncio.run(sync(source, Path("max.db")))


async def side_by_side_by_hand(address: str) -> None:
    """A task for each list, and one thread that writes."""
    import httpx2

    database = by_hand.open_wal(Path("hand.db"), check_same_thread=False)
    database.execute(by_hand.TABLE)
    loop = asyncio.get_running_loop()

    async def listed(client: httpx2.AsyncClient, first: int) -> None:
        for number in range(PAGES):
            answer = (await client.get(f"/{number * CAP + first}")).json()
            rows = [by_hand.converted(one) for one in answer["data"]]
            await loop.run_in_executor(writer, store_page, database, rows)

    limits = httpx2.Limits(max_connections=CAP, max_keepalive_connections=CAP)
    with ThreadPoolExecutor(1) as writer:
        async with httpx2.AsyncClient(base_url=address, verify=False, limits=limits) as client:
            await asyncio.gather(*(listed(client, first) for first in range(CAP)))
    database.close()


async def written_by_hand(address: str) -> None:
    """The same client, json, and a transaction a page."""
    import httpx2

    database = by_hand.open_wal(Path("hand.db"))
    database.execute(by_hand.TABLE)
    following: int | None = 0
    async with httpx2.AsyncClient(base_url=address, verify=False) as client:  # as Max does for plain http
        while following is not None:
            answer = (await client.get(f"/{following}")).json()
            store_page(database, [by_hand.converted(one) for one in answer["data"]])
            following = answer["next"]
    database.close()


def store_page(database: sqlite3.Connection, rows: list[by_hand.Row]) -> None:
    """One page, one transaction."""
    database.execute("BEGIN IMMEDIATE")
    database.executemany(by_hand.UPSERT, rows)
    database.execute("COMMIT")


PARTS: dict[str, Callable[[str], None]] = {
    "max": with_max,
    "by_hand": lambda address: asyncio.run(written_by_hand(address)),
    "max_side_by_side": with_max_side_by_side,
    "side_by_side": lambda address: asyncio.run(side_by_side_by_hand(address)),
}

if __name__ == "__main__":
    PARTS[sys.argv[1]](sys.argv[2])
    tell_peak()
