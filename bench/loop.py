"""Whether the event loop stays free during a sync of 1,000,000 rows: a probe that ticks every 5 ms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine

from .measure import Row, fresh_paths, report
from .records import PAGE, SourceRecord, listing, make, sync

RECORDS = 1_000_000
TICK = 0.005  # seconds
READY = make(0, PAGE)  # pages are copies of these, so that the source itself blocks the loop only briefly


def run() -> None:
    """How late the ticks come, against those of an idle loop."""
    with fresh_paths() as path:
        late, own = asyncio.run(probed(sync(listing(renumbered, RECORDS), path())))
    idle, own_idle = asyncio.run(probed(asyncio.sleep(2)))
    report(
        "loop",
        [
            row("99.9th percentile beyond the tick", late, idle, 0.999, "≤ 25 ms"),
            row("99.9th percentile, our own share", own, own_idle, 0.999, "≤ 25 ms"),
            row("99th percentile", late, idle, 0.99),
            row("median", late, idle, 0.5),
            row("longest", late, idle, 1.0),
        ],
    )


def row(what: str, late: list[float], idle: list[float], share: float, must: str = "") -> Row:
    """One percentile of both."""
    ours, reference = (sorted(some)[min(int(share * len(some)), len(some) - 1)] for some in (late, idle))
    return Row(what, f"{ours * 1e3:.1f} ms", ours / reference, "an idle loop", must)


async def probed(work: Coroutine[object, object, None]) -> tuple[list[float], list[float]]:
    """How late each tick came during the work, in seconds, and our own share of that.

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
    await work
    ticking.cancel()
    return late, own


def renumbered(start: int, stop: int) -> list[SourceRecord]:
    """A page of records with ids of their own."""
    return [{**data, "id": f"item-{start + i:08d}"} for i, data in enumerate(READY[: stop - start])]
