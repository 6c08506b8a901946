"""Postgres: an installation is a schema of a database that its operator trusts already.

**One writer.**  ``transact(work)`` takes a lock of the schema (``pg_advisory_xact_lock``) before anything
else and holds it until its transaction ends, in whatever process and on whatever host.  So the writers of
an installation follow one another, as with a file, and those of others are not in their way.

**Isolation.**  Which level each transaction has, and why:

- *Writers: READ COMMITTED, under the lock.*  Each statement sees everything that was committed before it
  began.  All that an installation's tables hold is written under the lock, so nothing changes between two
  statements of one transaction: what it reads is one snapshot.  REPEATABLE READ would take its snapshot
  with the first statement, which is the one that waits for the lock: it would then see the data of before
  the previous writer's commit, and fail when it changed a row of that.  SERIALIZABLE would track what is
  read to find conflicts that the lock rules out.
- *Readers: REPEATABLE READ READ ONLY.*  They take no lock, wait for no writer, and see one moment, the
  same in each statement.  Reading alone never fails to serialise at this level.

    writer A   BEGIN  lock ──────── upserts ── COMMIT
    writer B   BEGIN  lock waits ──────────────────────┤ has it: sees A's rows
    reader                   SELECT … SELECT            sees neither, twice

**What is tried again.**  A deadlock or a serialisation failure can come from what others do in the schema.
The server has undone the transaction then, so the work runs again.  A connection that was lost before
COMMIT was sent has stored nothing: the work runs again on a new one, until the server has been away for
too long.  A connection that was lost *while* COMMIT was under way leaves open whether it was: every
transaction knows its number, and the server is asked what became of it (``pg_xact_status``).  So work must
bear to run again, as after any crash.

**Sessions.**  A connection is borrowed for one transaction (``postgres_pool``).  Nothing is set for longer
than that (``SET LOCAL``), so a pooler of the server's side may stand between as well.

**Rule.**  psycopg's errors leave as StorageError, with what to do, and without a password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from threading import Lock
from time import sleep
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from ..errors import (
    MaxError,
    MissingExtra,
    StorageCorrupt,
    StorageEmpty,
    StorageError,
    StorageUnreachable,
    SyncTakenOver,
    UsageError,
)
from ..model.values import Kind, is_text
from .database import NONSENSE, Connection, Cursor, Database, LastWrite, Limits, Values, opened, quoted
from .postgres_dialect import LONGEST_NAME, PostgresDialect, casefold_function, is_lost, state_of
from .postgres_pool import Pool, has_pooler
from .postgres_statements import STALE, Statements
from .workers import Worker

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
Durability = Literal["full", "normal"]

DIALECT = PostgresDialect()
READERS = 2  # threads that read, at most; each has a connection
LOCK_TIMEOUT = 30  # seconds to wait for another process's transaction
CONNECT_TIMEOUT = 10  # seconds to wait for a server that does not answer
WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 6.4, 6.4)  # seconds between tries while a server is away
IDLE = 15  # seconds for which a transaction under a lease may wait for its process
# A serialisation failure, a deadlock; a prepared statement whose table was changed, or that is gone.
CONFLICTS = ("40001", "40P01", *STALE)
MOST_CONFLICTS = 5  # of one transaction, after which the error is the caller's


class PostgresConnection:
    """A connection for one transaction, which takes the SQL of storage."""

    dialect = DIALECT

    def __init__(self, raw: psycopg.Connection[Any], reader: str = "", schema: str = "") -> None:
        self.raw, self.reader = raw, reader
        self._statements: Statements = raw.statements  # type: ignore[attr-defined]  # by connect
        self._statements.schema = schema
        self._lock = Lock()  # of the two that follow
        self._is_ours, self._was_interrupted = True, False
        opened(self)

    @property
    def is_closed(self) -> bool:
        """Whether it can do nothing any more."""
        return bool(self.raw.closed)

    def execute(self, sql: str, values: Values = (), /) -> Cursor:
        """Run one statement; or, without values, several."""
        return self._statements.run(sql, values)

    def scan(self, sql: str, values: Values, /) -> Iterator[Any]:
        """The rows of a statement, a thousand at a time by a cursor of the server."""
        return self._statements.scan(sql, values)

    def executemany(self, sql: str, rows: Iterable[Values], /) -> Cursor:
        """Run one statement for each row of values, without waiting for one before the next is sent."""
        return self._statements.run_each(sql, rows)

    def execute_each(self, sql: str, rows: Iterable[Values], /) -> list[Any]:
        """Run one statement for each row of values, as executemany; the first row that each returns."""
        return self._statements.run_each(sql, rows).fetchall()

    def insert(
        self,
        sql: str,
        kinds: Sequence[Kind],
        columns: Sequence[Sequence[Any]],
        constants: Sequence[Any] = (),
        /,
    ) -> None:
        """Run an INSERT whose ``{rows}`` are these, as one statement of whole columns."""
        self._statements.insert(sql, kinds, columns, constants)

    def interrupt(self) -> None:
        """Make the statement that runs now fail, if one does; nothing after ``leave``."""
        with self._lock:
            if not self._is_ours:
                return
            self._was_interrupted = True
        with suppress(Exception):
            self.raw.cancel_safe(timeout=CONNECT_TIMEOUT)

    def leave(self) -> bool:
        """Whether another transaction may have the connection: not when something may yet interrupt it."""
        with self._lock:
            self._is_ours = False
            return not self._was_interrupted and not self.is_closed


Work = Callable[[PostgresConnection], T]


@contextmanager
def translated(label: str) -> Iterator[None]:
    """Turn psycopg's errors into StorageError, once."""
    try:
        yield
    except StorageCorrupt as error:
        error.locate(label)
        raise
    except MaxError:
        raise
    except NONSENSE as error:
        if isinstance(error, UnicodeDecodeError):
            raise DIALECT.error(label, error) from error
        raise
    except DIALECT.errors as error:
        raise DIALECT.error(label, error) from error


