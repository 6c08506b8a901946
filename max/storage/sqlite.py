"""SQLite: one writer thread, readers beside it, and nothing outside a transaction.

Rule 1: one connection, one thread; one function is one transaction.  ``transact(work)``
runs ``work(connection)`` between BEGIN IMMEDIATE and COMMIT in the thread that owns the
connection; when it raises, everything is rolled back.  ``read(work)`` sees one snapshot.

Rule 2: the work is plain synchronous code.  The event loop only waits for it, and code
without a loop runs it inside ``reader()`` or ``writer()``.

Rule 3: sqlite3's errors leave as StorageError, with what to do.

Rule 4: a log is moved into its file only while we hold the write lock.  SQLite before 3.51.3 can
damage a file when one connection does so while another commits, and SQLite's own automatic
checkpoints hold no lock.

Rule 5: reading leaves the file and its folder as they are.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import (
    MaxError,
    StorageCorrupt,
    StorageEmpty,
    StorageError,
    StorageLocked,
    StorageOlder,
    StorageReadOnly,
    StorageReplaced,
    UsageError,
)
from ..model.values import Kind
from .catalogue import is_older
from .database import NONSENSE, Connection, Database, LastWrite, Limits, Values, opened, quoted
from .sqlite_dialect import SqliteDialect, primary_code
from .workers import Worker

if TYPE_CHECKING:
    from ..model.soundness import Finding

T = TypeVar("T")

MEMORY = ":memory:"
BUSY_TIMEOUT = 30.0  # seconds to wait for another process's transaction
SWITCH_PAUSE = 0.005  # seconds between two attempts to switch a new file to WAL
WRITER_CACHE = 2_560  # KiB of pages that the writer keeps; twice as many save it nothing
READER_CACHE = 4_096  # KiB, for each reader
CHECKPOINT = 32 * 2**20  # bytes of a log that are moved into the file together
READERS = 2  # threads that read, at most
TOGETHER = (100, 10)  # rows that one statement stores: two thirds of the time of a hundred statements
WIDE = 200  # values with which a row has a statement of its own: SQLite takes 32,766 in one
SAFE_SQLITE = (3, 51, 3)  # from which on rule 4 is more than is needed
OLDEST_SQLITE = (3, 39, 0)  # RETURNING, json_each as a built-in, IS DISTINCT FROM
DIALECT = SqliteDialect()
BESIDE = ("-wal", "-shm", "-journal")  # the files that SQLite puts beside its own
IMMUTABLE = "mode=ro&immutable=1"  # SQLite takes no locks, and looks for no log
Durability = Literal["full", "normal"]


class SqliteConnection(sqlite3.Connection):
    """A connection that knows its dialect, and whether it reads a file without locks."""

    dialect = DIALECT
    is_immutable = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        opened(self)

    def scan(self, sql: str, values: Values, /) -> Iterator[Any]:
        """The rows of a statement, each read from the file when it is asked for."""
        return iter(self.execute(sql, values))

    def execute_each(self, sql: str, rows: Iterable[Values], /) -> list[Any]:
        """Run one statement for each row of values; the first row that each of them returns."""
        return [self.execute(sql, values).fetchone() for values in rows]

    def insert(
        self,
        sql: str,
        kinds: Sequence[Kind],
        columns: Sequence[Sequence[Any]],
        constants: Sequence[Any] = (),
        /,
    ) -> None:
        """Run an INSERT whose ``{rows}`` are these, many with a statement."""
        insert_rows(self, sql, columns, constants)

    def interrupt(self) -> None:
        """Make the statement that runs now fail, if one does."""
        with suppress(sqlite3.ProgrammingError):  # it was closed
            super().interrupt()


Work = Callable[[SqliteConnection], T]


def insert_rows(
    connection: Connection, sql: str, columns: Sequence[Sequence[Any]], constants: Sequence[Any]
) -> None:
    """Insert rows, as many with a statement as TOGETHER allows; the last few one by one."""
    start, number = 0, len(columns[0]) if columns else 0
    for together in TOGETHER if len(columns) < WIDE else ():
        statement = _with_rows(sql, len(columns), len(constants), together)
        while start + together <= number:
            end = start + together
            values: list[Any] = [None] * (len(columns) * together)
            for at, column in enumerate(columns):  # twice as quick as rows that are put one behind another
                values[at :: len(columns)] = column[start:end]
            values[len(columns) : len(columns)] = constants
            connection.execute(statement, values)
            start = end
    if start < number:
        same = [repeat(one, number - start) for one in constants]
        rows = zip(*[column[start:] for column in columns], *same, strict=True)
        connection.executemany(_with_rows(sql, len(columns), len(constants), 1), rows)


@lru_cache(500)
def _with_rows(sql: str, width: int, constants: int, number: int) -> str:
    """The statement of so many rows: its parameters are the first row, the constants, then the other rows.

    A ``?`` is the one behind the highest so far.  Numbered ones are looked for in a list, each when it is
    read: a statement with a thousand of them would take longer to read than to run.
    """
    row = ", ".join([*["?"] * width, *[f"?{width + at}" for at in range(1, constants + 1)]])
    return sql.replace("{rows}", f"VALUES {', '.join([f'({row})'] * number)}")


@contextmanager
def translated(path: str, connection: SqliteConnection | None = None) -> Iterator[None]:
    """Turn sqlite3's errors into StorageError, once.

    An error of Python's own is one too when what is stored made no sense; ``connection`` can tell.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise DIALECT.error(path, error) from error
    except StorageCorrupt as error:
        error.locate(path)
        raise
    except MaxError:
        raise
    except NONSENSE as error:
        if not DIALECT.is_damage(connection, error):
            raise
        raise DIALECT.error(path, error) from error


