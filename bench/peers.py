"""What people use today, on the same records: sqlite-utils, and dlt into SQLite and into DuckDB.

    pip install sqlite-utils 'dlt[duckdb]' sqlalchemy platformdirs typing-extensions
    python -m bench peers

Each load runs in a process of its own, after one of a single record that is not measured: by then
everything is imported.

Every tool gets the records as dicts: Max by Page.read, as its documentation does.  Beside that
is a loader that makes each record by itself, as some connectors must.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .measure import ENVIRONMENT, Row, report, spent
from .records import PAGE, SourceRecord, listing, make, reading, sync

RECORDS = 50_000
ROUNDS = 3
NEEDED = {
    "sqlite-utils": ("sqlite_utils",),
    "dlt → SQLite": ("dlt", "sqlalchemy"),
    "dlt → DuckDB": ("dlt", "duckdb"),
}
OURS = {"max": "Max", "max, one by one": "Max, each record made by itself"}
QUIET = {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}
TIMES = ("created_at", "updated_at")


def run() -> None:
    """Rows per processor second of each."""
    missing = {name for needed in NEEDED.values() for name in needed if find_spec(name) is None}
    peers = [load for load, needed in NEEDED.items() if missing.isdisjoint(needed)]
    if missing:
        print(f"peers: {', '.join(sorted(missing))} not installed; skipped what needs them")
    if not peers:
        return
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for load in (*OURS, *peers):
            for times in ("texts", "datetimes"):
                rates.setdefault((load, times), []).append(RECORDS / used(load, times))
    medians = {key: statistics.median(some) for key, some in rates.items()}
    rows = [
        Row(
            f"{name}, times as {times}",
            f"{medians[ours, times]:,.0f} rows/CPU s",
            medians[ours, times] / medians[load, times],
            f"{load} ({medians[load, times]:,.0f})",
            "≥ 1.4" if load == "sqlite-utils" and ours == "max" else "",
        )
        for ours, name in OURS.items()
        for times in ("texts", "datetimes")
        for load in peers
    ]
    report("peers", rows)


def used(load: str, times: str) -> float:
    """The processor seconds of one load, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "bench.peers", load, times]
        environment = {**ENVIRONMENT, **QUIET, "HOME": folder}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def with_max(pages: list[list[SourceRecord]]) -> None:
    """A sync of an in-process source, with everything that a sync records."""
    source = reading(lambda start, stop: pages[start // PAGE], sum(map(len, pages)))
    asyncio.run(sync(source, Path("max.db")))


def one_by_one(pages: list[list[SourceRecord]]) -> None:
    """The same with a loader that makes each record by itself."""
    source = listing(lambda start, stop: pages[start // PAGE], sum(map(len, pages)))
    asyncio.run(sync(source, Path("max.db")))


def with_sqlite_utils(pages: list[list[SourceRecord]]) -> None:
    """A page at a time, as a program does that fetches pages."""
    database = import_module("sqlite_utils").Database("utils.db")
    database.enable_wal()
    for page in pages:
        database["item"].upsert_all(page, pk="id", batch_size=PAGE)
    database.close()


def with_dlt(destination: str, address: str) -> Callable[[list[list[SourceRecord]]], None]:
    """A pipeline that merges by the id."""

    def load(pages: list[list[SourceRecord]]) -> None:
        dlt: Any = import_module("dlt")

        @dlt.resource(name="item", primary_key="id", write_disposition="merge")  # type: ignore[untyped-decorator]
        def items() -> Iterator[list[SourceRecord]]:
            yield from pages

        where = getattr(import_module("dlt.destinations"), destination)(address)
        pipeline = dlt.pipeline("peers", pipelines_dir=os.fspath(Path("dlt").resolve()), destination=where)
        pipeline.run(items())

    return load


LOADS: dict[str, Callable[[list[list[SourceRecord]]], None]] = {
    "max": with_max,
    "max, one by one": one_by_one,
    "sqlite-utils": with_sqlite_utils,
    "dlt → SQLite": with_dlt("sqlalchemy", "sqlite:///dlt.db"),
    "dlt → DuckDB": with_dlt("duckdb", "dlt.duckdb"),
}


def records(times: str) -> list[list[SourceRecord]]:
    """Pages of records, with times as texts or as datetimes."""
    made: list[dict[str, Any]] = make(0, RECORDS)
    if times == "datetimes":
        made = [{**one, **{name: datetime.fromisoformat(one[name]) for name in TIMES}} for one in made]
    return [made[start : start + PAGE] for start in range(0, RECORDS, PAGE)]


def main(load: str, times: str) -> None:
    """Load once and print the processor seconds."""
    pages = records(times)
    with working_in(Path("first")):
        LOADS[load]([pages[0][:1]])
    began = spent()
    LOADS[load](pages)
    print(spent() - began)


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The current folder is another one, which is new."""
    folder.mkdir()
    os.chdir(folder)
    yield
    os.chdir("..")


if __name__ == "__main__":
    main(*sys.argv[1:])
