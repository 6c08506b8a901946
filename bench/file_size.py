"""How large the file is after a first sync, against a table of the same rows and nothing else."""

from __future__ import annotations

import asyncio

from . import by_hand
from .measure import Row, fresh_paths, report
from .records import listing, make, sync

RECORDS = 100_000


def run() -> None:
    """Both files as they are when they were closed."""
    records = make(0, RECORDS)
    with fresh_paths() as path:
        raw, ours = path(), path()
        by_hand.store(raw, by_hand.pages([by_hand.converted(record) for record in records]))
        asyncio.run(sync(listing(lambda start, stop: records[start:stop], RECORDS), ours))
        size, reference = ours.stat().st_size, raw.stat().st_size
    report(
        "file_size",
        [Row("100,000 records", f"{size / 2**20:.1f} MB", size / reference, "the raw table", "≤ 1.10")],
    )
