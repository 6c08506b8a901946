"""Durable tasks: what may happen to them, and what of a sync is remembered.

Rule 1: every state and every move between states is in MOVES.  The guards of the SQL below
are built from it, so a move that the table does not allow cannot be stored.

Rule 2: a task may run more than once (a crash after the work, before the record), so
whatever it does must be safe to do twice.  What it stores and its own new state are one
transaction, fenced by worker and attempt: who lost the lease stores nothing.

Rule 3: everything is plain synchronous code over a connection; SqliteTaskStore only takes
it to the database's thread.  Times are seconds since the epoch and always passed in.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .core import Stored, Write
from .entities import Json, Record
from .errors import LeaseLost, NotFound, SyncError, SyncRunning, UsageError, describe
from .sqlite import Database, migrate, storage_error

CHILDREN_BOUND = 2_000  # children of one task that wait at a time
CHILDREN_PAGE = 1_000  # targets that a task hands on at a time
LEASE = 60.0  # seconds without a sign after which a worker of another machine counts as dead
SIGN = 1.0  # seconds between two signs of life, at least
MAX_DEATHS = 5  # ends of the process, in a row, that a task may see
SUSPECT_DEATHS = 2  # from so many on, a task runs alone, so that it proves itself or its guilt
KEPT_SYNCS = 100  # finished syncs that are remembered
PRUNED_AT_ONCE = 5_000  # task rows deleted in one transaction
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: ids are typed by people

# -- states -------------------------------------------------------------------------------


class State(StrEnum):
    """Where a task stands."""

    NEW = "new"  # waits for the task before it
    PENDING = "pending"  # may be claimed once its time has come
    RUNNING = "running"  # leased to a worker
    AWAITING_CHILDREN = "awaiting_children"  # goes on, or ends, when its children have
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"  # stopped between two pages, until the sync is resumed


MOVES: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.PENDING, State.AWAITING_CHILDREN, State.FAILED, State.CANCELLED}),
    State.PENDING: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset(
        {
            State.RUNNING,  # a page is stored, and the task goes on
            State.PENDING,  # tried again, or given back
            State.AWAITING_CHILDREN,
            State.COMPLETED,
            State.FAILED,
            State.CANCELLED,
            State.PAUSED,
        }
    ),
    State.AWAITING_CHILDREN: frozenset({State.PENDING, State.COMPLETED, State.FAILED, State.CANCELLED}),
    State.PAUSED: frozenset({State.PENDING, State.CANCELLED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


def guard(to: State) -> str:
    """The SQL condition that a task may move to a state."""
    sources = ", ".join(f"'{state}'" for state in State if to in MOVES[state])
    return f"state IN ({sources})"


class Status(StrEnum):
    """How a sync stands.  INTERRUPTED is never stored: it is RUNNING without a living worker."""

    RUNNING = "running"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self not in (Status.RUNNING, Status.PAUSED, Status.INTERRUPTED)


class Wanted(StrEnum):
    """What any process may ask of a sync; its worker obeys at the next page."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class TaskKind(StrEnum):
    """What a task does."""

    GROUP = "group"  # nothing itself: it ends when its children have
    EXPAND = "expand"  # makes a child for each target, a page at a time
    LOAD_FIELDS = "load_fields"
    LOAD_COLLECTION = "load_collection"


# -- data ---------------------------------------------------------------------------------
# Tuples, since several are made for every task.

Payload = Mapping[str, Json]


class NewTask(NamedTuple):
    """A task to be: names and keys only.  ``chained`` children run one after the other."""

    kind: TaskKind
    payload: Payload
    children: Sequence[NewTask] = ()
    chained: bool = False


class Task(NamedTuple):
    """A claimed task: RUNNING, and nobody else's.

    ``attempt`` counts every claim and fences it; ``tries`` those since it last got further.
    """

    id: int
    sync: str
    parent: int | None
    kind: TaskKind
    payload: Payload
    attempt: int
    tries: int
    deaths: int


class Failure(Record):
    """What failed, why, and all that is needed to try just that again."""

    sync: str
    task: int
    kind: str
    what: str
    entity: str | None
    id: str | None
    code: str
    message: str
    hint: str
    attempt: int
    at: float
    input: Json


class Settlement(NamedTuple):
    """What one task did, to be stored as a whole or not at all.

    ``writes`` run inside the transaction.  ``more``: an AWAITING_CHILDREN task wants to be
    claimed again as soon as its children leave room.  ``progress`` forgives earlier tries.
    """

    task: Task
    state: State
    payload: Payload | None = None
    writes: Sequence[Write] = ()
    children: Sequence[NewTask] = ()
    failures: Sequence[Failure] = ()
    not_before: float = 0.0
    more: bool = False
    progress: bool = False


class Outcome(NamedTuple):
    """What became of a settlement: the task's state and what was stored, or the error."""

    state: State
    stored: Stored = Stored({})
    error: Exception | None = None


class Settled(NamedTuple):
    """What one call of ``settle`` came to: an outcome for each settlement, and the new work.

    ``due`` is when the next task may be claimed, None when that depends on those running.
    """

    outcomes: Sequence[Outcome]
    claimed: Sequence[Task]
    status: Status
    wanted: Wanted
    due: float | None = None
    waiting: int = 0


