"""Whether the event loop stays free: a probe that ticks every 5 ms while 100,000 rows are synced and read.

The loaders are an author's ordinary ones: they wait for a page of 1,000 dicts and return entities.
Eight listings run side by side, so that eight pages are often there at the same moment.

Python's garbage collector stops every thread while it looks at all objects of the process, those of the
imported modules as well.  Each work is probed as it is, and in a process that called ``gc.freeze()``
after its imports, as docs/embedding.md advises services.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from max.connecting import (
    Connector,
    Entity,
    Env,
    HttpClient,
    Json,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Step,
    Store,
    SyncPlan,
)
from max.connector import NoConfig

from .http_server import serving
from .measure import Row, fresh_paths, report
from .records import BROUGHT, PAGE, Item, Owner, connector, item, make, no_credentials, running, sync

FOLDERS, PAGES = 8, 13  # 104,000 records
TICK = 0.005  # seconds
LATENCY = 0.02  # seconds a page
MUST = {0.999: ("99.9th percentile", "≤ 25 ms"), 1.0: ("longest", "≤ 50 ms")}

Fetch = Callable[[int], Awaitable[Json]]  # the response that is a page
Probe = tuple[list[float], list[float]]  # how late each tick was, in seconds, and our own share of it


class Folder(Entity):
    """One of the parents, whose pages are listed one after the other."""

    items: Many[Item] = Many()


@Loader.collection(Folder.items, brings=BROUGHT)
async def list_items(parent: Ref[Folder], request: PageRequest, env: Env[Fetch]) -> Page[Item]:
    """A page as a connector's author writes it."""
    number = int(request.cursor or 0)
    answer = await env.context(number)
    items = [item({**data, "id": f"{parent.id}-{data['id']}"}) for data in answer["data"]]
    return Page(items, str(number + 1) if number + 1 < PAGES else None)


def run() -> None:
    """How late the ticks come during each work, against those of an idle loop."""
    idle = asyncio.run(probed(partial(asyncio.sleep, 2)))
    probes = probed_works("")
    gc.collect()
    gc.freeze()
    probes |= probed_works(" after gc.freeze()")
    gc.unfreeze()
    rows = [
        row(f"{name}, {what}", probe, idle, share)
        for name, probe in probes.items()
        for share, (what, _) in MUST.items()
    ]
    report("loop", rows)


def probed_works(how: str) -> dict[str, Probe]:
    """The probe of each work."""
    with fresh_paths() as path:
        place = path()
        return {
            f"sync{how}": asyncio.run(from_memory(path())),
            f"over HTTP{how}": asyncio.run(over_http(place)),
            f"all(){how}": asyncio.run(read(place)),
        }


def row(what: str, probe: Probe, idle: Probe, share: float) -> Row:
    """One percentile of both."""
    late, own, reference = (
        sorted(some)[min(int(share * len(some)), len(some) - 1)] for some in (*probe, idle[0])
    )
    value = f"{late * 1e3:.1f} ms, {own * 1e3:.1f} ours"
    return Row(what, value, late / reference, "an idle loop", MUST[share][1])


async def probed(work: Callable[[], Awaitable[object]]) -> Probe:
    """How late each tick came during the work.

    Our share is at most the processor time that this process used meanwhile; the rest belongs
    to other processes.
    """
    late: list[float] = []
    own: list[float] = []

    async def tick() -> None:
        while True:
            began, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(TICK)
            late.append(time.perf_counter() - began - TICK)
            own.append(min(late[-1], time.process_time() - used))

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)  # the first tick begins before the work
    await work()
    await asyncio.sleep(TICK)
    ticking.cancel()
    return late, own


async def from_memory(path: Path) -> Probe:
    """Sync pages that are in memory and come late, all at once."""
    pages = [{"data": make(number * PAGE, (number + 1) * PAGE)} for number in range(PAGES)]

    async def fetch(number: int) -> Json:
        await asyncio.sleep(LATENCY)
        return pages[number]

    return await probed(partial(sync, folders(fetch), path))


async def over_http(path: Path) -> Probe:
    """Sync the same from a service; the probe sees the very first request."""
    with serving(PAGES * PAGE, PAGE, LATENCY) as address:
        client = HttpClient(address, no_credentials(address))
        source = folders(lambda number: client.get(f"/{number}"), stop=client.stop)
        return await probed(partial(sync, source, path))


async def read(path: Path) -> Probe:
    """Read every row at once."""
    async with running(folders(lambda number: asyncio.sleep(0)), path) as runtime:
        return await probed(runtime.engine.query(Item).all)


def folders(fetch: Fetch, *, stop: Callable[[], Awaitable[None]] | None = None) -> Connector[NoConfig, Fetch]:
    """A connector that lists every folder."""
    return connector([Folder, Owner, Item], [list_items], seed, fetch, stop=stop)


async def seed(context: Fetch, store: Store) -> SyncPlan:
    """A plan that lists every folder."""
    await store.store(*(Folder(f"folder-{number}") for number in range(FOLDERS)))
    return SyncPlan([Step.for_all(Folder).load_collection(Folder.items)])
