"""The sync log: what is recorded of each sync, and the commands that any process may give it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import NotFound, SyncError, SyncRunning, UsageError
from ..model.event_log import LoggedKind
from ..model.struct import checked
from ..model.tasks import (
    BLOCKED,
    MOVES,
    Failure,
    GroupTask,
    State,
    Status,
    SyncCommand,
    SyncResult,
    SyncRun,
    TaskSpec,
    read_spec,
)
from ..model.values import Json
from . import change_log
from .catalogue import has_part
from .database import Connection, RenameOwner, Targets, decoding
from .event_log import record_event
from .leases import clock_of, describe_worker, is_alive


def guard(to: State) -> str:
    """The SQL condition that a task may move to a state."""
    sources = ", ".join(f"'{state}'" for state in State if to in MOVES[state])
    return f"state IN ({sources})"


OWNER = "sync log"  # of these tables, in the catalogue
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
        quarantined INTEGER NOT NULL DEFAULT 0,
        counts      TEXT NOT NULL DEFAULT '{{}}',
        requests    TEXT NOT NULL DEFAULT '{{}}',
        notes       TEXT NOT NULL DEFAULT '[]'
    ) {by_key};
    CREATE TABLE _max_task (
        id          {serial},
        sync        TEXT NOT NULL,
        parent      INTEGER,
        after       INTEGER,
        kind        TEXT NOT NULL,
        spec        TEXT NOT NULL,
        blocked_by  TEXT,
        state       TEXT NOT NULL,
        attempt     INTEGER NOT NULL DEFAULT 0,
        tries       INTEGER NOT NULL DEFAULT 0,
        crashes     INTEGER NOT NULL DEFAULT 0,
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
        id           TEXT PRIMARY KEY,
        heartbeat_at REAL NOT NULL
    ) {by_key};
    CREATE TABLE _max_failure (
        number      {row_id},
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
        input       TEXT NOT NULL,
        version     TEXT NOT NULL
    );
    CREATE INDEX _max_failure_sync ON _max_failure (sync)
    """,
    "ALTER TABLE _max_sync ADD COLUMN narrow INTEGER NOT NULL DEFAULT 0",  # 1: of some fields only
    "ALTER TABLE _max_sync ADD COLUMN schedule TEXT",  # the name of the one that began it
)
UNFINISHED = f"state IN ('{Status.RUNNING}', '{Status.PAUSED}')"
RUN_COLUMNS = f"""id, state, counts, removed, requests, started_at, finished_at, resumed, worker, plan,
    notes, quarantined, (SELECT heartbeat_at FROM _max_worker AS w WHERE w.id = s.worker),
    (SELECT count(*) FROM _max_failure AS f WHERE f.sync = s.id AND f.code <> '{BLOCKED}'), {{schedule}}"""
ENDING = f"""
    SELECT state, counts, removed, requests, quarantined, started_at, finished_at,
           (SELECT count(*) FROM _max_failure AS f WHERE f.sync = s.id AND f.code <> '{BLOCKED}')
      FROM _max_sync AS s WHERE id = ?
"""
FAILURE_COLUMNS = ", ".join(Failure._names)
FIRST_ERROR = f"""
    SELECT error FROM _max_task
     WHERE state = '{State.PENDING}' AND {{}} ORDER BY not_before, id LIMIT 1
"""  # why the task waits that is due first
WAITING = f"""
    SELECT count(*) FILTER (WHERE state = '{State.RUNNING}'),
           min(not_before) FILTER (WHERE state = '{State.PENDING}'),
           count(*) FILTER (WHERE state = '{State.PENDING}'),
           ({FIRST_ERROR.format("sync = :sync")})
      FROM _max_task WHERE sync = :sync
"""
# An attempt that did not end by itself is no try.
RETURN_TO_QUEUE = f"""
    UPDATE _max_task
       SET state = '{State.PENDING}', tries = CASE WHEN tries > 0 THEN tries - 1 ELSE 0 END,
           crashes = crashes + ?
     WHERE sync = ? AND state = '{State.RUNNING}' AND {guard(State.PENDING)}
"""
CANCEL_TASKS = f"""
    UPDATE _max_task SET state = '{State.CANCELLED}', changed_at = ?
     WHERE sync = ? AND {guard(State.CANCELLED)}
"""
RESUME_TASKS = f"UPDATE _max_task SET state = '{State.PENDING}' WHERE sync = ? AND state = '{State.PAUSED}'"
ENDED = ", ".join(f"'{state}'" for state in State if not MOVES[state])
SPECS = (  # every spec that may still run: table, key, column, and which rows
    ("_max_task", "id", "spec", f"state NOT IN ({ENDED})"),
    ("_max_failure", "number", "input", "TRUE"),
)


