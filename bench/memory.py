"""Peak memory of a sync and of a query by iteration: ten times the entities, the same memory.

python -m bench.memory sync|query COUNT PATH      prints its own peak
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from .measure import Row, fresh_paths, part, report, tell_peak
from .records import Item, listing, make, running, sync

SMALL, LARGE = 100_000, 1_000_000


def run() -> None:
    """Each in a process of its own, which prints its peak."""
    rows = []
    with fresh_paths() as path:
        places = {count: path() for count in (SMALL, LARGE)}
        for what in ("sync", "query"):
            peaks = {n: part("bench.memory", what, n, place).peak / 1024 for n, place in places.items()}
            more = f"{peaks[LARGE]:.0f} MB, + {peaks[LARGE] - peaks[SMALL]:.1f} MB"
            rows.append(Row(what, more, peaks[LARGE] / peaks[SMALL], "100,000", "< 60 MB, ≤ + 10 MB"))
    report("memory", rows)


async def query(path: Path, count: int) -> None:
    """Read every entity, one after the other."""
    async with running(listing(make, count), path) as runtime:
        seen = 0
        async for _ in runtime.engine.query(Item):
            seen += 1
        assert seen == count


if __name__ == "__main__":
    _, what, number, place = sys.argv
    if what == "sync":
        asyncio.run(sync(listing(make, int(number)), Path(place)))
    else:
        asyncio.run(query(Path(place), int(number)))
    tell_peak()
