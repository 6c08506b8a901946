"""Durable tasks: what may happen to them, and what of a sync is remembered.

Rule 1: every state and every move between states is in MOVES.  The guards of the SQL below
are built from it, so a move that the table does not allow cannot be stored.

Rule 2: a task may run more than once (a crash after the work, before the record), so
whatever it does must be safe to do twice.  What it stores and its own new state are one
transaction, fenced by worker and attempt: who lost the lease stores nothing.

Rule 3: everything is plain synchronous code over a connection, which a command without an
event loop may call as well.  Times are seconds since the epoch and always passed in.

How tasks move stands in task_store.py, what they do in execution.py.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..errors import NotFound, SyncError, SyncRunning, UsageError, describe
from .delivery import Stored, Write
from .struct import Record
from .values import Json

CHILDREN_PAGE = 1_000  # targets that a task hands on at a time
LEASE = 60.0  # seconds without a sign after which a worker of another machine counts as dead
SIGN = 1.0  # seconds between two signs of life, at least

BLOCKED = "sync.blocked"  # the code of what did not run because something before it failed

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
    FOLLOW = "follow"  # asks a feed what has changed
    REMOVE = "remove"  # at the end, what was found gone


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
    version: str = ""  # of the connector


class Settlement(NamedTuple):
    """What one task did, to be stored as a whole or not at all.

    ``writes`` run inside the transaction.  ``more``: an AWAITING_CHILDREN task wants to be
    claimed again as soon as its children leave room.  ``progress`` forgives earlier tries.
    ``error``, as ``describe`` gives it: why a PENDING task waits.  ``notes``: what a person
    should know of the sync, beside its status.
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
    error: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()


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
    notes: tuple[str, ...]  # what a person should know of it, beside its status
    unfit: int  # rows that were kept aside, because their values do not fit


class SyncResult(SyncRun):
    """What a sync came to, with each thing that failed."""

    failures: tuple[Failure, ...]


class ResumedSync(SyncRun):
    """A sync as it was before it was resumed.

    ``crashed``: the process that was at it ended without a word, and the attempts in ``died`` with it.
    """

    crashed: bool
    died: tuple[Task, ...]


def describe_task(kind: TaskKind, payload: Payload) -> str:
    """A task in the words of the plan: ``AcmeUser:7: load fields name``."""
    if kind in (TaskKind.GROUP, TaskKind.REMOVE):
        return str(payload.get("step", "the plan"))
    ids = payload.get("ids") or ([payload["id"]] if payload.get("id") is not None else None)
    if ids is None:
        target = f"all {payload['entity']}"
    else:
        target = f"{payload['entity']}:{ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")
    operation = str(payload.get("operation", kind)).replace("_", " ")
    return f"{target}: {operation} {', '.join(payload['names'])}"


def only_id(payload: Payload) -> str | None:
    """The id of the one thing that a task is about; None when there are several, or all."""
    ids = payload.get("ids") or [payload.get("id")]
    return ids[0] if len(ids) == 1 else None


def failure_of(task: Task, error: BaseException, at: float, id: str | None = None) -> Failure:
    """The record of a task's failure, or of one ref's within it."""
    payload = task.payload
    what = describe_task(task.kind, payload)
    if id is not None:
        what = describe_task(task.kind, {**payload, "ids": [id]})
    else:
        id = only_id(payload)
    return failure_record(task.sync, task.id, task.kind, payload, what, describe(error), task.attempt, at, id)


def failure_record(
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
    """A failure from its parts; ``error`` is as ``describe`` gives it."""
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
        children    INTEGER NOT NULL DEFAULT 0,
        unfinished  INTEGER NOT NULL DEFAULT 0,
        failed      INTEGER NOT NULL DEFAULT 0,
        more        INTEGER NOT NULL DEFAULT 0,
        error       TEXT,
        created_at  REAL NOT NULL,
        changed_at  REAL NOT NULL
    );
    CREATE INDEX _max_task_pending ON _max_task (sync, not_before, id) WHERE state = 'pending';
    CREATE INDEX _max_task_leased ON _max_task (id) WHERE state = 'running';
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
    "ALTER TABLE _max_failure ADD COLUMN version TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE _max_sync ADD COLUMN notes TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE _max_sync ADD COLUMN unfit INTEGER NOT NULL DEFAULT 0",
)

UNFINISHED = f"state IN ('{Status.RUNNING}', '{Status.PAUSED}')"

SYNC_COLUMNS = """id, state, counts, removed, requests, started_at, finished_at, resumed, worker, plan,
    {notes}, {unfit}, (SELECT seen_at FROM _max_worker w WHERE w.id = s.worker),
    (SELECT count(*) FROM _max_failure f WHERE f.sync = s.id)"""
