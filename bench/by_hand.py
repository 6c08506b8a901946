"""What a careful programmer writes by hand: the reference of most benchmarks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from .records import FIELDS, PAGE, SourceRecord

TABLE = f"CREATE TABLE IF NOT EXISTS item (id TEXT PRIMARY KEY, {', '.join(FIELDS)})"
UPSERT = (
    f"INSERT INTO item VALUES ({', '.join('?' * (len(FIELDS) + 1))})"
    f" ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in FIELDS)}"
)

Row = tuple[object, ...]


def converted(record: SourceRecord) -> Row:
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


def pages(rows: Sequence[Row], size: int = PAGE) -> Iterable[Sequence[Row]]:
    """The rows, so many at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def open_wal(path: Path, *, durable: bool = True, check_same_thread: bool = True) -> sqlite3.Connection:
    """A connection set as Max sets its own: WAL, and a commit waits for the disk."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=check_same_thread)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    return connection


def store(path: Path, pages: Iterable[Sequence[Row]], indexed: Sequence[str] = ()) -> None:
    """Upsert rows a page at a time, each page a transaction; some columns may have an index."""
    connection = open_wal(path)
    connection.execute(TABLE)
    for column in indexed:
        connection.execute(f"CREATE INDEX IF NOT EXISTS item_{column} ON item ({column})")
    for rows in pages:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(UPSERT, rows)
        connection.execute("COMMIT")
    connection.close()
