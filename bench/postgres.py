"""Postgres beside what a careful programmer writes with psycopg: rows, tasks, and what a re-sync writes.

A server of its own, set up as Debian does it: a commit waits for the disk (of TMPDIR).  The times are those
of the client; what the server spent for each is in rows of its own (on Linux, which tells it).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

from max.storage.postgres import PostgresDatabase
from tests.postgres_server import Server, reason_to_skip

from . import by_hand
from .measure import Row, interleaved, report
from .records import FIELDS, PAGE, SourceRecord, listing, make, reading, running, sync
from .tasks import SOURCE, Thing

RECORDS = 50_000
TASKS = 2_000
CLAIMED = 16  # tasks at a time
ROUNDS = 3

COLUMNS = ("text", "smallint", "bigint", "double precision", "text", "text", "text", "text", "text")
TABLE = f"""
    CREATE TABLE IF NOT EXISTS item (
        id text PRIMARY KEY, {", ".join(f"{name} {kind}" for name, kind in zip(FIELDS, COLUMNS, strict=True))}
    );
    CREATE TEMPORARY TABLE coming (LIKE item) ON COMMIT DELETE ROWS;
"""
UPSERT = (
    f"INSERT INTO item SELECT * FROM coming ON CONFLICT (id) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in FIELDS)}"
    f" WHERE ({', '.join(f'item.{name}' for name in FIELDS)})"
    f" IS DISTINCT FROM ({', '.join(f'excluded.{name}' for name in FIELDS)})"
)
TASK_TABLE = """
    CREATE TABLE task (id bigint PRIMARY KEY, state text NOT NULL, payload text NOT NULL);
    CREATE INDEX task_pending ON task (id) WHERE state = 'pending';
"""
CLAIM = f"""
    UPDATE task SET state = 'running' WHERE id IN (
        SELECT id FROM task WHERE state = 'pending' ORDER BY id LIMIT {CLAIMED} FOR UPDATE SKIP LOCKED)
    RETURNING id, payload
"""
COMPLETE = "UPDATE task SET state = 'completed' WHERE id = %s AND state = 'running'"
WRITTEN = """
    SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables
     WHERE schemaname = %s AND n_tup_ins + n_tup_upd + n_tup_del > 0
"""

OTHERS = """
    SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def run() -> None:
    """Say why there can be no server, or compare."""
    if reason := reason_to_skip():
        print(f"\npostgres: left out: {reason}")
        return
    with own_server() as server:
        compare_rows(server)
        compare_tasks(server)
        report("postgres: an unchanged re-sync", [*written_again(server)])


def compare_rows(server: BenchServer) -> None:
    """A first sync, beside COPY into a temporary table and an upsert."""
    records = make(0, RECORDS)
    ready = [by_hand.converted(record) for record in records]
    pages, one_by_one = (
        make_source(lambda start, stop: records[start:stop], RECORDS) for make_source in (reading, listing)
    )
    ways = {
        "ready": lambda: copied(server, by_hand.pages(ready)),
        "dicts": lambda: copied(server, converted_pages(records)),
        "by Page.read": lambda: asyncio.run(sync(pages, server.database())),
        "one by one": lambda: asyncio.run(sync(one_by_one, server.database())),
    }
    timings = interleaved({name: server.measuring(name, way) for name, way in ways.items()}, ROUNDS)
    ready_rate, dicts_rate, *_ = (RECORDS / timing.cpu for timing in timings.values())
    rows = []
    for way in ("by Page.read", "one by one"):
        what, rate = f"Max, records {way}", RECORDS / timings[way].cpu
        wall = timings["dicts"].wall / timings[way].wall
        rows += [
            Row(what, f"{rate:,.0f} rows/CPU s", rate / dicts_rate, "from dicts", "≥ 0.5", wall),
            Row(what, f"{rate:,.0f} rows/CPU s", rate / ready_rate, "ready tuples"),
            server.row(way, "dicts", "from dicts"),
        ]
    rows.append(Row("from dicts", f"{dicts_rate:,.0f} rows/CPU s", dicts_rate / ready_rate, "ready tuples"))
    report("postgres: first sync", rows)


def compare_tasks(server: BenchServer) -> None:
    """Tasks that do nothing, beside a claim of 16 with SKIP LOCKED and their completion."""
    place = server.database()
    asyncio.run(stored(place, TASKS))
    ways = {
        "each": lambda: claimed(server, together=False),
        "together": lambda: claimed(server, together=True),
        "tasks": lambda: asyncio.run(sync(SOURCE, place)),
    }
    timings = interleaved({name: server.measuring(name, way) for name, way in ways.items()}, ROUNDS)
    ours = timings["tasks"]
    value = f"{TASKS / ours.wall:,.0f} a second"
    words = {"each": "16 claimed, each completed", "together": "16 claimed, 16 completed in one commit"}
    rows = []
    for way, against in words.items():
        by = timings[way]
        must = "≥ 0.5 by the clock" if way == "each" else ""
        rows.append(Row("the executor", value, by.cpu / ours.cpu, against, must, by.wall / ours.wall))
        rows.append(server.row("tasks", way, against))
    report("postgres: tasks", rows)