LATER_COLUMNS = {"notes": "'[]'", "unfit": "0"}  # and what they hold where an older version wrote last

GIVE_BACK = f"""
    UPDATE _max_task
       SET state = '{State.PENDING}', tries = max(tries - 1, 0), deaths = deaths + ?
     WHERE sync = ? AND state = '{State.RUNNING}' AND {guard(State.PENDING)}
"""

FAILURE_COLUMNS = ", ".join(Failure._names)


CANCEL_TASKS = f"""
    UPDATE _max_task SET state = '{State.CANCELLED}', changed_at = ?
     WHERE sync = ? AND {guard(State.CANCELLED)}
"""


# -- syncs, as history and other processes see them ------------------------------------------


def runs(connection: sqlite3.Connection, limit: int, *, now: float) -> list[SyncRun]:
    """The newest syncs, newest first; empty when there never was one."""
    if not _has_tables(connection):
        return []
    return _select_runs(connection, "ORDER BY id DESC LIMIT ?", (limit,), now=now)


def run(connection: sqlite3.Connection, id: str, *, now: float) -> SyncRun:
    """The sync of an id, or of its beginning; NotFound, or UsageError when several begin so."""
    found: list[SyncRun] = []
    if _has_tables(connection):
        condition = "WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 10"
        found = _select_runs(connection, condition, (id, id + "~"), now=now)
    if not found:
        raise NotFound("sync", id, hint="`max runs` lists them")
    if len(found) > 1:
        listed = ", ".join(one.id for one in found)
        raise UsageError(f"several syncs begin with {id!r}", hint=f"one of: {listed}")
    return found[0]


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


def waits(connection: sqlite3.Connection, sync: str, *, now: float) -> tuple[float, int] | None:
    """When the next task of a sync may begin, and how many wait; None while one is or can be under way."""
    running, due, waiting = connection.execute(
        f"SELECT total(state = '{State.RUNNING}'),"
        f" min(CASE WHEN state = '{State.PENDING}' THEN not_before END),"
        f" total(state = '{State.PENDING}') FROM _max_task WHERE sync = ?",
        (sync,),
    ).fetchone()
    return None if running or due is None or due <= now else (due, int(waiting))


def unfinished(connection: sqlite3.Connection, *, worker: str | None, now: float) -> str | None:
    """The newest sync that can be resumed: paused, interrupted, or ``worker``'s own; or None.

    One that was to be cancelled when its process died is none.  SyncRunning when another
    worker is at one.
    """
    for found in unfinished_runs(connection, now=now):
        if found.status is Status.RUNNING and found.worker != worker:
            raise SyncRunning(found.id, owner_of(found.worker or ""))
        if _wanted(connection, found.id) is not Wanted.CANCEL:
            return found.id
    return None


def unfinished_runs(connection: sqlite3.Connection, *, now: float) -> list[SyncRun]:
    """The syncs that have not ended, newest first."""
    if not _has_tables(connection):
        return []
    return _select_runs(connection, f"WHERE {UNFINISHED} ORDER BY id DESC", (), now=now)


def options_of(connection: sqlite3.Connection, sync: str) -> Json:
    """What a sync that has not ended was asked for beyond its plan, as JSON data."""
    sql = "SELECT json_extract(payload, '$.options') FROM _max_task WHERE sync = ? AND parent IS NULL"
    row = connection.execute(sql, (sync,)).fetchone()
    return json.loads(row[0]) if row and row[0] else {}


def request(connection: sqlite3.Connection, sync: str, wanted: Wanted, *, now: float) -> None:
    """Ask a sync to pause, to stop for good or to go on, inside the caller's transaction.

    Its worker obeys at its next page; when it has none, the answer is given here.  SyncError
    when the sync has ended, or is about to by an earlier request.
    """
    found = run(connection, sync, now=now)
    if found.status.final:
        raise SyncError(f"sync {found.id} has already ended ({found.status})", hint="`max runs` lists them")
    if wanted is not Wanted.CANCEL and _wanted(connection, found.id) is Wanted.CANCEL:
        raise SyncError(f"sync {found.id} is being cancelled", hint="begin another one when it has ended")
    connection.execute("UPDATE _max_sync SET wanted = ? WHERE id = ?", (wanted, found.id))
    if found.status is Status.RUNNING:
        if wanted is Wanted.RUN:
            unpause(connection, found.id)
    elif wanted is not Wanted.RUN:
        obey(connection, found.id, wanted, now=now, died=found.status is Status.INTERRUPTED)