# -- reading -----------------------------------------------------------------------------------


def runs(connection: Connection, limit: int, *, beginning: str = "", now: float) -> list[SyncRun]:
    """The newest syncs whose id begins so, newest first; empty when there was none."""
    condition = "WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?"
    return _select_runs(connection, condition, (beginning, beginning + "~", limit), now=now)


def run(connection: Connection, id: str, *, now: float) -> SyncRun:
    """The sync whose id is, or begins with, ``id``; NotFound, or UsageError when several do."""
    found = runs(connection, 10, beginning=id, now=now)
    if not found:
        raise NotFound("sync", id, hint="`max runs` lists them")
    if len(found) > 1:
        listed = ", ".join(one.id for one in found)
        raise UsageError(f"several syncs begin with {id!r}", hint=f"one of: {listed}")
    return found[0]


def failures(connection: Connection, sync: str) -> list[Failure]:
    """The failures of a sync, in the order in which they happened."""
    rows = connection.execute(
        f"SELECT {FAILURE_COLUMNS} FROM _max_failure WHERE sync = ? ORDER BY number", (sync,)
    )
    found = [dict(zip(Failure._names, row, strict=True)) for row in rows]
    with decoding("failure"):
        return [checked(Failure(**{**one, "input": json.loads(one["input"])})) for one in found]


def first_failure(connection: Connection, sync: str) -> str:
    """The message of a sync's first failure; empty when nothing failed in it."""
    sql = f"SELECT message FROM _max_failure WHERE sync = ? AND code <> '{BLOCKED}' ORDER BY number LIMIT 1"
    row = connection.execute(sql, (sync,)).fetchone()
    return "" if row is None else str(row[0])


def result(connection: Connection, sync: str, *, now: float) -> SyncResult:
    """The result of a sync so far; NotFound."""
    found = run(connection, sync, now=now)
    values = {name: getattr(found, name) for name in SyncRun._names}
    changed = change_log.changed_by(connection, found.id, since=found.started_at)
    return SyncResult(**values, failures=tuple(failures(connection, found.id)), changed=changed)


def waits(connection: Connection, sync: str, *, now: float) -> tuple[float, int, str] | None:
    """When the next task of a sync may begin, how many wait, and why; None while one runs or could."""
    running, due, waiting, reason = connection.execute(WAITING, {"sync": sync}).fetchone()
    return None if running or due is None or due <= now else (due, waiting, reason or "")


def unfinished(connection: Connection, *, worker: str | None, now: float) -> str | None:
    """The newest sync that can be resumed: paused, interrupted, or ``worker``'s own; or None.

    A sync whose process died while it was being cancelled cannot.  SyncRunning when another
    worker runs one.
    """
    for found in unfinished_runs(connection, now=now):
        if found.status is Status.RUNNING and found.worker != worker:
            raise running_elsewhere(found)
        if _command(connection, found.id) is not SyncCommand.CANCEL:
            return found.id
    return None


def unfinished_runs(connection: Connection, *, now: float) -> list[SyncRun]:
    """The syncs that have not ended, newest first."""
    return _select_runs(connection, f"WHERE {UNFINISHED} ORDER BY id DESC", (), now=now)


def refuse_while_syncing(connection: Connection, *, clock: Callable[[], float]) -> None:
    """SyncRunning when a process runs a sync: it relies on the tables as they are now."""
    for found in unfinished_runs(connection, now=clock()):
        if found.status is Status.RUNNING:
            raise running_elsewhere(found)


def running_elsewhere(found: SyncRun) -> SyncRunning:
    """The error that another worker runs a sync."""
    return SyncRunning(found.id, describe_worker(found.worker or ""))


def has_stored(connection: Connection) -> bool:
    """Whether a sync that has ended has stored anything."""
    sql = "SELECT 1 FROM _max_sync WHERE finished_at IS NOT NULL AND deliveries > 0 LIMIT 1"
    return has_part(connection, OWNER, MIGRATIONS) and bool(connection.execute(sql).fetchone())


def options_of(connection: Connection, sync: str) -> Json:
    """The options of an unfinished sync as JSON data."""
    sql = "SELECT spec FROM _max_task WHERE sync = ? AND parent IS NULL"
    row = connection.execute(sql, (sync,)).fetchone()
    with decoding("plan"):
        return dict(GroupTask.from_json(json.loads(row[0])).options) if row else {}


