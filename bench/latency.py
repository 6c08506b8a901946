"""Pages that take 50 ms each: a sync against the ideal of as many at a time as the limit admits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from max.connecting import (
    Connector,
    Entity,
    Env,
    HttpClient,
    Json,
    Limit,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Step,
    Store,
    SyncPlan,
    operation,
)
from max.connector import NoConfig

from .http_server import serving
from .measure import Row, fresh_paths, interleaved, report
from .records import BROUGHT, Item, Owner, connector, item, make, no_credentials, sync

LATENCY = 0.05  # seconds a page
PAGES, SIZE = 4, 100  # of a folder, and records of a page
FOLDERS = 8  # for each call that the limit admits at once
ROUNDS = 3
MUST = {8: "≤ 1.12", 32: "≤ 1.30"}

Fetch = Callable[[int], Awaitable[Json]]  # the response that is a page


class Folder(Entity):
    """One of many parents, whose pages are listed one after the other."""

    items: Many[Item] = Many()


def run() -> None:
    """A source in this process and a service on the loopback, both sleeping."""
    rows = []
    ideal = FOLDERS * PAGES * LATENCY
    with fresh_paths() as path, serving(PAGES * SIZE, SIZE, LATENCY) as address:
        for cap, must in MUST.items():

            def sleeping(cap: int = cap) -> None:
                asyncio.run(from_memory(cap, path()))

            def requesting(cap: int = cap) -> None:
                asyncio.run(over_http(address, cap, path()))

            timings = interleaved({"in the process": sleeping, "over HTTP": requesting}, ROUNDS)
            rows += [
                Row(
                    f"cap {cap}, {where}",
                    f"{timing.wall:.2f} s, {timing.cpu:.2f} CPU",
                    timing.wall / ideal,
                    "pages × 50 ms ÷ cap",
                    must,
                )
                for where, timing in timings.items()
            ]
    report("latency", rows)


async def from_memory(cap: int, path: Path) -> None:
    """Sync pages that are in memory and returned late."""
    pages = [{"data": make(number * SIZE, (number + 1) * SIZE)} for number in range(PAGES)]

    async def fetch(number: int) -> Json:
        await asyncio.sleep(LATENCY)
        return pages[number]

    await sync(folders(cap, fetch), path)


async def over_http(address: str, cap: int, path: Path) -> None:
    """Sync the same from a service that responds late."""
    async with HttpClient(address, no_credentials(address)) as client:
        await sync(folders(cap, lambda number: client.get(f"/{number}")), path)


def folders(cap: int, fetch: Fetch) -> Connector[NoConfig, Fetch]:
    """A connector of many folders, whose limit admits ``cap`` calls at a time."""

    @operation("records:page:get", limit=Limit("records", concurrency=cap))
    async def get_page(fetch: Fetch, number: int) -> Json:
        return await fetch(number)

    @Loader.collection(Folder.items, brings=BROUGHT)
    async def list_items(parent: Ref[Folder], request: PageRequest, env: Env[Fetch]) -> Page[Item]:
        number = int(request.cursor or 0)
        answer = await env.run(get_page, number)
        items = [item({**data, "id": f"{parent.id}-{data['id']}"}) for data in answer["data"]]
        return Page(items, str(number + 1) if number + 1 < PAGES else None)

    return connector([Folder, Owner, Item], [list_items], partial(seed, cap), fetch, operations=[get_page])


async def seed(cap: int, context: Fetch, store: Store) -> SyncPlan:
    """A plan that lists every folder."""
    await store.store(*(Folder(f"folder-{number}") for number in range(FOLDERS * cap)))
    return SyncPlan([Step.for_all(Folder).load_collection(Folder.items)])
