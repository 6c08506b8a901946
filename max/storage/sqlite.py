"""SQLite: one writer thread, readers beside it, and nothing outside a transaction.

Rule 1: one connection, one thread; one function is one transaction.  ``transact(work)``
runs ``work(connection)`` between BEGIN IMMEDIATE and COMMIT in the thread that owns the
connection; when it raises, everything is rolled back.  ``read(work)`` sees one snapshot.

Rule 2: the work is plain synchronous code.  The event loop only waits for it, and a
command that needs no loop calls it on a connection of ``reader()``.

Rule 3: sqlite3's errors leave as StorageError, with what to do.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

from ..errors import StorageError, UsageError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_Job = Callable[["sqlite3.Connection | None"], "sqlite3.Connection | None"]

MEMORY = ":memory:"
BUSY_TIMEOUT = 30.0  # seconds to wait for another process's transaction
SWITCH_PAUSE = 0.005  # seconds between two attempts to switch a new file to WAL
WRITER_CACHE = 8_192  # KiB of pages that the writer keeps
READER_CACHE = 4_096  # KiB, for each reader
CHECKPOINT = 8_000  # pages of WAL before SQLite moves them into the file
READERS = 2  # threads that read
OLDEST_SQLITE = (3, 38, 0)  # RETURNING, IS NOT TRUE, json_each as built-ins

HINTS = {
    sqlite3.SQLITE_FULL: "free some space on the disk; what was stored before is safe",
    sqlite3.SQLITE_BUSY: "another process holds the database; try again when it has finished",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "check that the folder exists and is writable for this user",
    sqlite3.SQLITE_CORRUPT: "restore a backup, or move the file away and sync again",
    sqlite3.SQLITE_NOTADB: "restore a backup, or move the file away and sync again",
    sqlite3.SQLITE_IOERR: "check the disk; what was stored before is safe",
}

MIGRATION_TABLE = """
    CREATE TABLE IF NOT EXISTS _max_migration (
        owner   TEXT NOT NULL,
        version INTEGER NOT NULL,
        digest  TEXT NOT NULL,
        PRIMARY KEY (owner, version)
    ) WITHOUT ROWID
"""


def quoted(name: str) -> str:
    """A name as SQL writes it: the only way in which a name enters a statement."""
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn sqlite3's errors into StorageError, once."""
    try:
        yield
    except sqlite3.Error as error:
        raise storage_error(path, error) from error


def storage_error(path: str, error: sqlite3.Error) -> StorageError:
    """What an error of sqlite3 means to a person."""
    return StorageError(f"{path}: {error}", hint=HINTS.get(primary_code(error), ""), path=path)


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's kind of error, without where it happened; 0 for an error of Python's module."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def connect(
    path: str, *, cache: int, synchronous: str = "NORMAL", reading: bool = False
) -> sqlite3.Connection:
    """A connection for one thread, in autocommit: transactions are ours to begin and end."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageError(f"SQLite {sqlite3.sqlite_version} is too old; 3.38 or newer is needed")
    with translated(path):
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
        try:
            connection.execute(f"PRAGMA cache_size = -{cache}")
            _use_wal(connection)
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
            connection.execute(f"PRAGMA query_only = {reading:d}")
        except BaseException:
            connection.close()
            raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; SQLite itself does not wait for others who do so just now."""
    until = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(SWITCH_PAUSE)


@contextmanager
def reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads an existing file, for code without an event loop."""
    if not path.exists():
        raise StorageError(f"{path}: there is no database yet", hint="run a sync first", path=str(path))
    with translated(str(path)):
        connection = connect(str(path), cache=READER_CACHE, reading=True)
        try:
            with snapshot(connection):
                yield connection
        finally:
            connection.close()


@contextmanager
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on an existing file, for code without an event loop."""
    with (
        translated(str(path)),
        closing(connect(str(path), cache=WRITER_CACHE)) as connection,
        transaction(connection),
    ):
        yield connection


READING = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)


