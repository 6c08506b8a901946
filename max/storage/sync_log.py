"""The sync log: what is remembered of each sync, and what any process may ask of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import NotFound, SyncError, SyncRunning, UsageError
from ..model.tasks import MOVES, Failure, GroupTask, State, Status, SyncCommand, SyncResult, SyncRun
from ..model.values import Json
from .database import Connection
from .leases import describe_worker, is_alive


def guard(to: State) -> str:
    """The SQL condition that a task may move to a state."""
    sources = ", ".join(f"'{state}'" for state in State if to in MOVES[state])
    return f"state IN ({sources})"


MIGRATIONS = (
    """
    CREATE TABLE _max_sync (
        id          TEXT PRIMARY KEY,
        plan        TEXT NOT NULL,
        state       TEXT NOT NULL,
        command     TEXT NOT NULL,
        worker      TEXT,
        started_at  REAL NOT NULL,
        finished_at REAL,
        resumed     INTEGER NOT NULL DEFAULT 0,
        deliveries  INTEGER NOT NULL DEFAULT 0,
        removed     INTEGER NOT NULL DEFAULT 0,
        counts      TEXT NOT NULL DEFAULT '{{}}',
        requests    TEXT NOT NULL DEFAULT '{{}}'
    ) WITHOUT ROWID;
    CREATE TABLE _max_task (
        id          INTEGER PRIMARY KEY AUTOINCREMENT,
        sync        TEXT NOT NULL,
        parent      INTEGER,
        after       INTEGER,
        kind        TEXT NOT NULL,
        spec        TEXT NOT NULL,
        state       TEXT NOT NULL,
        attempt     INTEGER NOT NULL DEFAULT 0,
        tries       INTEGER NOT NULL DEFAULT 0,
        crashes      INTEGER NOT NULL DEFAULT 0,
        not_before  REAL NOT NULL DEFAULT 0,
        children    INTEGER NOT NULL DEFAULT 0,
        unfinished  INTEGER NOT NULL DEFAULT 0,
        failed      INTEGER NOT NULL DEFAULT 0,
        more        INTEGER NOT NULL DEFAULT 0,
        error       TEXT,
        blocked_by  TEXT,
        created_at  REAL NOT NULL,
        changed_at  REAL NOT NULL
    );
    CREATE INDEX _max_task_pending ON _max_task (sync, not_before, id) WHERE state = 'pending';
    CREATE INDEX _max_task_leased ON _max_task (id) WHERE state = 'running';
    CREATE INDEX _max_task_after ON _max_task (after) WHERE after IS NOT NULL;
    CREATE INDEX _max_task_waiting ON _max_task (parent) WHERE state = 'new';
    CREATE TABLE _max_worker (
        id          TEXT PRIMARY KEY,
        heartbeat_at REAL NOT NULL
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
    "ALTER TABLE _max_sync ADD COLUMN quarantined INTEGER NOT NULL DEFAULT 0",
)
UNFINISHED = f"state IN ('{Status.RUNNING}', '{Status.PAUSED}')"
SYNC_COLUMNS = """id, state, counts, removed, requests, started_at, finished_at, resumed, worker, plan,
    {notes}, {quarantined}, (SELECT heartbeat_at FROM _max_worker w WHERE w.id = s.worker),
    (SELECT count(*) FROM _max_failure f WHERE f.sync = s.id)"""
LATER_COLUMNS = {"notes": "'[]'", "quarantined": "0"}  # and what they hold where an older version wrote last
GIVE_BACK = f"""
    UPDATE _max_task
       SET state = '{State.PENDING}', tries = max(tries - 1, 0), crashes = crashes + ?
     WHERE sync = ? AND state = '{State.RUNNING}' AND {guard(State.PENDING)}
"""
FAILURE_COLUMNS = ", ".join(Failure._names)
CANCEL_TASKS = f"""
    UPDATE _max_task SET state = '{State.CANCELLED}', changed_at = ?
     WHERE sync = ? AND {guard(State.CANCELLED)}
"""


def runs(connection: Connection, limit: int, *, now: float) -> list[SyncRun]:
    """The newest syncs, newest first; empty when there never was one."""
    if not _has_tables(connection):
        return []
    return _select_runs(connection, "ORDER BY id DESC LIMIT ?", (limit,), now=now)


def run(connection: Connection, id: str, *, now: float) -> SyncRun:
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


def failures(connection: Connection, sync: str) -> list[Failure]:
    """What failed in a sync, in the order in which it did."""
    rows = connection.execute(
        f"SELECT {FAILURE_COLUMNS} FROM _max_failure WHERE sync = ? ORDER BY number", (sync,)
    )
    found = [dict(zip(Failure._names, row, strict=True)) for row in rows]
    return [Failure(**{**one, "input": json.loads(one["input"])}) for one in found]


def result(connection: Connection, sync: str, *, now: float) -> SyncResult:
    """What a sync has come to so far; NotFound."""
    found = run(connection, sync, now=now)
    values = {name: getattr(found, name) for name in SyncRun._names}
    return SyncResult(**values, failures=tuple(failures(connection, found.id)))


def waits(connection: Connection, sync: str, *, now: float) -> tuple[float, int] | None:
    """When the next task of a sync may begin, and how many wait; None while one is or can be under way."""
    running, due, waiting = connection.execute(
        f"SELECT total(state = '{State.RUNNING}'),"
        f" min(CASE WHEN state = '{State.PENDING}' THEN not_before END),"
        f" total(state = '{State.PENDING}') FROM _max_task WHERE sync = ?",
        (sync,),
    ).fetchone()
    return None if running or due is None or due <= now else (due, int(waiting))


