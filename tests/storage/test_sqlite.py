from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.errors import NotFound, StorageCorrupt, StorageError, StorageLocked, StorageReplaced
from max.storage import sqlite
from max.storage.catalogue import migrate
from max.storage.database import quoted
from max.storage.sqlite import MEMORY, SqliteConnection, SqliteDatabase, transaction
from tests.database_files import reader

T = TypeVar("T")
NOTES = "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)"


@pytest.fixture(params=["file", MEMORY])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return MEMORY if request.param == MEMORY else str(tmp_path / "data.db")


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def using(path: str | Path, body: Callable[[SqliteDatabase], Awaitable[T]]) -> T:
    """Run a body on an open database that has a table of notes."""

    async def main() -> T:
        database = SqliteDatabase(path)
        await database.start()
        try:
            await database.transact(lambda c: c.execute(NOTES))
            return await body(database)
        finally:
            await database.stop()

    return asyncio.run(main())


def add(text: str | None) -> Callable[[SqliteConnection], None]:
    """Work that stores a note; None cannot be stored."""
    return lambda c: (c.execute("INSERT INTO note (text) VALUES (?)", (text,)), None)[1]


def notes(connection: SqliteConnection) -> list[str]:
    """Work that reads every note."""
    return [row[0] for row in connection.execute("SELECT text FROM note ORDER BY id")]


# -- names ----------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_name_is_quoted_into_itself(name: str) -> None:
    connection = sqlite3.connect(MEMORY, factory=SqliteConnection)
    connection.execute(f"CREATE TABLE t ({quoted(name)} TEXT)")
    (column,) = connection.execute("PRAGMA table_info(t)").fetchall()
    connection.close()
    assert column[1] == name


# -- transactions ---------------------------------------------------------------------------


def test_what_a_transaction_wrote_is_read_afterwards(path: str) -> None:
    async def body(database: SqliteDatabase) -> list[str]:
        await database.transact(add("a"))
        return await database.read(notes)

    assert using(path, body) == ["a"]


@pytest.mark.parametrize("error", [NotFound("note", "7"), KeyError("x"), SystemExit(3)])
def test_a_transaction_that_raises_leaves_nothing_and_the_error_as_it_was(
    path: str, error: BaseException
) -> None:
    def work(connection: SqliteConnection) -> None:
        add("a")(connection)
        raise error

    async def body(database: SqliteDatabase) -> list[str]:
        with pytest.raises(type(error)) as caught:
            await database.transact(work)
        assert caught.value is error
        return await database.read(notes)

    assert using(path, body) == []


def test_a_failing_statement_undoes_what_stood_before_it(path: str) -> None:
    def work(connection: SqliteConnection) -> None:
        add("a")(connection)
        add(None)(connection)

    async def body(database: SqliteDatabase) -> list[str]:
        with pytest.raises(StorageError, match="NOT NULL constraint failed"):
            await database.transact(work)
        await database.transact(add("b"))
        return await database.read(notes)

    assert using(path, body) == ["b"]


def test_stop_iteration_reaches_the_caller_as_an_error(path: str) -> None:
    async def body(database: SqliteDatabase) -> list[str]:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await database.transact(lambda connection: next(iter(())))
        return await database.read(notes)

    assert using(path, body) == []


def test_a_read_cannot_write(tmp_path: Path) -> None:
    async def body(database: SqliteDatabase) -> list[str]:
        with pytest.raises(StorageError, match="readonly") as caught:
            await database.read(add("a"))
        assert "writable" in caught.value.hint
        return await database.read(notes)

    assert using(tmp_path / "data.db", body) == []