def select(
    connection: sqlite3.Connection, statement: str, values: Sequence[Any] | Mapping[str, Any], limit: int
) -> list[dict[str, Any]]:
    """The first rows of a caller's statement, by column; UsageError when it is wrong or no SELECT."""

    def authorize(action: int, *_: object) -> int:
        return sqlite3.SQLITE_OK if action in READING else sqlite3.SQLITE_DENY

    connection.set_authorizer(authorize)
    try:
        with closing(connection.execute(statement, values)) as cursor:
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchmany(limit)]
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise UsageError(f"SQL: {error}", hint="one SELECT, or WITH … SELECT, is allowed") from error
    finally:
        connection.set_authorizer(None)


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """What is read inside belongs to one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.rollback()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; the write lock is taken at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise


class Database:
    """One SQLite file (or ``:memory:``) for an asyncio program, which it never blocks.

    A service: ``start`` opens, ``stop`` waits for what is under way and closes.
    """

    def __init__(self, path: Path | str, *, synchronous: Literal["NORMAL", "FULL"] = "NORMAL") -> None:
        self.path = str(path)
        self._synchronous = synchronous
        self._writer: _Worker | None = None
        self._readers: _Worker | None = None

    async def start(self) -> None:
        """Open the file, creating it when there is none."""
        if self._writer is None:
            self._writer = writer = _Worker(self._open_writer, threads=1)
            try:
                await writer.run(lambda connection: None)
            except BaseException:
                self._writer = None
                await writer.stop()
                raise

    async def stop(self) -> None:
        """Finish what was asked for, then close every connection."""
        readers, self._readers = self._readers, None
        writer, self._writer = self._writer, None
        for worker in (readers, writer):
            if worker is not None:
                await worker.stop()

    async def transact(self, work: Work[T]) -> T:
        """Run work in one transaction; what it raises undoes all of it."""

        def inside(connection: sqlite3.Connection) -> T:
            with translated(self.path), transaction(connection):
                return work(connection)

        return await self._running().run(inside)

    async def read(self, work: Work[T]) -> T:
        """Run work in one snapshot, beside the writer."""

        def inside(connection: sqlite3.Connection) -> T:
            with translated(self.path), snapshot(connection):
                return work(connection)

        if self.path == MEMORY:
            return await self._running().run(inside)
        self._running()
        if self._readers is None:
            self._readers = _Worker(self._open_reader, threads=READERS)
        return await self._readers.run(inside)

    def _running(self) -> _Worker:
        if self._writer is None:
            raise StorageError(f"{self.path}: the database is not open", hint="start the runtime first")
        return self._writer

    def _open_writer(self) -> sqlite3.Connection:
        return connect(self.path, cache=WRITER_CACHE, synchronous=self._synchronous)

    def _open_reader(self) -> sqlite3.Connection:
        return connect(self.path, cache=READER_CACHE, reading=True)


class _Worker:
    """Threads that each own a connection and take work from one queue.

    A thread opens its connection for the first work that needs it.  When that fails, the
    work has the error and the next one tries again, so no caller ever waits for a dead thread.
    """

    def __init__(self, open: Callable[[], sqlite3.Connection], *, threads: int) -> None:
        self._open = open
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Work[T]) -> T:
        """What work returns or raises, in one of the threads."""
        reply = _Reply()

        def answered(connection: sqlite3.Connection | None) -> sqlite3.Connection | None:
            try:
                connection = connection or self._open()
                result = work(connection)
            except BaseException as error:
                reply.fail(error)
            else:
                reply.succeed(result)
            return connection

        self._queue.put(answered)
        result: T = await reply.wait()
        return result

    async def stop(self) -> None:
        """Let each thread finish the work before this call, close and end."""
        ended = _Reply()

        def join() -> None:
            for thread in self._threads:
                thread.join()
            ended.succeed(None)

        for _ in self._threads:
            self._queue.put(None)
        joining = threading.Thread(target=join, daemon=True)
        joining.start()
        await ended.wait()
        joining.join()  # it has said its last word: nothing is left when this returns

    def _serve(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while (job := self._queue.get()) is not None:
                connection = job(connection)
        finally:
            if connection is not None:
                connection.close()


class _Reply:
    """A result that a thread gives to the coroutine that waits for it."""

    def __init__(self) -> None:
        from asyncio import get_running_loop  # the reading commands do without asyncio

        self._loop = get_running_loop()
        self._future = self._loop.create_future()

    async def wait(self) -> Any:
        return await self._future

    def succeed(self, result: object) -> None:
        self._call(self._future.set_result, result)

    def fail(self, error: BaseException) -> None:
        if isinstance(error, StopIteration):  # no future takes it, and the caller would wait for ever
            error, cause = RuntimeError("the work raised StopIteration"), error
            error.__cause__ = cause
        self._call(self._future.set_exception, error)

    def _call(self, method: Callable[[Any], None], value: object) -> None:
        def unless_cancelled() -> None:
            if not self._future.done():
                method(value)

        with suppress(RuntimeError):  # the loop was closed, so nobody waits any more
            self._loop.call_soon_threadsafe(unless_cancelled)


# -- migrations -------------------------------------------------------------------------------


def migrate(connection: sqlite3.Connection, owner: str, migrations: Sequence[str]) -> None:
    """Bring an owner's tables to the newest version, inside the caller's transaction.

    Version n is the nth of ``migrations``, a script of statements ended by ``;``.  Each runs
    once.  StorageError when one that ran was edited since, or when the database knows a
    version that this code does not: nothing is changed then.
    """
    import hashlib  # slow, and those who only read do without

    connection.execute(MIGRATION_TABLE)
    rows = connection.execute("SELECT version, digest FROM _max_migration WHERE owner = ?", (owner,))
    done = dict(rows.fetchall())
    refuse_newer(owner, max(done, default=0), len(migrations))
    for version, script in enumerate(migrations, 1):
        digest = hashlib.sha256(script.encode()).hexdigest()[:16]
        if done.get(version, digest) != digest:
            raise StorageError(
                f"migration {owner} {version} was changed after it ran",
                hint="this is a bug of this Max; install the released version",
            )
        if version not in done:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
            connection.execute("INSERT INTO _max_migration VALUES (?, ?, ?)", (owner, version, digest))


def refuse_newer(owner: str, version: int, known: int) -> None:
    """StorageError when an owner's tables are of a version that this code does not know."""
    if version > known:
        raise StorageError(
            f"the database is newer than this Max ({owner} {version}, known {known})",
            hint="upgrade Max, or restore a backup from before the upgrade",
        )