def finished_well(connection: Connection, *, since: float) -> bool:
    """Whether a sync has ended since a moment, and did not fail as a whole."""
    sql = f"""
        SELECT 1 FROM _max_sync
         WHERE finished_at > ? AND state IN ('{Status.COMPLETED}', '{Status.PARTIAL}') LIMIT 1
    """
    return has_part(connection, OWNER, MIGRATIONS) and bool(connection.execute(sql, (since,)).fetchone())


def has_begun(connection: Connection, schedule: str, *, since: float) -> bool:
    """Whether a schedule has begun a sync since a moment."""
    if "schedule" not in connection.dialect.columns(connection, "_max_sync"):
        return False
    sql = "SELECT 1 FROM _max_sync WHERE schedule = ? AND started_at >= ? LIMIT 1"
    return bool(connection.execute(sql, (schedule, since)).fetchone())


def goes_on(connection: Connection, found: SyncRun) -> bool:
    """Whether a sync that has stopped is to run on: it was interrupted, or paused by a process that ended."""
    paused = found.status is Status.PAUSED and _command(connection, found.id) is SyncCommand.RUN
    return found.status is Status.INTERRUPTED or paused


def is_ending(connection: Connection, found: SyncRun) -> bool:
    """Whether a sync cannot be resumed, since it was being cancelled when its process ended."""
    return found.status is not Status.RUNNING and _command(connection, found.id) is SyncCommand.CANCEL


def _command(connection: Connection, sync: str) -> SyncCommand:
    row = connection.execute("SELECT command FROM _max_sync WHERE id = ?", (sync,)).fetchone()
    with decoding("command"):
        return SyncCommand(row[0])


def _select_runs(
    connection: Connection, condition: str, values: Sequence[Any], *, now: float
) -> list[SyncRun]:
    if not has_part(connection, OWNER, MIGRATIONS):
        return []
    # A file that an older Max has synced last has no such column.
    known = "schedule" in connection.dialect.columns(connection, "_max_sync")
    columns = RUN_COLUMNS.format(schedule="schedule" if known else "NULL")
    rows = connection.execute(f"SELECT {columns} FROM _max_sync AS s {condition}", values).fetchall()
    clock = clock_of(connection, now) if any(row[1] == Status.RUNNING for row in rows) else now
    with decoding("sync"):
        return [checked(_run_of(row, clock)) for row in rows]


def _run_of(row: Sequence[Any], now: float) -> SyncRun:
    id, state, counts, removed, requests, started, finished, resumed, worker, plan, notes = row[:-4]
    quarantined, heartbeat_at, failed, schedule = row[-4:]
    status = Status(state)
    alive = worker is not None and heartbeat_at is not None and is_alive(worker, heartbeat_at, now)
    return SyncRun(
        id=id,
        status=Status.INTERRUPTED if status is Status.RUNNING and not alive else status,
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
        schedule=schedule,
    )


# -- commands ----------------------------------------------------------------------------------


def request(
    connection: Connection, sync: str, command: SyncCommand, *, now: float, force: bool = False
) -> None:
    """Request that a sync pauses, is cancelled or goes on, inside the caller's transaction.

    Its worker applies the command at its next page; without a worker it is applied here.  ``force``
    takes the sync from its worker, which stores nothing more if it lives.  SyncError when the sync
    has ended, or is being cancelled.
    """
    found = run(connection, sync, now=now)
    if force and found.status is Status.RUNNING:
        release_tasks(connection, found.id, died=True)
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
    """Pause or cancel a sync of which no task runs; ``died``: its process ended without releasing it."""
    if command is SyncCommand.PAUSE:
        pause = f"UPDATE _max_sync SET state = ? WHERE id = ? AND {UNFINISHED}"
        if connection.execute(pause, (Status.PAUSED, sync)).rowcount:
            record_event(connection, LoggedKind.SYNC_PAUSED, {}, now=now, sync=sync)
        release_tasks(connection, sync, died=died)
    elif command is SyncCommand.CANCEL:
        connection.execute(CANCEL_TASKS, (now, sync))
        finish_sync(connection, sync, Status.CANCELLED, now=now)