def written_again(server: BenchServer) -> Iterator[Row]:
    """The tuples that an unchanged re-sync writes, by table: none of the data."""
    records = make(0, RECORDS)
    source, place = reading(lambda start, stop: records[start:stop], RECORDS), server.database()
    asyncio.run(sync(source, place))
    before = server.written(place)
    asyncio.run(sync(source, place))
    after = server.written(place)
    changed = {name: number - before.get(name, 0) for name, number in after.items()}
    data = sum(number for name, number in changed.items() if not name.startswith("_max_"))
    yield Row("tuples of data", f"{data:,}", data / RECORDS, "the rows", "0")
    for name, number in sorted(changed.items(), key=lambda one: -one[1]):
        if number and name.startswith("_max_"):
            yield Row(name, f"{number:,}", number / RECORDS, "the rows")


class BenchServer(Server):
    """A server, the schemas of a run, and what it has spent."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._numbers = count()
        self.spent: dict[str, list[float]] = {}

    def database(self) -> PostgresDatabase:
        """A database that is not there yet."""
        return PostgresDatabase(self.url, f"bench_{next(self._numbers)}")

    def measuring(self, name: str, way: Callable[[], None]) -> Callable[[], None]:
        """A way that also notes the processor seconds of the server."""

        def measured() -> None:
            before = self.seconds()
            way()
            self.spent.setdefault(name, []).append(self.seconds() - before)

        return measured

    def row(self, way: str, reference: str, against: str) -> Row:
        """What the server spent for a way of ours; more is slower."""
        one, other = (statistics.median(self.spent[name]) for name in (way, reference))
        return Row(f"  the server for it ({way})", f"{one:.2f} s CPU", one / max(other, 0.01), against)

    def seconds(self) -> float:
        """Processor seconds of the server and its processes, ended ones too; 0 where no one says it."""
        assert self.process is not None
        number, ticks = self.process.pid, 0
        for one in Path("/proc").glob("[0-9]*/stat"):
            try:
                words = one.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if number in (int(one.parent.name), int(words[1])):
                ticks += sum(map(int, words[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def written(self, place: PostgresDatabase) -> dict[str, int]:
        """How many tuples of each table of a schema were written since it was made."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            while connection.execute(OTHERS).fetchone() != (0,):  # one tells its numbers when it ends
                time.sleep(0.01)
            return dict(connection.execute(WRITTEN, (place.schema,)).fetchall())


@contextmanager
def own_server() -> Iterator[BenchServer]:
    """A server for the time of a run."""
    folder = Path(tempfile.mkdtemp(prefix="maxpg-"))
    server = BenchServer(folder)
    try:
        server.create()
        server.start(fsync="on", full_page_writes="on", autovacuum="on", shared_buffers="128MB")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def converted_pages(records: Sequence[SourceRecord]) -> Iterator[list[by_hand.Row]]:
    """The rows, converted a page at a time."""
    return (
        [by_hand.converted(one) for one in records[at : at + PAGE]] for at in range(0, len(records), PAGE)
    )


def copied(server: BenchServer, pages: Iterable[Sequence[by_hand.Row]]) -> None:
    """COPY each page into a temporary table and upsert from it, in a transaction."""
    place = server.database()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {place.schema}; SET search_path TO {place.schema}; {TABLE}")
        for rows in pages:
            with connection.transaction():
                with connection.cursor().copy("COPY coming FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
                connection.execute(UPSERT)


def claimed(server: BenchServer, *, together: bool) -> None:
    """Claim 16 tasks with a commit; complete each with a commit, or all of them with one."""
    place = server.database()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {place.schema}; SET search_path TO {place.schema}; {TASK_TABLE}")
        with connection.cursor().copy("COPY task FROM STDIN") as copy:
            for number in range(TASKS):
                copy.write_row((number, "pending", f'{{"id": "thing-{number}"}}'))
        while some := connection.execute(CLAIM).fetchall():
            if together:
                with connection.transaction():
                    connection.cursor().executemany(COMPLETE, [(id,) for id, _ in some])
            else:
                for id, _ in some:
                    connection.execute(COMPLETE, (id,))


async def stored(place: PostgresDatabase, number: int) -> None:
    """A database with some things."""
    async with running(SOURCE, place) as runtime:
        await runtime.engine.store(*(Thing(f"thing-{i}") for i in range(number)))