def test_what_is_read_in_one_work_belongs_to_one_moment(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    def twice(connection: SqliteConnection) -> tuple[list[str], list[str]]:
        first = notes(connection)
        other = sqlite3.connect(path, factory=SqliteConnection)
        with other:
            add("late")(other)
        other.close()
        return first, notes(connection)

    first, second = using(path, lambda database: database.read(twice))
    assert first == second == []


def test_readers_go_on_while_the_writer_is_at_work_and_beside_one_another(tmp_path: Path) -> None:
    meet = threading.Barrier(1 + sqlite.READERS, timeout=240)

    def work(connection: SqliteConnection) -> list[str]:
        meet.wait()  # passes only when a writer and all readers are inside at once
        return notes(connection)

    async def body(database: SqliteDatabase) -> Any:
        reads = [database.read(work) for _ in range(sqlite.READERS)]
        return await asyncio.gather(database.transact(work), *reads)

    assert using(tmp_path / "data.db", body) == [[], [], []]


def test_readings_one_after_another_use_one_connection(tmp_path: Path) -> None:
    async def body(database: SqliteDatabase) -> set[int]:
        return {await database.read(id) for _ in range(5)}

    assert len(using(tmp_path / "data.db", body)) == 1


def test_transactions_of_many_callers_run_one_after_another(path: str) -> None:
    inside: list[str] = []

    def work(connection: SqliteConnection) -> None:
        inside.append("in")
        add("a")(connection)
        inside.append("out")

    async def body(database: SqliteDatabase) -> list[str]:
        await asyncio.gather(*(database.transact(work) for _ in range(20)))
        return await database.read(notes)

    assert len(using(path, body)) == 20
    assert inside == ["in", "out"] * 20


def test_the_event_loop_runs_while_a_transaction_does(path: str) -> None:
    released = threading.Event()
    ticks = 0

    async def body(database: SqliteDatabase) -> bool:
        nonlocal ticks
        blocked = asyncio.ensure_future(database.transact(lambda c: released.wait(10)))
        for _ in range(100):
            await asyncio.sleep(0)
            ticks += 1
        assert not blocked.done()
        released.set()
        return await blocked

    assert using(path, body) is True
    assert ticks == 100


def test_a_caller_that_gives_up_does_not_break_the_thread(path: str) -> None:
    released = threading.Event()
    complaints: list[Any] = []

    async def body(database: SqliteDatabase) -> list[str]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        for work in (lambda c: (released.wait(10), add("a")(c)), lambda c: 1 / 0):
            waiting = asyncio.ensure_future(database.transact(work))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        released.set()
        await database.transact(add("b"))
        return await database.read(notes)

    assert using(path, body) == ["a", "b"], "work that was begun is finished, whether or not its caller waits"
    assert complaints == []


# -- start and stop -------------------------------------------------------------------------


def test_start_and_stop_may_be_called_twice_and_in_turn(path: str) -> None:
    async def main() -> list[str]:
        database = SqliteDatabase(path)
        await database.stop()
        for _ in range(2):
            await database.start()
            await database.start()
            await database.transact(lambda c: c.execute(NOTES))
            await database.transact(add("a"))
            found = await database.read(notes)
            await database.stop()
            await database.stop()
        return found

    assert len(asyncio.run(main())) == (1 if path == MEMORY else 2)


def test_nothing_runs_after_stop(path: str) -> None:
    async def main() -> list[threading.Thread]:
        before = set(threading.enumerate())
        database = SqliteDatabase(path)
        assert set(threading.enumerate()) <= before, "nothing runs before start"
        await database.start()
        await database.read(lambda c: None)
        await database.stop()
        return [thread for thread in threading.enumerate() if thread not in before]

    assert asyncio.run(main()) == []


def test_stop_waits_for_what_was_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        database = SqliteDatabase(tmp_path / "data.db")
        await database.start()
        await database.transact(lambda c: c.execute(NOTES))
        asked = [asyncio.ensure_future(database.transact(add("a"))) for _ in range(5)]
        await asyncio.sleep(0)
        await database.stop()
        await asyncio.gather(*asked)

    asyncio.run(main())
    with reader(tmp_path / "data.db") as connection:
        assert notes(connection) == ["a"] * 5


@pytest.mark.parametrize("ask", [SqliteDatabase.read, SqliteDatabase.transact])
def test_a_database_that_is_not_open_says_so(path: str, ask: Callable[..., Awaitable[None]]) -> None:
    async def main() -> None:
        await ask(SqliteDatabase(path), notes)

    with pytest.raises(StorageError, match="the database is not open"):
        asyncio.run(main())


def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> set[threading.Thread]:
        database = SqliteDatabase(tmp_path / "data.db")
        starting = asyncio.ensure_future(database.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        return set(threading.enumerate())

    before = set(threading.enumerate())
    assert asyncio.run(main()) <= before


# -- errors of the machine ------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"this is not a database at all" * 50, b"SQLite format 3\0" + b"x" * 2000]
)
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.db"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"data\.db: file is not a database") as caught:
        asyncio.run(SqliteDatabase(path).start())
    assert "restore a backup" in caught.value.hint
    assert path.read_bytes() == content


def test_an_error_of_the_work_on_a_damaged_file_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    using(path, lambda database: database.transact(add("a")))
    with path.open("r+b") as file:  # the second page is the table's
        file.seek(4096)
        file.write(b"\xff" * 4096)

    async def main() -> None:
        database = SqliteDatabase(path)
        await database.start()
        try:
            await database.transact(lambda c: {1: 2}[3])
        finally:
            await database.stop()

    with pytest.raises(StorageCorrupt, match="KeyError: 3") as caught:
        asyncio.run(main())
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open") as caught:
        asyncio.run(SqliteDatabase(tmp_path / "none" / "data.db").start())
    assert "check that the folder exists" in caught.value.hint
    assert caught.value.describe()["data"] == {"path": str(tmp_path / "none" / "data.db")}


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_not_writable_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="unable to open"):
            asyncio.run(SqliteDatabase(tmp_path / "data.db").start())
    finally:
        tmp_path.chmod(0o700)