def connect(path: str, *, cache: int, durability: Durability = "full") -> SqliteConnection:
    """A connection for one thread, in autocommit: transactions are ours to begin and end."""
    with translated(path), _closed_on_error(_open(path)) as connection:
        _begin(connection, path, cache)
        _use_wal(connection)
        full = durability == "full"
        connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
        connection.execute(f"PRAGMA fullfsync = {full:d}")  # macOS alone flushes no disk without it
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA journal_size_limit = 0")  # so that a log's size says how much is in it
        connection.execute("PRAGMA user_version")  # opens the log
    return connection


def connect_to_make(path: str) -> SqliteConnection:
    """A connection to a new file; while it is being made it has no log, and a crash may leave half of it."""
    with translated(path), _closed_on_error(_open(path)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
    return connection


def connect_to_read(path: str) -> SqliteConnection:
    """A connection for one thread that writes nothing."""
    while True:
        access = _reading_access(path)
        try:
            with translated(path), _closed_on_error(_open(path, access)) as connection:
                _begin(connection, path, READER_CACHE)
                connection.execute("PRAGMA query_only = 1")
                connection.is_immutable = access == IMMUTABLE
            return connection
        except StorageError:
            if _reading_access(path) == access:
                raise  # else a writer has just begun, or ended


def _reading_access(path: str) -> str:
    """How to open a file so that reading it writes nothing.

    A file with a log is read with the locks that others use.  Where SQLite has to create the files
    of the locks, a connection that may write is preferred, for it removes them again.  Where it
    cannot create them, the file alone is read, without locks.
    """
    path = os.path.realpath(path)  # SQLite puts the others beside the file itself
    writable = os.access(path, os.W_OK) and os.access(Path(path).parent, os.W_OK)
    log, shared = _size(path + "-wal"), Path(path + "-shm").exists()
    if shared or (log and writable):
        return "mode=ro"
    if log:
        raise StorageReadOnly(
            f"{path}: its newest rows are in {path}-wal, which cannot be read without writing beside it",
            hint="make the folder writable for this user, or read a copy of it",
            path=path,
        )
    if writable:
        return "mode=rw"  # it can also undo what a program that was killed has left half done
    return "mode=ro" if Path(path + "-journal").exists() else IMMUTABLE


def _open(path: str, access: str = "mode=rwc") -> SqliteConnection:
    """A connection to a file; SQLite would wait for ever for a pipe in the place of one that it needs."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageError(f"SQLite {sqlite3.sqlite_version} is too old; 3.39 or newer is needed")
    name = path
    if path != MEMORY:
        for one in (path, *(os.path.realpath(path) + suffix for suffix in BESIDE)):
            with suppress(OSError):
                if not S_ISREG(Path(one).stat().st_mode):
                    raise StorageCorrupt(f"{one} is no file", hint="move it away and sync again", path=one)
        name = f"{Path(path).absolute().as_uri()}?{access}"
    return sqlite3.connect(
        name, timeout=BUSY_TIMEOUT, isolation_level=None, factory=SqliteConnection, uri=path != MEMORY
    )


@contextmanager
def _closed_on_error(connection: SqliteConnection) -> Iterator[SqliteConnection]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def _begin(connection: SqliteConnection, path: str, cache: int) -> None:
    """Set what every connection needs, and look at the file for the first time."""
    connection.execute(f"PRAGMA cache_size = -{cache}")
    if is_older(connection):
        raise StorageOlder(
            f"{path} was written by a Max before 0.1.0, and was not changed",
            hint="move the file away: the next sync fetches everything again",
            path=path,
        )


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


def library() -> Iterator[Finding]:
    """What is found of this machine's SQLite."""
    from ..model.soundness import Finding, warning  # one command alone needs it

    fact = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < SAFE_SQLITE:
        fact += (
            ": before 3.51.3 moving a log into its file while another program writes can damage that, so Max"
            " does it under its own write lock; use no other program that writes to the file during a sync"
        )
    yield Finding("sqlite", fact)
    with closing(_open(MEMORY)) as connection:
        if DIALECT.text_index.is_available(connection):
            yield Finding("full text", "SQLite has FTS5, which max find needs")
        else:
            yield warning("full text", "SQLite has no FTS5, which max find needs", "use another Python")


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

    A service: ``start`` opens, ``stop`` waits for running work and closes.  With durability "full"
    a power cut loses nothing that ``transact`` has returned for; with "normal" it may lose the
    last transactions.
    """

    def __init__(self, path: Path | str, *, durability: Durability = "full") -> None:
        self.path = str(path)
        self._durability = durability
        self._writer: Worker[SqliteConnection] | None = None
        self._readers: Worker[SqliteConnection] | None = None
        self._file = _OpenFile(self.path)

    @property
    def label(self) -> str:
        """Its path."""
        return self.path

    @property
    def file(self) -> Path | None:
        """Its file; None in memory."""
        return None if self.path == MEMORY else Path(self.path)

    @property
    def lasts(self) -> bool:
        """Not in memory."""
        return self.path != MEMORY

    @property
    def limits(self) -> Limits | None:
        """None that matter."""
        return None

    async def start(self) -> None:
        """Open the file, creating it when there is none."""
        if self._writer is None:
            self._writer = writer = Worker(self._open_writer, threads=1)
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
        return await self._running().run(lambda connection: self._transact(connection, work))

    async def read(self, work: Work[T]) -> T:
        """Run work in one snapshot, beside the writer."""

        def inside(connection: SqliteConnection) -> T:
            with translated(self.path, connection), snapshot(connection):
                result = work(connection)
            self._file.check()
            return result

        if self.path == MEMORY:
            return await self._running().run(inside)
        self._running()
        if self._readers is None:
            self._readers = Worker(self._open_reader, threads=READERS)
        return await self._readers.run(inside)

    @contextmanager
    def reader(self) -> Iterator[SqliteConnection]:
        """One snapshot of an existing file, for code without an event loop.

        What its caller raises leaves as it is.
        """
        if not self.is_there():
            raise StorageEmpty(
                f"{self.path}: there is no database yet", hint="run a sync first", path=self.path
            )
        before = _stamp(self.path)
        with closing(connect_to_read(self.path)) as connection:
            with translated(self.path):
                connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.is_immutable and _stamp(self.path) != before:
                    raise StorageLocked(
                        f"{self.path} was written while it was read", hint="try again", path=self.path
                    )

    @contextmanager
    def writer(self) -> Iterator[SqliteConnection]:
        """One transaction, for code without an event loop."""
        with closing(self._open_writer()) as connection, translated(self.path, connection):
            with transaction(connection):
                yield connection
                self._file.check()
            self._file.shorten_log(connection)

    @contextmanager
    def several(self, others: Mapping[str, tuple[str, Database]]) -> Iterator[Connection]:
        """One snapshot of several files as schemas of one connection."""
        from .sqlite_select import MOST_SCHEMAS, join_views  # reading one file does without

        if len(others) > MOST_SCHEMAS:
            raise UsageError(
                f"{len(others)} installations are more than the {MOST_SCHEMAS} that can be read together",
                hint="name those that you mean",
            )
        joining = sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection, uri=True)
        with closing(joining) as joined:
            joined.execute("PRAGMA temp_store = MEMORY")
            with ExitStack() as reading:
                for schema, (_, one) in others.items():
                    reading.enter_context(one.reader())  # checks the file, and keeps a log for us to read
                    with translated(one.label):
                        _attach(joined, schema, one)
                joined.execute("BEGIN")
                join_views(joined, {schema: label for schema, (label, _) in others.items()})
                joined.execute("PRAGMA query_only = 1")
                yield joined

    def is_there(self) -> bool:
        """Whether there is a file."""
        return self.file is not None and self.file.exists()

    def last_write(self) -> LastWrite | None:
        """When the file, or its log, was last written: their times may be equal for a moment."""
        try:
            found = Path(self.path).stat()
        except OSError:
            return None
        try:
            log = Path(os.path.realpath(self.path) + "-wal").stat()
            logged = (log.st_size, log.st_mtime)
        except OSError:
            logged = (0, 0.0)
        mark = (found.st_ino, found.st_size, found.st_mtime, *logged)
        return LastWrite(mark, max(found.st_mtime, logged[1]))

    def size(self) -> int:
        """Bytes of the file."""
        return _size(self.path)

    def log_size(self) -> int:
        """Bytes of the file beside it."""
        return _size(os.path.realpath(self.path) + "-wal")

    def delete(self) -> None:
        """Remove the file and those that SQLite has put beside it."""
        for suffix in ("", *BESIDE):
            Path(self.path + suffix).unlink(missing_ok=True)

    def _transact(self, connection: SqliteConnection, work: Work[T]) -> T:
        with translated(self.path, connection):
            with transaction(connection):
                result = work(connection)
                self._file.check()
            self._file.shorten_log(connection)
        return result

    def _running(self) -> Worker[SqliteConnection]:
        if self._writer is None:
            raise StorageError(f"{self.path}: the database is not open", hint="start the runtime first")
        return self._writer

    def _open_writer(self) -> SqliteConnection:
        connection = connect(self.path, cache=WRITER_CACHE, durability=self._durability)
        self._file.remember()
        return connection

    def _open_reader(self) -> SqliteConnection:
        self._file.check()
        return connect_to_read(self.path)


class _OpenFile:
    """A file that a connection has opened for writing, its log, and the locks on that.

    Without the locks' file two processes would hold different locks, and both could write.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._enough = CHECKPOINT  # bytes of log at which it is moved into the file
        self.remember()

    def remember(self) -> None:
        """The file has just been opened."""
        self._log, self._locks = (os.path.realpath(self._path) + end for end in ("-wal", "-shm"))
        self._identity = self._identities()

    def check(self) -> None:
        """StorageReplaced when the path leads to another file than the one that is open, or to none."""
        if self._identities() != self._identity:
            raise StorageReplaced(
                f"{self._path} was removed or replaced while it was open",
                hint="nothing more is stored in it; sync again, and what is missing is fetched",
                path=self._path,
            )

    def _identities(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(map(_identity, (self._path, self._log, self._locks)))

    def shorten_log(self, connection: SqliteConnection) -> None:
        """Move a long log into the file, while a connection beside this one holds the write lock.

        A reader of an old snapshot may keep a part of it back; then it is tried again later.
        """
        size = _size(self._log)
        if size < self._enough:
            return
        self._enough = size + CHECKPOINT
        with (
            suppress(sqlite3.OperationalError),  # busy or full: the log grows on, and nothing is lost
            closing(_open(self._path)) as lock,
            transaction(lock),
        ):
            busy, pages, moved = connection.execute("PRAGMA wal_checkpoint").fetchone()
            if not busy and pages == moved:
                self._enough = CHECKPOINT  # the next commit begins a new log, and cuts the file


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - before each reading, and a Path takes twice as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: str | Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - as above
    except OSError:
        return 0


def _attach(connection: SqliteConnection, schema: str, database: Database) -> None:
    """Make a file readable as a schema of a connection."""
    if database.file is None:
        raise UsageError(f"{database.label} is no file, and cannot be read together with files")
    name = f"{database.file.absolute().as_uri()}?{_reading_access(str(database.file))}"
    connection.execute(f"ATTACH ? AS {quoted(schema)}", (name,))
    connection.execute(f"PRAGMA {quoted(schema)}.cache_size = -{READER_CACHE}")


def _stamp(path: str) -> object:
    """What differs after a file was written."""
    found = Path(path).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