def connect(url: str, label: str) -> psycopg.Connection[Any]:
    """A connection in autocommit: transactions are ours to begin and end.

    UsageError when the URL is not UTF-8 text, or has a NUL, at which libpq would end it.
    """
    if "\0" in url or not is_text(unquote(url, errors="surrogateescape")):
        raise UsageError(
            "the URL of the database is not UTF-8 text", hint="write postgresql://USER@HOST:PORT/DATABASE"
        )
    try:
        import psycopg
    except ImportError as error:
        raise MissingExtra("postgres", "psycopg", "a Postgres database") from error
    with translated(label):
        raw = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT, client_encoding="utf-8")
        _adapt(raw)
        if has_pooler(raw):
            raw.prepare_threshold = None
        if raw.info.parameter_status("server_encoding") != "UTF8":
            raw.close()
            raise StorageError(
                f"{label}: the database is not encoded in UTF-8",
                hint="create one with: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0",
                path=label,
            )
        raw.statements = Statements(raw)  # type: ignore[attr-defined]
    return raw


def patiently(once: Callable[[], T], *, repeats: int | None = None, conflicts: int = 0) -> T:
    """What ``once`` returns, which blocks; it runs again while the server is away, for half a minute.

    At most ``repeats`` times; also after each of some ``conflicts`` with other transactions.
    """
    waits = iter(WAITS[:repeats])
    while True:
        try:
            return once()
        except StorageError as error:
            cause = error.__cause__ or error
            is_conflict = state_of(cause) in CONFLICTS
            wait = next(waits, None)
            if wait is None or not (is_lost(cause) or (is_conflict and conflicts > 0)):
                raise
            conflicts -= is_conflict
        sleep(wait)


def pool_of(url: str) -> Pool:
    """A pool of connections to the database of a URL."""
    return Pool(lambda: connect(url, label_of(url)))


def label_of(url: str) -> str:
    """The server and the database, without the password."""
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    return f"postgresql://{user}{parts.hostname or ''}{port}{parts.path}"


def _adapt(raw: psycopg.Connection[Any]) -> None:
    """Which types values have: those of SQLite, so that one statement means the same on both.

    Without these psycopg gives a number the smallest type that holds it, so that one statement has many
    types, and a text none.
    """
    from psycopg.adapt import Dumper
    from psycopg.types.numeric import FloatLoader, Int8Dumper
    from psycopg.types.string import StrDumper, TextLoader

    class NumberLoader(FloatLoader):
        """An integer where the number is one: sums of integers are ``numeric``."""

        def load(self, data: Any) -> float:
            text = bytes(data).decode()
            return float(text) if not text.lstrip("-").isdigit() else int(text)

    class TruthDumper(Dumper):
        """True is 1, of no type: the server takes it for a number in a column, for a truth in a condition."""

        def dump(self, obj: Any) -> bytes:
            return b"1" if obj else b"0"

    adapters = raw.adapters
    adapters.register_dumper(bool, TruthDumper)
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(str, StrDumper)
    adapters.register_loader("numeric", NumberLoader)
    for kind in ("json", "jsonb"):
        adapters.register_loader(kind, TextLoader)