def take_over(connection: Connection, *, now: float) -> None:
    """The caller has the lease of the installation, so that no other process works on its syncs any more.

    One that was to pause or to end when its process was lost does so now.
    """
    if not has_part(connection, OWNER, MIGRATIONS):
        return
    connection.execute("DELETE FROM _max_worker")  # a worker without a heartbeat is dead
    for found in unfinished_runs(connection, now=now):
        command = _command(connection, found.id)
        if found.status is Status.INTERRUPTED and command is not SyncCommand.RUN:
            apply_command(connection, found.id, command, now=now, died=True)


def resume_tasks(connection: Connection, sync: str) -> None:
    """Tasks that paused between two pages may be claimed again."""
    connection.execute(RESUME_TASKS, (sync,))


def release_tasks(connection: Connection, sync: str, *, died: bool = False) -> None:
    """Running tasks are pending again, and the sync has no worker; ``died`` counts as a crash of each."""
    connection.execute(RETURN_TO_QUEUE, (int(died), sync))
    clear_worker(connection, sync)


def finish_sync(connection: Connection, sync: str, status: Status, *, now: float) -> None:
    """Give a sync its final status, unless it has one."""
    finish = f"UPDATE _max_sync SET state = ?, finished_at = ? WHERE id = ? AND {UNFINISHED}"
    if connection.execute(finish, (status, now, sync)).rowcount:
        record_event(connection, LoggedKind.SYNC_ENDED, _ending(connection, sync), now=now, sync=sync)
    clear_worker(connection, sync)


def _ending(connection: Connection, sync: str) -> dict[str, Json]:
    """What the event of a sync's end says."""
    status, counts, removed, requests, quarantined, began, ended, failed = connection.execute(
        ENDING, (sync,)
    ).fetchone()
    with decoding("sync"):
        numbers = {"counts": json.loads(counts), "requests": sum(json.loads(requests).values())}
    return {
        "status": status,
        **numbers,
        "removed": removed,
        "quarantined": quarantined,
        "failed": failed,
        "seconds": round(max(0.0, ended - began), 3),
    }


def clear_worker(connection: Connection, sync: str) -> None:
    """A sync has no worker any more; workers without a sync are deleted."""
    connection.execute("UPDATE _max_sync SET worker = NULL WHERE id = ?", (sync,))
    connection.execute(
        "DELETE FROM _max_worker WHERE id NOT IN (SELECT worker FROM _max_sync WHERE worker IS NOT NULL)"
    )


# -- migrations --------------------------------------------------------------------------------


class SyncLog(RenameOwner):
    """Keeps unfinished tasks, and failures to be retried, right when names or ids change."""

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """Tasks, failures and the counts of a sync that goes on follow an entity's name."""
        if has_part(connection, OWNER, MIGRATIONS):
            connection.execute("UPDATE _max_failure SET entity = ? WHERE entity = ?", (new, old))
            _rewrite(connection, lambda spec: spec.rename_entity(old, new))
            syncs = connection.execute(f"SELECT id, counts FROM _max_sync WHERE {UNFINISHED}").fetchall()
            for id, text in syncs:
                counts = {new if name == old else name: number for name, number in json.loads(text).items()}
                values = (json.dumps(counts), id)
                connection.execute("UPDATE _max_sync SET counts = ? WHERE id = ?", values)

    def rename_field(self, connection: Connection, entity: str, old: str, new: str, targets: Targets) -> None:
        """Tasks follow the name of a field or a collection."""
        _rewrite(connection, lambda spec: spec.rename_field(entity, old, new, targets))

    def change_ids(self, connection: Connection, entity: str, ids: str, parents: Sequence[str]) -> None:
        """Tasks and failures follow an entity's ids."""
        new = f"SELECT new FROM {ids} WHERE old = "

        def new_id(id: str) -> str:
            row = connection.execute(f"{new} ?", (id,)).fetchone()
            return str(row[0]) if row else id

        if has_part(connection, OWNER, MIGRATIONS):
            follow = f"UPDATE _max_failure SET id = ({new} id) WHERE entity = ? AND EXISTS ({new} id)"
            connection.execute(follow, (entity,))
            _rewrite(connection, lambda spec: spec.replace_ids(entity, new_id))


def _rewrite(connection: Connection, change: Callable[[TaskSpec], TaskSpec]) -> None:
    if not has_part(connection, OWNER, MIGRATIONS):
        return
    for table, key, column, condition in SPECS:
        rows = connection.execute(f"SELECT {key}, kind, {column} FROM {table} WHERE {condition}").fetchall()
        for id, kind, text in rows:
            changed = json.dumps(change(read_spec(kind, json.loads(text))).to_json())
            if changed != text:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (changed, id))
