"""A first sync over HTTP on the loopback, against the same client and executemany by hand."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import sys
from pathlib import Path

from max.connecting import Env, HttpClient, Loader, Page, PageRequest, Ref
from max.testing import credentials_for

from . import by_hand
from .http_server import serving
from .measure import Measured, Row, part, report, tell_peak
from .records import BROUGHT, Item, Owner, Root, connector, item, seeding, sync

RECORDS, PAGE = 50_000, 100
ROUNDS = 5


def run() -> None:
    """Processor time and memory of both, each in a process of its own."""
    ours: list[Measured] = []
    reference: list[Measured] = []
    with serving(RECORDS, PAGE) as address:
        for _ in range(ROUNDS):
            reference.append(part("bench.http_sync", "by_hand", address))
            ours.append(part("bench.http_sync", "max", address))
    cpu, peak = statistics.median(one.cpu for one in ours), max(one.peak for one in ours)
    ratio = cpu / statistics.median(one.cpu for one in reference)
    wall = statistics.median(one.wall for one in ours) / statistics.median(one.wall for one in reference)
    memory = peak / max(one.peak for one in reference)
    report(
        "http_sync",
        [
            Row("50,000 records in 500 pages", f"{cpu:.2f} s CPU", ratio, "by hand", "≤ 1.6", wall),
            Row("peak memory", f"{peak / 1024:.0f} MB", memory, "by hand", "≤ 45 MB"),
        ],
    )


def with_max(address: str) -> None:
    """The sync, with the client that connectors use."""

    @Loader.collection(Root.records, brings=BROUGHT)
    async def list_items(parent: Ref[Root], request: PageRequest, env: Env[HttpClient]) -> Page[Item]:
        answer = await env.context.get(f"/{request.cursor or 0}")
        following = answer["next"]
        return Page([item(data) for data in answer["data"]], None if following is None else str(following))

    client = HttpClient(address, credentials_for(address))
    source = connector([Root, Owner, Item], [list_items], seeding(Root.records), client, stop=client.stop)
    asyncio.run(sync(source, Path("max.db")))


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


if __name__ == "__main__":
    if sys.argv[1] == "max":
        with_max(sys.argv[2])
    else:
        asyncio.run(written_by_hand(sys.argv[2]))
    tell_peak()