def test_a_database_held_by_another_is_recognised_and_used_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.01)
    path = tmp_path / "data.db"

    async def body(database: SqliteDatabase) -> list[str]:
        other = sqlite3.connect(path, isolation_level=None, factory=SqliteConnection)
        with transaction(other):
            with pytest.raises(StorageError, match="database is locked") as caught:
                await database.transact(add("a"))
            assert "another process holds the database" in caught.value.hint
            assert await database.read(notes) == []
        other.close()
        await database.transact(add("b"))
        return await database.read(notes)

    assert using(path, body) == ["b"]


def test_a_full_disk_stores_nothing_of_the_work_and_is_got_over(path: str) -> None:
    def fill(connection: SqliteConnection) -> None:
        for _ in range(200):
            add("x" * 1000)(connection)

    def pages(count: int) -> Callable[[SqliteConnection], None]:
        return lambda c: (c.execute(f"PRAGMA max_page_count = {count}"), None)[1]

    async def body(database: SqliteDatabase) -> list[str]:
        await database.transact(add("before"))
        await database.transact(pages(20))
        with pytest.raises(StorageError, match="full") as caught:
            await database.transact(fill)
        assert "free some space" in caught.value.hint
        await database.transact(pages(1_000_000))
        await database.transact(add("after"))
        return await database.read(notes)

    assert using(path, body) == ["before", "after"]


def test_a_reader_that_cannot_open_fails_its_own_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(database: SqliteDatabase) -> list[str]:
        with monkeypatch.context() as broken:
            broken.setattr(sqlite, "OLDEST_SQLITE", (99, 0, 0))
            failed = await asyncio.gather(*(database.read(notes) for _ in range(4)), return_exceptions=True)
        assert all(isinstance(error, StorageError) for error in failed)
        return await database.read(notes)

    assert using(tmp_path / "data.db", body) == []


def test_an_sqlite_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "OLDEST_SQLITE", (99, 0, 0))
    with pytest.raises(StorageError, match="is too old"):
        asyncio.run(SqliteDatabase(tmp_path / "data.db").start())


# -- reading without an event loop ----------------------------------------------------------