class SyncRun(Record):
    """A sync as history shows it.  ``counts``: rows by entity, ``requests``: by operation."""

    id: str
    status: Status
    counts: Mapping[str, int]
    removed: int
    requests: Mapping[str, int]
    failed: int
    started_at: float
    finished_at: float | None
    resumed: bool
    worker: str | None
    plan: Json


class SyncResult(SyncRun):
    """What a sync came to, with each thing that failed."""

    failures: tuple[Failure, ...]


def describe_task(kind: TaskKind, payload: Payload) -> str:
    """A task in the words of the plan: ``AcmeUser:7: load fields name``."""
    if kind is TaskKind.GROUP:
        return str(payload.get("step", "the plan"))
    ids = payload.get("ids") or ([payload["id"]] if payload.get("id") is not None else None)
    if ids is None:
        target = f"all {payload['entity']}"
    else:
        target = f"{payload['entity']}:{ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")
    operation = str(payload.get("operation", kind)).replace("_", " ")
    return f"{target}: {operation} {', '.join(payload['names'])}"


def failure_of(task: Task, error: BaseException, at: float, id: str | None = None) -> Failure:
    """The record of a task's failure, or of one ref's within it."""
    payload = task.payload
    what = describe_task(task.kind, payload)
    if id is not None:
        what = describe_task(task.kind, {**payload, "ids": [id]})
    elif len(ids := payload.get("ids") or [payload.get("id")]) == 1:
        id = ids[0]
    return _failure(task.sync, task.id, task.kind, payload, what, describe(error), task.attempt, at, id)


def _failure(
    sync: str,
    task: int,
    kind: TaskKind,
    payload: Payload,
    what: str,
    error: Mapping[str, Any],
    attempt: int,
    at: float,
    id: str | None,
) -> Failure:
    words: dict[str, Any] = {name: error[name] for name in ("code", "message", "hint")}
    rest: dict[str, Any] = {
        "entity": payload.get("entity"),
        "id": id,
        "attempt": attempt,
        "at": at,
        "input": dict(payload),
    }
    return Failure(sync=sync, task=task, kind=str(kind), what=what, **words, **rest)


# -- workers ------------------------------------------------------------------------------


def this_machine() -> str:
    """Host and boot: what two processes share when one can see whether the other lives."""
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{host.replace('/', '_')}/{boot}"


