"""A durable first sync of an in-process source, against executemany of the same records."""

from __future__ import annotations

import asyncio

from . import by_hand
from .measure import Row, fresh_paths, interleaved, report
from .records import listing, make, sync

RECORDS = 100_000
ROUNDS = 5


def run() -> None:
    """Rows per processor second of three ways to store the same records."""
    records = make(0, RECORDS)
    ready = [by_hand.converted(record) for record in records]
    source = listing(lambda start, stop: records[start:stop], RECORDS)
    with fresh_paths() as path:
        timings = interleaved(
            {
                "ready": lambda: by_hand.store(path(), by_hand.pages(ready)),
                "dicts": lambda: by_hand.store(
                    path(), by_hand.pages([by_hand.converted(one) for one in records])
                ),
                "Max": lambda: asyncio.run(sync(source, path())),
            },
            ROUNDS,
        )
    ready_rate, dicts_rate, rate = (RECORDS / timing.cpu for timing in timings.values())
    wall = timings["dicts"].wall / timings["Max"].wall
    report(
        "first_sync",
        [
            Row("Max", f"{rate:,.0f} rows/CPU s", rate / dicts_rate, "from dicts", "≥ 0.5", wall),
            Row("Max", f"{rate:,.0f} rows/CPU s", rate / ready_rate, "ready tuples", "≥ 0.25"),
            Row("from dicts", f"{dicts_rate:,.0f} rows/CPU s", dicts_rate / ready_rate, "ready tuples"),
        ],
    )
