"""A durable first sync of an in-process source, against executemany of the same records."""

from __future__ import annotations

import asyncio

from . import by_hand
from .measure import Row, fresh_paths, interleaved, report
from .records import listing, make, reading, sync

RECORDS = 100_000
ROUNDS = 5


def run() -> None:
    """Rows per processor second of four ways to store the same records."""
    records = make(0, RECORDS)
    ready = [by_hand.converted(record) for record in records]
    pages, one_by_one = (
        make_source(lambda start, stop: records[start:stop], RECORDS) for make_source in (reading, listing)
    )
    with fresh_paths() as path:
        timings = interleaved(
            {
                "ready": lambda: by_hand.store(path(), by_hand.pages(ready)),
                "dicts": lambda: by_hand.store(
                    path(), by_hand.pages([by_hand.converted(one) for one in records])
                ),
                "by Page.read": lambda: asyncio.run(sync(pages, path())),
                "one by one": lambda: asyncio.run(sync(one_by_one, path())),
            },
            ROUNDS,
        )
    ready_rate, dicts_rate, *_ = (RECORDS / timing.cpu for timing in timings.values())
    rows = []
    for way in ("by Page.read", "one by one"):
        what, rate = f"Max, records {way}", RECORDS / timings[way].cpu
        wall = timings["dicts"].wall / timings[way].wall
        rows += [
            Row(what, f"{rate:,.0f} rows/CPU s", rate / dicts_rate, "from dicts", "≥ 0.5", wall),
            Row(what, f"{rate:,.0f} rows/CPU s", rate / ready_rate, "ready tuples", "≥ 0.25"),
        ]
    dicts = Row("from dicts", f"{dicts_rate:,.0f} rows/CPU s", dicts_rate / ready_rate, "ready tuples")
    report("first_sync", [*rows, dicts])