def obey(
    connection: sqlite3.Connection, sync: str, wanted: Wanted, *, now: float, died: bool = False
) -> None:
    """Pause or end a sync of which nothing is under way; ``died``: its worker ended without a word."""
    if wanted is Wanted.PAUSE:
        connection.execute(
            f"UPDATE _max_sync SET state = ? WHERE id = ? AND {UNFINISHED}", (Status.PAUSED, sync)
        )
        let_go(connection, sync, died=died)
    elif wanted is Wanted.CANCEL:
        connection.execute(CANCEL_TASKS, (now, sync))
        finish(connection, sync, Status.CANCELLED, now=now)


def unpause(connection: sqlite3.Connection, sync: str) -> None:
    """What stopped between two pages may be claimed again."""
    connection.execute(
        f"UPDATE _max_task SET state = '{State.PENDING}' WHERE sync = ? AND state = '{State.PAUSED}'", (sync,)
    )


def let_go(connection: sqlite3.Connection, sync: str, *, died: bool = False) -> None:
    """What is under way is pending again, and nobody works at the sync any more."""
    connection.execute(GIVE_BACK, (int(died), sync))
    leave(connection, sync)


def finish(connection: sqlite3.Connection, sync: str, status: Status, *, now: float) -> None:
    """Give a sync its final status, unless it has one."""
    connection.execute(
        f"UPDATE _max_sync SET state = ?, finished_at = ? WHERE id = ? AND {UNFINISHED}", (status, now, sync)
    )
    leave(connection, sync)


def leave(connection: sqlite3.Connection, sync: str) -> None:
    """Nobody works at the sync any more; workers without a sync are forgotten."""
    connection.execute("UPDATE _max_sync SET worker = NULL WHERE id = ?", (sync,))
    connection.execute(
        "DELETE FROM _max_worker WHERE id NOT IN (SELECT worker FROM _max_sync WHERE worker IS NOT NULL)"
    )


def _wanted(connection: sqlite3.Connection, sync: str) -> Wanted:
    return Wanted(connection.execute("SELECT wanted FROM _max_sync WHERE id = ?", (sync,)).fetchone()[0])


def _has_tables(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_max_failure'").fetchone())


def _select_runs(
    connection: sqlite3.Connection, condition: str, values: Sequence[Any], *, now: float
) -> list[SyncRun]:
    """The syncs that fit; one who only reads may be newer than whoever wrote last."""
    present = {row[1] for row in connection.execute("PRAGMA table_info(_max_sync)")}
    later = {name: name if name in present else instead for name, instead in LATER_COLUMNS.items()}
    query = f"SELECT {SYNC_COLUMNS.format(**later)} FROM _max_sync s {condition}"
    return [_run_of(row, now) for row in connection.execute(query, values).fetchall()]


def _run_of(row: Sequence[Any], now: float) -> SyncRun:
    id, state, counts, removed, requests, started, finished, resumed, worker, plan, notes = row[:-3]
    unfit, seen_at, failed = row[-3:]
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
        notes=tuple(json.loads(notes)),
        unfit=unfit,
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

    async def resume(self, sync: str, *, worker: str, now: float) -> ResumedSync:
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
        error, LeaseLost when the task is no longer this attempt's.  Containers whose children
        have ended end, and what waited for them begins or is failed as blocked.  With the last
        task the sync has its final status.  ``alone``: nothing else of the sync is under way,
        so that a task which was there when processes died may be given out, by itself.

        When this raises, nothing at all was stored: StorageError when the database failed,
        LeaseLost when the sync is no longer the worker's.
        """

    async def obey(self, sync: str, *, worker: str, now: float) -> Status:
        """Pause or cancel the sync as wanted, when nothing of it is under way; its status."""

    async def release(self, sync: str, *, worker: str, now: float) -> None:
        """Let go of a sync: what is under way is pending again, and anyone may resume."""

    async def request(self, sync: str, wanted: Wanted, *, now: float) -> None:
        """Ask whoever works at the sync to pause, cancel or go on; SyncError when it has ended."""

    async def unfinished(self, *, worker: str, now: float) -> str | None:
        """The newest sync that this worker could resume, or None; SyncRunning when another is at one."""

    async def runs(self, limit: int, *, now: float) -> list[SyncRun]:
        """The newest syncs, newest first."""

    async def result(self, sync: str, *, now: float) -> SyncResult:
        """What a sync has come to so far; NotFound."""

    async def prune(self) -> None:
        """Forget the tasks of finished syncs, and all but the newest hundred syncs."""