def process_start(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where /proc does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def new_worker() -> str:
    """A worker of this process: ``host/boot/pid/start/serial``."""
    pid = os.getpid()
    return f"{this_machine()}/{pid}/{process_start(pid)}/{os.urandom(4).hex()}"


def is_alive(worker: str, seen_at: float, now: float) -> bool:
    """Whether a worker still holds its leases."""
    host, boot, pid, start, _ = worker.split("/")
    here_host, here_boot = this_machine().split("/")
    if host != here_host:
        return now - seen_at < LEASE
    return boot == here_boot and _runs(int(pid)) and process_start(int(pid)) == start


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def owner_of(worker: str) -> str:
    """A worker in words, for the one who finds it at work."""
    host, _, pid, _, _ = worker.split("/")
    return f"process {pid} on {host}"


# -- tables -------------------------------------------------------------------------------

MIGRATIONS = (
    """
    CREATE TABLE _max_sync (
        id          TEXT PRIMARY KEY,
        plan        TEXT NOT NULL,
        state       TEXT NOT NULL,
        wanted      TEXT NOT NULL,
        worker      TEXT,
        started_at  REAL NOT NULL,
        finished_at REAL,
        resumed     INTEGER NOT NULL DEFAULT 0,
        arrivals    INTEGER NOT NULL DEFAULT 0,
        removed     INTEGER NOT NULL DEFAULT 0,
        counts      TEXT NOT NULL DEFAULT '{}',
        requests    TEXT NOT NULL DEFAULT '{}'
    ) WITHOUT ROWID;
    CREATE TABLE _max_task (
        id          INTEGER PRIMARY KEY AUTOINCREMENT,
        sync        TEXT NOT NULL,
        parent      INTEGER,
        after       INTEGER,
        kind        TEXT NOT NULL,
        payload     TEXT NOT NULL,
        state       TEXT NOT NULL,
        attempt     INTEGER NOT NULL DEFAULT 0,
        tries       INTEGER NOT NULL DEFAULT 0,
        deaths      INTEGER NOT NULL DEFAULT 0,
        not_before  REAL NOT NULL DEFAULT 0,
        worker      TEXT,
        children    INTEGER NOT NULL DEFAULT 0,
        unfinished  INTEGER NOT NULL DEFAULT 0,
        failed      INTEGER NOT NULL DEFAULT 0,
        more        INTEGER NOT NULL DEFAULT 0,
        error       TEXT,
        created_at  REAL NOT NULL,
        changed_at  REAL NOT NULL
    );
    CREATE INDEX _max_task_pending ON _max_task (sync, not_before, id) WHERE state = 'pending';
    CREATE INDEX _max_task_leased ON _max_task (sync) WHERE worker IS NOT NULL;
    CREATE INDEX _max_task_after ON _max_task (after) WHERE after IS NOT NULL;
    CREATE INDEX _max_task_waiting ON _max_task (parent) WHERE state = 'new';
    CREATE TABLE _max_worker (
        id          TEXT PRIMARY KEY,
        seen_at     REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE _max_failure (
        number      INTEGER PRIMARY KEY,
        sync        TEXT NOT NULL,
        task        INTEGER NOT NULL,
        kind        TEXT NOT NULL,
        what        TEXT NOT NULL,
        entity      TEXT,
        id          TEXT,
        code        TEXT NOT NULL,
        message     TEXT NOT NULL,
        hint        TEXT NOT NULL,
        attempt     INTEGER NOT NULL,
        at          REAL NOT NULL,
        input       TEXT NOT NULL
    );
    CREATE INDEX _max_failure_sync ON _max_failure (sync);
    """,
)

UNFINISHED = f"state IN ('{Status.RUNNING}', '{Status.PAUSED}')"

SYNC_COLUMNS = """id, state, counts, removed, requests, started_at, finished_at, resumed, worker, plan,
    (SELECT seen_at FROM _max_worker w WHERE w.id = s.worker),
    (SELECT count(*) FROM _max_failure f WHERE f.sync = s.id)"""

INSERT_TASK = """
    INSERT INTO _max_task (sync, parent, after, kind, payload, state, children, unfinished,
                           created_at, changed_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

CLAIM = f"""
    UPDATE _max_task
       SET state = '{State.RUNNING}', worker = :worker, attempt = attempt + 1, tries = tries + 1,
           changed_at = :now
     WHERE {guard(State.RUNNING)}
       AND id IN (SELECT id FROM _max_task
                   WHERE sync = :sync AND state = '{State.PENDING}' AND not_before <= :now
                     AND deaths BETWEEN :least AND :most
                   ORDER BY not_before, id
                   LIMIT :limit)
    RETURNING id, sync, parent, kind, payload, attempt, tries, deaths
"""

DUE = f"""
    SELECT min(not_before), count(*) FROM _max_task
     WHERE sync = :sync AND state = '{State.PENDING}' AND deaths <= :most
"""

SETTLE = {
    to: f"""
    UPDATE _max_task
       SET state = '{to}',
           worker = {"worker" if to is State.RUNNING else "NULL"},
           tries = CASE WHEN :progress THEN {1 if to is State.RUNNING else 0} ELSE tries END,
           deaths = CASE WHEN :progress THEN 0 ELSE deaths END,
           payload = coalesce(:payload, payload),
           not_before = :not_before,
           more = :more,
           children = children + :children,
           unfinished = unfinished + :unfinished,
           failed = failed + :failed,
           error = :error,
           changed_at = :now
     WHERE id = :id AND attempt = :attempt AND worker = :worker AND {guard(to)}
"""
    for to in MOVES[State.RUNNING]
}

COUNT_DOWN = """
    UPDATE _max_task SET unfinished = unfinished - ?, failed = failed + ? WHERE id = ?
"""

LOOK = f"""
    SELECT id, parent, unfinished, more, children > 0 AND failed = children
      FROM _max_task
     WHERE id IN (SELECT value FROM json_each(?)) AND state = '{State.AWAITING_CHILDREN}'
"""

DEPENDENTS = f"""
    SELECT id, after FROM _max_task
     WHERE after IN (SELECT value FROM json_each(?)) AND state = '{State.NEW}'
"""

GIVE_BACK = f"""
    UPDATE _max_task
       SET state = '{State.PENDING}', worker = NULL, tries = max(tries - 1, 0), deaths = deaths + ?
     WHERE sync = ? AND worker IS NOT NULL AND {guard(State.PENDING)}
"""


def _move_one(to: State, extra: str = "") -> str:
    return f"UPDATE _max_task SET state = '{to}', changed_at = ?{extra} WHERE id = ? AND {guard(to)}"


FAILURE_COLUMNS = ", ".join(Failure._names)
INSERT_FAILURE = (
    f"INSERT INTO _max_failure ({FAILURE_COLUMNS}) VALUES ({', '.join('?' for _ in Failure._names)})"
)

# After these, SQLite's transaction cannot be trusted or will fail again: it is not one task's fault.
FATAL = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_INTERRUPT,
    }
)


# -- reading what is remembered -----------------------------------------------------------


def runs(connection: sqlite3.Connection, limit: int, *, now: float) -> list[SyncRun]:
    """The newest syncs, newest first; empty when there never was one."""
    if not _has_tables(connection):
        return []
    rows = connection.execute(
        f"SELECT {SYNC_COLUMNS} FROM _max_sync s ORDER BY id DESC LIMIT ?", (limit,)
    ).fetchall()
    return [_run_of(row, now) for row in rows]


def run(connection: sqlite3.Connection, id: str, *, now: float) -> SyncRun:
    """The sync of an id, or of its beginning; NotFound, or UsageError when several begin so."""
    found: list[Any] = []
    if _has_tables(connection):
        found = connection.execute(
            f"SELECT {SYNC_COLUMNS} FROM _max_sync s WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 10",
            (id, id + "~"),
        ).fetchall()
    if not found:
        raise NotFound("sync", id, hint="`max runs` lists them")
    if len(found) > 1:
        listed = ", ".join(row[0] for row in found)
        raise UsageError(f"several syncs begin with {id!r}", hint=f"one of: {listed}")
    return _run_of(found[0], now)


def failures(connection: sqlite3.Connection, sync: str) -> list[Failure]:
    """What failed in a sync, in the order in which it did."""
    rows = connection.execute(
        f"SELECT {FAILURE_COLUMNS} FROM _max_failure WHERE sync = ? ORDER BY number", (sync,)
    )
    found = [dict(zip(Failure._names, row, strict=True)) for row in rows]
    return [Failure(**{**one, "input": json.loads(one["input"])}) for one in found]


def result(connection: sqlite3.Connection, sync: str, *, now: float) -> SyncResult:
    """What a sync has come to so far; NotFound."""
    found = run(connection, sync, now=now)
    values = {name: getattr(found, name) for name in SyncRun._names}
    return SyncResult(**values, failures=tuple(failures(connection, found.id)))


def unfinished(connection: sqlite3.Connection, *, worker: str | None, now: float) -> str | None:
    """The newest sync that can be resumed: paused, interrupted, or ``worker``'s own; or None."""
    if not _has_tables(connection):
        return None
    rows = connection.execute(
        f"SELECT {SYNC_COLUMNS} FROM _max_sync s WHERE {UNFINISHED} ORDER BY id DESC"
    ).fetchall()
    for found in (_run_of(row, now) for row in rows):
        if found.status is not Status.RUNNING or found.worker == worker:
            return found.id
    return None


def request(connection: sqlite3.Connection, sync: str, wanted: Wanted, *, now: float) -> None:
    """Ask a sync to pause, to stop for good or to go on, inside the caller's transaction.

    Its worker obeys at its next page; when it has none, the answer is given here.  SyncError
    when the sync has ended.
    """
    found = run(connection, sync, now=now)
    if found.status.final:
        raise SyncError(f"sync {found.id} has already ended ({found.status})", hint="`max runs` lists them")
    connection.execute("UPDATE _max_sync SET wanted = ? WHERE id = ?", (wanted, found.id))
    if found.status is not Status.RUNNING and wanted is not Wanted.RUN:
        _Transaction(connection, found.id, now).obey()


def _has_tables(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_max_failure'").fetchone())


def _run_of(row: Sequence[Any], now: float) -> SyncRun:
    id, state, counts, removed, requests, started, finished, resumed, worker, plan, seen_at, failed = row
    status = Status(state)
    alive = worker is not None and seen_at is not None and is_alive(worker, seen_at, now)
    if status is Status.RUNNING and not alive:
        status = Status.INTERRUPTED
    return SyncRun(
        id=id,
        status=status,
        counts=json.loads(counts),
        removed=removed,
        requests=json.loads(requests),
        failed=failed,
        started_at=started,
        finished_at=finished,
        resumed=bool(resumed),
        worker=worker,
        plan=json.loads(plan),
    )


# -- the protocol -------------------------------------------------------------------------


class TaskStore(Protocol):
    """The queue of one installation, and the memory of its syncs.

    Safe for concurrent callers in any number of processes.  Each call is one transaction: a
    crash leaves all of it or nothing.  StorageError when the store cannot answer.  Times are
    seconds since the epoch.  ``worker`` is who asks, as ``new_worker`` names it.
    """

    async def start(self) -> None:
        """Make ready what is stored; may be called again."""

    async def begin(self, plan: Json, root: NewTask, *, worker: str, now: float) -> str:
        """Begin a sync with its whole task graph; its id, greater than every one before.

        Unfinished syncs that nobody works at are cancelled; SyncRunning when somebody does.
        """

    async def resume(self, sync: str, *, worker: str, now: float) -> SyncRun:
        """Take over a sync that nobody works at: what was under way or paused is pending again.

        A task under way when its process died five times in a row is failed.  NotFound,
        SyncError when it has ended, SyncRunning when another worker is at it.
        """

    async def settle(
        self,
        sync: str,
        settlements: Sequence[Settlement],
        *,
        worker: str,
        claim: int,
        alone: bool,
        requests: Mapping[str, int],
        now: float,
    ) -> Settled:
        """Store what tasks did and claim up to ``claim`` new ones, in one transaction.

        Each settlement is stored as a whole or, when it fails, not at all: its outcome has the
        error, LeaseLost when the task is no longer the worker's.  Containers whose children
        have ended end, and what waited for them begins or is failed as blocked.  With the last
        task the sync has its final status.  ``alone``: nothing else of the sync is under way,
        so that a task which was there when processes died may be given out, by itself.  When
        this raises, nothing at all was stored.
        """

    async def obey(self, sync: str, *, worker: str, now: float) -> Status:
        """Pause or cancel the sync as wanted, when nothing of it is under way; its status."""

    async def release(self, sync: str, *, worker: str, now: float) -> None:
        """Let go of a sync: what is under way is pending again, and anyone may resume."""

    async def request(self, sync: str, wanted: Wanted, *, now: float) -> None:
        """Ask whoever works at the sync to pause, cancel or go on; SyncError when it has ended."""

    async def unfinished(self, *, worker: str, now: float) -> str | None:
        """The newest sync that this worker could resume, or None."""

    async def runs(self, limit: int, *, now: float) -> list[SyncRun]:
        """The newest syncs, newest first."""

    async def result(self, sync: str, *, now: float) -> SyncResult:
        """What a sync has come to so far; NotFound."""

    async def prune(self) -> None:
        """Forget the tasks of finished syncs, and all but the newest hundred syncs."""


# -- SQLite -------------------------------------------------------------------------------


class SqliteTaskStore(TaskStore):
    """Tasks beside the entities, in the same database, so that one transaction holds both."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(self) -> None:
        """Create or upgrade the tables."""
        await self._database.transact(lambda connection: migrate(connection, "execution", MIGRATIONS))

    async def begin(self, plan: Json, root: NewTask, *, worker: str, now: float) -> str:
        """Sync row, worker row and every task of the plan in one transaction."""

        def work(connection: sqlite3.Connection) -> str:
            _abandon_others(connection, worker, now)
            inside = _Transaction(connection, _next_id(connection, now), now)
            inside.begin(json.dumps(plan), root, worker)
            return inside.sync

        return await self._database.transact(work)

    async def resume(self, sync: str, *, worker: str, now: float) -> SyncRun:
        """The leases of the dead are free again in the transaction that takes the sync over."""

        def work(connection: sqlite3.Connection) -> SyncRun:
            found = run(connection, sync, now=now)
            if found.status.final:
                raise SyncError(f"sync {found.id} has already ended ({found.status})")
            if found.status is Status.RUNNING and found.worker != worker:
                raise SyncRunning(found.id, owner_of(found.worker or ""))
            _Transaction(connection, found.id, now).resume(worker, died=found.worker != worker)
            return found

        return await self._database.transact(work)

    async def settle(
        self,
        sync: str,
        settlements: Sequence[Settlement],
        *,
        worker: str,
        claim: int,
        alone: bool,
        requests: Mapping[str, int],
        now: float,
    ) -> Settled:
        """A savepoint for each settlement, one commit for all of them and the claims."""

        def work(connection: sqlite3.Connection) -> Settled:
            inside = _Transaction(connection, sync, now)
            status, wanted, owner = inside.sync_row()
            if owner != worker:
                lost = LeaseLost(f"sync {sync} is no longer this process's", hint="another one took it over")
                return Settled([Outcome(State.CANCELLED, error=lost)] * len(settlements), (), status, wanted)
            outcomes = [inside.settle(one, worker, wanted, self._database.path) for one in settlements]
            inside.add_up(requests)
            inside.advance()
            inside.sign(worker)
            status, wanted, _ = inside.sync_row()
            if status is not Status.RUNNING or wanted is not Wanted.RUN:
                return Settled(outcomes, (), status, wanted)
            return Settled(outcomes, *inside.claim(worker, claim, alone=alone, status=status, wanted=wanted))

        return await self._database.transact(work)

    async def obey(self, sync: str, *, worker: str, now: float) -> Status:
        """Nothing changes when the worker lost the sync, or when it is to run after all."""

        def work(connection: sqlite3.Connection) -> Status:
            inside = _Transaction(connection, sync, now)
            if inside.sync_row()[2] == worker:
                inside.obey()
            return inside.sync_row()[0]

        return await self._database.transact(work)

    async def release(self, sync: str, *, worker: str, now: float) -> None:
        """Tasks, sync and worker row in one transaction; nothing when the sync is not ours."""

        def work(connection: sqlite3.Connection) -> None:
            inside = _Transaction(connection, sync, now)
            if inside.sync_row()[2] == worker:
                connection.execute(GIVE_BACK, (0, sync))
                inside.leave()

        await self._database.transact(work)

    async def request(self, sync: str, wanted: Wanted, *, now: float) -> None:
        """Write down what is wanted, for whichever process works at the sync."""
        await self._database.transact(lambda connection: request(connection, sync, wanted, now=now))

    async def unfinished(self, *, worker: str, now: float) -> str | None:
        """Asks the operating system which workers of this machine still live."""
        return await self._database.read(lambda connection: unfinished(connection, worker=worker, now=now))

    async def runs(self, limit: int, *, now: float) -> list[SyncRun]:
        """From the syncs' own rows; no task is looked at."""
        return await self._database.read(lambda connection: runs(connection, limit, now=now))

    async def result(self, sync: str, *, now: float) -> SyncResult:
        """The sync's row and its failures, read in one snapshot."""
        return await self._database.read(lambda connection: result(connection, sync, now=now))

    async def prune(self) -> None:
        """In many small transactions, so that nobody waits long for the write lock."""
        while await self._database.transact(_prune_some):
            pass


def _next_id(connection: sqlite3.Connection, now: float) -> str:
    """Seconds and some chance, in 10 letters; always greater than the newest, which is never pruned."""
    chance = int.from_bytes(os.urandom(2), "big") & 0x7FFF
    number = (int(now) << 15) | chance
    newest = connection.execute("SELECT max(id) FROM _max_sync").fetchone()[0]
    if newest is not None:
        last = 0
        for letter in newest:
            last = last * 32 + ALPHABET.index(letter)
        number = max(number, last + 1)
    return "".join(ALPHABET[(number >> shift) & 31] for shift in range(45, -5, -5))


def _abandon_others(connection: sqlite3.Connection, worker: str, now: float) -> None:
    rows = connection.execute(f"SELECT {SYNC_COLUMNS} FROM _max_sync s WHERE {UNFINISHED}").fetchall()
    for found in (_run_of(row, now) for row in rows):
        if found.status is Status.RUNNING and found.worker != worker:
            raise SyncRunning(found.id, owner_of(found.worker or ""))
        connection.execute("UPDATE _max_sync SET wanted = ? WHERE id = ?", (Wanted.CANCEL, found.id))
        _Transaction(connection, found.id, now).obey()


def _prune_some(connection: sqlite3.Connection) -> int:
    living = f"SELECT id FROM _max_sync WHERE {UNFINISHED}"
    gone = connection.execute(
        f"DELETE FROM _max_task WHERE id IN "
        f"(SELECT id FROM _max_task WHERE sync NOT IN ({living}) LIMIT {PRUNED_AT_ONCE})"
    ).rowcount
    kept = f"SELECT id FROM _max_sync ORDER BY id DESC LIMIT {KEPT_SYNCS}"
    old = f"SELECT id FROM _max_sync WHERE NOT {UNFINISHED} AND id NOT IN ({kept})"
    connection.execute(f"DELETE FROM _max_failure WHERE sync IN ({old})")
    connection.execute(f"DELETE FROM _max_sync WHERE id IN ({old})")
    return gone


class _Transaction:
    """What one open transaction does to one sync."""

    def __init__(self, connection: sqlite3.Connection, sync: str, now: float) -> None:
        self.connection, self.sync, self.now = connection, sync, now
        self._ended: list[tuple[int, int | None, bool]] = []  # id, parent, failed
        self._look_at: set[int] = set()
        self._stored: list[Stored] = []

    def sync_row(self) -> tuple[Status, Wanted, str | None]:
        """Status as stored, what is wanted, and whose it is."""
        row = self.connection.execute(
            "SELECT state, wanted, worker FROM _max_sync WHERE id = ?", (self.sync,)
        ).fetchone()
        if row is None:
            raise NotFound("sync", self.sync)
        return Status(row[0]), Wanted(row[1]), row[2]

    # beginning

    def begin(self, plan: str, root: NewTask, worker: str) -> None:
        """Store the sync and its graph, and start what waits for nothing."""
        self.connection.execute(
            "INSERT INTO _max_sync (id, plan, state, wanted, worker, started_at) VALUES (?, ?, ?, ?, ?, ?)",
            (self.sync, plan, Status.RUNNING, Wanted.RUN, worker, self.now),
        )
        self.sign(worker)
        self._begin_task(self._insert(root, None, None))
        self.advance()

    def _insert(self, task: NewTask, parent: int | None, after: int | None) -> int:
        values = self._row(task, parent, after, State.NEW)
        id = self.connection.execute(INSERT_TASK, values).lastrowid
        assert id is not None  # noqa: S101  # an INSERT that did not raise has made a row
        previous = None
        for child in task.children:
            previous = self._insert(child, id, previous if task.chained else None)
        return id

    def _row(self, task: NewTask, parent: int | None, after: int | None, state: State) -> tuple[object, ...]:
        size = len(task.children)
        text = json.dumps(task.payload)
        return (self.sync, parent, after, task.kind, text, state, size, size, self.now, self.now)

    def _begin_task(self, id: int) -> None:
        """A task's turn has come: it may be claimed; a group's children begin instead."""
        kind = self.connection.execute("SELECT kind FROM _max_task WHERE id = ?", (id,)).fetchone()[0]
        to = State.AWAITING_CHILDREN if kind == TaskKind.GROUP else State.PENDING
        self.connection.execute(_move_one(to), (self.now, id))
        if to is State.AWAITING_CHILDREN:
            for child in self._waiting_children(id, "AND after IS NULL"):
                self._begin_task(child)
            self._look_at.add(id)

    def _waiting_children(self, id: int, condition: str = "") -> list[int]:
        query = f"SELECT id FROM _max_task WHERE parent = ? AND state = '{State.NEW}' {condition} ORDER BY id"
        return [row[0] for row in self.connection.execute(query, (id,))]

    def resume(self, worker: str, *, died: bool) -> None:
        """Make this worker the sync's; ``died``: who held the leases ended without a word."""
        self.connection.execute(
            "UPDATE _max_sync SET state = ?, wanted = ?, worker = ?, resumed = 1 WHERE id = ?",
            (Status.RUNNING, Wanted.RUN, worker, self.sync),
        )
        self.sign(worker)
        if died:
            self._fail_deadly()
        self.connection.execute(GIVE_BACK, (int(died), self.sync))
        self.connection.execute(
            f"UPDATE _max_task SET state = '{State.PENDING}' WHERE sync = ? AND state = '{State.PAUSED}'",
            (self.sync,),
        )
        self.advance()

    def _fail_deadly(self) -> None:
        rows = self.connection.execute(
            "SELECT id, sync, parent, kind, payload, attempt, tries, deaths FROM _max_task"
            " WHERE sync = ? AND worker IS NOT NULL AND deaths >= ?",
            (self.sync, MAX_DEATHS - 1),
        ).fetchall()
        for task in map(_task_of, rows):
            error = SyncError(
                f"the process ended {MAX_DEATHS} times in a row while this task ran",
                hint="look for what ends it: memory, a crash in the connector's libraries",
            )
            self.connection.execute(_move_one(State.FAILED, ", worker = NULL"), (self.now, task.id))
            self._record([failure_of(task, error, self.now)])
            self._ended.append((task.id, task.parent, True))

    def sign(self, worker: str) -> None:
        """Leave a sign of life, unless there is a recent one."""
        self.connection.execute(
            "INSERT INTO _max_worker VALUES (:worker, :now) ON CONFLICT (id) DO UPDATE"
            f" SET seen_at = :now WHERE seen_at NOT BETWEEN :now - {SIGN} AND :now",
            {"worker": worker, "now": self.now},
        )

    # settling

    def settle(self, one: Settlement, worker: str, wanted: Wanted, path: str) -> Outcome:
        """Store one settlement as a whole, or nothing of it and the reason."""
        self.connection.execute("SAVEPOINT settlement")
        try:
            outcome = self._store(one, worker, wanted)
        except Exception as error:
            if isinstance(error, sqlite3.Error):
                if _is_fatal(error) or not self.connection.in_transaction:
                    raise
                error = storage_error(path, error).with_traceback(error.__traceback__)
            self.connection.execute("ROLLBACK TO settlement")
            self.connection.execute("RELEASE settlement")
            return Outcome(State.RUNNING, error=error)
        self.connection.execute("RELEASE settlement")
        return outcome

    def _store(self, one: Settlement, worker: str, wanted: Wanted) -> Outcome:
        to = _obeying(one.state, wanted)
        if not self.connection.execute(SETTLE[to], self._values(one, worker)).rowcount:
            lost = LeaseLost(
                f"task {one.task.id} is no longer this attempt's", hint="nothing of it was stored"
            )
            return Outcome(State.CANCELLED, error=lost)
        stored = [write(self.connection) for write in one.writes]
        rows = (self._row(child, one.task.id, None, State.PENDING) for child in one.children)
        self.connection.executemany(INSERT_TASK, rows)
        self._record(one.failures)
        self._stored += stored
        if to is State.AWAITING_CHILDREN:
            self._look_at.add(one.task.id)
        elif not MOVES[to]:
            self._ended.append((one.task.id, one.task.parent, to is State.FAILED))
        return Outcome(to, _sum(stored))

    def _values(self, one: Settlement, worker: str) -> dict[str, object]:
        failed = bool(one.failures) and one.state is State.AWAITING_CHILDREN  # its own work counts as a child
        return {
            "id": one.task.id,
            "attempt": one.task.attempt,
            "worker": worker,
            "payload": None if one.payload is None else json.dumps(one.payload),
            "progress": one.progress,
            "not_before": one.not_before,
            "more": one.more,
            "children": len(one.children) + failed,
            "unfinished": len(one.children),
            "failed": int(failed),
            "error": one.failures[0].message if one.failures else None,
            "now": self.now,
        }

    def _record(self, failures: Sequence[Failure]) -> None:
        rows = [(*one._values()[:-1], json.dumps(one.input)) for one in failures]
        self.connection.executemany(INSERT_FAILURE, rows)

    def add_up(self, requests: Mapping[str, int]) -> None:
        """Add what was stored and asked to the sync's own counts."""
        if not self._stored and not requests:
            return
        total = _sum(self._stored)
        row = self.connection.execute(
            "SELECT counts, requests FROM _max_sync WHERE id = ?", (self.sync,)
        ).fetchone()
        counts = Counter(json.loads(row[0])) + Counter(total.counts)
        calls = Counter(json.loads(row[1])) + Counter(requests)
        self.connection.execute(
            "UPDATE _max_sync SET counts = ?, requests = ?, removed = removed + ?, arrivals = arrivals + ?"
            " WHERE id = ?",
            (json.dumps(counts), json.dumps(calls), total.removed, len(self._stored), self.sync),
        )

    # following up

    def advance(self) -> None:
        """Follow up what has ended: dependents, parents, the sync itself, until nothing moves."""
        while self._ended or self._look_at:
            ended, self._ended = self._ended, []
            self._unblock(ended)
            self._count_down(ended)
            if any(parent is None for _, parent, _ in ended):
                self._finish(self._final_status())
            self._end_containers()

    def _unblock(self, ended: Sequence[tuple[int, int | None, bool]]) -> None:
        failed = {id: failed for id, _, failed in ended}
        rows = self.connection.execute(DEPENDENTS, (json.dumps(list(failed)),)).fetchall()
        for id, after in rows:
            if failed[after]:
                self._block(id, self._what(after))
            else:
                self._begin_task(id)

    def _what(self, id: int) -> str:
        kind, payload = self.connection.execute(
            "SELECT kind, payload FROM _max_task WHERE id = ?", (id,)
        ).fetchone()
        known: Payload = json.loads(payload)
        return known.get("blocked_by") or describe_task(TaskKind(kind), known)

    def _block(self, id: int, cause: str) -> None:
        """Fail a task that waited for one that failed, and what stands inside it."""
        parent, kind, text = self.connection.execute(
            "SELECT parent, kind, payload FROM _max_task WHERE id = ?", (id,)
        ).fetchone()
        for child in self._waiting_children(id):
            self._block(child, cause)
        payload: Payload = json.loads(text)
        if kind != TaskKind.GROUP:
            error = {
                "code": "sync.blocked",
                "message": f"blocked by step {cause}",
                "hint": "retry that first",
            }
            what = describe_task(TaskKind(kind), payload)
            shown = _failure(self.sync, id, kind, payload, what, error, 0, self.now, payload.get("id"))
            self._record([shown])
        kept = json.dumps({**payload, "blocked_by": cause})  # so that the next in line names the first cause
        self.connection.execute(_move_one(State.FAILED, ", payload = ?"), (self.now, kept, id))
        self._ended.append((id, parent, True))

    def _count_down(self, ended: Sequence[tuple[int, int | None, bool]]) -> None:
        done = Counter(parent for _, parent, _ in ended if parent is not None)
        failed = Counter(parent for _, parent, failed in ended if failed)
        rows = [(number, failed[parent], parent) for parent, number in done.items()]
        self.connection.executemany(COUNT_DOWN, rows)
        self._look_at |= done.keys()

    def _end_containers(self) -> None:
        ids, self._look_at = json.dumps(sorted(self._look_at)), set()
        for id, parent, left, more, all_failed in self.connection.execute(LOOK, (ids,)).fetchall():
            if more and left <= CHILDREN_BOUND - CHILDREN_PAGE:
                self.connection.execute(_move_one(State.PENDING), (self.now, id))
            elif not more and left == 0:
                to = State.FAILED if all_failed else State.COMPLETED
                self.connection.execute(_move_one(to), (self.now, id))
                self._ended.append((id, parent, bool(all_failed)))

    def _final_status(self) -> Status:
        failed = self.connection.execute(
            "SELECT 1 FROM _max_failure WHERE sync = ? LIMIT 1", (self.sync,)
        ).fetchone()
        if not failed:
            return Status.COMPLETED
        query = "SELECT arrivals FROM _max_sync WHERE id = ?"
        stored = self.connection.execute(query, (self.sync,)).fetchone()[0]
        return Status.PARTIAL if stored else Status.FAILED

    def _finish(self, status: Status) -> None:
        self.connection.execute(
            f"UPDATE _max_sync SET state = ?, finished_at = ? WHERE id = ? AND {UNFINISHED}",
            (status, self.now, self.sync),
        )
        self.leave()

    def leave(self) -> None:
        """Nobody works at the sync any more."""
        self.connection.execute("UPDATE _max_sync SET worker = NULL WHERE id = ?", (self.sync,))
        self.connection.execute(
            "DELETE FROM _max_worker WHERE id NOT IN (SELECT worker FROM _max_sync WHERE worker IS NOT NULL)"
        )

    def obey(self) -> None:
        """Pause or end the sync, as is wanted."""
        _, wanted, _ = self.sync_row()
        if wanted is Wanted.PAUSE:
            self.connection.execute(
                f"UPDATE _max_sync SET state = ? WHERE id = ? AND {UNFINISHED}", (Status.PAUSED, self.sync)
            )
            self.connection.execute(GIVE_BACK, (0, self.sync))
            self.leave()
        elif wanted is Wanted.CANCEL:
            self.connection.execute(
                f"UPDATE _max_task SET state = '{State.CANCELLED}', worker = NULL, changed_at = ?"
                f" WHERE sync = ? AND {guard(State.CANCELLED)}",
                (self.now, self.sync),
            )
            self._finish(Status.CANCELLED)

    # claiming

    def claim(
        self, worker: str, limit: int, *, alone: bool, status: Status, wanted: Wanted
    ) -> tuple[list[Task], Status, Wanted, float | None, int]:
        """Lease tasks whose time has come, the oldest first; when there are few, when the next is due."""
        claimed = self._take(worker, limit, 0, SUSPECT_DEATHS - 1)
        if alone and limit and not claimed:
            claimed = self._take(worker, 1, SUSPECT_DEATHS, MAX_DEATHS)
        if len(claimed) >= limit or claimed:
            return claimed, status, wanted, None, 0
        most = MAX_DEATHS if alone else SUSPECT_DEATHS - 1
        due, waiting = self.connection.execute(DUE, {"sync": self.sync, "most": most}).fetchone()
        return [], status, wanted, due, waiting

    def _take(self, worker: str, limit: int, least: int, most: int) -> list[Task]:
        values = {"sync": self.sync, "worker": worker, "now": self.now, "limit": limit}
        rows = self.connection.execute(CLAIM, {**values, "least": least, "most": most}).fetchall()
        return sorted(map(_task_of, rows))


def _task_of(row: Sequence[Any]) -> Task:
    id, sync, parent, kind, payload, attempt, tries, deaths = row
    return Task(id, sync, parent, TaskKind(kind), json.loads(payload), attempt, tries, deaths)


def _is_fatal(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in FATAL


def _obeying(state: State, wanted: Wanted) -> State:
    """A task that would go on with its next page stops there when the sync shall."""
    if state is not State.RUNNING or wanted is Wanted.RUN:
        return state
    return State.PAUSED if wanted is Wanted.PAUSE else State.CANCELLED


def _sum(stored: Sequence[Stored]) -> Stored:
    if len(stored) == 1:
        return stored[0]
    counts: Counter[str] = Counter()
    for one in stored:
        counts.update(one.counts)
    return Stored(dict(counts), sum(one.removed for one in stored))
