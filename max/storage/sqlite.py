"""SQLite: one writer thread, readers beside it, and nothing outside a transaction.

Rule 1: one connection, one thread; one function is one transaction.  ``transact(work)``
runs ``work(connection)`` between BEGIN IMMEDIATE and COMMIT in the thread that owns the
connection; when it raises, everything is rolled back.  ``read(work)`` sees one snapshot.

Rule 2: the work is plain synchronous code.  The event loop only waits for it, and code
without a loop runs it inside ``reader()`` or ``writer()``.

Rule 3: sqlite3's errors leave as StorageError, with what to do.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import StorageEmpty, StorageError, StorageOlder
from .catalogue import is_older
from .database import Database
from .sqlite_dialect import SqliteDialect, primary_code

if TYPE_CHECKING:
    from queue import SimpleQueue

T = TypeVar("T")

MEMORY = ":memory:"
BUSY_TIMEOUT = 30.0  # seconds to wait for another process's transaction
SWITCH_PAUSE = 0.005  # seconds between two attempts to switch a new file to WAL
WRITER_CACHE = 8_192  # KiB of pages that the writer keeps
READER_CACHE = 4_096  # KiB, for each reader
CHECKPOINT = 8_000  # pages of WAL before SQLite moves them into the file
READERS = 2  # threads that read
OLDEST_SQLITE = (3, 39, 0)  # RETURNING, json_each as a built-in, IS DISTINCT FROM
DIALECT = SqliteDialect()


class SqliteConnection(sqlite3.Connection):
    """A connection that knows its dialect."""

    dialect = DIALECT


Work = Callable[[SqliteConnection], T]
_Job = Callable[[SqliteConnection | None], SqliteConnection | None]


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn sqlite3's errors into StorageError, once."""
    try:
        yield
    except sqlite3.Error as error:
        raise DIALECT.error(path, error) from error


def connect(path: str, *, cache: int, synchronous: str = "NORMAL", reading: bool = False) -> SqliteConnection:
    """A connection for one thread, in autocommit: transactions are ours to begin and end."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageError(f"SQLite {sqlite3.sqlite_version} is too old; 3.39 or newer is needed")
    with translated(path):
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT, isolation_level=None, factory=SqliteConnection
        )
        try:
            connection.execute(f"PRAGMA cache_size = -{cache}")
            if is_older(connection):
                raise StorageOlder(
                    f"{path} was written by a Max before 0.1.0, and was not changed",
                    hint="move the file away: the next sync fetches everything again",
                    path=path,
                )
            _use_wal(connection)
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
            connection.execute(f"PRAGMA query_only = {reading:d}")
        except BaseException:
            connection.close()
            raise
    return connection


def _use_wal(connection: SqliteConnection) -> None:
    """Switch to the write-ahead log; SQLite does not wait by itself while another process does so."""
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
def snapshot(connection: SqliteConnection) -> Iterator[None]:
    """Everything that is read inside is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.rollback()


@contextmanager
def transaction(connection: SqliteConnection) -> Iterator[None]:
    """All of it or nothing; the write lock is taken at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise


class SqliteDatabase(Database):
    """One SQLite file (or ``:memory:``) for an asyncio program, which it never blocks.

    A service: ``start`` opens, ``stop`` waits for running work and closes.
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
        """Finish the work that was given, then close every connection."""
        readers, self._readers = self._readers, None
        writer, self._writer = self._writer, None
        for worker in (readers, writer):
            if worker is not None:
                await worker.stop()

    async def transact(self, work: Work[T]) -> T:
        """Run work in one transaction; what it raises undoes all of it."""

        def inside(connection: SqliteConnection) -> T:
            with translated(self.path), transaction(connection):
                return work(connection)

        return await self._running().run(inside)

    async def read(self, work: Work[T]) -> T:
        """Run work in one snapshot, beside the writer."""

        def inside(connection: SqliteConnection) -> T:
            with translated(self.path), snapshot(connection):
                return work(connection)

        if self.path == MEMORY:
            return await self._running().run(inside)
        self._running()
        if self._readers is None:
            self._readers = _Worker(self._open_reader, threads=READERS)
        return await self._readers.run(inside)

    @contextmanager
    def reader(self) -> Iterator[SqliteConnection]:
        """One snapshot of an existing file, for code without an event loop."""
        if not Path(self.path).exists():
            raise StorageEmpty(
                f"{self.path}: there is no database yet", hint="run a sync first", path=self.path
            )
        with translated(self.path), closing(self._open_reader()) as connection, snapshot(connection):
            yield connection

    @contextmanager
    def writer(self) -> Iterator[SqliteConnection]:
        """One transaction, for code without an event loop."""
        with translated(self.path), closing(self._open_writer()) as connection, transaction(connection):
            yield connection

    def _running(self) -> _Worker:
        if self._writer is None:
            raise StorageError(f"{self.path}: the database is not open", hint="start the runtime first")
        return self._writer

    def _open_writer(self) -> SqliteConnection:
        return connect(self.path, cache=WRITER_CACHE, synchronous=self._synchronous)

    def _open_reader(self) -> SqliteConnection:
        return connect(self.path, cache=READER_CACHE, reading=True)


def reader(path: Path) -> AbstractContextManager[SqliteConnection]:
    """``SqliteDatabase(path).reader()``."""
    return SqliteDatabase(path).reader()


def writer(path: Path) -> AbstractContextManager[SqliteConnection]:
    """``SqliteDatabase(path).writer()``."""
    return SqliteDatabase(path).writer()


class _Worker:
    """Threads that each own a connection and take work from one queue.

    A thread opens its connection for the first work that needs it.  When that fails, the
    work has the error and the next one tries again, so no caller ever waits for a dead thread.
    """

    def __init__(self, open: Callable[[], SqliteConnection], *, threads: int) -> None:
        import threading  # a command that reads has no threads
        from queue import SimpleQueue

        self._open = open
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Work[T]) -> T:
        """What work returns or raises, in one of the threads."""
        reply = _Reply()

        def answered(connection: SqliteConnection | None) -> SqliteConnection | None:
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
        import threading

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
        joining.join()  # no thread is left when this returns

    def _serve(self) -> None:
        connection: SqliteConnection | None = None
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
        if isinstance(error, StopIteration):  # no future takes it: the caller would wait
            error, cause = RuntimeError("the work raised StopIteration"), error
            error.__cause__ = cause
        self._call(self._future.set_exception, error)

    def _call(self, method: Callable[[Any], None], value: object) -> None:
        def unless_cancelled() -> None:
            if not self._future.done():
                method(value)

        with suppress(RuntimeError):  # the loop was closed, so no coroutine waits
            self._loop.call_soon_threadsafe(unless_cancelled)
