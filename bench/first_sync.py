"""A durable first sync of an in-process source, against executemany of the same records."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from max import InstallationInfo, InstallationRuntime
from max.connector import CredentialProvider, MemoryCredentials

from .measure import Row, interleaved, report
from .records import FIELDS, PAGE, Size, connector, make

RECORDS = 100_000
ROUNDS = 5

TABLE = f"CREATE TABLE item (id TEXT PRIMARY KEY, {', '.join(FIELDS)})"
UPSERT = (
    f"INSERT INTO item VALUES ({', '.join('?' * (len(FIELDS) + 1))})"
    f" ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in FIELDS)}"
)


def run() -> None:
    """Rows per processor second of three ways to store the same records."""
    records = make(RECORDS)
    ready = [tuple(record.values()) for record in records]
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()

        def path() -> Path:
            return Path(folder) / f"{next(numbers)}.db"

        def from_dicts() -> None:
            by_hand(path(), [converted(record) for record in records])

        timings = interleaved(
            {
                "executemany of ready tuples": lambda: by_hand(path(), ready),
                "dicts to tuples, executemany": from_dicts,
                "Max, first sync": lambda: asyncio.run(sync(records, path())),
            },
            ROUNDS,
        )
    tuples, dicts, ours = (RECORDS / timing.cpu for timing in timings.values())
    report(
        "first_sync",
        [
            Row("Max, first sync", f"{ours:,.0f} rows/CPU s", ours / dicts, "from dicts", "≥ 0.5"),
            Row("Max, first sync", f"{ours:,.0f} rows/CPU s", ours / tuples, "ready tuples", "≥ 0.25"),
            Row("from dicts", f"{dicts:,.0f} rows/CPU s", dicts / tuples, "ready tuples"),
        ],
    )


def converted(record: dict[str, object]) -> tuple[object, ...]:
    """A record as a careful hand stores it: each value checked and converted by its type."""
    created, updated = (datetime.fromisoformat(str(record[n])) for n in ("created_at", "updated_at"))
    return (
        str(record["id"]),
        str(record["title"]),
        int(bool(record["active"])),
        int(str(record["votes"])),
        float(str(record["score"])),
        created.astimezone(UTC).isoformat(),
        updated.astimezone(UTC).isoformat(),
        str(record["owner"]),
        str(record["prose"]),
        str(record["status"]),
    )


def by_hand(path: Path, rows: list[tuple[object, ...]]) -> None:
    """Upsert rows a page at a time, each page a transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(TABLE)
    for start in range(0, len(rows), PAGE):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(UPSERT, rows[start : start + PAGE])
        connection.execute("COMMIT")
    connection.close()


async def sync(records: list[dict[str, object]], path: Path) -> None:
    """The same through a runtime: tasks, transactions, links, freshness."""
    info = InstallationInfo("records", "default", "bench", {"records": len(records)}, 0.0)
    credentials = CredentialProvider(MemoryCredentials(), [])
    runtime = InstallationRuntime(info, connector(records), Size(len(records)), credentials, path)
    await runtime.start()
    try:
        result = await (await runtime.sync()).completion()
        assert result.counts["Item"] == len(records)
    finally:
        await runtime.stop()