def test_a_reader_needs_no_event_loop_and_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    using(path, lambda database: database.transact(add("a")))
    with reader(path) as connection:
        assert notes(connection) == ["a"]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            add("b")(connection)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no database yet"), reader(tmp_path / "data.db"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_written_while_it_is_read_without_locks_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.db"
    using(path, lambda database: database.transact(add("a")))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with reader(path) as connection:
        assert notes(connection) == ["a"]
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StorageLocked, match="was written while it was read"), reader(path):
        using(path, lambda database: database.transact(add("b")))


# -- durability -------------------------------------------------------------------------------


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_a_commit_reaches_the_disk_before_it_returns_unless_less_is_asked_for(
    tmp_path: Path, durability: Any, level: int
) -> None:
    async def main() -> int:
        database = SqliteDatabase(tmp_path / "data.db", durability=durability)
        await database.start()
        found = await database.transact(lambda c: c.execute("PRAGMA synchronous").fetchone()[0])
        await database.stop()
        return int(found)

    assert asyncio.run(main()) == level


def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What every connection is asked from now on, by connection."""
    said: list[tuple[int, str]] = []
    connect = sqlite3.connect

    def watched(*args: Any, **named: Any) -> Any:
        connection = connect(*args, **named)
        connection.set_trace_callback(lambda statement: said.append((id(connection), statement)))
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    return said


def test_a_log_stays_short_and_is_moved_into_the_file_only_under_the_write_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 200_000
    monkeypatch.setattr(sqlite, "CHECKPOINT", limit)
    path, log, sizes = tmp_path / "data.db", tmp_path / "data.db-wal", []
    said = traced(monkeypatch)

    async def body(database: SqliteDatabase) -> list[str]:
        for _ in range(60):
            await database.transact(
                lambda c: c.executemany("INSERT INTO note (text) VALUES (?)", [("x" * 9_000,)] * 2)
            )
            sizes.append(log.stat().st_size)
        return await database.read(notes)

    assert len(using(path, body)) == 120
    assert max(sizes) < 2 * limit
    moves = [number for number, (_, statement) in enumerate(said) if statement == "PRAGMA wal_checkpoint"]
    assert len(moves) >= 4
    for number in moves:
        (locker, begun), (mover, _), (unlocker, ended) = said[number - 1 : number + 2]
        assert (begun, ended) == ("BEGIN IMMEDIATE", "COMMIT")
        assert locker == unlocker != mover
    assert not [words for _, words in said if "autocheckpoint" in words and not words.endswith("= 0")]


def test_the_log_of_a_linked_file_stays_short_too_and_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT", 100_000)
    path, log = tmp_path / "data.db", tmp_path / "elsewhere" / "real.db-wal"
    log.parent.mkdir()
    path.symlink_to(log.with_name("real.db"))

    async def body(database: SqliteDatabase) -> int:
        for _ in range(60):
            await database.transact(add("x" * 9_000))
        with reader(path) as connection:
            return len(notes(connection)) * (log.stat().st_size < 300_000)

    assert using(path, body) == 60


def test_a_reader_that_finds_the_log_just_gone_opens_the_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.db"
    using(path, lambda database: database.transact(add("a")))
    seen = []

    def access(path: str) -> str:
        seen.append(path)
        return "mode=ro&vfs=gone" if len(seen) == 1 else "mode=rw"

    monkeypatch.setattr(sqlite, "_reading_access", access)
    with reader(path) as connection:
        assert notes(connection) == ["a"]
    assert len(seen) == 3


def test_a_long_reader_delays_the_moving_of_the_log_but_no_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT", 100_000)
    path = tmp_path / "data.db"
    said = traced(monkeypatch)

    async def body(database: SqliteDatabase) -> tuple[list[str], int]:
        await database.transact(add("before"))
        with reader(path) as connection:
            first = notes(connection)
            for _ in range(60):
                await database.transact(add("x" * 9_000))
            assert notes(connection) == first
        tries = [words for _, words in said if words == "PRAGMA wal_checkpoint"]
        for _ in range(30):
            await database.transact(add("x" * 9_000))
        return first, len(tries)

    found, tries = using(path, body)
    assert found == ["before"]
    assert 1 <= tries <= 10, "it is tried again when the log has grown, not at every commit"


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_nothing_is_stored_in_or_read_from_a_file_that_was_replaced(tmp_path: Path, end: str) -> None:
    path, elsewhere = tmp_path / "data.db", tmp_path / "elsewhere.db"
    gone = tmp_path / f"data.db{end}"

    async def body(database: SqliteDatabase) -> None:
        await database.transact(add("a"))
        gone.rename(elsewhere)
        for ask in (database.transact(add("b")), database.read(lambda c: None)):
            with pytest.raises(StorageReplaced, match="was removed or replaced"):
                await ask
        elsewhere.rename(gone)
        await database.transact(add("c"))

    using(path, body)
    with reader(path) as connection:
        assert notes(connection) == ["a", "c"]


# -- migrations -----------------------------------------------------------------------------

FIRST = "CREATE TABLE a (x TEXT); INSERT INTO a VALUES ('once')"
SECOND = "ALTER TABLE a ADD COLUMN y TEXT;\n"

PROCESS = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from max.storage.catalogue import migrate
from max.storage.sqlite import SqliteDatabase

async def main():
    database = SqliteDatabase(sys.argv[1])
    await database.start()
    await database.transact(lambda c: migrate(c, "test", sys.argv[3:]))
    await database.stop()

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


def applying(connection: SqliteConnection, *migrations: str, owner: str = "test") -> None:
    """Migrate as the engine does, in a transaction."""
    with transaction(connection):
        migrate(connection, owner, migrations)


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    opened = sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)
    yield opened
    opened.close()


def state(connection: SqliteConnection) -> list[str]:
    """Everything that the database holds, as text."""
    return list(connection.iterdump())


def test_each_migration_runs_once_in_order(connection: SqliteConnection) -> None:
    applying(connection, FIRST)
    applying(connection, FIRST, SECOND)
    before = state(connection)
    applying(connection, FIRST, SECOND)
    assert connection.execute("SELECT * FROM a").fetchall() == [("once", None)]
    assert state(connection) == before


def test_owners_count_their_migrations_apart(connection: SqliteConnection) -> None:
    applying(connection, FIRST, owner="one")
    applying(connection, "CREATE TABLE b (x TEXT)", owner="two")
    rows = connection.execute("SELECT owner, version FROM _max_migration ORDER BY owner").fetchall()
    assert rows == [("one", 1), ("two", 1)]


def test_a_migration_whose_names_are_in_quotes_now_is_the_same(connection: SqliteConnection) -> None:
    applying(connection, "CREATE TABLE b (user TEXT)", owner="two")
    before = state(connection)
    applying(connection, 'CREATE TABLE b ("user" TEXT)', owner="two")
    assert state(connection) == before


def test_a_migration_that_was_edited_is_refused_and_nothing_changes(connection: SqliteConnection) -> None:
    applying(connection, FIRST)
    before = state(connection)
    with pytest.raises(StorageError, match="migration test 1 was changed after it ran"):
        applying(connection, FIRST + " ", SECOND)
    assert state(connection) == before


def test_a_database_that_is_newer_is_refused_and_nothing_changes(connection: SqliteConnection) -> None:
    applying(connection, FIRST, SECOND)
    before = state(connection)
    with pytest.raises(StorageError, match=r"newer than this Max \(test 2, known 1\)") as caught:
        applying(connection, FIRST)
    assert "upgrade Max" in caught.value.hint
    assert state(connection) == before


def test_a_migration_that_fails_takes_all_of_them_back(connection: SqliteConnection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table: missing"):
        applying(connection, FIRST, SECOND, "DROP TABLE missing")
    assert state(connection) == ["BEGIN TRANSACTION;", "COMMIT;"]


def test_eight_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "data.db"), root, FIRST, SECOND]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=240)[1] for process in processes] == [""] * 8
    with reader(tmp_path / "data.db") as connection:
        assert connection.execute("SELECT * FROM a").fetchall() == [("once", None)]