class PostgresDatabase(Database):
    """One schema of a Postgres database for an asyncio program, which it never blocks.

    ``url`` is ``postgresql://user:password@host:port/database?…``.  A service: ``start`` makes the schema
    where there is none, ``stop`` waits for running work.  With durability "normal" a crash of the server
    may lose the last transactions.  Up to READERS threads read at once, each on a connection of the ``pool``;
    without one it has a pool of its own.  ``reader`` is the role with which statements of callers read, where
    the server has it.  ``fence`` is what each writing transaction checks while a lease is held.
    """

    def __init__(
        self,
        url: str,
        schema: str,
        *,
        durability: Durability = "full",
        pool: Pool | None = None,
        reader: str = "",
    ) -> None:
        self.url, self.schema = url, schema
        self._pool, self._is_own = pool or pool_of(url), pool is None
        if not schema or "\0" in schema or len(schema.encode()) > LONGEST_NAME or schema.startswith("pg_"):
            raise StorageError(
                f"{schema!r} cannot be the name of a schema",
                hint=f"it has 1 to {LONGEST_NAME} bytes, and does not begin with pg_",
            )
        self._durability, self._reader = durability, reader
        self.fence: Fence | None = None
        self._writer: Worker[_Session] | None = None
        self._readers: Worker[_Session] | None = None

    @property
    def label(self) -> str:
        """The server, the database and the schema, without the password."""
        return f"{label_of(self.url)}, schema {self.schema}"

    @property
    def file(self) -> None:
        """It has none."""

    @property
    def lasts(self) -> bool:
        """It does."""
        return True

    @property
    def limits(self) -> Limits | None:
        """Those of any server."""
        return DIALECT.limits

    async def start(self) -> None:
        """Make the schema, when there is none."""
        if self._writer is None:
            self._writer = writer = Worker(self._session, threads=1)
            try:
                await writer.run(lambda session: session.prepare())
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
        if self._is_own:
            self._pool.close()

    async def transact(self, work: Work[T]) -> T:
        """Run work in one transaction; what it raises undoes all of it.  It may run more than once."""
        fence = self.fence  # the caller's: its lease may be given back before the thread comes to it
        return await self._running().run(lambda session: session.under(fence).transact(work))

    async def read(self, work: Work[T]) -> T:
        """Run work in one snapshot, beside the writer."""
        self._running()
        if self._readers is None:
            self._readers = Worker(self._session, threads=READERS)
        return await self._readers.run(lambda session: session.read(work))

    @contextmanager
    def reader(self) -> Iterator[PostgresConnection]:
        """One snapshot, for code without an event loop; what its caller raises leaves as it is."""
        session = self._session()
        try:
            with translated(self.label):
                connection = session.begin(READ)
                if not exists(connection, self.schema):
                    raise StorageEmpty(
                        f"{self.label}: there is no data yet", hint="run a sync first", path=self.label
                    )
            yield connection
        finally:
            session.close()

    @contextmanager
    def writer(self) -> Iterator[PostgresConnection]:
        """One transaction, for code without an event loop."""
        session = self._session()
        try:
            with translated(self.label):
                session.prepare()
                connection = session.begin(self._write())
                yield connection
                session.commit()
        finally:
            session.close()

    def is_there(self) -> bool:
        """Whether the schema is there."""
        session = self._session()
        try:
            with translated(self.label):
                return exists(session.begin(READ), self.schema)
        finally:
            session.close()

    def last_write(self) -> LastWrite | None:
        """A mark that differs after every writing here, and after those of others on the server."""
        session = self._session()
        try:
            with translated(self.label):
                connection = session.begin(READ)
                if not exists(connection, self.schema):
                    return None
                return LastWrite(connection.execute(SNAPSHOT).fetchone()[0], 0.0)
        finally:
            session.close()

    @contextmanager
    def several(self, others: Mapping[str, tuple[str, Database]]) -> Iterator[PostgresConnection]:
        """One snapshot of several schemas, which have their own names, such as ``max_acme_default``."""
        from .postgres_select import join_views  # reading one does without

        labels = {one.schema: label for label, one in others.values() if isinstance(one, PostgresDatabase)}
        if len(labels) < len(others):
            raise UsageError("a file cannot be read together with a server", hint="name one of them")
        session = self._session()
        try:
            with translated(self.label):
                connection = session.begin(JOIN)
                join_views(connection, {one: labels[one] for one in labels if exists(connection, one)})
            yield connection
        finally:
            session.close()

    def size(self) -> int:
        """Bytes of the tables and their indexes."""
        with translated(self.label):
            return self._ask(SIZE, (self.schema,)) or 0

    def log_size(self) -> int:
        """0: the log is the server's."""
        return 0

    def delete(self) -> None:
        """Drop the schema with all that is in it."""
        session = self._session()
        try:
            with translated(self.label):
                session.begin(self._write()).execute(f"DROP SCHEMA IF EXISTS {quoted(self.schema)} CASCADE")
                session.commit()
        finally:
            session.close()

    def _ask(self, sql: str, values: Values) -> Any:
        session = self._session()
        try:
            return session.begin(READ).execute(sql, values).fetchone()[0]
        finally:
            session.close()

    def _running(self) -> Worker[_Session]:
        if self._writer is None:
            raise StorageError(f"{self.label}: the database is not open", hint="start the runtime first")
        return self._writer

    def _session(self) -> _Session:
        write = self._write()
        return _Session(self._pool, self.label, self.schema, write, self._reader, lambda: self.fence)

    def _write(self) -> str:
        return WRITE if self._durability == "full" else f"{WRITE}; SET LOCAL synchronous_commit TO off"


READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
JOIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE"  # until its views are made
WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"  # which writes, unless the operator has said otherwise
SIZE = """
    SELECT CAST(sum(pg_total_relation_size(c.oid)) AS bigint) FROM pg_class AS c
     WHERE c.relnamespace = to_regnamespace(quote_ident(?)) AND c.relkind IN ('r', 'm')
"""
SNAPSHOT = "SELECT pg_current_snapshot()::text"  # which transactions are seen: each commit changes it
# from the table, for a name that a cache of the session does not know may have been made during a wait
EXISTS = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = ?)"


def exists(connection: Connection, schema: str) -> bool:
    """Whether there is a schema of this name."""
    return bool(connection.execute(EXISTS, (schema,)).fetchone()[0])


def lock_number(schema: str) -> int:
    """The number of a schema's lock, of 64 bits."""
    return int.from_bytes(sha256(f"max:{schema}".encode()).digest()[:8], signed=True)


class Fence(NamedTuple):
    """Who may write: the attempt that a lease has, which another process counts up when it takes that over.

    It is read behind the lock of the schema, in the message that begins the transaction.  A transaction whose
    process was stopped in the middle of it holds that lock; the server ends it after so long.
    """

    table: str  # with the leases, as SQL writes it
    installation: str  # its id
    attempt: int

    @property
    def statements(self) -> list[str]:
        """The last one answers with the attempt that has the lease."""
        id = self.installation.replace("'", "''")
        return [
            f"SET LOCAL idle_in_transaction_session_timeout TO '{IDLE}s'",
            f"SELECT attempt FROM {self.table} WHERE installation = '{id}'",
        ]

    def broken(self) -> SyncTakenOver:
        """The error of a process whose lease another one has."""
        hint = "nothing more is stored here, and nothing is lost: the sync goes on there"
        return SyncTakenOver("another process, or another host, has taken over this sync", hint=hint)


def _answers(cursor: psycopg.Cursor[Any]) -> Iterator[Any]:
    """The row of each of several statements that has one."""
    while True:
        if cursor.description is not None:
            yield cursor.fetchone()
        if not cursor.nextset():
            return


