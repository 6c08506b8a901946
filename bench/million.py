"""A million entities again: unchanged, one in a hundred changed, listed in full; with and without history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from max import Settings, SyncOptions
from max.connecting import Connector, Env, Loader, Page, PageRequest, Ref
from max.connector import NoConfig

from .measure import Row, Timing, fresh_paths, interleaved, report
from .records import BROUGHT, PAGE, Item, Owner, Root, connector, ended, item, make, running, seeding

RECORDS = 1_000_000
CHANGED = RECORDS // 100
HISTORIES = {"": Settings(history="off"), ", with history": Settings(history="changes")}
SYNCS = {  # how many have changed, and whether all are listed
    "first sync": (0, SyncOptions()),
    "unchanged, by increment": (0, SyncOptions()),
    "1 % changed, by increment": (CHANGED, SyncOptions()),
    "unchanged, everything listed": (0, SyncOptions(full=True)),
}


def run() -> None:
    """Each sync once, one after the other, on the same file."""
    with fresh_paths() as path:
        files = {history: path() for history in HISTORIES}
        timings = interleaved(
            {
                f"{what}{history}": syncing(files[history], changes, options, settings)
                for history, settings in HISTORIES.items()
                for what, (changes, options) in SYNCS.items()
            },
            1,
        )
    report("million", [versus(name, timings) for name in timings if name != "first sync"])


def syncing(path: Path, changes: int, options: SyncOptions, settings: Settings) -> Callable[[], None]:
    """One sync of a source in which some records have changed since the last one."""

    async def sync() -> None:
        async with running(source(changes), path, settings) as runtime:
            await ended(await runtime.sync(options))

    return lambda: asyncio.run(sync())


def source(changes: int) -> Connector[NoConfig, int]:
    """A source that lists changes since a sync token; records are made when they are requested."""

    @Loader.collection(Root.records, brings=BROUGHT)
    async def list_items(parent: Ref[Root], request: PageRequest, env: Env[int]) -> Page[Item]:
        start, count = int(request.cursor or 0), RECORDS if request.sync_token is None else env.context
        end = min(start + PAGE, count)
        more = 0 if request.sync_token is None else 1
        items = [item({**data, "votes": data["votes"] + more}) for data in make(start, end)]
        return Page(items, str(end) if end < count else None, sync_token="now")

    return connector([Root, Owner, Item], [list_items], seeding(Root.records), changes)


def versus(name: str, timings: dict[str, Timing]) -> Row:
    """A sync against the first one without history."""
    timing, first = timings[name], timings["first sync"]
    ratio, wall = timing.cpu / first.cpu, timing.wall / first.wall
    return Row(name, f"{timing.cpu:.2f} s CPU", ratio, "the first sync", "", wall)