def unfinished(connection: Connection, *, worker: str | None, now: float) -> str | None:
    """The newest sync that can be resumed: paused, interrupted, or ``worker``'s own; or None.

    One that was to be cancelled when its process died is none.  SyncRunning when another
    worker is at one.
    """
    for found in unfinished_runs(connection, now=now):
        if found.status is Status.RUNNING and found.worker != worker:
            raise SyncRunning(found.id, describe_worker(found.worker or ""))
        if _command(connection, found.id) is not SyncCommand.CANCEL:
            return found.id
    return None


def unfinished_runs(connection: Connection, *, now: float) -> list[SyncRun]:
    """The syncs that have not ended, newest first."""
    if not _has_tables(connection):
        return []
    return _select_runs(connection, f"WHERE {UNFINISHED} ORDER BY id DESC", (), now=now)


def refuse_while_syncing(connection: Connection, *, clock: Callable[[], float]) -> None:
    """SyncRunning when a process works at a sync: it knows the tables as they are now."""
    for found in unfinished_runs(connection, now=clock()):
        if found.status is Status.RUNNING:
            raise SyncRunning(found.id, describe_worker(found.worker or ""))


def options_of(connection: Connection, sync: str) -> Json:
    """What a sync that has not ended was asked for beyond its plan, as JSON data."""
    sql = "SELECT spec FROM _max_task WHERE sync = ? AND parent IS NULL"
    row = connection.execute(sql, (sync,)).fetchone()
    return dict(GroupTask.from_json(json.loads(row[0])).options) if row else {}


def request(connection: Connection, sync: str, command: SyncCommand, *, now: float) -> None:
    """Ask a sync to pause, to stop for good or to go on, inside the caller's transaction.

    Its worker obeys at its next page; when it has none, the answer is given here.  SyncError
    when the sync has ended, or is about to by an earlier request.
    """
    found = run(connection, sync, now=now)
    if found.status.final:
        raise SyncError(f"sync {found.id} has already ended ({found.status})", hint="`max runs` lists them")
    if command is not SyncCommand.CANCEL and _command(connection, found.id) is SyncCommand.CANCEL:
        raise SyncError(f"sync {found.id} is being cancelled", hint="begin another one when it has ended")
    connection.execute("UPDATE _max_sync SET command = ? WHERE id = ?", (command, found.id))
    if found.status is Status.RUNNING:
        if command is SyncCommand.RUN:
            resume_tasks(connection, found.id)
    elif command is not SyncCommand.RUN:
        apply_command(connection, found.id, command, now=now, died=found.status is Status.INTERRUPTED)


def apply_command(
    connection: Connection, sync: str, command: SyncCommand, *, now: float, died: bool = False
) -> None:
    """Pause or end a sync of which nothing is under way; ``died``: its worker ended without a word."""
    if command is SyncCommand.PAUSE:
        connection.execute(
            f"UPDATE _max_sync SET state = ? WHERE id = ? AND {UNFINISHED}", (Status.PAUSED, sync)
        )
        release_tasks(connection, sync, died=died)
    elif command is SyncCommand.CANCEL:
        connection.execute(CANCEL_TASKS, (now, sync))
        finish(connection, sync, Status.CANCELLED, now=now)


def resume_tasks(connection: Connection, sync: str) -> None:
    """What stopped between two pages may be claimed again."""
    connection.execute(
        f"UPDATE _max_task SET state = '{State.PENDING}' WHERE sync = ? AND state = '{State.PAUSED}'", (sync,)
    )


def release_tasks(connection: Connection, sync: str, *, died: bool = False) -> None:
    """What is under way is pending again, and nobody works at the sync any more."""
    connection.execute(GIVE_BACK, (int(died), sync))
    leave(connection, sync)


def finish(connection: Connection, sync: str, status: Status, *, now: float) -> None:
    """Give a sync its final status, unless it has one."""
    connection.execute(
        f"UPDATE _max_sync SET state = ?, finished_at = ? WHERE id = ? AND {UNFINISHED}", (status, now, sync)
    )
    leave(connection, sync)


def leave(connection: Connection, sync: str) -> None:
    """Nobody works at the sync any more; workers without a sync are forgotten."""
    connection.execute("UPDATE _max_sync SET worker = NULL WHERE id = ?", (sync,))
    connection.execute(
        "DELETE FROM _max_worker WHERE id NOT IN (SELECT worker FROM _max_sync WHERE worker IS NOT NULL)"
    )


def _command(connection: Connection, sync: str) -> SyncCommand:
    return SyncCommand(
        connection.execute("SELECT command FROM _max_sync WHERE id = ?", (sync,)).fetchone()[0]
    )


def _has_tables(connection: Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_max_failure'").fetchone())


def _select_runs(
    connection: Connection, condition: str, values: Sequence[Any], *, now: float
) -> list[SyncRun]:
    """The syncs that fit; one who only reads may be newer than whoever wrote last."""
    present = {row[1] for row in connection.execute("PRAGMA table_info(_max_sync)")}
    later = {name: name if name in present else instead for name, instead in LATER_COLUMNS.items()}
    query = f"SELECT {SYNC_COLUMNS.format(**later)} FROM _max_sync s {condition}"
    return [_run_of(row, now) for row in connection.execute(query, values).fetchall()]


def _run_of(row: Sequence[Any], now: float) -> SyncRun:
    id, state, counts, removed, requests, started, finished, resumed, worker, plan, notes = row[:-3]
    quarantined, heartbeat_at, failed = row[-3:]
    status = Status(state)
    alive = worker is not None and heartbeat_at is not None and is_alive(worker, heartbeat_at, now)
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
        quarantined=quarantined,
    )