class _Session:
    """The transactions of one thread, each on a connection that it borrows."""

    def __init__(
        self,
        pool: Pool,
        label: str,
        schema: str,
        write: str,
        reader: str,
        fence: Callable[[], Fence | None],
    ) -> None:
        self._pool, self._label, self._schema, self._write = pool, label, schema, write
        self._reader, self._fence = reader, fence
        self._connection: PostgresConnection | None = None
        self._number: str | None = None  # of the transaction that is open

    def close(self) -> None:
        """Undo what is open, and give the connection back."""
        self.rollback()

    def prepare(self) -> None:
        """Make the schema, where there is none; nothing is tried again."""
        with translated(self._label):
            if exists(self.begin(READ), self._schema):
                self.rollback()
                return
            self.rollback()
            connection = self.begin(self._write)
            if not exists(connection, self._schema):  # else another process was quicker
                connection.execute(f"CREATE SCHEMA {quoted(self._schema)}")
                connection.execute(casefold_function())
                from .postgres_select import grant_reading  # once in the life of a schema

                grant_reading(connection, self._schema, self._reader)
            self.commit()

    def under(self, fence: Fence | None) -> _Session:
        """The same, for a caller who has this fence."""
        self._fence = lambda: fence
        return self

    def transact(self, work: Work[T]) -> T:
        """Run work in one transaction, again while the server says that it could go well."""
        return self._again(lambda: self._once(work))

    def read(self, work: Work[T]) -> T:
        """Run work in one snapshot."""

        def once() -> T:
            connection = self.begin(READ)
            try:
                return work(connection)
            finally:
                self.rollback()

        return self._again(once)

    def _once(self, work: Work[T]) -> T:
        connection = self.begin(self._write)
        try:
            result = work(connection)
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return result

    def _again(self, once: Callable[[], T]) -> T:
        """What ``once`` returns; after a conflict or a lost connection it runs again."""

        def clearly() -> T:
            with translated(self._label):
                return once()

        return patiently(clearly, conflicts=MOST_CONFLICTS - 1)

    def begin(self, how: str) -> PostgresConnection:
        """Begin a transaction; a writing one has the schema's lock."""
        local = (
            f"SET LOCAL search_path TO {quoted(self._schema)}; SET LOCAL TimeZone TO 'UTC';"
            f" SET LOCAL lock_timeout TO '{LOCK_TIMEOUT}s'"
        )
        lock = f"SELECT pg_advisory_xact_lock({lock_number(self._schema)}), pg_current_xact_id()::text"
        reads = how in (READ, JOIN)
        fence = None if reads else self._fence()
        words = [how, local] if reads else [how, local, lock, *([] if fence is None else fence.statements)]
        cursor = self._first("; ".join(words))
        self._number = None
        answers = [] if reads else [*_answers(cursor)]
        for answer in answers[:1]:
            self._number = answer[1]
        if fence is not None and answers[1:] != [(fence.attempt,)]:
            self.rollback()
            raise fence.broken()
        return self._connection  # type: ignore[return-value]

    def _first(self, sql: str) -> Any:
        """Run the statement that begins; again where the server has ended the connection meanwhile."""
        while True:
            raw, was_used = self._pool.take()
            self._connection = PostgresConnection(raw, self._reader, self._schema)
            try:
                return raw.execute(sql, prepare=False)
            except DIALECT.errors as error:
                self.drop()
                if not (was_used and is_lost(error)):
                    raise

    def commit(self) -> None:
        """Commit; StorageUnreachable when it cannot be found out whether that went well."""
        connection = self._connection
        if connection is None:
            raise StorageError(f"{self._label}: no transaction is open")
        try:
            cursor = connection.raw.execute("COMMIT", prepare=False)
        except DIALECT.errors as error:
            if not is_lost(error) or not self._was_committed():
                raise
            return
        self._give_back()
        if cursor.statusmessage != "COMMIT":  # a statement had failed, and that was passed over
            raise StorageError(f"{self._label}: the server has undone the transaction", path=self._label)

    def _was_committed(self) -> bool:
        """Ask the server, when it is back, what became of the transaction."""
        number = self._number
        for wait in WAITS:
            sleep(wait)
            try:
                self.drop()
                connection = self.begin(READ)
                sql = "SELECT pg_xact_status(CAST(? AS xid8))"
                (status,) = connection.execute(sql, (number,)).fetchone()
                self.rollback()
                if status != "in progress":  # else the server has not noticed yet
                    return bool(status == "committed")
            except StorageUnreachable:
                continue
            except DIALECT.errors as error:
                if not is_lost(error):
                    raise
        raise StorageUnreachable(
            f"{self._label}: the connection was lost while a transaction was committed",
            hint="whether it was stored is not known; run it again when the server answers",
            path=self._label,
        )

    def rollback(self) -> None:
        """Undo what is open; a connection that cannot do so is closed, by which the server undoes it."""
        connection = self._connection
        if connection is None:
            return
        try:
            connection.raw.rollback()
        except DIALECT.errors:
            connection.raw.close()
        self._give_back()

    def drop(self) -> None:
        """Close the connection; the server undoes what was not committed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave()
            connection.raw.close()

    def _give_back(self) -> None:
        """Give back the connection, which is in no transaction."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.leave():
            self._pool.give(connection.raw)
        else:
            connection.raw.close()
