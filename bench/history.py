"""History on against off: the first sync, no changes, few changes, all rows changed; and reading it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from max import Settings

from .measure import Row, Timing, fresh_paths, interleaved, report
from .records import SourceRecord, listing, make, running, sync

RECORDS = 100_000
FEW = 1_000  # changes
ROUNDS = 3
HISTORIES = {"off": Settings(history="off"), "on": Settings(history="changes")}


def run() -> None:
    """The same syncs with history off and on, round by round."""
    first = make(0, RECORDS)
    few = [changed(one) if at % (RECORDS // FEW) == 0 else one for at, one in enumerate(first)]
    syncs = {
        "first sync": first,
        "unchanged": first,
        f"{FEW:,} of {RECORDS:,} changed": few,
        "all changed": [changed(changed(one)) for one in first],
    }
    with fresh_paths() as path:
        paths: dict[str, Path] = {}

        def syncing(history: str, what: str, records: list[SourceRecord]) -> Callable[[], None]:
            def work() -> None:
                if what == "first sync":
                    paths[history] = path()
                source = listing(lambda start, stop: records[start:stop], RECORDS)
                asyncio.run(sync(source, paths[history], HISTORIES[history]))

            return work

        timings = interleaved(
            {
                f"{what} {on}": syncing(on, what, records)
                for what, records in syncs.items()
                for on in HISTORIES
            }
            | {"followed": lambda: asyncio.run(follow(paths["on"]))},
            ROUNDS,
        )
        sizes = {on: paths[on].stat().st_size for on in HISTORIES}
    rows = [versus(f"{what}, recorded", timings, f"{what} on", f"{what} off") for what in syncs]
    rows.append(versus("followed from the beginning", timings, "followed", "first sync off"))
    size = f"{sizes['on'] / 1e6:.0f} MB"
    rows.append(Row("file with a change a row", size, sizes["on"] / sizes["off"], "the file without"))
    report("history", rows)


def changed(data: SourceRecord) -> SourceRecord:
    """A record with another title and one vote more."""
    return {**data, "title": f"{data['title']}!", "votes": data["votes"] + 1}


async def follow(path: Path) -> None:
    """Read every change that is recorded."""
    source = listing(lambda start, stop: [], 0)
    async with running(source, path, HISTORIES["on"]) as runtime:
        count = 0
        async for _ in runtime.engine.changes(since="beginning"):
            count += 1
        assert count > 2 * RECORDS


def versus(what: str, timings: dict[str, Timing], one: str, other: str) -> Row:
    """One timing against another."""
    timing, reference = timings[one], timings[other]
    ratio, wall = timing.cpu / reference.cpu, timing.wall / reference.wall
    return Row(
        what, f"{timing.cpu:.2f} s CPU", ratio, f"{other.rpartition(' ')[0]} with history off", "", wall
    )
